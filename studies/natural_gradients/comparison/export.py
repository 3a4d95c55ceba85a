"""What do docs/ show of the comparison? The table of its runs, and its figures.

    python -m studies.natural_gradients.comparison.export RUN_DIRECTORY… docs/results

writes `natural-comparison.csv`, one row a run, and `natural-….png`, and prints sentences and
tables. Several runs of the study, of other seeds, are taken together; of a seed that two have, the
later one's runs. The figures need Chromium and `make venv-dev`.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from degeneracy.files import write_atomically
from degeneracy.report.pictures import draw
from degeneracy.report.tables import csv_table
from degeneracy.runs.results_file import results_of
from studies.natural_gradients.comparison import SECTION
from studies.natural_gradients.comparison.rows import rows_in


def run_table(part: Mapping) -> pd.DataFrame:
    """One row a run: optimizer, rate, seed, how it ended; where it passed the loss the step, its
    seconds, λ̂ with error and verdict, and the Hessian's trace.
    """
    rows = []
    for row in rows_in(part):
        passage, point = row["passage"] or {}, row["point"] or {}
        llc = point.get("llc") or {}
        kept = {name: row[name] for name in ("optimizer", "lr", "seed", "status", "outcome")}
        kept |= {name: passage.get(name) for name in ("step", "seconds", "loss")}
        kept |= {name: llc.get(name) for name in ("llc", "std_error", "verdict")}
        rows.append(kept | {"trace": point.get("trace")})
    return pd.DataFrame(rows)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    parser = argparse.ArgumentParser(description="Writes what docs/ show of the comparison.")
    parser.add_argument("run", nargs="+", type=Path, help="run directories of the study")
    parser.add_argument("folder", type=Path, help="where to, such as docs/results")
    options = parser.parse_args(arguments)
    part: dict = {}
    try:
        for run in options.run:
            part |= results_of(run, "natural_gradients")["parts"].get("comparison", {})
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if not part:
        print("no comparison in these runs; allowed: some that have begun it", file=sys.stderr)
        return 2
    options.folder.mkdir(parents=True, exist_ok=True)
    table = csv_table(run_table(part), digits=6)
    write_atomically(options.folder / "natural-comparison.csv", table.encode())
    print(SECTION.card(part).told())
    for table in SECTION.tables(part):
        print(f"\n{table.caption}\n\n{table.markdown()}")
    for path in draw(SECTION.figures(part), options.folder, "natural-"):
        print(path, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
