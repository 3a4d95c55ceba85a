"""Which learning coefficients are known exactly, and what should a sampler find at finite
temperature?

The learning coefficient λ of a loss K ≥ 0 with K(w*) = 0 and its multiplicity m are read off the
free energy −ln ∫ exp(−n K(w)) φ(w) dw = λ ln n − (m − 1) ln ln n + O(1): S. Watanabe, "Algebraic
Geometry and Statistical Learning Theory", Cambridge University Press 2009, theorem 6.7.
`quadratic`, `normal_crossing` and `deep_linear` give (λ, m).

A sampler sees another number, because nβ and the pull γ towards w* = 0 are finite: λ̂ = nβ E[K]
under p(w) ∝ exp(−nβ K(w) − (γ/2)|w|²) (Lau et al., arXiv:2308.12108). `quadratic_llc` and
`normal_crossing_llc` give λ̂.
"""

from collections.abc import Sequence
from fractions import Fraction
from functools import reduce
from itertools import combinations
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp


class LearningCoefficient(NamedTuple):
    """λ as an exact fraction, and its multiplicity m ≥ 1."""

    value: Fraction
    multiplicity: int


def quadratic(rank: int) -> LearningCoefficient:
    """K(w) = Σ_{i≤rank} w_i², in any number of weights: λ = rank/2. A regular model with d weights
    has rank d.

    Raises:
        ValueError: A negative rank.
    """
    if rank < 0:
        raise ValueError(f"rank = {rank}; allowed: 0 (a constant K) and more")
    return LearningCoefficient(Fraction(rank, 2), 1)


def normal_crossing(exponents: Sequence[int]) -> LearningCoefficient:
    """K(w) = Π_i w_i^{2k_i}, exponents k: λ = min_i 1/(2k_i), and m counts the i that attain it.

    Raises:
        ValueError: No exponents, or one that is not a positive integer.
    """
    _check_exponents(exponents)
    largest = max(exponents)
    return LearningCoefficient(Fraction(1, 2 * largest), sum(k == largest for k in exponents))


def deep_linear(widths: Sequence[int], rank: int) -> LearningCoefficient:
    """Deep linear network of `widths` H_0 (inputs), …, H_L (outputs), no biases, whose true map has
    rank r.

    M. Aoyagi, "Consideration on the learning efficiency of multiple-layered neural networks with
    linear units", Neural Networks 172 (2024). With Δ_j = H_j − r there is one set S of ℓ + 1
    layers, those with the smallest Δ_j, such that max_S Δ < min_{not S} Δ and ℓ max_S Δ ≤ Σ_S Δ < ℓ
    min_{not S} Δ. With s = Σ_S Δ and a = s mod ℓ

        λ = r(H_0 + H_L − r)/2 + a(ℓ − a)/(4ℓ) − (ℓ − 1)s²/(4ℓ) + ½ Σ_{i<j∈S} Δ_i Δ_j,    m = a(ℓ −
        a) + 1.

    Two layers, L = 2, are reduced-rank regression (Aoyagi & Watanabe, Neural Networks 18, 2005).

    Raises:
        ValueError: Fewer than two widths, a width below 1, or a rank that no such network has.
    """
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(
            f"widths = {tuple(widths)}; allowed: two or more (inputs, hidden …, outputs), each at"
            " least 1"
        )
    if not 0 <= rank <= min(widths):
        raise ValueError(f"rank = {rank}; allowed: 0 to the smallest width, {min(widths)}")
    excess = sorted(width - rank for width in widths)  # Δ
    # Σ_{j≤ℓ} Δ_j − ℓ Δ_ℓ starts at Δ_0 ≥ 0 and never rises with ℓ: S is the longest prefix where it
    # is not negative.
    # ℓ
    num_factors = max(n for n in range(1, len(excess)) if sum(excess[: n + 1]) >= n * excess[n])
    chosen = excess[: num_factors + 1]  # S
    total = sum(chosen)
    remainder = total % num_factors
    log_power = remainder * (num_factors - remainder)  # a(ℓ − a)
    regular = Fraction(rank * (widths[0] + widths[-1] - rank), 2)
    singular = Fraction(log_power - (num_factors - 1) * total**2, 4 * num_factors)
    pairs = Fraction(sum(a * b for a, b in combinations(chosen, 2)), 2)
    return LearningCoefficient(regular + singular + pairs, log_power + 1)


