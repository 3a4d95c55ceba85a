"""What may a config of the study of NGD's directions say? Its schema, defaults and checks."""

import os
from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from degeneracy.config.reader import Section, read_settings
from degeneracy.models.networks import FFNN, num_parameters
from degeneracy.optimizers.exact_ngd import MAX_WEIGHTS


def _increasing(values: list) -> list:
    if any(a >= b for a, b in pairwise(values)):
        raise ValueError("allowed: numbers that increase")
    return values


Alpha = Annotated[
    float, Field(ge=1e-4, le=1e12)
]  # far above the rounding of an F that was summed in float32
Increasing = AfterValidator(_increasing)


class TrainingSettings(Section):
    """How the networks of all parts are trained with online NGD (stable arithmetic, float32)."""

    dataset: Literal["mnist", "fashion-mnist"] = "mnist"
    root: str = Field(
        "data",
        min_length=1,
        description="Folder of the data sets; relative to the project's folder.",
    )
    batch_size: int = Field(128, ge=2, le=60_000)
    lr: float = Field(0.01, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = Field(True, validate_default=True)
    alpha: float = Field(0.1, gt=0, description="NGD's smoothing α.")
    eta: float = Field(
        0.9, gt=0, lt=1, description="Weight η of the newest gradient in the Fisher factor."
    )
    epsilon: float = Field(
        1e-10, gt=0, description="Absolute floor ε of the factor's eigenvalues, in gradient²."
    )
    delta: float = Field(
        5e-4, ge=0, lt=1, description="Floor δ relative to the largest eigenvalue."
    )
    seed: int = Field(
        1,
        ge=0,
        le=2**32 - 1,
        description="Of initial weights, shuffling, minibatches, drawn labels.",
    )

    @field_validator("nesterov")
    @classmethod
    def _has_momentum(cls, nesterov: bool, info: ValidationInfo) -> bool:
        if nesterov and info.data.get("momentum") == 0:
            raise ValueError("allowed with momentum 0: false")
        return nesterov


class ExactSettings(Section):
    """Part 1: a small FFNN on average-pooled images, against its exact natural gradient."""

    pooling: Literal[2, 4, 7] = Field(
        4, description="Side of the squares of pixels that are averaged."
    )
    hidden_nodes: int = Field(20, ge=1, le=256)
    hidden_layers: int = Field(2, ge=1, le=10)
    checkpoints: Annotated[list[Annotated[int, Field(ge=1, le=1_000_000)]], Increasing] = Field(
        [10, 100, 500, 2000],
        min_length=1,
        description="Training steps after which directions are compared.",
    )
    alphas: Annotated[list[Alpha], Increasing] = Field(
        [0.01, 0.1, 1, 10, 100],
        min_length=1,
        description="Smoothing of the exact F: κ = (α/p) tr F.",
    )
    num_fisher_samples: int = Field(
        10_000, ge=2, le=60_000, description="Training images in the exact F."
    )
    num_minibatches: int = Field(
        8, ge=2, le=10_000, description="Minibatch gradients turned at each checkpoint."
    )
    num_averaged: int = Field(
        200, ge=1, le=10_000, description="Minibatch gradients in the averaged factors."
    )

    @model_validator(mode="after")
    def _is_small(self) -> "ExactSettings":
        with torch.device("meta"):  # draws no random weights
            size = num_parameters(self.model())
        if size > MAX_WEIGHTS:
            raise ValueError(
                f"nodes, layers and pooling give {size:,} weights; allowed: at most {MAX_WEIGHTS:,}"
            )
        return self

    def model(self) -> FFNN:
        """The untrained network."""
        side = 28 // self.pooling
        return FFNN(self.hidden_nodes, self.hidden_layers, (1, side, side))


class RecordedSettings(Section):
    """Parts 2 and 3: the gradients of an FFNN's training from its initial weights, along which
    others follow.
    """

    hidden_nodes: int = Field(256, ge=1, le=1024)
    hidden_layers: int = Field(2, ge=1, le=10)
    num_steps: int = Field(150, ge=1, le=10_000)
    alphas: Annotated[list[Alpha], Increasing] = Field([0.1, 4], min_length=1, max_length=3)


class Settings(Section):
    """The whole study's; every key has a default."""

    training: TrainingSettings = Field(default_factory=TrainingSettings)
    exact: ExactSettings = Field(default_factory=ExactSettings)
    recorded: RecordedSettings = Field(default_factory=RecordedSettings)


def load_settings(path: str | os.PathLike[str]) -> Settings:
    """The study's config from a JSON file; raises as `config.reader.read_settings`."""
    return read_settings(path, Settings)
