"""Rescaling two layers: the function stays, λ̂ does not, unless localisation and noise are
transformed as well.
"""

import numpy as np
import pytest
import torch
from torch import nn

from degeneracy.llc.estimate import estimate_llcs
from degeneracy.llc.settings import SamplerSettings
from degeneracy.models.balance import rescaled_units
from degeneracy.models.networks import DLNN, FFNN, LeNet5
from degeneracy.models.rescaling import rescalable_layers, rescaled


@pytest.mark.parametrize(
    ("build", "layers"),
    [
        (lambda: FFNN(8, 2, (1, 6, 6), 3), ("layers.1", "layers.3")),
        (lambda: DLNN(8, 2, (1, 6, 6), 3), ("layers.1", "layers.3")),
        (lambda: LeNet5(0, (1, 16, 16), 3), ("layers.0", "layers.3")),
        (lambda: LeNet5(2, (1, 16, 16), 3), ("layers.0", "layers.2")),
        (
            lambda: nn.Sequential(
                nn.Linear(36, 4), nn.Tanh(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)
            ),
            ("2", "4"),
        ),
    ],
)
def test_the_network_computes_the_same_function(build, layers):
    torch.manual_seed(0)
    model = build()
    assert rescalable_layers(model) == layers
    shape = (
        (5, 36)
        if isinstance(model, nn.Sequential)
        else (5, 1, 16, 16)
        if isinstance(model, LeNet5)
        else (5, 1, 6, 6)
    )
    inputs = torch.randn(shape)
    before, state = model(inputs), model.state_dict()
    changed = rescaled(state, layers, 3.0)
    assert changed.keys() == state.keys()
    assert not torch.equal(changed[f"{layers[1]}.weight"], state[f"{layers[1]}.weight"])
    model.load_state_dict(changed)
    torch.testing.assert_close(model(inputs), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "model",
    [
        nn.Linear(3, 3),
        nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3)),
        nn.Sequential(nn.ReLU()),
    ],
)
def test_a_model_without_such_layers_has_none(model):
    assert rescalable_layers(model) is None


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    data = torch.randn(400, 6), torch.randint(3, (400,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data[0]), data[1]).backward()
        optimizer.step()
    return model, data


class InOtherUnits(nn.Module):
    """The network at `state`, sampled in v: w = factor · v in the first layer, w = v / factor in
    the last weights.
    """

    def __init__(self, state: dict, factor: float):
        super().__init__()
        self.factor = factor
        scales = (factor, factor, 1 / factor, 1.0)
        self.v = nn.ParameterList(
            w.clone() / s for w, s in zip(state.values(), scales, strict=True)
        )

    def forward(self, x):
        a, b, c, d = self.v
        hidden = torch.relu(nn.functional.linear(x, self.factor * a, self.factor * b))
        return nn.functional.linear(hidden, c / self.factor, d)


def test_the_estimate_is_invariant_where_localisation_and_noise_are_transformed_along(trained):
    """With w = s v sampled in v, γ|v − v*|² and N(0, ε) noise in v are those of the unscaled
    weights: the traces agree.

    The ordinary estimator at the rescaled weights, with its isotropic ball and noise, gives another
    number.
    """
    model, data = trained
    factor, state = 3.0, model.state_dict()
    changed = rescaled(state, ("0", "2"), factor)
    settings = SamplerSettings(
        sampler="sgld",
        num_chains=2,
        num_draws=400,
        num_burnin_steps=100,
        sampler_lr=1e-3,
        nbeta=100.0,
    )

    (plain,) = estimate_llcs(model, [state], data, settings, 100)
    (ordinary,) = estimate_llcs(model, [changed], data, settings, 100)
    units = InOtherUnits(changed, factor)
    (transformed,) = estimate_llcs(units, [units.state_dict()], data, settings, 100)

    np.testing.assert_allclose(transformed.trace, plain.trace, rtol=1e-5)
    assert transformed.llc == pytest.approx(plain.llc, rel=1e-4)
    error = np.hypot(ordinary.std_error, plain.std_error)
    assert abs(ordinary.llc - plain.llc) > 4 * error


@pytest.mark.parametrize("sampler", ["auto", "sgld"])
def test_in_the_balanced_gauge_it_is_the_same_for_every_rescaling_of_units(trained, sampler):
    """Units scaled by ¼ to 4, common noise: λ̂ moves by 2 % at most; in the given gauge by more."""
    model, data = trained
    state = model.state_dict()
    step = {"sampler_lr": 1e-3, "num_burnin_steps": 50} if sampler == "sgld" else {}
    settings = {"sampler": sampler, "num_chains": 4, "num_draws": 100, "nbeta": 60.0, **step}

    def llcs(states, gauge):
        s = SamplerSettings(**settings, gauge=gauge)
        found = estimate_llcs(model, states, data, s, 100, checkpoint_ids=[5] * len(states))
        assert sampler == "sgld" or all(e.certificates.gauge == gauge for e in found)
        return [e.llc for e in found]

    seeds = [torch.Generator().manual_seed(seed) for seed in range(3)]
    others = [rescaled_units(model, state, seed) for seed in seeds]
    reference, *balanced = llcs([state, *others], "balanced")
    assert balanced == pytest.approx([reference] * 3, rel=0.02)
    before, *given = llcs([state, *others], "given")
    assert max(abs(llc - before) for llc in given) > 0.1 * before
