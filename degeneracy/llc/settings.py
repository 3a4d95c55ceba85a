"""What may be said of how the local learning coefficient is sampled?"""

from typing import Annotated, Literal

from pydantic import Field

from degeneracy.config.section import Section, rule
from degeneracy.config.values import Seed
from degeneracy.config.words import shown

PUBLISHED_LOCALIZATION = 100.0  # γ


@rule("localization", "sampler")
def sgnht_is_free(localization: float, sampler: str) -> str | None:
    """SGNHT has no pull towards the checkpoint."""
    if sampler == "sgnht" and localization != 0:
        return (
            f'{shown(localization)} given with devinterp.sampler "sgnht"; allowed there: 0 (or'
            " leave it out)"
        )
    return None


class SamplerSettings(Section):
    """How the local learning coefficient (LLC) is sampled: the config's `devinterp` section."""

    rules = (sgnht_is_free,)

    sampler: Literal["sgld", "sgnht", "rmsprop_sgld"] = Field(
        "sgld", description="The MCMC sampler."
    )
    num_chains: int = Field(
        2, ge=1, le=100_000, description="Independent chains, all started at the checkpoint."
    )
    # Four: below that no effective sample size exists, and so no standard error.
    num_draws: int = Field(
        1_000,
        ge=4,
        le=10_000_000,
        description="Draws a chain after its burn-in, one a sampler step.",
    )
    num_burnin_steps: int = Field(
        0, ge=0, le=10_000_000, description="Sampler steps a chain before its first draw."
    )
    localization: float = Field(
        default_factory=lambda data: (
            0.0 if data.get("sampler") == "sgnht" else PUBLISHED_LOCALIZATION
        ),
        ge=0,
        description=(
            "Strength γ of the pull towards the checkpoint (inverse weight units squared); sgnht"
            " has none, there it is 0 also when left out."
        ),
        json_schema_extra={"default": PUBLISHED_LOCALIZATION},
    )
    sampler_lr: float = Field(
        1e-4, gt=0, description="Sampler's step size ε (weight units squared)."
    )
    diffusion_factor: float = Field(
        0.01, gt=0, description="SGNHT's diffusion factor; unused by the other samplers."
    )
    nbeta: Literal["batch", "dataset"] | Annotated[float, Field(gt=0)] = Field(
        "batch",
        description=(
            'Inverse temperature nβ: "batch" is m/ln m for batches of m (as published), "dataset"'
            " is n/ln n for n training images, or a number."
        ),
    )
    backend: Literal["batched", "devinterp"] = Field(
        "batched",
        description=(
            "What runs the chains: the project's own engine, in which they advance together"
            " (batched), or devinterp, one by one, as an independent check."
        ),
    )
    seed: Seed = Field(0, description="Seed of the sampler's noise and batches.")
