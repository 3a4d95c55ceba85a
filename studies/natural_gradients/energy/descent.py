"""How far do natural steps, Adam, gradient descent and BFGS bring the loss r·r?

Energy natural gradient (Müller & Zeinhofer, arXiv:2302.13163): the energy's second derivative
pulled back to the weights is JᵀJ for a linear equation, so that the step is w ← w − αd with
d = argmin |Jd − r| and the best α of 1, ½, …, 2⁻³⁰. J's singular values fall without a gap, and
where they are cut off decides: a high cut-off stops early, at a low one d is so long that only tiny
α go downhill.

Corrected steps search over cut-offs too. A long step along small singular values bends the loss up
by its second-order effect along the large ones, which the same factors of J take back: after
w' = w − αd at a low cut-off come a few w' ← w' − J⁺r(w') at the highest. So valleys are followed
with steps that a line search alone refuses.
"""

import math
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import minimize
from torch import Tensor

from degeneracy.natural import SingularFactors
from studies.natural_gradients.energy.problems import Problem, linearised, relative_error, residuals

HALVINGS = 30  # at most, of a step
CORRECTED_HALVINGS = 10  # of one that is corrected: shorter ones gain nothing
WORTH_CORRECTING = 1e6  # a loss above this many of the last one is beyond a correction
CUTS = (1e-5, 1e-6, 1e-7, 1e-8)  # of corrected steps
CORRECTIONS = 3
BASELINES = ("adam", "gd", "lbfgs", "bfgs")


class NaturalStep(NamedTuple):
    """Where a step leads, its loss, its cut-off (None: nothing went downhill) and its halvings."""

    weights: Float[Tensor, " p"]
    loss: float
    cut: float | None
    halvings: int


class Curve(NamedTuple):
    """Relative L2 error and loss after each of `steps`, and the process seconds until then.

    `cuts` are those of natural steps; time for measuring errors, and losses that no step needs, is
    not counted.
    """

    steps: list[int]
    errors: list[float]
    losses: list[float]
    seconds: list[float]
    cuts: list[float]
    weights: Float[Tensor, " p"]


def natural_step(
    problem: Problem,
    weights: Float[Tensor, " p"],
    cuts: Sequence[float] = CUTS,
    corrections: int = CORRECTIONS,
) -> NaturalStep:
    """The best of all steps by cut-off and step size, those below the first cut-off corrected.

    Args:
        cuts: Cut-offs in (0, 1), the highest first; one of them: the published step.
        corrections: At most so many to a candidate.

    Raises:
        ValueError: No cut-offs, or not falling ones in (0, 1).
    """
    if not cuts or list(cuts) != sorted(set(cuts), reverse=True):
        raise ValueError(f"cuts = {tuple(cuts)} given; allowed: at least one, falling, in (0, 1)")
    residual, jacobian = linearised(problem, weights)
    start = float(residual @ residual)
    if not math.isfinite(start):
        raise ValueError(f"a loss of {start} given; allowed: weights at which it is finite")
    factors = SingularFactors(jacobian)
    best = NaturalStep(weights, start, None, 0)
    for cut in cuts:
        direction = factors.direction(residual, cut=cut).direction
        last = math.inf
        corrected = cut < cuts[0]
        for halvings in range((CORRECTED_HALVINGS if corrected else HALVINGS) + 1):
            there = weights - 0.5**halvings * direction
            left = residuals(problem, there)
            loss = float(left @ left)
            if corrected and loss < WORTH_CORRECTING * start:
                there, loss = _corrected(problem, factors, cuts[0], there, left, loss, corrections)
            if loss < best.loss:
                best = NaturalStep(there, loss, cut, halvings)
            if last < min(loss, start):  # downhill before, and shorter is worse
                break
            last = loss
    return best


def _corrected(
    problem: Problem,
    factors: SingularFactors,
    cut: float,
    weights: Tensor,
    left: Tensor,
    loss: float,
    corrections: int,
) -> tuple[Tensor, float]:
    """Weights and loss after w ← w − J⁺r(w) with the old J, as long as the loss falls."""
    for _ in range(corrections):
        there = weights - factors.direction(left, cut=cut).direction
        after = residuals(problem, there)
        if not (fallen := float(after @ after)) < loss:
            break
        weights, left, loss = there, after, fallen
    return weights, loss


