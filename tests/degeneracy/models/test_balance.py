"""Balanced weights: the same function, |in| = |out|, and one result for all rescalings."""

from collections import OrderedDict
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import weight_norm

from degeneracy.models.balance import balanced, hidden_layers, rescaled_units
from degeneracy.models.networks import DLNN, FFNN, LeNet5


class WithFunctions(nn.Module):
    """A convolutional network written with functions, methods and a view."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 5, 3, bias=False)
        self.three, self.four = nn.Linear(5 * 4, 7), nn.Linear(7, 6)
        self.five = nn.Linear(6, 3)

    def forward(self, images):
        x = F.max_pool2d(F.relu(self.one(images)), 2)
        x = F.avg_pool2d(F.leaky_relu(self.two(x), 0.1), 2, padding=1)
        x = F.adaptive_avg_pool2d(x, 2)
        x = x.view(x.size(0), -1)
        x = torch.flatten(torch.relu(self.three(x)), 1)
        x = F.dropout(self.four(x).relu(), 0.5, self.training)
        return F.log_softmax(self.five(x.reshape(x.shape[0], -1)), dim=1)


def one_dimensional() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(2),
        nn.Conv1d(1, 4, 5, padding=2, padding_mode="circular"),
        nn.LeakyReLU(0.2),
        nn.AdaptiveMaxPool1d(12),
        nn.Conv1d(4, 3, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(15, 3),
    )


MODELS = {
    "ffnn": lambda: FFNN(8, 3, (1, 16, 16), 3),
    "dlnn": lambda: DLNN(8, 4, (1, 16, 16), 3),
    "lenet": lambda: LeNet5(0, (1, 16, 16), 3),
    "lenet2": lambda: LeNet5(2, (1, 16, 16), 3),
    "functions": WithFunctions,
    "1d": one_dimensional,
}


@pytest.fixture(params=MODELS)
def model(request) -> nn.Module:
    torch.manual_seed(0)
    model = MODELS[request.param]().eval()
    # Units of very different scales, so that nothing is balanced by chance.
    model.load_state_dict(rescaled_units(model, model.state_dict(), generator()))
    return model


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def outputs(model: nn.Module, state: dict, seed: int = 2) -> torch.Tensor:
    inputs = torch.randn(7, 1, 16, 16, generator=generator(seed))
    return torch.func.functional_call(model, state, (inputs,))


def unit_norms(model: nn.Module, state: dict) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(|in|, |out|) of each hidden unit, one by one, from all weights that touch it."""
    norms = []
    for name, following in hidden_layers(model):
        weight, after = state[f"{name}.weight"].double(), state[f"{following}.weight"].double()
        bias = state.get(f"{name}.bias", torch.zeros(len(weight))).double()
        block = after.shape[1] // len(weight)
        for unit in range(len(weight)):
            incoming = torch.cat([weight[unit].flatten(), bias[unit : unit + 1]]).norm()
            outgoing = after[:, unit * block : (unit + 1) * block].norm()
            norms.append((incoming, outgoing))
    return norms


def sum_of_squares(state: dict) -> float:
    return float(sum(tensor.double().square().sum() for tensor in state.values()))


def assert_same(state: dict, other: dict, rtol: float = 1e-5) -> None:
    assert state.keys() == other.keys()
    for name, tensor in state.items():
        torch.testing.assert_close(other[name], tensor, rtol=rtol, atol=1e-7, msg=name)


def test_the_pairs_of_layers_in_the_order_they_run():
    assert hidden_layers(LeNet5(1)) == [
        ("layers.0", "layers.2"),
        ("layers.2", "layers.5"),
        ("layers.5", "layers.9"),
        ("layers.9", "layers.11"),
        ("layers.11", "layers.13"),
    ]
    names = ["one", "two", "three", "four", "five"]
    assert hidden_layers(WithFunctions()) == list(pairwise(names))


