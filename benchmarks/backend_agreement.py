"""Do the two backends agree? The final checkpoints of a finished run, sampled by each with the
run's own settings.

    .venv/bin/python benchmarks/backend_agreement.py RUN_DIRECTORY

Same checkpoints, same L(w*), other random numbers. Prints both LLCs and their difference in
combined standard errors.
"""

import math
import sys
from pathlib import Path

from degeneracy.llc.estimate import estimate_llcs
from degeneracy.runs.config import load_config
from degeneracy.runs.results import optimizers
from degeneracy.runs.run import final_weights
from degeneracy.texts import label, with_error
from studies.ngd_sgd import open_run


def main(directory: Path) -> None:
    run = open_run(load_config(directory / "config.json"), directory)
    data, batch_size = run.data.train, run.config.data.batch_size
    for title, build in run.models.items():
        for optimizer in optimizers(run.results):
            weights = final_weights(run, title, optimizer)
            found = {}
            for backend in ("batched", "devinterp"):
                settings = run.config.devinterp.model_copy(update={"backend": backend})
                (found[backend],) = estimate_llcs(
                    build().to(run.device), [weights], data, settings, batch_size
                )
            ours, theirs = found.values()
            apart = abs(ours.llc - theirs.llc) / math.hypot(ours.std_error, theirs.std_error)
            shown = ", ".join(
                f"{backend} {with_error(e.llc, e.std_error)} (MALA acceptance"
                f" {e.mean_acceptance:.2f})"
                for backend, e in found.items()
            )
            print(
                f"{title} {label(optimizer)}: {shown}; {apart:.2f} combined standard errors apart"
            )
    run.store.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
