"""Which weights fit into one tensor, and which layers are no function of a sample and weights?"""

from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd


def check_one_kind(
    weights: Mapping[str, Tensor], types: Collection[torch.dtype] | None = None
) -> None:
    """Raises ValueError for weights of several types or devices, or of a type that is not allowed.

    Args:
        types: Allowed ones; None for every floating type.
    """
    kinds = {(weight.dtype, weight.device) for weight in weights.values()}
    dtype = next(iter(kinds))[0]
    if len(kinds) > 1 or not (dtype.is_floating_point if types is None else dtype in types):
        shown = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
        allowed = "one floating type" if types is None else " or ".join(f"all {t}" for t in types)
        raise ValueError(
            f"the model's weights are {shown}; allowed: {allowed}, on one device; convert them with"
            " .to()"
        )


def coupled_layers(model: nn.Module, training: bool = False) -> Iterator[tuple[str, nn.Module]]:
    """(description, module) of layers whose output for a sample depends on other samples.

    Args:
        training: As if the whole model were in training mode, whatever mode it is in.
    """
    for name, module in model.named_modules():
        trains = training or module.training
        normalises = isinstance(module, _BatchNorm) and (trains or module.running_mean is None)
        if normalises or (trains and getattr(module, "track_running_stats", False)):
            yield f"the model's {name or 'module'} is a {type(module).__name__}", module


def random_layers(model: nn.Module, training: bool = False) -> Iterator[tuple[str, nn.Module]]:
    """(description, module) of layers whose output is random; `training` as in `coupled_layers`."""
    for name, module in model.named_modules():
        if isinstance(module, _DropoutNd) and module.p > 0 and (training or module.training):
            yield f"the model's {name or 'module'} is a {type(module).__name__}", module
