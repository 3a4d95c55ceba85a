"""What is the loss of linearised SGD, averaged over all its batches, exactly?

C = E ΔΔᵀ, J = E Δvᵀ, P = E vvᵀ follow linear recursions (`../shared/sgd-regimes.md`, section 2):

    P⁺ = β²P − αβ(K̂J + (K̂J)ᵀ) + α²[(1 − γ) K̂CK̂ + γN K̂ diag(C) K̂]
    J⁺ = βJ − αCK̂ + P⁺
    C⁺ = C − α(K̂C + CK̂) + β(J + Jᵀ) + P⁺

In K̂'s eigenbasis U they are elementwise but for d_i = (UCUᵀ)_ii and G = Uᵀ diag(d) U. Only the
lower triangles of C and P are kept, with J's two triangles: antisymmetric rounding, which would
grow like (1 + α(λ_l − λ_k))^t, has nowhere to live, and both products cost half a multiplication.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.linalg.blas import dsyrk, dtrmm

from studies.sgd_regimes.checks import check_residual, decomposed, noise_strength, refuse_overflow
from studies.sgd_regimes.schedules import Schedule, steps_of

ROWS = 64  # of a block whose four triangles stay in a core's cache
REACHED = 1e-10  # of λ_max: modes below it do not move, and carry nothing to a validation set


class Curves(NamedTuple):
    """What a run gives, step by step from 0 to T.

    Attributes:
        losses: E‖Δ‖²/(2N).
        modes: C_k = E Δ_k², in the eigenbasis, eigenvalues descending; None where not asked for.
        validation: The same loss on other samples; None where not asked for.
    """

    losses: Float[np.ndarray, " T1"]
    modes: Float[np.ndarray, "T1 N"] | None = None
    validation: Float[np.ndarray, " T1"] | None = None


def averaged(
    kernel: ArrayLike,
    residual: ArrayLike,
    batch_size: int,
    lr: float,
    momentum: float = 0.0,
    num_steps: int = 1000,
    schedule: Schedule = None,
) -> Float[np.ndarray, " T1"]:
    """Losses of SGD on a linear model, averaged over all samplings of its batches.

    Args:
        kernel: K̂ = K/N (N, N), as it is: symmetric positive semi-definite.
        residual: Δ = f − y at the start (N,).
        batch_size: b samples a step, without replacement.
        lr: α, in units of 1/(eigenvalue of K̂).
        momentum: β.
        num_steps: T.
        schedule: None for constant α and β, or `Jacobi(a, b)`, see `schedules.as_schedule`.

    Returns:
        E‖Δ‖²/(2N) after 0, 1, … T steps, float64.

    Raises:
        ValueError: A setting that is not allowed, with what is.
        OverflowError: The run diverges beyond float64; it says at which step.
    """
    return averaged_curves(kernel, residual, batch_size, lr, momentum, num_steps, schedule).losses


def averaged_curves(
    kernel: ArrayLike,
    residual: ArrayLike,
    batch_size: int,
    lr: float,
    momentum: float = 0.0,
    num_steps: int = 1000,
    schedule: Schedule = None,
    *,
    modes: bool = False,
    validation: tuple[ArrayLike, ArrayLike] | None = None,
) -> Curves:
    """`averaged` with what else is asked for.

    Args:
        modes: Whether to give C_k of every step.
        validation: (K(x_i', x_j)/N (M, N), residual (M,)) of M other samples. Exact: a residual
            there is an affine function of Δ, whose first and second moments are known.
    """
    eigenvalues, vectors = decomposed(kernel)
    size = len(eigenvalues)
    rates, momenta = steps_of(lr, momentum, num_steps, schedule)
    gamma = float(noise_strength(batch_size, size))
    start = vectors.T @ check_residual(residual, size)
    moments = Moments(eigenvalues, vectors, start, gamma, not momenta.any())
    watch = validation and _Validation(eigenvalues, vectors, start, *validation)
    traces, shown, elsewhere = [], [], []

    def note() -> None:
        diagonal = moments.diagonal
        traces.append(diagonal.sum())
        shown.extend([diagonal.copy()] if modes else [])
        elsewhere.extend([watch.loss(moments.second)] if watch else [])

    note()
    with np.errstate(over="ignore", invalid="ignore"):
        for rate, beta in zip(rates, momenta, strict=True):
            moments.step(rate, beta)
            if watch:
                watch.step(rate, beta)
            note()
            if not np.isfinite(traces[-1]):
                break
    losses = np.array(traces) / (2 * size)
    losses = np.r_[losses, np.full(num_steps + 1 - len(losses), np.inf)]
    refuse_overflow(losses)
    return Curves(
        losses, np.array(shown) if modes else None, np.array(elsewhere) if watch else None
    )


class Moments:
    """C, P and J in the eigenbasis, as lower triangles; of J also the upper one, transposed."""

    def __init__(self, eigenvalues, vectors, start, gamma, plain):
        size = len(eigenvalues)
        self.eigenvalues, self.vectors = eigenvalues, vectors
        self.gamma, self.plain = gamma, plain  # plain: no step has momentum, v is −αĝ
        self.second = np.outer(start, start)  # C
        self.diagonal = self.second.diagonal()  # a view
        self.squares = vectors * vectors
        self.spread = np.zeros((size, size))  # G, its lower triangle
        if not plain:
            self.speed, self.mixed, self.crossed = (np.zeros((size, size)) for _ in range(3))

    def step(self, rate: float, beta: float) -> None:
        """One step of SGD."""
        self._spread_out()
        x = rate * self.eigenvalues
        for first in range(0, len(x), ROWS):
            last = min(first + ROWS, len(x))
            block = slice(first, last), slice(0, last)
            pair = x[first:last, None], x[None, :last]
            if self.plain:
                self._plain_block(block, *pair)
            else:
                self._block(block, *pair, beta)

    def _spread_out(self) -> None:
        """G = Uᵀ diag(d) U with d = diag(UCUᵀ), by a triangular and a symmetric product."""
        # A row-major lower triangle is BLAS's upper one of the transpose; UC from UL, C = L + Lᵀ.
        half = dtrmm(1.0, self.second.T, self.vectors.T, side=0, lower=0).T
        d = 2 * np.einsum("ik,ik->i", half, self.vectors) - self.squares @ self.diagonal
        scaled = self.vectors * np.sqrt(np.maximum(d, 0.0))[:, None]
        found = dsyrk(1.0, scaled.T, beta=0.0, c=self.spread.T, overwrite_c=1, lower=0)
        self.spread = found.T

    def _plain_block(self, block, a, b) -> None:
        """C⁺ = (1 − a − b + (1 − γ)ab) C + γN ab G, a = αλ_k, b = αλ_l."""
        second, scratch = self.second[block], self.spread[block] * b
        scratch *= self.gamma * len(self.eigenvalues) * a
        second *= 1 - a - b + (1 - self.gamma) * a * b
        second += scratch

    def _block(self, block, a, b, beta) -> None:
        second, speed = self.second[block], self.speed[block]
        mixed, crossed = self.mixed[block], self.crossed[block]  # J_kl, J_lk
        force = self.spread[block] * (self.gamma * len(self.eigenvalues))
        scratch = second * (1 - self.gamma)
        force += scratch
        force *= a
        force *= b
        mixed *= beta
        crossed *= beta
        speed *= beta**2
        speed += force
        speed -= np.multiply(mixed, a, out=scratch)
        speed -= np.multiply(crossed, b, out=scratch)
        np.multiply(second, b, out=scratch)
        np.multiply(second, a, out=force)
        for change in (mixed, crossed, speed):
            second += change
        second -= scratch
        second -= force
        mixed += speed
        mixed -= scratch
        crossed += speed
        crossed -= force


class _Validation:
    """The loss on other samples, from the moments of Δ: Δ' = Δ'₀ + A(Δ − Δ₀), A = K' K⁺."""

    def __init__(self, eigenvalues, vectors, start, cross_kernel, residual):
        cross = np.asarray(cross_kernel, dtype=np.float64)
        if cross.ndim != 2 or cross.shape[1] != len(eigenvalues):
            raise ValueError(
                f"validation kernel of shape {cross.shape} given; allowed: (M, {len(eigenvalues)})"
            )
        reached = eigenvalues > REACHED * eigenvalues.max()
        inverse = np.divide(1.0, eigenvalues, out=np.zeros_like(eigenvalues), where=reached)
        carried = (cross @ vectors) * inverse
        offset = check_residual(residual, len(cross)) - carried @ start
        self.constant, self.linear = offset @ offset, 2 * carried.T @ offset
        gram = np.tril(carried.T @ carried)
        self.quadratic = 2 * gram - np.diag(gram.diagonal())  # of C's lower triangle
        self.mean, self.mean_speed, self.eigenvalues = start.copy(), 0.0 * start, eigenvalues
        self.size = len(cross)

    def step(self, rate: float, beta: float) -> None:
        """The mean of Δ follows gradient descent on all samples."""
        self.mean_speed = beta * self.mean_speed - rate * self.eigenvalues * self.mean
        self.mean = self.mean + self.mean_speed

    def loss(self, second: Float[np.ndarray, "N N"]) -> float:
        moment = self.constant + self.linear @ self.mean + np.vdot(self.quadratic, second)
        return float(moment) / (2 * self.size)
