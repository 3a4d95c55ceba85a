"""Can the curvature of this loss be measured? What is refused, each with what is wrong and what to
do.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from degeneracy.checks import check_one_kind
from degeneracy.objective.checks import check_objective, check_second_derivatives
from degeneracy.objective.loss import Objective, objective_of


class NotFiniteError(ValueError):
    """Curvature does not exist at these weights, as after training diverged; the message says what
    is not finite.
    """


def checked_objective(
    model: nn.Module, loss_fn: Callable, data: Any, batch_size: int, **options: Any
) -> Objective:
    """The loss of a model on data, by weights that require a gradient, whose curvature exists.

    Options are those of `objective.loss.objective_of`: forward, penalty, restrict, cache_bytes,
    seed.

    Raises:
        ValueError: No such weights, several kinds of them, or some not finite, or as
            `objective.checks.check_objective` says: a forward pass that is random or mixes samples;
            data that is empty, uneven, elsewhere or not finite; labels out of range; a loss that
            is not a mean.
    """
    check_at_least_one(batch_size=batch_size)
    objective = objective_of(model, loss_fn, data, **options)
    check_weights(objective, "curvature")
    check_objective(objective)
    check_second_derivatives(objective)
    return objective


def check_weights(objective: Objective, matrix: str) -> None:
    """Raises ValueError where there are no weights, several kinds of them, or some not finite."""
    weights = objective.weights
    if not weights:
        raise ValueError(
            f"the model has no weights that require a gradient, so its {matrix} has no dimensions;"
            " give a model with parameters, or unfreeze some with requires_grad_(True)"
        )
    check_one_kind(weights)
    broken = [name for name, weight in weights.items() if not torch.isfinite(weight).all()]
    if broken:
        raise NotFiniteError(
            f"{broken[0]} holds weights that are not finite; measure before training diverged"
        )


def check_at_least_one(**numbers: int) -> None:
    """Raises ValueError for a number that is not an integer of at least 1."""
    for name, value in numbers.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} = {value!r}; allowed: an integer, at least 1")
