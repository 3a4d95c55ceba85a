"""What are gradient and Hessian of a loss of named weights? By plain automatic differentiation, for
whatever PyTorch can differentiate twice.

No transformation of the function is needed, so that modules may have hooks, functions of their own,
and operations without a rule for many samples at a time.
"""

import warnings
from collections.abc import Callable, Mapping
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from degeneracy.weights import flattened, named

Loss = Callable[[dict[str, Tensor]], Tensor]  # named weights → a scalar
Products = Callable[[Float[Tensor, "k d"]], Float[Tensor, "k d"]]


def gradient_of(loss: Loss, weights: Mapping[str, Tensor]) -> tuple[Float[Tensor, " d"], Tensor]:
    """∇L, flat, and L; zeros for weights that it does not hang on."""
    leaves = _leaves(weights)
    with torch.enable_grad():
        value = loss(leaves)
        if not value.requires_grad:
            return torch.zeros_like(flattened(weights)), value.detach()
        with _explained():
            found = torch.autograd.grad(value, list(leaves.values()), materialize_grads=True)
    return torch.cat([part.flatten() for part in found]), value.detach()


def hessian_products(loss: Loss, weights: Mapping[str, Tensor], at_once: int = 8) -> Products:
    """v ↦ H v for rows v, the derivative of the gradient taken backwards: (∂g/∂w)ᵀ v = H v.

    Pearlmutter, "Fast exact multiplication by the Hessian", Neural Computation 6:147 (1994), in
    reverse mode. The loss is differentiated once here, and its graph kept for all products.

    Args:
        loss: Twice differentiable.
        weights: Where H is taken.
        at_once: Rows that are multiplied together; one by one where an operation has no rule.

    Raises:
        ValueError: Of the products: an operation without a second derivative, by its name.
    """
    leaves = _leaves(weights)
    inputs = list(leaves.values())
    with torch.enable_grad(), _explained():
        value = loss(leaves)
        slopes = [None] * len(inputs)
        if value.requires_grad:
            slopes = torch.autograd.grad(value, inputs, create_graph=True, allow_unused=True)
    curved = [i for i, slope in enumerate(slopes) if slope is not None and slope.requires_grad]
    together = {"allowed": at_once > 1}

    def some(rows: Tensor) -> Tensor:
        if not curved:
            return torch.zeros_like(rows)
        pieces = list(named(rows, leaves).values())
        given = [slopes[i] for i in curved], inputs, [pieces[i] for i in curved]
        found = torch.autograd.grad(
            *given, retain_graph=True, allow_unused=True, is_grads_batched=True
        )
        whole = [
            torch.zeros_like(piece) if part is None else part
            for part, piece in zip(found, pieces, strict=True)
        ]
        return torch.cat([part.reshape(len(rows), -1) for part in whole], dim=1)

    def one(row: Tensor) -> Tensor:
        if not curved:
            return torch.zeros_like(row)
        pieces = list(named(row, leaves).values())
        given = [slopes[i] for i in curved], inputs, [pieces[i] for i in curved]
        found = torch.autograd.grad(*given, retain_graph=True, materialize_grads=True)
        return torch.cat([part.flatten() for part in found])

    def products(rows: Float[Tensor, "k d"]) -> Float[Tensor, "k d"]:
        with _explained():
            if together["allowed"] and len(rows) > 1:
                try:
                    return torch.cat([some(part) for part in rows.split(at_once)])
                except torch.OutOfMemoryError:
                    raise
                except RuntimeError as error:  # no rule for many at a time
                    found = torch.stack([one(row) for row in rows])
                    together["allowed"] = False
                    warnings.warn(
                        f"products with the Hessian are taken one by one, up to {at_once} times as"
                        f" slowly: an operation has no rule for many at once ({error})",
                        stacklevel=2,
                    )
                    return found
            return torch.stack([one(row) for row in rows])

    return products


def _leaves(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight.detach().requires_grad_() for name, weight in weights.items()}


@contextmanager
def _explained():
    """What autograd cannot do, in words that name the operation."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, NotImplementedError) as error:
        text = str(error)
        if "not implemented" in text or "once_differentiable" in text or "twice" in text:
            raise ValueError(
                f"the loss cannot be differentiated as often as its curvature needs: {text}"
            ) from error
        raise
