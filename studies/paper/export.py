"""What do docs/ show of a run of this study? Final values as a small table, and its figures.

    python -m studies.paper.export RUN_DIRECTORY docs/results

writes `paper.csv`, one row a run and optimizer, and `paper-….png`, the figures of the report. It
takes a run that is not finished too. The figures need Chromium and `make venv-dev`.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from degeneracy.files import write_atomically
from degeneracy.report.page import Drawing
from degeneracy.report.pictures import draw
from degeneracy.report.tables import csv_table
from degeneracy.runs.results_file import results_of
from studies.paper.figures import study_figures
from studies.paper.tables import runs_table

ABOUT = (
    "part",
    "dataset",
    "model",
    "seed",
    "optimizer",
    "lr",
    "alpha",
    "epsilon",
    "nbeta",
    "localization",
    "epoch",
    "status",
    "reason",
    "diverged_epoch",
)
VALUES = (
    "llc",
    "llc_std_error",
    "llc_init_loss",
    "num_unsettled_chains",
    "wbic",
    "train_loss",
    "val_loss",
    "val_accuracy",
    "update_norm",
    "hessian_trace",
    "hessian_trace_std_error",
    "kappa",
)
SHAPE = ("hidden_layers", "hidden_nodes", "hidden_conv_layers")  # which a failed run has too
DIGITS = 6  # significant ones


def final_table(results: Mapping[str, Any]) -> pd.DataFrame:
    """One row a part, run and optimizer: the last epoch's values, to six significant digits.

    A failed run has its reason and no values; one that diverged has what its last epoch left.
    """
    table = runs_table(results)
    if table.empty:
        return pd.DataFrame(columns=[*ABOUT, *VALUES])
    for name in {*ABOUT, *VALUES} - set(table.columns):
        table[name] = None
    own = ["part", "key", "dataset", "model", "seed", "optimizer", "nbeta", *SHAPE]
    own = [name for name in own if name in table]
    last = table.groupby(own, sort=False, dropna=False).tail(1)[[*ABOUT, *VALUES]].copy()
    for name in VALUES:
        last[name] = [None if pd.isna(v) else float(f"{v:.{DIGITS}g}") for v in last[name]]
    return last


def drawings(results: Mapping[str, Any]) -> list[Drawing]:
    """All figures of the report."""
    return [drawing for section in study_figures(results, {}) for drawing in section.drawings]


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    parser = argparse.ArgumentParser(description="Writes what docs/ show of a run of the study.")
    parser.add_argument("run", type=Path, help="run directory of the study `paper`")
    parser.add_argument("folder", type=Path, help="where to, such as docs/results")
    options = parser.parse_args(arguments)
    try:
        results = results_of(options.run, "paper")
        options.folder.mkdir(parents=True, exist_ok=True)
        path = options.folder / "paper.csv"
        write_atomically(path, csv_table(final_table(results)).encode())
        print(path)
        print(*draw(drawings(results), options.folder, "paper-"), sep="\n")
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
