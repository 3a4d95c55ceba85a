"""With what is online NGD's direction compared? Exact, layerwise and dense per-axis ones.

And how NGD's own is read. Functions of tensors.
"""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from degeneracy.optimizers.exact_ngd import smoothing
from ngd import ALWAYS_UPDATE_BEFORE, NGD, NUM_INITIAL_UPDATES

UPDATE_PERIOD = 4  # NGD's default, as in the primary experiment

Factors = dict[int, Float[Tensor, "D D"]]  # axis → Fisher matrix of that axis


def exact_directions(
    gradients: Float[Tensor, "k p"], fisher: Float[Tensor, "p p"], kappa: float | Float[Tensor, ""]
) -> Float[Tensor, "k p"]:
    """(F + κI)⁻¹ g of several gradients, by one Cholesky factor: `exact_ngd.natural_gradient` for
    each of them.
    """
    smoothed = fisher.clone()
    smoothed.diagonal().add_(kappa)
    return torch.cholesky_solve(gradients.T, torch.linalg.cholesky(smoothed)).T


def layerwise_directions(
    gradients: Float[Tensor, "k p"],
    fisher: Float[Tensor, "p p"],
    kappa: float | Float[Tensor, ""],
    sizes: Sequence[int],
) -> Float[Tensor, "k p"]:
    """`exact_directions` after F's blocks between layers were set to zero; `sizes` are the layers'
    weights.
    """
    ends = np.cumsum(sizes)
    blocks = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    return torch.cat(
        [exact_directions(gradients[:, b], fisher[b, b], kappa) for b in blocks], dim=1
    )


def turned_along(
    gradients: Float[Tensor, "m ..."], axis: int, fisher: Float[Tensor, "D D"], alpha: float
) -> Float[Tensor, "m ..."]:
    """X (F + κI)⁻¹ of m gradients seen as rows along `axis`, κ = (α/D) tr F, each with the norm
    that it had.
    """
    axis_last = gradients.movedim(axis + 1, -1)
    rows = axis_last.reshape(-1, axis_last.shape[-1])
    found = exact_directions(rows, fisher, smoothing(fisher, alpha))
    found = found.reshape(axis_last.shape).movedim(-1, axis + 1)
    every = tuple(range(1, gradients.ndim))
    return found * (gradients.norm(dim=every, keepdim=True) / found.norm(dim=every, keepdim=True))


def second_moment(gradients: Float[Tensor, "m ..."], axis: int) -> Float[Tensor, "D D"]:
    """Mean over m gradients of XᵀX/N, each seen as N rows along `axis`."""
    rows = gradients.movedim(axis + 1, -1)
    rows = rows.reshape(-1, rows.shape[-1])
    return rows.T @ rows / len(rows)


def averaged_factors(gradients: Float[Tensor, "m ..."], alpha: float) -> Factors:
    """The Fisher matrix of each axis from m gradients of one tensor, all with the same weight.

    As in online NGD the axes follow one another: what one axis returns is what the next one sees.
    """
    factors = {}
    for axis in _axes(gradients[0]):
        factors[axis] = second_moment(gradients, axis)
        gradients = turned_along(gradients, axis, factors[axis], alpha)
    return factors


def turned(
    gradients: Float[Tensor, "m ..."], factors: Factors, alpha: float
) -> Float[Tensor, "m ..."]:
    """m gradients of one tensor, turned along each axis in order."""
    for axis, fisher in factors.items():
        gradients = turned_along(gradients, axis, fisher, alpha)
    return gradients


def dense_step(
    gradient: Tensor, factors: Factors, step: int, *, alpha: float, eta: float, epsilon: float
) -> tuple[Tensor, Factors]:
    """Online NGD's recursion with the whole matrix of every axis: no low-rank part, no floors.

    F becomes T = η XᵀX/N + (1 − η) F, at the steps at which `NGD` updates; the direction uses F
    from before that.

    Args:
        gradient: Of one tensor, any shape.
        factors: As the last step returned them; {} at the first, where F starts as εI and sees the
            gradient three times.
        step: 0, 1, …

    Returns:
        The direction, with the gradient's norm, and the factors.
    """
    updated = {}
    for axis in _axes(gradient):
        due = step < ALWAYS_UPDATE_BEFORE or step % UPDATE_PERIOD == 0
        newest = second_moment(gradient[None], axis) if due or axis not in factors else None
        if axis in factors:
            fisher = factors[axis]
        else:
            fisher = epsilon * torch.eye(gradient.shape[axis]).to(gradient)
            for _ in range(NUM_INITIAL_UPDATES):
                fisher = eta * newest + (1 - eta) * fisher
        gradient = turned_along(gradient[None], axis, fisher, alpha)[0]
        updated[axis] = eta * newest + (1 - eta) * fisher if due else fisher
    return gradient, updated


def next_directions(optimizer: NGD, gradients: Sequence[Tensor]) -> list[Tensor]:
    """What the coming step would turn `gradients`, one a parameter, into; the optimizer and its
    weights stay.
    """
    twin = NGD([torch.zeros_like(gradient) for gradient in gradients], lr=1.0)
    twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    twin.param_groups[0].update(lr=1.0, momentum=0.0, nesterov=False)
    return stepped_directions(twin, gradients)


def stepped_directions(optimizer: NGD, gradients: Sequence[Tensor]) -> list[Tensor]:
    """Steps an optimizer (lr 1, no momentum) from weights 0, which become minus the directions, and
    returns these.
    """
    weights = optimizer.param_groups[0]["params"]
    with torch.no_grad():
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.zero_()
            weight.grad = gradient.to(weight.dtype, copy=True)
        optimizer.step()
        return [-weight for weight in weights]


def orthonormality_errors(optimizer: NGD, names: Sequence[str]) -> dict[str, float]:
    """max |R Rᵀ − I| in float64 of each axis' basis R, by `<parameter>, axis <axis>`."""
    errors = {}
    for name, weight in zip(names, optimizer.param_groups[0]["params"], strict=True):
        for axis in _axes(weight):
            basis = optimizer.state[weight][f"basis_{axis}"].double()
            errors[f"{name}, axis {axis}"] = (
                (basis @ basis.T - torch.eye(len(basis)).to(basis)).abs().max().item()
            )
    return errors


def _axes(tensor: Tensor) -> list[int]:
    return [axis for axis, size in enumerate(tensor.shape) if size > 1]
