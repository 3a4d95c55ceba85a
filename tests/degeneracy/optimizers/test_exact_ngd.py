"""Are the Fisher matrix and the natural gradient exact, whatever way they are computed, and is bad
input refused?
"""

import copy
import doctest
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from curvlinops import EFLinearOperator, GGNLinearOperator
from torch import nn
from torch.func import functional_call, hessian, jacrev

from degeneracy.models.networks import FFNN
from degeneracy.optimizers import exact_ngd
from degeneracy.optimizers.exact_ngd import (
    MAX_WEIGHTS,
    ExactNGD,
    ExactStepper,
    cosines,
    fisher_matrix,
    natural_gradient,
    smoothing,
    split_by_parameter,
)

ROUNDING = 1e-12  # float64: 2.2e-16 times the few thousand terms of a sum, relative


# ------------------------------------------------------------------------------------------ helpers


def softmax_regression(dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    return nn.Linear(5, 3).to(dtype), torch.randn(40, 5, dtype=dtype), torch.randint(3, (40,))


def mlp(dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).to(dtype)
    return model, torch.randn(60, 3, dtype=dtype), torch.randint(3, (60,))


def flat_weights(model):
    return torch.cat([param.detach().flatten() for param in model.parameters()])


def outputs_of(model, inputs):
    """The logits on `inputs` as a function of the flat weights."""
    return lambda flat: functional_call(model, split_by_parameter(model, flat), (inputs,))


def gradient_of(model, inputs, labels):
    loss = F.cross_entropy(model(inputs), labels)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


def relative_error(found, expected):
    return float((found - expected).detach().norm() / expected.detach().norm())


def smallest_positive_eigenvalue(fisher):
    """The least eigenvalue above rounding, with a gap below it: F of a softmax classifier is
    singular.
    """
    values = torch.linalg.eigvalsh(fisher)
    zero = values < 1e-13 * values[-1]
    least = float(values[~zero][0])
    assert zero.any()
    assert least > 1e-9 * values[-1]
    return least


def train_steps(model, optimizer, inputs, labels, steps):
    """Trains on batches of 20 in turn; returns the weights after each step."""
    path, batches = [], list(zip(inputs.split(20), labels.split(20), strict=True))
    for step in range(steps):
        x, y = batches[step % len(batches)]
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        if isinstance(optimizer, ExactNGD):
            optimizer.observe(x, y)
        optimizer.step()
        path.append(flat_weights(model))
    return path


# -------------------------------------------------------------------------------- the Fisher matrix


def test_expected_fisher_matrix_of_softmax_regression_is_the_hessian_of_the_loss():
    """The logits are linear in the weights, so that the Hessian is Jᵀ(diag(q) − q qᵀ)J whatever the
    labels are.
    """
    model, inputs, labels = softmax_regression()
    expected = hessian(lambda flat: F.cross_entropy(outputs_of(model, inputs)(flat), labels))(
        flat_weights(model)
    )
    assert relative_error(fisher_matrix(model, inputs), expected) < ROUNDING


def test_expected_fisher_matrix_is_the_gauss_newton_matrix():
    model, inputs, labels = mlp()
    jacobian = jacrev(outputs_of(model, inputs))(flat_weights(model))  # (n, classes, p)
    curvature = torch.stack(
        [hessian(F.cross_entropy)(z, y) for z, y in zip(model(inputs), labels, strict=True)]
    )
    expected = torch.einsum("ncp,ncd,ndq->pq", jacobian, curvature, jacobian) / len(inputs)
    assert relative_error(fisher_matrix(model, inputs), expected) < ROUNDING


def test_empirical_fisher_matrix_is_the_mean_outer_product_of_the_samples_gradients():
    model, inputs, labels = mlp()
    gradients = [
        gradient_of(model, inputs[i : i + 1], labels[i : i + 1]) for i in range(len(inputs))
    ]
    expected = sum(torch.outer(g, g) for g in gradients) / len(inputs)
    assert relative_error(fisher_matrix(model, inputs, labels, "empirical"), expected) < ROUNDING


def test_expected_fisher_matrix_is_the_empirical_one_averaged_over_labels_by_their_probability():
    model, inputs, _ = mlp()
    inputs = inputs[:1]  # one sample, where the mean is Σ_y q_y F(y)
    by_label = [fisher_matrix(model, inputs, torch.tensor([y]), "empirical") for y in range(3)]
    probabilities = model(inputs).softmax(1)[0].detach()
    expected = sum(q * fisher for q, fisher in zip(probabilities, by_label, strict=True))
    assert relative_error(fisher_matrix(model, inputs), expected) < ROUNDING


def test_sampled_fisher_matrix_is_within_its_standard_error_of_the_expected_one():
    """An entry is a mean over samples of products s_i s_j, whose variance over labels the three
    scores tell.
    """
    model, inputs, _ = mlp()
    repeats = 200
    expected = fisher_matrix(model, inputs)
    variance = torch.zeros_like(expected)
    for x in inputs:
        given = [fisher_matrix(model, x[None], torch.tensor([y]), "empirical") for y in range(3)]
        products, q = torch.stack(given), model(x[None]).softmax(1)[0].detach()
        variance += (
            torch.einsum("y,yij->ij", q, products**2) - torch.einsum("y,yij->ij", q, products) ** 2
        )
    standard_error = (variance / repeats).sqrt() / len(inputs)
    many = inputs.repeat(repeats, 1)
    sampled = fisher_matrix(model, many, kind="sampled", generator=torch.Generator().manual_seed(0))
    z = (sampled - expected) / standard_error
    # 496 entries: a normal one exceeds 4.5 with probability 7e-6, any of them with 0.3 %.
    assert z.abs().max() < 4.5


def test_sampled_labels_are_the_generators():
    model, inputs, _ = mlp()

    def draw(seed):
        return fisher_matrix(model, inputs, None, "sampled", torch.Generator().manual_seed(seed))

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


@pytest.mark.parametrize("kind", ["expected", "sampled", "empirical"])
@pytest.mark.parametrize("chunk_size", [7, 60, 1000])
def test_chunks_change_nothing(kind, chunk_size):
    model, inputs, labels = mlp()
    whole, chunked = (
        fisher_matrix(
            model, inputs, labels, kind, torch.Generator().manual_seed(0), chunk_size=size
        )
        for size in (None, chunk_size)
    )
    assert relative_error(chunked, whole) < ROUNDING


def test_more_scores_than_one_chunk_holds_change_nothing(monkeypatch):
    model, inputs, _ = mlp()
    whole = fisher_matrix(model, inputs)
    monkeypatch.setattr(exact_ngd, "CHUNK_BYTES", 5000)  # 31 weights, 3 classes, 8 bytes: 6 samples
    assert relative_error(fisher_matrix(model, inputs), whole) < ROUNDING


def test_fisher_matrix_of_two_halves_is_their_mean():
    model, inputs, _ = mlp()
    halves = [fisher_matrix(model, half) for half in inputs.chunk(2)]
    assert relative_error(fisher_matrix(model, inputs), sum(halves) / 2) < ROUNDING


@pytest.mark.parametrize("batch_size", [60, 20])
def test_agrees_with_curvlinops(batch_size):
    """Their operators of a mean-reduced loss are means over all samples too."""
    model, inputs, labels = mlp()
    data = list(zip(inputs.split(batch_size), labels.split(batch_size), strict=True))
    params = list(model.parameters())
    for operator_class, kind in ((GGNLinearOperator, "expected"), (EFLinearOperator, "empirical")):
        operator = operator_class(
            model, nn.CrossEntropyLoss(), params, data, check_deterministic=False
        )
        dense = operator @ torch.eye(31, dtype=torch.float64)
        assert relative_error(fisher_matrix(model, inputs, labels, kind), dense) < ROUNDING


def test_frozen_parameters_are_left_out_and_the_others_keep_their_order():
    model, inputs, _ = mlp()
    whole = fisher_matrix(model, inputs)
    model[0].bias.requires_grad_(False)
    kept = torch.cat([torch.arange(12), torch.arange(16, 31)])
    assert relative_error(fisher_matrix(model, inputs), whole[kept][:, kept]) < ROUNDING
    assert list(split_by_parameter(model, torch.zeros(27))) == ["0.weight", "2.weight", "2.bias"]


def test_convolutions_pooling_and_evaluated_batch_norm_and_dropout_have_scores_of_their_own():
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(1, 3, 3),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(),
        nn.Flatten(),
    )
    model = nn.Sequential(*layers, nn.Linear(27, 4)).double()
    images, labels = torch.randn(8, 1, 8, 8, dtype=torch.float64), torch.randint(4, (8,))
    model(images)  # running statistics other than 0 and 1
    model.eval()
    gradients = [gradient_of(model, images[i : i + 1], labels[i : i + 1]) for i in range(8)]
    expected = sum(torch.outer(g, g) for g in gradients) / 8
    assert relative_error(fisher_matrix(model, images, labels, "empirical"), expected) < ROUNDING


