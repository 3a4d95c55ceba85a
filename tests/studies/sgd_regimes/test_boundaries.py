"""Are the boundaries where spectral radius and growth say that they are?"""

from itertools import product

import numpy as np
import pytest

from studies.sgd_regimes import averaged, averaged_boundary, boundaries, convergence_boundary
from studies.sgd_regimes.boundaries import summed_response, verdict
from studies.sgd_regimes.checks import noise_strength
from studies.sgd_regimes.generating import Setting
from studies.sgd_regimes.samples import synthetic
from studies.sgd_regimes.theory import PowerLaw

VALUES = PowerLaw(1.5, 1.0).eigenvalues(40)


def radius(values, gamma, lr, momentum, tau):
    """Spectral radius of SD(τ)'s dense step on (C, J, P)."""
    n, x = len(values), np.diag(lr * values)
    one, zero = np.eye(n), np.zeros((n, n))
    kick = x @ x @ (one + gamma * (np.ones((n, n)) - tau * one))
    speed = np.hstack([kick, -2 * momentum * x, momentum**2 * one])
    mixed = np.hstack([-x, momentum * one, zero]) + speed
    second = np.hstack([one - 2 * x, 2 * momentum * one, zero]) + speed
    return np.abs(np.linalg.eigvals(np.vstack([second, mixed, speed]))).max()


