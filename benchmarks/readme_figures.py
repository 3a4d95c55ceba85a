"""Which figures do the README and docs/ show? Draws those of a finished run into `docs/*.png`.

    .venv/bin/python benchmarks/readme_figures.py RUN_DIRECTORY

The directory is that of a run (`make run`) or of the study of phase transitions (`make
phase-transitions`), whose pictures are called phase-….png. Needs Chromium and `make venv-dev`; the
figures are those of the run's report, drawn by the same functions.
"""

import json
import sys
from pathlib import Path

import studies
from degeneracy.report.pictures import draw
from degeneracy.runs.store import RunStore

DOCS = Path(__file__).parent.parent / "docs"
SHOWN = {  # study → (keys of its drawings, what stands before them in a file's name)
    "ngd_sgd": (
        (
            "local-llc",
            "loss",
            "llc",
            "running-mean",
            "hessian-trace",
            "llc-against-loss",
            "llc-grid",
        ),
        "",
    ),
    "phase_transitions": (("llc", "developmental", "spectra"), "phase-"),
}


def main(directory: Path) -> None:
    store = RunStore(directory, json.loads((directory / "config.json").read_text()))
    results, traces = store.read_results(), store.read_traces()
    shown, prefix = SHOWN[results["study"]]
    sections = studies.find(results["study"]).figures(results, traces)
    drawings = [one for section in sections for one in section.drawings if one.key in shown]
    print(*draw(drawings, DOCS, prefix), sep="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
