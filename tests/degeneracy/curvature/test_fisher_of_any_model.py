"""Is the Fisher information right for every model that people bring, or refused with the reason?"""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from curvlinops import GGNLinearOperator
from dense import dense_fisher
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from zoo import ANIMALS, ZOO, draw, integers, seeded
from zoo_modules import Between

from degeneracy.curvature.fisher import (
    exact_fisher,
    fisher_diagonal,
    fisher_eigenpairs,
    fisher_operator,
    fisher_trace,
)

SOUND = [(a, kind) for a in ZOO if a.refused is None for kind in a.fishers]
REFUSED = [animal for animal in ZOO if animal.refused]


def given(animal, **more):
    return {
        "model": animal.build(),
        "data": animal.data,
        "loss_fn": animal.loss_fn,
        "forward": animal.forward or (lambda model, inputs: model(inputs)),
        **more,
    }


def full(operator) -> torch.Tensor:
    return operator.products(torch.eye(operator.dim, dtype=operator.dtype)).double()


@pytest.mark.parametrize(
    ("animal", "kind"), SOUND, ids=[f"{a.name.replace(' ', '-')}-{kind}" for a, kind in SOUND]
)
def test_products_diagonal_and_eigenvalues_are_those_of_the_dense_matrix(animal, kind):
    dense = dense_fisher(animal, kind)
    arguments = given(animal, kind=kind, batch_size=5)
    try:
        operator = fisher_operator(**arguments)
    except ValueError as error:
        if animal.may_refuse is None:
            raise
        pytest.skip(f"refused, as it may be: {error}")
    tolerance = 1e-10 if operator.dtype == torch.float64 else 1e-5
    size = float(dense.abs().max())
    close = {"rtol": tolerance, "atol": tolerance * size}
    torch.testing.assert_close(full(operator), dense, **close)
    kept = fisher_operator(**{**arguments, "batch_size": 100})
    torch.testing.assert_close(full(kept), dense, **close)
    torch.testing.assert_close(fisher_diagonal(**arguments).double(), dense.diag(), **close)
    exact = exact_fisher(**arguments)
    right = torch.linalg.eigvalsh(dense).flip(0).clamp(min=0)
    rank = len(exact.eigenvalues)
    assert right[rank:].sum() <= 1e-9 * right[0]
    np.testing.assert_allclose(exact.eigenvalues, right[:rank], **close)


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("animal", REFUSED, ids=lambda a: a.name.replace(" ", "-"))
def test_what_has_no_fisher_information_is_refused(animal):
    with pytest.raises(ValueError, match=f"{animal.refused}|not a mean over samples|is not known"):
        fisher_operator(**given(animal))


# ---- losses --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ffnn tanh", "ffnn squared error", "bce", "tokens"])
def test_expected_is_the_gauss_newton_matrix_of_curvlinops(name):
    animal = ANIMALS[name]
    modules = {F.cross_entropy: nn.CrossEntropyLoss(), F.mse_loss: nn.MSELoss()}
    loss_fn, model = modules.get(animal.loss_fn, animal.loss_fn), animal.build()
    matrix = GGNLinearOperator(
        model, loss_fn, list(model.parameters()), [animal.data], check_deterministic=False
    )
    found = full(fisher_operator(**given(animal)))
    torch.testing.assert_close(found, matrix @ torch.eye(len(found), dtype=torch.float64))


@pytest.mark.parametrize(
    "name",
    ["ffnn squared error", "bce", "tokens", pytest.param("tokens ignored", marks=pytest.mark.slow)],
)
def test_sampled_labels_are_unbiased_for_every_likelihood(name):
    arguments = given(ANIMALS[name])
    expected = fisher_diagonal(**arguments)
    draws = torch.stack(
        [fisher_diagonal(**arguments, kind="sampled", seed=seed) for seed in range(200)]
    )
    errors = (draws.mean(0) - expected) / (draws.std(0) / 200**0.5 + 1e-12)
    assert errors.abs().max() < 4.5  # the largest of some tens of normal deviates
    traces = draws.sum(1)
    assert abs(traces.mean() - expected.sum()) < 4 * traces.std() / 200**0.5


