"""What may a config of the study of NGD's directions say? Its schema, defaults and rules."""

from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, Field

from degeneracy.config.section import Section, rule
from degeneracy.config.values import DataRoot, Seed, nesterov_has_momentum
from degeneracy.models.networks import FFNN, num_parameters
from degeneracy.optimizers.exact_ngd import MAX_WEIGHTS


def _increasing(values: list) -> list:
    if any(a >= b for a, b in pairwise(values)):
        raise ValueError("allowed: numbers that increase")
    return values


# Far above the rounding of an F that was summed in float32.
Alpha = Annotated[float, Field(ge=1e-4, le=1e12)]
Increasing = AfterValidator(_increasing)


class TrainingSettings(Section):
    """How the networks of all parts are trained with online NGD (stable arithmetic, float32)."""

    rules = (nesterov_has_momentum("training."),)

    dataset: Literal["mnist", "fashion-mnist"] = Field("mnist", description="The data set.")
    root: DataRoot = "data"
    batch_size: int = Field(128, ge=2, le=60_000, description="Images in a minibatch.")
    lr: float = Field(
        0.01, gt=0, description="NGD's learning rate (weight units per gradient unit)."
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum, a fraction.")
    nesterov: bool = Field(True, description="Nesterov's form of momentum; needs momentum > 0.")
    alpha: float = Field(0.1, gt=0, description="NGD's smoothing α of the Fisher factor.")
    eta: float = Field(
        0.9, gt=0, lt=1, description="Weight η of the newest gradient in the Fisher factor."
    )
    epsilon: float = Field(
        1e-10, gt=0, description="Absolute floor ε of the factor's eigenvalues, in gradient²."
    )
    delta: float = Field(
        5e-4, ge=0, lt=1, description="Floor δ relative to the largest eigenvalue."
    )
    seed: Seed = Field(
        1, description="Seed of initial weights, shuffling, minibatches and drawn labels."
    )


def pooled_network(hidden_nodes: int, hidden_layers: int, pooling: int) -> FFNN:
    """An FFNN on images of which squares of `pooling` pixels a side are averaged."""
    side = 28 // pooling
    return FFNN(hidden_nodes, hidden_layers, (1, side, side))


@rule("hidden_nodes", "hidden_layers", "pooling")
def exact_matrix_is_small(hidden_nodes: int, hidden_layers: int, pooling: int) -> str | None:
    """The exact Fisher matrix is dense."""
    with torch.device("meta"):  # draws no random weights
        size = num_parameters(pooled_network(hidden_nodes, hidden_layers, pooling))
    if size > MAX_WEIGHTS:
        return (
            f"{hidden_nodes} given with exact.hidden_layers {hidden_layers} and exact.pooling"
            f" {pooling}, which makes {size:,} weights; allowed: at most {MAX_WEIGHTS:,}"
        )
    return None


class ExactSettings(Section):
    """Part 1: a small FFNN on average-pooled images, against its exact natural gradient."""

    rules = (exact_matrix_is_small,)

    pooling: Literal[2, 4, 7] = Field(
        4, description="Side of the squares of pixels that are averaged."
    )
    hidden_nodes: int = Field(20, ge=1, le=256, description="Units in a hidden layer.")
    hidden_layers: int = Field(2, ge=1, le=10, description="Number of hidden layers.")
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

    def model(self) -> FFNN:
        """The untrained network."""
        return pooled_network(self.hidden_nodes, self.hidden_layers, self.pooling)


class RecordedSettings(Section):
    """Parts 2 and 3: the gradients of an FFNN's training from its initial weights, along which
    others follow.
    """

    hidden_nodes: int = Field(256, ge=1, le=1024, description="Units in a hidden layer.")
    hidden_layers: int = Field(2, ge=1, le=10, description="Number of hidden layers.")
    num_steps: int = Field(150, ge=1, le=10_000, description="Training steps recorded.")
    alphas: Annotated[list[Alpha], Increasing] = Field(
        [0.1, 4], min_length=1, max_length=3, description="NGD's smoothing α, one recording each."
    )


class Settings(Section):
    """How exact online NGD's directions are; every key has a default."""

    training: TrainingSettings = Field(default_factory=TrainingSettings)
    exact: ExactSettings = Field(default_factory=ExactSettings)
    recorded: RecordedSettings = Field(default_factory=RecordedSettings)
