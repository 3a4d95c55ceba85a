"""Which eigenvalues has the Hessian? Its spectrum by stochastic Lanczos quadrature, its rank, its
top eigenvalues.

For a symmetric A ∈ R^{d×d} with eigenvalues h_i and a probe v of random signs, tr f(A) = E[vᵀ f(A)
v]. After m Lanczos steps from v the tridiagonal T = Y Θ Yᵀ gives the Gauss quadrature vᵀ f(A) v ≈ d
Σ_j Y_{1j}² f(θ_j), exact for polynomials f of degree < 2m. The mean over probes is an estimate for
every f at once: Ubaru, Chen & Saad, "Fast estimation of tr(f(A)) via stochastic Lanczos
quadrature", SIAM J. Matrix Anal. Appl. 38:1075 (2017); for neural networks Ghorbani, Krishnan &
Xiao, arXiv:1901.10159.

Nearly all eigenvalues of a network lie close to zero on both sides, and a count, or h⁺ = max(h, 0),
has a step or kink just there: it jumps with every step, by which side of zero the heaviest node
falls on. Laurie's anti-Gaussian rule ("Anti-Gaussian quadrature formulas", Math. Comp. 65:739,
1996) errs the other way, so the mean of both is used, and half their difference, the largest of the
last four steps, is given as the quadrature's error.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from degeneracy.curvature.checks import NotFiniteError, check_at_least_one
from degeneracy.curvature.operators import Operator, Products, hessian_operator, random_signs

BASIS_BYTES = 2**30  # memory for Lanczos vectors; more probes than fit go one group after another
STEPS_COMPARED = (
    4  # for the quadrature's error, which a single difference of two rules may miss by chance
)


class Estimate(NamedTuple):
    """A number with the two errors it has, the data fixed."""

    value: float
    std_error: float | None  # over probes; None with a single one: more probes lessen it
    quadrature_error: (
        float  # as large as that of the rule for most functions, no bound: more steps lessen it
    )


@dataclass(frozen=True)
class Spectrum:
    """Quadrature of a matrix's spectrum, one rule a probe; nodes in the matrix's units (Hessian:
    loss / weight²).

    Attributes:
        nodes: Ritz values θ: steps − 1 of the Gauss rule, then those of the anti-Gauss rule, each
            ascending; the latter may reach a little beyond the spectrum. Where a probe needed fewer
            steps, zeros without weight fill up.
        weights: Of the nodes. They sum to 1 for each probe, ½ for each of the two rules.
        dim: d. The estimate of tr f(A) is d times the weighted mean of f.
        epsilon: Rounding unit of the products.
        diagonals: Of T, from which `shortened` takes fewer steps.
        off_diagonals: Of T; zero from where on a probe was done.
    """

    nodes: Float[np.ndarray, "probes 2*steps-1"]
    weights: Float[np.ndarray, "probes 2*steps-1"]
    dim: int
    epsilon: float
    diagonals: Float[np.ndarray, "probes steps"]
    off_diagonals: Float[np.ndarray, "probes steps-1"]

    @cached_property
    def last_steps(self) -> list["Spectrum"]:
        """This and the few spectra one step shorter each, which tell the quadrature's error."""
        steps = self.diagonals.shape[1]
        return [
            self,
            *(shortened(self, m) for m in range(max(1, steps - STEPS_COMPARED + 1), steps)),
        ]


def hessian_spectrum(
    model: nn.Module,
    loss_fn: Callable,
    data: Any,
    *,
    num_probes: int = 10,
    num_steps: int = 100,
    seed: int = 0,
    batch_size: int = 1280,
    **options: Any,
) -> Spectrum:
    """Spectrum of the Hessian of the mean loss over `data` by the weights that require a gradient.

    Args:
        model: Any module that can be differentiated twice, used in the mode it is in; it is not
            changed.
        loss_fn: Mean-reduced loss of (outputs, targets).
        data: (inputs, targets) on the model's device, or an iterable of batches.
        num_probes: Random vectors. The relative standard error of a count N is about √(2/(N ·
            num_probes)).
        num_steps: Lanczos steps m, one product a probe each. Inside the spectrum eigenvalues closer
            than about 1/m of its range are not told apart, at its ends far closer ones are.
        seed: Of the probes, drawn on the CPU.
        batch_size: Samples differentiated at once: bounds memory, does not change the estimate.
        options: forward, penalty, restrict, cache_bytes of `objective.loss.objective_of`.

    Raises:
        ValueError: As `curvature.checks.checked_objective` says; numbers below 1; a Hessian that is
            not finite.

    Example:
        >>> model = nn.Linear(3, 1, bias=False)
        >>> inputs = 3**0.5 * torch.eye(3)
        >>> spectrum = hessian_spectrum(model, nn.functional.mse_loss, (inputs, torch.zeros(3, 1)))
        >>> rank = count_above(spectrum, rank_threshold(spectrum))
        >>> round(rank.value, 3), round(float(spectrum.nodes.max()), 3)  # H = 2 I
        (3.0, 2.0)
    """
    operator = hessian_operator(model, loss_fn, data, batch_size, **options)
    return spectrum_of(operator, num_probes=num_probes, num_steps=num_steps, seed=seed)


