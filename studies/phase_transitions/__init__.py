"""What happens to LLC, Hessian and Fisher information when training leaves a plateau?

    work = open_work(STUDY, "experiments/args_phase_transitions.json")
    measure(work, "train", "llc")
    measure(work, "hessian")  # traces
    measure(work, "curvature")  # spectra and Fisher information
    print(finish(work))

with `open_work`, `measure` and `finish` from `degeneracy.study`. It is a run as in `ngd_sgd`, with
images cut to the first ones, more measurements and a report of its own. Every finished epoch and
measurement is kept at once; the same call with the same config goes on where the last one stopped.
"""

from collections.abc import Mapping
from pathlib import Path

import torch

from degeneracy.runs.measurements import HESSIAN, LLC
from degeneracy.runs.results import unmeasured
from degeneracy.runs.run import Run, new_run, run_name
from degeneracy.runs.training import TRAIN
from degeneracy.study import Study
from studies.phase_transitions.figures import study_figures
from studies.phase_transitions.findings import findings
from studies.phase_transitions.images import first_images, refuse_what_would_fail_late
from studies.phase_transitions.measure import CURVATURE, SERIES
from studies.phase_transitions.settings import Settings


def open_run(study: Study, settings: Settings, out: Path, device: torch.device) -> Run:
    """Opens a run on the first images, with room for what `measure_curvature` finds.

    Raises:
        config.reader.ConfigError: Too few training images for all classes, or too many for the
            Fisher information.
        data.files.DataError: The data set cannot be had.
        runs.store.RunStoreError: The directory cannot be used, or holds another run.
    """
    images = first_images(settings, device)
    refuse_what_would_fail_late(settings, images)
    run = new_run(study, settings, out, device, images=images)
    for model in run.results["models"].values():
        for series in model["optimizers"].values():
            room = {key: unmeasured(run.results) for key in SERIES if key not in series}
            series.update(room)
    return run


def title(results: Mapping) -> str:
    """`Leaving the plateau: FFNN 8 HL, 64 HN on mnist`."""
    models = ", ".join(results["models"])
    return f"Leaving the plateau: {models} on {results['config']['data']['dataset']}"


STUDY = Study(
    name="phase_transitions",
    question="What happens to LLC and curvature when training leaves a plateau?",
    minutes=8.5,
    title=title,
    settings=Settings,
    parts={"train": TRAIN, "llc": LLC, "hessian": HESSIAN, "curvature": CURVATURE},
    figures=study_figures,
    findings=findings,
    opens=open_run,
    run_name=run_name,
    notebook="experiments/eval_mnist_phase_transitions.ipynb",
)
