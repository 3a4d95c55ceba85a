"""Does the order hold at other settings, and λ̂ keep still where λ does? Two figures, as functions
from results.
"""

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from degeneracy.report.style import (
    INK,
    SOFT,
    empty_figure,
    label,
    llc_axis,
    optimizer_colour,
    optimizer_line,
    shorten,
)
from degeneracy.texts import Z_95, chain_counts, difference_texts, drift_text, number, with_error
from studies.ngd_sgd.robustness_verdict import NBETA_RULES, CellOrder, grid_orders

CLIP = 5.0  # standard errors from which on the colour does not change
# From SGD's blue over white to NGD's red, so pale that dark text can be read on every colour.
DIVERGING = [[0, "#7fb8dc"], [0.3, "#cfe3f1"], [0.5, "#ffffff"], [0.7, "#f8d5cc"], [1, "#ee8f7a"]]
HALF = 0.48  # half a cell's width and height; a cell and its gap are 1


def llc_grid_figure(title: str, results: Mapping) -> go.Figure:
    """NGD − SGD with its 95 % interval at every measured (γ, nβ), coloured by standard errors;
    hatched: not settled.
    """
    figure = empty_figure("LLC at other γ and nβ: NGD − SGD", title)
    cells = grid_orders(title, results)
    if not cells:
        return figure
    localizations = sorted({cell.localization for cell in cells})
    rows = sorted({(cell.nbeta, cell.nbeta_setting) for cell in cells}, key=lambda row: row[0])
    columns = [localizations.index(cell.localization) for cell in cells]
    lines = [rows.index((cell.nbeta, cell.nbeta_setting)) for cell in cells]
    places = list(zip(lines, columns, strict=True))
    grid = results["models"][title]["llc_grid"]
    figure.add_trace(
        _heatmap(cells, places, (len(rows), len(localizations)), grid["max_curvature"])
    )
    if unsettled := [place for cell, place in zip(cells, places, strict=True) if cell.unsettled]:
        figure.add_trace(_hatched(unsettled))
    texts = go.Scatter(x=columns, y=lines, mode="text", text=[_cell_text(cell) for cell in cells])
    texts.update(
        textfont={"color": INK, "size": 12}, hoverinfo="skip", showlegend=False, name="differences"
    )
    figure.add_trace(texts)
    figure.update_layout(hovermode="closest")
    nbetas = [
        f"{nbeta:.4g}" + (f"<br>{NBETA_RULES[s]}" if s in NBETA_RULES else "") for nbeta, s in rows
    ]
    look = {"showgrid": False, "showline": False, "ticks": ""}
    figure.update_xaxes(
        tickvals=list(range(len(localizations))),
        ticktext=[f"{gamma:g}" for gamma in localizations],
        range=[-0.5, len(localizations) - 0.5],
        **look,
        title_text=(
            "localization γ (per weight²); ε = 0.2/(nβ h_max + γ), h_max ="
            f" {grid['max_curvature']:.3g}"
        ),
    )
    return figure.update_yaxes(
        title_text="nβ",
        tickvals=list(range(len(rows))),
        ticktext=nbetas,
        range=[-0.5, len(rows) - 0.5],
        **look,
    )


def rescaling_figure(title: str, results: Mapping) -> go.Figure:
    """λ̂ with 95 % intervals against the factor c of a layer, beside the value at c = 1, dashed."""
    figure = empty_figure("LLC of the same function, rescaled", title)
    rescaling = results["models"][title].get("rescaling")
    if not rescaling:
        return figure
    factors = sorted(
        {found["factor"] for series in rescaling["optimizers"].values() for found in series}
    )
    for optimizer, series in rescaling["optimizers"].items():
        _add_rescaled(figure, optimizer, series, factors)
    figure.update_layout(hovermode="closest")
    first, second = (shorten(layer, 30) for layer in rescaling["layers"])
    ends = np.log10([factors[0], factors[-1]])
    margin = 0.12 * (ends[1] - ends[0]) + 0.03
    figure.update_xaxes(
        type="log",
        range=[ends[0] - margin, ends[1] + margin],
        tickvals=factors,
        ticktext=[f"{factor:g}" for factor in factors],
        title_text=f"factor c of {first}; {second} is divided by it",
    )
    return figure.update_yaxes(title_text=llc_axis(results))


def _heatmap(
    cells: list[CellOrder], places: list, shape: tuple[int, int], max_curvature: float
) -> go.Heatmap:
    """Colour and hover of the cells at `places` (row, column); no colour where the difference has
    no interval.
    """
    z, hover = np.full(shape, np.nan), np.full(shape, "not measured", dtype=object)
    for cell, place in zip(cells, places, strict=True):
        hover[place] = _cell_hover(cell, max_curvature)
        if cell.std_error:
            z[place] = np.clip(cell.difference / cell.std_error, -CLIP, CLIP)
    ticks = [-CLIP, -Z_95, 0, Z_95, CLIP]
    bar = {
        "title": {"text": "NGD − SGD,<br>standard errors<br> ", "font": {"size": 12}},
        "tickvals": ticks,
        "ticktext": [f"≤ −{CLIP:g}", f"−{Z_95:g}", "0", f"{Z_95:g}", f"≥ {CLIP:g}"],
        "thickness": 14,
        "outlinewidth": 0,
        "len": 0.95,
        "y": 0,
        "yanchor": "bottom",
    }
    return go.Heatmap(
        z=z,
        x=list(range(shape[1])),
        y=list(range(shape[0])),
        text=hover,
        hovertemplate="%{text}<extra></extra>",
        colorscale=DIVERGING,
        zmin=-CLIP,
        zmax=CLIP,
        xgap=4,
        ygap=4,
        colorbar=bar,
        name="NGD − SGD",
    )


