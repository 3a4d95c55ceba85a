"""Are a Hessian's outermost eigenvalues those of the dense matrix, repeated ones and those of a
loss with little curvature too?
"""

import doctest

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import hessian
from torch.nn.functional import cross_entropy

from degeneracy.curvature import largest
from degeneracy.curvature.fisher import exact_fisher, fisher_eigenvalues
from degeneracy.curvature.largest import (
    hessian_eigenpairs,
    largest_curvature,
    loss_on,
    top_eigenvalues,
)
from degeneracy.models.known import DeepLinear, NormalCrossing, Quadratic
from degeneracy.weights import named

TOLERANCE = 0.01  # the function's own, relative


def dense_of(loss, parameters):
    """The Hessian as a matrix."""
    sizes = [p.numel() for p in parameters.values()]

    def loss_of_flat(flat):
        pieces = zip(parameters.items(), flat.split(sizes), strict=True)
        return loss({name: piece.view(like.shape) for (name, like), piece in pieces})

    flat = torch.cat([p.detach().flatten() for p in parameters.values()])
    return hessian(loss_of_flat)(flat)


def top_of_dense(loss, parameters):
    """Its largest eigenvalue."""
    return torch.linalg.eigvalsh(dense_of(loss, parameters))[-1].item()


def with_untrained_head(dtype=torch.float64):
    """A ten-class network whose head is zero, so that p = 1/10 everywhere and F = (I − 11ᵀ/10)/10 ⊗
    mean h hᵀ, h the features and a 1: each eigenvalue is there nine times. And its data.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(9, 20), nn.ReLU(), nn.Linear(20, 16), nn.ReLU())
    model.append(nn.Linear(16, 10))
    nn.init.zeros_(model[-1].weight)
    nn.init.zeros_(model[-1].bias)
    return model.to(dtype), (torch.randn(60, 9, dtype=dtype), torch.randint(10, (60,)))


def minimum(model):
    return {name: p.detach() for name, p in model.named_parameters()}


def test_a_classifier_with_several_tensors():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    loss = loss_on(model, (torch.randn(50, 6), torch.randint(3, (50,))), cross_entropy)
    before = minimum(model)
    assert largest_curvature(loss, before) == pytest.approx(
        top_of_dense(loss, before), rel=TOLERANCE
    )
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name])
        assert p.grad is None


@pytest.mark.parametrize("widths", [(5, 3, 5), (4, 5, 6, 4), (3, 4, 3, 4, 3)])
def test_deep_linear_networks_have_their_depth_at_the_minimum_and_more_away_from_it(widths):
    model = DeepLinear(widths, rank=2).double()
    assert largest_curvature(model.population_loss, minimum(model)) == pytest.approx(
        len(widths) - 1, rel=TOLERANCE
    )
    generator = torch.Generator().manual_seed(0)
    away = {
        name: p + 0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
        for name, p in minimum(model).items()
    }
    expected = top_of_dense(model.population_loss, away)
    assert largest_curvature(model.population_loss, away) == pytest.approx(expected, rel=TOLERANCE)


def test_the_starting_vector_does_not_matter():
    model = Quadratic([0.1, 3.0, 2.9, 0.0, 1.0])
    for seed in range(5):
        assert largest_curvature(model.population_loss, minimum(model), seed=seed) == pytest.approx(
            3.0, rel=TOLERANCE
        )


@pytest.mark.parametrize("num_weights", [1, 2, 3, 50])
def test_equal_curvatures(num_weights):
    """Lanczos's iteration ends at its first step: every vector is an eigenvector."""
    model = Quadratic([2.5] * num_weights)
    assert largest_curvature(model.population_loss, minimum(model)) == pytest.approx(
        2.5, rel=TOLERANCE
    )


def test_one_direction_among_flat_ones():
    model = Quadratic([0.0] * 99 + [4.0])
    assert largest_curvature(model.population_loss, minimum(model)) == pytest.approx(
        4.0, rel=TOLERANCE
    )


