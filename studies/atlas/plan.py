"""Which runs make up the factorial experiment? One of `branches` for each cell, within a seed."""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any, NamedTuple

from degeneracy.sweeps.grid import Axis
from studies.atlas.settings import FactorialSettings, ModelSettings

STUDY = "branches"  # what each run is of
KEYS = ("training.early", "training.late", "training.early_lr", "training.late_lr")


class Cell(NamedTuple):
    """A combination of factors.

    Attributes:
        early, late: Optimizers.
        fraction: Learning rate, in largest stable ones.
    """

    early: str
    late: str
    fraction: float


def cells(factorial: FactorialSettings) -> Iterator[Cell]:
    """All of them, learning rates from the largest: the shortest runs first."""
    names = factorial.optimizers
    for fraction, early, late in product(sorted(factorial.fractions)[::-1], names, names):
        if factorial.pairs == "all" or early == late:
            yield Cell(early, late, fraction)


def group_key(model: ModelSettings, seed: int) -> str:
    """Of the runs of one network and one seed, which are one sweep."""
    return f"{model.name}, seed {seed}"


def axis_of(factorial: FactorialSettings, rates: Mapping[str, float]) -> Axis:
    """Every cell as a step; `rates` are the largest stable ones by optimizer."""
    steps = [
        (cell.early, cell.late, cell.fraction * rates[cell.early], cell.fraction * rates[cell.late])
        for cell in cells(factorial)
    ]
    return Axis(KEYS, tuple(steps))


def content_of(factorial: FactorialSettings, model: ModelSettings, seed: int) -> dict[str, Any]:
    """The config of which the cells are changes."""
    return {
        "study": STUDY,
        "training": {
            "dataset": factorial.dataset,
            "root": factorial.root,
            "num_images": factorial.num_images,
            "batch_size": factorial.batch_size,
            "annealing_epochs": factorial.annealing_epochs,
            "max_epochs": factorial.max_epochs,
            "window": factorial.window,
            "architecture": model.architecture,
            "hidden_nodes": model.hidden_nodes,
            "hidden_layers": model.hidden_layers,
            "seed": seed,
        },
        "measurement": {
            "branches": "window",
            "thorough": seed in factorial.thorough_seeds,
            "localization": model.localization,
            "nbeta": model.nbeta,
            "num_draws": model.num_draws,
            "sampler_batch_size": model.sampler_batch_size,
        },
    }
