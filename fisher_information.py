"""What does the Fisher information of a classifier look like, and how far is it from the Hessian?

For logits z = f_w(x), p(y | x) = softmax(z)_y and g_y = ∇_w log p(y | x) the matrix is F = (1/n) Σ_x E_y[g_y g_yᵀ], in
units of nats / weight². Three kinds differ in the labels y:

- "expected": y ~ p(· | x), summed exactly. F is the Gauss-Newton matrix (1/n) Σ_x Jᵀ (diag p − p pᵀ) J, J = ∂z/∂w, for
  every model, and the Hessian of the mean cross-entropy where z is linear in w: Martens, arXiv:1412.1193, section 9.
- "sampled": one y ~ p(· | x) drawn for each input; unbiased for "expected".
- "empirical": the labels of the data. Not a Fisher information, and far from it in general: Kunstner, Balles & Hennig,
  arXiv:1905.12558.
"""

import copy
import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from curvlinops import EFLinearOperator, FisherType, GGNLinearOperator, KFACLinearOperator
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.nn.functional import cross_entropy, one_hot

from curvature_checks import check_at_least_one, checked_weights
from spectrum import ROWS_AT_ONCE, Operator, eigenvalues_of, hessian_operator, random_signs

KINDS = ("expected", "sampled", "empirical")
LAYERS = (nn.Linear, nn.Conv2d)  # K-FAC's
GRADIENT_BYTES = 2**27  # memory for gradients of single samples, which are taken in chunks that fit

Data = tuple[Float[Tensor, "n ..."], Int[Tensor, " n"]]


def fisher_operator(
    model: nn.Module, data: Data, kind: str = "expected", *, seed: int = 0, batch_size: int = 1280
) -> Operator:
    """F by its products, without a matrix: for `spectrum.spectrum_of`, `eigenvalues_of`, and the same as the Hessian's.

    The products are curvlinops's (Dangel et al., arXiv:2501.19183): two passes through the network and its derivative.

    Args:
        model: From inputs to logits (n, classes), used in the mode it is in; it is not changed.
        data: (inputs, labels) on the model's device.
        kind: "expected", "sampled" or "empirical", as above.
        seed: Of the sampled labels, drawn on the CPU.
        batch_size: Samples differentiated at once: bounds memory, does not change the matrix.

    Raises:
        ValueError: An unknown kind, outputs that are no logits, or as `curvature_checks.checked_weights` says.
    """
    weights, _ = _checked_classifier(model, data, kind, batch_size)
    batches = _batches(model, data, kind, seed, batch_size)
    model = copy.deepcopy(model)  # products stay those of today's weights
    of = GGNLinearOperator if kind == "expected" else EFLinearOperator
    given = model, nn.CrossEntropyLoss(), _trainable(model), batches
    matrix = of(*given, check_deterministic=False, num_data=len(data[0]))

    def products(rows: Tensor) -> Tensor:
        return torch.cat([(matrix @ part.T.contiguous()).T for part in rows.split(ROWS_AT_ONCE)])

    first = next(iter(weights.values()))
    return Operator(products, sum(w.numel() for w in weights.values()), first.dtype, first.device)


def fisher_diagonal(
    model: nn.Module, data: Data, kind: str = "expected", *, seed: int = 0, batch_size: int = 1280
) -> Float[Tensor, " d"]:
    """diag F, exact: the mean square of each weight's gradient over samples and labels, in the order of the weights.

    "expected" takes one gradient a class and sample, the others one a sample. Where all weights are those of linear
    layers, no gradient of a single sample is formed. Arguments and errors as in `fisher_operator`.

    Example:
        >>> model = nn.Linear(1, 2, bias=False)
        >>> _ = nn.init.zeros_(model.weight)  # p = (½, ½): F = x²/4 · [[1, −1], [−1, 1]]
        >>> fisher_diagonal(model, (torch.tensor([[2.0]]), torch.tensor([0]))).round(decimals=4).tolist()
        [1.0, 1.0]
    """
    weights, _ = _checked_classifier(model, data, kind, batch_size)
    batches = _batches(model, data, kind, seed, batch_size)
    model = copy.deepcopy(model)
    sum_of_squares = _sum_of_squares
    samples, labels = (part[:2] for part in batches[0])
    short = _layered_sum_of_squares(model, weights, samples, labels, kind)
    # The shortcut may be wrong where a layer's weight is also used outside the layer: two samples tell.
    if short is not None and torch.allclose(short, _sum_of_squares(model, weights, samples, labels, kind), rtol=1e-3):
        sum_of_squares = _layered_sum_of_squares
    return sum(sum_of_squares(model, weights, *batch, kind) for batch in batches) / len(data[0])


