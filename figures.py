"""Which picture shows what was measured? Every Plotly figure, as functions from results to `go.Figure`.

`results` is the dict of `results.json`; `traces` maps (model title, optimizer, epoch) to the sampled minibatch losses
of that checkpoint, shape (num_chains, num_draws), NaN from the draw on where a chain diverged. Nothing here measures
or writes: a notebook shows a figure as it is, the report writes it into a page.
"""

import html
import math
from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

COLOURS = {"sgd": "#0072b2", "ngd": "#cc3311"}  # blue and red that stay apart under all common colour blindness
OTHER_COLOURS = ("#009988", "#aa4499", "#997700")  # for optimizers that a user plugs in
PARAMETER_COLOURS = ("#332288", "#cc6677", "#117733", "#ddaa33", "#88ccee", "#882255", "#44aa99", "#999933", "#aa4499")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross")

HEIGHT = 460  # pixels, every figure
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
INK, SOFT, GRID = "#1f2933", "#616e7c", "#e4e7eb"
Z_95 = 1.96  # half width of a 95 % interval in standard errors
MAX_POINTS = 1000  # a running mean is drawn with at most this many points a chain
LOSS_AXIS = "loss (nats, mean cross-entropy)"

Results = Mapping
Traces = Mapping[tuple[str, str, int], np.ndarray]


def model_figures(title: str, results: Results, traces: Traces) -> list[tuple[str, str, go.Figure]]:
    """All figures of one model as (key, caption, figure), in the report's order; what was not measured is left out."""
    figures = [
        ("loss", loss_figure(title, results)),
        ("update-norm", update_norm_figure(title, results)),
        ("llc", llc_figure(title, results)),
        ("wbic", wbic_figure(title, results)),
        ("running-mean", running_mean_figure(title, results, traces)),
        ("hessian-trace", hessian_trace_figure(title, results)),
        ("kappa", kappa_figure(title, results)),
        ("llc-against-loss", llc_against_loss_figure(title, results)),
    ]
    return [(key, CAPTIONS[key], figure) for key, figure in figures if figure.data]


CAPTIONS = {
    "loss": "Did the optimizers reach the same loss? Where they did not, compare their LLC at equal loss, in the last "
    "figure of this model. The training loss is the mean over an epoch's minibatches (epoch 0: the initial model), so "
    "it lags behind while the loss falls fast.",
    "update-norm": "How far does one step move the weights? Optimizers of very different step length have not been "
    "given the same chance to move; a norm that grows without end comes before divergence.",
    "llc": "A lower LLC means a more degenerate solution. Bands and bars are 95 % intervals (±1.96 standard errors) "
    "of the sampling alone. Look for curves that part by more than their bands, and whether validation loss parts "
    "with them.",
    "wbic": "n times the mean loss sampled around the solution, so it follows training loss and LLC together. It is "
    "Watanabe's WBIC only at nβ = n/ln n; sampled at any other nβ, its values compare only with the same settings.",
    "running-mean": "Convergence check: each thin line is one chain, the thick one the mean of the chains that stayed "
    "finite. Where it still slopes at the last draw, the number depends on the draws. Chains that agree, or an R-hat "
    "near 1, do not prove convergence, because all chains start at w*.",
    "hessian-trace": "Curvature of the loss, summed over all directions, by Hutchinson's estimate; bars are 95 % "
    "intervals over probes with the batches fixed. A flatter minimum has a smaller trace, which need not go with a "
    "lower LLC.",
    "kappa": "NGD's smoothing: κ is what is added to the Fisher factor of one axis of a tensor before it is inverted. "
    "Where κ is large against the factor's eigenvalues, NGD behaves as SGD does. Colour tells the parameter, dash the "
    "axis; a click in the legend hides a parameter, a double click shows it alone.",
    "llc-against-loss": "Which optimizer has the lower LLC at the same training loss? Compare the curves along a "
    "vertical line. One point an epoch, training runs from right to left; bars are 95 % intervals, sampling only.",
}


def loss_figure(title: str, results: Results) -> go.Figure:
    """Training (solid) and validation loss (dashed), in nats, over epochs."""
    figure = _figure("Training and validation loss", title)
    drawn = []
    for key, words, dash in (("train_loss", "training", "solid"), ("val_loss", "validation", "dash")):
        for optimizer, values in _measured(title, results, key):
            figure.add_trace(_epoch_line(values, optimizer, f"{label(optimizer)}, {words}", dash=dash))
            drawn.append(values)
    _epoch_axis(figure, results)
    figure.update_yaxes(title_text=LOSS_AXIS, **_scale(drawn))
    return figure