def test_float32_is_as_good_as_float32_is():
    model, inputs, _ = mlp(torch.float32)
    expected = fisher_matrix(copy.deepcopy(model).double(), inputs.double())
    assert fisher_matrix(model, inputs).dtype == torch.float32
    # 6e-8, some hundred terms
    assert relative_error(fisher_matrix(model, inputs).double(), expected) < 1e-5


def test_model_weights_gradients_and_mode_stay_as_they_are():
    model, inputs, _ = mlp()
    before = flat_weights(model)
    fisher = fisher_matrix(model, inputs)
    assert torch.equal(flat_weights(model), before)
    assert all(param.grad is None for param in model.parameters())
    assert model.training
    assert not fisher.requires_grad


# --------------------------------------------------------------------------------- natural gradient


@pytest.mark.parametrize("kappa", [1e-3, 0.1, 10.0])
def test_natural_gradient_solves_the_smoothed_system(kappa):
    model, inputs, labels = mlp()
    fisher, gradient = fisher_matrix(model, inputs), gradient_of(model, inputs, labels)
    expected = np.linalg.solve(fisher.numpy() + kappa * np.eye(31), gradient.numpy())
    # Cholesky's and LU's errors are some ε times the condition number, at most λ_max/κ + 1.
    tolerance = 100 * 2.2e-16 * (float(fisher.trace()) / kappa + 1)
    assert (
        relative_error(natural_gradient(gradient, fisher, kappa), torch.from_numpy(expected))
        < tolerance
    )


