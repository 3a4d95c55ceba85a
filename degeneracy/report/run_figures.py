"""Which picture shows what was measured? Every Plotly figure, as functions from results to
`go.Figure`.

`results` is the dict of `results.json`; `traces` maps (model title, optimizer, epoch) to the
sampled minibatch losses of that checkpoint, shape (num_chains, num_draws), NaN from the draw on
where a chain diverged. Nothing here measures or writes: a notebook shows a figure as it is, the
report writes it into a page.
"""

import math
from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from degeneracy.llc.statistics import DIVERGED, running_means
from degeneracy.report.style import (
    DASHES,
    HEIGHT,
    INK,
    PARAMETER_COLOURS,
    SOFT,
    SYMBOLS,
    axis_scale,
    empty_figure,
    label,
    llc_axis,
    optimizer_colour,
    optimizer_line,
    shorten,
    wbic_axis,
)
from degeneracy.texts import Z_95, chain_counts
from studies.ngd_sgd.robustness_figures import llc_grid_figure, rescaling_figure

MAX_POINTS = 1000  # a running mean is drawn with at most this many points a chain
LOSS_AXIS = "loss (nats, mean cross-entropy)"

Results = Mapping
Traces = Mapping[tuple[str, str, int], np.ndarray]


def model_figures(title: str, results: Results, traces: Traces) -> list[tuple[str, str, go.Figure]]:
    """All figures of one model as (key, caption, figure), in the report's order; what was not
    measured is left out.
    """
    figures = [
        ("loss", loss_figure(title, results)),
        ("update-norm", update_norm_figure(title, results)),
        ("llc", llc_figure(title, results)),
        ("wbic", wbic_figure(title, results)),
        ("running-mean", running_mean_figure(title, results, traces)),
        ("llc-grid", llc_grid_figure(title, results)),
        ("rescaling", rescaling_figure(title, results)),
        ("hessian-trace", hessian_trace_figure(title, results)),
        ("kappa", kappa_figure(title, results)),
        ("cosine", cosine_figure(title, results)),
        ("llc-against-loss", llc_against_loss_figure(title, results)),
    ]
    return [(key, CAPTIONS[key], figure) for key, figure in figures if figure.data]


