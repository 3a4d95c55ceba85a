"""What is the loss of SGD if only the spectrum counts? SD(τ), mode by mode, for many settings.

With x = αλ_k and g = γτ (`../shared/sgd-regimes.md`, section 3):

    P⁺ = x²[C + γ(ΣC − τC)] − 2βxJ + β²P,    J⁺ = βJ − xC + P⁺,    C⁺ = C − 2xC + 2βJ + P⁺

τ = 1 is exact for circulant kernels and for Hadamard eigenvectors, τ = −1 for an endless stream of
Gaussian data with γ = 1/b.
"""

import warnings

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from studies.sgd_regimes.averaging import Curves
from studies.sgd_regimes.checks import (
    check_eigenvalues,
    check_lr,
    check_moments,
    check_momentum,
    check_steps,
    check_tau,
    first_overflow,
    noise_strength,
    refuse_overflow,
    samples_of,
)
from studies.sgd_regimes.quadrature import WORTH, Modes, all_modes, compressed
from studies.sgd_regimes.schedules import Schedule, as_schedule

CACHED = 8192  # numbers of one array in a block of settings: seven such arrays stay in cache


def spectral_diagonal(
    eigenvalues: ArrayLike,
    moments: ArrayLike,
    batch_size: ArrayLike,
    lr: ArrayLike,
    momentum: ArrayLike = 0.0,
    tau: ArrayLike = 1.0,
    num_steps: int = 1000,
    num_samples: int | None = None,
    noise: str = "finite",
    schedule: Schedule = None,
) -> Float[np.ndarray, "*settings T1"]:
    """Losses of SD(τ), for one setting or many at once.

    A tail of many modes is taken by `quadrature.compressed`: the error is at most 1e-10 of L₀. Of
    power laws it was at most 1e-10 of L_t, at every step of up to 10,000; of spectra whose loss
    falls by many orders of magnitude faster than theirs it may be more of L_t.

    Args:
        eigenvalues: λ_k of K̂ (K,), as they are.
        moments: c_k = E Δ_k² at the start (K,).
        batch_size, lr, momentum, tau: b, α, β and τ <= 1/γ; arrays are broadcast together.
        num_steps: T.
        num_samples: N of γ and of the loss; None: K.
        noise: "finite": batches without replacement from N samples; "online": γ = 1/b.
        schedule: None, or `Jacobi(a, b)`: then lr is its factor and momentum must be 0.

    Returns:
        ΣC/(2N) after 0, 1, … T steps, float64; the last axis is steps.

    Raises:
        ValueError: A setting that is not allowed, with what is.
        OverflowError: The run, where it is one, diverges beyond float64; it says at which step.

    Warns:
        RuntimeWarning: Of many runs some diverge so; their losses are infinite from there on.
    """
    values, starts = _spectrum(eigenvalues, moments)
    modes = compressed(values, starts) if len(values) > WORTH else all_modes(values, starts)
    size = samples_of(num_samples, len(values))
    shape, settings = _settings(batch_size, lr, momentum, tau, size, noise, schedule)
    check_steps(num_steps)
    rows = max(1, CACHED // len(modes.eigenvalues))
    sums = np.empty((len(settings), num_steps + 1))
    for first in range(0, len(settings), rows):
        block = slice(first, first + rows)
        sums[block] = _traces(modes, *settings[block].T, num_steps, schedule)
    losses = (sums / (2 * size)).reshape(*shape, num_steps + 1)
    return _without_overflow(losses)


def spectral_curves(
    eigenvalues: ArrayLike,
    moments: ArrayLike,
    batch_size: int,
    lr: float,
    momentum: float = 0.0,
    tau: float = 1.0,
    num_steps: int = 1000,
    num_samples: int | None = None,
    noise: str = "finite",
    schedule: Schedule = None,
) -> Curves:
    """`spectral_diagonal` of one setting with C_k of every step (T + 1, K), all modes exact."""
    values, starts = _spectrum(eigenvalues, moments)
    size = samples_of(num_samples, len(values))
    _, (setting,) = _settings(batch_size, lr, momentum, tau, size, noise, schedule)
    check_steps(num_steps)
    shown = np.empty((num_steps + 1, len(values)))
    parts = [np.array([part]) for part in setting]
    sums = _traces(all_modes(values, starts), *parts, num_steps, schedule, shown)
    return Curves(_without_overflow(sums[0] / (2 * size)), shown)


def _spectrum(eigenvalues: ArrayLike, moments: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    values = check_eigenvalues(eigenvalues)
    return values, check_moments(moments, len(values))


def _settings(
    batch_size, lr, momentum, tau, num_samples, noise, schedule
) -> tuple[tuple[int, ...], Float[np.ndarray, "settings 4"]]:
    """The shape of all settings, and (γ, α, β, τ) of each."""
    gamma = noise_strength(batch_size, num_samples, noise)
    check_lr(lr)
    check_momentum(momentum)
    if as_schedule(schedule) is not None and np.any(np.asarray(momentum) != 0):
        raise ValueError("momentum given with Jacobi's schedule, which has its own; allowed: 0")
    try:
        all_four = np.broadcast_arrays(*map(np.float64, (gamma, lr, momentum, tau)))
    except ValueError as error:
        shapes = [np.shape(one) for one in (batch_size, lr, momentum, tau)]
        raise ValueError(
            f"batch_size, lr, momentum, tau of shapes {shapes} given; allowed: shapes that"
            " broadcast together"
        ) from error
    check_tau(all_four[3], all_four[0])
    return all_four[0].shape, np.stack([one.ravel() for one in all_four], axis=1)


def _traces(
    modes: Modes,
    gamma: Float[np.ndarray, " S"],
    lr: Float[np.ndarray, " S"],
    momentum: Float[np.ndarray, " S"],
    tau: Float[np.ndarray, " S"],
    num_steps: int,
    schedule: Schedule = None,
    shown: Float[np.ndarray, "T1 M"] | None = None,
) -> Float[np.ndarray, "S T1"]:
    """ΣC of every step for S settings; `shown` takes the modes of the one setting."""
    chosen = as_schedule(schedule)
    advance = _Plain if chosen is None and not momentum.any() else _Moving
    state = advance(modes, gamma[:, None], tau[:, None])
    rates, momenta = (None, None) if chosen is None else chosen.factors(num_steps)
    state.set(lr[:, None], momentum[:, None])
    sums = np.empty((len(lr), num_steps + 1))
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for t in range(num_steps + 1):
            sums[:, t] = state.second.sum(1)
            if shown is not None:
                shown[t] = state.second[0]
            if t < num_steps:
                if chosen is not None:
                    state.set(lr[:, None] * rates[t], momenta[t])
                state.step(sums[:, t, None])
    return sums


class _Plain:
    """C of S settings without momentum: C⁺ = (1 − 2x + (1 − γτ)x²) C + γα²f ΣC."""

    def __init__(self, modes: Modes, gamma: np.ndarray, tau: np.ndarray):
        self.modes, self.gamma, self.kept = modes, gamma, 1 - gamma * tau
        self.second = np.repeat(modes.starts[None], len(gamma), axis=0)
        self.scratch = np.empty_like(self.second)

    def set(self, lr: np.ndarray, _momentum: np.ndarray) -> None:
        x = lr * self.modes.eigenvalues
        self.factor = 1 - 2 * x + self.kept * x**2
        self.force = self.gamma * lr**2 * self.modes.forces

    def step(self, total: np.ndarray) -> None:
        self.second *= self.factor
        self.second += np.multiply(self.force, total, out=self.scratch)


class _Moving:
    """C, J and P of S settings."""

    def __init__(self, modes: Modes, gamma: np.ndarray, tau: np.ndarray):
        self.modes, self.gamma, self.kept = modes, gamma, 1 - gamma * tau
        self.second = np.repeat(modes.starts[None], len(gamma), axis=0)
        self.mixed, self.speed = np.zeros_like(self.second), np.zeros_like(self.second)
        self.scratch = np.empty_like(self.second)

    def set(self, lr: np.ndarray, momentum: np.ndarray) -> None:
        self.x = lr * self.modes.eigenvalues
        self.twice = 2 * self.x
        self.kick = self.kept * self.x**2
        self.force = self.gamma * lr**2 * self.modes.forces
        self.momentum = momentum

    def step(self, total: np.ndarray) -> None:
        second, mixed, speed, scratch = self.second, self.mixed, self.speed, self.scratch
        mixed *= self.momentum  # βJ
        speed *= self.momentum**2
        speed += np.multiply(self.kick, second, out=scratch)
        speed += np.multiply(self.force, total, out=scratch)
        speed -= np.multiply(self.twice, mixed, out=scratch)
        np.multiply(self.x, second, out=scratch)
        second -= scratch
        mixed -= scratch  # βJ − xC
        second += mixed  # C − 2xC + βJ
        second += mixed
        second += scratch  # C − 2xC + 2βJ
        second += speed
        mixed += speed


def _without_overflow(losses: Float[np.ndarray, "*settings T1"]) -> np.ndarray:
    """Infinite after the first loss that is not finite; one run alone is refused then."""
    if losses.ndim == 1:
        refuse_overflow(losses)
        return losses
    flat = losses.reshape(-1, losses.shape[-1])
    at = [first_overflow(of) for of in flat]
    steps = [step for step in at if step is not None]
    for row, step in zip(flat, at, strict=True):
        row[step if step is not None else len(row) :] = np.inf
    if steps:
        warnings.warn(
            f"{len(steps)} of {len(at)} runs overflow, the first at step {min(steps)}: their losses"
            " are infinite from there on",
            RuntimeWarning,
            stacklevel=3,
        )
    return losses
