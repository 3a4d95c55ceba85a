"""What may a config of a training with annealed branches say? Its schema, defaults and rules."""

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from degeneracy.config.section import Section, rule
from degeneracy.config.values import DataRoot, Seed, nesterov_has_momentum
from degeneracy.config.words import shown
from degeneracy.data.settings import there_are_so_many
from degeneracy.models.settings import Architecture, heads_share_the_width
from degeneracy.optimizers.kinds import KINDS, LAYERED
from degeneracy.optimizers.settings import MAX_RATE, OptimizerSettings

KindName = Literal["sgd", "ngd", "adamw", "muon", "soap", "spngd", "seng"]
CHOSEN = ("momentum", "nesterov", "alpha", "eta", "epsilon", "delta")  # of optimizers that have it


def _falling(values: list[float]) -> list[float]:
    if any(a <= b for a, b in pairwise(values)):
        raise ValueError("allowed: numbers that fall")
    return values


Losses = Annotated[list[Annotated[float, Field(gt=0)]], AfterValidator(_falling)]


@rule("window", "branch_losses")
def window_is_a_range(window: list[float], branch_losses: list[float]) -> str | None:
    """A window has a top and a bottom, which branches may reach."""
    if window[0] >= max(branch_losses):
        return (
            f"{shown(window)} given with branch_losses from {max(branch_losses):g}; allowed: a top"
            " below it"
        )
    return None


@rule("architecture", "early", "late")
def optimizers_know_the_layers(architecture: str, early: str, late: str) -> str | None:
    """Optimizers that are made of a network's layers know Linear and Conv2d alone."""
    of_layers = [name for name in (early, late) if name in LAYERED]
    if of_layers and architecture == "vit":
        return f"vit given with {shown(of_layers[0])}; allowed: optimizers of any parameters"
    return None


class TrainingSettings(Section):
    """One training: an optimizer up to a training loss, then another one, and its branches."""

    rules = (
        nesterov_has_momentum("training."),
        window_is_a_range,
        heads_share_the_width,
        there_are_so_many("num_images"),
        optimizers_know_the_layers,
    )

    dataset: Literal["mnist", "fashion-mnist", "cifar10"] = Field(
        "mnist", description="The data set."
    )
    root: DataRoot = "data"
    num_images: int = Field(
        6_400, ge=100, le=60_000, description="Training images, the first of the data set."
    )
    architecture: Architecture = "ffnn"
    hidden_nodes: int = Field(256, ge=1, le=4_096, description="Units in a hidden layer.")
    hidden_layers: int = Field(2, ge=1, le=100, description="Number of hidden layers.")
    batch_size: int = Field(64, ge=2, le=6_000, description="Images in a minibatch.")
    early: KindName = Field("sgd", description="The optimizer up to `switch_loss`.")
    late: KindName = Field("ngd", description="The optimizer from there on, begun afresh.")
    early_lr: float = Field(0.03, gt=0, le=MAX_RATE, description="Learning rate of the early one.")
    late_lr: float = Field(0.015, gt=0, le=MAX_RATE, description="Learning rate of the late one.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum, a fraction.")
    nesterov: bool = Field(True, description="Nesterov's form of momentum; needs momentum > 0.")
    alpha: float = Field(0.1, gt=0, description="NGD's smoothing α of the Fisher factor.")
    eta: float = Field(
        0.9, gt=0, le=1, description="NGD: weight η of the newest gradient in the Fisher factor."
    )
    epsilon: float = Field(
        1e-10, ge=0, le=1e30, description="NGD: absolute floor ε of the factor, in gradient²."
    )
    delta: float = Field(
        5e-4, ge=0, lt=1, description="NGD: floor δ relative to the largest eigenvalue."
    )
    switch_loss: float = Field(
        0.25, gt=0, description="Training loss (nats) at which the late optimizer takes over."
    )
    branch_losses: Losses = Field(
        [0.2, 0.15, 0.1, 0.07, 0.05, 0.03, 0.02],
        min_length=1,
        description=(
            "Training losses (nats) at which a copy goes on for `annealing_epochs` while its"
            " learning rate falls to 0."
        ),
    )
    window: Annotated[Losses, Field(min_length=2, max_length=2)] = Field(
        [0.03, 0.02],
        description=(
            "Training losses after annealing, top and bottom (nats), between which the endpoint is"
            " averaged."
        ),
    )
    annealing_epochs: int = Field(
        1, ge=1, le=10_000, description="Epochs in which a branch's learning rate falls to 0."
    )
    look_every: int = Field(
        20, ge=1, le=100_000, description="Steps between two looks at the whole training loss."
    )
    max_epochs: int = Field(60, ge=1, le=10_000, description="Epochs after which training ends.")
    seed: Seed = Field(1, description="Seed of initial weights, data order and sampler noise.")

    def optimizer(self, phase: Literal["early", "late"]) -> tuple[str, OptimizerSettings]:
        """Kind and settings of an optimizer: the rate and what else it takes from here."""
        kind: str = getattr(self, phase)
        schema = KINDS[kind].settings
        own = CHOSEN if kind in ("sgd", "ngd") else ()  # others' momentum has another meaning
        given = {key: getattr(self, key) for key in own if key in schema.model_fields}
        return kind, schema(lr=getattr(self, f"{phase}_lr"), **given)


class MeasurementSettings(Section):
    """What is measured on annealed branches."""

    branches: Literal["window", "all", "none"] = Field(
        "all",
        description=(
            "Which branches are measured: those in the window with the nearest on both its sides;"
            " all; or none, which only says how training went."
        ),
    )
    thorough: bool = Field(
        False,
        description=(
            "Whether λ̂ is also sampled as published (2 chains of 1000 draws), and under relative"
            " changes of the weights."
        ),
    )
    localization: float = Field(
        25_000.0, gt=0, description="γ of the local estimates (inverse weight units squared)."
    )
    nbeta: Literal["dataset"] | Annotated[float, Field(gt=0)] = Field(
        "dataset", description='nβ of the local estimates: "dataset" is n/ln n, or a number.'
    )
    relative_localization: float = Field(
        25.0, gt=0, description="γ of the gauge-free estimate, of relative changes (no unit)."
    )
    num_chains: int = Field(3, ge=2, le=1_000, description="Chains of each local estimate.")
    num_draws: Annotated[int, Field(ge=20, le=1_000_000)] | None = Field(
        90, description="Draws a chain; null: as many as the sampler finds that it needs."
    )
    sampler_batch_size: int = Field(
        64, ge=2, le=60_000, description="Images in a minibatch of the sampler."
    )
    relative_batch_size: int = Field(
        256,
        ge=2,
        le=60_000,
        description="The same for the gauge-free estimate, whose losses are noisier.",
    )
    num_probes: int = Field(10, ge=2, le=10_000, description="Probes of the Hessian's trace.")
    hessian_images: int = Field(
        1_280, ge=64, le=60_000, description="Images over which the Hessian is taken."
    )


class Settings(Section):
    """One training and its annealed branches; every key has a default."""

    training: TrainingSettings = Field(default_factory=TrainingSettings)
    measurement: MeasurementSettings = Field(default_factory=MeasurementSettings)
