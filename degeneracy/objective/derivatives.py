"""What are gradient and Hessian of a loss of named weights? By plain automatic differentiation, for
whatever PyTorch can differentiate twice.

No transformation of the function is needed, so that modules may have hooks, functions of their own,
and operations without a rule for many samples at a time.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from degeneracy.weights import flattened, named

Loss = Callable[[dict[str, Tensor]], Tensor]  # named weights → a scalar
Rows = list[Float[Tensor, "k ..."]]
Products = Callable[[Float[Tensor, "k d"]], Float[Tensor, "k d"]]


def gradient_of(loss: Loss, weights: Mapping[str, Tensor]) -> tuple[Float[Tensor, " d"], Tensor]:
    """∇L, flat, and L; zeros for weights that it does not hang on."""
    leaves = leaves_of(weights)
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
    leaves = leaves_of(weights)
    inputs = list(leaves.values())
    with torch.enable_grad(), _explained():
        value = loss(leaves)
        slopes: Sequence[Tensor | None] = [None] * len(inputs)
        if value.requires_grad:
            slopes = torch.autograd.grad(value, inputs, create_graph=True, allow_unused=True)
    curved = [i for i, slope in enumerate(slopes) if slope is not None and slope.requires_grad]
    back = pull_back([slopes[i] for i in curved], inputs, at_once > 1)

    def some(rows: Float[Tensor, "k d"]) -> Float[Tensor, "k d"]:
        pieces = list(named(rows, leaves).values())
        images = back([pieces[i] for i in curved])
        return torch.cat([image.reshape(len(rows), -1) for image in images], dim=1)

    def products(rows: Float[Tensor, "k d"]) -> Float[Tensor, "k d"]:
        if not curved:
            return torch.zeros_like(rows)
        with _explained():
            return torch.cat([some(part) for part in rows.split(at_once)])

    return products


def pull_back(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], together: bool = True
) -> Callable[[Rows], Rows]:
    """Rows u of `outputs` to rows Jᵀu of `inputs`, J = ∂outputs/∂inputs; zeros for inputs that they
    do not hang on.

    The graph is kept. Rows are multiplied `together` where every operation has a rule for that,
    else one by one.
    """
    outputs, inputs = list(outputs), list(inputs)
    given = {"retain_graph": True, "allow_unused": True}
    live = [i for i, output in enumerate(outputs) if output.requires_grad]
    own = [outputs[i] for i in live]
    reached = [x for x in inputs if x.requires_grad]

    def some(rows: Rows) -> list[Tensor | None]:
        return list(torch.autograd.grad(own, reached, rows, is_grads_batched=True, **given))

    def one_by_one(rows: Rows) -> list[Tensor | None]:
        each = [torch.autograd.grad(own, reached, row, **given) for row in zip(*rows, strict=True)]
        return [
            None if parts[0] is None else torch.stack(parts) for parts in zip(*each, strict=True)
        ]

    def pulled(rows: Rows) -> Rows:
        nonlocal together
        count, found = len(rows[0]) if rows else 0, None
        mine = [rows[i] for i in live]
        if not own or not reached:
            found = [None] * len(reached)
        elif together and count > 1:
            try:
                found = some(mine)
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, ValueError) as error:  # no rule for many at a time, or a hook
                together = False
                warnings.warn(
                    f"products with {count} vectors are taken one by one, at the price of each: an"
                    f" operation has no rule for many at once ({error})",
                    stacklevel=2,
                )
        if found is None:
            found = one_by_one(mine)
        parts = iter(found)
        whole = [next(parts) if x.requires_grad else None for x in inputs]
        return [
            part.detach() if part is not None else x.new_zeros(count, *x.shape)
            for part, x in zip(whole, inputs, strict=True)
        ]

    return pulled


def leaves_of(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights as what a graph begins with."""
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
