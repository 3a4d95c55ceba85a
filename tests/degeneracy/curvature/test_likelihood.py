"""Are residual factors those of the loss's derivatives by the outputs, and labels drawn from p?"""

import math

import pytest
import torch
from torch import nn
from torch.autograd.functional import hessian
from torch.nn import functional as F
from zoo import draw, integers

from degeneracy.curvature.likelihood import KINDS, likelihood_of

HOLES = torch.tensor([[0, 2, -100], [1, -100, 0], [2, 2, 1], [0, 1, 2]])
WEIGHT = torch.tensor([0.5, 1.0, 2.5], dtype=torch.float64)
BITS = integers(2, 4, 3).double()
CASES = {
    "cross-entropy": (F.cross_entropy, draw(4, 3), integers(3, 4)),
    "tokens": (F.cross_entropy, draw(4, 3, 3), HOLES),
    "places": (nn.CrossEntropyLoss(), draw(4, 3, 2, 2), integers(3, 4, 2, 2)),
    "weights": (nn.CrossEntropyLoss(weight=WEIGHT), draw(4, 3, 3), HOLES),
    "smoothing": (nn.CrossEntropyLoss(label_smoothing=0.2), draw(4, 3), integers(3, 4)),
    "probabilities": (F.cross_entropy, draw(4, 3), draw(4, 3, seed=3).softmax(1)),
    "squared error": (nn.MSELoss(), draw(4, 3, 2), draw(4, 3, 2, seed=3)),
    "one output": (F.mse_loss, draw(4), draw(4, seed=3)),
    "bernoulli": (nn.BCEWithLogitsLoss(), draw(4, 3), BITS),
}
LABELLED = [name for name in CASES if name not in ("smoothing", "probabilities")]


def factors(likelihood, outputs, targets, labels) -> torch.Tensor:
    """R, flat: a row a column."""
    every = range(math.prod(likelihood.num_residuals(outputs.shape)))
    rows = likelihood.cotangents(outputs, targets, labels, every)  # each of all samples
    alone = torch.zeros(len(rows), len(outputs), *outputs.shape, dtype=outputs.dtype)
    for i in range(len(outputs)):
        alone[:, i, i] = rows[:, i]
    return alone.flatten(0, 1).flatten(1)


@pytest.mark.parametrize("case", CASES)
def test_expected_factors_are_a_root_of_the_losss_hessian_by_the_outputs(case):
    loss_fn, outputs, targets = CASES[case]
    likelihood = likelihood_of(loss_fn, "expected")
    rows = factors(likelihood, outputs, targets, targets)
    size = outputs.numel()
    right = hessian(lambda z: loss_fn(z, targets), outputs).reshape(size, size)
    torch.testing.assert_close(rows.T @ rows / likelihood.num_terms(targets), right)


@pytest.mark.parametrize("case", LABELLED)
def test_empirical_factors_sum_to_the_losss_gradient(case):
    """Of terms without a weight: Σ_t r_t = T ∂L/∂z, and each term's outputs are its own."""
    loss_fn, outputs, targets = CASES[case]
    if case == "weights":
        loss_fn = nn.CrossEntropyLoss()
    likelihood = likelihood_of(loss_fn, "empirical")
    rows = factors(likelihood, outputs, targets, targets)
    outputs = outputs.clone().requires_grad_()
    (right,) = torch.autograd.grad(loss_fn(outputs, targets), outputs)
    torch.testing.assert_close(rows.sum(0), right.flatten() * likelihood.num_terms(targets))
    assert ((rows != 0).sum(0) <= 1).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", LABELLED)
def test_products_in_the_middle_are_those_of_the_factors(case, kind):
    loss_fn, outputs, targets = CASES[case]
    likelihood = likelihood_of(loss_fn, kind)
    labels = targets
    if kind == "sampled":
        labels = likelihood.drawn(outputs, torch.Generator().manual_seed(0))
    rows = factors(likelihood, outputs, targets, labels)
    u = draw(5, *outputs.shape, seed=7)
    found = likelihood.middle(outputs, targets, labels)(u)
    torch.testing.assert_close(found.flatten(1), u.flatten(1) @ rows.T @ rows)


def test_labels_are_drawn_from_p():
    """Frequencies, means and variances, within four and a half standard errors."""
    generator, count = torch.Generator().manual_seed(0), 20_000
    z = draw(1, 3).expand(count, 3)
    found = likelihood_of(F.cross_entropy, "sampled").drawn(z, generator)
    p = z[0].softmax(0)
    frequencies = F.one_hot(found, 3).double().mean(0)
    assert ((frequencies - p).abs() < 4.5 * (p * (1 - p) / count).sqrt()).all()
    found = likelihood_of(nn.BCEWithLogitsLoss(), "sampled").drawn(z, generator)
    p = z[0].sigmoid()
    assert ((found.mean(0) - p).abs() < 4.5 * (p * (1 - p) / count).sqrt()).all()
    found = likelihood_of(F.mse_loss, "sampled").drawn(z, generator) - z  # of variance 3/2
    assert (found.mean(0).abs() < 4.5 * (1.5 / count) ** 0.5).all()
    assert ((found.var(0) - 1.5).abs() < 4.5 * 1.5 * (2 / count) ** 0.5).all()