def test_fisher_matrix_is_left_as_it_is_and_the_type_is_the_gradients():
    fisher, gradient = torch.eye(3), torch.ones(3)
    assert natural_gradient(gradient, fisher, torch.tensor(1.0)).dtype == torch.float32
    assert torch.equal(fisher, torch.eye(3))


def test_smoothing_is_alpha_times_the_mean_eigenvalue():
    model, inputs, _ = mlp()
    fisher = fisher_matrix(model, inputs)
    assert float(smoothing(fisher, 0.3)) == pytest.approx(
        0.3 * float(torch.linalg.eigvalsh(fisher).mean()), rel=1e-12
    )


def test_natural_gradient_of_softmax_regression_is_the_newton_step_as_kappa_vanishes():
    model, inputs, labels = softmax_regression()
    fisher, gradient = fisher_matrix(model, inputs), gradient_of(model, inputs, labels)
    least = smallest_positive_eigenvalue(fisher)
    curvature = hessian(lambda flat: F.cross_entropy(outputs_of(model, inputs)(flat), labels))(
        flat_weights(model)
    )
    newton = torch.linalg.pinv(curvature, rtol=1e-12, hermitian=True) @ gradient
    for kappa in (1e-2 * least, 1e-4 * least, 1e-6 * least):
        # Eigen-direction by eigen-direction 1/(λ + κ) is within κ/λ of 1/λ; rounding of g off F's
        # range grows by 1/κ.
        rounding = 100 * 2.2e-16 / kappa * float(gradient.norm() / newton.norm())
        assert (
            relative_error(natural_gradient(gradient, fisher, kappa), newton)
            < kappa / least + rounding
        )


def test_whole_steps_on_softmax_regression_converge_as_newtons_do():
    """Quadratically: the gradient's norm goes as its own square, up to a constant that the loss
    has.
    """
    model, inputs, labels = softmax_regression()
    optimizer, norms = ExactNGD(model, lr=1.0, alpha=1e-10), []
    for _ in range(7):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.observe(inputs)
        optimizer.step()
        norms.append(
            float(torch.cat([param.grad.flatten() for param in model.parameters()]).norm())
        )
    assert norms[-1] < 1e-8 * norms[0]
    constants = [after / before**2 for before, after in pairwise(norms[:5])]
    assert max(constants) < 100  # at a linear rate r it were r/‖g‖, thousands by then


def test_natural_gradient_changes_predictions_alike_in_any_linear_parametrisation_of_the_inputs():
    """For inputs A x and first weights W A⁻¹ the model is the same function; plain gradients are
    not the same step.

    δ log p = (I − 1 qᵀ)J d has the mean square dᵀF d over samples and labels. Off the limit κ → 0,
    d is away from it by a fraction of at most κ/λ in this norm, with λ the smallest positive
    eigenvalue of F.
    """
    model, inputs, labels = mlp()
    transform = torch.randn(
        3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5)
    ) + 2 * torch.eye(3)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[0].weight.copy_(model[0].weight @ torch.linalg.inv(transform))
    transformed = inputs @ transform.T
    assert relative_error(other(transformed), model(inputs)) < ROUNDING

    changes, plain, errors = [], [], 0.0
    for same, x in ((model, inputs), (other, transformed)):
        fisher, gradient = fisher_matrix(same, x), gradient_of(same, x, labels)
        kappa = 1e-11 * float(fisher.trace())
        # The second term is what rounding leaves of the gradient off F's range, where it grows by
        # 1/κ.
        errors += (
            kappa / smallest_positive_eigenvalue(fisher)
            + 100 * 2.2e-16 * float(fisher.trace()) / kappa
        )
        jacobian = jacrev(outputs_of(same, x))(flat_weights(same))
        centred = jacobian - torch.einsum("nc,ncp->np", same(x).softmax(1), jacobian)[:, None]
        weighted = same(x).softmax(1).sqrt()[:, :, None] * centred
        changes.append((weighted @ natural_gradient(gradient, fisher, kappa)).detach())
        plain.append((weighted @ gradient).detach())
    assert errors < 0.05
    assert relative_error(*changes) < errors
    assert relative_error(*plain) > 0.2


