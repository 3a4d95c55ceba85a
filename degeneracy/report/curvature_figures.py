"""How curved is the loss along training? Figures of spectra, ranks and Fisher information, from
plain numbers.

`optimizers` is what `results.json` has for one model: optimizer → series, lists indexed by epoch,
None where not measured. Standard errors stand in `<name>_std_error`, one a value or None. Nothing
here measures.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from degeneracy.curvature.histogram import BIN_EDGES
from degeneracy.report.run_figures import line_of, mark_swap, shown_name
from degeneracy.report.style import SOFT, axis_scale, empty_figure, optimizer_colours

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
RANKS = (("hessian_rank", "Hessian", "solid"), ("gauss_newton_rank", "Gauss-Newton", "dot"))
PREDICTIONS = (
    ("llc", "measured", "solid"),
    ("quadratic_llc", "quadratic, Hessian", "dash"),
    ("gauss_newton_llc", "quadratic, Gauss-Newton", "dot"),
)

# of a log axis: a value further below the largest one, or below zero, stands at its lower edge
LOG_DECADES = 6
AT_THE_EDGE = "zero, negative or below the axis"


def density_figure(
    title: str,
    optimizers: Optimizers,
    grid: Float[np.ndarray, " points"],
    num_weights: int,
    name: str = "Hessian",
    linear_below: float | None = None,
) -> go.Figure:
    """Spectral density on a log axis, the optimizers overlaid, with a slider over the epochs.

    Args:
        title: The model.
        optimizers: With `spectral_density`: for each epoch the density on `grid`, or None.
        grid: Eigenvalues, the same for all epochs and optimizers.
        num_weights: The axis ends a decade below the height at which a single eigenvalue stands.
        name: Of the matrix.
        linear_below: Where spectra differ by orders of magnitude, draws eigenvalues h at
            `stretched(h, linear_below)`; densities are then per unit of that, a decade.
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
    grid, colours = np.asarray(grid, dtype=float), optimizer_colours(list(optimizers))
    for _, optimizer, density in drawn:
        line = go.Scatter(
            x=grid, y=density, mode="lines", name=shown_name(optimizer), customdata=grid
        )
        line.update(line={"color": colours[optimizer], "width": 2}, legendgroup=optimizer)
        if linear_below is not None:
            line.x = stretched(grid, linear_below)
        figure.add_trace(line.update(hovertemplate="%{y:.3g} at eigenvalue %{customdata:.4g}"))
    _add_epoch_slider(figure, [epoch for epoch, *_ in drawn])
    top = max(float(density.max()) for *_, density in drawn)
    ends = [math.log10(0.1 * top / num_weights), math.log10(2 * top)]
    step = max(1, round((ends[1] - ends[0]) / 8))
    unit = "unit" if linear_below is None else "decade"
    figure.update_yaxes(
        title_text=f"share of eigenvalues per {unit}",
        type="log",
        range=ends,
        dtick=step,
        tickformat=".0e",
    )
    figure.update_xaxes(title_text=f"eigenvalue of the {name} (nats / weight²)")
    if linear_below is not None:
        figure.layout.xaxis.title.text += f"<br>linear below {linear_below:.3g}, logarithmic beyond"
        figure.update_xaxes(tickangle=0, **_stretched_ticks(grid, linear_below))
        figure.update_layout(sliders=[{"pad": {"t": 76, "b": 8}}], height=540)
    return figure


def stretched(values: Float[np.ndarray, " n"], linear_below: float) -> Float[np.ndarray, " n"]:
    """asinh(h/h₀)/ln 10: the place of h on an axis that is linear up to h₀ and logarithmic beyond,
    on both sides.
    """
    return np.arcsinh(np.asarray(values, dtype=float) / linear_below) / math.log(10)


def unstretched(places: Float[np.ndarray, " n"], linear_below: float) -> Float[np.ndarray, " n"]:
    """The values that stand at these places, the inverse of `stretched`."""
    return linear_below * np.sinh(np.asarray(places, dtype=float) * math.log(10))


