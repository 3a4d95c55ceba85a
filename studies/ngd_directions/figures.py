"""How exact is online NGD, in pictures and sentences? Functions from the results of `measure`.

`part` is one of `results.json`'s parts: `exact`, `dense` or `float32`. Nothing here measures.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from degeneracy.report.style import (
    DASHES,
    HEIGHT,
    INK,
    OTHER_COLOURS,
    PARAMETER_COLOURS,
    SOFT,
    axis_scale,
    empty_figure,
    optimizer_colour,
    shorten,
)
from degeneracy.texts import with_error

Part = Mapping

NAMES = {
    "online": "online NGD",
    "averaged": "factors averaged, same α",
    "averaged_best": "factors averaged, best α",
    "layerwise": "exact F, layer by layer",
    "gradient": "gradient as it is",
}
LABELS = {"expected": "F expected", "sampled": "F sampled", "empirical": "F empirical"}
COLOURS = {
    "online": optimizer_colour("ngd"),
    "gradient": optimizer_colour("sgd"),
    "averaged": OTHER_COLOURS[0],
    "averaged_best": OTHER_COLOURS[2],
    "layerwise": OTHER_COLOURS[1],
}
ARITHMETIC_COLOURS = {"stable": optimizer_colour("ngd"), "published": OTHER_COLOURS[1]}

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


def study_figures(results: Mapping) -> list[tuple[str, str, go.Figure]]:
    """Every figure of the parts that are there, as (key, caption, figure)."""
    parts, alpha = results["parts"], results["settings"]["training"]["alpha"]
    figures = []
    if "exact" in parts:
        figures.append(("exact-smoothing", exact_smoothing_figure(parts["exact"], alpha)))
        figures.append(("exact-training", exact_training_figure(parts["exact"], alpha)))
    if "dense" in parts:
        figures.append(("dense", dense_figure(parts["dense"])))
    if "float32" in parts:
        figures.append(("float32", float32_figure(parts["float32"])))
    return [(key, CAPTIONS[key], figure) for key, figure in figures]


def exact_smoothing_figure(part: Part, alpha: float) -> go.Figure:
    """Cosines with the exact natural gradient against its smoothing, at the last checkpoint;
    `alpha` is NGD's own.
    """
    title = f"FFNN of {part['num_weights']:,} weights after {part['steps'][-1]:,} steps"
    where = (-1, slice(None))
    figure = _exact_figure(
        "Online NGD beside the exact natural gradient", title, part, part["alphas"], where
    )
    for kind, dash in (("sampled", "dash"), ("empirical", "dot")):
        line = _cosine_line(part, "online", kind, "", part["alphas"], where)
        line.update(
            line={"color": COLOURS["online"], "dash": dash, "width": 1.5},
            name=f"online NGD, {LABELS[kind]}",
        )
        figure.add_trace(line, row=1, col=1)
    figure.add_vline(
        x=alpha, row="all", col="all", line={"color": SOFT, "width": 1.5, "dash": "dot"}
    )
    for number in ("", "2"):
        figure.add_annotation(
            x=math.log10(alpha),
            xref=f"x{number}",
            y=1,
            yref=f"y{number} domain",
            yanchor="bottom",
            showarrow=False,
            text=f"online NGD's α = {alpha:g}",
            font={"size": 12, "color": SOFT},
        )
    return figure.update_xaxes(
        title_text="smoothing α of the exact F (κ = α tr F/p)", **_log_ticks(part["alphas"])
    )


def exact_training_figure(part: Part, alpha: float) -> go.Figure:
    """Cosines with the exact natural gradient over training steps, at the scanned smoothing nearest
    to `alpha`.
    """
    place = nearest(part["alphas"], alpha)
    title = (
        f"FFNN of {part['num_weights']:,} weights, smoothing α = {part['alphas'][place]:g} of the"
        " exact F"
    )
    figure = _exact_figure(
        "The same along training", title, part, part["steps"], (slice(None), place)
    )
    return figure.update_xaxes(title_text="training steps taken", **_log_ticks(part["steps"]))


def dense_figure(part: Part) -> go.Figure:
    """1 − cosine of online NGD with the recursion of whole matrices over steps: a line a tensor, a
    panel an α.
    """
    figure = empty_figure(
        "Online NGD beside whole matrices", part["model"], columns=len(part["alphas"])
    )
    drawn = []
    for column, alpha in enumerate(part["alphas"], start=1):
        online, gradient = (part["cosines"][kind][column - 1] for kind in ("online", "gradient"))
        lines = [
            (
                online[name],
                shorten(name, 34),
                {"color": PARAMETER_COLOURS[index % len(PARAMETER_COLOURS)], "width": 1.2},
            )
            for index, name in enumerate(part["parameters"])
        ]
        lines.append((online[""], "all tensors", {"color": INK, "width": 2.5}))
        dotted = {"color": INK, "width": 1.5, "dash": "dot"}
        lines.append((gradient[""], f"{NAMES['gradient']}, all tensors", dotted))
        for values, name, look in lines:
            drawn.append(np.maximum(1 - _array(values), LEAST_DISTANCE))
            _add_steps(figure, drawn[-1], name, look, column)
        figure.update_yaxes(title_text=f"1 − cosine of the directions, α = {alpha:g}", col=column)
    figure.update_yaxes(**axis_scale(drawn))
    return figure.update_xaxes(title_text="training step").update_layout(
        hovermode="closest", height=HEIGHT + 60
    )


def float32_figure(part: Part) -> go.Figure:
    """Orthonormality and direction errors over steps: colour by arithmetic, dash by α."""
    figure = empty_figure(
        "Rounding errors of the two arithmetics in float32", part["model"], columns=2
    )
    drawn: tuple[list, list] = ([], [])
    for run in part["runs"]:
        dash = DASHES[part["alphas"].index(run["alpha"])]
        look = {"color": ARITHMETIC_COLOURS[run["arithmetic"]], "dash": dash}
        name = f"{run['arithmetic']}, α = {run['alpha']:g}"
        for column, key, width in (
            (1, "orthonormality_error", 1.8),
            (2, "direction_error", 2.2),
            (2, "worst_tensor_error", 0.8),
        ):
            worst = {
                "orthonormality_error": "worst_axis",
                "worst_tensor_error": "worst_tensor",
            }.get(key)
            line = _add_steps(
                figure, run[key], name, look | {"width": width}, column, legend=column == 1
            )
            line.update(customdata=run[worst] if worst else ["all tensors"] * len(run[key]))
            line.update(hovertemplate="step %{x}: %{y:.2e}, %{customdata}<extra>%{meta}</extra>")
            drawn[column - 1].append(run[key])
    figure.update_yaxes(
        title_text="max |R Rᵀ − I|, worst axis", **axis_scale(_finite(drawn[0])), col=1
    )
    label = "‖d₃₂ − d₆₄‖ / ‖d₆₄‖ of directions d"
    figure.update_yaxes(title_text=label, **axis_scale(_finite(drawn[1])), col=2)
    return figure.update_xaxes(title_text="training step").update_layout(hovermode="closest")


# ---- sentences -----------------------------------------------------------------------------------


def findings(results: Mapping) -> dict[str, str]:
    """What each part that is there found, in words."""
    parts, alpha = results["parts"], results["settings"]["training"]["alpha"]
    texts = {}
    if "exact" in parts:
        texts["exact"] = exact_finding(parts["exact"], alpha)
    if "dense" in parts:
        texts["dense"] = dense_finding(parts["dense"])
    if "float32" in parts:
        texts["float32"] = float32_finding(parts["float32"])
    return texts


def exact_finding(part: Part, alpha: float) -> str:
    """What `exact_smoothing_figure` shows, in words; `alpha` is NGD's own."""
    alphas, own = part["alphas"], nearest(part["alphas"], alpha)
    at = {name: with_error(*part["cosines"]["expected"][name][""][-1][own]) for name in NAMES}
    online, gradient = (
        _cosines(part, name, "expected", "", (-1, slice(None)))[0]
        for name in ("online", "gradient")
    )
    best = int(np.argmax(online))
    nearer = ", ".join(f"{a:g}" for a, o, g in zip(alphas, online, gradient, strict=True) if o > g)
    early, late = (
        with_error(*part["cosines"]["expected"]["online"][""][place][own]) for place in (0, -1)
    )
    agreement = {name: values[-1][own] for name, values in part["agreement"].items()}
    return (
        f"Beside the exact natural gradient of {part['num_weights']:,} weights, after"
        f" {part['steps'][-1]:,} steps. At smoothing α = {alphas[own]:g} of the exact F, online"
        f" NGD's direction has cosine {at['online']} with the exact one, the gradient as it is"
        f" {at['gradient']}. Online NGD is the nearer of the two at"
        f" {f'α = {nearer}' if nearer else 'no α'} of those scanned; its best match is"
        f" {online[best]:.2f} at α = {alphas[best]:g}, where the gradient as it is has"
        f" {gradient[best]:.2f}. At α = {alphas[own]:g} the same inverse with factors averaged over"
        f" {part['num_averaged']} minibatches reaches {at['averaged']}, with its own α chosen best"
        f" {at['averaged_best']}, and the exact F layer by layer {at['layerwise']}. Along training"
        f" online NGD goes from {early} after {part['steps'][0]:,} steps to {late}. How sure is the"
        " yardstick? Exact directions from two halves of the images agree to"
        f" {agreement['halves']:.3f}; with drawn labels in place of the expectation over labels to"
        f" {agreement['sampled']:.3f}, with the given labels to {agreement['empirical']:.3f}."
    )


