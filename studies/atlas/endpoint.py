"""How degenerate is a run's solution at the same training loss as all others'?

λ̂ of annealed branches, as a function of log training loss, linear between the branches measured,
averaged over a window of log loss that is the same for all runs.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from degeneracy.llc.certificates import LOCAL as CERTIFIED
from degeneracy.llc.certificates import NO_REST as AT_NO_REST

LLCS = ("balanced", "raw", "gauge_free", "published")
NOT_REACHED, NOT_BRACKETED, NOT_CERTIFIED = "not reached", "not bracketed", "not certified"
DIVERGED = "diverged"


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
    first, last = np.interp([bottom, top], x, y)
    if top == bottom:
        return float(first)
    inside = (x > bottom) & (x < top)
    knots, heights = [bottom, *x[inside], top], [first, *y[inside], last]
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

    A λ̂ counts only where every point that it is made of is certified. `published` never is and
    counts all the same; of `gauge_free`, whose distance from 0 has no yardstick, rest is asked for.
    """
    training = row["training"]
    if not training or training["outcome"] != "reached":
        return None, DIVERGED if training and training["outcome"] == DIVERGED else NOT_REACHED
    points = used(points_of(row), window)
    if not points:
        return None, NOT_BRACKETED
    values = [value_at(point, quantity) for point in points]
    verdicts = [(point.get(quantity) or {}).get("verdict") for point in points if quantity in LLCS]
    uncertified = quantity in ("balanced", "raw") and set(verdicts) != {CERTIFIED}
    if None in values or uncertified or AT_NO_REST in verdicts:
        return None, NOT_CERTIFIED
    return window_mean([point["train_loss"] for point in points], values, window), ""


def used(points: Sequence[Mapping[str, Any]], window: Sequence[float]) -> list[Mapping[str, Any]]:
    """The points that a mean over the window takes: those inside and the nearest on both sides.

    Empty where it is not bracketed.
    """
    top, bottom = window
    points = [point for point in points if point["train_loss"] is not None]
    above = [point for point in points if point["train_loss"] >= top]
    below = [point for point in points if point["train_loss"] <= bottom]
    if not above or not below:
        return []
    inside = [point for point in points if bottom < point["train_loss"] < top]
    first = min(above, key=lambda point: point["train_loss"])
    last = max(below, key=lambda point: point["train_loss"])
    return [first, *inside, last]
