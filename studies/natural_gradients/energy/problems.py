"""Which equations are solved, at which points, and how far from the solution is a network?

Each is a least-squares problem: rows √(volume/points) × what is left of the equation inside, on the
boundary and at the start, whose sum of squares is the loss that physics-informed networks minimise.
All solutions are known. `Rows` says one kind of rows: D u + g(u) − f at some points.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from scipy.stats import qmc
from torch import Tensor

from studies.natural_gradients.energy.network import (
    Operator,
    applied,
    applied_jacobian,
    identity,
    values,
)

KINDS = ("poisson-2d", "poisson-5d", "heat", "nonlinear")
DIFFUSIVITY = 0.25  # of the heat equation


class Rows(NamedTuple):
    """weight × (D u + cube·u³ − target) at points."""

    points: Float[Tensor, "n d"]
    weight: float
    operator: Operator
    target: Float[Tensor, " n"]
    cube: float = 0.0


@dataclass(frozen=True)
class Problem:
    """An equation as least squares.

    Attributes:
        rows: Its residuals, kind by kind.
        test_points: Where the error is measured, other than the training points.
        solution: u* there.
    """

    rows: tuple[Rows, ...]
    test_points: Float[Tensor, "m d"]
    solution: Float[Tensor, " m"]

    @property
    def dim(self) -> int:
        """Of space, time included."""
        return self.test_points.shape[1]


def residuals(problem: Problem, weights: Float[Tensor, " p"]) -> Float[Tensor, " n"]:
    """r, whose square r·r is the loss."""
    found = []
    for points, weight, operator, target, cube in problem.rows:
        if cube:
            main, u = applied(weights, points, operator, identity(points.shape[1]))
            main = main + cube * u**3
        else:
            (main,) = applied(weights, points, operator)
        found.append(weight * (main - target))
    return torch.cat(found)


def linearised(
    problem: Problem, weights: Float[Tensor, " p"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n p"]]:
    """(r, ∂r/∂weights): where the equation is not linear, Gauss-Newton's rows D + 3·cube·u²."""
    pairs = []
    for points, weight, operator, target, cube in problem.rows:
        if cube:
            (main, jacobian), (u, by_u) = applied_jacobian(
                weights, points, operator, identity(points.shape[1])
            )
            main = main + cube * u**3
            jacobian = jacobian + (3 * cube * u**2)[:, None] * by_u
        else:
            ((main, jacobian),) = applied_jacobian(weights, points, operator)
        pairs.append((weight * (main - target), weight * jacobian))
    return torch.cat([r for r, _ in pairs]), torch.cat([j for _, j in pairs])


def relative_error(problem: Problem, weights: Float[Tensor, " p"]) -> float:
    """|u − u*| / |u*| over the test points: the relative L2 error."""
    u = values(weights, problem.test_points)
    return float((u - problem.solution).norm() / problem.solution.norm())


def make_problem(kind: str) -> Problem:
    """One of `KINDS`, with its points; raises ValueError for another name."""
    makers = dict(zip(KINDS, (poisson_2d, poisson_5d, heat, nonlinear), strict=True))
    if kind not in makers:
        raise ValueError(f"problem {kind!r} given; allowed: {', '.join(KINDS)}")
    return makers[kind]()


# ---- the four problems ---------------------------------------------------------------------------


def poisson_2d() -> Problem:
    """−Δu = 2π² u* on the unit square, u = 0 at its boundary; u* = sin πx · sin πy."""
    return _on_square(lambda u: 2 * math.pi**2 * u, 0.0)


def nonlinear() -> Problem:
    """−Δu + u³ = 2π² u* + u*³ on the unit square, u = 0 at its boundary; u* = sin πx · sin πy."""
    return _on_square(lambda u: 2 * math.pi**2 * u + u**3, 1.0)


def poisson_5d() -> Problem:
    """−Δu = π² u* on the unit cube of 5 dimensions, u = u* at its boundary; u* = Σ_k cos πx_k."""
    dim, num_inside, num_boundary = 5, 1024, 512

    def solution(x: Tensor) -> Tensor:
        return torch.cos(math.pi * x).sum(1)

    inside = _sobol(num_inside, dim, seed=0)
    boundary = _sobol(num_boundary, dim, seed=1)
    face = torch.arange(num_boundary) % (2 * dim)
    boundary[torch.arange(num_boundary), face // 2] = (face % 2).double()
    laplacian = Operator(0.0, [0.0] * dim, [-1.0] * dim)
    rows = (
        Rows(inside, num_inside**-0.5, laplacian, math.pi**2 * solution(inside)),
        Rows(boundary, (2 * dim / num_boundary) ** 0.5, identity(dim), solution(boundary)),
    )
    test = _sobol(4096, dim, seed=2)
    return Problem(rows, test, solution(test))


def heat() -> Problem:
    """∂_t u = ¼ ∂_x² u for x and t in (0, 1), u = 0 at both ends; u* = exp(−π² t/4) sin πx."""

    def solution(x: Tensor) -> Tensor:
        return torch.exp(-DIFFUSIVITY * math.pi**2 * x[:, 1]) * torch.sin(math.pi * x[:, 0])

    grid = torch.linspace(0, 1, 30, dtype=torch.float64)
    inside = torch.cartesian_prod(grid[1:-1], grid[1:])
    start = torch.stack([grid, torch.zeros_like(grid)], dim=1)
    ends = torch.cartesian_prod(grid[[0, -1]], grid)
    equation = Operator(0.0, [0.0, 1.0], [-DIFFUSIVITY, 0.0])
    rows = (
        Rows(inside, len(inside) ** -0.5, equation, torch.zeros(len(inside)).double()),
        Rows(start, len(start) ** -0.5, identity(2), solution(start)),
        Rows(ends, (2 / len(ends)) ** 0.5, identity(2), torch.zeros(len(ends)).double()),
    )
    test = _midpoints(50)
    return Problem(rows, test, solution(test))


def _on_square(source: Callable[[Tensor], Tensor], cube: float) -> Problem:
    """−Δu + cube·u³ = source(u*) with zeros at the boundary, on a 30 × 30 grid of points."""

    def solution(x: Tensor) -> Tensor:
        return torch.sin(math.pi * x).prod(1)

    grid = torch.linspace(0, 1, 30, dtype=torch.float64)
    points = torch.cartesian_prod(grid, grid)
    at_edge = ((points == 0) | (points == 1)).any(1)
    inside, boundary = points[~at_edge], points[at_edge]
    laplacian = Operator(0.0, [0.0, 0.0], [-1.0, -1.0])
    rows = (
        Rows(inside, len(inside) ** -0.5, laplacian, source(solution(inside)), cube),
        Rows(boundary, (4 / len(boundary)) ** 0.5, identity(2), boundary.new_zeros(len(boundary))),
    )
    test = _midpoints(50)
    return Problem(rows, test, solution(test))


def _midpoints(count: int) -> Float[Tensor, "m 2"]:
    """Midpoints of a count × count grid of the unit square."""
    grid = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return torch.cartesian_prod(grid, grid)


def _sobol(count: int, dim: int, seed: int) -> Float[Tensor, "n d"]:
    """Scrambled Sobol' points of the unit cube; `count` is a power of two."""
    sampler = qmc.Sobol(dim, rng=seed)
    return torch.from_numpy(sampler.random_base2(count.bit_length() - 1))