@pytest.mark.parametrize("kind", ["expected", "empirical"])
@pytest.mark.parametrize("name", ["class weights", "class weights and ignore_index"])
def test_weighted_samples_have_the_weighted_mean_over_the_data_set(name, kind):
    """F = Σ wᵢ Fᵢ / Σ wᵢ, whatever the batches."""
    animal = ANIMALS[name]
    inputs, labels = animal.data
    total, mass = 0.0, 0.0
    for i in range(len(labels)):
        if labels[i] == -100:
            continue
        alone = replace(
            animal,
            data=(inputs[i : i + 1], labels[i : i + 1]),
            loss_fn=F.cross_entropy,
            family="categorical",
            fishers=("expected", "empirical"),
        )
        weight = float(animal.loss_fn.weight[labels[i]])
        total, mass = total + weight * dense_fisher(alone, kind), mass + weight
    for batch_size in (5, 100):
        found = full(fisher_operator(**given(animal, kind=kind, batch_size=batch_size)))
        torch.testing.assert_close(found, total / mass)
    diagonal = fisher_diagonal(**given(animal, kind=kind, batch_size=5))
    torch.testing.assert_close(diagonal, (total / mass).diag())


def log_p(outputs, targets):
    return F.cross_entropy(outputs, targets)


BITS = integers(2, 12, 3).double()


@pytest.mark.parametrize(
    ("loss_fn", "targets", "kind", "reason"),
    [
        (log_p, integers(3, 12), "expected", "the loss is log_p, .* not known; allowed: PyTorch's"),
        (nn.HuberLoss(), draw(12, 3), "expected", "the loss is HuberLoss"),
        (nn.BCEWithLogitsLoss(pos_weight=torch.ones(3)), BITS, "expected", "has a pos_weight"),
        (nn.BCEWithLogitsLoss(weight=torch.ones(3)), BITS, "expected", "has a weight"),
        (
            nn.CrossEntropyLoss(label_smoothing=0.1),
            integers(3, 12),
            "empirical",
            "label_smoothing = 0.1, with which a sample has no single label",
        ),
        (F.cross_entropy, draw(12, 3).softmax(1), "empirical", "targets are probabilities"),
        (F.cross_entropy, draw(12, 3).abs(), "expected", "probabilities of classes that sum to 1"),
        (F.nll_loss, integers(3, 12), "expected", "log-probabilities, and .* exponentials sum to"),
        (F.mse_loss, draw(12, 1), "expected", r"outputs are \(12, 3\) and targets \(12, 1\)"),
    ],
)
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_what_has_no_likelihood_is_refused_with_what_was_found(loss_fn, targets, kind, reason):
    data = draw(12, 3), targets
    model = ANIMALS["ffnn tanh"].build()
    with pytest.raises(ValueError, match=reason):
        fisher_operator(model, data, kind, loss_fn=loss_fn)


def test_a_penalty_has_no_fisher_information():
    animal = ANIMALS["penalty"]
    for function in (fisher_operator, fisher_diagonal, fisher_trace, exact_fisher):
        with pytest.raises(ValueError, match="penalty is given, which has no likelihood"):
            function(**given(animal, penalty=animal.penalty))


# ---- models --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "idle"), [("layer never called", 6), ("head not returned", 10)])
def test_weights_that_outputs_do_not_hang_on_are_zero_blocks(name, idle):
    animal = ANIMALS[name]
    matrix = full(fisher_operator(**given(animal)))
    assert not matrix[-idle:].any()
    assert not matrix[:, -idle:].any()
    assert not fisher_diagonal(**given(animal))[-idle:].any()
    eigenvalues = exact_fisher(**given(animal)).eigenvalues
    np.testing.assert_allclose(
        eigenvalues, torch.linalg.eigvalsh(matrix).flip(0)[: len(eigenvalues)], atol=1e-12
    )


