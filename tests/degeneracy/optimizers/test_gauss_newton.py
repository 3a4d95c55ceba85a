"""Does Gauss-Newton make the step that it says, is it the solution that it says, and what is
refused?
"""

import inspect
import itertools
import warnings

import pytest
import torch
from torch.func import functional_call, jacrev, jvp

from degeneracy.optimizers.gauss_newton import (
    KIND,
    LOSSES,
    MOST_ROWS,
    SCALES,
    SOLUTIONS,
    GaussNewton,
    NonFiniteError,
    RankWarning,
    Settings,
    build,
    class_kernel,
    gauss_newton_direction,
    inverted_gram,
    output_step,
)
from degeneracy.stepper import description
from degeneracy.training import as_stepper
from studies.gauss_newton.network import RevMLP

B, CLASSES, D = 10, 4, 24
EXACT = {"rtol": 0.0, "atol": 0.0}
TOLERANCE = 1e-11  # relative, of float64: some thousand roundings of condition 1e2


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def network(num_blocks=2, bias=True, hidden=40, init_std=0.3):
    return RevMLP(D, hidden, num_blocks, CLASSES, bias, init_std).double()


def batch(size=B):
    return torch.randn(size, D).double(), torch.randint(CLASSES, (size,))


def at_output(model, inputs, direction, part="hidden"):
    """Jδ by forward-mode differentiation of the whole network, at z (`hidden`) or the logits."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    fixed = dict(model.named_buffers())

    class Whole(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model.hidden(x) if part == "hidden" else self.model(x)

    def outputs(weights):
        named = {f"model.{name}": tensor for name, tensor in (weights | fixed).items()}
        return functional_call(Whole(), named, (inputs,))

    return jvp(outputs, (parameters,), (direction,))[1]


def dense_jacobian(model, inputs, part="logits"):
    """J by reverse-mode differentiation, rows (samples × outputs), columns all weights."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    fixed = dict(model.named_buffers())

    def outputs(weights):
        logits = functional_call(model, weights | fixed, (inputs,))
        return logits.flatten()

    if part == "logits":
        blocks = jacrev(outputs)(parameters)
    else:
        blocks = jacrev(lambda weights: _hidden(model, weights | fixed, inputs).flatten())(
            parameters
        )
    return torch.cat([block.flatten(1) for block in blocks.values()], dim=1)


