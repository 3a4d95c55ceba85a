"""Can the curvature of this loss be measured? What is refused, each with what is wrong and what to
do.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, nll_loss

from degeneracy.checks import check_data, check_loss, check_one_kind, coupled_layers, random_layers

BY_CLASS = (nn.CrossEntropyLoss, nn.NLLLoss)


class NotFiniteError(ValueError):
    """Curvature does not exist at these weights, as after training diverged; the message says what
    is not finite.
    """


def checked_weights(
    model: nn.Module,
    loss_fn: Callable,
    data: tuple[Float[Tensor, "n ..."], Tensor],
    batch_size: int,
) -> dict[str, Tensor]:
    """The named weights that require a gradient, detached, of a problem whose curvature exists.

    Raises:
        ValueError: No such weights, several kinds of them, or some not finite; a forward pass that
            is random or sees other samples; data that is empty, uneven, elsewhere or not finite;
            labels out of range; a loss that is not a mean.
    """
    check_at_least_one(batch_size=batch_size)
    weights = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    if not weights:
        raise ValueError(
            "the model has no weights that require a gradient, so its curvature has no dimensions;"
            " give a model with parameters, or unfreeze some with requires_grad_(True)"
        )
    check_one_kind(weights)
    broken = [name for name, weight in weights.items() if not torch.isfinite(weight).all()]
    if broken:
        raise NotFiniteError(
            f"{broken[0]} holds weights that are not finite; measure before training diverged"
        )
    _refuse_training_behaviour(model)
    check_data(data, 1, next(iter(weights.values())).device)
    if loss_fn in (cross_entropy, nll_loss) or isinstance(loss_fn, BY_CLASS):
        _check_labels(model, data)
    check_loss(model, data, loss_fn)
    return weights


def check_at_least_one(**numbers: int) -> None:
    """Raises ValueError for a number that is not an integer of at least 1."""
    for name, value in numbers.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} = {value!r}; allowed: an integer, at least 1")


def _refuse_training_behaviour(model: nn.Module) -> None:
    for shown, _ in coupled_layers(model):
        raise ValueError(
            f"{shown} that normalises with the batch's statistics: the loss of a sample then"
            " depends on the other samples, and neither a mean over samples nor a gradient of"
            " one sample is defined; call model.eval() (with track_running_stats=True), or"
            " replace the layer"
        )
    for shown, _ in random_layers(model):
        raise ValueError(
            f"{shown} in training mode: its loss is random, not a function of w; call model.eval()"
        )


@torch.no_grad()
def _check_labels(model: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    """Before the loss sees them: on CUDA a label out of range ends the use of the device."""
    inputs, labels = data
    outputs = model(inputs[:1])
    if labels.is_floating_point() or labels.ndim != 1 or outputs.ndim != 2:
        return  # class probabilities, or several predictions a sample
    low, high, classes = int(labels.min()), int(labels.max()), outputs.shape[1]
    if low < 0 or high >= classes:
        raise ValueError(
            f"labels go from {low} to {high}; allowed for {classes} outputs: 0 to {classes - 1};"
            " give the model an output for every class, or leave those samples out"
        )
