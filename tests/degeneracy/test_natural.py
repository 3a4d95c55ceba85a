"""Is every way to the natural direction the same solution, and is bad input refused?"""

import doctest
import math

import numpy as np
import pytest
import scipy.linalg
import torch

from degeneracy import natural
from degeneracy.natural import (
    METHODS,
    RankDeficiencyWarning,
    SingularFactors,
    adjoint_gap,
    natural_direction,
)
from degeneracy.optimizers.exact_ngd import fisher_matrix, natural_gradient

ROUNDING = 1e-11  # float64's 2e-16 times condition numbers up to 1e3 and some ten operations
DENSE = ("qr", "svd", "gram")


def matrix(n, p, singular_values=None, seed=0):
    """A Jacobian with given singular values, by default 1 … 0.1, and a wanted change."""
    generator = torch.Generator().manual_seed(seed)
    k = min(n, p)
    values = (
        torch.linspace(1, 0.1, k, dtype=torch.float64)
        if singular_values is None
        else singular_values
    )
    u, v = (
        torch.linalg.qr(torch.randn(size, k, generator=generator, dtype=torch.float64))[0]
        for size in (n, p)
    )
    wanted = torch.randn(n, generator=generator, dtype=torch.float64)
    return u @ torch.diag(torch.as_tensor(values, dtype=torch.float64)) @ v.T, wanted


