"""Are the expected values integrals of the posterior, and the steps what curvatures allow?"""

import numpy as np
import pytest
import torch

from degeneracy.curvature.largest import eigenvalues_of
from degeneracy.models.coefficients import quadratic_llc
from studies.min_singular_models.cases import cases, half_squared_error, linear_data
from studies.min_singular_models.expected import (
    gaussian_llc,
    langevin_step,
    population_hessian,
    principal_axes,
)
from studies.min_singular_models.settings import LinearSettings


def test_expected_value_of_a_sample_is_the_gaussian_integral():
    """With noise, so that w* = 0 is not the minimum; against E[wᵀHw/2 − bᵀw] from mean and
    covariance as matrices.
    """
    settings = LinearSettings(num_weights=6, ranks=[4], num_samples=9, noise=1.0)
    inputs, targets = linear_data(settings)
    x, y = inputs[:, :4].double(), targets.double()
    nbeta, localization = 7.0, 0.3
    hessian, slope = x.T @ x / 9, x.T @ y / 9
    precision = nbeta * hessian + localization * torch.eye(4, dtype=torch.float64)
    covariance = torch.linalg.inv(precision)
    mean = nbeta * covariance @ slope
    rise = ((hessian @ covariance).trace() + mean @ hessian @ mean) / 2 - slope @ mean
    found = gaussian_llc(*principal_axes(inputs[:, :4], targets), nbeta, localization)
    assert found == pytest.approx(float(nbeta * rise), rel=1e-9)
    at_truth, below = half_squared_error(torch.zeros(9), y), half_squared_error(x @ mean, y)
    assert below < at_truth  # the posterior's mean fits the noise
    assert found < quadratic_llc(torch.linalg.eigvalsh(hessian).tolist(), nbeta, localization)


@pytest.mark.parametrize(
    ("name", "eigenvalues"),
    [
        ("population, r = 10", [1.0] * 10 + [0.0] * 30),
        ("w₁² w₂²", [0.0] * 2),
        ("(4, 2, 4), r = 2", [2.0] * 4 + [1.0] * 8 + [0.0] * 4),
    ],
)
def test_hessians_of_population_losses_have_the_eigenvalues_of_theory(
    small_settings, name, eigenvalues
):
    (case,) = (case for case in cases(small_settings) if case.name == name)
    found = eigenvalues_of(population_hessian(case.model), len(eigenvalues))
    np.testing.assert_allclose(found, eigenvalues, atol=1e-5)


def test_the_step_is_what_the_curvature_at_the_minimum_allows(small_settings):
    model = cases(small_settings)[0].model  # curvature 1 in the directions that matter
    assert langevin_step(model, 9.0, 1.0, 0.1) == pytest.approx(0.1 / 10, rel=0.02)


def test_the_step_is_smaller_where_only_the_surroundings_are_curved(small_settings):
    (crossing,) = (case for case in cases(small_settings) if case.name == "w₁² w₂²")
    assert langevin_step(crossing.model, 30.0, 3.0, 0.1) < 0.1 / 3  # no curvature at w*
