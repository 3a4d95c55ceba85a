"""Is there a loss L(w)? What is one passes, and what is none is refused with its cause."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.functional import cross_entropy, mse_loss

from degeneracy.curvature.checks import checked_objective
from degeneracy.objective.checks import check_objective, check_second_derivatives
from degeneracy.objective.loss import objective_of

UNEQUAL = torch.tensor([1.0, 9.0, 4.0])


def checked(model: nn.Module, loss_fn, data, **options) -> None:
    check_objective(objective_of(model, loss_fn, data, **options))


def refusal(model: nn.Module, loss_fn, data) -> str:
    """Why a loss is refused; empty where it is not."""
    try:
        checked(model, loss_fn, data)
    except ValueError as error:
        return str(error)
    return ""


def network(outputs: int = 3, dtype=torch.float32, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, outputs)
        return nn.Sequential(*layers).to(dtype)


def classes(count: int, seed: int = 0, dtype=torch.float32) -> tuple[Tensor, Tensor]:
    """Samples of three classes, each of which is there where the count allows."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 4, generator=generator, dtype=dtype)
    return inputs, torch.arange(count)[torch.randperm(count, generator=generator)] % 3


def values(count: int, seed: int = 0, dtype=torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 4, generator=generator, dtype=dtype)
    return inputs, torch.randn(count, 3, generator=generator, dtype=dtype)


# ---- means pass ----------------------------------------------------------------------------------

OF_VALUES = {
    "squares": lambda z, y: (z - y).square().mean(),
    "half squared norm": lambda z, y: 0.5 * (z - y).square().sum(1).mean(),
    "absolute": lambda z, y: F.l1_loss(z, y),
    "huber": lambda z, y: F.huber_loss(z, y, delta=0.5),
    "log cosh": lambda z, y: (z - y).cosh().log().mean(),
    "norm": lambda z, y: ((z - y).square().sum(1) + 1).sqrt().mean(),
    "largest coordinate": lambda z, y: (z - y).abs().amax(1).mean(),
    "cosine": lambda z, y: 1 - F.cosine_similarity(z, y).mean(),
    "gaussian": lambda z, y: F.gaussian_nll_loss(z, y, torch.ones_like(y)),
    "negative": lambda z, y: -(z * y).sum(1).mean(),
    "shifted": lambda z, y: (z - y).square().mean() + 100,
    "weighted coordinates": lambda z, y: ((z - y).square() * UNEQUAL.to(z)).mean(),
    "poisson": lambda z, y: F.poisson_nll_loss(z, y.abs()),
}
OF_CLASSES = {
    "cross-entropy": cross_entropy,
    "smoothed": nn.CrossEntropyLoss(label_smoothing=0.2),
    "class weights": nn.CrossEntropyLoss(weight=UNEQUAL),
    "one class ignored": nn.CrossEntropyLoss(ignore_index=0),
    "hinge": nn.MultiMarginLoss(),
    "focal": lambda z, y: (
        (1 - z.softmax(1).gather(1, y[:, None])).square() * -z.log_softmax(1).gather(1, y[:, None])
    ).mean(),
    "brier": lambda z, y: (z.softmax(1) - F.one_hot(y, 3)).square().sum(1).mean(),
    "zero-one": lambda z, y: (z.argmax(1) != y).to(z).mean() + 0 * z.mean(),
    "z loss": lambda z, y: cross_entropy(z, y) + 0.01 * z.logsumexp(1).square().mean(),
}
SIZES, SEEDS = st.integers(3, 60), st.integers(0, 10**6)
TYPES = st.sampled_from([torch.float32, torch.float64])


@given(st.sampled_from(sorted(OF_VALUES)), SIZES, SEEDS, TYPES, st.sampled_from([1e-3, 1.0, 1e3]))
@settings(max_examples=80)
def test_a_mean_of_losses_of_samples_passes(name, count, seed, dtype, scale):
    inputs, targets = values(count, seed, dtype)
    data = scale * inputs, scale * targets
    assert refusal(network(dtype=dtype, seed=seed), OF_VALUES[name], data) == ""


@given(st.sampled_from(sorted(OF_CLASSES)), SIZES, SEEDS, TYPES)
@settings(max_examples=80)
def test_a_mean_of_losses_of_labelled_samples_passes(name, count, seed, dtype):
    data = classes(count, seed, dtype)
    assert refusal(network(dtype=dtype, seed=seed), OF_CLASSES[name], data) == ""


