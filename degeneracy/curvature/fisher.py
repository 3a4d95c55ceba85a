"""What is the Fisher information of a model? Its products, diagonal, trace and eigenvalues.

For outputs z = f_w(x) and a loss that is −log p(y | z), F = (1/n) Σ_x E_y[g_y g_yᵀ], g_y = ∇_w log
p(y | x), in units of nats / weight². For cross-entropy p(y | z) = softmax(z)_y; `likelihood` has
the other losses, and what n is where samples are weighted or hold several predictions. Three kinds
differ in the labels y:

- "expected": y ~ p(· | x), summed exactly. F is the Gauss-Newton matrix (1/n) Σ_x Jᵀ (diag p − p
  pᵀ) J, J = ∂z/∂w, for every model, and the Hessian of the mean cross-entropy where z is linear in
  w: Martens, arXiv:1412.1193, section 9.
- "sampled": one y ~ p(· | x) drawn for each input; unbiased for "expected".
- "empirical": the labels of the data. Not a Fisher information, and far from it in general:
  Kunstner, Balles & Hennig, arXiv:1905.12558.

`exact_fisher` has every eigenvalue, for as many samples as fit in memory; `fisher_operator` goes
with the estimates of `spectrum`, for any number. How far F is from the Hessian is `gap`'s
question.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils._pytree import tree_map

from degeneracy.curvature.checks import NotFiniteError
from degeneracy.curvature.eigenpairs import Eigenpairs, eigenpairs_of
from degeneracy.curvature.jacobians import (
    Jacobian,
    SampleGradients,
    leaves_of,
    pull_back,
    rows_pay,
    sample_gradients,
)
from degeneracy.curvature.largest import eigenvalues_of
from degeneracy.curvature.likelihood import KINDS, FisherTerms, Labelled, fisher_terms
from degeneracy.curvature.operators import ROWS_AT_ONCE, Operator
from degeneracy.curvature.watched import watched
from degeneracy.objective.forward import running

__all__ = [
    "KINDS",
    "ExactFisher",
    "exact_fisher",
    "fisher_diagonal",
    "fisher_eigenpairs",
    "fisher_eigenvalues",
    "fisher_operator",
    "fisher_trace",
    "operator_of_terms",
    "refuse_more_than_memory",
]

GRADIENT_BYTES = 2**26  # memory for gradients of single samples, which are taken in chunks that fit
EXACT_BYTES = 2**32  # memory for all of them and the matrix of their inner products
ROWS_OF_GRAM = 256  # computed at once; few, because what lies above the diagonal is left out


def fisher_operator(
    model: nn.Module,
    data: Any,
    kind: str = "expected",
    *,
    loss_fn: Callable = cross_entropy,
    seed: int = 0,
    batch_size: int = 1280,
    **options: Any,
) -> Operator:
    """F by its products, without a matrix: for `spectrum.spectrum_of`, `eigenvalues_of`, and the
    same as the Hessian's; see `jacobians.Jacobian`. Where a module cannot be
    differentiated twice they are those of single samples' gradients, which takes longer.

    "expected" is the matrix of curvlinops's `GGNLinearOperator` for the same loss.

    Args:
        model: Any module from inputs to outputs, used in the mode it is in; it is not changed.
        data: (inputs, targets) or an iterable of batches, as `objective.data.as_data` takes them.
        kind: "expected", "sampled" or "empirical", as above.
        loss_fn: −log p(y | outputs) that `likelihood` knows, mean-reduced.
        seed: Of the sampled labels, drawn on the CPU.
        batch_size: Samples differentiated at once: bounds memory, does not change the matrix.
        options: forward, restrict, cache_bytes of `objective.loss.objective_of`.

    Raises:
        ValueError: As `likelihood.fisher_terms` says: an unknown kind, a penalty, a loss without a
            likelihood, outputs or targets that do not fit it, or whatever has no curvature.
    """
    return operator_of_terms(fisher_terms(model, loss_fn, data, kind, seed, batch_size, **options))


def operator_of_terms(terms: FisherTerms) -> Operator:
    """The same of what F is made of."""
    weights, model = terms.objective.weights, terms.objective.model
    with running(model):
        twice = _jacobian(terms, _few(terms)).is_right()
        kept: list[Jacobian] = []
        if twice and len(terms.objective.data) <= terms.batch_size:
            # differentiated once, the graph kept for all products
            kept = [_jacobian(terms, batch) for batch in terms.batches()]

    def of_batch(jacobian: Jacobian, batch: Labelled, rows: Tensor) -> Tensor:
        inner = terms.likelihood.middle(jacobian.outputs, batch.targets, batch.labels)
        parts = (inner(jacobian.forwards(some)) for some in rows.split(ROWS_AT_ONCE))
        return torch.cat([jacobian.backwards(part) for part in parts])

    def products(rows: Float[Tensor, "k d"]) -> Float[Tensor, "k d"]:
        with running(model):
            if not twice:
                return _products_of_gradients(terms, rows)
            jacobians = kept or (_jacobian(terms, batch) for batch in terms.batches())
            pairs = zip(jacobians, terms.batches(), strict=True)
            return sum(of_batch(*pair, rows) for pair in pairs) / terms.total

    first = next(iter(weights.values()))
    return Operator(products, _dim(terms), first.dtype, first.device)


def _jacobian(terms: FisherTerms, batch: Labelled) -> Jacobian:
    def outputs(weights: dict[str, Tensor]) -> Tensor:
        return terms.objective.outputs(weights, batch.inputs)

    together = rows_pay(terms.objective.model, terms.objective.device)
    return Jacobian(outputs, terms.objective.weights, together)


def fisher_diagonal(
    model: nn.Module,
    data: Any,
    kind: str = "expected",
    *,
    loss_fn: Callable = cross_entropy,
    seed: int = 0,
    batch_size: int = 1280,
    **options: Any,
) -> Float[Tensor, " d"]:
    """diag F, exact: the mean square of each weight's gradient over samples and labels, in the
    order of the weights.

    "expected" takes one gradient a class and prediction, or one an output, the others one a term.
    Where all weights are those of linear layers, no gradient of a single sample is formed.
    Arguments and errors as in `fisher_operator`.

    Example:
        >>> model = nn.Linear(1, 2, bias=False)
        >>> _ = nn.init.zeros_(model.weight)  # p = (½, ½): F = x²/4 · [[1, −1], [−1, 1]]
        >>> data = torch.tensor([[2.0]]), torch.tensor([0])
        >>> fisher_diagonal(model, data).round(decimals=4).tolist()
        [1.0, 1.0]
    """
    terms = fisher_terms(model, loss_fn, data, kind, seed, batch_size, **options)
    with running(terms.objective.model):
        gradients = _tried_gradients(terms)
        if _is_linear_in_layers(terms, gradients):
            parts = (
                _squares_of_layers(terms, _layer_gradients(terms, batch))
                for batch in terms.batches()
            )
        else:
            parts = (_sum_of_squares(terms, gradients, batch) for batch in terms.batches())
        return sum(parts) / terms.total


def fisher_trace(
    model: nn.Module,
    data: Any,
    kind: str = "expected",
    *,
    loss_fn: Callable = cross_entropy,
    seed: int = 0,
    batch_size: int = 1280,
    **options: Any,
) -> float:
    """tr F, exact: the mean squared norm of the gradients; arguments and errors as in
    `fisher_operator`.
    """
    given = {"loss_fn": loss_fn, "seed": seed, "batch_size": batch_size, **options}
    return float(fisher_diagonal(model, data, kind, **given).double().sum())


def fisher_eigenvalues(
    model: nn.Module,
    data: Any,
    k: int,
    kind: str = "expected",
    *,
    loss_fn: Callable = cross_entropy,
    tolerance: float = 1e-4,
    seed: int = 0,
    batch_size: int = 1280,
    **options: Any,
) -> Float[np.ndarray, " k"]:
    """The k largest eigenvalues of F, descending; see `largest.eigenvalues_of`, and
    `fisher_operator` for the rest.
    """
    given = {"loss_fn": loss_fn, "seed": seed, "batch_size": batch_size, **options}
    operator = fisher_operator(model, data, kind, **given)
    return eigenvalues_of(operator, k, tolerance=tolerance, seed=seed)


def fisher_eigenpairs(
    model: nn.Module,
    data: Any,
    k: int,
    kind: str = "expected",
    *,
    which: str = "largest",
    loss_fn: Callable = cross_entropy,
    tolerance: float = 1e-4,
    seed: int = 0,
    batch_size: int = 1280,
    **options: Any,
) -> Eigenpairs:
    """The k largest or smallest eigenvalues of F with their eigenvectors, repeated ones as often as
    they are; see `eigenpairs.eigenpairs_of`, and `fisher_operator` for the rest.

    Example:
        >>> model = nn.Linear(1, 2, bias=False)
        >>> _ = nn.init.zeros_(model.weight)  # p = (½, ½): F = x²/4 · [[1, −1], [−1, 1]]
        >>> data = torch.tensor([[2.0]]), torch.tensor([0])
        >>> fisher_eigenpairs(model, data, k=1).values.round(4).tolist()
        [2.0]
    """
    given = {"loss_fn": loss_fn, "seed": seed, "batch_size": batch_size, **options}
    operator = fisher_operator(model, data, kind, **given)
    return eigenpairs_of(operator, k, which=which, tolerance=tolerance, seed=seed)


@dataclass(frozen=True)
class ExactFisher:
    """All eigenvalues and the diagonal of F, in nats / weight².

    Attributes:
        eigenvalues: Descending, r = min(k·n, d) of them for n samples with k gradients each (of
            cross-entropy k = classes for "expected", 1 otherwise). The other d − r are zero, and so
            are n of those of "expected" where k·n ≤ d.
        diagonal: In the order and of the type of the weights.
    """

    eigenvalues: Float[np.ndarray, " r"]
    diagonal: Float[Tensor, " d"]

    @property
    def trace(self) -> float:
        """tr F, exact as the diagonal is."""
        return float(self.diagonal.double().sum())


def exact_fisher(
    model: nn.Module,
    data: Any,
    kind: str = "expected",
    *,
    loss_fn: Callable = cross_entropy,
    seed: int = 0,
    batch_size: int = 1280,
    **options: Any,
) -> ExactFisher:
    """Every eigenvalue of F, without an error of estimation: those of the inner products of the
    gradients.

    F = (1/n) GᵀG, with a row of G (k·n, d) for each sample and label: √p(y | x) g_y for "expected",
    else g_y. GGᵀ/n, (k·n, k·n), has the same eigenvalues but for zeros: Dangel, Tatzel & Hennig,
    "ViViT: Curvature access through the generalized Gauss-Newton's low-rank structure", TMLR 2022,
    arXiv:2106.02624, section 2. Where k·n > d it is the (d, d) matrix itself that is decomposed,
    and G is not kept. Where all weights are those of linear layers, a layer's part of a gradient is
    δaᵀ, an inner product of two (δᵀδ′)(aᵀa′), and G is not formed.

    Gradients have the weights' type. In float32, eigenvalues below about 1e-6 of the largest are
    rounding, those that came out negative are set to zero: convert model and inputs with .double()
    where the small ones matter, which takes a convolutional network ten times as long. Arguments as
    in `fisher_operator`. For `coefficients.quadratic_llc` the eigenvalues are its curvatures.

    Raises:
        ValueError: As in `fisher_operator`; gradients and their inner products that take more than
            `EXACT_BYTES`, 4 GiB; gradients that are not finite.

    Example:
        >>> model = nn.Linear(1, 2, bias=False)
        >>> _ = nn.init.zeros_(model.weight)  # p = (½, ½): F = x²/4 · [[1, −1], [−1, 1]]
        >>> fisher = exact_fisher(model, (torch.tensor([[2.0]]), torch.tensor([0])))
        >>> fisher.eigenvalues.round(4).tolist(), round(fisher.trace, 4)
        ([2.0, 0.0], 2.0)
    """
    terms = fisher_terms(model, loss_fn, data, kind, seed, batch_size, **options)
    with running(terms.objective.model):
        matrix, squares = _exact_matrix(terms)
    if not torch.isfinite(matrix).all():
        raise NotFiniteError(
            "the gradients of the log-likelihood are not finite; measure before training diverged"
        )
    eigenvalues = torch.linalg.eigvalsh(matrix / terms.total).clamp(min=0).flip(0).cpu().numpy()
    dtype = next(iter(terms.objective.weights.values())).dtype
    return ExactFisher(eigenvalues, (squares / terms.total).to(dtype))


def _exact_matrix(terms: FisherTerms) -> tuple[Float[Tensor, "m m"], Float[Tensor, " d"]]:
    """GᵀG or GGᵀ, the smaller of the two, and the diagonal of the first, in float64."""
    gradients, dim = _tried_gradients(terms), _dim(terms)
    num_rows = len(terms.objective.data) * _rows_a_sample(terms)
    one_of = next(iter(terms.objective.weights.values()))
    layered = num_rows <= dim and _is_linear_in_layers(terms, gradients)
    refuse_more_than_memory(num_rows, dim, 0 if layered else one_of.itemsize)
    squares = one_of.new_zeros(dim, dtype=torch.float64)
    if layered:
        parts = [_layer_gradients(terms, batch) for batch in terms.batches()]
        layers = [_LayerGradients.joined(of_layer) for of_layer in zip(*parts, strict=True)]
        squares += _squares_of_layers(terms, layers)
        return _gram_of_layers(terms, layers), squares
    every = (rows for batch in terms.batches() for rows in _gradient_rows(terms, gradients, batch))
    if num_rows > dim:
        matrix = one_of.new_zeros(dim, dim, dtype=torch.float64)
        for rows in every:
            matrix += rows.T @ rows
            squares += rows.square().sum(0)
        return matrix, squares
    kept, filled = one_of.new_empty(num_rows, dim), 0
    for rows in every:
        kept[filled : filled + len(rows)] = rows
        filled += len(rows)
        squares += rows.square().sum(0)
    return _gram_below_diagonal(kept), squares


def _dim(terms: FisherTerms) -> int:
    return sum(weight.numel() for weight in terms.objective.weights.values())


# ---- gradients of single samples -----------------------------------------------------------------


def _products_of_gradients(
    terms: FisherTerms, vectors: Float[Tensor, "k d"]
) -> Float[Tensor, "k d"]:
    """(1/n) GᵀG v, by first derivatives alone."""
    gradients = _tried_gradients(terms)
    every = (rows for batch in terms.batches() for rows in _gradient_rows(terms, gradients, batch))
    return sum((vectors @ rows.T) @ rows for rows in every) / terms.total


def _few(terms: FisherTerms) -> Labelled:
    """The first samples, two where a batch has as many."""
    return Labelled(*tree_map(lambda leaf: leaf[:2], tuple(next(terms.batches()))))


def _rows_a_sample(terms: FisherTerms) -> int:
    return math.prod(terms.likelihood.num_residuals(terms.outputs(_few(terms).inputs).shape))


def _cotangents(
    terms: FisherTerms, z: Tensor, batch: Labelled, which: Iterable[int]
) -> Float[Tensor, "n k ..."]:
    """Some of a batch's, sample after sample."""
    return terms.likelihood.cotangents(z, batch.targets, batch.labels, which).transpose(0, 1)


