"""What did a calibration see? The basin's shift against nβ, with what is allowed, the chosen one
marked.
"""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from degeneracy.llc.certificates import MOST_SHIFT
from degeneracy.report.style import INK, PARAMETER_COLOURS, empty_figure

LEAST = 1e-3  # what is below is drawn there, on a log axis


def calibration_figure(table: pd.DataFrame) -> go.Figure:
    """nβ(L(w*) − L(w_b)) against nβ; hollow: by a Newton step, filled: descended to; star: chosen.

    Args:
        table: `llc.calibration.Calibration.table`.
    """
    gamma = table["localization"].iloc[0]
    figure = empty_figure(
        "How far is it to the bottom of the basin?",
        f"γ = {gamma:.4g}; at a minimum below the dotted line, star: chosen",
    )
    for place, (column, name, symbol) in enumerate(
        (
            ("expected_shift", "expected, ½ nβ²|∇L|²/γ", "circle-open"),
            ("shift", "found by descent", "circle"),
        )
    ):
        colour = PARAMETER_COLOURS[place]
        figure.add_trace(
            go.Scatter(
                x=table["nbeta"],
                y=np.maximum(table[column].astype(float), LEAST),
                mode="lines+markers",
                name=name,
                line={"color": colour, "width": 2},
                marker={"size": 9, "color": colour, "symbol": symbol},
                customdata=table[["steps", "distance"]],
                hovertemplate="nβ = %{x:.4g}: shift %{y:.3g} nats<br>%{customdata[0]} steps a"
                " chain, |w − w*| = %{customdata[1]:.2f} |w*|<extra></extra>",
            )
        )
    chosen = table[table["chosen"]]
    star = {
        "symbol": "star",
        "size": 20,
        "color": "rgba(0,0,0,0)",
        "line": {"color": INK, "width": 2},
    }
    mark = go.Scatter(
        x=chosen["nbeta"],
        y=np.maximum(chosen["shift"].astype(float), LEAST),
        mode="markers",
        marker=star,
        name="chosen",
    )
    figure.add_trace(mark.update(hoverinfo="skip"))
    figure.add_hline(MOST_SHIFT, line={"color": INK, "dash": "dot", "width": 1})
    figure.update_layout(hovermode="closest")
    figure.update_xaxes(title_text="nβ (1/nats)", type="log")
    return figure.update_yaxes(title_text="nβ(L(w*) − L(w_b)) (nats)", type="log")
