"""Up to which learning rate does SGD converge? Of SD(τ), and of the averaged regime."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.linalg import eigh_tridiagonal
from scipy.optimize import brentq

from studies.sgd_regimes.checks import (
    check_eigenvalues,
    check_momentum,
    decomposed,
    noise_strength,
    refuse_theory_beyond,
    samples_of,
)
from studies.sgd_regimes.generating import Setting, gain_denominators, noise_gain

EDGE = 1e-13  # relative: how near to a pole a root is looked for
LANCZOS_STEPS = 400  # far more than any kernel tried took
LARGE = 50.0  # log of a root that stands for an infinite one


class Verdict(NamedTuple):
    """Whether SD(τ) converges, and why.

    Attributes:
        converges: All four conditions hold.
        reason: The first that does not; "" where all hold.
        gain: Ũ(1); infinite where a mode diverges by itself.
    """

    converges: bool
    reason: str
    gain: float


def verdict(eigenvalues: ArrayLike, setting: Setting) -> Verdict:
    """Convergence of SD(τ), τ <= 1: αλ_max < 2(1+β), positive denominators of Ũ(1), Ũ(1) < 1.

    The second is not implied by the third: at τ = −1 Ũ(1) may be negative where a mode diverges.

    Raises:
        ValueError: τ > 1, where the criterion does not hold.
    """
    refuse_theory_beyond(setting.tau)
    x = setting.lr * check_eigenvalues(eigenvalues)
    gain = noise_gain(eigenvalues, setting)
    if x.max() >= 2 * (1 + setting.momentum):
        return Verdict(False, "αλ_max >= 2(1+β): gradient descent itself diverges", gain)
    if (gain_denominators(x, setting) <= 0).any():
        return Verdict(False, "a mode diverges by its own noise", gain)
    if gain >= 1:
        return Verdict(False, "Ũ(1) >= 1: noise of all modes together grows", gain)
    return Verdict(True, "", gain)


def convergence_boundary(
    eigenvalues: ArrayLike,
    batch_size: int,
    momentum: float = 0.0,
    tau: float = 1.0,
    num_samples: int | None = None,
    noise: str = "finite",
) -> float:
    """The largest learning rate at which SD(τ) converges: it does below, and not at or above.

    Args:
        eigenvalues: λ_k of K̂ (K,), as they are; the rate is in units of 1/λ.
        batch_size, momentum: b and β.
        tau: <= 1, where the criterion holds.
        num_samples: N of γ; None: K.
        noise: "finite" or "online", see `spectral.spectral_diagonal`.

    Raises:
        ValueError: A setting that is not allowed, τ > 1 among them.
    """
    values = check_eigenvalues(eigenvalues)
    check_momentum(momentum)
    refuse_theory_beyond(tau)
    gamma = float(noise_strength(batch_size, samples_of(num_samples, len(values)), noise))
    slope = (1 - momentum) / (1 + momentum) - gamma * tau  # of a denominator, downwards
    largest = 2 * (1 + momentum) / values.max()
    if slope > 0:
        largest = min(largest, 2 * (1 - momentum) / (slope * values.max()))
    setting = Setting(gamma, largest * (1 - EDGE), momentum, tau)

    def excess(lr: float) -> float:
        return noise_gain(values, replace(setting, lr=lr)) - 1

    if excess(setting.lr) < 0:
        return float(largest)
    return float(brentq(excess, 1e-12 * largest, setting.lr, xtol=1e-300, rtol=1e-13))


def averaged_boundary(kernel: ArrayLike, batch_size: int, momentum: float = 0.0) -> float:
    """The largest learning rate at which the averaged loss converges.

    It is where the Perron root of d ↦ γN diag(U[W∘xxᵀ∘(Uᵀ diag(d) U)]Uᵀ), what noise of sizes d_i
    on the samples gives back in all, is 1; see `summed_response`.

    Args:
        kernel: K̂ (N, N); the rate is in units of 1/λ.
        batch_size, momentum: b and β.

    Raises:
        ValueError: A setting that is not allowed.
        ArithmeticError: A Perron root is not found to its tolerance.
    """
    eigenvalues, vectors = decomposed(kernel)
    check_momentum(momentum)
    gamma = float(noise_strength(batch_size, len(eigenvalues)))
    largest = 2 * (1 + momentum) / eigenvalues.max()
    if gamma == 0:
        return float(largest)

    def log_root(lr: float) -> float:
        return min(float(np.log(perron(eigenvalues, vectors, gamma, lr, momentum))), LARGE)

    guess = convergence_boundary(eigenvalues, batch_size, momentum)
    low, high = _bracket(log_root, guess, largest)
    if high is None:
        return float(largest)
    return float(brentq(log_root, low, high, rtol=1e-8))


def _bracket(log_root, guess: float, largest: float) -> tuple[float, float | None]:
    """Rates around the root, from a guess outwards; the upper one None where there is none."""
    low, high, step, edge = guess, guess, 1e-3, largest * (1 - 1e-9)
    if log_root(guess) > 0:
        while log_root(low) > 0:
            low, high, step = low * (1 - step), low, min(4 * step, 0.5)
        return low, high
    while log_root(high) <= 0:
        if high >= edge:
            return low, None
        low, high, step = high, min(high * (1 + step), edge), 4 * step
    return low, high


def summed_response(
    a: Float[np.ndarray, "..."], b: Float[np.ndarray, "..."], momentum: float, gamma: float
) -> Float[np.ndarray, "..."]:
    """W: C_kl summed over all steps after unit forcing of (C, J_kl, J_lk, P), a = αλ_k, b = αλ_l.

    W = 1/[(1−β)(a+b) + β(a+b)²/(1−β²) − 2βab/(1−β) − (1−γ)ab], which `symbolic.py` derives; at
    a = b it is 1/(2x(1−β) + x²(γ − q)), of Ũ(1). Infinite where the sum does not converge.
    """
    beta = momentum
    below = (1 - beta) * (a + b) + beta * (a + b) ** 2 / (1 - beta**2)
    below = below - 2 * beta * a * b / (1 - beta) - (1 - gamma) * a * b
    return np.divide(1.0, below, out=np.full_like(below, np.inf), where=below > 0)


def perron(
    eigenvalues: Float[np.ndarray, " N"],
    vectors: Float[np.ndarray, "N N"],
    gamma: float,
    lr: float,
    momentum: float,
    tolerance: float = 1e-10,
) -> float:
    """The Perron root of the averaged regime's noise operator T, by Lanczos's recursion from ones.

    T is symmetric and maps sizes d >= 0 to such: its Perron vector is >= 0, so that ones overlap
    with it by at least 1/√N, of whichever samples it is. A vector kept from another rate may not:
    where samples hardly meet, it stays with those that dominated there.

    Returns:
        The root, with |Td − root·d| <= `tolerance`·root·|d|; infinite where a pair of modes
        diverges by itself.

    Raises:
        ArithmeticError: The tolerance is not reached.
    """
    x = lr * eigenvalues
    moving = x > 0
    a, basis = x[moving], vectors[:, moving]
    response = summed_response(a[:, None], a[None], momentum, gamma)
    if not np.isfinite(response).all():
        return np.inf
    response *= gamma * len(eigenvalues) * np.outer(a, a)

    def returned(sizes: np.ndarray) -> np.ndarray:
        spread = basis.T @ (sizes[:, None] * basis)
        return np.einsum("ik,ik->i", basis @ (response * spread), basis)

    return _largest_eigenvalue(returned, len(eigenvalues), tolerance)


def _largest_eigenvalue(
    operator: Callable[[np.ndarray], np.ndarray], size: int, tolerance: float
) -> float:
    """Of a symmetric operator, by Lanczos's recursion from ones with full reorthogonalisation."""
    vectors = np.full((1, size), size**-0.5)
    diagonal, off = [], []
    for _ in range(min(size, LANCZOS_STEPS)):
        ahead = operator(vectors[-1])
        diagonal.append(vectors[-1] @ ahead)
        for _ in range(2):  # twice is enough for orthogonality to rounding
            ahead = ahead - vectors.T @ (vectors @ ahead)
        rest = float(np.linalg.norm(ahead))
        values, inner = eigh_tridiagonal(diagonal, off)
        if rest * abs(inner[-1, -1]) <= tolerance * values[-1] or len(vectors) == size:
            return float(values[-1])
        off.append(rest)
        vectors = np.vstack([vectors, ahead / rest])
    raise ArithmeticError(
        f"the Perron root is not found to {tolerance:g} in {LANCZOS_STEPS} steps of Lanczos"
    )
