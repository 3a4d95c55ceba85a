"""How curved is the loss at a solution? The Hessian's trace by Hutchinson's method, its top eigenvalue by Lanczos's.

tr H = E[vᵀ H v] for Rademacher v (Hutchinson 1990, Commun. Stat. Simul. Comput. 19:433). The probes and the
Hessian-vector products of the trace are PyHessian's (Yao et al., arXiv:1912.07145), the eigenvalue is ARPACK's.
"""

import copy
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from pyhessian import hessian
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn
from torch.func import functional_call, grad, vjp


@dataclass(frozen=True)
class HessianTrace:
    """Estimate of tr H, H the Hessian of the mean loss, in units of loss / weight²."""

    trace: float
    std_error: float | None  # over probes, the data fixed; None with a single probe
    num_probes: int


def hessian_trace(
    model: nn.Module,
    loss_fn: Callable,
    data: tuple[Float[Tensor, "n ..."], Int[Tensor, "n ..."]],
    num_probes: int = 50,
    seed: int = 0,
    batch_size: int = 1280,
) -> HessianTrace:
    """Hutchinson estimate of the trace of the Hessian of the mean loss over `data`.

    Args:
        model: Any module that can be differentiated twice; it is not changed, and is used in evaluation mode.
        loss_fn: Mean-reduced loss of (outputs, targets).
        data: (inputs, targets) on the model's device.
        num_probes: Rademacher vectors, ≥ 1.
        seed: Of the probes.
        batch_size: Samples differentiated at once: bounds memory, does not change the estimate.

    Raises:
        ValueError: `num_probes` < 1 or no data.
    """
    inputs, targets = data
    if num_probes < 1:
        raise ValueError(f"num_probes = {num_probes}, allowed: at least 1")
    if len(inputs) == 0:
        raise ValueError("no data: the Hessian needs at least one sample")
    device = inputs.device
    model = copy.deepcopy(model)  # PyHessian leaves gradients and evaluation mode behind
    batches = list(zip(inputs.split(batch_size), targets.split(batch_size), strict=True))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), warnings.catch_warnings():
        # PyHessian differentiates through `.grad` and clears it after each product: no cycle stays behind.
        warnings.filterwarnings("ignore", message="Using backward.. with create_graph=True")
        torch.manual_seed(seed)
        # Given a single batch, PyHessian differentiates once and keeps the graph for all probes.
        given = {"data": batches[0]} if len(batches) == 1 else {"dataloader": batches}
        operator = hessian(model, loss_fn, cuda=device.type == "cuda", **given)
        # Its stopping rule divides by the signed trace; at tol = −∞ it never stops early.
        values = np.array(operator.trace(maxIter=num_probes, tol=-math.inf))
    std_error = float(values.std(ddof=1) / math.sqrt(num_probes)) if num_probes > 1 else None
    return HessianTrace(float(values.mean()), std_error, num_probes)


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