def _hidden(model, weights, inputs):
    class Hidden(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model.hidden(x)

    named = {f"model.{name}": tensor for name, tensor in weights.items()}
    return functional_call(Hidden(), named, (inputs,))


def flat(direction):
    return torch.cat([part.flatten() for part in direction.values()])


def relative(found, right):
    return ((found - right).norm() / right.norm()).item()


def wanted(model, inputs, labels, loss):
    """(h, T)."""
    h = output_step(model(inputs).detach(), labels, loss)
    return h, h @ model.projection.T


CASES = list(itertools.product((1, 2, 6), (True, False), LOSSES, SCALES))


@pytest.mark.parametrize(("num_blocks", "bias", "loss", "scale"), CASES)
def test_the_block_solution_makes_the_whole_step(num_blocks, bias, loss, scale):
    model, (x, y) = network(num_blocks, bias), batch()
    step = gauss_newton_direction(model, x, y, loss, scale=scale, **EXACT)
    made = at_output(model, x, step.direction)
    factor = num_blocks if scale == "published" else 1
    assert relative(made / factor, wanted(model, x, y, loss)[1]) <= TOLERANCE
    assert step.exact
    assert step.residual <= TOLERANCE
    assert list(step.direction) == [name for name, _ in model.named_parameters()]
    assert set(step.ranks.values()) == {B}


@pytest.mark.parametrize(
    ("num_blocks", "bias", "loss"), [*itertools.product((1, 2), (True, False), LOSSES)]
)
def test_it_solves_the_dense_gauss_newton_system(num_blocks, bias, loss):
    """JᵀJδ = JᵀT, with J of all weights at the last activations."""
    model, (x, y) = network(num_blocks, bias), batch()
    step = gauss_newton_direction(model, x, y, loss, **EXACT)
    jacobian = dense_jacobian(model, x, "hidden")
    t = wanted(model, x, y, loss)[1].flatten()
    assert relative(jacobian.T @ (jacobian @ flat(step.direction)), jacobian.T @ t) <= TOLERANCE


@pytest.mark.parametrize(
    ("num_blocks", "bias", "loss"), [*itertools.product((1, 2, 6), (True, False), LOSSES)]
)
def test_the_minimum_norm_solution_is_the_dense_pseudo_inverses(num_blocks, bias, loss):
    model, (x, y) = network(num_blocks, bias), batch()
    step = gauss_newton_direction(model, x, y, loss, solution="min_norm", **EXACT)
    h = wanted(model, x, y, loss)[0]
    right = torch.linalg.pinv(dense_jacobian(model, x)) @ h.flatten()
    assert relative(flat(step.direction), right) <= TOLERANCE
    assert step.exact
    assert step.residual <= TOLERANCE
    assert step.kernel_rank == B * CLASSES


@pytest.mark.parametrize("solution", SOLUTIONS)
@pytest.mark.parametrize("apart", [1e-3, 1e-5, 1e-6])
def test_samples_that_are_nearly_alike_cost_what_rounding_of_the_weights_does(solution, apart):
    model, (inputs, labels) = network().float(), batch()
    inputs = inputs.float()
    inputs[1], labels[1] = inputs[0] + apart * torch.randn(D), (labels[0] + 1) % CLASSES
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        step = gauss_newton_direction(model, inputs, labels, solution=solution, **EXACT)
    # the step's length goes as 1/apart, and so does the rounding of its weights
    assert step.residual < torch.finfo(torch.float32).eps / apart
    assert step.exact == (step.residual <= 1e-3)
    assert step.exact == (not warned)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
@pytest.mark.parametrize("loss", LOSSES)
def test_labels_of_any_integer_type_are_labels(dtype, loss):
    model, (inputs, labels) = network(), batch()
    found = gauss_newton_direction(model, inputs, labels.to(dtype), loss=loss, **EXACT)
    right = gauss_newton_direction(model, inputs, labels, loss=loss, **EXACT)
    assert torch.equal(flat(found.direction), flat(right.direction))
    with pytest.raises(ValueError, match=r"targets are torch\.bool .* allowed: integer labels"):
        gauss_newton_direction(model, inputs, labels.bool(), loss=loss, **EXACT)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device in this machine")
@pytest.mark.parametrize("solution", SOLUTIONS)
@pytest.mark.parametrize("cuts", [EXACT, {"rtol": 0.1}, {"ridge": 1e-3}])
def test_it_is_the_same_on_cuda(solution, cuts):
    model, (inputs, labels) = network(), batch()
    on_cpu = gauss_newton_direction(model, inputs, labels, solution=solution, **cuts)
    on_cuda = gauss_newton_direction(
        model.cuda(), inputs.cuda(), labels.cuda(), solution=solution, **cuts
    )
    assert relative(flat(on_cuda.direction).cpu(), flat(on_cpu.direction)) < 1e-9
    assert on_cuda.ranks == on_cpu.ranks
    assert on_cuda.residual == pytest.approx(on_cpu.residual, abs=1e-9)


def test_it_is_the_shortest_of_those_that_make_the_same_step():
    model, (x, y) = network(), batch()
    block = gauss_newton_direction(model, x, y, **EXACT)
    short = gauss_newton_direction(model, x, y, solution="min_norm", **EXACT)
    made = [at_output(model, x, step.direction, "logits") for step in (block, short)]
    assert relative(*made) <= TOLERANCE
    assert flat(short.direction).norm() < 0.9 * flat(block.direction).norm()


@pytest.mark.parametrize(("num_blocks", "bias"), [*itertools.product((1, 2, 6), (True, False))])
def test_the_class_space_kernel_is_the_jacobians(num_blocks, bias):
    model, (x, _) = network(num_blocks, bias), batch()
    jacobian = dense_jacobian(model, x)
    assert relative(class_kernel(model, x), jacobian @ jacobian.T) <= 1e-12


@pytest.mark.parametrize("solution", ["block", "min_norm"])
@pytest.mark.parametrize("num_blocks", [1, 2, 6])
def test_the_linearised_squared_loss_is_zero_after_a_step_of_one(num_blocks, solution):
    model, (x, y) = network(num_blocks), batch()
    step = gauss_newton_direction(model, x, y, "mse", solution=solution, **EXACT)
    logits = model(x).detach() - at_output(model, x, step.direction, "logits")
    targets = torch.nn.functional.one_hot(y, CLASSES).double()
    assert relative(logits, targets) <= TOLERANCE


def test_without_bottleneck_it_makes_the_step_too():
    model, (x, y) = network(hidden=None), batch()
    step = gauss_newton_direction(model, x, y, **EXACT)
    assert (
        relative(at_output(model, x, step.direction), wanted(model, x, y, "ce_identity")[1])
        <= 1e-11
    )


# ---- the wanted step -----------------------------------------------------------------------------


def test_steps_of_the_logits_are_the_dense_hessians():
    o, y = torch.randn(7, CLASSES).double(), torch.randint(CLASSES, (7,))
    p, unit = o.softmax(1), torch.nn.functional.one_hot(y, CLASSES).double()
    hessians = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    gradients = (p - unit)[:, :, None]
    right = {
        "ce_identity": p - unit,
        "ce_exact": (torch.linalg.pinv(hessians) @ gradients)[:, :, 0],
        "ce_damped": torch.linalg.solve(hessians + 0.1 * torch.eye(CLASSES).double(), gradients)[
            :, :, 0
        ],
        "mse": o - unit,
    }
    for loss in LOSSES:
        assert relative(output_step(o, y, loss, damping=0.1), right[loss]) <= TOLERANCE


def test_the_exact_step_grows_as_one_over_the_probability():
    """From log-softmax, where 1/p_y of a softmax that is 0 would be infinite."""
    o = torch.tensor([[0.0, 80.0]])
    h = output_step(o, torch.tensor([0]), "ce_exact")
    assert h.isfinite().all()
    assert h[0, 1].item() == pytest.approx(torch.tensor(80.0).exp().item() / 2, rel=1e-5)


def test_values_are_targets_of_the_squared_error():
    model, (x, _) = network(), batch()
    values = torch.randn(B, CLASSES).double()
    step = gauss_newton_direction(model, x, values, "mse", **EXACT)
    assert (
        relative(at_output(model, x, step.direction, "logits"), model(x).detach() - values) <= 1e-11
    )
    assert step.loss.item() == pytest.approx(
        0.5 * (model(x) - values).square().sum(1).mean().item()
    )


# ---- what is missed ------------------------------------------------------------------------------


def test_a_batch_beyond_the_rank_says_what_it_misses():
    """h + 1 = 9 features for 20 samples: what `residual` says is what Jδ shows."""
    model, (x, y) = network(hidden=8), batch(20)
    with pytest.warns(RankWarning, match=r"blocks\.0\.f 9.* on a batch of 20; it misses .* %"):
        step = gauss_newton_direction(model, x, y, **EXACT)
    _, t = wanted(model, x, y, "ce_identity")
    missed = t - at_output(model, x, step.direction)
    assert not step.exact
    assert step.residual == pytest.approx((missed.norm() / t.norm()).item(), rel=1e-9)
    at_logits = (missed @ model.projection).norm() / t.norm()
    assert step.logit_residual == pytest.approx(at_logits.item(), rel=1e-9)
    assert step.residual > 0.1
    assert max(step.ranks.values()) == 9


@pytest.mark.parametrize("how", [{"rtol": 0.3}, {"atol": 20.0}, {"ridge": 0.1}])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("solution", ["block", "min_norm"])
def test_cut_offs_and_damping_say_what_they_miss(how, scale, solution):
    model, (x, y) = network(3), batch()
    with pytest.warns(RankWarning):
        step = gauss_newton_direction(model, x, y, scale=scale, solution=solution, **(EXACT | how))
    part = "hidden" if solution == "block" else "logits"
    h, t = wanted(model, x, y, "ce_identity")
    t = t if solution == "block" else h
    made = at_output(model, x, step.direction, part) / (3 if scale == "published" else 1)
    assert step.residual == pytest.approx(relative(made, t), rel=1e-9)
    assert step.residual > 1e-3


def test_the_cut_off_is_that_of_singular_values():
    features = torch.randn(12, 30).double()
    values = torch.linalg.svdvals(features)
    rtol = float((values[6] + values[7]) / 2 / values[0])
    inverse = inverted_gram(features @ features.T, rtol, 0.0)
    assert inverse.rank == 7
    assert inverted_gram(features @ features.T, 0.0, float(values[3]) * 0.999).rank == 4
    right = torch.linalg.pinv(features, rtol=rtol)
    assert relative(features.T @ inverse.solve(torch.eye(12).double()), right) <= 1e-11


def test_ridge_damps_by_a_share_of_the_largest():
    features = torch.randn(12, 30).double()
    gram = features @ features.T
    top = torch.linalg.eigvalsh(gram)[-1]
    right = torch.linalg.inv(gram + 0.01 * top * torch.eye(12).double())
    found = inverted_gram(gram, ridge=0.01).solve(torch.eye(12).double())
    assert relative(found, right) <= 1e-11


def test_singular_features_are_cut_off_and_said():
    """Two samples that are the same, wanted the same: rank B − 1, and nothing is missed; wanted
    differently: something is.
    """
    model, (x, y) = network(), batch()
    x[1], y[1] = x[0], y[0]
    with pytest.warns(RankWarning, match=f"blocks.1.g {B - 1} given on a batch of {B}"):
        step = gauss_newton_direction(model, x, y, **EXACT)
    assert step.residual <= 1e-6  # √ε of the Gram matrix
    y[1] = (y[0] + 1) % CLASSES
    with pytest.warns(RankWarning):
        assert gauss_newton_direction(model, x, y, **EXACT).residual > 0.1


def test_features_that_are_all_zero_change_nothing():
    model, (x, y) = network(1, bias=False), batch()
    with pytest.warns(RankWarning, match=r"blocks\.0\.f 0, .* misses 100 %"):
        step = gauss_newton_direction(model, torch.zeros_like(x), y, **EXACT)
    assert (flat(step.direction) == 0).all()


def test_a_batch_of_rank_as_wide_as_the_features_is_exact_in_float32():
    """B = h + 1, where a float32 product with the inverse would lose the step."""
    model = RevMLP(400, 100, 2, CLASSES, init_std=0.1)
    x, y = torch.randn(95, 400), torch.randint(CLASSES, (95,))
    step = gauss_newton_direction(model, x, y, **EXACT)
    assert step.exact
    assert step.residual < 1e-4


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"loss": "hinge"}, "loss = 'hinge' given; allowed: ce_identity, ce_exact"),
        ({"scale": "half"}, "scale = 'half' given; allowed: exact, published"),
        ({"solution": "max"}, "solution = 'max' given; allowed: block, min_norm"),
        ({"rtol": 1.0}, r"rtol = 1\.0 given; allowed: ≥ 0 and < 1"),
        ({"atol": -1.0}, r"atol = -1\.0 given; allowed: ≥ 0 and finite"),
        ({"ridge": float("nan")}, "ridge = nan given; allowed: ≥ 0 and finite"),
        ({"damping": 0.0}, r"damping = 0\.0 given; allowed: > 0 and finite"),
    ],
)
def test_a_choice_that_there_is_not_is_refused(how, message):
    with pytest.raises(ValueError, match=message):
        gauss_newton_direction(network(), *batch(), **how)
    with pytest.raises(ValueError, match=message):
        GaussNewton(network(), 0.1, **how)


