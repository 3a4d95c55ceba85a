"""What may be said of an optimizer, whatever its kind?"""

from collections.abc import Callable
from typing import NamedTuple

from pydantic import Field
from torch import nn

from degeneracy.config.section import Section
from degeneracy.stepper import Stepper

MAX_RATE = 1e30  # of a learning rate; float32 ends at 3.4e38


class OptimizerSettings(Section):
    """What every kind has; a kind's own settings extend it."""

    lr: float = Field(gt=0, le=MAX_RATE, description="Learning rate.")
    swap_lr: float | None = Field(
        None,
        gt=0,
        le=MAX_RATE,
        description=(
            "Another learning rate after the swap, only of the first optimizer of a swap run, which"
            " trains up to it."
        ),
    )


class Kind(NamedTuple):
    """What a name in a config stands for."""

    settings: type[OptimizerSettings]
    build: Callable[[nn.Module, Callable, OptimizerSettings], Stepper]  # (model, loss_fn, settings)
