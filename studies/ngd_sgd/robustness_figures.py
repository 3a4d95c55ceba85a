"""Does the order hold at other settings, and λ̂ keep still where λ does? Two figures, as functions
from results.
"""

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from degeneracy.report.run_figures import line_of, measure_axis, measure_heading, shown_name
from degeneracy.report.run_tables import is_auto
from degeneracy.report.style import INK, SOFT, empty_figure, optimizer_colours, shorten
from degeneracy.texts import Z_95, chain_counts, difference_texts, drift_text, number, with_error
from studies.ngd_sgd.robustness_verdict import (
    NBETA_RULES,
    CellOrder,
    flaw_of,
    grid_measure,
    grid_orders,
)

CLIP = 5.0  # standard errors from which on the colour does not change
# Shares of an optimizer's colour on white, so pale that dark text can be read on every one.
PALE, PALER = 0.5, 0.2
ONE_LINE = 16  # letters that the title of a colour bar has room for
UNSAMPLED_GREY = "#e4e7eb"
HALF = 0.48  # half a cell's width and height; a cell and its gap are 1

GRID_CAPTION = (
    "Does the order of the final LLCs hold at other settings? Every cell samples the final"
    " checkpoints with SGLD, the config's chains, and its draws, the first half of them as burn-in."
    " Its step size follows from one rule, ε = 0.2/(nβ h_max + γ), the same for all optimizers:"
    " h_max is the largest Hessian eigenvalue at any of the checkpoints. In bold the difference,"
    " below it the 95 % interval (sampling alone); the shade is the difference in standard errors,"
    " of the colour of the optimizer whose LLC is higher. The numbers of different cells do not"
    " compare, their signs do. In a hatched cell an estimate moved by more than its error when the"
    " draws were doubled, or a chain has not come to rest: it is not counted. Diverged chains (×)"
    " are left out of their estimate."
)
AUTO_GRID_CAPTION = (
    "Does the order of λ̂ at the last checkpoints hold at other settings? In bold the difference,"
    " below it the 95 % interval (sampling alone); the shade is the difference in standard errors,"
    " of the colour of the optimizer whose λ̂ is higher. A grey cell was not sampled: in the steps"
    " that a chain may take it cannot come to rest, and its number would say nothing. In a hatched"
    " cell an estimate is negative or has not come to rest: it is not counted. The numbers of"
    " different cells do not compare, their signs do."
)
RESCALING_CAPTION = (
    "How far does the estimator depend on how the same function is written? The first layer's"
    " weights and bias times c and the next layer's weights divided by c give the same network, so"
    " λ is the same for every c. A departure of λ̂ from the dashed line is the estimator's: its"
    " localisation and its noise are isotropic in the weights. Bars are 95 % intervals of the"
    " sampling alone, percentages are against c = 1; a hollow point has not settled."
)


def grid_caption(results: Mapping) -> str:
    """What to look for in the grid of this run."""
    return AUTO_GRID_CAPTION if is_auto(results) else GRID_CAPTION


def llc_grid_figure(title: str, results: Mapping, optimizer: str | None = None) -> go.Figure:
    """An optimizer's LLC minus the baseline's with its 95 % interval at every measured (γ, nβ),
    coloured by standard errors; hatched: not settled.

    Args:
        title: The model.
        results: As in `results.json`.
        optimizer: Whose LLC; None: the first after the baseline.
    """
    orders = grid_orders(title, results)
    optimizer = optimizer or next(iter(orders), None)
    cells = orders.get(optimizer)
    if not cells:
        return empty_figure("LLC at other γ and nβ", title)
    figure = empty_figure(f"{grid_measure(results)} at other γ and nβ: {_pair(cells[0])}", title)
    localizations = sorted({cell.localization for cell in cells})
    rows = sorted({(cell.nbeta, cell.nbeta_setting) for cell in cells}, key=lambda row: row[0])
    columns = [localizations.index(cell.localization) for cell in cells]
    lines = [rows.index((cell.nbeta, cell.nbeta_setting)) for cell in cells]
    places = list(zip(lines, columns, strict=True))
    h_max = number(results["models"][title]["llc_grid"].get("max_curvature"))
    step = "" if h_max is None else f"; ε = 0.2/(nβ h_max + γ), h_max = {h_max:.3g}"
    colours = optimizer_colours(list(results["models"][title]["optimizers"]))
    shape = (len(rows), len(localizations))
    figure.add_trace(_heatmap(cells, places, shape, h_max, colours))
    placed = list(zip(cells, places, strict=True))
    if unsampled := [place for cell, place in placed if not cell.is_sampled]:
        figure.add_trace(_greyed(unsampled))
    if uncounted := [place for cell, place in placed if cell.flaws]:
        figure.add_trace(_hatched(uncounted, is_auto(results)))
    texts = go.Scatter(x=columns, y=lines, mode="text", text=[_cell_text(cell) for cell in cells])
    texts.update(textfont={"color": INK, "size": 12}, hoverinfo="skip", showlegend=False)
    figure.add_trace(texts.update(name="differences"))
    figure.update_layout(hovermode="closest")
    look = {"showgrid": False, "showline": False, "ticks": ""}
    figure.update_xaxes(
        tickvals=list(range(len(localizations))),
        ticktext=[f"{gamma:g}" for gamma in localizations],
        range=[-0.5, len(localizations) - 0.5],
        title_text=f"localization γ (per weight²){'' if is_auto(results) else step}",
        **look,
    )
    return figure.update_yaxes(
        title_text="nβ",
        tickvals=list(range(len(rows))),
        ticktext=[_nbeta_text(nbeta, setting) for nbeta, setting in rows],
        range=[-0.5, len(rows) - 0.5],
        **look,
    )


