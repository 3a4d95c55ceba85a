"""Do two groups of runs differ, by how much, and is the difference too small to matter?

Runs are the units: what a sampler or an estimator leaves of uncertainty within a run is part of
their spread. Tests, intervals and corrections are SciPy's and statsmodels'.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats
from statsmodels.stats.weightstats import DescrStatsW

LEVEL = 0.95  # of intervals
LEAST = 2  # values that have a spread


class Mean(NamedTuple):
    """A mean over runs.

    Attributes:
        value: The mean.
        low, high: Its 95 % interval by Student's t; NaN of a single value.
        deviation: Standard deviation of the values; NaN of a single one.
        count: How many values.
    """

    value: float
    low: float
    high: float
    deviation: float
    count: int

    @property
    def half_width(self) -> float:
        """Half the interval's length."""
        return (self.high - self.low) / 2


class Welch(NamedTuple):
    """Two groups by Welch's t-test (B. L. Welch, Biometrika 34 (1947) 28).

    Attributes:
        difference: Mean of the first group minus that of the second.
        low, high: Its 95 % interval.
        p: Two-sided.
        effect: Hedges' g, the difference in pooled standard deviations, corrected for few values
            (L. V. Hedges, J. Educ. Stat. 6 (1981) 107).
        counts: Values in each group.
    """

    difference: float
    low: float
    high: float
    p: float
    effect: float
    counts: tuple[int, int]


class Paired(NamedTuple):
    """Differences within pairs against 0, and against a margin.

    Attributes:
        mean: Of the differences.
        p: Two-sided, of a mean of 0 (Student, count − 1 degrees of freedom).
        equivalence_p: Of a mean beyond ± margin, by two one-sided tests (D. J. Schuirmann,
            J. Pharmacokinet. Biopharm. 15 (1987) 657); NaN without a margin.
        margin: In the differences' unit.
    """

    mean: Mean
    p: float
    equivalence_p: float
    margin: float


def mean_of(values: Sequence[float]) -> Mean:
    """Mean and interval of finite values; raises ValueError where there is none."""
    found = _finite(values, 1)
    if len(found) < LEAST:
        return Mean(float(found[0]), math.nan, math.nan, math.nan, 1)
    about = DescrStatsW(found)
    low, high = about.tconfint_mean(1 - LEVEL)
    return Mean(float(about.mean), float(low), float(high), float(found.std(ddof=1)), len(found))


def welch(first: Sequence[float], second: Sequence[float]) -> Welch:
    """Compares two independent groups of at least two finite values each; else ValueError."""
    first, second = _finite(first, LEAST), _finite(second, LEAST)
    difference = float(first.mean() - second.mean())
    counts = len(first), len(second)
    if first.std() == second.std() == 0:  # nothing to divide by
        p, effect = (1.0, 0.0) if difference == 0 else (0.0, math.copysign(math.inf, difference))
        return Welch(difference, difference, difference, p, effect, counts)
    tested = stats.ttest_ind(first, second, equal_var=False)
    low, high = tested.confidence_interval(LEVEL)
    freedom = sum(counts) - 2
    squares = ((first - first.mean()) ** 2).sum() + ((second - second.mean()) ** 2).sum()
    small = 1 - 3 / (4 * freedom - 1)
    effect = small * difference / math.sqrt(squares / freedom)
    return Welch(difference, float(low), float(high), float(tested.pvalue), effect, counts)


def paired(differences: Sequence[float], margin: float | None = None) -> Paired:
    """Tests differences within pairs; raises ValueError for fewer than two finite ones."""
    found = _finite(differences, LEAST)
    about, mean = DescrStatsW(found), mean_of(found)
    if mean.deviation == 0:
        p = 1.0 if mean.value == 0 else 0.0
        inside = margin is not None and abs(mean.value) < margin
        return Paired(mean, p, 0.0 if inside else 1.0, margin or math.nan)
    p = float(about.ttest_mean(0.0)[1])
    if margin is None:
        return Paired(mean, p, math.nan, math.nan)
    return Paired(mean, p, float(about.ttost_mean(-margin, margin)[0]), margin)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """The p-values adjusted for being several (S. Holm, Scand. J. Stat. 6 (1979) 65), by name.

    The j-th smallest of m counts m + 1 − j times, and none less than a smaller one. statsmodels'
    `multipletests` says the same, and collects garbage each time, which takes up to a second.

    Raises:
        ValueError: One is no probability.
    """
    for name, p in p_values.items():
        if not 0 <= p <= 1:
            raise ValueError(f"p = {p!r} of {name!r} given; allowed: 0 to 1")
    adjusted, so_far = {}, 0.0
    for place, name in enumerate(sorted(p_values, key=p_values.get)):
        so_far = max(so_far, (len(p_values) - place) * float(p_values[name]))
        adjusted[name] = min(so_far, 1.0)
    return {name: adjusted[name] for name in p_values}


def _finite(values: Sequence[float], least: int) -> np.ndarray:
    found = np.asarray(values, dtype=float)
    if found.ndim != 1 or len(found) < least or not np.isfinite(found).all():
        raise ValueError(f"{list(values)} given; allowed: at least {least} finite numbers")
    return found
