"""How are the study's rows read? By part, network, optimizer and seed, whatever is there of them.

A row is what `measure.rows_of` keeps of a run and an optimizer. Nothing here draws or writes.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from degeneracy.texts import label, number

Row = Mapping[str, Any]
SIZES = ("sizes", "other_sizes")  # parts of swap runs of several networks
DATASETS = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST"}


class Network(NamedTuple):
    """What was trained on what, in the order of tables.

    Attributes:
        dataset: As in a config.
        layers: Hidden layers of an FFNN; 0 of LeNet-5.
        size: Nodes in a hidden layer; of LeNet-5 its extra convolutions.
    """

    dataset: str
    layers: int
    size: int

    @property
    def kind(self) -> str:
        """`MNIST, 2 hidden layers`, `MNIST, LeNet-5`: what one figure shows."""
        if not self.layers:
            return f"{DATASETS[self.dataset]}, LeNet-5"
        return f"{DATASETS[self.dataset]}, {self.layers} hidden layer{'s' * (self.layers > 1)}"

    @property
    def name(self) -> str:
        """`2 × 256`, `LeNet-5`."""
        if self.layers:
            return f"{self.layers} × {self.size}"
        return "LeNet-5" + (f" + {self.size} convolutions" if self.size else "")

    def __str__(self) -> str:
        return f"{DATASETS[self.dataset]}, {self.name}"


def network_of(row: Row) -> Network:
    """The network that a row is of."""
    factors = row["factors"]
    if factors["model_type"] == "cnn":
        return Network(factors["dataset"], 0, factors["hidden_conv_layers"])
    return Network(factors["dataset"], factors["hidden_layers"], factors["hidden_nodes"])


# ---- rows ----------------------------------------------------------------------------------------


def every_row(results: Mapping[str, Any]) -> Iterator[tuple[str, str, Row]]:
    """(part, key, row) of all rows, failed ones too."""
    for part, found in results["parts"].items():
        for key, one in found.items():
            for row in one["rows"]:
                yield part, key, row


def rows_of(results: Mapping[str, Any], *parts: str, **factors: Any) -> list[Row]:
    """The rows of these parts that have series, and whose factors have these values."""
    return [
        row
        for part, _, row in every_row(results)
        if part in parts
        and "series" in row
        and all(row["factors"].get(name) == value for name, value in factors.items())
    ]


def networks(results: Mapping[str, Any]) -> dict[Network, list[Row]]:
    """Network → rows of the parts of sizes; the networks of `sizes` first, then by size."""
    found: dict[Network, list[Row]] = {}
    for part in SIZES:
        rows = rows_of(results, part)
        for network in sorted({network_of(row) for row in rows}, key=_order):
            found.setdefault(network, []).extend(r for r in rows if network_of(r) == network)
    return found


def _order(network: Network) -> tuple:
    places = [*DATASETS]
    return places.index(network.dataset), -network.layers, network.size


def of_optimizer(rows: Iterable[Row], optimizer: str) -> list[Row]:
    """The rows of one optimizer, by seed."""
    return sorted(
        (row for row in rows if row["optimizer"] == optimizer),
        key=lambda row: row["factors"]["seed"],
    )


def optimizers_of(rows: Iterable[Row]) -> list[str]:
    """The optimizers' names in the order of the runs."""
    return list(dict.fromkeys(row["optimizer"] for row in rows))


def by_seed(rows: Iterable[Row], optimizer: str) -> dict[int, Row]:
    """Seed → row of one optimizer."""
    return {row["factors"]["seed"]: row for row in of_optimizer(rows, optimizer)}


def called(optimizer: str) -> str:
    """`SGD`, `NGD`, `SGD × 10`: how sentences and figures call an optimizer."""
    kind, _, factor = optimizer.partition(" x")
    return f"{label(kind)} × {factor}" if factor else label(optimizer)


# ---- values --------------------------------------------------------------------------------------


def value_at(row: Row, quantity: str, epoch: int) -> float | None:
    """The finite value of a quantity after an epoch, or None; `kappa` is `axis_mean`."""
    values = axis_mean(row) if quantity == "kappa" else row["series"][quantity]
    return number(values[epoch]) if epoch < len(values) else None


def last_epoch(row: Row) -> int:
    """The epoch with which training was to end."""
    return row["factors"]["num_epochs"]


def final(row: Row, quantity: str) -> float | None:
    """The value at the end of training; None of a training that diverged."""
    if row["diverged_epoch"] is not None:
        return None
    return value_at(row, quantity, last_epoch(row))


def values_of(rows: Iterable[Row], quantity: str, epoch: int | None = None) -> list[float]:
    """The values that are there after an epoch, by default the last one; a row each."""
    found = (
        final(row, quantity) if epoch is None else value_at(row, quantity, epoch) for row in rows
    )
    return [value for value in found if value is not None]


def known_epochs(rows: Iterable[Row], quantity: str) -> list[int]:
    """Epochs at which some row has the quantity."""
    rows = list(rows)
    last = max((last_epoch(row) for row in rows), default=-1)
    return [epoch for epoch in range(last + 1) if values_of(rows, quantity, epoch)]


def axis_mean(row: Row) -> list[float | None]:
    """Geometric mean of NGD's κ over parameters and axes, epoch by epoch; empty without κ."""
    lists = [values for axes in row.get("kappa", {}).values() for values in axes.values()]
    if not lists:
        return []
    table = np.array(lists, dtype=float)  # (axes, epochs), None as NaN
    known = np.isfinite(table).all(0) & (table > 0).all(0)
    means = iter(np.exp(np.log(table[:, known]).mean(0)).tolist())
    return [next(means) if is_known else None for is_known in known]


def llc_at_loss(row: Row, loss: float) -> float | None:
    """λ̂ where the training went through a training loss L(w), between two measured checkpoints.

    Linear in ln L. The last time that the loss is crossed counts; None where it never is.
    """
    pairs = [
        (value_at(row, "llc_init_loss", epoch), value_at(row, "llc", epoch))
        for epoch in known_epochs([row], "llc")
    ]
    points = [pair for pair in pairs if None not in pair and pair[0] > 0]
    for (before, low), (after, high) in reversed([*pairwise(points)]):
        if min(before, after) <= loss <= max(before, after):
            if before == after:
                return high
            part = np.log(loss / before) / np.log(after / before)
            return float(low + part * (high - low))
    return None


def at_equal_loss(rows: Sequence[Row], first: str, second: str) -> dict[int, float]:
    """Seed → λ̂ of `first` minus that of `second` at the higher of their final training losses.

    Who ended higher has its last checkpoint there; the other's λ̂ is taken on its way down.
    """
    ones, others = by_seed(rows, first), by_seed(rows, second)
    found = {}
    for seed in sorted(ones.keys() & others.keys()):
        pair = ones[seed], others[seed]
        losses = [final(row, "llc_init_loss") for row in pair]
        if None in losses:
            continue
        llcs = [llc_at_loss(row, max(losses)) for row in pair]
        if None not in llcs:
            found[seed] = llcs[0] - llcs[1]
    return found
