"""Which settings make no sense? Each is refused with what was given and what is allowed.

Every function raises ValueError, and `refuse_overflow` OverflowError, with one sentence.
"""

from numbers import Integral

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

NOISES = ("finite", "online")
ROUNDING = 1e-10  # of a kernel's largest entry or eigenvalue: asymmetry and negativity that may be


def check_kernel(kernel: ArrayLike) -> Float[np.ndarray, "N N"]:
    """A kernel as float64, made exactly symmetric; positive semi-definite is `check_psd`'s."""
    found = np.asarray(kernel, dtype=np.float64)
    if found.ndim != 2 or found.shape[0] != found.shape[1] or len(found) < 2:
        raise ValueError(f"kernel of shape {found.shape} given; allowed: (N, N) with N >= 2")
    _refuse_infinite("kernel", found)
    asymmetry = float(np.abs(found - found.T).max())
    if asymmetry > ROUNDING * np.abs(found).max():
        raise ValueError(
            f"kernel is not symmetric: |K - Kᵀ| up to {asymmetry:.3g} where |K| is up to"
            f" {np.abs(found).max():.3g}; allowed: a symmetric positive semi-definite one"
        )
    return 0.5 * (found + found.T)


def check_psd(eigenvalues: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """A kernel's eigenvalues, those that rounding took below 0 as 0."""
    low, high = float(eigenvalues.min()), float(eigenvalues.max())
    if not high > 0:
        raise ValueError(f"largest eigenvalue {high:.3g} given; allowed: > 0")
    if low < -ROUNDING * high:
        raise ValueError(
            f"kernel is not positive semi-definite: smallest eigenvalue {low:.3g},"
            f" {-low / high:.3g} of the largest; allowed: eigenvalues >= 0"
        )
    return np.maximum(eigenvalues, 0.0)


def decomposed(kernel: ArrayLike) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, "N N"]]:
    """Eigenvalues, descending, and eigenvectors as columns of a kernel that is one."""
    values, vectors = np.linalg.eigh(check_kernel(kernel))
    return check_psd(values[::-1]), np.ascontiguousarray(vectors[:, ::-1])


def check_eigenvalues(eigenvalues: ArrayLike) -> Float[np.ndarray, " K"]:
    """Eigenvalues as float64, in the order given."""
    found = np.asarray(eigenvalues, dtype=np.float64)
    if found.ndim != 1 or not len(found):
        raise ValueError(f"eigenvalues of shape {found.shape} given; allowed: (K,) with K >= 1")
    _refuse_infinite("eigenvalues", found)
    return check_psd(found)


def check_moments(moments: ArrayLike, size: int) -> Float[np.ndarray, " K"]:
    """Second moments c_k of the residual's modes as float64."""
    found = np.asarray(moments, dtype=np.float64)
    if found.shape != (size,):
        raise ValueError(
            f"moments of shape {found.shape} given; allowed: ({size},), as eigenvalues"
        )
    _refuse_infinite("moments", found)
    if found.min() < 0:
        raise ValueError(f"moments down to {found.min():.3g} given; allowed: >= 0")
    return found


def check_residual(residual: ArrayLike, size: int) -> Float[np.ndarray, " N"]:
    """A residual Δ = f − y as float64."""
    found = np.asarray(residual, dtype=np.float64)
    if found.shape != (size,):
        raise ValueError(
            f"residual of shape {found.shape} given; allowed: ({size},), as the kernel"
        )
    _refuse_infinite("residual", found)
    return found


def check_lr(lr: ArrayLike) -> None:
    """Learning rates α: finite and > 0."""
    rates = np.asarray(lr, dtype=np.float64)
    if not (np.isfinite(rates) & (rates > 0)).all():
        wrong = ~(np.isfinite(rates) & (rates > 0))
        raise ValueError(f"lr {_worst(rates, wrong)} given; allowed: finite and > 0")


def check_momentum(momentum: ArrayLike) -> None:
    """Momenta β: |β| < 1."""
    found = np.asarray(momentum, dtype=np.float64)
    if not (np.abs(found) < 1).all():
        raise ValueError(
            f"momentum {_worst(found, ~(np.abs(found) < 1))} given; allowed: -1 < momentum < 1"
        )


