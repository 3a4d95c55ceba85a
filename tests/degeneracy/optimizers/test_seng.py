"""Is SENG's step the dense block's, are its sketches unbiased, and what does it refuse?"""

import copy
import doctest
import math

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

from degeneracy.models.networks import LeNet5
from degeneracy.optimizers import seng
from degeneracy.optimizers.seng import (
    SENG,
    Terms,
    combined,
    gram,
    pulled,
    root_combined,
    seng_direction,
    sketched,
)

SKETCHES = 1000
DOUBLE = torch.float64


class Sequences(nn.Module):
    """A linear layer along a sequence, without bias, then one with it on the mean."""

    def __init__(self):
        super().__init__()
        self.along, self.out = nn.Linear(5, 6, bias=False), nn.Linear(6, 3)

    def forward(self, x):
        return self.out(torch.tanh(self.along(x)).mean(1))


def mlp():
    return nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3))


def convolutional():
    convolution = nn.Conv2d(2, 3, (3, 2), stride=2, padding=1, dilation=(1, 2))
    return nn.Sequential(convolution, nn.Tanh(), nn.Flatten(), nn.Linear(48, 3))


def reflecting():
    convolution = nn.Conv2d(2, 3, (3, 2), padding="same", padding_mode="reflect")
    return nn.Sequential(convolution, nn.Tanh(), nn.Flatten(), nn.Linear(60, 3))


CASES = {
    "linear": (mlp, (7,)),
    "along a sequence": (Sequences, (4, 5)),
    "convolution": (convolutional, (2, 7, 8)),
    "convolution, reflecting": (reflecting, (2, 4, 5)),
}


def case(name, n=12, dtype=DOUBLE, seed=0):
    """Model, inputs, labels."""
    torch.manual_seed(seed)
    make, shape = CASES[name]
    return make().to(dtype), torch.randn(n, *shape, dtype=dtype), torch.randint(3, (n,))


def passed(optimizer, model, inputs, labels):
    """A recorded forward and backward pass; the loss."""
    optimizer.zero_grad()
    with optimizer.recording():
        loss = cross_entropy(model(inputs), labels)
        loss.backward()
    return loss.item()


def dense_directions(model, inputs, labels, damping):
    """(λI + UUᵀ)⁻¹g of each layer, from the samples' own gradients by torch.func."""
    weights = {name: p.detach() for name, p in model.named_parameters()}

    def loss(weights, x, y):
        return cross_entropy(functional_call(model, weights, (x[None],)), y[None])

    own = vmap(grad(loss), (None, 0, 0))(weights, inputs, labels)
    found = {}
    for layer in dict.fromkeys(name.rpartition(".")[0] for name in weights):
        names = [name for name in weights if name.rpartition(".")[0] == layer]
        rows = torch.cat([own[name].flatten(1) for name in names], 1)
        block = rows.T @ rows / len(rows) + damping * torch.eye(rows.shape[1], dtype=rows.dtype)
        pieces = torch.linalg.solve(block, rows.mean(0)).split([weights[n].numel() for n in names])
        found |= {n: p.view_as(weights[n]) for n, p in zip(names, pieces, strict=True)}
    return found


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("damping", [1e-3, 1.0])
def test_without_a_sketch_a_step_is_the_dense_blocks(name, damping):
    model, inputs, labels = case(name)
    expected = dense_directions(model, inputs, labels, damping)
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    optimizer = SENG(model, lr=0.5, damping=damping)
    passed(optimizer, model, inputs, labels)
    optimizer.step()
    for key, parameter in model.named_parameters():
        moved = (before[key] - parameter.detach()) / 0.5
        assert (moved - expected[key]).norm() <= 1e-10 * expected[key].norm()


def terms_of(name, n=12):
    """(gradient, terms) of each layer."""
    model, inputs, labels = case(name, n)
    optimizer = SENG(model, lr=1.0)
    passed(optimizer, model, inputs, labels)
    yield from map(optimizer.seen, optimizer.layers)