def top_eigenvalues_figure(
    title: str, optimizers: Optimizers, name: str = "Hessian", swap_epoch: int | None = None
) -> go.Figure:
    """The largest eigenvalues over epochs, the first of them as a thick line.

    Args:
        title: The model.
        optimizers: With `top_eigenvalues`: for each epoch the k largest, descending, or None.
        name: Of the matrix.
        swap_epoch: Marked by a line.
    """
    figure = empty_figure(f"Largest eigenvalues of the {name}", title)
    for optimizer, series in optimizers.items():
        values = _table(series.get("top_eigenvalues") or [])
        if not np.isfinite(values).any():
            continue
        for place, row in enumerate(values.T):
            words = f"{len(values.T)} largest"
            line = line_of(optimizers, optimizer, np.arange(len(row)), row, words=words)
            line.update(
                showlegend=place == 0,
                opacity=1 if place == 0 else 0.5,
                line_width=3 if place == 0 else 1,
            )
            line.marker.size = 6 if place == 0 else 3
            line.hovertemplate = (
                f"{shown_name(optimizer)}, eigenvalue {place + 1}, epoch %{{x}}:"
                " %{customdata}<extra></extra>"
            )
            figure.add_trace(line)
    figure.update_layout(hovermode="closest")
    _epoch_axis(figure, optimizers, ("top_eigenvalues",), swap_epoch)
    return _value_axis(figure, f"eigenvalues of the {name} (nats / weight²)")


def rank_figure(
    title: str, optimizers: Optimizers, threshold: str, swap_epoch: int | None = None
) -> go.Figure:
    """Number of eigenvalues above a threshold over epochs, with 95 % intervals over probes where
    there are any.

    Args:
        title: The model.
        optimizers: With `hessian_rank` and its standard error, and perhaps `gauss_newton_rank`.
        threshold: In words, for the axis: "h_max/1000".
        swap_epoch: Marked by a line.
    """
    both = any(
        np.isfinite(_table(series.get("gauss_newton_rank") or [])).any()
        for series in optimizers.values()
    )
    figure = empty_figure(
        "Rank of Hessian and Gauss-Newton matrix" if both else "Rank of the Hessian", title
    )
    _add_series(figure, optimizers, RANKS if both else (("hessian_rank", "", "solid"),))
    _epoch_axis(figure, optimizers, [key for key, *_ in RANKS], swap_epoch)
    return _value_axis(figure, f"eigenvalues above {threshold}")


def fisher_histogram_figure(title: str, optimizers: Optimizers) -> go.Figure:
    """Histograms of the Fisher information's diagonal on a log axis, the optimizers overlaid; zeros
    in the legend.

    A slider goes over the epochs. Both axes are the same for all of them.

    Args:
        title: The model.
        optimizers: With `fisher_histogram`: for each epoch what `diagonal_histogram` gives, or
            None.
    """
    figure = empty_figure("Diagonal of the Fisher information", title)
    drawn = [  # (epoch, optimizer, share of each bin in percent, share of zeros)
        (epoch, optimizer, 100 * np.asarray(histogram["shares"], dtype=float), histogram["zeros"])
        for optimizer, series in optimizers.items()
        for epoch, histogram in enumerate(series.get("fisher_histogram") or [])
        if histogram is not None
    ]
    used = np.flatnonzero(sum(shares for *_, shares, _ in drawn))
    if not len(used):
        return figure
    middles = 10 ** ((BIN_EDGES[1:] + BIN_EDGES[:-1]) / 2)
    colours = optimizer_colours(list(optimizers))
    for _, optimizer, shares, zeros in drawn:
        name = shown_name(optimizer) + (f" ({100 * zeros:.2g} % are exactly 0)" if zeros else "")
        colour = colours[optimizer]
        steps = go.Scatter(x=middles, y=shares, name=name, mode="lines", legendgroup=optimizer)
        steps.update(line={"color": colour, "width": 1.5, "shape": "hvh"}, fill="tozeroy")
        steps.update(fillcolor=_transparent(colour), hovertemplate="%{y:.3g} % around %{x:.2e}")
        figure.add_trace(steps)
    _add_epoch_slider(figure, [epoch for epoch, *_ in drawn])
    ends = [BIN_EDGES[used[0]], BIN_EDGES[used[-1] + 1]]
    step = max(1, round((ends[1] - ends[0]) / 6))
    figure.update_xaxes(
        title_text="diagonal element (nats / weight²)", type="log", range=ends, dtick=step
    )
    figure.update_xaxes(tickformat=".0e", tickangle=0)
    top = max(shares.max() for *_, shares, _ in drawn)
    return figure.update_yaxes(title_text="share of the weights (%)", range=[0, 1.05 * top])