def check_law(nu: float, kappa: float) -> None:
    """Exponents of λ_k = Λk^−ν and c_k = Ak^−ϰ−1: > 0."""
    for name, exponent in (("nu", nu), ("kappa", kappa)):
        if not (np.isfinite(exponent) and exponent > 0):
            raise ValueError(f"{name} {exponent:g} given; allowed: finite and > 0")


def check_steps(num_steps: int) -> None:
    """Numbers of steps: whole and >= 1."""
    check_count("num_steps", num_steps)


def check_count(name: str, count: int) -> None:
    """How often something is done: a whole number >= 1, not a float that happens to be one."""
    if not isinstance(count, Integral) or count < 1:
        raise ValueError(f"{name} {count} given; allowed: a whole number >= 1 (an int)")


def samples_of(num_samples: int | None, size: int) -> int:
    """N: as given, else as many as there are modes."""
    if num_samples is None:
        return size
    if not isinstance(num_samples, Integral) or num_samples < 2:
        raise ValueError(f"N = {num_samples} given; allowed: N >= 2, a whole number")
    return int(num_samples)


def noise_strength(
    batch_size: ArrayLike, num_samples: int | None = None, noise: str = "finite"
) -> Float[np.ndarray, "*settings"]:
    """γ: (N − b)/((N − 1)b) for N samples without replacement, 1/b for an endless stream.

    Raises:
        ValueError: b < 1, b > N, N < 2, b not whole, or a noise of another name.
    """
    batch = np.asarray(batch_size, dtype=np.float64)
    if noise not in NOISES:
        raise ValueError(f"noise {noise!r} given; allowed: {', '.join(map(repr, NOISES))}")
    if (wrong := ~((batch >= 1) & (batch == np.round(batch)))).any():
        raise ValueError(
            f"batch_size {_worst(batch, wrong)} given; allowed: a whole number >= 1 and <= N"
        )
    if noise == "online":
        return 1.0 / batch
    if num_samples is None or num_samples < 2:
        raise ValueError(f"N = {num_samples} given; allowed: N >= 2")
    if (wrong := batch > num_samples).any():
        raise ValueError(
            f"batch_size {_worst(batch, wrong)} given with N = {num_samples}; allowed: at most N"
        )
    return (num_samples - batch) / ((num_samples - 1) * batch)


def check_tau(tau: ArrayLike, gamma: ArrayLike) -> None:
    """τ of SD(τ): γτ <= 1, where C stays a second moment."""
    given = np.asarray(tau, dtype=np.float64)
    if (wrong := ~np.isfinite(given)).any():
        raise ValueError(f"tau {_worst(given, wrong)} given; allowed: finite, and γτ <= 1")
    product = given * np.asarray(gamma, dtype=np.float64)
    if not (product <= 1 + 1e-12).all():
        allowed = 1 / float(np.max(gamma))
        raise ValueError(
            f"tau {np.max(tau):g} given with γ up to {np.max(gamma):.4g}; allowed: γτ <= 1, that is"
            f" tau <= {allowed:.6g}"
        )


def refuse_theory_beyond(tau: float) -> None:
    """Criteria of convergence are theorems for τ <= 1 only; at τ = 2 they were found to fail."""
    if not np.isfinite(tau):
        raise ValueError(f"tau {tau:g} given; allowed: finite and <= 1")
    if tau > 1:
        raise ValueError(
            f"tau {tau:g} given; allowed: tau <= 1, for the criterion of convergence does not hold"
            " beyond it (spectral_diagonal runs any tau up to 1/γ)"
        )


def refuse_overflow(losses: Float[np.ndarray, " T"]) -> None:
    """Raises OverflowError, with the step, where a run left the numbers of float64."""
    if (step := first_overflow(losses)) is not None:
        raise OverflowError(
            f"the loss overflows at step {step} of {len(losses) - 1}: the run diverges; allowed: a"
            " smaller lr, or fewer steps"
        )


def first_overflow(losses: Float[np.ndarray, " T"]) -> int | None:
    """The first step whose loss is not finite; None where all are."""
    wrong = ~np.isfinite(losses)
    return int(wrong.argmax()) if wrong.any() else None


def _refuse_infinite(name: str, values: np.ndarray) -> None:
    if count := int((~np.isfinite(values)).sum()):
        raise ValueError(f"{name} with {count} numbers that are not finite given; allowed: finite")


def _worst(values: np.ndarray, wrong: np.ndarray) -> str:
    return f"{values[wrong].flat[0] if wrong.any() else values.flat[0]:g}"
