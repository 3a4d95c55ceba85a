"""What may a config of the section on dually flat models say?"""

from typing import Annotated

from pydantic import Field

from degeneracy.config.section import Section
from degeneracy.config.values import EachOnce, Seed

Size = Annotated[int, Field(ge=2, le=100)]


class Case(Section):
    """A family of models, and how far from uniform those are that samples come from."""

    classes: int = Field(10, ge=2, le=100, description="Labels s.")
    sizes: Annotated[list[Size], Field(min_length=1, max_length=4)] = Field(
        [10, 5], description="Values m_i of each feature."
    )
    scale: float = Field(0.7, gt=0, le=5, description="σ, standard deviation of the true α and β.")


class Settings(Section):
    """Natural gradients of multinomial logistic regression, over one pass of samples."""

    cases: Annotated[list[Case], EachOnce] = Field(
        [
            Case(),
            Case(classes=10, sizes=[10, 5], scale=1.5),
            Case(classes=20, sizes=[10, 5, 10], scale=0.7),
        ],
        min_length=1,
        max_length=6,
        description="What is learned.",
    )
    num_samples: int = Field(250_000, ge=100, le=10_000_000, description="Samples N of the pass.")
    num_heldout: int = Field(
        50_000,
        ge=100,
        le=10_000_000,
        description="Held-out samples, on which every method's rate is chosen.",
    )
    seeds: Annotated[list[Seed], EachOnce] = Field(
        [1, 2, 3], min_length=1, description="Seeds of true model and samples; medians are shown."
    )
    batch_size: int = Field(64, ge=1, le=10_000, description="Samples of a step, at most.")
    lr: float = Field(
        0.02,
        gt=0,
        le=1,
        description="a of DSNGD's rate a/(1 + bt) at the batch sizes that are compared.",
    )
    decay: float = Field(0.0133, ge=0, le=1, description="b of the same.")
    compared_batches: Annotated[list[Annotated[int, Field(ge=1, le=10_000)]], EachOnce] = Field(
        [1, 16, 64, 256],
        min_length=1,
        description="Batch sizes of DSNGD that are compared on the first case; 1 is as published.",
    )
    compared_samples: int = Field(
        30_000, ge=100, le=10_000_000, description="Samples of each of these runs."
    )
