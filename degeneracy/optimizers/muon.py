"""How is Muon set and built, with AdamW for what is no matrix (Jordan et al. 2024)?

`torch.optim.Muon` orthogonalises the momentum of a matrix and takes no other tensor: biases and
convolutions' kernels go to AdamW with settings of its own.
"""

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from degeneracy.config.values import nesterov_has_momentum
from degeneracy.optimizers.adamw import Settings as AdamWSettings
from degeneracy.optimizers.adamw import adamw
from degeneracy.optimizers.settings import MAX_RATE, Kind, OptimizerSettings
from degeneracy.stepper import TorchStepper


class Settings(OptimizerSettings):
    """Of a kind `muon`; defaults are PyTorch's, AdamW's at their own."""

    rules = (nesterov_has_momentum(),)

    lr: float = Field(
        1e-3, gt=0, le=MAX_RATE, description="Learning rate of Muon, for matrices (weight units)."
    )
    weight_decay: float = Field(0.1, ge=0, description="Decoupled weight decay of matrices.")
    momentum: float = Field(0.95, ge=0, lt=1, description="Momentum of matrices, a fraction.")
    nesterov: bool = Field(True, description="Nesterov's form of that momentum.")
    ns_steps: int = Field(5, ge=1, le=99, description="Newton-Schulz steps of orthogonalisation.")
    adjust_lr_fn: Literal["original", "match_rms_adamw"] = Field(
        "original", description="How the rate depends on a matrix' shape, as torch.optim.Muon says."
    )
    adamw_lr: float = Field(
        1e-3,
        gt=0,
        le=MAX_RATE,
        description="Learning rate of AdamW, which steps tensors that are no matrices.",
    )


def build(model: nn.Module, loss_fn: Callable, settings: Settings) -> TorchStepper:
    """Muon over the matrices of `model`, AdamW over its other tensors.

    Raises:
        ValueError: The model has no matrix for Muon to step.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in parameters if p.ndim == 2]
    others = [p for p in parameters if p.ndim != 2]
    if not matrices:
        raise ValueError("muon: the model has no matrix; allowed: models with one, or kind adamw")
    how = settings.model_dump(exclude={"swap_lr", "adamw_lr"})
    optimizers = [torch.optim.Muon(matrices, **how)]
    if others:
        optimizers.append(adamw(others, AdamWSettings(lr=settings.adamw_lr)))
    return TorchStepper(model, loss_fn, optimizers)


KIND = Kind(Settings, build)