def changed_batch(**changes):
    x, y = batch()
    return {"inputs": x, "targets": y} | changes


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            changed_batch(inputs=torch.randn(B, 25).double()),
            rf"\({B}, 25\) given; allowed: \(B, 24\)",
        ),
        (changed_batch(inputs=torch.randn(B, D)), "float32 given; allowed: torch.float64"),
        (changed_batch(inputs=batch(1)[0], targets=batch(1)[1]), "a batch of 1 given; allowed: at"),
        (
            changed_batch(targets=torch.arange(B)),
            f"labels from 0 to {B - 1} given; allowed: 0 to 3",
        ),
        (changed_batch(targets=-torch.ones(B).long()), "labels from -1 to -1 given; allowed: 0 to"),
        (
            changed_batch(targets=torch.zeros(B)),
            r"float32 of shape \(10,\); allowed: integer labels",
        ),
        (changed_batch(targets=torch.zeros(3).long()), r"of shape \(3,\); allowed: integer labels"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        gauss_newton_direction(network(), **given)


def test_values_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"targets of shape \(10, 3\) given; allowed: \(10, 4\)"):
        gauss_newton_direction(network(), batch()[0], torch.zeros(B, 3).double(), "mse")


def test_a_network_that_is_not_reversible_is_refused():
    with pytest.raises(ValueError, match="a Linear given; allowed: a reversible network"):
        gauss_newton_direction(torch.nn.Linear(D, CLASSES), *batch())
    with pytest.raises(ValueError, match="a Linear given; allowed: a reversible network"):
        build(torch.nn.Linear(D, CLASSES), None, Settings())


