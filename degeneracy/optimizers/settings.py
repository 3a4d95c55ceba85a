"""What may be said of an optimizer, whatever its kind?"""

from collections.abc import Callable
from typing import NamedTuple

from pydantic import Field
from torch import nn

from degeneracy.config.reader import Section
from degeneracy.stepper import Stepper


class OptimizerSettings(Section):
    """What every kind has; a kind's own settings extend it."""

    lr: float = Field(gt=0, description="Learning rate.")
    swap_lr: float | None = Field(
        None,
        gt=0,
        description=(
            "Learning rate after the swap, of the optimizer that trained up to it; null: lr. Only in"
            " swap runs."
        ),
    )


class Kind(NamedTuple):
    """What a name in a config stands for."""

    settings: type[OptimizerSettings]
    build: Callable[[nn.Module, Callable, OptimizerSettings], Stepper]  # (model, loss_fn, settings)