@given(SIZES, SEEDS, st.lists(st.floats(-3, 3), min_size=4, max_size=4))
@settings(max_examples=40)
def test_the_mean_of_any_function_of_a_sample_passes(count, seed, coefficients):
    a, b, c, d = coefficients

    def loss(z: Tensor, y: Tensor) -> Tensor:
        own = a * (z - y).square() + b * (z * y).sin() + c * z.exp().clamp(max=10) + d * y
        return own.flatten(1).mean(1).mean()

    assert refusal(network(seed=seed), loss, values(count, seed)) == ""


@given(st.integers(1, 2), SEEDS)
@settings(max_examples=10)
def test_a_mean_passes_on_one_sample_and_on_two(count, seed):
    checked(network(), mse_loss, values(count, seed))
    checked(network(), cross_entropy, classes(count, seed))


def test_a_mean_passes_where_every_target_is_met():
    model, (inputs, _) = network(), values(20)
    checked(model, mse_loss, (inputs, model(inputs).detach()))


# ---- what is no mean is refused ------------------------------------------------------------------


def present(z: Tensor, y: Tensor) -> Tensor:
    """Class weights that are hidden in a function."""
    return cross_entropy(z, y, weight=UNEQUAL.to(z))


def skipping(z: Tensor, y: Tensor) -> Tensor:
    """Class 0 does not count, and the mean is over the others."""
    counts = y != 0
    return (cross_entropy(z, y, reduction="none") * counts).sum() / counts.sum().clamp(min=1)


def contrast(z: Tensor, y: Tensor) -> Tensor:
    unit = F.normalize(z)
    return cross_entropy(unit @ unit.T / 0.1, torch.arange(len(z)))


def root(z: Tensor, y: Tensor) -> Tensor:
    return (z - y).square().mean().sqrt()


NO_MEANS = {
    "hidden class weights": (present, classes),
    "hidden ignored class": (skipping, classes),
    "root of a mean": (root, values),
    "worst sample": (lambda z, y: (z - y).square().sum(1).max(), values),
    "median": (lambda z, y: (z - y).square().sum(1).median(), values),
    "InfoNCE": (contrast, values),
    "variance": (lambda z, y: mse_loss(z, y) + z.var(0, unbiased=False).sum(), values),
    "r squared": (lambda z, y: (z - y).square().sum() / (y - y.mean(0)).square().sum(), values),
    "log of a mean": (lambda z, y: (z - y).square().mean().log(), values),
    "dice": (lambda z, y: 1 - (z * y).sum() / (z.square() + y.square()).sum(), values),
    "pairs": (lambda z, y: (z[:, None] - z[None] - y[:, None] + y[None]).square().mean(), values),
}


@pytest.mark.parametrize("name", sorted(NO_MEANS))
@given(count=st.integers(6, 60), seed=SEEDS, dtype=TYPES)
@settings(max_examples=12)
def test_what_is_no_mean_over_samples_is_refused(name, count, seed, dtype):
    loss_fn, data = NO_MEANS[name]
    with pytest.raises(ValueError, match="not a mean over samples"):
        checked(network(dtype=dtype, seed=seed), loss_fn, data(count, seed, dtype))


@given(count=st.integers(2, 60), seed=SEEDS, scale=st.sampled_from([1e-4, 1.0, 1e4]))
@settings(max_examples=40)
def test_sums_are_refused_as_such(count, seed, scale):
    model = network(seed=seed)
    with pytest.raises(ValueError, match=r'a sum over the samples; .*reduction="mean"'):
        checked(model, nn.MSELoss(reduction="sum"), tuple(scale * x for x in values(count, seed)))
    with pytest.raises(ValueError, match="a sum over the samples"):
        checked(model, nn.CrossEntropyLoss(reduction="sum"), classes(count, seed))
    weighted = nn.CrossEntropyLoss(weight=UNEQUAL, reduction="sum")
    with pytest.raises(ValueError, match="a sum over the samples"):
        checked(model, weighted, classes(count, seed))


@given(count=st.integers(3, 60), seed=SEEDS)
@settings(max_examples=20)
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_losses_that_broadcast_are_refused_with_both_shapes(count, seed):
    inputs, targets = values(count, seed)
    message = r"\(\d+, 1\) .* broadcast.*targets\[:, None"
    with pytest.raises(ValueError, match=message):
        checked(network(1), mse_loss, (inputs, targets[:, 0]))