def apart(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("shape", [(40, 12), (12, 40), (20, 20), (7, 1), (1, 7)])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_the_shortest_least_squares_solution(shape, method):
    jacobian, wanted = matrix(*shape)
    found = natural_direction(jacobian, wanted, method=method)
    reference = scipy.linalg.lstsq(jacobian.numpy(), wanted.numpy())[0]
    limit = 1e-9 if method == "lsqr" else ROUNDING
    assert apart(found.direction, torch.from_numpy(reference)) < limit
    missed = (jacobian @ torch.from_numpy(reference) - wanted).norm() / wanted.norm()
    assert found.residual == pytest.approx(float(missed), abs=limit)


@pytest.mark.parametrize("shape", [(40, 12), (12, 40)])
@pytest.mark.parametrize("method", METHODS)
def test_damping_is_that_of_the_normal_equations(shape, method):
    jacobian, wanted = matrix(*shape)
    found = natural_direction(jacobian, wanted, damping=0.03, method=method)
    normal = jacobian.T @ jacobian + 0.03 * torch.eye(shape[1], dtype=torch.float64)
    reference = torch.linalg.solve(normal, jacobian.T @ wanted)
    assert apart(found.direction, reference) < (1e-9 if method == "lsqr" else ROUNDING)


@pytest.mark.parametrize("shape", [(30, 8), (8, 30)])
@pytest.mark.parametrize("method", DENSE)
@pytest.mark.parametrize("damping", [0.0, 0.01])
def test_a_cut_off_drops_small_singular_values_only(shape, method, damping):
    values = [1.0, 0.9, 0.8, 0.7, 0.6, 1e-6, 1e-6, 1e-6]
    jacobian, wanted = matrix(*shape, values)
    found = natural_direction(jacobian, wanted, cut=1e-3, damping=damping, method=method)
    u, s, vh = np.linalg.svd(jacobian.numpy(), full_matrices=False)
    part = s[:5] / (s[:5] ** 2 + damping)
    reference = torch.from_numpy(vh[:5].T @ (part * (u[:, :5].T @ wanted.numpy())))
    # what QR keeps is the span of five columns' rows, off the singular one by (1e-6)² at most
    assert (found.rank, found.cut) == (5, 1e-3)
    assert apart(found.direction, reference) < (1e-5 if method == "qr" else 1e-9)


def test_singular_values_are_reported_as_they_are():
    jacobian, wanted = matrix(30, 8)
    found = {method: natural_direction(jacobian, wanted, method=method) for method in DENSE}
    assert found["svd"].largest == pytest.approx(1.0, rel=ROUNDING)
    assert found["gram"].smallest == pytest.approx(0.1, rel=1e-9)
    assert found["qr"].largest is None
    assert {one.rank for one in found.values()} == {8}


@pytest.mark.parametrize("method", ["qr", "svd"])
def test_nearly_parallel_columns_cost_the_normal_equations_half_of_the_digits(method):
    jacobian, _ = matrix(60, 10, np.geomspace(1, 1e-6, 10))
    truth = torch.ones(10, dtype=torch.float64)
    wanted = jacobian @ truth
    direct = apart(natural_direction(jacobian, wanted, method=method).direction, truth)
    normal = torch.linalg.solve(jacobian.T @ jacobian, jacobian.T @ wanted)
    assert direct < 1e-8  # condition 1e6 times rounding
    assert apart(normal, truth) > 1e3 * direct


def test_factors_serve_several_cut_offs_and_residuals():
    jacobian, wanted = matrix(30, 12, np.geomspace(1, 1e-8, 12))
    factors = SingularFactors(jacobian)
    ranks = []
    for cut in (1e-2, 1e-4, 1e-6):
        for residual in (wanted, wanted.flip(0)):
            alone = natural_direction(jacobian, residual, cut=cut, method="qr")
            again = natural_direction(jacobian, residual, cut=cut, method="svd")
            one = factors.direction(residual, cut=cut)
            assert apart(one.direction, again.direction) < ROUNDING
            assert one.residual == pytest.approx(again.residual)
        ranks.append(one.rank)
        assert abs(one.rank - alone.rank) <= 1  # pivots estimate singular values
    assert ranks == [3, 6, 9]  # s_k = 10^(−8k/11): those above each cut-off
    with pytest.raises(ValueError, match=r"shape \(30, 12\) given with 29 residuals"):
        factors.direction(wanted[1:], cut=1e-2)


def test_lsqr_by_products_equals_dense():
    jacobian, wanted = matrix(300, 80, np.geomspace(1, 1e-3, 80))
    pair = (lambda v: jacobian @ v, lambda u: jacobian.T @ u)
    assert adjoint_gap(pair, 300, 80) < 1e-12
    found = natural_direction(pair, wanted, method="lsqr")
    dense = natural_direction(jacobian, wanted, method="svd")
    assert apart(found.direction, dense.direction) < 1e-9
    assert found.iterations > 0
    assert (found.rank, found.cut) == (None, None)


def test_a_pair_that_is_not_adjoint_is_refused():
    jacobian, wanted = matrix(50, 20)
    with pytest.raises(ValueError, match=r"not adjoint: ⟨Jv, u⟩ and ⟨v, Jᵀu⟩ differ by"):
        natural_direction(
            (lambda v: jacobian @ v, lambda u: 1.001 * jacobian.T @ u), wanted, method="lsqr"
        )
    with pytest.raises(ValueError, match=r"products of shapes \(20,\) and \(20,\)"):
        adjoint_gap((lambda v: v, lambda u: jacobian.T @ u), 50, 20)


def test_a_pair_of_zeros_is_adjoint_and_answers_nothing():
    pair = (lambda v: torch.zeros(4), lambda u: torch.zeros(3))
    assert adjoint_gap(pair, 4, 3, like=torch.zeros(())) == 0
    found = natural_direction(pair, torch.ones(4), method="lsqr")
    assert not found.direction.any()


@pytest.mark.parametrize("shape", [(30, 8), (8, 30)])
@pytest.mark.parametrize("damping", [0.0, 1e-3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_cut_off_that_squares_do_not_resolve_is_refused_for_gram_alone(shape, damping, dtype):
    jacobian, wanted = (tensor.to(dtype) for tensor in matrix(*shape))
    resolved = math.sqrt(30 * torch.finfo(dtype).eps)
    how = {"damping": damping, "cut": 0.99 * resolved}
    with pytest.raises(ValueError, match=r"given with method 'gram', .* allowed: at least that"):
        natural_direction(jacobian, wanted, method="gram", **how)
    for method in ("qr", "svd"):
        assert natural_direction(jacobian, wanted, method=method, **how).cut == how["cut"]
    how["cut"] = 1.01 * resolved
    assert natural_direction(jacobian, wanted, method="gram", **how).cut == how["cut"]


def test_lsqr_says_where_it_gave_up():
    # Krylov's method loses its orthogonality long before 1e-13 of s_max is resolved
    jacobian, wanted = matrix(60, 40, np.geomspace(1, 1e-13, 40))
    with pytest.warns(RuntimeWarning, match="LSQR stopped after 1,600 iterations before it conv"):
        natural_direction(jacobian, wanted, method="lsqr")


@pytest.mark.parametrize("method", DENSE)
def test_a_deficient_rank_is_said_unless_it_was_asked_for(method):
    jacobian, wanted = matrix(20, 6)
    jacobian[:, 5] = jacobian[:, 4]
    with pytest.warns(RankDeficiencyWarning, match=r"rank 5 of 6: rows or columns depend"):
        found = natural_direction(jacobian, wanted, method=method)
    reference = torch.from_numpy(np.linalg.pinv(jacobian.numpy())) @ wanted
    assert found.rank == 5
    assert apart(found.direction, reference) < (1e-7 if method == "gram" else 1e-10)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("how", [{"cut": 1e-6}, {"damping": 1e-3}])
def test_a_cut_off_or_damping_is_no_surprise(how):
    jacobian, wanted = matrix(20, 6)
    jacobian[:, 5] = jacobian[:, 4]
    assert natural_direction(jacobian, wanted, **how).rank == 5


@pytest.mark.parametrize("method", METHODS)
def test_nothing_wanted_moves_nothing(method):
    jacobian, wanted = matrix(20, 6)
    found = natural_direction(jacobian, torch.zeros_like(wanted), method=method)
    assert not found.direction.any()
    assert found.residual == 0


@pytest.mark.filterwarnings("ignore::degeneracy.natural.RankDeficiencyWarning")
@pytest.mark.parametrize("method", METHODS)
def test_a_jacobian_of_zeros_answers_nothing(method):
    found = natural_direction(torch.zeros(4, 3), torch.ones(4), method=method)
    assert not found.direction.any()
    assert found.residual == 1


@pytest.mark.parametrize("method", METHODS)
def test_float32_stays_float32(method):
    jacobian, wanted = matrix(30, 8)
    found = natural_direction(jacobian.float(), wanted.float(), method=method)
    exact = natural_direction(jacobian, wanted).direction
    assert found.direction.dtype == torch.float32
    # condition 10, which Gram matrices square, and the least-squares residual's share of it again
    assert apart(found.direction.double(), exact) < 1e3 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cut": 0.0}, r"cut = 0.0 given; allowed: in \(0, 1\)"),
        ({"cut": 1.0}, r"cut = 1.0 given; allowed: in \(0, 1\)"),
        ({"cut": math.nan}, r"cut = nan given"),
        ({"damping": -1e-3}, "damping = -0.001 given; allowed: ≥ 0"),
        ({"damping": math.inf}, "damping = inf given"),
        ({"method": "lu"}, "method = 'lu' given; allowed: qr, svd, gram, lsqr"),
        ({"method": "lsqr", "cut": 0.1}, "cut = 0.1 given with method 'lsqr'"),
        ({"jacobian": torch.zeros(3)}, r"Jacobian of shape \(3,\) given; allowed: \(n, p\)"),
        ({"jacobian": torch.zeros(3, 2)}, r"Jacobian of shape \(3, 2\) given with 4 residuals"),
        ({"jacobian": torch.ones(4, 2).double()}, "allowed: one type, on one device"),
        ({"jacobian": torch.full((4, 2), math.nan)}, "the Jacobian has 8 entries of 8 that are"),
        ({"residual": torch.tensor([1.0, math.inf, 0, 0])}, "the residual has 1 entries of 4"),
        ({"residual": torch.ones(4, dtype=torch.int64)}, "allowed: float32 or float64"),
        ({"residual": torch.zeros(0)}, r"allowed: \(n,\) with n ≥ 1"),
        ({"jacobian": (lambda v: v, lambda u: u)}, "a pair of products given with method 'qr'"),
    ],
)
def test_bad_input_is_refused(change, message):
    given = {"jacobian": torch.eye(4, 2), "residual": torch.ones(4)} | change
    with pytest.raises(ValueError, match=message):
        natural_direction(given.pop("jacobian"), given.pop("residual"), **given)


def test_products_that_are_not_finite_are_refused():
    pair = (lambda v: torch.full((4,), math.nan), lambda u: torch.full((2,), math.nan))
    with pytest.raises(ValueError, match="Jᵀr has 2 entries of 2 that are not finite"):
        natural_direction(pair, torch.ones(4), method="lsqr")


@pytest.mark.parametrize("width", [3, 12])  # fewer and more weights than samples
def test_exact_natural_gradient_is_least_squares_in_the_scores(width):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(2, width), torch.nn.Tanh())
    model = torch.nn.Sequential(model, torch.nn.Linear(width, 3)).double()
    inputs, labels = torch.randn(20, 2).double(), torch.randint(3, (20,))
    scores = []
    for x, y in zip(inputs, labels, strict=True):
        loss = torch.nn.functional.cross_entropy(model(x[None]), y[None])
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        scores.append(-torch.cat([g.flatten() for g in gradients]))
    rows, wanted = torch.stack(scores) / 20**0.5, torch.full((20,), -(20**-0.5)).double()
    fisher = fisher_matrix(model, inputs, labels, kind="empirical")
    dense = natural_gradient(rows.T @ wanted, fisher, 0.01)
    found = natural_direction(rows, wanted, damping=0.01, method="gram")
    assert apart(found.direction, dense) < ROUNDING


def test_examples():
    assert doctest.testmod(natural).failed == 0