def test_a_kernel_that_is_too_large_is_refused():
    size = MOST_ROWS // CLASSES + 1
    with pytest.raises(ValueError, match=f"a batch of {size} with 4 classes .* at most 16,384"):
        class_kernel(network(), torch.zeros(size, D).double())


def test_what_is_not_finite_ends_it_before_a_weight_moves():
    model, (x, y) = network(), batch()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with pytest.raises(NonFiniteError, match="the network's activations are not finite"):
        GaussNewton(model, 1.0).step(torch.full_like(x, torch.nan), y)
    steep = RevMLP(D, 40, 2, CLASSES)
    with pytest.raises(NonFiniteError, match="the wanted step is not finite"):
        gauss_newton_direction(steep, 1e4 * x.float(), y, "ce_exact")
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name])


# ---- the optimizer -------------------------------------------------------------------------------


def test_a_step_goes_against_the_direction():
    model, (x, y) = network(), batch()
    step = gauss_newton_direction(model, x, y, **EXACT)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = GaussNewton(model, lr=0.3, weight_decay=0.5, **EXACT)
    logged = optimizer.step(x, y)
    assert logged["loss"].item() == step.loss.item()
    assert logged["missed_fraction"].item() == step.residual
    for name, p in model.named_parameters():
        right = (1 - 0.3 * 0.5) * before[name] - 0.3 * step.direction[name]
        torch.testing.assert_close(p.detach(), right)


