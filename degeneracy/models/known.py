"""Which models have a learning coefficient λ that is known exactly? Their λ stands in
`coefficients`.

They start at a true parameter w*. `population_loss(parameters)` is their loss in expectation over
all data, K(w) ≥ K(w*) = 0, as a function of named tensors (those of `state_dict()`) for
`torch.func`.
"""

from collections.abc import Sequence
from functools import reduce
from itertools import pairwise
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor, nn


class DeepLinear(nn.Module):
    """Linear layers without biases, of `widths` H_0 (inputs), …, H_L (outputs), starting at a true
    map of rank r.

    The weights w* are `balanced_factors`, zero off the r true directions: no true parameter is more
    singular, so that the local learning coefficient at w* is the network's λ
    (`coefficients.deep_linear`). With L ≥ 2 layers the Hessian of K at w* has the eigenvalues L (r²
    times), 1 (r(H_0 + H_L − 2r) times) and 0. Other weights can be loaded or trained; the true map
    stays.

    Raises:
        ValueError: Fewer than two widths, a width below 1, or a rank that no such network has.
    """

    def __init__(self, widths: Sequence[int], rank: int, seed: int = 0):
        super().__init__()
        factors = balanced_factors(widths, rank, seed)
        self.layers = nn.Sequential(
            *(nn.Linear(fan_in, fan_out, bias=False) for fan_in, fan_out in pairwise(widths))
        )
        with torch.no_grad():
            for layer, factor in zip(self.layers, factors, strict=True):
                layer.weight.copy_(factor)
        true_map = _product([layer.weight for layer in self.layers]).detach().clone()
        # moves with the model, is in no checkpoint
        self.register_buffer("true_map", true_map, persistent=False)

    def forward(self, inputs: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch outputs"]:
        return self.layers(inputs)

    def population_loss(self, parameters: dict[str, Tensor]) -> Float[Tensor, ""]:
        """K(w) = ½ ‖W_L ⋯ W_1 − true map‖²_F: the expected ½ squared error for inputs with identity
        covariance.
        """
        product = _product(
            [parameters[f"layers.{layer}.weight"] for layer in range(len(self.layers))]
        )
        return (product - self.true_map).square().sum() / 2


def balanced_factors(
    widths: Sequence[int], rank: int, seed: int = 0
) -> list[Float[Tensor, "fan_out fan_in"]]:
    """Weights W_l = Q_l Q_{l−1}ᵀ, l = 1 … L, with random Q_l of orthonormal columns, (H_l, rank);
    float64.

    Every layer, and their product Q_L Q_0ᵀ too, is a partial isometry: `rank` singular values 1,
    the others 0.

    Raises:
        ValueError: Fewer than two widths, a width below 1, or a rank that no such network has.
    """
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(
            f"widths = {tuple(widths)}; allowed: two or more (inputs, hidden …, outputs), each at"
            " least 1"
        )
    if not 0 <= rank <= min(widths):
        raise ValueError(f"rank = {rank}; allowed: 0 to the smallest width, {min(widths)}")
    generator = torch.Generator().manual_seed(seed)
    gaussians = [
        torch.randn(width, rank, dtype=torch.float64, generator=generator) for width in widths
    ]
    frames = [torch.linalg.qr(gaussian).Q for gaussian in gaussians]
    return [above @ below.T for below, above in pairwise(frames)]


def _product(weights: Sequence[Float[Tensor, "fan_out fan_in"]]) -> Float[Tensor, "outputs inputs"]:
    """W_L ⋯ W_1."""
    return reduce(lambda below, weight: weight @ below, weights)


class _WeightVector(nn.Module):
    """A loss without data, of one vector `weight` at w* = 0. `forward()` is the population loss of
    the module's own.
    """

    def __init__(self, num_weights: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_weights))

    def forward(self) -> Float[Tensor, ""]:
        return self.population_loss(dict(self.named_parameters()))


class NormalCrossing(_WeightVector):
    """K(w) = Π_i w_i^{2k_i} with integer `exponents` k_i ≥ 1: the axes w_i = 0 cross at w* = 0."""

    def __init__(self, exponents: Sequence[int]):
        super().__init__(len(exponents))
        self.exponents = tuple(exponents)

    def population_loss(self, parameters: dict[str, Tensor]) -> Float[Tensor, ""]:
        """K(w), defined everywhere, with derivatives where weights are zero."""
        return prod(
            w ** (2 * k) for w, k in zip(parameters["weight"].unbind(), self.exponents, strict=True)
        )


class Quadratic(_WeightVector):
    """K(w) = ½ Σ_i h_i w_i² with `curvatures` h_i ≥ 0, the eigenvalues of the Hessian (0: a flat
    direction).
    """

    def __init__(self, curvatures: Sequence[float]):
        super().__init__(len(curvatures))
        self.register_buffer(
            "curvatures", torch.tensor(curvatures, dtype=self.weight.dtype), persistent=False
        )

    def population_loss(self, parameters: dict[str, Tensor]) -> Float[Tensor, ""]:
        """K(w)."""
        return (self.curvatures * parameters["weight"].square()).sum() / 2