# ------------------------------------------------------------------------------- splitting, cosines


def test_splitting_undoes_flattening():
    model, _, _ = mlp()
    split = split_by_parameter(model, flat_weights(model))
    assert split.keys() == dict(model.named_parameters()).keys()
    assert all(torch.equal(split[name], param) for name, param in model.named_parameters())


def random_tensors(seed):
    model, _, _ = mlp()
    generator = torch.Generator().manual_seed(seed)
    return split_by_parameter(model, torch.randn(31, generator=generator, dtype=torch.float64))


def test_cosines_are_of_tensors_layers_and_everything():
    a, b = random_tensors(1), random_tensors(2)
    found = cosines(a, b)
    parts = {name: [name] for name in a} | {
        "0": ["0.weight", "0.bias"],
        "2": ["2.weight", "2.bias"],
        "": list(a),
    }
    assert found.keys() == parts.keys()
    for part, names in parts.items():
        x, y = (
            np.concatenate([tensors[name].numpy().ravel() for name in names]) for tensors in (a, b)
        )
        assert float(found[part]) == pytest.approx(x @ y / np.sqrt((x @ x) * (y @ y)), rel=1e-12)


@pytest.mark.parametrize(("factor", "cosine"), [(3.0, 1.0), (1e-100, 1.0), (-0.5, -1.0)])
def test_cosine_sees_direction_not_length(factor, cosine):
    a = random_tensors(1)
    found = cosines(a, {name: factor * tensor for name, tensor in a.items()})
    assert all(float(value) == pytest.approx(cosine, abs=1e-14) for value in found.values())


def test_cosine_with_nothing_is_not_a_number():
    a = random_tensors(1)
    found = cosines(a, a | {"0.bias": torch.zeros(4)})
    assert {part for part, value in found.items() if value.isnan()} == {"0.bias"}


def test_model_that_is_one_layer_has_its_whole_under_the_empty_name():
    a = {"weight": torch.tensor([1.0, 0.0]), "bias": torch.tensor([1.0])}
    b = {"weight": torch.tensor([1.0, 0.0]), "bias": torch.tensor([-1.0])}
    found = {part: float(value) for part, value in cosines(a, b).items()}
    assert found == pytest.approx({"weight": 1.0, "bias": -1.0, "": 0.0})


# ---------------------------------------------------------------------------------- as an optimizer


def test_step_is_the_natural_gradient_of_the_observed_batch():
    model, inputs, labels = mlp()
    fisher, gradient = fisher_matrix(model, inputs), gradient_of(model, inputs, labels)
    expected = flat_weights(model) - 0.3 * natural_gradient(
        gradient, fisher, 0.2 / 31 * fisher.trace()
    )
    optimizer = ExactNGD(model, lr=0.3, alpha=0.2)
    F.cross_entropy(model(inputs), labels).backward()
    optimizer.observe(inputs)
    optimizer.step()
    assert relative_error(flat_weights(model), expected) < ROUNDING


def test_running_fisher_matrix_takes_the_first_whole_and_then_moves_by_eta():
    model, inputs, _ = mlp()
    optimizer = ExactNGD(model, lr=0.1, eta=0.3)
    assert optimizer.fisher is None
    batches = inputs.split(20)
    for batch in batches:
        optimizer.observe(batch)
    first, second, third = (fisher_matrix(model, batch) for batch in batches)
    assert relative_error(optimizer.fisher, 0.49 * first + 0.21 * second + 0.3 * third) < ROUNDING


SGD_SETTINGS = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9, "nesterov": True},
}


@pytest.mark.parametrize("name", SGD_SETTINGS)
def test_large_alpha_with_norms_kept_is_sgd(name):
    """F + κI is κI up to λ_max/κ ≤ p/α, so that a direction is SGD's up to 2p/α; the steps add up
    to some thousand.
    """
    paths = []
    for make in (
        lambda m: torch.optim.SGD(m.parameters(), lr=0.05, **SGD_SETTINGS[name]),
        lambda m: ExactNGD(m, lr=0.05, alpha=1e10, keep_norm=True, **SGD_SETTINGS[name]),
    ):
        model, inputs, labels = mlp()
        paths.append(train_steps(model, make(model), inputs, labels, 20))
    assert max(map(relative_error, *paths)) < 1000 * 2 * 31 / 1e10


