"""Which picture shows what a run measured? Figures that more than one study uses, as functions from
results to `go.Figure`.

`results` is the dict of `results.json`; a figure has a line for each optimizer that it names.
Nothing here measures or writes: a notebook shows a figure as it is, a study's report writes it into
a page.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

from degeneracy.llc.statistics import DIVERGED, running_means
from degeneracy.report.run_tables import TEMPERED, is_auto, is_tempered
from degeneracy.report.style import (
    DASHES,
    SOFT,
    axis_scale,
    empty_figure,
    llc_axis,
    optimizer_colours,
    optimizer_line,
    optimizer_symbols,
    shorten,
    wbic_axis,
)
from degeneracy.runs.results import optimizers_of, swap_epoch
from degeneracy.texts import Z_95, chain_counts, label

MAX_POINTS = 1000  # a running mean is drawn with at most this many points a chain
LOSS_AXIS = "loss (nats, mean cross-entropy)"

Results = Mapping
# (model title, optimizer, epoch) → sampled minibatch losses of that checkpoint, shape (num_chains,
# num_draws), NaN from the draw on where a chain diverged
Traces = Mapping[tuple[str, str, int], np.ndarray]

CAPTIONS = {
    "loss": (
        "Did the optimizers reach the same loss? Where they did not, compare their LLC at equal"
        " loss, in the figure of LLC against training loss. The training loss is the mean over an"
        " epoch's minibatches (epoch 0: the initial model), so it lags behind while the loss falls"
        " fast."
    ),
    "update-norm": (
        "How far does one step move the weights? Optimizers of very different step length have not"
        " been given the same chance to move; a norm that grows without end comes before"
        " divergence."
    ),
    "llc": (
        "A lower LLC means a more degenerate solution. Bands and bars are 95 % intervals (±1.96"
        " standard errors) of the sampling alone. Look for curves that part by more than their"
        " bands, and whether validation loss parts with them."
    ),
    "wbic": (
        "n times the mean loss sampled around the solution, so it follows training loss and LLC"
        " together. It is Watanabe's WBIC only at nβ = n/ln n; sampled at any other nβ, its values"
        " compare only with the same settings."
    ),
    "running-mean": (
        "Convergence check: each thin line is one chain, the thick one the mean of the chains that"
        " stayed finite. Where it still slopes at the last draw, the number depends on the draws. A"
        " chain is called still rising, or falling, where the means of its two halves differ by"
        " more than two standard errors: it still moves, or its mean still carries the way from w*."
        " One that diverged counts in no mean, and a cross marks where it left. Chains that agree,"
        " or an R-hat near 1, do not prove convergence, because all chains start at w*."
    ),
    "hessian-trace": (
        "Curvature of the loss, summed over all directions, by Hutchinson's estimate with probes of"
        " their own for layers and blocks of samples; bars are 95 % intervals over probes with the"
        " batches fixed. A flatter minimum has a smaller trace, which need not go with a lower LLC."
    ),
    "llc-against-loss": (
        "Which optimizer has the lower LLC at the same training loss? Compare the curves along a"
        " vertical line. One point an epoch, training runs from right to left; bars are 95 %"
        " intervals, sampling only."
    ),
}


TEMPERED_CAPTIONS = {  # in their place where `auto` samples the published measure
    "llc": (
        "The published measure: by how much (times nβ) the loss grows when Gaussian noise moves the"
        " weights far from w*. It tells how a network bears noise; how degenerate a solution is,"
        " the local estimate tells. Bands and bars are 95 % intervals of the sampling alone, from"
        " the means of the chains (Student)."
    ),
    "running-mean": (
        "Convergence check: each thin line is one chain, the thick one the mean of the chains that"
        " stayed finite. Where it still slopes at the last draw, the number depends on the draws."
        " Chains start apart from each other, so that lines which come together are evidence of"
        " rest, and R-hat sees where they do not. A chain that diverged counts in no mean, and a"
        " cross marks where it left."
    ),
    "llc-against-loss": (
        "Which optimizer's network bears noise better at the same training loss? The published"
        " measure, compared along a vertical line. One point an epoch, training runs from right to"
        " left; bars are 95 % intervals, sampling only. It is no local learning coefficient."
    ),
}


def caption(key: str, results: Results) -> str:
    """What to look for in a figure of this run."""
    tempered = TEMPERED_CAPTIONS if is_tempered(results) else {}
    return tempered.get(key, CAPTIONS[key])


def measure_axis(results: Results) -> str:
    """Axis title of the trajectory measure, with the settings that the number depends on."""
    axis = llc_axis(results)
    named = f"{TEMPERED} λ̂, as published<br>"
    return axis.replace("LLC λ̂ ", named, 1) if is_tempered(results) else axis


def measure_heading(results: Results) -> str:
    """What headings call the trajectory measure."""
    return TEMPERED.capitalize() if is_tempered(results) else "LLC"


def loss_figure(title: str, results: Results) -> go.Figure:
    """Training (solid) and validation loss (dashed), in nats, over epochs."""
    figure = empty_figure("Training and validation loss", title)
    drawn = []
    for key, words, dash in (
        ("train_loss", "training", "solid"),
        ("val_loss", "validation", "dash"),
    ):
        for optimizer, values in measured(title, results, key):
            line = _epoch_line(title, results, optimizer, values, words=words, dash=dash)
            figure.add_trace(line)
            drawn.append(values)
    epoch_axis(figure, results)
    return figure.update_yaxes(title_text=LOSS_AXIS, **axis_scale(drawn))


def update_norm_figure(title: str, results: Results) -> go.Figure:
    """Mean over an epoch's steps of the sum over tensors of ‖Δw‖₂, in units of the weights."""
    figure = empty_figure("Length of a step", title)
    drawn = measured(title, results, "update_norm")
    for optimizer, values in drawn:
        figure.add_trace(_epoch_line(title, results, optimizer, values))
    epoch_axis(figure, results)
    scale = axis_scale([values for _, values in drawn])
    return figure.update_yaxes(title_text="Σ over tensors of ‖Δw‖₂, mean over steps", **scale)