@pytest.mark.parametrize(
    "loss_fn",
    [
        nn.MSELoss(reduction="sum"),
        root,
        lambda z, y: (z - y).square().sum(1).max(),
        lambda z, y: mse_loss(z, y) ** 2,
    ],
    ids=["sum", "root", "maximum", "square"],
)
def test_a_loss_that_vanishes_at_the_checkpoint_is_refused_all_the_same(loss_fn):
    model, (inputs, _) = network(dtype=torch.float64), values(20, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"sum over the samples|not a mean"):
        checked(model, loss_fn, (inputs, model(inputs).detach()))


def test_losses_that_are_no_number_are_refused():
    for loss_fn, shown in (
        (nn.MSELoss(reduction="none"), r"a tensor \(16, 3\)"),
        (lambda z, y: float(mse_loss(z, y)), "float"),
        (lambda z, y: (z.argmax(1) != 0).sum(), r"a tensor \(\) of torch\.int64"),
        (lambda z, y: None, "NoneType"),
    ):
        with pytest.raises(ValueError, match=rf"loss_fn returns {shown}"):
            checked(network(), loss_fn, values(20))


@pytest.mark.filterwarnings("ignore:Using a target size")
def test_a_loss_that_fails_is_refused_with_what_it_was_given():
    inputs, targets = values(20)
    with pytest.raises(ValueError, match=r"loss_fn fails on outputs \(16, 3\).*targets \(16, 2\)"):
        checked(network(), mse_loss, (inputs, targets[:, :2]))


def test_labels_out_of_range_are_refused_wherever_they_stand():
    inputs, labels = classes(5000)
    labels[2345] = 3
    with pytest.raises(ValueError, match="labels go from 0 to 3; allowed for 3 outputs: 0 to 2"):
        checked(network(), cross_entropy, (inputs, labels))


# ---- class weights, sorted -----------------------------------------------------------------------


def sorted_by_class() -> tuple[Tensor, Tensor]:
    inputs, _ = classes(6000)
    return inputs, (torch.arange(6000) >= 5400).long()


def test_class_weights_pass_on_samples_sorted_by_class():
    """Any sixteen samples that stand together are of one class, and weights cancel there."""
    checked(network(2), nn.CrossEntropyLoss(weight=torch.tensor([1.0, 9.0])), sorted_by_class())


def test_hidden_class_weights_are_refused_on_samples_sorted_by_class():
    weight = torch.tensor([1.0, 9.0])
    with pytest.raises(ValueError, match=r"not a mean.*nn\.CrossEntropyLoss\(weight=…\)"):
        checked(network(2), lambda z, y: cross_entropy(z, y, weight), sorted_by_class())


def test_hidden_class_weights_are_refused_where_one_of_thousands_is_of_the_other_class():
    inputs, labels = sorted_by_class()
    labels = torch.zeros_like(labels)
    labels[4097] = 1
    weight = torch.tensor([1.0, 9.0])
    with pytest.raises(ValueError, match="not a mean"):
        checked(network(2), lambda z, y: cross_entropy(z, y, weight), (inputs, labels))


# ---- closures and penalties ----------------------------------------------------------------------


def test_a_loss_that_sees_weights_by_closure_is_refused_with_the_way_out():
    model = network()

    def decayed(z: Tensor, y: Tensor) -> Tensor:
        return mse_loss(z, y) + 0.5 * sum(p.square().sum() for p in model.parameters())

    with pytest.raises(ValueError, match=r"by closure.*penalty=.*lambda parameters"):
        checked(model, decayed, values(20))


class Keeping(nn.Module):
    """Keeps an activation, for a loss that looks at it."""

    def __init__(self):
        super().__init__()
        self.net, self.hidden = network(), None

    def forward(self, x: Tensor) -> Tensor:
        self.hidden = self.net[1](self.net[0](x))
        return self.net[2](self.hidden)


def test_a_loss_of_a_kept_activation_is_refused():
    """It is left of another call, with other weights."""
    model, data = Keeping(), values(20)
    model(data[0])  # as training left it
    with pytest.raises(ValueError, match="penalty="):
        checked(model, lambda z, y: mse_loss(z, y) + model.hidden.square().mean(), data)


def test_a_loss_with_a_criterion_of_trained_weights_is_refused():
    scale = nn.Parameter(torch.ones(()))
    with pytest.raises(ValueError, match="penalty="):
        checked(network(), lambda z, y: scale * mse_loss(z, y), values(20))


def decay(parameters: dict[str, Tensor]) -> Tensor:
    return 0.5 * sum(p.square().sum() for p in parameters.values())


