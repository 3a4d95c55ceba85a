"""Of which samples is a loss the mean, and with which weights?

With weights w_i the loss of a data set is Σ w_i l_i / Σ w_i. A batch of m estimates it by (n/m)
Σ_B w_i l_i / Σ w_i, the sums of the denominator over the whole data set of n samples: so it is the
plain mean over samples of n w_i l_i / Σ w_i, and everything that holds for means holds for it. The
loss of a batch that PyTorch returns, with the batch's own weights below, is no estimate of it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import cross_entropy, nll_loss

from degeneracy.objective.data import Data

BY_CLASS = (nn.CrossEntropyLoss, nn.NLLLoss)
FUNCTIONS = (cross_entropy, nll_loss)
EVERY = 4096  # samples a batch where weights are summed


class WeightedMean:
    """A loss with the weights of the whole data set below: batches of it average to it.

    Args:
        sums: Σ_B w_i l_i of (outputs, targets).
        mean_weight: Σ w_i / n of the data set.
    """

    def __init__(self, sums: Callable[[Any, Tensor], Tensor], mean_weight: float):
        self.sums, self.mean_weight = sums, mean_weight

    def __call__(self, outputs: Any, targets: Tensor) -> Tensor:
        return self.sums(outputs, targets) / (len(targets) * self.mean_weight)


def is_by_class(loss_fn: Callable) -> bool:
    """Whether this is PyTorch's cross-entropy or negative log-likelihood, and no kind of one's
    own.
    """
    own = getattr(type(loss_fn), "forward", None)
    return own in [kind.forward for kind in BY_CLASS] or _function(loss_fn) in FUNCTIONS


def class_options(loss_fn: Callable) -> dict[str, Any]:
    """Weight, ignored label, smoothing and reduction of such a loss, PyTorch's where not given."""
    found = {"weight": None, "ignore_index": -100, "reduction": "mean", "label_smoothing": 0.0}
    if isinstance(loss_fn, BY_CLASS):
        return {name: getattr(loss_fn, name, value) for name, value in found.items()}
    given = loss_fn.keywords if isinstance(loss_fn, partial) else {}
    return found | {name: given[name] for name in found if name in given}


def as_mean(loss_fn: Callable, data: Data) -> Callable:
    """`loss_fn`, or where it weights classes or ignores labels, the same as a mean over samples.

    Raises:
        ValueError: Weights that sum to nothing over the data set.
    """
    if not is_by_class(loss_fn):
        return loss_fn
    options = class_options(loss_fn)
    weight, ignored = options["weight"], options["ignore_index"]
    if options["reduction"] != "mean":
        return loss_fn  # which the checks refuse in their words
    total, plain = 0.0, weight is None
    for batch in data.batches(EVERY):
        targets = batch.targets
        if not isinstance(targets, Tensor) or targets.is_floating_point():
            return loss_fn
        used = targets != ignored
        plain = plain and bool(used.all())
        if weight is None:
            total += float(used.sum())
        else:
            shown = targets[used]
            if len(shown) and not 0 <= int(shown.min()) <= int(shown.max()) < len(weight):
                return loss_fn
            total += float(weight.double().to(shown.device)[shown].sum())
    if plain:
        return loss_fn
    if not total > 0:
        raise ValueError(
            "the loss's weights sum to 0 over all labels: there is no loss to speak of"
        )
    return WeightedMean(summed(loss_fn), total / len(data))


def summed(loss_fn: Callable) -> Callable[[Any, Tensor], Tensor]:
    """The same loss with the sum over what it would average, Σ w_i l_i."""
    options = class_options(loss_fn) | {"reduction": "sum"}
    weight = options.pop("weight")
    by_logits = isinstance(loss_fn, nn.CrossEntropyLoss) or _function(loss_fn) is cross_entropy
    if not by_logits:
        del options["label_smoothing"]
    function = cross_entropy if by_logits else nll_loss

    def sums(outputs: Tensor, targets: Tensor) -> Tensor:
        own = None if weight is None else weight.detach().to(outputs)
        return function(outputs, targets, own, **options)

    return sums


def _function(loss_fn: Callable) -> Callable:
    return loss_fn.func if isinstance(loss_fn, partial) else loss_fn
