"""How is Adam with decoupled weight decay set and built (Loshchilov & Hutter, arXiv:1711.05101)?

`torch.optim.AdamW` is the optimizer.
"""

from collections.abc import Callable

import torch
from pydantic import Field
from torch import nn

from degeneracy.optimizers.settings import MAX_RATE, Kind, OptimizerSettings
from degeneracy.stepper import TorchStepper


class Settings(OptimizerSettings):
    """Of a kind `adamw`; defaults are PyTorch's."""

    lr: float = Field(1e-3, gt=0, le=MAX_RATE, description="Learning rate (weight units).")
    beta1: float = Field(0.9, ge=0, lt=1, description="Decay β₁ of the gradient's running mean.")
    beta2: float = Field(0.999, ge=0, lt=1, description="Decay β₂ of its square's running mean.")
    eps: float = Field(1e-8, gt=0, description="Added to the root of that mean (gradient units).")
    weight_decay: float = Field(0.01, ge=0, description="Decoupled weight decay.")


def adamw(parameters, settings: Settings) -> torch.optim.AdamW:
    """The optimizer over `parameters`."""
    return torch.optim.AdamW(
        parameters,
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
        weight_decay=settings.weight_decay,
    )


def build(model: nn.Module, loss_fn: Callable, settings: Settings) -> TorchStepper:
    """The optimizer over all parameters of `model`."""
    return TorchStepper(model, loss_fn, [adamw(model.parameters(), settings)])


KIND = Kind(Settings, build)
