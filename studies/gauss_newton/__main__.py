"""How does one analysis of a finished run become a figure of its own?

    python -m studies.gauss_newton cka|ntk|weights RUN…

Measures what is missing of that analysis in each run's directory, writes `RUN/<analysis>.html`, and
prints a line for each number and the figure's path. Exit status 2 where a run is refused.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from degeneracy.config.reader import ConfigError, parse_config, read_json
from degeneracy.report.page import write_figs_to_html
from degeneracy.runs.store import RunStoreError, finite
from degeneracy.study import measure, open_work
from studies.gauss_newton import STUDY
from studies.gauss_newton.figures import study_figures
from studies.gauss_newton.records import part
from studies.gauss_newton.settings import Settings

ANALYSES = {"cka": ("cka-own", "cka-across"), "ntk": ("ntk",), "weights": ("weights",)}


def analysed(analysis: str, directory: Path) -> Iterator[str]:
    """Does one analysis of one run; yields lines of text, the figure's path last.

    Raises:
        RunStoreError: There is no run of this study, nothing was trained, or it is in use.
        config.reader.ConfigError: Its config cannot be read.
        FileNotFoundError: A checkpoint is gone.
    """
    path = directory / "config.json"
    content = read_json(path)
    named = content.get("study") if isinstance(content, dict) else None
    if named != STUDY.name:
        raise RunStoreError(
            f"{directory}: a run of {named!r} given; allowed: run directories of {STUDY.name}"
        )
    work = open_work(STUDY, parse_config(content, Settings, str(path)), directory)
    try:
        if not part(work.results, "train"):
            raise RunStoreError(f"{directory}: nothing was trained there yet; allowed: later runs")
        measure(work, analysis)
        results = finite(work.results)
    finally:
        work.store.close()
    yield from (f"{key}: {json.dumps(end)}" for key, end in ends(part(results, analysis)))
    drawings = [drawing for s in study_figures(results, {}) for drawing in s.drawings]
    drawn = [(d.key, d.caption, d.figure) for d in drawings if d.key in ANALYSES[analysis]]
    yield str(write_figs_to_html(drawn, directory / f"{analysis}.html", f"{directory}: {analysis}"))


def ends(found: Mapping) -> Iterator[tuple[str, object]]:
    """(trajectory, its last value) of every trajectory."""
    return ((key, record["last"]) for key, record in found.items() if "last" in record)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m studies.gauss_newton")
    parser.add_argument("analysis", choices=ANALYSES)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    options = parser.parse_args(arguments)
    for directory in options.runs:
        try:
            for line in analysed(options.analysis, directory):
                print(line)
        except (ConfigError, RunStoreError, FileNotFoundError) as error:
            print(error, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
