"""What does K-FAC take for the Fisher information? A ⊗ B for each layer, nothing between layers.

Inputs a and gradients g by the layer's outputs are taken as independent, and layers too (Martens &
Grosse, arXiv:1503.05671; convolutions: Grosse & Martens, arXiv:1602.01407; layers that are used at
several positions of a sample: Eschenhagen et al., arXiv:2311.00636, "expand"). The matrix itself,
F, its kinds and its units are those of `fisher`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils._pytree import tree_map

from degeneracy.curvature.checks import check_at_least_one
from degeneracy.curvature.jacobians import leaves_of, pull_back, rows_pay
from degeneracy.curvature.likelihood import FisherTerms, Labelled, fisher_terms
from degeneracy.curvature.operators import ROWS_AT_ONCE
from degeneracy.curvature.watched import Call, watched
from degeneracy.objective.forward import running
from degeneracy.patches import patches

LAYERS = (nn.Linear, nn.Conv2d)
FORWARDS = tuple(layer.forward for layer in LAYERS)
SAME = 1e-4  # relative error at which sums over positions are taken for the same


@dataclass(frozen=True)
class KroneckerFactors:
    """A layer's block of F as A ⊗ B would have it: A of its inputs (a 1 last where it has a bias),
    B of gradients.
    """

    inputs: Float[Tensor, "fan_in fan_in"]
    gradients: Float[Tensor, "fan_out fan_out"]


def kfac_factors(
    model: nn.Module,
    data: Any,
    kind: str = "expected",
    *,
    loss_fn: Callable = cross_entropy,
    seed: int = 0,
    batch_size: int = 1280,
    **options: Any,
) -> dict[str, KroneckerFactors]:
    """K-FAC's factors A = mean a aᵀ and B = mean E_y[g gᵀ] of every linear or convolutional layer,
    by its name.

    A is a mean over samples and positions, B a sum over positions and a mean over the loss's terms
    (`likelihood`), each of which is differentiated by itself. A ⊗ B is a layer's whole block with a
    single sample and position. For "expected" the factors are those of curvlinops's
    `KFACLinearOperator` (Dangel et al., arXiv:2501.19183), wherever a position's output makes one
    term. The factors of a layer that outputs do not hang on are zero. Arguments and errors as in
    `fisher.fisher_operator`.

    Raises:
        ValueError: Also for trainable weights outside such layers, and for layers whose block has
            no such form, by name: weights that are computed from others or shared, a layer that is
            called twice or has a forward pass of its own, groups.
    """
    terms = fisher_terms(model, loss_fn, data, kind, seed, batch_size, **options)
    layers = _layers(terms)
    with running(terms.objective.model):
        _check_factors(terms, layers)
        sums = [_Sums.of(terms, layers, batch) for batch in terms.batches()]
    return {
        name: KroneckerFactors(
            sum(each.inputs[name] for each in sums)
            / max(1, sum(each.positions[name] for each in sums)),
            sum(each.gradients[name] for each in sums) / terms.total,
        )
        for name in layers
    }


def kfac_eigenvalues(factors: dict[str, KroneckerFactors], k: int) -> Float[np.ndarray, " k"]:
    """The k largest eigenvalues of K-FAC's matrix, descending: products of one of A and one of B of
    the same layer.
    """
    check_at_least_one(k=k)
    products = []
    for layer in factors.values():
        a, b = (
            torch.linalg.eigvalsh(factor.double()).flip(0)[:k]
            for factor in (layer.inputs, layer.gradients)
        )
        products.append(torch.outer(a, b).flatten())
    found = torch.cat(products).sort(descending=True).values[:k].cpu().numpy()
    if len(found) < k:
        raise ValueError(f"k = {k}; allowed: 1 to the number of weights, {len(found)}")
    return found


def kfac_trace(factors: dict[str, KroneckerFactors]) -> float:
    """tr of K-FAC's matrix: Σ over layers of tr A · tr B."""
    return sum(
        float(layer.inputs.double().trace() * layer.gradients.double().trace())
        for layer in factors.values()
    )


# ---- what layers take in and what comes back -----------------------------------------------------


