"""How is SGD with momentum set and built? `torch.optim.SGD` is the optimizer."""

from collections.abc import Callable

import torch
from pydantic import Field
from torch import nn

from degeneracy.config.values import nesterov_has_momentum
from degeneracy.optimizers.settings import MAX_RATE, Kind, OptimizerSettings
from degeneracy.stepper import TorchStepper


class Settings(OptimizerSettings):
    """Of a kind `sgd`."""

    rules = (nesterov_has_momentum(),)

    lr: float = Field(
        0.01, gt=0, le=MAX_RATE, description="Learning rate (weight units per gradient unit)."
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum, a fraction.")
    nesterov: bool = Field(True, description="Nesterov's form of momentum; needs momentum > 0.")


def build(model: nn.Module, loss_fn: Callable, settings: Settings) -> TorchStepper:
    """The optimizer over all parameters of `model`."""
    how = settings.model_dump(exclude={"swap_lr"})
    return TorchStepper(model, loss_fn, [torch.optim.SGD(model.parameters(), **how)])


KIND = Kind(Settings, build)
