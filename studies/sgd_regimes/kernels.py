"""Which kernel stands for a network or a data set? NTKs, their spectra, and files that hold one."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors
import safetensors.numpy
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.linalg import eigh
from torch import Tensor
from torch.func import functional_call, jacrev, vmap

from studies.sgd_regimes.checks import check_kernel, check_residual, decomposed

JACOBIAN_NUMBERS = 20_000_000  # of one block of samples' Jacobian, 160 MB in float64
SUFFIXES = (".npy", ".npz", ".safetensors")


def analytic_ntk(
    inputs: Float[np.ndarray, "N d"], others: Float[np.ndarray, "M d"] | None = None
) -> Float[np.ndarray, "M N"]:
    """The NTK of f = a·relu(Wx/√d + b)/√m for m → ∞, all entries N(0, 1).

    With Σ = xᵀx'/d + 1 and cos θ = Σ/√(Σ_xx Σ_x'x') (Cho & Saul 2009; Jacot et al., 2018):
    K = √(Σ_xx Σ_x'x') (sin θ + (π − θ) cos θ)/2π, of a, plus Σ (π − θ)/2π, of W and b.

    Args:
        inputs: x.
        others: x', rows of the result; None: the inputs, and then K is exactly symmetric.
    """
    first = np.asarray(inputs, dtype=np.float64)
    second = first if others is None else np.asarray(others, dtype=np.float64)
    dim = first.shape[1]
    scale = np.sqrt(np.outer((second**2).sum(1) / dim + 1, (first**2).sum(1) / dim + 1))
    sigma = second @ first.T / dim + 1
    cosine = np.clip(sigma / scale, -1.0, 1.0)
    if others is None:
        np.fill_diagonal(cosine, 1.0)
    angle = np.arccos(cosine)
    outer = scale * (np.sin(angle) + (np.pi - angle) * cosine) / (2 * np.pi)
    kernel = outer + sigma * (np.pi - angle) / (2 * np.pi)
    return 0.5 * (kernel + kernel.T) if others is None else kernel


def jacobian(
    function: Callable[[Mapping[str, Tensor], Tensor], Tensor],
    weights: Mapping[str, Tensor],
    inputs: Float[Tensor, "N ..."],
) -> Float[Tensor, "NC p"]:
    """Derivatives of all outputs at all samples with respect to all weights; see below."""
    weights = {name: weight.detach() for name, weight in weights.items()}
    found = vmap(jacrev(function), in_dims=(None, 0))(weights, inputs)
    sizes = [weight.numel() for weight in weights.values()]
    flat = [of.reshape(-1, size) for of, size in zip(found.values(), sizes, strict=True)]
    return torch.cat(flat, dim=1)


def empirical_ntk(
    function: Callable[[Mapping[str, Tensor], Tensor], Tensor],
    weights: Mapping[str, Tensor],
    inputs: Float[Tensor, "N ..."],
) -> Float[Tensor, "NC NC"]:
    """J Jᵀ, J the derivatives of all outputs at all samples with respect to all weights.

    Args:
        function: (weights, one sample) → one output, or C of them: a row of J each.
        weights: By name.
        inputs: Samples; Jacobians are taken of so many at a time as fit into memory.
    """
    num_outputs = function(weights, inputs[0]).numel()
    count = sum(weight.numel() for weight in weights.values()) * num_outputs
    blocks = inputs.split(max(1, JACOBIAN_NUMBERS // count))

    kernel = []
    for i, block in enumerate(blocks):
        left = jacobian(function, weights, block)
        others = (jacobian(function, weights, before) for before in blocks[:i])
        kernel.append([*(left @ other.T for other in others), left @ left.T])
    lower = [
        [kernel[i][j] if j <= i else kernel[j][i].T for j in range(len(blocks))]
        for i in range(len(blocks))
    ]
    full = torch.cat([torch.cat(row, dim=1) for row in lower])
    return 0.5 * (full + full.T)


def module_ntk(model: torch.nn.Module, inputs: Float[Tensor, "N ..."]) -> Float[Tensor, "NC NC"]:
    """`empirical_ntk` of a module that takes a batch and gives C outputs a sample."""
    weights = {name: weight.detach() for name, weight in model.named_parameters()}

    def one(named: Mapping[str, Tensor], sample: Tensor) -> Tensor:
        return functional_call(model, dict(named), (sample[None],))[0]

    return empirical_ntk(one, weights, inputs)


def largest_eigenvalue(kernel: ArrayLike) -> float:
    """λ_max of a symmetric matrix."""
    matrix = np.asarray(kernel, dtype=np.float64)
    last = len(matrix) - 1
    return float(eigh(matrix, eigvals_only=True, subset_by_index=[last, last])[0])


def rescaled(kernel: ArrayLike) -> tuple[Float[np.ndarray, "N N"], float]:
    """K̂ = K/λ_max(K), so that λ_max(K̂) = 1, and λ_max(K)/N, the unit of 1/α."""
    matrix = check_kernel(kernel)
    largest = largest_eigenvalue(matrix)
    if not largest > 0:
        raise ValueError(f"kernel with largest eigenvalue {largest:.3g} given; allowed: > 0")
    return matrix / largest, largest / len(matrix)


def spectrum(
    kernel: ArrayLike, residual: ArrayLike
) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    """Eigenvalues, descending, and c_k = (Uᵀ Δ)_k²."""
    values, vectors = decomposed(kernel)
    return values, (vectors.T @ check_residual(residual, len(values))) ** 2


def features_of(kernel: ArrayLike) -> Float[np.ndarray, "N N"]:
    """Φ = U√(NΛ), the principal components: K = NK̂ = ΦΦᵀ."""
    values, vectors = decomposed(kernel)
    return vectors * np.sqrt(len(values) * values)


class Fit(NamedTuple):
    """A power law through a spectrum.

    Attributes:
        nu: Of λ_k ≈ Λk^−ν.
        scale: Λ.
        kappa: Of Σ_{l>=k} c_l ≈ (A/ϰ) k^−ϰ.
        amplitude: A.
        first, last: The modes that were fitted, counted from 1.
    """

    nu: float
    scale: float
    kappa: float
    amplitude: float
    first: int
    last: int


def fit_power_laws(
    eigenvalues: Float[np.ndarray, " K"],
    moments: Float[np.ndarray, " K"],
    first: int = 10,
    last: int | None = None,
) -> Fit:
    """Straight lines in log-log through λ_k and through the tails Σ_{l>=k} c_l, by least squares.

    Modes count evenly in log k, so that the many small ones do not outvote the others.

    Args:
        eigenvalues: Descending.
        moments: c_k.
        first, last: Modes fitted, from 1; last None: half of all, before the end of the data shows.

    Raises:
        ValueError: Fewer than three modes to fit.
    """
    last = len(eigenvalues) // 2 if last is None else last
    if last - first < 2 or eigenvalues[last - 1] <= 0:
        raise ValueError(f"modes {first} to {last} given; allowed: at least three, with λ > 0")
    ks = np.unique(np.geomspace(first, last, 50).astype(int))
    tails = np.cumsum(moments[::-1])[::-1]
    nu, scale = _line(ks, eigenvalues[ks - 1])
    kappa, tail = _line(ks, np.maximum(tails[ks - 1], 1e-300))
    return Fit(nu, scale, kappa, tail * kappa, first, last)


def _line(ks: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    slope, offset = np.polyfit(np.log(ks), np.log(values), 1)
    return float(-slope), float(np.exp(offset))


class SavedKernel(NamedTuple):
    """A kernel from a file, with the residual where the file has one."""

    kernel: Float[np.ndarray, "N N"]
    residual: Float[np.ndarray, " N"] | None


def load_kernel(path: str | Path) -> SavedKernel:
    """A kernel (N, N) from `.npy`, or `kernel` and perhaps `residual` from `.npz`, `.safetensors`.

    Raises:
        ValueError: Another kind of file, one that cannot be read, or a kernel that is none.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"kernel file {path} given; allowed: {', '.join(SUFFIXES)}")
    try:
        if path.suffix == ".npy":
            held = {"kernel": np.load(path, allow_pickle=False)}
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                held = dict(archive)
        else:
            held = safetensors.numpy.load_file(path)
    except (OSError, ValueError, EOFError, safetensors.SafetensorError) as error:
        raise ValueError(f"kernel file {path} cannot be read: {error}") from error
    if "kernel" not in held:
        names = ", ".join(held) or "nothing"
        raise ValueError(f"{path} holds {names}; allowed: an array called kernel, and residual")
    kernel = check_kernel(held["kernel"])
    decomposed(kernel)
    residual = held.get("residual")
    return SavedKernel(kernel, None if residual is None else check_residual(residual, len(kernel)))
