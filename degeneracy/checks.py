"""Can this model, loss and data be measured at all? What is refused, each with what is wrong and
what to do.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, nll_loss
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

TRIAL = 4  # samples on which a model is tried


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


def check_data(data: tuple[Tensor, Tensor], batch_size: int, device: torch.device) -> None:
    """Raises ValueError for data that is empty, uneven, elsewhere, not finite, or smaller than a
    batch.
    """
    pair = isinstance(data, tuple | list) and len(data) == 2
    if not (pair and all(isinstance(part, Tensor) for part in data)):
        raise ValueError("data must be (inputs, targets), two tensors that hold the whole data set")
    inputs, targets = data
    if len(inputs) != len(targets):
        raise ValueError(
            f"data has {len(inputs)} inputs and {len(targets)} targets; allowed: one target an"
            " input"
        )
    if len(inputs) == 0:
        raise ValueError("data is empty; allowed: at least one sample")
    if not 1 <= batch_size <= len(inputs):
        raise ValueError(
            f"batch_size = {batch_size}, allowed: 1 to the number of samples, {len(inputs)}"
        )
    for name, tensor in (("inputs", inputs), ("targets", targets)):
        if tensor.device != device:
            raise ValueError(
                f"{name} are on {tensor.device} and the model is on {device}; move one to the other"
            )
        # A sum that is finite is one of finite values, and costs a fraction of looking at each.
        if tensor.is_floating_point() and not torch.isfinite(tensor.sum()):
            bad = (~torch.isfinite(tensor.reshape(len(tensor), -1))).any(1).nonzero()
            if len(bad):
                raise ValueError(
                    f"{name} hold NaN or infinity in {len(bad)} samples, the first at index"
                    f" {int(bad[0])}"
                )


@torch.no_grad()
def check_loss(model: nn.Module, data: tuple[Tensor, Tensor], loss_fn: Callable) -> None:
    """Tries model and loss on a few samples; raises ValueError for what cannot work, with the
    reason.
    """
    inputs, targets = data
    first = torch.arange(min(TRIAL, len(inputs)), device=inputs.device)
    outputs = _tried_model(model, inputs[first], loss_fn, targets[first])
    labels = not targets.is_floating_point() and targets.ndim == 1
    by_class = loss_fn in (cross_entropy, nll_loss) or isinstance(
        loss_fn, nn.CrossEntropyLoss | nn.NLLLoss
    )
    if labels and by_class:
        classes, low, high = (
            outputs.shape[1 if outputs.ndim > 1 else 0],
            int(targets.min()),
            int(targets.max()),
        )
        if low < 0 or high >= classes:
            raise ValueError(
                f"labels go from {low} to {high}; allowed for {classes} outputs: 0 to {classes - 1}"
            )
    loss = _tried_loss(loss_fn, outputs, targets[first])
    if labels and not by_class:  # of a loss of one's own, the extreme labels tell
        extremes = torch.stack([targets.argmin(), targets.argmax()])
        _tried_loss(loss_fn, model(inputs[extremes]), targets[extremes])
    if not isinstance(loss, Tensor) or loss.ndim or not loss.is_floating_point():
        given = f"a tensor {_kind(loss)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(
            f"loss_fn returns {given}; allowed: one floating-point number, the mean over the"
            " samples"
        )
    count = len(first)
    if count > 1 and isinstance(outputs, Tensor) and len(outputs) == count:
        try:
            single = (
                sum(
                    float(loss_fn(o[None], t[None]))
                    for o, t in zip(outputs, targets[first], strict=True)
                )
                / count
            )
        except (RuntimeError, IndexError, ValueError, TypeError):
            return  # a loss that needs more than one sample
        if math.isclose(float(loss), count * single, rel_tol=1e-3) and abs(single) > 1e-12:
            raise ValueError(
                'loss_fn returns a sum over the samples; allowed: their mean, as reduction="mean"'
                " gives"
            )


def _tried_loss(loss_fn: Callable, outputs, targets: Tensor):
    try:
        return loss_fn(outputs, targets)
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        given = f"outputs {_kind(outputs)} and targets {_kind(targets)}"
        if not targets.is_floating_point():
            given += f" from {int(targets.min())} to {int(targets.max())}"
        raise ValueError(f"loss_fn fails on {given}: {error}") from error


def _tried_model(model: nn.Module, inputs: Tensor, loss_fn: Callable, targets: Tensor):
    """The outputs; ValueError where the model cannot take the inputs, or is not a function of them
    and its weights.
    """
    weights = next(p for p in model.parameters() if p.requires_grad)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        outputs, again = model(inputs), model(inputs)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        reason = f"the model cannot take inputs {_kind(inputs)}"
        if inputs.dtype != weights.dtype:
            reason += (
                f" with weights of {weights.dtype}; convert them, as in inputs.to({weights.dtype})"
            )
        raise ValueError(f"{reason}: {error}") from error
    losses = [_tried_loss(loss_fn, given, targets) for given in (outputs, again)]
    if isinstance(losses[0], Tensor) and not torch.allclose(
        *losses, rtol=0, atol=0, equal_nan=True
    ):
        raise ValueError(
            "the model's forward pass is random: the same inputs gave two losses, so there is no"
            " loss L(w) to sample"
        )
    changed = [
        name for name, buffer in model.named_buffers() if not torch.equal(buffer, buffers[name])
    ]
    if changed:
        raise ValueError(
            f"the model's forward pass changes its {changed[0]}, so there is no loss L(w) to"
            " sample; keep it fixed"
        )
    return outputs


def _kind(value) -> str:
    return (
        f"{tuple(value.shape)} of {value.dtype}"
        if isinstance(value, Tensor)
        else f"of type {type(value).__name__}"
    )
