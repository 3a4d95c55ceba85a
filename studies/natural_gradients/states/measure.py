"""What do natural gradients of states give, in which metric, and at what price?"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, svds

from degeneracy.runs.work import Measured, Work
from studies.natural_gradients.states.descent import Path, descend
from studies.natural_gradients.states.elliptic import Elliptic, spread_sources, true_coefficient
from studies.natural_gradients.states.gaussian_process import (
    Gaussian,
    bound,
    by_adam,
    natural_step,
    optimum,
    regression,
)
from studies.natural_gradients.states.grids import Grid
from studies.natural_gradients.states.implicit import (
    explicit_direction,
    implicit_direction,
    implicit_jacobian,
)
from studies.natural_gradients.states.metrics import (
    METRICS,
    Metric,
    fisher_rao,
    l2,
    wasserstein,
    wasserstein_1d,
)
from studies.natural_gradients.states.mixture import (
    OBJECTIVES,
    Objective,
    mixture,
    relative_entropy,
)
from studies.natural_gradients.states.settings import Settings

GRADIENT = "gradient descent"
TARGET = (-3.0, 0.0, 2.5, *np.log([0.5, 0.8, 0.4]), 0.3, 0.0)  # means, log s, logits of the mixture
HALF_BOX = 8.0  # of the line and the square that mixtures live on
DAMPING = 1e-2  # of mixtures' directions, see `explicit_direction`
ADAM_LR = 0.1


def measure(work: Work) -> Measured:
    """Exactness, mixtures by objective, transport, the inverse problem, the Gaussian process."""
    settings: Settings = work.settings.states
    keys: dict[str, Callable[[], dict]] = {"exactness": exactness}
    keys |= {
        f"mixture, {name}": lambda name=name: mixture_descents(settings, name)
        for name in OBJECTIVES
    }
    keys |= {
        "transport": lambda: transport(settings),
        "inverse": lambda: inverse(settings),
        "process": lambda: process(settings),
    }
    for key in work.todo(keys, "example"):
        yield key, keys[key]()


# ---- exactness -----------------------------------------------------------------------------------


def exactness() -> dict[str, Any]:
    """Constants of a Gaussian's shift, QR against the explicit inverse, near-parallel columns."""
    return {
        "constants": shift_constants(1.0, 400),
        "inverse": {name: gap_to_inverse(name) for name in METRICS},
        "parallel": parallel_columns(),
    }


def shift_constants(scale: float, cells: int) -> dict[str, float]:
    """|∂_m ρ|² of N(m, s²), over its closed form, less 1: L² 1/(4√π s³), FR 1/s², W₂ 1."""
    grid = Grid((-10 * scale,), (10 * scale,), (cells,))
    at = grid.centres[:, 0]
    density = np.exp(-0.5 * (at / scale) ** 2) / (np.sqrt(2 * np.pi) * scale)
    shift = density * at / scale**2
    found = {
        "L²": (l2(grid), 1 / (4 * np.sqrt(np.pi) * scale**3)),
        "Fisher-Rao": (fisher_rao(grid, density), 1 / scale**2),
        "W₂": (wasserstein_1d(grid, density), 1.0),
    }
    return {
        name: float((metric.root(shift) ** 2).sum() / constant - 1)
        for name, (metric, constant) in found.items()
    }


def dense_metric(grid: Grid, density: np.ndarray, name: str) -> np.ndarray:
    """The matrix G of a metric ζᵀGζ, from its definition, without L."""
    slope, one = grid.gradient.toarray(), np.eye(grid.size)
    inner = one + slope.T @ slope
    faces = grid.means @ density
    matrices = {
        "L²": lambda: one,
        "Fisher-Rao": lambda: np.diag(1 / density),
        "H¹": lambda: inner,
        "H⁻¹": lambda: np.linalg.inv(inner),
        "W₂": lambda: np.linalg.pinv(slope.T @ np.diag(faces) @ slope, hermitian=True),
    }
    return grid.volume * matrices[name]()