@pytest.mark.parametrize("tau", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("momentum", [-0.5, 0.0, 0.5, 0.9])
def test_sds_boundary_is_where_its_spectral_radius_is_one(momentum, tau):
    for batch, noise in product((1, 5, 40), ("finite", "online")):
        gamma = float(noise_strength(batch, 40, noise))
        edge = convergence_boundary(VALUES, batch, momentum, tau, noise=noise)
        assert radius(VALUES, gamma, 0.999 * edge, momentum, tau) < 1
        assert radius(VALUES, gamma, 1.001 * edge, momentum, tau) > 1


def test_the_verdict_is_the_spectral_radiuss_on_a_grid():
    for lr, momentum, tau in product((0.1, 0.9, 1.5, 1.9, 2.6), (-0.6, 0.0, 0.8), (-1.0, 0.3, 1.0)):
        setting = Setting(0.3, lr, momentum, tau)
        stays = radius(VALUES, 0.3, lr, momentum, tau) < 1
        assert verdict(VALUES, setting).converges == stays, setting


def test_a_negative_gain_is_not_taken_for_convergence():
    """At τ = −1, α = 1.9 the formula gives Ũ(1) < 1 where a mode diverges by itself."""
    found = verdict(VALUES, Setting(0.3, 1.9, 0.0, -1.0))
    assert not found.converges
    assert "a mode diverges" in found.reason


def test_closed_forms_of_the_boundary():
    values = PowerLaw(1.5, 1.0).eigenvalues(200)
    assert convergence_boundary(values, 1) == pytest.approx(2 / values.sum(), rel=1e-9)
    gamma = float(noise_strength(10, 200))
    momentum = (1 - gamma) / (1 + gamma)
    expected = 2 * (1 - momentum) / (gamma * values.sum())
    assert convergence_boundary(values, 10, momentum) == pytest.approx(expected, rel=1e-9)
    assert convergence_boundary(values, 200, 0.3) == pytest.approx(2 * 1.3, rel=1e-12)


def test_near_momentum_one_the_boundary_is_that_of_the_critical_eigenvalue():
    from scipy.optimize import brentq

    values, gamma = PowerLaw(1.5, 1.0).eigenvalues(200), float(noise_strength(10, 200))
    critical = brentq(lambda c: (values / (values + c)).sum() - 1, 1e-6, 10)
    for momentum, ratio in ((0.9, 0.91), (0.999, 0.999)):
        expected = 2 * (1 - momentum) / (gamma * critical)
        found = convergence_boundary(values, 10, momentum)
        assert found / expected == pytest.approx(ratio, abs=0.006)


def test_the_boundaries_of_the_specification(problem):
    values = PowerLaw(1.5, 1.0).eigenvalues(200)
    assert convergence_boundary(values, 10) == pytest.approx(1.96415958, rel=1e-8)
    assert averaged_boundary(problem.kernel, 10) == pytest.approx(1.9636, abs=5e-5)


@pytest.mark.parametrize(("batch", "momentum"), [(1, 0.0), (4, 0.0), (4, 0.6), (4, -0.5), (2, 0.9)])
def test_the_averaged_boundary_is_where_losses_begin_to_grow(batch, momentum):
    """To 2 %: growth over the last steps at 0.98 and 1.02 of it."""
    kernel, residual = synthetic(24, 1.2, 1.0)
    edge = averaged_boundary(kernel, batch, momentum)
    for factor, grows in ((0.98, False), (1.02, True)):
        losses = averaged(kernel, residual, batch, factor * edge, momentum, 1500)
        assert (losses[-1] > losses[-200]) == grows


def test_the_averaged_boundary_is_the_dense_operators(random_problem):
    """Of N = 5: the step on vec(C, J, P), its spectral radius 1."""
    kernel = random_problem.kernel[:5, :5]
    edge = averaged_boundary(kernel, 2, 0.4)
    for factor, above in ((0.999, False), (1.001, True)):
        step = dense_step(kernel, 2, factor * edge, 0.4)
        assert (np.abs(np.linalg.eigvals(step)).max() > 1) == above


def decoupled(size, block, entry):
    """Samples that share one direction, one that shares none, and others that hardly count."""
    kernel = np.diag(np.full(size, 1e-3))
    kernel[:block, :block] = 1 / block
    kernel[block, block] = entry
    return kernel


def test_a_sample_that_meets_no_other_may_be_the_first_to_diverge():
    kernel = decoupled(12, 6, 0.26)
    edge = averaged_boundary(kernel, 2)
    for factor, above in ((0.999, False), (1.001, True)):
        step = dense_step(kernel, 2, factor * edge, 0.0)  # 1 where modes of λ = 0 stay
        assert (np.abs(np.linalg.eigvals(step)).max() > 1 + 1e-9) == above
    # One entry alone, x = αλ: C⁺ = [1 − 2x + (1 − γ)x² + γNx²] C.
    gamma, rate = float(noise_strength(2, 60)), 0.07
    alone = 2 / (rate * (1 - gamma + 60 * gamma))
    assert averaged_boundary(decoupled(60, 20, 0.07), 2) == pytest.approx(alone, rel=1e-6)


def test_a_boundary_that_is_not_found_is_not_made_up(monkeypatch, random_problem):
    monkeypatch.setattr(boundaries, "LANCZOS_STEPS", 2)
    with pytest.raises(ArithmeticError, match=r"Perron root is not found to 1e-10 in 2 steps"):
        averaged_boundary(random_problem.kernel, 2)


def dense_step(kernel, batch, lr, momentum):
    size = len(kernel)
    gamma = float(noise_strength(batch, size))

    def one(state):
        second, mixed, speed = state.reshape(3, size, size)
        crossed = kernel @ mixed
        noise = (1 - gamma) * second + gamma * size * np.diag(np.diag(second))
        speed = momentum**2 * speed - lr * momentum * (crossed + crossed.T)
        speed = speed + lr**2 * kernel @ noise @ kernel
        ahead = momentum * mixed - lr * second @ kernel + speed
        drift = kernel @ second + second @ kernel
        second = second - lr * drift + momentum * (mixed + mixed.T) + speed
        return np.stack([second, ahead, speed]).ravel()

    return np.stack([one(unit) for unit in np.eye(3 * size**2)], axis=1)


def test_circulant_kernels_have_the_same_boundary_in_both_regimes():
    from scipy.linalg import circulant

    row = np.random.default_rng(0).normal(size=16)
    kernel = circulant(row) @ circulant(row).T
    kernel /= np.linalg.eigvalsh(kernel)[-1]
    spectral = convergence_boundary(np.linalg.eigvalsh(kernel), 3, 0.5)
    assert averaged_boundary(kernel, 3, 0.5) == pytest.approx(spectral, rel=1e-6)


def test_batches_of_all_samples_have_gradient_descents_boundary(random_problem):
    assert averaged_boundary(random_problem.kernel, 12, 0.5) == pytest.approx(3.0, rel=1e-12)


def test_a_summed_response_is_the_solution_of_its_system():
    a, b, beta, gamma = 0.7, 0.2, 0.4, 0.1
    speed = np.array([(1 - gamma) * a * b, -beta * a, -beta * b, beta**2])
    rows = np.array([[1 - a - b, beta, beta, 0], [-b, beta, 0, 0], [-a, 0, beta, 0], [0, 0, 0, 0]])
    expected = np.linalg.solve(np.eye(4) - (rows + speed), np.ones(4))[0]
    found = summed_response(np.array(a), np.array(b), beta, gamma)
    assert found == pytest.approx(expected, rel=1e-12)


def test_no_verdict_is_given_beyond_tau_one():
    with pytest.raises(ValueError, match=r"tau 2 given; allowed: tau <= 1"):
        convergence_boundary(VALUES, 5, tau=2.0)
    with pytest.raises(ValueError, match=r"tau 2 given; allowed: tau <= 1"):
        verdict(VALUES, Setting(0.1, 0.1, 0.0, 2.0))
    with pytest.raises(ValueError, match=r"tau -inf given; allowed: finite and <= 1"):
        convergence_boundary(VALUES, 5, tau=-np.inf)
