"""Which eigenvalues lie at the end of a large spectrum, each as often as it is repeated, and with
which eigenvectors? By a block Krylov method with thick restarts, from products alone.

The basis grows by the residuals of the wanted Ritz pairs, several at once (Davidson's method
without a preconditioner: Saad, "Numerical Methods for Large Eigenvalue Problems", 2nd ed., SIAM
2011, section 8.4), and shrinks to the best Ritz vectors when it is full (Wu & Simon, "Thick-restart
Lanczos method", SIAM J. Matrix Anal. Appl. 22:602, 2000). A Krylov space of one vector, as
ARPACK's, holds one eigenvector of each eigenvalue, whatever its multiplicity; that of a block as
many as the block has rows. So that none is missed beyond, random vectors orthogonal to all that was
found are iterated in the end, until a copy turns up or hardly any can be left. SciPy's `lobpcg` has
blocks too, but with float32 products it ended an indefinite spectrum far above the tolerance, with
a warning, and on a network's Hessian it took longer.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from degeneracy.curvature.checks import check_at_least_one
from degeneracy.curvature.operators import ROWS_AT_ONCE, Operator
from degeneracy.curvature.spectrum import BASIS_BYTES, check_finite

DENSE_DIM = 256  # up to here eigenvalues come from the whole matrix
DENSE_SHARE = 5  # and where more than one in so many is wanted
MAX_STEPS = 2000  # blocks of products before the search is given up
MISSED = 0.01  # odds at which a verification from a random vector may overlook an eigenvalue
ROUNDING = 100  # ε·‖A‖: residuals below may be rounding of the products, which no step lessens
PATIENCE = 10  # steps without progress that tell they are
DEPENDENT = 1e-6  # part of a unit vector outside the basis, below which nothing new is in it


@dataclass(frozen=True)
class Eigenpairs:
    """k eigenvalues at one end of a symmetric matrix A, with orthonormal eigenvectors.

    Attributes:
        values: θ, descending for the largest, ascending for the smallest; in A's units (Hessian:
            loss / weight²).
        vectors: A unit vector v a row, orthogonal to the others, of the operator's type and on its
            device. Row i as the model's weights: `degeneracy.weights.named(vectors[i], weights)`.
        residuals: ‖A v − θ v‖ of each, in A's units: some eigenvalue lies within it of θ.
        bound: ‖A Vᵀ − Vᵀ Θ‖₂ of them together: k eigenvalues of A, counted with multiplicity, lie
            one to one within it of `values` (Kahan 1967; Parlett, "The Symmetric Eigenvalue
            Problem", SIAM 1998, theorem 11.5.1), up to the rounding of products and vectors.
    """

    values: Float[np.ndarray, " k"]
    vectors: Float[Tensor, "k d"]
    residuals: Float[np.ndarray, " k"]
    bound: float


def eigenpairs_of(
    operator: Operator, k: int, *, which: str = "largest", tolerance: float = 1e-4, seed: int = 0
) -> Eigenpairs:
    """The k algebraically largest or smallest eigenvalues, repeated ones as often as they are, and
    their eigenvectors.

    Up to dimension 256, and for more than a fifth of all, they are those of the whole matrix.
    Beyond, that there are such k eigenvalues is certain, within `bound`. That no other lies farther
    out than the last by more than about 2 · tolerance · ‖A‖ was looked for and is likely: Lanczos's
    iteration from a random vector orthogonal to them either came that far that it misses one with
    odds of at most 1 % (Kuczyński & Woźniakowski, SIAM J. Matrix Anal. Appl. 13:1094, 1992), or
    ended at an eigenpair to the same tolerance, as where the spectrum is dense there.

    Args:
        operator: Symmetric.
        k: 1 to its dimension.
        which: "largest" or "smallest".
        tolerance: Residual at which a pair is found, relative to the largest |eigenvalue|; the
            eigenvalue's error is below it, and of its square where it stands apart. Where it is
            below the rounding of the products, the residuals say what was reached.
        seed: Of the random vectors, drawn on the CPU.

    Raises:
        ValueError: k out of range, another `which`, a tolerance not within 0 and 1, products that
            are not finite (`NotFiniteError`), or pairs not found within `MAX_STEPS` blocks.

    Example:
        >>> curvatures = torch.zeros(1000)
        >>> curvatures[:4] = torch.tensor([2.0, 2.0, 2.0, -1.0])
        >>> pairs = eigenpairs_of(Operator(lambda rows: rows * curvatures, 1000), k=4)
        >>> abs(pairs.values.round(3)).tolist(), pairs.vectors.shape
        ([2.0, 2.0, 2.0, 0.0], torch.Size([4, 1000]))
    """
    _check(operator, k, which, tolerance)
    sign = 1 if which == "largest" else -1
    products, dim = operator.products, operator.dim
    if dim <= DENSE_DIM or DENSE_SHARE * k > dim:
        values, vectors = _of_matrix(operator, sign, k)
    else:
        upwards = operator._replace(products=lambda rows: sign * products(rows))
        values, vectors = _found(upwards, k, tolerance, torch.Generator().manual_seed(seed))
    vectors = vectors.to(operator.dtype)
    images = products(vectors).double()
    errors = images - (sign * values)[:, None] * vectors.double()
    return Eigenpairs(
        (sign * values).cpu().numpy(),
        vectors,
        errors.norm(dim=1).cpu().numpy(),
        float(torch.linalg.matrix_norm(errors, 2)),
    )


def _check(operator: Operator, k: int, which: str, tolerance: float) -> None:
    check_at_least_one(k=k)
    if k > operator.dim:
        raise ValueError(f"k = {k}; allowed: 1 to the number of weights, {operator.dim}")
    if which not in ("largest", "smallest"):
        raise ValueError(f'which = {which!r}; allowed: "largest" and "smallest"')
    if not 0 < tolerance < 1:
        raise ValueError(
            f"tolerance = {tolerance}; allowed: between 0 and 1, a fraction of the largest"
            " |eigenvalue|"
        )


def _of_matrix(
    operator: Operator, sign: int, k: int
) -> tuple[Float[Tensor, " k"], Float[Tensor, "k d"]]:
    products, dim, dtype, device = operator
    matrix = sign * products(torch.eye(dim, dtype=dtype, device=device)).double()
    check_finite(matrix.cpu().numpy())
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    return values.flip(0)[:k], vectors.T.flip(0)[:k]


def _found(
    operator: Operator, k: int, tolerance: float, generator: torch.Generator
) -> tuple[Float[Tensor, " k"], Float[Tensor, "k d"]]:
    """The k largest eigenvalues, descending, and their vectors: found, then looked for again."""
    basis = _Basis(operator, k, generator)
    basis.add(basis.random(basis.block))
    count = 1  # one vector sees whether all were found, a block more of those that were not
    while True:
        values, coefficients = _converged(basis, k, tolerance)
        basis.keep(coefficients[:k])
        if _nothing_above(basis, count, float(values[k - 1]), tolerance):
            return values[:k], basis.rows[:k]
        count = basis.block


class _Basis:
    """Orthonormal rows, their images by A, and Rayleigh-Ritz on them, in float64.

    Attributes:
        block: Rows added at once, at most.
        size: Rows so far, of as many as there is room for.
        locked: The first so many are settled: Ritz pairs are of A on the rows after them.
        before: Coefficients of the best Ritz vectors one step ago.
        scale: Largest |Ritz value| so far, for ‖A‖.
        steps: Blocks of products so far.
    """

    def __init__(self, operator: Operator, k: int, generator: torch.Generator) -> None:
        self.operator, self.generator = operator, generator
        self.block = min(k, ROWS_AT_ONCE)
        fitting = BASIS_BYTES // (2 * 8 * operator.dim)
        room = min(
            max(40, 4 * (k + self.block)), max(fitting, 2 * k + 4 * self.block), operator.dim
        )
        given = {"dtype": torch.float64, "device": operator.device}
        self.rows, self.images = (torch.empty(room, operator.dim, **given) for _ in range(2))
        self.projected = torch.zeros(room, room, **given)  # rows · A · rowsᵀ
        self.before = self.projected[:0]
        self.size = self.locked = self.steps = 0
        self.scale = 0.0

    @property
    def free(self) -> slice:
        return slice(self.locked, self.size)

    def random(self, count: int) -> Float[Tensor, "count d"]:
        shape = count, self.operator.dim
        drawn = torch.randn(*shape, generator=self.generator, dtype=torch.float64)
        return drawn.to(self.operator.device)

    def add(self, candidates: Float[Tensor, "n d"]) -> None:
        """What is new in `candidates`, or random rows where nothing is; and their products."""
        known = self.rows[: self.size]
        new = _orthonormalised(candidates, known)
        if not len(new):
            new = _orthonormalised(self.random(max(1, len(candidates))), known)
        images = self.operator.products(new.to(self.operator.dtype)).double()
        check_finite(images.norm(dim=1).cpu().numpy())
        added = slice(self.size, self.size + len(new))
        self.size += len(new)
        self.rows[added], self.images[added] = new, images
        inner = images @ self.rows[: self.size].T
        inner[:, added] = (inner[:, added] + inner[:, added].T) / 2
        self.projected[added, : self.size], self.projected[: self.size, added] = inner, inner.T
        self.steps += 1

    def ritz(self) -> tuple[Float[Tensor, " m"], Float[Tensor, "m m"]]:
        """Ritz values, descending, and the rows' coefficients in each Ritz vector."""
        values, vectors = torch.linalg.eigh(self.projected[self.free, self.free])
        self.scale = max(self.scale, float(values.abs().max()))
        return values.flip(0), vectors.T.flip(0)

    def errors(
        self, values: Float[Tensor, " n"], coefficients: Float[Tensor, "n m"]
    ) -> Float[Tensor, "n d"]:
        """A v − θ v of Ritz pairs, a row each."""
        images, rows = (coefficients @ part[self.free] for part in (self.images, self.rows))
        return images - values[:, None] * rows

    def grow(self, candidates: Float[Tensor, "n d"], coefficients: Float[Tensor, "m m"]) -> None:
        """`add`, after a restart where there is no room: the best Ritz vectors stay, and what those
        of the step before add to them, by which little is lost (GD+k: Stathopoulos & Saad,
        Electron. Trans. Numer. Anal. 7:163, 1998; in LOBPCG the same).
        """
        room = len(self.rows) - self.locked
        if self.size + self.block > len(self.rows):
            kept = coefficients[: room // 2]
            padding = (0, kept.shape[1] - self.before.shape[1])
            self.keep(torch.cat([kept, _orthonormalised(pad(self.before, padding), kept)]))
            _, coefficients = self.ritz()
        self.before = coefficients[: self.block]
        self.add(candidates[: self.block])

    def keep(self, coefficients: Float[Tensor, "n m"]) -> None:
        """Only these orthonormal combinations of the rows that are not locked."""
        free = self.free
        self.size = self.locked + len(coefficients)
        for part in (self.rows, self.images):
            part[self.free] = coefficients @ part[free]
        inner = self.rows[: self.size] @ self.images[: self.size].T
        self.projected[: self.size, : self.size] = (inner + inner.T) / 2

    def lock(self, count: int) -> None:
        self.locked, self.before = count, self.projected[:0, :0]


def _converged(
    basis: _Basis, k: int, tolerance: float
) -> tuple[Float[Tensor, " m"], Float[Tensor, "m m"]]:
    """Ritz pairs of the basis once the first k are found, to the tolerance or to rounding.

    Raises:
        ValueError: Not within `MAX_STEPS` blocks.
    """
    rounding = ROUNDING * torch.finfo(basis.operator.dtype).eps
    best, since = math.inf, 0
    while True:
        values, coefficients = basis.ritz()
        errors = basis.errors(values[:k], coefficients[:k])
        norms = errors.norm(dim=1)
        worst, limit = float(norms.max()), tolerance * basis.scale
        best, since = (worst, 0) if worst < best / 2 else (best, since + 1)
        stuck = since >= PATIENCE and worst <= rounding * basis.scale
        if len(values) >= k and (worst <= limit or stuck):
            return values, coefficients
        if basis.steps >= MAX_STEPS:
            raise ValueError(
                f"after {basis.steps} blocks of products the residuals of k = {k} eigenpairs are"
                f" up to {worst / basis.scale:.1e} of the largest |eigenvalue|; allowed: tolerance"
                f" = {tolerance:.1e}; give a larger tolerance, or a k after which the spectrum has"
                " a gap"
            )
        missing = norms > limit
        basis.grow(errors[missing] / norms[missing, None], coefficients)


def _nothing_above(basis: _Basis, count: int, smallest: float, tolerance: float) -> bool:
    """Whether Lanczos's iteration from `count` random vectors orthogonal to all rows stays below
    the `smallest` of their eigenvalues, up to the tolerance, for as many steps as would show what
    is above.

    s steps leave θ₁ ≤ λ₁ − ε (λ₁ − λ_d) with odds of at most 1.648 √d exp(−√ε (2s − 1)): Kuczyński
    & Woźniakowski, theorem 4.2. Once θ₁ has a small residual, it is λ₁ or ε is nearly 1.
    """
    needed = math.log(1.648 * math.sqrt(basis.operator.dim) / MISSED)
    basis.lock(basis.size)
    basis.add(basis.random(count))
    steps, above = 1, False
    while not above:
        values, coefficients = basis.ritz()
        limit, top = smallest + tolerance * basis.scale, float(values[0])
        above = top > limit
        errors = basis.errors(values[:count], coefficients[:count])
        norms = errors.norm(dim=1)
        settled = float(norms[0]) <= tolerance * basis.scale
        share = 1.0 if settled else max(0.0, limit - top) / (limit - float(values[-1]))
        if math.sqrt(share) * (2 * steps - 1) >= needed or basis.steps >= MAX_STEPS:
            break
        if not above:
            moving = norms > 0
            basis.grow(errors[moving] / norms[moving, None], coefficients)
            steps += 1
    basis.lock(0)
    return not above


def _orthonormalised(
    candidates: Float[Tensor, "n d"], known: Float[Tensor, "m d"]
) -> Float[Tensor, "new d"]:
    """An orthonormal basis of what `candidates`, none of them zero, add to the orthonormal rows
    `known`. Projected twice, after which it is orthogonal to rounding.
    """
    new = candidates / candidates.norm(dim=1, keepdim=True)
    for _ in range(2):
        new = new - (new @ known.T) @ known
        squares, turned = torch.linalg.eigh(new @ new.T)
        outside = squares > DEPENDENT**2
        new = (turned[:, outside] / squares[outside].sqrt()).T @ new
    return new