def spectrum_of(
    operator: Operator, *, num_probes: int = 10, num_steps: int = 100, seed: int = 0
) -> Spectrum:
    """Stochastic Lanczos quadrature of any symmetric operator; arguments as in `hessian_spectrum`.

    Every Lanczos vector is orthogonalised against all before it, without which large Ritz values
    come again and again (Paige 1971) and few steps are left for the rest; T is float64 at any type
    of the products. A probe whose Krylov space is exhausted stops early, and its rule is exact.

    Raises:
        ValueError: Numbers below 1, or products that are not finite.

    Example:
        >>> curvatures = torch.tensor([4.0, 1.0, 0.0, 0.0])
        >>> spectrum = spectrum_of(Operator(lambda rows: rows * curvatures, 4), num_probes=2)
        >>> round(count_above(spectrum, 0.5).value, 4)
        2.0
    """
    check_at_least_one(num_probes=num_probes, num_steps=num_steps)
    if num_steps >= operator.dim:
        # the Krylov space is exhausted; rows of zeros after it make all rules exact
        num_steps = operator.dim + STEPS_COMPARED
    epsilon = torch.finfo(operator.dtype).eps
    signs = random_signs(num_probes, operator.dim, seed)
    group = max(1, BASIS_BYTES // (num_steps * operator.dim * operator.dtype.itemsize))
    tridiagonals = [
        _lanczos(operator.products, part.to(operator.device, operator.dtype), num_steps, epsilon)
        for part in signs.split(group)
    ]
    diagonals, off_diagonals = (np.concatenate(parts) for parts in zip(*tridiagonals, strict=True))
    return _quadrature(diagonals, off_diagonals, operator.dim, epsilon)


def shortened(spectrum: Spectrum, num_steps: int) -> Spectrum:
    """The same spectrum after fewer steps, at no cost: what changes by it has not converged in the
    number of steps.
    """
    check_at_least_one(num_steps=num_steps)
    shown = spectrum.diagonals[:, :num_steps], spectrum.off_diagonals[:, : num_steps - 1]
    return _quadrature(*shown, spectrum.dim, spectrum.epsilon)


def tridiagonals(spectrum: Spectrum) -> dict[str, Any]:
    """What `spectrum_from` needs, as JSON can hold it: a few numbers a probe and step."""
    return {
        "dim": spectrum.dim,
        "epsilon": spectrum.epsilon,
        "diagonals": spectrum.diagonals.tolist(),
        "off_diagonals": spectrum.off_diagonals.tolist(),
    }


def spectrum_from(tridiagonals: Mapping[str, Any]) -> Spectrum:
    """The spectrum that `tridiagonals` gave, to the bit."""
    diagonals, off_diagonals = (
        np.array(tridiagonals[key], dtype=float) for key in ("diagonals", "off_diagonals")
    )
    return _quadrature(diagonals, off_diagonals, tridiagonals["dim"], tridiagonals["epsilon"])


def largest_ritz_values(spectrum: Spectrum, k: int) -> Float[np.ndarray, " found"]:
    """The k largest eigenvalues as the Lanczos steps taken know them, descending, at no further
    cost; fewer where fewer were found, because the steps or the Krylov space ended.

    Each is at most the eigenvalue of its place, up to rounding (Cauchy interlacing), and within a
    percent of it where that stands apart from the rest and some 20 steps were taken; of one that is
    repeated exactly there is one copy. `eigenvalues_of` iterates until it knows them all.

    Raises:
        ValueError: k below 1.
    """
    check_at_least_one(k=k)
    ritz_values, weights = _rule(spectrum.diagonals, spectrum.off_diagonals)
    # the others only fill up
    of_probes = np.sort(np.where(weights > 0, ritz_values, -np.inf), axis=1)[:, ::-1]
    found = of_probes.max(axis=0)
    return found[np.isfinite(found)][:k]


def spectral_sum(spectrum: Spectrum, function: Callable[[np.ndarray], np.ndarray]) -> Estimate:
    """tr f(A) = Σ_i f(h_i) for an elementwise `function` f.

    Example:
        >>> curvatures = torch.tensor([4.0, 1.0, 0.0, 0.0])
        >>> spectrum = spectrum_of(Operator(lambda rows: rows * curvatures, 4))
        >>> round(spectral_sum(spectrum, np.square).value, 6)  # ‖A‖²_F
        17.0
    """
    sums = _sums(spectrum, function).sum(1)  # one a probe
    std_error = float(sums.std(ddof=1) / math.sqrt(len(sums))) if len(sums) > 1 else None
    halves = [_sums(one, function) for one in spectrum.last_steps]
    quadrature_error = max(abs(float((half[:, 1] - half[:, 0]).mean())) for half in halves)
    return Estimate(float(sums.mean()), std_error, quadrature_error)


def rank_threshold(spectrum: Spectrum, relative: float = 1e-3) -> float:
    """Above which an eigenvalue counts for the rank: max(`relative`, 100 ε) · the largest |node|, ε
    the rounding unit.

    The second is the numeric floor: products round at a few ε of the largest eigenvalue, and zero
    eigenvalues come out as large as that. The first says which curvature is small enough to call
    flat, and a rank means nothing without it. The natural one beside an LLC is γ/nβ, above which
    the posterior is narrower than the localisation; pass it to `count_above` directly.

    Raises:
        ValueError: `relative` not within 0 and 1.
    """
    if not 0 <= relative < 1:
        raise ValueError(
            f"relative = {relative}; allowed: from 0 to below 1, a fraction of the largest"
            " eigenvalue"
        )
    return max(relative, 100 * spectrum.epsilon) * float(np.abs(spectrum.nodes).max())


def count_above(spectrum: Spectrum, threshold: float) -> Estimate:
    """How many eigenvalues are larger than `threshold`: the rank, where it is what separates them
    from zero.

    The standard error is over probes, at most √(2N/num_probes) for a count N. The quadrature's
    error is what remains undecided where eigenvalues lie densely around the threshold.
    """
    return spectral_sum(spectrum, lambda nodes: nodes > threshold)


def quadratic_llc(spectrum: Spectrum, nbeta: float, localization: float) -> Estimate:
    """What the LLC would be if the loss were its second-order expansion: ½ Σ_i nβ h_i⁺/(nβ h_i⁺ +
    γ), h⁺ = max(h, 0).

    Compare it with an LLC measured at the same nβ and γ: the difference is what higher orders do.
    It is half a soft count of the eigenvalues above γ/nβ. Directions of negative curvature count as
    flat; before a minimum is reached they may be many, a sampler goes down along them and finds
    less than this. The Gauss-Newton matrix, whose spectrum is that of
    `fisher.fisher_operator`, has none.

    Args:
        spectrum: Of the Hessian of the mean loss.
        nbeta: nβ > 0.
        localization: γ > 0.

    Raises:
        ValueError: nβ or γ not positive.
    """
    if not (nbeta > 0 and localization > 0):
        raise ValueError(
            f"nβ = {nbeta}, γ = {localization}; allowed: both positive; without γ every positive"
            " eigenvalue counts ½, however small: use count_above with a threshold"
        )

    def share(nodes: np.ndarray) -> np.ndarray:
        signal = nbeta * np.maximum(nodes, 0)
        return signal / (signal + localization) / 2

    return spectral_sum(spectrum, share)


def density(
    spectrum: Spectrum, grid: Float[np.ndarray, " points"], width: float
) -> Float[np.ndarray, " points"]:
    """Share of the eigenvalues per unit of eigenvalue at the points of `grid`, each node a Gaussian
    of `width` σ.

    Integrates to 1; eigenvalues a few `width` apart are told apart, where the nodes do. Mean over
    probes.

    Raises:
        ValueError: `width` not positive.
    """
    if not width > 0:
        raise ValueError(f"width = {width}; allowed: positive, in units of the eigenvalues")
    density = np.zeros(len(grid))
    for nodes, weights in zip(spectrum.nodes, spectrum.weights, strict=True):
        kernel = np.exp(-(((grid[:, None] - nodes) / width) ** 2) / 2)
        density += kernel @ weights / (width * math.sqrt(2 * math.pi) * len(spectrum.nodes))
    return density


def density_grid(
    spectra: list[Spectrum], num_points: int = 500
) -> tuple[Float[np.ndarray, " points"], float]:
    """A (grid, width) on which all of `spectra` can be compared: over all their nodes, σ 1/100 of
    the range.
    """
    nodes = np.concatenate([spectrum.nodes[spectrum.weights > 0] for spectrum in spectra])
    width = 0.01 * (float(np.ptp(nodes)) or float(np.abs(nodes).max()) or 1.0)
    return np.linspace(nodes.min() - 4 * width, nodes.max() + 4 * width, num_points), width


def _lanczos(
    products: Products, start: Float[Tensor, "k d"], num_steps: int, epsilon: float
) -> tuple[Float[np.ndarray, "k m"], Float[np.ndarray, "k m-1"]]:
    """Diagonals and off-diagonals of T for each row of `start`; zero from where on its Krylov space
    is exhausted.
    """
    count, dim = start.shape
    basis = start.new_zeros(count, num_steps, dim)
    diagonals, off_diagonals = np.zeros((count, num_steps)), np.zeros((count, num_steps - 1))
    scale = np.zeros(count)  # of the matrix, from its T so far
    norm = start.norm(dim=1, keepdim=True)
    basis[:, 0] = start / norm
    for step in range(num_steps):
        vector = basis[:, step]
        image = products(vector)
        diagonal = (image * vector).sum(1, keepdim=True)
        diagonals[:, step] = diagonal[:, 0].double().cpu().numpy()
        check_finite(diagonals[:, step])
        if step + 1 in (num_steps, dim):
            break
        image = image - diagonal * vector
        if step > 0:
            image -= norm * basis[:, step - 1]
        known = basis[:, : step + 1]
        image -= ((image[:, None] @ known.transpose(1, 2)) @ known)[:, 0]
        norm = image.norm(dim=1, keepdim=True)
        off_diagonal = norm[:, 0].double().cpu().numpy()
        scale = np.maximum(scale, np.abs(diagonals[:, step]) + off_diagonal)
        alive = off_diagonal > 10 * epsilon * scale
        if not alive.any():
            break
        off_diagonals[:, step] = np.where(alive, off_diagonal, 0)
        alive_here = torch.from_numpy(alive).to(image.device)[:, None]
        norm = torch.where(alive_here, norm, 0)
        # a zero row stays zero: T decouples
        basis[:, step + 1] = torch.where(alive_here, image / norm, 0)
    return diagonals, off_diagonals


def _sums(
    spectrum: Spectrum, function: Callable[[np.ndarray], np.ndarray]
) -> Float[np.ndarray, "probes 2"]:
    """What the nodes of the Gauss and of the anti-Gauss rule add to each probe's estimate."""
    terms = spectrum.dim * spectrum.weights * function(spectrum.nodes)
    return np.stack(
        [part.sum(1) for part in np.split(terms, [terms.shape[1] // 2], axis=1)], axis=1
    )


def _quadrature(
    diagonals: np.ndarray, off_diagonals: np.ndarray, dim: int, epsilon: float
) -> Spectrum:
    gauss = _rule(diagonals[:, :-1], off_diagonals[:, :-1])
    widened = off_diagonals.copy()
    widened[:, -1:] *= math.sqrt(2)  # Laurie's anti-Gaussian rule
    anti_gauss = _rule(diagonals, widened)
    nodes, weights = (np.concatenate(pair, axis=1) for pair in zip(gauss, anti_gauss, strict=True))
    return Spectrum(
        nodes, weights / weights.sum(1, keepdims=True), dim, epsilon, diagonals, off_diagonals
    )


def _rule(diagonals: np.ndarray, off_diagonals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues of the tridiagonal matrices (probes, m), and squares of the first entries of
    their eigenvectors.
    """
    place = np.arange(diagonals.shape[1])
    matrix = np.zeros((*diagonals.shape, len(place)))
    matrix[:, place, place] = diagonals
    matrix[:, place[1:], place[:-1]] = matrix[:, place[:-1], place[1:]] = off_diagonals
    nodes, vectors = np.linalg.eigh(matrix)
    return nodes, (vectors[:, :1] ** 2).sum(1)


def check_finite(values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        raise NotFiniteError(
            "a product with the matrix is not finite: the weights, or second derivatives of the"
            " loss at them, are NaN or infinite; measure before training diverged"
        )