def rescaling_figure(title: str, results: Mapping) -> go.Figure:
    """λ̂ with 95 % intervals against the factor c of a layer, beside the value at c = 1, dashed."""
    figure = empty_figure(f"{measure_heading(results)} of the same function, rescaled", title)
    rescaling = results["models"][title].get("rescaling")
    if not rescaling:
        return figure
    factors = sorted(
        {found["factor"] for series in rescaling["optimizers"].values() for found in series}
    )
    names = list(results["models"][title]["optimizers"])
    for optimizer, series in rescaling["optimizers"].items():
        _add_rescaled(figure, names, optimizer, series)
    _add_lost(figure, rescaling["optimizers"], optimizer_colours(names))
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
    return figure.update_yaxes(title_text=measure_axis(results))


def _pair(cell: CellOrder) -> str:
    """`NGD − SGD`, as Plotly may draw it."""
    return f"{shown_name(cell.optimizer, 24)} − {shown_name(cell.baseline, 24)}"


def _nbeta_text(nbeta: float, setting: str | float) -> str:
    rule = f"<br>{NBETA_RULES[setting]}" if setting in NBETA_RULES else ""
    return f"{nbeta:.4g}{rule}"


def _heatmap(
    cells: list[CellOrder],
    places: list[tuple[int, int]],
    shape: tuple[int, int],
    max_curvature: float | None,
    colours: Mapping[str, str],
) -> go.Heatmap:
    """Colour and hover of the cells at `places` (row, column); no colour where the difference has
    no interval.
    """
    z, hover = np.full(shape, np.nan), np.full(shape, "not measured", dtype=object)
    for cell, place in zip(cells, places, strict=True):
        hover[place] = _cell_hover(cell, max_curvature)
        if cell.std_error:
            z[place] = np.clip(cell.difference / cell.std_error, -CLIP, CLIP)
    pair = _pair(cells[0])
    lines = pair if len(pair) <= ONE_LINE else pair.replace(" − ", " −<br>")
    bar = {
        "title": {"text": f"{lines},<br>standard errors<br> ", "font": {"size": 12}},
        "tickvals": [-CLIP, -Z_95, 0, Z_95, CLIP],
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
        colorscale=_diverging(colours[cells[0].baseline], colours[cells[0].optimizer]),
        zmin=-CLIP,
        zmax=CLIP,
        xgap=4,
        ygap=4,
        colorbar=bar,
        name=pair,
    )


def _diverging(low: str, high: str) -> list[tuple[float, str]]:
    """A scale from pale `low` over white to pale `high`."""
    shades = ((low, PALE), (low, PALER), (high, 0), (high, PALER), (high, PALE))
    ends = (0, 0.3, 0.5, 0.7, 1)
    return [(end, _on_white(*shade)) for end, shade in zip(ends, shades, strict=True)]


def _on_white(colour: str, share: float) -> str:
    """`colour` (#rrggbb) at `share` on white."""
    parts = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"#{''.join(f'{round(255 + share * (part - 255)):02x}' for part in parts)}"


def _hatched(places: list[tuple[int, int]], of_auto: bool) -> go.Scatter:
    hatch = _rectangles(places, {"color": SOFT, "width": 1.5, "dash": "dash"})
    hatch.update(
        fillpattern={"shape": "/", "fgcolor": "#b8c0c8", "bgcolor": "rgba(0,0,0,0)", "size": 14}
    )
    hatch.update(fillpattern_solidity=0.08)
    why = "is negative or not at rest" if of_auto else "has not settled"
    return hatch.update(name=f"hatched: one of the two estimates {why}, not counted")


def _greyed(places: list[tuple[int, int]]) -> go.Scatter:
    grey = _rectangles(places, {"width": 0}).update(fillcolor=UNSAMPLED_GREY)
    return grey.update(name="grey: not sampled, chains cannot come to rest")


def _rectangles(places: list[tuple[int, int]], line: Mapping) -> go.Scatter:
    """The cells at `places` (row, column) as filled areas."""
    x, y = [], []
    for row, column in places:
        x += [column - HALF, column + HALF, column + HALF, column - HALF, column - HALF, None]
        y += [row - HALF, row - HALF, row + HALF, row + HALF, row - HALF, None]
    return go.Scatter(x=x, y=y, mode="lines", fill="toself", line=line, hoverinfo="skip")


