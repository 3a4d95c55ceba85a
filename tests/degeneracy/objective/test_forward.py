"""Any module runs with other weights in place of its own, and is afterwards as it was."""

import warnings
from types import SimpleNamespace

import pytest
import torch
import zoo_modules as own
from dense import dense_hessian, dense_loss
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.nn.utils import parametrizations
from torch.nn.utils import weight_norm as old_weight_norm
from zoo import ANIMALS, Animal, classifier, draw, integers

from degeneracy.curvature.operators import hessian_operator
from degeneracy.objective.checks import check_objective
from degeneracy.objective.forward import REPLACED, Called, default_forward, running, unwrapped
from degeneracy.objective.loss import objective_of

INPUTS, LABELS = draw(12, 3), integers(3, 12)
TWICE = [  # modules whose second derivatives PyTorch has not, has wrong, or has for plain code only
    "lstm",
    "gru",
    "rnn of two layers",
    "checkpoint",
    "reentrant checkpoint",
    "compiled",
    "weight norm",
    "old weight norm",
    "same layer twice",
    "same parameter in two layers",
    "tied autoencoder",
    "embedding bag",
    "transformer encoder layer in eval",
    "modules in a plain list",
    "orthogonal",
]


def objective_of_animal(animal: Animal, model: nn.Module):
    return objective_of(
        model, animal.loss_fn, animal.data, forward=animal.forward, penalty=animal.penalty
    )


def matrix(model: nn.Module, animal: Animal) -> Tensor:
    operator = hessian_operator(model, animal.loss_fn, animal.data, forward=animal.forward)
    return operator.products(torch.eye(operator.dim, dtype=operator.dtype)).detach()


def shown(model: nn.Module) -> dict:
    """Everything that a module keeps, by identity, and lists and dicts by content."""
    found = {}
    for name, part in model.named_modules():
        for key, value in part.__dict__.items():
            inside = value if isinstance(value, list | dict) else None
            found[name, key] = id(value), None if inside is None else repr_of(inside)
        for key, p in (*part._parameters.items(), *part._buffers.items()):
            found[name, "weight", key] = id(p), type(p), getattr(p, "requires_grad", None)
        found[name, "training"] = part.training
    return found


def repr_of(value: list | dict) -> list:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return [(key, id(item)) for key, item in items]


# ---- the module is left as it was ----------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(n for n, a in ANIMALS.items() if a.refused is None))
def test_a_module_is_left_as_it_was(name):
    """Parameters are the same objects, without gradients; lists and attributes too."""
    animal = ANIMALS[name]
    model = animal.build()
    inner = unwrapped(model)
    state = {key: t.detach().clone() for key, t in Called(model).state().items()}
    before, modes = shown(inner), [part.training for part in inner.modules()]
    objective = objective_of_animal(animal, model)
    other = {key: weight + 0.1 for key, weight in objective.weights.items()}
    objective.batch_loss(other, next(objective.data.batches(5)))
    assert shown(inner) == before
    assert [part.training for part in inner.modules()] == modes
    for key, parameter in inner.named_parameters():
        assert isinstance(parameter, nn.Parameter), key
        assert parameter.is_leaf, key
        assert parameter.grad is None, key
    for key, tensor in Called(model).state().items():
        assert torch.equal(tensor, state[key]), key


def test_a_module_whose_forward_pass_fails_is_left_as_it_was():
    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.seen = nn.Linear(3, 3), [1]

        def forward(self, x):
            self.seen.append(x)
            self.kept = self.layer(x)
            raise RuntimeError("as it happens")

    model = Fails()
    before = shown(model)
    called = Called(model)
    with pytest.raises(RuntimeError, match="as it happens"):
        called.with_weights({k: t + 1 for k, t in called.state().items()}, INPUTS.float())
    assert shown(model) == before
    assert not hasattr(model, "kept")


def test_pytorch_is_left_as_it_was_also_after_an_error():
    before = [getattr(place, name) for place, name, _ in REPLACED]
    flags = torch.backends.mkldnn.enabled, torch.backends.mha.get_fastpath_enabled()

    def fails() -> None:
        with running(nn.LSTM(2, 2)):
            assert not torch.backends.mkldnn.enabled
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert [getattr(place, name) for place, name, _ in REPLACED] == before
    assert (torch.backends.mkldnn.enabled, torch.backends.mha.get_fastpath_enabled()) == flags