def gap_to_inverse(name: str) -> float:
    """Largest difference of QR's direction from (ZᵀGZ)⁻¹Zᵀ∂f, over its largest entry."""
    grid = Grid((-4.0,), (4.0,), (60,))
    state = mixture(grid, np.array([-1.0, 1.5, 0.1, -0.2, 0.4]))
    gradient = np.random.default_rng(0).normal(size=grid.size)
    z, matrix = state.jacobian, dense_metric(grid, state.density, name)
    expected = np.linalg.inv(z.T @ matrix @ z) @ (z.T @ gradient)
    metric = METRICS[name](grid, state.density)
    found = explicit_direction(z, metric, gradient).direction.numpy()
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def parallel_columns(apart: float = 1e-6) -> dict[str, float]:
    """Two bells so near each other that columns of Y are nearly parallel, and a known solution.

    Relative errors of the direction by QR and by normal equations, in the Fisher-Rao metric.
    """
    grid = Grid((-4.0,), (4.0,), (200,))
    state = mixture(grid, np.array([-apart / 2, apart / 2, 0.0, 0.0, 0.0]))
    rows = fisher_rao(grid, state.density).root(state.jacobian)[:, :2]  # by the two means
    known = np.array([1.0, -2.0])
    wanted = rows @ known
    by_qr = explicit_direction(rows, l2(Grid((0.0,), (200.0,), (200,))), wanted)
    normal = np.linalg.solve(rows.T @ rows, rows.T @ wanted)
    norm = np.linalg.norm(known)
    return {
        "condition": float(np.linalg.cond(rows)),
        "qr": float(np.linalg.norm(by_qr.direction.numpy() - known) / norm),
        "normal": float(np.linalg.norm(normal - known) / norm),
    }


# ---- mixtures ------------------------------------------------------------------------------------


def mixture_descents(settings: Settings, name: str) -> dict[str, Any]:
    """Losses of every metric and of the plain gradient from several starts, one objective."""
    grid = Grid((-HALF_BOX,), (HALF_BOX,), (settings.mixture_cells,))
    objective = OBJECTIVES[name](grid, mixture(grid, np.array(TARGET)).density)
    random = np.random.default_rng(settings.seed)
    starts = [
        np.r_[random.uniform(-5, 5, 3), random.normal(0, 0.3, 3).clip(-0.6, 0.6), np.zeros(2)]
        for _ in range(settings.mixture_starts)
    ]
    methods = {
        **{key: (lambda density, make=make: make(grid, density)) for key, make in METRICS.items()},
        "W₂": lambda density: wasserstein_1d(grid, density),
        GRADIENT: None,
    }
    found = {}
    for key, make in methods.items():
        since = time.process_time()
        paths = [
            mixture_path(grid, objective, make, start, settings.mixture_steps) for start in starts
        ]
        found[key] = {
            "losses": [path.losses for path in paths],
            "ends": [sorted(path.parameters[:3].tolist()) for path in paths],
            "process_s": time.process_time() - since,
        }
    return {
        "objective": name,
        "steps": settings.mixture_steps,
        "target": list(TARGET[:3]),
        "methods": found,
    }


