"""Intervals from the means of chains, against SciPy and by how often they hold."""

import math

import numpy as np
import pytest
from scipy import stats

from degeneracy.llc.settings import SamplerSettings
from degeneracy.llc.statistics import mean_interval, paired_difference, summarise

AUTO = SamplerSettings()


def estimate(chain_llcs: np.ndarray, draws: int = 4):
    """Of chains with these means, at nβ = 1 and L(w*) = 0."""
    return summarise(np.repeat(chain_llcs[:, None], draws, axis=1), 0.0, 1.0, settings=AUTO)


@pytest.mark.parametrize("count", [2, 8, 30])
@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_an_interval_of_a_mean_is_scipys(count, confidence):
    values = np.random.default_rng(count).normal(3.0, 2.0, count)
    expected = stats.ttest_1samp(values, 0).confidence_interval(confidence)
    assert mean_interval(values, confidence) == pytest.approx((expected.low, expected.high))


def test_one_value_has_no_interval():
    assert mean_interval(np.array([1.0])) is None
    assert mean_interval(np.array([])) is None


def test_an_estimate_of_auto_has_the_error_and_the_interval_of_its_chain_means():
    trace = np.random.default_rng(0).normal(1.0, 0.2, (8, 50)).cumsum(1) / 10  # not white
    found = summarise(trace, 0.5, 20.0, settings=AUTO)
    means = 20.0 * (trace.mean(1) - 0.5)
    np.testing.assert_allclose(found.chain_llcs, means)
    assert found.std_error == pytest.approx(means.std(ddof=1) / math.sqrt(8))
    expected = stats.t.interval(0.95, 7, means.mean(), stats.sem(means))
    assert found.interval == pytest.approx(expected)


def test_diverged_chains_count_in_no_interval():
    values = np.array([1.0, 1.5, 2.0, 3.0])
    trace = np.repeat(values[:, None], 6, axis=1)
    trace[1, 3:] = np.nan
    found = summarise(trace, 0.0, 1.0, settings=AUTO)
    assert found.interval == pytest.approx(mean_interval(values[[0, 2, 3]]))
    assert found.std_error == pytest.approx(values[[0, 2, 3]].std(ddof=1) / math.sqrt(3))


def test_an_interval_of_95_percent_holds_95_percent_of_the_time():
    """2,000 replicates: the share is within three binomial errors."""
    rng = np.random.default_rng(0)
    count = 2000
    held = 0
    for _ in range(count):
        low, high = estimate(rng.normal(7.0, 1.0, 8)).interval
        held += low <= 7.0 <= high
    assert abs(held / count - 0.95) < 3 * math.sqrt(0.95 * 0.05 / count)


def test_a_difference_is_taken_chain_by_chain():
    """What chains share falls out of its interval: SciPy's paired test."""
    rng = np.random.default_rng(1)
    shared = rng.normal(0, 5, 8)
    one, other = shared + rng.normal(1, 0.1, 8), shared + rng.normal(2, 0.1, 8)
    found = paired_difference(estimate(other), estimate(one))
    expected = stats.ttest_rel(other, one).confidence_interval()
    assert found.value == pytest.approx((other - one).mean())
    assert found.interval == pytest.approx((expected.low, expected.high))
    assert found.std_error == pytest.approx(stats.sem(other - one))
    assert found.interval[0] > 0  # which the intervals of the two, wide as ± 4, would not show


def test_a_difference_of_chains_that_diverged_uses_the_pairs_that_are_left():
    one, other = np.array([1.0, np.nan, 3.0, 4.0]), np.array([2.0, 2.0, np.nan, 6.0])
    found = paired_difference(estimate(other), estimate(one))
    assert found.value == pytest.approx(1.5)
    assert found.interval == pytest.approx(mean_interval(np.array([1.0, 2.0])))
    single = paired_difference(estimate(other[:2]), estimate(one[:2]))
    assert (single.value, single.std_error, single.interval) == (1.0, None, None)
    assert paired_difference(estimate(other[1:3]), estimate(one[1:3])) is None


def test_a_difference_of_unlike_numbers_of_chains_is_refused():
    with pytest.raises(ValueError, match="3 chains and 2"):
        paired_difference(estimate(np.ones(3)), estimate(np.ones(2)))