def _hatched(places: list[tuple[int, int]]) -> go.Scatter:
    x, y = [], []
    for row, column in places:
        x += [column - HALF, column + HALF, column + HALF, column - HALF, column - HALF, None]
        y += [row - HALF, row - HALF, row + HALF, row + HALF, row - HALF, None]
    hatch = go.Scatter(
        x=x, y=y, mode="lines", fill="toself", line={"color": SOFT, "width": 1.5, "dash": "dash"}
    )
    hatch.update(
        fillpattern={"shape": "/", "fgcolor": "#b8c0c8", "bgcolor": "rgba(0,0,0,0)", "size": 14}
    )
    hatch.update(fillpattern_solidity=0.08)
    return hatch.update(
        name="hatched: SGD's or NGD's estimate has not settled, not counted", hoverinfo="skip"
    )


def _cell_text(cell: CellOrder) -> str:
    if cell.difference is None:
        lines = ["no comparison"]
    elif cell.interval is None:
        lines = [f"<b>{cell.difference:+.3g}</b>", "no interval"]
    else:
        value, ends = difference_texts(cell.difference, cell.interval)
        lines = [f"<b>{value}</b>", ends]
    if cell.unsettled:
        which = (
            ""
            if len(cell.unsettled) == len(cell.findings)
            else f"{', '.join(map(label, cell.unsettled))} "
        )
        lines.append(f"<i>{which}not settled</i>")
    if cell.num_diverged_chains:
        lines.append(f"× {cell.num_diverged_chains} diverged")
    return "<br>".join(lines)


def _cell_hover(cell: CellOrder, max_curvature: float) -> str:
    epsilon = f"ε = {cell.sampler_lr:.3g} (h_max = {max_curvature:.3g})"
    lines = [
        f"<b>γ = {cell.localization:g}, nβ = {cell.nbeta:.4g}</b>, {epsilon}",
        *(f"{label(name)}: {_found(found)}" for name, found in cell.findings.items()),
        f"NGD against SGD: {cell.order}",
    ]
    return "<br>".join(lines)


def _found(found: Mapping) -> str:
    """An estimate with all that is needed to judge it, on two lines."""
    llc, error, drift, acceptance = (
        number(found[key]) for key in ("llc", "std_error", "drift", "acceptance")
    )
    return (
        f"λ̂ = {with_error(llc, error)} (standard error)<br>   drift {drift_text(drift, error)},"
        f" MALA acceptance {'–' if acceptance is None else f'{acceptance:.2f}'}, chains:"
        f" {chain_counts(found['chains'])}"
    )


def _add_rescaled(
    figure: go.Figure, optimizer: str, series: list[Mapping], factors: list[float]
) -> None:
    measured = [found for found in series if number(found["llc"]) is not None]
    for found in series:
        if found not in measured:
            look = {
                "yanchor": "bottom",
                "showarrow": False,
                "font": {"color": optimizer_colour(optimizer), "size": 12},
            }
            text = f"{label(optimizer)}:<br>every chain diverged"
            figure.add_annotation(
                x=np.log10(found["factor"]), y=0.02, yref="y domain", text=text, **look
            )
    if not measured:
        return
    llc = np.array([found["llc"] for found in measured], dtype=float)
    error = np.array(
        [np.nan if found["std_error"] is None else found["std_error"] for found in measured],
        dtype=float,
    )
    line = optimizer_line([found["factor"] for found in measured], llc, optimizer, std_error=error)
    line.marker.symbol = ["circle" if found["settled"] else "circle-open" for found in measured]
    line.marker.size = 9
    hover = [f"{label(optimizer)}, c = {found['factor']:g}: {_found(found)}" for found in measured]
    line.update(customdata=hover, hovertemplate="%{customdata}<extra></extra>")
    reference = next((found["llc"] for found in measured if found["factor"] == 1), None)
    if reference:
        changes = [f"{100 * (value / reference - 1):+.0f} %" for value in llc]
        texts = [
            "" if found["factor"] == 1 else change
            for found, change in zip(measured, changes, strict=True)
        ]
        sides = ["middle left" if found["factor"] < 1 else "middle right" for found in measured]
        line.update(mode="lines+markers+text", text=texts, textposition=sides)
        line.update(textfont={"color": optimizer_colour(optimizer)})
    figure.add_trace(line)
    if reference is not None:
        dashed = {"color": optimizer_colour(optimizer), "width": 1.2, "dash": "dash"}
        name = f"{label(optimizer)} at c = 1"
        level = go.Scatter(
            x=[factors[0], factors[-1]], y=[reference] * 2, mode="lines", line=dashed, name=name
        )
        figure.add_trace(level.update(hoverinfo="skip"))
