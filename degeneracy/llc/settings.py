"""What may be said of how the local learning coefficient is sampled?"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field

from degeneracy.config.section import Section, rule
from degeneracy.config.values import Seed
from degeneracy.config.words import shown

AUTO = "auto"
PUBLISHED_LOCALIZATION = 100.0  # γ
CHOSEN = ("sampler_lr", "num_draws", "num_burnin_steps")  # by `auto` itself, where null
PARTS = {  # of `auto`, with what they are where nothing is said
    "sampler_batch_size": None,
    "dynamics": "kinetic",
    "cooled": True,
    "starts": "spread",
    "preconditioner": "auto",
    "control_variates": "auto",
    "paired_losses": True,
    "gauge": "given",
}


def published(value: Any, of_auto: Any = None) -> Callable[[dict], Any]:
    """A default that is the published one, but for the sampler `auto`."""
    return lambda data: of_auto if data.get("sampler") == AUTO else value


@rule("localization", "sampler")
def sgnht_is_free(localization: float, sampler: str) -> str | None:
    """SGNHT has no pull towards the checkpoint."""
    if sampler == "sgnht" and localization != 0:
        return (
            f'{shown(localization)} given with devinterp.sampler "sgnht"; allowed there: 0 (or'
            " leave it out)"
        )
    return None


@rule("sampler", *CHOSEN)
def only_auto_chooses(sampler: str, *values: float | None) -> dict[str, str] | None:
    """The published samplers are told their step and their lengths; `auto` finds its step."""
    given = dict(zip(CHOSEN, values, strict=True))
    if sampler == AUTO:
        step = given["sampler_lr"]
        text = f'{shown(step)} given with sampler "auto", whose pilot finds it; allowed: null'
        return None if step is None else {"sampler_lr": text}
    return {
        key: f'null given with sampler "{sampler}"; allowed: a number, or leave it out'
        for key, value in given.items()
        if value is None
    } or None


@rule("sampler", "backend", *PARTS)
def parts_are_of_auto(sampler: str, backend: str, *values: Any) -> dict[str, str] | None:
    """What can be switched is a part of `auto`; the published samplers stay as they are."""
    if sampler == AUTO:
        wrong = f'"{backend}" given with sampler "auto"; allowed there: "batched"'
        return {"backend": wrong} if backend != "batched" else None
    given = dict(zip(PARTS, values, strict=True))
    return {
        key: f'{shown(value)} given with sampler "{sampler}"; it is a part of "auto"; leave it out'
        for key, value in given.items()
        if value != PARTS[key] and key != "gauge"
    } or None


class SamplerSettings(Section):
    """How the local learning coefficient (LLC) is sampled: the config's `devinterp` section."""

    rules = (sgnht_is_free, only_auto_chooses, parts_are_of_auto)

    sampler: Literal["auto", "sgld", "sgnht", "rmsprop_sgld"] = Field(
        AUTO,
        description=(
            "The MCMC sampler: auto chooses its step, its burn-in and its draws by what it finds;"
            " the others are as published."
        ),
    )
    num_chains: int = Field(
        default_factory=published(2, of_auto=8),
        ge=1,
        le=100_000,
        description="Independent chains; left out, auto has 8 and the others 2.",
        json_schema_extra={"default": 8},
    )
    # Four: below that no effective sample size exists, and so no standard error.
    num_draws: Annotated[int, Field(ge=4, le=10_000_000)] | None = Field(
        default_factory=published(1_000),
        description=(
            "Draws a chain after its burn-in, one a sampler step; null (auto only): 12 relaxation"
            " times of the slowest direction, 150 to 20000, and up to three times that where chains"
            " disagree. Left out, 1000 for the others."
        ),
        json_schema_extra={"default": None},
    )
    num_burnin_steps: Annotated[int, Field(ge=0, le=10_000_000)] | None = Field(
        default_factory=published(0),
        description=(
            "Sampler steps a chain before its first draw; null (auto only): three relaxation times."
            " Left out, 0 for the others."
        ),
        json_schema_extra={"default": None},
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
    sampler_lr: Annotated[float, Field(gt=0)] | None = Field(
        default_factory=published(1e-4),
        description=(
            "Sampler's step size ε (weight units squared); null with auto, whose pilot finds it."
            " Left out, 0.0001 for the others."
        ),
        json_schema_extra={"default": None},
    )
    thinning: int = Field(
        1,
        ge=1,
        le=100_000,
        description="Sampler steps from one draw to the next; what lies between is not recorded.",
    )
    micro_batch_size: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description=(
            "Samples whose gradient is taken at once, for minibatches that do not fit in memory;"
            " their gradients are summed, and auto does not cool. null: the whole minibatch."
        ),
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
    sampler_batch_size: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description=(
            "Samples a minibatch of auto's gradients, apart from the m of nβ; null: 512, or all"
            " samples where there are fewer."
        ),
    )
    dynamics: Literal["kinetic", "averaged", "euler"] = Field(
        "kinetic",
        description=(
            "Of auto: with momentum (kinetic), or overdamped with noise that is the mean of two"
            " successive normal numbers (averaged: Leimkuhler-Matthews), or one (euler). The first"
            " two get the variances of a quadratic exactly."
        ),
    )
    cooled: bool = Field(
        True,
        description=(
            "Of auto's kinetic dynamics: the heat that minibatch noise adds is taken off the"
            " thermal noise, direction by direction."
        ),
    )
    starts: Literal["spread", "checkpoint"] = Field(
        "spread",
        description=(
            "Of auto: chains start from the Gaussian (Laplace) approximation of what is sampled, or"
            " all at the checkpoint."
        ),
    )
    preconditioner: Literal["auto", "kfac", "diagonal", "none"] = Field(
        "auto",
        description=(
            "Of auto: the curvature by which a step is scaled, direction by direction; auto takes"
            " the one that leaves the fewest steps to rest, and none where chains go too far."
        ),
    )
    control_variates: Literal["auto", "on", "off"] = Field(
        "auto",
        description=(
            "Of auto: whether a minibatch's gradient is corrected by the one at the checkpoint;"
            " auto: where chains stay near it and nβ is at least 8 times data.batch_size."
        ),
    )
    paired_losses: bool = Field(
        True,
        description=(
            "Of auto: a draw is the loss minus the checkpoint's on the same minibatch, where"
            " control variates have computed it or the chains stay near."
        ),
    )
    gauge: Literal["given", "balanced"] = Field(
        "given",
        description=(
            "Weights as given, or every hidden ReLU unit scaled to equal in- and outgoing norms"
            " before sampling, which changes no function."
        ),
    )