def test_activations_that_training_left_are_there_afterwards():
    model = own.Between(lambda self, h: setattr(self, "kept", h) or h.tanh())
    model(INPUTS.float())
    kept = model.kept
    called = Called(model)
    found = called.with_weights({k: t + 1 for k, t in called.state().items()}, INPUTS.float())
    assert model.kept is kept
    assert not torch.equal(found, model(INPUTS.float()))


def test_hooks_that_record_leave_their_lists_as_they_were():
    model = nn.Sequential(nn.Linear(3, 3))
    model.seen = ["before"]
    model[0].register_forward_hook(lambda layer, given, out: model.seen.append(out))
    check_objective(objective_of(model, mse_loss, (INPUTS.float(), draw(12, 3, seed=3).float())))
    assert model.seen == ["before"]


def test_a_module_can_be_trained_after_it_was_measured():
    animal = ANIMALS["lstm"]
    model = animal.build()
    matrix(model, animal)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    before = dense_loss(animal)
    for _ in range(5):
        optimizer.zero_grad()
        animal.loss_fn(model(animal.data[0]), animal.data[1]).backward()
        optimizer.step()
    assert animal.loss_fn(model(animal.data[0]), animal.data[1]) < before


# ---- the weights that are given are used ---------------------------------------------------------


@pytest.mark.parametrize("name", TWICE)
def test_outputs_are_those_of_the_weights_that_are_given(name):
    animal = ANIMALS[name]
    objective = objective_of_animal(animal, animal.build())
    row = torch.cat([w.flatten() for w in objective.weights.values()])
    other = {key: weight * 1.25 for key, weight in objective.weights.items()}
    found = objective.batch_loss(other, objective.data.whole)
    assert torch.allclose(found, dense_loss(animal, 1.25 * row), rtol=1e-10)


@pytest.mark.parametrize("name", TWICE)
def test_second_derivatives_are_symmetric_and_those_of_plain_code(name):
    animal = ANIMALS[name]
    found, right = matrix(animal.build(), animal), dense_hessian(animal)
    size = float(right.abs().max())
    assert torch.allclose(found, found.T, rtol=0, atol=1e-10 * size)
    assert torch.allclose(found, right, rtol=0, atol=1e-9 * size)


def test_a_layer_under_two_names_has_its_weights_once():
    layer = nn.Linear(3, 3).double()
    called = Called(nn.Sequential(layer, nn.Tanh(), layer))
    assert list(called.state()) == ["0.weight", "0.bias"]
    weights = {key: tensor * 2 for key, tensor in called.state().items()}
    twice = nn.functional.linear(INPUTS, weights["0.weight"], weights["0.bias"]).tanh()
    right = nn.functional.linear(twice, weights["0.weight"], weights["0.bias"])
    assert torch.equal(called.with_weights(weights, INPUTS), right)
    assert [type(p) for p in called.model[2].parameters()] == [nn.Parameter] * 2


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("layers", [1, 2])
def test_recurrent_layers_see_the_weights_that_are_given_and_keep_their_flat_ones(kind, layers):
    model, sequence = kind(3, 4, layers, batch_first=True), draw(5, 6, 3).float()
    twin = kind(3, 4, layers, batch_first=True)
    before = [id(w) for w in model._flat_weights]
    found = Called(model).with_weights(dict(twin.state_dict()), sequence)[0]
    assert torch.allclose(found, twin(sequence)[0], atol=1e-6)
    assert [id(w) for w in model._flat_weights] == before
    assert before == [
        id(w) for names in model._all_weights for w in map(model._parameters.get, names)
    ]


def test_a_compiled_module_is_measured_as_the_module_itself():
    model = own.RawParameters()
    compiled = torch.compile(model, backend="eager")
    assert unwrapped(compiled) is model
    names = list(objective_of(compiled, mse_loss, (INPUTS, INPUTS)).weights)
    assert names == [name for name, _ in model.named_parameters()]
    other = own.RawParameters()
    state = {f"_orig_mod.{k}": t for k, t in other.state_dict().items()}
    there = objective_of(compiled, mse_loss, (INPUTS, INPUTS)).at(state)
    for name, parameter in other.named_parameters():
        assert torch.equal(there.weights[name], parameter)


