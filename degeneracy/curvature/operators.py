"""How is a matrix known that is too large to write down? By its products with rows of vectors."""

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int8, Shaped
from torch import Tensor, nn
from torch.func import functional_call, grad, vjp, vmap

from degeneracy.curvature.checks import checked_weights
from degeneracy.weights import flattened, named

ROWS_AT_ONCE = 8  # vectors in one vmapped product: more cost memory and save little time
Products = Callable[[Float[Tensor, "k d"]], Float[Tensor, "k d"]]


class Operator(NamedTuple):
    """A symmetric matrix known by its products with rows (k, dim), of one type on one device."""

    products: Products
    dim: int
    dtype: torch.dtype = torch.float32
    device: torch.device | str = "cpu"


def hessian_operator(
    model: nn.Module,
    loss_fn: Callable,
    data: tuple[Float[Tensor, "n ..."], Shaped[Tensor, "n ..."]],
    batch_size: int = 1280,
) -> Operator:
    """The Hessian of the mean loss; rows are the weights that require a gradient, flattened in the
    model's order.

    The derivative of the gradient is taken backwards, v ↦ (∂g/∂w)ᵀ v = H v: Pearlmutter, "Fast
    exact multiplication by the Hessian", Neural Computation 6:147 (1994), in reverse mode.

    Raises:
        ValueError: As `curvature.checks.checked_weights` says.
    """
    weights = checked_weights(model, loss_fn, data, batch_size)
    flat = flattened(weights)
    inputs, targets = data
    model = copy.deepcopy(model)  # products stay those of today's weights

    def hessian_rows(inputs: Tensor, targets: Tensor) -> Products:
        def share_of_loss(flat: Tensor) -> Tensor:
            outputs = functional_call(model, named(flat, weights), (inputs,))
            return loss_fn(outputs, targets) * (len(inputs) / len(data[0]))

        _, product = vjp(grad(share_of_loss), flat)
        return vmap(lambda row: product(row)[0], chunk_size=ROWS_AT_ONCE)

    if len(inputs) <= batch_size:
        # differentiated once, the graph kept for all products
        products = hessian_rows(inputs, targets)
    else:

        def products(rows: Tensor) -> Tensor:
            batches = zip(inputs.split(batch_size), targets.split(batch_size), strict=True)
            return sum(hessian_rows(*batch)(rows) for batch in batches)

    return Operator(products, len(flat), flat.dtype, flat.device)


def random_signs(count: int, dim: int, seed: int) -> Int8[Tensor, "count dim"]:
    """Rademacher probes, drawn on the CPU whatever the device: ±1 with equal odds."""
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randint(2, (count, dim), generator=generator, dtype=torch.int8) - 1
