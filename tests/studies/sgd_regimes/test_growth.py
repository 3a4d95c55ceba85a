"""Do divergent runs grow as they are said to?"""

import math

import pytest

from studies.sgd_regimes import convergence_boundary, spectral_diagonal
from studies.sgd_regimes.checks import noise_strength
from studies.sgd_regimes.generating import Setting
from studies.sgd_regimes.growth import growth
from studies.sgd_regimes.theory import PowerLaw

LAW = PowerLaw(1.5, 1.0)
VALUES, MOMENTS = LAW.eigenvalues(100), LAW.moments(100)


@pytest.mark.parametrize("momentum", [0.0, 0.8, -0.4])
@pytest.mark.parametrize("tau", [-1.0, 1.0])
@pytest.mark.parametrize("factor", [1.1, 1.5])
def test_divergent_losses_are_amplitude_times_rate_to_the_t(momentum, tau, factor):
    lr = factor * convergence_boundary(VALUES, 2, momentum, tau)
    found = growth(VALUES, MOMENTS, Setting(float(noise_strength(2, 100)), lr, momentum, tau))
    assert found.rate > 1
    steps = math.ceil(60 / math.log(found.rate))  # until the loss is e^60 times its amplitude
    losses = spectral_diagonal(VALUES, MOMENTS, 2, lr, momentum, tau, num_steps=steps)
    assert losses[-1] == pytest.approx(found.amplitude * found.rate**steps, rel=1e-6)


def test_a_convergent_run_has_no_growth():
    with pytest.raises(ValueError, match=r"lr 0.1 given, at which the run converges"):
        growth(VALUES, MOMENTS, Setting(0.1, 0.1))


def test_without_noise_no_growth_of_all_modes_is_given():
    with pytest.raises(ValueError, match=r"γ = 0 given, batches of all samples; allowed: γ > 0"):
        growth(VALUES, MOMENTS, Setting(0.0, 3.0))