def dense_finding(part: Part) -> str:
    """What `dense_figure` shows, in words: means over the second half of the steps."""
    texts = []
    for alpha, online, gradient in zip(part["alphas"], *part["cosines"].values(), strict=True):
        late = {name: _late_mean(values) for name, values in online.items()}
        worst = min(part["parameters"], key=late.get)
        texts.append(
            f"at α = {alpha:g} online NGD has cosine {late['']:.3f} with whole matrices over all"
            f" tensors ({late[worst]:.3f} in the worst, {worst}), the gradient as it is"
            f" {_late_mean(gradient['']):.3f}"
        )
    return (
        "Low-rank factors and their floors, means over the second half of the steps:"
        f" {'; '.join(texts)}."
    )


def float32_finding(part: Part) -> str:
    """What `float32_figure` shows, in words: medians over steps, and the largest orthonormality
    error.
    """
    texts = []
    for run in part["runs"]:
        orthonormality, error = _array(run["orthonormality_error"]), _array(run["direction_error"])
        worst = int(np.argmax(orthonormality))
        texts.append(
            f"{run['arithmetic']} at α = {run['alpha']:g} is {100 * np.median(error):.2g}\u00a0%"
            f" off (median over steps), its basis up to {orthonormality[worst]:.3g} from"
            f" orthonormal ({run['worst_axis'][worst]})"
        )
    return (
        f"Directions in float32 beside those of the same arithmetic in float64: {'; '.join(texts)}."
    )


