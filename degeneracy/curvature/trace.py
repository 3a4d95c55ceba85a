"""What is the trace of the loss's Hessian, and how sure is that? Three estimates, each with a
standard error.

tr A = E[vᵀ A v] for v of independent signs, with variance 2 Σ_{i≠j} A_ij² (Hutchinson 1990, Commun.
Stat. Simul. Comput. 19:433). What makes less noise at the same price:

- The Hessian H of a mean loss is a sum over samples, and its trace that of its diagonal blocks, one
  a layer. So `method="blockwise"`, the default, gives each layer and each block of samples signs of
  its own: curvature between two layers, or common to two blocks of samples, is then no noise.
- `method="xtrace"` takes the large eigenvalues of the layers' blocks out first (Epperly, Tropp &
  Webber, arXiv:2301.07825), which pays where they are few and products are many.

`method="hutchinson"` is the plain one, a probe for all weights and samples, as in PyHessian. For
FFNN 2 × 256 on 1,280 images 48 products have the variances 25 (plain), 12 (Hutch++,
arXiv:2010.09649), 15 (XTrace, 8 on the layers' blocks) and 1.4 (blockwise); at 192 XTrace on the
blocks draws level. `benchmarks/curvature_speed.py` measures it.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import embedding
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from degeneracy.curvature.checks import check_at_least_one, checked_objective
from degeneracy.curvature.operators import Operator
from degeneracy.objective.data import InMemory
from degeneracy.objective.derivatives import Loss, hessian_products
from degeneracy.objective.loss import Objective

METHODS = ("blockwise", "hutchinson", "xtrace")
# samples that share a probe: with fewer there is less noise, and matrix products are less efficient
SAMPLE_BLOCK = 128
ROUND = 10  # products between two looks at the standard error
CPU_BUDGET = 128 * 2**20  # bytes for the probes that are multiplied together
CUDA_SHARE = 0.25  # of a CUDA device's memory
BYTES_A_SIGN = 16  # with its products, in float32
NEGLIGIBLE = 1e-12  # of the largest singular value: what XTrace takes for no direction at all


@dataclass(frozen=True)
class HessianTrace:
    """Estimate of tr H, H the Hessian of the mean loss, in units of loss / weight²; NaN where
    derivatives overflow.
    """

    trace: float
    std_error: float | None  # over probes, the data fixed; None where there is a single one
    num_probes: int  # Hessian-vector products, each over all the data


def hessian_trace(
    model: nn.Module,
    loss_fn: Callable,
    data: Any,
    num_probes: int = 50,
    seed: int = 0,
    batch_size: int = 1280,
    *,
    relative_error: float | None = None,
    method: str = "blockwise",
    memory_budget: int | None = None,
    **options: Any,
) -> HessianTrace:
    """Estimate of the trace of the Hessian of the mean loss over all of `data`, by the weights that
    require a gradient.

    Args:
        model: Any module that can be differentiated twice, used in the mode it is in; it is not
            changed.
        loss_fn: Mean-reduced loss of (outputs, targets).
        data: (inputs, targets) on the model's device, or an iterable of batches, as
            `objective.data.as_data` takes them.
        num_probes: Hessian-vector products over all the data, ≥ 1; with `relative_error`, the most.
        seed: Of the probes, ≥ 0. They are drawn on the CPU whatever the device.
        batch_size: Samples differentiated at once: bounds memory, does not change the estimate.
        relative_error: Stop once std_error ≤ relative_error · |trace|, looked at every 10 products.
            None: use all.
        method: "blockwise", "hutchinson", or "xtrace", where a probe vector takes two products,
            hence `num_probes` ≥ 2. It holds about 16 · num_probes bytes a weight, and its error is
            a rule of thumb.
        memory_budget: Bytes for the probes multiplied together, which changes nothing but rounding.
            None: 128 MiB on a CPU, a quarter of a CUDA device's memory. 1: one by one.
        options: forward, penalty, restrict, cache_bytes of `objective.loss.objective_of`.

    Raises:
        ValueError: Arguments out of range, or as `curvature.checks.checked_objective` says.

    Example:
        >>> layer, inputs = nn.Linear(2, 1, bias=False), torch.tensor([[1.0, 0.0], [0.0, 3.0]])
        >>> data = inputs, torch.zeros(2, 1)
        >>> round(hessian_trace(layer, nn.functional.mse_loss, data).trace, 4)  # 2 mean ‖x‖²
        10.0
    """
    _check_arguments(num_probes, seed, relative_error, method, memory_budget)
    objective = checked_objective(model, loss_fn, data, batch_size, **options)
    layers = [objective.weights] if method == "hutchinson" else by_layer(objective.weights)
    budget = memory_budget or _default_budget(objective.device)
    block_size = SAMPLE_BLOCK if method == "blockwise" else len(objective.data)
    blocks = _blocks(objective, block_size, batch_size)
    others = [
        {name: w for name, w in objective.weights.items() if name not in layer} for layer in layers
    ]
    fits = [
        max(1, budget // bytes_of_product(diagonal_block([next(iter(blocks[0]))], *layer, 1)))
        for layer in zip(layers, others, strict=True)
    ]
    # whose traces sum to tr H
    parts = [
        diagonal_block(block, layer, rest, at_once)
        for block in blocks
        for layer, rest, at_once in zip(layers, others, fits, strict=True)
    ]
    if method == "xtrace":
        values, num_probes = xtrace(block_diagonal(parts), num_probes, seed, relative_error)
    else:
        group = max(1, budget // max(BYTES_A_SIGN * part.dim for part in parts))
        values = hutchinson(parts, num_probes, seed, relative_error, group)
        num_probes = len(values)
    return HessianTrace(float(values.mean()), standard_error(values), num_probes)


def standard_error(values: Float[Tensor, " probes"]) -> float | None:
    """Of the mean of independent values; None for a single one."""
    return float(values.std() / math.sqrt(len(values))) if len(values) > 1 else None


# ---- the estimates -------------------------------------------------------------------------------


def hutchinson(
    parts: Sequence[Operator],
    num_probes: int,
    seed: int = 0,
    relative_error: float | None = None,
    group: int = ROUND,
) -> Float[Tensor, " probes"]:
    """Independent estimates Σ_A vᵀ A v of Σ_A tr A, float64, with signs v of their own for each of
    the `parts` A.

    Their mean is the estimate of the trace, with `standard_error`. The variance of each is Σ_A 2
    Σ_{i≠j} A_ij².

    Args:
        parts: Symmetric operators of one type on one device.
        num_probes: How many estimates; with `relative_error`, the most.
        seed: Signs are a function of it, the probe and the part.
        relative_error: Stop once standard error ≤ this · |mean|, looked at every 10 probes.
        group: Probes held at once: bounds memory, changes nothing but rounding.

    Example:
        >>> diagonal = Operator(lambda rows: rows * torch.arange(4.0), 4)
        >>> hutchinson([diagonal], num_probes=2)  # exact for a diagonal matrix
        tensor([6., 6.], dtype=torch.float64)
    """
    values = torch.empty(0, dtype=torch.float64)
    for probes in _rounds(num_probes, ROUND, relative_error):
        values = torch.cat([values, *(_forms(parts, some, seed) for some in _cut(probes, group))])
        if _precise(values, relative_error):
            break
    return values


def _forms(parts: Sequence[Operator], probes: range, seed: int) -> Float[Tensor, " probes"]:
    streams = [np.random.default_rng((seed, probe)) for probe in probes]
    forms = 0
    for part in parts:
        rows = streamed_signs(streams, part)
        forms = forms + torch.linalg.vecdot(rows, part.products(rows)).double()
    return forms.cpu()


def streamed_signs(
    streams: Sequence[np.random.Generator], like: Operator
) -> Float[Tensor, "probes dim"]:
    """±1 with equal odds, a row from each stream, a bit a number."""
    size = -(-like.dim // 8)
    octets = np.frombuffer(b"".join(stream.bytes(size) for stream in streams), np.uint8).astype(
        np.int32
    )
    bits = torch.arange(256)[:, None] >> torch.arange(8) & 1  # of every octet
    signs = embedding(
        torch.from_numpy(octets).to(like.device), (2 * bits - 1).to(like.device, like.dtype)
    )
    return signs.view(len(streams), -1)[:, : like.dim]


def xtrace(
    operator: Operator, num_products: int, seed: int = 0, relative_error: float | None = None
) -> tuple[Float[Tensor, " vectors"], int]:
    """XTrace's estimates of tr A, one a probe vector, and the number of products: Epperly, Tropp &
    Webber (2024), § 2.

    For m = ⌊num_products/2⌋ sign vectors ω_i, Q_i spans A ω_j of the others j ≠ i, and the i-th
    estimate is tr(Q_iᵀ A Q_i) + ω_iᵀ (I − Q_i Q_iᵀ) A (I − Q_i Q_iᵀ) ω_i, unbiased, and exact where
    A has a rank below m. They are not independent, so that `standard_error` of them, the paper's
    error of their mean, is a rule of thumb: it came out 10 to 40 % too small for networks and
    decaying spectra.

    Args:
        operator: Symmetric.
        num_products: Products with A, ≥ 2; with `relative_error`, the most.
        seed, relative_error: As in `hutchinson`.

    Example:
        >>> ones = Operator(lambda rows: rows.sum(1, keepdim=True).expand(-1, 100), 100)
        >>> estimates, num_products = xtrace(ones, 6)  # of a matrix of rank 1
        >>> estimates.round(decimals=4), num_products
        (tensor([100., 100., 100.], dtype=torch.float64), 6)
    """
    signs = torch.empty(0, operator.dim, dtype=torch.float64, device=operator.device)  # Ωᵀ
    images = signs.clone()  # (A Ω)ᵀ
    inner = torch.empty(0, 0, dtype=torch.float64)  # Qᵀ A Q
    for vectors in _rounds(num_products // 2, ROUND // 2, relative_error):
        rows = streamed_signs(
            [np.random.default_rng((seed, vector)) for vector in vectors], operator
        )
        signs, images = (
            torch.cat([signs, rows.double()]),
            torch.cat([images, operator.products(rows).double()]),
        )
        basis, triangle = torch.linalg.qr(images.T)  # the columns that were there stay as they were
        known, size = len(inner), basis.shape[1]
        if size > known:
            rows = basis.T[known:].to(operator.dtype)
            border = (operator.products(rows).double() @ basis).cpu()  # (new, size)
            inner = torch.cat([torch.cat([inner, border[:, :known].T], dim=1), border])
        forms = torch.linalg.vecdot(signs, images)
        values = leave_one_out(inner, triangle.cpu(), (basis.T @ signs.T).cpu(), forms.cpu())
        if _precise(values, relative_error):
            break
    return values, len(values) + len(inner)


def leave_one_out(
    inner: Float[Tensor, "r r"],
    triangle: Float[Tensor, "r m"],
    components: Float[Tensor, "r m"],
    forms: Float[Tensor, " m"],
) -> Float[Tensor, " m"]:
    """XTrace's m estimates from Qᵀ A Q, R = Qᵀ A Ω, Qᵀ Ω and ω_iᵀ A ω_i, where Q spans A Ω and A is
    symmetric.

    Without A ω_i, Q loses the one direction s_i that is orthogonal to all other columns of R; none
    where these span the i-th, as with more vectors than A has rank.
    """
    if not torch.isfinite(triangle).all():
        return torch.full_like(forms, torch.nan)
    left, sizes, right = torch.linalg.svd(triangle, full_matrices=False)
    found = sizes > NEGLIGIBLE * sizes.max()
    left, sizes, right = left[:, found], sizes[found, None], right[found]
    inner, triangle, components = left.T @ inner @ left, sizes * right, left.T @ components
    dual = right / sizes  # its i-th column is orthogonal to all columns of R but the i-th
    alone = right.square().sum(0) > 1 - 1e-6  # R's i-th column is not spanned by the others
    lost = torch.where(alone, dual / dual.norm(dim=0), 0)  # s_i
    kept = components - lost * (lost * components).sum(0)  # Q_iᵀ ω_i in Q's coordinates
    captured = inner.trace() - (lost * (inner @ lost)).sum(0)
    return captured + forms - 2 * (kept * triangle).sum(0) + (kept * (inner @ kept)).sum(0)


def _rounds(number: int, size: int, relative_error: float | None) -> list[range]:
    """What is done between two looks at the standard error: everything, where nobody looks."""
    return _cut(range(number), number if relative_error is None else size)


def _precise(values: Float[Tensor, " probes"], relative_error: float | None) -> bool:
    error = standard_error(values)
    return (
        relative_error is not None
        and error is not None
        and error <= relative_error * abs(float(values.mean()))
    )


def _cut(whole: range, size: int) -> list[range]:
    return [whole[first : first + size] for first in range(0, len(whole), size)]


# ---- the Hessian, part by part -------------------------------------------------------------------


def _blocks(objective: Objective, block_size: int, batch_size: int) -> list[Iterable[Loss]]:
    """What blocks of samples add to the loss, batch by batch; one block where data are not kept."""
    data = objective.data
    if not isinstance(data, InMemory):
        return [_Passes(objective, batch_size)]
    return [
        [objective.share(batch) for batch in block.split(batch_size)]
        for block in data.batches(block_size)
    ]


class _Passes:
    """What batches add to the loss, as often as it is gone through."""

    def __init__(self, objective: Objective, batch_size: int):
        self.objective, self.batch_size = objective, batch_size

    def __iter__(self) -> Iterator[Loss]:
        return map(self.objective.share, self.objective.data.batches(self.batch_size))


def by_layer(weights: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """Named weights, those of one module together."""
    layers: dict[str, dict[str, Tensor]] = {}
    for name, weight in weights.items():
        layers.setdefault(name.rpartition(".")[0], {})[name] = weight
    return list(layers.values())


def diagonal_block(
    losses: Iterable[Loss],
    own: dict[str, Tensor],
    others: dict[str, Tensor] | None = None,
    at_once: int = ROUND,
) -> Operator:
    """The Hessian of the sum of `losses` by the named weights `own`, flattened in their order, the
    `others` held; `at_once` rows are multiplied together.
    """

    def held(loss: Loss) -> Loss:
        return lambda weights: loss({**(others or {}), **weights})

    def products(rows: Float[Tensor, "k dim"]) -> Float[Tensor, "k dim"]:
        return sum(hessian_products(held(loss), own, at_once)(rows) for loss in losses)

    first = next(iter(own.values()))
    size = sum(weight.numel() for weight in own.values())
    return Operator(products, size, first.dtype, first.device)


def block_diagonal(blocks: Sequence[Operator]) -> Operator:
    """The matrix with `blocks` on its diagonal."""
    sizes = [block.dim for block in blocks]

    def products(rows: Float[Tensor, "k dim"]) -> Float[Tensor, "k dim"]:
        pieces = zip(blocks, rows.split(sizes, dim=1), strict=True)
        return torch.cat([block.products(piece) for block, piece in pieces], dim=1)

    return Operator(products, sum(sizes), blocks[0].dtype, blocks[0].device)


def bytes_of_product(operator: Operator) -> int:
    """Everything that a product with one vector makes on its way."""
    with _BytesMade() as made:
        operator.products(torch.ones(1, operator.dim, dtype=operator.dtype, device=operator.device))
    return made.total


class _BytesMade(TorchDispatchMode):
    """Sums the sizes of all tensors that operations return, views left out."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        if not any(value.alias_info for value in func._schema.returns):
            self.total += sum(
                tensor.nbytes for tensor in tree_leaves(results) if isinstance(tensor, Tensor)
            )
        return results


def _default_budget(device: torch.device) -> int:
    if device.type == "cuda":
        return int(CUDA_SHARE * torch.cuda.get_device_properties(device).total_memory)
    return CPU_BUDGET


# ---- what is refused -----------------------------------------------------------------------------


def _check_arguments(num_probes, seed, relative_error, method, memory_budget) -> None:
    check_at_least_one(
        num_probes=num_probes, memory_budget=1 if memory_budget is None else memory_budget
    )
    if method not in METHODS:
        raise ValueError(f"method = {method!r}; allowed: {', '.join(METHODS)}")
    if method == "xtrace" and num_probes < 2:
        raise ValueError(
            f"num_probes = {num_probes}; allowed with xtrace: at least 2, a probe vector takes two"
        )
    if seed < 0:
        raise ValueError(f"seed = {seed}; allowed: an integer, at least 0")
    if relative_error is not None and not relative_error > 0:
        raise ValueError(
            f"relative_error = {relative_error}; allowed: positive, as 0.05, or None to use all"
            " probes"
        )