def update_norm_figure(title: str, results: Results) -> go.Figure:
    """Mean over an epoch's steps of the sum over tensors of ‖Δw‖₂, in units of the weights."""
    figure = _figure("Length of a step", title)
    drawn = _measured(title, results, "update_norm")
    for optimizer, values in drawn:
        figure.add_trace(_epoch_line(values, optimizer))
    _epoch_axis(figure, results)
    figure.update_yaxes(title_text="Σ over tensors of ‖Δw‖₂, mean over steps", **_scale([v for _, v in drawn]))
    return figure


def llc_figure(title: str, results: Results) -> go.Figure:
    """LLC with 95 % intervals over epochs, beside the validation loss."""
    return _beside_validation_loss("LLC and validation loss", title, results, "llc", llc_axis(results))


def wbic_figure(title: str, results: Results) -> go.Figure:
    """WBIC with 95 % intervals over epochs, beside the validation loss."""
    return _beside_validation_loss("WBIC and validation loss", title, results, "wbic", wbic_axis(results))


def running_mean_figure(title: str, results: Results, traces: Traces) -> go.Figure:
    """Running means of LLC and WBIC over draws, per chain, at the last sampled epoch of each optimizer."""
    figure = _figure("Running means over the draws", title, columns=2)
    ranges: tuple[list, list] = ([], [])
    for optimizer, series in _optimizers(title, results).items():
        sampled = [epoch for (model, name, epoch) in traces if (model, name) == (title, optimizer)]
        init_losses = _values(series, "llc_init_loss")
        sampled = [epoch for epoch in sampled if epoch < len(init_losses) and np.isfinite(init_losses[epoch])]
        if not sampled:
            continue
        epoch = max(sampled)
        losses = np.asarray(traces[title, optimizer, epoch], dtype=float)  # (chains, draws)
        mean_loss = np.cumsum(losses, axis=1) / np.arange(1, losses.shape[1] + 1)
        llc = results["nbeta"] * (mean_loss - init_losses[epoch])
        for column, means in enumerate((llc, results["train_size"] * mean_loss), start=1):
            ranges[column - 1].append(_add_running_means(figure, means, optimizer, epoch, column))
    for column, axis in ((1, llc_axis(results)), (2, wbic_axis(results))):
        figure.update_yaxes(title_text=axis, range=_union(ranges[column - 1]), col=column)
    figure.update_xaxes(title_text="draw")
    return figure


def hessian_trace_figure(title: str, results: Results) -> go.Figure:
    """Trace of the mean loss's Hessian over epochs, with 95 % intervals over the probes."""
    figure = _figure("Hessian trace", title)
    drawn = _measured(title, results, "hessian_trace")
    for optimizer, values in drawn:
        error = _values(_optimizers(title, results)[optimizer], "hessian_trace_std_error")
        figure.add_trace(_epoch_line(values, optimizer, std_error=error))
    _epoch_axis(figure, results)
    batches = results["config"]["data"]["num_hessian_batches"]
    axis = f"Hessian trace (nats per weight², {batches} batches)"
    figure.update_yaxes(title_text=axis, **_scale([values for _, values in drawn]))
    return figure


def kappa_figure(title: str, results: Results) -> go.Figure:
    """NGD's smoothing κ (gradient²) over epochs on a log axis: colour by parameter, dash by axis."""
    figure = _figure("Smoothing κ of NGD", title)
    kappa = _optimizers(title, results).get("ngd", {}).get("kappa") or {}
    axes = set()
    for index, (parameter, by_axis) in enumerate(kappa.items()):
        measured = {int(axis): _array(values) for axis, values in by_axis.items()}
        measured = {axis: values for axis, values in measured.items() if np.isfinite(values).any()}
        for place, (axis, values) in enumerate(sorted(measured.items())):
            line = _kappa_line(index, axis, values)
            line.update(name=shorten(parameter, 34), legendgroup=parameter, showlegend=place == 0)
            line.update(meta=f"{shorten(parameter, 60)}, axis {axis}")
            figure.add_trace(line)
        axes |= measured.keys()
    for axis in sorted(axes):  # empty traces: the legend's key to the dashes
        line = {"color": INK, "dash": DASHES[axis % len(DASHES)], "width": 1.5}
        figure.add_trace(go.Scatter(x=[None], y=[None], mode="lines", line=line, name=f"axis {axis}", hoverinfo="skip"))
    _epoch_axis(figure, results)
    # A legend of many parameters gets room of its own, so that the curves keep theirs.
    figure.update_layout(hovermode="closest", height=min(HEIGHT + 12 * max(0, len(kappa) - 8), 2 * HEIGHT))
    figure.update_yaxes(title_text="κ (gradient², mean over steps)", **_scale([line.y for line in figure.data]))
    return figure


