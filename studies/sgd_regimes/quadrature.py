"""Which few modes stand for a tail of thousands? Gauss nodes, an octave of eigenvalues at a time.

In SD(τ) modes meet only in ΣC, and the answer of a mode, to its start c_k and to noise of strength
λ_k², is a smooth function of λ_k. So Σ_k c_k f(λ_k) and Σ_k λ_k² f(λ_k) over an octave are taken by
Gauss quadrature of these two discrete measures: nodes by Lanczos's recursion (Golub & Meurant,
"Matrices, Moments and Quadrature with Applications", 2010, chapter 4). Its error is small beside
what an octave holds at its start, so beside L₀; see `spectral.spectral_diagonal`.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

HEAD = 150  # largest eigenvalues, kept one by one
NODES = 12  # of an octave and measure
WORTH = 512  # modes from which on a tail is worth a quadrature


class Modes(NamedTuple):
    """Modes, or nodes that stand for several.

    Attributes:
        eigenvalues: λ_j.
        starts: Σ c_k of what a node stands for, 0 where it answers to noise only.
        forces: Σ λ_k² of what a node stands for, 0 where it answers to its start only.
    """

    eigenvalues: Float[np.ndarray, " M"]
    starts: Float[np.ndarray, " M"]
    forces: Float[np.ndarray, " M"]


def all_modes(eigenvalues: Float[np.ndarray, " K"], moments: Float[np.ndarray, " K"]) -> Modes:
    """Every mode for itself."""
    return Modes(eigenvalues, moments, eigenvalues**2)


def compressed(
    eigenvalues: Float[np.ndarray, " K"],
    moments: Float[np.ndarray, " K"],
    head: int = HEAD,
    nodes: int = NODES,
) -> Modes:
    """The `head` largest modes, and Gauss nodes for each octave of the others.

    An octave of at most 2 `nodes` modes is kept as it is, so that nothing is lost on small spectra.
    """
    order = np.argsort(-eigenvalues, kind="stable")
    values, starts = eigenvalues[order], moments[order]
    parts = [all_modes(values[:head], starts[:head])]
    first = min(head, len(values))
    while first < len(values):
        last = int(np.searchsorted(-values, -values[first] / 2, side="right"))
        last = max(last, first + 1) if values[first] > 0 else len(values)
        octave, its = values[first:last], starts[first:last]
        if last - first <= 2 * nodes:
            parts.append(all_modes(octave, its))
        elif values[first] == 0:  # modes that never move
            parts.append(Modes(octave[:1], its.sum(keepdims=True), np.zeros(1)))
        else:
            at, weights = gauss(octave, its, nodes)
            parts.append(Modes(at, weights, np.zeros(len(at))))
            at, weights = gauss(octave, octave**2, nodes)
            parts.append(Modes(at, np.zeros(len(at)), weights))
        first = last
    return Modes(*(np.concatenate(of) for of in zip(*parts, strict=True)))


def gauss(
    points: Float[np.ndarray, " m"], weights: Float[np.ndarray, " m"], count: int
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Nodes and weights that integrate polynomials up to degree 2 `count` − 1 as Σ w_i f(p_i) does.

    Fewer nodes where fewer points have a weight; none where no point has one.
    """
    kept = weights > 0
    points, weights = points[kept], weights[kept]
    if len(points) <= count:
        return points, weights
    middle, half = 0.5 * (points.max() + points.min()), 0.5 * (points.max() - points.min())
    if half == 0:
        return points[:1], weights.sum(keepdims=True)
    scaled, total = (points - middle) / half, weights.sum()
    basis = np.zeros((count, len(points)))
    diagonal, off = np.zeros(count), np.zeros(count)
    vector = np.sqrt(weights / total)
    for n in range(count):
        basis[n] = vector
        diagonal[n] = vector @ (scaled * vector)
        vector = scaled * vector
        for _ in range(2):  # twice is enough for orthogonality to rounding
            vector = vector - basis[: n + 1].T @ (basis[: n + 1] @ vector)
        off[n] = np.linalg.norm(vector)
        vector = vector / off[n]
    tridiagonal = np.diag(diagonal) + np.diag(off[:-1], 1) + np.diag(off[:-1], -1)
    at, vectors = np.linalg.eigh(tridiagonal)
    return middle + half * at, total * vectors[0] ** 2