def _cell_text(cell: CellOrder) -> str:
    if not cell.is_sampled:
        steps = cell.needed_steps
        return "not sampled" if steps is None else f"needs {steps:,}<br>steps a chain"
    if cell.difference is None:
        lines = ["no comparison"]
    elif cell.interval is None:
        lines = [f"<b>{cell.difference:+.3g}</b>", "no interval"]
    else:
        value, ends = difference_texts(cell.difference, cell.interval)
        lines = [f"<b>{value}</b>", ends]
    for flaw, names in cell.flaws.items():
        both = len(names) == len(cell.findings)
        which = "" if both else f"{', '.join(map(shown_name, names))} "
        lines.append(f"<i>{which}{flaw}</i>")
    if cell.num_diverged_chains:
        lines.append(f"× {cell.num_diverged_chains} diverged")
    return "<br>".join(lines)


def _cell_hover(cell: CellOrder, max_curvature: float | None) -> str:
    step = number(cell.sampler_lr)
    epsilon = "" if step is None else f", ε = {step:.3g}"
    if epsilon and max_curvature is not None:
        epsilon += f" (h_max = {max_curvature:.3g})"
    lines = [
        f"<b>γ = {cell.localization:g}, nβ = {cell.nbeta:.4g}</b>{epsilon}",
        *(f"{shown_name(name)}: {_found(found)}" for name, found in cell.findings.items()),
        f"{shown_name(cell.optimizer)} against {shown_name(cell.baseline)}: {cell.order_text}",
    ]
    return "<br>".join(lines)


def _found(found: Mapping) -> str:
    """An estimate with all that is needed to judge it, on two lines."""
    llc, error, drift, acceptance = (
        number(found.get(key)) for key in ("llc", "std_error", "drift", "acceptance")
    )
    verdict = f", {found['verdict']}" if found.get("verdict") else ""
    return (
        f"λ̂ = {with_error(llc, error)} (standard error){verdict}<br>   drift"
        f" {drift_text(drift, error)}, MALA acceptance"
        f" {'–' if acceptance is None else f'{acceptance:.2f}'}, chains:"
        f" {chain_counts(found.get('chains') or ())}"
    )


def _add_rescaled(
    figure: go.Figure, names: list[str], optimizer: str, series: list[Mapping]
) -> None:
    """One optimizer's λ̂ over c, and its λ̂ at c = 1 as a level."""
    measured = [found for found in series if number(found.get("llc")) is not None]
    if not measured:
        return
    factors = [found["factor"] for found in measured]
    llc = np.array([found["llc"] for found in measured], dtype=float)
    errors = (number(found.get("std_error")) for found in measured)
    error = np.array([np.nan if one is None else one for one in errors])
    line = line_of(names, optimizer, factors, llc, std_error=error)
    name, colour, symbol = line.name, line.line.color, line.marker.symbol
    line.marker.symbol = [f"{symbol}-open" if flaw_of(found) else symbol for found in measured]
    line.marker.size = 9
    hover = [f"{name}, c = {found['factor']:g}: {_found(found)}" for found in measured]
    line.update(customdata=hover, hovertemplate="%{customdata}<extra></extra>")
    reference = next((found["llc"] for found in measured if found["factor"] == 1), None)
    if reference:
        changes = [
            "" if c == 1 else f"{100 * (value / reference - 1):+.0f} %"
            for c, value in zip(factors, llc, strict=True)
        ]
        sides = ["middle left" if c < 1 else "middle right" for c in factors]
        line.update(mode="lines+markers+text", text=changes, textposition=sides)
        line.update(textfont={"color": colour})
    figure.add_trace(line)
    if reference is not None:
        dashed = {"color": colour, "width": 1.2, "dash": "dash"}
        ends = [found["factor"] for found in (series[0], series[-1])]
        level = go.Scatter(x=ends, y=[reference] * 2, mode="lines", line=dashed)
        level.update(name=f"{name} at c = 1", hoverinfo="skip")
        figure.add_trace(level)


def _add_lost(
    figure: go.Figure, optimizers: Mapping[str, list[Mapping]], colours: Mapping[str, str]
) -> None:
    """Says where every chain diverged, one below the other where several did at one factor."""
    lines = {}  # factor → what stands there
    for optimizer, series in optimizers.items():
        for found in series:
            if number(found.get("llc")) is None:
                text = f"<span style='color:{colours[optimizer]}'>{shown_name(optimizer)}:</span>"
                lines.setdefault(found["factor"], []).append(f"{text}<br>every chain diverged")
    for factor, texts in lines.items():
        look = {"yanchor": "bottom", "showarrow": False, "font": {"color": SOFT, "size": 12}}
        text = "<br>".join(texts)
        figure.add_annotation(x=np.log10(factor), y=0.02, yref="y domain", text=text, **look)
