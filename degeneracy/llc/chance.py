"""What loss has a network that knows nothing of its inputs? The best constant prediction's."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

ROUNDS, RATE = 20, 1.0


def chance_loss(
    model: nn.Module, data: tuple[Float[Tensor, "n ..."], Tensor], loss_fn: Callable
) -> float | None:
    """L_chance, by L-BFGS over one output for all samples; for cross-entropy the labels' entropy.

    Args:
        model: Tells the shape of an output.
        data: (inputs, targets).
        loss_fn: Mean loss of (outputs, targets).

    Returns:
        In the loss's units; None where no constant has a finite loss, or outputs are no tensor.
    """
    inputs, targets = data
    with torch.no_grad():
        output = model(inputs[:1])
    if not isinstance(output, Tensor):
        return None
    shape = output.shape[1:]
    constant = torch.zeros(shape, device=output.device, dtype=output.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS([constant], lr=RATE, max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_fn(constant.expand(len(targets), *shape), targets)
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
    return found if torch.isfinite(torch.tensor(found)) else None
