"""What may be said of the comparison of optimizers? Its schema, defaults and rules."""

from typing import Annotated, Literal

from pydantic import Field

from degeneracy.config.section import Section, rule
from degeneracy.config.values import DataRoot, EachOnce, Seed
from degeneracy.config.words import repeated, shown
from degeneracy.optimizers.kinds import KINDS
from degeneracy.optimizers.settings import MAX_RATE
from degeneracy.sweeps.settings import RunsSettings


class Choice(Section):
    """An optimizer along its own learning rates; all else of it is its kind's default."""

    optimizer: Literal[*KINDS] = Field("sgd", description="The optimizer's kind.")
    lrs: Annotated[list[Annotated[float, Field(gt=0, le=MAX_RATE)]], EachOnce] = Field(
        [0.1], min_length=1, description="Its learning rates."
    )
    max_steps: int = Field(
        3_000, ge=1, le=10_000_000, description="Steps after which a training ends."
    )


CHOICES = {
    "sgd": ([0.2, 0.1, 0.05], 3_000),
    "adamw": ([0.03, 0.01], 3_000),
    "muon": ([0.03, 0.01], 3_000),
    "soap": ([0.03, 0.003], 3_000),
    "ngd": ([0.1, 0.03, 0.015], 3_000),
    "spngd": ([0.01, 0.002], 3_000),
    "seng": ([0.2, 0.1], 3_000),
    "exact_ngd": ([0.01], 1_000),
}


@rule("choices")
def optimizers_are_others(choices: list[dict]) -> str | None:
    """Each has one line of the figure."""
    names = [choice["optimizer"] for choice in choices if "optimizer" in choice]
    if (twice := repeated(names)) is not None:
        return f"{shown(twice)} given twice; allowed: each optimizer once, with all its rates"
    return None


class Settings(Section):
    """Every optimizer along its own learning rates, at the same training losses."""

    rules = (optimizers_are_others,)

    dataset: Literal["mnist", "fashion-mnist"] = Field("mnist", description="The data set.")
    root: DataRoot = "data"
    num_images: int = Field(
        60_000, ge=100, le=60_000, description="Training images, the first of the data set."
    )
    pooled: Literal[1, 2, 4, 7, 14] = Field(
        4, description="Side of the squares of pixels that are averaged: 4 leaves 49 inputs."
    )
    hidden_nodes: int = Field(20, ge=1, le=1_024, description="Units in a hidden layer.")
    hidden_layers: int = Field(2, ge=1, le=20, description="Number of hidden layers.")
    batch_size: int = Field(500, ge=2, le=60_000, description="Images in a minibatch.")
    choices: list[Choice] = Field(
        [Choice(optimizer=o, lrs=lrs, max_steps=most) for o, (lrs, most) in CHOICES.items()],
        min_length=2,
        description="Optimizers with their learning rates.",
    )
    seeds: Annotated[list[Seed], EachOnce] = Field(
        [1, 2], min_length=1, description="Seeds of weights, data order and sampler noise."
    )
    loss: float = Field(
        0.2, gt=0, description="Whole training loss (nats) at which degeneracy is compared."
    )
    gauge: Literal["given", "balanced"] = Field(
        "given", description="Weights as trained, or with every hidden unit balanced."
    )
    nbeta: float = Field(100.0, gt=0, description="Inverse temperature nβ, the same for all.")
    localization: float = Field(
        200.0, gt=0, description="γ, the same for all (inverse weight units squared)."
    )
    num_chains: int = Field(4, ge=2, le=1_000, description="Chains of each estimate of λ̂.")
    num_draws: Annotated[int, Field(ge=20, le=1_000_000)] | None = Field(
        None, description="Draws a chain; null: as many as the sampler finds that it needs."
    )
    runs: RunsSettings = Field(RunsSettings(), description="How the descents are done.")
