"""Which nβ and γ a calibration picks, and that an estimate there is what it promises."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from degeneracy.llc.calibration import calibrate
from degeneracy.llc.estimate import estimate_llcs
from degeneracy.llc.settings import SamplerSettings


def moved(case, distance: float) -> dict:
    """The checkpoint in a direction that costs loss: every weight by another amount."""
    generator = torch.Generator().manual_seed(3)
    return {
        name: w + distance * torch.randn(w.shape, generator=generator)
        for name, w in case.weights.items()
    }


def test_at_a_minimum_it_picks_settings_of_a_local_estimate(classification):
    """nβ = n/ln n, and γ with which chains go a quarter of |w*|; 400 draws are over 30 relaxation
    times, so that R-hat is seldom above 1.05 by chance.
    """
    model, data, *_ = classification
    found = calibrate(model, model.state_dict(), data, SamplerSettings(num_draws=400))
    length = math.sqrt(sum(float(w.square().sum()) for w in classification.weights.values()))
    assert found.settings.nbeta == pytest.approx(800 / math.log(800))
    assert found.settings.localization == pytest.approx(15 / (length / 4) ** 2, rel=1e-5)
    (row,) = found.table.to_dict("records")
    assert row["admissible"]
    assert row["chosen"]
    assert row["distance"] == pytest.approx(0.25)
    assert row["shift"] == pytest.approx(0, abs=1e-3)
    assert "n/ln n, n = 800" in found.reason
    (estimate,) = estimate_llcs(model, [model.state_dict()], data, found.settings)
    assert estimate.verdict == "local estimate"
    assert estimate.relative_distance == pytest.approx(0.25, rel=0.2)


def test_of_a_checkpoint_off_its_minimum_it_lowers_nbeta_until_it_is_at_one(classification):
    """Every row halves nβ; the last is the first whose shift is at most 1; γ follows the shortest
    checkpoint, nβ the worst.
    """
    case = classification
    states = [case.model.state_dict(), moved(case, 0.3)]
    found = calibrate(case.model, states, case.data)
    table = found.table
    assert len(table) > 1
    assert (table["nbeta"].iloc[:-1].to_numpy() == 2 * table["nbeta"].iloc[1:].to_numpy()).all()
    assert table["admissible"].tolist() == table["chosen"].tolist()
    assert table["chosen"].tolist() == [False] * (len(table) - 1) + [True]
    assert table["shift"].iloc[-1] <= 1 < table["expected_shift"].iloc[0]
    assert not (table["shift"].iloc[:-1] <= 1).any()
    assert found.settings.nbeta == table["nbeta"].iloc[-1]
    assert f"n/ln n over {2 ** (len(table) - 1)}" in found.reason
    alone = calibrate(case.model, states[1], case.data)
    assert alone.settings.nbeta == found.settings.nbeta


def test_a_shift_is_that_of_the_quadratics_own_bottom(regression):
    """nβ(L(w*) − L(w_b)), w_b − w* = −(nβ H + γ)⁻¹ nβ ∇L; and ½ nβ²|∇L|²/γ bounds half of it."""
    model, (inputs, targets), loss_fn, _ = regression
    state, gamma = {"weight": regression.weights["weight"] + 0.05}, 40.0
    found = calibrate(model, state, (inputs, targets), None, 100, loss_fn, localization=gamma)
    x, y = inputs.double(), targets.double()
    hessian = x.T @ x / len(x)
    slope = (x.T @ (x @ state["weight"].double().T - y))[:, 0] / len(x)
    for row in found.table.to_dict("records"):
        nbeta = row["nbeta"]
        move = -torch.linalg.solve(nbeta * hessian + gamma * torch.eye(6), nbeta * slope)
        shift = -nbeta * float(slope @ move + move @ hessian @ move / 2)
        assert row["expected_shift"] == pytest.approx(nbeta**2 * slope.norm() ** 2 / (2 * gamma))
        assert shift <= 2 * row["expected_shift"]
        if not math.isnan(row["shift"]):
            assert row["shift"] == pytest.approx(shift, abs=0.2)
    assert found.settings.localization == gamma


def test_a_descent_that_is_slow_forbids_nothing_where_no_large_shift_is_possible():
    """A direction 10,000 times as stiff as the one that w* is off in: 320 steps do not get far in
    that, but nβ²|∇L|²/γ = 0.4 says that its shift is at most 0.4.
    """
    generator = torch.Generator().manual_seed(0)
    inputs = torch.linalg.qr(torch.randn(500, 2, generator=generator).double()).Q * 500**0.5
    inputs = inputs * torch.tensor([1.0, 100.0])  # curvatures 1 and 10,000
    targets = inputs.sum(1, keepdim=True)
    nbeta, gamma = 500 / math.log(500), 80.0
    away = math.sqrt(0.4 * gamma) / nbeta
    state = {"weight": torch.tensor([[1 + away, 1.0]])}

    def half_mse(outputs, targets):
        return 0.5 * (outputs - targets).square().mean()

    model, data = nn.Linear(2, 1, bias=False), (inputs.float(), targets.float())
    found = calibrate(model, state, data, None, 100, half_mse, localization=gamma)
    assert found.table["expected_shift"].iloc[0] == pytest.approx(0.2, rel=0.02)
    assert found.settings.nbeta == pytest.approx(nbeta)


def test_where_chains_go_too_far_nothing_is_admissible_and_the_reason_says_so(classification):
    case = classification
    found = calibrate(case.model, case.model.state_dict(), case.data, localization=1.0)
    assert found.settings is None
    assert not found.table["admissible"].any()
    assert len(found.table) == 14
    assert found.reason.startswith("No nβ of 14 is admissible; γ = 1 lets chains go ")
    assert "|w*|: raise it" in found.reason


def test_where_no_checkpoint_is_at_a_minimum_it_says_to_train_on():
    """Half a million samples of no use: their slope is too steep at every nβ."""
    inputs = 1e4 * torch.ones(64, 2)
    model = nn.Linear(2, 2)
    torch.manual_seed(0)
    labels = torch.arange(64) % 2
    model.weight.data = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    found = calibrate(model, model.state_dict(), (inputs, labels), batch_size=8)
    assert found.settings is None
    assert "at no minimum even at the smallest: train on, or raise γ" in found.reason


@pytest.mark.parametrize("sampler", ["auto", "sgld"])
def test_what_else_was_asked_for_is_kept(classification, sampler):
    """The sampler becomes auto, which finds step and lengths by itself."""
    case = classification
    given = SamplerSettings(sampler=sampler, num_chains=3, seed=5)
    found = calibrate(case.model, case.model.state_dict(), case.data, given).settings
    assert (found.sampler, found.num_chains, found.seed) == ("auto", 3, 5)
    assert (found.sampler_lr, found.num_draws, found.num_burnin_steps) == (None, None, None)


def test_the_model_stays_as_it_is(classification):
    case = classification
    before = {name: tensor.clone() for name, tensor in case.model.state_dict().items()}
    calibrate(case.model, moved(case, 0.3), case.data)
    assert all(torch.equal(before[name], w) for name, w in case.model.state_dict().items())


def test_what_cannot_be_calibrated_is_refused(classification):
    model, (inputs, labels), *_ = classification
    state, data = model.state_dict(), (inputs, labels)
    for localization in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match=r"localization = .*allowed: a number above 0"):
            calibrate(model, state, data, localization=localization)
    with pytest.raises(ValueError, match="checkpoints is empty"):
        calibrate(model, [], data)
    with pytest.raises(ValueError, match="without bias, weight"):
        calibrate(model, {"other": inputs}, data)
    broken = inputs.clone()
    broken[3] = math.nan
    with pytest.raises(ValueError, match="NaN or infinity in 1 samples"):
        calibrate(model, state, (broken, labels))

    def cone(outputs, targets):
        return cross_entropy(outputs, targets) + (outputs - outputs.detach()).square().sum().sqrt()

    with pytest.raises(ValueError, match="gradient at a checkpoint is not finite"):
        calibrate(model, state, data, loss_fn=cone)
