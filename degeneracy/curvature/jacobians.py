"""How do a model's outputs change with its weights? Products with the Jacobian J, and gradients of
single samples.

By plain automatic differentiation, for whatever PyTorch can differentiate. `vmap` is used where it
gives the same.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import vjp, vmap
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_map

from degeneracy.curvature.operators import ROWS_AT_ONCE
from degeneracy.objective.derivatives import leaves_of, pull_back
from degeneracy.objective.loss import Objective
from degeneracy.weights import named

SampleGradients = Callable[[Any, Float[Tensor, "n k ..."]], Float[Tensor, "n k d"]]
SAME = 1e-4  # relative error at which gradients in float32 are taken for the same


class Jacobian:
    """J = ∂z/∂w of outputs z of named weights w: rows J v and Jᵀu.

    Jᵀu is linear in u, and its derivative by u turned backwards is J v. The outputs are
    differentiated once here, and the graph is kept for all products.

    Args:
        outputs: z of the weights, a tensor.
        weights: Where J is taken.
        together: As `pull_back` takes it.

    Attributes:
        outputs: z, detached.
    """

    def __init__(
        self,
        outputs: Callable[[dict[str, Tensor]], Tensor],
        weights: Mapping[str, Tensor],
        together: bool = True,
    ):
        self._leaves = leaves_of(weights)
        inputs = list(self._leaves.values())
        slopes: Sequence[Tensor | None] = [None] * len(inputs)
        with torch.enable_grad():
            z = outputs(self._leaves)
            u = torch.zeros_like(z, requires_grad=True)
            if z.requires_grad:
                slopes = torch.autograd.grad(z, inputs, u, create_graph=True, allow_unused=True)
        self._used = [i for i, slope in enumerate(slopes) if slope is not None]
        self._forwards = pull_back([slopes[i] for i in self._used], [u], together)
        self._backwards = pull_back([z], inputs, together)
        self.outputs = z.detach()

    def forwards(self, rows: Float[Tensor, "k d"]) -> Float[Tensor, "k ..."]:
        """Rows v to rows J v of the outputs' shape.

        Raises:
            ValueError: An operation whose derivative has none, by its name.
        """
        if not self._used:
            return self.outputs.new_zeros(len(rows), *self.outputs.shape)
        pieces = list(named(rows, self._leaves).values())
        try:
            (images,) = self._forwards([pieces[i] for i in self._used])
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise ValueError(
                f"the model cannot be differentiated twice, as products with J need: {error}"
            ) from error
        return images

    def backwards(self, rows: Float[Tensor, "k ..."]) -> Float[Tensor, "k d"]:
        """Rows u of the outputs' shape to rows Jᵀu."""
        return torch.cat([part.flatten(1) for part in self._backwards([rows])], dim=1)

    def is_right(self) -> bool:
        """Whether J v can be had, and uᵀ(J v) = (Jᵀu)ᵀv for random u and v: the derivative of a
        derivative may be missing, or cut off by a function of one's own.
        """
        generator, like = torch.Generator().manual_seed(0), self.outputs
        dim = sum(weight.numel() for weight in self._leaves.values())
        v, u = (torch.randn(shape, generator=generator) for shape in ((1, dim), (1, *like.shape)))
        v, u = v.to(like), u.to(like)
        try:
            images = self.forwards(v)
        except ValueError:
            return False
        back = self.backwards(u)
        apart = ((u * images).double().sum() - (v * back).double().sum()).abs()
        return bool(apart <= SAME * (u.norm() * images.norm() + v.norm() * back.norm()))


def sample_gradients(objective: Objective, inputs: Any, cotangents: Tensor) -> SampleGradients:
    """Jᵀu of single samples: of inputs of n samples and cotangents u (n, k, …), rows (n, k, d).

    All samples at once by `vmap` where that gives the same as one after the other.

    Args:
        objective: The model and its weights.
        inputs, cotangents: Of a few samples, on which it is tried.
    """

    def looped(inputs: Any, cotangents: Tensor) -> Tensor:
        return torch.stack([_of_one(objective, inputs, *given) for given in enumerate(cotangents)])

    try:
        found = _of_many(objective, inputs, cotangents)
    except torch.OutOfMemoryError:
        raise
    except Exception:  # whatever a module or a hook says to tensors of many samples
        return looped
    expected = looped(inputs, cotangents)
    apart, size = (found - expected).abs().max(), expected.abs().max()
    same = bool(apart <= SAME * size)
    return (lambda *given: _of_many(objective, *given)) if same else looped


def _of_one(objective: Objective, inputs: Any, number: int, cotangents: Tensor) -> Tensor:
    """(k, d) of the sample of this number."""
    leaves = leaves_of(objective.weights)
    with torch.enable_grad():
        z = objective.outputs(leaves, tree_map(lambda leaf: leaf[number : number + 1], inputs))
    back = pull_back([z], list(leaves.values()))
    parts = [back([rows[:, None]]) for rows in cotangents.split(ROWS_AT_ONCE)]
    return torch.cat([torch.cat([part.flatten(1) for part in some], dim=1) for some in parts])


def _of_many(objective: Objective, inputs: Any, cotangents: Tensor) -> Tensor:
    """(n, k, d), by `vmap` over the samples."""

    def rows(sample: Any, cotangents: Tensor) -> Tensor:
        alone = tree_map(lambda leaf: leaf[None], sample)
        _, back = vjp(lambda weights: objective.outputs(weights, alone)[0], dict(objective.weights))
        (found,) = vmap(back)(cotangents)
        return torch.cat([found[name].flatten(1) for name in objective.weights], dim=1)

    return vmap(rows)(inputs, cotangents).detach()


def rows_pay(model: nn.Module, device: torch.device) -> bool:
    """Whether many rows together take less time than one by one: on a CPU not in convolutions,
    which become grouped ones.
    """
    convolves = any(isinstance(part, _ConvNd) for part in model.modules())
    return device.type != "cpu" or not convolves