def test_large_alpha_without_is_sgds_direction_over_kappa():
    model, inputs, labels = mlp()
    fisher, gradient = fisher_matrix(model, inputs), gradient_of(model, inputs, labels)
    kappa = smoothing(fisher, 1e10)
    assert (
        relative_error(kappa * natural_gradient(gradient, fisher, kappa), gradient) < 2 * 31 / 1e10
    )


def test_kept_norms_are_the_gradients_tensor_by_tensor_along_the_natural_gradient():
    model, inputs, labels = mlp()
    before = flat_weights(model)
    optimizer = ExactNGD(model, lr=1.0, alpha=0.1, keep_norm=True)
    F.cross_entropy(model(inputs), labels).backward()
    optimizer.observe(inputs)
    gradient = {name: param.grad.clone() for name, param in model.named_parameters()}
    natural = natural_gradient(
        gradient_of(model, inputs, labels), optimizer.fisher, smoothing(optimizer.fisher, 0.1)
    )
    optimizer.step()
    steps = split_by_parameter(model, before - flat_weights(model))
    for name, cosine in cosines(steps, split_by_parameter(model, natural)).items():
        if name in steps:
            assert float(cosine) == pytest.approx(1, abs=1e-12)
            assert float(steps[name].norm()) == pytest.approx(
                float(gradient[name].norm()), rel=1e-12
            )


@pytest.mark.parametrize("kind", ["expected", "sampled", "empirical"])
@pytest.mark.parametrize("after", [0, 1, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_training_from_a_loaded_state_takes_the_same_path(kind, after, dtype):
    generator = torch.Generator().manual_seed(0)
    hyper = {
        "momentum": 0.9,
        "nesterov": True,
        "alpha": 0.5,
        "eta": 0.4,
        "kind": kind,
        "keep_norm": True,
    }
    model, inputs, labels = mlp(dtype)
    optimizer = ExactNGD(model, lr=0.05, generator=generator, **hyper)
    train_steps(model, optimizer, inputs, labels, after)
    weights, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    drawn = generator.get_state()
    assert all(
        isinstance(value, torch.Tensor)
        for entries in state["state"].values()
        for value in entries.values()
    )
    train_steps(model, optimizer, inputs, labels, 5)

    resumed, _, _ = mlp(dtype, seed=99)
    resumed.load_state_dict(weights)
    continued = torch.Generator()
    continued.set_state(drawn)
    fresh = ExactNGD(resumed, lr=1.0, generator=continued)
    fresh.load_state_dict(state)
    train_steps(resumed, fresh, inputs, labels, 5)
    assert torch.equal(flat_weights(resumed), flat_weights(model))
    assert torch.equal(fresh.fisher, optimizer.fisher)


def test_training_of_the_studied_architecture_lowers_the_loss():
    torch.manual_seed(0)
    model = FFNN(hidden_nodes=8, hidden_layers=2, in_shape=(1, 4, 4), num_classes=3)
    inputs = torch.randn(200, 1, 4, 4)
    labels = inputs[:, 0, 0, :3].argmax(dim=1)
    train_steps(model, ExactNGD(model, lr=0.2), inputs, labels, 40)
    assert F.cross_entropy(model(inputs), labels) < 0.4  # ln 3 = 1.1 by chance


def test_closure_is_evaluated_with_gradients_and_its_loss_returned():
    model, inputs, labels = mlp()
    optimizer = ExactNGD(model, lr=0.1)
    optimizer.observe(inputs)
    expected = F.cross_entropy(model(inputs), labels)

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), labels)
        loss.backward()
        return loss

    before = flat_weights(model)
    assert torch.equal(optimizer.step(closure), expected)
    assert not torch.equal(flat_weights(model), before)
    optimizer.zero_grad()
    assert optimizer.step() is None


def test_nothing_moves_without_gradients_and_one_that_is_missing_counts_as_zero():
    model, inputs, labels = mlp()
    before = flat_weights(model)
    optimizer = ExactNGD(model, lr=1.0, alpha=0.1)
    optimizer.step()
    assert torch.equal(flat_weights(model), before)
    F.cross_entropy(model(inputs), labels).backward()
    model[0].bias.grad = None
    optimizer.observe(inputs)
    gradient = gradient_of(model, inputs, labels)
    split_by_parameter(model, gradient)["0.bias"].zero_()
    optimizer.step()
    expected = natural_gradient(gradient, optimizer.fisher, smoothing(optimizer.fisher, 0.1))
    assert relative_error(before - flat_weights(model), expected) < ROUNDING


