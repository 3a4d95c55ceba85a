"""What may a config of the atlas say? Its schema, defaults and rules."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from degeneracy.config.section import Section, rule
from degeneracy.config.values import DataRoot, EachOnce, Seed
from degeneracy.config.words import shown
from degeneracy.data.settings import there_are_so_many
from degeneracy.models.settings import Architecture, heads_share_the_width
from degeneracy.optimizers.kinds import LAYERED
from degeneracy.sweeps.settings import RunsSettings

Optimizer = Literal["sgd", "ngd", "adamw", "muon", "soap", "spngd", "seng"]


class ModelSettings(Section):
    """A network, and how its local estimates are sampled: γ and what a chain does."""

    rules = (heads_share_the_width,)

    architecture: Architecture = "ffnn"
    hidden_nodes: int = Field(256, ge=1, le=4_096, description="Units in a hidden layer.")
    hidden_layers: int = Field(2, ge=1, le=100, description="Number of hidden layers.")
    localization: float = Field(
        25_000.0, gt=0, description="γ, the same for all runs (inverse weight units squared)."
    )
    nbeta: Literal["dataset"] | Annotated[float, Field(gt=0)] = Field(
        "dataset", description='nβ, the same for all runs: "dataset" is n/ln n, or a number.'
    )
    num_draws: Annotated[int, Field(ge=20)] | None = Field(
        90, description="Draws a chain; null: as many as the sampler finds that it needs."
    )
    sampler_batch_size: int = Field(
        64, ge=2, le=60_000, description="Images in a minibatch of the sampler."
    )

    @property
    def name(self) -> str:
        """`2×256`: layers times units; `8×64 residual` of another architecture."""
        return name_of(self.model_dump())


def name_of(model: Mapping[str, Any]) -> str:
    """`2×256`, of a network in a config; `8×64 residual` of another architecture than `ffnn`."""
    architecture = model.get("architecture", "ffnn")
    size = f"{model['hidden_layers']}×{model['hidden_nodes']}"
    return size if architecture == "ffnn" else f"{size} {architecture}"


class SearchSettings(Section):
    """How the largest stable learning rate of each optimizer is found."""

    seeds: Annotated[list[Seed], EachOnce] = Field(
        [101, 102, 103],
        min_length=1,
        description="Seeds on which a rate must be stable; none of those of the runs.",
    )
    reach: float = Field(
        0.15,
        gt=0,
        description=(
            "Training loss (nats) that a stable rate comes down to, and of which it then stays"
            " within twice."
        ),
    )
    epochs: int = Field(20, ge=1, le=10_000, description="Epochs in which it comes down to it.")
    more_epochs: int = Field(
        2, ge=1, le=10_000, description="Epochs in which it stays there afterwards."
    )
    num_rates: int = Field(
        20, ge=1, le=60, description="Rates tried at most: 1, 1/√2, 1/2, … downwards."
    )


@rule("seeds", "further_seeds")
def further_seeds_are_others(seeds: list[int], further_seeds: list[int]) -> str | None:
    """An extension repeats nothing."""
    if twice := sorted({*seeds} & {*further_seeds}):
        return f"{shown(twice)} given in further_seeds too; allowed: seeds that are in one of them"
    return None


@rule("seeds", "thorough_seeds")
def thorough_seeds_are_run(seeds: list[int], thorough_seeds: list[int]) -> str | None:
    """What is measured more thoroughly is a run."""
    if other := sorted({*thorough_seeds} - {*seeds}):
        return (
            f"{shown(seeds)} given with thorough_seeds that have {shown(other)}; allowed: seeds"
            " that are in both"
        )
    return None


@rule("window")
def window_falls(window: list[float]) -> str | None:
    """From its top to its bottom."""
    if len(window) == 2 and window[0] <= window[1]:
        return f"{shown(window)} given; allowed: the top first, above the bottom"
    return None


@rule("optimizers", "models")
def optimizers_know_the_layers(optimizers: list[str], models: list[dict]) -> str | None:
    """Optimizers that are made of a network's layers know Linear and Conv2d alone."""
    of_layers = [name for name in optimizers if name in LAYERED]
    if of_layers and any(model.get("architecture") == "vit" for model in models):
        return f"{shown(of_layers)} given with a network vit; allowed: optimizers of any parameters"
    return None


