"""How is online natural gradient descent set and built? `ngd.NGD` is the optimizer."""

from collections.abc import Callable
from typing import Literal

from pydantic import Field
from torch import nn

from degeneracy.config.section import Rule, rule
from degeneracy.config.values import nesterov_has_momentum
from degeneracy.config.words import shown
from degeneracy.optimizers.settings import MAX_RATE, Kind, OptimizerSettings
from degeneracy.stepper import TorchStepper
from ngd import NGD


def published_keeps_its_floor(key: str = "arithmetic", home: str = "") -> Rule:
    """The rule that the published arithmetic, which divides by its floor, a multiple of 1 - η, has
    η < 1; `key` is the arithmetic's, `home` goes before it in its sentence ("experiment.").
    """

    @rule("eta", key)
    def keeps_its_floor(eta: float, arithmetic: str) -> str | None:
        if arithmetic == "published" and eta == 1:
            return (
                f'{shown(eta)} given with {home}{key} "published"; allowed there: < 1, for at 1'
                " its floor is 0 and it divides by zero"
            )
        return None

    return keeps_its_floor


class Settings(OptimizerSettings):
    """Of a kind `ngd`."""

    rules = (nesterov_has_momentum(), published_keeps_its_floor())

    lr: float = Field(
        0.01, gt=0, le=MAX_RATE, description="Learning rate (weight units per gradient unit)."
    )
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
    rank: int | None = Field(
        None, ge=1, description="Rank of the factors; null: min(⌊(D+1)/2⌋, 80)."
    )
    update_period: int = Field(4, ge=1, description="Steps between two updates of the factors.")
    arithmetic: Literal["stable", "published"] = Field(
        "stable", description="Of the factors' update: sound in float32, or as published."
    )


def build(model: nn.Module, loss_fn: Callable, settings: Settings) -> TorchStepper:
    """The optimizer over all parameters of `model`."""
    how = settings.model_dump(exclude={"swap_lr"})
    return TorchStepper(model, loss_fn, [NGD(model.parameters(), **how)])


KIND = Kind(Settings, build)
