"""When does training leave a plateau and drop? A rule on the loss after every epoch, in place of
the eye.

With L_e the loss after epoch e and R = max L − min L over the run, the fall of epoch e ≥ 1 is
(L_{e−1} − L_e)/R. An epoch is **flat** where its fall is at most `flat` in size. A **drop** is a
longest run of epochs that each fall by more than `flat`, one of them at least by `steep`. It is a
**transition** where a plateau ends just before it: at least `min_plateau` flat epochs in a row.

The rule sees nothing finer than an epoch, and R makes it relative: a run that descends from its
start has no plateau, one that hardly learns is measured by the little that it learns.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Transition:
    """A plateau and the drop after it, in epochs; losses in the units that were given.

    Attributes:
        plateau_start: After this epoch the loss stays as it is …
        plateau_end: … until after this one, the "before" of a comparison.
        steepest: The epoch that falls most.
        end: The last epoch of the drop, the "after".
        loss_before: After `plateau_end`.
        loss_after: After `end`.
    """

    plateau_start: int
    plateau_end: int
    steepest: int
    end: int
    loss_before: float
    loss_after: float


def find_transitions(
    losses: Sequence[float | None], *, flat: float = 0.02, steep: float = 0.1, min_plateau: int = 2
) -> list[Transition]:
    """All transitions of a run, in order.

    Args:
        losses: After epoch 0, 1, …; None before the first (an optimizer that takes over later) and
            after the last (training diverged) is left out.
        flat: Largest |fall| of a flat epoch, a share of R.
        steep: Smallest fall of the epoch that makes a drop.
        min_plateau: Flat epochs in a row that make a plateau.

    Raises:
        ValueError: Not 0 ≤ flat < steep ≤ 1, `min_plateau` below 1, or a loss that is missing or
            not finite between others.

    Example:
        >>> (found,) = find_transitions([2.3, 2.3, 2.3, 2.2, 0.5, 0.2, 0.19])
        >>> found.plateau_end, found.steepest, found.end
        (2, 4, 5)
    """
    if not 0 <= flat < steep <= 1:
        raise ValueError(
            f"flat = {flat}, steep = {steep}; allowed: 0 ≤ flat < steep ≤ 1, shares of the loss's"
            " range"
        )
    if min_plateau < 1:
        raise ValueError(f"min_plateau = {min_plateau}; allowed: at least 1, in epochs")
    known = [epoch for epoch, loss in enumerate(losses) if loss is not None and math.isfinite(loss)]
    if not known:
        return []
    first, last = known[0], known[-1]
    if missing := set(range(first, last)) - set(known):
        raise ValueError(
            f"there is no loss after epoch {min(missing)}; allowed: every epoch from {first} to"
            f" {last}"
        )
    kept = [float(losses[epoch]) for epoch in known]
    if (size := max(kept) - min(kept)) == 0:
        return []
    # falls[i] is that of epoch first + i + 1
    falls = [(before - after) / size for before, after in pairwise(kept)]
    found = []
    for start, end in _runs([fall > flat for fall in falls]):
        begin = start
        while begin > 0 and abs(falls[begin - 1]) <= flat:
            begin -= 1
        if max(falls[start:end]) >= steep and start - begin >= min_plateau:
            steepest = max(range(start, end), key=falls.__getitem__) + 1
            found.append(
                Transition(
                    *(first + at for at in (begin, start, steepest, end)), kept[start], kept[end]
                )
            )
    return found


def _runs(flags: Sequence[bool]) -> list[tuple[int, int]]:
    """Longest runs of True as (first, one after the last)."""
    edges = [
        place for place, (one, other) in enumerate(pairwise([False, *flags, False])) if one != other
    ]
    return list(zip(edges[::2], edges[1::2], strict=True))
