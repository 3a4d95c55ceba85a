"""Is the estimate of the Hessian's trace right, and its standard error too? Against dense Hessians
and libraries.
"""

import copy
import math
import warnings

import numpy as np
import pytest
import torch
from curvlinops import xtrace as curvlinops_xtrace
from curvlinops.sampling import random_vector
from pyhessian import hessian as pyhessian
from torch import nn
from torch.func import functional_call, hessian
from torch.nn.functional import cross_entropy, mse_loss

from degeneracy.curvature.operators import Operator
from degeneracy.curvature.trace import (
    METHODS,
    SAMPLE_BLOCK,
    by_layer,
    hessian_trace,
    hutchinson,
    leave_one_out,
    standard_error,
    streamed_signs,
    xtrace,
)

FLOAT32 = 1e-5  # relative: sums of some thousand products, rounded at 6e-8 each


def dense_hessian(model: nn.Module, loss_fn, inputs, targets) -> torch.Tensor:
    """The Hessian by the weights that require a gradient, written out, in float64."""
    model = copy.deepcopy(model).double().eval()
    params = {name: p for name, p in model.named_parameters() if p.requires_grad}
    names, flat = list(params), torch.cat([p.detach().flatten() for p in params.values()])

    def loss(flat):
        pieces = flat.split([params[name].numel() for name in names])
        weights = {
            name: piece.view_as(params[name]) for name, piece in zip(names, pieces, strict=True)
        }
        return loss_fn(functional_call(model, weights, (inputs.double(),)), targets)

    return hessian(loss)(flat)


def off_diagonal(matrix: torch.Tensor) -> float:
    """Σ_{i≠j} A_ij²: half the variance of vᵀ A v for a probe v of signs."""
    return (matrix.square().sum() - matrix.diag().square().sum()).item()


def operator_of(matrix: torch.Tensor) -> Operator:
    return Operator(lambda rows: rows @ matrix, len(matrix), matrix.dtype, matrix.device)


def with_spectrum(eigenvalues: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """A random symmetric matrix with these eigenvalues, float64."""
    generator = torch.Generator().manual_seed(seed)
    size = len(eigenvalues)
    basis, _ = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator))
    return basis * eigenvalues.double() @ basis.T


