"""Which runs make up the comparison? A descent for each optimizer, learning rate and seed."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from degeneracy.sweeps.grid import Axis
from studies.natural_gradients.comparison.settings import Settings

STUDY = "descents"  # what each run is of
KEYS = ("training.optimizer", "training.lr", "training.max_steps")


class Cell(NamedTuple):
    """What is run for each seed."""

    optimizer: str
    lr: float
    max_steps: int


def cells(settings: Settings) -> Iterator[Cell]:
    """All of them, optimizer by optimizer, the largest rates first."""
    for choice in settings.choices:
        for lr in sorted(choice.lrs, reverse=True):
            yield Cell(choice.optimizer, lr, choice.max_steps)


def axis_of(settings: Settings) -> Axis:
    """Every cell as a step."""
    return Axis(KEYS, tuple(tuple(cell) for cell in cells(settings)))


def content_of(settings: Settings, seed: int) -> dict[str, Any]:
    """The config of which the cells are changes."""
    shared = ("dataset", "root", "num_images", "pooled", "hidden_nodes", "hidden_layers")
    measured = ("gauge", "nbeta", "localization", "num_chains", "num_draws")
    return {
        "study": STUDY,
        "training": {key: getattr(settings, key) for key in (*shared, "batch_size")}
        | {"losses": [settings.loss], "seed": seed},
        "measurement": {key: getattr(settings, key) for key in measured},
    }