def llc_against_loss_figure(title: str, results: Results) -> go.Figure:
    """LLC with 95 % intervals against the training loss L(w*) in nats, one point an epoch."""
    figure = _figure("LLC against training loss", title)
    losses, labels, swap = [], [], _swap_epoch(results)
    for optimizer, llc in _measured(title, results, "llc"):
        series = _optimizers(title, results)[optimizer]
        loss, error = _values(series, "llc_init_loss"), _values(series, "llc_std_error")
        epochs = [e for e in range(len(llc)) if np.isfinite(llc[e]) and np.isfinite(loss[e])]
        if not epochs:
            continue
        shown = {epochs[-1]} if losses else {epochs[0], swap, epochs[-1]}  # the shared checkpoints are labelled once
        line = _line(loss[epochs], llc[epochs], optimizer, std_error=error[epochs])
        line.line.width = 1
        hover = [f"epoch {e}: {h}, loss {loss[e]:.4g}" for e, h in zip(epochs, line.customdata, strict=True)]
        figure.add_trace(line.update(customdata=hover))
        # Above the first curve, below the second: the two often run into each other.
        side = 1 if losses else -1
        labels += [(loss[e], llc[e], f"epoch {e}", side, _colour(optimizer)) for e in sorted(shown & set(epochs))]
        losses.append(loss[epochs])
    figure.update_layout(hovermode="closest")
    scale = _scale(losses)
    for x, y, text, side, colour in labels:
        place = {"x": math.log10(x) if scale.get("type") == "log" else x, "y": y, "ax": 0, "ay": 56 * side}
        look = {
            "arrowcolor": colour,
            "arrowwidth": 1,
            "arrowhead": 0,
            "standoff": 5,
            "bgcolor": "rgba(255,255,255,0.8)",
        }
        figure.add_annotation(text=text, font={"color": colour, "size": 12}, **place, **look)
    figure.update_xaxes(title_text="training loss L(w*) (nats, mean over the training set)", **scale)
    figure.update_yaxes(title_text=llc_axis(results))
    return figure


def label(optimizer: str) -> str:
    """How a figure, table or sentence calls an optimizer; plain text."""
    return optimizer.upper() if optimizer in COLOURS else optimizer


def llc_axis(results: Results) -> str:
    """Axis title of the LLC, with the settings that the number depends on."""
    sampler = results["config"]["devinterp"]
    gamma = f", γ = {sampler['localization']:g}" if sampler["sampler"] != "sgnht" else ""  # SGNHT has none
    return f"LLC λ̂ (nβ = {results['nbeta']:.3g}{gamma})"


def wbic_axis(results: Results) -> str:
    """Axis title of WBIC, which is Watanabe's only at nβ = n/ln n."""
    return "WBIC (nats, nβ = n/ln n)" if is_watanabe_nbeta(results) else "WBIC (nats; tempered, as published)"


def is_watanabe_nbeta(results: Results) -> bool:
    """Whether nβ is n/ln n, where n · mean sampled loss is WBIC (Watanabe 2013)."""
    n = results["train_size"]
    return math.isclose(results["nbeta"], n / math.log(n), rel_tol=1e-3)


def shorten(text: str, length: int) -> str:
    """`text` as Plotly may draw it: at most `length` characters, cut in the middle, and nothing in it read as a tag."""
    if len(text) > length:
        head = (length - 1) // 2
        text = f"{text[:head]}…{text[len(text) - (length - 1 - head) :]}"
    return html.escape(text, quote=False)