def llc_figure(title: str, results: Results) -> go.Figure:
    """LLC with 95 % intervals over epochs, beside the validation loss."""
    heading, axis = f"{measure_heading(results)} and validation loss", measure_axis(results)
    return _beside_validation_loss(heading, title, results, "llc", axis)


def wbic_figure(title: str, results: Results) -> go.Figure:
    """WBIC with 95 % intervals over epochs, beside the validation loss."""
    heading, axis = "WBIC and validation loss", wbic_axis(results)
    return _beside_validation_loss(heading, title, results, "wbic", axis)


def running_mean_figure(title: str, results: Results, traces: Traces) -> go.Figure:
    """Running means of LLC and WBIC over draws, a line a chain, at the last epoch sampled of each
    optimizer.
    """
    figure = empty_figure("Running means over the draws", title, columns=2)
    shown = [
        chains
        for optimizer in optimizers_of(results, title)
        if (chains := _last_chains(title, results, traces, optimizer)) is not None
    ]
    nbeta, n = results["nbeta"], results["train_size"]
    panels = (
        (measure_axis(results), [running_means(one.losses, one.init_loss, nbeta) for one in shown]),
        (wbic_axis(results), [running_means(one.losses, 0.0, n) for one in shown]),
    )
    for column, (axis, means) in enumerate(panels, start=1):
        limits = _limits(means)
        figure.update_yaxes(title_text=axis, range=limits, col=column)
        for chains, one in zip(shown, means, strict=True):
            _add_running_means(figure, chains, one, limits, column)
    figure.update_layout(hovermode="closest")
    return figure.update_xaxes(title_text="draw")


