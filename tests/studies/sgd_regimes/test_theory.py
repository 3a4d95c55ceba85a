"""Do exponents, constants and the best momentum hold where they are said to?"""

import numpy as np
import pytest

from studies.sgd_regimes import spectral_diagonal
from studies.sgd_regimes.generating import Setting, noise_gain
from studies.sgd_regimes.theory import (
    PowerLaw,
    asymptote,
    best_by_momentum,
    best_gain,
    budget_losses,
    budget_spread,
    constant_of_phase,
    helpful_exponents,
    largest_rate,
    loss_at,
    negative_momentum_helps,
    optimum,
)

SIZE = 100_000
STEPS = np.unique(np.geomspace(1e3, 1e4, 30).astype(int))


def losses_of(law, batch, lr, momentum=0.0, size=SIZE, num_steps=10_000):
    values, moments = law.eigenvalues(size), law.moments(size)
    how = (batch, lr, momentum, 1.0, num_steps)
    return spectral_diagonal(values, moments, *how, noise="online")


@pytest.mark.parametrize(
    ("nu", "kappa", "batch", "lr", "momentum"),
    [(1.5, 3, 10, 0.5, 0), (2, 1.5, 10, 0.3, 0), (1.5, 2.5, 100, 0.5, 0), (1.5, 1.9, 10, 0.5, 0)],
)
def test_the_prediction_is_within_three_percent(nu, kappa, batch, lr, momentum):
    law = PowerLaw(nu, kappa)
    losses = losses_of(law, batch, lr, momentum)
    tail = SIZE**-kappa / kappa / (2 * SIZE)  # of modes beyond, as they start
    assert tail < 0.005 * losses[-1]
    predicted = asymptote(law, SIZE, Setting(1 / batch, lr, momentum)).loss(STEPS)
    ratio = losses[STEPS] / predicted
    assert ratio.min() >= 0.97
    assert ratio.max() <= 1.03


def test_elsewhere_the_prediction_is_approached_as_corrections_fall():
    """As t^(1/ν−1) at late times: at ν = 1.2 by 10^(−1/6) in the last decade, to 10 %."""
    law = PowerLaw(1.2, 3.0)
    losses = losses_of(law, 10, 0.3)
    ratio = losses / np.r_[np.nan, asymptote(law, SIZE, Setting(0.1, 0.3)).loss(range(1, 10_001))]
    off = np.abs(ratio[[100, 1000, 10_000]] - 1)
    assert off[0] > off[1] > off[2]
    assert off[2] / off[1] == pytest.approx(10 ** (-1 / 6), rel=0.1)
    assert off[2] < 0.03


def test_the_slope_of_the_signal_phase_is_zeta():
    law, size = PowerLaw(1.5, 1.0), 1_000_000
    losses = losses_of(law, 10, 0.5, size=size)
    slope = np.polyfit(np.log(STEPS), np.log(losses[STEPS]), 1)[0]
    assert law.phase == "signal"
    assert -slope == pytest.approx(law.zeta, rel=0.01)


def test_phases_and_exponents():
    assert PowerLaw(1.5, 3.0).phase == "noise"
    assert PowerLaw(1.5, 3.0).exponent == pytest.approx(4 / 3)
    assert PowerLaw(1.5, 1.0).phase == "signal"
    assert PowerLaw(1.5, 1.0).exponent == pytest.approx(2 / 3)
    assert PowerLaw(0.9, 1.0).phase == "divergent"
    for nu in (1.1, 1.3, 1.5, 1.7):  # ϰ = 2ν − 1, whichever way it is rounded
        assert PowerLaw(nu, 2 * nu - 1).phase == "between"
        assert PowerLaw(nu, nu * (2 - 1 / nu)).phase == "between"


def test_both_parts_are_equal_at_the_transition_and_one_is_the_loss_when_the_other_is_small():
    """A part of 1/9 the other: (t/transition)^(ζ − 2 + 1/ν) = 9."""
    found = asymptote(PowerLaw(1.5, 3.0), SIZE, Setting(0.1, 0.5))
    at = found.transition
    assert found.loss(at) == pytest.approx(2 * found.signal * at**-2.0, rel=1e-9)
    assert not found.holds(0.01 * at)  # there the signal is the loss, in the noise phase
    assert not found.holds(0.99 * 9**1.5 * at)
    assert found.holds(1.01 * 9**1.5 * at)


