"""Can this be sampled at all? What is refused before the first draw, each with what is wrong and
what to do.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from degeneracy.checks import check_data, check_loss


def refuse_random_forward(model: nn.Module) -> None:
    """Raises ValueError for dropout and running batch statistics: L(w) would then be more than a
    function of w.
    """
    for name, module in model.named_modules():
        dropout = isinstance(module, _DropoutNd) and module.p > 0
        if (
            dropout
            or isinstance(module, _BatchNorm)
            or getattr(module, "track_running_stats", False)
        ):
            raise ValueError(
                f"the model's {name or 'module'} is a {type(module).__name__}: its forward pass in"
                " training mode is random or keeps batch statistics, so there is no loss L(w) to"
                " sample; replace it by a fixed layer"
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
    kinds = {(p.dtype, p.device) for p in sampled.values()}
    if len(kinds) > 1 or not next(iter(kinds))[0].is_floating_point:
        shown = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
        raise ValueError(
            f"the model's weights are {shown}; allowed: one floating type on one device"
        )


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
