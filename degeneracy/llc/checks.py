"""Can this be sampled at all? What is refused before the first draw, each with what is wrong and
what to do.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from degeneracy.checks import check_one_kind
from degeneracy.objective.checks import check_objective, refuse_training_behaviour
from degeneracy.objective.loss import Objective, objective_of


def check_weights(model: nn.Module) -> None:
    """Raises ValueError where there is nothing to sample."""
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError(
            "the model has no weights that require a gradient, so there is nothing to sample"
        )


def check_checkpoints(model: nn.Module, checkpoints: Sequence[dict[str, Tensor] | None]) -> None:
    """Raises ValueError for a checkpoint whose names, shapes or values are not those of a state of
    `model`.
    """
    if isinstance(checkpoints, Mapping) or not all(
        c is None or isinstance(c, Mapping) for c in checkpoints
    ):
        raise ValueError("checkpoints must be a list of state dicts, as in [model.state_dict()]")
    state = getattr(model, "_orig_mod", model).state_dict()
    expected = {name: tensor.shape for name, tensor in state.items() if isinstance(tensor, Tensor)}
    for position, checkpoint in enumerate(checkpoints):
        if checkpoint is None:
            continue
        checkpoint = {
            name.removeprefix("_orig_mod."): tensor
            for name, tensor in checkpoint.items()
            if isinstance(tensor, Tensor)
        }
        where = f"checkpoint {position} does not fit the model"
        missing, unknown = expected.keys() - checkpoint.keys(), checkpoint.keys() - expected.keys()
        if missing or unknown:
            parts = [
                f"{word} {', '.join(sorted(names))}"
                for word, names in (("without", missing), ("with", unknown))
                if names
            ]
            raise ValueError(
                f"{where}: it is {' and '.join(parts)}; give a state dict of this model"
            )
        for name, tensor in checkpoint.items():
            if tensor.shape != expected[name]:
                raise ValueError(
                    f"{where}: size mismatch for {name}, which is {tuple(tensor.shape)} there and "
                    f"{tuple(expected[name])} in the model"
                )
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise ValueError(
                    f"checkpoint {position}: {name} holds values that are not finite; there is no"
                    " L(w*)"
                )


def checked_objective(
    model: nn.Module,
    checkpoints: Sequence,
    data: Any,
    batch_size: int,
    loss_fn: Callable,
    **options: Any,
) -> Objective:
    """What is sampled, at the first of the checkpoints.

    Options are those of `objective.loss.objective_of`.

    Raises:
        ValueError: A model, checkpoints, data or a loss that cannot be sampled, whichever is wrong
            first: nothing that moves, another model's checkpoint, values that are not finite, more
            samples a batch than there are, or as `objective.checks.check_objective` says.
    """
    check_weights(model)
    check_checkpoints(model, checkpoints)
    refuse_training_behaviour(model)
    objective = objective_of(model, loss_fn, data, fixed_padding=True, **options)
    check_one_kind(objective.weights)
    if not 1 <= batch_size <= len(objective.data):
        raise ValueError(
            f"batch_size = {batch_size}, allowed: 1 to the number of samples, {len(objective.data)}"
        )
    first = next((c for c in checkpoints if c is not None), None)
    objective = objective if first is None else objective.at(first)
    check_objective(objective)
    return objective
