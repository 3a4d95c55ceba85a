"""Has K-FAC the right factors of every layer that has some, and a reason for every other?"""

import copy
from dataclasses import replace

import pytest
import torch
from curvlinops import FisherType, KFACLinearOperator
from dense import dense_fisher
from torch import nn
from torch.nn import functional as F
from zoo import ANIMALS, draw, integers, seeded

from degeneracy.curvature.kfac import kfac_factors, kfac_trace


def of(animal, **more):
    return kfac_factors(
        animal.build(),
        animal.data,
        loss_fn=animal.loss_fn,
        forward=animal.forward or (lambda model, inputs: model(inputs)),
        **more,
    )


def joint(factors) -> torch.Tensor:
    """B ⊗ A in the weights' order: all of the weight, row by row, then the bias."""
    a, b = factors.inputs, factors.gradients
    order = torch.arange(len(b) * len(a)).view(len(b), len(a))
    order = torch.cat([order[:, :-1].flatten(), order[:, -1]])
    return torch.kron(b, a)[order][:, order]


# ---- values --------------------------------------------------------------------------------------


class Tokens(nn.Module):
    """The same network at every token: (n, L, 3) → (n, 3, L)."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3))

    def forward(self, tokens):
        return self.net(tokens).transpose(1, 2)


def perceptron():
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3))


def lenet():
    first = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2))
    second = nn.Sequential(nn.Conv2d(3, 4, 2, stride=2, bias=False), nn.Tanh(), nn.Flatten())
    return nn.Sequential(first, second, nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 3))


CASES = {
    "perceptron": (perceptron, draw(12, 3), integers(3, 12), nn.CrossEntropyLoss()),
    "lenet": (lenet, draw(12, 2, 8, 8), integers(3, 12), nn.CrossEntropyLoss()),
    "squared error": (perceptron, draw(12, 3), draw(12, 3, seed=5), nn.MSELoss()),
    "bernoulli": (perceptron, draw(12, 3), integers(2, 12, 3).double(), nn.BCEWithLogitsLoss()),
    "tokens": (Tokens, draw(12, 4, 3), integers(3, 12, 4), nn.CrossEntropyLoss()),
}


@pytest.mark.parametrize("batch_size", [100, 5])
@pytest.mark.parametrize("case", CASES)
def test_factors_are_those_of_curvlinops(case, batch_size):
    build, inputs, targets, loss_fn = CASES[case]
    model = seeded(build)()
    factors = kfac_factors(model, (inputs, targets), loss_fn=loss_fn, batch_size=batch_size)
    other = copy.deepcopy(model)
    matrix = KFACLinearOperator(
        other,
        loss_fn,
        list(other.parameters()),
        [(inputs, targets)],
        check_deterministic=False,
        fisher_type=FisherType.TYPE2,
        separate_weight_and_bias=False,
    )
    matrix.compute_kronecker_factors()
    state = matrix.state_dict()
    assert factors.keys() == state["gradient_covariances"].keys()
    for name, found in factors.items():
        torch.testing.assert_close(found.inputs, state["input_covariances"][name])
        torch.testing.assert_close(found.gradients, state["gradient_covariances"][name])


@pytest.mark.parametrize("kind", ["sampled", "empirical"])
def test_the_other_kinds_take_one_gradient_a_term(kind):
    """Of squared error a sample's own, of Bernoulli outputs one each: δ at the outputs."""
    model, x, y = seeded(perceptron)(), draw(12, 3), integers(2, 12, 3).double()
    bernoulli = kfac_factors(
        model, (x, y), "empirical", loss_fn=nn.BCEWithLogitsLoss(), batch_size=5
    )
    apart = (model(x).sigmoid() - y).detach()
    right = torch.diag(apart.square().mean(0) / 3)  # an output's gradient moves no other output
    torch.testing.assert_close(bernoulli["2"].gradients, right)
    if kind == "empirical":
        gaussian = kfac_factors(model, (x, y), kind, loss_fn=F.mse_loss)
        apart = (2 / 3 * (model(x) - y)).detach()
        torch.testing.assert_close(gaussian["2"].gradients, apart.T @ apart / 12)
        return
    draws = torch.stack(
        [
            kfac_factors(model, (x, y), kind, loss_fn=F.mse_loss, seed=i)["2"].gradients
            for i in range(200)
        ]
    )
    errors = (draws.mean(0) - 2 / 3 * torch.eye(3)) / (draws.std(0) / 200**0.5)
    assert errors.abs().max() < 4.5


