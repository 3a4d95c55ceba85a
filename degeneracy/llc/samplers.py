"""Which step does a chain take? SGLD and its kin for many chains at once, each a row of (chains,
weights).

A sampler is a function that is given the starts w* and returns the step that moves its rows in
place. As published, and as devinterp has them, step for step:

    sgld          w ← w − (ε/2)(nβ ∇L_m(w) + γ(w − w*)) + N(0, ε)
                  Lau et al., arXiv:2308.12108
    rmsprop_sgld  the same with ε scaled by G = 1/(√v + 0.1), v the running mean of ∇L_m²
                  Li et al., arXiv:1512.07666
    sgnht         momentum p and thermostat ξ: p ← p − ε nβ ∇L_m(w) − ξ p + N(0, 2εA), w ← w + p,
                  ξ ← ξ + |p|²/d − ε
                  Ding et al., NeurIPS 2014

`kinetic` and `langevin` are steps of the sampler `auto`, with a constant preconditioner: with
momentum, and without. What is drawn at random is given to them.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

RMSPROP_DECAY, RMSPROP_FLOOR = 0.99, 0.1  # devinterp's
FRICTION = 2.0  # of `kinetic`, in units of the softest direction's frequency


class Chain(NamedTuple):
    """One chain: the checkpoint it starts from, its random numbers, and what it samples."""

    start: int  # position in the list of checkpoints
    seed: tuple[int, int, int]  # (seed of the settings, the checkpoint's id, the chain's number)
    epsilon: float  # step size ε
    nbeta: float
    localization: float  # γ


class Coefficients(NamedTuple):
    """The settings of a group of chains, each a column (chains, 1)."""

    epsilon: Tensor
    nbeta: Tensor
    localization: Tensor
    diffusion: float  # SGNHT's A

    @classmethod
    def of(cls, chains: Sequence[Chain], diffusion: float, like: Tensor) -> "Coefficients":
        columns = (
            [getattr(chain, name) for chain in chains]
            for name in ("epsilon", "nbeta", "localization")
        )
        return cls(*(like.new_tensor(column)[:, None] for column in columns), diffusion)


# (weights, gradients, noise), each (chains, weights); in place
Step = Callable[[Tensor, Tensor, Tensor], None]


def sgld(starts: Tensor, c: Coefficients, noise: Callable[[], Tensor]) -> Step:
    """Stochastic gradient Langevin dynamics with localisation; noise of variance ε."""
    pull, push = c.epsilon * c.localization / 2, -c.epsilon * c.nbeta / 2

    def step(weights: Tensor, gradients: Tensor, noise: Tensor) -> None:
        weights.lerp_(starts, pull).addcmul_(gradients, push).add_(noise)

    return step


def rmsprop_sgld(starts: Tensor, c: Coefficients, noise: Callable[[], Tensor]) -> Step:
    """SGLD preconditioned by the running mean of squared gradients; noise of variance ε before
    preconditioning.
    """
    square_mean = torch.zeros_like(starts)

    def step(weights: Tensor, gradients: Tensor, noise: Tensor) -> None:
        square_mean.mul_(RMSPROP_DECAY).addcmul_(gradients, gradients, value=1 - RMSPROP_DECAY)
        preconditioner = square_mean.sqrt().add_(RMSPROP_FLOOR).reciprocal_()
        force = (weights - starts).mul_(c.localization).addcmul_(gradients, c.nbeta)
        weights.addcmul_(force.mul_(preconditioner), -c.epsilon / 2).addcmul_(
            noise, preconditioner.sqrt_()
        )

    return step


def sgnht(starts: Tensor, c: Coefficients, noise: Callable[[], Tensor]) -> Step:
    """Stochastic gradient Nosé-Hoover thermostat, one thermostat a chain; noise of variance 2εA."""
    momentum = noise() / (2 * c.diffusion) ** 0.5  # N(0, ε)
    thermostat = torch.full_like(c.epsilon, c.diffusion)

    def step(weights: Tensor, gradients: Tensor, noise: Tensor) -> None:
        momentum.addcmul_(gradients, -c.epsilon * c.nbeta)
        momentum.mul_(1 - thermostat).add_(noise)
        weights.add_(momentum)
        thermostat.add_(momentum.square().mean(dim=1, keepdim=True) - c.epsilon)

    return step


def langevin(
    starts: Tensor,
    epsilon: float,
    nbeta: float,
    localization: float,
    precision: Tensor,
    before: Tensor | None,
) -> Step:
    """Langevin dynamics scaled by a constant A: w ← w − (e/2) A⁻¹ ∇U + (e/A)^½ ξ̄.

    Args:
        starts: w*, (chains, weights).
        epsilon: The relative step e, without unit: a direction of curvature a·A relaxes in 2/(e a)
            steps and is unstable from e a = 4 on.
        nbeta, localization: nβ and γ of U = nβ L + (γ/2)|w − w*|².
        precision: The diagonal A, (weights,).
        before: N(0, 1) numbers like `starts`, for ξ̄ = (ξ_t + ξ_{t+1})/2 (Leimkuhler & Matthews,
            Appl. Math. Res. Express 2013, 34), whose variances are exact for a quadratic U at
            every stable e; kept up to date in place. None: ξ̄ = ξ_t, Euler's step.
    """
    if bool((precision == precision[0]).all()):  # plain numbers then, which cost fewer passes
        precision = precision[0]
    drift = -epsilon / 2 / precision
    spread = (epsilon / precision).sqrt() * (1 if before is None else 0.5)

    def step(weights: Tensor, gradients: Tensor, noise: Tensor) -> None:
        weights.lerp_(starts, -drift * localization).addcmul_(gradients, drift * nbeta)
        weights.addcmul_(noise, spread)
        if before is not None:
            weights.addcmul_(before, spread)
            before.copy_(noise)

    return step


def kinetic(
    starts: Tensor, h: float, nbeta: float, localization: float, precision: Tensor, momentum: Tensor
) -> Step:
    """Langevin dynamics with momentum, in the units of a constant A: x = A^½ (w − w*), ẋ = v, v̇ =
    −A^-½ ∇U − 2v + noise.

    A step is BAOAB (Leimkuhler & Matthews, Appl. Math. Res. Express 2013, 34), both kicks in one:
    variances are exact for a quadratic U at every stable h. Friction 2 is critical where the
    curvature is A, as it is in the softest directions of plain weights.

    Args:
        starts: w*, (chains, weights).
        h: The relative step, without unit: a direction of curvature a·A ≤ A relaxes in 2/(h a)
            steps, a stiffer one sooner, and one is unstable from h² a = 4 on.
        nbeta, localization: nβ and γ of U = nβ L + (γ/2)|w − w*|².
        precision: The diagonal A, (weights,).
        momentum: N(0, 1) numbers like `starts` to begin with; kept up to date in place.
    """
    if bool((precision == precision[0]).all()):  # plain numbers then, which cost fewer passes
        precision = precision[0]
    kept = math.exp(-FRICTION * h)
    root = precision.rsqrt()
    pull, push = h * localization * root, -h * nbeta * root
    refreshed = math.sqrt(1 - kept**2)
    drift, jolt = (1 + kept) / 2 * h * root, refreshed / 2 * h * root

    def step(weights: Tensor, gradients: Tensor, noise: Tensor) -> None:
        momentum.addcmul_(gradients, push).addcmul_(starts - weights, pull)
        weights.addcmul_(momentum, drift).addcmul_(noise, jolt)
        momentum.mul_(kept).add_(noise, alpha=refreshed)

    return step


def heat(h: float, nbeta: float) -> float:
    """κ m: how much of a minibatch's own noise, in `kinetic`, thermal noise has to give back.

    With g̃_i = A^-½ ∇l_i and ξ the step's thermal noise, gradients of Σ (1 + κ(z_i − z̄)) l_i/m, z_i
    = g̃_i·ξ, move along −κ Ĉ ξ, Ĉ the covariance of g̃_i in the minibatch. To first order in Ĉ/m
    that cancels the covariance f² Ĉ/m which minibatches add to s² I, if κ = f/(2 s m), where f = h
    nβ (1 + c)/2, c = exp(−2h), s² = 1 − c². What is left is of the second order, and that the
    minibatches of one pass through the data are not independent.
    """
    kept = math.exp(-FRICTION * h)
    return h * nbeta * (1 + kept) / 2 / (2 * math.sqrt(1 - kept**2))


def noise_scale(sampler: str, c: Coefficients) -> Float[Tensor, "chains 1"]:
    """Standard deviation of the noise that a sampler's step takes."""
    return (2 * c.diffusion * c.epsilon if sampler == "sgnht" else c.epsilon).sqrt()


