"""How far does one pass over samples come: DSNGD, SNGD, SGD and AdaGrad?

Every method goes θ ← θ − γ_t d_t with γ_t = a/(1 + bt), t samples seen. It is published a sample at
a time; here samples are taken in batches that are short at first, at most a share of the samples
seen, and a batch counts as its samples one after the other at one θ. A batch of 1 is the published
method. Several settings of (a, b) run side by side, over the same samples.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from studies.natural_gradients.dually_flat.model import Model, check_dual, dual, raised, residual

SHARE = 0.02  # of the samples seen: a batch is no longer, so that no step is too long for one θ

Table = Float[np.ndarray, "rows runs classes"]


class Batch(NamedTuple):
    """What a method sees of a batch.

    Attributes:
        design: T of its samples.
        labels: Their labels.
        residual: Q at the present θ.
        moments: TᵀQ, the sum of the samples' gradients.
    """

    design: Float[np.ndarray, "batch rows"]
    labels: Int[np.ndarray, " batch"]
    residual: Float[np.ndarray, "batch runs classes"]
    moments: Table


Direction = Callable[[Table, Batch], Table]  # (θ, batch) → the sum of the samples' d


def batches(num_samples: int, most: int, share: float = SHARE) -> Iterator[tuple[int, int]]:
    """(first, past the last) of each batch, of at most `most` and `share` of what came before."""
    start = 0
    while start < num_samples:
        stop = min(start + max(1, min(most, int(share * start))), num_samples)
        yield start, stop
        start = stop


def sgd(model: Model) -> Direction:
    """The gradient by (α, β)."""
    free = model.free[:, None]
    return lambda table, batch: batch.moments * free


def adagrad(model: Model) -> Direction:
    """The gradient by (α, β) over the root of the sum of its squares, a coordinate at a time.

    The squares are those of single samples: as T is of 0 and 1, their sum is Tᵀ(Q²). A coordinate
    that had no gradient yet does not move. (Duchi, Hazan & Singer, JMLR 12, 2011.)
    """
    free, squares = model.free[:, None], np.zeros(())

    def direction(table: Table, batch: Batch) -> Table:
        nonlocal squares
        squares = squares + _moments(batch.design, batch.residual**2)
        return batch.moments * free / np.sqrt(np.where(squares > 0, squares, 1.0))

    return direction


def sngd(model: Model) -> Direction:
    """The natural gradient in the metric of the present joint, μ = μ(θ)."""
    return lambda table, batch: raised(model, batch.moments, dual(model, table))


def dsngd(model: Model, pseudo_counts: float | None = None) -> Direction:
    """The natural gradient in the metric of the samples' own expectations, from running counts.

    The metric is not that of θ: it converges whatever θ does (arXiv:2001.06744). A batch is counted
    before its step.

    Args:
        pseudo_counts: Their total, spread as a uniform joint spreads it; None: (Σm_i − r + 1)s, one
            for every expectation that is free and one a label.

    Raises:
        ValueError: pseudo_counts <= 0: a value never seen with a label would have density 0.
    """
    if pseudo_counts is None:
        pseudo_counts = (model.rows - len(model.sizes)) * model.classes
    if not pseudo_counts > 0:
        raise ValueError(f"pseudo_counts = {pseudo_counts:g} given; allowed: > 0")
    counts = np.full((model.rows, model.classes), pseudo_counts / model.classes)
    for block, size in zip(model.blocks, model.sizes, strict=True):
        counts[block] /= size
    counts = check_dual(model, counts)
    onehot = np.eye(model.classes)

    def direction(table: Table, batch: Batch) -> Table:
        nonlocal counts
        counts += batch.design.T @ onehot[batch.labels]
        return raised(model, batch.moments, (counts / counts[0].sum())[:, None])

    return direction


METHODS: dict[str, Callable[[Model], Direction]] = {
    "SGD": sgd,
    "AdaGrad": adagrad,
    "SNGD": sngd,
    "DSNGD": dsngd,
}


def run(
    model: Model,
    direction: Direction,
    cells: Int[np.ndarray, " n"],
    labels: Int[np.ndarray, " n"],
    rates: Sequence[tuple[float, float]],
    most: int = 64,
    shown: Sequence[int] = (),
) -> Float[np.ndarray, "shown rows runs classes"]:
    """One pass over samples from θ = 0, for each (a, b) of `rates`.

    Args:
        direction: A fresh one: it keeps what it saw.
        cells, labels: Samples, as `check_samples` and `draw` give them.
        rates: (a, b) of γ = a/(1 + bt).
        most: Samples of a batch.
        shown: Ascending; after so many samples θ is kept, or after the batch that reaches them.

    Returns:
        θ at `shown` and at the end. A run that diverges ends in what is not finite.

    Raises:
        ValueError: No sample, a batch < 1, or rates that are not a > 0, b >= 0.
    """
    if not len(cells) or most < 1:
        raise ValueError(f"{len(cells)} samples, batch {most} given; allowed: >= 1 of each")
    if wrong := [one for one in rates if not (one[0] > 0 and one[1] >= 0)]:
        raise ValueError(f"rates (a, b) = {wrong[0]} given; allowed: a > 0, b >= 0")
    scale, decay = np.array(rates, dtype=np.float64).T[:, :, None]
    table = np.zeros((model.rows, len(rates), model.classes))
    kept, due = [], [*shown, len(cells)]
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for start, stop in batches(len(cells), most):
            at, own = model.design[cells[start:stop]], labels[start:stop]
            found = residual(_logits(at, table), own)
            batch = Batch(at, own, found, _moments(at, found))
            gamma = scale / (1 + decay * (start + stop - 1) / 2)
            table -= gamma * direction(table, batch)
            while due and stop >= due[0]:
                kept.append(table.copy())
                due.pop(0)
    return np.array(kept)


def _logits(design: np.ndarray, table: Table) -> Float[np.ndarray, "batch runs classes"]:
    flat = design @ table.reshape(len(table), -1)
    return flat.reshape(len(design), *table.shape[1:])


def _moments(design: np.ndarray, values: np.ndarray) -> Table:
    flat = design.T @ values.reshape(len(values), -1)
    return flat.reshape(-1, *values.shape[1:])
