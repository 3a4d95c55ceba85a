"""Does NGD do what its mathematics says, step for step, and survive what training throws at it?"""

import copy
import doctest
import math
import pickle
from itertools import count, islice

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from ngd_oracle import PlainNaturalGradient, dense_direction, dense_fisher
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

import ngd
from degeneracy.models.networks import FFNN, LeNet5
from ngd import NGD

BOTH_ARITHMETICS = pytest.mark.parametrize("arithmetic", ["stable", "published"])
NEEDS_CUDA = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no CUDA device in this machine"
)
# the primary experiment, α apart
SWAP = {"lr": 0.01, "momentum": 0.9, "nesterov": True, "eta": 0.9}


# ------------------------------------------------------------------------------------------ helpers


def random_gradients(shape, steps, seed=0, scale=1.0, dtype=torch.float64):
    """Gradients whose directions in weight space differ in size, with a part that persists from
    step to step.
    """
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(shape, generator=generator, dtype=torch.float64)  # noqa: E731
    mean, sizes = draw(), torch.rand(shape, generator=generator, dtype=torch.float64) + 0.2
    return [(scale * sizes * (mean + draw())).to(dtype) for _ in range(steps)]


def directions(gradients, device="cpu", optimizer=None, **hyper):
    """Direction of each step of one tensor: with lr = 1 and the weight set to zero it is minus the
    weight then.
    """
    (weight,) = (
        optimizer.param_groups[0]["params"]
        if optimizer
        else [torch.zeros_like(gradients[0], device=device)]
    )
    optimizer = optimizer or NGD([weight], lr=1.0, **hyper)
    found = []
    for gradient in gradients:
        weight.detach().zero_()
        weight.grad = gradient.to(weight)
        optimizer.step()
        found.append(-weight.detach().cpu())
    return found


def factor_of(optimizer, param, axis):
    """(R, d, ρ) of an axis in gradient², as NumPy float64, from the documented state entries."""
    state = optimizer.state[param]
    names = ("basis", "eigenvalues", "floor", "unit")
    basis, eigenvalues, floor, unit = (
        state[f"{name}_{axis}"].double().cpu().numpy() for name in names
    )
    return basis.copy(), unit**2 * eigenvalues, unit**2 * floor


def relative_error(found, expected):
    found, expected = torch.as_tensor(found).double(), torch.as_tensor(expected).double()
    return float((found - expected).norm() / expected.norm())


def train_steps(model, optimizer, inputs, targets, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()


def small_problem(dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(12, 9), torch.nn.ReLU(), torch.nn.Linear(9, 4)).to(
        dtype
    )
    return model, torch.randn(32, 12, dtype=dtype), torch.randint(4, (32,))


def mnist_steps(mnist, make_optimizer, steps, device="cpu", model=None):
    """Trains on MNIST in minibatches of 128; yields (model, optimizer) before each step."""
    torch.manual_seed(1)
    model = (model or FFNN()).to(device)
    optimizer = make_optimizer(model.parameters())
    inputs, labels = mnist.train
    generator = torch.Generator().manual_seed(0)
    epochs = (torch.randperm(len(inputs), generator=generator) for _ in count())
    batches = (batch for order in epochs for batch in order.split(128))
    for batch in islice(batches, steps):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs[batch].to(device)), labels[batch].to(device)).backward()
        yield model, optimizer
        optimizer.step()


# -------------------------------------------------------------------------- against torch.optim.SGD

SGD_SETTINGS = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "weight decay": {"weight_decay": 0.05},
    "dampening": {"momentum": 0.9, "dampening": 0.3},
    "all but nesterov": {"momentum": 0.8, "dampening": 0.5, "weight_decay": 0.01},
    "nesterov and decay": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
}


def worst_distance_from_sgd(alpha, hyper, **ngd_only):
    paths = []
    for optimizer_class, more in ((torch.optim.SGD, {}), (NGD, {"alpha": alpha, **ngd_only})):
        model, inputs, targets = small_problem()
        train_steps(
            model,
            optimizer_class(model.parameters(), lr=0.05, **hyper, **more),
            inputs,
            targets,
            50,
        )
        paths.append(torch.nn.utils.parameters_to_vector(model.parameters()).detach())
    return float((paths[0] - paths[1]).abs().max())


@BOTH_ARITHMETICS
@pytest.mark.parametrize("name", SGD_SETTINGS)
def test_large_alpha_is_sgd(name, arithmetic):
    assert worst_distance_from_sgd(1e8, SGD_SETTINGS[name], arithmetic=arithmetic) < 1e-5


def test_infinite_alpha_is_sgd():
    assert worst_distance_from_sgd(math.inf, {"momentum": 0.9}) < 1e-5


def test_moderate_alpha_is_not_sgd():
    assert worst_distance_from_sgd(0.1, {}) > 1e-2


def test_direction_approaches_the_gradient_as_one_over_alpha():
    """X̂ − X is at most max d/β ≤ D/α of X before rescaling, and at most twice that after."""
    gradients = random_gradients((6, 8), 12)
    for alpha in (1e2, 1e4, 1e6):
        for direction, gradient in zip(directions(gradients, alpha=alpha), gradients, strict=True):
            assert relative_error(direction, gradient) < 2 * (6 + 8 * 1.01) / alpha


# --------------------------------------------------------------------- against dense linear algebra


@BOTH_ARITHMETICS
@pytest.mark.parametrize("alpha", [1e-3, 0.1, 4.0, 100.0])
def test_direction_is_the_dense_inverse_of_the_factor_before_the_step(alpha, arithmetic):
    gradients = random_gradients((7, 11), 15)
    weight = torch.zeros(7, 11, dtype=torch.float64)
    optimizer = NGD([weight], lr=1.0, alpha=alpha, arithmetic=arithmetic, update_period=3)
    directions(gradients[:1], optimizer=optimizer)
    for gradient in gradients[1:]:
        factors = [factor_of(optimizer, weight, axis) for axis in (0, 1)]
        (direction,) = directions([gradient], optimizer=optimizer)
        after_axis_0 = dense_direction(gradient.numpy().T, factors[0], alpha).T
        # The inverse's error is about u·cond(G) ≤ 2e-16·D/α.
        assert relative_error(
            direction, dense_direction(after_axis_0, factors[1], alpha)
        ) < 1e-12 * max(1, 1 / alpha)