def test_near_equal_exponents_no_part_is_ever_the_loss():
    near = asymptote(PowerLaw(1.5, 2.0001), 1000, Setting(0.1, 0.5))
    assert near.transition in (0.0, np.inf) or near.transition > 1e300
    assert not near.holds([1.0, 1e6, 1e12]).any()
    between = asymptote(PowerLaw(1.5, 2.0), 1000, Setting(0.1, 0.5))
    assert np.isnan(between.transition)
    assert not between.holds([1.0, 1e6, 1e12]).any()


def test_where_the_signal_is_infinite_no_noise_constant_is_given():
    found = asymptote(PowerLaw(2.0, 1.5), 1000, Setting(0.1, 0.3))
    assert np.isnan(found.noise)
    assert np.isnan(found.transition)
    assert found.loss(100) == pytest.approx(found.signal * 100**-0.75)
    assert not found.holds([1.0, 1e9]).any()


@pytest.mark.parametrize(
    ("law", "setting", "message"),
    [
        (PowerLaw(0.9, 1.0), Setting(0.1, 0.1), r"nu 0.9 given; allowed: > 1"),
        (PowerLaw(1.5, 1.0), Setting(0.1, 3.0), r"lr 3 given, which diverges"),
        (PowerLaw(1.5, 1.0), Setting(0.1, 0.3, 0.0, 2.0), r"tau 2 given; allowed: tau <= 1"),
    ],
)
def test_no_prediction_is_made_where_theory_has_none(law, setting, message):
    with pytest.raises(ValueError, match=message):
        asymptote(law, 1000, setting)


def test_in_the_signal_phase_more_momentum_is_better():
    law = PowerLaw(1.5, 0.75)
    value = constant_of_phase(law, 2000, 0.5)
    found = best_by_momentum(law.eigenvalues(2000), 0.5, [-0.3, 0.0, 0.3, 0.9], value)
    assert sorted(found, key=lambda m: found[m][1]) == [0.9, 0.3, 0.0, -0.3]


def test_in_the_noise_phase_a_negative_momentum_saves_a_few_percent():
    law = PowerLaw(1.5, 4.0)
    values, moments = law.eigenvalues(2000), law.moments(2000)
    assert negative_momentum_helps(values, moments, law.nu)
    momenta = [-0.5, -0.4, -0.3, -0.2, -0.1, 0.0, 0.2]
    best = optimum(best_by_momentum(values, 0.5, momenta, constant_of_phase(law, 2000, 0.5)))
    assert best.momentum < 0
    assert 0.01 < best.saved < 0.06
    late = optimum(best_by_momentum(values, 0.5, momenta, loss_at(values, moments, 2, 1000)))
    assert late.momentum < 0


@pytest.mark.parametrize("kappa", [0.75, 4.0])
def test_the_best_rate_has_the_gain_of_its_phase_at_small_rates(kappa):
    """At β = 0. With noise of γ = 20 the best rate is so small that x <= 0.02, to 1 %."""
    law, gamma, tau = PowerLaw(1.5, kappa), 20.0, 0.0
    values = law.eigenvalues(3000)
    value = constant_of_phase(law, 3000, gamma, tau)
    rate, _ = best_by_momentum(values, gamma, [0.0], value, tau)[0.0]
    assert rate * values.max() < 0.02
    gain = noise_gain(values, Setting(gamma, rate, 0.0, tau))
    assert gain == pytest.approx(best_gain(law), rel=0.01)


def test_the_largest_rate_is_the_boundary():
    from studies.sgd_regimes import convergence_boundary

    values = PowerLaw(1.5, 1.0).eigenvalues(100)
    expected = convergence_boundary(values, 5, 0.4, noise="online")
    assert largest_rate(values, 0.2, 0.4) == pytest.approx(expected, rel=1e-9)


def test_the_map_of_exponents_is_empty_in_the_signal_phase():
    margins = helpful_exponents([1.5, 2.0], [1.0, 6.0], 500)
    assert margins.shape == (2, 2)
    assert np.isnan(margins[0]).all()
    assert np.isfinite(margins[1]).all()


@pytest.mark.parametrize(("kappa", "spread"), [(0.75, 0.01), (3.0, 0.12)])
def test_only_the_budget_counts_where_the_rate_goes_with_the_batch(kappa, spread):
    law, batches = PowerLaw(1.5, kappa), [1, 2, 5, 10, 20]
    values, moments = law.eigenvalues(5000), law.moments(5000)
    scaled = budget_losses(values, moments, batches, [0.02 * b for b in batches], 20_000)
    fixed = budget_losses(values, moments, batches, [0.1] * 5, 20_000)
    assert budget_spread(scaled) < spread
    assert budget_spread(fixed) > 2.0
