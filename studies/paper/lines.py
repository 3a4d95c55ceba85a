"""How are several seeds drawn? Each as a thin line, their mean, and its 95 % interval as a band."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

from degeneracy.report.style import SOFT, axis_scale
from degeneracy.sweeps.statistics import mean_of
from degeneracy.texts import count_of
from studies.paper.records import Row, called, known_epochs, value_at

Place = tuple[int, int]  # row and column of a panel


class Means(NamedTuple):
    """Means over seeds along an axis.

    Attributes:
        x: Where.
        value: The means.
        low, high: Their 95 % intervals by Student's t; NaN of a single seed.
        count: Seeds at each place.
    """

    x: np.ndarray
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    count: np.ndarray


def means_of(values: Mapping[float, Sequence[float]]) -> Means:
    """Means of x → values of the seeds; places without a value are left out."""
    found = {x: mean_of(list(of)) for x, of in sorted(values.items()) if len(of)}
    columns = [[getattr(mean, key) for mean in found.values()] for key in FIELDS]
    return Means(np.array([*found], dtype=float), *(np.array(c, dtype=float) for c in columns))


FIELDS = ("value", "low", "high", "count")


def over_epochs(rows: Sequence[Row], quantity: str, first: int = 0) -> dict[int, list[float]]:
    """Epoch → values of the seeds, from an epoch on."""
    found = {
        epoch: [value_at(row, quantity, epoch) for row in rows]
        for epoch in known_epochs(rows, quantity)
        if epoch >= first
    }
    return {epoch: [v for v in values if v is not None] for epoch, values in found.items()}


def add_means(
    figure: go.Figure,
    values: Mapping[float, Sequence[float]],
    name: str,
    colour: str,
    place: Place,
    *,
    dash: str = "solid",
    in_legend: bool = True,
    positive: bool = False,
) -> Means:
    """Adds mean, band and the seeds' values as dots; gives the means.

    Args:
        values: x → values of the seeds.
        positive: Whether the axis may be logarithmic: a band then ends where values do.
    """
    means = means_of(values)
    row, column = place
    several = np.isfinite(means.low)
    if several.any():
        low = means.low[several]
        if positive:  # an interval of a mean may reach below 0
            least = np.array([min(values[x]) for x in means.x[several]])
            low = np.where(low > 0, low, least)
        x, high = means.x[several], means.high[several]
        band = go.Scatter(
            x=[*x, *x[::-1]],
            y=[*high, *low[::-1]],
            mode="lines",
            fill="toself",
            fillcolor=faint(colour),
            line={"width": 0},
            hoverinfo="skip",
            legendgroup=name,
            showlegend=False,
        )
        figure.add_trace(band, row=row, col=column)
    pairs = [(x, value) for x, found in sorted(values.items()) for value in found]
    if len(pairs) > len(means.x):
        dots = go.Scatter(x=[x for x, _ in pairs], y=[y for _, y in pairs], mode="markers")
        dots.update(marker={"color": colour, "size": 3, "opacity": 0.6}, hoverinfo="skip")
        figure.add_trace(dots.update(legendgroup=name, showlegend=False), row=row, col=column)
    line = go.Scatter(x=means.x, y=means.value, name=name, legendgroup=name, mode="lines+markers")
    line.update(line={"color": colour, "dash": dash, "width": 2}, marker={"size": 5})
    line.update(customdata=hover(means), hovertemplate="%{customdata}", showlegend=in_legend)
    figure.add_trace(line, row=row, col=column)
    return means


def hover(means: Means) -> list[str]:
    """`55.2 (53.9 to 56.5), 5 seeds`."""
    return [
        f"{value:.4g}, 1 seed"
        if not np.isfinite(low)
        else f"{value:.4g} ({low:.4g} to {high:.4g}), {int(count)} seeds"
        for _, value, low, high, count in zip(*means, strict=True)
    ]


def add_published(
    figure: go.Figure,
    values: Sequence[tuple[float, float, float | None]],
    colour: str,
    place: Place,
) -> None:
    """Adds published (x, value, standard deviation or None) as open diamonds."""
    if not values:
        return
    shown = any(trace.name == "published" for trace in figure.data)
    marks = go.Scatter(
        x=[x for x, _, _ in values], y=[y for _, y, _ in values], mode="markers", name="published"
    )
    marks.update(marker={"symbol": "diamond-open", "size": 11, "color": colour})
    marks.update(marker_line_width=2, legendgroup="published", showlegend=not shown)
    marks.error_y = {"type": "data", "array": [d or 0 for _, _, d in values], "thickness": 1.2}
    marks.update(hovertemplate="published: %{y:.4g}<extra></extra>")
    figure.add_trace(marks, row=place[0], col=place[1])


def panel_title(figure: go.Figure, text: str, column: int) -> None:
    """A line above a panel."""
    axis = "" if column == 1 else str(column)
    figure.add_annotation(
        text=text,
        font={"size": 12, "color": SOFT},
        x=0.5,
        xref=f"x{axis} domain",
        y=1,
        yref=f"y{axis} domain",
        yanchor="bottom",
        showarrow=False,
    )


def scale_to_values(
    figure: go.Figure, drawn: Iterable[float], column: int, may_be_log: bool = False
) -> None:
    """An axis over what the seeds have, however far a band of two seeds reaches."""
    values = np.array([value for value in drawn if np.isfinite(value)])
    if not len(values):
        return
    scale = axis_scale([values]) if may_be_log else {}
    ends = values.min(), values.max()
    if scale:
        ends = np.log10(ends)
    margin = 0.08 * (ends[1] - ends[0]) or 0.05 * (abs(ends[1]) or 1.0)
    figure.update_yaxes(**scale, range=[ends[0] - margin, ends[1] + margin], col=column)


def faint(colour: str) -> str:
    """`#rrggbb` at 15 % opacity."""
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.15)"


def with_count(optimizer: str, rows: Sequence[Row]) -> str:
    """`NGD (5 seeds)`."""
    return f"{called(optimizer)} ({count_of(len(rows), 'seed')})"
