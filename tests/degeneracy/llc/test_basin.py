"""The bottom of a checkpoint's basin, where the loss is quadratic and it is known."""

import math

import pytest
import torch
from torch import nn

from degeneracy.llc import coordinates
from degeneracy.llc.auto import extremes
from degeneracy.llc.basin import Basin, bottom
from degeneracy.llc.chains import Problem
from degeneracy.llc.langevin import full_gradient
from degeneracy.objective.loss import objective_of

NBETA, GAMMA = 100.0, 20.0


def samples(count: int):
    """Linear regression about its own minimum, 8 inputs of unlike scales, float64."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, 8, generator=generator).double() * torch.linspace(0.3, 1.5, 8)
    targets = inputs.sum(1, keepdim=True) + torch.randn(count, 1, generator=generator)
    return inputs, targets


def half_mse(outputs, targets):
    return 0.5 * (outputs - targets).square().mean()


def away(data, distance: float) -> nn.Linear:
    """The model `distance` in every weight from least squares."""
    model = nn.Linear(8, 1, bias=False).double()
    model.weight.data = torch.linalg.lstsq(*data).solution.T + distance
    return model


def found_and_expected(data, distance: float, kind: str):
    """What `bottom` gives, the exact shift and |w_b − w*|, and by how much the first may be off.

    U = nβ L + (γ/2)|w − w*|² has its minimum at w* − (nβ H + γ)⁻¹ nβ g. Where U is still g nats too
    high, nβ L is off by at most 2 g + |w_b − w*| (2 γ g)^½.
    """
    model = away(data, distance)
    weights = {"weight": model.weight.detach()}
    problem = Problem(objective_of(model, half_mse, data).loss, data, 1)
    at = (
        coordinates.flat(problem.loss, weights)
        if kind == "none"
        else coordinates.diagonal(problem.loss, weights, data, 0)
    )
    stiffness, softness = extremes(at, data, NBETA, GAMMA)
    found = bottom(problem, at, NBETA, GAMMA, stiffness)
    inputs, _ = data
    hessian = inputs.T @ inputs / len(inputs)
    slope = full_gradient(problem, weights)[0]
    move = -torch.linalg.solve(NBETA * hessian + GAMMA * torch.eye(8), NBETA * slope)
    shift = -NBETA * float(slope @ move + move @ hessian @ move / 2)
    length, gap = float(move.norm()), found.gap / softness
    error = 2 * gap + length * math.sqrt(2 * GAMMA * gap) + 1e-9 * shift
    return found, shift, length, error


@pytest.mark.parametrize("kind", ["none", "diagonal"])
@pytest.mark.parametrize("count", [500, 3000])  # full batches, minibatches
def test_the_bottom_of_a_quadratic_is_the_minimum_of_what_is_sampled(count, kind):
    found, shift, length, error = found_and_expected(samples(count), 0.3, kind)
    assert found.reached
    assert found.gap <= 0.05
    assert shift > 5  # so that the error says something
    assert error < 0.2 * shift
    assert abs(found.shift - shift) <= error
    assert found.distance == pytest.approx(length, rel=0.1)


def test_fewer_samples_than_all_do_for_a_small_temperature():
    """2,000 of 9,000: their Hessian's entries are off by (2/2000)^½ of themselves, but the slope at
    w* is that of all, so that also a small shift is found.
    """
    for distance in (0.3, 0.05):
        found, shift, _, error = found_and_expected(samples(9000), distance, "none")
        assert found.reached
        assert error < 0.1 * shift
        assert abs(found.shift - shift) <= error + 4 * math.sqrt(2 / 2000) * shift


@pytest.mark.parametrize("count", [500, 3000, 9000])
def test_a_minimum_is_its_own_bottom(count):
    """Also where a part of the samples is looked at, whose own minimum is elsewhere."""
    found, *_ = found_and_expected(samples(count), 0.0, "none")
    assert found.shift == pytest.approx(0, abs=1e-6)
    assert found.distance == pytest.approx(0, abs=1e-6)
    assert found.reached


def test_a_known_gradient_is_not_taken_again(regression):
    """With what is given for it, the bottom is elsewhere."""
    problem, weights = regression.problem(), regression.weights
    at = coordinates.flat(problem.loss, weights)
    stiffness, _ = extremes(at, regression.data, NBETA, GAMMA)
    slope, loss = full_gradient(problem, weights)
    given = [bottom(problem, at, NBETA, GAMMA, stiffness, (slope, loss)) for _ in range(2)]
    assert given[0] == given[1] == bottom(problem, at, NBETA, GAMMA, stiffness)


def test_a_bottom_that_was_not_reached_is_flagged():
    """Steps a thousand times too long climb; they are halved, eight times at most."""
    data, nbeta = samples(500), 1e4
    model = away(data, 0.3)
    problem = Problem(objective_of(model, half_mse, data).loss, data, 1)
    at = coordinates.flat(problem.loss, {"weight": model.weight.detach()})
    assert extremes(at, data, nbeta, GAMMA)[0] > 2 * 2**8
    found = bottom(problem, at, nbeta, GAMMA, stiffness=1.0)
    assert not found.reached
    assert found.gap > 0.05
    assert found.shift == 0.0  # the best that was seen: w* itself


def test_without_localisation_there_is_no_basin(classification):
    problem = classification.problem()
    at = coordinates.flat(problem.loss, classification.weights)
    with pytest.raises(ValueError, match=r"γ = 0.*allowed: localization above 0"):
        bottom(problem, at, NBETA, 0.0)


def test_a_loss_alone_has_a_bottom_too():
    """L = ½ (w − 1)², w* = 0: w_b = nβ/(nβ + γ), and half of 1 − (1 − w_b)² below."""

    def loss(parameters):
        return 0.5 * (parameters["w"] - 1).square().sum()

    at = coordinates.flat(loss, {"w": torch.zeros(1, dtype=torch.float64)})
    found = bottom(Problem(loss, (), 0), at, NBETA, GAMMA, (NBETA + GAMMA) / GAMMA)
    there = NBETA / (NBETA + GAMMA)
    assert found == Basin(
        pytest.approx(NBETA * (1 - (1 - there) ** 2) / 2, rel=1e-6),
        pytest.approx(there, rel=1e-6),
        pytest.approx(0, abs=1e-6),
        True,
    )


def test_loss_that_is_infinite_on_the_way_down_is_not_taken_for_lower(regression):
    """A cliff half-way to the bottom: what is found is finite and not above w*."""
    model, data, loss_fn, _ = regression
    weights = {name: w + 0.3 for name, w in regression.weights.items()}
    origin = torch.cat([w.flatten() for w in weights.values()])
    smooth = objective_of(model, loss_fn, data).loss

    def loss(parameters, *batch):
        row = torch.cat([w.flatten() for w in parameters.values()])
        far = (row - origin).square().sum() > 0.01
        return smooth(parameters, *batch) + torch.where(far, math.inf, 0.0)

    at = coordinates.flat(loss, weights)
    found = bottom(Problem(loss, data, 600), at, NBETA, GAMMA, 50.0)
    assert 0 <= found.shift < math.inf
    assert found.distance <= 0.1
    assert not found.reached