class CutOff(torch.autograd.Function):
    """The square, whose derivative autograd can no more see through."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return torch.from_numpy(2 * grad.detach().numpy() * x.detach().numpy())


class Once(CutOff):
    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 2 * grad * x


@pytest.mark.parametrize("function", [CutOff, Once])
def test_products_are_right_where_a_derivative_has_none_or_a_wrong_one(function):
    square = replace(
        ANIMALS["ffnn tanh"], build=seeded(lambda: Between(lambda self, h: h.square()))
    )
    operator = fisher_operator(
        seeded(lambda: Between(lambda self, h: function.apply(h)))(), square.data
    )
    torch.testing.assert_close(full(operator), dense_fisher(square, "expected"))


def test_it_is_the_same_from_a_loader_that_shuffles_kept_or_not():
    animal = ANIMALS["ffnn tanh"]
    loader = DataLoader(TensorDataset(*animal.data), batch_size=5, shuffle=True)
    right = dense_fisher(animal, "expected")
    for cache_bytes in (None, 0):
        arguments = given(animal, data=loader, cache_bytes=cache_bytes)
        torch.testing.assert_close(full(fisher_operator(**arguments)), right)
        torch.testing.assert_close(fisher_diagonal(**arguments), right.diag())
        assert exact_fisher(**arguments).trace == pytest.approx(float(right.trace()), rel=1e-12)


@pytest.mark.parametrize("name", ["ffnn tanh", "ffnn squared error", "bce", "tokens"])
def test_sampled_labels_do_not_hang_on_the_batch_size(name):
    arguments = given(ANIMALS[name], kind="sampled", seed=3)
    few, many = (fisher_diagonal(**arguments, batch_size=size) for size in (5, 100))
    torch.testing.assert_close(few, many)


def test_of_some_weights_it_is_their_block():
    animal = ANIMALS["ffnn tanh"]
    dense, mask = dense_fisher(animal, "expected"), torch.zeros(4, 3, dtype=torch.bool)
    mask[1:3] = True
    part = full(fisher_operator(**given(animal, restrict={"0.weight": mask})))
    torch.testing.assert_close(part, dense[3:9, 3:9])
    head = fisher_diagonal(**given(animal, restrict=["2"]))
    torch.testing.assert_close(head, dense.diag()[16:])


def test_a_model_that_cannot_be_copied_is_measured_and_left_as_it_was():
    animal = ANIMALS["backward hook that records"]
    model = animal.build()
    model.lock = threading.Lock()  # has no copy
    before = {name: w.clone() for name, w in model.state_dict().items()}
    hooks = [len(part._forward_hooks) for part in model.modules()]
    for function in (fisher_operator, fisher_diagonal, exact_fisher):
        found = function(model, animal.data)
        if function is fisher_operator:
            found.products(torch.ones(3, found.dim, dtype=torch.float64))
    assert model.seen == []
    assert all(torch.equal(before[name], w) for name, w in model.state_dict().items())
    assert all(isinstance(p, nn.Parameter) and p.grad is None for p in model.parameters())
    assert [len(part._forward_hooks) for part in model.modules()] == hooks
    assert model.training


def test_of_a_head_of_ten_classes_at_zero_every_eigenvalue_is_had_nine_times():
    """F = (I/10 − 11ᵀ/100) ⊗ E[aaᵀ], a = (x, 1): 1/10 of each eigenvalue of the latter, nine times
    over, and zeros.
    """
    model, x = nn.Linear(40, 10).double(), draw(60, 40)
    nn.init.zeros_(model.weight), nn.init.zeros_(model.bias)
    a = torch.cat([x, torch.ones(60, 1)], 1)
    right = torch.linalg.eigvalsh(a.T @ a / 60).flip(0)[:3].repeat_interleave(9) / 10
    data = x, integers(10, 60)
    pairs = fisher_eigenpairs(model, data, 12)
    np.testing.assert_allclose(pairs.values, right[:12], rtol=1e-6)
    smallest = fisher_eigenpairs(model, data, 2, which="smallest")
    np.testing.assert_allclose(smallest.values, 0, atol=1e-6)
    matrix = full(fisher_operator(model, data))
    torch.testing.assert_close(
        pairs.vectors @ matrix,
        pairs.vectors * torch.tensor(pairs.values)[:, None],
        atol=1e-3,
        rtol=0,
    )
