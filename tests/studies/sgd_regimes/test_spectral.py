"""Is SD(τ) what its equations say, for one setting, for many, and with a tail of nodes?"""

import numpy as np
import pytest

from studies.sgd_regimes import spectral_diagonal
from studies.sgd_regimes.quadrature import HEAD, all_modes, compressed, gauss
from studies.sgd_regimes.spectral import spectral_curves
from studies.sgd_regimes.theory import PowerLaw

LAW = PowerLaw(1.5, 0.75)


def stepped(values, moments, gamma, lr, momentum, tau, num_steps):
    """The recursion as it is written, one mode after the other in no clever order."""
    x = lr * values
    second, mixed, speed = moments.astype(float), 0 * x, 0 * x
    sums = [second.sum()]
    for _ in range(num_steps):
        noisy = second + gamma * (second.sum() - tau * second)
        speed = x**2 * noisy - 2 * momentum * x * mixed + momentum**2 * speed
        ahead = momentum * mixed - x * second + speed
        second = second - 2 * x * second + 2 * momentum * mixed + speed
        mixed = ahead
        sums.append(second.sum())
    return np.array(sums)


@pytest.mark.parametrize("momentum", [0.0, 0.8, -0.5])
@pytest.mark.parametrize("tau", [-2.0, 0.0, 1.0, 3.0])
def test_it_is_the_recursion(momentum, tau):
    values, moments = LAW.eigenvalues(40), LAW.moments(40)
    gamma = (40 - 5) / (39 * 5)
    found = spectral_diagonal(values, moments, 5, 0.3, momentum, tau, 300)
    expected = stepped(values, moments, gamma, 0.3, momentum, tau, 300) / 80
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_the_numbers_of_the_specification():
    moments = LAW.moments(1000) / LAW.moments(1000).sum()
    losses = spectral_diagonal(LAW.eigenvalues(1000), moments, 10, 1.0, num_steps=1000)
    expected = [2.0736208e-4, 7.7097286e-5, 2.3388618e-5, 5.9043951e-6]
    np.testing.assert_allclose(losses[[1, 10, 100, 1000]], expected, rtol=1e-7)


@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_online_gaussian_data_make_tau_minus_one_exact(momentum):
    """Second moments of weights, off-diagonals too, with E xxᵀCxxᵀ = 2HCH + H tr(HC) (Isserlis)."""
    random, size, batch, lr = np.random.default_rng(0), 8, 3, 0.15
    covariance = LAW.eigenvalues(size)
    start = random.normal(size=size)
    h = np.diag(covariance)
    second, mixed, speed = np.outer(start, start), np.zeros((size, size)), np.zeros((size, size))
    losses = []
    for _ in range(101):
        losses.append(np.trace(h @ second) / (2 * size))
        noise = h @ second @ h + (h @ second @ h + h * np.trace(h @ second)) / batch
        crossed = h @ mixed  # E ĝvᵀ
        speed = momentum**2 * speed - momentum * lr * (crossed + crossed.T) + lr**2 * noise
        ahead = momentum * mixed - lr * second @ h + speed
        drift = h @ second + second @ h
        second = second - lr * drift + momentum * (mixed + mixed.T) + speed
        mixed = ahead
    moments = covariance * start**2  # a residual's modes are √λ times a weight's
    found = spectral_diagonal(covariance, moments, batch, lr, momentum, -1.0, 100, noise="online")
    np.testing.assert_allclose(found, losses, rtol=1e-12)


def test_many_settings_at_once_are_each_by_itself():
    values, moments = LAW.eigenvalues(700), LAW.moments(700)
    batch, lr = np.array([[1], [10]]), np.array([0.2, 0.5, 1.0])
    found = spectral_diagonal(values, moments, batch, lr, 0.3, 0.5, 50)
    assert found.shape == (2, 3, 51)
    for i, j in np.ndindex(2, 3):
        one = spectral_diagonal(values, moments, int(batch[i, 0]), lr[j], 0.3, 0.5, 50)
        np.testing.assert_allclose(found[i, j], one, rtol=1e-13)


