"""How does a mixture of Gaussians on a grid move with its parameters, and what may it minimise?

The mixture keeps a share of uniform background: its density is nowhere so small that Fisher-Rao
and W₂ divide by nothing. It is normalised on the grid, so that every change of it is without mass.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from studies.natural_gradients.states.grids import Grid
from studies.natural_gradients.states.metrics import check_density

BACKGROUND = 1e-3  # share of the uniform density
LEVELS = 400  # quantiles of the transport objective


class State(NamedTuple):
    """A density (N,) and its derivative by the parameters (N, p)."""

    density: Float[np.ndarray, " N"]
    jacobian: Float[np.ndarray, "N p"]


def mixture(grid: Grid, parameters: Float[np.ndarray, " p"]) -> State:
    """Σ_k w_k N(m_k, s_k² I) plus background, on a grid's cells.

    Args:
        parameters: p = K(axes + 2) − 1: means, component by component, log s_k, and K − 1 logits
            of w, the last one's being 0.

    Raises:
        ValueError: A number of parameters that no K has, ones that are not finite, or a bell that
            the grid does not see: its middle outside the box, narrower than a cell or wider than
            the box.
    """
    axes = len(grid.shape)
    count, left = divmod(len(parameters) + 1, axes + 2)
    if left or count < 1 or not np.isfinite(parameters).all():
        raise ValueError(
            f"{len(parameters)} parameters given, finite: {bool(np.isfinite(parameters).all())};"
            f" allowed: K·{axes + 2} − 1 finite ones of K components"
        )
    means = parameters[: count * axes].reshape(count, axes)
    scales = _seen(grid, means, parameters[count * axes : count * (axes + 1)])
    logits = np.r_[parameters[count * (axes + 1) :], 0.0]
    weights = np.exp(logits - logits.max())
    weights /= weights.sum()
    away = (grid.centres[:, None] - means) / scales[:, None]  # (N, K, axes)
    squares = (away**2).sum(axis=-1)
    bells = np.exp(-0.5 * squares) / (2 * np.pi * scales**2) ** (axes / 2)
    parts = weights * bells
    mixed = parts.sum(axis=1)
    columns = [
        (parts[:, :, None] * away / scales[:, None]).reshape(grid.size, -1),
        parts * (squares - axes),
        (parts - mixed[:, None] * weights)[:, :-1],
    ]
    jacobian = np.concatenate(columns, axis=1)
    mass = grid.volume * mixed.sum()
    shape = mixed / mass
    jacobian = (jacobian - np.outer(shape, grid.volume * jacobian.sum(axis=0))) / mass
    uniform = 1 / (grid.volume * grid.size)
    density = (1 - BACKGROUND) * shape + BACKGROUND * uniform
    return State(density, (1 - BACKGROUND) * jacobian)


def _seen(grid: Grid, means: np.ndarray, logs: np.ndarray) -> np.ndarray:
    """s of bells that the grid sees."""
    low, high = np.log(grid.spacing.max()), np.log(np.max(np.subtract(grid.highs, grid.lows)))
    inside = ((means >= grid.lows) & (means <= grid.highs)).all(axis=1)
    wrong = ~(inside & (logs >= low) & (logs <= high))
    if wrong.any():
        k = int(wrong.argmax())
        raise ValueError(
            f"bell {k + 1} given at {means[k]}, log s = {logs[k]:.3g}; allowed: inside the box, and"
            f" log s from {low:.3g} (a cell) to {high:.3g} (the box)"
        )
    return np.exp(logs)


# ---- objectives: (f, ∂_ρf by the cells' values) --------------------------------------------------

Objective = Callable[[np.ndarray], tuple[float, np.ndarray]]


def squared_distance(grid: Grid, target: Float[np.ndarray, " N"]) -> Objective:
    """½∫(ρ − target)²."""

    def value(density: np.ndarray) -> tuple[float, np.ndarray]:
        gap = density - target
        return 0.5 * grid.volume * float(gap @ gap), grid.volume * gap

    return value


def relative_entropy(grid: Grid, target: Float[np.ndarray, " N"]) -> Objective:
    """KL(target ‖ ρ) = ∫ target log(target/ρ), in nats."""
    target = check_density(grid, target)

    def value(density: np.ndarray) -> tuple[float, np.ndarray]:
        loss = grid.volume * float(target @ np.log(target / density))
        return loss, -grid.volume * target / density

    return value


def transport_cost(grid: Grid, target: Float[np.ndarray, " N"]) -> Objective:
    """½W₂² on a line: half the mean square of the difference of quantiles, at LEVELS levels.

    Exact for densities that are constant in a cell, and so is its derivative: where the quantile x
    lies, ρ(x) dx = −dF(x).
    """
    levels = (np.arange(LEVELS) + 0.5) / LEVELS
    low, step = grid.lows[0], float(grid.spacing[0])

    def quantiles(density: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        sums = np.r_[0.0, np.cumsum(density) * step]
        at = levels * sums[-1]
        cells = np.clip(np.searchsorted(sums, at, side="right") - 1, 0, len(density) - 1)
        inside = (at - sums[cells]) / (density[cells] * step)
        return low + step * (cells + inside), cells, inside

    aims = quantiles(check_density(grid, target))[0]

    def value(density: np.ndarray) -> tuple[float, np.ndarray]:
        found, cells, inside = quantiles(density)
        gap = found - aims
        pull = gap / density[cells] / LEVELS
        # x_j has density[i] · step before it for cells i < cells_j, a part of the cell that it is
        # in, and is at a level times all of the mass.
        at = np.bincount(cells, pull, minlength=len(density) + 1)
        before = np.cumsum(at[::-1])[::-1][1:]
        within = np.bincount(cells, pull * inside, minlength=len(density))
        slope = step * (pull @ levels - before - within)
        return 0.5 * float(gap @ gap) / LEVELS, slope

    return value


OBJECTIVES: dict[str, Callable[[Grid, np.ndarray], Objective]] = {
    "½L²": squared_distance,
    "KL": relative_entropy,
    "½W₂²": transport_cost,
}