@pytest.mark.parametrize(
    ("arithmetic", "tolerance"),
    # Errors per step, in units of u = 1.1e-16: stable u·cond(Y), published u·cond(Y)², where the
    # floors hold cond(Y) ≤ 1/((1 − η)·δ) = 2e3 at the settings below. Times 30 steps and some 10
    # for dimensions.
    [("stable", 1e-10), ("published", 2e-7)],
)
@pytest.mark.parametrize(
    "shape", [(2,), (13,), (6, 9), (1, 7), (20, 4), (4, 3, 2, 2), (5, 1, 3, 3)], ids=str
)
@pytest.mark.parametrize("update_period", [1, 4])
def test_path_of_the_plain_transcription(shape, arithmetic, tolerance, update_period):
    hyper = {"alpha": 0.5, "eta": 0.5, "epsilon": 1e-2, "delta": 1e-3, "arithmetic": arithmetic}
    gradients = random_gradients(shape, 30)
    plain = PlainNaturalGradient(update_period=update_period, **hyper)
    expected = [plain.direction(gradient.numpy()) for gradient in gradients]
    found = directions(gradients, update_period=update_period, **hyper)
    assert max(map(relative_error, found, expected)) < tolerance


@BOTH_ARITHMETICS
def test_path_of_the_plain_transcription_at_the_defaults(arithmetic):
    gradients = random_gradients((12, 10), 30)
    plain = PlainNaturalGradient(arithmetic=arithmetic)
    expected = [plain.direction(gradient.numpy()) for gradient in gradients]
    assert max(map(relative_error, directions(gradients, arithmetic=arithmetic), expected)) < 1e-6


@BOTH_ARITHMETICS
def test_given_rank_on_the_path_of_the_plain_transcription(arithmetic):
    hyper = {"rank": 3, "epsilon": 1e-2, "arithmetic": arithmetic}
    gradients = random_gradients((3, 9), 20)
    plain = PlainNaturalGradient(**hyper)
    expected = [plain.direction(gradient.numpy()) for gradient in gradients]
    assert max(map(relative_error, directions(gradients, **hyper), expected)) < 2e-7
    assert {axis: factor[0].shape for axis, factor in plain.axes.items()} == {0: (2, 3), 1: (3, 9)}


@BOTH_ARITHMETICS
def test_one_gradient_fed_400_times_gives_its_own_spectrum(arithmetic):
    """F's R largest eigenvalues d + ρ and their subspace become those of XᵀX/N; ρ the mean of the
    remaining ones.
    """
    dim, rank, num_rows = 12, 6, 40
    generator = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(num_rows, dim, generator=generator, dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64)).Q
    spectrum = torch.cat(
        [torch.linspace(3.0, 1.0, rank), torch.linspace(0.2, 0.05, dim - rank)]
    ).double()
    x = left * (num_rows * spectrum).sqrt() @ right.T  # XᵀX/N = right diag(spectrum) rightᵀ

    weight = torch.zeros(dim, num_rows, dtype=torch.float64)  # its axis 0 sees X
    hyper = {
        "eta": 0.9,
        "epsilon": 0.0,
        "delta": 0.0,
        "rank": rank,
        "update_period": 1,
        "arithmetic": arithmetic,
    }
    optimizer = NGD([weight], lr=1.0, **hyper)
    directions([x.T] * 400, optimizer=optimizer)
    basis, eigenvalues, floor = factor_of(optimizer, weight, axis=0)

    assert np.sort(eigenvalues + floor)[::-1] == pytest.approx(spectrum[:rank].numpy(), abs=1e-6)
    assert floor == pytest.approx(spectrum[rank:].mean().item(), abs=1e-6)
    top = right[:, :rank].numpy()
    assert np.abs(basis.T @ basis - top @ top.T).max() < 1e-6


@BOTH_ARITHMETICS
def test_trace_of_the_factor_is_that_of_the_running_mean(arithmetic):
    """tr F_{t+1} = tr T = η tr(XᵀX/N) + (1 − η) tr F_t where no floor is reached, and only floors
    add to it.
    """
    gradients = random_gradients((5, 30), 40)
    weight = torch.zeros(5, 30, dtype=torch.float64)
    hyper = {
        "eta": 0.3,
        "epsilon": 0.0,
        "delta": 0.0,
        "rank": 2,
        "update_period": 1,
        "arithmetic": arithmetic,
    }
    optimizer = NGD([weight], lr=1.0, **hyper)
    unfloored, trace = 0, None
    for gradient in gradients:
        before = trace
        directions([gradient], optimizer=optimizer)
        factor = factor_of(optimizer, weight, axis=0)
        trace = np.trace(dense_fisher(factor))
        if before is not None:
            trace_of_t = 0.3 * float(gradient.square().sum()) / 30 + 0.7 * before
            if factor[1].min() > 0:
                unfloored += 1
                assert trace == pytest.approx(trace_of_t, rel=1e-9)
            else:
                assert trace > trace_of_t
    assert unfloored > 20


@pytest.mark.parametrize("dim", [2, 3, 4, 5, 10, 159, 160, 161, 200])
def test_rank_of_the_factor(dim):
    weight = torch.zeros(dim)
    optimizer = NGD([weight], lr=1.0)
    directions(random_gradients((dim,), 1, dtype=torch.float32), optimizer=optimizer)
    basis, eigenvalues, floor = factor_of(optimizer, weight, axis=0)
    rank = min((dim + 1) // 2, 80)
    assert (basis.shape, eigenvalues.shape, floor.shape) == ((rank, dim), (rank,), ())


@pytest.mark.parametrize("update_period", [1, 3, 4, 100])
def test_factor_is_updated_in_the_first_ten_steps_and_then_every_period(update_period):
    weight = torch.zeros(4, 5, dtype=torch.float64)
    optimizer = NGD([weight], lr=1.0, update_period=update_period)
    updated = []
    for step, gradient in enumerate(random_gradients((4, 5), 26)):
        before = {axis: factor_of(optimizer, weight, axis) for axis in (0, 1)} if step else {}
        directions([gradient], optimizer=optimizer)
        if before:
            changed = {
                not np.array_equal(before[axis][0], factor_of(optimizer, weight, axis)[0])
                for axis in (0, 1)
            }
            assert len(changed) == 1  # the axes keep step
            updated += [step] * changed.pop()
    assert updated == [t for t in range(1, 26) if t < 10 or t % update_period == 0]


# ----------------------------------------------------------------------------------- what must hold


@BOTH_ARITHMETICS
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-13)], ids=str
)
def test_norm_of_each_tensor_is_kept(dtype, tolerance, arithmetic):
    shapes = [(), (9,), (6, 8), (3, 2, 5, 5), (1, 4)]
    weights = [torch.zeros(shape, dtype=dtype) for shape in shapes]
    optimizer = NGD(weights, lr=1.0, alpha=0.1, eta=0.9, arithmetic=arithmetic)
    for step in range(30):
        for weight in weights:
            weight.zero_()
            weight.grad = torch.randn(
                weight.shape, generator=torch.Generator().manual_seed(step), dtype=dtype
            )
        optimizer.step()
        for weight in weights:
            assert float(weight.norm()) == pytest.approx(float(weight.grad.norm()), rel=tolerance)