PADDED = {
    "zeros": {"kernel_size": 4, "padding": 1},
    "uneven": {"kernel_size": (4, 2), "padding": (1, 0)},
    "reflect": {"kernel_size": 4, "padding": 1, "padding_mode": "reflect"},
    "circular": {"kernel_size": 4, "padding": 1, "padding_mode": "circular"},
    "replicate": {"kernel_size": 4, "padding": 1, "padding_mode": "replicate"},
    "dilated": {"kernel_size": 2, "padding": 1, "dilation": 3},
    "valid": {"kernel_size": 2, "padding": "valid"},
}


@pytest.mark.parametrize("padding", [*PADDED, "same"])
def test_a_convolution_at_one_position_has_its_whole_block_however_it_pads(padding):
    if padding == "same":  # of both parities, at 1 × 1
        images, options = draw(1, 2, 1, 1), {"kernel_size": (3, 4), "padding": "same"}
    else:
        images, options = draw(1, 2, 2, 2), PADDED[padding]
    animal = replace(
        ANIMALS["ffnn tanh"],
        build=seeded(
            lambda: nn.Sequential(
                nn.Conv2d(2, 4, **options), nn.Tanh(), nn.Flatten(), nn.Linear(4, 3)
            )
        ),
        data=(images, integers(3, 1)),
    )
    size = animal.build()[0].weight.numel() + 4
    dense, factors = dense_fisher(animal, "expected"), of(animal)
    torch.testing.assert_close(joint(factors["0"]), dense[:size, :size])
    torch.testing.assert_close(joint(factors["3"]), dense[size:, size:])


ONE_POSITION = [
    "softmax regression",
    "linear regression",
    "ffnn relu",
    "ffnn squared error",
    "bce",
    "residual",
    "dropout in eval",
    "branch on the weights",
    "old-style function",
    "checkpoint",
    "reentrant checkpoint",
    "compiled",
    "in place",
    "ignore_index",
    "class weights",
    "label smoothing",
    "soft targets",
    "nll of log_softmax",
    "backward hook that records",
    "forward hook that changes",
    "layer never called",
    "head not returned",
    "modules in a plain list",
    "logits",
    "dict inputs",
    "frozen layer",
    "buffers",
]


@pytest.mark.parametrize("name", ONE_POSITION)
def test_the_trace_is_exact_for_a_single_sample_at_one_position(name):
    animal = ANIMALS[name]
    take = torch.arange(1, 2)
    inputs, targets = animal.data
    inputs = {k: v[take] for k, v in inputs.items()} if isinstance(inputs, dict) else inputs[take]
    family = animal.family or "categorical"
    one = replace(animal, data=(inputs, targets[take]), family=family, fishers=("expected",))
    right = dense_fisher(one, "expected").trace()
    assert kfac_trace(of(one)) == pytest.approx(float(right), rel=1e-10)


@pytest.mark.parametrize("name", ["checkpoint", "reentrant checkpoint"])
def test_recomputation_counts_once(name):
    animal = ANIMALS[name]
    plain = replace(animal, build=animal.twin)
    for own, right in zip(of(animal).values(), of(plain).values(), strict=True):
        torch.testing.assert_close(own.inputs, right.inputs, rtol=1e-12, atol=0)
        torch.testing.assert_close(own.gradients, right.gradients, rtol=1e-12, atol=0)


def test_a_layer_never_called_has_zero_factors():
    factors = of(ANIMALS["layer never called"])
    assert not factors["idle"].inputs.any()
    assert not factors["idle"].gradients.any()
    assert factors["idle"].inputs.shape == (3, 3)
    assert not of(ANIMALS["head not returned"])["other"].gradients.any()
    assert factors["first"].gradients.any()


