"""What is the generating function Σ_t L_t z^t of SD(τ), in closed form?

With x = αλ_k, g = γτ and c_k = C_k(0) (`../shared/sgd-regimes.md`, section 4):

    S = (1−z)(1−βz)(1−β²z) + 2xz(1+β)(1−βz) − x²z[(1−βz) − g(1+βz)]
    Ũ = γ Σ x²(1+βz)/S,    Ṽ = Σ c_k[2xβz + (1−βz)(1−β²z)]/S,    Σ_t L_t z^t = Ṽ/(2N(1 − zŨ))

so that losses obey the renewal equation L_t = V_t/(2N) + Σ_s U_s L_{t−1−s}.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from studies.sgd_regimes.checks import (
    check_eigenvalues,
    check_lr,
    check_moments,
    check_momentum,
    check_tau,
    samples_of,
)


@dataclass(frozen=True)
class Setting:
    """What SD(τ) is told beside the spectrum.

    Attributes:
        gamma: γ, see `checks.noise_strength`.
        lr: α.
        momentum: β.
        tau: τ <= 1/γ.
    """

    gamma: float
    lr: float
    momentum: float = 0.0
    tau: float = 1.0

    def __post_init__(self):
        check_lr(self.lr)
        check_momentum(self.momentum)
        check_tau(self.tau, self.gamma)

    @property
    def effective_lr(self) -> float:
        """α/(1 − β)."""
        return self.lr / (1 - self.momentum)


def denominator(z: complex, x: ArrayLike, setting: Setting) -> np.ndarray:
    """S(z) of each mode; its zeros are the inverse eigenvalues of the mode's (C, J, P) system."""
    x, beta, g = np.asarray(x), setting.momentum, setting.gamma * setting.tau
    free = (1 - z) * (1 - beta * z) * (1 - beta**2 * z)
    drawn = 2 * x * z * (1 + beta) * (1 - beta * z)
    return free + drawn - x**2 * z * ((1 - beta * z) - g * (1 + beta * z))


def noise_series(z: complex, eigenvalues: ArrayLike, setting: Setting) -> complex:
    """Ũ(z): what noise of one step gives back in all later ones."""
    x = setting.lr * np.asarray(eigenvalues)
    summed = (x**2 / denominator(z, x, setting)).sum()
    return setting.gamma * (1 + setting.momentum * z) * summed


def signal_series(z: complex, eigenvalues: ArrayLike, moments: ArrayLike, setting: Setting):
    """Ṽ(z): ΣC without the noise that other modes make. Modes that do not move count at |z| < 1."""
    x, beta = setting.lr * np.asarray(eigenvalues), setting.momentum
    above = 2 * x * beta * z + (1 - beta * z) * (1 - beta**2 * z)
    c, below = np.asarray(moments), denominator(z, x, setting)
    counted = c > 0
    return (c[counted] * above[counted] / below[counted]).sum()


def loss_series(
    z: complex,
    eigenvalues: ArrayLike,
    moments: ArrayLike,
    setting: Setting,
    num_samples: int | None = None,
) -> complex:
    """Σ_t L_t z^t, for |z| below its radius of convergence; N is K where not given."""
    values = check_eigenvalues(eigenvalues)
    starts = check_moments(moments, len(values))
    signal = signal_series(z, values, starts, setting)
    size = samples_of(num_samples, len(values))
    return signal / (2 * size * (1 - z * noise_series(z, values, setting)))


def noise_gain(eigenvalues: ArrayLike, setting: Setting) -> float:
    """Ũ(1) = γ Σ x/(2(1−β) + x(g − q)), q = (1−β)/(1+β): what a unit of noise returns in all.

    Infinite where a denominator is not positive: that mode diverges by itself.
    """
    x, beta = setting.lr * np.asarray(eigenvalues, dtype=np.float64), setting.momentum
    below = gain_denominators(x, setting)
    if (below <= 0).any() or x.max(initial=0.0) >= 2 * (1 + beta):
        return np.inf
    return float(setting.gamma * (x / below).sum())


def gain_denominators(x: Float[np.ndarray, " K"], setting: Setting) -> Float[np.ndarray, " K"]:
    """2(1−β) + x(γτ − (1−β)/(1+β)) of each mode: positive where it converges by itself."""
    beta = setting.momentum
    return 2 * (1 - beta) + x * (setting.gamma * setting.tau - (1 - beta) / (1 + beta))


def renewal_kernels(
    eigenvalues: ArrayLike, moments: ArrayLike, setting: Setting, num_steps: int
) -> tuple[Float[np.ndarray, " T"], Float[np.ndarray, " T1"]]:
    """U_0 … U_{T−1} and V_0 … V_T, the coefficients of Ũ and Ṽ, by stepping modes without ΣC."""
    x = setting.lr * np.asarray(eigenvalues, dtype=np.float64)
    kick = setting.gamma * x**2
    forced, free = (kick, kick.copy(), kick.copy()), (np.asarray(moments, float), 0 * x, 0 * x)
    u, v = [], []
    for _ in range(num_steps):
        u.append(forced[0].sum())
        v.append(free[0].sum())
        forced, free = _alone(forced, x, setting), _alone(free, x, setting)
    return np.array(u), np.array([*v, free[0].sum()])


def _alone(state, x, setting: Setting):
    """(C, J, P) of each mode one step on, without the noise of others."""
    second, mixed, speed = state
    beta, g = setting.momentum, setting.gamma * setting.tau
    speed = (1 - g) * x**2 * second - 2 * beta * x * mixed + beta**2 * speed
    ahead = beta * mixed - x * second + speed
    return second - 2 * x * second + 2 * beta * mixed + speed, ahead, speed


def renewed(
    u: Float[np.ndarray, " T"], v: Float[np.ndarray, " T1"], num_samples: int
) -> Float[np.ndarray, " T1"]:
    """The losses that solve L_t = V_t/(2N) + Σ_{s<t} U_s L_{t−1−s}."""
    losses = v / (2 * num_samples)
    for t in range(1, len(v)):
        losses[t] += u[:t] @ losses[:t][::-1]
    return losses
