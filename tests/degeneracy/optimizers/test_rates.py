"""Is the largest stable rate the first of the grid that keeps the rule?"""

import pytest
import torch
from torch import nn

from degeneracy.data.images import TensorData
from degeneracy.optimizers.rates import Rule, behaviour, largest_stable_rate, rate_grid
from degeneracy.stepper import TorchStepper

RULE = Rule(reach=0.3, epochs=30, stay=0.6, more_epochs=1, batch_size=40, look_every=1)


class OneWeight(nn.Module):
    """Logits (0, w·x): of one weight."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, inputs):
        return torch.stack([torch.zeros(len(inputs)), self.weight * inputs.flatten()], dim=1)


@pytest.fixture
def data():
    inputs = torch.cat([torch.full((20,), -1.0), torch.full((20,), 1.0)])
    return TensorData(inputs.view(-1, 1, 1, 1), (inputs > 0).long())


def build(model, rate):
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    return TorchStepper(model, nn.functional.cross_entropy, [optimizer])


def test_the_grid_halves_in_two_steps():
    assert rate_grid(5) == pytest.approx([1, 2**-0.5, 0.5, 2**-1.5, 0.25])


def test_a_rate_that_learns_is_stable(data):
    assert behaviour(OneWeight, build, data, 1.0, 0, RULE) == ""
    assert largest_stable_rate(OneWeight, build, data, [0, 1], RULE).rate == 1.0


def test_a_rate_that_is_too_small_is_told(data):
    assert "after 30 epochs" in behaviour(OneWeight, build, data, 1e-4, 0, RULE)


def test_what_diverges_is_told(data):
    def breaking(model, rate):
        stepper = build(model, rate)
        stepper.step = lambda inputs, targets: model.weight.data.fill_(float("nan"))
        return stepper

    assert "loss nan" in behaviour(OneWeight, breaking, data, 1.0, 0, RULE)


def test_what_falls_and_rises_again_is_told(data):
    def rising(model, rate):
        stepper, steps = build(model, rate), iter(range(10**6))
        stepper.step = lambda inputs, targets: model.weight.data.fill_(
            2.0 if next(steps) < 1 else -0.5
        )
        return stepper

    assert "after it had been below 0.3" in behaviour(OneWeight, rising, data, 1.0, 0, RULE)


def test_the_search_goes_on_until_every_seed_is_stable(data):
    """Stable only below 0.6: the third rate of the grid."""

    def picky(model, rate):
        stepper = build(model, rate)
        stepper.step = lambda inputs, targets: model.weight.data.fill_(3.0 if rate < 0.6 else -9.0)
        return stepper

    found = largest_stable_rate(OneWeight, picky, data, [0, 1], RULE)
    assert found.rate == pytest.approx(0.5)
    assert [text == "stable" for _, text in found.tried] == [False, False, True]
    assert found.tried[0][1].startswith("seed 0: loss")


def test_where_no_rate_is_stable_there_is_none(data):
    def never(model, rate):
        stepper = build(model, rate)
        stepper.step = lambda inputs, targets: None
        return stepper

    assert largest_stable_rate(OneWeight, never, data, [3], RULE, count=2).rate is None
