"""What does SGD on a linear model do when its batches are really drawn? Many runs at once.

The model's outputs at all samples move by v ← βv − α(N/b) Σ_{i∈B} K̂_{·i}Δ_i, Δ ← Δ + v: the same
convention as in every other regime. Adam steps weights, so it needs features Φ with K = ΦΦᵀ.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from studies.sgd_regimes.averaging import Curves
from studies.sgd_regimes.checks import (
    check_count,
    check_kernel,
    check_lr,
    check_psd,
    check_residual,
    check_steps,
    decomposed,
    noise_strength,
    refuse_overflow,
)
from studies.sgd_regimes.schedules import Schedule, steps_of

ADAM_BETAS, ADAM_EPSILON = (0.9, 0.999), 1e-8  # Kingma & Ba, arXiv:1412.6980, and PyTorch's default

Batches = Iterable[Int[np.ndarray, "runs b"]]


def sampled_batches(
    num_runs: int, num_samples: int, batch_size: int, num_steps: int, seed: int
) -> Iterator[Int[np.ndarray, "runs b"]]:
    """For each step, b different samples of each run, all sets as likely."""
    noise_strength(batch_size, num_samples)
    batch_size = int(batch_size)  # 2.0 is a whole number too
    random = np.random.default_rng(seed)
    for _ in range(num_steps):
        if batch_size == num_samples:
            yield np.tile(np.arange(num_samples), (num_runs, 1))
        else:
            keys = random.random((num_runs, num_samples), dtype=np.float32)
            yield np.argpartition(keys, batch_size, axis=1)[:, :batch_size]


def _states(
    state: np.ndarray, joint: np.ndarray, rates: np.ndarray, momenta: np.ndarray, batches: Batches
) -> Iterator[np.ndarray]:
    """The residuals (runs, N + M) before the first step and after each, in place; of a batch only
    those of its own samples, the first N, drive all.
    """
    size = joint.shape[1]
    speed, drawn = np.zeros_like(state), np.zeros((len(state), size))
    rows = np.arange(len(state))[:, None]
    yield state
    with np.errstate(over="ignore", invalid="ignore"):
        for rate, beta, batch in zip(rates, momenta, batches, strict=True):
            drawn[:] = 0.0
            drawn[rows, batch] = state[rows, batch]
            speed *= beta
            speed -= rate * (drawn @ joint.T)
            state += speed
            yield state


def linearised(
    kernel: ArrayLike,
    residual: ArrayLike,
    batch_size: int,
    lr: float,
    momentum: float = 0.0,
    num_steps: int = 1000,
    num_runs: int = 1,
    seed: int = 0,
    schedule: Schedule = None,
    *,
    batches: Batches | None = None,
    modes: bool = False,
    validation: tuple[ArrayLike, ArrayLike] | None = None,
) -> Curves:
    """Runs of SGD on a linear model.

    Args:
        kernel: K̂ = K/N (N, N), as it is.
        residual: Δ at the start (N,), the same in all runs.
        batch_size, lr, momentum, num_steps, schedule: As in `averaging.averaged`.
        num_runs: How many.
        seed: Of the batches.
        batches: In place of drawn ones, for each step the samples of each run.
        modes: Whether to give the mean of C_k over runs.
        validation: (K(x_i', x_j)/N (M, N), residual (M,)) of other samples.

    Returns:
        `losses` and `validation` of each run (runs, T + 1); `modes` (T + 1, N).

    Raises:
        ValueError: A setting that is not allowed.
        OverflowError: The mean over runs leaves float64; it says at which step.
    """
    check_count("num_runs", num_runs)
    matrix = check_kernel(kernel)
    vectors = None
    if modes:
        _, vectors = decomposed(kernel)
    else:
        check_psd(np.linalg.eigvalsh(matrix))
    size = len(matrix)
    noise_strength(batch_size, size)
    rates, momenta = steps_of(lr, momentum, num_steps, schedule)
    start = check_residual(residual, size)
    joint = matrix if validation is None else np.vstack([matrix, np.asarray(validation[0])])
    if validation is not None:
        start = np.r_[start, check_residual(validation[1], len(joint) - size)]
    state = np.repeat(start[None], num_runs, axis=0)  # residuals of training and other samples
    given = batches or sampled_batches(num_runs, size, batch_size, num_steps, seed)
    scaled = rates * size / batch_size
    losses, others, shown = [], [], []
    for now in _states(state, joint, scaled, momenta, given):
        losses.append(np.einsum("rn,rn->r", now[:, :size], now[:, :size]) / (2 * size))
        if validation is not None:
            others.append((now[:, size:] ** 2).mean(1) / 2)
        if modes:
            shown.append(((now[:, :size] @ vectors) ** 2).mean(0))
    found = np.stack(losses, axis=1)
    refuse_overflow(found.mean(0))
    return Curves(
        found,
        np.stack(shown) if modes else None,
        np.stack(others, axis=1) if validation is not None else None,
    )


def linearised_adam(
    features: Float[np.ndarray, "N p"],
    residual: ArrayLike,
    batch_size: int,
    lr: float,
    num_steps: int = 1000,
    num_runs: int = 1,
    seed: int = 0,
    *,
    batches: Batches | None = None,
) -> Float[np.ndarray, "runs T1"]:
    """Losses of Adam on the linear model f = f₀ + Φ(w − w₀); its rate is in units of weights.

    Adam is not invariant under rotations of weights: what it does depends on Φ, not on ΦΦᵀ alone.

    Args:
        features: Φ (N, p), such as `kernels.features_of`.
        residual, batch_size, num_steps, num_runs, seed, batches: As in `linearised`.
        lr: α of every weight's step.

    Raises:
        ValueError: A setting that is not allowed.
    """
    features = np.asarray(features, dtype=np.float64)
    size = len(features)
    check_lr(lr)
    check_steps(num_steps)
    check_count("num_runs", num_runs)
    noise_strength(batch_size, size)
    start = check_residual(residual, size)
    given = batches or sampled_batches(num_runs, size, batch_size, num_steps, seed)
    moved, first, second = (np.zeros((num_runs, features.shape[1])) for _ in range(3))
    rows, losses = np.arange(num_runs)[:, None], []
    state = np.repeat(start[None], num_runs, axis=0)
    losses.append((state**2).mean(1) / 2)
    for step, batch in enumerate(given, start=1):
        drawn = state[rows, batch]
        gradient = np.stack([d @ features[of] for d, of in zip(drawn, batch, strict=True)])
        gradient /= batch_size
        moved, first, second = adam_step(moved, gradient, first, second, step, lr)
        state = start + moved @ features.T
        losses.append((state**2).mean(1) / 2)
    return np.stack(losses, axis=1)


def adam_step(weights, gradient, first, second, step: int, lr: float):
    """Adam's weights and both moments after step 1, 2, …; arrays or tensors."""
    (one, two), epsilon = ADAM_BETAS, ADAM_EPSILON
    first = one * first + (1 - one) * gradient
    second = two * second + (1 - two) * gradient**2
    scale = (second / (1 - two**step)) ** 0.5 + epsilon
    return weights - lr * (first / (1 - one**step)) / scale, first, second
