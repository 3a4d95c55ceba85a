"""How does the loss fall, with which exponent and constant, and which momentum is best?

For power laws λ_k = Λk^−ν, c_k = Ak^−ϰ−1 and ζ = ϰ/ν (`../shared/sgd-regimes.md`, section 5):

    signal phase, ζ < 2 − 1/ν:  L ≈ C_sig t^−ζ,  C_sig = ½QΓ(ζ+1)(2α_eff)^−ζ/(1 − Ũ(1))
    noise phase, ζ > 2 − 1/ν:   L ≈ C_noise t^−(2−1/ν),
                                C_noise = Ṽ(1)γΓ(2−1/ν)(2α_effΛ)^{1/ν}/(8ν(1 − Ũ(1))²)

with α_eff = α/(1 − β), Q = AΛ^−ζ/ϰ and L = ½ΣC; here losses are means, ΣC/(2N).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import gamma as gamma_function
from math import inf, nan
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar

from studies.sgd_regimes.boundaries import verdict
from studies.sgd_regimes.checks import check_law, samples_of
from studies.sgd_regimes.generating import Setting, signal_series
from studies.sgd_regimes.spectral import spectral_diagonal

SMALL = 0.1  # of the sum: a part that is no larger does not keep the other from being the loss
CLOSE = 1e-9  # relative: exponents that are equal but for rounding
LARGEST_LOG = 700.0  # of a time that float64 holds


@dataclass(frozen=True)
class PowerLaw:
    """λ_k = Λk^−ν and c_k = Ak^−ϰ−1 for k = 1, 2, …

    Attributes:
        nu, kappa: ν, ϰ > 0.
        scale: Λ, in units of K̂'s eigenvalues.
        amplitude: A, in units of the residual squared.
    """

    nu: float
    kappa: float
    scale: float = 1.0
    amplitude: float = 1.0

    def __post_init__(self):
        check_law(self.nu, self.kappa)

    @property
    def zeta(self) -> float:
        """ζ = ϰ/ν, the exponent of gradient descent."""
        return self.kappa / self.nu

    @property
    def noise_exponent(self) -> float:
        """2 − 1/ν."""
        return 2 - 1 / self.nu

    @property
    def phase(self) -> str:
        """ "signal", "noise" or "between", and "divergent" for ν <= 1, where Σλ is infinite."""
        if self.nu <= 1:
            return "divergent"
        if np.isclose(self.zeta, self.noise_exponent, rtol=CLOSE, atol=0.0):
            return "between"
        return "signal" if self.zeta < self.noise_exponent else "noise"

    @property
    def exponent(self) -> float:
        """Of the loss at late times: the smaller of ζ and 2 − 1/ν."""
        return min(self.zeta, self.noise_exponent)

    def eigenvalues(self, size: int) -> Float[np.ndarray, " K"]:
        return self.scale * np.arange(1, size + 1, dtype=np.float64) ** -self.nu

    def moments(self, size: int) -> Float[np.ndarray, " K"]:
        return self.amplitude * np.arange(1, size + 1, dtype=np.float64) ** (-self.kappa - 1)


@dataclass(frozen=True)
class Asymptote:
    """C_sig t^−ζ + C_noise t^−(2−1/ν).

    Attributes:
        law: Of the spectrum and the residual.
        signal, noise: C_sig and C_noise, of mean losses; noise is NaN where ζ <= 1, for there
            Ṽ(1) is infinite and the noise's part falls like none of both powers.
        gain: Ũ(1).
    """

    law: PowerLaw
    signal: float
    noise: float
    gain: float

    @property
    def transition(self) -> float:
        """t = (C_sig/C_noise)^{1/(ζ−2+1/ν)}, where both parts are equal; NaN where there is none.

        Before it the part with the larger exponent is the larger one, after it the other. Infinite
        where float64 does not hold it.
        """
        if self.law.phase == "between" or not self.noise > 0:
            return nan
        difference = self.law.zeta - self.law.noise_exponent
        log = (np.log(self.signal) - np.log(self.noise)) / difference
        return float(np.exp(log)) if log < LARGEST_LOG else inf

    def holds(self, t: ArrayLike) -> Float[np.ndarray, " T"]:
        """Whether the law's phase alone may be called the loss at t: the other part is at most
        `SMALL` of the sum.

        Nowhere between the phases, where no part ever is, nor where no noise constant is known.
        """
        t = np.asarray(t, dtype=np.float64)
        if self.law.phase == "between" or np.isnan(self.noise):
            return np.zeros(t.shape, dtype=bool)
        signal, noise = self.parts(t)
        other = noise if self.law.phase == "signal" else signal
        return (t >= 1) & (other <= SMALL * (signal + noise))

    def parts(self, t: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """C_sig t^−ζ and C_noise t^−(2−1/ν) at steps t >= 1."""
        t = np.asarray(t, dtype=np.float64)
        return self.signal * t**-self.law.zeta, self.noise * t**-self.law.noise_exponent

    def loss(self, t: ArrayLike) -> Float[np.ndarray, " T"]:
        """The sum of both parts at steps t >= 1; the signal's alone where that is all there is."""
        signal, noise = self.parts(t)
        return signal if np.isnan(self.noise) else signal + noise


