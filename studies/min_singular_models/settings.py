"""What may a config of the study of minimally singular models say? Its schema, defaults and checks."""

import math
import os
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from degeneracy.config.reader import Section, read_settings, repeated, shown


def _each_once(values: list) -> list:
    if (twice := repeated(values)) is not None:
        raise ValueError(f"allowed: each once, but {shown(twice)} is there twice")
    return values


EachOnce = AfterValidator(_each_once)


class Sampling(Section):
    """What every part says of its SGLD chains."""

    step: float = Field(
        0.1,
        gt=0,
        le=2,
        description="ε(nβ h + γ) at the largest curvature h; SGLD is stable below 4.",
    )
    num_chains: int = Field(8, ge=2, le=100_000)
    num_draws: int = Field(
        2_000, ge=20, le=10_000_000, description="Draws a chain after its burn-in."
    )
    num_burnin_steps: int = Field(1_000, ge=0, le=10_000_000)
    seed: int = Field(0, ge=0, le=2**32 - 1, description="Of noise and data.")


class LinearSettings(Sampling):
    """d weights of which r matter: y = Σ_{i≤r} w_i x_i + noise, x ~ N(0, 1), w* = 0."""

    num_weights: int = Field(1_000, ge=1, le=1_000_000, description="d.")
    ranks: Annotated[list[Annotated[int, Field(ge=1)]], EachOnce] = Field(
        list(range(100, 1_000, 100)),
        min_length=1,
        description="r, one population and one sample case each.",
    )
    num_samples: int = Field(
        3_000, ge=3, le=10_000_000, description="n of the sample loss; more than any r."
    )
    noise: float = Field(0.5, ge=0, description="Standard deviation σ of the noise in y.")
    nbeta: float | None = Field(None, gt=0, description="nβ of both losses; null: n/ln n.")
    localization: float = Field(1.0, gt=0, description="γ.")
    step: float = Field(0.05, gt=0, le=2, description="ε(nβ h + γ) at the largest curvature h.")

    @field_validator("ranks")
    @classmethod
    def _matter(cls, ranks: list[int], info: ValidationInfo) -> list[int]:
        if max(ranks) > info.data.get("num_weights", math.inf):
            raise ValueError(f"allowed: at most linear.num_weights, {info.data['num_weights']}")
        return ranks

    @field_validator("num_samples")
    @classmethod
    def _exceed_ranks(cls, num_samples: int, info: ValidationInfo) -> int:
        if num_samples <= (largest := max(info.data.get("ranks", [0]))):
            raise ValueError(
                f"allowed: more than the largest of linear.ranks, {largest}: else rank(H) is n,"
                " not r"
            )
        return num_samples

    @property
    def resolved_nbeta(self) -> float:
        """nβ as a number."""
        return self.num_samples / math.log(self.num_samples) if self.nbeta is None else self.nbeta


class CrossingSettings(Sampling):
    """Normal crossings K(w) = Π_i w_i^{2k_i}, exponents k."""

    exponents: Annotated[
        list[
            Annotated[list[Annotated[int, Field(ge=1, le=10)]], Field(min_length=1, max_length=10)]
        ],
        EachOnce,
    ] = Field([[1], [2], [1, 1], [2, 1], [1, 1, 1]], min_length=1)
    nbeta: float = Field(100.0, gt=0, description="nβ.")
    localization: float = Field(3.0, gt=0, description="γ.")
    step: float = Field(
        0.04,
        gt=0,
        le=2,
        description="ε(nβ h + γ) at the largest curvature h at w*; far away tenfold.",
    )
    num_chains: int = Field(256, ge=2, le=100_000)
    num_draws: int = Field(10_000, ge=20, le=10_000_000)
    num_burnin_steps: int = Field(5_000, ge=0, le=10_000_000)


class Network(Section):
    """A linear network of widths inputs, hidden …, outputs, whose true map has a rank."""

    widths: list[Annotated[int, Field(ge=1, le=4_096)]] = Field(min_length=2, max_length=20)
    rank: int = Field(ge=0)

    @field_validator("rank")
    @classmethod
    def _exists(cls, rank: int, info: ValidationInfo) -> int:
        if rank > (smallest := min(info.data.get("widths", [math.inf]))):
            raise ValueError(f"allowed: at most the smallest width, {smallest}")
        return rank


class DeepLinearSettings(Sampling):
    """Reduced-rank regression (two layers) and deeper linear networks; γ = √(number of weights)."""

    networks: Annotated[list[Network], EachOnce] = Field(
        [
            Network(widths=widths, rank=rank)
            for widths, rank in (
                ([5, 3, 5], 3),
                ([6, 6, 6], 2),
                ([8, 6, 8], 3),
                ([7, 7, 7], 0),
                ([6, 6, 6, 6], 3),
            )
        ],
        min_length=1,
    )
    nbeta_ratio: float = Field(600.0, gt=0, description="nβ/γ.")
    step: float = Field(
        0.15, gt=0, le=2, description="ε(nβ h + γ) at the largest curvature h at w*."
    )
    num_chains: int = Field(24, ge=2, le=100_000)
    num_draws: int = Field(8_000, ge=20, le=10_000_000)
    num_burnin_steps: int = Field(10_000, ge=0, le=10_000_000)


class SpectrumSettings(Section):
    """Stochastic Lanczos quadrature of every Hessian at w*."""

    num_probes: int = Field(30, ge=2, le=10_000)
    num_steps: int = Field(60, ge=1, le=10_000, description="Lanczos steps.")


class Settings(Section):
    """The whole study's; every key has a default."""

    linear: LinearSettings = Field(default_factory=LinearSettings)
    normal_crossings: CrossingSettings = Field(default_factory=CrossingSettings)
    deep_linear: DeepLinearSettings = Field(default_factory=DeepLinearSettings)
    spectrum: SpectrumSettings = Field(default_factory=SpectrumSettings)


def load_settings(path: str | os.PathLike[str]) -> Settings:
    """The study's config from a JSON file; raises as `config.reader.read_settings`."""
    return read_settings(path, Settings)