def natural_descent(
    problem: Problem,
    weights: Float[Tensor, " p"],
    num_steps: int,
    cuts: Sequence[float] = CUTS,
    corrections: int = CORRECTIONS,
) -> Curve:
    """Natural steps until `num_steps`, or until none of the candidates goes downhill.

    Raises:
        ValueError: As `natural_step`.
    """
    curve = Curve([], [], [], [], [], weights)
    spent = 0.0
    for number in range(1, num_steps + 1):
        since = time.process_time()
        step = natural_step(problem, curve.weights, cuts, corrections)
        spent += time.process_time() - since
        if step.cut is None:
            break
        curve.cuts.append(step.cut)
        curve = _noted(curve, problem, step.weights, step.loss, number, spent)
    return curve


def baseline_descent(
    problem: Problem, weights: Float[Tensor, " p"], name: str, num_steps: int, lr: float = 1e-3
) -> Curve:
    """`"adam"` and `"gd"` by torch, with a cosine schedule from `lr`; `"lbfgs"`, `"bfgs"` by SciPy.

    Raises:
        ValueError: Another name.
    """
    if name not in BASELINES:
        raise ValueError(f"baseline {name!r} given; allowed: {', '.join(BASELINES)}")
    descend = _quasi_newton if name in ("lbfgs", "bfgs") else _first_order
    return descend(problem, weights, name, num_steps, lr)


def loss_and_gradient(
    problem: Problem, weights: Float[Tensor, " p"]
) -> tuple[float, Float[Tensor, " p"]]:
    """r·r and its gradient by backpropagation."""
    leaf = weights.detach().requires_grad_()
    left = residuals(problem, leaf)
    loss = left @ left
    (gradient,) = torch.autograd.grad(loss, leaf)
    return float(loss.detach()), gradient


def _first_order(problem: Problem, weights: Tensor, name: str, num_steps: int, lr: float) -> Curve:
    leaf = weights.clone().requires_grad_()
    kind = torch.optim.Adam if name == "adam" else torch.optim.SGD
    optimizer = kind([leaf], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    curve, spent, shown = Curve([], [], [], [], [], weights), 0.0, _shown(num_steps)
    for number in range(1, num_steps + 1):
        since = time.process_time()
        _, leaf.grad = loss_and_gradient(problem, leaf)
        optimizer.step()
        schedule.step()
        spent += time.process_time() - since
        if number in shown:
            there = leaf.detach().clone()
            left = residuals(problem, there)
            if not math.isfinite(loss := float(left @ left)):
                break
            curve = _noted(curve, problem, there, loss, number, spent)
    return curve


def _quasi_newton(problem: Problem, weights: Tensor, name: str, num_steps: int, lr: float) -> Curve:
    """SciPy's, until `num_steps` iterations; its first step is its own, so `lr` is not used."""
    curve, shown = Curve([], [], [], [], [], weights), _shown(num_steps)
    began, aside, number = time.process_time(), 0.0, 0

    def value(flat: np.ndarray) -> tuple[float, np.ndarray]:
        loss, gradient = loss_and_gradient(problem, torch.from_numpy(flat.copy()))
        return loss, gradient.numpy()

    def note(intermediate_result) -> None:
        nonlocal aside, number, curve
        number += 1
        since = time.process_time()
        if number in shown:
            there = torch.from_numpy(intermediate_result.x.copy())
            loss = float(intermediate_result.fun)
            curve = _noted(curve, problem, there, loss, number, since - began - aside)
        aside += time.process_time() - since

    options = {"maxiter": num_steps, "gtol": 0.0}
    if name == "lbfgs":
        options |= {"ftol": 0.0, "maxcor": 50, "maxfun": 2 * num_steps}
    method = "L-BFGS-B" if name == "lbfgs" else "BFGS"
    minimize(value, weights.numpy(), jac=True, method=method, callback=note, options=options)
    return curve


def _shown(num_steps: int) -> set[int]:
    """Steps at which first-order methods are measured: 60, even in log t."""
    return {int(t) for t in np.geomspace(1, num_steps, 60).round()}


def _noted(
    curve: Curve, problem: Problem, weights: Tensor, loss: float, number: int, spent: float
) -> Curve:
    curve.steps.append(number)
    curve.errors.append(relative_error(problem, weights))
    curve.losses.append(loss)
    curve.seconds.append(spent)
    return curve._replace(weights=weights)
