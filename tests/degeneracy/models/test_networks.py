"""Are the models those that were published: titles, sizes, layers? Are the small ones what their
formulas say?
"""

from itertools import pairwise

import pytest
import torch
from torch import nn

from degeneracy.models.known import DeepLinear, NormalCrossing, Quadratic
from degeneracy.models.networks import (
    DLNN,
    FFNN,
    LeNet5,
    ResidualFFNN,
    VisionTransformer,
    num_parameters,
)

MNIST_SHAPE, CIFAR_SHAPE = (1, 28, 28), (3, 32, 32)
SHAPES = pytest.mark.parametrize("in_shape", [MNIST_SHAPE, CIFAR_SHAPE], ids=["28x28x1", "32x32x3"])
MODELS = pytest.mark.parametrize(
    ("architecture", "sizes"),
    [
        *((FFNN, (64, 1)), (FFNN, (32, 3)), (DLNN, (64, 2)), (LeNet5, (0,)), (LeNet5, (2,))),
        *((ResidualFFNN, (16, 4)), (VisionTransformer, (8, 2))),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)


def leaves(model):
    """The layers that do something, in the order they are applied."""
    return [module for module in model.modules() if not list(module.children())]


@pytest.mark.parametrize(
    ("model", "title"),
    [
        (FFNN(), "FFNN 2 HL, 256 HN"),
        (FFNN(64, 1), "FFNN 1 HL, 64 HN"),
        (DLNN(hidden_nodes=100, hidden_layers=3), "DLNN 3 HL, 100 HN"),
        (LeNet5(), "CNN 0 HCL"),
        (LeNet5(2), "CNN 2 HCL"),
        (ResidualFFNN(64, 8), "residual FFNN 8 HL, 64 HN"),
        (VisionTransformer(), "ViT 2 blocks, width 32"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_titles_are_those_that_results_have(model, title):
    assert model.title == title


@pytest.mark.parametrize(
    ("model", "count"),
    [
        (FFNN(), 269_322),
        (FFNN(64, 1), 50_890),
        (FFNN(64, 2), 55_050),
        (FFNN(256, 2), 269_322),
        (DLNN(256, 2), 269_322),
        (DLNN(64, 1), 50_890),
        (LeNet5(), 44_426),
        (LeNet5(1), 44_426 + 906),
        (LeNet5(4), 44_426 + 4 * 906),
        (ResidualFFNN(64, 8), num_parameters(FFNN(64, 8))),
        # 32·(49 + 1) + 16·32; a block 2·64 + 96·33 + 32·33 + 64·33 + 32·65; 64 + 10·33
        (VisionTransformer(32, 2), 2112 + 2 * 8544 + 394),
        # 3·32·32 inputs: (3072 + 1)·64 + (64 + 1)·10
        (FFNN(64, 1, in_shape=CIFAR_SHAPE), 197_322),
        # 6·(3·25 + 1) + 16·(6·25 + 1) + 120·(16·25 + 1) + 84·121 + 10·85
        (LeNet5(in_shape=CIFAR_SHAPE), 62_006),
    ],
    ids=lambda value: "" if isinstance(value, nn.Module) else str(value),
)
def test_weights_are_as_many_as_published(model, count):
    assert num_parameters(model) == count
    assert sum(param.numel() for param in model.parameters()) == count


@SHAPES
@MODELS
@pytest.mark.parametrize("num_classes", [10, 7])
def test_images_become_logits(architecture, sizes, in_shape, num_classes):
    model = architecture(*sizes, in_shape=in_shape, num_classes=num_classes)
    for batch in (1, 5):
        logits = model(torch.randn(batch, *in_shape))
        assert logits.shape == (batch, num_classes)
        assert logits.isfinite().all()


@SHAPES
@MODELS
def test_every_layer_with_weights_has_a_bias_that_training_reaches(architecture, sizes, in_shape):
    model = architecture(*sizes, in_shape=in_shape)
    weighted = [module for module in leaves(model) if hasattr(module, "weight")]
    assert all(module.bias is not None for module in weighted)
    places = architecture is VisionTransformer  # a parameter of no layer
    assert len(list(model.parameters())) == 2 * len(weighted) + places
    model(torch.randn(16, *in_shape)).square().sum().backward()
    assert all(param.grad is not None and param.grad.any() for param in model.parameters())


@MODELS
def test_images_of_a_batch_do_not_see_each_other_and_nothing_is_random(architecture, sizes):
    """LLC chains and Hessian probes take the loss for a function of weights and data alone."""
    model = architecture(*sizes).double()
    images = torch.randn(
        6, *MNIST_SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    together = model(images)
    assert torch.equal(together, model(images))
    one_by_one = torch.cat([model(image[None]) for image in images])
    assert torch.allclose(together, one_by_one, rtol=0, atol=1e-12)
    assert torch.allclose(together, model.eval()(images), rtol=0, atol=1e-12)
    assert not list(model.buffers())


@MODELS
def test_same_seed_same_weights(architecture, sizes):
    def weights(seed):
        torch.manual_seed(seed)
        return nn.utils.parameters_to_vector(architecture(*sizes).parameters())

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


@MODELS
def test_state_dict_restores_the_function(architecture, sizes):
    torch.manual_seed(0)
    trained, fresh = architecture(*sizes), architecture(*sizes)
    fresh.load_state_dict(trained.state_dict())
    images = torch.randn(4, *MNIST_SHAPE)
    assert torch.equal(trained(images), fresh(images))


@SHAPES
@pytest.mark.parametrize("hidden_layers", [1, 3])
def test_dlnn_is_affine_in_its_input(hidden_layers, in_shape):
    """f(x) = A x + b with A the product of the weight matrices; u·(number of terms)·(layers) ≈
    1e-12 in float64.
    """
    torch.manual_seed(0)
    model = DLNN(40, hidden_layers, in_shape=in_shape).double()
    x, y = torch.randn(2, 8, *in_shape, dtype=torch.float64)
    for c in (0.3, -7.0, 100.0):
        mixed = c * model(x) + (1 - c) * model(y)
        assert torch.allclose(model(c * x + (1 - c) * y), mixed, rtol=0, atol=1e-11 * abs(c))
    matrix = torch.eye(x[0].numel(), dtype=torch.float64)
    for module in leaves(model):
        if isinstance(module, nn.Linear):
            matrix = module.weight @ matrix
    assert torch.allclose(
        model(x) - model(torch.zeros_like(x)), x.flatten(1) @ matrix.T, rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("hidden_layers", [1, 2, 4])
def test_ffnn_alternates_linear_layers_and_relu(hidden_layers):
    layers = [type(module) for module in leaves(FFNN(16, hidden_layers))]
    assert layers == [nn.Flatten, *[nn.Linear, nn.ReLU] * hidden_layers, nn.Linear]


def test_ffnn_is_not_affine():
    torch.manual_seed(0)
    model = FFNN()
    x, y = torch.randn(2, 8, *MNIST_SHAPE)
    assert (model((x + y) / 2) - (model(x) + model(y)) / 2).abs().max() > 1e-3


def test_ffnn_and_dlnn_differ_by_the_relu_only():
    """Same seed, same weights: in a region where all units are on, both are the same map."""
    torch.manual_seed(5)
    ffnn = FFNN(16, 2)
    torch.manual_seed(5)
    dlnn = DLNN(16, 2)
    assert all(map(torch.equal, ffnn.parameters(), dlnn.parameters()))
    for model in (ffnn, dlnn):
        for param in model.parameters():
            param.data.abs_()
    images = torch.rand(4, *MNIST_SHAPE)
    assert torch.equal(ffnn(images), dlnn(images))


@pytest.mark.parametrize("extra", [0, 1, 3])
def test_lenet_layers_and_their_order(extra):
    found = leaves(LeNet5(extra))
    kinds = [type(module) for module in found]
    assert kinds == [
        nn.Conv2d,
        nn.ReLU,
        *[nn.Conv2d, nn.ReLU] * extra,
        nn.MaxPool2d,
        nn.Conv2d,
        nn.ReLU,
        nn.MaxPool2d,
        nn.Flatten,
        nn.Linear,
        nn.ReLU,
        nn.Linear,
        nn.ReLU,
        nn.Linear,
    ]
    convolutions = [
        (m.in_channels, m.out_channels, m.kernel_size, m.padding, m.stride)
        for m in found
        if type(m) is nn.Conv2d
    ]
    first, last = (1, 6, (5, 5), (0, 0), (1, 1)), (6, 16, (5, 5), (0, 0), (1, 1))
    assert convolutions == [first, *[(6, 6, (5, 5), (2, 2), (1, 1))] * extra, last]
    assert all(m.kernel_size == m.stride == 2 for m in found if type(m) is nn.MaxPool2d)
    assert [(m.in_features, m.out_features) for m in found if type(m) is nn.Linear] == [
        (256, 120),
        (120, 84),
        (84, 10),
    ]


def test_lenet_flattens_400_features_of_a_colour_image():
    linear = next(
        module for module in LeNet5(in_shape=CIFAR_SHAPE).modules() if isinstance(module, nn.Linear)
    )
    assert linear.in_features == 16 * 5 * 5


# Small models whose learning coefficient is known

TEACHERS = pytest.mark.parametrize(
    ("widths", "rank"),
    [
        ((4, 3), 2),
        ((5, 3, 4), 3),
        ((4, 6, 5), 2),
        ((5, 3, 4, 6), 2),
        ((3, 3, 3, 3, 3), 1),
        ((4, 4, 4), 0),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, tuple) else f"rank {value}",
)


def perturbed(model, scale=0.3, seed=0, shape=()):
    """Named parameters around the model's own, `shape` copies of them in front."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (
            param.detach()
            + scale * torch.randn(*shape, *param.shape, dtype=param.dtype, generator=generator)
        )
        for name, param in model.named_parameters()
    }


@TEACHERS
def test_deep_linear_starts_at_a_balanced_true_map_of_the_stated_rank(widths, rank):
    model = DeepLinear(widths, rank, seed=3).double()
    maps = [layer.weight for layer in model.layers] + [model.true_map]
    for matrix in maps:  # float32 rounding: singular values 0 and 1 to 1e-6
        singular_values = torch.linalg.svdvals(matrix)
        expected = (torch.arange(len(singular_values)) < rank).double()
        assert torch.allclose(singular_values, expected, rtol=0, atol=1e-6)
    for below, above in pairwise(model.layers):
        assert torch.allclose(
            below.weight @ below.weight.T, above.weight.T @ above.weight, rtol=0, atol=1e-6
        )


def test_deep_linear_is_a_function_of_its_seed():
    first, again, other = (DeepLinear((4, 3, 5), 2, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)
    # weights only: the true map is no parameter
    assert list(first) == ["layers.0.weight", "layers.1.weight"]


@TEACHERS
def test_deep_linear_population_loss_and_its_gradient_vanish_at_the_start(widths, rank):
    model = DeepLinear(widths, rank)
    loss = model.population_loss(dict(model.named_parameters()))
    assert loss == 0
    assert not any(
        gradient.any() for gradient in torch.autograd.grad(loss, list(model.parameters()))
    )


@TEACHERS
def test_deep_linear_population_loss_is_the_mean_over_whitened_inputs(widths, rank):
    """Inputs with second moment exactly I, √n times orthonormal columns, stand for x ~ N(0, I)."""
    model, n = DeepLinear(widths, rank).double(), 50
    gaussian = torch.randn(
        n, widths[0], dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    inputs = n**0.5 * torch.linalg.qr(gaussian).Q
    parameters = perturbed(model)
    errors = torch.func.functional_call(model, parameters, (inputs,)) - inputs @ model.true_map.T
    expected = errors.square().sum(dim=1).mean() / 2
    assert expected > 0.1
    assert torch.allclose(model.population_loss(parameters), expected, rtol=1e-12)


@TEACHERS
def test_deep_linear_true_map_stays_when_weights_change(widths, rank):
    model = DeepLinear(widths, rank)
    true_map, parameters = model.true_map.clone(), perturbed(model)
    model.load_state_dict(parameters)
    assert torch.equal(model.true_map, true_map)
    assert model.population_loss(model.state_dict()) > 0.1


@TEACHERS
def test_deep_linear_curvatures_at_the_start(widths, rank):
    """r(H_0 + H_L − r) directions are curved: twice the first term of the learning coefficient. See
    the class.
    """
    model = DeepLinear(widths, rank).double()
    start = dict(model.named_parameters())
    sizes, shapes = [p.numel() for p in start.values()], [p.shape for p in start.values()]

    def loss(vector):
        pieces = (
            piece.view(shape) for piece, shape in zip(vector.split(sizes), shapes, strict=True)
        )
        return model.population_loss(dict(zip(start, pieces, strict=True)))

    hessian = torch.autograd.functional.hessian(
        loss, nn.utils.parameters_to_vector(start.values()).detach()
    )
    num_layers, inputs, outputs = len(widths) - 1, widths[0], widths[-1]
    ones = rank * (inputs + outputs - 2 * rank) if num_layers > 1 else inputs * outputs - rank**2
    expected = [0.0] * (sum(sizes) - rank**2 - ones) + [1.0] * ones + [float(num_layers)] * rank**2
    # float32 weights
    assert torch.linalg.eigvalsh(hessian).tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("widths", "rank", "message"),
    [
        ((4,), 0, "two or more"),
        ((4, 0, 4), 0, "each at least 1"),
        ((5, 3, 5), 4, "0 to the smallest width, 3"),
    ],
)
def test_impossible_deep_linear_networks_are_refused(widths, rank, message):
    with pytest.raises(ValueError, match=message):
        DeepLinear(widths, rank)


def test_quadratic_and_normal_crossing_are_their_formulas():
    weights = {"weight": torch.tensor([2.0, -1.0, 3.0])}
    assert Quadratic([1.0, 4.0, 0.0]).population_loss(weights) == (1 * 4 + 4 * 1) / 2
    assert NormalCrossing([1, 3, 2]).population_loss(weights) == 2**2 * 1 * 3**4
    for model in (Quadratic([1.0, 4.0, 0.0]), NormalCrossing([1, 3, 2])):
        assert list(model.state_dict()) == ["weight"]
        assert model() == 0
        model.load_state_dict(weights)
        assert model() == model.population_loss(weights)


@pytest.mark.parametrize(
    "model",
    [DeepLinear((3, 2, 4), 1), Quadratic([2.0, 0.5]), NormalCrossing([1, 2, 1])],
    ids=lambda model: type(model).__name__,
)
def test_population_losses_run_under_vmap_and_grad_like_chain_by_chain(model):
    """Chains start where weights are zero, and a weight may come back to zero: derivatives must be
    finite there.
    """
    model.double()
    chains = perturbed(model, shape=(4,))
    for name, param in model.named_parameters():
        chains[name][0] = param.detach()
        chains[name][1].view(-1)[0] = 0.0
    gradients, losses = torch.func.vmap(torch.func.grad_and_value(model.population_loss))(chains)
    assert losses.shape == (4,)
    assert losses[0].abs() < 1e-12
    for chain in range(4):
        own = {name: values[chain].clone().requires_grad_() for name, values in chains.items()}
        loss = model.population_loss(own)
        assert torch.allclose(losses[chain], loss, rtol=1e-12, atol=1e-15)
        for name, gradient in zip(own, torch.autograd.grad(loss, list(own.values())), strict=True):
            assert torch.allclose(gradients[name][chain], gradient, rtol=1e-12, atol=1e-15)
            assert gradient.isfinite().all()


def test_a_residual_network_adds_what_each_hidden_layer_makes_and_has_the_plain_ones_weights():
    torch.manual_seed(0)
    model = ResidualFFNN(6, 3).double()
    assert model.state_dict().keys() == FFNN(6, 3).state_dict().keys()
    images = torch.randn(5, *MNIST_SHAPE, dtype=torch.float64)
    first, second, third, last = (m for m in leaves(model) if isinstance(m, nn.Linear))
    h = first(images.flatten(1)).clamp(min=0)
    h = h + second(h).clamp(min=0)
    h = h + third(h).clamp(min=0)
    torch.testing.assert_close(model(images), last(h), rtol=0, atol=1e-12)


def test_a_block_of_the_transformer_is_pytorchs():
    torch.manual_seed(0)
    (block,) = VisionTransformer(8, 1).double().blocks
    other = nn.TransformerEncoderLayer(
        8, 2, dim_feedforward=16, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    ).double()
    pairs = {
        other.norm1: block.first_norm,
        other.norm2: block.second_norm,
        other.self_attn.out_proj: block.joined,
        other.linear1: block.layers[0],
        other.linear2: block.layers[2],
    }
    for theirs, ours in pairs.items():
        theirs.load_state_dict(ours.state_dict())
    with torch.no_grad():
        other.self_attn.in_proj_weight.copy_(block.mixed.weight)
        other.self_attn.in_proj_bias.copy_(block.mixed.bias)
    tokens = torch.randn(3, 16, 8, dtype=torch.float64)
    torch.testing.assert_close(block(tokens), other(tokens), rtol=0, atol=1e-12)


def test_a_transformer_sees_patches_and_where_they_are():
    torch.manual_seed(0)
    model = VisionTransformer(8, 1).double()
    images = torch.randn(4, *MNIST_SHAPE, dtype=torch.float64)
    moved = images.roll(7, dims=-1)  # each patch to the next place
    assert not torch.allclose(model(moved), model(images))
    nn.init.zeros_(model.places)
    torch.testing.assert_close(model(moved), model(images), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"hidden_nodes": 7}, "hidden_nodes = 7 given; allowed: a multiple of 2"),
        ({"in_shape": (1, 28, 24)}, "images of 28 × 24 given; allowed: square"),
        ({"in_shape": (1, 30, 30)}, "whose side 4 divides"),
    ],
)
def test_a_transformer_refuses_what_it_cannot_cut(given, said):
    with pytest.raises(ValueError, match=said):
        VisionTransformer(**given)