def _figure(heading: str, title: str, columns: int = 1) -> go.Figure:
    figure = make_subplots(rows=1, cols=columns, horizontal_spacing=0.13)
    figure.update_layout(
        template="none",
        title={
            "text": f"<b>{heading}</b><br><span style='font-size:13px;color:{SOFT}'>{shorten(title, 80)}</span>",
            "font": {"size": 17},
            **{"x": 0, "xref": "container", "xanchor": "left"},
            **{"y": 0.97, "yref": "container", "yanchor": "top", "pad": {"l": 12}},
        },
        height=HEIGHT,
        margin={"l": 64, "r": 20, "t": 84, "b": 40},
        font={"family": FONT, "size": 13, "color": INK},
        paper_bgcolor="white",
        plot_bgcolor="white",
        hovermode="x unified",
        hoverlabel={"namelength": -1, "font": {"family": FONT, "size": 12}},
        showlegend=True,
        # Anchored to the bottom of the container, the legend reserves its own margin however many rows it wraps into.
        legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0, "maxheight": 0.45},
    )
    look = {"gridcolor": GRID, "linecolor": "#9aa5b1", "tickcolor": "#9aa5b1", "showline": True, "zeroline": False}
    look |= {"ticks": "outside", "automargin": True, "title_font_size": 13}
    figure.update_xaxes(**look, title_standoff=8)
    figure.update_yaxes(**look, title_standoff=10)
    return figure


def _beside_validation_loss(heading: str, title: str, results: Results, key: str, axis: str) -> go.Figure:
    figure = _figure(heading, title, columns=2)
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
    figure.update_yaxes(title_text="validation " + LOSS_AXIS, **_scale([v for _, v in losses]), col=2)
    return figure


def _band(values: np.ndarray, std_error: np.ndarray, optimizer: str) -> go.Scatter:
    """95 % intervals as a band along the epochs measured in a row; a single epoch has its error bar alone."""
    low, high = values - Z_95 * std_error, values + Z_95 * std_error
    known = np.flatnonzero(np.isfinite(low))
    x, y = [], []
    for epochs in np.split(known, np.flatnonzero(np.diff(known) > 1) + 1):
        x += [*epochs, *epochs[::-1], None]
        y += [*high[epochs], *low[epochs][::-1], None]
    colour = _colour(optimizer)
    band = go.Scatter(x=x, y=y, mode="lines", line={"width": 0, "color": colour}, fill="toself", fillcolor=colour)
    return band.update(
        name=f"{label(optimizer)}, 95 %", opacity=0.15, hoverinfo="skip", showlegend=False, legendgroup=label(optimizer)
    )


def _line(x, y, optimizer: str, name: str = "", dash: str = "solid", std_error=None) -> go.Scatter:
    colour = _colour(optimizer)
    line = go.Scatter(
        x=x,
        y=y,
        name=name or label(optimizer),
        legendgroup=name or label(optimizer),
        mode="lines+markers",  # the markers show an epoch that was measured alone
        line={"color": colour, "dash": dash, "width": 2},
        marker={"color": colour, "size": 6 if len(y) <= 60 else 3},
        customdata=_hover_texts(y, std_error),
        hovertemplate="%{customdata}",
    )
    if std_error is not None:
        line.error_y = {"type": "data", "array": Z_95 * std_error, "color": colour, "thickness": 1.2, "width": 3}
    return line


def _epoch_line(values: np.ndarray, optimizer: str, name: str = "", dash: str = "solid", std_error=None) -> go.Scatter:
    return _line(np.arange(len(values)), values, optimizer, name, dash, std_error)


def _hover_texts(values: np.ndarray, std_error) -> list[str]:
    if std_error is None:
        return [f"{value:.4g}" for value in values]
    return [
        f"{value:.4g} ± {Z_95 * error:.2g} (95 %)" if np.isfinite(error) else f"{value:.4g} (no standard error)"
        for value, error in zip(values, std_error, strict=True)
    ]


