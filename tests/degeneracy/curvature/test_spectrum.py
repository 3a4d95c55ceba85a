"""Does the quadrature give the spectrum of the dense Hessian, its rank and what follows from it,
with honest errors?
"""

import copy
import doctest
import json

import numpy as np
import pytest
import torch
from curvlinops import HessianLinearOperator
from torch import nn
from torch.func import functional_call, hessian
from torch.nn.functional import cross_entropy, mse_loss

from degeneracy.curvature import spectrum
from degeneracy.curvature.largest import eigenvalues_of, top_eigenvalues
from degeneracy.curvature.operators import Operator, hessian_operator, random_signs
from degeneracy.curvature.spectrum import (
    count_above,
    density,
    density_grid,
    hessian_spectrum,
    largest_ritz_values,
    quadratic_llc,
    rank_threshold,
    shortened,
    spectral_sum,
    spectrum_from,
    spectrum_of,
    tridiagonals,
)
from degeneracy.models import coefficients
from degeneracy.models.known import DeepLinear, NormalCrossing, Quadratic
from degeneracy.models.networks import FFNN


def dense_hessian(loss, parameters: dict[str, torch.Tensor]) -> torch.Tensor:
    """The Hessian of a scalar function of named parameters written out, in float64."""
    parameters = {name: p.detach().double() for name, p in parameters.items()}
    sizes = [p.numel() for p in parameters.values()]

    def of_flat(flat):
        pieces = zip(parameters.items(), flat.split(sizes), strict=True)
        return loss({name: piece.view_as(p) for (name, p), piece in pieces})

    return hessian(of_flat)(torch.cat([p.flatten() for p in parameters.values()]))


def dense_of_model(model, loss_fn, inputs, targets) -> torch.Tensor:
    model = copy.deepcopy(model).double()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return dense_hessian(
        lambda p: loss_fn(functional_call(model, p, (inputs.double(),)), targets), trained
    )


def on_probes(matrix: torch.Tensor, function, num_probes: int, seed: int) -> float:
    """Mean of vᵀ f(A) v over the probes that the spectrum uses: what quadrature without error
    gives.
    """
    values, vectors = np.linalg.eigh(matrix.numpy())
    parts = vectors.T @ random_signs(num_probes, len(values), seed).double().numpy().T
    return float((function(values)[:, None] * parts**2).sum(0).mean())


def diagonal(eigenvalues) -> Operator:
    """For which probes of ±1 have no error: vᵀ f(A) v = tr f(A)."""
    eigenvalues = torch.as_tensor(eigenvalues)
    return Operator(lambda rows: rows * eigenvalues, len(eigenvalues), eigenvalues.dtype)


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    return model, torch.randn(40, 6), torch.randint(3, (40,))


@pytest.fixture(scope="module")
def dense(classifier):
    return dense_of_model(classifier[0], cross_entropy, *classifier[1:])


def test_products_are_those_of_the_dense_hessian_in_the_order_of_the_weights(classifier, dense):
    model, inputs, targets = classifier
    rows = torch.randn(11, len(dense))
    for batch_size in (40, 7):
        images = hessian_operator(model, cross_entropy, (inputs, targets), batch_size).products(
            rows
        )
        torch.testing.assert_close(images.double(), rows.double() @ dense, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "function", [np.square, np.exp, lambda h: h > 0.02, lambda h: np.maximum(h, 0)]
)
def test_with_all_steps_the_quadrature_is_exact_for_every_function(classifier, dense, function):
    model, inputs, targets = classifier
    found = hessian_spectrum(model, cross_entropy, (inputs, targets), num_probes=6, seed=3)
    estimate = spectral_sum(found, function)
    assert estimate.value == pytest.approx(on_probes(dense, function, 6, 3), rel=1e-3)
    assert estimate.quadrature_error == pytest.approx(0, abs=1e-3)
    np.testing.assert_allclose(found.weights.sum(1), 1)


@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_few_steps_are_exact_for_polynomials_of_degree_below_twice_their_number(num_steps):
    torch.manual_seed(1)
    matrix = torch.randn(60, 60, dtype=torch.float64)
    matrix = (matrix + matrix.T) / 16
    operator = Operator(lambda rows: rows @ matrix, 60, torch.float64)
    found = spectrum_of(operator, num_probes=4, num_steps=num_steps, seed=2)
    degree = 2 * num_steps - 1
    assert spectral_sum(found, lambda h: h**degree).value == pytest.approx(
        on_probes(matrix, lambda h: h**degree, 4, 2), rel=1e-9
    )


