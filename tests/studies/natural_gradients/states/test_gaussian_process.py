"""Is one natural step the optimum, where the likelihood is conjugate?"""

import numpy as np
import pytest
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF

from studies.natural_gradients.states.gaussian_process import (
    Gaussian,
    bound,
    by_adam,
    natural_step,
    optimum,
    regression,
    squared_exponential,
)

LENGTH, NOISE = 0.15, 0.01


@pytest.fixture(scope="module")
def model():
    random = np.random.default_rng(0)
    inputs = torch.from_numpy(random.uniform(0, 1, (100, 1)))
    targets = torch.sin(12 * inputs[:, 0]) + 0.1 * torch.from_numpy(random.normal(size=100))
    inducing = torch.linspace(0, 1, 10, dtype=torch.float64)[:, None]
    return regression(inputs, targets, inducing, LENGTH, NOISE)


@pytest.fixture(scope="module")
def start():
    random = np.random.default_rng(1)
    root = torch.from_numpy(random.normal(size=(10, 10))) / 10**0.5
    mean = torch.from_numpy(random.normal(size=10))
    return Gaussian(mean, root @ root.T + 0.1 * torch.eye(10, dtype=torch.float64))


def precision_form(q: Gaussian) -> torch.Tensor:
    """(S⁻¹m, −S⁻¹/2), flattened."""
    precision = torch.linalg.inv(q.covariance)
    return torch.cat([precision @ q.mean, -0.5 * precision.flatten()])


def test_one_step_of_rate_one_is_the_optimum(model, start):
    best = optimum(model)
    found = natural_step(lambda q: bound(model, q), start, 1.0)
    for one, expected in zip(found, best, strict=True):
        assert (one - expected).abs().max() < 1e-10 * max(1.0, float(expected.abs().max()))


def test_the_optimum_is_one(model):
    """The bound's gradient vanishes there, relative to its size at the prior."""

    def slopes(q):
        leaves = [part.clone().requires_grad_() for part in q]
        return torch.autograd.grad(bound(model, Gaussian(*leaves)), leaves)

    best, prior = optimum(model), Gaussian(torch.zeros(10).double(), torch.eye(10).double())
    for at_best, at_prior in zip(slopes(best), slopes(prior), strict=True):
        assert at_best.abs().max() < 1e-10 * at_prior.abs().max()


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_a_step_of_rate_t_leaves_one_minus_t_of_the_way(model, start, rate):
    best, found = optimum(model), natural_step(lambda q: bound(model, q), start, rate)
    expected = (1 - rate) * precision_form(start) + rate * precision_form(best)
    gap = (precision_form(found) - expected).abs().max()
    assert gap < 1e-9 * expected.abs().max()


def test_the_gradient_by_expectations_is_the_natural_gradient():
    """F⁻¹∇ by natural parameters, F the Hessian of the log normaliser, in one dimension."""

    def objective(q):
        return -((q.mean - 0.7) ** 4).sum() + 0.3 * q.covariance.log().sum()

    def by_natural(theta):
        covariance = (-0.5 / theta[1]).reshape(1, 1)
        return objective(Gaussian((covariance[0] * theta[0]).reshape(1), covariance))

    def normaliser(theta):
        return -(theta[0] ** 2) / (4 * theta[1]) - 0.5 * torch.log(-2 * theta[1])

    theta = torch.tensor([0.4, -0.8], dtype=torch.float64)
    slope = torch.autograd.functional.jacobian(by_natural, theta)
    fisher = torch.autograd.functional.hessian(normaliser, theta)
    expected = theta + 0.05 * torch.linalg.solve(fisher, slope)
    covariance = (-0.5 / theta[1]).reshape(1, 1)
    q = Gaussian((covariance[0] * theta[0]).reshape(1), covariance)
    found = precision_form(natural_step(objective, q, 0.05))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_with_all_points_inducing_it_is_scikit_learn_s_regression():
    """Predictive means of the exact process; the jitter of 1e-8 is what differs."""
    random = np.random.default_rng(2)
    inputs = np.sort(random.uniform(0, 3, (12, 1)), axis=0)
    targets, tests = np.sin(inputs[:, 0]), np.linspace(0, 3, 7)[:, None]
    made = regression(*map(torch.from_numpy, (inputs, targets, inputs)), 0.5, NOISE)
    best = optimum(made)
    gram = squared_exponential(*[torch.from_numpy(inputs)] * 2, 0.5)
    root = torch.linalg.cholesky(gram + 1e-8 * torch.eye(12, dtype=gram.dtype))
    across = squared_exponential(torch.from_numpy(inputs), torch.from_numpy(tests), 0.5)
    mean = torch.linalg.solve_triangular(root, across, upper=False).T @ best.mean
    exact = GaussianProcessRegressor(RBF(0.5), alpha=NOISE, optimizer=None).fit(inputs, targets)
    np.testing.assert_allclose(mean, exact.predict(tests), atol=1e-5)
    assert float(bound(made, best)) == pytest.approx(exact.log_marginal_likelihood_value_, abs=1e-4)


def test_adam_climbs_and_stays_below(model, start):
    bounds = by_adam(model, start, 0.1, 30)
    assert len(bounds) == 31
    assert bounds[0] == pytest.approx(float(bound(model, start)), rel=1e-12)
    assert bounds[0] < bounds[-1] < float(bound(model, optimum(model)))


# ---- refusals ------------------------------------------------------------------------------------


def test_steps_that_leave_no_covariance_are_refused(model, start):
    flat = Gaussian(start.mean, 1e-4 * start.covariance)
    with pytest.raises(ValueError, match="rate 3 given: the step leaves no positive definite"):
        natural_step(lambda q: bound(model, q), flat, 3.0)


def test_models_that_are_none_are_refused():
    one = torch.zeros(3, 1, dtype=torch.float64)
    for length, noise in ((0.0, 1.0), (1.0, 0.0), (1.0, float("nan"))):
        with pytest.raises(ValueError, match="allowed: > 0"):
            regression(one, one[:, 0], one, length, noise)
    with pytest.raises(ValueError, match=r"allowed: \(n, d\), \(n,\) and \(M, d\)"):
        regression(one, one[:2, 0], one, 1.0, 1.0)
