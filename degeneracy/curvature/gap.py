"""How far apart are Hessian, Fisher information and empirical Fisher at the same weights?"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import nn
from torch.nn.functional import cross_entropy

from degeneracy.curvature.checks import check_at_least_one, checked_objective
from degeneracy.curvature.fisher import operator_of_terms
from degeneracy.curvature.largest import eigenvalues_of
from degeneracy.curvature.likelihood import refuse_penalty, terms_of
from degeneracy.curvature.operators import operator_of, random_signs


@dataclass(frozen=True)
class CurvatureGap:
    """Hessian H of the mean loss, Fisher F and empirical Fisher E at the same weights, on
    the same probes.

    Each number comes with its standard error over probes. Pairs are named ("hessian", "fisher") and
    so on.

    Attributes:
        traces: Of each matrix, nats / weight².
        top_eigenvalues: Of each, the largest ones, descending; empty where none were asked for.
        trace_differences: tr A − tr B of each pair; the probes being the same, it is known better
            than either trace.
        distances: ‖A − B‖_F / ‖A‖_F of each pair (A, B), from the norms of products with the
            probes: 0 where they are equal, √2 where they have the same norm and nothing in common.
    """

    traces: dict[str, tuple[float, float | None]]
    top_eigenvalues: dict[str, Float[np.ndarray, " k"]]
    trace_differences: dict[tuple[str, str], tuple[float, float | None]]
    distances: dict[tuple[str, str], tuple[float, float | None]]


def curvature_gap(
    model: nn.Module,
    data: Any,
    *,
    loss_fn: Callable = cross_entropy,
    kind: str = "expected",
    num_probes: int = 20,
    num_eigenvalues: int = 1,
    seed: int = 0,
    batch_size: int = 1280,
    **options: Any,
) -> CurvatureGap:
    """How far are Hessian, Fisher and empirical Fisher apart? Traces, top eigenvalues, relative
    Frobenius distances.

    With Rademacher probes v, E[vᵀ A v] = tr A and E[‖A v‖²] = ‖A‖²_F.

    Of cross-entropy H − F = (1/n) Σ_x Σ_c (p_c − 1[c = y]) ∇²z_c is zero for logits linear in w.
    Otherwise its mean over labels drawn from p is: H, F and E agree, up to 1/√n, where the model's
    p is the law of the labels. That is a minimum of the expected loss, not one that fits every
    label of a sample: there F goes to zero as the residuals p − y do, H − F too, and E as their
    squares.

    Args:
        model: Any module from inputs to outputs, used in the mode it is in.
        data: (inputs, targets) or an iterable of batches, as `objective.data.as_data` takes them.
        loss_fn: −log p(y | outputs) that `likelihood` knows, mean-reduced.
        kind: Of F: "expected" or "sampled".
        num_probes: Products with each of the three matrices.
        num_eigenvalues: How many of the largest, which take most of the time; 0 for none.
        seed: Of probes, sampled labels and Lanczos's starting vector.
        batch_size, options: As in `fisher.fisher_operator`.

    Raises:
        ValueError: As in `fisher_operator`; numbers that are too small.
    """
    check_at_least_one(num_probes=num_probes)
    if not isinstance(num_eigenvalues, int) or num_eigenvalues < 0:
        raise ValueError(
            f"num_eigenvalues = {num_eigenvalues!r}; allowed: an integer, at least 0, which means"
            " none"
        )
    if kind not in ("expected", "sampled"):
        raise ValueError(
            f'kind = {kind!r}; allowed: "expected" and "sampled"; the empirical one is compared'
            " anyway"
        )
    refuse_penalty(options)
    objective = checked_objective(model, loss_fn, data, batch_size, **options)
    operators = {
        "hessian": operator_of(objective, batch_size),
        "fisher": operator_of_terms(terms_of(objective, kind, seed, batch_size)),
        "empirical": operator_of_terms(terms_of(objective, "empirical", seed, batch_size)),
    }
    dtype, device = operators["hessian"].dtype, operators["hessian"].device
    probes = random_signs(num_probes, operators["hessian"].dim, seed).to(device, dtype)
    images = {name: operator.products(probes) for name, operator in operators.items()}
    forms = {name: (probes * image).sum(1).double().cpu().numpy() for name, image in images.items()}
    squares = {name: image.square().sum(1).double().cpu().numpy() for name, image in images.items()}
    pairs = list(combinations(operators, 2))
    apart = {
        (a, b): (images[a] - images[b]).square().sum(1).double().cpu().numpy() for a, b in pairs
    }
    return CurvatureGap(
        traces={name: _mean(form) for name, form in forms.items()},
        top_eigenvalues={
            name: (
                eigenvalues_of(operator, num_eigenvalues, seed=seed)
                if num_eigenvalues
                else np.zeros(0)
            )
            for name, operator in operators.items()
        },
        trace_differences={(a, b): _mean(forms[a] - forms[b]) for a, b in pairs},
        distances={(a, b): _root_ratio(apart[a, b], squares[a]) for a, b in pairs},
    )


def _mean(values: np.ndarray) -> tuple[float, float | None]:
    error = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
    return float(values.mean()), error


def _root_ratio(numerators: np.ndarray, denominators: np.ndarray) -> tuple[float, float | None]:
    """√(Σ numerators / Σ denominators) with its jackknife error; NaN for zero denominators."""
    count, totals = len(numerators), (numerators.sum(), denominators.sum())
    if totals[1] == 0:
        return math.nan, None
    value = float(np.sqrt(totals[0] / totals[1]))
    if count == 1:
        return value, None
    left_out = np.sqrt((totals[0] - numerators) / (totals[1] - denominators))
    return value, float(np.sqrt((count - 1) / count * ((left_out - left_out.mean()) ** 2).sum()))
