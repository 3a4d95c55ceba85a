"""How curved is the loss along training? Figures of spectra, ranks and Fisher information, from plain numbers.

`optimizers` is what `results.json` has for one model: optimizer → series, lists indexed by epoch, None where not
measured. Standard errors stand in `<name>_std_error`, one a value or None. Nothing here measures.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from figure_style import SOFT, axis_scale, empty_figure, label, optimizer_colour, optimizer_line

Optimizers = Mapping[str, Mapping[str, Sequence]]

MATRICES = (
    ("hessian_trace", "Hessian", "solid"),
    ("fisher_trace", "Fisher", "dash"),
    ("empirical_fisher_trace", "empirical Fisher", "dot"),
)
DISTANCES = (
    ("hessian_fisher_distance", "Fisher from Hessian", "dash"),
    ("fisher_empirical_distance", "empirical from Fisher", "dot"),
)
PREDICTIONS = (
    ("llc", "measured", "solid"),
    ("quadratic_llc", "quadratic, Hessian", "dash"),
    ("gauss_newton_llc", "quadratic, Gauss-Newton", "dot"),
)


def density_figure(
    title: str, optimizers: Optimizers, grid: Float[np.ndarray, " points"], num_weights: int, name: str = "Hessian"
) -> go.Figure:
    """Spectral density on a log axis, the optimizers overlaid, with a slider over the epochs.

    Args:
        title: The model.
        optimizers: With `spectral_density`: for each epoch the density on `grid`, or None.
        grid: Eigenvalues, the same for all epochs and optimizers.
        num_weights: The axis ends a decade below the height at which a single eigenvalue stands.
        name: Of the matrix.
    """
    figure = empty_figure(f"Spectrum of the {name}", title)
    drawn = [  # (epoch, optimizer, density)
        (epoch, optimizer, np.asarray(density, dtype=float))
        for optimizer, series in optimizers.items()
        for epoch, density in enumerate(series.get("spectral_density") or [])
        if density is not None
    ]
    if not drawn:
        return figure
    epochs = sorted({epoch for epoch, *_ in drawn})
    for epoch, optimizer, density in drawn:
        line = go.Scatter(x=grid, y=density, mode="lines", name=label(optimizer), visible=epoch == epochs[-1])
        line.update(line={"color": optimizer_colour(optimizer), "width": 2}, legendgroup=optimizer)
        figure.add_trace(line.update(hovertemplate="%{y:.3g} at eigenvalue %{x:.4g}"))
    figure.update_layout(
        sliders=[_epoch_slider(epochs, [epoch for epoch, *_ in drawn])], height=520, hovermode="closest"
    )
    # The slider has the place below the axis, so that of the legend is above the plot.
    place = {"yref": "paper", "x": 1, "xanchor": "right", "y": 1.01, "yanchor": "bottom"}
    figure.update_layout(legend=place)
    top = max(float(density.max()) for *_, density in drawn)
    ends = [math.log10(0.1 * top / num_weights), math.log10(2 * top)]
    step = max(1, round((ends[1] - ends[0]) / 8))
    figure.update_yaxes(
        title_text="share of eigenvalues per unit", type="log", range=ends, dtick=step, tickformat=".0e"
    )
    return figure.update_xaxes(title_text=f"eigenvalue of the {name} (nats / weight²)")


def top_eigenvalues_figure(title: str, optimizers: Optimizers, name: str = "Hessian") -> go.Figure:
    """The largest eigenvalues over epochs, the first of them as a thick line.

    Args:
        title: The model.
        optimizers: With `top_eigenvalues`: for each epoch the k largest, descending, or None.
        name: Of the matrix.
    """
    figure = empty_figure(f"Largest eigenvalues of the {name}", title)
    drawn = []
    for optimizer, series in optimizers.items():
        values = _table(series.get("top_eigenvalues") or [])
        if not np.isfinite(values).any():
            continue
        for place, row in enumerate(values.T):
            line = optimizer_line(np.arange(len(row)), row, optimizer, f"{label(optimizer)}, {len(values.T)} largest")
            line.update(showlegend=place == 0, opacity=1 if place == 0 else 0.5, line_width=3 if place == 0 else 1)
            line.marker.size = 6 if place == 0 else 3
            hover = [f"{label(optimizer)}, eigenvalue {place + 1}: {text}" for text in line.customdata]
            figure.add_trace(line.update(customdata=hover, hovertemplate="%{customdata}<extra></extra>"))
            drawn.append(row)
    figure.update_layout(hovermode="closest")
    _epoch_axis(figure, optimizers, "top_eigenvalues")
    return figure.update_yaxes(title_text=f"eigenvalues of the {name} (nats / weight²)", **_scale(drawn))


def rank_figure(title: str, optimizers: Optimizers, threshold: str, swap_epoch: int | None = None) -> go.Figure:
    """Number of Hessian eigenvalues above a threshold over epochs, with 95 % intervals over probes.

    Args:
        title: The model.
        optimizers: With `hessian_rank` and its standard error.
        threshold: In words, for the axis: "h_max/1000".
        swap_epoch: Marked by a line.
    """
    figure = empty_figure("Rank of the Hessian", title)
    drawn = _add_series(figure, optimizers, (("hessian_rank", "", "solid"),))
    _epoch_axis(figure, optimizers, "hessian_rank", swap_epoch)
    return figure.update_yaxes(title_text=f"number of eigenvalues above {threshold}", **_scale(drawn))


def fisher_histogram_figure(
    title: str, diagonals: Mapping[str, Float[np.ndarray, " d"]], num_bins: int = 80
) -> go.Figure:
    """Histograms of the Fisher information's diagonal on a log axis, the optimizers overlaid; zeros in the legend.

    Args:
        title: The model.
        diagonals: Optimizer → diagonal, ≥ 0.
        num_bins: Over the range of all positive values.
    """
    figure = empty_figure("Diagonal of the Fisher information", title)
    diagonals = {optimizer: np.asarray(values, dtype=float) for optimizer, values in diagonals.items()}
    positive = np.concatenate([values[values > 0] for values in diagonals.values()] or [np.empty(0)])
    if not len(positive):
        return figure
    low, high = np.log10(positive.min()), np.log10(positive.max())
    edges = np.linspace(low, high if high > low else low + 1, num_bins + 1)
    for optimizer, values in diagonals.items():
        counts, _ = np.histogram(np.log10(values[values > 0]), edges)
        zeros = np.mean(values == 0)
        name = f"{label(optimizer)} ({100 * zeros:.2g} % are exactly 0)" if zeros else label(optimizer)
        colour = optimizer_colour(optimizer)
        steps = go.Scatter(x=10 ** ((edges[1:] + edges[:-1]) / 2), y=100 * counts / len(values), name=name)
        steps.update(mode="lines", line={"color": colour, "width": 1.5, "shape": "hvh"}, fill="tozeroy")
        steps.update(fillcolor=_transparent(colour), hovertemplate="%{y:.3g} % around %{x:.2e}")
        figure.add_trace(steps)
    step = max(1, round((high - low) / 10))
    figure.update_xaxes(title_text="diagonal element (nats / weight²)", type="log", dtick=step, tickformat=".0e")
    return figure.update_yaxes(title_text="share of the weights (%)", rangemode="tozero")


def three_way_figure(title: str, optimizers: Optimizers, swap_epoch: int | None = None) -> go.Figure:
    """Traces of Hessian, Fisher and empirical Fisher over epochs, beside how far they are apart; 95 % intervals.

    Args:
        title: The model.
        optimizers: With `hessian_trace`, `fisher_trace`, `empirical_fisher_trace`, `hessian_fisher_distance` and
            `fisher_empirical_distance` (relative Frobenius distances), and their standard errors.
        swap_epoch: Marked by a line.
    """
    figure = empty_figure("Hessian, Fisher and empirical Fisher", title, columns=2)
    traces = _add_series(figure, optimizers, MATRICES, column=1)
    distances = _add_series(figure, optimizers, DISTANCES, column=2)
    _epoch_axis(figure, optimizers, "hessian_trace", swap_epoch)
    figure.update_layout(hovermode="closest", height=500)
    figure.update_yaxes(title_text="trace (nats / weight²)", **_scale(traces), col=1)
    return figure.update_yaxes(title_text="‖A − B‖ / ‖A‖ (Frobenius)", **_scale(distances), col=2)


def quadratic_llc_figure(
    title: str, optimizers: Optimizers, nbeta: float, localization: float, swap_epoch: int | None = None
) -> go.Figure:
    """The LLC of the loss's second-order expansion beside the measured one, at the same nβ and γ, over epochs.

    Args:
        title: The model.
        optimizers: With `llc`, `quadratic_llc` (from the Hessian's spectrum), `gauss_newton_llc` (from the Fisher's),
            and their standard errors; what is missing is left out.
        nbeta: nβ of all of them.
        localization: γ of all of them.
        swap_epoch: Marked by a line.
    """
    figure = empty_figure("LLC, measured and from the spectrum", title)
    drawn = _add_series(figure, optimizers, PREDICTIONS)
    _epoch_axis(figure, optimizers, "llc", swap_epoch)
    figure.update_layout(hovermode="closest")
    return figure.update_yaxes(title_text=f"LLC λ̂ (nβ = {nbeta:.3g}, γ = {localization:g})", **_scale(drawn))


def _add_series(figure: go.Figure, optimizers: Optimizers, shown: Sequence[tuple[str, str, str]], column: int = 1):
    """Draws each (key, words, dash) that has a value, with 95 % intervals; returns the values drawn."""
    drawn = []
    for optimizer, series in optimizers.items():
        for key, words, dash in shown:
            values = _table(series.get(key) or [])[:, 0]
            if not np.isfinite(values).any():
                continue
            errors = series.get(f"{key}_std_error")
            name = f"{label(optimizer)}, {words}" if words else label(optimizer)
            std_error = None if errors is None else _table(errors)[:, 0]
            line = optimizer_line(np.arange(len(values)), values, optimizer, name, dash, std_error)
            line.hovertemplate = f"{name}, epoch %{{x}}: %{{customdata}}<extra></extra>"
            figure.add_trace(line, row=1, col=column)
            drawn.append(values)
    return drawn


def _table(values: Sequence) -> Float[np.ndarray, "epochs k"]:
    """Values per epoch as a table, NaN where not measured; one column for numbers."""
    rows = [np.atleast_1d(np.nan if value is None else np.asarray(value, dtype=float)) for value in values]
    width = max((len(row) for row in rows), default=1)
    return np.array([np.pad(row, (0, width - len(row)), constant_values=np.nan) for row in rows]).reshape(-1, width)


def _epoch_slider(epochs: list[int], epoch_of_trace: list[int]) -> dict:
    steps = [
        {
            "method": "restyle",
            "label": str(epoch),
            "args": [{"visible": [other == epoch for other in epoch_of_trace]}],
        }
        for epoch in epochs
    ]
    shown = {"prefix": "after epoch ", "xanchor": "left", "font": {"size": 13}}
    place = {"x": 0, "len": 1, "y": 0, "yanchor": "top", "pad": {"t": 56, "b": 8}}
    return {"steps": steps, "active": len(steps) - 1, "currentvalue": shown, "tickcolor": SOFT, **place}


def _epoch_axis(figure: go.Figure, optimizers: Optimizers, key: str, swap_epoch: int | None = None) -> None:
    last = max((len(series.get(key) or []) for series in optimizers.values()), default=1) - 1
    margin = 0.02 * last + 0.1
    figure.update_xaxes(title_text="epoch", range=[-margin, last + margin], tickformat="d")
    if last <= 12:
        figure.update_xaxes(dtick=1)
    if swap_epoch is not None:
        figure.add_vline(x=swap_epoch, row="all", col="all", line={"color": SOFT, "width": 1.5, "dash": "dot"})
        figure.add_annotation(
            x=swap_epoch, xref="x", y=1, yref="y domain", yanchor="bottom", showarrow=False,
            xanchor="left" if swap_epoch <= last / 2 else "right", text=f"swap after epoch {swap_epoch}",
            font={"size": 12, "color": SOFT},
        )  # fmt: skip


def _scale(drawn: list[np.ndarray]) -> dict:
    """A log axis where values span a decade; its range is theirs, because an error bar may reach below zero."""
    scale = axis_scale(drawn)
    if scale:
        values = np.concatenate([np.ravel(one) for one in drawn])
        low, high = np.log10(np.nanmin(values)), np.log10(np.nanmax(values))
        scale["range"] = [low - 0.1 * (high - low), high + 0.1 * (high - low)]
    return scale


def _transparent(colour: str) -> str:
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.2)"