def hessian_trace_figure(title: str, results: Results) -> go.Figure:
    """Trace of the mean loss's Hessian over epochs, with 95 % intervals over the probes."""
    figure = empty_figure("Hessian trace", title)
    drawn = measured(title, results, "hessian_trace")
    for optimizer, values in drawn:
        error = _values(optimizers_of(results, title)[optimizer], "hessian_trace_std_error")
        figure.add_trace(_epoch_line(title, results, optimizer, values, std_error=error))
    epoch_axis(figure, results)
    batches = results["config"]["data"]["num_hessian_batches"]
    axis = f"Hessian trace (nats per weight², {batches} batches)"
    return figure.update_yaxes(title_text=axis, **axis_scale([values for _, values in drawn]))


def llc_against_loss_figure(title: str, results: Results) -> go.Figure:
    """LLC with 95 % intervals against the training loss L(w*) in nats, one point an epoch."""
    figure = empty_figure(f"{measure_heading(results)} against training loss", title)
    lines, labels, swap = [], [], swap_epoch(results["config"])
    for optimizer, llc in measured(title, results, "llc"):
        series = optimizers_of(results, title)[optimizer]
        loss, error = _values(series, "llc_init_loss"), _errors(series, "llc", results)
        epochs = np.flatnonzero(np.isfinite(llc) & np.isfinite(loss))
        if not len(epochs):
            continue
        line = line_of(
            optimizers_of(results, title),
            optimizer,
            loss[epochs],
            llc[epochs],
            std_error=error[epochs],
        )
        line.line.width = 1
        line.customdata = [
            f"epoch {epoch}: {hover}, loss {loss[epoch]:.4g}"
            for epoch, hover in zip(epochs, line.customdata, strict=True)
        ]
        # The shared checkpoints are named once.
        named = {epochs[-1]} if lines else {epochs[0], swap, epochs[-1]} & set(epochs)
        for epoch in sorted(named):
            whose = f"{shown_name(optimizer, 20)}, " if epoch == epochs[-1] else ""
            text = f"{whose}epoch {epoch}"
            labels.append(_Label(loss[epoch], llc[epoch], text, line.line.color))
        lines.append(line)
    figure.add_traces(lines)
    figure.update_layout(hovermode="closest")
    scale = axis_scale([line.x for line in lines])
    _add_labels(figure, labels, lines, is_log=scale.get("type") == "log")
    axis = "training loss L(w*) (nats, mean over the training set)"
    figure.update_xaxes(title_text=axis, **scale)
    return figure.update_yaxes(title_text=measure_axis(results))


# ---- shared with the studies' own figures --------------------------------------------------------


def measured(title: str, results: Results, key: str) -> list[tuple[str, np.ndarray]]:
    """(optimizer, values per epoch) of those that have a value at all; NaN, drawn as a gap, where
    not measured.
    """
    arrays = [
        (name, _values(series, key)) for name, series in optimizers_of(results, title).items()
    ]
    return [(name, values) for name, values in arrays if np.isfinite(values).any()]


def array(values: Sequence[float | None]) -> np.ndarray:
    """Values as an array, NaN where there is none."""
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def shown_name(optimizer: str, length: int = 40) -> str:
    """How Plotly may draw an optimizer's name."""
    return shorten(label(optimizer), length)


def line_of(
    optimizers: Iterable[str],
    optimizer: str,
    x,
    y,
    *,
    words: str = "",
    dash: str = "solid",
    std_error=None,
) -> go.Scatter:
    """The line of one of a run's `optimizers`, called after it and `words`; 95 % error bars."""
    names = list(optimizers)
    name = f"{shown_name(optimizer)}, {words}" if words else shown_name(optimizer)
    look = {
        "colour": optimizer_colours(names)[optimizer],
        "symbol": optimizer_symbols(names)[optimizer],
    }
    return optimizer_line(x, y, optimizer, name, dash, std_error, **look)