def test_estimates_are_within_their_standard_errors_and_these_are_the_derived_ones(dense):
    values, vectors = torch.linalg.eigh(dense)
    threshold = float(values[-12:-10].mean())  # between two eigenvalues
    projector = vectors[:, -11:] @ vectors[:, -11:].T
    # Rademacher probes: Var(vᵀPv) = 2 Σ_{i≠j} P_ij².
    expected = (
        (2 * (projector.square().sum() - projector.diag().square().sum()) / 100).sqrt().item()
    )
    exact_llc = coefficients.quadratic_llc(values.clamp(min=0).numpy(), nbeta=30, localization=2)
    operator = Operator(lambda rows: rows @ dense, len(dense), torch.float64)
    for seed in range(3):
        found = spectrum_of(operator, num_probes=100, num_steps=50, seed=seed)
        rank, llc = count_above(found, threshold), quadratic_llc(found, nbeta=30, localization=2)
        assert abs(rank.value - 11) < 4 * rank.std_error
        # a deviation from 100 values is within 4 σ
        assert rank.std_error == pytest.approx(expected, rel=0.3)
        assert abs(llc.value - exact_llc) < 4 * llc.std_error


def test_around_a_spike_at_zero_the_error_is_less_than_that_of_gauss_and_is_known():
    """Of a network nearly all eigenvalues lie there, and max(h, 0) has its kink there."""
    rng = np.random.default_rng(0)
    eigenvalues = np.concatenate(
        [rng.normal(0, 0.02, 4000) * rng.random(4000) ** 3, rng.exponential(3, 12)]
    )
    exact = np.maximum(eigenvalues, 0).sum()
    found = spectrum_of(diagonal(eigenvalues), num_probes=3, num_steps=60)
    off, off_gauss, stated = [], [], []
    for num_steps in range(30, 61):
        part = shortened(found, num_steps)
        estimate = spectral_sum(part, lambda h: np.maximum(h, 0))
        gauss = (
            (part.weights * np.maximum(part.nodes, 0))[:, : num_steps - 1].sum(1).mean()
            * 2
            * part.dim
        )
        off.append(estimate.value - exact)
        off_gauss.append(gauss - exact)
        stated.append(estimate.quadrature_error)
    assert np.square(off).mean() < np.square(off_gauss).mean() / 4
    assert np.square(off).mean() < np.square(stated).mean()


def test_in_float32_a_hundred_steps_find_the_spectrum_of_a_small_network():
    torch.manual_seed(0)
    model = FFNN(10, 1, in_shape=(1, 6, 6))
    inputs, targets = torch.randn(60, 1, 6, 6), torch.randint(10, (60,))
    exact = dense_of_model(model, cross_entropy, inputs, targets)
    found = hessian_spectrum(model, cross_entropy, (inputs, targets), num_probes=5)
    largest = float(torch.linalg.eigvalsh(exact)[-1])
    assert found.nodes.max() == pytest.approx(largest, rel=1e-4)
    for function in (
        lambda h: h,
        np.square,
        lambda h: np.maximum(h, 0),
        lambda h: h > 0.05 * largest,
    ):
        estimate, on_these = spectral_sum(found, function), on_probes(exact, function, 5, 0)
        assert abs(estimate.value - on_these) < 1e-3 * abs(on_these) + 2 * estimate.quadrature_error


def test_fewer_steps_afterwards_are_fewer_steps(classifier):
    model, inputs, targets = classifier
    operator = hessian_operator(model, cross_entropy, (inputs, targets))
    long, short = (spectrum_of(operator, num_probes=3, num_steps=steps) for steps in (30, 12))
    np.testing.assert_allclose(shortened(long, 12).nodes, short.nodes, rtol=1e-6, atol=1e-7)


def test_a_spectrum_comes_back_from_json_to_the_bit(classifier):
    model, inputs, targets = classifier
    found = hessian_spectrum(model, cross_entropy, (inputs, targets), num_probes=3, num_steps=12)
    again = spectrum_from(json.loads(json.dumps(tridiagonals(found))))
    np.testing.assert_array_equal(again.nodes, found.nodes)
    assert quadratic_llc(again, 10, 1) == quadratic_llc(found, 10, 1)