def scaled_by(c, shape, arithmetic, epsilon):
    gradients = random_gradients(shape, 16)
    hyper = {"alpha": 0.1, "eta": 0.9, "arithmetic": arithmetic}
    plain = directions(gradients, epsilon=epsilon, **hyper)
    scaled = directions([c * gradient for gradient in gradients], epsilon=c * c * epsilon, **hyper)
    return max(
        relative_error(found / c, expected) for found, expected in zip(scaled, plain, strict=True)
    )


# Rounding, times the conditions of ten updates' Y: u·cond(Y) (stable), u·cond(Y)² (published).
SCALING_ERROR = {"stable": 1e-8, "published": 1e-7}
SCALES = st.floats(-4, 4).map(lambda exponent: 10.0**exponent) | st.sampled_from(
    [-1.0, -3.0, 7.0, 1e6, 1e-6]
)


@BOTH_ARITHMETICS
@given(c=SCALES)
@settings(max_examples=20, deadline=None, derandomize=True)
def test_scaled_gradients_give_scaled_directions_without_floor(c, arithmetic):
    assert scaled_by(c, (8, 6), arithmetic, epsilon=0.0) < SCALING_ERROR[arithmetic]


@pytest.mark.parametrize("shape", [(9,), (2, 16), (10, 1)], ids=str)
@given(c=SCALES)
@settings(max_examples=20, deadline=None, derandomize=True)
def test_scaled_gradients_with_fewer_rows_than_the_rank_give_scaled_directions_without_floor(
    c, shape
):
    """A bias is one row: without ε the first T has rank one, and nothing but the start determines
    R's other rows.
    """
    assert scaled_by(c, shape, "stable", epsilon=0.0) < 1e-8


@BOTH_ARITHMETICS
@pytest.mark.parametrize("shape", [(8, 6), (9,), (2, 16)], ids=str)
@given(c=SCALES)
@settings(max_examples=10, deadline=None, derandomize=True)
def test_scaled_gradients_give_scaled_directions_when_the_floor_scales_along(c, shape, arithmetic):
    assert scaled_by(c, shape, arithmetic, epsilon=1e-3) < SCALING_ERROR[arithmetic]


def test_absolute_floor_matters_when_gradients_are_small():
    """ε is in units of gradient²: it outweighs gradients far below √ε."""
    gradients = random_gradients((6, 8), 5, scale=1e-8)
    small, large = (directions(gradients, epsilon=epsilon, alpha=0.1) for epsilon in (1e-20, 1e-10))
    assert relative_error(small[-1], large[-1]) > 0.05


# ----------------------------------------------------------------------------------- real gradients


