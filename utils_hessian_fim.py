"""How curved is the loss at a solution? Trace, spectrum, rank of the Hessian; diagonal, trace of the Fisher matrix.

The names that notebooks use, from one place; and the largest curvature of a loss that is given as a function.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn
from torch.func import functional_call, grad, vjp

from fisher_information import exact_fisher, fisher_diagonal, fisher_eigenvalues, fisher_trace
from hessian_trace import HessianTrace, hessian_trace
from spectrum import count_above, hessian_spectrum, quadratic_llc, rank_threshold, top_eigenvalues

__all__ = [
    "HessianTrace", "count_above", "exact_fisher", "fisher_diagonal", "fisher_eigenvalues", "fisher_trace",
    "hessian_spectrum", "hessian_trace", "largest_curvature", "loss_on", "quadratic_llc", "rank_threshold",
    "top_eigenvalues",
]  # fmt: skip


def largest_curvature(
    loss: Callable[[dict[str, Tensor]], Tensor], parameters: dict[str, Tensor], tolerance: float = 0.01, seed: int = 0
) -> float:
    """Largest eigenvalue of the Hessian of `loss`, in units of loss / weight²; 0 where none is positive.

    Args:
        loss: Scalar function of named parameters, twice differentiable.
        parameters: Where the Hessian is taken.
        tolerance: Relative error at which Lanczos's iteration stops.
        seed: Of its starting vector.
    """
    sizes = [p.numel() for p in parameters.values()]
    start = torch.cat([p.detach().flatten() for p in parameters.values()])

    def gradient(flat: Tensor) -> Tensor:
        def loss_of_flat(flat: Tensor) -> Tensor:
            pieces = zip(parameters.items(), flat.split(sizes), strict=True)
            return loss({name: piece.view(like.shape) for (name, like), piece in pieces})

        return grad(loss_of_flat)(flat)

    _, hessian_vector = vjp(gradient, start)

    def product(vector: np.ndarray) -> np.ndarray:
        given = torch.from_numpy(vector.reshape(-1)).to(start)
        return hessian_vector(given)[0].cpu().double().numpy()

    size = len(start)
    guess = np.random.default_rng(seed).normal(size=size)
    image = product(guess)
    if not image.any():  # no curvature at all, which ARPACK refuses
        return 0.0
    if size == 1:
        return max(0.0, float(image[0] / guess[0]))
    operator = LinearOperator((size, size), matvec=product, dtype=np.float64)
    (value,) = eigsh(operator, k=1, which="LA", v0=guess, tol=tolerance, return_eigenvectors=False)
    return max(0.0, float(value))


def loss_on(
    model: nn.Module, data: tuple[Float[Tensor, "n ..."], Tensor], loss_fn: Callable
) -> Callable[[dict[str, Tensor]], Tensor]:
    """The mean loss of `model` on `data` as a function of its named parameters."""
    inputs, targets = data
    return lambda parameters: loss_fn(functional_call(model, parameters, (inputs,)), targets)
