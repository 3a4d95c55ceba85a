"""How is a matrix known that is too large to write down? By its products with rows of vectors."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int8
from torch import Tensor, nn

from degeneracy.curvature.checks import checked_objective
from degeneracy.objective.derivatives import Products, hessian_products
from degeneracy.objective.loss import Objective
from degeneracy.weights import flattened

ROWS_AT_ONCE = 8  # vectors in one product: more cost memory and save little time


class Operator(NamedTuple):
    """A symmetric matrix known by its products with rows (k, dim), of one type on one device."""

    products: Products
    dim: int
    dtype: torch.dtype = torch.float32
    device: torch.device | str = "cpu"


def hessian_operator(
    model: nn.Module, loss_fn: Callable, data: Any, batch_size: int = 1280, **options: Any
) -> Operator:
    """The Hessian of the mean loss; rows are the weights that require a gradient, flattened in the
    model's order.

    Products stay those of today's weights. See `objective.derivatives.hessian_products`.

    Args:
        model: Any module that can be differentiated twice, used in the mode it is in.
        loss_fn: Mean-reduced loss of (outputs, targets).
        data: (inputs, targets) or an iterable of batches, as `objective.data.as_data` takes them.
        batch_size: Samples differentiated at once: bounds memory, does not change the matrix.
        options: forward, penalty, restrict, cache_bytes of `objective.loss.objective_of`.

    Raises:
        ValueError: As `curvature.checks.checked_objective` says.
    """
    return operator_of(checked_objective(model, loss_fn, data, batch_size, **options), batch_size)


def operator_of(objective: Objective, batch_size: int) -> Operator:
    """The Hessian of an objective that has been checked."""
    weights, data = objective.weights, objective.data
    flat = flattened(weights)
    if len(data) <= batch_size:
        # differentiated once, the graph kept for all products
        whole = data.some(len(data), seed=0).whole
        products = hessian_products(objective.share(whole), weights, ROWS_AT_ONCE)
    else:

        def products(rows: Float[Tensor, "k d"]) -> Float[Tensor, "k d"]:
            return sum(
                hessian_products(objective.share(batch), weights, ROWS_AT_ONCE)(rows)
                for batch in data.batches(batch_size)
            )

    return Operator(products, len(flat), flat.dtype, flat.device)


def random_signs(count: int, dim: int, seed: int) -> Int8[Tensor, "count dim"]:
    """Rademacher probes, drawn on the CPU whatever the device: ±1 with equal odds."""
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randint(2, (count, dim), generator=generator, dtype=torch.int8) - 1
