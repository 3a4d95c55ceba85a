"""Which runs of the comparison are there, and which of them count?"""

from collections.abc import Iterator, Mapping
from typing import Any

from degeneracy.llc.certificates import LOCAL as CERTIFIED

Row = Mapping[str, Any]


def rows_in(part: Mapping) -> list[Row]:
    """Of all seeds that are there."""
    return [row for seed in part.values() for row in seed["rows"]]


def names_in(part: Mapping) -> list[str]:
    """Optimizers, in order."""
    return list(dict.fromkeys(row["optimizer"] for row in rows_in(part)))


def is_certified(row: Row) -> bool:
    """Whether the run passed the loss and its λ̂ there is certified as local."""
    point = row["point"]
    return bool(row["passage"] and point and point["llc"]["verdict"] == CERTIFIED)


def llc_of(row: Row) -> float:
    """λ̂ of a certified run."""
    return row["point"]["llc"]["llc"]


def trace_of(row: Row) -> float | None:
    """The Hessian's trace where the loss was passed; None where it was not measured."""
    return row["point"] and row["point"]["trace"]


def steps_of(row: Row) -> int:
    """Steps to the loss, of a run that passed it."""
    return row["passage"]["step"]


def by_rate(part: Mapping, optimizer: str) -> Iterator[tuple[float, list[Row]]]:
    """(learning rate, its rows), the largest rate first."""
    own = [row for row in rows_in(part) if row["optimizer"] == optimizer]
    for lr in sorted({row["lr"] for row in own}, reverse=True):
        yield lr, [row for row in own if row["lr"] == lr]