def test_a_penalty_of_the_parameters_passes():
    checked(network(), mse_loss, values(20), penalty=decay)
    checked(network(), mse_loss, values(20), penalty=lambda p: p["2.weight"].abs().sum())


def test_penalties_that_are_no_function_of_what_they_are_given_are_refused():
    model = network()
    for penalty, message in (
        (lambda _: torch.tensor(1.0), "does not hang on the parameters"),
        (lambda _: decay(dict(model.named_parameters())).detach(), "does not hang on"),
        (lambda p: p["0.weight"].square(), r"penalty returns \(5, 4\)"),
        (lambda p: p["nothing"].sum(), "penalty fails on the parameters by name"),
        (lambda p: 0.0, "penalty returns of type float"),
    ):
        with pytest.raises(ValueError, match=message):
            checked(model, mse_loss, values(20), penalty=penalty)


def test_a_penalty_that_sees_the_models_own_weights_is_refused():
    """It requires a gradient, of weights that are not the given ones."""
    model = network()
    with pytest.raises(ValueError, match="penalty"):
        checked(
            model, mse_loss, values(20), penalty=lambda _: decay(dict(model.named_parameters()))
        )


# ---- gradients that are not the loss's -----------------------------------------------------------


class Straight(torch.autograd.Function):
    """Rounds, and passes gradients through."""

    @staticmethod
    def forward(x):
        return (4 * x).round() / 4

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, grad):
        return grad


class Middle(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.net, self.function = network(), function

    def forward(self, x: Tensor) -> Tensor:
        return self.net[2](self.function(self.net[1](self.net[0](x))))


LIARS = {
    "straight-through function": Straight.apply,
    "straight-through by detach": lambda h: h + (h.sign() - h).detach(),
    "detached part": lambda h: h * h.detach().exp(),
    "detached norm": lambda h: h / (h.norm(dim=1, keepdim=True).detach() + 0.1),
}


@pytest.mark.parametrize("name", sorted(LIARS))
@given(seed=SEEDS)
@settings(max_examples=5)
def test_gradients_that_are_not_the_losss_are_refused(name, seed):
    with pytest.raises(ValueError, match="not that of the loss"):
        checked(Middle(LIARS[name]), mse_loss, values(20, seed))


def test_a_backward_hook_that_doubles_gradients_is_refused():
    model = network()
    model[1].register_full_backward_hook(lambda layer, given, found: (2 * given[0],))
    with pytest.raises(ValueError, match=r"not that of the loss.*hook"):
        checked(model, mse_loss, values(20))


def test_a_part_without_gradients_is_refused():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, x):
            with torch.no_grad():
                hidden = self.net[1](self.net[0](x))
            return self.net[2](hidden)

    with pytest.raises(ValueError, match="not that of the loss"):
        checked(Half(), mse_loss, values(20))


def test_detaching_what_does_not_hang_on_weights_is_no_lie():
    checked(Middle(lambda h: h * 2), mse_loss, values(20))
    model = network()
    checked(model, lambda z, y: mse_loss(z, y.detach()), values(20))


@pytest.mark.parametrize(
    "activation", [nn.ReLU, nn.LeakyReLU, nn.Hardtanh, nn.ReLU6, nn.GELU, nn.Softshrink, nn.ELU]
)
@given(seed=SEEDS)
@settings(max_examples=8)
def test_kinks_are_no_lie(activation, seed):
    model = network(seed=seed)
    model[1] = activation()
    checked(model, cross_entropy, classes(20, seed))
    checked(model, F.l1_loss, values(20, seed))


def test_dead_units_and_weights_of_zero_are_no_lie():
    model = network()
    model[1] = nn.ReLU()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    checked(model, cross_entropy, classes(20))


