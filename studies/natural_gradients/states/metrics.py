"""Which metrics do states have, and which matrix L makes each a plain norm |Lζ|?

With Y = L ∂_θρ the natural gradient of f(ρ(θ)) is argmin |(L†)ᵀ∂_ρf − Yη|: a least-squares problem
that QR or LSQR solves without ever forming YᵀY (Nurbekyan, Lei & Yang, arXiv:2202.06236). On cells
of volume v, with ∇ and −∇ᵀ = div of `grids`, A = I + ∇ᵀ∇ and B = −div(√ρ ·) = ∇ᵀ√ρ:

    L²          L = √v I                  (L†)ᵀ = I/√v
    Fisher-Rao  L = √(v/ρ)                (L†)ᵀ = √(ρ/v)
    H¹          L = √v [I; ∇]             (L†)ᵀ = [I; ∇] A⁻¹/√v
    H⁻¹         L = √v [I; ∇] A⁻¹         (L†)ᵀ = [I; ∇]/√v
    W₂          L = √v B†                 (L†)ᵀ = Bᵀ/√v = √ρ ∇/√v

H⁻¹ needs no Cholesky factor: AᵀA⁻¹ cancels in [I; ∇]A⁻¹ as well. B† = Bᵀ(BBᵀ)† takes one sparse
factorisation of −div(ρ∇); on a line it is a cumulative sum.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.sparse.linalg import SuperLU, splu

from studies.natural_gradients.states.grids import Grid

Linear = Callable[[np.ndarray], np.ndarray]  # of a vector, or of a matrix's columns


class Metric(NamedTuple):
    """A metric |Lζ|² on changes ζ of a state; each map takes (size,) or (size, columns).

    Attributes:
        root: ζ ↦ Lζ.
        adjoint: w ↦ Lᵀw.
        pulled: ∂_ρf ↦ (L†)ᵀ∂_ρf; ∂_ρf is the derivative by the cells' values, with the volume.
    """

    root: Linear
    adjoint: Linear
    pulled: Linear


def l2(grid: Grid) -> Metric:
    """∫ζ²."""
    root = np.sqrt(grid.volume)
    return Metric(lambda z: root * z, lambda w: root * w, lambda g: g / root)


def fisher_rao(grid: Grid, density: ArrayLike) -> Metric:
    """∫ζ²/ρ. Raises ValueError for a density that is not > 0."""
    scale = np.sqrt(grid.volume / check_density(grid, density))
    return Metric(
        lambda z: _times(scale, z), lambda w: _times(scale, w), lambda g: _times(1 / scale, g)
    )


def h1(grid: Grid) -> Metric:
    """∫ζ² + |∇ζ|²."""
    stacked, inner, root = *_sobolev(grid), np.sqrt(grid.volume)
    return Metric(
        lambda z: root * (stacked @ z),
        lambda w: root * (stacked.T @ w),
        lambda g: stacked @ inner.solve(g) / root,
    )


def h_minus_1(grid: Grid) -> Metric:
    """∫ζ(I − Δ)⁻¹ζ."""
    stacked, inner, root = *_sobolev(grid), np.sqrt(grid.volume)
    return Metric(
        lambda z: root * (stacked @ inner.solve(z)),
        lambda w: root * inner.solve(stacked.T @ w),
        lambda g: stacked @ g / root,
    )


def wasserstein(grid: Grid, density: ArrayLike) -> Metric:
    """W₂: min ∫|w|² over w with −div(√ρ w) = ζ, that is ρ moved by the velocity w/√ρ.

    Mass that ζ makes or takes away is left out, as B† does. One sparse LU of −div(ρ∇).

    Raises ValueError for a density that is not > 0.
    """
    faces = grid.means @ check_density(grid, density)
    matrix = sp.csr_array(grid.gradient.T @ sp.diags_array(np.sqrt(faces)))  # B (N, faces)
    laplacian = sp.csc_array(matrix @ matrix.T)
    # Constants are its kernel. With more on one diagonal entry it is definite, and of a ζ without
    # mass it has the solution that is 0 there.
    pin = sp.csc_array(([laplacian[0, 0]], ([0], [0])), shape=laplacian.shape)
    factor, root = _factor(laplacian + pin), np.sqrt(grid.volume)

    def inverse(z: np.ndarray) -> np.ndarray:
        return _massless(factor.solve(_massless(z)))

    return Metric(
        lambda z: root * (matrix.T @ inverse(z)),
        lambda w: root * inverse(matrix @ w),
        lambda g: matrix.T @ g / root,
    )


def wasserstein_1d(grid: Grid, density: ArrayLike) -> Metric:
    """W₂ on a line, by cumulative sums: w = −∫ζ/√ρ. The same L as `wasserstein`.

    Raises ValueError for a grid of more axes, or a density that is not > 0.
    """
    if len(grid.shape) != 1:
        raise ValueError(f"a grid of {len(grid.shape)} axes given; allowed: 1")
    scale = np.sqrt(grid.means @ check_density(grid, density))
    step, root = float(grid.spacing[0]), np.sqrt(grid.volume)

    def transposed(w: np.ndarray) -> np.ndarray:
        later = np.cumsum(_times(1 / scale, w)[::-1], axis=0)[::-1]
        return -root * step * _massless(np.concatenate([later, np.zeros_like(later[:1])]))

    return Metric(
        lambda z: -root * step * _times(1 / scale, np.cumsum(_massless(z), axis=0)[:-1]),
        transposed,
        lambda g: _times(scale, grid.gradient @ g) / root,
    )


METRICS: dict[str, Callable[[Grid, ArrayLike], Metric]] = {
    "L²": lambda grid, density: l2(grid),
    "Fisher-Rao": fisher_rao,
    "H¹": lambda grid, density: h1(grid),
    "H⁻¹": lambda grid, density: h_minus_1(grid),
    "W₂": wasserstein,
}


def check_density(grid: Grid, density: ArrayLike) -> Float[np.ndarray, " N"]:
    """A density as float64.

    Raises:
        ValueError: Not a value a cell, or values that are not finite and > 0, by which Fisher-Rao
            and W₂ divide.
    """
    found = np.asarray(density, dtype=np.float64)
    if found.shape != (grid.size,):
        raise ValueError(f"a density of shape {found.shape} given; allowed: ({grid.size},)")
    wrong = ~(np.isfinite(found) & (found > 0))
    if wrong.any():
        raise ValueError(
            f"a density of {found[wrong][0]:g} in {int(wrong.sum())} of {grid.size} cells given;"
            " allowed: finite and > 0"
        )
    return found


def _sobolev(grid: Grid) -> tuple[sp.csr_array, SuperLU]:
    """[I; ∇], and I + ∇ᵀ∇ factorised."""
    stacked = sp.vstack([sp.eye_array(grid.size), grid.gradient], format="csr")
    return stacked, _factor(stacked.T @ stacked)


def _factor(matrix: sp.sparray) -> SuperLU:
    """A symmetric positive definite matrix, factorised without pivoting."""
    return splu(
        sp.csc_array(matrix),
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )


def _times(scale: Float[np.ndarray, " size"], values: np.ndarray) -> np.ndarray:
    return scale.reshape(-1, *[1] * (values.ndim - 1)) * values


def _massless(values: np.ndarray) -> np.ndarray:
    return values - values.mean(axis=0)
