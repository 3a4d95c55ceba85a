"""Are the generating functions those of SD(τ), and do its losses renew themselves as they say?"""

import numpy as np
import pytest

from studies.sgd_regimes import spectral_diagonal
from studies.sgd_regimes.checks import noise_strength
from studies.sgd_regimes.generating import (
    Setting,
    loss_series,
    noise_gain,
    noise_series,
    renewal_kernels,
    renewed,
)
from studies.sgd_regimes.theory import PowerLaw

LAW = PowerLaw(1.5, 1.0)
VALUES, MOMENTS = LAW.eigenvalues(100), LAW.moments(100)
CASES = [(0.5, 0.0, 1.0), (0.3, 0.7, 0.0), (0.4, -0.5, -1.0), (1.2, 0.3, 0.5)]


def setting_of(lr, momentum, tau):
    return Setting(float(noise_strength(10, 100)), lr, momentum, tau)


@pytest.mark.parametrize("case", CASES)
def test_the_generating_function_is_the_sum_over_losses(case):
    losses = spectral_diagonal(VALUES, MOMENTS, 10, *case, num_steps=600)
    summed = (losses * 0.9 ** np.arange(601)).sum()  # what is left over is below 1e-27
    found = loss_series(0.9, VALUES, MOMENTS, setting_of(*case))
    assert found == pytest.approx(summed, rel=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_losses_obey_the_renewal_equation(case):
    losses = spectral_diagonal(VALUES, MOMENTS, 10, *case, num_steps=300)
    u, v = renewal_kernels(VALUES, MOMENTS, setting_of(*case), 300)
    np.testing.assert_allclose(renewed(u, v, 100), losses, rtol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_the_closed_form_at_one_is_the_limit(case):
    setting = setting_of(*case)
    limit = noise_series(1.0, VALUES, setting)
    assert noise_gain(VALUES, setting) == pytest.approx(limit, rel=1e-12)


def test_a_mode_that_diverges_by_itself_has_no_finite_gain():
    assert noise_gain(VALUES, setting_of(2.5, 0.0, 1.0)) == np.inf
    assert noise_gain(VALUES, setting_of(1.9, 0.0, -1.0)) == np.inf  # the formula gives < 0