@pytest.mark.parametrize("num_steps", [500, pytest.param(5000, marks=pytest.mark.slow)])
def test_rows_of_the_basis_stay_orthonormal_in_float32_over_many_real_steps(mnist, num_steps):
    worst = 0.0
    steps = mnist_steps(mnist, lambda params: NGD(params, alpha=0.1, **SWAP), num_steps)
    for step, (model, optimizer) in enumerate(steps):
        if step and (step % (num_steps // 25) == 0 or step == num_steps - 1):
            for param in model.parameters():
                for axis in optimizer.kappa(param):
                    basis = factor_of(optimizer, param, axis)[0]
                    worst = max(worst, np.abs(basis @ basis.T - np.eye(len(basis))).max())
    assert 0 < worst < 1e-4


@pytest.fixture(scope="module")
def real_gradients(mnist):
    """Gradient of each tensor of LeNet-5 along 200 steps of NGD on MNIST."""
    steps = mnist_steps(mnist, lambda params: NGD(params, alpha=0.1, **SWAP), 200, model=LeNet5())
    recorded = [[param.grad.clone() for param in model.parameters()] for model, _ in steps]
    return dict(
        zip(
            (name for name, _ in LeNet5().named_parameters()),
            zip(*recorded, strict=True),
            strict=True,
        )
    )


@pytest.mark.parametrize(("alpha", "steps"), [(0.1, 200), (4.0, 60)])
def test_directions_along_real_gradients_are_those_of_the_plain_transcription(
    real_gradients, alpha, steps, record_property
):
    """Axes of convolutions, and biases. Changing the last bit of each gradient moves the plain
    directions by up to 3e-9, so 1e-8 is rounding; float32 and float64 differ by what is recorded.
    """
    for name, gradients in real_gradients.items():
        gradients = gradients[:steps]
        plain = PlainNaturalGradient(alpha=alpha, eta=0.9)
        expected = [plain.direction(gradient.double().numpy()) for gradient in gradients]
        double = directions([gradient.double() for gradient in gradients], alpha=alpha, eta=0.9)
        assert max(map(relative_error, double, expected)) < 1e-8
        worst = max(map(relative_error, directions(gradients, alpha=alpha, eta=0.9), expected))
        record_property(f"alpha {alpha}, float32, worst of {steps} steps, {name}", worst)
        assert worst < 1.2e-3  # u·cond(Y)


def test_directions_of_a_wide_layer_are_those_of_the_plain_transcription(mnist):
    """784 inputs and 96 outputs: axes on which the rank is cut at 80, and below it."""
    steps = mnist_steps(mnist, lambda params: NGD(params, alpha=0.1, **SWAP), 20, model=FFNN(96, 1))
    gradients = [next(model.parameters()).grad.clone() for model, _ in steps]
    plain = PlainNaturalGradient(alpha=0.1, eta=0.9)
    expected = [plain.direction(gradient.double().numpy()) for gradient in gradients]
    double = directions([gradient.double() for gradient in gradients], alpha=0.1, eta=0.9)
    assert max(map(relative_error, double, expected)) < 1e-8
    assert max(map(relative_error, directions(gradients, alpha=0.1, eta=0.9), expected)) < 1.2e-3


@pytest.mark.parametrize("alpha", [0.1, 4.0])
def test_float32_directions_are_those_of_float64_on_real_gradients(mnist, alpha, record_property):
    """Each tensor within u·cond(Y): 6e-8 times at most 1/((1 − η) δ) = 2e4."""
    steps = [
        [param.grad.clone() for param in model.parameters()]
        for model, _ in mnist_steps(mnist, lambda params: NGD(params, alpha=alpha, **SWAP), 60)
    ]
    for name, gradients in zip(
        dict(FFNN().named_parameters()), zip(*steps, strict=True), strict=True
    ):
        single = directions(gradients, alpha=alpha, eta=0.9)
        double = directions([gradient.double() for gradient in gradients], alpha=alpha, eta=0.9)
        worst = max(map(relative_error, single, double))
        record_property(f"alpha {alpha}, worst of 60 steps, {name}", worst)
        assert worst < 1.2e-3


@NEEDS_CUDA
def test_directions_on_cuda_are_those_on_the_cpu():
    gradients = random_gradients((24, 40), 20)
    hyper = {"alpha": 0.1, "eta": 0.9, "epsilon": 1e-3}
    pairs = zip(
        directions(gradients, device="cuda", **hyper), directions(gradients, **hyper), strict=True
    )
    assert max(relative_error(on_cuda, on_cpu) for on_cuda, on_cpu in pairs) < 1e-8


@NEEDS_CUDA
def test_rows_of_the_basis_stay_orthonormal_in_float32_on_cuda(mnist):
    *_, (model, optimizer) = mnist_steps(
        mnist, lambda params: NGD(params, alpha=0.1, **SWAP), 500, device="cuda"
    )
    for param in model.parameters():
        assert param.isfinite().all()
        for axis in optimizer.kappa(param):
            basis = factor_of(optimizer, param, axis)[0]
            assert np.abs(basis @ basis.T - np.eye(len(basis))).max() < 1e-4


# -------------------------------------------------------------------- gradients out of the ordinary


def run_with_gradients(gradients, **hyper):
    """Trains the tensors of `gradients[step][tensor]` along them; returns weights after each step
    and the optimizer.
    """
    weights = [torch.ones_like(gradient) for gradient in gradients[0]]
    optimizer = NGD(weights, **hyper)
    path = []
    for step in gradients:
        for weight, gradient in zip(weights, step, strict=True):
            weight.grad = gradient.clone()
        optimizer.step()
        path.append([weight.clone() for weight in weights])
    return path, optimizer


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("when", [1, 7])
def test_gradient_that_is_not_finite_leaves_only_its_own_tensor_alone(bad, when):
    # no schedule
    hyper = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01, "update_period": 1}
    first, second = random_gradients((4, 6), 14, seed=1), random_gradients((5,), 14, seed=2)
    broken = first[0].clone()
    broken[2, 3] = bad
    gradients = [
        list(pair)
        for pair in zip([*first[:when], broken, *first[when:]], [*second, second[0]], strict=True)
    ]
    path, optimizer = run_with_gradients(gradients, **hyper)

    # The broken step might as well not have been for its tensor, and nothing happened for the other
    # one.
    alone, _ = run_with_gradients([[gradient] for gradient in first], **hyper)
    assert torch.equal(path[when][0], path[when - 1][0])
    assert torch.equal(path[-1][0], alone[-1][0])
    other, _ = run_with_gradients([[gradient] for gradient in [*second, second[0]]], **hyper)
    assert torch.equal(path[-1][1], other[-1][0])
    assert optimizer.num_skipped_updates == 1
    assert optimizer.num_restarts == 0


@BOTH_ARITHMETICS
# enough rows for the rank, and too few of them
@pytest.mark.parametrize("shape", [(4, 6), (9,), (64, 3)], ids=str)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_gradients_that_are_not_finite_before_the_first_good_one_might_as_well_not_have_been(
    bad, shape, arithmetic
):
    gradients = random_gradients(shape, 20, dtype=torch.float32)
    hyper = {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "alpha": 0.1, "arithmetic": arithmetic}
    broken = [[torch.full(shape, bad)]] * 2
    path, optimizer = run_with_gradients(
        [*broken, *[[gradient] for gradient in gradients]], **hyper
    )
    alone, _ = run_with_gradients([[gradient] for gradient in gradients], **hyper)
    assert torch.equal(path[1][0], torch.ones(shape))
    assert all(
        torch.equal(found, expected) for (found,), (expected,) in zip(path[2:], alone, strict=True)
    )
    assert (optimizer.num_skipped_updates, optimizer.num_restarts) == (2, 0)


def test_the_schedule_counts_steps_whose_gradient_is_not_finite():
    gradients = random_gradients((4, 6), 14)
    gradients[11] = torch.full((4, 6), math.nan, dtype=torch.float64)
    weight = torch.zeros(4, 6, dtype=torch.float64)
    optimizer = NGD([weight], lr=1.0)
    directions(gradients[:12], optimizer=optimizer)
    before = factor_of(optimizer, weight, axis=0)[0]
    directions(gradients[12:13], optimizer=optimizer)  # step 12
    assert not np.array_equal(before, factor_of(optimizer, weight, axis=0)[0])


def test_skipped_updates_are_counted_over_tensors_and_steps():
    nan, fine = torch.full((3,), math.nan), torch.ones(3)
    _, optimizer = run_with_gradients([[nan, fine], [nan, nan], [fine, fine], [fine, nan]], lr=0.1)
    assert optimizer.num_skipped_updates == 4
    _, optimizer = run_with_gradients([[fine, fine]], lr=0.1)
    assert optimizer.num_skipped_updates == 0


@pytest.mark.parametrize("when", [0, 1, 12])
def test_finite_gradient_without_finite_factors_is_used_raw_and_the_factors_start_anew(when):
    """The published arithmetic divides by zero where η = 1 and an eigenvalue of Y Yᵀ is zero, as
    with a rank of one.
    """
    hyper = {"alpha": 0.1, "eta": 1.0, "arithmetic": "published"}
    gradients = random_gradients((6, 8), 30, dtype=torch.float32)
    rank_one = torch.outer(torch.arange(1.0, 7.0), torch.arange(1.0, 9.0))
    weight = torch.zeros(6, 8)
    optimizer = NGD([weight], lr=1.0, **hyper)
    directions(gradients[:when], optimizer=optimizer)
    assert torch.equal(directions([rank_one], optimizer=optimizer)[0], rank_one)
    assert (optimizer.num_restarts, optimizer.num_skipped_updates) == (1, 0)
    assert optimizer.kappa(weight) == {}
    for found, expected in zip(
        directions(gradients, optimizer=optimizer), directions(gradients, **hyper), strict=True
    ):
        assert torch.equal(found, expected)
    assert optimizer.num_restarts == 1


@BOTH_ARITHMETICS
# step 12 updates the factors, step 13 does not
@pytest.mark.parametrize(("when", "kept"), [(12, False), (13, True)])
def test_gradient_whose_norm_is_no_number_is_used_raw(when, kept, arithmetic):
    gradients = random_gradients((6, 8), 20, dtype=torch.float32)
    huge = torch.full((6, 8), 1e38)  # times √48
    huge[1] *= -1
    weight = torch.zeros(6, 8)
    optimizer = NGD([weight], lr=1.0, arithmetic=arithmetic)
    directions(gradients[:when], optimizer=optimizer)
    assert torch.equal(directions([huge], optimizer=optimizer)[0], huge)
    assert optimizer.num_restarts == 1
    assert bool(optimizer.kappa(weight)) == kept
    found = directions(gradients, optimizer=optimizer)
    assert all(direction.isfinite().all() for direction in found)
    assert relative_error(found[3], gradients[3]) > 0.01
    assert optimizer.num_restarts == 1


@BOTH_ARITHMETICS
@pytest.mark.parametrize("epsilon", [0.0, 1e-10])
@pytest.mark.parametrize("shape", [(7,), (4, 6)], ids=str)
def test_zero_gradients_move_nothing(shape, epsilon, arithmetic):
    found = directions([torch.zeros(shape)] * 15, epsilon=epsilon, arithmetic=arithmetic)
    assert all(torch.equal(direction, torch.zeros(shape)) for direction in found)


@BOTH_ARITHMETICS
@pytest.mark.parametrize("epsilon", [0.0, 1e-10])
@pytest.mark.parametrize("when", [0, 5])
def test_training_goes_on_after_zero_gradients(when, epsilon, arithmetic):
    gradients = random_gradients((6, 8), 20, dtype=torch.float32)
    gradients[when : when + 3] = [torch.zeros(6, 8)] * 3
    found = directions(gradients, epsilon=epsilon, arithmetic=arithmetic, alpha=0.1)
    for step, (direction, gradient) in enumerate(zip(found, gradients, strict=True)):
        assert direction.isfinite().all()
        assert float(direction.norm()) == pytest.approx(float(gradient.norm()), rel=1e-5)
        if step >= 10:
            assert relative_error(direction, gradient) > 1e-3  # turned, not passed through


def test_dead_inputs_get_no_step():
    """Columns without any gradient (dead pixels) stay where they are: rows of X̂ are combinations
    of G's action on X.
    """
    gradients = random_gradients((6, 10), 20)
    for gradient in gradients:
        gradient[:, 3:5] = 0
    for direction, gradient in zip(directions(gradients, alpha=0.1), gradients, strict=True):
        assert direction[:, 3:5].abs().max() < 1e-6 * gradient.abs().max()


@BOTH_ARITHMETICS
@pytest.mark.parametrize("shape", [(6, 8), (7,), (3, 2, 4, 4)], ids=str)
@given(exponent=st.integers(-100, 100))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_powers_of_two_come_out_as_they_went_in_even_in_float32(exponent, shape, arithmetic):
    """Gradients of 1e-30 or 1e30 are squared without over- or underflow: not a bit of the direction
    changes.
    """
    gradients, c = random_gradients(shape, 14, dtype=torch.float32), 2.0**exponent
    hyper = {"alpha": 0.1, "eta": 0.9, "arithmetic": arithmetic}
    plain = directions(gradients, epsilon=1e-10, **hyper)
    scaled = directions([c * gradient for gradient in gradients], epsilon=1e-10 * c * c, **hyper)
    assert all(
        torch.equal(found, c * expected) for found, expected in zip(scaled, plain, strict=True)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("end", ["smallest", "largest"])
def test_gradients_at_the_ends_of_the_type_do_no_harm(end, dtype):
    limits = torch.finfo(dtype)
    size = limits.smallest_normal if end == "smallest" else limits.max
    extreme = torch.linspace(-1, 1, 48, dtype=dtype).reshape(6, 8) * size
    gradients = [
        *random_gradients((6, 8), 12, dtype=dtype),
        extreme,
        *random_gradients((6, 8), 30, dtype=dtype),
    ]
    found = directions(gradients, epsilon=0.0)
    assert all(direction.isfinite().all() for direction in found)
    for direction, gradient in zip(found[13:], gradients[13:], strict=True):
        assert float(direction.norm()) == pytest.approx(float(gradient.norm()), rel=1e-5)


KINDS = ["zero", "usual", "constant row", "rank one", "tiny", "huge", "nan", "inf"]


def gradient_of_kind(kind, shape, generator):
    usual = torch.randn(shape, generator=generator)
    if kind == "constant row" and len(shape) > 1:
        usual[0] = 1.0
    if kind == "rank one" and len(shape) > 1:
        usual = usual[:1] * torch.randn(shape[0], *[1] * (len(shape) - 1), generator=generator)
    usual = {"zero": 0.0, "tiny": 1e-20, "huge": 1e20}.get(kind, 1.0) * usual
    if kind in ("nan", "inf"):
        usual.view(-1)[0] = float(kind)
    return usual


@BOTH_ARITHMETICS
@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=3, max_size=12),
    shape=st.sampled_from([(5,), (6, 8), (2, 9), (9, 2), (3, 2, 3, 3)]),
    eta=st.sampled_from([0.1, 0.9, 1.0]),
    floors=st.sampled_from([(0.0, 0.0), (1e-10, 5e-4), (1e-10, 0.0)]),
    period=st.sampled_from([1, 4]),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_no_sequence_of_gradients_poisons_the_state(arithmetic, kinds, shape, eta, floors, period):
    """Every step is finite and as long as its gradient, and one without finite gradient moves
    nothing.
    """
    epsilon, delta = floors
    weight = torch.zeros(shape)
    optimizer = NGD(
        [weight],
        lr=1.0,
        alpha=0.1,
        eta=eta,
        epsilon=epsilon,
        delta=delta,
        update_period=period,
        arithmetic=arithmetic,
    )
    generator = torch.Generator().manual_seed(0)
    for kind in [*kinds, "usual"]:
        gradient = gradient_of_kind(kind, shape, generator)
        (direction,) = directions([gradient], optimizer=optimizer)
        if kind in ("nan", "inf"):
            assert torch.equal(direction, torch.zeros(shape))
        else:
            assert direction.isfinite().all()
            assert float(direction.double().norm()) == pytest.approx(
                float(gradient.double().norm()), rel=1e-5
            )
        for key, entry in optimizer.state[weight].items():
            assert entry.isfinite().all(), key
    assert optimizer.num_skipped_updates == sum(kind in ("nan", "inf") for kind in kinds)
    if (
        arithmetic == "stable" and len(shape) > 1
    ):  # at η = 1 the published one divides by zero where rows are few
        after = [gradient_of_kind("usual", shape, generator) for _ in range(12)]
        assert relative_error(directions(after, optimizer=optimizer)[-1], after[-1]) > 1e-3


# ------------------------------------------------------------------------------------------- shapes


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (1, 1, 1, 1)], ids=str)
def test_tensor_with_one_entry_follows_sgd(shape):
    gradients = random_gradients(shape, 12)
    assert all(map(torch.equal, directions(gradients), gradients))


