"""How exact is online NGD, in pictures?"""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from degeneracy.report.page import Drawing, Section
from degeneracy.report.style import (
    DASHES,
    HEIGHT,
    INK,
    PARAMETER_COLOURS,
    SOFT,
    axis_scale,
    empty_figure,
    optimizer_colours,
    shorten,
)
from degeneracy.texts import number, with_error
from studies.ngd_directions.records import cosine_pairs, exact_part, recorded_part

Record = Mapping  # as `records.py` gives it

NAMES = {
    "online": "online NGD",
    "averaged": "factors averaged, same α",
    "averaged_best": "factors averaged, best α",
    "layerwise": "exact F, layer by layer",
    "gradient": "gradient as it is",
}
LABELS = {"expected": "F expected", "sampled": "F sampled", "empirical": "F empirical"}
RED, BLUE = optimizer_colours(["ngd", "sgd"]).values()
GREEN, PURPLE, OCHRE = "#009988", "#aa4499", "#997700"  # Tol's: apart under colour blindness
COLOURS = {
    "online": RED,
    "gradient": BLUE,
    "averaged": GREEN,
    "averaged_best": OCHRE,
    "layerwise": PURPLE,
}
ARITHMETIC_COLOURS = {"stable": RED, "published": PURPLE}

LEAST_DISTANCE = 1e-8  # of 1 − cosine, as drawn: float64's rounding of a cosine is not far below

CAPTIONS = {
    "exact-smoothing": (
        "How near does a direction come to the exact natural gradient (F + κI)⁻¹g, and at which"
        " smoothing of the exact F? Towards the right the exact direction becomes the gradient"
        " itself, so a high cosine there says nothing about curvature: what counts is how far a"
        " line lies above the blue one, the gradient as it is. Factors averaged: online NGD's"
        " inverse axis by axis, with factors from many minibatch gradients at these weights; with"
        " online NGD's α, and with the best one for each exact α. Layer by layer: the exact F"
        " without its blocks between layers. Right: online NGD as lines, the gradient as it is as"
        " dots. Bars are ± one standard error over minibatches."
    ),
    "exact-training": (
        "The same at one smoothing, that of online NGD's own α or the nearest one scanned, along "
        "training. Bars are ± one standard error over minibatches."
    ),
    "dense": (
        "What do the low-rank factors and their floors lose? 1 − cosine, tensor by tensor, between"
        " online NGD's direction in float64 and that of the same recursion with whole matrices,"
        " inverted as they stand, along the same gradients. The dotted line is the gradient as it"
        " is, all tensors together: how much there was to turn."
    ),
    "float32": (
        "What does each arithmetic lose in float32? Left: how far the rows of the worst axis' basis"
        " are from orthonormal. Right: how far a direction is from that of the same arithmetic in"
        " float64 on the same gradients, all tensors together (thick) and the worst tensor (thin)."
    ),
}


def study_figures(results: Mapping, traces: Mapping) -> list[Section]:
    """The figures of the parts that are there; this study keeps no traces."""
    figures = {}
    if exact_part(results):
        figures["Beside the exact natural gradient"] = {
            "exact-smoothing": exact_smoothing_figure(results),
            "exact-training": exact_training_figure(results),
        }
    if recorded_part(results, "dense"):
        figures["Beside whole matrices"] = {"dense": dense_figure(results)}
    if recorded_part(results, "float32"):
        figures["In float32"] = {"float32": float32_figure(results)}
    return [
        Section(heading, [Drawing(key, CAPTIONS[key], figure) for key, figure in drawn.items()])
        for heading, drawn in figures.items()
    ]