@pytest.fixture(scope="module")
def classifier():
    """A network with 83 weights, and samples for three blocks of unequal size."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    num = 2 * SAMPLE_BLOCK + 40
    return model, torch.randn(num, 6), torch.randint(3, (num,))


@pytest.fixture(scope="module")
def dense(classifier):
    model, inputs, targets = classifier
    return dense_hessian(model, cross_entropy, inputs, targets)


# ---- the estimate and its error ------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("method", METHODS)
def test_agrees_with_the_dense_hessian_within_its_error(classifier, dense, method, seed):
    model, inputs, targets = classifier
    num_probes = 20 if method == "xtrace" else 200
    estimate = hessian_trace(
        model, cross_entropy, (inputs, targets), num_probes, seed, method=method
    )
    assert abs(estimate.trace - dense.trace().item()) < 4 * estimate.std_error
    assert estimate.num_probes == num_probes


def test_the_variance_is_that_of_the_blocks(classifier, dense):
    model, inputs, targets = classifier
    whole, blockwise = off_diagonal(dense), 0.0
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
    sizes = [sum(p.numel() for p in layer.values()) for layer in by_layer(weights)]
    for x, y in zip(inputs.split(SAMPLE_BLOCK), targets.split(SAMPLE_BLOCK), strict=True):
        of_block = dense_hessian(model, cross_entropy, x, y) * (len(x) / len(inputs))
        for columns in torch.arange(len(of_block)).split(sizes):
            blockwise += off_diagonal(of_block[columns][:, columns])
    assert blockwise < whole / 2
    for method, squares in (("hutchinson", whole), ("blockwise", blockwise)):
        estimate = hessian_trace(model, cross_entropy, (inputs, targets), 400, method=method)
        # Relative error of a variance from 400 values: √((kurtosis − 1)/400), 0.1 for a kurtosis of
        # 5; five of those.
        assert estimate.std_error**2 == pytest.approx(2 * squares / 400, rel=0.5)


def test_two_standard_errors_cover_as_often_as_students_t_does():
    """Independent probes and a sum of many terms: errors over standard errors follow Student's t,
    29 degrees here.
    """
    parts = [with_spectrum(1 / torch.arange(1, 101) ** 0.5, seed) for seed in range(2)]
    exact = sum(part.trace().item() for part in parts)
    covered = 0
    for seed in range(400):
        values = hutchinson([operator_of(part) for part in parts], 30, seed)
        covered += abs(values.mean().item() - exact) < 2 * standard_error(values)
    share = 0.945  # of t_29 within ±2
    assert abs(covered / 400 - share) < 4 * math.sqrt(share * (1 - share) / 400)


def test_xtrace_has_the_smaller_error_and_understates_it_a_little():
    matrix = with_spectrum(1 / torch.arange(1, 101) ** 2)
    errors, stated = [], []
    for seed in range(200):
        values, num_products = xtrace(operator_of(matrix), 20, seed)
        assert num_products == 20
        errors.append(values.mean().item() - matrix.trace().item())
        stated.append(standard_error(values))
    actual, stated = np.square(errors).mean() ** 0.5, np.square(stated).mean() ** 0.5
    assert abs(np.mean(errors)) < 4 * actual / math.sqrt(200)  # unbiased
    assert actual < math.sqrt(2 * off_diagonal(matrix) / 20) / 5
    # the range that its docstring gives, with the noise of 200 seeds
    assert 0.5 < stated / actual < 1.1


def test_agrees_with_pyhessian(classifier):
    model, inputs, targets = classifier
    # of 100, 100 and 96, which it weights
    batches = list(zip(inputs.split(100), targets.split(100), strict=True))
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Using backward.. with create_graph=True")
        peer = pyhessian(copy.deepcopy(model), cross_entropy, dataloader=batches, cuda=False)
        # −∞: its rule divides by the signed trace
        values = torch.tensor(peer.trace(maxIter=200, tol=-math.inf))
    for method in METHODS:
        estimate = hessian_trace(model, cross_entropy, (inputs, targets), 100, method=method)
        assert abs(estimate.trace - values.mean().item()) < 4 * math.hypot(
            estimate.std_error, standard_error(values)
        )


def test_a_diagonal_hessian_is_exact_with_every_probe():
    """For L = mean x²(w₁..w_d) with one-hot inputs H is diagonal, and vᵀHv = tr H for every v of
    ±1.
    """
    model = nn.Linear(4, 1, bias=False)
    inputs = torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    for method in ("blockwise", "hutchinson"):
        estimate = hessian_trace(
            model, mse_loss, (inputs, torch.zeros(4, 1)), num_probes=4, method=method
        )
        assert estimate.trace == pytest.approx(2 * (1 + 4 + 9 + 16) / 4, rel=FLOAT32)
        assert estimate.std_error == pytest.approx(0, abs=30 * FLOAT32)


# ---- XTrace --------------------------------------------------------------------------------------


def summary_of(matrix, signs):
    """What `leave_one_out` takes, for probes that are the columns of `signs`."""
    images = matrix @ signs
    basis, triangle = torch.linalg.qr(images)
    return basis.T @ matrix @ basis, triangle, basis.T @ signs, (signs * images).sum(0)


@pytest.mark.parametrize("rank", [1, 3, 8, 20])
@pytest.mark.parametrize("repeated", [False, True])
def test_leaving_a_probe_out_is_what_it_says(rank, repeated):
    """Each estimate from a basis made without the probe, also where the products span less than
    there are probes.
    """
    matrix = with_spectrum(
        torch.cat([torch.linspace(1, 2, rank) * (-1) ** torch.arange(rank), torch.zeros(20 - rank)])
    )
    signs = torch.randint(2, (20, 7), generator=torch.Generator().manual_seed(1)).double() * 2 - 1
    if repeated:
        signs[:, 3] = signs[:, 5]
    expected = []
    for i in range(7):
        others = matrix @ signs[:, torch.arange(7) != i]
        basis, sizes, _ = torch.linalg.svd(others, full_matrices=False)
        basis = basis[:, sizes > 1e-10 * sizes[0]]
        rest = signs[:, i] - basis @ (basis.T @ signs[:, i])
        expected.append((basis.T @ matrix @ basis).trace() + rest @ matrix @ rest)
    torch.testing.assert_close(leave_one_out(*summary_of(matrix, signs)), torch.stack(expected))


def test_xtrace_is_that_of_curvlinops():
    matrix = with_spectrum(0.8 ** torch.arange(30))
    torch.manual_seed(0)
    signs = torch.stack(
        [random_vector(30, "rademacher", matrix.device, matrix.dtype) for _ in range(6)], dim=1
    )
    torch.manual_seed(0)
    expected = curvlinops_xtrace(matrix, num_matvecs=12)
    torch.testing.assert_close(leave_one_out(*summary_of(matrix, signs)).mean(), expected)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_xtrace_with_more_probes_than_dimensions_is_exact(dim):
    matrix = with_spectrum(torch.linspace(-1, 2, dim))
    values, num_products = xtrace(operator_of(matrix), 30)
    assert values.tolist() == pytest.approx([matrix.trace().item()] * 15)
    assert num_products == 15 + dim


def test_xtrace_of_nothing_is_zero():
    values, _ = xtrace(operator_of(torch.zeros(9, 9)), 6)
    assert values.tolist() == [0, 0, 0]


# ---- what must not matter ------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_batches_and_memory_change_nothing_but_rounding(classifier, method):
    model, inputs, targets = classifier
    reference = hessian_trace(model, cross_entropy, (inputs, targets), 12, method=method)
    for options in (
        {"batch_size": 7},
        {"batch_size": 100},
        {"memory_budget": 1},
        {"memory_budget": 100_000},
    ):
        estimate = hessian_trace(
            model, cross_entropy, (inputs, targets), 12, method=method, **options
        )
        assert estimate.trace == pytest.approx(reference.trace, rel=FLOAT32)
        # of differences
        assert estimate.std_error == pytest.approx(reference.std_error, rel=100 * FLOAT32)


@pytest.mark.parametrize("method", METHODS)
def test_same_seed_same_number_and_nothing_else_is_touched(classifier, method):
    model, inputs, targets = classifier
    model.train()
    state, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    first, again, other = (
        hessian_trace(model, cross_entropy, (inputs, targets), 10, seed=s, method=method)
        for s in (1, 1, 2)
    )
    assert first == again
    assert first.trace != other.trace
    assert torch.equal(torch.get_rng_state(), random_state)
    assert model.training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


def test_probes_are_signs_with_equal_odds():
    streams = [np.random.default_rng((0, probe)) for probe in range(20)]
    signs = streamed_signs(streams, Operator(None, 1001))
    assert signs.abs().eq(1).all()
    assert abs(signs.mean().item()) < 4 / math.sqrt(20 * 1001)
    overlaps = (signs @ signs.T / math.sqrt(1001)).triu(1)
    assert overlaps.abs().max() < 5  # rows are independent: 190 standard normal numbers


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device in this machine")
def test_the_same_on_cuda(classifier):
    model, inputs, targets = classifier
    for method in METHODS:
        here = hessian_trace(model, cross_entropy, (inputs, targets), 12, method=method)
        there = hessian_trace(
            copy.deepcopy(model).cuda(),
            cross_entropy,
            (inputs.cuda(), targets.cuda()),
            12,
            method=method,
        )
        # float32 products may be rounded at TF32's 1e-3
        assert there.trace == pytest.approx(here.trace, rel=1e-3)


# ---- when it stops -------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_stops_when_the_relative_error_is_reached(classifier, dense, method):
    model, inputs, targets = classifier
    wanted = 1e-3 if method == "xtrace" else 0.03
    estimate = hessian_trace(
        model, cross_entropy, (inputs, targets), 1000, relative_error=wanted, method=method
    )
    assert estimate.std_error <= wanted * abs(estimate.trace)
    assert 10 < estimate.num_probes < 1000
    assert estimate.num_probes % 10 == 0
    assert abs(estimate.trace - dense.trace().item()) < 5 * estimate.std_error
    # So many probes at once are the same estimate, and ten fewer were not enough.
    whole, before = (
        hessian_trace(model, cross_entropy, (inputs, targets), number, method=method)
        for number in (estimate.num_probes, estimate.num_probes - 10)
    )
    assert whole.trace == pytest.approx(estimate.trace, rel=FLOAT32)
    assert before.std_error > wanted * abs(before.trace)


@pytest.mark.parametrize("method", METHODS)
def test_uses_all_probes_where_the_error_is_not_reached(classifier, method):
    model, inputs, targets = classifier
    estimate = hessian_trace(
        model, cross_entropy, (inputs, targets), 24, relative_error=1e-9, method=method
    )
    assert estimate.num_probes == 24
    assert estimate == hessian_trace(
        model, cross_entropy, (inputs, targets), 24, relative_error=1e-9, method=method
    )


def test_negative_curvature_does_not_stop_it_early():
    """PyHessian's own rule divides by the signed trace; the standard error must be small at any
    sign.
    """
    torch.manual_seed(0)
    model, data = nn.Linear(3, 1, bias=False), (torch.randn(20, 3), torch.zeros(20))

    def loss(out, _):
        return -out.square().mean()

    all_probes = hessian_trace(model, loss, data, 30)
    assert all_probes.num_probes == 30
    assert all_probes.trace < 0
    assert all_probes.std_error > 0
    stopped = hessian_trace(model, loss, data, 1000, relative_error=0.05)
    assert stopped.std_error <= 0.05 * abs(stopped.trace)
    assert stopped.num_probes < 1000


# ---- models --------------------------------------------------------------------------------------


def test_one_probe_has_no_error(classifier):
    model, inputs, targets = classifier
    assert hessian_trace(model, cross_entropy, (inputs, targets), num_probes=1).std_error is None
    assert (
        hessian_trace(
            model, cross_entropy, (inputs, targets), num_probes=3, method="xtrace"
        ).std_error
        is None
    )


class Tied(nn.Module):
    """One layer used twice."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.second.weight = self.first.weight

    def forward(self, inputs):
        return self.head(torch.tanh(self.second(torch.tanh(self.first(inputs)))))


