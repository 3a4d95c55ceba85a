"""How does a loss fall along directions, each as long as backtracking lets it be?"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

SUFFICIENT = 1e-4  # of the slope: a step must gain that share of what it promises
SHORTEST = 1e-10


class Path(NamedTuple):
    """A descent.

    Attributes:
        parameters: At the end.
        losses: At the start and after each step.
        lengths: Of each step.
    """

    parameters: Float[np.ndarray, " p"]
    losses: list[float]
    lengths: list[float]


def descend(
    parameters: Float[np.ndarray, " p"],
    loss: Callable[[np.ndarray], float],
    step: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    num_steps: int,
    first: float = 1.0,
    longest: float = 1.0,
    enough: float = 0.0,
    watch: Callable[[np.ndarray], None] = lambda parameters: None,
) -> Path:
    """θ ← θ − t·d with t halved from twice the last one, at most `longest`, until the loss falls.

    Armijo's condition with 1e-4 of the slope. A trial whose loss is not finite, or whose state is
    refused, is too long. It ends where no step is long enough any more.

    Args:
        loss: f(θ).
        step: θ ↦ (d, ∇f).
        first, longest: Step lengths t; 1 for natural gradients, `inf` at most for gradients.
        enough: A loss at which it ends.
        watch: Is given θ after each step.
    """
    path, length = Path(parameters, [loss(parameters)], []), first / 2
    for _ in range(num_steps):
        if path.losses[-1] <= enough:
            break
        direction, gradient = step(path.parameters)
        slope = float(direction @ gradient)
        length = min(2 * length, longest)
        while length >= SHORTEST:
            trial = path.parameters - length * direction
            found = _or_infinite(loss, trial)
            if found <= path.losses[-1] - SUFFICIENT * length * slope:
                break
            length /= 2
        if length < SHORTEST or not slope > 0:
            break
        path = Path(trial, [*path.losses, found], [*path.lengths, length])
        watch(trial)
    return path


def _or_infinite(loss: Callable[[np.ndarray], float], at: np.ndarray) -> float:
    try:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            found = loss(at)
    except ValueError:
        return np.inf
    return found if np.isfinite(found) else np.inf
