"""What is an online natural gradient direction, written out in the plainest way?

Povey, Zhang & Khudanpur, arXiv:1410.7455, with dense float64 matrices: F, G and T are (D, D), and G
is inverted as it stands. Slow, for one tensor, and written from the method's description alone; the
optimizer is compared with it.
"""

import numpy as np


class PlainNaturalGradient:
    """Directions of one tensor, one gradient after the other. `axes` holds (R, d, ρ) of each axis
    of size D > 1.
    """

    def __init__(
        self,
        alpha=4.0,
        eta=0.1,
        epsilon=1e-10,
        delta=5e-4,
        update_period=4,
        rank=None,
        arithmetic="stable",
    ):
        self.alpha, self.eta, self.epsilon, self.delta = alpha, eta, epsilon, delta
        self.update_period, self.rank, self.arithmetic = update_period, rank, arithmetic
        self.axes = {}
        self.step = 0

    def direction(self, gradient):
        for axis in range(gradient.ndim):
            if gradient.shape[axis] > 1:
                gradient = self._along(gradient, axis)
        self.step += 1
        return gradient

    def _along(self, gradient, axis):
        size = gradient.shape[axis]
        moved = np.moveaxis(gradient, axis, -1)
        x = moved.reshape(-1, size)
        if axis not in self.axes:
            factor = self.start(size)
            for _ in range(3):
                factor = self.update(x, factor)
            self.axes[axis] = factor
        x_hat = dense_direction(x, self.axes[axis], self.alpha)
        if self.step < 10 or self.step % self.update_period == 0:
            self.axes[axis] = self.update(x, self.axes[axis])
        return np.moveaxis(x_hat.reshape(moved.shape), -1, axis)

    def start(self, size):
        rank = min((size + 1) // 2, 80) if self.rank is None else min(self.rank, size - 1)
        blocks = [1.1 * np.eye(rank)]
        while sum(block.shape[1] for block in blocks) < size:
            blocks.append(np.eye(rank))
        basis = np.concatenate(blocks, axis=1)[:, :size]
        for row in basis:
            row /= np.sqrt(np.sum(row**2))
        return basis, self.epsilon * np.ones(rank), self.epsilon

    def update(self, x, factor):
        basis, _, rho = factor
        rank, size = basis.shape
        t = self.eta * x.T @ x / len(x) + (1 - self.eta) * dense_fisher(factor)
        y = basis @ t
        if self.arithmetic == "published":
            c, u = np.linalg.eigh(y @ y.T)
            c = np.maximum(c, ((1 - self.eta) * rho) ** 2)
            new_basis = np.diag(c**-0.5) @ u.T @ y
            ritz = c**0.5
        else:
            q = np.linalg.svd(y, full_matrices=False)[
                2
            ].T  # an orthonormal basis of Y's rows, as columns
            ritz, u = np.linalg.eigh(q.T @ t @ q)
            new_basis = (q @ u).T
        new_rho = (np.trace(t) - ritz.sum()) / (size - rank)
        least = max(self.epsilon, self.delta * ritz.max())
        return new_basis, np.maximum(ritz - new_rho, least), max(new_rho, least)


def dense_fisher(factor):
    """F = Rᵀ diag(d) R + ρ I."""
    basis, eigenvalues, rho = factor
    return basis.T @ np.diag(eigenvalues) @ basis + rho * np.eye(basis.shape[1])


def dense_direction(x, factor, alpha):
    """X G⁻¹ with G = F + κ I, κ = (α/D) tr F, rescaled to the norm of X."""
    fisher = dense_fisher(factor)
    size = len(fisher)
    kappa = alpha / size * (factor[1].sum() + size * factor[2])
    x_hat = x @ np.linalg.inv(fisher + kappa * np.eye(size))
    return x_hat * np.linalg.norm(x) / np.linalg.norm(x_hat)
