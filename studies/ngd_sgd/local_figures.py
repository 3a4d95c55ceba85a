"""Where do the local estimates of the last checkpoints lie? One figure, from results."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from degeneracy.llc.certificates import LOCAL
from degeneracy.report.run_figures import shown_name
from degeneracy.report.style import INK, SOFT, empty_figure, optimizer_colours
from degeneracy.texts import Z_95, with_error
from studies.ngd_sgd.local_sentences import interval_text, settings_of
from studies.ngd_sgd.local_verdict import (
    EQUAL,
    GAUGES,
    GIVEN,
    LAST,
    PARTING,
    LocalEstimate,
    LocalPoint,
    LocalVerdict,
    local_verdict_of,
)

LOCAL_CAPTION = (
    "Which solution is the more degenerate? The local learning coefficient of every last checkpoint"
    " (lower: more degenerate), of the weights as given and balanced, which is the same function"
    " with every hidden unit's incoming and outgoing weights of equal size. Bars are 95 % intervals"
    " from the means of the chains (sampling alone, one training seed). A hollow point is no local"
    " estimate and counts for no order; beside it stands why, and in the table of certificates what"
    " to change."
)
APART = 0.14  # of the two gauges from the middle of their checkpoint
SYMBOLS = dict(zip(GAUGES, ("diamond", "circle"), strict=True))
ROOM = 0.22  # of the height, above the highest interval, for what stands there


def local_llc_figure(title: str, results: Mapping) -> go.Figure:
    """Local λ̂ with 95 % intervals, as given and balanced side by side, of every last checkpoint and
    of the one at which the optimizers part; empty where the run has none.
    """
    local = local_verdict_of(title, results)
    figure = empty_figure("Local learning coefficient of the last checkpoints", title)
    if local is None or not local.has_numbers:
        return figure
    colours = optimizer_colours(local.optimizers)
    points = sorted(local.points, key=lambda point: (PARTING, EQUAL, LAST).index(point.kind))
    for place, point in enumerate(points):
        colour = SOFT if point.kind == PARTING else colours[point.optimizer]
        for one in point.estimates.values():
            if one.llc is not None:
                figure.add_trace(_estimate(place, one, colour))
        _annotate(figure, place, point, colour)
    for gauge in [g for g in GAUGES if any(g in point.estimates for point in points)]:
        key = go.Scatter(x=[None], y=[None], mode="markers", name=f"weights {GAUGES[gauge]}")
        key.update(marker={"symbol": SYMBOLS[gauge], "size": 10, "color": INK}, hoverinfo="skip")
        figure.add_trace(key)
    figure.update_layout(hovermode="closest")
    figure.update_xaxes(
        tickvals=list(range(len(points))),
        ticktext=[_tick(point) for point in points],
        range=[-0.5, len(points) - 0.5],
        showgrid=False,
        ticks="",
    )
    return figure.update_yaxes(title_text=_axis(local), range=_limits(points), zeroline=True)


def _estimate(place: int, one: LocalEstimate, colour: str) -> go.Scatter:
    """One estimate as a point, hollow where it counts for no order."""
    low, high = _ends(one)
    symbol = SYMBOLS[one.gauge] if one.flaw is None else f"{SYMBOLS[one.gauge]}-open"
    point = go.Scatter(
        x=[place + (-APART if one.gauge == GIVEN else APART)],
        y=[one.llc],
        mode="markers",
        marker={"symbol": symbol, "size": 11, "color": colour, "line": {"width": 2}},
        name=f"{shown_name(one.optimizer)}, epoch {one.epoch}, {GAUGES[one.gauge]}",
        showlegend=False,
        customdata=[
            f"λ̂ = {with_error(one.llc, one.std_error)}, 95 %: {interval_text(one)}<br>{one.verdict}"
        ],
        hovertemplate="%{customdata}<extra>%{fullData.name}</extra>",
    )
    look = {"type": "data", "symmetric": False, "color": colour, "thickness": 1.5, "width": 5}
    return point.update(error_y={**look, "array": [high - one.llc], "arrayminus": [one.llc - low]})


def _ends(one: LocalEstimate) -> tuple[float, float]:
    """Of its interval; the point itself where it has none."""
    if one.interval is not None:
        return one.interval
    half = Z_95 * (one.std_error or 0.0)
    return one.llc - half, one.llc + half


def _annotate(figure: go.Figure, place: int, point: LocalPoint, colour: str) -> None:
    """Says above a checkpoint's estimates which of them are no local ones."""
    known = {gauge: one for gauge, one in point.estimates.items() if one.llc is not None}
    words = {gauge: _word(one) for gauge, one in known.items()}
    if not any(words.values()):
        return
    if len(set(words.values())) == 1:
        lines = [next(iter(words.values()))]
    else:
        lines = [f"{GAUGES[gauge]}: {word}" for gauge, word in words.items() if word]
    top = max(known.values(), key=lambda one: _ends(one)[1])
    figure.add_annotation(
        **{"x": place + (-APART if top.gauge == GIVEN else APART), "y": _ends(top)[1]},
        **{"text": "<br>".join(lines), "ax": 0, "ay": -16 - 8 * len(lines)},
        **{"arrowcolor": colour, "arrowwidth": 1, "arrowhead": 0, "standoff": 4},
        font={"color": colour, "size": 12},
        bgcolor="rgba(255,255,255,0.8)",
    )


def _word(one: LocalEstimate) -> str:
    """Why it is hollow; empty where it counts."""
    if one.flaw is None:
        return ""
    return "negative" if one.verdict == LOCAL else one.verdict


def _tick(point: LocalPoint) -> str:
    name = f"{shown_name(point.optimizer, 20)}<br>epoch {point.epoch}"
    lost = not any(one.llc is not None for one in point.estimates.values())
    where = {PARTING: "<br>(where they part)", EQUAL: "<br>(equal loss)"}.get(point.kind, "")
    return f"{name}{where}{'<br>no estimate' if lost else ''}"


def _limits(points: Sequence[LocalPoint]) -> list[float]:
    """Range of the axis, with room above for words."""
    found = [one for point in points for one in point.estimates.values() if one.llc is not None]
    ends = [end for one in found for end in _ends(one)] + [0.0]
    low, high = min(ends), max(ends)
    span = high - low or 1.0
    return [low - 0.05 * span if low < 0 else 0.0, high + ROOM * span]


def _axis(local: LocalVerdict) -> str:
    settings = ", ".join(settings_of(local))
    return f"local λ̂ ({settings})" if settings else "local λ̂"
