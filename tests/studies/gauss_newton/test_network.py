"""Is the network reversible, and does its backward pass need no memory of its activations?"""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import cross_entropy

from studies.gauss_newton import DriftWarning, NonFiniteError, RevMLP
from studies.gauss_newton.network import MOST_DRIFT

SHAPES = [(1, True), (2, True), (2, False), (6, True)]


@pytest.mark.parametrize("hidden", [40, None])
@pytest.mark.parametrize(("num_blocks", "bias"), SHAPES)
def test_the_inverse_gives_the_inputs_back(make, num_blocks, bias, hidden):
    model, x = make(num_blocks, bias, hidden=hidden), torch.randn(9, 24).double()
    assert ((model.inverse(model.hidden(x)) - x).norm() / x.norm()).item() < 1e-12
    assert model.drift(x) < 1e-12


def test_parameters_and_buffers_have_their_names_and_shapes():
    model = RevMLP(24, 40, 2, 4)
    names = [f"blocks.{i}.{half}" for i in range(2) for half in "fg"]
    weights = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert weights == {
        key: shape
        for name in names
        for key, shape in ((f"{name}.weight", (12, 40)), (f"{name}.bias", (12,)))
    }
    buffers = {name: tuple(b.shape) for name, b in model.named_buffers()}
    assert buffers == {**{f"{name}.C": (12, 40) for name in names}, "projection": (24, 4)}
    assert [name for name, _ in RevMLP(24, 40, 1, 4, bias=False).named_parameters()] == [
        "blocks.0.f.weight",
        "blocks.0.g.weight",
    ]


def test_the_start_is_as_the_paper_says():
    model = RevMLP(784, 1000, 2, 10)
    u, c, w = model.projection, model.blocks[0].f.C, model.blocks[1].g.weight
    torch.testing.assert_close(u.T @ u, torch.eye(10), atol=1e-5, rtol=0)
    assert c.std().item() == pytest.approx(1000**-0.5, rel=0.01)  # 4 standard errors of 392,000
    assert w.std().item() == pytest.approx(1e-3, rel=0.01)
    assert all((half.bias == 0).all() for block in model.blocks for half in (block.f, block.g))


def test_the_projection_stays_orthonormal_in_a_finer_type():
    model = RevMLP(24, 40, 1, 4)
    single = model.projection.clone()
    u = model.double().projection
    torch.testing.assert_close(u.T @ u, torch.eye(4).double(), atol=1e-14, rtol=0)
    torch.testing.assert_close(u.float(), single, atol=1e-6, rtol=0)


def test_the_first_block_is_linear_and_the_others_are_not(make):
    x = torch.randn(5, 24).double()
    linear, other = make(1, bias=False), make(2, bias=False)
    torch.testing.assert_close(linear(-2 * x), -2 * linear(x))
    assert not torch.allclose(other(-2 * x), -2 * other(x))


@pytest.mark.parametrize("hidden", [40, None])
@pytest.mark.parametrize(("num_blocks", "bias"), SHAPES)
def test_the_gradient_without_memory_is_autograds(make, num_blocks, bias, hidden):
    model = make(num_blocks, bias, hidden=hidden)
    x, y = torch.randn(9, 24).double().requires_grad_(), torch.randint(4, (9,))
    wanted = [x, *model.parameters()]
    right = torch.autograd.grad(cross_entropy(model(x), y), wanted)
    found = torch.autograd.grad(cross_entropy(model.memory_free(x), y), wanted)
    for one, other in zip(found, right, strict=True):
        assert ((one - other).norm() / other.norm()).item() < 1e-12


def kept_bytes(forward, x):
    """Bytes that the graph of a forward pass keeps, parameters and inputs left out."""
    sizes = {}

    def pack(tensor):
        if not isinstance(tensor, torch.nn.Parameter):
            sizes[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        forward(x).sum()
    return sum(sizes.values())


def test_its_memory_is_the_same_for_any_number_of_blocks(make):
    x = torch.randn(50, 24).double()
    few, many = make(2), make(12)
    assert kept_bytes(many.memory_free, x) == kept_bytes(few.memory_free, x)
    assert kept_bytes(many, x) > 3 * kept_bytes(few, x)


def test_drift_in_float32_is_seen(make):
    x, y = torch.randn(9, 24), torch.randint(4, (9,))
    steep = make(8, init_std=3.0).float()
    assert steep.drift(x) > MOST_DRIFT > make(8).float().drift(x)
    with pytest.warns(DriftWarning, match=r"inputs came back .* off .* allowed: 0\.001"):
        cross_entropy(steep.memory_free(x), y).backward()


def test_activations_that_are_not_finite_are_refused_on_the_way_back(make):
    model, x = make(2), torch.randn(9, 24).double()
    with torch.no_grad():
        model.blocks[0].f.weight[0, 0] = torch.inf
    for run in (
        lambda: model.inverse(model.hidden(x)),
        lambda: model.memory_free(x).sum().backward(),
    ):
        with pytest.raises(NonFiniteError, match="not finite on the way back"):
            run()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_features": 25}, r"in_features = 25 given; allowed: an even number ≥ 2"),
        ({"hidden": 1}, r"hidden = 1 given; allowed: ≥ 2, or None"),
        ({"num_blocks": 0}, r"num_blocks = 0 given; allowed: ≥ 1"),
        ({"num_classes": 1}, r"num_classes = 1 given; allowed: 2 to in_features = 24"),
        ({"num_classes": 25}, r"num_classes = 25 given; allowed: 2 to in_features = 24"),
        ({"init_std": -1.0}, r"init_std = -1\.0 given; allowed: ≥ 0"),
    ],
)
def test_a_network_that_cannot_be_is_refused(make, changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


@pytest.mark.parametrize(
    ("changes", "there"),
    [
        ({"hidden": 20}, "RevMLP 24, hidden 20, 2 blocks, 4 classes"),
        ({"hidden": None}, "RevMLP 24, no bottleneck, 2 blocks, 4 classes"),
        ({"num_blocks": 1}, "RevMLP 24, hidden 40, 1 block, 4 classes"),
        ({"bias": False}, "RevMLP 24, hidden 40, 2 blocks, 4 classes, no bias"),
    ],
)
def test_a_checkpoint_of_another_architecture_is_refused(make, changes, there):
    message = f"a checkpoint of {there} given; allowed: one of RevMLP 24, hidden 40, 2 blocks"
    with pytest.raises(ValueError, match=message):
        make().load_state_dict(make(**changes).state_dict())


def test_a_checkpoint_of_something_else_is_refused(make):
    with pytest.raises(ValueError, match="a checkpoint of no RevMLP given"):
        make().load_state_dict(torch.nn.Linear(2, 2).state_dict())


def test_a_checkpoint_of_its_own_architecture_is_taken(make):
    one, other, x = make(), make(), torch.randn(3, 24).double()
    one.load_state_dict(other.state_dict())
    assert torch.equal(one(x), other(x))