def epoch_axis(figure: go.Figure, results: Results) -> None:
    """Makes the epochs of the run the x axis of every panel, with the swap marked."""
    last = results["config"]["experiment"]["num_epochs"]
    margin = 0.02 * last + 0.1
    figure.update_xaxes(title_text="epoch", range=[-margin, last + margin], tickformat="d")
    if last <= 12:
        figure.update_xaxes(dtick=1)
    swap = swap_epoch(results["config"])
    if swap is not None:
        mark_swap(figure, swap, last)


def mark_swap(figure: go.Figure, swap_epoch: int, last: int) -> None:
    """Marks the swap in every panel that shows something, by a line with its name above."""
    dotted = {"color": SOFT, "width": 1.5, "dash": "dot"}
    figure.add_vline(x=swap_epoch, row="all", col="all", line=dotted)
    for axis in sorted({trace.xaxis or "x" for trace in figure.data}):
        figure.add_annotation(
            x=swap_epoch,
            xref=axis,
            y=1,
            yref=f"y{axis.removeprefix('x')} domain",
            yanchor="bottom",
            showarrow=False,
            xanchor="left" if swap_epoch <= last / 2 else "right",
            text=f"swap after epoch {swap_epoch}",
            font={"size": 12, "color": SOFT},
        )


# ---- lines over epochs ---------------------------------------------------------------------------


def _epoch_line(title: str, results: Results, optimizer: str, values, **look) -> go.Scatter:
    optimizers = optimizers_of(results, title)
    return line_of(optimizers, optimizer, np.arange(len(values)), values, **look)


def _beside_validation_loss(
    heading: str, title: str, results: Results, key: str, axis: str
) -> go.Figure:
    figure = empty_figure(heading, title, columns=2)
    drawn = measured(title, results, key)
    for optimizer, values in drawn:
        error = _errors(optimizers_of(results, title)[optimizer], key, results)
        line = _epoch_line(title, results, optimizer, values, std_error=error)
        figure.add_trace(_band(values, error, line), row=1, col=1)
        figure.add_trace(line, row=1, col=1)
    losses = measured(title, results, "val_loss") if drawn else []
    for optimizer, values in losses:
        line = _epoch_line(title, results, optimizer, values)
        figure.add_trace(line.update(showlegend=optimizer not in dict(drawn)), row=1, col=2)
    epoch_axis(figure, results)
    figure.update_yaxes(title_text=axis, col=1)
    scale = axis_scale([values for _, values in losses])
    return figure.update_yaxes(title_text="validation " + LOSS_AXIS, **scale, col=2)


def _band(values: np.ndarray, std_error: np.ndarray, line: go.Scatter) -> go.Scatter:
    """95 % intervals as a band along the epochs measured in a row; a single epoch has its error bar
    alone.
    """
    low, high = values - Z_95 * std_error, values + Z_95 * std_error
    known = np.flatnonzero(np.isfinite(low))
    x, y = [], []
    for epochs in np.split(known, np.flatnonzero(np.diff(known) > 1) + 1):
        x += [*epochs, *epochs[::-1], None]
        y += [*high[epochs], *low[epochs][::-1], None]
    colour = line.line.color
    band = go.Scatter(x=x, y=y, mode="lines", fill="toself", fillcolor=colour, opacity=0.15)
    band.update(line={"width": 0, "color": colour}, name=f"{line.name}, 95 %")
    return band.update(hoverinfo="skip", showlegend=False, legendgroup=line.legendgroup)


# ---- chains --------------------------------------------------------------------------------------


class _Chains(NamedTuple):
    """An optimizer's chains at the last epoch at which they were sampled."""

    name: str  # as Plotly may draw it, with the epoch
    colour: str
    verdicts: list[str]  # of each chain
    losses: np.ndarray  # (chains, draws)
    init_loss: float  # L(w*)


