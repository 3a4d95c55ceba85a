"""What does a finished run's verdict become when each chain's first draws are dropped?

    .venv/bin/python benchmarks/dropped_draws.py RUN_DIRECTORY 300

The published settings have no burn-in: chains rise from the solution for some hundred draws, and
that rise lowers the estimate and widens its error. This recomputes every estimate from the run's
`traces.npz`; nothing is sampled.
"""

import json
import sys
from pathlib import Path

from degeneracy.llc.statistics import summarise
from degeneracy.runs.results import llc_findings, put_findings, series_of
from degeneracy.runs.store import RunStore
from studies.ngd_sgd.findings import findings


def main(directory: Path, dropped: int) -> None:
    store = RunStore(directory, json.loads((directory / "config.json").read_text()))
    results, traces = store.read_results(), store.read_traces()
    for point, trace in traces.items():
        init_loss = series_of(results, point)["llc_init_loss"][point.epoch]
        kept = trace[:, dropped:]
        estimate = summarise(kept, init_loss, results["nbeta"], results["train_size"])
        put_findings(results, point, llc_findings(estimate))
    print(f"without the first {dropped} draws of each chain:")
    for card in findings(results).cards:
        notes = (note.line for note in card.notes)
        print(f"{card.title}: {card.headline}", *card.text, *notes, sep="\n  ")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
