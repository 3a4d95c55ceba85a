"""Are K-FAC's factors the covariances they should be, and its matrix exact where theory says so?"""

import copy

import numpy as np
import pytest
import torch
from fisher_oracle import REFUSED, dense_fisher, given_labels, small_problem
from torch import nn

from degeneracy.curvature.fisher import KINDS
from degeneracy.curvature.kfac import kfac_eigenvalues, kfac_factors, kfac_trace


@pytest.fixture
def small():
    return small_problem()


def test_kfac_is_exact_for_the_block_of_a_single_sample(small):
    model, inputs, labels = small
    dense = dense_fisher(model, inputs[:1], labels[:1], "expected")
    factors = kfac_factors(model, (inputs[:1], labels[:1]))
    first = 16 * 6 + 6
    for name, block in (("1", dense[:first, :first]), ("3", dense[first:, first:])):
        a, b = factors[name].inputs.double(), factors[name].gradients.double()
        # The block's order is all weights, row by row, then the bias; that of B ⊗ A has a row's
        # bias after the row.
        joint = torch.arange(len(b) * len(a)).view(len(b), len(a))
        order = torch.cat([joint[:, :-1].flatten(), joint[:, -1]])
        torch.testing.assert_close(torch.kron(b, a)[order][:, order], block, rtol=1e-4, atol=1e-6)
    exact = torch.cat(
        [torch.linalg.eigvalsh(dense[:first, :first]), torch.linalg.eigvalsh(dense[first:, first:])]
    )
    np.testing.assert_allclose(
        kfac_eigenvalues(factors, 3), exact.sort(descending=True).values[:3], rtol=1e-4
    )
    assert kfac_trace(factors) == pytest.approx(dense.trace().item(), rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_kfac_factors_are_covariances_of_inputs_and_of_gradients(small, kind):
    model, inputs, labels = small
    labels_used = given_labels(model, inputs, labels, kind)
    hidden = model[:3](inputs)
    a = torch.cat([hidden, torch.ones(23, 1)], dim=1)
    p = model(inputs).softmax(1)
    residual = p - nn.functional.one_hot(labels_used, 3)
    b = residual.T @ residual / 23 if kind != "expected" else torch.diag(p.mean(0)) - p.T @ p / 23
    for batch_size in (100, 7):
        factors = kfac_factors(model, (inputs, labels), kind, seed=4, batch_size=batch_size)
        torch.testing.assert_close(factors["3"].inputs, (a.T @ a / 23).detach())
        torch.testing.assert_close(factors["3"].gradients, b.detach())


def test_kfac_eigenvalues_are_those_of_the_kronecker_products(small):
    model, inputs, labels = small
    factors = kfac_factors(model, (inputs, labels))
    dense = [
        torch.linalg.eigvalsh(torch.kron(f.inputs.double(), f.gradients.double()))
        for f in factors.values()
    ]
    exact = torch.cat(dense).sort(descending=True).values
    np.testing.assert_allclose(kfac_eigenvalues(factors, 20), exact[:20], rtol=1e-5)
    with pytest.raises(
        ValueError, match=f"k = 1000; allowed: 1 to the number of weights, {len(exact)}"
    ):
        kfac_eigenvalues(factors, 1000)


def test_kfac_says_which_weights_it_has_no_factors_for(small):
    _, inputs, labels = small
    model = nn.Sequential(nn.Flatten(), nn.LayerNorm(16), nn.Linear(16, 3))
    with pytest.raises(
        ValueError, match=r"no factors for 1.weight, 1.bias; allowed: weights of Linear and Conv2d"
    ):
        kfac_factors(model, (inputs, labels))


def test_where_only_the_bias_is_trained_the_input_is_the_number_one(small):
    model, inputs, labels = small
    model[1].weight.requires_grad_(False)
    factors = kfac_factors(model, (inputs, labels))
    assert factors["1"].inputs.tolist() == [[1]]
    assert kfac_trace(factors) > 0


def test_nothing_of_the_model_is_touched(small):
    model, inputs, labels = small
    state, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    with torch.no_grad():  # a caller's, in which derivatives are taken all the same
        kfac_factors(model, (inputs, labels), "sampled", seed=3)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_bad_input_is_refused_with_a_reason(change, message):
    given = {"model": nn.Linear(16, 3), "data": (torch.zeros(2, 16), torch.tensor([0, 1]))} | change
    with pytest.raises(ValueError, match=message):
        kfac_factors(**given)
