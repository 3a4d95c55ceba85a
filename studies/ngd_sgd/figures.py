"""Which figures show a run? Section by section, and those of NGD's inside."""

from collections.abc import Iterator, Mapping

import numpy as np
import plotly.graph_objects as go

from degeneracy.report.page import Drawing, Section
from degeneracy.report.run_figures import (
    Results,
    Traces,
    array,
    caption,
    epoch_axis,
    hessian_trace_figure,
    llc_against_loss_figure,
    llc_figure,
    loss_figure,
    running_mean_figure,
    update_norm_figure,
    wbic_figure,
)
from degeneracy.report.style import (
    DASHES,
    HEIGHT,
    INK,
    PARAMETER_COLOURS,
    SYMBOLS,
    axis_scale,
    empty_figure,
    shorten,
)
from degeneracy.texts import label
from studies.ngd_sgd import robustness_figures
from studies.ngd_sgd.local_figures import LOCAL_CAPTION, local_llc_figure
from studies.ngd_sgd.robustness_figures import grid_caption, llc_grid_figure, rescaling_figure
from studies.ngd_sgd.robustness_verdict import grid_orders

KAPPA_CAPTION = (
    "NGD's smoothing: κ is what is added to the Fisher factor of one axis of a tensor before it is"
    " inverted. Where κ is large against the factor's eigenvalues, NGD behaves as SGD does. Colour"
    " tells the parameter, dash the axis; a click in the legend hides a parameter, a double click"
    " shows it alone."
)
COSINE_CAPTION = (
    "How far does NGD turn a gradient? The cosine of a parameter's gradient and what NGD makes of"
    " it. At 1, NGD steps along the gradient, as SGD does. The direction keeps the gradient's"
    " length, so this is all that sets the two apart at equal learning rates."
)

Figures = Iterator[tuple[str, str, go.Figure]]  # (key, caption, figure)


def study_figures(results: Results, traces: Traces) -> list[Section]:
    """Every figure of a run: a section a model, then one with its robustness, where measured."""
    sections = []
    for title in results["models"]:
        sections.append(_section(title, title, results, _run_figures(title, results, traces)))
        robust = _section(f"Robustness: {title}", title, results, _robustness(title, results))
        sections += [robust] if robust.drawings else []
    return sections


def drawing_key(key: str, title: str, results: Results) -> str:
    """What a drawing of a model is called on a page: its key, numbered where there are several
    models.
    """
    titles = list(results["models"])
    return key if len(titles) == 1 else f"{titles.index(title) + 1}-{key}"


def kappa_figure(title: str, results: Results, optimizer: str | None = None) -> go.Figure:
    """The smoothing κ (gradient²) of an optimizer over epochs, on a log axis.

    Colour tells the parameter, dash the axis of its tensor.

    Args:
        title: The model.
        results: As in `results.json`.
        optimizer: Whose; None: the first that has any.
    """
    optimizer = optimizer or next(iter(_with("kappa", title, results)), "ngd")
    figure = empty_figure(f"Smoothing κ of {shorten(label(optimizer), 40)}", title)
    kappa = _logged("kappa", title, results, optimizer)
    axes = set()
    for index, (parameter, by_axis) in enumerate(kappa.items()):
        known = {int(axis): array(values) for axis, values in by_axis.items()}
        known = {axis: values for axis, values in known.items() if np.isfinite(values).any()}
        for place, (axis, values) in enumerate(sorted(known.items())):
            line = _parameter_line(index, parameter, values, dash=DASHES[axis % len(DASHES)])
            line.update(hovertemplate="epoch %{x}: κ = %{y:.3g}<extra>%{meta}</extra>")
            line.update(legendgroup=f"parameter {index}", showlegend=place == 0)
            figure.add_trace(line.update(meta=f"{line.meta}, axis {axis}"))
        axes |= known.keys()
    for axis in sorted(axes):  # empty traces: the legend's key to the dashes
        line = {"color": INK, "dash": DASHES[axis % len(DASHES)], "width": 1.5}
        key = go.Scatter(x=[None], y=[None], mode="lines", line=line, name=f"axis {axis}")
        figure.add_trace(key.update(hoverinfo="skip"))
    epoch_axis(figure, results)
    figure.update_layout(hovermode="closest", height=_height_for(kappa))
    scale = axis_scale([array(line.y) for line in figure.data])
    return figure.update_yaxes(title_text="κ (gradient², mean over steps)", **scale)