def mixture_path(
    grid: Grid,
    objective: Objective,
    metric: Callable[[np.ndarray], Metric] | None,
    start: np.ndarray,
    num_steps: int,
) -> Path:
    """One descent; without a metric along the gradient by parameters."""

    def loss(parameters: np.ndarray) -> float:
        return objective(mixture(grid, parameters).density)[0]

    def step(parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        state = mixture(grid, parameters)
        gradient = objective(state.density)[1]
        by_parameters = state.jacobian.T @ gradient
        if metric is None:
            return by_parameters, by_parameters
        found = explicit_direction(state.jacobian, metric(state.density), gradient, DAMPING)
        return found.direction.numpy(), by_parameters

    return descend(start, loss, step, num_steps, longest=np.inf if metric is None else 1.0)


def transport(settings: Settings) -> dict[str, Any]:
    """W₂ on a square of side² cells: a mixture's descent on KL, beside L² and the gradient."""
    side, count = settings.side, settings.transport_components
    grid = Grid((-HALF_BOX,) * 2, (HALF_BOX,) * 2, (side, side))
    random = np.random.default_rng(settings.seed)

    def bells(spread: float) -> np.ndarray:
        means = random.uniform(-spread, spread, 2 * count)
        return np.r_[means, random.normal(0, 0.2, count).clip(-0.4, 0.4), np.zeros(count - 1)]

    objective = relative_entropy(grid, mixture(grid, bells(5.0)).density)
    start = bells(3.0)
    found: dict[str, Any] = {"cells": grid.size, "faces": grid.gradient.shape[0]}
    found |= {"parameters": len(start), "shift": shift_error(grid), "methods": {}}
    for name in ("W₂", "Fisher-Rao", GRADIENT):
        make = METRICS.get(name)
        metric = make and (lambda density, make=make: make(grid, density))
        since = time.process_time()
        path = mixture_path(grid, objective, metric, start, settings.transport_steps)
        spent = time.process_time() - since
        found["methods"][name] = {"losses": path.losses, "process_s": spent}
    return found


def shift_error(grid: Grid) -> float:
    """|∂ρ|² of a bell's shift along the first axis, less 1: any density moves at speed 1."""
    squares = (grid.centres**2).sum(axis=1)
    density = np.exp(-0.5 * squares) / (2 * np.pi)
    shift = density * grid.centres[:, 0]
    kept = np.maximum(density, 1e-12)
    return float((wasserstein(grid, kept).root(shift) ** 2).sum() - 1)


# ---- the inverse problem -------------------------------------------------------------------------


class Inverse:
    """Observed states of an unknown coefficient, and both descents to it."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.grid = Grid((0.0, 0.0), (1.0, 1.0), (settings.inverse_side,) * 2)
        self.problem = Elliptic(self.grid, spread_sources(self.grid, settings.sources))
        self.truth = true_coefficient(self.grid)
        clean = self.problem.states(self.truth)
        random = np.random.default_rng(settings.seed)
        sigma = settings.noise * clean.std()
        self.observed = clean + sigma * random.normal(size=clean.shape)
        self.enough = 0.5 * self.grid.volume * sigma**2 * clean.size  # Morozov: the noise's loss
        self.metric = l2(self.grid)  # elementwise, so that states may be one below the other
        self.largest, self.iterations = 0.0, []

    def loss(self, theta: np.ndarray) -> float:
        """½∫(u − observed)², summed over sources."""
        return (
            0.5
            * self.grid.volume
            * float(((self.problem.states(theta) - self.observed) ** 2).sum())
        )

    def linear(self, theta: np.ndarray):
        """(Jv, Jᵀw), and the objective's derivative by the states."""
        states = self.problem.states(theta)
        by_parameters = self.problem.by_parameters(theta, states)
        jacobian = implicit_jacobian(self.problem.matrix(theta), by_parameters)
        return jacobian, self.grid.volume * (states - self.observed).ravel()

    def natural(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A natural step in L², damped in the scale of the first Jacobian."""
        settings, (jacobian, gradient) = self.settings, self.linear(theta)
        self.largest = self.largest or self.largest_value(jacobian, len(gradient))
        relative = max(settings.first_damping * 0.5 ** len(self.iterations), settings.last_damping)
        found = implicit_direction(jacobian, self.metric, gradient, (relative * self.largest) ** 2)
        self.iterations.append(found.iterations)
        return found.direction.numpy(), jacobian[1](gradient)

    def steepest(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The gradient by θ."""
        jacobian, gradient = self.linear(theta)
        by_parameters = jacobian[1](gradient)
        return by_parameters, by_parameters

    def largest_value(self, jacobian, rows: int) -> float:
        """Of LJ, the largest singular value."""
        operator = LinearOperator(
            (rows, self.grid.size),
            matvec=lambda v: self.metric.root(jacobian[0](v)),
            rmatvec=lambda w: jacobian[1](self.metric.adjoint(w)),
            dtype=np.float64,
        )
        start = np.ones(min(operator.shape))
        found = svds(operator, k=1, tol=1e-3, v0=start, return_singular_vectors=False)
        return float(found[0])

    def descent(self, natural: bool) -> dict[str, Any]:
        """Misfit and error by step and by process second, from θ = 0."""
        settings, zero = self.settings, np.zeros(self.grid.size)
        since = time.process_time()
        seconds, errors = [0.0], [1.0]

        def watch(theta: np.ndarray) -> None:
            seconds.append(time.process_time() - since)
            gap = np.linalg.norm(theta - self.truth) / np.linalg.norm(self.truth)
            errors.append(float(gap))

        how = {"enough": self.enough, "watch": watch}
        if natural:
            path = descend(zero, self.loss, self.natural, settings.natural_steps, **how)
        else:
            slope = self.steepest(zero)[0]
            how |= {"first": 2 * self.loss(zero) / float(slope @ slope), "longest": np.inf}
            path = descend(zero, self.loss, self.steepest, settings.gradient_steps, **how)
        norm = 0.5 * self.grid.volume * float((self.observed**2).sum())
        misfit = [float(np.sqrt(loss / norm)) for loss in path.losses]
        return {
            "misfit": misfit,
            "error": errors,
            "seconds": seconds,
            "lengths": path.lengths,
            "iterations": list(self.iterations) if natural else [],
            "found": path.parameters.reshape(self.grid.shape)[
                :: self.every, :: self.every
            ].tolist(),
        }

    @property
    def every(self) -> int:
        """Every so many cells of θ are kept, for a picture."""
        return max(1, self.settings.inverse_side // 32)


def inverse(settings: Settings) -> dict[str, Any]:
    """The natural gradient and the gradient on an elliptic inverse problem."""
    made = Inverse(settings)
    norm = 0.5 * made.grid.volume * float((made.observed**2).sum())
    shown = made.truth.reshape(made.grid.shape)[:: made.every, :: made.every]
    return {
        "parameters": made.grid.size,
        "sources": settings.sources,
        "noise": float(np.sqrt(made.enough / norm)),
        "truth": shown.tolist(),
        "methods": {"natural gradient": made.descent(True), GRADIENT: made.descent(False)},
    }


# ---- the Gaussian process ------------------------------------------------------------------------


def process(settings: Settings) -> dict[str, Any]:
    """How far from the optimum natural steps of each rate are, and Adam."""
    random = np.random.default_rng(settings.seed)
    inputs = torch.from_numpy(random.uniform(0, 1, (settings.gp_points, 1)))
    noise = torch.from_numpy(random.normal(size=settings.gp_points)) * settings.gp_noise**0.5
    targets = torch.sin(12 * inputs[:, 0]) + noise
    inducing = torch.linspace(0, 1, settings.gp_inducing, dtype=torch.float64)[:, None]
    model = regression(inputs, targets, inducing, 0.15, settings.gp_noise)
    size = settings.gp_inducing
    root = torch.from_numpy(random.normal(size=(size, size))) / size**0.5
    start = Gaussian(
        torch.from_numpy(random.normal(size=size)),
        root @ root.T + 0.1 * torch.eye(size, dtype=torch.float64),
    )
    best = optimum(model)
    top = float(bound(model, best))
    rates = {}
    for rate in settings.gp_rates:
        q, gaps = start, [top - float(bound(model, start))]
        off = [distance(q, best)]
        for _ in range(settings.gp_steps):
            q = natural_step(lambda q: bound(model, q), q, rate)
            gaps.append(top - float(bound(model, q)))
            off.append(distance(q, best))
        rates[f"{rate:g}"] = {"gaps": gaps, "off": off}
    adam = by_adam(model, start, ADAM_LR, settings.gp_adam_steps)
    return {
        "points": settings.gp_points,
        "inducing": size,
        "bound": top,
        "rates": rates,
        "adam": [top - value for value in adam],
    }


def distance(q: Gaussian, best: Gaussian) -> float:
    """Largest difference in mean or covariance."""
    gaps = [(one - other).abs().max() for one, other in zip(q, best, strict=True)]
    return float(max(gaps))
