"""Coordinates of a chain: the same function and distances, and a curvature that is what it says."""

import math

import pytest
import torch
from torch import nn
from torch.func import functional_call, hessian
from torch.nn.functional import cross_entropy, linear

from degeneracy.curvature.kfac import kfac_eigenvalues, kfac_factors
from degeneracy.llc import coordinates
from degeneracy.llc.estimate import estimate_llcs
from degeneracy.llc.settings import SamplerSettings
from degeneracy.models.known import Quadratic
from degeneracy.objective.loss import objective_of
from degeneracy.weights import flattened, named


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


IMAGES, ROWS, LABELS = (
    torch.randn(12, 2, 6, 5, generator=generator()).double(),
    torch.randn(12, 4, generator=generator(1)).double(),
    torch.randint(3, (12,), generator=generator(2)),
)
CONVOLUTION = {"stride": (2, 1), "padding": (1, 2)}
MODELS = {
    "a bare layer": lambda: (nn.Linear(4, 3), ROWS),
    "linear": lambda: (nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), ROWS),
    "without bias": lambda: (
        nn.Sequential(nn.Linear(4, 5, bias=False), nn.ReLU(), nn.Linear(5, 3, bias=False)),
        ROWS,
    ),
    "convolution": lambda: (
        nn.Sequential(nn.Conv2d(2, 2, 3, **CONVOLUTION), nn.Tanh(), nn.Flatten(), nn.Linear(42, 3)),
        IMAGES,
    ),
    "convolution without bias": lambda: (
        nn.Sequential(
            nn.Conv2d(2, 3, 2, dilation=2, bias=False),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(6, 3),
        ),
        IMAGES,
    ),
}


@pytest.fixture(params=MODELS)
def turned(request):
    """(coordinates, the same without a turn, data)."""
    torch.manual_seed(0)
    model, inputs = MODELS[request.param]()
    model, data = model.double(), (inputs, LABELS)
    weights = {name: p.detach() for name, p in model.named_parameters()}
    objective = objective_of(model, cross_entropy, data)
    at = coordinates.kfac(objective, data, 0)
    return at, coordinates.flat(objective.loss, weights), data, model


def dense_hessian(at: coordinates.Coordinates, data) -> torch.Tensor:
    row = flattened(at.weights)
    return hessian(lambda row: at.loss(named(row, at.weights), *data))(row)


def test_a_turn_keeps_the_function_and_every_length(turned):
    """L(w*), |w*|, and the Hessian's whole spectrum, which only an orthogonal map leaves."""
    at, plain, data, _ = turned
    assert at.kind == "kfac"
    assert at.loss(at.weights, *data).item() == pytest.approx(
        plain.loss(plain.weights, *data).item(), rel=1e-12
    )
    row, before = flattened(at.weights), flattened(plain.weights)
    assert len(row) == len(before) == len(at.curvature)
    assert not torch.allclose(row, before, atol=1e-3)
    assert row.norm().item() == pytest.approx(before.norm().item(), rel=1e-12)
    torch.testing.assert_close(
        torch.linalg.eigvalsh(dense_hessian(at, data)),
        torch.linalg.eigvalsh(dense_hessian(plain, data)),
        rtol=1e-9,
        atol=1e-12,
    )


def test_the_curvature_is_the_eigenvalues_of_kfacs_factors(turned):
    at, _, data, model = turned
    whole = nn.Sequential(model)
    expected = kfac_eigenvalues(kfac_factors(whole, data), len(at.curvature))
    found = at.curvature.sort(descending=True).values
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
def test_with_one_layer_and_one_sample_the_curvature_is_the_fishers_whole_diagonal(bias):
    """A ⊗ B is then exact, and in its eigenbasis the Fisher, here the Hessian, is diagonal."""
    torch.manual_seed(0)
    model, data = nn.Linear(4, 3, bias=bias).double(), (ROWS[:1], LABELS[:1])
    at = coordinates.kfac(objective_of(model, cross_entropy, data), data, 0)
    torch.testing.assert_close(
        dense_hessian(at, data), torch.diag(at.curvature), rtol=1e-9, atol=1e-12
    )


def test_it_is_the_checkpoint_that_is_turned_and_the_model_stays():
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    other = {name: 2 * tensor for name, tensor in before.items()}
    data = ROWS, LABELS
    at = coordinates.kfac(objective_of(model, cross_entropy, data).at(other), data, 0)
    expected = cross_entropy(functional_call(model, other, (ROWS,)), LABELS)
    torch.testing.assert_close(at.loss(at.weights, ROWS, LABELS), expected)
    assert all(torch.equal(before[name], w) for name, w in model.state_dict().items())


def test_frozen_layers_stay_as_they_are():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    model[0].requires_grad_(False)
    data = ROWS, LABELS
    at = coordinates.kfac(objective_of(model, cross_entropy, data), data, 0)
    assert sum(w.numel() for w in at.weights.values()) == 18
    expected = cross_entropy(model(ROWS), LABELS)
    torch.testing.assert_close(at.loss(at.weights, ROWS, LABELS), expected)


# ---- where K-FAC does not reach ------------------------------------------------------------------


class Tripled(nn.Linear):
    def forward(self, x):
        return 3 * super().forward(x)


