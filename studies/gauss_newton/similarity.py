"""How alike are two representations, two tangent kernels, two sets of weights?

Functions of tensors; `measure.py` says of which networks.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn


def linear_cka(a: Float[Tensor, "n p"], b: Float[Tensor, "n q"]) -> float:
    """Linear CKA, ‖AᵀB‖²_F/(‖AᵀA‖_F ‖BᵀB‖_F) with centred columns, in [0, 1], in float64.

    Kornblith, Norouzi, Lee & Hinton, "Similarity of neural network representations revisited",
    arXiv:1905.00414. NaN where one of them does not vary over samples.

    Raises:
        ValueError: Not as many samples in both, or fewer than two.

    Example:
        >>> a = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
        >>> round(linear_cka(a, 3 * a @ torch.tensor([[0.0, 1.0], [-1.0, 0.0]])), 6)
        1.0
    """
    if len(a) != len(b) or len(a) < 2:
        raise ValueError(
            f"representations of {len(a)} and {len(b)} samples given; allowed: the same ones, at"
            " least 2"
        )
    a, b = ((x.double() - x.double().mean(dim=0)).flatten(1) for x in (a, b))
    if len(a) < min(a.shape[1], b.shape[1]):  # through the samples' Gram matrices, which are less
        one, other = a @ a.T, b @ b.T
        shared = (one * other).sum()
    else:
        one, other = a.T @ a, b.T @ b
        shared = (a.T @ b).square().sum()
    return float(shared / (one.norm() * other.norm()))


@torch.no_grad()
def representations(model: nn.Module, inputs: Tensor) -> dict[str, Float[Tensor, "n D"]]:
    """[y₁, y₂] after every half-layer of a reversible network."""
    return dict(model.states(inputs))


def kernel_similarity(a: Float[Tensor, "n n"], b: Float[Tensor, "n n"]) -> float:
    """Cosine ⟨A, B⟩_F/(‖A‖_F ‖B‖_F) of two kernels of the same samples."""
    return float((a * b).sum() / (a.norm() * b.norm()))


def weight_change(
    first: Mapping[str, Tensor], last: Mapping[str, Tensor]
) -> dict[str, dict[str, float | None]]:
    """`change` ‖W_t − W₀‖, `relative` ‖W_t − W₀‖/‖W₀‖ and `cosine` of W_t with W₀, by parameter,
    and of all as one vector ("").

    None where W₀ or W_t is zero, as biases are at the start.
    """
    found = {name: _change(first[name].flatten(), last[name].flatten()) for name in first}
    whole = (torch.cat([weights[name].flatten() for name in first]) for weights in (first, last))
    return found | {"": _change(*whole)}


def _change(first: Float[Tensor, " p"], last: Float[Tensor, " p"]) -> dict[str, float | None]:
    first, last = first.detach().double(), last.detach().double()
    change, before, after = ((last - first).norm(), first.norm(), last.norm())
    return {
        "change": float(change),
        "relative": float(change / before) if before > 0 else None,
        "cosine": float(first @ last / (before * after)) if before > 0 and after > 0 else None,
    }