def fisher_trace(
    model: nn.Module, data: Data, kind: str = "expected", *, seed: int = 0, batch_size: int = 1280
) -> float:
    """tr F, exact: the mean squared norm of the gradients; arguments and errors as in `fisher_operator`."""
    return float(fisher_diagonal(model, data, kind, seed=seed, batch_size=batch_size).double().sum())


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
    """The k largest eigenvalues of F, descending; see `spectrum.eigenvalues_of`, and `fisher_operator` for the rest."""
    operator = fisher_operator(model, data, kind, seed=seed, batch_size=batch_size)
    return eigenvalues_of(operator, k, tolerance=tolerance, seed=seed)


@dataclass(frozen=True)
class KroneckerFactors:
    """A layer's block of F as A ⊗ B would have it: A of its inputs (a 1 last where it has a bias), B of gradients."""

    inputs: Float[Tensor, "fan_in fan_in"]
    gradients: Float[Tensor, "fan_out fan_out"]


def kfac_factors(
    model: nn.Module, data: Data, kind: str = "expected", *, seed: int = 0, batch_size: int = 1280
) -> dict[str, KroneckerFactors]:
    """K-FAC's factors A = mean a aᵀ and B = mean E_y[g gᵀ] of every linear or convolutional layer, by its name.

    Inputs a and gradients g by the layer's outputs are taken as independent, and layers too (Martens & Grosse,
    arXiv:1503.05671; convolutions: Grosse & Martens, arXiv:1602.01407): exact for a block with a single sample. The
    factors are curvlinops's. Arguments and errors as in `fisher_operator`.

    Raises:
        ValueError: Also for trainable weights outside such layers.
    """
    _checked_classifier(model, data, kind, batch_size)
    _refuse_other_layers(model)
    batches = _batches(model, data, kind, seed, batch_size)
    model = copy.deepcopy(model)  # curvlinops hangs hooks on it
    matrix = KFACLinearOperator(
        model,
        nn.CrossEntropyLoss(),
        _trainable(model),
        batches,
        check_deterministic=False,
        fisher_type=FisherType.TYPE2 if kind == "expected" else FisherType.EMPIRICAL,
        separate_weight_and_bias=False,
        num_data=len(data[0]),
    )
    with torch.enable_grad():
        matrix.compute_kronecker_factors()
    state = matrix.state_dict()
    of_inputs, of_gradients = state["input_covariances"], state["gradient_covariances"]
    alone = next(iter(of_gradients.values())).new_ones(1, 1)  # A of a layer of which only the bias is trained
    return {name: KroneckerFactors(of_inputs.get(name, alone), b) for name, b in of_gradients.items()}


def kfac_eigenvalues(factors: dict[str, KroneckerFactors], k: int) -> Float[np.ndarray, " k"]:
    """The k largest eigenvalues of K-FAC's matrix, descending: products of one of A and one of B of the same layer."""
    check_at_least_one(k=k)
    products = []
    for layer in factors.values():
        a, b = (torch.linalg.eigvalsh(factor.double()).flip(0)[:k] for factor in (layer.inputs, layer.gradients))
        products.append(torch.outer(a, b).flatten())
    found = torch.cat(products).sort(descending=True).values[:k].cpu().numpy()
    if len(found) < k:
        raise ValueError(f"k = {k}; allowed: 1 to the number of weights, {len(found)}")
    return found


def kfac_trace(factors: dict[str, KroneckerFactors]) -> float:
    """tr of K-FAC's matrix: Σ over layers of tr A · tr B."""
    return sum(float(layer.inputs.double().trace() * layer.gradients.double().trace()) for layer in factors.values())


@dataclass(frozen=True)
class CurvatureGap:
    """Hessian H of the mean cross-entropy, Fisher F and empirical Fisher E at the same weights, on the same probes.

    Each number comes with its standard error over probes. Pairs are named ("hessian", "fisher") and so on.

    Attributes:
        traces: Of each matrix, nats / weight².
        top_eigenvalues: Of each, the largest ones, descending.
        trace_differences: tr A − tr B of each pair; the probes being the same, it is known better than either trace.
        distances: ‖A − B‖_F / ‖A‖_F of each pair (A, B), from the norms of products with the probes: 0 where they are
            equal, √2 where they have the same norm and nothing in common.
    """

    traces: dict[str, tuple[float, float | None]]
    top_eigenvalues: dict[str, Float[np.ndarray, " k"]]
    trace_differences: dict[tuple[str, str], tuple[float, float | None]]
    distances: dict[tuple[str, str], tuple[float, float | None]]


