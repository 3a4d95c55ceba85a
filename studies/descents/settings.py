"""What may a config of a descent say? Its schema, defaults and rules."""

from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, create_model

from degeneracy.config.section import Section, rule
from degeneracy.config.values import DataRoot, Seed
from degeneracy.optimizers.kinds import KINDS
from degeneracy.optimizers.settings import MAX_RATE, OptimizerSettings

SAID_ELSEWHERE = ("lr", "swap_lr")  # of a kind's settings: `training.lr`, and no swap is made


def _falling(values: list[float]) -> list[float]:
    if any(a <= b for a, b in pairwise(values)):
        raise ValueError("allowed: numbers that fall")
    return values


Losses = Annotated[
    list[Annotated[float, Field(gt=0)]], Field(min_length=1), AfterValidator(_falling)
]


class TrainingSettings(Section):
    """One training of one optimizer, from the start down to the last loss."""

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
    optimizer: Literal[*KINDS] = Field("sgd", description="The optimizer's kind.")
    lr: float = Field(0.1, gt=0, le=MAX_RATE, description="Its learning rate.")
    losses: Losses = Field(
        [0.3, 0.25, 0.2],
        description="Whole training losses (nats) at whose first passage weights are measured.",
    )
    max_steps: int = Field(3_000, ge=1, le=10_000_000, description="Steps after which it ends.")
    look_every: int = Field(
        10,
        ge=1,
        le=100_000,
        description=(
            "Steps between two looks at the whole training loss; every step is looked at from 5 %"
            " above the next of the losses on."
        ),
    )
    seed: Seed = Field(1, description="Seed of initial weights, data order and sampler noise.")


def _section_of(kind: str) -> type[Section]:
    """A kind's settings, but for its learning rate."""
    schema = KINDS[kind].settings
    fields: dict[str, Any] = {
        key: (field.rebuild_annotation(), Field(field.default, description=field.description))
        for key, field in schema.model_fields.items()
        if key not in SAID_ELSEWHERE
    }
    made = create_model(
        f"{kind.title().replace('_', '')}Settings",
        __base__=Section,
        __module__=__name__,
        __doc__=f"What {kind} takes beside its learning rate.",
        **fields,
    )
    made.rules = schema.rules
    return made


OptimizersSettings = create_model(
    "OptimizersSettings",
    __base__=Section,
    __module__=__name__,
    __doc__="What each kind of optimizer takes; that of `training.optimizer` counts.",
    **{
        kind: (made, Field(made(), description=f"Counts where the optimizer is {kind}."))
        for kind, made in ((kind, _section_of(kind)) for kind in KINDS)
    },
)


class MeasurementSettings(Section):
    """What is measured where training passed the losses."""

    losses: Literal["all", "last", "none"] = Field(
        "all", description="Which of the losses: all that were passed, the last of all, or none."
    )
    gauge: Literal["given", "balanced"] = Field(
        "given",
        description=(
            "Weights as trained, or every hidden unit scaled to equal in- and outgoing norms, which"
            " changes no function."
        ),
    )
    nbeta: float = Field(100.0, gt=0, description="Inverse temperature nβ, the same for all.")
    localization: float = Field(
        200.0, gt=0, description="γ, the same for all (inverse weight units squared)."
    )
    num_chains: int = Field(4, ge=2, le=1_000, description="Chains of each estimate of λ̂.")
    num_draws: Annotated[int, Field(ge=20, le=1_000_000)] | None = Field(
        None, description="Draws a chain; null: as many as the sampler finds that it needs."
    )
    sampler_batch_size: Annotated[int, Field(ge=2, le=60_000)] | None = Field(
        None,
        description="Images in a minibatch of the sampler; null: 512, or all if there are fewer.",
    )
    num_probes: int = Field(30, ge=2, le=10_000, description="Probes of the Hessian's trace.")
    hessian_images: int = Field(
        10_000, ge=64, le=60_000, description="Images over which the Hessian is taken."
    )


@rule("measurement.sampler_batch_size", "training.num_images")
def batches_fit(sampler_batch_size: int | None, num_images: int) -> str | None:
    """A minibatch of the sampler has no image twice."""
    if sampler_batch_size is not None and sampler_batch_size > num_images:
        return (
            f"{sampler_batch_size} given with training.num_images {num_images}; allowed there: at"
            f" most {num_images}"
        )
    return None


class Settings(Section):
    """One descent; every key has a default."""

    rules = (batches_fit,)

    training: TrainingSettings = Field(default_factory=TrainingSettings)
    optimizers: OptimizersSettings = Field(default_factory=OptimizersSettings)
    measurement: MeasurementSettings = Field(default_factory=MeasurementSettings)

    def optimizer(self) -> OptimizerSettings:
        """All that the optimizer is told."""
        kind = self.training.optimizer
        own = getattr(self.optimizers, kind).model_dump()
        return KINDS[kind].settings(lr=self.training.lr, **own)