class BadTwice(torch.autograd.Function):
    """A product, whose backward pass hides that it hangs on w."""

    @staticmethod
    def forward(ctx, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return x * w

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, w = ctx.saved_tensors
        return grad * w.detach(), grad * x


def test_a_wrong_second_derivative_is_refused_by_curvature():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.scale = network(), nn.Parameter(torch.tensor([0.5, 1.0, 2.0]))

        def forward(self, x):
            z = self.net(x)
            return BadTwice.apply(z, self.scale.expand_as(z))

    objective = objective_of(Scaled(), mse_loss, values(20))
    check_objective(objective)  # its first derivative is right
    with pytest.raises(ValueError, match="second derivative is not that of the loss"):
        check_second_derivatives(objective)
    with pytest.raises(ValueError, match="second derivative is not that"):
        checked_objective(Scaled(), mse_loss, values(20), 10)


class OnceOnly(torch.autograd.Function):
    """The square, whose backward pass autograd cannot look into."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:
        return 2 * grad * ctx.saved_tensors[0]


class ByNumbers(OnceOnly):
    """The same, as where a library outside of PyTorch computes it."""

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return torch.from_numpy(2 * grad.detach().numpy() * ctx.saved_tensors[0].detach().numpy())


@pytest.mark.parametrize("function", [OnceOnly.apply, ByNumbers.apply], ids=["once", "numpy"])
@pytest.mark.parametrize("place", ["loss", "layer"])
def test_a_second_derivative_that_is_missing_is_refused_by_curvature(function, place):
    """Autograd takes it for zero, and a Hessian of zeros is symmetric."""
    model, loss_fn = nn.Linear(4, 3), lambda z, y: function(z - y).mean()
    if place == "layer":
        model, loss_fn = Middle(function), mse_loss
    checked(model, loss_fn, values(20))  # its first derivative is right
    with pytest.raises(ValueError, match=r"second|differentiated"):
        checked_objective(model, loss_fn, values(20), 10)


# ---- the model -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "function",
    [
        lambda h: h - h.mean(0),
        lambda h: (h @ h.T).softmax(1) @ h,
        lambda h: h / h.norm(),
        lambda h: h.cumsum(0),
        lambda h: h + h[:1],
    ],
    ids=["centred", "attends", "normalised", "summed up", "first sample"],
)
def test_forward_passes_that_mix_samples_are_refused(function):
    with pytest.raises(ValueError, match=r"depends on the other samples|not a mean"):
        checked(Middle(function), mse_loss, values(20))


@pytest.mark.parametrize(
    ("function", "operation"),
    [(lambda h: h.bfloat16().float(), "_to_copy"), (lambda h: h.half().tanh().float(), "_to_copy")],
    ids=["bfloat16", "half"],
)
def test_computing_in_half_precision_is_refused(function, operation):
    with pytest.raises(ValueError, match=f"computes in half precision .*{operation}.*autocast"):
        checked(Middle(function), mse_loss, values(20))


def test_autocast_inside_the_model_is_refused():
    class Cast(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, x):
            with torch.autocast("cpu", torch.bfloat16):
                return self.net(x).float()

    with pytest.raises(ValueError, match=r"computes in half precision .*autocast"):
        checked(Cast(), mse_loss, values(20))


def test_autocast_around_the_call_is_refused():
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match="half precision"):
        checked(network(), mse_loss, values(20))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_kept_in_half_precision_are_computed_with_in_full(dtype):
    objective = objective_of(network(dtype=dtype), mse_loss, values(20))
    check_objective(objective)
    assert {w.dtype for w in objective.weights.values()} == {torch.float32}


def test_torchscript_is_refused_also_inside_of_a_module():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.script(network())
    for model in (scripted, nn.Sequential(scripted)):
        with pytest.raises(ValueError, match=r"TorchScript.*give the nn\.Module"):
            checked(model, mse_loss, values(20))


def test_lazy_layers_are_refused_until_they_have_shapes():
    model = nn.Sequential(nn.LazyLinear(3))
    with pytest.raises(ValueError, match=r"0\.weight has no shape yet.*call the model once"):
        checked(model, mse_loss, values(20))
    model(values(20)[0])
    checked(model, mse_loss, values(20))


def test_forward_passes_that_are_random_or_change_the_model_are_refused():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            return self.net(x)

    counting = Counting()
    with pytest.raises(ValueError, match="changes its calls"):
        checked(counting, mse_loss, values(20))
    assert counting.calls == 0
    with pytest.raises(ValueError, match="random"):
        checked(Middle(lambda h: h + torch.randn_like(h)), mse_loss, values(20))
    with pytest.raises(ValueError, match="Dropout in training mode"):
        checked(nn.Sequential(network(), nn.Dropout(0.1)), mse_loss, values(20))


def test_outputs_that_no_tree_of_tensors_holds_are_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"outputs hold str.*forward=lambda model, inputs"):
        checked(network(), mse_loss, values(20), forward=lambda model, x: (model(x), "and"))


def test_inputs_of_another_type_are_refused_with_the_conversion():
    inputs, targets = values(20)
    with pytest.raises(ValueError, match=r"cannot take inputs.*inputs\.to\(torch\.float32\)"):
        checked(network(), mse_loss, (inputs.double(), targets))