def test_learning_rate_schedulers_drive_it():
    model, inputs, labels = mlp()
    optimizer = ExactNGD(model, lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    F.cross_entropy(model(inputs), labels).backward()
    optimizer.observe(inputs)
    path = [flat_weights(model)]
    for _ in range(3):
        optimizer.step()
        scheduler.step()
        path.append(flat_weights(model))
    lengths = [float((after - before).norm()) for before, after in pairwise(path)]
    assert [lengths[0] / length for length in lengths] == pytest.approx([1, 2, 4], rel=1e-9)


# -------------------------------------------------------------------------------- what is left out


def held(optimizer):
    """A copy of all that a step may change, but the counter."""
    state = copy.deepcopy(optimizer.state_dict()["state"])
    tensors = {(i, key): value for i, one in state.items() for key, value in one.items()}
    tensors.pop((0, "num_skipped"), None)
    params = optimizer.param_groups[0]["params"]
    return tensors | {("weight", i): param.detach().clone() for i, param in enumerate(params)}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


MOMENTUM = {"momentum": 0.9, "nesterov": True}


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("keep_norm", [False, True])
def test_a_gradient_that_is_not_finite_changes_nothing_and_is_counted(steps, bad, keep_norm):
    model, inputs, labels = mlp()
    optimizer = ExactNGD(model, lr=0.1, alpha=0.1, keep_norm=keep_norm, **MOMENTUM)
    train_steps(model, optimizer, inputs, labels, steps)
    optimizer.observe(inputs)
    optimizer.zero_grad()
    F.cross_entropy(model(inputs), labels).backward()
    model[2].bias.grad[1] = bad
    before = held(optimizer)
    optimizer.step()
    assert same(held(optimizer), before)
    assert optimizer.num_skipped_updates == 4  # tensors
    resumed = ExactNGD(model, lr=0.1, **MOMENTUM)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert resumed.num_skipped_updates == 4
    (path, *_) = train_steps(model, optimizer, inputs, labels, 1)
    assert path.isfinite().all()


def test_a_direction_that_is_not_finite_changes_nothing_and_is_counted():
    """A gradient of 1e30 over κ of some 1e-12 is above float32's range."""
    model, inputs, _ = mlp(torch.float32)
    optimizer = ExactNGD(model, lr=0.1, alpha=0.1)
    certain(model, 25.0)  # nearly
    optimizer.observe(inputs)
    assert 0 < smoothing(optimizer.fisher, 0.1) < 1e-9
    for param in model.parameters():
        param.grad = torch.full_like(param, 1e30)
    before = held(optimizer)
    optimizer.step()
    assert same(held(optimizer), before)
    assert optimizer.num_skipped_updates == 4


def certain(model, size=1e6):
    """Gives the model predictions that are certain: F = 0."""
    with torch.no_grad():
        model[2].weight.zero_()
        model[2].bias.copy_(torch.tensor([size, 0.0, 0.0]))


def test_where_all_predictions_are_certain_nothing_moves_and_it_is_counted():
    model, inputs, labels = mlp()
    optimizer = ExactNGD(model, lr=0.1, alpha=0.1, **MOMENTUM)
    certain(model)
    F.cross_entropy(model(inputs), labels).backward()
    optimizer.observe(inputs)
    assert not optimizer.fisher.any()
    before = held(optimizer)
    optimizer.step()
    assert same(held(optimizer), before)
    assert optimizer.num_skipped_updates == 4


def test_a_matrix_that_is_not_finite_is_not_taken():
    model, inputs, _ = mlp(torch.float32)
    optimizer = ExactNGD(model, lr=0.1, eta=0.5)
    assert optimizer.observe(inputs)
    before = optimizer.fisher.clone()
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.zero_()
        model[2].weight.fill_(1e25)  # scores of the first layer's, whose squares are above range
        model[2].weight[0].neg_()
    assert not optimizer.observe(inputs)
    assert torch.equal(optimizer.fisher, before)
    assert not ExactNGD(model, lr=0.1).observe(inputs)


def spoiled(case, model, inputs):
    """Inputs on which a step cannot be taken, for a model that is changed where that is needed."""
    if case == "certain":
        certain(model)
    elif case == "loss":
        inputs = inputs.clone()
        inputs[7, 1] = math.nan
    elif case == "logit":  # of −∞ for a class that no label has: the loss is finite
        with torch.no_grad():
            model[2].bias[2] = -math.inf
    else:  # scores above float32's range, as above
        with torch.no_grad():
            model[2].weight.fill_(1e25)
            model[2].weight[0].neg_()
            model[0].weight.zero_()
            model[0].bias.zero_()
    return inputs


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("case", ["loss", "logit", "certain", "matrix"])
def test_a_stepper_skips_and_counts_where_there_is_no_step(case, steps):
    model, inputs, labels = mlp(torch.float32)
    labels = labels % 2
    optimizer = ExactNGD(model, lr=0.05, alpha=0.1, **MOMENTUM)
    stepper = ExactStepper(model, F.cross_entropy, optimizer, 20)
    for _ in range(steps):
        stepper.step(inputs, labels)
    assert stepper.counts() == {"num_skipped_updates": 0, "num_restarts": 0}
    given = spoiled(case, model, inputs)
    before = held(optimizer)
    loss = stepper.step(given, labels)["loss"]
    assert bool(loss.isfinite()) == (case != "loss")
    after = held(optimizer)
    if case == "certain":  # its matrix is zero, and was seen
        before.pop((0, "fisher"), None)
        assert not after.pop((0, "fisher")).any()
    assert same(after, before)
    assert stepper.counts() == {"num_skipped_updates": 4, "num_restarts": 0}
    state = {name: tensor.clone() for name, tensor in stepper.state_dict().items()}
    again = ExactStepper(model, F.cross_entropy, ExactNGD(model, lr=0.05), 20)
    again.load_state_dict(state)
    assert again.counts()["num_skipped_updates"] == 4


# ----------------------------------------------------------------------------------------- refusals


def assert_refused(match, *arguments, model=None, **keywords):
    """`fisher_matrix` refuses these, with a message that matches."""
    with pytest.raises(ValueError, match=match):
        fisher_matrix(model or nn.Linear(2, 3), *(arguments or (torch.ones(4, 2),)), **keywords)


def test_unknown_kind_is_refused():
    assert_refused(r"kind = 'true', allowed: expected or sampled or empirical", kind="true")


@pytest.mark.parametrize("chunk_size", [0, -1])
def test_chunk_size_out_of_range_is_refused(chunk_size):
    assert_refused(
        rf"chunk_size = {chunk_size}, allowed: None or an integer ≥ 1", chunk_size=chunk_size
    )


def test_no_samples_are_refused():
    assert_refused(r"inputs are empty; allowed: at least one sample", torch.ones(0, 2))


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        (None, r'"empirical" needs labels'),
        (torch.tensor([0, 1, 2, 3]), r"labels span 0 to 3; allowed: 0 to 2"),
        (torch.tensor([0, -1, 2, 1]), r"labels span -1 to 2; allowed: 0 to 2"),
        (torch.tensor([0, 1]), r"shape \(2,\); allowed: integers of shape \(4,\)"),
        (torch.zeros(4), r"torch.float32 of shape \(4,\); allowed: integers"),
        (torch.zeros(4, 3, dtype=torch.int64), r"shape \(4, 3\); allowed: integers"),
    ],
)
def test_unfit_labels_are_refused(labels, match):
    assert_refused(match, torch.ones(4, 2), labels, kind="empirical")