def three_way_figure(
    title: str, optimizers: Optimizers, swap_epoch: int | None = None
) -> go.Figure:
    """Traces of Hessian, Fisher and empirical Fisher over epochs, beside how far they are apart; 95
    % intervals.

    Args:
        title: The model.
        optimizers: With `hessian_trace`, `fisher_trace`, `empirical_fisher_trace`,
            `hessian_fisher_distance` and `fisher_empirical_distance` (relative Frobenius
            distances), and their standard errors.
        swap_epoch: Marked by a line.
    """
    figure = empty_figure("Hessian, Fisher and empirical Fisher", title, columns=2)
    _add_series(figure, optimizers, MATRICES, column=1)
    _add_series(figure, optimizers, DISTANCES, column=2)
    _epoch_axis(figure, optimizers, [key for key, *_ in (*MATRICES, *DISTANCES)], swap_epoch)
    figure.update_layout(hovermode="closest", height=560)
    _value_axis(figure, "trace (nats / weight²)", column=1)
    return _value_axis(figure, "‖A − B‖ / ‖A‖ (Frobenius)", column=2)


def quadratic_llc_figure(
    title: str,
    optimizers: Optimizers,
    nbeta: float,
    localization: float,
    swap_epoch: int | None = None,
) -> go.Figure:
    """The LLC of the loss's second-order expansion beside the measured one, at the same nβ and γ,
    over epochs.

    Args:
        title: The model.
        optimizers: With `llc`, `quadratic_llc` (from the Hessian's spectrum), `gauss_newton_llc`
            (from the Fisher's), and their standard errors; what is missing is left out.
        nbeta: nβ of all of them.
        localization: γ of all of them.
        swap_epoch: Marked by a line.
    """
    figure = empty_figure("LLC, measured and from the spectrum", title)
    _add_series(figure, optimizers, PREDICTIONS)
    _epoch_axis(figure, optimizers, [key for key, *_ in PREDICTIONS], swap_epoch)
    figure.update_layout(hovermode="closest", height=520)
    return _value_axis(figure, f"LLC λ̂ (nβ = {nbeta:.3g}, γ = {localization:g})")


def _add_series(
    figure: go.Figure,
    optimizers: Optimizers,
    shown: Sequence[tuple[str, str, str]],
    column: int = 1,
) -> None:
    """Draws each (key, words, dash) that has a value, with 95 % intervals."""
    for optimizer, series in optimizers.items():
        for key, words, dash in shown:
            values = _table(series.get(key) or [])[:, 0]
            if not np.isfinite(values).any():
                continue
            errors = series.get(f"{key}_std_error")
            look = {
                "words": words,
                "dash": dash,
                "std_error": None if errors is None else _table(errors)[:, 0],
            }
            line = line_of(optimizers, optimizer, np.arange(len(values)), values, **look)
            line.hovertemplate = f"{line.name}, epoch %{{x}}: %{{customdata}}<extra></extra>"
            figure.add_trace(line, row=1, col=column)


def _table(values: Sequence) -> Float[np.ndarray, "epochs k"]:
    """Values per epoch as a table, NaN where not measured; one column for numbers."""
    rows = [
        np.atleast_1d(np.nan if value is None else np.asarray(value, dtype=float))
        for value in values
    ]
    width = max((len(row) for row in rows), default=1)
    return np.array(
        [np.pad(row, (0, width - len(row)), constant_values=np.nan) for row in rows]
    ).reshape(-1, width)


def _add_epoch_slider(figure: go.Figure, epoch_of_trace: list[int]) -> None:
    """Shows the traces of one epoch at a time, at first the last one's."""
    epochs = sorted(set(epoch_of_trace))
    visible = [[other == epoch for other in epoch_of_trace] for epoch in epochs]
    for trace, on in zip(figure.data, visible[-1], strict=True):
        trace.visible = on
    steps = [
        {"method": "restyle", "label": str(epoch), "args": [{"visible": shown}]}
        for epoch, shown in zip(epochs, visible, strict=True)
    ]
    words = {"prefix": "after epoch ", "xanchor": "left", "font": {"size": 13}}
    place = {"x": 0, "len": 1, "y": 0, "yanchor": "top", "pad": {"t": 56, "b": 8}}
    slider = {
        "steps": steps,
        "active": len(steps) - 1,
        "currentvalue": words,
        "tickcolor": SOFT,
        **place,
    }
    # The slider has the place below the axis, so that of the legend is above the plot.
    legend = {"yref": "paper", "x": 1, "xanchor": "right", "y": 1.01, "yanchor": "bottom"}
    figure.update_layout(sliders=[slider], legend=legend, height=520, hovermode="closest")