def curvature_gap(
    model: nn.Module,
    data: Data,
    *,
    kind: str = "expected",
    num_probes: int = 20,
    num_eigenvalues: int = 1,
    seed: int = 0,
    batch_size: int = 1280,
) -> CurvatureGap:
    """How far are Hessian, Fisher and empirical Fisher apart? Traces, top eigenvalues, relative Frobenius distances.

    With Rademacher probes v, E[vᵀ A v] = tr A and E[‖A v‖²] = ‖A‖²_F.

    H − F = (1/n) Σ_x Σ_c (p_c − 1[c = y]) ∇²z_c is zero for logits linear in w. Otherwise its mean over labels drawn
    from p is: H, F and E agree, up to 1/√n, where the model's p is the law of the labels. That is a minimum of the
    expected loss, not one that fits every label of a sample: there F goes to zero as the residuals p − y do, H − F too,
    and E as their squares.

    Args:
        model: From inputs to logits (n, classes).
        data: (inputs, labels) on the model's device.
        kind: Of F: "expected" or "sampled".
        num_probes: Products with each of the three matrices.
        num_eigenvalues: How many of the largest.
        seed: Of probes, sampled labels and Lanczos's starting vector.
        batch_size: As in `fisher_operator`.

    Raises:
        ValueError: As in `fisher_operator`; numbers below 1.
    """
    check_at_least_one(num_probes=num_probes, num_eigenvalues=num_eigenvalues)
    if kind not in ("expected", "sampled"):
        raise ValueError(f'kind = {kind!r}; allowed: "expected" and "sampled"; the empirical one is compared anyway')
    operators = {
        "hessian": hessian_operator(model, cross_entropy, data, batch_size),
        "fisher": fisher_operator(model, data, kind, seed=seed, batch_size=batch_size),
        "empirical": fisher_operator(model, data, "empirical", batch_size=batch_size),
    }
    dtype, device = operators["hessian"].dtype, operators["hessian"].device
    probes = random_signs(num_probes, operators["hessian"].dim, seed).to(device, dtype)
    images = {name: operator.products(probes) for name, operator in operators.items()}
    forms = {name: (probes * image).sum(1).double().cpu().numpy() for name, image in images.items()}
    squares = {name: image.square().sum(1).double().cpu().numpy() for name, image in images.items()}
    pairs = list(combinations(operators, 2))
    apart = {(a, b): (images[a] - images[b]).square().sum(1).double().cpu().numpy() for a, b in pairs}
    return CurvatureGap(
        traces={name: _mean(form) for name, form in forms.items()},
        top_eigenvalues={name: eigenvalues_of(operators[name], num_eigenvalues, seed=seed) for name in operators},
        trace_differences={(a, b): _mean(forms[a] - forms[b]) for a, b in pairs},
        distances={(a, b): _root_ratio(apart[a, b], squares[a]) for a, b in pairs},
    )


def _mean(values: np.ndarray) -> tuple[float, float | None]:
    error = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
    return float(values.mean()), error


def _root_ratio(numerators: np.ndarray, denominators: np.ndarray) -> tuple[float, float | None]:
    """√(Σ numerators / Σ denominators) with its jackknife error; NaN where the denominators vanish."""
    count, totals = len(numerators), (numerators.sum(), denominators.sum())
    if totals[1] == 0:
        return math.nan, None
    value = float(np.sqrt(totals[0] / totals[1]))
    if count == 1:
        return value, None
    left_out = np.sqrt((totals[0] - numerators) / (totals[1] - denominators))
    return value, float(np.sqrt((count - 1) / count * ((left_out - left_out.mean()) ** 2).sum()))


def _checked_classifier(model: nn.Module, data: Data, kind: str, batch_size: int) -> tuple[dict[str, Tensor], int]:
    """The trainable weights by name, and the number of classes."""
    if kind not in KINDS:
        raise ValueError(f"kind = {kind!r}; allowed: {', '.join(KINDS)}")
    weights = checked_weights(model, cross_entropy, data, batch_size)
    inputs, labels = data
    with torch.no_grad():
        outputs = model(inputs[:1])
    if outputs.ndim != 2 or labels.ndim != 1 or labels.is_floating_point():
        raise ValueError(
            f"outputs are {tuple(outputs.shape)} for one sample and targets {tuple(labels.shape)} of {labels.dtype}; "
            "allowed: logits (n, classes) and class indices (n,), which the Fisher information's p(y | x) needs"
        )
    return weights, outputs.shape[1]