@pytest.mark.parametrize("change", ["balanced", "rescaled"])
def test_the_function_is_the_same(model, change):
    state = model.state_dict()
    changed = (
        balanced(model, state)
        if change == "balanced"
        else rescaled_units(model, state, generator())
    )
    for name, following in hidden_layers(model):
        for layer in (name, following):
            assert not torch.allclose(changed[f"{layer}.weight"], state[f"{layer}.weight"])
    before, after = outputs(model, state), outputs(model, changed)
    assert (after - before).norm() < 1e-5 * before.norm()


def test_in_and_outgoing_norms_agree(model):
    state = model.state_dict()
    assert any(abs(i / o - 1) > 0.1 for i, o in unit_norms(model, state))
    for incoming, outgoing in unit_norms(model, balanced(model, state)):
        assert float(incoming) == pytest.approx(float(outgoing), rel=1e-5)


@pytest.mark.parametrize("seed", [3, 4])
def test_all_rescalings_of_a_state_have_one_balance(model, seed):
    state = model.state_dict()
    other = rescaled_units(model, state, generator(seed), 1e-2, 1e2)
    assert_same(balanced(model, state), balanced(model, other))


def test_in_float64_the_fixed_point_is_exact(model):
    model = model.double()
    state = model.state_dict()
    other = rescaled_units(model, state, generator(5))
    result = balanced(model, state)
    for name, tensor in balanced(model, other).items():
        torch.testing.assert_close(tensor, result[name], rtol=1e-9, atol=1e-12)
    for incoming, outgoing in unit_norms(model, result):
        assert float(incoming) == pytest.approx(float(outgoing), rel=1e-11)


def test_balancing_twice_is_balancing_once(model):
    once = balanced(model, model.state_dict())
    assert_same(once, balanced(model, once), rtol=1e-6)


@pytest.mark.parametrize(("low", "high"), [(0.25, 4.0), (0.99, 1.01)])
def test_no_rescaling_has_a_smaller_sum_of_squares(model, low, high):
    model = model.double()
    result = balanced(model, model.state_dict())
    for seed in range(20):
        other = rescaled_units(model, result, generator(seed), low, high)
        assert sum_of_squares(result) < sum_of_squares(other)
    assert sum_of_squares(result) < sum_of_squares(model.state_dict())


def test_one_hidden_unit_by_hand():
    """|in| = |(2, 2, 1)| = 3 with the bias, |out| = 12: c = 2 and both are 6."""
    model = nn.Sequential(nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 1))
    state = {
        "0.weight": torch.tensor([[2.0, 2.0]]),
        "0.bias": torch.tensor([1.0]),
        "2.weight": torch.tensor([[12.0]]),
        "2.bias": torch.tensor([5.0]),
    }
    result = {name: tensor.flatten().tolist() for name, tensor in balanced(model, state).items()}
    expected = {"0.weight": [4.0, 4.0], "0.bias": [2.0], "2.weight": [6.0], "2.bias": [5.0]}
    assert result == {name: pytest.approx(values) for name, values in expected.items()}


def test_units_without_in_or_out_are_left_and_the_others_balanced():
    torch.manual_seed(0)
    model = FFNN(6, 1, (1, 4, 4), 3)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["layers.1.weight"][0] = state["layers.1.bias"][0] = 0
    state["layers.3.weight"][:, 1] = 0
    result = balanced(model, state)
    for name in ("layers.1.weight", "layers.1.bias"):
        assert torch.equal(result[name][:2], state[name][:2])
    assert torch.equal(result["layers.3.weight"][:, :2], state["layers.3.weight"][:, :2])
    for incoming, outgoing in unit_norms(model, result)[2:]:
        assert float(incoming) == pytest.approx(float(outgoing), rel=1e-5)
    live = torch.tensor([1.0, 1.0, 0.3, 3.0, 2.0, 0.5])
    assert_same(result, balanced(model, rescaled_units(model, state, {"layers.1": live})))


def test_a_deep_network_converges():
    torch.manual_seed(0)
    model = DLNN(4, 20, (1, 2, 2), 3).double()
    for incoming, outgoing in unit_norms(model, balanced(model, model.state_dict())):
        assert float(incoming) == pytest.approx(float(outgoing), rel=1e-9)