def test_only_layers_that_are_looked_at_have_factors():
    whole, part = of(ANIMALS["ffnn tanh"]), of(ANIMALS["ffnn tanh"], restrict=["2"])
    assert (list(whole), list(part)) == (["0", "2"], ["2"])
    torch.testing.assert_close(part["2"].inputs, whole["2"].inputs)
    torch.testing.assert_close(part["2"].gradients, whole["2"].gradients)


# ---- what is refused -----------------------------------------------------------------------------


class Own(nn.Linear):
    def forward(self, inputs):
        return super().forward(inputs).square()


class Latent(nn.Module):
    """A layer on a parameter-free table that all samples share."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(2, 3), nn.Linear(3, 3)
        self.register_buffer("table", torch.randn(4, 2))

    def forward(self, inputs):
        return self.head(inputs + self.layer(self.table).mean(0))


class Beside(nn.Module):
    """A weight that is used once more behind its layer's back."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, inputs):
        return self.head(torch.tanh(F.linear(self.layer(inputs).tanh(), self.layer.weight)))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, inputs):
        return self.layer(torch.tanh(self.layer(inputs)))


class OutsideAttention(nn.Module):
    """`nn.MultiheadAttention` uses its `out_proj`, and does not call it."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        for name, weight in self.attention.named_parameters():
            weight.requires_grad_(name.startswith("out_proj"))

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0].mean(1)


def on_class(build, inputs=None):
    inputs = draw(12, 3) if inputs is None else inputs
    return replace(
        ANIMALS["ffnn tanh"], build=seeded(build), data=(inputs, integers(3, len(inputs)))
    )


@pytest.mark.parametrize(
    ("animal", "reason"),
    [
        (
            ANIMALS["pruned"],
            "for 2: its weight is no parameter of it but computed from weight_orig",
        ),
        (ANIMALS["weight norm"], r"for 2: its weight is no parameter .*weight.original0"),
        (ANIMALS["old weight norm"], r"for 2: its weight .* weight_g, weight_v"),
        (ANIMALS["spectral norm in eval"], r"for 2: its weight .*weight.original"),
        (ANIMALS["same parameter in two layers"], "for 0: its weight is shared with 2"),
        (ANIMALS["tied autoencoder"], "for encoder: its weights are used outside"),
        (ANIMALS["conv2d groups"], "for 0: it has groups = 2"),
        (ANIMALS["ffnn prelu"], "for 1.weight; allowed: weights of Linear and Conv2d"),
        (ANIMALS["multihead attention"], "for body.attention.in_proj_weight"),
        (ANIMALS["gru"], "for recurrent.weight_ih_l0"),
        (on_class(lambda: nn.Sequential(Own(3, 3))), "for 0: Own has a forward pass of its own"),
        (on_class(Latent), "for layer: it is called on 4 rows for two samples, and on 8"),
        (on_class(Beside), "for layer: its weights are used outside their layers as well"),
        (on_class(Twice), "for layer: it is called 2 times in a forward pass"),
        (on_class(OutsideAttention, draw(12, 2, 4)), "out_proj: it is never called, and its"),
    ],
    ids=lambda given: given if isinstance(given, str) else given.name.replace(" ", "-"),
)
def test_a_layer_without_factors_is_refused_by_name_with_the_reason(animal, reason):
    model = animal.build()
    with pytest.raises(ValueError, match=f"K-FAC has no factors.*{reason}"):
        kfac_factors(model, animal.data, loss_fn=animal.loss_fn)
    assert not any(
        hook.__qualname__.startswith("watched")
        for part in model.modules()
        for hook in part._forward_hooks.values()
    )


def test_some_entries_of_a_weight_have_no_factors():
    mask = torch.zeros(4, 3, dtype=torch.bool)
    mask[0] = True
    with pytest.raises(ValueError, match="for 0: only some entries of its weight are looked at"):
        of(ANIMALS["ffnn tanh"], restrict={"0.weight": mask})


def test_hooks_are_gone_after_an_error():
    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, inputs):
            if self.layer._forward_hooks:
                raise RuntimeError("watched")
            return self.layer(inputs)

    model = Fails().double()
    with pytest.raises(RuntimeError, match="watched"):
        kfac_factors(model, (draw(4, 3), integers(3, 4)))
    assert not model.layer._forward_hooks