@torch.no_grad()
def _batches(model: nn.Module, data: Data, kind: str, seed: int, batch_size: int) -> list[tuple[Tensor, Tensor]]:
    """Inputs with the data's labels, or sampled ones: the same on every device, up to the rounding of p."""
    inputs, labels = data
    if kind == "sampled":
        p = torch.cat([model(part).softmax(1).double().cpu() for part in inputs.split(batch_size)])
        labels = p.multinomial(1, generator=torch.Generator().manual_seed(seed))[:, 0].to(labels.device)
    return list(zip(inputs.split(batch_size), labels.split(batch_size), strict=True))


def _residuals(logits: Float[Tensor, "n c"], labels: Tensor, kind: str) -> Float[Tensor, "k n c"]:
    """r with F = (1/n) Σ_n Σ_k Jᵀ r rᵀ J: ∇_z of −log p(y | x), times √p(y | x) where labels are summed over."""
    p = logits.detach().softmax(1)
    if kind != "expected":
        return (p - one_hot(labels, p.shape[1]))[None]
    return (p - torch.eye(p.shape[1], dtype=p.dtype, device=p.device)[:, None]) * p.sqrt().T[:, :, None]


def _sum_of_squares(
    model: nn.Module, weights: dict[str, Tensor], samples: Tensor, labels: Tensor, kind: str
) -> Float[Tensor, " d"]:
    """Σ over samples and labels of the squared gradient, one gradient after another, as many at once as fit."""
    with torch.no_grad():
        residuals = _residuals(model(samples), labels, kind).transpose(0, 1)  # (n, k, classes)

    def squares_of_sample(sample: Tensor, residuals: Tensor) -> dict[str, Tensor]:
        _, pull_back = vjp(lambda weights: functional_call(model, weights, (sample[None],))[0], weights)
        (gradients,) = vmap(pull_back)(residuals)
        return {name: gradient.square().sum(0) for name, gradient in gradients.items()}

    sample_bytes = residuals.shape[1] * sum(w.numel() * w.element_size() for w in weights.values())
    chunk = max(1, GRADIENT_BYTES // sample_bytes)
    total = {name: torch.zeros_like(w) for name, w in weights.items()}
    for part in zip(samples.split(chunk), residuals.split(chunk), strict=True):
        for name, squares in vmap(squares_of_sample)(*part).items():
            total[name] += squares.sum(0)
    return torch.cat([squares.flatten() for squares in total.values()])


def _layered_sum_of_squares(
    model: nn.Module, weights: dict[str, Tensor], samples: Tensor, labels: Tensor, kind: str
) -> Float[Tensor, " d"] | None:
    """The same for linear layers: a sample's gradient is δ aᵀ, its square δ² (a²)ᵀ, and the sum one matrix product.

    None where a weight is of another layer, or a layer is used twice or not on vectors.
    """
    total = {name: torch.zeros_like(w) for name, w in weights.items()}
    used = []

    def watch(name: str, layer: nn.Linear) -> torch.utils.hooks.RemovableHandle:
        def after_forward(_, inputs: tuple[Tensor], output: Tensor) -> None:
            squared_inputs = inputs[0].detach().square()

            def after_backward(delta: Tensor) -> None:
                squares = delta.square()
                if f"{name}weight" in total:
                    total[f"{name}weight"] += squares.T @ squared_inputs
                if f"{name}bias" in total:
                    total[f"{name}bias"] += squares.sum(0)

            used.extend([name] if inputs[0].ndim == 2 else [name, name])
            if output.requires_grad:
                output.register_hook(after_backward)

        return layer.register_forward_hook(after_forward)

    layers = {f"{name}." if name else "": m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    covered = {f"{name}{own}" for name, layer in layers.items() for own, _ in layer.named_parameters(recurse=False)}
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
        torch.autograd.grad(logits, _trainable(model), residual, retain_graph=True)
    return torch.cat([squares.flatten() for squares in total.values()])


def _trainable(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def _refuse_other_layers(model: nn.Module) -> None:
    covered = {id(p) for layer in model.modules() if isinstance(layer, LAYERS) for p in layer.parameters(recurse=False)}
    others = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in covered]
    if others:
        raise ValueError(
            f"K-FAC has no factors for {', '.join(others[:3])}{' and more' if len(others) > 3 else ''}; allowed: "
            "weights of Linear and Conv2d layers; freeze the others with requires_grad_(False)"
        )