def test_model_without_trainable_weights_is_refused():
    frozen = nn.Linear(2, 3).requires_grad_(False)
    assert_refused(r"no weights that require a gradient", model=frozen)
    with pytest.raises(ValueError, match="no weights that require a gradient"):
        ExactNGD(frozen, lr=0.1)


def test_model_with_too_many_weights_is_refused_with_the_memory_it_would_take():
    large = nn.Linear(99, 202)  # 20,200 weights: 20,200² · 8 bytes
    match = (
        r"20,200 trainable weights, allowed: at most 20,000; .* 3\.3 GB in float64; take a smaller"
        r" model"
    )
    assert_refused(match, torch.ones(4, 99), model=large)
    with pytest.raises(ValueError, match=match):
        ExactNGD(large, lr=0.1)
    assert MAX_WEIGHTS == 20_000


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_weights_other_than_float32_and_float64_are_refused(dtype):
    assert_refused(
        rf"weights are {dtype} on cpu; allowed: all torch.float32 or all torch.float64",
        model=nn.Linear(2, 3).to(dtype),
    )


def test_weights_of_several_types_are_refused():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3).double())
    assert_refused(
        r"weights are torch.float32 on cpu, torch.float64 on cpu; allowed: all", model=model
    )


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(3), nn.Dropout(0.1)], ids=str)
def test_dropout_and_batch_norm_are_refused_in_training_mode_and_not_in_evaluation(layer):
    model = nn.Sequential(nn.Linear(2, 3), layer).train()
    assert_refused(
        rf"the model's 1 is a {type(layer).__name__} whose output is random .* call its eval\(\)",
        model=model,
    )
    assert fisher_matrix(model.eval(), torch.ones(4, 2)).isfinite().all()


