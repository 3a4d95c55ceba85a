"""How fast does a run diverge, and from where? L_t ≈ A r^−t with rŨ(r) = 1."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq

from studies.sgd_regimes.boundaries import verdict
from studies.sgd_regimes.checks import check_eigenvalues, check_moments, samples_of
from studies.sgd_regimes.generating import Setting, denominator, noise_series, signal_series

COMPLEX_STEP = 1e-30  # of a derivative that loses no digits


class Growth(NamedTuple):
    """L_t ≈ amplitude · rate^t.

    Attributes:
        rate: 1/r > 1 a step.
        amplitude: A, in units of the loss.
    """

    rate: float
    amplitude: float


def growth(
    eigenvalues: ArrayLike, moments: ArrayLike, setting: Setting, num_samples: int | None = None
) -> Growth:
    """The leading growth of a divergent run: A = Ṽ(r)/(2N r (zŨ)'(r)) at rŨ(r) = 1.

    Args:
        eigenvalues, moments: λ_k and c_k (K,).
        setting: A divergent one, τ <= 1.
        num_samples: N; None: K.

    Raises:
        ValueError: The setting converges, has no noise (γ = 0), or τ > 1.
    """
    if setting.gamma == 0:
        raise ValueError(
            "γ = 0 given, batches of all samples; allowed: γ > 0, for without noise each mode grows"
            " by itself, by the square of gradient descent's factor a step"
        )
    values = check_eigenvalues(eigenvalues)
    starts = check_moments(moments, len(values))
    found = verdict(values, setting)
    if found.converges:
        raise ValueError(
            f"lr {setting.lr:g} given, at which the run converges (Ũ(1) = {found.gain:.4g});"
            " allowed: a divergent one"
        )
    edge = _first_pole(setting.lr * values, setting)

    def excess(z: float) -> float:
        return float(z * noise_series(z, values, setting)) - 1

    r = 1.0 if edge == 1.0 and excess(1.0) == 0 else brentq(excess, 0.0, edge, xtol=1e-15)
    shifted = complex(r, COMPLEX_STEP)
    slope = (shifted * noise_series(shifted, values, setting)).imag / COMPLEX_STEP
    size = samples_of(num_samples, len(values))
    amplitude = signal_series(r, values, starts, setting) / (2 * size * r * slope)
    return Growth(1 / r, float(amplitude))


def _first_pole(x: np.ndarray, setting: Setting) -> float:
    """The largest z <= 1 below which no mode's S(z) has a zero, just inside of it."""
    grid = np.linspace(0.0, 1.0, 2001)[1:]
    largest = np.unique(np.r_[x.max(), x])[-200:]  # the first to diverge are among these
    positive = np.array([(denominator(z, largest, setting) > 0).all() for z in grid])
    if positive.all():
        return 1.0
    low, high = (
        (grid[max(positive.argmin() - 1, 0)] if positive[0] else 0.0),
        grid[positive.argmin()],
    )
    for _ in range(60):
        middle = 0.5 * (low + high)
        inside = (denominator(middle, largest, setting) > 0).all()
        low, high = (middle, high) if inside else (low, middle)
    return low