def test_ritz_values_are_the_largest_eigenvalues_from_below(classifier):
    model, inputs, targets = classifier
    operator = hessian_operator(model, cross_entropy, (inputs, targets))
    exact = eigenvalues_of(operator, 5)
    found = largest_ritz_values(spectrum_of(operator, num_probes=2, num_steps=20), 5)
    np.testing.assert_allclose(found, exact, rtol=0.01)
    assert (found <= exact * (1 + 1e-5)).all()


def test_ritz_values_that_only_fill_up_are_no_eigenvalues():
    """−1 and −2 in a matrix of four: the Krylov space is exhausted after two steps, and zeros fill
    up T.
    """
    found = spectrum_of(diagonal(np.array([-1.0, -1.0, -2.0, -2.0])), num_probes=4, num_steps=9)
    np.testing.assert_allclose(largest_ritz_values(found, 1), [-1])
    np.testing.assert_allclose(largest_ritz_values(found, 3), [-1, -2])
    with pytest.raises(ValueError, match="allowed"):
        largest_ritz_values(found, 0)


# Rank


def deep_linear_problem(widths, rank):
    """Data whose mean loss is the population loss: inputs with identity covariance."""
    model = DeepLinear(widths, rank)
    inputs = widths[0] ** 0.5 * torch.eye(widths[0])
    return (
        model,
        lambda out, target: (out - target).square().sum(1).mean() / 2,
        (inputs, inputs @ model.true_map.T),
    )


WIDTHS = [((6, 5, 4), 2), ((8, 3, 8), 3), ((5, 5, 5, 5), 3), ((4, 7, 6), 0), ((10, 4, 6, 3), 1)]


@pytest.mark.parametrize(("widths", "rank"), WIDTHS)
def test_the_rank_of_a_deep_linear_network_at_a_true_minimum(widths, rank):
    model, loss_fn, data = deep_linear_problem(widths, rank)
    exact = rank * (widths[0] + widths[-1] - rank)
    values = torch.linalg.eigvalsh(dense_of_model(model, loss_fn, *data))
    assert int((values > 1e-3 * len(widths)).sum()) == exact
    found = hessian_spectrum(model, loss_fn, data, num_probes=100)
    estimate = count_above(found, max(rank_threshold(found), 1e-5))
    assert abs(estimate.value - exact) <= 4 * estimate.std_error + 1e-3
    assert estimate.std_error <= 1.3 * (2 * exact / 100) ** 0.5 + 1e-3


def test_the_rank_of_a_linear_regression_is_that_of_its_inputs_times_its_outputs():
    torch.manual_seed(0)
    inputs = torch.randn(50, 4) @ torch.randn(4, 12)
    model = nn.Linear(12, 5, bias=False)
    found = hessian_spectrum(model, mse_loss, (inputs, torch.randn(50, 5)), num_probes=200)
    estimate = count_above(found, rank_threshold(found))
    assert abs(estimate.value - 4 * 5) < 4 * estimate.std_error


@pytest.mark.parametrize(("widths", "rank"), WIDTHS)
def test_the_learning_coefficient_is_at_least_half_the_rank(widths, rank):
    """Higher orders can only add to it; tested where both are exact."""
    model = DeepLinear(widths, rank)
    values = torch.linalg.eigvalsh(
        dense_hessian(model.double().population_loss, dict(model.named_parameters()))
    )
    exact_rank = int((values > 1e-5).sum())
    assert coefficients.deep_linear(widths, rank).value >= exact_rank / 2


def test_a_quadratic_loss_attains_half_the_rank_and_a_normal_crossing_has_none_of_it():
    cases = [
        (Quadratic([3.0, 0.5, 0, 0]), coefficients.quadratic(2), 2),
        (NormalCrossing([1, 1, 2]), coefficients.normal_crossing([1, 1, 2]), 0),
        (NormalCrossing([1]), coefficients.normal_crossing([1]), 1),
    ]
    for model, known, rank in cases:
        values = torch.linalg.eigvalsh(
            dense_hessian(model.double().population_loss, dict(model.named_parameters()))
        )
        assert int((values > 1e-5).sum()) == rank
        assert known.value >= rank / 2
    assert cases[0][1].value == 1


