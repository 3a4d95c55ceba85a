"""Are tests, effects and agreement those of SciPy and of their formulas?"""

import math

import numpy as np
import pytest
from paper_results import LAST, made_results, made_row
from scipy import stats

from degeneracy.sweeps.statistics import Paired, mean_of
from studies.paper import comparison, published
from studies.paper.records import Network, by_seed, networks

NETWORK = Network("mnist", 2, 256)


def final_llcs(results, optimizer):
    rows = by_seed(networks(results)[NETWORK], optimizer)
    return [rows[seed]["series"]["llc"][LAST] for seed in sorted(rows)]


def test_welch_is_scipys_and_holm_multiplies_the_least_p(results):
    found = comparison.compared(results, "llc")
    ngd, sgd = (final_llcs(results, name) for name in ("ngd", "sgd"))
    expected = stats.ttest_ind(ngd, sgd, equal_var=False)
    one = found[NETWORK]
    assert one.test.p == pytest.approx(expected.pvalue)
    assert (one.test.low, one.test.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert one.p == pytest.approx(len(found) * expected.pvalue)  # all p are equal here
    pooled = math.sqrt((np.var(ngd, ddof=1) + np.var(sgd, ddof=1)) / 2)
    hedges = (1 - 3 / (4 * 8 - 1)) * (np.mean(ngd) - np.mean(sgd)) / pooled
    assert one.test.effect == pytest.approx(hedges)


def test_one_seed_has_a_difference_and_no_test():
    found = comparison.compared(made_results(1), "llc")[NETWORK]
    assert (found.test, found.p) == (None, None)
    assert found.difference == pytest.approx(1.5 / 1.1 * 15)


def test_pairs_are_students_within_seeds(results):
    rows = networks(results)[NETWORK]
    found = comparison.paired_finals(rows, "update_norm", "ngd", "sgd")
    assert found.mean.value == pytest.approx(0.0054)
    assert found.mean.count == 5
    lone = comparison.paired_finals(rows[:2], "update_norm", "ngd", "sgd")
    assert lone == pytest.approx(0.0054)
    assert comparison.paired_finals(rows[:1], "llc", "ngd", "sgd") is None
    equal = comparison.compared_at_equal_loss(results)[NETWORK]
    assert isinstance(equal, Paired)


def test_a_published_mean_agrees_within_two_errors_plus_its_spread():
    values = [54.0, 55.0, 56.0, 57.0]
    ours = mean_of(values)
    (value,) = [p for p in published.PUBLISHED if p.value == 55.9]
    allowed = 2 * np.std(values, ddof=1) / 2 + 1.0
    assert published.allowed(value, ours) == pytest.approx(allowed)
    agreement = published.Agreement(value, ours, allowed)
    assert agreement.difference == pytest.approx(-0.4)
    assert agreement.agrees
    assert not published.Agreement(value, mean_of([v - 3 for v in values]), allowed).agrees


def test_a_single_published_run_has_our_spread_and_one_seed_no_verdict():
    (value,) = [p for p in published.PUBLISHED if p.value == 46.7]
    assert value.deviation is None
    ours = mean_of([46.0, 48.0])
    assert published.allowed(value, ours) == pytest.approx(2 * ours.deviation / 2**0.5 + 2**0.5)
    assert published.allowed(value, mean_of([46.0])) is None


def test_each_published_value_is_compared_with_its_own_runs(results):
    found = {one.published.what: one for one in published.agreements(results)}
    by_alpha = found["LLC, 2 × 256, α = 50"]
    rows = [made_row("ngd alpha 50", s, nodes=256, alpha=50.0) for s in range(1, 6)]
    expected = np.mean([row["series"]["llc"][LAST] for row in rows])
    assert by_alpha.ours.value == pytest.approx(expected)
    assert by_alpha.ours.count == 5
    early = found["update norm, 2 × 256, epoch 16"]
    assert early.ours.value == pytest.approx(0.006 + 3e-5)
    assert "LLC, 2 × 128" not in found  # no run of ours


def test_other_settings_are_compared_with_nothing(results):
    results["config"]["training"]["num_epochs"] = 10
    results["config"]["sampler"]["num_draws"] = 500
    differing = published.differing_settings(results)
    assert differing == ["training.num_epochs", "sampler.num_draws"]
    assert published.agreements(results) == []
    results["config"] = made_results(1)["config"]
    results["config"]["training"] |= {"num_probes": 7, "measure_epochs": [30], "root": "/x"}
    assert published.differing_settings(results) == []