def _last_chains(title: str, results: Results, traces: Traces, optimizer: str) -> _Chains | None:
    """None where no chain was sampled, or L(w*) is not known."""
    series = optimizers_of(results, title)[optimizer]
    known = dict(enumerate(_values(series, "llc_init_loss")))
    epochs = [
        epoch
        for (model, name, epoch) in traces
        if (model, name) == (title, optimizer) and np.isfinite(known.get(epoch, np.nan))
    ]
    if not epochs:
        return None
    epoch = max(epochs)
    losses = np.asarray(traces[title, optimizer, epoch], dtype=float)
    verdicts = [chain["verdict"] for chain in series["llc_chains"][epoch]]
    colour = optimizer_colours(list(optimizers_of(results, title)))[optimizer]
    return _Chains(
        f"{shown_name(optimizer)}, epoch {epoch}", colour, verdicts, losses, known[epoch]
    )


def _add_running_means(
    figure: go.Figure, chains: _Chains, means: np.ndarray, limits: list | None, column: int
) -> None:
    """Draws `means` (chains, draws); a cross marks where a chain that diverged leaves the axis
    range `limits`.
    """
    draws = means.shape[1]
    shown = np.unique(np.linspace(0, draws - 1, min(draws, MAX_POINTS)).round().astype(int))
    counts = chain_counts({"verdict": verdict} for verdict in chains.verdicts)
    shared = {
        "legendgroup": chains.name,
        "hovertemplate": "draw %{x}: %{y:.4g}<extra>%{meta}</extra>",
    }
    for chain, (values, verdict) in enumerate(zip(means, chains.verdicts, strict=True)):
        meta = f"{chains.name}, chain {chain + 1}: {verdict}"
        line = go.Scatter(x=shown + 1, y=values[shown], mode="lines", opacity=0.6, meta=meta)
        line.update(name=f"{chains.name}: each chain ({counts})", **shared)
        dash = DASHES[chain % len(DASHES)]
        line.update(line={"color": chains.colour, "width": 1, "dash": dash})
        figure.add_trace(line.update(showlegend=chain == 0 and column == 1), row=1, col=column)
        end = _last_inside(values, limits)
        if verdict == DIVERGED and end is not None:
            cross = go.Scatter(x=[end + 1], y=[values[end]], mode="markers", meta=meta)
            cross.update(marker={"symbol": "x", "size": 10, "color": chains.colour}, **shared)
            first = column == 1 and DIVERGED not in chains.verdicts[:chain]
            cross.update(name=f"{chains.name}: a chain diverged", showlegend=first)
            figure.add_trace(cross, row=1, col=column)
    finite = np.isfinite(means).all(axis=1)
    if finite.any():
        mean = means[finite].mean(axis=0)
        line = go.Scatter(x=shown + 1, y=mean[shown], mode="lines", showlegend=column == 1)
        line.update(line={"color": chains.colour, "width": 3}, **shared)
        line.update(name=f"{chains.name}: mean of chains", meta=f"{chains.name}, mean of chains")
        figure.add_trace(line, row=1, col=column)


def _last_inside(values: np.ndarray, limits: list | None) -> int | None:
    """The last draw at which a chain is finite and inside the axis range."""
    low, high = limits or (-np.inf, np.inf)
    inside = np.flatnonzero(np.isfinite(values) & (values >= low) & (values <= high))
    return int(inside[-1]) if len(inside) else None


def _limits(panel: list[np.ndarray]) -> list | None:
    """Axis range over what stayed finite: a chain on its way to infinity must not flatten the
    others.
    """
    finite = [means[np.isfinite(means).all(axis=1)] for means in panel]
    values = np.concatenate([means.ravel() for means in finite]) if finite else np.empty(0)
    if not len(values):
        return None
    low, high = values.min(), values.max()
    margin = 0.06 * (high - low) or 1.0
    return [low - margin, high + margin]


# ---- labels at points of a curve -----------------------------------------------------------------

PLOT = (760, 280)  # width and height of a plot (pixels), as labels are placed for it
REACHES = (32, 50, 72)  # lengths of the line from a point to its label (pixels)
SIDES = ((0, -1), (0, 1), (1, -0.7), (-1, 0.7), (1, 0.7), (-1, -0.7))  # up is negative


