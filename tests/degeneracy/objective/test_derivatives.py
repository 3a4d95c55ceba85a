"""Gradients and products with the Hessian, against dense ones, with and without rules for vmap."""

import pytest
import torch
from dense import dense_hessian
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from zoo import ANIMALS

from degeneracy.objective.derivatives import gradient_of, hessian_products
from degeneracy.objective.loss import objective_of
from degeneracy.weights import flattened, named


class OldSine(torch.autograd.Function):
    """Without `setup_context`, so without a rule for many at a time."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * OldSine.apply(x + torch.pi / 2)


SINES = {"own": OldSine.apply, "torch's": torch.sin}


def weights(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a": (3, 4), "idle": (2,), "b": (4,), "c": (1,)}
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64)
        for name, shape in shapes.items()
    }


def loss_with(sine):
    """Of all weights but one."""

    def loss(w: dict[str, Tensor]) -> Tensor:
        return ((sine(w["a"] @ w["b"]) * w["c"]).square() + sine(w["c"])).sum()

    return loss


def dense(loss, w: dict[str, Tensor]) -> Tensor:
    return torch.autograd.functional.hessian(lambda row: loss(named(row, w)), flattened(w))


@pytest.mark.parametrize("name", SINES)
@given(rows=st.integers(1, 20), at_once=st.integers(1, 9), seed=st.integers(0, 1000))
@settings(max_examples=25)
def test_products_are_those_of_the_dense_matrix_however_many_at_once(name, rows, at_once, seed):
    w, loss = weights(seed), loss_with(SINES[name])
    vectors = torch.randn(
        rows, 19, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    found = hessian_products(loss, w, at_once)(vectors)
    right = vectors @ dense(loss_with(torch.sin), w)
    assert torch.allclose(found, right, atol=1e-10)


def test_an_operation_without_a_rule_for_many_is_tried_once_and_then_one_by_one():
    w = weights()
    products = hessian_products(loss_with(OldSine.apply), w)
    vectors = torch.eye(19, dtype=torch.float64)
    right = dense(loss_with(torch.sin), w)
    assert torch.allclose(products(vectors), right, atol=1e-12)
    assert torch.allclose(products(vectors[:5]), right[:5], atol=1e-12)
    assert torch.allclose(products(vectors[:1]), right[:1], atol=1e-12)


def test_weights_that_the_loss_does_not_see_give_rows_and_columns_of_zeros():
    w = weights()
    found = hessian_products(loss_with(torch.sin), w)(torch.eye(19, dtype=torch.float64))
    assert not found[12:14].any()
    assert not found[:, 12:14].any()
    slope, _ = gradient_of(loss_with(torch.sin), w)
    assert not slope[12:14].any()


@pytest.mark.parametrize(
    "loss",
    [
        lambda w: w["a"].sum() + 2 * w["c"].sum(),
        lambda w: w["a"].sum().detach(),
        lambda w: torch.tensor(3.0, dtype=torch.float64),
        lambda w: w["a"].abs().sum() + w["b"].relu().sum(),
    ],
    ids=["linear", "detached", "constant", "kinks"],
)
@pytest.mark.parametrize("rows", [1, 3])
def test_a_loss_without_curvature_gives_zeros(loss, rows):
    vectors = torch.ones(rows, 19, dtype=torch.float64)
    found = hessian_products(loss, weights())(vectors)
    assert found.shape == vectors.shape
    assert not found.any()


def test_a_loss_that_is_linear_in_some_weights_has_the_curvature_of_the_others():
    w = weights()

    def loss(w: dict[str, Tensor]) -> Tensor:
        return w["a"].sum() + w["b"].square().sum() / 2

    right = torch.diag(torch.tensor([0.0] * 14 + [1.0] * 4 + [0.0], dtype=torch.float64))
    for vectors in (torch.eye(19, dtype=torch.float64), torch.eye(19, dtype=torch.float64)[15:16]):
        found = hessian_products(loss, w)(vectors)
        assert torch.equal(found, vectors @ right)


@pytest.mark.parametrize("rows", [1, 3])
def test_a_weight_that_is_a_single_number_has_its_row(rows):
    """As a temperature, or a scale of logits."""
    w = {"scale": torch.tensor(2.0), "shift": torch.ones(2)}
    found = hessian_products(lambda w: (w["scale"] ** 2 * w["shift"]).sum(), w)
    right = torch.tensor([[4.0, 4.0, 4.0], [4.0, 0.0, 0.0], [4.0, 0.0, 0.0]])
    assert torch.equal(found(torch.eye(3)[:rows]), right[:rows])


@given(seed=st.integers(0, 1000))
@settings(max_examples=20)
def test_the_gradient_and_the_value_are_autograds(seed):
    w, loss = weights(seed), loss_with(OldSine.apply)
    slope, value = gradient_of(loss, w)
    row = flattened(w)
    right = torch.autograd.functional.jacobian(lambda r: loss_with(torch.sin)(named(r, w)), row)
    assert torch.allclose(slope, right, atol=1e-12)
    assert float(value) == pytest.approx(float(loss(w)))
    assert not value.requires_grad
    assert not slope.requires_grad


def test_derivatives_are_taken_also_where_gradients_are_switched_off():
    w = weights()
    right = dense(loss_with(torch.sin), w)
    with torch.no_grad():
        products = hessian_products(loss_with(torch.sin), w)
        found = products(torch.eye(19, dtype=torch.float64))
        slope, _ = gradient_of(loss_with(torch.sin), w)
    assert torch.allclose(found, right, atol=1e-12)
    assert slope.any()


@pytest.mark.parametrize(
    "name", ["old-style function", "ffnn prelu", "gpt", "gru", "layer never called"]
)
@pytest.mark.parametrize("at_once", [1, 8])
def test_products_of_a_module_are_the_dense_ones_one_by_one_and_many_at_once(name, at_once):
    animal = ANIMALS[name]
    objective = objective_of(animal.build(), animal.loss_fn, animal.data, forward=animal.forward)
    loss = objective.share(objective.data.whole)
    vectors = torch.eye(len(flattened(objective.weights)), dtype=torch.float64)[::3]
    found = hessian_products(loss, objective.weights, at_once)(vectors)
    assert torch.allclose(found, vectors @ dense_hessian(animal), atol=1e-10)