def test_the_rank_threshold_is_relative_and_has_a_floor_of_rounding():
    found = spectrum_of(diagonal(torch.tensor([-8.0, 2.0, 0.0])))
    assert rank_threshold(found, relative=0.1) == pytest.approx(0.8)
    assert rank_threshold(found, relative=0) == pytest.approx(
        100 * torch.finfo(torch.float32).eps * 8
    )


# The quadratic prediction


def test_the_quadratic_prediction_is_the_tempered_value_of_a_quadratic_loss():
    curvatures = np.array([5.0, 1.0, 0.2, 0.0])
    found = spectrum_of(diagonal(curvatures), num_probes=2)
    expected = coefficients.quadratic_llc(curvatures, nbeta=20, localization=3)
    assert quadratic_llc(found, nbeta=20, localization=3).value == pytest.approx(expected)
    negative = spectrum_of(diagonal(np.append(curvatures, -2.0)), num_probes=2)
    # counted as flat
    assert quadratic_llc(negative, nbeta=20, localization=3).value == pytest.approx(expected)


# Density


def test_the_density_is_that_of_the_eigenvalues_blurred_and_integrates_to_one(classifier, dense):
    model, inputs, targets = classifier
    found = hessian_spectrum(model, cross_entropy, (inputs, targets), num_probes=4)
    grid, width = density_grid([found, found])
    assert np.trapezoid(density(found, grid, width), grid) == pytest.approx(1, abs=1e-3)
    for point in grid[::100]:
        bump = on_probes(
            dense, lambda h, point=point: np.exp(-(((h - point) / width) ** 2) / 2), 4, 0
        )
        expected = bump / (len(dense) * width * np.sqrt(2 * np.pi))
        assert density(found, np.array([point]), width)[0] == pytest.approx(
            expected, rel=0.01, abs=1e-3
        )


# Top eigenvalues


def test_top_eigenvalues_are_the_dense_ones(classifier, dense):
    model, inputs, targets = classifier
    exact = torch.linalg.eigvalsh(dense).flip(0).numpy()
    np.testing.assert_allclose(
        top_eigenvalues(model, cross_entropy, (inputs, targets), 9), exact[:9], rtol=1e-4
    )


def test_arpack_finds_them_without_a_matrix_also_where_most_are_zero():
    eigenvalues = torch.zeros(600)
    eigenvalues[:4] = torch.tensor([7.0, 3.0, 2.5, -9.0])
    found = eigenvalues_of(diagonal(eigenvalues), k=5)
    np.testing.assert_allclose(found, [7, 3, 2.5, 0, 0], atol=1e-4 * 9)


def test_any_operator_has_a_spectrum_for_example_one_of_curvlinops(classifier, dense):
    model, inputs, targets = classifier
    matrix = HessianLinearOperator(
        model, nn.CrossEntropyLoss(), list(model.parameters()), [(inputs, targets)]
    )
    operator = Operator(lambda rows: (matrix @ rows.T.contiguous()).T, len(dense))
    theirs, ours = spectrum_of(operator), hessian_spectrum(model, cross_entropy, (inputs, targets))
    for function in (np.square, np.exp):
        assert spectral_sum(theirs, function).value == pytest.approx(
            spectral_sum(ours, function).value, rel=1e-4
        )


# Promises


def test_same_seed_same_spectrum_and_nothing_else_is_touched(classifier):
    model, inputs, targets = classifier
    state, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    first, again, other = (
        hessian_spectrum(
            model, cross_entropy, (inputs, targets), num_probes=2, num_steps=9, seed=seed
        )
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.nodes, again.nodes)
    assert not np.array_equal(first.nodes, other.nodes)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_neither_the_batch_size_nor_the_memory_for_the_basis_changes_the_estimate(
    classifier, monkeypatch
):
    model, inputs, targets = classifier
    whole = hessian_spectrum(model, cross_entropy, (inputs, targets), num_probes=4, num_steps=8)
    monkeypatch.setattr(spectrum, "BASIS_BYTES", 1)  # one probe after another
    parts = hessian_spectrum(
        model, cross_entropy, (inputs, targets), num_probes=4, num_steps=8, batch_size=9
    )
    np.testing.assert_allclose(parts.diagonals, whole.diagonals, rtol=1e-3, atol=1e-5)