@pytest.mark.parametrize("name", CASES)
def test_gram_and_products_are_those_of_the_samples_gradients(name):
    b = torch.randn(12, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    for gradient, terms in terms_of(name):
        columns = torch.einsum("nto,nti->noi", terms.deltas, terms.inputs).flatten(1)
        columns = columns.T / math.sqrt(12)
        close = {"rtol": 1e-12, "atol": 1e-12}
        torch.testing.assert_close(gram(terms), columns.T @ columns, **close)
        torch.testing.assert_close(pulled(terms, gradient), columns.T @ gradient.flatten(), **close)
        torch.testing.assert_close(combined(terms, b), (columns @ b).view_as(gradient), **close)


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_of_the_mean_loss_is_the_mean_of_the_samples_gradients(name):
    for gradient, terms in terms_of(name):
        torch.testing.assert_close((terms.deltas.mT @ terms.inputs).mean(0), gradient)


@pytest.mark.parametrize("name", ["linear", "convolution"])
def test_a_sketched_gram_matrix_is_unbiased(name):
    """Trace and 20 fixed quadratic forms: the mean of 1,000 within 4 standard errors."""
    gradient, terms = max(terms_of(name), key=lambda found: found[0].numel())
    forms = torch.randn(20, 12, dtype=DOUBLE, generator=torch.Generator().manual_seed(2))

    def numbers(matrix):
        return torch.cat([matrix.trace()[None], torch.einsum("kn,nm,km->k", forms, matrix, forms)])

    generator = torch.Generator().manual_seed(3)
    drawn = [sketched(terms, gradient, 3, "unbiased", generator)[0] for _ in range(SKETCHES)]
    found = torch.stack([numbers(gram(few)) for few in drawn])
    errors = found.std(0) / math.sqrt(SKETCHES)
    assert ((found.mean(0) - numbers(gram(terms))).abs() <= 4 * errors).all()
    published = torch.Generator().manual_seed(3)
    again, _ = sketched(terms, gradient, 3, "published", published)
    d_out, d_in = gradient.shape
    factor = max(d_in / 3, 1) * max(d_out / 3, 1)
    torch.testing.assert_close(gram(again), factor * gram(drawn[0]))


def test_a_sketch_of_all_coordinates_is_exact_in_either_scaling():
    gradient, terms = next(iter(terms_of("linear")))
    exact = seng_direction(gradient, terms, 0.1)
    for scaling in seng.SCALINGS:
        all_of_it = seng_direction(gradient, terms, 0.1, sketch=8, scaling=scaling)
        torch.testing.assert_close(all_of_it, exact)


def test_the_root_trick_has_rank_one_and_is_exact_where_all_samples_are_alike():
    """With equal δ and a, the mean over pairs is the sum over samples."""
    a, delta = torch.randn(1, 1, 4, dtype=DOUBLE), torch.randn(1, 1, 3, dtype=DOUBLE)
    alike = Terms(a.expand(6, 1, 4), delta.expand(6, 1, 3))
    b = torch.full((6,), 0.7, dtype=DOUBLE)
    torch.testing.assert_close(root_combined(alike, b), combined(alike, b))
    torch.testing.assert_close(root_combined(alike, -b), combined(alike, -b))
    (_, terms), _ = terms_of("linear")
    found = root_combined(terms, torch.linspace(-1, 1, 12, dtype=DOUBLE))
    assert torch.linalg.matrix_rank(found) == 1


@pytest.mark.parametrize("how", [{}, {"sketch": 3}, {"sketch": 3, "scaling": "published"}])
def test_it_goes_on_from_its_state_along_the_same_path(how):
    model, inputs, labels = case("linear")
    optimizer = SENG(model, lr=0.02, momentum=0.9, damping=0.1, seed=5, **how)

    def steps(model, optimizer, count):
        for _ in range(count):
            passed(optimizer, model, inputs, labels)
            optimizer.step()

    steps(model, optimizer, 3)
    other = copy.deepcopy(model)
    resumed = SENG(other, lr=0.02, momentum=0.9, damping=0.1, seed=5, **how)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(model, optimizer, 4)
    steps(other, resumed, 4)
    assert all(map(torch.equal, model.parameters(), other.parameters()))
    counters = {k: v.dtype for s in resumed.state.values() for k, v in s.items() if v.ndim == 0}
    assert set(counters.values()) == {torch.int64}


def test_a_gradient_that_is_not_finite_leaves_its_layer_and_is_counted():
    model, inputs, labels = case("linear")
    optimizer = SENG(model, lr=0.1, momentum=0.9)
    passed(optimizer, model, inputs, labels)
    optimizer.step()
    before = copy.deepcopy(model.state_dict())
    momenta = copy.deepcopy(optimizer.state_dict()["state"])
    passed(optimizer, model, inputs, labels)
    model[2].weight.grad[0, 0] = math.nan
    optimizer.step()
    assert optimizer.num_skipped_updates == 2  # weight and bias
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) == name.startswith("2.")
    for index in (2, 3):
        there = optimizer.state_dict()["state"][index]["momentum_buffer"]
        assert torch.equal(there, momenta[index]["momentum_buffer"])
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_model_is_left_without_hooks_and_one_without_gradient_stays():
    model, inputs, labels = case("linear")
    optimizer = SENG(model, lr=0.1)
    passed(optimizer, model, inputs, labels)
    assert not any(module._forward_hooks for module in model.modules())
    before = copy.deepcopy(model.state_dict())
    optimizer.zero_grad()
    optimizer.step()
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"damping": 0.0}, r"damping = 0\.0 given; allowed: > 0"),
        ({"damping": -1.0}, "damping = -1"),
        ({"sketch": 0}, "sketch = 0 given; allowed: None, or from 1 to the model's largest width"),
        ({"sketch": 9}, "largest width, 8"),
        ({"scaling": "other"}, "scaling = 'other' given; allowed: unbiased or published"),
        ({"lr": 0.0}, "lr = 0"),
        ({"momentum": 1.0}, "momentum = 1"),
    ],
)
def test_a_number_out_of_its_range_is_refused(how, said):
    model, _, _ = case("linear")
    with pytest.raises(ValueError, match=said):
        SENG(model, **{"lr": 0.1} | how)


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (nn.Embedding(4, 3), "the model's 0, Embedding, has weights of its own"),
        (nn.BatchNorm1d(3), "BatchNorm1d"),
        (nn.Conv2d(4, 4, 3, groups=2), "has 2 groups"),
    ],
)
def test_a_layer_that_it_cannot_step_is_named(layer, said):
    with pytest.raises(ValueError, match=said):
        SENG(nn.Sequential(layer, nn.Linear(3, 3)), lr=0.1)


