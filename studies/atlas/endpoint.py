"""How degenerate is a run's solution at the same training loss as all others'?

λ̂ of annealed branches, as a function of log training loss, linear between the branches measured,
averaged over a window of log loss that is the same for all runs.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

CERTIFIED = "local estimate"
NOT_REACHED, NOT_BRACKETED, NOT_CERTIFIED = "not reached", "not bracketed", "not certified"


def window_mean(
    losses: Sequence[float], values: Sequence[float], window: Sequence[float]
) -> float | None:
    """Mean over a window of log loss of what is linear in log loss between points.

    Args:
        losses: Training losses (nats), in any order.
        values: At these losses.
        window: Top and bottom.

    Returns:
        None where no point is at or above the top, or none at or below the bottom.

    Example:
        >>> round(window_mean([0.04, 0.01], [1.0, 3.0], [0.04, 0.01]), 6)
        2.0
    """
    top, bottom = (math.log(loss) for loss in window)
    order = np.argsort(losses)
    x, y = np.log(np.asarray(losses, float))[order], np.asarray(values, float)[order]
    if not len(x) or x[-1] < top or x[0] > bottom:
        return None
    inside = x[(x > bottom) & (x < top)]
    knots = np.array([bottom, *inside, top])
    heights = np.interp(knots, x, y)
    if top == bottom:
        return float(heights[0])
    return float(np.trapezoid(heights, knots) / (top - bottom))


def points_of(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The branches of a run that were measured: what training kept of each, and what was found."""
    training, points = row["training"], row["points"]
    if not training or not points:
        return []
    return [
        {**training["branches"][place], **found}
        for place, found in zip(points["branches"], points["found"], strict=True)
    ]


def value_at(point: Mapping[str, Any], quantity: str) -> float | None:
    """A number of a point: `balanced` is λ̂ in balanced weights, `balanced_trace` a trace."""
    found = point.get(quantity)
    if isinstance(found, Mapping):
        found = found["llc"]
    return found if found is not None and math.isfinite(found) else None


def endpoint(
    row: Mapping[str, Any], quantity: str, window: Sequence[float]
) -> tuple[float | None, str]:
    """A run's value in the window, or None and why there is none.

    A λ̂ counts only where every point that it is made of is certified; but not `published`, which
    never is, and `gauge_free`, whose distance from 0 has no yardstick.
    """
    points = [p for p in points_of(row) if value_at(p, quantity) is not None]
    losses = [point["train_loss"] for point in points]
    value = window_mean(losses, [value_at(point, quantity) for point in points], window)
    if value is None:
        training = row["training"]
        done = bool(training) and training["outcome"] == "reached"
        return None, NOT_BRACKETED if done else NOT_REACHED
    certifies = quantity in ("balanced", "raw")
    if certifies and any(p[quantity]["verdict"] != CERTIFIED for p in used(points, window)):
        return None, NOT_CERTIFIED
    return value, ""


def used(points: Sequence[Mapping[str, Any]], window: Sequence[float]) -> list[Mapping[str, Any]]:
    """The points that a mean over the window takes: those inside and the nearest on both sides."""
    top, bottom = window
    above = min((p for p in points if p["train_loss"] >= top), key=lambda p: p["train_loss"])
    below = max((p for p in points if p["train_loss"] <= bottom), key=lambda p: p["train_loss"])
    return [above, *(p for p in points if bottom < p["train_loss"] < top), below]