def test_batch_norm_without_running_statistics_is_refused_in_either_mode():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3, track_running_stats=False))
    assert_refused("BatchNorm1d whose output .* depends on other samples", model=model)
    assert_refused("BatchNorm1d whose output .* depends on other samples", model=model.eval())


def test_dropout_of_nothing_is_no_dropout():
    plain = nn.Linear(2, 3)
    inputs = torch.randn(4, 2)
    assert torch.equal(
        fisher_matrix(nn.Sequential(plain, nn.Dropout(0.0)), inputs), fisher_matrix(plain, inputs)
    )


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Linear(2, 1), r"\(4, 1\)"),
        (nn.Sequential(nn.Linear(2, 3), nn.Unflatten(1, (3, 1))), r"\(4, 3, 1\)"),
    ],
)
def test_outputs_that_are_not_logits_of_classes_are_refused(model, shape):
    assert_refused(
        rf"outputs have shape {shape}; allowed: \(4, classes\), logits of ≥ 2 classes", model=model
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_refused(bad):
    assert_refused("logits are not all finite", torch.full((4, 2), bad))


@pytest.mark.parametrize("kappa", [0.0, -1.0, math.nan, math.inf])
def test_kappa_out_of_range_is_refused(kappa):
    with pytest.raises(ValueError, match=rf"kappa = {kappa}, allowed: > 0 and finite"):
        natural_gradient(torch.ones(2), torch.eye(2), kappa)


@pytest.mark.parametrize("fisher", [-torch.eye(2), torch.full((2, 2), math.nan)])
def test_matrix_that_is_not_positive_definite_is_refused(fisher):
    with pytest.raises(
        ValueError, match=r"not positive definite at κ = 0.5: .* larger κ, or a model in float64"
    ):
        natural_gradient(torch.ones(2), fisher, 0.5)


@pytest.mark.parametrize(
    ("gradient", "fisher"), [((3,), (2, 2)), ((2, 1), (2, 2)), ((2,), (2,)), ((2,), (2, 3))]
)
def test_shapes_that_do_not_fit_are_refused(gradient, fisher):
    with pytest.raises(ValueError, match=r"shapes \(.*allowed: \(p,\) and \(p, p\)"):
        natural_gradient(torch.ones(gradient), torch.ones(fisher), 1.0)


@pytest.mark.parametrize("other", [{"a": torch.ones(3)}, {"b": torch.ones(2)}, {}], ids=str)
def test_cosines_of_different_names_or_shapes_are_refused(other):
    with pytest.raises(ValueError, match="allowed: the same names with the same shapes"):
        cosines({"a": torch.ones(2)}, other)


OUT_OF_RANGE = {
    "lr": [0, -0.1, math.inf, math.nan],
    "momentum": [-0.1, 1, math.nan],
    "nesterov": [True],  # without momentum
    "alpha": [0, -4, math.inf, math.nan],
    "eta": [0, -0.1, 1.1, math.nan],
    "kind": ["true", None],
}
ALLOWED = {
    "lr": "> 0 and finite",
    "momentum": "in [0, 1)",
    "nesterov": "momentum > 0",
    "alpha": "> 0 and finite",
    "eta": "in (0, 1]",
    "kind": "expected or sampled or empirical",
}


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in OUT_OF_RANGE.items() for value in values]
)
def test_hyperparameter_out_of_range_is_refused_by_name_with_what_is_allowed(key, value):
    with pytest.raises(ValueError, match="ExactNGD") as refusal:
        ExactNGD(nn.Linear(2, 3), **{"lr": 0.1, key: value})
    assert f"{key} = {value!r}, allowed: " in str(refusal.value)
    assert ALLOWED[key] in str(refusal.value)


def test_every_problem_is_named_at_once():
    with pytest.raises(ValueError, match=r"(?s)lr = -1.*alpha = 0"):
        ExactNGD(nn.Linear(2, 3), lr=-1, alpha=0)


def test_second_group_is_refused():
    with pytest.raises(ValueError, match="no second group"):
        ExactNGD(nn.Linear(2, 3), lr=0.1).add_param_group(
            {"params": [nn.Parameter(torch.zeros(2))]}
        )


def test_step_before_any_observation_is_refused():
    model, inputs, labels = mlp()
    optimizer = ExactNGD(model, lr=0.1)
    F.cross_entropy(model(inputs), labels).backward()
    with pytest.raises(RuntimeError, match=r"call observe\(inputs, labels\) before step"):
        optimizer.step()


def test_examples_in_the_docstrings_run():
    result = doctest.testmod(exact_ngd)
    assert result.attempted > 0
    assert result.failed == 0