def asymptote(
    law: PowerLaw, size: int, setting: Setting, num_samples: int | None = None
) -> Asymptote:
    """The constants of both phases, Ũ(1) and Ṽ(1) from the first `size` modes.

    Args:
        law: ν > 1, so that Ũ(1) is finite for any number of modes.
        size: K.
        setting: A convergent one, τ <= 1.
        num_samples: N of the mean loss; None: K.

    Raises:
        ValueError: ν <= 1, τ > 1, or a setting that diverges.
    """
    if law.phase == "divergent":
        raise ValueError(
            f"nu {law.nu:g} given; allowed: > 1, for Σλ_k grows without end with the number of"
            " modes, and every learning rate diverges eventually"
        )
    values, starts = law.eigenvalues(size), law.moments(size)
    found = verdict(values, setting)
    if not found.converges:
        raise ValueError(f"lr {setting.lr:g} given, which diverges ({found.reason}); allowed: less")
    zeta, late = law.zeta, law.noise_exponent
    left, rate = 1 - found.gain, 2 * setting.effective_lr
    q = law.amplitude * law.scale**-zeta / law.kappa
    signal = 0.5 * q * gamma_function(zeta + 1) * rate**-zeta / left
    noise = nan
    if zeta > 1:
        total = float(signal_series(1.0, values, starts, setting)) * setting.gamma
        shape = gamma_function(late) * (rate * law.scale) ** (1 / law.nu)
        noise = total * shape / (8 * law.nu * left**2)
    per = samples_of(num_samples, size)
    return Asymptote(law, signal / per, noise / per, found.gain)


# ---- momentum ------------------------------------------------------------------------------------

Measure = Callable[[float, float], float]  # (α, β) → what should be small, > 0 or infinite


class Optimum(NamedTuple):
    """The best learning rate and momentum by some measure.

    Attributes:
        lr, momentum: α, β.
        value: What is smallest there.
        saved: 1 − value over the smallest value at β = 0.
    """

    lr: float
    momentum: float
    value: float
    saved: float


def constant_of_phase(law: PowerLaw, size: int, gamma: float, tau: float = 1.0) -> Measure:
    """(α, β) → C_sig or C_noise, whichever the loss has in the end; infinite where it diverges.

    In the signal phase it falls towards β → 1: Ũ(1) falls with β at fixed α_eff.
    """

    def constant(lr: float, momentum: float) -> float:
        try:
            found = asymptote(law, size, Setting(gamma, lr, momentum, tau))
        except ValueError:
            return inf
        return found.signal if law.phase == "signal" else found.noise

    return constant


def loss_at(eigenvalues: ArrayLike, moments: ArrayLike, batch_size: int, num_steps: int) -> Measure:
    """(α, β) → the loss of SD(1) after `num_steps` steps, batches from a stream.

    Near the transition it may be smallest at β > 0 where in the limit it is at β < 0.
    """

    def last(lr: float, momentum: float) -> float:
        how = (batch_size, lr, momentum, 1.0, num_steps)
        try:
            return float(spectral_diagonal(eigenvalues, moments, *how, noise="online")[-1])
        except OverflowError:
            return inf

    return last


