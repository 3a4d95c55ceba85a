"""What did all runs find, as one table? One row a run, optimizer and checkpoint: `runs.csv`."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from degeneracy.files import write_atomically
from degeneracy.report.tables import csv_table
from degeneracy.runs.work import Work
from studies.paper.records import axis_mean, every_row

RUNS = "runs.csv"


def write_runs(work: Work) -> None:
    """Writes `runs.csv` into the run directory, as far as the work has come."""
    table = runs_table(work.results)
    write_atomically(work.store.directory / RUNS, csv_table(table).encode())


def runs_table(results: Mapping[str, Any]) -> pd.DataFrame:
    """One row a part, run, optimizer and epoch, with a column for each quantity.

    `kappa` is the geometric mean of NGD's κ over parameters and axes. Epochs of which nothing is
    known are left out; a failed run has one row, with its reason.
    """
    rows: list[dict[str, Any]] = []
    for part, key, row in every_row(results):
        about = {"part": part, "key": key, "optimizer": row["optimizer"], **row["factors"]}
        about |= {name: row.get(name) for name in ("status", "reason", "diverged_epoch", "model")}
        about |= {name: row.get(name) for name in ("num_parameters", "train_size")}
        series = {**row.get("series", {}), "kappa": axis_mean(row)}
        epochs = range(max(map(len, series.values())))
        there = [e for e in epochs if any(at(values, e) is not None for values in series.values())]
        rows += [
            about | {"epoch": epoch} | {name: at(values, epoch) for name, values in series.items()}
            for epoch in there
        ] or [about]
    table = pd.DataFrame(rows, columns=[*dict.fromkeys(name for row in rows for name in row)])
    whole = [name for name in WHOLE if name in table]
    table[whole] = table[whole].astype("Int64")
    return table


def at(values: list, epoch: int) -> float | None:
    """The entry of an epoch; None beyond the end."""
    return values[epoch] if epoch < len(values) else None


WHOLE = (
    "hidden_layers",
    "hidden_nodes",
    "hidden_conv_layers",
    "seed",
    "diverged_epoch",
    "num_parameters",
    "train_size",
    "epoch",
    "num_diverged_chains",
    "num_unsettled_chains",
)
