"""Does λ̂ hang on the optimizer once its learning rate is taken into account?

Two least-squares decompositions over runs. Along an optimizer's own rates: which share of the
variance within optimizers a line in the log rate explains, a slope for each. At matched speed: how
far optimizers lie apart beside one common line in the log number of steps to the loss, with the F
test of their offsets. Runs of a seed share weights and data order, so that each seed has a height
of its own there.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.stats import f as f_distribution


class Along(NamedTuple):
    """Along the optimizers' own rates.

    Attributes:
        share: Of the variance within optimizers, explained by lines in the log rate; NaN where
            there is none.
        ranges: Optimizer → largest minus smallest mean over seeds at a rate, of optimizers with
            several.
    """

    share: float
    ranges: dict[str, float]


class Matched(NamedTuple):
    """At matched steps to the loss.

    Attributes:
        offsets: Optimizer → its height beside the common line, minus their mean; NaN where seeds
            or steps do not tell optimizers apart.
        slope: Of the common line, for a factor e in steps.
        f, p: The F test of equal offsets; NaN where they are, or no degree of freedom is left.
        degrees: Of freedom, of the numerator and the denominator.
    """

    offsets: dict[str, float]
    slope: float
    f: float
    p: float
    degrees: tuple[int, int]


def along_rates(values: Sequence[float], optimizers: Sequence[str], lrs: Sequence[float]) -> Along:
    """How a quantity changes along the optimizers' own rates.

    Args:
        values: Of each run.
        optimizers: Likewise.
        lrs: Likewise, > 0.

    Example:
        >>> found = along_rates([1.0, 3.0, 5.0], ["sgd"] * 3, [0.01, 0.1, 1.0])
        >>> round(found.share, 6), found.ranges
        (1.0, {'sgd': 4.0})
    """
    names = list(dict.fromkeys(optimizers))
    own = _indicators(optimizers, names)
    logs = np.log(np.asarray(lrs, float))
    within = _residual(values, own)
    lines = _residual(values, np.hstack([own, own * logs[:, None]]))
    ranges = {}
    for name in names:
        means = {}
        for value, optimizer, lr in zip(values, optimizers, lrs, strict=True):
            if optimizer == name:
                means.setdefault(lr, []).append(value)
        if len(means) > 1:
            heights = [float(np.mean(of)) for of in means.values()]
            ranges[name] = max(heights) - min(heights)
    return Along(1 - lines / within if within > 0 else math.nan, ranges)


def at_matched_speed(
    values: Sequence[float], optimizers: Sequence[str], steps: Sequence[float], seeds: Sequence[int]
) -> Matched:
    """How far optimizers lie apart beside a common line in log steps and a height of each seed.

    Args:
        values: Of each run.
        optimizers: Likewise.
        steps: Likewise, > 0.
        seeds: Likewise.

    Raises:
        ValueError: Fewer than two optimizers.

    Example:
        >>> steps, names = [100, 200, 100, 200], ["a", "a", "b", "b"]
        >>> found = at_matched_speed([1.0, 2.0, 4.0, 5.0], names, steps, [1, 1, 1, 1])
        >>> {name: round(offset, 6) for name, offset in found.offsets.items()}
        {'a': -1.5, 'b': 1.5}
    """
    names = list(dict.fromkeys(optimizers))
    if len(names) < 2:
        raise ValueError(f"runs of {len(names)} optimizers given; allowed: at least two")
    logs = np.log(np.asarray(steps, float))[:, None]
    own = _indicators(optimizers, names)
    shared = np.hstack([logs, _indicators(seeds, list(dict.fromkeys(seeds)))])
    design = np.hstack([own, shared])
    coefficients = np.linalg.lstsq(design, np.asarray(values, float), rcond=None)[0]
    heights, slope = coefficients[: len(names)], float(coefficients[len(names)])
    together, apart = _residual(values, shared), _residual(values, design)
    rank = int(np.linalg.matrix_rank(design))
    above, below = rank - int(np.linalg.matrix_rank(shared)), len(values) - rank
    told_apart = above == len(names) - 1
    offsets = heights - heights.mean() if told_apart else np.full(len(names), math.nan)
    f = p = math.nan
    if told_apart and below > 0 and apart > 0:
        f = (together - apart) / above / (apart / below)
        p = float(f_distribution.sf(f, above, below))
    by_name = dict(zip(names, (float(offset) for offset in offsets), strict=True))
    return Matched(by_name, slope, f, p, (above, below))


def _indicators(of: Sequence, groups: Sequence) -> Float[np.ndarray, "runs k"]:
    """A column a group, 1 for its runs."""
    return np.array([[float(one == group) for group in groups] for one in of])


def _residual(values: Sequence[float], design: Float[np.ndarray, "runs k"]) -> float:
    """Sum of squares that a least-squares fit leaves."""
    y = np.asarray(values, float)
    fitted = design @ np.linalg.lstsq(design, y, rcond=None)[0]
    return float(((y - fitted) ** 2).sum())