def test_frozen_weights_are_no_dimensions_and_later_training_changes_nothing(classifier):
    model, inputs, targets = copy.deepcopy(classifier)
    model[0].requires_grad_(False)
    operator = hessian_operator(model, cross_entropy, (inputs, targets))
    rows = torch.randn(2, operator.dim)
    before = operator.products(rows)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    assert operator.dim == 8 * 3 + 3
    assert torch.equal(operator.products(rows), before)


def test_one_probe_has_no_standard_error_and_no_curvature_no_nodes():
    found = spectrum_of(diagonal(torch.zeros(5)), num_probes=1)
    assert not found.nodes.any()
    assert count_above(found, 0.1) == (0, None, 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda_it_is_the_same_spectrum(classifier):
    model, inputs, targets = classifier
    here = hessian_spectrum(model, cross_entropy, (inputs, targets), num_probes=3, num_steps=10)
    there = (inputs.cuda(), targets.cuda())
    found = hessian_spectrum(
        copy.deepcopy(model).cuda(), cross_entropy, there, num_probes=3, num_steps=10
    )
    np.testing.assert_allclose(found.diagonals, here.diagonals, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_probes": 0}, "num_probes = 0; allowed: an integer, at least 1"),
        ({"num_steps": 0}, "num_steps = 0; allowed"),
        ({"batch_size": 0}, "batch_size = 0; allowed"),
        ({"model": nn.Flatten()}, "no weights that require a gradient"),
        ({"model": nn.Linear(6, 3).requires_grad_(False)}, "no weights that require a gradient"),
        (
            {"model": nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3))},
            "depends on the other samples.*model.eval",
        ),
        ({"model": nn.Sequential(nn.Linear(6, 3), nn.Dropout())}, "its loss is random.*model.eval"),
        ({"data": (torch.zeros(0, 6), torch.zeros(0, dtype=torch.long))}, "data is empty"),
        (
            {"data": (torch.zeros(4, 6), torch.tensor([0, 1, 2, 3]))},
            "labels go from 0 to 3; allowed for 3 outputs",
        ),
        ({"data": (torch.zeros(4, 6), torch.tensor([0, 1, -1, 0]))}, "labels go from -1"),
        ({"data": (torch.zeros(4, 6), torch.zeros(3, dtype=torch.long))}, "4 inputs and 3 targets"),
        (
            {"loss_fn": lambda out, y: cross_entropy(out, y, reduction="sum")},
            "sum over the samples",
        ),
    ],
)
def test_bad_input_is_refused_with_a_reason(classifier, change, message):
    model, inputs, targets = classifier
    given = {"model": model, "loss_fn": cross_entropy, "data": (inputs, targets)} | change
    with pytest.raises(ValueError, match=message):
        hessian_spectrum(**given)


def test_batch_norm_is_welcome_once_it_uses_fixed_statistics(classifier):
    _, inputs, targets = classifier
    model = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3)).eval()
    assert (
        hessian_spectrum(model, cross_entropy, (inputs, targets), num_probes=1, num_steps=3).dim
        == 6 * 3 + 3 + 6
    )


def test_weights_that_are_not_finite_and_impossible_numbers_are_refused(classifier):
    model, inputs, targets = copy.deepcopy(classifier)
    found = spectrum_of(diagonal(torch.ones(3)))
    for nbeta, localization in ((0, 1), (1, 0), (1, -1)):
        with pytest.raises(ValueError, match="both positive"):
            quadratic_llc(found, nbeta, localization)
    with pytest.raises(ValueError, match="relative = 1"):
        rank_threshold(found, 1)
    with pytest.raises(ValueError, match="width = 0"):
        density(found, np.zeros(2), 0)
    with pytest.raises(ValueError, match="k = 4; allowed: 1 to the number of weights, 3"):
        eigenvalues_of(diagonal(torch.ones(3)), 4)
    with pytest.raises(ValueError, match="a product with the matrix is not finite"):
        spectrum_of(diagonal(torch.tensor([1.0, torch.nan])))
    nn.init.constant_(model[2].bias, torch.inf)
    with pytest.raises(ValueError, match=r"2.bias holds weights that are not finite"):
        hessian_spectrum(model, cross_entropy, (inputs, targets))


def test_the_examples_in_the_docstrings():
    result = doctest.testmod(spectrum)
    assert result.attempted > 10
    assert result.failed == 0