SAMPLERS = {"sgld": sgld, "rmsprop_sgld": rmsprop_sgld, "sgnht": sgnht}


def mala_acceptance(
    c: Coefficients,
    starts: Tensor,
    before: tuple[Tensor, Tensor, Tensor],
    after: tuple[Tensor, Tensor, Tensor],
) -> Float[Tensor, " chains"]:
    """Probability with which the Metropolis-adjusted Langevin algorithm would have accepted a step
    of SGLD.

    `before` and `after` are (weights (chains, P), gradients of L_m (chains, P), L_m (chains,)) on
    the same minibatch, so that it judges the step size, not the batch: 1 for ε → 0. With U = nβ L_m
    + (γ/2)|w − w*|², G = ∇U, d = w' − w,

        log q(w|w') − log q(w'|w) + U(w) − U(w') = nβ (L − L' + d·(g + g')/2) − (ε/8)(|G'|² − |G|²),

    in which the localisation's large parts have cancelled (Roberts & Rosenthal 1998, eq. 2, for
    N(0, ε) noise).
    """
    (w, g, loss), (w_, g_, loss_) = before, after
    d = w_ - w
    work = loss - loss_ + torch.linalg.vecdot(d, g + g_) / 2
    total = c.nbeta * (g + g_) + c.localization * (w + w_ - 2 * starts)  # G + G'
    change = c.nbeta * (g_ - g) + c.localization * d  # G' − G
    log_ratio = c.nbeta[:, 0] * work - c.epsilon[:, 0] / 8 * torch.linalg.vecdot(change, total)
    return log_ratio.clamp(max=0).exp()
