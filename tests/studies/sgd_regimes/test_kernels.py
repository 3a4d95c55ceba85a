"""Are kernels right: against wide networks, plain derivatives, and what a file holds?"""

import numpy as np
import pytest
import safetensors.numpy
import torch

from degeneracy.models.networks import FFNN
from studies.sgd_regimes import kernels
from studies.sgd_regimes.kernels import (
    analytic_ntk,
    empirical_ntk,
    features_of,
    fit_power_laws,
    load_kernel,
    module_ntk,
    rescaled,
    spectrum,
)
from studies.sgd_regimes.network import initial_weights, network_ntk, outputs
from studies.sgd_regimes.samples import load_samples
from studies.sgd_regimes.theory import PowerLaw


@pytest.fixture(scope="module")
def inputs():
    return load_samples("digits", 40, seed=0).inputs


def test_the_analytic_ntk_is_what_wide_networks_have(inputs):
    """Errors of one network fall as 1/√m, to a quarter; the mean of 4 at m = 4,096 has 1.5 %."""
    analytic = analytic_ntk(inputs)
    found = {}
    for width, seeds in ((64, range(4)), (4096, range(4))):
        weights = [initial_weights(width, 64, seed) for seed in seeds]
        ntks = [network_ntk(w, torch.as_tensor(inputs)) for w in weights]
        off = [np.linalg.norm(k - analytic) / np.linalg.norm(analytic) for k in ntks]
        found[width] = np.mean(off), np.mean(ntks, axis=0)
    assert found[4096][0] < 0.04
    assert found[64][0] / found[4096][0] == pytest.approx(8, rel=0.25)  # √(4096/64)
    mean = found[4096][1]
    assert np.linalg.norm(mean - analytic) / np.linalg.norm(analytic) < 0.015


def test_the_analytic_ntk_is_symmetric_positive_and_the_same_for_others(inputs):
    kernel = analytic_ntk(inputs)
    np.testing.assert_array_equal(kernel, kernel.T)
    assert np.linalg.eigvalsh(kernel)[0] > 0
    others = analytic_ntk(inputs[:30], inputs[30:])
    np.testing.assert_allclose(others, kernel[30:, :30], rtol=1e-12)


def test_the_analytic_ntk_of_equal_samples_is_the_closed_form():
    x = np.array([[1.0, -2.0, 0.5], [0.0, 1.0, 1.0]])
    norms = (x**2).sum(1) / 3 + 1
    np.testing.assert_allclose(np.diag(analytic_ntk(x)), norms, rtol=1e-12)  # ½Σ + ½Σ


def test_the_empirical_ntk_is_the_gram_matrix_of_gradients(inputs, monkeypatch):
    weights, x = initial_weights(7, 64, 0), torch.as_tensor(inputs[:6])
    rows = []
    for sample in x:
        leaves = {name: w.clone().requires_grad_() for name, w in weights.items()}
        found = torch.autograd.grad(outputs(leaves, sample), list(leaves.values()))
        rows.append(torch.cat([g.flatten() for g in found]))
    expected = torch.stack(rows) @ torch.stack(rows).T
    torch.testing.assert_close(empirical_ntk(outputs, weights, x), expected)
    monkeypatch.setattr(kernels, "JACOBIAN_NUMBERS", 1000)  # two samples at a time
    torch.testing.assert_close(empirical_ntk(outputs, weights, x), expected)


def test_the_ntk_of_a_module_has_a_row_for_each_output(monkeypatch):
    torch.manual_seed(0)
    model, x = FFNN(3, 1, (1, 2, 2), 2).double(), torch.randn(4, 1, 2, 2, dtype=torch.float64)
    rows = []
    for output in model(x).flatten():
        found = torch.autograd.grad(output, list(model.parameters()), retain_graph=True)
        rows.append(torch.cat([g.flatten() for g in found]))
    expected = torch.stack(rows) @ torch.stack(rows).T
    monkeypatch.setattr(kernels, "JACOBIAN_NUMBERS", 100)
    torch.testing.assert_close(module_ntk(model, x), expected)


def test_a_rescaled_kernel_has_largest_eigenvalue_one(inputs):
    raw = analytic_ntk(inputs)
    kernel, unit = rescaled(raw)
    assert np.linalg.eigvalsh(kernel)[-1] == pytest.approx(1.0)
    assert unit == pytest.approx(np.linalg.eigvalsh(raw)[-1] / 40)


def test_features_give_the_kernel_back(random_problem):
    features = features_of(random_problem.kernel)
    np.testing.assert_allclose(features @ features.T / 12, random_problem.kernel, atol=1e-12)


def test_a_power_law_is_found_again():
    law = PowerLaw(1.4, 0.9, 0.5, 2.0)
    fit = fit_power_laws(law.eigenvalues(200_000), law.moments(200_000), 50, 500)
    assert fit.nu == pytest.approx(1.4, rel=1e-9)
    assert fit.scale == pytest.approx(0.5, rel=1e-9)
    assert fit.kappa == pytest.approx(0.9, rel=0.02)
    assert fit.amplitude == pytest.approx(2.0, rel=0.05)


def test_a_fit_needs_three_modes():
    with pytest.raises(ValueError, match=r"modes 10 to 11 given; allowed: at least three"):
        fit_power_laws(np.ones(40), np.ones(40), 10, 11)


def test_saved_kernels_are_read_from_three_kinds_of_file(random_problem, tmp_path):
    kernel, residual = random_problem
    np.save(tmp_path / "k.npy", kernel)
    np.savez(tmp_path / "k.npz", kernel=kernel, residual=residual)
    safetensors.numpy.save_file({"kernel": kernel}, tmp_path / "k.safetensors")
    for suffix, expected in ((".npy", None), (".npz", residual), (".safetensors", None)):
        found = load_kernel(tmp_path / f"k{suffix}")
        np.testing.assert_allclose(found.kernel, kernel, rtol=1e-14)
        np.testing.assert_array_equal(found.residual, expected)


def test_files_that_hold_no_kernel_are_refused(random_problem, tmp_path):
    np.savez(tmp_path / "other.npz", matrix=random_problem.kernel)
    (tmp_path / "broken.npy").write_bytes(b"nothing")
    np.save(tmp_path / "skew.npy", random_problem.kernel + np.triu(np.ones((12, 12)), 1))
    np.save(tmp_path / "negative.npy", random_problem.kernel - 0.5 * np.eye(12))
    for name, message in (
        ("other.npz", r"holds matrix; allowed: an array called kernel"),
        ("broken.npy", r"cannot be read"),
        ("missing.npy", r"cannot be read"),
        ("kernel.txt", r"allowed: \.npy, \.npz, \.safetensors"),
        ("skew.npy", r"not symmetric: \|K - Kᵀ\| up to 1 "),
        ("negative.npy", r"not positive semi-definite: smallest eigenvalue -0\.\d+"),
    ):
        with pytest.raises(ValueError, match=message):
            load_kernel(tmp_path / name)


def test_moments_are_those_of_the_eigenbasis(random_problem):
    values, moments = spectrum(*random_problem)
    assert (np.diff(values) <= 0).all()
    assert moments.sum() == pytest.approx(random_problem.residual @ random_problem.residual)
