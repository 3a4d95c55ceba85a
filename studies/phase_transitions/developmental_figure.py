"""Is the LLC a function of the loss, or does the path matter? LLC against training loss, an epoch a
point.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

from degeneracy.report.style import (
    SYMBOLS,
    axis_scale,
    empty_figure,
    llc_axis,
    optimizer_colours,
    optimizer_line,
)
from degeneracy.runs.results import optimizers_of
from degeneracy.texts import label
from studies.phase_transitions.phases import LLCPoint, Results, llc_points, phases_of

ROOM = 0.08  # left and right of the points, a share of the axis
LABEL_HEIGHT = 24  # pixels, from one label to the next


class Curve(NamedTuple):
    """An optimizer's points and how they look."""

    optimizer: str
    points: list[LLCPoint]
    colour: str
    symbol: str


def developmental_figure(title: str, results: Results) -> go.Figure:
    """LLC with 95 % intervals against the training loss L(w*) in nats, one point an epoch, coloured
    by epoch.
    """
    figure = empty_figure("LLC against training loss", title)
    curves = _curves(optimizers_of(results, title))
    for curve in curves:
        figure.add_traces(_traces(curve))
    losses = np.array([point.loss for curve in curves for point in curve.points])
    scale = axis_scale([losses])
    if scale:  # the labels' texts must not widen it
        ends = np.log10([losses.min(), losses.max()])
        scale["range"] = ends + ROOM * np.ptp(ends) * np.array([-1, 1])
    phases = phases_of(results, title)
    for phase, side in (("before", -1), ("after", 1)):
        _label_phase(figure, _points_at(curves, phases, phase), phase, side, is_log=bool(scale))
    colours = _epoch_colours(results["config"]["experiment"]["num_epochs"])
    figure.update_layout(hovermode="closest", coloraxis=colours, height=520)
    figure.update_xaxes(title_text="training loss L(w*) (nats, training set)", **scale)
    return figure.update_yaxes(title_text=llc_axis(results))


def _curves(optimizers: Mapping[str, Mapping]) -> list[Curve]:
    """Those of the optimizers that have points; colour is the epoch, so symbols tell them apart."""
    points = {name: llc_points(series) for name, series in optimizers.items()}
    colours = optimizer_colours(list(optimizers))
    measured = [name for name in optimizers if points[name]]
    return [
        Curve(name, points[name], colours[name], SYMBOLS[place % len(SYMBOLS)])
        for place, name in enumerate(measured)
    ]


def _traces(curve: Curve) -> list[go.Scatter]:
    """The points joined in order, and an empty trace that is their key in the legend."""
    epochs, loss, llc, error = (
        np.array(column, dtype=float) for column in zip(*curve.points, strict=True)
    )
    look = {"size": 9, "symbol": curve.symbol, "line": {"color": curve.colour, "width": 1.5}}
    line = optimizer_line(loss, llc, curve.optimizer, std_error=error, colour=curve.colour)
    line.line.width = 1
    line.marker = {**look, "color": epochs, "coloraxis": "coloraxis"}
    line.customdata = [
        f"{line.name}, epoch {epoch:g}: {hover}, loss {x:.4g}"
        for epoch, hover, x in zip(epochs, line.customdata, loss, strict=True)
    ]
    line.update(hovertemplate="%{customdata}<extra></extra>", showlegend=False)
    key = go.Scatter(x=[None], y=[None], mode="lines+markers", hoverinfo="skip", line=line.line)
    key.update(name=line.name, legendgroup=line.legendgroup, marker={**look, "color": "white"})
    return [line, key]


def _points_at(
    curves: list[Curve], phases: Mapping[str, Mapping[str, int]], phase: str
) -> list[tuple[LLCPoint, Curve]]:
    """Each curve's point at its own epoch of a phase, where it was measured; the highest first."""
    found = [
        (point, curve)
        for curve in curves
        for point in curve.points
        if point.epoch == phases[curve.optimizer].get(phase)
    ]
    return sorted(found, key=lambda one: -one[0].llc)


def _label_phase(
    figure: go.Figure, found: list[tuple[LLCPoint, Curve]], phase: str, side: int, is_log: bool
) -> None:
    """Labels points aside of their curves: the highest above itself, the others below."""
    for place, (point, curve) in enumerate(found):
        below = LABEL_HEIGHT * (place + 1) - 4
        figure.add_annotation(
            x=math.log10(point.loss) if is_log else point.loss,
            y=point.llc,
            ax=24 * side,
            ay=-44 if place == 0 else below,
            arrowcolor=curve.colour,
            arrowwidth=1,
            arrowhead=0,
            standoff=6,
            xanchor="left" if side > 0 else "right",
            bgcolor="rgba(255,255,255,0.8)",
            text=f"{label(curve.optimizer)} {phase}, epoch {point.epoch}",
            font={"color": curve.colour, "size": 12},
        )


def _epoch_colours(num_epochs: int) -> dict:
    """The colour axis and its bar."""
    title = {"text": "epoch", "font": {"size": 13}}
    bar = {"title": title, "thickness": 12, "outlinewidth": 0, "tickformat": "d"}
    return {"colorscale": "Viridis", "cmin": 0, "cmax": num_epochs, "colorbar": bar}