def test_types_and_other_entries_stay_and_nothing_given_changes():
    torch.manual_seed(0)
    model = FFNN(4, 2, (1, 4, 4), 3).to(torch.bfloat16)
    model.register_buffer("seen", torch.tensor(7))
    state = model.state_dict()
    copies = {name: tensor.clone() for name, tensor in state.items()}
    result = balanced(model, state)
    assert list(result) == list(state)
    assert result["seen"] is state["seen"]
    assert {result[name].dtype for name, _ in model.named_parameters()} == {torch.bfloat16}
    for name, tensor in copies.items():
        assert torch.equal(state[name], tensor)
        assert torch.equal(model.state_dict()[name], tensor)


@pytest.mark.parametrize(
    "model",
    [
        nn.Linear(3, 2),
        nn.Sequential(nn.Flatten(), nn.Linear(3, 2), nn.Softmax(1)),
        nn.Sequential(nn.BatchNorm1d(3, affine=False), nn.Linear(3, 2)),
    ],
)
def test_without_hidden_layers_the_state_stays(model):
    assert hidden_layers(model) == []
    state = model.state_dict()
    result = balanced(model, state)
    assert all(result[name] is state[name] for name in state)


def test_chosen_factors_scale_in_and_divide_out():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 1))
    state = model.state_dict()
    result = rescaled_units(model, state, {"0": torch.tensor([2.0, 0.5])})
    assert torch.equal(result["0.weight"][0], 2 * state["0.weight"][0])
    assert torch.equal(result["0.bias"], state["0.bias"] * torch.tensor([2.0, 0.5]))
    assert torch.equal(result["3.weight"][:, :4], state["3.weight"][:, :4] / 2)
    assert torch.equal(result["3.weight"][:, 4:], state["3.weight"][:, 4:] * 2)
    assert torch.equal(result["3.bias"], state["3.bias"])


def test_random_factors_are_within_their_bounds_and_fill_them():
    model = FFNN(500, 1, (1, 2, 2), 3)
    state = {name: torch.ones_like(tensor) for name, tensor in model.state_dict().items()}
    factors = rescaled_units(model, state, generator(), 0.25, 4.0)["layers.1.bias"]
    assert 0.25 <= factors.min() < 0.26
    assert 3.8 < factors.max() <= 4.0
    # log-uniform: mean log 0, standard error (log 16 / √12) / √500 = 0.036
    assert abs(factors.log().mean()) < 4 * 0.036


class Custom(nn.Module):
    """Two Linear layers, used as `run(self, x)` says."""

    def __init__(self, run, tie: bool = False):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.run = run
        if tie:
            self.b.weight = self.a.weight

    def forward(self, x):
        return self.run(self, x)


def between(*layers: nn.Module, first: nn.Module | None = None, last: nn.Module | None = None):
    return nn.Sequential(first or nn.Linear(4, 4), *layers, last or nn.Linear(4, 4))