@pytest.mark.parametrize("change", [parametrizations.weight_norm, old_weight_norm])
@pytest.mark.parametrize("dim", [0, 1])
def test_weight_norm_along_either_dimension_has_the_derivatives_of_its_formula(change, dim):
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = nn.Sequential(change(nn.Linear(3, 4), dim=dim), nn.Tanh(), nn.Linear(4, 3)).double()
    found = matrix(model, classifier("weight norm", lambda: model))
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    flat = torch.cat([w.flatten() for w in weights.values()])
    old = "0.weight_v" in weights
    names = (
        ["0.weight_g", "0.weight_v"]
        if old
        else ["0.parametrizations.weight.original0", "0.parametrizations.weight.original1"]
    )

    def loss(row: Tensor) -> Tensor:
        pieces = row.split([w.numel() for w in weights.values()])
        w = {k: p.view_as(weights[k]) for k, p in zip(weights, pieces, strict=True)}
        g, v = (w[name] for name in names)
        weight = g * v / v.square().sum(1 - dim, keepdim=True).sqrt()
        hidden = nn.functional.linear(INPUTS, weight, w["0.bias"]).tanh()
        outputs = nn.functional.linear(hidden, w["2.weight"], w["2.bias"])
        return nn.functional.cross_entropy(outputs, LABELS)

    right = torch.autograd.functional.hessian(loss, flat)
    assert torch.allclose(found, found.T, atol=1e-12)
    assert torch.allclose(found, right, atol=1e-12)


def test_pytorchs_own_weight_norm_is_still_wrong():
    """Once this fails, `forward._weight_norm` may go."""
    v = draw(2, 3).requires_grad_()
    g = torch.ones(2, 1, dtype=torch.float64)

    def loss(v: Tensor) -> Tensor:
        return torch._weight_norm(v, g, 0).pow(3).sum()

    def by_hand(v: Tensor) -> Tensor:
        return (g * v / v.norm(dim=1, keepdim=True)).pow(3).sum()

    found, right = (torch.autograd.functional.hessian(f, v.detach()) for f in (loss, by_hand))
    assert not torch.allclose(found, right)


@pytest.mark.parametrize("mode", ["mean", "sum", "max"])
@pytest.mark.parametrize("offsets", [False, True])
def test_bags_of_embeddings_are_pytorchs(mode, offsets):
    """All arguments go through, whichever bags have derivatives of their own."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        bag = nn.EmbeddingBag(7, 3, mode=mode)
    ids = integers(7, 12, 4)
    given = (ids.flatten(), torch.arange(0, 48, 4)) if offsets else (ids,)
    with running(bag):
        found = bag(*given)
    assert torch.allclose(found, bag(*given))


# ---- inputs and outputs --------------------------------------------------------------------------


def test_trees_are_given_as_the_module_takes_them():
    two, one = own.TwoInputs().double(), own.TakesDict().double()
    left, right = INPUTS, draw(12, 2, seed=4)
    expected = two(left, right)
    assert torch.equal(default_forward(two, {"right": right, "left": left}), expected)
    assert torch.equal(default_forward(two, (left, right)), expected)
    assert torch.equal(default_forward(two, [left, right]), expected)
    one.load_state_dict(two.state_dict())
    assert torch.equal(default_forward(one, {"left": left, "right": right}), expected)


def test_a_tuple_that_the_module_takes_as_one_stays_one():
    class TakesPair(nn.Module):
        def forward(self, pair):
            return pair[0] + pair[1]

    assert torch.equal(default_forward(TakesPair(), (INPUTS, INPUTS)), 2 * INPUTS)


def test_a_type_error_inside_of_a_module_is_its_own():
    class Wrong(nn.Module):
        def forward(self, left, right):
            return left + "right"

    with pytest.raises(TypeError, match="unsupported operand"):
        default_forward(Wrong(), {"left": 1, "right": 2})


def test_logits_are_taken_from_an_object_that_has_them():
    model = own.WithLogits().double()
    assert torch.equal(default_forward(model, INPUTS), model(INPUTS).logits)
    assert isinstance(default_forward(own.WithScores().double(), INPUTS), own.Scores)


def test_forward_says_what_is_made_of_a_module():
    model = own.WithScores().double()
    objective = objective_of(
        model, nn.functional.cross_entropy, (INPUTS, LABELS), forward=lambda m, x: m(x).scores
    )
    check_objective(objective)
    right = nn.functional.cross_entropy(model(INPUTS).scores, LABELS)
    assert objective.mean_loss(5) == pytest.approx(float(right))


def test_what_is_no_module_is_refused():
    with pytest.raises(ValueError, match=r"model is a function; allowed: a torch\.nn\.Module"):
        unwrapped(test_what_is_no_module_is_refused)
    with pytest.raises(ValueError, match="model is a SimpleNamespace"):
        unwrapped(SimpleNamespace())
