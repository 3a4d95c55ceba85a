"""How curved is the loss at given weights, in two numbers of the Hessian over few samples?"""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from degeneracy.curvature.largest import top_eigenvalues
from degeneracy.curvature.trace import hessian_trace

TOLERANCE = 0.01  # relative, of the largest eigenvalue


class Curvature(NamedTuple):
    """Of the mean loss, in nats per squared weight.

    Attributes:
        trace: Of the Hessian.
        trace_std_error: Over probes.
        largest: Its largest eigenvalue.
    """

    trace: float
    trace_std_error: float
    largest: float


def curvature_summary(
    model: nn.Module, state: Mapping[str, Tensor], data: tuple[Tensor, Tensor], num_probes: int
) -> Curvature:
    """Trace and largest eigenvalue of cross-entropy's Hessian at `state`, which `model` then has.

    Args:
        data: (inputs, labels), all of them at once.
        num_probes: Of the trace.
    """
    model.load_state_dict(state)
    trace = hessian_trace(model, cross_entropy, data, num_probes=num_probes)
    (largest,) = top_eigenvalues(model, cross_entropy, data, k=1, tolerance=TOLERANCE)
    return Curvature(trace.trace, trace.std_error, float(largest))
