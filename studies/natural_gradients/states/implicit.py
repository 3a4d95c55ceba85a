"""What is the natural gradient of a state that an equation g(ρ, θ) = 0 defines?

∂_θρ = −g_ρ⁻¹ g_θ has as many columns as parameters and is never formed: one factorisation of g_ρ
gives Jv, and its adjoint Jᵀw, and LSQR needs no more (arXiv:2202.06236).
"""

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float
from scipy.sparse.linalg import splu
from torch import Tensor

from degeneracy.natural import NaturalDirection, natural_direction
from studies.natural_gradients.states.metrics import Metric

Product = Callable[[np.ndarray], np.ndarray]


def implicit_jacobian(by_state: sp.sparray, by_parameters: sp.sparray) -> tuple[Product, Product]:
    """(v ↦ Jv, w ↦ Jᵀw) of J = −g_ρ⁻¹ g_θ.

    Args:
        by_state: g_ρ (N, N), sparse.
        by_parameters: g_θ (N, p), or (sources · N, p) where several states, one after the other,
            share g_ρ.

    Raises:
        ValueError: Shapes that do not fit, or a g_ρ that is singular.
    """
    size, rows = by_state.shape[0], by_parameters.shape[0]
    if by_state.shape != (size, size) or not rows or rows % size:
        raise ValueError(
            f"g_ρ of shape {by_state.shape} and g_θ of shape {by_parameters.shape} given; allowed:"
            " (N, N) and (N, p), or a multiple of N"
        )
    try:
        factor = splu(sp.csc_array(by_state), permc_spec="MMD_AT_PLUS_A")
    except RuntimeError as error:
        raise ValueError(
            f"g_ρ ({size} × {size}) cannot be factorised ({error}); allowed: one that is not"
            " singular: the state must be defined by its equation"
        ) from error
    forward, backward = sp.csr_array(by_parameters), sp.csr_array(by_parameters.T)

    def solve(right: np.ndarray, transposed: str) -> np.ndarray:
        return factor.solve(np.ascontiguousarray(right.reshape(-1, size).T), transposed).T.ravel()

    return lambda v: -solve(forward @ v, "N"), lambda w: -(backward @ solve(w, "T"))


def implicit_direction(
    jacobian: tuple[Product, Product],
    metric: Metric,
    gradient: Float[np.ndarray, " N"],
    damping: float = 0.0,
) -> NaturalDirection:
    """argmin |(L†)ᵀ∂f − LJη|² + damping |η|², by LSQR.

    Args:
        jacobian: As `implicit_jacobian` gives it.
        metric: On the state.
        gradient: ∂_ρf.
        damping: In the unit of (LJ)².

    Raises:
        ValueError: As `natural_direction`.
    """
    matvec, rmatvec = jacobian

    def push(v: Tensor) -> Tensor:
        return torch.from_numpy(metric.root(matvec(v.numpy())))

    def pull(w: Tensor) -> Tensor:
        return torch.from_numpy(rmatvec(metric.adjoint(w.numpy())))

    wanted = torch.from_numpy(metric.pulled(gradient))
    return natural_direction((push, pull), wanted, damping=damping, method="lsqr")


def explicit_direction(
    jacobian: Float[np.ndarray, "N p"],
    metric: Metric,
    gradient: Float[np.ndarray, " N"],
    damping: float = 0.0,
) -> NaturalDirection:
    """argmin |(L†)ᵀ∂f − Yη|² + λ|η|², Y = LJ, of a Jacobian that is there, by QR.

    Args:
        damping: λ, as a share of the largest squared norm of Y's columns.

    Raises:
        ValueError: As `natural_direction`.
    """
    rows, wanted = (
        torch.from_numpy(metric.root(jacobian)),
        torch.from_numpy(metric.pulled(gradient)),
    )
    unit = float((rows**2).sum(dim=0).max())
    return natural_direction(rows, wanted, damping=damping * unit)