@pytest.mark.parametrize(
    "model", [NormalCrossing((2,)), NormalCrossing((1, 1)), DeepLinear((4, 3, 3, 4), rank=0)]
)
def test_no_curvature_is_exactly_zero(model):
    assert largest_curvature(model.population_loss, minimum(model)) == 0.0


def test_a_single_weight():
    def loss(parameters):
        return 3 * parameters["w"] ** 4

    assert largest_curvature(loss, {"w": torch.tensor(0.5)}) == pytest.approx(36 * 0.5**2, rel=1e-5)
    assert largest_curvature(lambda p: -loss(p), {"w": torch.tensor(0.5)}) == 0.0


def test_negative_curvature_counts_only_where_something_positive_is_beside_it():
    h = torch.tensor([-5.0, -1.0, 0.5])
    point = {"w": torch.zeros(3)}
    assert largest_curvature(lambda p: (h * p["w"] ** 2).sum() / 2, point) == pytest.approx(
        0.5, rel=TOLERANCE
    )
    assert largest_curvature(lambda p: -(p["w"] ** 2).sum(), point) == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_untrained_head_of_ten_classes_has_each_eigenvalue_nine_times(dtype):
    model, data = with_untrained_head(dtype)
    exact = exact_fisher(model, data).eigenvalues
    for k in (1, 9, 10, 20):
        found = fisher_eigenvalues(model, data, k)
        np.testing.assert_allclose(found, exact[:k], atol=1e-4 * exact[0])
    assert found[0] - found[8] < 1e-4 * found[0]
    assert found[9] < 0.9 * found[8]


@pytest.mark.parametrize("which", ["largest", "smallest"])
def test_outermost_eigenvalues_of_a_hessian_are_the_dense_ones(which):
    model, data = with_untrained_head()
    ascending = torch.linalg.eigvalsh(dense_of(loss_on(model, data, cross_entropy), minimum(model)))
    exact = ascending if which == "smallest" else ascending.flip(0)
    for k in (1, 10, 25):
        found = top_eigenvalues(model, cross_entropy, data, k, which=which)
        np.testing.assert_allclose(found, exact[:k], atol=1e-4 * float(ascending.abs().max()))


def test_an_eigenvector_has_the_shapes_of_the_weights_and_the_curvature_of_its_eigenvalue():
    model, data = with_untrained_head()
    pairs = hessian_eigenpairs(model, cross_entropy, data, 3, tolerance=1e-8)
    weights, loss = minimum(model), loss_on(model, data, cross_entropy)
    directions = named(pairs.vectors, weights)
    assert {name: part[0].shape for name, part in directions.items()} == {
        name: weight.shape for name, weight in weights.items()
    }
    dense = dense_of(loss, weights)
    for value, vector, residual in zip(pairs.values, pairs.vectors, pairs.residuals, strict=True):
        assert (dense @ vector - value * vector).norm() == pytest.approx(residual, abs=1e-12)
        assert residual < 1e-8 * pairs.values[0]


def test_outermost_eigenvalues_see_all_batches():
    model, data = with_untrained_head()
    whole = top_eigenvalues(model, cross_entropy, data, 4)
    np.testing.assert_allclose(
        top_eigenvalues(model, cross_entropy, data, 4, batch_size=17), whole, rtol=1e-6
    )


def test_impossible_numbers_are_refused():
    model, data = with_untrained_head()
    with pytest.raises(ValueError, match="which = 'top'; allowed"):
        top_eigenvalues(model, cross_entropy, data, 1, which="top")
    with pytest.raises(ValueError, match="k = 10000; allowed: 1 to the number of weights"):
        hessian_eigenpairs(model, cross_entropy, data, 10_000)


def test_the_examples_in_the_docstrings():
    result = doctest.testmod(largest)
    assert result.attempted > 8
    assert result.failed == 0