REFUSED = {
    "tied weight": (
        lambda: Custom(lambda m, x: m.b(m.a(x)), tie=True),
        "'a.weight' and 'b.weight'",
    ),
    "layer twice": (lambda: Custom(lambda m, x: m.b(m.a(m.a(x)))), "'a.weight' 2 times"),
    "weight read": (
        lambda: Custom(lambda m, x: F.linear(m.b(m.a(x)), m.a.weight)),
        "'a.weight' outside its layer",
    ),
    "residual": (lambda: Custom(lambda m, x: m.a(x) + m.b(m.a(x))), "'a.weight' 2 times"),
    "skip": (
        lambda: Custom(lambda m, x: (lambda h: h + m.b(h))(torch.relu(m.a(x)))),
        "'a' is used in 2 places",
    ),
    "input skip": (lambda: Custom(lambda m, x: m.b(x + m.a(x))), "'a' comes add"),
    "batch norm": (lambda: between(nn.BatchNorm1d(4)), "'1.weight' belongs to a BatchNorm1d"),
    "plain batch norm": (
        lambda: between(nn.BatchNorm1d(4, affine=False)),
        "'0' comes BatchNorm1d '1'",
    ),
    "layer norm": (lambda: between(nn.LayerNorm(4)), "'1.weight' belongs to a LayerNorm"),
    "group norm": (lambda: between(nn.GroupNorm(2, 4)), "'1.weight' belongs to a GroupNorm"),
    "weight norm": (
        lambda: between(nn.ReLU(), first=weight_norm(nn.Linear(4, 4))),
        "'0.bias' belongs to a ParametrizedLinear",
    ),
    "tanh": (lambda: between(nn.Tanh()), "'0' comes Tanh '1'"),
    "gelu": (lambda: between(nn.GELU()), "'0' comes GELU '1'"),
    "relu6": (lambda: between(nn.ReLU6()), "'0' comes ReLU6 '1'"),
    "sigmoid": (lambda: Custom(lambda m, x: m.b(torch.sigmoid(m.a(x)))), "'a' comes sigmoid"),
    "control flow": (
        lambda: Custom(lambda m, x: m.b(m.a(x)) if x.sum() > 0 else x),
        "cannot trace Custom.forward: symbolically traced variables",
    ),
    "groups": (
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2)),
        "'2' has groups = 2",
    ),
    "pool over units": (
        lambda: between(nn.MaxPool1d(2), last=nn.Linear(2, 4)),
        "'0' comes MaxPool1d '1'",
    ),
    "no flatten": (
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Linear(4, 4)),
        "4 units of '0' are not the inputs of '2'",
    ),
    "flattened sequence": (
        lambda: between(nn.Flatten(), last=nn.Linear(8, 4)),
        "4 units of '0' are not the inputs of '2'",
    ),
    "layer named as a shape": (
        lambda: nn.Sequential(OrderedDict(a=nn.Linear(4, 4), t=nn.Tanh(), size=nn.Linear(4, 4))),
        "'a' comes Tanh 't'",
    ),
    "pruned": (
        lambda: between(nn.ReLU(), first=prune.identity(nn.Linear(4, 4), "weight")),
        "'0.weight_orig' belongs to a Linear",
    ),
    "other axes": (lambda: Custom(lambda m, x: m.b(m.a(x).T)), "'a' comes getattr"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_balance_is_refused_by_name(case):
    build, message = REFUSED[case]
    model = build()
    with pytest.raises(ValueError, match="allowed: ") as raised:
        balanced(model, model.state_dict())
    assert message in str(raised.value)
    assert "do not balance it" in str(raised.value)


def test_a_state_of_another_model_is_refused():
    model = FFNN(4, 1, (1, 4, 4), 3)
    state = model.state_dict()
    lacking = {name: tensor for name, tensor in state.items() if name != "layers.1.bias"}
    with pytest.raises(ValueError, match=r"lacks 'layers\.1\.bias'"):
        balanced(model, lacking)
    with pytest.raises(ValueError, match=r"'layers\.3\.bias' has shape \(4,\)"):
        balanced(model, {**state, "layers.3.bias": torch.zeros(4)})
    with pytest.raises(ValueError, match=r"'layers\.3\.bias' holds NaN"):
        balanced(model, {**state, "layers.3.bias": torch.full((3,), torch.nan)})


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ({"layers.3": torch.ones(3)}, r"'layers\.3'; allowed: hidden layers"),
        ({"layers.1": torch.ones(3)}, r"'layers\.1' must be 4 positive"),
        ({"layers.1": -torch.ones(4)}, r"'layers\.1' must be 4 positive"),
    ],
)
def test_factors_that_do_not_fit_are_refused(factors, message):
    model = FFNN(4, 1, (1, 4, 4), 3)
    with pytest.raises(ValueError, match=message):
        rescaled_units(model, model.state_dict(), factors)


def test_bounds_that_are_not_positive_are_refused():
    model = FFNN(4, 1, (1, 4, 4), 3)
    with pytest.raises(ValueError, match="0 < low"):
        rescaled_units(model, model.state_dict(), generator(), 0.0, 1.0)
