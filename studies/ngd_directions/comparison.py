"""How near are directions to each other? Cosines with exact ones, with dense ones, and rounding.

Functions of tensors; `yardsticks.py` makes the directions, `measure.py` says of which gradients.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from degeneracy.optimizers.exact_ngd import cosines, smoothing, split_by_parameter
from ngd import NGD
from studies.ngd_directions.records import joined
from studies.ngd_directions.yardsticks import (
    Factors,
    dense_step,
    exact_directions,
    layerwise_directions,
    orthonormality_errors,
    stepped_directions,
)

COMPARED = ("online", "averaged", "averaged_best", "layerwise", "gradient")  # with the exact one
AGREEMENT = {  # of exact directions with each other
    "halves": ("first half", "second half"),
    "sampled": ("sampled", "expected"),
    "empirical": ("empirical", "expected"),
}

MeanAndError = tuple[float, float]  # mean over minibatches, its standard error


class Directions(NamedTuple):
    """k minibatch gradients of p weights, and what they are turned into without the exact F.

    Attributes:
        gradient: As they are.
        online: By online NGD as it stands.
        averaged: By online NGD's inverse with factors from many minibatches, α → directions.
        own: The α of online NGD.
    """

    gradient: Float[Tensor, "k p"]
    online: Float[Tensor, "k p"]
    averaged: Mapping[float, Float[Tensor, "k p"]]
    own: float


def exact_comparison(
    model: nn.Module,
    directions: Directions,
    fishers: Mapping[str, Float[Tensor, "p p"]],
    kinds: Sequence[str],
    alphas: Sequence[float],
) -> dict[str, dict]:
    """Cosines with (F + κI)⁻¹ g, κ = (α/p) tr F, for several F and α.

    Args:
        model: Whose weights the p are, in the order of `parameters()`.
        directions: What is compared.
        fishers: F by name: `kinds`, and those that `AGREEMENT` names.
        kinds: Which of them to compare with.
        alphas: Smoothing of the exact F.

    Returns:
        `"cosines"`: kind → name of `COMPARED` → layer, or "" for all → a `MeanAndError` an α;
        `"agreement"`: name of `AGREEMENT` → mean cosine an α.
    """
    exact = {
        name: [exact_directions(directions.gradient, f, smoothing(f, alpha)) for alpha in alphas]
        for name, f in fishers.items()
    }
    by_kind = {}
    for kind in kinds:
        targets = zip(alphas, exact[kind], strict=True)
        found = [_cosines_at(model, directions, fishers[kind], *target) for target in targets]
        by_kind[kind] = joined(found)
    agreement = {
        name: [mean_cosine(a, b) for a, b in zip(exact[one], exact[other], strict=True)]
        for name, (one, other) in AGREEMENT.items()
    }
    return {"cosines": by_kind, "agreement": agreement}


def _cosines_at(
    model: nn.Module,
    directions: Directions,
    fisher: Float[Tensor, "p p"],
    alpha: float,
    exact: Float[Tensor, "k p"],
) -> dict[str, dict[str, MeanAndError]]:
    """Name of `COMPARED` → layer → cosine with `exact`, at one F and α."""
    gradient, online, averaged, own = directions
    sizes = [sum(p.numel() for p in layer.parameters()) for layer in _layers(model)]
    found = {
        "online": online,
        "averaged": averaged[own],
        "averaged_best": max(averaged.values(), key=lambda turned: mean_cosine(turned, exact)),
        "layerwise": layerwise_directions(gradient, fisher, smoothing(fisher, alpha), sizes),
        "gradient": gradient,
    }
    return {name: cosines_by_layer(model, found[name], exact) for name in COMPARED}


def _layers(model: nn.Module) -> list[nn.Module]:
    """The modules that hold weights themselves."""
    return [module for module in model.modules() if list(module.parameters(recurse=False))]


def cosines_by_layer(
    model: nn.Module, found: Float[Tensor, "k p"], exact: Float[Tensor, "k p"]
) -> dict[str, MeanAndError]:
    """Cosine over k pairs, layer by layer and of the whole model ("")."""
    pairs = [
        cosines(split_by_parameter(model, a), split_by_parameter(model, b))
        for a, b in zip(found, exact, strict=True)
    ]
    tensors = {name for name, _ in model.named_parameters()}
    layers = [part for part in pairs[0] if part not in tensors]
    return {layer: mean_and_error([pair[layer].item() for pair in pairs]) for layer in layers}


def mean_cosine(a: Float[Tensor, "k p"], b: Float[Tensor, "k p"]) -> float:
    """Mean over k pairs of their cosine."""
    return ((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))).mean().item()


def mean_and_error(values: Sequence[float]) -> MeanAndError:
    """Mean and its standard error."""
    return float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values)))


def dense_comparison(
    gradients: Mapping[str, Tensor],
    online: NGD,
    factors: Sequence[Factors],
    step: int,
    *,
    alpha: float,
    eta: float,
    epsilon: float,
) -> tuple[dict[str, dict[str, float]], list[Factors]]:
    """One step of online NGD beside one of `dense_step`, along the same gradients.

    Args:
        gradients: By parameter.
        online: Steps too, see `stepped_directions`.
        factors: Of each parameter, as the last step returned them; {} at the first.
        step: 0, 1, …

    Returns:
        `"online"` and `"gradient"` (as it is) → parameter, or "" for all → cosine with the dense
        direction; and the factors.
    """
    how = {"alpha": alpha, "eta": eta, "epsilon": epsilon}
    steps = [
        dense_step(g, known, step, **how)
        for g, known in zip(gradients.values(), factors, strict=True)
    ]
    dense = dict(zip(gradients, [direction for direction, _ in steps], strict=True))
    stepped = stepped_directions(online, list(gradients.values()))
    compared = {"online": dict(zip(gradients, stepped, strict=True)), "gradient": gradients}
    found = {}
    for name, directions in compared.items():
        of = cosines(directions, dense)
        found[name] = {part: of[part].item() for part in (*gradients, "")}
    return found, [known for _, known in steps]


def rounding_errors(
    gradients: Mapping[str, Tensor], single: NGD, double: NGD
) -> dict[str, float | str]:
    """One step of an optimizer in float32 beside the same one in float64, along the same gradients.

    Args:
        gradients: By parameter.
        single, double: Step, see `stepped_directions`.

    Returns:
        `orthonormality_error`: max |R Rᵀ − I| in the `worst_axis`; `direction_error`:
        ‖d₃₂ − d₆₄‖/‖d₆₄‖ of all tensors; `worst_tensor_error`: of the `worst_tensor`.
    """
    found, right = (stepped_directions(one, list(gradients.values())) for one in (single, double))
    pairs = zip(gradients, found, right, strict=True)
    by_tensor = {name: relative_error(a, b) for name, a, b in pairs}
    by_axis = orthonormality_errors(single, list(gradients))
    worst_axis, worst_tensor = (max(of, key=of.get) for of in (by_axis, by_tensor))
    return {
        "orthonormality_error": by_axis[worst_axis],
        "worst_axis": worst_axis,
        "direction_error": relative_error(flat(found), flat(right)),
        "worst_tensor_error": by_tensor[worst_tensor],
        "worst_tensor": worst_tensor,
    }


def relative_error(found: Tensor, right: Tensor) -> float:
    """‖found − right‖/‖right‖."""
    return ((found - right).norm() / right.norm()).item()


def flat(tensors: Sequence[Tensor]) -> Float[Tensor, " p"]:
    """All entries one after the other, in float64."""
    return torch.cat([tensor.flatten() for tensor in tensors]).double()