def nearest(alphas: Sequence[float], alpha: float) -> int:
    """Place of the entry nearest to `alpha` on a log scale."""
    return int(np.argmin([abs(math.log(a / alpha)) for a in alphas]))


# ---- helpers -------------------------------------------------------------------------------------


def _exact_figure(heading: str, title: str, part: Part, x: Sequence, where: tuple) -> go.Figure:
    """The whole model on the left, its layers on the right; `where` picks [checkpoint, alpha]."""
    figure = empty_figure(heading, title, columns=2)
    for name in NAMES:
        line = _cosine_line(part, name, "expected", "", x, where)
        line.update(name=NAMES[name], line={"color": COLOURS[name], "width": 2.2})
        figure.add_trace(line, row=1, col=1)
    layers = [name for name in part["cosines"]["expected"]["online"] if name]
    for index, layer in enumerate(layers):
        for name, dash in (("online", "solid"), ("gradient", "dot")):
            line = _cosine_line(part, name, "expected", layer, x, where)
            line.update(
                line={
                    "color": PARAMETER_COLOURS[index % len(PARAMETER_COLOURS)],
                    "dash": dash,
                    "width": 1.8,
                }
            )
            line.update(name=shorten(layer, 34), legendgroup=layer, showlegend=name == "online")
            line.update(meta=f"{shorten(layer, 34)}: {NAMES[name]}")
            figure.add_trace(line, row=1, col=2)
    figure.update_layout(hovermode="closest", height=HEIGHT + 60)
    figure.update_yaxes(range=[0, 1.05], dtick=0.2)
    figure.update_yaxes(title_text="cosine with exact, all layers", col=1)
    return figure.update_yaxes(title_text="cosine with exact, by layer", col=2)


def _cosine_line(
    part: Part, name: str, kind: str, of: str, x: Sequence, where: tuple
) -> go.Scatter:
    mean, error = _cosines(part, name, kind, of, where)
    line = go.Scatter(x=list(x), y=mean, mode="lines+markers", marker={"size": 5})
    line.update(meta=f"{NAMES[name]}, {LABELS[kind]}")
    line.error_y = {"type": "data", "array": error, "thickness": 1.2, "width": 3}
    hover = [with_error(*pair) for pair in zip(mean, error, strict=True)]
    return line.update(
        customdata=hover, hovertemplate="%{x}: cosine %{customdata}<extra>%{meta}</extra>"
    )


def _cosines(
    part: Part, name: str, kind: str, of: str, where: tuple
) -> tuple[np.ndarray, np.ndarray]:
    pairs = _array(part["cosines"][kind][name][of])[where]  # (…, 2)
    return pairs[..., 0], pairs[..., 1]


def _add_steps(
    figure: go.Figure, values: Sequence, name: str, look: dict, column: int, legend=True
) -> go.Scatter:
    line = go.Scatter(
        x=np.arange(1, len(values) + 1), y=_array(values), mode="lines", line=look, name=name
    )
    line.update(legendgroup=name, showlegend=legend and column == 1, meta=name)
    line.update(hovertemplate="step %{x}: %{y:.3g}<extra>%{meta}</extra>")
    figure.add_trace(line, row=1, col=column)
    return figure.data[-1]


def _late_mean(values: Sequence) -> float:
    return float(np.mean(_array(values)[len(values) // 2 :]))


def _array(values) -> np.ndarray:
    return np.array(values, dtype=float)  # None, where a number was not finite, becomes NaN


def _finite(drawn: Sequence) -> list[np.ndarray]:
    return [array[array > 0] for array in map(_array, drawn)]


def _log_ticks(values: Sequence[float]) -> dict:
    """A log axis with ticks at powers of ten, written out, and room beside the outermost values."""
    low, high = math.log10(values[0]), math.log10(values[-1])
    margin = 0.04 * (high - low) or 0.5
    return {"type": "log", "dtick": 1, "tickformat": "~g", "range": [low - margin, high + margin]}