def _epoch_axis(
    figure: go.Figure, optimizers: Optimizers, keys: Sequence[str], swap_epoch: int | None = None
) -> None:
    lengths = (len(series.get(key) or []) for series in optimizers.values() for key in keys)
    last = max(lengths, default=1) - 1
    margin = 0.02 * last + 0.1
    figure.update_xaxes(title_text="epoch", range=[-margin, last + margin], tickformat="d")
    if last <= 12:
        figure.update_xaxes(dtick=1)
    if swap_epoch is not None:
        mark_swap(figure, swap_epoch, last)


def _value_axis(figure: go.Figure, title: str, column: int = 1) -> go.Figure:
    """Gives a panel's y axis its title, and a log scale where values span a decade.

    On a log axis triangles at the lower edge stand for values that it cannot show: those of zero or
    below, as on a plateau, and those more than `LOG_DECADES` below the largest.
    """
    axis = "y" if column == 1 else f"y{column}"
    lines = [trace for trace in figure.data if (trace.yaxis or "y") == axis]
    drawn = np.concatenate([np.asarray(line.y, dtype=float) for line in lines] or [np.empty(0)])
    drawn = drawn[np.isfinite(drawn)]
    top = drawn.max(initial=0)
    # Negative values that are not small beside the largest are seen better on a linear axis.
    within = drawn[drawn >= 10**-LOG_DECADES * top] if -drawn.min(initial=0) <= 0.1 * top else drawn
    scale = axis_scale([within])
    figure.update_yaxes(title_text=title, **scale, col=column)
    if not scale:
        return figure
    # The range is that of the values: an error bar may reach below zero.
    low, high = math.log10(within.min()), math.log10(top)
    low, high = low - 0.1 * (high - low), high + 0.1 * (high - low)
    figure.update_yaxes(range=[low, high], col=column)
    if low >= -4 and high <= 5:
        figure.update_yaxes(tickformat="~g", col=column)
    below = [mark for line in lines for mark in _taken_out(line, within.min())]
    if below:
        # Just inside: at the edge itself rounding may hide them.
        edge = 10 ** (low + 0.03 * (high - low))
        first = all(trace.name != AT_THE_EDGE for trace in figure.data)
        figure.add_trace(_edge_marks(below, edge).update(showlegend=first), row=1, col=column)
    return figure


def _taken_out(line: go.Scatter, least: float) -> list[tuple[float, str, str]]:
    """(epoch, colour, hover) of a line's values below `least`, which become gaps.

    Plotly would join them by vertical lines, which look like bars.
    """
    values = np.asarray(line.y, dtype=float)
    left_out = np.isfinite(values) & (values < least)
    line.y = np.where(left_out, np.nan, values)
    hover = line.hovertemplate.removesuffix("<extra></extra>")
    return [
        (x, line.line.color, hover.replace("%{x}", str(x)).replace("%{customdata}", text))
        for x, text, out in zip(line.x, line.customdata, left_out, strict=True)
        if out
    ]


def _edge_marks(below: Sequence[tuple[float, str, str]], edge: float) -> go.Scatter:
    """Triangles at the height `edge` for (epoch, colour, hover); several at one epoch all show."""
    epochs, colours, hovers = zip(*below, strict=True)
    order = list(dict.fromkeys(colours))
    sizes = [max(5, 13 - 5 * order.index(colour)) for colour in colours]
    marks = go.Scatter(x=epochs, y=[edge] * len(below), mode="markers", name=AT_THE_EDGE)
    look = {"symbol": "triangle-down-open", "size": sizes, "color": colours, "line": {"width": 1.5}}
    marks.update(marker=look, legendgroup=AT_THE_EDGE, cliponaxis=False)
    return marks.update(customdata=hovers, hovertemplate="%{customdata}<extra></extra>")


def _stretched_ticks(grid: np.ndarray, linear_below: float) -> dict:
    """Ticks at zero and at powers of ten on both sides, few enough to be read."""
    low, high = float(grid.min()), float(grid.max())
    first, last = math.ceil(math.log10(2 * linear_below)), math.floor(math.log10(max(-low, high)))
    step = max(1, math.ceil((last - first + 1) / 4))
    powers = [10.0**power for power in range(last, first - 1, -step)]
    values = [value for power in powers for value in (-power, power) if low <= value <= high]
    values = sorted([*values, 0.0])
    texts = [f"{value:g}".replace("-", "−") for value in values]
    return {"tickvals": stretched(np.array(values), linear_below), "ticktext": texts}


def _transparent(colour: str) -> str:
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.2)"
