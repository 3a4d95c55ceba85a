"""Can this be sampled at all? What is refused before the first draw, each with what is wrong and
what to do.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from degeneracy.checks import check_data, check_loss, check_one_kind, coupled_layers, random_layers


def refuse_random_forward(model: nn.Module) -> None:
    """Raises ValueError for dropout and running batch statistics: L(w) would then be more than a
    function of w.
    """
    unfit = [*random_layers(model, training=True), *coupled_layers(model, training=True)]
    for shown, _ in unfit:
        raise ValueError(
            f"{shown}: its forward pass in training mode is random or keeps batch statistics, so"
            " there is no loss L(w) to sample; replace it by a fixed layer"
        )


def check_weights(model: nn.Module) -> None:
    """Raises ValueError where there is nothing to sample, or weights that do not fit into one
    tensor.
    """
    sampled = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not sampled:
        raise ValueError(
            "the model has no weights that require a gradient, so there is nothing to sample"
        )
    check_one_kind(sampled)


def check_checkpoints(model: nn.Module, checkpoints: Sequence[dict[str, Tensor] | None]) -> None:
    """Raises ValueError for a checkpoint whose names, shapes or values are not those of a state of
    `model`.
    """
    if isinstance(checkpoints, Mapping) or not all(
        c is None or isinstance(c, Mapping) for c in checkpoints
    ):
        raise ValueError("checkpoints must be a list of state dicts, as in [model.state_dict()]")
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    for position, checkpoint in enumerate(checkpoints):
        if checkpoint is None:
            continue
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


def check_problem(
    model: nn.Module,
    checkpoints: Sequence,
    data: tuple[Tensor, Tensor],
    batch_size: int,
    loss_fn: Callable,
) -> None:
    """Raises ValueError for a model, checkpoints, data or loss that cannot be sampled, whichever is
    wrong first.
    """
    check_weights(model)
    check_checkpoints(model, checkpoints)
    refuse_random_forward(model)
    check_data(data, batch_size, next(model.parameters()).device)
    check_loss(model, data, loss_fn)