@pytest.mark.parametrize(
    ("shape", "axes"), [((1, 7), [1]), ((7, 1), [0]), ((1, 7, 1, 1), [1])], ids=str
)
def test_axes_of_size_one_change_nothing(shape, axes):
    gradients = random_gradients((7,), 15)
    weight = torch.zeros(shape, dtype=torch.float64)
    optimizer = NGD([weight], lr=1.0)
    found = directions([gradient.reshape(shape) for gradient in gradients], optimizer=optimizer)
    assert list(optimizer.kappa(weight)) == axes
    for direction, expected in zip(found, directions(gradients), strict=True):
        assert relative_error(direction.reshape(7), expected) < 1e-12


def test_four_axes_of_a_convolution_are_all_turned():
    weight = torch.zeros(6, 4, 3, 5, dtype=torch.float64)
    optimizer = NGD([weight], lr=1.0)
    directions(random_gradients((6, 4, 3, 5), 3), optimizer=optimizer)
    bases = {axis: factor_of(optimizer, weight, axis)[0].shape for axis in optimizer.kappa(weight)}
    assert bases == {0: (3, 6), 1: (2, 4), 2: (2, 3), 3: (3, 5)}


def test_memory_layout_does_not_matter():
    gradients = random_gradients((6, 4, 3, 3), 12)
    strided = [gradient.to(memory_format=torch.channels_last) for gradient in gradients]
    for found, expected in zip(directions(strided), directions(gradients), strict=True):
        assert relative_error(found, expected) < 1e-9


