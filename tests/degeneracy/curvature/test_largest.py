"""Is a Hessian's top eigenvalue that of the dense matrix, also where there is little to find?"""

import pytest
import torch
from torch import nn
from torch.func import hessian
from torch.nn.functional import cross_entropy

from degeneracy.curvature.largest import largest_curvature, loss_on
from degeneracy.models.known import DeepLinear, NormalCrossing, Quadratic

TOLERANCE = 0.01  # the function's own, relative


def top_of_dense(loss, parameters):
    """Largest eigenvalue of the Hessian as a matrix."""
    sizes = [p.numel() for p in parameters.values()]

    def loss_of_flat(flat):
        pieces = zip(parameters.items(), flat.split(sizes), strict=True)
        return loss({name: piece.view(like.shape) for (name, like), piece in pieces})

    flat = torch.cat([p.detach().flatten() for p in parameters.values()])
    return torch.linalg.eigvalsh(hessian(loss_of_flat)(flat))[-1].item()


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
