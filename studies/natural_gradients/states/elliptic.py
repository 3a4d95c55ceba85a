"""Which coefficient e^θ of −∇·(e^θ∇u) = f makes the states u that were observed?

On a grid's cells with u = 0 on the box: D = [∇; edge], a = M e^θ a face's coefficient, A(θ) = Dᵀ
diag(a) D. The state equation is A(θ)u = f, so that g_u = A and g_θ = Dᵀ diag(Du) M diag(e^θ), both
sparse and exact for the discrete problem. Several sources f share A, hence its factorisation.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.sparse.linalg import splu

from studies.natural_gradients.states.grids import Grid


@dataclass(frozen=True)
class Elliptic:
    """The equation on a grid, with sources (sources, N)."""

    grid: Grid
    sources: Float[np.ndarray, "sources N"]

    @cached_property
    def difference(self) -> sp.csr_array:
        """D (all faces, N)."""
        return sp.vstack([self.grid.gradient, self.grid.edge], format="csr")

    @cached_property
    def mean(self) -> sp.csr_array:
        """M (all faces, N): the mean of a face's cells; of an outer face, its one cell."""
        return sp.vstack([self.grid.means, self.grid.edge.astype(bool).astype(float)], format="csr")

    def matrix(self, theta: ArrayLike) -> sp.csc_array:
        """A(θ) (N, N). Raises ValueError for a θ that is not finite, or of another shape."""
        theta = np.asarray(theta, dtype=np.float64)
        if theta.shape != (self.grid.size,) or not np.isfinite(theta).all():
            raise ValueError(
                f"θ of shape {theta.shape}, finite: {bool(np.isfinite(theta).all())}, given;"
                f" allowed: finite, of shape ({self.grid.size},)"
            )
        weights = sp.diags_array(self.mean @ np.exp(theta))
        return sp.csc_array(self.difference.T @ weights @ self.difference)

    def states(self, theta: ArrayLike) -> Float[np.ndarray, "sources N"]:
        """u of each source."""
        return splu(self.matrix(theta), permc_spec="MMD_AT_PLUS_A").solve(self.sources.T).T

    def by_parameters(
        self, theta: Float[np.ndarray, " N"], states: Float[np.ndarray, "sources N"]
    ) -> sp.csr_array:
        """g_θ (sources · N, N), one source below the other."""
        blocks = [
            self.difference.T @ sp.diags_array(self.difference @ state) @ self.mean
            for state in states
        ]
        return sp.csr_array(sp.vstack(blocks) @ sp.diags_array(np.exp(theta)))


def true_coefficient(grid: Grid) -> Float[np.ndarray, " N"]:
    """θ that is to be found on the unit square: a wave, a bump and a step."""
    x, y = grid.centres.T
    bump = np.exp(-((x - 0.3) ** 2 + (y - 0.65) ** 2) / 0.02)
    step = ((np.abs(x - 0.7) < 0.12) & (np.abs(y - 0.35) < 0.15)).astype(float)
    return 0.4 * np.sin(2 * np.pi * x) * np.cos(np.pi * y) + bump - 0.8 * step


def spread_sources(grid: Grid, count: int) -> Float[np.ndarray, "sources N"]:
    """`count` sources on the unit square, bells on a circle around its middle."""
    turns = 2 * np.pi * (np.arange(count) + 0.5) / count
    middles = 0.5 + 0.3 * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    squares = ((grid.centres[None] - middles[:, None]) ** 2).sum(axis=-1)
    return 10 * np.exp(-squares / 0.02)