def exact_smoothing_figure(results: Mapping) -> go.Figure:
    """Cosines with the exact natural gradient against its smoothing, at the last checkpoint."""
    part, own = exact_part(results), results["config"]["training"]["alpha"]
    alphas, where = part["alphas"], (-1, slice(None))
    title = f"FFNN of {part['num_weights']:,} weights after {part['steps'][-1]:,} steps"
    heading = "Online NGD beside the exact natural gradient"
    figure = _exact_figure(heading, title, part, alphas, where)
    for kind, dash in (("sampled", "dash"), ("empirical", "dot")):
        line = _cosine_line(part, "online", kind, "", alphas, where)
        line.update(line={"color": RED, "dash": dash, "width": 1.5})
        line.update(name=f"{NAMES['online']}, {LABELS[kind]}")
        figure.add_trace(line, row=1, col=1)
    dotted = {"color": SOFT, "width": 1.5, "dash": "dot"}
    figure.add_vline(x=own, row="all", col="all", line=dotted)
    for panel in ("", "2"):
        figure.add_annotation(
            text=f"online NGD's α = {own:g}",
            font={"size": 12, "color": SOFT},
            x=math.log10(own),
            xref=f"x{panel}",
            y=1,
            yref=f"y{panel} domain",
            yanchor="bottom",
            showarrow=False,
        )
    axis_title = "smoothing α of the exact F (κ = α tr F/p)"
    return figure.update_xaxes(title_text=axis_title, **_log_ticks([own, *alphas]))


def exact_training_figure(results: Mapping) -> go.Figure:
    """Cosines with the exact natural gradient over training steps, at the scanned smoothing nearest
    to online NGD's own.
    """
    part = exact_part(results)
    place = nearest(part["alphas"], results["config"]["training"]["alpha"])
    smoothing = f"smoothing α = {part['alphas'][place]:g} of the exact F"
    title = f"FFNN of {part['num_weights']:,} weights, {smoothing}"
    where = (slice(None), place)
    figure = _exact_figure("The same along training", title, part, part["steps"], where)
    return figure.update_xaxes(title_text="training steps taken", **_log_ticks(part["steps"]))


def dense_figure(results: Mapping) -> go.Figure:
    """1 − cosine of online NGD with the recursion of whole matrices over steps: a line a tensor, a
    panel an α.
    """
    part = recorded_part(results, "dense")
    alphas = part["alphas"]
    figure = empty_figure("Online NGD beside whole matrices", part["model"], columns=len(alphas))
    drawn = []
    for column, alpha in enumerate(alphas, start=1):
        online, gradient = (part["cosines"][kind][column - 1] for kind in ("online", "gradient"))
        for values, name, look in _dense_lines(part["parameters"], online, gradient):
            drawn.append(np.maximum(1 - _array(values), LEAST_DISTANCE))
            _add_steps(figure, drawn[-1], name, look, column)
        figure.update_yaxes(title_text=f"1 − cosine of the directions, α = {alpha:g}", col=column)
    figure.update_yaxes(**axis_scale(drawn))
    figure.update_layout(hovermode="closest", height=HEIGHT + 60)
    return figure.update_xaxes(title_text="training step")


def float32_figure(results: Mapping) -> go.Figure:
    """Orthonormality and direction errors over steps: colour by arithmetic, dash by α."""
    part = recorded_part(results, "float32")
    heading = "Rounding errors of the two arithmetics in float32"
    figure = empty_figure(heading, part["model"], columns=2)
    lines = (  # panel, what it shows, where that is, width
        (1, "orthonormality_error", "worst_axis", 1.8),
        (2, "direction_error", None, 2.2),
        (2, "worst_tensor_error", "worst_tensor", 0.8),
    )
    drawn: tuple[list, list] = ([], [])
    for run in part["runs"]:
        dash = DASHES[part["alphas"].index(run["alpha"])]
        name = f"{run['arithmetic']}, α = {run['alpha']:g}"
        for column, key, worst, width in lines:
            look = {"color": ARITHMETIC_COLOURS[run["arithmetic"]], "dash": dash, "width": width}
            line = _add_steps(figure, run[key], name, look, column)
            line.update(customdata=run[worst] if worst else ["all tensors"] * len(run[key]))
            line.update(hovertemplate="step %{x}: %{y:.2e}, %{customdata}<extra>%{meta}</extra>")
            drawn[column - 1].append(run[key])
    titles = ("max |R Rᵀ − I|, worst axis", "‖d₃₂ − d₆₄‖ / ‖d₆₄‖ of directions d")
    for column, (title, values) in enumerate(zip(titles, drawn, strict=True), start=1):
        figure.update_yaxes(title_text=title, **axis_scale(_finite(values)), col=column)
    return figure.update_xaxes(title_text="training step").update_layout(hovermode="closest")


