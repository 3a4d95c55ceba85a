"""What should an estimate be at finite nβ and γ, and which Langevin step is small enough for it?

Functions of numbers and models; `measure.py` compares estimates with what they give.
"""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad, vjp, vmap

from degeneracy.curvature.largest import largest_curvature
from degeneracy.curvature.operators import Operator
from degeneracy.models.coefficients import quadratic_llc
from degeneracy.models.known import DeepLinear, NormalCrossing, Quadratic
from degeneracy.weights import flattened, named

OUTSKIRTS = 10.0  # ε(nβ h + γ) may be so many times larger far from w* than at it
NUM_POINTS = 16  # weights N(w*, 1/γ) at which "far" is looked at

WithPopulationLoss = Quadratic | NormalCrossing | DeepLinear


def gaussian_llc(
    curvatures: Float[np.ndarray, " k"],
    slopes: Float[np.ndarray, " k"],
    nbeta: float,
    localization: float,
    step_size: float = 0.0,
) -> float:
    """λ̂ = nβ E[L(w) − L(0)] for L(w) = L(0) − Σ b_i w_i + ½ Σ h_i w_i², in the coordinates of H's
    eigenvectors.

    The posterior exp(−nβ L − (γ/2)|w|²) is Gaussian with precision A_i = nβ h_i + γ and mean nβ
    b_i/A_i, so that

        λ̂ = ½ Σ nβ h_i/A_i − nβ² Σ b_i² (½ nβ h_i + γ)/A_i².

    The second sum is how far below L(0) the posterior finds the loss, where w* = 0 is not its
    minimum. Langevin steps ε widen the posterior (see `coefficients.quadratic_llc`) and leave its
    mean.

    Args:
        curvatures: Eigenvalues h_i ≥ 0 of the Hessian.
        slopes: b_i, minus the gradient at 0 along each eigenvector.
        nbeta: nβ > 0.
        localization: γ > 0.
        step_size: ε; 0 is the posterior itself.

    Raises:
        ValueError: As `quadratic_llc`.
    """
    spread = quadratic_llc(curvatures, nbeta, localization, step_size)
    signal = nbeta * curvatures
    gains = nbeta**2 * slopes**2 * (signal / 2 + localization) / (signal + localization) ** 2
    return spread - float(gains.sum())


def principal_axes(
    inputs: Float[Tensor, "n r"], targets: Float[Tensor, " n"]
) -> tuple[Float[np.ndarray, " r"], Float[np.ndarray, " r"]]:
    """(h, b) of `gaussian_llc` for the sample loss ½ mean (y − x·w)²: H = XᵀX/n, b = Xᵀy/n in H's
    eigenvectors.
    """
    x, y = inputs.double().cpu().numpy(), targets.double().cpu().numpy()
    curvatures, vectors = np.linalg.eigh(x.T @ x / len(x))
    return curvatures.clip(min=0), vectors.T @ (x.T @ y) / len(x)


def population_hessian(model: WithPopulationLoss) -> Operator:
    """The Hessian of the model's `population_loss` at its weights."""
    weights = {name: p.detach() for name, p in model.named_parameters()}
    flat = flattened(weights)
    _, product = vjp(grad(lambda flat: model.population_loss(named(flat, weights))), flat)
    return Operator(vmap(lambda row: product(row)[0]), len(flat), flat.dtype, flat.device)


def langevin_step(
    model: WithPopulationLoss, nbeta: float, localization: float, step: float
) -> float:
    """ε = step/(nβ h + γ), h the largest curvature of the population loss at w*; and
    10 step/(nβ h + γ) where less.

    The second is for the largest h at weights N(w*, 1/γ), where chains may go at most: the only
    bound where the curvature at w* is 0.
    """
    minimum = {name: p.detach() for name, p in model.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    points = [_nearby(minimum, localization, generator) for _ in range(NUM_POINTS)]
    far = max(largest_curvature(model.population_loss, point) for point in points)
    near = largest_curvature(model.population_loss, minimum)
    at_minimum = step / (nbeta * near + localization)
    return min(at_minimum, OUTSKIRTS * step / (nbeta * far + localization))


def _nearby(
    weights: dict[str, Tensor], localization: float, generator: torch.Generator
) -> dict[str, Tensor]:
    """Weights N(w, 1/γ)."""
    deviation = math.sqrt(localization)
    noise = {name: torch.randn(w.shape, generator=generator) for name, w in weights.items()}
    return {name: w + noise[name].to(w.device) / deviation for name, w in weights.items()}