def normalised() -> nn.Module:
    """With running statistics that are not those of the data."""
    model = nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)
    )
    model(torch.randn(50, 6))
    return model.eval()


def frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    model[0].weight.requires_grad_(False)
    return model


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)
    )


@pytest.mark.parametrize(
    "build", [Tied, normalised, frozen, convolutional, lambda: frozen().double()]
)
@pytest.mark.parametrize("method", METHODS)
def test_other_models(classifier, build, method):
    _, inputs, targets = classifier
    torch.manual_seed(0)
    model = build()
    exact = dense_hessian(model, cross_entropy, inputs, targets).trace().item()
    kind = next(model.parameters()).dtype
    estimate = hessian_trace(model, cross_entropy, (inputs.to(kind), targets), 60, method=method)
    # all the error that XTrace has where the rank is below 30
    rounding = 10 * torch.finfo(kind).eps * exact
    assert abs(estimate.trace - exact) < 4 * estimate.std_error + rounding


def test_batch_norm_and_dropout_are_refused_in_training_mode(classifier):
    _, inputs, targets = classifier
    with pytest.raises(
        ValueError, match=r"BatchNorm1d that normalises with the batch's statistics.*model.eval\(\)"
    ):
        hessian_trace(normalised().train(), cross_entropy, (inputs, targets), 5)
    with pytest.raises(ValueError, match=r"Dropout in training mode.*model.eval\(\)"):
        hessian_trace(
            nn.Sequential(nn.Linear(6, 3), nn.Dropout(0.5)), cross_entropy, (inputs, targets), 5
        )


