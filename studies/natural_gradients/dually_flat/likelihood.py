"""What is the likeliest model? Newton's method with backtracking, on the counts of (x, y)."""

import numpy as np
from jaxtyping import Float
from scipy.linalg import cho_factor, cho_solve

from studies.natural_gradients.dually_flat.model import Model, cross_entropy, softmax

RIDGE = 1e-13  # of the Hessian's largest diagonal entry: keeps it definite where p(y | x) → 0


def maximum_likelihood(
    model: Model,
    weights: Float[np.ndarray, "cells classes"],
    tolerance: float = 1e-12,
    max_steps: int = 200,
) -> Float[np.ndarray, "rows classes"]:
    """θ that maximises Σ w log p(y | x); its last column and the rows of last values are 0.

    The conditional has (1 + Σ(m_i − 1))(s − 1) parameters, and its loss is convex in them. A step
    is halved until the loss falls by a quarter of what its slope promises. Where a value never came
    with a label the likelihood may have no maximum; then it is neared to the tolerance.

    Args:
        weights: Shares or counts of each (x, y), see `model.shares`.
        tolerance: In nats a sample: of half the squared Newton decrement, at which it ends.

    Raises:
        ValueError: Negative weights, a feature value or a label that was never seen: its parameters
            have no likeliest value.
        ArithmeticError: Not reached in `max_steps`.
    """
    weights = _seen(model, np.asarray(weights, dtype=np.float64))
    kept = np.flatnonzero(model.free[:, 0])
    design, of_x = model.design[:, kept], weights.sum(axis=1)
    pairs = (design[:, :, None] * design[:, None]).reshape(len(design), -1)
    table = np.zeros((model.rows, model.classes))
    loss = cross_entropy(model, weights, table)
    for _ in range(max_steps):
        probabilities = softmax(model.design @ table)
        slope = design.T @ (of_x[:, None] * probabilities - weights)[:, :-1]
        hessian = _hessian(pairs, of_x, probabilities[:, :-1])
        step = cho_solve(cho_factor(hessian), slope.ravel()).reshape(slope.shape)
        decrement = float((step * slope).sum())
        if decrement / 2 <= tolerance:
            return table
        length = 1.0
        while True:
            trial = table.copy()
            trial[kept, :-1] -= length * step
            found = cross_entropy(model, weights, trial)
            if found <= loss - length * decrement / 4 or length < 1e-8:
                break
            length /= 2
        table, loss = trial, found
    raise ArithmeticError(
        f"no maximum of the likelihood in {max_steps} Newton steps: half the squared decrement is"
        f" {decrement / 2:.3g}; allowed: {tolerance:g}"
    )


def _hessian(
    pairs: Float[np.ndarray, "cells pairs"],
    of_x: Float[np.ndarray, " cells"],
    probabilities: Float[np.ndarray, "cells free"],
) -> Float[np.ndarray, "all all"]:
    """Σ_x w_x ttᵀ ⊗ (diag p − ppᵀ)."""
    rows, labels = round(pairs.shape[1] ** 0.5), probabilities.shape[1]
    spread = probabilities[:, :, None] * (np.eye(labels) - probabilities[:, None])
    found = pairs.T @ (of_x[:, None] * spread.reshape(len(of_x), -1))
    blocks = found.reshape(rows, rows, labels, labels).swapaxes(1, 2)
    hessian = blocks.reshape(rows * labels, -1)
    hessian[np.diag_indices_from(hessian)] += RIDGE * hessian.diagonal().max()
    return hessian


def _seen(
    model: Model, weights: Float[np.ndarray, "cells classes"]
) -> Float[np.ndarray, "cells classes"]:
    """Weights that sum to 1, refused where nothing is known of a parameter."""
    if weights.shape != (len(model.design), model.classes) or not (weights >= 0).all():
        raise ValueError(
            f"weights of shape {weights.shape}, least {weights.min():g}, given; allowed:"
            f" {(len(model.design), model.classes)}, >= 0"
        )
    counts = model.design.T @ weights.sum(axis=1)
    for i, block in enumerate(model.blocks):
        for value in np.flatnonzero(counts[block] == 0):
            raise ValueError(
                f"x_{i + 1} = {value} was never seen; allowed: each value at least once"
            )
    for label in np.flatnonzero(weights.sum(axis=0) == 0):
        raise ValueError(f"y = {label} was never seen; allowed: each label at least once")
    return weights / weights.sum()