# -------------------------------------------------------------------------------------------- state


def through_deepcopy(state_dict):
    return copy.deepcopy(state_dict)


def through_safetensors(state_dict):
    flat = {
        f"{i}.{key}": tensor
        for i, state in state_dict["state"].items()
        for key, tensor in state.items()
    }
    assert all(isinstance(tensor, torch.Tensor) for tensor in flat.values())
    loaded: dict = {i: {} for i in state_dict["state"]}
    for name, tensor in load_safetensors(save_safetensors(flat)).items():
        i, key = name.split(".", 1)
        loaded[int(i)][key] = tensor
    return {"state": loaded, "param_groups": copy.deepcopy(state_dict["param_groups"])}


@pytest.mark.parametrize("through", [through_deepcopy, through_safetensors])
@pytest.mark.parametrize("after", [0, 1, 7, 13])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_training_from_a_loaded_state_takes_the_same_path(through, after, dtype):
    hyper = {
        "lr": 0.05,
        "momentum": 0.9,
        "nesterov": True,
        "alpha": 0.1,
        "eta": 0.9,
        "weight_decay": 1e-3,
    }
    model, inputs, targets = small_problem(dtype)
    optimizer = NGD(model.parameters(), **hyper)
    train_steps(model, optimizer, inputs, targets, after)
    weights, state = copy.deepcopy(model.state_dict()), through(optimizer.state_dict())
    train_steps(model, optimizer, inputs, targets, 20)

    resumed, _, _ = small_problem(dtype, seed=99)
    resumed.load_state_dict(weights)
    fresh = NGD(resumed.parameters(), lr=1.0)
    fresh.load_state_dict(state)
    train_steps(resumed, fresh, inputs, targets, 20)
    assert all(map(torch.equal, resumed.parameters(), model.parameters()))
    for ours, theirs in zip(fresh.state.values(), optimizer.state.values(), strict=True):
        assert ours.keys() == theirs.keys()
        assert all(
            torch.equal(ours[key], theirs[key]) and ours[key].dtype == theirs[key].dtype
            for key in ours
        )


