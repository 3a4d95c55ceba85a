"""Which of all weights with the same function, in a residual ReLU network? The balanced ones.

A coordinate of the residual stream, h_i, is positively homogeneous in what writes it: rows i of
the first layer and of every hidden layer, with their biases, times c > 0, and columns i of every
layer that reads it divided by c, leave the function as it is. On each such orbit the sum of squares
of all weights has one minimum, where what writes a coordinate and what reads it have equal norms,
without the weights from a coordinate to itself, which no c alters; it is the balance of a matrix
(E. E. Osborne, "On pre-conditioning of matrices", J. ACM 7 (1960) 338), of several that share
their scales.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from degeneracy.models.networks import ResidualFFNN

TOLERANCE = 1e-12  # of |log c| in one sweep
MAX_SWEEPS = 10_000


@torch.no_grad()
def balanced_stream(model: ResidualFFNN, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of the same function whose residual stream is balanced.

    A coordinate that nothing writes, or nothing reads, is left as it is.

    Args:
        state: Of `model`, by name.

    Returns:
        All entries of `state`, in its order, as new tensors of the same type.

    Raises:
        RuntimeError: If the sweeps do not end.
    """
    first, *hidden, last = _linear_names(model)
    wide = {name: tensor.double() for name, tensor in state.items()}
    written = wide[f"{first}.weight"].square().sum(1)
    written = written + sum(wide[f"{name}.bias"].square() for name in (first, *hidden))
    read = wide[f"{last}.weight"].square().sum(0)
    within = torch.zeros(len(read), len(read)).to(read)
    for name in hidden:
        within += wide[f"{name}.weight"].square()
    scales = _scales(written, read, within.fill_diagonal_(0))
    result = {}
    for name, tensor in wide.items():
        layer, _, kind = name.rpartition(".")
        if layer != last:
            tensor = scales[:, None] * tensor if kind == "weight" else scales * tensor
        if kind == "weight" and layer != first:
            tensor = tensor / scales
        result[name] = tensor.to(state[name].dtype)
    return result


def _linear_names(model: ResidualFFNN) -> list[str]:
    return [
        f"layers.{place}" for place, layer in enumerate(model.layers) if hasattr(layer, "weight")
    ]


def _scales(
    written: Float[Tensor, " units"], read: Float[Tensor, " units"], within: Float[Tensor, "u u"]
) -> Float[Tensor, " units"]:
    """Scales d that minimise Σ d_i² written_i + Σ read_i / d_i² + Σ within_ij d_i² / d_j².

    The problem is convex in log d; each coordinate in turn comes to its own minimum.
    """
    squares = torch.ones_like(written)  # d²
    for _ in range(MAX_SWEEPS):
        largest = 0.0
        for i in range(len(squares)):
            ingoing = written[i] + within[i] @ squares.reciprocal()
            outgoing = read[i] + within[:, i] @ squares
            if ingoing > 0 and outgoing > 0:
                new = (outgoing / ingoing).sqrt()
                largest = max(largest, abs(float((new / squares[i]).log())) / 2)
                squares[i] = new
        if largest < TOLERANCE:
            return squares.sqrt()
    raise RuntimeError(
        f"the balance of {len(squares)} coordinates still moves by |log c| = {largest:.1e} after"
        f" {MAX_SWEEPS} sweeps; look for weights of extreme size"
    )