def _add_running_means(figure: go.Figure, means: np.ndarray, optimizer: str, epoch: int, column: int):
    """Draws `means` (chains, draws); returns (lowest, highest) value of the chains that stayed finite, or None."""
    draws = means.shape[1]
    shown = np.unique(np.linspace(0, draws - 1, min(draws, MAX_POINTS)).round().astype(int))
    finite = np.isfinite(means).all(axis=1)
    group, colour = f"{label(optimizer)}, epoch {epoch}", _colour(optimizer)
    hover = "draw %{x}: %{y:.4g}<extra>%{meta}</extra>"
    for chain, values in enumerate(means):
        line = go.Scatter(x=shown + 1, y=values[shown], mode="lines", name=f"{group}: each chain", legendgroup=group)
        line.update(line={"color": colour, "width": 1, "dash": DASHES[chain % len(DASHES)]}, opacity=0.6)
        line.update(meta=f"{group}, chain {chain + 1}{'' if finite[chain] else ' (diverged)'}", hovertemplate=hover)
        figure.add_trace(line.update(showlegend=chain == 0 and column == 1), row=1, col=column)
    figure.update_layout(hovermode="closest")
    if not finite.any():
        return None
    mean = means[finite].mean(axis=0)
    line = go.Scatter(x=shown + 1, y=mean[shown], mode="lines", name=f"{group}: mean of chains", legendgroup=group)
    line.update(line={"color": colour, "width": 3}, meta=f"{group}, mean of chains", hovertemplate=hover)
    figure.add_trace(line.update(showlegend=column == 1), row=1, col=column)
    return means[finite].min(), means[finite].max()


def _union(ranges: list) -> list | None:
    """Axis range over what stayed finite: a chain on its way to infinity must not flatten the others."""
    ranges = [pair for pair in ranges if pair is not None]
    if not ranges:
        return None
    low, high = min(pair[0] for pair in ranges), max(pair[1] for pair in ranges)
    margin = 0.06 * (high - low) or 1.0
    return [low - margin, high + margin]


def _kappa_line(index: int, axis: int, values: np.ndarray) -> go.Scatter:
    colour = PARAMETER_COLOURS[index % len(PARAMETER_COLOURS)]
    symbol = SYMBOLS[index // len(PARAMETER_COLOURS) % len(SYMBOLS)]
    return go.Scatter(
        x=np.arange(len(values)),
        y=values,
        mode="lines+markers",
        line={"color": colour, "dash": DASHES[axis % len(DASHES)], "width": 1.5},
        marker={"color": colour, "size": 5, "symbol": symbol},
        hovertemplate="epoch %{x}: κ = %{y:.3g}<extra>%{meta}</extra>",
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
    figure.add_vline(x=swap, row="all", col="all", line={"color": SOFT, "width": 1.5, "dash": "dot"})
    for axis in {trace.xaxis or "x" for trace in figure.data}:
        number = axis.removeprefix("x")
        figure.add_annotation(
            x=swap, xref=axis, y=1, yref=f"y{number} domain", yanchor="bottom", showarrow=False,
            xanchor="left" if swap <= last / 2 else "right", text=f"swap after epoch {swap}",
            font={"size": 12, "color": SOFT},
        )  # fmt: skip


def _swap_epoch(results: Results) -> int | None:
    experiment = results["config"]["experiment"]
    return experiment["cut_off_epochs"] if experiment["experiment_type"] == "swap" else None


def _scale(drawn: list[np.ndarray]) -> dict:
    """A log axis where positive values span a decade or more: ticks at 1, 2, 5, written out, or at powers of ten."""
    values = np.concatenate([*(np.asarray(values, dtype=float) for values in drawn), [np.nan]])
    values = values[np.isfinite(values)]
    if not len(values) or values.min() <= 0 or values.max() < 10 * values.min():
        return {}
    if values.max() < 1000 * values.min():
        return {"type": "log", "dtick": "D2", "tickformat": "~g" if values.min() >= 1e-4 else "~e"}
    return {"type": "log", "dtick": 1, "tickformat": ".0e"}


def _colour(optimizer: str) -> str:
    return COLOURS.get(optimizer) or OTHER_COLOURS[sum(optimizer.encode()) % len(OTHER_COLOURS)]


def _optimizers(title: str, results: Results) -> Mapping:
    return results["models"][title]["optimizers"]


def _measured(title: str, results: Results, key: str) -> list[tuple[str, np.ndarray]]:
    """(optimizer, values per epoch) of those that have a value at all; NaN, drawn as a gap, where not measured."""
    arrays = [(name, _values(series, key)) for name, series in _optimizers(title, results).items()]
    return [(name, values) for name, values in arrays if np.isfinite(values).any()]


def _values(series: Mapping, key: str) -> np.ndarray:
    values = series.get(key)
    return _array(values) if values is not None else np.full(len(series["train_loss"]), np.nan)


def _array(values) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=float)
