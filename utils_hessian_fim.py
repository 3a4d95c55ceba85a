"""How curved is the loss at a solution? Trace of the Hessian by Hutchinson's method.

tr H = E[vᵀ H v] for Rademacher v (Hutchinson 1990, Commun. Stat. Simul. Comput. 19:433). The probes and the
Hessian-vector products are PyHessian's (Yao et al., arXiv:1912.07145).
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
from torch import Tensor, nn


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
        operator = hessian(model, loss_fn, dataloader=batches, cuda=device.type == "cuda")
        # Its stopping rule divides by the signed trace; at tol = −∞ it never stops early.
        values = np.array(operator.trace(maxIter=num_probes, tol=-math.inf))
    std_error = float(values.std(ddof=1) / math.sqrt(num_probes)) if num_probes > 1 else None
    return HessianTrace(float(values.mean()), std_error, num_probes)
