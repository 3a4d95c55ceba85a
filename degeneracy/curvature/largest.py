"""What are the largest eigenvalues of a Hessian? By ARPACK's restarted Lanczos iteration, from
products alone.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Shaped
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn
from torch.func import functional_call, grad, vjp

from degeneracy.curvature.checks import check_at_least_one
from degeneracy.curvature.operators import Operator, hessian_operator
from degeneracy.curvature.spectrum import check_finite, spectrum_of
from degeneracy.weights import flattened, named

DENSE_DIM = 256  # up to here eigenvalues come from the whole matrix


def top_eigenvalues(
    model: nn.Module,
    loss_fn: Callable,
    data: tuple[Float[Tensor, "n ..."], Shaped[Tensor, "n ..."]],
    k: int,
    *,
    tolerance: float = 1e-4,
    seed: int = 0,
    batch_size: int = 1280,
) -> Float[np.ndarray, " k"]:
    """The k algebraically largest eigenvalues of the Hessian of the mean loss, descending; see
    `eigenvalues_of`.

    Example:
        >>> model = nn.Linear(3, 1, bias=False)
        >>> inputs = torch.diag(torch.tensor([1.0, 2.0, 3.0]))  # H = 2/3 · diag(1, 4, 9)
        >>> data = inputs, torch.zeros(3, 1)
        >>> top_eigenvalues(model, nn.functional.mse_loss, data, k=2).round(3).tolist()
        [6.0, 2.667]
    """
    return eigenvalues_of(
        hessian_operator(model, loss_fn, data, batch_size), k, tolerance=tolerance, seed=seed
    )


def eigenvalues_of(
    operator: Operator, k: int, *, tolerance: float = 1e-4, seed: int = 0
) -> Float[np.ndarray, " k"]:
    """The k algebraically largest eigenvalues, descending, by ARPACK's restarted Lanczos iteration.

    Args:
        operator: Symmetric.
        k: 1 to its dimension.
        tolerance: Residual at which an eigenvalue counts as found, relative to the largest
            |eigenvalue|; the eigenvalue's error is below it, and of its square where it stands
            apart.
        seed: Of the starting vector.

    Of an eigenvalue that is repeated exactly, ARPACK may miss copies; up to dimension 256 none is,
    because the whole matrix is decomposed.

    Raises:
        ValueError: k out of range, or products that are not finite.

    Example:
        >>> operator = Operator(lambda rows: rows * torch.arange(1000.0), 1000)
        >>> eigenvalues_of(operator, k=3).round(1).tolist()
        [999.0, 998.0, 997.0]
    """
    check_at_least_one(k=k)
    products, dim, dtype, device = operator
    if k > dim:
        raise ValueError(f"k = {k}; allowed: 1 to the number of weights, {dim}")
    if dim <= DENSE_DIM or k >= dim - 1:
        matrix = products(torch.eye(dim, dtype=dtype, device=device)).double().cpu().numpy()
        check_finite(matrix)
        return np.linalg.eigvalsh((matrix + matrix.T) / 2)[::-1][:k].copy()
    # ARPACK's tolerance is relative to each eigenvalue, which none of the zero ones of a flat loss
    # would ever meet. Shifted by the norm all have its size; ten steps know it well enough.
    shift = float(np.abs(spectrum_of(operator, num_probes=1, num_steps=10, seed=seed).nodes).max())

    def shifted(vector: np.ndarray) -> np.ndarray:
        row = torch.from_numpy(vector.reshape(1, -1)).to(device, dtype)
        image = products(row)[0].double().cpu().numpy()
        check_finite(image)
        return image + shift * vector.reshape(-1)

    linear = LinearOperator((dim, dim), matvec=shifted, dtype=np.float64)
    start = np.random.default_rng(seed).normal(size=dim)
    found = eigsh(linear, k=k, which="LA", v0=start, tol=tolerance / 2, return_eigenvectors=False)
    return np.sort(found)[::-1] - shift


def largest_curvature(
    loss: Callable[[dict[str, Tensor]], Tensor],
    parameters: dict[str, Tensor],
    tolerance: float = 0.01,
    seed: int = 0,
) -> float:
    """Largest eigenvalue of the Hessian of `loss`, in units of loss / weight²; 0 where none is
    positive.

    Args:
        loss: Scalar function of named parameters, twice differentiable.
        parameters: Where the Hessian is taken.
        tolerance: Relative error at which Lanczos's iteration stops.
        seed: Of its starting vector.
    """
    start = flattened(parameters).detach()
    _, hessian_vector = vjp(grad(lambda flat: loss(named(flat, parameters))), start)

    def product(vector: np.ndarray) -> np.ndarray:
        given = torch.from_numpy(vector.reshape(-1)).to(start)
        return hessian_vector(given)[0].cpu().double().numpy()

    size = len(start)
    guess = np.random.default_rng(seed).normal(size=size)
    image = product(guess)
    if not image.any():  # no curvature at all, which ARPACK refuses
        return 0.0
    if size == 1:
        return max(0.0, float(image[0] / guess[0]))
    operator = LinearOperator((size, size), matvec=product, dtype=np.float64)
    (value,) = eigsh(operator, k=1, which="LA", v0=guess, tol=tolerance, return_eigenvectors=False)
    return max(0.0, float(value))


def loss_on(
    model: nn.Module, data: tuple[Float[Tensor, "n ..."], Tensor], loss_fn: Callable
) -> Callable[[dict[str, Tensor]], Tensor]:
    """The mean loss of `model` on `data` as a function of its named parameters."""
    inputs, targets = data
    return lambda parameters: loss_fn(functional_call(model, parameters, (inputs,)), targets)
