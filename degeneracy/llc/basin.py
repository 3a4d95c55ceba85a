"""Is the checkpoint at a minimum of what is sampled? Its basin's bottom w_b, and how far below.

The sampled density is ∝ exp(−U), U(w) = nβ L(w) + (γ/2)|w − w*|². Where w* is no minimum of U the
chains leave it downhill, and λ̂ about w* may be negative; about w_b, the minimum of U next to w*,
it is what a quadratic would give whatever w* is: λ̂_b = λ̂ + nβ(L(w*) − L(w_b)).

Stochastic descent with control variates (SVRG: Johnson & Zhang, NeurIPS 2013), preconditioned as
the chains are, takes a few passes through the data. It ends where half the squared length of ∇U in
the metric A⁻¹, the drop that a Newton step with A would bring, is below 0.05 nats.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from degeneracy.llc.chains import Problem
from degeneracy.llc.coordinates import SAMPLES, Coordinates
from degeneracy.llc.langevin import full_gradient
from degeneracy.objective.derivatives import gradient_of
from degeneracy.weights import flattened, named

TOLERANCE = 0.05  # nats, of U
BATCH = 1000  # samples a step
STEPS = 40  # of descent between two gradients over all the data
ROUNDS = 8
ENOUGH = 10  # samples for every unit of nβ: more would not change the shift by what matters


@dataclass(frozen=True)
class Basin:
    """Where a checkpoint's basin ends.

    Attributes:
        shift: nβ(L(w*) − L(w_b)), nats.
        distance: |w_b − w*|.
        gap: How far U may still fall, nats, by the curvature at w*.
        reached: Whether that is below the tolerance.
    """

    shift: float
    distance: float
    gap: float
    reached: bool


def bottom(
    problem: Problem,
    at: Coordinates,
    nbeta: float,
    localization: float,
    stiffness: float = 1.0,
    start: tuple[Tensor, float] | None = None,
    seed: int = 0,
) -> Basin:
    """Descends from w* to the bottom of its basin.

    Args:
        problem: The data; the loss is that of `at`.
        at: Coordinates and curvature, by which steps are scaled.
        nbeta: nβ.
        localization: γ > 0; without it there may be no bottom.
        stiffness: The largest curvature of U in units of A, at least 1.
        start: (∇L(w*), L(w*)) over all the data, where known.
        seed: Of the minibatches.

    Raises:
        ValueError: γ = 0.
    """
    if localization <= 0:
        raise ValueError(
            "γ = 0: nothing keeps a chain near its checkpoint, so there is no basin to find the"
            " bottom of; allowed: localization above 0"
        )
    problem = problem._replace(loss=at.loss)
    thin = _thinned(problem, nbeta, seed)
    known = start
    if thin is not problem:
        whole = full_gradient(problem, at.weights)[0] if start is None else start[0]
        thin, loss = _tilted(thin, at, whole)
        known = whole, loss
    origin = flattened(at.weights).detach()
    precision = at.precision(nbeta, localization)
    weights, rate = origin.clone(), 1 / max(1.0, stiffness)
    slope, loss = known or full_gradient(thin, at.weights)
    best = (loss, weights, slope, _energy(loss, weights - origin, nbeta, localization))
    first = loss
    generator = torch.Generator().manual_seed(seed)
    for _ in range(ROUNDS):
        loss, weights, slope, energy = best
        force = slope * nbeta + (weights - origin) * localization
        gap = float((force.square() / precision).sum() / 2)
        if gap <= TOLERANCE:
            break
        tried = _descended(thin, at, best[1:3], (nbeta, localization, rate), generator)
        slope, loss = full_gradient(thin, named(tried, at.weights))
        energy_there = _energy(loss, tried - origin, nbeta, localization)
        if energy_there < energy:
            best = (loss, tried, slope, energy_there)
        else:  # also where it is not finite
            rate /= 2
    loss, weights, slope, _ = best
    force = slope * nbeta + (weights - origin) * localization
    gap = float((force.square() / precision).sum() / 2)
    distance = float(torch.linalg.vector_norm(weights - origin))
    return Basin(float(nbeta * (first - loss)), distance, gap, gap <= TOLERANCE)


def _energy(loss: float, away: Tensor, nbeta: float, localization: float) -> float:
    energy = nbeta * loss + localization / 2 * float(away.double().square().sum())
    return energy if np.isfinite(energy) else float("inf")


def _thinned(problem: Problem, nbeta: float, seed: int) -> Problem:
    """As many samples as the shift needs; all of them where that is more than half."""
    enough = max(SAMPLES, int(ENOUGH * nbeta))
    if 2 * enough > problem.num_samples and problem.stream is None:
        return problem
    # Of data that are not kept as many are, all of them if need be.
    return problem._replace(data=problem.some(enough, seed), stream=None)


def _tilted(problem: Problem, at: Coordinates, slope: Tensor) -> tuple[Problem, float]:
    """Fewer samples, with the gradient at w* that all of them have, and their loss there.

    Their own gradient at w* does not vanish where that of all vanishes, and would shift the bottom
    by up to 0.2 λ̂.
    """
    origin = flattened(at.weights).detach()
    own, loss_there = full_gradient(problem, at.weights)
    tilt = slope - own

    def loss(parameters: dict[str, Tensor], *batch: Tensor) -> Tensor:
        return problem.loss(parameters, *batch) + torch.dot(flattened(parameters) - origin, tilt)

    return problem._replace(loss=loss), loss_there


def _descended(
    problem: Problem,
    at: Coordinates,
    anchor: tuple[Tensor, Tensor],
    scales: tuple[float, float, float],
    generator: torch.Generator,
) -> Tensor:
    """The weights after `STEPS` steps from an anchor (weights, ∇L there)."""
    there, slope = anchor
    nbeta, localization, rate = scales
    origin, weights = flattened(at.weights).detach(), there.clone()
    step = rate / at.precision(nbeta, localization)

    def gradient(row: Tensor, batch: tuple[Tensor, ...]) -> Tensor:
        return gradient_of(lambda own: problem.loss(own, *batch), named(row, at.weights))[0]

    for _ in range(STEPS):
        if not problem.data or len(problem.data[0]) <= BATCH:
            found = gradient(weights, problem.data)
        else:
            chosen = torch.randint(len(problem.data[0]), (BATCH,), generator=generator)
            batch = tuple(part[chosen.to(part.device)] for part in problem.data)
            found = gradient(weights, batch) - gradient(there, batch) + slope
        weights = weights - step * (found * nbeta + (weights - origin) * localization)
    return weights
