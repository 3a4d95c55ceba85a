"""What do the losses that chains saw say? The LLC with its error, drift, diagnosis, and a verdict
on every chain.

Statistics are ArviZ's (Vehtari, Gelman, Simpson, Carpenter & Bürkner, Bayesian Analysis 16 (2021)
667).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from arviz_stats.base import array_stats
from jaxtyping import Bool, Float
from scipy.stats import t

from degeneracy.llc.certificates import Certificates
from degeneracy.llc.settings import AUTO, SamplerSettings

# standard errors by which a chain's halves must differ to say that it has not settled
SIGNIFICANT = 2.0
SHORTEST = 20  # draws below which a chain gets no verdict
STEADY, RISING, FALLING, DIVERGED = "steady", "still rising", "still falling", "diverged"
TOO_SHORT = "too short to tell"


@dataclass(frozen=True)
class LLCEstimate:
    """An LLC estimate with what is needed to judge it. Numbers are None where they do not exist.

    Chains that stopped being finite are marked in `diverged` and count in none of the pooled
    numbers.
    """

    llc: float | None  # λ̂, pooled over chains
    # Monte-Carlo: the larger of the one from the effective sample size and between chains; with
    # `auto` the latter alone
    std_error: float | None
    drift: float | None  # λ̂ from the second half of the draws minus λ̂
    # n · mean sampled loss; Watanabe's WBIC only at nβ = n / ln n, else tempered, as published
    wbic: float | None
    wbic_std_error: float | None
    init_loss: float  # L(w*), mean over the whole training set
    nbeta: float  # nβ used
    # sampled minibatch losses L_m(w_t), paired ones as L(w*) + rise; NaN once diverged
    trace: Float[np.ndarray, "num_chains num_draws"]
    rhat: float | None  # split R-hat of the losses; blind where all chains start at w*
    ess: float | None  # effective sample size of the mean loss
    diverged: Bool[np.ndarray, " num_chains"]
    chain_llcs: Float[np.ndarray, " num_chains"]  # λ̂ of each chain, NaN where diverged
    chain_verdicts: tuple[str, ...]  # of each, as `chain_verdict` gives them
    # MALA acceptance of each chain, NaN where the sampler has none
    acceptance: Float[np.ndarray, " num_chains"]
    # Whether doubling the draws, from the first half to all, moved λ̂ by no more than its error
    # before, and every chain that stayed finite is steady. Necessary, not sufficient: chains that
    # have not left w* also look settled.
    settled: bool
    settings: SamplerSettings | None = None  # what it was sampled with
    certificates: Certificates | None = None  # of `auto`: may it be called local?

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of λ̂ from the means of chains (Student); None with fewer than two."""
        return mean_interval(self.chain_llcs[~self.diverged])

    @property
    def locality(self) -> float | None:
        """ℓ = (sampled − L(w*))/(L_chance − L(w*)); None where it was not measured."""
        return self.certificates and self.certificates.locality

    @property
    def basin_shift(self) -> float | None:
        """nβ(L(w*) − L(w_b)), w_b the bottom of the checkpoint's basin; None where not measured."""
        return self.certificates and self.certificates.basin_shift

    @property
    def basin_llc(self) -> float | None:
        """λ̂_b = nβ(mean − L(w_b)); None where it was not measured."""
        return self.certificates and self.certificates.basin_llc

    @property
    def relative_distance(self) -> float | None:
        """|w − w*|/|w*|, root mean square over draws; None where it was not measured."""
        return self.certificates and self.certificates.relative_distance

    @property
    def relaxation(self) -> float | None:
        """Steps in which the slowest direction forgets its start; None where not known."""
        return self.certificates and self.certificates.relaxation

    @property
    def verdict(self) -> str | None:
        """What the certificates say, in a word; None without them."""
        return self.certificates and self.certificates.verdict

    @property
    def mean_acceptance(self) -> float | None:
        """MALA acceptance, mean over the chains that stayed finite; None for samplers without."""
        finite = self.acceptance[~self.diverged]
        return float(finite.mean()) if len(finite) and np.isfinite(finite).all() else None

    def running_means(self) -> Float[np.ndarray, "num_chains num_draws"]:
        """λ̂ of each chain from its first 1, 2, … draws."""
        return running_means(self.trace, self.init_loss, self.nbeta)


def mean_interval(
    values: Float[np.ndarray, " chains"], confidence: float = 0.95
) -> tuple[float, float] | None:
    """Student's interval of a mean from independent values; None with fewer than two of them."""
    count = len(values)
    if count < 2:
        return None
    half = t.ppf((1 + confidence) / 2, count - 1) * values.std(ddof=1) / math.sqrt(count)
    return float(values.mean() - half), float(values.mean() + half)


@dataclass(frozen=True)
class Difference:
    """λ̂ of one checkpoint minus λ̂ of another, from chains with common random numbers."""

    value: float
    std_error: float | None
    interval: tuple[float, float] | None


def paired_difference(other: "LLCEstimate", baseline: "LLCEstimate") -> Difference | None:
    """The difference chain by chain, with Student's 95 % interval; None where no pair is finite.

    Chains of the same number and `checkpoint_ids` share minibatches and noise, so that what those
    do to both falls out.

    Raises:
        ValueError: Different numbers of chains, or different nβ.
    """
    if other.nbeta != baseline.nbeta:
        raise ValueError(
            f"nβ = {other.nbeta:g} and {baseline.nbeta:g}; only estimates at the same settings can"
            " be compared"
        )
    if len(other.chain_llcs) != len(baseline.chain_llcs):
        raise ValueError(
            f"{len(other.chain_llcs)} chains and {len(baseline.chain_llcs)}; allowed: as many"
        )
    apart = other.chain_llcs - baseline.chain_llcs
    apart = apart[np.isfinite(apart)]
    if not len(apart):
        return None
    error = apart.std(ddof=1) / math.sqrt(len(apart)) if len(apart) > 1 else None
    return Difference(float(apart.mean()), error, mean_interval(apart))