CAPTIONS = {
    "loss": (
        "Did the optimizers reach the same loss? Where they did not, compare their LLC at equal"
        " loss, in the last figure of this model. The training loss is the mean over an epoch's"
        " minibatches (epoch 0: the initial model), so it lags behind while the loss falls fast."
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
    "llc-grid": (
        "Does the order of the final LLCs hold at other settings? Every cell samples both final"
        " checkpoints with SGLD, the config's chains, and its draws, the first half of them as"
        " burn-in. Its step size follows from one rule, ε = 0.2/(nβ h_max + γ), the same for both"
        " optimizers: h_max is the larger of the two checkpoints' largest Hessian eigenvalues. In"
        " bold NGD − SGD, below it the 95 % interval (sampling alone); colour is the difference in"
        " standard errors, red where NGD's LLC is higher. The numbers of different cells do not"
        " compare, their signs do. In a hatched cell an estimate moved by more than its error when"
        " the draws were doubled, or a chain has not come to rest: it is not counted. Diverged"
        " chains (×) are left out of their estimate."
    ),
    "rescaling": (
        "How far does the estimator depend on how the same function is written? The first layer's"
        " weights and bias times c and the next layer's weights divided by c give the same network,"
        " so λ is the same for every c. A departure of λ̂ from the dashed line is the estimator's:"
        " its localisation and its noise are isotropic in the weights. Bars are 95 % intervals of"
        " the sampling alone, percentages are against c = 1; a hollow point has not settled."
    ),
    "hessian-trace": (
        "Curvature of the loss, summed over all directions, by Hutchinson's estimate with probes of"
        " their own for layers and blocks of samples; bars are 95 % intervals over probes with the"
        " batches fixed. A flatter minimum has a smaller trace, which need not go with a lower LLC."
    ),
    "kappa": (
        "NGD's smoothing: κ is what is added to the Fisher factor of one axis of a tensor before it"
        " is inverted. Where κ is large against the factor's eigenvalues, NGD behaves as SGD does."
        " Colour tells the parameter, dash the axis; a click in the legend hides a parameter, a"
        " double click shows it alone."
    ),
    "cosine": (
        "How far does NGD turn a gradient? The cosine of a parameter's gradient and what NGD makes"
        " of it. At 1, NGD steps along the gradient, as SGD does. The direction keeps the"
        " gradient's length, so this is all that sets the two apart at equal learning rates."
    ),
    "llc-against-loss": (
        "Which optimizer has the lower LLC at the same training loss? Compare the curves along a"
        " vertical line. One point an epoch, training runs from right to left; bars are 95 %"
        " intervals, sampling only."
    ),
}


def loss_figure(title: str, results: Results) -> go.Figure:
    """Training (solid) and validation loss (dashed), in nats, over epochs."""
    figure = empty_figure("Training and validation loss", title)
    drawn = []
    for key, words, dash in (
        ("train_loss", "training", "solid"),
        ("val_loss", "validation", "dash"),
    ):
        for optimizer, values in _measured(title, results, key):
            figure.add_trace(
                _epoch_line(values, optimizer, f"{label(optimizer)}, {words}", dash=dash)
            )
            drawn.append(values)
    _epoch_axis(figure, results)
    figure.update_yaxes(title_text=LOSS_AXIS, **axis_scale(drawn))
    return figure


def update_norm_figure(title: str, results: Results) -> go.Figure:
    """Mean over an epoch's steps of the sum over tensors of ‖Δw‖₂, in units of the weights."""
    figure = empty_figure("Length of a step", title)
    drawn = _measured(title, results, "update_norm")
    for optimizer, values in drawn:
        figure.add_trace(_epoch_line(values, optimizer))
    _epoch_axis(figure, results)
    figure.update_yaxes(
        title_text="Σ over tensors of ‖Δw‖₂, mean over steps", **axis_scale([v for _, v in drawn])
    )
    return figure


def llc_figure(title: str, results: Results) -> go.Figure:
    """LLC with 95 % intervals over epochs, beside the validation loss."""
    return _beside_validation_loss(
        "LLC and validation loss", title, results, "llc", llc_axis(results)
    )


def wbic_figure(title: str, results: Results) -> go.Figure:
    """WBIC with 95 % intervals over epochs, beside the validation loss."""
    return _beside_validation_loss(
        "WBIC and validation loss", title, results, "wbic", wbic_axis(results)
    )


def running_mean_figure(title: str, results: Results, traces: Traces) -> go.Figure:
    """Running means of LLC and WBIC over draws, per chain, at the last sampled epoch of each
    optimizer.
    """
    figure = empty_figure("Running means over the draws", title, columns=2)
    shown = []  # (optimizer, epoch, verdict of each chain, losses (chains, draws), L(w*))
    for optimizer, series in _optimizers(title, results).items():
        sampled = [epoch for (model, name, epoch) in traces if (model, name) == (title, optimizer)]
        init_losses = _values(series, "llc_init_loss")
        sampled = [
            epoch
            for epoch in sampled
            if epoch < len(init_losses) and np.isfinite(init_losses[epoch])
        ]
        if sampled:
            epoch = max(sampled)
            losses = np.asarray(traces[title, optimizer, epoch], dtype=float)
            shown.append(
                (
                    optimizer,
                    epoch,
                    _chain_verdicts(series, epoch, losses),
                    losses,
                    init_losses[epoch],
                )
            )
    panels = (
        (
            llc_axis(results),
            [running_means(losses, loss, results["nbeta"]) for *_, losses, loss in shown],
        ),
        (
            wbic_axis(results),
            [running_means(losses, 0.0, results["train_size"]) for *_, losses, _ in shown],
        ),
    )
    for column, (axis, means) in enumerate(panels, start=1):
        limits = _limits(means)
        figure.update_yaxes(title_text=axis, range=limits, col=column)
        for (optimizer, epoch, verdicts, *_), one in zip(shown, means, strict=True):
            _add_running_means(figure, one, verdicts, optimizer, epoch, limits, column)
    figure.update_layout(hovermode="closest")
    figure.update_xaxes(title_text="draw")
    return figure


def hessian_trace_figure(title: str, results: Results) -> go.Figure:
    """Trace of the mean loss's Hessian over epochs, with 95 % intervals over the probes."""
    figure = empty_figure("Hessian trace", title)
    drawn = _measured(title, results, "hessian_trace")
    for optimizer, values in drawn:
        error = _values(_optimizers(title, results)[optimizer], "hessian_trace_std_error")
        figure.add_trace(_epoch_line(values, optimizer, std_error=error))
    _epoch_axis(figure, results)
    batches = results["config"]["data"]["num_hessian_batches"]
    axis = f"Hessian trace (nats per weight², {batches} batches)"
    figure.update_yaxes(title_text=axis, **axis_scale([values for _, values in drawn]))
    return figure


def kappa_figure(title: str, results: Results) -> go.Figure:
    """NGD's smoothing κ (gradient²) over epochs on a log axis: colour by parameter, dash by axis."""
    figure = empty_figure("Smoothing κ of NGD", title)
    kappa = _optimizers(title, results).get("ngd", {}).get("kappa") or {}
    axes = set()
    for index, (parameter, by_axis) in enumerate(kappa.items()):
        measured = {int(axis): _array(values) for axis, values in by_axis.items()}
        measured = {axis: values for axis, values in measured.items() if np.isfinite(values).any()}
        for place, (axis, values) in enumerate(sorted(measured.items())):
            line = _parameter_line(index, values, dash=DASHES[axis % len(DASHES)])
            line.update(hovertemplate="epoch %{x}: κ = %{y:.3g}<extra>%{meta}</extra>")
            line.update(name=shorten(parameter, 34), legendgroup=parameter, showlegend=place == 0)
            line.update(meta=f"{shorten(parameter, 60)}, axis {axis}")
            figure.add_trace(line)
        axes |= measured.keys()
    for axis in sorted(axes):  # empty traces: the legend's key to the dashes
        line = {"color": INK, "dash": DASHES[axis % len(DASHES)], "width": 1.5}
        figure.add_trace(
            go.Scatter(
                x=[None], y=[None], mode="lines", line=line, name=f"axis {axis}", hoverinfo="skip"
            )
        )
    _epoch_axis(figure, results)
    figure.update_layout(hovermode="closest", height=_height_for(kappa))
    figure.update_yaxes(
        title_text="κ (gradient², mean over steps)", **axis_scale([line.y for line in figure.data])
    )
    return figure


def cosine_figure(title: str, results: Results) -> go.Figure:
    """Cosine between gradient and NGD's direction over epochs, a line a parameter."""
    figure = empty_figure("How far NGD turns the gradient", title)
    cosines = _optimizers(title, results).get("ngd", {}).get("cosine") or {}
    for index, (parameter, values) in enumerate(cosines.items()):
        if np.isfinite(_array(values)).any():
            line = _parameter_line(index, _array(values))
            line.update(hovertemplate="epoch %{x}: cosine %{y:.3f}<extra>%{meta}</extra>")
            figure.add_trace(line.update(name=shorten(parameter, 34), meta=shorten(parameter, 60)))
    _epoch_axis(figure, results)
    figure.update_layout(hovermode="closest", height=_height_for(cosines))
    figure.update_yaxes(title_text="cosine with the gradient (mean over steps)", range=[0, 1.05])
    return figure


def llc_against_loss_figure(title: str, results: Results) -> go.Figure:
    """LLC with 95 % intervals against the training loss L(w*) in nats, one point an epoch."""
    figure = empty_figure("LLC against training loss", title)
    losses, labels, swap = [], [], _swap_epoch(results)
    for optimizer, llc in _measured(title, results, "llc"):
        series = _optimizers(title, results)[optimizer]
        loss, error = _values(series, "llc_init_loss"), _values(series, "llc_std_error")
        epochs = [e for e in range(len(llc)) if np.isfinite(llc[e]) and np.isfinite(loss[e])]
        if not epochs:
            continue
        shown = (
            {epochs[-1]} if losses else {epochs[0], swap, epochs[-1]}
        )  # the shared checkpoints are labelled once
        line = optimizer_line(loss[epochs], llc[epochs], optimizer, std_error=error[epochs])
        line.line.width = 1
        hover = [
            f"epoch {e}: {h}, loss {loss[e]:.4g}"
            for e, h in zip(epochs, line.customdata, strict=True)
        ]
        figure.add_trace(line.update(customdata=hover))
        # Above the first curve, below the second: the two often run into each other.
        side = 1 if losses else -1
        labels += [
            (loss[e], llc[e], f"epoch {e}", side, optimizer_colour(optimizer))
            for e in sorted(shown & set(epochs))
        ]
        losses.append(loss[epochs])
    figure.update_layout(hovermode="closest")
    scale = axis_scale(losses)
    for x, y, text, side, colour in labels:
        place = {
            "x": math.log10(x) if scale.get("type") == "log" else x,
            "y": y,
            "ax": 0,
            "ay": 56 * side,
        }
        look = {
            "arrowcolor": colour,
            "arrowwidth": 1,
            "arrowhead": 0,
            "standoff": 5,
            "bgcolor": "rgba(255,255,255,0.8)",
        }
        figure.add_annotation(text=text, font={"color": colour, "size": 12}, **place, **look)
    figure.update_xaxes(
        title_text="training loss L(w*) (nats, mean over the training set)", **scale
    )
    figure.update_yaxes(title_text=llc_axis(results))
    return figure


def _beside_validation_loss(
    heading: str, title: str, results: Results, key: str, axis: str
) -> go.Figure:
    figure = empty_figure(heading, title, columns=2)
    measured = _measured(title, results, key)
    for optimizer, values in measured:
        error = _values(_optimizers(title, results)[optimizer], f"{key}_std_error")
        figure.add_trace(_band(values, error, optimizer), row=1, col=1)
        figure.add_trace(_epoch_line(values, optimizer, std_error=error), row=1, col=1)
    losses = _measured(title, results, "val_loss") if measured else []
    for optimizer, values in losses:
        legend = {"showlegend": optimizer not in dict(measured), "legendgroup": label(optimizer)}
        figure.add_trace(_epoch_line(values, optimizer).update(legend), row=1, col=2)
    _epoch_axis(figure, results)
    figure.update_yaxes(title_text=axis, col=1)
    figure.update_yaxes(
        title_text="validation " + LOSS_AXIS, **axis_scale([v for _, v in losses]), col=2
    )
    return figure


def _band(values: np.ndarray, std_error: np.ndarray, optimizer: str) -> go.Scatter:
    """95 % intervals as a band along the epochs measured in a row; a single epoch has its error bar
    alone.
    """
    low, high = values - Z_95 * std_error, values + Z_95 * std_error
    known = np.flatnonzero(np.isfinite(low))
    x, y = [], []
    for epochs in np.split(known, np.flatnonzero(np.diff(known) > 1) + 1):
        x += [*epochs, *epochs[::-1], None]
        y += [*high[epochs], *low[epochs][::-1], None]
    colour = optimizer_colour(optimizer)
    band = go.Scatter(
        x=x, y=y, mode="lines", line={"width": 0, "color": colour}, fill="toself", fillcolor=colour
    )
    return band.update(
        name=f"{label(optimizer)}, 95 %",
        opacity=0.15,
        hoverinfo="skip",
        showlegend=False,
        legendgroup=label(optimizer),
    )


def _epoch_line(
    values: np.ndarray, optimizer: str, name: str = "", dash: str = "solid", std_error=None
) -> go.Scatter:
    return optimizer_line(np.arange(len(values)), values, optimizer, name, dash, std_error)


def _chain_verdicts(series: Mapping, epoch: int, losses: np.ndarray) -> list[str]:
    """The verdict of each chain; of a run from before there were any, only which ones diverged."""
    chains = (series.get("llc_chains") or {epoch: None})[epoch]
    if chains:
        return [chain["verdict"] for chain in chains]
    return ["finite" if finite else "diverged" for finite in np.isfinite(losses).all(axis=1)]


def _add_running_means(
    figure: go.Figure,
    means: np.ndarray,
    verdicts: list[str],
    optimizer: str,
    epoch: int,
    limits,
    column: int,
) -> None:
    """Draws `means` (chains, draws); a cross marks where a chain that diverged leaves the axis
    range `limits`.
    """
    draws = means.shape[1]
    shown = np.unique(np.linspace(0, draws - 1, min(draws, MAX_POINTS)).round().astype(int))
    group, colour = f"{label(optimizer)}, epoch {epoch}", optimizer_colour(optimizer)
    hover = "draw %{x}: %{y:.4g}<extra>%{meta}</extra>"
    counts = chain_counts({"verdict": verdict} for verdict in verdicts)
    low, high = limits or (-np.inf, np.inf)
    for chain, (values, verdict) in enumerate(zip(means, verdicts, strict=True)):
        name = f"{group}: each chain ({counts})"
        line = go.Scatter(x=shown + 1, y=values[shown], mode="lines", name=name, legendgroup=group)
        line.update(
            line={"color": colour, "width": 1, "dash": DASHES[chain % len(DASHES)]}, opacity=0.6
        )
        line.update(meta=f"{group}, chain {chain + 1}: {verdict}", hovertemplate=hover)
        figure.add_trace(line.update(showlegend=chain == 0 and column == 1), row=1, col=column)
        inside = np.flatnonzero(np.isfinite(values) & (values >= low) & (values <= high))
        if verdict == DIVERGED and len(inside):
            end = inside[-1]
            cross = go.Scatter(
                x=[end + 1], y=[values[end]], mode="markers", name=f"{group}: a chain diverged"
            )
            cross.update(
                marker={"symbol": "x", "size": 10, "color": colour},
                meta=line.meta,
                hovertemplate=hover,
            )
            first = column == 1 and DIVERGED not in verdicts[:chain]
            figure.add_trace(cross.update(legendgroup=group, showlegend=first), row=1, col=column)
    finite = np.isfinite(means).all(axis=1)
    if finite.any():
        mean = means[finite].mean(axis=0)
        line = go.Scatter(
            x=shown + 1,
            y=mean[shown],
            mode="lines",
            name=f"{group}: mean of chains",
            legendgroup=group,
        )
        line.update(
            line={"color": colour, "width": 3}, meta=f"{group}, mean of chains", hovertemplate=hover
        )
        figure.add_trace(line.update(showlegend=column == 1), row=1, col=column)


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


def _height_for(parameters: Mapping) -> int:
    """A legend of many parameters gets room of its own, so that the curves keep theirs."""
    return min(HEIGHT + 12 * max(0, len(parameters) - 8), 2 * HEIGHT)


def _parameter_line(index: int, values: np.ndarray, dash: str = "solid") -> go.Scatter:
    colour = PARAMETER_COLOURS[index % len(PARAMETER_COLOURS)]
    symbol = SYMBOLS[index // len(PARAMETER_COLOURS) % len(SYMBOLS)]
    return go.Scatter(
        x=np.arange(len(values)),
        y=values,
        mode="lines+markers",
        line={"color": colour, "dash": dash, "width": 1.5},
        marker={"color": colour, "size": 5, "symbol": symbol},
    )


def _epoch_axis(figure: go.Figure, results: Results) -> None:
    last = results["config"]["experiment"]["num_epochs"]
    margin = 0.02 * last + 0.1
    figure.update_xaxes(title_text="epoch", range=[-margin, last + margin], tickformat="d")
    if last <= 12:
        figure.update_xaxes(dtick=1)
    swap = _swap_epoch(results)
    if swap is None:
        return
    figure.add_vline(
        x=swap, row="all", col="all", line={"color": SOFT, "width": 1.5, "dash": "dot"}
    )
    for axis in {trace.xaxis or "x" for trace in figure.data}:
        number = axis.removeprefix("x")
        figure.add_annotation(
            x=swap,
            xref=axis,
            y=1,
            yref=f"y{number} domain",
            yanchor="bottom",
            showarrow=False,
            xanchor="left" if swap <= last / 2 else "right",
            text=f"swap after epoch {swap}",
            font={"size": 12, "color": SOFT},
        )


def _swap_epoch(results: Results) -> int | None:
    experiment = results["config"]["experiment"]
    return experiment["cut_off_epochs"] if experiment["experiment_type"] == "swap" else None


def _optimizers(title: str, results: Results) -> Mapping:
    return results["models"][title]["optimizers"]


def _measured(title: str, results: Results, key: str) -> list[tuple[str, np.ndarray]]:
    """(optimizer, values per epoch) of those that have a value at all; NaN, drawn as a gap, where
    not measured.
    """
    arrays = [(name, _values(series, key)) for name, series in _optimizers(title, results).items()]
    return [(name, values) for name, values in arrays if np.isfinite(values).any()]


def _values(series: Mapping, key: str) -> np.ndarray:
    values = series.get(key)
    return _array(values) if values is not None else np.full(len(series["train_loss"]), np.nan)


def _array(values) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=float)
