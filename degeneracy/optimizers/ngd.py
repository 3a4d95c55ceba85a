"""Online natural gradient descent, as `ngd.NGD` has it."""

from collections.abc import Callable
from typing import Literal

from pydantic import Field
from torch import nn

from degeneracy.optimizers.settings import Kind, OptimizerSettings
from degeneracy.stepper import TorchStepper
from ngd import NGD


class Settings(OptimizerSettings):
    """Of a kind `ngd`."""

    lr: float = Field(0.01, gt=0, description="Learning rate (weight units per gradient unit).")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum, a fraction.")
    nesterov: bool = Field(True, description="Nesterov's form of momentum; needs momentum > 0.")
    alpha: float = Field(
        4.0, gt=0, description="Smoothing α of the Fisher factor; large α approaches SGD."
    )
    eta: float = Field(
        0.1, gt=0, le=1, description="Weight η of the newest gradient in the Fisher factor."
    )
    epsilon: float = Field(
        1e-10, ge=0, le=1e30, description="Absolute floor ε of the factor's eigenvalues, gradient²."
    )
    delta: float = Field(
        5e-4, ge=0, lt=1, description="Floor δ of those eigenvalues, of the largest one."
    )
    rank: int | None = Field(None, ge=1, description="Rank of the factors; null: min(⌊(D+1)/2⌋, 80).")
    update_period: int = Field(4, ge=1, description="Steps between two updates of the factors.")
    arithmetic: Literal["stable", "published"] = Field(
        "stable", description="Of the factors' update: sound in float32, or as published."
    )


def build(model: nn.Module, loss_fn: Callable, settings: Settings) -> TorchStepper:
    """The optimizer over all parameters of `model`."""
    how = settings.model_dump(exclude={"swap_lr"})
    return TorchStepper(model, loss_fn, [NGD(model.parameters(), **how)])


KIND = Kind(Settings, build)