def test_full_steps_on_the_squared_error_fit_a_batch_at_once():
    """Nothing is left of ½‖o − y‖² but what is not linear in the weights."""
    model, (x, y) = network(init_std=1e-3), batch()
    optimizer = GaussNewton(model, lr=1.0, loss="mse", **EXACT)
    losses = [optimizer.step(x, y)["loss"].item() for _ in range(6)]
    assert losses[-1] < 1e-6 * losses[0]


def test_it_is_a_stepper_with_a_state():
    model, (x, y) = network(hidden=8), batch(20)
    optimizer = as_stepper(model, build(model, None, Settings(lr=0.2)))
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for _ in range(3):
            optimizer.step(x, y)
    assert [type(one.message) for one in found] == [RankWarning]  # once, not at every step
    other = KIND.build(model, None, Settings(lr=0.2))
    other.load_state_dict(optimizer.state_dict())
    assert other.state_dict() == {"num_steps": torch.tensor(3), "num_short": torch.tensor(3)}
    assert description(optimizer).startswith("GaussNewton(lr=0.2, weight_decay=0.0, loss=")
    assert set(optimizer.hyper) == set(inspect.signature(GaussNewton).parameters) - {"model"}
    own = {"scale": "published", "solution": "min_norm", "rtol": 0.0, "atol": 0.0}
    assert own.items() <= GaussNewton(network(), 0.2, **own).hyper.items()


@pytest.mark.parametrize(
    ("name", "value"), [("lr", 0.0), ("lr", float("inf")), ("weight_decay", -1.0)]
)
def test_a_rate_out_of_range_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} = {value!r} given; allowed: "):
        GaussNewton(network(), **({"lr": 0.1} | {name: value}))