def best_by_momentum(
    eigenvalues: Float[np.ndarray, " K"],
    gamma: float,
    momenta: Sequence[float],
    value: Measure,
    tau: float = 1.0,
) -> dict[float, tuple[float, float]]:
    """β → (best α, smallest value), by a bounded search below the boundary for each β."""
    found = {}
    for momentum in momenta:
        top = np.log(largest_rate(eigenvalues, gamma, momentum, tau))

        def at(log_lr: float, momentum: float = momentum) -> float:
            return float(np.log(value(float(np.exp(log_lr)), momentum)))

        how = {"bounds": (top - 6.0, top - 1e-6), "method": "bounded", "options": {"xatol": 1e-3}}
        best = minimize_scalar(at, **how)
        found[momentum] = float(np.exp(best.x)), float(np.exp(best.fun))
    return found


def optimum(found: Mapping[float, tuple[float, float]]) -> Optimum:
    """The best of `best_by_momentum`, which has β = 0 among its momenta."""
    momentum = min(found, key=lambda m: found[m][1])
    lr, value = found[momentum]
    return Optimum(lr, momentum, value, 1 - value / found[0.0][1])


def largest_rate(
    eigenvalues: Float[np.ndarray, " K"], gamma: float, momentum: float, tau: float = 1.0
) -> float:
    """The boundary of SD(τ) at a γ that need not be a batch size's, by bisection on the verdict."""
    low, high = 0.0, 2 * (1 + momentum) / float(eigenvalues.max())
    for _ in range(40):
        middle = 0.5 * (low + high)
        converges = verdict(eigenvalues, Setting(gamma, middle, momentum, tau)).converges
        low, high = (middle, high) if converges else (low, middle)
    return low


def best_gain(law: PowerLaw) -> float:
    """Ũ(1) at the best α for β = 0 and small x: ζ/(1+ζ) (signal), (ν−1)/(3ν−1) (noise)."""
    if law.phase == "signal":
        return law.zeta / (1 + law.zeta)
    return (law.nu - 1) / (3 * law.nu - 1)


def negative_momentum_helps(eigenvalues: ArrayLike, moments: ArrayLike, nu: float) -> bool:
    """Whether in the noise phase a β < 0 is better than 0: Σλ·Σc > ((ν−1)/ν) Σλ²·Σ(c/λ).

    `moments` are c_k = E Δ_k² in the eigenbasis of K̂ acting on residuals, not on weights.
    """
    return negative_momentum_margin(eigenvalues, moments, nu) > 0


def negative_momentum_margin(eigenvalues: ArrayLike, moments: ArrayLike, nu: float) -> float:
    """log of the condition's left over its right side: > 0 where β < 0 helps."""
    values, starts = np.asarray(eigenvalues, float), np.asarray(moments, float)
    left = values.sum() * starts.sum()
    right = (nu - 1) / nu * (values**2).sum() * (starts / values).sum()
    return float(np.log(left / right))


def helpful_exponents(
    nus: ArrayLike, kappas: ArrayLike, size: int
) -> Float[np.ndarray, "kappas nus"]:
    """`negative_momentum_margin` over exponents; NaN outside the noise phase."""
    laws = [[PowerLaw(float(nu), float(kappa)) for nu in nus] for kappa in kappas]
    return np.array(
        [
            [
                negative_momentum_margin(law.eigenvalues(size), law.moments(size), law.nu)
                if law.phase == "noise"
                else nan
                for law in row
            ]
            for row in laws
        ]
    )


# ---- budget --------------------------------------------------------------------------------------


def budget_losses(
    eigenvalues: ArrayLike,
    moments: ArrayLike,
    batch_sizes: Sequence[int],
    lrs: Sequence[float],
    budget: int,
    momentum: float = 0.0,
    noise: str = "finite",
) -> list[Float[np.ndarray, " T1"]]:
    """SD(1)'s losses over t for each batch size with its learning rate, up to b·t = `budget`."""
    return [
        spectral_diagonal(
            eigenvalues, moments, b, lr, momentum, num_steps=max(1, budget // b), noise=noise
        )
        for b, lr in zip(batch_sizes, lrs, strict=True)
    ]


def budget_spread(losses: Sequence[Float[np.ndarray, " T1"]]) -> float:
    """Largest over smallest last loss, minus 1: 0 where only the budget b·t counts."""
    ends = [of[-1] for of in losses]
    return float(max(ends) / min(ends) - 1)
