"""How curved is the loss along each layer? Trace and largest eigenvalues of the Hessian's diagonal
blocks.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import nn

from degeneracy.curvature.checks import check_at_least_one, checked_objective
from degeneracy.curvature.largest import eigenvalues_of
from degeneracy.curvature.operators import operator_of
from degeneracy.curvature.trace import by_layer, hutchinson, standard_error


@dataclass(frozen=True)
class LayerCurvature:
    """Of a layer's own block of the Hessian, the other layers held, in loss / weight².

    Attributes:
        trace: An estimate of it.
        std_error: Of the trace, over probes; None for a single one.
        eigenvalues: The algebraically largest ones, descending: k, or as many as it has weights.
    """

    trace: float
    std_error: float | None
    eigenvalues: Float[np.ndarray, " k"]


def layer_curvature(
    model: nn.Module,
    loss_fn: Callable,
    data: Any,
    k: int = 1,
    *,
    num_probes: int = 50,
    seed: int = 0,
    batch_size: int = 1280,
    **options: Any,
) -> dict[str, LayerCurvature]:
    """Trace and k largest eigenvalues of every layer's diagonal block of the Hessian of the mean
    loss, by the layer's name; the traces sum to the Hessian's.

    A layer is a module with weights of its own that require a gradient; those of the model itself
    are called "". Their traces are Hutchinson's estimates (`trace.hutchinson`), the eigenvalues are
    `largest.eigenvalues_of`'s.

    Args:
        model: Any module that can be differentiated twice, used in the mode it is in.
        loss_fn: Mean-reduced loss of (outputs, targets).
        data: (inputs, targets) or an iterable of batches, as `objective.data.as_data` takes them.
        k: Eigenvalues of each layer, ≥ 1.
        num_probes: Products with each block for its trace, ≥ 1.
        seed: Of probes and eigenvectors, drawn on the CPU.
        batch_size: Samples differentiated at once: bounds memory, does not change the blocks.
        options: forward, penalty, restrict, cache_bytes of `objective.loss.objective_of`.

    Raises:
        ValueError: Numbers below 1, or as `curvature.checks.checked_objective` says.

    Example:
        >>> import torch
        >>> model = nn.Linear(2, 1)  # of weight and bias H = 2 mean (x, 1)(x, 1)ᵀ
        >>> data = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.zeros(2, 1)
        >>> found = layer_curvature(model, nn.functional.mse_loss, data, k=2)
        >>> round(found[""].trace, 4), found[""].eigenvalues.round(4).tolist()
        (4.0, [2.0, 2.0])
    """
    check_at_least_one(k=k, num_probes=num_probes)
    objective = checked_objective(model, loss_fn, data, batch_size, **options)
    found = {}
    for weights in by_layer(objective.weights):
        name = next(iter(weights)).rpartition(".")[0]
        # the others are held: they are among what is fixed
        block = operator_of(replace(objective, weights=weights), batch_size)
        traces = hutchinson([block], num_probes, seed)
        eigenvalues = eigenvalues_of(block, min(k, block.dim), seed=seed)
        found[name] = LayerCurvature(float(traces.mean()), standard_error(traces), eigenvalues)
    return found