def quadratic_llc(
    curvatures: Sequence[float], nbeta: float, localization: float, step_size: float = 0.0
) -> float:
    """λ̂ = nβ E[K] for K(w) = ½ Σ_i h_i w_i², curvatures h: ½ Σ_i nβ h_i / (A_i (1 − εA_i/4)), A_i
    = nβ h_i + γ.

    Args:
        curvatures: Eigenvalues h_i ≥ 0 of the Hessian.
        nbeta: nβ > 0.
        localization: γ ≥ 0.
        step_size: ε. Zero is the posterior itself. Otherwise the stationary law of the Langevin
            steps w ← w − (ε/2) A w + N(0, ε), whose variance solves v = (1 − εA/2)² v + ε.

    Raises:
        ValueError: Where there is no such law: some A_i ≤ 0 (no posterior), or some ε A_i ≥ 4 (the
            steps explode).
    """
    signal = nbeta * np.asarray(curvatures, dtype=np.float64)
    precision = signal + localization  # A
    if (precision <= 0).any():
        raise ValueError(
            f"nβ h + γ = {precision.min():g} for some curvature h; the posterior exists only where"
            " it is positive: choose nβ > 0 and γ > 0"
        )
    if (step_size * precision >= 4).any():
        raise ValueError(
            f"ε(nβ h + γ) = {(step_size * precision).max():g} for the largest curvature; Langevin"
            f" steps are stable below 4 only: choose ε < {4 / precision.max():g}"
        )
    return float((signal / (precision * (1 - step_size * precision / 4))).sum() / 2)


def normal_crossing_llc(exponents: Sequence[int], nbeta: float, localization: float) -> float:
    """λ̂ = nβ E[K] for K(w) = Π_i w_i^{2k_i}, exponents k, by quadrature; relative error below
    1e-9.

    In t_i = ln w_i^{2k_i} the weights enter through s = ln K = Σ_i t_i alone, so the density of s
    is a convolution of the densities exp(t/(2k_i) − (γ/2) e^{t/k_i}), and E[·] one integral over s
    with weight exp(−nβ e^s). All of them are analytic for |Im t| < π/2: the trapezoidal rule with
    step h errs by O(exp(−π²/h)).

    Args:
        exponents: Integers k_i ≥ 1, one a weight.
        nbeta: nβ > 0.
        localization: γ > 0; or 0 with a single weight, where λ̂ = 1/(2k) for every nβ.

    Raises:
        ValueError: Bad exponents, nβ ≤ 0, γ < 0, or γ = 0 with several weights, where the posterior
            does not exist.
    """
    _check_exponents(exponents)
    if nbeta <= 0 or localization < 0:
        raise ValueError(f"nβ = {nbeta}, γ = {localization}; allowed: nβ > 0 and γ ≥ 0")
    if localization == 0:
        if len(exponents) > 1:
            raise ValueError(
                "γ = 0; with several weights K vanishes along whole axes and the posterior needs"
                " γ > 0"
            )
        return 1 / (2 * exponents[0])
    step, underflow, accuracy = 0.25, 745.0, 40.0  # exp(−π²/step) ≈ 1e-17; the last two in nats
    # no mass where (γ/2)w² > 745
    tops = [k * np.log(2 * underflow / localization) for k in exponents]
    decay = 1 / (2 * max(exponents))  # the density of s falls like e^{λs}|s|^{m−1} to the left
    span = max(0.0, sum(tops) + np.log(nbeta)) + accuracy / decay
    below_top = -step * np.arange(np.ceil(span / step))
    log_densities = [
        (top + below_top) / (2 * k) - localization / 2 * np.exp((top + below_top) / k)
        for k, top in zip(exponents, tops, strict=True)
    ]
    density = reduce(
        lambda left, right: np.convolve(left, right)[: len(below_top)],
        [np.exp(log_density - log_density.max()) for log_density in log_densities],
    )
    log_loss = sum(tops) + below_top  # s
    with np.errstate(divide="ignore"):
        log_posterior = np.log(density) - nbeta * np.exp(log_loss)
    return float(nbeta * np.exp(logsumexp(log_posterior + log_loss) - logsumexp(log_posterior)))


def _check_exponents(exponents: Sequence[int]) -> None:
    if len(exponents) == 0 or any(k < 1 or k != int(k) for k in exponents):
        raise ValueError(
            f"exponents = {tuple(exponents)}; allowed: at least one, each a positive integer"
        )
