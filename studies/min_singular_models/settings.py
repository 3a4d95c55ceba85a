"""What may a config of the study of minimally singular models say? Schema, defaults and rules."""

import math
from typing import Annotated

from pydantic import Field

from degeneracy.config.section import Section, rule
from degeneracy.config.values import EachOnce, Seed
from degeneracy.config.words import shown


class Sampling(Section):
    """What every part says of its SGLD chains."""

    step: float = Field(
        0.1,
        gt=0,
        le=2,
        description="ε(nβ h + γ) at the largest curvature h; SGLD is stable below 4.",
    )
    num_chains: int = Field(8, ge=2, le=100_000, description="Independent chains of a case.")
    num_draws: int = Field(
        2_000, ge=20, le=10_000_000, description="Draws a chain after its burn-in."
    )
    num_burnin_steps: int = Field(
        1_000, ge=0, le=10_000_000, description="SGLD steps a chain before its first draw."
    )
    seed: Seed = Field(0, description="Seed of noise and data.")


@rule("ranks", "num_weights")
def ranks_fit_the_weights(ranks: list[int], num_weights: int) -> str | None:
    """Of d weights no more than d matter."""
    if max(ranks) > num_weights:
        return f"{shown(ranks)} given; allowed: at most linear.num_weights, {num_weights}"
    return None


@rule("num_samples", "ranks")
def samples_exceed_ranks(num_samples: int, ranks: list[int]) -> str | None:
    """With fewer samples the sample loss has a Hessian of lower rank."""
    if num_samples <= max(ranks):
        return (
            f"{num_samples} given; allowed: more than the largest of linear.ranks, {max(ranks)}:"
            " else rank(H) is n, not r"
        )
    return None


class LinearSettings(Sampling):
    """d weights of which r matter: y = Σ_{i≤r} w_i x_i + noise, x ~ N(0, 1), w* = 0."""

    rules = (ranks_fit_the_weights, samples_exceed_ranks)

    num_weights: int = Field(1_000, ge=1, le=1_000_000, description="Number d of weights.")
    ranks: Annotated[list[Annotated[int, Field(ge=1)]], EachOnce] = Field(
        list(range(100, 1_000, 100)),
        min_length=1,
        description="Numbers r of weights that matter, one population and one sample case each.",
    )
    num_samples: int = Field(
        3_000, ge=3, le=10_000_000, description="n of the sample loss; more than any r."
    )
    noise: float = Field(0.5, ge=0, description="Standard deviation σ of the noise in y.")
    nbeta: float | None = Field(None, gt=0, description="nβ of both losses; null: n/ln n.")
    localization: float = Field(1.0, gt=0, description="Strength γ of the pull towards w*.")
    step: float = Field(0.05, gt=0, le=2, description="ε(nβ h + γ) at the largest curvature h.")

    @property
    def resolved_nbeta(self) -> float:
        """nβ as a number."""
        return self.num_samples / math.log(self.num_samples) if self.nbeta is None else self.nbeta


Exponents = Annotated[list[Annotated[int, Field(ge=1, le=10)]], Field(min_length=1, max_length=10)]


class CrossingSettings(Sampling):
    """Normal crossings K(w) = Π_i w_i^{2k_i}, exponents k."""

    exponents: Annotated[list[Exponents], EachOnce] = Field(
        [[1], [2], [1, 1], [2, 1], [1, 1, 1]],
        min_length=1,
        description="Exponents k, one case each: a list of them, one a weight.",
    )
    nbeta: float = Field(100.0, gt=0, description="Inverse temperature nβ.")
    localization: float = Field(3.0, gt=0, description="Strength γ of the pull towards w*.")
    step: float = Field(
        0.04,
        gt=0,
        le=2,
        description="ε(nβ h + γ) at the largest curvature h at w*; far away tenfold.",
    )
    num_chains: int = Field(256, ge=2, le=100_000, description="Independent chains of a case.")
    num_draws: int = Field(
        10_000, ge=20, le=10_000_000, description="Draws a chain after its burn-in."
    )
    num_burnin_steps: int = Field(
        5_000, ge=0, le=10_000_000, description="SGLD steps a chain before its first draw."
    )


@rule("rank", "widths")
def rank_exists(rank: int, widths: list[int]) -> str | None:
    """No map through a layer has a higher rank than the layer's width."""
    if rank > min(widths):
        return f"{rank} given; allowed: at most the smallest width, {min(widths)}"
    return None


class Network(Section):
    """A linear network whose true map has a rank."""

    rules = (rank_exists,)

    widths: list[Annotated[int, Field(ge=1, le=4_096)]] = Field(
        min_length=2, max_length=20, description="Widths: inputs, hidden layers, outputs."
    )
    rank: int = Field(ge=0, description="Rank of the true map; at most the smallest width.")


class DeepLinearSettings(Sampling):
    """Reduced-rank regression (two layers) and deeper linear networks; γ = √(number of weights)."""

    networks: Annotated[list[Network], EachOnce] = Field(
        [
            Network(widths=[5, 3, 5], rank=3),
            Network(widths=[6, 6, 6], rank=2),
            Network(widths=[8, 6, 8], rank=3),
            Network(widths=[7, 7, 7], rank=0),
            Network(widths=[6, 6, 6, 6], rank=3),
        ],
        min_length=1,
        description="The networks, one case each.",
    )
    nbeta_ratio: float = Field(600.0, gt=0, description="nβ/γ.")
    step: float = Field(
        0.15, gt=0, le=2, description="ε(nβ h + γ) at the largest curvature h at w*."
    )
    num_chains: int = Field(24, ge=2, le=100_000, description="Independent chains of a case.")
    num_draws: int = Field(
        8_000, ge=20, le=10_000_000, description="Draws a chain after its burn-in."
    )
    num_burnin_steps: int = Field(
        10_000, ge=0, le=10_000_000, description="SGLD steps a chain before its first draw."
    )


class SpectrumSettings(Section):
    """Stochastic Lanczos quadrature of every Hessian at w*."""

    num_probes: int = Field(30, ge=2, le=10_000, description="Probes; an error needs two.")
    num_steps: int = Field(60, ge=1, le=10_000, description="Lanczos steps a probe.")


class Settings(Section):
    """Models whose learning coefficient is known; every key has a default."""

    linear: LinearSettings = Field(default_factory=LinearSettings)
    normal_crossings: CrossingSettings = Field(default_factory=CrossingSettings)
    deep_linear: DeepLinearSettings = Field(default_factory=DeepLinearSettings)
    spectrum: SpectrumSettings = Field(default_factory=SpectrumSettings)
