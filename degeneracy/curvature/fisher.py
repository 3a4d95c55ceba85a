"""What is the Fisher information of a classifier? Its products, diagonal, trace and eigenvalues.

For logits z = f_w(x), p(y | x) = softmax(z)_y and g_y = ∇_w log p(y | x) the matrix is F = (1/n)
Σ_x E_y[g_y g_yᵀ], in units of nats / weight². Three kinds differ in the labels y:

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

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from curvlinops import EFLinearOperator, GGNLinearOperator
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.nn.functional import cross_entropy, one_hot

from degeneracy.curvature.checks import NotFiniteError, checked_weights
from degeneracy.curvature.largest import eigenvalues_of
from degeneracy.curvature.operators import ROWS_AT_ONCE, Operator

KINDS = ("expected", "sampled", "empirical")
GRADIENT_BYTES = 2**26  # memory for gradients of single samples, which are taken in chunks that fit
EXACT_BYTES = 2**32  # memory for all of them and the matrix of their inner products
ROWS_OF_GRAM = 256  # computed at once; few, because what lies above the diagonal is left out

Data = tuple[Float[Tensor, "n ..."], Int[Tensor, " n"]]


def fisher_operator(
    model: nn.Module, data: Data, kind: str = "expected", *, seed: int = 0, batch_size: int = 1280
) -> Operator:
    """F by its products, without a matrix: for `spectrum.spectrum_of`, `eigenvalues_of`, and the
    same as the Hessian's.

    The products are curvlinops's (Dangel et al., arXiv:2501.19183): two passes through the network
    and its derivative.

    Args:
        model: From inputs to logits (n, classes), used in the mode it is in; it is not changed.
        data: (inputs, labels) on the model's device.
        kind: "expected", "sampled" or "empirical", as above.
        seed: Of the sampled labels, drawn on the CPU.
        batch_size: Samples differentiated at once: bounds memory, does not change the matrix.

    Raises:
        ValueError: An unknown kind, outputs that are no logits, or as
            `curvature.checks.checked_weights` says.
    """
    weights, _ = checked_classifier(model, data, kind, batch_size)
    batches = labelled_batches(model, data, kind, seed, batch_size)
    model = copy.deepcopy(model)  # products stay those of today's weights
    of = GGNLinearOperator if kind == "expected" else EFLinearOperator
    given = model, nn.CrossEntropyLoss(), trainable(model), batches
    matrix = of(*given, check_deterministic=False, num_data=len(data[0]))

    def products(rows: Tensor) -> Tensor:
        return torch.cat([(matrix @ part.T.contiguous()).T for part in rows.split(ROWS_AT_ONCE)])

    first = next(iter(weights.values()))
    return Operator(products, sum(w.numel() for w in weights.values()), first.dtype, first.device)


def fisher_diagonal(
    model: nn.Module, data: Data, kind: str = "expected", *, seed: int = 0, batch_size: int = 1280
) -> Float[Tensor, " d"]:
    """diag F, exact: the mean square of each weight's gradient over samples and labels, in the
    order of the weights.

    "expected" takes one gradient a class and sample, the others one a sample. Where all weights are
    those of linear layers, no gradient of a single sample is formed. Arguments and errors as in
    `fisher_operator`.

    Example:
        >>> model = nn.Linear(1, 2, bias=False)
        >>> _ = nn.init.zeros_(model.weight)  # p = (½, ½): F = x²/4 · [[1, −1], [−1, 1]]
        >>> data = torch.tensor([[2.0]]), torch.tensor([0])
        >>> fisher_diagonal(model, data).round(decimals=4).tolist()
        [1.0, 1.0]
    """
    weights, _ = checked_classifier(model, data, kind, batch_size)
    batches = labelled_batches(model, data, kind, seed, batch_size)
    model = copy.deepcopy(model)
    if _is_linear_in_layers(model, weights, batches[0], kind):
        parts = (
            _squares_of_layers(weights, _layer_gradients(model, weights, *batch, kind))
            for batch in batches
        )
    else:
        parts = (_sum_of_squares(model, weights, *batch, kind) for batch in batches)
    return sum(parts) / len(data[0])


def fisher_trace(
    model: nn.Module, data: Data, kind: str = "expected", *, seed: int = 0, batch_size: int = 1280
) -> float:
    """tr F, exact: the mean squared norm of the gradients; arguments and errors as in
    `fisher_operator`.
    """
    return float(
        fisher_diagonal(model, data, kind, seed=seed, batch_size=batch_size).double().sum()
    )


def fisher_eigenvalues(
    model: nn.Module,
    data: Data,
    k: int,
    kind: str = "expected",
    *,
    tolerance: float = 1e-4,
    seed: int = 0,
    batch_size: int = 1280,
) -> Float[np.ndarray, " k"]:
    """The k largest eigenvalues of F, descending; see `spectrum.eigenvalues_of`, and
    `fisher_operator` for the rest.
    """
    operator = fisher_operator(model, data, kind, seed=seed, batch_size=batch_size)
    return eigenvalues_of(operator, k, tolerance=tolerance, seed=seed)


@dataclass(frozen=True)
class ExactFisher:
    """All eigenvalues and the diagonal of F, in nats / weight².

    Attributes:
        eigenvalues: Descending, r = min(k·n, d) of them for n samples with k gradients each (k =
            classes for "expected", 1 otherwise). The other d − r are zero, and so are n of those of
            "expected" where k·n ≤ d.
        diagonal: In the order and of the type of the weights.
    """

    eigenvalues: Float[np.ndarray, " r"]
    diagonal: Float[Tensor, " d"]

    @property
    def trace(self) -> float:
        """tr F, exact as the diagonal is."""
        return float(self.diagonal.double().sum())


def exact_fisher(
    model: nn.Module, data: Data, kind: str = "expected", *, seed: int = 0, batch_size: int = 1280
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
    weights, num_classes = checked_classifier(model, data, kind, batch_size)
    num_samples, dim = len(data[0]), sum(w.numel() for w in weights.values())
    num_rows = num_samples * (num_classes if kind == "expected" else 1)
    one_of = next(iter(weights.values()))
    batches = labelled_batches(model, data, kind, seed, batch_size)
    model = copy.deepcopy(model)
    layered = num_rows <= dim and _is_linear_in_layers(model, weights, batches[0], kind)
    refuse_more_than_memory(num_rows, dim, 0 if layered else one_of.itemsize)
    squares = one_of.new_zeros(dim, dtype=torch.float64)
    if layered:
        parts = [_layer_gradients(model, weights, *batch, kind) for batch in batches]
        layers = [_LayerGradients.joined(of_layer) for of_layer in zip(*parts, strict=True)]
        squares += _squares_of_layers(weights, layers)
        matrix = _gram_of_layers(weights, layers)
    elif num_rows > dim:
        matrix = one_of.new_zeros(dim, dim, dtype=torch.float64)
        for rows in _rows_of(model, weights, batches, kind):
            matrix += rows.T @ rows
            squares += rows.square().sum(0)
    else:
        gradients, filled = one_of.new_empty(num_rows, dim), 0
        for rows in _rows_of(model, weights, batches, kind):
            gradients[filled : filled + len(rows)] = rows
            filled += len(rows)
            squares += rows.square().sum(0)
        matrix = _gram_below_diagonal(gradients)
    if not torch.isfinite(matrix).all():
        raise NotFiniteError(
            "the gradients of the log-likelihood are not finite; measure before training diverged"
        )
    eigenvalues = torch.linalg.eigvalsh(matrix / num_samples).clamp(min=0).flip(0).cpu().numpy()
    return ExactFisher(eigenvalues, (squares / num_samples).to(one_of.dtype))


def checked_classifier(
    model: nn.Module, data: Data, kind: str, batch_size: int
) -> tuple[dict[str, Tensor], int]:
    """The trainable weights by name, and the number of classes."""
    if kind not in KINDS:
        raise ValueError(f"kind = {kind!r}; allowed: {', '.join(KINDS)}")
    weights = checked_weights(model, cross_entropy, data, batch_size)
    inputs, labels = data
    with torch.no_grad():
        outputs = model(inputs[:1])
    if outputs.ndim != 2 or labels.ndim != 1 or labels.is_floating_point():
        raise ValueError(
            f"outputs are {tuple(outputs.shape)} for one sample and targets {tuple(labels.shape)}"
            f" of {labels.dtype}; allowed: logits (n, classes) and class indices (n,), which the"
            " Fisher information's p(y | x) needs"
        )
    return weights, outputs.shape[1]


@torch.no_grad()
def labelled_batches(
    model: nn.Module, data: Data, kind: str, seed: int, batch_size: int
) -> list[tuple[Tensor, Tensor]]:
    """Inputs with the data's labels, or sampled ones: the same on every device, up to the rounding
    of p.
    """
    inputs, labels = data
    if kind == "sampled":
        p = torch.cat([model(part).softmax(1).double().cpu() for part in inputs.split(batch_size)])
        labels = p.multinomial(1, generator=torch.Generator().manual_seed(seed))[:, 0].to(
            labels.device
        )
    return list(zip(inputs.split(batch_size), labels.split(batch_size), strict=True))


def _residuals(logits: Float[Tensor, "n c"], labels: Tensor, kind: str) -> Float[Tensor, "k n c"]:
    """r with F = (1/n) Σ_n Σ_k Jᵀ r rᵀ J: ∇_z of −log p(y | x), times √p(y | x) where labels are
    summed over.
    """
    p = logits.detach().softmax(1)
    if kind != "expected":
        return (p - one_hot(labels, p.shape[1]))[None]
    return (p - torch.eye(p.shape[1], dtype=p.dtype, device=p.device)[:, None]) * p.sqrt().T[
        :, :, None
    ]


def _gradient_rows(
    model: nn.Module, weights: dict[str, Tensor], samples: Tensor, labels: Tensor, kind: str
) -> Iterator[Float[Tensor, "rows d"]]:
    """Rows Jᵀr of G, where F = (1/n) GᵀG, sample after sample and in it residual after residual, as
    many as fit.
    """
    with torch.no_grad():
        residuals = _residuals(model(samples), labels, kind).transpose(0, 1)  # (n, k, classes)

    def rows_of_sample(sample: Tensor, residuals: Tensor) -> Float[Tensor, "k d"]:
        _, pull_back = vjp(
            lambda weights: functional_call(model, weights, (sample[None],))[0], weights
        )
        (gradients,) = vmap(pull_back)(residuals)
        return torch.cat([gradient.flatten(1) for gradient in gradients.values()], dim=1)

    sample_bytes = residuals.shape[1] * sum(w.numel() * w.element_size() for w in weights.values())
    chunk = max(1, GRADIENT_BYTES // sample_bytes)
    for part in zip(samples.split(chunk), residuals.split(chunk), strict=True):
        yield vmap(rows_of_sample)(*part).flatten(0, 1)


def _rows_of(
    model: nn.Module,
    weights: dict[str, Tensor],
    batches: Sequence[tuple[Tensor, Tensor]],
    kind: str,
) -> Iterator[Float[Tensor, "rows d"]]:
    return (rows for batch in batches for rows in _gradient_rows(model, weights, *batch, kind))


def _sum_of_squares(
    model: nn.Module, weights: dict[str, Tensor], samples: Tensor, labels: Tensor, kind: str
) -> Float[Tensor, " d"]:
    """Σ over samples and labels of the squared gradient."""
    return sum(
        rows.square().sum(0) for rows in _gradient_rows(model, weights, samples, labels, kind)
    )


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


def _layer_gradients(
    model: nn.Module, weights: dict[str, Tensor], samples: Tensor, labels: Tensor, kind: str
) -> list[_LayerGradients] | None:
    """Of every linear layer; None where a weight is of another layer, or a layer is used twice or
    not on vectors.
    """
    inputs: dict[str, Tensor] = {}
    deltas: dict[str, list[Tensor]] = {}
    used = []

    def watch(name: str, layer: nn.Linear) -> torch.utils.hooks.RemovableHandle:
        def after_forward(_, given: tuple[Tensor], output: Tensor) -> None:
            inputs[name], deltas[name] = given[0].detach().clone(), []
            used.extend([name] if given[0].ndim == 2 else [name, name])
            if output.requires_grad:
                output.register_hook(deltas[name].append)

        return layer.register_forward_hook(after_forward)

    layers = {
        f"{name}." if name else "": m
        for name, m in model.named_modules()
        if isinstance(m, nn.Linear)
    }
    covered = {
        f"{name}{own}"
        for name, layer in layers.items()
        for own, _ in layer.named_parameters(recurse=False)
    }
    if not weights.keys() <= covered:
        return None
    handles = [watch(*named) for named in layers.items()]
    with torch.enable_grad():
        logits = model(samples)
    for handle in handles:
        handle.remove()
    if sorted(used) != sorted(layers):
        return None
    for residual in _residuals(logits, labels, kind):
        torch.autograd.grad(logits, trainable(model), residual, retain_graph=True)
    return [
        _LayerGradients(name, inputs[name], torch.stack(deltas[name], dim=1))
        for name in layers
        if deltas[name]
    ]


def _is_linear_in_layers(
    model: nn.Module, weights: dict[str, Tensor], batch: tuple[Tensor, Tensor], kind: str
) -> bool:
    """Whether `_layer_gradients` has them all.

    It may be wrong where a layer's weight is also used outside the layer: the squares of two
    samples tell.
    """
    two = tuple(part[:2] for part in batch)
    layers = _layer_gradients(model, weights, *two, kind)
    if layers is None:
        return False
    right = _sum_of_squares(model, weights, *two, kind)
    return torch.allclose(
        _squares_of_layers(weights, layers), right, rtol=1e-3, atol=1e-6 * float(right.max())
    )


def _squares_of_layers(
    weights: dict[str, Tensor], layers: Sequence[_LayerGradients]
) -> Float[Tensor, " d"]:
    """Σ over samples and residuals of the squared gradient, one matrix product a layer."""
    total = {name: torch.zeros_like(w) for name, w in weights.items()}
    for name, inputs, deltas in layers:
        squares = deltas.square().sum(1)  # (n, fan_out)
        if f"{name}weight" in total:
            total[f"{name}weight"] += squares.T @ inputs.square()
        if f"{name}bias" in total:
            total[f"{name}bias"] += squares.sum(0)
    return torch.cat([squares.flatten() for squares in total.values()])


def _gram_of_layers(
    weights: dict[str, Tensor], layers: Sequence[_LayerGradients]
) -> Float[Tensor, "n*k n*k"]:
    """Inner products of all gradients, in float64: the sum over layers of (δᵀδ′)(aᵀa′), and of δᵀδ′
    for a bias.
    """
    gram: Tensor | int = 0
    for name, inputs, deltas in layers:
        rows, inputs = deltas.flatten(0, 1).double(), inputs.double()
        products = (
            inputs @ inputs.T
            if f"{name}weight" in weights
            else inputs.new_zeros(len(inputs), len(inputs))
        )
        products = products + (f"{name}bias" in weights)
        per_sample = deltas.shape[1]
        gram = gram + (rows @ rows.T) * products.repeat_interleave(per_sample, 0).repeat_interleave(
            per_sample, 1
        )
    return gram


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]
