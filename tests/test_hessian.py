"""Hessian trace: Hutchinson's estimate against dense Hessians."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call, hessian
from torch.nn.functional import cross_entropy, mse_loss

from utils_hessian_fim import hessian_trace


def dense_hessian(model: nn.Module, loss_fn, inputs, targets) -> torch.Tensor:
    """The Hessian written out, in float64."""
    model = copy.deepcopy(model).double()
    params = dict(model.named_parameters())
    names, flat = list(params), torch.cat([p.detach().flatten() for p in params.values()])

    def loss(flat):
        pieces = flat.split([params[name].numel() for name in names])
        weights = {name: piece.view_as(params[name]) for name, piece in zip(names, pieces, strict=True)}
        return loss_fn(functional_call(model, weights, (inputs.double(),)), targets)

    return hessian(loss)(flat)


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    return model, torch.randn(40, 6), torch.randint(3, (40,))


def test_agrees_with_the_dense_hessian_within_its_error(classifier):
    model, inputs, targets = classifier
    dense = dense_hessian(model, cross_entropy, inputs, targets)
    exact = dense.trace().item()
    # Rademacher probes: Var(vᵀHv) = 2 Σ_{i≠j} H_ij².
    expected_error = (2 * (dense.square().sum() - dense.diag().square().sum()) / 200).sqrt().item()
    estimates = [hessian_trace(model, cross_entropy, (inputs, targets), num_probes=200, seed=s) for s in range(5)]
    for estimate in estimates:
        assert abs(estimate.trace - exact) < 4 * estimate.std_error
        assert estimate.std_error == pytest.approx(
            expected_error, rel=0.25
        )  # a deviation from 200 values is within 5 σ


def test_a_diagonal_hessian_is_exact_with_every_probe():
    """For L = mean x²(w₁..w_d) with one-hot inputs H is diagonal, and vᵀHv = tr H for every v of ±1."""
    model = nn.Linear(4, 1, bias=False)
    inputs = torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    estimate = hessian_trace(model, mse_loss, (inputs, torch.zeros(4, 1)), num_probes=3)
    assert estimate.trace == pytest.approx(2 * (1 + 4 + 9 + 16) / 4, rel=1e-6)
    assert estimate.std_error == pytest.approx(0, abs=1e-5)


def test_negative_curvature_does_not_stop_it_early():
    """PyHessian's own rule divides by the signed trace; all probes must be used at any sign."""
    model = nn.Linear(3, 1, bias=False)
    estimate = hessian_trace(model, lambda out, _: -out.square().mean(), (torch.randn(20, 3), torch.zeros(20)), 30)
    assert estimate.num_probes == 30
    assert estimate.trace < 0
    assert estimate.std_error > 0


def test_the_batch_size_bounds_memory_and_leaves_the_estimate(classifier):
    model, inputs, targets = classifier
    whole, parts = (
        hessian_trace(model, cross_entropy, (inputs, targets), num_probes=5, batch_size=size) for size in (40, 7)
    )
    assert parts.trace == pytest.approx(whole.trace, rel=1e-4)


def test_same_seed_same_number_and_nothing_else_is_touched(classifier):
    model, inputs, targets = classifier
    model.train()
    state, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    first, again, other = (hessian_trace(model, cross_entropy, (inputs, targets), 10, seed=s) for s in (1, 1, 2))
    assert first == again
    assert first.trace != other.trace
    assert torch.equal(torch.get_rng_state(), random_state)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


def test_one_probe_has_no_error(classifier):
    model, inputs, targets = classifier
    assert hessian_trace(model, cross_entropy, (inputs, targets), num_probes=1).std_error is None


@pytest.mark.parametrize(("kwargs", "message"), [({"num_probes": 0}, "num_probes = 0"), ({}, "no data")])
def test_bad_input_is_refused(classifier, kwargs, message):
    model, inputs, targets = classifier
    count = 40 if kwargs else 0
    with pytest.raises(ValueError, match=message):
        hessian_trace(model, cross_entropy, (inputs[:count], targets[:count]), **kwargs)
