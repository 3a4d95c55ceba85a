"""What loss has a network that knows nothing of its inputs? The best constant prediction's."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from degeneracy.objective.loss import Objective, objective_of

ROUNDS, RATE = 20, 1.0
MOST = 2**20  # samples whose targets are looked at


def chance_loss(model: nn.Module, data: Any, loss_fn: Callable, **options: Any) -> float | None:
    """L_chance of a model's loss on data; see `chance_loss_of`."""
    return chance_loss_of(objective_of(model, loss_fn, data, **options))


def chance_loss_of(objective: Objective) -> float | None:
    """L_chance, by L-BFGS over one output for all samples; for cross-entropy the labels' entropy.

    A penalty is counted as it is at w*: locality is about the data.

    Returns:
        In the loss's units; None where no constant has a finite loss, or outputs are no tensor with
        a row a sample.
    """
    batch = objective.data.some(MOST, seed=0).whole
    with torch.no_grad():
        output = objective.outputs(objective.weights, batch.take(slice(0, 1)).inputs)
        penalised = objective.penalty is not None
        penalty = float(objective.penalised(objective.weights)) if penalised else 0.0
    if not isinstance(output, Tensor) or not output.ndim or len(output) != 1:
        return None
    shape = output.shape[1:]
    constant = torch.zeros(shape, device=output.device, dtype=output.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS([constant], lr=RATE, max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = objective.loss_fn(constant.expand(batch.size, *shape), batch.targets)
        loss.backward()
        return loss

    with torch.enable_grad():
        for _ in range(ROUNDS):
            before = constant.detach().clone()
            try:
                found = float(optimizer.step(closure).detach())
            except (IndexError, RuntimeError):  # torch's line search, where nothing is finite
                return None
            if torch.allclose(before, constant.detach(), atol=1e-6):
                break
    return found + penalty if math.isfinite(found) else None
