"""Do the comparisons say how alike representations, kernels and weights are?"""

import pytest
import torch

from degeneracy.optimizers.gauss_newton import class_kernel
from studies.gauss_newton.similarity import (
    kernel_similarity,
    linear_cka,
    representations,
    weight_change,
)


def cka_by_definition(a, b):
    """HSIC(K, L)/√(HSIC(K, K)·HSIC(L, L)) with centred Gram matrices (arXiv:1905.00414, eq. 3)."""
    n = len(a)
    h = torch.eye(n).double() - 1 / n
    k, m = a @ a.T, b @ b.T

    def hsic(one, other):
        return torch.trace(one @ h @ other @ h) / (n - 1) ** 2

    return (hsic(k, m) / (hsic(k, k) * hsic(m, m)).sqrt()).item()


@pytest.mark.parametrize(("n", "p", "q"), [(50, 6, 4), (8, 30, 20), (12, 3, 40)])
def test_linear_cka_is_that_of_the_definition(n, p, q):
    a, b = torch.randn(n, p).double() + 3, torch.randn(n, q).double()
    b[:, 0] += a[:, 0]
    assert linear_cka(a, b) == pytest.approx(cka_by_definition(a, b), rel=1e-12)


def test_cka_sees_no_rotation_no_scale_and_no_shift():
    a = torch.randn(30, 5).double()
    rotation = torch.linalg.qr(torch.randn(5, 5).double()).Q
    assert linear_cka(a, 7 * a @ rotation + 2) == pytest.approx(1.0, abs=1e-12)


def test_cka_of_different_samples_is_refused():
    with pytest.raises(ValueError, match="of 3 and 4 samples given; allowed: the same ones"):
        linear_cka(torch.ones(3, 2), torch.ones(4, 2))
    with pytest.raises(ValueError, match="at least 2"):
        linear_cka(torch.ones(1, 2), torch.ones(1, 2))


def test_representations_are_the_activations_after_every_half_layer(make):
    model, x = make(2), torch.randn(5, 24).double()
    found = representations(model, x)
    assert list(found) == ["blocks.0.f", "blocks.0.g", "blocks.1.f", "blocks.1.g"]
    assert torch.equal(found["blocks.1.g"], model.hidden(x))
    x1, x2 = x.chunk(2, dim=1)
    torch.testing.assert_close(
        found["blocks.0.f"], torch.cat([x1 + model.blocks[0].f(x2), x2], dim=1)
    )


def test_kernels_are_compared_by_their_cosine(make):
    model, x = make(2), torch.randn(5, 24).double()
    kernel = class_kernel(model, x)
    assert kernel.shape == (20, 20)
    assert kernel_similarity(kernel, 3 * kernel) == pytest.approx(1.0, abs=1e-12)
    one, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0]])
    assert kernel_similarity(one, other) == pytest.approx(0.5**0.5)


def test_weight_changes_are_of_each_parameter_and_of_all():
    first = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([0.0])}
    last = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([3.0])}
    found = weight_change(first, last)
    assert found["a"] == pytest.approx({"change": 4.0, "relative": 0.8, "cosine": 0.6})
    assert found["b"] == {"change": 3.0, "relative": None, "cosine": None}
    assert found[""]["change"] == pytest.approx(5.0)