def nearest(alphas: Sequence[float], alpha: float) -> int:
    """Place of the entry nearest to `alpha` on a log scale."""
    return int(np.argmin([abs(math.log(a / alpha)) for a in alphas]))


# ---- parts of figures ----------------------------------------------------------------------------


def _exact_figure(heading: str, title: str, part: Record, x: Sequence, where: tuple) -> go.Figure:
    """The whole model on the left, its layers on the right; `where` picks [checkpoint, alpha]."""
    figure = empty_figure(heading, title, columns=2)
    for name in NAMES:
        line = _cosine_line(part, name, "expected", "", x, where)
        line.update(name=NAMES[name], line={"color": COLOURS[name], "width": 2.2})
        figure.add_trace(line, row=1, col=1)
    layers = [name for name in part["cosines"]["expected"]["online"] if name]
    for index, layer in enumerate(layers):
        colour, shown = PARAMETER_COLOURS[index % len(PARAMETER_COLOURS)], shorten(layer, 34)
        for name, dash in (("online", "solid"), ("gradient", "dot")):
            line = _cosine_line(part, name, "expected", layer, x, where)
            line.update(line={"color": colour, "dash": dash, "width": 1.8})
            line.update(name=shown, legendgroup=layer, showlegend=name == "online")
            line.update(meta=f"{shown}: {NAMES[name]}")
            figure.add_trace(line, row=1, col=2)
    figure.update_layout(hovermode="closest", height=HEIGHT + 60)
    figure.update_yaxes(range=[0, 1.05], dtick=0.2)
    figure.update_yaxes(title_text="cosine with exact, all layers", col=1)
    return figure.update_yaxes(title_text="cosine with exact, by layer", col=2)


def _cosine_line(
    part: Record, name: str, kind: str, of: str, x: Sequence, where: tuple
) -> go.Scatter:
    pairs = cosine_pairs(part, name, kind, of)[where]
    mean, error = pairs[..., 0], pairs[..., 1]
    line = go.Scatter(x=list(x), y=mean, mode="lines+markers", marker={"size": 5})
    line.update(meta=f"{NAMES[name]}, {LABELS[kind]}")
    line.error_y = {"type": "data", "array": error, "thickness": 1.2, "width": 3}
    line.customdata = [with_error(number(m), number(e)) for m, e in zip(mean, error, strict=True)]
    return line.update(hovertemplate="%{x}: cosine %{customdata}<extra>%{meta}</extra>")


def _dense_lines(
    parameters: Sequence[str], online: Mapping, gradient: Mapping
) -> Iterator[tuple[Sequence, str, dict]]:
    """(cosines, name, look) of each tensor, of all, and of the gradient as it is."""
    for index, name in enumerate(parameters):
        colour = PARAMETER_COLOURS[index % len(PARAMETER_COLOURS)]
        yield online[name], shorten(name, 34), {"color": colour, "width": 1.2}
    yield online[""], "all tensors", {"color": INK, "width": 2.5}
    dotted = {"color": INK, "width": 1.5, "dash": "dot"}
    yield gradient[""], f"{NAMES['gradient']}, all tensors", dotted


def _add_steps(
    figure: go.Figure, values: Sequence, name: str, look: dict, column: int
) -> go.Scatter:
    """A line over steps; in the legend for the first panel only."""
    steps = np.arange(1, len(values) + 1)
    line = go.Scatter(x=steps, y=_array(values), mode="lines", line=look, name=name)
    line.update(legendgroup=name, showlegend=column == 1, meta=name)
    line.update(hovertemplate="step %{x}: %{y:.3g}<extra>%{meta}</extra>")
    figure.add_trace(line, row=1, col=column)
    return figure.data[-1]


def _array(values) -> np.ndarray:
    return np.array(values, dtype=float)  # None, where a number was not finite, becomes NaN


def _finite(drawn: Sequence) -> list[np.ndarray]:
    return [array[array > 0] for array in map(_array, drawn)]


def _log_ticks(values: Sequence[float]) -> dict:
    """A log axis with ticks at powers of ten, written out, and room beside the outermost values."""
    low, high = math.log10(min(values)), math.log10(max(values))
    margin = 0.04 * (high - low) or 0.5
    return {"type": "log", "dtick": 1, "tickformat": "~g", "range": [low - margin, high + margin]}
