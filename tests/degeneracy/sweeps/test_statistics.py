"""Are tests and intervals over runs those of the textbooks?"""

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from degeneracy.sweeps.statistics import holm, mean_of, paired, welch

FIRST = [55.1, 54.3, 57.0, 56.2, 55.5]
SECOND = [43.9, 42.6, 44.4, 43.0]


def test_an_interval_is_students():
    found = mean_of(FIRST)
    half = stats.t.ppf(0.975, 4) * np.std(FIRST, ddof=1) / math.sqrt(5)
    assert found.value == pytest.approx(np.mean(FIRST))
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half))
    assert found.half_width == pytest.approx(half)


def test_a_single_value_has_no_interval():
    found = mean_of([3.0])
    assert found.value == 3.0
    assert found.count == 1
    assert math.isnan(found.low)


def test_welch_by_its_formula():
    found = welch(FIRST, SECOND)
    shares = [np.var(group, ddof=1) / len(group) for group in (FIRST, SECOND)]
    difference = np.mean(FIRST) - np.mean(SECOND)
    freedom = sum(shares) ** 2 / (shares[0] ** 2 / 4 + shares[1] ** 2 / 3)
    half = stats.t.ppf(0.975, freedom) * math.sqrt(sum(shares))
    assert found.difference == pytest.approx(difference)
    assert (found.low, found.high) == pytest.approx((difference - half, difference + half))
    assert found.p == pytest.approx(
        2 * stats.t.sf(difference / math.sqrt(sum(shares)), freedom), rel=1e-6
    )


def test_the_effect_is_hedges():
    pooled = math.sqrt((4 * np.var(FIRST, ddof=1) + 3 * np.var(SECOND, ddof=1)) / 7)
    expected = (1 - 3 / (4 * 7 - 1)) * (np.mean(FIRST) - np.mean(SECOND)) / pooled
    assert welch(FIRST, SECOND).effect == pytest.approx(expected)


def test_two_one_sided_tests_are_the_worse_of_two_t_tests():
    values = [0.01, 0.02, -0.01, 0.015, 0.0]
    found = paired(values, margin=0.05)
    low = stats.ttest_1samp(values, -0.05, alternative="greater").pvalue
    high = stats.ttest_1samp(values, 0.05, alternative="less").pvalue
    assert found.equivalence_p == pytest.approx(max(low, high))
    assert found.p == pytest.approx(stats.ttest_1samp(values, 0).pvalue)


def test_what_is_beyond_the_margin_is_not_equivalent():
    assert paired([0.1, 0.11, 0.09, 0.1], margin=0.05).equivalence_p > 0.99


def test_values_that_are_all_alike():
    assert paired([0.0, 0.0], margin=0.1)[1:3] == (1.0, 0.0)
    assert paired([0.2, 0.2], margin=0.1)[1:3] == (0.0, 1.0)
    assert welch([1.0, 1.0], [1.0, 1.0]).p == 1.0


@pytest.mark.parametrize("count", [1, 2, 5, 20])
def test_holm_is_statsmodels(count):
    values = np.random.default_rng(count).uniform(0, 0.2, count).round(2)  # with ties
    expected = multipletests(values, method="holm")[1]
    found = holm(dict(enumerate(values)))
    assert list(found.values()) == pytest.approx(list(expected), abs=1e-15)


@pytest.mark.parametrize("p", [math.nan, -0.1, 1.1])
def test_what_is_no_probability_is_not_adjusted(p):
    with pytest.raises(ValueError, match="of 'b' given; allowed: 0 to 1"):
        holm({"a": 0.1, "b": p})


def test_holm_by_hand():
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03})
    assert found == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    assert holm({}) == {}


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [[1.0, 2.0]]])
def test_what_has_no_mean_is_refused(values):
    with pytest.raises(ValueError, match="allowed: at least"):
        mean_of(values)


def test_a_single_pair_is_refused():
    with pytest.raises(ValueError, match="at least 2 finite numbers"):
        paired([0.1])
