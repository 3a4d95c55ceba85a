"""When is one natural step the whole way? A variational Gaussian process, and its optimum.

Sparse regression with inducing values u = Lv at M inputs Z, K_ZZ = LLᵀ, q(v) = N(m, S), p(v) =
N(0, I), noise σ² (Hensman, Fusi & Lawrence, arXiv:1309.6835). The bound on log p(y),

    Σ_i E_q log N(y_i; f_i, σ²) − KL(q ‖ p),    f = Av + rest,    A = K_XZ L⁻ᵀ,

is linear in q's expectations (m, S + mmᵀ), less q's entropy: the gradient by them is the natural
gradient by (S⁻¹m, −S⁻¹/2), and it points from where q is to the optimum, all the way. A step of
rate t leaves (1 − t) of the way. Other likelihoods are not conjugate and take more than one step
(Salimbeni, Eleftheriadis & Hensman, arXiv:1803.09151).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

JITTER = 1e-8  # on K_ZZ's diagonal, of the signal's variance


class Regression(NamedTuple):
    """What the bound needs of data and kernel.

    Attributes:
        basis: A = K_XZ L⁻ᵀ.
        rest: Variances of f_i that no inducing value explains.
        targets: y.
        noise: σ².
    """

    basis: Float[Tensor, "n M"]
    rest: Float[Tensor, " n"]
    targets: Float[Tensor, " n"]
    noise: float


class Gaussian(NamedTuple):
    """q(v) = N(mean, covariance)."""

    mean: Float[Tensor, " M"]
    covariance: Float[Tensor, "M M"]


def squared_exponential(
    one: Float[Tensor, "a d"], other: Float[Tensor, "b d"], length: float
) -> Float[Tensor, "a b"]:
    """exp(−|x − x'|²/2l²), a kernel of variance 1."""
    return torch.exp(-0.5 * ((one[:, None] - other) ** 2).sum(dim=-1) / length**2)


def regression(
    inputs: Float[Tensor, "n d"],
    targets: Float[Tensor, " n"],
    inducing: Float[Tensor, "M d"],
    length: float,
    noise: float,
) -> Regression:
    """The whitened model of data, of signal variance 1, in float64.

    Raises:
        ValueError: Length or noise that is not > 0, or shapes that do not fit.
    """
    if not (length > 0 and noise > 0):
        raise ValueError(f"length {length:g} and noise {noise:g} given; allowed: > 0")
    if (
        inputs.ndim != 2
        or targets.shape != inputs.shape[:1]
        or inducing.shape[1:] != inputs.shape[1:]
    ):
        raise ValueError(
            f"inputs {tuple(inputs.shape)}, targets {tuple(targets.shape)} and inducing inputs"
            f" {tuple(inducing.shape)} given; allowed: (n, d), (n,) and (M, d)"
        )
    gram = squared_exponential(inducing, inducing, length)
    root = torch.linalg.cholesky(gram + JITTER * torch.eye(len(inducing), dtype=gram.dtype))
    across = squared_exponential(inducing, inputs, length)
    basis = torch.linalg.solve_triangular(root, across, upper=False).T
    return Regression(basis, 1 - (basis**2).sum(dim=1), targets, noise)


def bound(model: Regression, q: Gaussian) -> Float[Tensor, ""]:
    """The evidence lower bound, in nats."""
    mean = model.basis @ q.mean
    variance = model.rest + ((model.basis @ q.covariance) * model.basis).sum(dim=1)
    squares = (model.targets - mean) ** 2 + variance
    log_noise = torch.log(torch.as_tensor(2 * torch.pi * model.noise, dtype=mean.dtype))
    fit = -0.5 * (squares / model.noise + log_noise).sum()
    size = len(q.mean)
    prior = q.covariance.trace() + q.mean @ q.mean - size - torch.logdet(q.covariance)
    return fit - 0.5 * prior


def natural_step(
    objective: Callable[[Gaussian], Float[Tensor, ""]], q: Gaussian, rate: float
) -> Gaussian:
    """(S⁻¹m, −S⁻¹/2) plus `rate` times the gradient of `objective` by (m, S + mmᵀ).

    The gradient by expectations is the natural gradient by natural parameters: no Fisher matrix of
    M(M + 3)/2 rows is formed.

    Raises:
        ValueError: The step leaves no covariance: it is too long.
    """
    first = q.mean.detach().clone().requires_grad_()
    second = (q.covariance + torch.outer(q.mean, q.mean)).detach().requires_grad_()
    value = objective(Gaussian(first, second - torch.outer(first, first)))
    by_first, by_second = torch.autograd.grad(value, (first, second))
    precision = torch.linalg.inv(q.covariance)
    linear = precision @ q.mean + rate * by_first
    precision = precision - rate * (by_second + by_second.T)
    factor, failed = torch.linalg.cholesky_ex(precision)
    if failed:
        raise ValueError(
            f"rate {rate:g} given: the step leaves no positive definite covariance; allowed:"
            " a shorter one (1 at most where the likelihood is conjugate)"
        )
    covariance = torch.cholesky_inverse(factor)
    return Gaussian(covariance @ linear, covariance)


def optimum(model: Regression) -> Gaussian:
    """q that is best, in closed form: S = (I + AᵀA/σ²)⁻¹, m = S Aᵀy/σ² (Titsias, 2009)."""
    size = model.basis.shape[1]
    precision = torch.eye(size, dtype=model.basis.dtype) + model.basis.T @ model.basis / model.noise
    covariance = torch.linalg.inv(precision)
    return Gaussian(covariance @ model.basis.T @ model.targets / model.noise, covariance)


def by_adam(model: Regression, start: Gaussian, lr: float, num_steps: int) -> list[float]:
    """The bound along Adam's steps on m and on S's Cholesky factor (its diagonal's logs)."""
    mean = start.mean.clone().requires_grad_()
    root = torch.linalg.cholesky(start.covariance)
    below = root.tril(-1).clone().requires_grad_()
    scales = root.diagonal().log().clone().requires_grad_()
    optimizer, bounds = torch.optim.Adam([mean, below, scales], lr=lr), []
    for _ in range(num_steps + 1):
        optimizer.zero_grad()
        factor = below.tril(-1) + torch.diag(scales.exp())
        loss = -bound(model, Gaussian(mean, factor @ factor.T))
        loss.backward()
        bounds.append(-float(loss.detach()))
        optimizer.step()
    return bounds
