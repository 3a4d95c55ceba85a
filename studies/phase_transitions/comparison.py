"""Where in their training are two optimizers compared? At their last points, and at equal loss."""

import math
from collections.abc import Sequence
from itertools import pairwise

from degeneracy.runs.results import optimizers_of
from studies.phase_transitions.phases import (
    LLCPoint,
    Results,
    largest_drop,
    llc_points,
    transitions_of,
)

Curve = Sequence[LLCPoint]  # of an optimizer, in the order of training


def curves_after_drops(results: Results, title: str) -> dict[str, list[LLCPoint]]:
    """Optimizer → its points from the end of its largest drop on; all of them without a drop."""
    ends = {
        name: largest_drop(transitions).end if transitions else 0
        for name, transitions in transitions_of(results, title).items()
    }
    return {
        name: [point for point in llc_points(series) if point.epoch >= ends[name]]
        for name, series in optimizers_of(results, title).items()
    }


def at_equal_loss(one: Curve, other: Curve) -> tuple[LLCPoint, LLCPoint] | None:
    """Both where they have the lowest training loss that both reach; None where they share none.

    The one that got less far stands there itself; of the other the LLC is interpolated.
    """
    loss = max(min(point.loss for point in curve) for curve in (one, other))
    first, second = llc_at_loss(one, loss), llc_at_loss(other, loss)
    return None if first is None or second is None else (first, second)


def llc_at_loss(curve: Curve, loss: float) -> LLCPoint | None:
    """The LLC where the curve last passes `loss`, linear in log loss between two epochs; None where
    it does not.
    """
    for point in reversed(curve):
        if point.loss == loss:
            return point
    for before, after in reversed(list(pairwise(curve))):
        low, high = sorted((before.loss, after.loss))
        if 0 < low < loss < high:
            share = math.log(before.loss / loss) / math.log(before.loss / after.loss)
            return _between(before, after, share, loss)
    return None


def _between(before: LLCPoint, after: LLCPoint, share: float, loss: float) -> LLCPoint:
    """The point a share of the way from one to the next; their errors are independent."""
    llc = (1 - share) * before.llc + share * after.llc
    errors = before.std_error, after.std_error
    if None in errors:
        return LLCPoint(after.epoch, loss, llc, None)
    return LLCPoint(after.epoch, loss, llc, math.hypot((1 - share) * errors[0], share * errors[1]))
