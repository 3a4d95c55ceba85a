"""What are a shallow tanh network, its derivatives in space and its Jacobian, in closed form?

u(x) = Σ_j v_j tanh(w_j·x + b_j) + c, weights flat as (W row by row, b, v, c). A differential
operator with constant coefficients, D u = α u + Σ_k β_k ∂_k u + Σ_k γ_k ∂_k² u, acts on each hidden
unit by itself, so that D u and its Jacobian cost one tanh a unit and a point.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Operator(NamedTuple):
    """D u = value·u + Σ_k first_k ∂_k u + Σ_k second_k ∂_k² u."""

    value: float
    first: Sequence[float]
    second: Sequence[float]


class Parts(NamedTuple):
    """The flat weights (…, p) as views: W (…, h, d), b (…, h), v (…, h), c (…, 1)."""

    inner: Tensor
    bias: Tensor
    outer: Tensor
    offset: Tensor


def identity(dim: int) -> Operator:
    """D u = u in `dim` dimensions."""
    return Operator(1.0, [0.0] * dim, [0.0] * dim)


def num_weights(width: int, dim: int) -> int:
    """p = h(d + 2) + 1."""
    return width * (dim + 2) + 1


def initial_weights(width: int, dim: int, seed: int) -> Float[Tensor, " p"]:
    """Glorot's normal start for W and v, zero biases; float64."""
    generator = torch.Generator().manual_seed(seed)
    inner = torch.randn(width * dim, generator=generator, dtype=torch.float64)
    outer = torch.randn(width, generator=generator, dtype=torch.float64)
    zeros = torch.zeros(width + 1, dtype=torch.float64)
    inner, outer = inner * (2 / (width + dim)) ** 0.5, outer * (2 / (width + 1)) ** 0.5
    return torch.cat([inner, zeros[:width], outer, zeros[:1]])


def parts(weights: Float[Tensor, "*k p"], dim: int) -> Parts:
    """The inverse of packing; raises ValueError where p is no h(d + 2) + 1."""
    width, rest = divmod(weights.shape[-1] - 1, dim + 2)
    if rest or not width:
        raise ValueError(
            f"{weights.shape[-1]} weights given for inputs of {dim} dimensions; allowed:"
            f" h·{dim + 2} + 1 for h ≥ 1 hidden units"
        )
    inner, bias, outer, offset = weights.split([width * dim, width, width, 1], dim=-1)
    return Parts(inner.unflatten(-1, (width, dim)), bias, outer, offset)


def values(weights: Float[Tensor, " p"], x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """u at n points."""
    inner, bias, outer, offset = parts(weights, x.shape[1])
    return torch.tanh(x @ inner.T + bias) @ outer + offset


def applied(
    weights: Float[Tensor, " p"], x: Float[Tensor, "n d"], *operators: Operator
) -> list[Float[Tensor, " n"]]:
    """D u at n points, for each operator."""
    inner, bias, outer, offset = parts(weights, x.shape[1])
    t, t1, t2, _ = _derivatives(x @ inner.T + bias, third=False)
    found = []
    for operator in operators:
        alpha, beta, gamma = _coefficients(operator, inner)
        terms = [t @ (alpha * outer) + alpha * offset] if alpha else []
        terms += [t1 @ (beta * outer)] if any(operator.first) else []
        terms += [t2 @ (gamma * outer)] if any(operator.second) else []
        found.append(sum(terms))
    return found


def applied_jacobian(
    weights: Float[Tensor, " p"], x: Float[Tensor, "n d"], *operators: Operator
) -> list[tuple[Float[Tensor, " n"], Float[Tensor, "n p"]]]:
    """(D u, ∂(D u)/∂weights) at n points, for each operator."""
    inner, bias, outer, _ = parts(weights, x.shape[1])
    t, t1, t2, t3 = _derivatives(x @ inner.T + bias)
    found = []
    for operator in operators:
        alpha, beta, gamma = _coefficients(operator, inner)
        by_outer = alpha * t + beta * t1 + gamma * t2
        by_bias = outer * (alpha * t1 + beta * t2 + gamma * t3)
        first, second = (inner.new_tensor(c) for c in (operator.first, operator.second))
        through = outer[:, None] * first, 2 * outer[:, None] * second * inner
        by_inner = by_bias[:, :, None] * x[:, None]
        if first.any():
            by_inner += t1[:, :, None] * through[0]
        if second.any():
            by_inner += t2[:, :, None] * through[1]
        by_offset = x.new_full((len(x), 1), alpha)
        jacobian = torch.cat([by_inner.flatten(1), by_bias, by_outer, by_offset], dim=1)
        found.append((by_outer @ outer + alpha * weights[-1], jacobian))
    return found


def _derivatives(z: Tensor, third: bool = True) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """tanh z and its first three derivatives."""
    t = torch.tanh(z)
    t1 = 1 - t * t
    t2 = -2 * t * t1
    return t, t1, t2, t1 * (4 * t * t - 2 * t1) if third else None


def _coefficients(operator: Operator, inner: Tensor) -> tuple[float, Tensor, Tensor]:
    """(α, Σ_k β_k W_jk, Σ_k γ_k W_jk²): what D is on hidden unit j."""
    first, second = (inner.new_tensor(c) for c in (operator.first, operator.second))
    return operator.value, inner @ first, inner**2 @ second