class ByHand(nn.Module):
    """Uses a layer's weights without the layer; where `also`, beside it."""

    def __init__(self, also: bool):
        super().__init__()
        self.first, self.last, self.also = nn.Linear(4, 4, bias=False), nn.Linear(4, 3), also

    def forward(self, x):
        hidden = torch.tanh(linear(x, self.first.weight))
        return self.last(torch.tanh(self.first(hidden)) if self.also else hidden)


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    model[2].weight = model[0].weight
    return model


def half_frozen() -> nn.Module:
    model = nn.Linear(4, 3)
    model.bias.requires_grad_(False)
    return model


def convolution(**given) -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (2, 1, 2)), nn.Conv2d(2, 4, 1, **given), nn.Flatten(), nn.Linear(8, 3)
    )


UNREACHED = {
    "another loss": (lambda: nn.Linear(4, 3), lambda o, t: cross_entropy(o, t), "another"),
    "a weighted loss": (
        lambda: nn.Linear(4, 3),
        nn.CrossEntropyLoss(label_smoothing=0.1),
        "weighted",
    ),
    "another layer": (
        lambda: nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 3)),
        cross_entropy,
        "no factors for",
    ),
    "tied weights": (tied, cross_entropy, "share weights"),
    "half a layer": (half_frozen, cross_entropy, "only a part is trained"),
    "groups": (lambda: convolution(groups=2), cross_entropy, "grouped"),
    "circular padding": (
        lambda: convolution(padding_mode="circular"),
        cross_entropy,
        "specially padded",
    ),
    "a layer of one's own": (lambda: Tripled(4, 3), cross_entropy, "forward pass of its own"),
    "weights by hand": (lambda: ByHand(False), cross_entropy, "used outside their layers"),
    "weights by hand beside": (lambda: ByHand(True), cross_entropy, "used outside their layers"),
}


def unreached(name: str):
    torch.manual_seed(0)
    build, loss_fn, match = UNREACHED[name]
    return build(), (ROWS.float(), LABELS), loss_fn, match


@pytest.mark.parametrize("name", UNREACHED)
def test_what_kfac_does_not_reach_is_refused_by_name(name):
    model, data, loss_fn, match = unreached(name)
    with pytest.raises(ValueError, match=match):
        coordinates.kfac(objective_of(model, loss_fn, data), data, 0)


@pytest.mark.parametrize("name", ["another loss", "tied weights", "a layer of one's own"])
def test_the_diagonal_stands_in_for_kfac_and_the_certificates_say_so(name):
    model, data, loss_fn, match = unreached(name)
    settings = SamplerSettings(
        preconditioner="kfac", nbeta=20.0, localization=50.0, num_chains=2, num_draws=20
    )
    (found,) = estimate_llcs(model, [model.state_dict()], data, settings, 12, loss_fn)
    assert found.certificates.coordinates == "diagonal"
    remark = found.certificates.remarks[0]
    assert match in remark
    assert "the Hessian's diagonal stands in" in remark
    assert math.isfinite(found.llc)


def test_a_loss_without_data_has_no_kfac():
    model = Quadratic([1.0, 100.0, 1.0])
    settings = SamplerSettings(preconditioner="kfac", nbeta=100.0, num_chains=2, num_draws=20)
    (found,) = estimate_llcs(
        model, [model.state_dict()], None, settings, population_loss=model.population_loss
    )
    assert found.certificates.coordinates == "diagonal"
    assert found.certificates.remarks == ("K-FAC is of a loss on data; there is none",)


# ---- the diagonal --------------------------------------------------------------------------------


def test_the_diagonal_of_a_quadratic_is_exact():
    """Rademacher probes see a diagonal matrix without error."""
    curvatures = [4.0, 0.0, 0.25, 100.0]
    model = Quadratic(curvatures)
    at = coordinates.diagonal(model.population_loss, dict(model.named_parameters()), (), 3)
    assert at.kind == "diagonal"
    assert at.curvature.tolist() == curvatures
    assert at.precision(10.0, 3.0).tolist() == [43.0, 3.0, 5.5, 1003.0]
    assert at.precision(10.0, 0.0).tolist() == [40.0, 1.0, 2.5, 1000.0]  # 1: no scale at all


def test_the_diagonal_of_a_hessian_is_right_within_its_probes_error(regression):
    """The error of a probe is the row's other entries: (Σ_{j≠i} H_ij²)^½ over √16; five of them."""
    inputs, _ = regression.data
    matrix = (inputs.T @ inputs / len(inputs)).double()
    at = coordinates.diagonal(regression.problem().loss, regression.weights, regression.data, 0)
    others = (matrix - torch.diag(matrix.diagonal())).norm(dim=1)
    assert ((at.curvature.double() - matrix.diagonal()).abs() <= 5 * others / 4).all()
    assert others.max() > 0.1


def test_directions_that_curve_downwards_count_as_flat():
    def saddle(parameters):
        return parameters["w"] @ torch.diag(torch.tensor([1.0, -2.0])) @ parameters["w"]

    at = coordinates.diagonal(saddle, {"w": torch.zeros(2)}, (), 0)
    assert at.curvature.tolist() == [2.0, 0.0]


def test_the_weights_as_they_are_have_the_localisation_alone(regression):
    at = coordinates.flat(regression.problem().loss, regression.weights)
    assert at.precision(10.0, 3.0).tolist() == [3.0] * 6