def cosine_figure(title: str, results: Results, optimizer: str | None = None) -> go.Figure:
    """The cosine between gradient and an optimizer's direction over epochs, a line a parameter.

    Args: As `kappa_figure`.
    """
    optimizer = optimizer or next(iter(_with("cosine", title, results)), "ngd")
    figure = empty_figure(f"How far {shorten(label(optimizer), 40)} turns the gradient", title)
    cosines = _logged("cosine", title, results, optimizer)
    for index, (parameter, values) in enumerate(cosines.items()):
        if np.isfinite(array(values)).any():
            line = _parameter_line(index, parameter, array(values))
            line.update(hovertemplate="epoch %{x}: cosine %{y:.3f}<extra>%{meta}</extra>")
            figure.add_trace(line)
    epoch_axis(figure, results)
    figure.update_layout(hovermode="closest", height=_height_for(cosines))
    axis = "cosine with the gradient (mean over steps)"
    return figure.update_yaxes(title_text=axis, range=[0, 1.05])


def _section(heading: str, title: str, results: Results, figures: Figures) -> Section:
    """What was measured; what was not is left out."""
    drawings = [
        Drawing(drawing_key(key, title, results), words, figure)
        for key, words, figure in figures
        if figure.data
    ]
    return Section(heading, drawings)


def _run_figures(title: str, results: Results, traces: Traces) -> Figures:
    given = (title, results)
    yield "local-llc", LOCAL_CAPTION, local_llc_figure(*given)
    yield "loss", caption("loss", results), loss_figure(*given)
    yield "update-norm", caption("update-norm", results), update_norm_figure(*given)
    yield "llc", caption("llc", results), llc_figure(*given)
    yield "wbic", caption("wbic", results), wbic_figure(*given)
    yield "running-mean", caption("running-mean", results), running_mean_figure(*given, traces)
    yield "hessian-trace", caption("hessian-trace", results), hessian_trace_figure(*given)
    for place, name in enumerate(_with("kappa", *given)):
        yield _numbered("kappa", place), KAPPA_CAPTION, kappa_figure(*given, name)
    for place, name in enumerate(_with("cosine", *given)):
        yield _numbered("cosine", place), COSINE_CAPTION, cosine_figure(*given, name)
    yield "llc-against-loss", caption("llc-against-loss", results), llc_against_loss_figure(*given)


def _robustness(title: str, results: Results) -> Figures:
    for place, other in enumerate(grid_orders(title, results)):
        figure = llc_grid_figure(title, results, other)
        yield _numbered("llc-grid", place), grid_caption(results), figure
    yield "rescaling", robustness_figures.RESCALING_CAPTION, rescaling_figure(title, results)


def _numbered(key: str, place: int) -> str:
    """`kappa`, `kappa-2`, … : an optimizer's own name may be no anchor."""
    return key if place == 0 else f"{key}-{place + 1}"


def _with(key: str, title: str, results: Results) -> list[str]:
    """The optimizers that logged something under `key`."""
    return [name for name, s in results["models"][title]["optimizers"].items() if s.get(key)]


def _logged(key: str, title: str, results: Results, optimizer: str) -> Mapping:
    """What an optimizer logged of its parameters, parameter → values."""
    return results["models"][title]["optimizers"].get(optimizer, {}).get(key) or {}


def _height_for(parameters: Mapping) -> int:
    """A legend of many parameters gets room of its own, so that the curves keep theirs."""
    return min(HEIGHT + 12 * max(0, len(parameters) - 8), 2 * HEIGHT)


def _parameter_line(
    index: int, parameter: str, values: np.ndarray, dash: str = "solid"
) -> go.Scatter:
    colour = PARAMETER_COLOURS[index % len(PARAMETER_COLOURS)]
    symbol = SYMBOLS[index // len(PARAMETER_COLOURS) % len(SYMBOLS)]
    return go.Scatter(
        x=np.arange(len(values)),
        y=values,
        mode="lines+markers",
        name=shorten(parameter, 34),
        meta=shorten(parameter, 60),
        line={"color": colour, "dash": dash, "width": 1.5},
        marker={"color": colour, "size": 5, "symbol": symbol},
    )