@dataclass(frozen=True)
class _Sums:
    """Of every layer Σ a aᵀ and Σ g gᵀ over a batch's positions, and how many there were."""

    inputs: dict[str, Tensor]
    gradients: dict[str, Tensor]
    positions: dict[str, int]

    @classmethod
    def of(cls, terms: FisherTerms, layers: dict[str, nn.Module], batch: Labelled) -> "_Sums":
        trained = terms.objective.weights
        z, calls, _ = _forward(terms, layers, batch)
        inputs, positions, gradients = {}, {}, {}
        for name, layer in layers.items():
            weight, bias = (key in trained for key in _own_weights(name))
            fan_in = weight * layer.weight[0].numel() + bias
            rows = layer.weight.new_zeros(0, fan_in, dtype=z.dtype)
            for call in calls[name]:
                rows = _rows_of_inputs(layer, name, trained, call)
            inputs[name], positions[name] = rows.T @ rows, len(rows)
            gradients[name] = rows.new_zeros(len(layer.weight), len(layer.weight))
        used = {name: calls[name][0] for name in layers if calls[name]}
        together = rows_pay(terms.objective.model, terms.objective.device)
        back = pull_back([z], [call.outputs for call in used.values()], together)
        every = range(math.prod(terms.likelihood.num_residuals(z.shape)))
        for start in range(0, len(every), ROWS_AT_ONCE):
            some = every[start : start + ROWS_AT_ONCE]
            u = terms.likelihood.cotangents(z, batch.targets, batch.labels, some)
            for name, found in zip(used, back([u]), strict=True):
                rows = _rows_of_outputs(layers[name], found)
                gradients[name] += rows.T @ rows
        return cls(inputs, gradients, positions)


def _forward(
    terms: FisherTerms, layers: dict[str, nn.Module], batch: Labelled
) -> tuple[Tensor, dict[str, list[Call]], dict[str, Tensor]]:
    """Outputs, calls of the layers, and the weights that they hang on.

    Raises:
        ValueError: A layer that is called more than once.
    """
    leaves = leaves_of(terms.objective.weights)
    with torch.enable_grad(), watched(layers) as calls:
        z = terms.objective.outputs(leaves, batch.inputs)
    for name, own in calls.items():
        if len(own) > 1:
            _refuse(name, f"it is called {len(own)} times in a forward pass, and once is allowed")
    return z, calls, leaves


def _rows_of_inputs(
    layer: nn.Module, name: str, trained: dict[str, Tensor], call: Call
) -> Float[Tensor, "positions fan_in"]:
    """What the trained weights of a layer multiply at every position: a, and a 1 for the bias."""
    if isinstance(layer, nn.Conv2d):
        rows = patches(layer, call.inputs).transpose(-1, -2).flatten(0, -2)
    else:
        rows = call.inputs.reshape(-1, call.inputs.shape[-1])
    ones = rows.new_ones(len(rows), 1)
    weight, bias = (key in trained for key in _own_weights(name))
    return torch.cat([*([rows] if weight else []), *([ones] if bias else [])], dim=1)


def _rows_of_outputs(layer: nn.Module, found: Tensor) -> Float[Tensor, "positions fan_out"]:
    """Gradients by a layer's outputs, (k, n, …), at every position."""
    axis = -3 if isinstance(layer, nn.Conv2d) else -1
    return found.movedim(axis, -1).reshape(-1, found.shape[axis])


def _own_weights(name: str) -> tuple[str, str]:
    """Of a layer."""
    prefix = f"{name}." if name else ""
    return f"{prefix}weight", f"{prefix}bias"


# ---- which layers have factors -------------------------------------------------------------------


def _layers(terms: FisherTerms) -> dict[str, nn.Module]:
    """The layers with trained weights, in the model's order.

    Raises:
        ValueError: Weights outside of layers, or layers that cannot have factors, by name.
    """
    model, objective = terms.objective.model, terms.objective
    modules = dict(model.named_modules())
    owners = {name: _owner(modules, name) for name in objective.weights}
    others = [name for name, owner in owners.items() if owner is None]
    if others:
        raise ValueError(
            "K-FAC has no factors for"
            f" {', '.join(others[:3])}{' and more' if len(others) > 3 else ''}; allowed: weights of"
            " Linear and Conv2d layers; freeze the others with requires_grad_(False)"
        )
    uses: dict[int, set[str]] = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        uses.setdefault(id(weight), set()).add(name.rpartition(".")[0])
    for name, owner in owners.items():
        if name in objective.masks:
            _refuse(owner, f"only some entries of its {name.rpartition('.')[2]} are looked at")
        _refuse_layer(owner, modules[owner], name)
        sharing = uses[id(model.get_parameter(name))]
        different = {id(modules.get(other)) for other in sharing if other in modules}
        if len(different) > 1:
            (other, *_) = sorted(sharing - {owner})
            _refuse(owner, f"its {name.rpartition('.')[2]} is shared with {other}")
    return {name: layer for name, layer in modules.items() if name in owners.values()}


def _owner(modules: dict[str, nn.Module], weight: str) -> str | None:
    """The layer that a weight belongs to, however deep inside; None for none of `LAYERS`."""
    name = weight
    while name:
        name = name.rpartition(".")[0]
        if isinstance(modules[name], LAYERS):
            return name
    return None


