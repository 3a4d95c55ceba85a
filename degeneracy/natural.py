"""Which direction is the natural gradient, when the metric is a Jacobian's? d = argmin |Jd − r|.

A model's outputs move by Jd when its weights move by d. Whatever the metric on outputs, |Lζ|², the
Jacobian times L as J makes the natural gradient the least-squares solution of Jd = r, the weights'
best answer to a wanted change r of the outputs (Amari, Neural Computation 10:251, 1998; Nurbekyan,
Lei & Yang, arXiv:2202.06236). Normal equations square J's condition number; QR and SVD do not, and
LSQR needs only products with J and Jᵀ. What is as good as zero in J's spectrum has to be cut off or
damped, and every solution here says how: its cut-off, its rank, and what it misses.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.sparse.linalg
import torch
from jaxtyping import Float
from torch import Tensor

METHODS = ("qr", "svd", "gram", "lsqr")
Product = Callable[[Tensor], Tensor]  # v ↦ Jv, or u ↦ Jᵀu
LSQR_TOLERANCE = 1e-14  # of the normal equations' residual, relative; its solution is then dense's
LSQR_STEPS = 40  # iterations until LSQR gives up, for each of min(n, p)


class RankDeficiencyWarning(UserWarning):
    """J has singular values that are zero to rounding, and no cut-off or damping was asked for."""


@dataclass(frozen=True)
class NaturalDirection:
    """A least-squares direction, and how it was cut.

    Attributes:
        direction: d (p,), in J's type and on its device.
        residual: |Jd − r| / |r|; 0 where r = 0. 1 means that the weights cannot answer r at all.
        rank: How many singular values (for `"qr"` pivots) were kept; None where not known.
        cut: Below which part of the largest they were dropped, rounding's where none was asked for;
            None where nothing was cut.
        largest, smallest: Of J's singular values, before the cut; None where not known.
        iterations: Of LSQR; None for the direct methods.
    """

    direction: Float[Tensor, " p"]
    residual: float
    rank: int | None = None
    cut: float | None = None
    largest: float | None = None
    smallest: float | None = None
    iterations: int | None = None


@torch.no_grad()
def natural_direction(
    jacobian: Float[Tensor, "n p"] | tuple[Product, Product],
    residual: Float[Tensor, " n"],
    *,
    cut: float | None = None,
    damping: float = 0.0,
    method: str = "qr",
) -> NaturalDirection:
    """d = argmin |Jd − r|² + λ|d|², of all minimisers the shortest.

    `"svd"` is the most exact and knows all singular values. `"qr"`, with column pivoting by SciPy
    on the CPU, is cheaper; its cut is by the pivots, which estimate singular values. `"gram"`
    factorises the smaller of JJᵀ and JᵀJ, the cheapest where one side is short, and resolves
    singular values down to √ε of the largest only. `"lsqr"` (Paige & Saunders, ACM TOMS 8:43, 1982;
    SciPy's) takes a pair of products.

    Args:
        jacobian: J, float32 or float64; for `"lsqr"` also the pair (v ↦ Jv, u ↦ Jᵀu).
        residual: r, the wanted change of the outputs; the caller chooses its sign.
        cut: Singular values below `cut` × largest are dropped; in (0, 1), for `"gram"` at least
            √(ε·max(n, p)). None: those that are zero to rounding, and then a deficient rank is
            warned of unless it is damped.
        damping: λ ≥ 0, in the unit of J².
        method: One of `METHODS`.

    Raises:
        ValueError: An argument out of its range, shapes or types that do not fit, entries that are
            not finite, products that are not adjoint, or a cut-off for `"lsqr"`.

    Warns:
        RankDeficiencyWarning: Singular values are zero to rounding, and nobody asked for a cut-off.
        RuntimeWarning: LSQR gave up before it converged.

    Example:
        >>> jacobian = torch.tensor([[2.0, 0.0], [0.0, 1e-3], [0.0, 0.0]])
        >>> wanted = torch.tensor([1.0, 1.0, 0.0])
        >>> natural_direction(jacobian, wanted).direction
        tensor([5.0000e-01, 1.0000e+03])
        >>> kept = natural_direction(jacobian, wanted, cut=1e-2, method="svd")
        >>> kept.direction, kept.rank
        (tensor([0.5000, 0.0000]), 1)
    """
    _check_choices(cut, damping, method)
    if isinstance(jacobian, tuple):
        if method != "lsqr":
            raise ValueError(
                f"a pair of products given with method {method!r}; allowed: 'lsqr', which needs no"
                " more of J"
            )
        _check_vector(residual)
        products, width = jacobian, _width(jacobian[1], residual)
        gap = adjoint_gap(jacobian, len(residual), width, like=residual)
        if not gap <= math.sqrt(torch.finfo(residual.dtype).eps):
            raise ValueError(
                f"the pair is not adjoint: ⟨Jv, u⟩ and ⟨v, Jᵀu⟩ differ by {gap:.2g} of their size;"
                " allowed: (v ↦ Jv, u ↦ Jᵀu) of one matrix J"
            )
        return _by_lsqr(products, width, residual, damping, cut)
    _check_jacobian(jacobian)
    _check_pair(jacobian, residual)
    if method == "lsqr":
        products = (lambda v: jacobian @ v, lambda u: jacobian.T @ u)
        return _by_lsqr(products, jacobian.shape[1], residual, damping, cut)
    solve = {"qr": _by_qr, "svd": _by_svd, "gram": _by_gram}[method]
    found = solve(jacobian, residual, cut, damping)
    if cut is None and not damping and found.rank < min(jacobian.shape):
        warnings.warn(deficiency(found, jacobian.shape), RankDeficiencyWarning, stacklevel=3)
    return found


class SingularFactors:
    """J's singular value decomposition, for directions at several cut-offs or residuals.

    Args:
        jacobian: J (n, p), float32 or float64.

    Raises:
        ValueError: As `natural_direction`.
    """

    @torch.no_grad()
    def __init__(self, jacobian: Float[Tensor, "n p"]):
        _check_jacobian(jacobian)
        self.jacobian = jacobian
        self.u, self.s, self.vh = torch.linalg.svd(jacobian, full_matrices=False)

    @torch.no_grad()
    def direction(
        self, residual: Float[Tensor, " n"], *, cut: float | None = None, damping: float = 0.0
    ) -> NaturalDirection:
        """`natural_direction(jacobian, residual, method="svd")`, without its warning.

        Raises:
            ValueError: As `natural_direction`.
        """
        _check_choices(cut, damping, "svd")
        _check_pair(self.jacobian, residual)
        cut = _rounding(self.jacobian) if cut is None else cut
        keep = self.s > cut * self.s[0]
        weights = torch.where(keep, self.s / torch.where(keep, self.s**2 + damping, 1.0), 0.0)
        direction = self.vh.T @ (weights * (self.u.T @ residual))
        missed = _missed(self.jacobian, direction, residual)
        largest, smallest = float(self.s[0]), float(self.s[-1])
        return NaturalDirection(direction, missed, int(keep.sum()), cut, largest, smallest)


@torch.no_grad()
def adjoint_gap(pair: tuple[Product, Product], n: int, p: int, like: Tensor | None = None) -> float:
    """|⟨Jv, u⟩ − ⟨v, Jᵀu⟩| / (|Jv||u| + |v||Jᵀu|) for one fixed random v (p,) and u (n,).

    Zero to rounding where the pair belongs to one matrix, and where both products vanish; some 1/√n
    where it does not belong to one.

    Args:
        like: Gives type and device; None: float64 on the CPU.
    """
    like = torch.zeros((), dtype=torch.float64) if like is None else like
    generator = torch.Generator().manual_seed(0)
    v, u = (torch.randn(size, generator=generator, dtype=torch.float64).to(like) for size in (p, n))
    pushed, pulled = pair[0](v), pair[1](u)
    if pushed.shape != u.shape or pulled.shape != v.shape:
        raise ValueError(
            f"products of shapes {tuple(pushed.shape)} and {tuple(pulled.shape)} given; allowed:"
            f" ({n},) for Jv and ({p},) for Jᵀu"
        )
    scale = pushed.norm() * u.norm() + v.norm() * pulled.norm()
    return float((pushed @ u - v @ pulled).abs() / scale) if scale else 0.0


def deficiency(found: NaturalDirection, shape: Sequence[int]) -> str:
    """What a direction of a rank-deficient J says of it, in a sentence."""
    n, p = shape
    return (
        f"J ({n:,} × {p:,}) has rank {found.rank:,} of {min(n, p):,}: rows or columns depend on"
        f" each other to rounding, so the answer misses {100 * found.residual:.3g} % of r and is"
        " the shortest of many; give a cut-off or a damping where that is meant"
    )


# ---- the four methods ----------------------------------------------------------------------------


def _by_svd(jacobian: Tensor, residual: Tensor, cut: float | None, damping: float):
    return SingularFactors(jacobian).direction(residual, cut=cut, damping=damping)


def _by_qr(jacobian: Tensor, residual: Tensor, cut: float | None, damping: float):
    """By JP = Q[R₁ R₂; 0 0], and where it is not square a second QR, of [R₁ R₂]ᵀ."""
    matrix, wanted = jacobian.cpu().numpy(), residual.cpu().numpy()
    q, r, order = scipy.linalg.qr(matrix, mode="economic", pivoting=True, check_finite=False)
    pivots = np.abs(np.diag(r))
    cut = _rounding(jacobian) if cut is None else cut
    rank = int((pivots > cut * pivots[0]).sum())
    aim, rows = q[:, :rank].T @ wanted, r[:rank]
    permuted = np.zeros(matrix.shape[1], matrix.dtype)
    if rank and rank == len(permuted) and not damping:
        permuted = scipy.linalg.solve_triangular(rows, aim, check_finite=False)
    elif rank:
        basis, triangle = scipy.linalg.qr(rows.T, mode="economic", check_finite=False)
        if damping:
            stacked = np.vstack([triangle.T, math.sqrt(damping) * np.eye(rank, dtype=aim.dtype)])
            left, upper = scipy.linalg.qr(stacked, mode="economic", check_finite=False)
            inner = scipy.linalg.solve_triangular(upper, left[:rank].T @ aim, check_finite=False)
        else:
            inner = scipy.linalg.solve_triangular(triangle, aim, trans="T", check_finite=False)
        permuted = basis @ inner
    direction = np.empty_like(permuted)
    direction[order] = permuted
    found = torch.from_numpy(direction).to(jacobian)
    return NaturalDirection(found, _missed(jacobian, found, residual), rank, cut)


def _by_gram(jacobian: Tensor, residual: Tensor, cut: float | None, damping: float):
    """By the eigenvalues s² of the smaller Gram matrix; damped without a cut-off by Cholesky."""
    n, p = jacobian.shape
    resolved = math.sqrt(_rounding(jacobian))
    if cut is not None and cut < resolved:
        raise ValueError(
            f"cut = {cut!r} given with method 'gram', whose squares resolve singular values down to"
            f" {resolved:.2g} of the largest; allowed: at least that, or 'qr' or 'svd'"
        )
    wide = n <= p
    gram = jacobian @ jacobian.T if wide else jacobian.T @ jacobian
    aim = residual if wide else jacobian.T @ residual
    if damping and cut is None:
        gram.diagonal().add_(damping)
        factor, failed = torch.linalg.cholesky_ex(gram)
        if not failed:
            solved = torch.cholesky_solve(aim[:, None], factor)[:, 0]
            direction = jacobian.T @ solved if wide else solved
            return NaturalDirection(direction, _missed(jacobian, direction, residual))
        gram.diagonal().sub_(damping)
    squares, vectors = torch.linalg.eigh(gram)
    squares = squares.clamp_min(0)
    cut = resolved if cut is None else cut
    keep = squares > cut**2 * squares[-1]
    weights = torch.where(keep, 1 / torch.where(keep, squares + damping, 1.0), 0.0)
    solved = vectors @ (weights * (vectors.T @ aim))
    direction = jacobian.T @ solved if wide else solved
    largest, smallest = (float(square.sqrt()) for square in (squares[-1], squares[0]))
    missed, rank = _missed(jacobian, direction, residual), int(keep.sum())
    return NaturalDirection(direction, missed, rank, cut, largest, smallest)


def _by_lsqr(
    products: tuple[Product, Product],
    width: int,
    residual: Tensor,
    damping: float,
    cut: float | None,
) -> NaturalDirection:
    if cut is not None:
        raise ValueError(
            f"cut = {cut!r} given with method 'lsqr', which sees no singular values; allowed: None,"
            " or a damping"
        )
    wanted = residual.cpu().numpy().astype(np.float64)

    def through(product: Product) -> Callable[[np.ndarray], np.ndarray]:
        return lambda v: product(torch.from_numpy(v.ravel()).to(residual)).cpu().numpy()

    matvec, rmatvec = map(through, products)
    operator = scipy.sparse.linalg.LinearOperator(
        (len(wanted), width), matvec=matvec, rmatvec=rmatvec, dtype=np.float64
    )
    tolerance = max(LSQR_TOLERANCE, float(torch.finfo(residual.dtype).eps) / 8)
    limit = LSQR_STEPS * min(operator.shape)
    solution, stopped, steps, *_ = scipy.sparse.linalg.lsqr(
        operator,
        wanted,
        damp=math.sqrt(damping),
        atol=tolerance,
        btol=tolerance,
        conlim=0,
        iter_lim=limit,
    )
    direction = torch.from_numpy(solution).to(residual)
    _check_finite("LSQR's solution", direction)
    missed = wanted - matvec(solution)
    norm = np.linalg.norm(wanted)
    relative = float(np.linalg.norm(missed) / norm) if norm else 0.0
    if stopped == 7:
        warnings.warn(
            f"LSQR stopped after {steps:,} iterations before it converged, with {relative:.2g} of r"
            " missed; a damping makes it faster",
            RuntimeWarning,
            stacklevel=4,
        )
    return NaturalDirection(direction, relative, iterations=int(steps))


def _rounding(jacobian: Tensor) -> float:
    """Part of the largest singular value below which one is zero to rounding."""
    return max(jacobian.shape) * torch.finfo(jacobian.dtype).eps


def _missed(jacobian: Tensor, direction: Tensor, residual: Tensor) -> float:
    norm = residual.norm()
    return float((jacobian @ direction - residual).norm() / norm) if norm else 0.0


# ---- what is refused -----------------------------------------------------------------------------


def _check_choices(cut: float | None, damping: float, method: str) -> None:
    if method not in METHODS:
        raise ValueError(f"method = {method!r} given; allowed: {', '.join(METHODS)}")
    if cut is not None and not 0 < cut < 1:
        raise ValueError(f"cut = {cut!r} given; allowed: in (0, 1), of the largest, or None")
    if not 0 <= damping < math.inf:
        raise ValueError(f"damping = {damping!r} given; allowed: ≥ 0 and finite")


def _check_vector(residual: Tensor) -> None:
    if residual.ndim != 1 or not len(residual):
        raise ValueError(
            f"a residual of shape {tuple(residual.shape)} given; allowed: (n,) with n ≥ 1"
        )
    if residual.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"a residual of {residual.dtype} given; allowed: float32 or float64")
    _check_finite("the residual", residual)


def _check_jacobian(jacobian: Tensor) -> None:
    if jacobian.ndim != 2 or not jacobian.numel():
        raise ValueError(
            f"a Jacobian of shape {tuple(jacobian.shape)} given; allowed: (n, p) with n, p ≥ 1"
        )
    if jacobian.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"a Jacobian of {jacobian.dtype} given; allowed: float32 or float64")
    _check_finite("the Jacobian", jacobian)


def _check_pair(jacobian: Tensor, residual: Tensor) -> None:
    _check_vector(residual)
    if len(jacobian) != len(residual):
        raise ValueError(
            f"a Jacobian of shape {tuple(jacobian.shape)} given with {len(residual)} residuals;"
            f" allowed: ({len(residual)}, p)"
        )
    if jacobian.dtype != residual.dtype or jacobian.device != residual.device:
        raise ValueError(
            f"a Jacobian of {jacobian.dtype} on {jacobian.device} and residuals of"
            f" {residual.dtype} on {residual.device} given; allowed: one type, on one device"
        )


def _check_finite(what: str, values: Tensor) -> None:
    if not values.isfinite().all():
        count = int((~values.isfinite()).sum())
        raise ValueError(
            f"{what} has {count:,} entries of {values.numel():,} that are not finite; allowed:"
            " finite numbers"
        )


def _width(rmatvec: Product, residual: Tensor) -> int:
    """p, as Jᵀr has it."""
    pulled = rmatvec(residual)
    if pulled.ndim != 1 or not len(pulled):
        raise ValueError(f"Jᵀu of shape {tuple(pulled.shape)} given; allowed: (p,) with p ≥ 1")
    _check_finite("Jᵀr", pulled)
    return len(pulled)