class _Label(NamedTuple):
    """A text at a point of a curve."""

    x: float
    y: float
    text: str
    colour: str


def _add_labels(
    figure: go.Figure, labels: Sequence[_Label], lines: Sequence[go.Scatter], is_log: bool
) -> None:
    """Writes every label where it covers least of the curves, and no other label."""
    if not labels:
        return
    across = np.log10 if is_log else np.asarray
    every = np.concatenate([_along(across(line.x), line) for line in lines], axis=1)
    low = every.min(axis=1, keepdims=True)
    span = np.maximum(every.max(axis=1, keepdims=True) - low, 1e-9)
    points = _pixels((every - low) / span)
    placed = []
    for one in labels:
        at = np.array([[across(one.x)], [one.y]])
        (point,) = _pixels((at - low) / span).T
        size = np.array([6.8 * len(one.text) + 8, 20])
        offsets = [
            reach * np.array(side) + (side[0] * size[0] / 2, 0)
            for reach in REACHES
            for side in SIDES
        ]
        costs = [_cost(point + offset, size, points, placed) for offset in offsets]
        offset = offsets[int(np.argmin(costs))]
        placed.append((point + offset, size))
        figure.add_annotation(
            **{"x": float(across(one.x)), "y": one.y, "text": one.text},
            **{"ax": float(offset[0]), "ay": float(offset[1])},
            **{"arrowcolor": one.colour, "arrowwidth": 1, "arrowhead": 0, "standoff": 5},
            font={"color": one.colour, "size": 12},
            bgcolor="rgba(255,255,255,0.8)",
        )


def _along(x: np.ndarray, line: go.Scatter) -> np.ndarray:
    """Points (2, n) all along a curve and its error bars, not only where it was measured."""
    y = np.asarray(line.y, dtype=float)
    error = np.nan_to_num(np.asarray(line.error_y.array, dtype=float))
    steps = np.arange(0, len(x) - 1 + 0.1, 0.1)
    curve = [np.interp(steps, np.arange(len(x)), values) for values in (x, y)]
    bars = np.concatenate([y + share * error for share in (-1, -0.5, 0.5, 1)])
    return np.concatenate([curve, [np.tile(x, 4), bars]], axis=1)


def _pixels(shares: np.ndarray) -> np.ndarray:
    """Shares (2, points) of the axes' ranges as pixels (2, points), y downwards."""
    return np.stack([shares[0] * PLOT[0], (1 - shares[1]) * PLOT[1]])


def _cost(middle: np.ndarray, size: np.ndarray, points: np.ndarray, placed: list) -> float:
    """How bad a place for a label is: what it covers, and how far it is outside of the plot."""
    near = np.abs(points - middle[:, None]) < size[:, None] / 2 + 3
    covered = int(near.all(axis=0).sum())
    met = sum(bool(np.all(np.abs(middle - m) < (size + s) / 2 + 2)) for m, s in placed)
    outside = np.maximum(0, [*(size / 2 - middle - 12), *(middle + size / 2 - PLOT - (12, 12))])
    return covered + 50 * met + 0.5 * float(outside.sum())


# ---- reading results -----------------------------------------------------------------------------


def _values(series: Mapping, key: str) -> np.ndarray:
    values = series.get(key)
    return array(values) if values is not None else np.full(len(series["train_loss"]), np.nan)


def _errors(series: Mapping, key: str, results: Results) -> np.ndarray:
    """Standard errors of a series, with `auto` such that ±1.96 of them are Student's 95 % interval,
    which is wider than the normal one.
    """
    errors = _values(series, f"{key}_std_error")
    intervals = series.get(f"{key}_interval") or () if is_auto(results) else ()
    for epoch, ends in enumerate(intervals):
        if epoch < len(errors) and ends and None not in ends:
            errors[epoch] = (ends[1] - ends[0]) / (2 * Z_95)
    return errors
