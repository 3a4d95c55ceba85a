"""How are the study's records read? Trajectories by name, and what they are at one loss."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from degeneracy.texts import number

REGIMES = {"full": "one batch, every step", "mini": "mini-batches"}


class Found(NamedTuple):
    """One training as results have it: regime, optimizer or swap, seed, and its record."""

    regime: str
    name: str
    seed: int
    record: Mapping[str, Any]

    def series(self, name: str) -> np.ndarray:
        """A number an epoch, the untrained network first; NaN where there is none."""
        return np.array(self.record["series"][name], dtype=float)

    @property
    def key(self) -> str:
        """In results."""
        return f"{self.regime}/{self.name}/{self.seed}"


def trained(results: Mapping, regime: str | None = None) -> list[Found]:
    """All trajectories that were trained, in the order of training."""
    found = (
        Found(record["regime"], record["name"], record["seed"], record)
        for record in results["parts"].get("train", {}).values()
    )
    return [one for one in found if regime in (None, one.regime)]


def part(results: Mapping, name: str) -> Mapping[str, Any]:
    """What a part has found; empty before it began."""
    return results["parts"].get(name, {})


def names(results: Mapping) -> list[str]:
    """Optimizers and swaps, each once."""
    return list(dict.fromkeys(one.name for one in trained(results)))


def second_order(results: Mapping) -> list[str]:
    """Gauss-Newton optimizers of the config."""
    optimizers = results["config"]["optimizers"]
    return [name for name, how in optimizers.items() if how["kind"] == "gauss_newton"]


def by_name(found: Sequence[Found]) -> dict[str, list[Found]]:
    """Trajectories of every optimizer: its seeds."""
    groups: dict[str, list[Found]] = {}
    for one in found:
        groups.setdefault(one.name, []).append(one)
    return groups


def common_level(found: Sequence[Found]) -> float | None:
    """The lowest training loss (nats) that all trajectories come to; None where one has none."""
    if not found:
        return None
    return number(max(np.nanmin(one.series("train_loss")) for one in found))


def at_loss(one: Found, level: float) -> dict[str, float] | None:
    """Test loss (nats) and accuracy where the training loss first comes down to `level`, linearly
    between the two epochs around it; None where it never does, or passes it on the way from the
    untrained network to the first epoch, a way too long for a line.
    """
    losses = one.series("train_loss")
    below = np.flatnonzero(losses <= level)
    if not len(below):
        return None
    last = int(below[0])
    if last == 0 or (last == 1 and losses[1] < level):
        return None
    before = last - 1
    fall = losses[before] - losses[last]
    share = (losses[before] - level) / fall if fall > 0 else 1.0
    values = {}
    for name in ("val_loss", "val_accuracy"):
        series = one.series(name)
        values[name] = float(series[before] + share * (series[last] - series[before]))
    return values | {"gap": values["val_loss"] - level}


class Comparable(NamedTuple):
    """Trajectories that can be compared at one training loss.

    Attributes:
        level: The loss, nats: the lowest that all of them come to; None where none are left.
        found: The trajectories, each with `at_loss`.
        left_out: Names of the slowest, which end where another was not measured yet.
    """

    level: float | None
    found: list[Found]
    left_out: list[str]


def comparable(found: Sequence[Found]) -> Comparable:
    """All that have a value at a common training loss, the slowest left out until they do."""
    kept, left_out = list(found), []
    while kept and (level := common_level(kept)) is not None:
        if all(at_loss(one, level) is not None for one in kept):
            return Comparable(level, kept, left_out)
        slowest = max(kept, key=lambda one: np.nanmin(one.series("train_loss"))).name
        left_out.append(slowest)
        kept = [one for one in kept if one.name != slowest]
    return Comparable(None, [], left_out)


def losses_text(across: Mapping[str, Any]) -> str:
    """The training losses (nats) at which ends were compared: `0.061 to 0.065 nats`."""
    losses = across.get("losses", [across["level"]])  # runs of before have the level alone
    low, high = (f"{end(losses):.3g}" for end in (min, max))
    return f"{low} nats" if low == high else f"{low} to {high} nats"


def mean_of(values: Sequence[float | None]) -> float | None:
    """Mean of those that are finite numbers; None where none is."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return sum(finite) / len(finite) if finite else None


def spread_text(values: Sequence[float | None], scale: float = 1.0, digits: int = 1) -> str:
    """`79.1`, or `78.5 to 79.6` of several seeds."""
    finite = [scale * value for value in values if value is not None and math.isfinite(value)]
    if not finite:
        return "–"
    low, high = (f"{end:.{digits}f}" for end in (min(finite), max(finite)))
    return low if low == high else f"{low} to {high}"
