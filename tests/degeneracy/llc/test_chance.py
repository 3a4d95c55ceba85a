"""The loss of the best constant prediction, against its closed forms."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from degeneracy.llc.chance import chance_loss

COUNTS = (500, 250, 150, 60, 40)


@pytest.fixture
def labels():
    return torch.repeat_interleave(torch.arange(5), torch.tensor(COUNTS))


def test_cross_entropys_is_the_labels_entropy(labels):
    inputs = torch.randn(1000, 3)
    shares = np.array(COUNTS) / 1000
    entropy = -(shares * np.log(shares)).sum()
    found = chance_loss(nn.Linear(3, 5), (inputs, labels), cross_entropy)
    assert found == pytest.approx(entropy, rel=1e-5)
    # of ten classes alike it is ln 10, whatever the network has learnt
    alike = torch.arange(10).repeat(50)
    ten = chance_loss(nn.Linear(3, 10), (torch.randn(500, 3), alike), cross_entropy)
    assert ten == pytest.approx(math.log(10), rel=1e-6)


def test_a_class_without_a_sample_adds_nothing(labels):
    found = chance_loss(nn.Linear(3, 6), (torch.randn(1000, 3), labels), cross_entropy)
    shares = np.array(COUNTS) / 1000
    assert found == pytest.approx(-(shares * np.log(shares)).sum(), abs=1e-3)


def test_squared_errors_is_the_targets_variance():
    targets = torch.randn(400, 2, generator=torch.Generator().manual_seed(0)) * 3 + 7
    found = chance_loss(nn.Linear(3, 2), (torch.randn(400, 3), targets), mse_loss)
    assert found == pytest.approx(targets.double().var(0, correction=0).mean().item(), rel=1e-5)


def test_tokens_have_one_too(labels):
    model = nn.Sequential(nn.Embedding(7, 2), nn.Flatten(), nn.Linear(6, 5))
    found = chance_loss(model, (torch.randint(7, (1000, 3)), labels), cross_entropy)
    assert found == pytest.approx(
        chance_loss(nn.Linear(3, 5), (torch.randn(1000, 3), labels), cross_entropy), rel=1e-5
    )


def test_outputs_that_are_no_tensor_have_none(labels):
    class Pair(nn.Linear):
        def forward(self, x):
            return super().forward(x), x

    def loss(outputs, targets):
        return cross_entropy(outputs[0], targets)

    assert chance_loss(Pair(3, 5), (torch.randn(1000, 3), labels), loss) is None


def test_a_loss_without_a_finite_constant_has_none(labels):
    def loss(outputs, targets):
        return cross_entropy(outputs, targets) + math.nan

    assert chance_loss(nn.Linear(3, 5), (torch.randn(1000, 3), labels), loss) is None