@rule("models")
def gauges_are_alike(models: list[dict]) -> str | None:
    """Weights as given and balanced ones are not compared."""
    kinds = {model.get("architecture") == "vit" for model in models}
    if len(kinds) > 1:
        return "vit given beside other networks; allowed: a config of its own (it has no balance)"
    return None


class FactorialSettings(Section):
    """Early optimizer × late optimizer × learning rate × network, within each seed."""

    rules = (
        window_falls,
        further_seeds_are_others,
        thorough_seeds_are_run,
        optimizers_know_the_layers,
        gauges_are_alike,
        there_are_so_many("num_images"),
    )

    dataset: Literal["mnist", "fashion-mnist", "cifar10"] = Field(
        "mnist", description="The data set."
    )
    root: DataRoot = "data"
    num_images: int = Field(
        6_400, ge=100, le=60_000, description="Training images, the first of the data set."
    )
    batch_size: int = Field(64, ge=2, le=6_000, description="Images in a minibatch.")
    annealing_epochs: int = Field(
        1, ge=1, le=10_000, description="Epochs in which a branch's learning rate falls to 0."
    )
    max_epochs: int = Field(60, ge=1, le=10_000, description="Epochs after which training ends.")
    models: Annotated[list[ModelSettings], EachOnce] = Field(
        [
            ModelSettings(),
            ModelSettings(
                hidden_nodes=64,
                hidden_layers=8,
                localization=8_000.0,
                nbeta=365.0,
                num_draws=None,
                sampler_batch_size=256,
            ),
        ],
        min_length=1,
        description="Networks, in order.",
    )
    optimizers: Annotated[list[Optimizer], EachOnce] = Field(
        ["sgd", "ngd"],
        min_length=2,
        description="Optimizers; the first is what the others are compared with.",
    )
    pairs: Literal["all", "same"] = Field(
        "all",
        description=(
            "Every optimizer early with every one late; or the same throughout, which compares many"
            " optimizers in few runs."
        ),
    )
    fractions: Annotated[list[Annotated[float, Field(gt=0, le=1)]], EachOnce] = Field(
        [0.0625, 0.25, 0.6667],
        min_length=1,
        description="Learning rates, in largest stable ones of the same optimizer and network.",
    )
    seeds: Annotated[list[Seed], EachOnce] = Field(
        list(range(1, 11)), min_length=1, description="Seeds, in the order in which they are done."
    )
    further_seeds: Annotated[list[Seed], EachOnce] = Field(
        list(range(11, 17)),
        description="Done too if a 95 % interval is longer than the margin of equivalence.",
    )
    thorough_seeds: Annotated[list[Seed], EachOnce] = Field(
        [1],
        description="Seeds on which λ̂ is also sampled as published, and under relative changes.",
    )
    window: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=2, max_length=2)] = (
        Field(
            [0.03, 0.02],
            description=(
                "Training losses after annealing, top and bottom (nats), between which λ̂ is"
                " averaged."
            ),
        )
    )
    margin: float = Field(
        0.05, gt=0, lt=1, description="Ratio of λ̂ minus 1 up to which two are called equivalent."
    )


@rule("search.seeds", "factorial.seeds", "factorial.further_seeds")
def search_has_its_own_seeds(search: list[int], seeds: list[int], more: list[int]) -> str | None:
    """A rate is not found on the runs that use it."""
    if shared := sorted({*search} & {*seeds, *more}):
        return f"{shown(shared)} given, seeds of runs too; allowed: seeds that no run uses"
    return None


class Settings(Section):
    """What makes one solution less degenerate than another; every key has a default."""

    rules = (search_has_its_own_seeds,)

    factorial: FactorialSettings = Field(default_factory=FactorialSettings)
    search: SearchSettings = Field(default_factory=SearchSettings)
    runs: RunsSettings = Field(default_factory=RunsSettings)
