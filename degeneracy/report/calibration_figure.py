"""What did a calibration see? λ̂ against the step size, one line for each (γ, nβ), the chosen cell
marked.
"""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from degeneracy.report.style import DASHES, INK, PARAMETER_COLOURS, empty_figure
from degeneracy.texts import Z_95


def calibration_figure(table: pd.DataFrame) -> go.Figure:
    """λ̂ with 95 % intervals against ε on a log axis; filled markers are admissible, the star is
    what the rule picked.

    Args:
        table: `llc.calibration.Calibration.table`.
    """
    figure = empty_figure(
        "LLC against the step size", "filled: admissible, hollow: not, star: chosen"
    )
    nbetas, localizations = list(table["nbeta"].unique()), list(table["localization"].unique())
    for (nbeta, localization), cells in table.groupby(["nbeta", "localization"], sort=False):
        colour = PARAMETER_COLOURS[localizations.index(localization) % len(PARAMETER_COLOURS)]
        llc = cells["llc"].astype(float)
        line = go.Scatter(
            x=cells["sampler_lr"],
            y=llc,
            mode="lines+markers",
            name=f"nβ = {nbeta:.4g}, γ = {localization:g}",
            line={"color": colour, "width": 2, "dash": DASHES[nbetas.index(nbeta) % len(DASHES)]},
            error_y={
                "type": "data",
                "array": Z_95 * cells["std_error"].astype(float),
                "color": colour,
                "width": 3,
            },
            marker={
                "size": 9,
                "color": colour,
                "symbol": np.where(cells["admissible"], "circle", "circle-open"),
            },
            customdata=[_hover(row) for row in cells.itertuples()],
            hovertemplate="%{customdata}",
        )
        figure.add_trace(line)
    chosen = table[table["chosen"]]
    star = {
        "symbol": "star",
        "size": 20,
        "color": "rgba(0,0,0,0)",
        "line": {"color": INK, "width": 2},
    }
    mark = go.Scatter(
        x=chosen["sampler_lr"], y=chosen["llc"], mode="markers", marker=star, name="chosen"
    )
    figure.add_trace(mark.update(hoverinfo="skip"))
    figure.update_layout(hovermode="closest")
    figure.update_xaxes(
        type="log", title_text="step size ε (weight units²)", exponentformat="power", dtick=1
    )
    positive = table["llc"].astype(float)
    if positive.min() > 0 and positive.max() > 20 * positive.min():
        figure.update_yaxes(type="log")
    return figure.update_yaxes(title_text="LLC λ̂")


def _hover(row) -> str:
    llc = "diverged" if row.llc is None or np.isnan(row.llc) else f"{row.llc:.4g}"
    error = (
        ""
        if row.std_error is None or np.isnan(row.std_error)
        else f" ± {Z_95 * row.std_error:.2g} (95 %)"
    )
    drift = "–" if row.drift is None or np.isnan(row.drift) else f"{row.drift:+.2g}"
    acceptance = (
        "–" if row.acceptance is None or np.isnan(row.acceptance) else f"{row.acceptance:.2f}"
    )
    return (
        f"ε = {row.sampler_lr:.3g}: λ̂ {llc}{error}<br>drift {drift}, MALA acceptance {acceptance},"
        f" {row.num_diverged_chains} diverged"
    )