def _refuse_layer(name: str, layer: nn.Module, weight: str) -> None:
    own = {plain: layer._parameters.get(plain, weight) for plain in ("weight", "bias")}
    sources = [key for key, _ in layer.named_parameters() if key not in own]
    for plain, parameter in own.items():
        if parameter is not None and not isinstance(parameter, nn.Parameter):
            of = f" but computed from {', '.join(sources)}" if sources else ""
            _refuse(
                name,
                f"its {plain} is no parameter of it{of}, as in a pruned, normed or"
                " parametrised layer",
            )
    if weight[len(name) :].removeprefix(".") not in own:
        _refuse(name, f"it has weights besides weight and bias: {', '.join(sources)}")
    if "forward" in vars(layer) or type(layer).forward not in FORWARDS:
        _refuse(name, f"{type(layer).__name__} has a forward pass of its own")
    if isinstance(layer, nn.Conv2d) and layer.groups > 1:
        _refuse(name, f"it has groups = {layer.groups}, and its block of F is no A ⊗ B")


def _refuse(name: str, reason: str) -> None:
    raise ValueError(
        f"K-FAC has no factors for {name or 'the model'}: {reason}; freeze it with"
        " requires_grad_(False) or leave it out with restrict=, or take exact_fisher"
    )


def _check_factors(terms: FisherTerms, layers: dict[str, nn.Module]) -> None:
    """Raises ValueError for a layer whose weights' gradients are not those of its inputs and
    outputs, or that is not called on rows of single samples, so that those of two are not those of
    one after the other.
    """
    batch = next(terms.batches())
    parts = [_taken(batch, slice(start, end)) for start, end in ((0, 1), (1, 2), (0, 2))]
    shape = terms.outputs(parts[2].inputs).shape
    u = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    first = _probed(terms, layers, parts[0], u[:1])
    if len(u) == 1:
        return
    second, both = (
        _probed(terms, layers, part, own) for part, own in zip(parts[1:], (u[1:], u), strict=True)
    )
    for name in layers:
        rows = len(first[name][0]) + len(second[name][0])
        alike = len(both[name][0]) == rows
        for one, other, pair in zip(first[name], second[name], both[name], strict=True):
            right = one.T @ one + other.T @ other
            alike = alike and _same(pair.T @ pair, right, right.norm())
        if not alike:
            _refuse(
                name,
                f"it is called on {len(both[name][0])} rows for two samples, and on {rows} for one"
                " after the other, or mixes them: what it takes are no rows of single samples",
            )


def _probed(
    terms: FisherTerms, layers: dict[str, nn.Module], batch: Labelled, u: Tensor
) -> dict[str, tuple[Tensor, Tensor]]:
    """Of every layer a and δ = ∂(uᵀz)/∂outputs at every position of a batch.

    Raises:
        ValueError: A layer of which ∂(uᵀz)/∂W is not Σ δ aᵀ. Where it is for a random u, it is for
            every term's, and tr A · tr B is that gradient's squared norm at one position.
    """
    z, calls, leaves = _forward(terms, layers, batch)
    used = {name: calls[name][0] for name in layers if calls[name]}
    back = pull_back([z], [*leaves.values(), *(call.outputs for call in used.values())])
    found = back([u.to(z)[None]])
    gradients = dict(zip(leaves, found, strict=False))
    deltas = dict(zip(used, found[len(leaves) :], strict=True))
    largest, rows = max(float(g.norm()) for g in gradients.values()), {}
    for name, layer in layers.items():
        own = [gradients[key][0] for key in _own_weights(name) if key in leaves]
        right = torch.cat([part.reshape(len(part), -1) for part in own], dim=1)
        if name not in used:
            if float(right.norm()) > SAME * largest:
                _refuse(name, "it is never called, and its weights are used outside their layers")
            rows[name] = right.new_zeros(0, right.shape[1]), right.new_zeros(0, len(right))
            continue
        a = _rows_of_inputs(layer, name, leaves, used[name])
        delta = _rows_of_outputs(layer, deltas[name])
        if len(a) != len(delta) or not _same(delta.T @ a, right, delta.norm() * a.norm()):
            _refuse(
                name,
                "its weights are used outside their layers as well: their gradient is not that of"
                " what the layer takes and returns",
            )
        rows[name] = a, delta
    return rows


def _taken(batch: Labelled, some: slice) -> Labelled:
    return Labelled(*tree_map(lambda leaf: leaf[some], tuple(batch)))


def _same(found: Tensor, right: Tensor, size: Tensor) -> bool:
    """Up to the rounding of sums of a size."""
    return bool((found - right).norm() <= SAME * size)