def at_an_odd_address(tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers, one element behind where PyTorch would put them, as inside a file; a matrix
    transposed.
    """
    memory = torch.empty(tensor.numel() + 1, dtype=tensor.dtype)[1:]
    shifted = memory.view(tensor.shape[::-1]).mT if tensor.ndim == 2 else memory.view(tensor.shape)
    return shifted.copy_(tensor)


def test_a_loaded_state_has_memory_laid_out_and_aligned_as_a_fresh_one():
    """On some processors a product rounds by where its operands lie; this shows it on any."""
    hyper = {"lr": 0.05, "momentum": 0.9, "nesterov": True, "alpha": 0.1, "eta": 0.9}
    model, inputs, targets = small_problem(torch.float32)
    optimizer = NGD(model.parameters(), **hyper)
    train_steps(model, optimizer, inputs, targets, 7)
    state = optimizer.state_dict()
    given = {
        i: {key: at_an_odd_address(t) for key, t in entries.items()}
        for i, entries in state["state"].items()
    }
    assert any(t.data_ptr() % 64 for entries in given.values() for t in entries.values())
    resumed = copy.deepcopy(model)
    fresh = NGD(resumed.parameters(), lr=1.0)
    fresh.load_state_dict({"state": given, "param_groups": state["param_groups"]})
    for ours, theirs in zip(fresh.state.values(), optimizer.state.values(), strict=True):
        for key, tensor in ours.items():
            assert tensor.data_ptr() % 64 == theirs[key].data_ptr() % 64 == 0, key
            assert tensor.stride() == theirs[key].stride(), key
    train_steps(model, optimizer, inputs, targets, 20)
    train_steps(resumed, fresh, inputs, targets, 20)
    assert all(map(torch.equal, resumed.parameters(), model.parameters()))


@pytest.mark.parametrize(
    "through",
    [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))],
    ids=["copy", "pickle"],
)
def test_a_copied_model_and_optimizer_take_the_same_path(through):
    model, inputs, targets = small_problem()
    optimizer = NGD(model.parameters(), lr=0.05, momentum=0.9, alpha=0.1)
    train_steps(model, optimizer, inputs, targets, 7)
    other, other_optimizer = through((model, optimizer))
    train_steps(model, optimizer, inputs, targets, 12)
    train_steps(other, other_optimizer, inputs, targets, 12)
    assert all(map(torch.equal, model.parameters(), other.parameters()))
    assert not any(p is q for p, q in zip(model.parameters(), other.parameters(), strict=True))


def test_a_compiled_model_takes_the_same_path():
    model, inputs, targets = small_problem()
    compiled = torch.compile(copy.deepcopy(model), backend="aot_eager")
    for net in (model, compiled):
        train_steps(
            net, NGD(net.parameters(), lr=0.05, momentum=0.9, alpha=0.1), inputs, targets, 14
        )
    for ours, theirs in zip(model.parameters(), compiled.parameters(), strict=True):
        assert relative_error(ours.detach(), theirs.detach()) < 1e-5


def test_a_group_added_later_starts_its_factors_then():
    first, second = random_gradients((4, 6), 15, seed=1), random_gradients((4, 6), 15, seed=2)
    weights = [torch.zeros(4, 6, dtype=torch.float64) for _ in range(2)]
    optimizer = NGD(weights[:1], lr=1.0, alpha=0.1)
    directions(first[:6], optimizer=optimizer)
    optimizer.add_param_group({"params": weights[1:], "rank": 2, "eta": 0.5})
    for gradients in zip(first[6:], second, strict=False):
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.zero_()
            weight.grad = gradient
        optimizer.step()
    assert relative_error(-weights[0], directions(first, alpha=0.1)[-1]) < 1e-12
    assert (
        relative_error(-weights[1], directions(second[:9], alpha=0.1, rank=2, eta=0.5)[-1]) < 1e-12
    )


def test_gradients_that_come_and_go_leave_each_tensor_on_its_own_schedule():
    first, second = random_gradients((4, 6), 12, seed=1), random_gradients((4, 6), 24, seed=2)
    weights = [torch.zeros(4, 6, dtype=torch.float64) for _ in range(2)]
    optimizer = NGD(weights, lr=1.0)
    for step, gradient in enumerate(second):
        weights[0].grad = first[step // 2] if step % 2 else None
        weights[1].grad = gradient
        optimizer.step()
    for weight, gradients in zip(weights, (first, second), strict=True):
        assert relative_error(-weight, sum(directions(gradients))) < 1e-12


def test_a_changed_alpha_counts_from_the_next_update_on():
    gradients = random_gradients((4, 6), 16)
    weight = torch.zeros(4, 6, dtype=torch.float64)
    optimizer = NGD([weight], lr=1.0, alpha=0.1)
    directions(gradients[:11], optimizer=optimizer)
    optimizer.param_groups[0]["alpha"] = math.inf
    # steps 11 to 15; 12 updates, after its direction
    found = directions(gradients[11:], optimizer=optimizer)
    turned = [
        relative_error(direction, gradient) > 1e-3
        for direction, gradient in zip(found, gradients[11:], strict=True)
    ]
    assert turned == [True, True, False, False, False]


@NEEDS_CUDA
def test_steps_without_update_never_wait_for_the_device():
    weights = [
        torch.zeros(24, 40, device="cuda"),
        torch.zeros(6, 3, 5, 5, device="cuda"),
        torch.zeros(9, device="cuda"),
    ]
    optimizer = NGD(weights, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3)
    for step in range(16):
        for weight in weights:
            weight.grad = torch.randn_like(weight)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error" if step > 10 and step % 4 else "default")
        try:
            optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert all(weight.isfinite().all() for weight in weights)


@NEEDS_CUDA
def test_a_step_without_update_replays_from_a_cuda_graph():
    def trained(captured):
        torch.manual_seed(0)
        weight, gradients = (
            torch.zeros(24, 40, device="cuda"),
            torch.randn(16, 24, 40, device="cuda"),
        )
        weight.grad = torch.zeros_like(weight)
        optimizer = NGD([weight], lr=0.1, momentum=0.9)
        for gradient in gradients[:13]:  # the thirteenth, step 12, updates
            weight.grad.copy_(gradient)
            optimizer.step()
        graph = torch.cuda.CUDAGraph() if captured else None
        for gradient in gradients[13:]:
            weight.grad.copy_(gradient)
            if not captured:
                optimizer.step()
                continue
            if optimizer.state[weight]["step"] == 13:  # capturing advances it, replaying does not
                with torch.cuda.graph(graph):
                    optimizer.step()
            graph.replay()
        return weight.cpu()

    assert relative_error(trained(captured=True), trained(captured=False)) < 1e-5


def test_the_state_of_an_earlier_version_is_refused():
    weight = torch.zeros(3)
    state = {
        "step": torch.tensor(1),
        "basis_0": torch.ones(2, 3),
        "eigenvalues_0": torch.ones(2),
        "floor_0": torch.ones(()),
    }
    optimizer = NGD([weight], lr=0.1)
    with pytest.raises(ValueError, match="earlier NGD"):
        optimizer.load_state_dict(
            {"state": {0: state}, "param_groups": optimizer.state_dict()["param_groups"]}
        )


@pytest.mark.parametrize(
    "key", ["momentum_buffer", "basis_0", "basis_1", "eigenvalues_1", "unit_0", "num_skipped"]
)
def test_a_state_of_another_shape_is_refused_and_the_optimizer_stays_as_it_was(key):
    weight = torch.zeros(5, 9)
    optimizer = NGD([weight], lr=0.1, momentum=0.9)
    directions(random_gradients((5, 9), 2), optimizer=optimizer)
    there = optimizer.state_dict()
    odd = {name: value.clone() for name, value in there["state"][0].items()}
    odd[key] = odd[key].repeat(*[2] * max(1, odd[key].ndim))
    with pytest.raises(ValueError, match=rf"{key} of shape .* parameter of shape \(5, 9\)"):
        optimizer.load_state_dict({**there, "state": {0: odd}})
    after = optimizer.state_dict()["state"][0]
    assert all(torch.equal(after[name], value) for name, value in there["state"][0].items())


def test_skipped_updates_survive_saving():
    weight = torch.zeros(3)
    optimizer = NGD([weight], lr=0.1)
    weight.grad = torch.full((3,), math.nan)
    optimizer.step()
    fresh = NGD([weight], lr=0.1)
    fresh.load_state_dict(through_safetensors(optimizer.state_dict()))
    assert fresh.num_skipped_updates == 1


@BOTH_ARITHMETICS
def test_kappa_is_alpha_over_size_times_the_trace_of_the_factor(arithmetic):
    weight = torch.zeros(5, 9, dtype=torch.float64)
    optimizer = NGD([weight], lr=1.0, alpha=0.3, arithmetic=arithmetic)
    assert optimizer.kappa(weight) == {}
    directions(random_gradients((5, 9), 13), optimizer=optimizer)
    kappa = optimizer.kappa(weight)
    for axis, size in ((0, 5), (1, 9)):
        trace = np.trace(dense_fisher(factor_of(optimizer, weight, axis)))
        assert float(kappa[axis]) == pytest.approx(0.3 / size * trace, rel=1e-6)


def test_effective_rank_is_the_exponential_of_the_spectrums_entropy():
    weight = torch.zeros(5, 9, dtype=torch.float64)
    optimizer = NGD([weight], lr=1.0)
    assert optimizer.effective_rank(weight) == {}
    directions(random_gradients((5, 9), 13), optimizer=optimizer)
    for axis, size in ((0, 5), (1, 9)):
        shares = np.linalg.eigvalsh(dense_fisher(factor_of(optimizer, weight, axis)))
        shares /= shares.sum()
        rank = float(optimizer.effective_rank(weight)[axis])
        assert rank == pytest.approx(np.exp(-np.sum(shares * np.log(shares))), rel=1e-9)
        assert 1 < rank < size


@pytest.mark.parametrize("when", [0, 1, 11, 12])
def test_cosine_is_that_of_the_coming_step_and_changes_nothing(when):
    gradients = random_gradients((5, 9), 14)
    weight = torch.zeros(5, 9, dtype=torch.float64)
    optimizer = NGD([weight], lr=1.0, alpha=0.1)
    directions(gradients[:when], optimizer=optimizer)
    weight.zero_()
    weight.grad = gradients[when]
    cosine = float(optimizer.cosine(weight))
    assert torch.equal(weight.grad, gradients[when])
    found = directions(gradients[when:], optimizer=optimizer)
    expected = float((found[0] * gradients[when]).sum() / found[0].norm() / gradients[when].norm())
    assert cosine == pytest.approx(expected, rel=1e-12)
    assert all(map(torch.equal, found, directions(gradients, alpha=0.1)[when:]))


def test_cosine_of_a_parameter_without_entries_is_nan():
    weight = torch.zeros(0, 3)
    weight.grad = torch.zeros(0, 3)
    optimizer = NGD([weight], lr=1.0)
    assert optimizer.cosine(weight).isnan()
    optimizer.step()


def test_cosine_of_a_zero_gradient_is_nan_and_of_none_or_a_strangers_an_error():
    weight = torch.zeros(4)
    optimizer = NGD([weight], lr=1.0)
    with pytest.raises(ValueError, match="no gradient"):
        optimizer.cosine(weight)
    weight.grad = torch.zeros(4)
    assert optimizer.cosine(weight).isnan()
    for read in (optimizer.cosine, optimizer.kappa, optimizer.effective_rank):
        with pytest.raises(ValueError, match="not one of the optimizer's parameters"):
            read(torch.zeros(4))


def test_groups_have_their_own_hyperparameters():
    first, second = random_gradients((4, 6), 15, seed=1), random_gradients((5, 3), 15, seed=2)
    weights = [torch.zeros(4, 6, dtype=torch.float64), torch.zeros(5, 3, dtype=torch.float64)]
    optimizer = NGD(
        [{"params": weights[:1], "alpha": 0.1}, {"params": weights[1:], "alpha": 40.0, "lr": 0.5}],
        lr=1.0,
    )
    for gradients in zip(first, second, strict=True):
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient
        optimizer.step()
    assert relative_error(-weights[0], sum(directions(first, alpha=0.1))) < 1e-12
    assert relative_error(-weights[1], 0.5 * sum(directions(second, alpha=40.0))) < 1e-12
    trace = np.trace(dense_fisher(factor_of(optimizer, weights[1], 0)))
    assert float(optimizer.kappa(weights[1])[0]) == pytest.approx(40.0 / 5 * trace)


# ---------------------------------------------------------------------------------- as an optimizer

OUT_OF_RANGE = {
    "lr": [0, -0.1, math.nan, "0.1"],
    "momentum": [-0.1, 1, 1.5, math.nan],
    "dampening": [-0.1, 1.1, math.nan],
    "weight_decay": [-1e-3, math.nan],
    "nesterov": [True],  # without momentum
    "alpha": [0, -4, math.nan, None],
    "rank": [0, -1, 2.5],
    "update_period": [0, -4, 1.5],
    "eta": [0, -0.1, 1.1, math.nan],
    "epsilon": [-1e-10, math.nan],
    "delta": [-1e-4, 1, math.nan],
    "arithmetic": ["exact", None],
}
ALLOWED = {
    "lr": "> 0",
    "momentum": "in [0, 1)",
    "dampening": "in [0, 1]",
    "weight_decay": "≥ 0",
    "nesterov": "momentum > 0",
    "alpha": "> 0",
    "rank": "integer ≥ 1",
    "update_period": "integer ≥ 1",
    "eta": "in (0, 1]",
    "epsilon": "≥ 0",
    "delta": "in [0, 1)",
    "arithmetic": "stable or published",
}


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in OUT_OF_RANGE.items() for value in values]
)
def test_hyperparameter_out_of_range_is_refused_by_name_with_what_is_allowed(key, value):
    with pytest.raises(ValueError, match=key) as refusal:
        NGD([torch.zeros(2)], **{"lr": 0.1, key: value})
    assert f"{key} = {value!r}" in str(refusal.value)
    assert ALLOWED[key] in str(refusal.value)


def test_every_problem_is_named_at_once_and_a_refused_group_is_not_added():
    with pytest.raises(ValueError, match=r"(?s)lr = -1.*alpha = 0"):
        NGD([torch.zeros(2)], lr=-1, alpha=0)
    optimizer = NGD([torch.zeros(2)], lr=0.1)
    with pytest.raises(ValueError, match="eta"):
        optimizer.add_param_group({"params": [torch.zeros(3)], "eta": 2.0})
    assert len(optimizer.param_groups) == 1


def test_nesterov_with_dampening_is_refused():
    with pytest.raises(ValueError, match="nesterov"):
        NGD([torch.zeros(2)], lr=0.1, momentum=0.9, dampening=0.1, nesterov=True)


EDGES = [
    {"momentum": 0},
    {"dampening": 1, "momentum": 0.5},
    {"eta": 1},
    {"delta": 0},
    {"epsilon": 0},
    {"rank": 1},
    {"update_period": 1},
    {"alpha": math.inf},
]


@pytest.mark.parametrize("edge", EDGES, ids=str)
def test_edges_of_the_ranges_are_allowed_and_finite(edge):
    assert all(
        direction.isfinite().all() for direction in directions(random_gradients((4, 5), 12), **edge)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.complex64], ids=str)
def test_parameters_other_than_float32_and_float64_are_refused(dtype):
    with pytest.raises(ValueError, match=r"torch\.float32 or torch\.float64"):
        NGD([torch.zeros(2, dtype=dtype)], lr=0.1)


def test_sparse_gradient_is_refused():
    embedding = torch.nn.Embedding(5, 3, sparse=True)
    embedding(torch.tensor([1, 2])).sum().backward()
    dense = torch.ones(3)
    dense.grad = torch.ones(3)
    with pytest.raises(RuntimeError, match="sparse"):
        NGD([{"params": [dense]}, {"params": embedding.parameters()}], lr=0.1).step()
    assert torch.equal(dense, torch.ones(3))  # nothing was done by halves


def test_closure_is_evaluated_once_with_gradients_and_its_loss_returned():
    weight = torch.nn.Parameter(torch.tensor([2.0, 3.0]))
    optimizer, calls = NGD([weight], lr=0.1), []

    def closure():
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        calls.append(loss)
        return loss

    assert optimizer.step(closure).item() == 13.0
    assert len(calls) == 1
    assert weight.square().sum() < 13.0
    assert optimizer.step() is None


def test_parameters_without_gradient_are_left_alone():
    weight = torch.ones(3)
    optimizer = NGD([weight], lr=0.1, weight_decay=0.1)
    optimizer.step()
    assert torch.equal(weight, torch.ones(3))
    assert optimizer.num_skipped_updates == 0


def test_gradients_are_left_as_they_are():
    (gradient,) = random_gradients((4, 5), 1)
    weight = torch.ones(4, 5, dtype=torch.float64)
    weight.grad = gradient.clone()
    NGD([weight], lr=0.1, weight_decay=0.1, momentum=0.9, nesterov=True).step()
    assert torch.equal(weight.grad, gradient)


def test_learning_rate_schedulers_drive_it():
    weight = torch.zeros(4, dtype=torch.float64)
    optimizer = NGD([weight], lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    weight.grad = torch.ones(4, dtype=torch.float64)
    lengths = []
    for _ in range(3):
        before = weight.clone()
        optimizer.step()
        scheduler.step()
        lengths.append(float((weight - before).norm()))
    assert lengths == pytest.approx([2.0, 1.0, 0.5])


def test_examples_in_the_docstrings_run():
    result = doctest.testmod(ngd)
    assert result.attempted > 0
    assert result.failed == 0