@pytest.mark.parametrize("nu", [0.8, 1.5, 3.0])
@pytest.mark.parametrize(("lr", "momentum"), [(0.3, 0.0), (0.1, 0.9), (0.5, -0.5), (0.02, 0.99)])
def test_a_tail_of_nodes_is_all_modes(nu, lr, momentum):
    """Error at most 1e-10 of the loss, at every step."""
    law = PowerLaw(nu, 1.0)
    values, moments = law.eigenvalues(3000), law.moments(3000)
    assert len(compressed(values, moments).eigenvalues) < 600
    found = spectral_diagonal(values, moments, 100, lr, momentum, 1.0, 1500)
    exact = spectral_curves(values, moments, 100, lr, momentum, 1.0, 1500).losses
    np.testing.assert_allclose(found, exact, rtol=1e-10)


def test_a_tail_of_no_order_and_with_zeros_is_all_modes():
    random = np.random.default_rng(1)
    values = np.r_[random.permutation(LAW.eigenvalues(1500)), np.zeros(300)]
    moments = random.random(1800)
    found = spectral_diagonal(values, moments, 50, 0.3, 0.5, 1.0, 300)
    exact = spectral_curves(values, moments, 50, 0.3, 0.5, 1.0, 300).losses
    np.testing.assert_allclose(found, exact, rtol=1e-10)


def test_small_spectra_are_left_as_they_are():
    values, moments = LAW.eigenvalues(HEAD), LAW.moments(HEAD)
    for found, expected in zip(
        compressed(values, moments), all_modes(values, moments), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def test_gauss_nodes_integrate_polynomials_exactly():
    random = np.random.default_rng(2)
    points, weights = random.random(200) + 1.0, random.random(200)
    nodes, at = gauss(points, weights, 6)
    assert len(nodes) == 6
    assert (at > 0).all()
    for degree in range(12):
        expected = (weights * points**degree).sum()
        assert (at * nodes**degree).sum() == pytest.approx(expected, rel=1e-12)


def test_modes_add_up_to_the_loss():
    curves = spectral_curves(LAW.eigenvalues(30), LAW.moments(30), 4, 0.5, 0.4, 1.0, 60)
    np.testing.assert_allclose(curves.modes.sum(1) / 60, curves.losses, rtol=1e-13)


def test_the_loss_and_noise_are_of_the_samples_that_are_given():
    values, moments = LAW.eigenvalues(30), LAW.moments(30)
    found = spectral_diagonal(values, moments, 4, 0.5, num_samples=90, num_steps=20)
    expected = stepped(values, moments, 86 / (89 * 4), 0.5, 0.0, 1.0, 20) / 180
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_jacobis_schedule_takes_its_rate_and_momentum_in_every_step():
    values, moments = LAW.eigenvalues(10), LAW.moments(10)
    found = spectral_diagonal(values, moments, 10, 0.3, num_steps=1, schedule=("jacobi", 1, 0))
    rate = 0.3 * 3 / 2  # (a + b + 2)/(a + 1)
    expected = (moments * (1 - rate * values) ** 2).sum() / 20
    assert found[1] == pytest.approx(expected, rel=1e-12)


def test_a_run_that_overflows_says_at_which_step():
    values, moments = LAW.eigenvalues(10), LAW.moments(10)
    with pytest.raises(OverflowError, match=r"overflows at step \d+ of 2000"):
        spectral_diagonal(values, moments, 2, 9.0, num_steps=2000)


def test_of_many_runs_those_that_overflow_become_infinite():
    values, moments = LAW.eigenvalues(10), LAW.moments(10)
    with pytest.warns(RuntimeWarning, match=r"1 of 2 runs overflow, the first at step \d+"):
        found = spectral_diagonal(values, moments, 2, [0.1, 9.0], num_steps=2000)
    assert np.isfinite(found[0]).all()
    assert np.isinf(found[1, -1])
