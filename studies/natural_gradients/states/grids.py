"""How are a function, its gradient and its divergence written on a grid of cells?"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float


@dataclass(frozen=True)
class Grid:
    """Cells of equal size over a box; a state has a value at each cell's centre.

    Attributes:
        lows, highs: The box, an entry an axis.
        shape: Cells along each axis, at least 2; states are flattened in C order.

    Raises ValueError for a box or a shape that is none.
    """

    lows: tuple[float, ...]
    highs: tuple[float, ...]
    shape: tuple[int, ...]

    def __post_init__(self):
        alike = len(self.lows) == len(self.highs) == len(self.shape) > 0
        if not alike or min(self.shape) < 2:
            raise ValueError(
                f"a grid of {self.shape} cells from {self.lows} to {self.highs} given; allowed: an"
                " entry of each an axis, at least 2 cells"
            )
        if not all(low < high for low, high in zip(self.lows, self.highs, strict=True)):
            raise ValueError(f"a box from {self.lows} to {self.highs} given; allowed: low < high")

    @property
    def size(self) -> int:
        """N, cells."""
        return int(np.prod(self.shape))

    @cached_property
    def spacing(self) -> Float[np.ndarray, " axes"]:
        """h, along each axis."""
        return (np.array(self.highs) - np.array(self.lows)) / np.array(self.shape)

    @property
    def volume(self) -> float:
        """Of a cell: integrals are sums times this."""
        return float(np.prod(self.spacing))

    @cached_property
    def centres(self) -> Float[np.ndarray, "N axes"]:
        """Where the values are."""
        axes = [
            low + h * (np.arange(n) + 0.5)
            for low, h, n in zip(self.lows, self.spacing, self.shape, strict=True)
        ]
        return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(self.size, -1)

    def _along(self, axis: int, line: sp.spmatrix) -> sp.csr_array:
        """A matrix of one axis, as it acts on the whole grid."""
        eyes = [sp.eye_array(n) for n in self.shape]
        found = sp.eye_array(1)
        for i, eye in enumerate(eyes):
            found = sp.kron(found, line if i == axis else eye)
        return sp.csr_array(found)

    @cached_property
    def gradient(self) -> sp.csr_array:
        """∇ (faces, N): differences across inner faces, over h; −∇ᵀ is the divergence, no flux out.

        The faces of the first axis come first.
        """
        lines = [
            sp.diags_array([-1.0, 1.0], offsets=[0, 1], shape=(n - 1, n)) / h
            for n, h in zip(self.shape, self.spacing, strict=True)
        ]
        return sp.vstack([self._along(i, line) for i, line in enumerate(lines)], format="csr")

    @cached_property
    def means(self) -> sp.csr_array:
        """(faces, N): the mean of the two cells of each inner face."""
        lines = [sp.diags_array([0.5, 0.5], offsets=[0, 1], shape=(n - 1, n)) for n in self.shape]
        return sp.vstack([self._along(i, line) for i, line in enumerate(lines)], format="csr")

    @cached_property
    def edge(self) -> sp.csr_array:
        """(outer faces, N): takes the cell beside each face of the box, as √2/h times its value.

        With u = 0 on the box, its square times a is the flux a · u/(h/2) over h: `[gradient; edge]`
        is the gradient with that condition.
        """
        ends = [
            sp.csr_array(
                (np.full(2, np.sqrt(2.0) / h), ([0, 1], [0, n - 1])), shape=(2, n), dtype=float
            )
            for n, h in zip(self.shape, self.spacing, strict=True)
        ]
        return sp.vstack([self._along(i, end) for i, end in enumerate(ends)], format="csr")
