"""What are the largest eigenvalues of a Hessian, and their eigenvectors? From products alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn

from degeneracy.curvature.eigenpairs import Eigenpairs, eigenpairs_of
from degeneracy.curvature.operators import Operator, hessian_operator
from degeneracy.objective.derivatives import hessian_products
from degeneracy.objective.loss import objective_of
from degeneracy.weights import flattened


def top_eigenvalues(
    model: nn.Module,
    loss_fn: Callable,
    data: Any,
    k: int,
    *,
    which: str = "largest",
    tolerance: float = 1e-4,
    seed: int = 0,
    batch_size: int = 1280,
    **options: Any,
) -> Float[np.ndarray, " k"]:
    """The k algebraically largest eigenvalues of the Hessian of the mean loss, descending, or the
    smallest, ascending, in loss / weight²; repeated ones as often as they are. Arguments and errors
    as in `hessian_eigenpairs`.

    Example:
        >>> model = nn.Linear(3, 1, bias=False)
        >>> inputs = torch.diag(torch.tensor([1.0, 2.0, 3.0]))  # H = 2/3 · diag(1, 4, 9)
        >>> data = inputs, torch.zeros(3, 1)
        >>> top_eigenvalues(model, nn.functional.mse_loss, data, k=2).round(3).tolist()
        [6.0, 2.667]
    """
    settings = {"which": which, "tolerance": tolerance, "seed": seed, "batch_size": batch_size}
    return hessian_eigenpairs(model, loss_fn, data, k, **settings, **options).values


def hessian_eigenpairs(
    model: nn.Module,
    loss_fn: Callable,
    data: Any,
    k: int,
    *,
    which: str = "largest",
    tolerance: float = 1e-4,
    seed: int = 0,
    batch_size: int = 1280,
    **options: Any,
) -> Eigenpairs:
    """The k algebraically largest or smallest eigenvalues of the Hessian of the mean loss with
    their eigenvectors, residuals and error bound; see `eigenpairs.eigenpairs_of`.

    Args:
        model: As in `operators.hessian_operator`, as are `loss_fn`, `data`, `batch_size` and
            `options`.
        k: 1 to the number d of weights that require a gradient.
        which: "largest" or "smallest".
        tolerance: Residual at which a pair is found, relative to the largest |eigenvalue|.
        seed: Of the random vectors.

    Returns:
        Row i of its `vectors` (k, d) is eigenvector i, the weights flattened in the model's order:
        `degeneracy.weights.named(pairs.vectors[i], weights)` has its part of each of the named
        `weights` that require a gradient.

    Raises:
        ValueError: As `operators.hessian_operator` and `eigenpairs_of` say.

    Example:
        >>> from degeneracy.weights import named
        >>> model = nn.Linear(3, 1, bias=False)
        >>> inputs = torch.diag(torch.tensor([1.0, 2.0, 3.0]))  # H = 2/3 · diag(1, 4, 9)
        >>> data = inputs, torch.zeros(3, 1)
        >>> pairs = hessian_eigenpairs(model, nn.functional.mse_loss, data, k=1)
        >>> direction = named(pairs.vectors[0], dict(model.named_parameters()))
        >>> pairs.values.round(3).tolist(), direction["weight"].abs().round(decimals=3).tolist()
        ([6.0], [[0.0, 0.0, 1.0]])
    """
    operator = hessian_operator(model, loss_fn, data, batch_size, **options)
    return eigenpairs_of(operator, k, which=which, tolerance=tolerance, seed=seed)


def eigenvalues_of(
    operator: Operator, k: int, *, tolerance: float = 1e-4, seed: int = 0
) -> Float[np.ndarray, " k"]:
    """The k algebraically largest eigenvalues, descending, repeated ones as often as they are; see
    `eigenpairs.eigenpairs_of`, also for arguments and errors.

    Example:
        >>> operator = Operator(lambda rows: rows * torch.arange(1000.0), 1000)
        >>> eigenvalues_of(operator, k=3).round(1).tolist()
        [999.0, 998.0, 997.0]
    """
    return eigenpairs_of(operator, k, tolerance=tolerance, seed=seed).values


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
    products = hessian_products(loss, parameters)

    def product(vector: np.ndarray) -> np.ndarray:
        given = torch.from_numpy(vector.reshape(1, -1)).to(start)
        return products(given)[0].cpu().double().numpy()

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
    model: nn.Module, data: Any, loss_fn: Callable, **options: Any
) -> Callable[[dict[str, Tensor]], Tensor]:
    """The mean loss of `model` on `data` as a function of its named parameters; options as
    `objective.loss.objective_of` takes them.
    """
    objective = objective_of(model, loss_fn, data, **options)
    whole = objective.data.some(len(objective.data), seed=0).whole
    return lambda parameters: objective.batch_loss(parameters, whole)