def running_means(
    trace: Float[np.ndarray, "num_chains num_draws"], init_loss: float, nbeta: float
) -> Float[np.ndarray, "num_chains num_draws"]:
    """λ̂ of each chain from its first 1, 2, … sampled losses."""
    losses = np.asarray(trace, dtype=np.float64)
    return nbeta * (np.cumsum(losses, axis=1) / np.arange(1, losses.shape[1] + 1) - init_loss)


def summarise(
    trace: Float[np.ndarray, "num_chains num_draws"],
    init_loss: float,
    nbeta: float,
    num_samples: int | None = None,
    acceptance: Float[np.ndarray, " num_chains"] | None = None,
    settings: SamplerSettings | None = None,
    certificates: Certificates | None = None,
) -> LLCEstimate:
    """The estimate from sampled losses: λ̂ = nβ (mean − L(w*)), pooled over the chains that stayed
    finite.

    Args:
        trace: Sampled losses, not finite from the draw on where a chain diverged.
        init_loss: L(w*).
        nbeta: nβ.
        num_samples: n, for WBIC; None gives no WBIC.
        acceptance: MALA acceptance of each chain.
        settings: Kept in the estimate. With the sampler `auto` the error is that of chain means:
            with starts spread and burn-in past, chains are independent and their means unbiased.
        certificates: Kept in the estimate.
    """
    diverged = ~np.isfinite(trace).all(axis=1)
    losses = trace.astype(np.float64)
    good = losses[~diverged]
    acceptance = np.full(len(trace), np.nan) if acceptance is None else acceptance
    shared = {
        "init_loss": init_loss,
        "nbeta": nbeta,
        "trace": trace,
        "diverged": diverged,
        "chain_llcs": np.where(
            diverged, np.nan, nbeta * (np.where(diverged[:, None], 0, losses).mean(1) - init_loss)
        ),
        "chain_verdicts": tuple(map(chain_verdict, losses)),
        "acceptance": acceptance,
        "settings": settings,
        "certificates": certificates,
    }
    if len(good) == 0:
        return LLCEstimate(
            None, None, None, None, None, rhat=None, ess=None, settled=False, **shared
        )
    mean = good.mean()
    between = settings is not None and settings.sampler == AUTO
    error = chain_error(good) if between else standard_error(good)
    half = good[:, : good.shape[1] // 2]
    error_before = standard_error(half) if half.size else None
    steady = all(verdict in (STEADY, DIVERGED) for verdict in shared["chain_verdicts"])
    return LLCEstimate(
        llc=float(nbeta * (mean - init_loss)),
        std_error=None if error is None else nbeta * error,
        drift=float(nbeta * (good[:, good.shape[1] // 2 :].mean() - mean)),
        wbic=None if num_samples is None else float(num_samples * mean),
        wbic_std_error=None if error is None or num_samples is None else num_samples * error,
        rhat=diagnosis(array_stats.rhat, good),
        ess=diagnosis(array_stats.ess, good, method="mean"),
        settled=steady
        and error_before is not None
        and bool(abs(mean - half.mean()) <= error_before),
        **shared,
    )


def chain_verdict(losses: Float[np.ndarray, " num_draws"]) -> str:
    """Whether a chain's mean is steady, still rising, still falling; or the chain diverged, or is
    too short to tell.

    The means of its two halves are compared (Geweke 1992). The error of both is taken from the
    second half: the first may hold the way from w*, which would hide itself in its own error. Apart
    by more than two errors, the chain's mean has not come to rest, be it that the chain still moves
    or that its mean still carries the way from w*. A steady chain is called rising, or falling,
    about once in thirty times each.
    """
    if not np.isfinite(losses).all():
        return DIVERGED
    if len(losses) < SHORTEST:
        return TOO_SHORT
    first, second = losses[: len(losses) // 2], losses[len(losses) // 2 :]
    error = diagnosis(array_stats.mcse, second[None], method="mean")
    rise = second.mean() - first.mean()
    if error is None:
        return TOO_SHORT
    if abs(rise) <= SIGNIFICANT * math.sqrt(2) * error:
        return STEADY
    return RISING if rise > 0 else FALLING


def standard_error(losses: Float[np.ndarray, "chains draws"]) -> float | None:
    """Of the mean over chains and draws: the larger of the one from the effective sample size and
    between chains.
    """
    within = diagnosis(array_stats.mcse, losses, method="mean")
    between = losses.mean(axis=1).std(ddof=1) / math.sqrt(len(losses)) if len(losses) > 1 else None
    return max((float(error) for error in (within, between) if error is not None), default=None)


def chain_error(losses: Float[np.ndarray, "chains draws"]) -> float | None:
    """Standard error of the mean, from the means of chains alone; None with fewer than two."""
    if len(losses) < 2:
        return None
    return float(losses.mean(axis=1).std(ddof=1) / math.sqrt(len(losses)))


def diagnosis(
    statistic: Callable, losses: Float[np.ndarray, "chains draws"], **kwargs
) -> float | None:
    """One of ArviZ's statistics, None where it is not defined (chains too short, or constant)."""
    with np.errstate(all="ignore"):
        value = statistic(losses, **kwargs)
    return float(value) if np.isfinite(value) else None
