"""What does K-FAC take for the Fisher information of a classifier? A ⊗ B for each layer, nothing
between layers.

Inputs a and gradients g by the layer's outputs are taken as independent, and layers too (Martens &
Grosse, arXiv:1503.05671; convolutions: Grosse & Martens, arXiv:1602.01407). The matrix itself, F,
its kinds and its units are those of `fisher`.
"""

import copy
from dataclasses import dataclass

import numpy as np
import torch
from curvlinops import FisherType, KFACLinearOperator
from jaxtyping import Float
from torch import Tensor, nn

from degeneracy.curvature.checks import check_at_least_one
from degeneracy.curvature.fisher import Data, checked_classifier, labelled_batches, trainable

LAYERS = (nn.Linear, nn.Conv2d)


@dataclass(frozen=True)
class KroneckerFactors:
    """A layer's block of F as A ⊗ B would have it: A of its inputs (a 1 last where it has a bias),
    B of gradients.
    """

    inputs: Float[Tensor, "fan_in fan_in"]
    gradients: Float[Tensor, "fan_out fan_out"]


def kfac_factors(
    model: nn.Module, data: Data, kind: str = "expected", *, seed: int = 0, batch_size: int = 1280
) -> dict[str, KroneckerFactors]:
    """K-FAC's factors A = mean a aᵀ and B = mean E_y[g gᵀ] of every linear or convolutional layer,
    by its name.

    A ⊗ B is a linear layer's whole block with a single sample. The factors are curvlinops's (Dangel
    et al., arXiv:2501.19183). Arguments and errors as in `fisher.fisher_operator`.

    Raises:
        ValueError: Also for trainable weights outside such layers.
    """
    checked_classifier(model, data, kind, batch_size)
    _refuse_other_layers(model)
    batches = labelled_batches(model, data, kind, seed, batch_size)
    model = copy.deepcopy(model)  # curvlinops hangs hooks on it
    matrix = KFACLinearOperator(
        model,
        nn.CrossEntropyLoss(),
        trainable(model),
        batches,
        check_deterministic=False,
        fisher_type=FisherType.TYPE2 if kind == "expected" else FisherType.EMPIRICAL,
        separate_weight_and_bias=False,
        num_data=len(data[0]),
    )
    with torch.enable_grad():
        matrix.compute_kronecker_factors()
    state = matrix.state_dict()
    of_inputs, of_gradients = state["input_covariances"], state["gradient_covariances"]
    # A of a layer of which only the bias is trained
    alone = next(iter(of_gradients.values())).new_ones(1, 1)
    in_order = (name for name, _ in model.named_modules() if name in of_gradients)
    return {
        name: KroneckerFactors(of_inputs.get(name, alone), of_gradients[name]) for name in in_order
    }


def kfac_eigenvalues(factors: dict[str, KroneckerFactors], k: int) -> Float[np.ndarray, " k"]:
    """The k largest eigenvalues of K-FAC's matrix, descending: products of one of A and one of B of
    the same layer.
    """
    check_at_least_one(k=k)
    products = []
    for layer in factors.values():
        a, b = (
            torch.linalg.eigvalsh(factor.double()).flip(0)[:k]
            for factor in (layer.inputs, layer.gradients)
        )
        products.append(torch.outer(a, b).flatten())
    found = torch.cat(products).sort(descending=True).values[:k].cpu().numpy()
    if len(found) < k:
        raise ValueError(f"k = {k}; allowed: 1 to the number of weights, {len(found)}")
    return found


def kfac_trace(factors: dict[str, KroneckerFactors]) -> float:
    """tr of K-FAC's matrix: Σ over layers of tr A · tr B."""
    return sum(
        float(layer.inputs.double().trace() * layer.gradients.double().trace())
        for layer in factors.values()
    )


def _refuse_other_layers(model: nn.Module) -> None:
    covered = {
        id(p)
        for layer in model.modules()
        if isinstance(layer, LAYERS)
        for p in layer.parameters(recurse=False)
    }
    others = [
        name for name, p in model.named_parameters() if p.requires_grad and id(p) not in covered
    ]
    if others:
        raise ValueError(
            "K-FAC has no factors for"
            f" {', '.join(others[:3])}{' and more' if len(others) > 3 else ''}; allowed: weights of"
            " Linear and Conv2d layers; freeze the others with requires_grad_(False)"
        )