def _tried_gradients(terms: FisherTerms) -> SampleGradients:
    few = _few(terms)
    some = range(min(ROWS_AT_ONCE, _rows_a_sample(terms)))
    cotangents = _cotangents(terms, terms.outputs(few.inputs), few, some)
    return sample_gradients(terms.objective, few.inputs, cotangents)


def _gradient_rows(
    terms: FisherTerms, gradients: SampleGradients, batch: Labelled
) -> Iterator[Float[Tensor, "rows d"]]:
    """Rows Jᵀr of G, where F = (1/n) GᵀG, sample after sample and in it residual after residual, as
    many as fit.
    """
    z = terms.outputs(batch.inputs)
    residuals = range(math.prod(terms.likelihood.num_residuals(z.shape)))
    fitting = max(1, GRADIENT_BYTES // ((_dim(terms) + z[0].numel()) * z.itemsize))
    at_once = max(1, fitting // len(residuals))  # samples; of one alone as many rows as fit
    for start in range(0, len(z), at_once):
        some = slice(start, start + at_once)
        part = Labelled(*tree_map(lambda leaf, some=some: leaf[some], tuple(batch)))
        for first in range(0, len(residuals), fitting):
            which = residuals[first : first + fitting]
            cotangents = _cotangents(terms, z[some], part, which)
            yield gradients(part.inputs, cotangents).flatten(0, 1)


def _sum_of_squares(
    terms: FisherTerms, gradients: SampleGradients, batch: Labelled
) -> Float[Tensor, " d"]:
    """Σ over samples and labels of the squared gradient."""
    return sum(rows.square().sum(0) for rows in _gradient_rows(terms, gradients, batch))


def _gram_below_diagonal(rows: Float[Tensor, "m d"]) -> Float[Tensor, "m m"]:
    """Inner products of the rows, in float64; above the diagonal, where `eigvalsh` does not look,
    only some.
    """
    gram = rows.new_zeros(len(rows), len(rows), dtype=torch.float64)
    for start in range(0, len(rows), ROWS_OF_GRAM):
        end = start + ROWS_OF_GRAM
        gram[start:end, :end] = rows[start:end] @ rows[:end].T
    return gram


def refuse_more_than_memory(num_rows: int, dim: int, itemsize: int) -> None:
    """Raises ValueError where `exact_fisher` needs more than `EXACT_BYTES`.

    Args:
        num_rows: Gradients, samples · classes.
        dim: Weights.
        itemsize: Bytes of a weight; 0 where all weights are those of linear layers, whose gradients
            are not kept.
    """
    needed = 8 * min(num_rows, dim) ** 2 + (num_rows * dim * itemsize if num_rows <= dim else 0)
    if needed > EXACT_BYTES:
        raise ValueError(
            f"{num_rows:,} gradients of {dim:,} weights and their inner products take {needed:,}"
            f" bytes; allowed: {EXACT_BYTES:,}; give fewer samples, or estimate: `fisher_operator`"
            " with `spectrum.spectrum_of`"
        )


# ---- networks of linear layers ------------------------------------------------------------------


class _LayerGradients(NamedTuple):
    """What a linear layer's gradients are made of: δ_nk a_nᵀ by its weight and δ_nk by its bias,
    residual k, sample n.

    Attributes:
        name: Of the layer, as those of its weights begin.
        inputs: a.
        deltas: δ, the gradient by the layer's outputs.
    """

    name: str
    inputs: Float[Tensor, "n fan_in"]
    deltas: Float[Tensor, "n k fan_out"]

    @classmethod
    def joined(cls, parts: Sequence["_LayerGradients"]) -> "_LayerGradients":
        """Those of all batches."""
        return cls(
            parts[0].name, *(torch.cat(tensors) for tensors in list(zip(*parts, strict=True))[1:])
        )


def _layer_gradients(terms: FisherTerms, batch: Labelled) -> list[_LayerGradients] | None:
    """Of every linear layer; None where a weight is of another layer, or a layer is used twice or
    not on vectors.
    """
    objective = terms.objective
    layers = {
        f"{name}." if name else "": m
        for name, m in objective.model.named_modules()
        if isinstance(m, nn.Linear)
    }
    covered = {f"{name}{own}" for name in layers for own in ("weight", "bias")}
    if objective.masks or not objective.weights.keys() <= covered:
        return None
    leaves, count = leaves_of(objective.weights), len(batch.targets)
    with torch.enable_grad(), watched(layers) as calls:
        z = objective.outputs(leaves, batch.inputs)
    used = {name: own for name, own in calls.items() if own}
    fits = (len(own) == 1 and own[0].inputs.shape[:-1] == (count,) for own in used.values())
    if not all(fits):
        return None
    back = pull_back([z], [own[0].outputs for own in used.values()])
    every = range(math.prod(terms.likelihood.num_residuals(z.shape)))
    parts = [
        back([terms.likelihood.cotangents(z, batch.targets, batch.labels, some)])
        for some in (every[i : i + ROWS_AT_ONCE] for i in range(0, len(every), ROWS_AT_ONCE))
    ]
    return [
        _LayerGradients(name, own[0].inputs, torch.cat(deltas).transpose(0, 1))
        for (name, own), deltas in zip(used.items(), zip(*parts, strict=True), strict=True)
        if own[0].outputs.requires_grad
    ]


def _is_linear_in_layers(terms: FisherTerms, gradients: SampleGradients) -> bool:
    """Whether `_layer_gradients` has them all.

    It may be wrong where a layer's weight is also used outside the layer: the squares of two
    samples tell.
    """
    two = _few(terms)
    layers = _layer_gradients(terms, two)
    if layers is None:
        return False
    right = _sum_of_squares(terms, gradients, two)
    return torch.allclose(
        _squares_of_layers(terms, layers), right, rtol=1e-3, atol=1e-6 * float(right.max())
    )


def _squares_of_layers(
    terms: FisherTerms, layers: Sequence[_LayerGradients]
) -> Float[Tensor, " d"]:
    """Σ over samples and residuals of the squared gradient, one matrix product a layer."""
    total = {name: torch.zeros_like(w) for name, w in terms.objective.weights.items()}
    for name, inputs, deltas in layers:
        squares = deltas.square().sum(1)  # (n, fan_out)
        if f"{name}weight" in total:
            total[f"{name}weight"] += squares.T @ inputs.square()
        if f"{name}bias" in total:
            total[f"{name}bias"] += squares.sum(0)
    return torch.cat([squares.flatten() for squares in total.values()])


def _gram_of_layers(
    terms: FisherTerms, layers: Sequence[_LayerGradients]
) -> Float[Tensor, "n*k n*k"]:
    """Inner products of all gradients, in float64: the sum over layers of (δᵀδ′)(aᵀa′), and of δᵀδ′
    for a bias.
    """
    gram: Tensor | int = 0
    for name, inputs, deltas in layers:
        rows, inputs = deltas.flatten(0, 1).double(), inputs.double()
        products = (
            inputs @ inputs.T
            if f"{name}weight" in terms.objective.weights
            else inputs.new_zeros(len(inputs), len(inputs))
        )
        products = products + (f"{name}bias" in terms.objective.weights)
        per_sample = deltas.shape[1]
        gram = gram + (rows @ rows.T) * products.repeat_interleave(per_sample, 0).repeat_interleave(
            per_sample, 1
        )
    return gram