def test_class_weights_count_over_all_the_data(classifier, dense):
    """In batches of any size, as PyTorch's loss does with the data in one."""
    model, inputs, targets = classifier
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 10.0, 0.1]))
    exact = dense_hessian(
        model, lambda out, y: cross_entropy(out, y, loss.weight.double()), inputs, targets
    ).trace()
    for batch_size in (50, 296):
        estimate = hessian_trace(model, loss, (inputs, targets), 100, batch_size=batch_size)
        assert abs(estimate.trace - exact.item()) < 4 * estimate.std_error


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_probes": 0}, "num_probes = 0; allowed: an integer, at least 1"),
        ({"num_probes": 2.5}, "num_probes = 2.5; allowed"),
        ({"num_probes": 1, "method": "xtrace"}, "num_probes = 1; allowed with xtrace: at least 2"),
        ({"seed": -1}, "seed = -1; allowed"),
        ({"batch_size": 0}, "batch_size = 0; allowed"),
        ({"relative_error": 0.0}, "relative_error = 0.0; allowed: positive"),
        ({"relative_error": math.nan}, "relative_error = nan; allowed: positive"),
        ({"method": "hutch++"}, "method = 'hutch\\+\\+'; allowed: blockwise, hutchinson, xtrace"),
        ({"memory_budget": 0}, "memory_budget = 0; allowed"),
    ],
)
def test_arguments_out_of_range_are_refused(classifier, options, message):
    model, inputs, targets = classifier
    with pytest.raises(ValueError, match=message):
        hessian_trace(model, cross_entropy, (inputs, targets), **options)


def test_data_without_a_hessian_is_refused(classifier):
    model, inputs, targets = classifier
    with pytest.raises(ValueError, match="data is empty; allowed: at least one sample"):
        hessian_trace(model, cross_entropy, (inputs[:0], targets[:0]))
    with pytest.raises(ValueError, match="296 inputs and 295 targets"):
        hessian_trace(model, cross_entropy, (inputs, targets[1:]))
    with pytest.raises(ValueError, match="labels go from 1 to 3; allowed for 3 outputs: 0 to 2"):
        hessian_trace(model, cross_entropy, (inputs, targets + 1))
    with pytest.raises(ValueError, match="returns a sum over the samples"):
        hessian_trace(model, nn.CrossEntropyLoss(reduction="sum"), (inputs, targets))


def test_models_without_a_hessian_are_refused(classifier):
    model, inputs, targets = classifier
    for empty in (nn.Flatten(), copy.deepcopy(model).requires_grad_(False)):
        with pytest.raises(ValueError, match="no weights that require a gradient"):
            hessian_trace(empty, cross_entropy, (inputs, targets.clamp(max=1)))
    broken = copy.deepcopy(model)
    broken[2].bias.data[1] = math.inf
    with pytest.raises(ValueError, match=r"2\.bias holds weights that are not finite"):
        hessian_trace(broken, cross_entropy, (inputs, targets))
    batch_wise = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3, track_running_stats=False))
    with pytest.raises(ValueError, match="normalises with the batch's statistics"):
        hessian_trace(batch_wise, cross_entropy, (inputs, targets))