def test_what_cannot_be_is_said():
    model, inputs, labels = case("linear")
    optimizer = SENG(model, lr=0.1)
    cross_entropy(model(inputs), labels).backward()
    with pytest.raises(RuntimeError, match="put forward and backward pass inside"):
        optimizer.step()
    gradient, terms = next(iter(terms_of("linear")))
    for given, said in (({"damping": -0.1}, "damping"), ({"damping": 0.1, "sketch": 9}, "here 8")):
        with pytest.raises(ValueError, match=said):
            seng_direction(gradient, terms, **given)
    with pytest.raises(ValueError, match="scaling = 'no'"):
        seng_direction(gradient, terms, 0.1, sketch=2, scaling="no")
    twice = Twice()
    with pytest.raises(ValueError, match="layer is used twice in a forward pass"):
        passed(SENG(twice, lr=0.1), twice, *_three())
    twice.layer.bias.requires_grad_(False)
    with pytest.raises(ValueError, match="trains weight alone"):
        SENG(twice, lr=0.1)
    with pytest.raises(ValueError, match="no second group"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))]})


class Twice(nn.Module):
    """One layer, called two times."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        return self.layer(self.layer(x))


@pytest.mark.parametrize("key", ["weight", "bias"])
def test_weights_that_two_layers_share_are_refused_by_name(key):
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    setattr(model[2], key, getattr(model[0], key))
    with pytest.raises(ValueError, match=rf"0, Linear, has a {key} that is shared, 0.{key} and 2"):
        SENG(model, lr=0.1)


def test_a_layer_under_two_names_is_refused_with_both():
    layer = nn.Linear(3, 3)
    with pytest.raises(ValueError, match=r"shared, 0.weight and 1.weight; allowed: .* of its own"):
        SENG(nn.Sequential(layer, layer), lr=0.1)


def _three():
    return torch.eye(3), torch.arange(3)


def test_it_trains_a_convolutional_network():
    torch.manual_seed(0)
    model = LeNet5(0)
    stepper = seng.KIND.build(
        model, cross_entropy, seng.Settings(lr=0.5, momentum=0.0, damping=1.0)
    )
    inputs, labels = torch.randn(16, 1, 28, 28), torch.arange(16) % 10
    losses = [float(stepper.step(inputs, labels)["loss"]) for _ in range(40)]
    assert losses[-1] < 0.5 * losses[0]


def test_the_examples_hold():
    assert doctest.testmod(seng).failed == 0
