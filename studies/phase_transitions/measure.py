"""What happens to LLC, Hessian and Fisher information when training leaves a plateau? A run,
measured at every epoch.

    run = open_study(load_settings("experiments/args_phase_transitions.json"))
    train_models(run)
    measure_llcs(run)
    measure_hessian_traces(run)
    measure_curvature(run)  # spectra and Fisher information
    print(finish(run))

It is a run as in `experiment.py`, with images cut to the first ones, more measurements and a report
of its own. Every finished epoch and measurement is kept at once; the same call with the same
settings and directory takes it from there.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
from jaxtyping import Float
from markupsafe import Markup
from torch import nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from degeneracy.curvature.checks import NotFiniteError
from degeneracy.curvature.fisher import (
    ExactFisher,
    exact_fisher,
    fisher_trace,
    refuse_more_than_memory,
)
from degeneracy.curvature.gap import curvature_gap
from degeneracy.curvature.histogram import diagonal_histogram
from degeneracy.curvature.spectrum import (
    Spectrum,
    count_above,
    hessian_spectrum,
    largest_ritz_values,
    quadratic_llc,
    tridiagonals,
)
from degeneracy.device import chosen_device
from degeneracy.models.coefficients import quadratic_llc as llc_of_curvatures
from degeneracy.models.networks import num_parameters
from degeneracy.report.page import write_figs_to_html
from degeneracy.runs.measurements import (
    curvature_images,
    load_weights,
    measure_hessian_traces,
    measure_llcs,
)
from degeneracy.runs.results import points_to_measure, put_findings, series_of
from degeneracy.runs.run import PROJECT, Run, model_factories, open_run, timed, write_page
from degeneracy.runs.store import Point
from degeneracy.texts import Z_95
from experiment import finish, train_models
from studies.phase_transitions.figures import study_figures
from studies.phase_transitions.findings import findings, summary_table
from studies.phase_transitions.settings import CurvatureSettings, Settings, load_settings
from utils_general import DataSplits, TensorData, load_data

__all__ = [
    "finish",
    "load_settings",
    "measure_curvature",
    "measure_hessian_traces",
    "measure_llcs",
    "open_study",
    "train_models",
]

STUDY = PROJECT / "experiments" / "phase_transitions"
# of the largest eigenvalue: smaller ones of a Gram matrix in float32 are not told from zero
ROUNDING = 1e-6
DIGITS = 5  # of an eigenvalue that is kept
SERIES = (
    "spectrum",
    "top_eigenvalues",
    "hessian_rank",
    "hessian_rank_std_error",
    "quadratic_llc",
    "quadratic_llc_std_error",
    "fisher_eigenvalues",
    "fisher_trace",
    "empirical_fisher_trace",
    "fisher_histogram",
    "gauss_newton_rank",
    "gauss_newton_llc",
    "hessian_fisher_distance",
    "hessian_fisher_distance_std_error",
    "fisher_empirical_distance",
    "fisher_empirical_distance_std_error",
)


def open_study(settings: Settings, out: str | Path | None = None, device: str = "auto") -> Run:
    """Loads the images and opens the study's directory, with all that an earlier call left there.

    Args:
        settings: From `load_settings`.
        out: Directory; None for `experiments/phase_transitions`. It holds one study: for other
            settings name another.
        device: `"cpu"`, `"cuda"`, or `"auto"` (CUDA where there is one).

    Raises:
        ValueError: Too few training images for all classes, or too many in the Hessian's batches
            for the memory that `exact_fisher` may take.
        device.DeviceError: CUDA was asked for and there is none.
        data.files.DataError: The data set cannot be had.
        runs.store.RunStoreError: The directory cannot be used, or holds a study with other
            settings.
    """
    place = chosen_device(device)
    whole = load_data(settings.data.dataset, PROJECT / Path(settings.data.root).expanduser(), place)
    counts = settings.data.num_train_images, settings.data.num_test_images
    cut = DataSplits(
        *(TensorData(*(t[:count] for t in part)) for part, count in zip(whole, counts, strict=True))
    )
    _refuse_what_would_fail_late(settings, cut)
    run = open_run(settings, STUDY if out is None else out, device, data=cut)
    run.write_report = write_study_report
    run.results["timing_s"].setdefault("curvature", 0.0)
    for model in run.results["models"].values():
        for series in model["optimizers"].values():
            for key in SERIES:
                series.setdefault(key, [None] * (settings.experiment.num_epochs + 1))
    return run


def measure_curvature(run: Run) -> None:
    """Spectra of Hessian and Fisher information at the config's epochs, and how far the two are
    apart.
    """
    images = curvature_images(run)
    localization = run.config.devinterp.localization
    with timed(run, "curvature") as tick:
        for title, factory in run.models.items():
            model = factory().to(run.device)
            points = [
                point
                for point in points_to_measure(run.results, title)
                if not _is_measured(run, point)
            ]
            for point in tqdm(
                points, desc=f"{title} spectra", unit="checkpoint", leave=False, disable=not points
            ):
                load_weights(run, model, point)
                try:
                    found = curvature_at(
                        model, images, run.config.curvature, run.results["nbeta"], localization
                    )
                except NotFiniteError as error:
                    tqdm.write(
                        f"{point.title} {point.optimizer.upper()} epoch {point.epoch}: no"
                        f" curvature, {error}"
                    )
                    continue
                put_findings(run.results, point, found)
                tick()
    write_page(run)


def curvature_at(
    model: nn.Module,
    images: TensorData,
    settings: CurvatureSettings,
    nbeta: float,
    localization: float,
) -> dict[str, Any]:
    """Every entry of `SERIES` at the model's weights, as JSON holds it.

    The Hessian's are estimates by stochastic Lanczos quadrature, the Fisher's are exact: of these
    images, which are few enough for the eigenvalues of a Gram matrix. Ranks count eigenvalues above
    γ/nβ, where the posterior of the quadratic expansion is as narrow as the localisation.
    """
    hessian = hessian_spectrum(
        model, cross_entropy, images, num_probes=settings.num_probes, num_steps=settings.num_steps
    )
    fisher = exact_fisher(model, images)
    gap = curvature_gap(model, images, num_probes=settings.num_gap_probes, num_eigenvalues=0)
    return {
        **_of_hessian(hessian, settings.num_eigenvalues, nbeta, localization),
        **_of_fisher(fisher, nbeta, localization),
        "empirical_fisher_trace": fisher_trace(model, images, "empirical"),
        **_with_error(
            "hessian_fisher_distance", *gap.distances["hessian", "fisher"], settings.num_gap_probes
        ),
        **_with_error(
            "fisher_empirical_distance",
            *gap.distances["fisher", "empirical"],
            settings.num_gap_probes,
        ),
    }


def write_study_report(results: Mapping, traces: Mapping, dest: Path) -> Path:
    """Writes the report of what was measured so far; the sampled losses of `traces` are not shown
    in it.
    """
    said = Markup("").join(Markup("<p>{}</p>").format(text) for text in findings(results))
    context = Markup("<p><small>{}</small></p>").format(_context(results))
    title = (
        f"Leaving the plateau: {', '.join(results['models'])} on"
        f" {results['config']['data']['dataset']}"
    )
    return write_figs_to_html(
        study_figures(results), dest, title, said + summary_table(results) + context
    )


def _refuse_what_would_fail_late(settings: Settings, data: DataSplits) -> None:
    """Raises ValueError before anything is trained."""
    in_shape, num_classes = tuple(data.train.inputs.shape[1:]), int(data.train.labels.max()) + 1
    if int(data.test.labels.max()) >= num_classes:
        raise ValueError(
            f"data.num_train_images: the first {len(data.train.labels)} training images are of"
            f" {num_classes} classes at most, the test images of more; allowed: enough of them"
            " for all"
        )
    num_rows = settings.data.num_hessian_batches * settings.data.batch_size * num_classes
    itemsize = 4 if settings.experiment.model_type == "cnn" else 0
    for factory in model_factories(settings, in_shape, num_classes).values():
        refuse_more_than_memory(num_rows, num_parameters(factory()), itemsize)


def _is_measured(run: Run, point: Point) -> bool:
    return series_of(run.results, point)["spectrum"][point.epoch] is not None


def _of_hessian(
    spectrum: Spectrum, num_eigenvalues: int, nbeta: float, localization: float
) -> dict[str, Any]:
    rank, llc = (
        count_above(spectrum, localization / nbeta),
        quadratic_llc(spectrum, nbeta, localization),
    )
    num_probes = len(spectrum.nodes)
    return {
        "spectrum": tridiagonals(spectrum),
        "top_eigenvalues": _rounded(largest_ritz_values(spectrum, num_eigenvalues)),
        **_with_error(
            "hessian_rank", rank.value, rank.std_error, num_probes, rank.quadrature_error
        ),
        **_with_error("quadratic_llc", llc.value, llc.std_error, num_probes, llc.quadrature_error),
    }


def _of_fisher(fisher: ExactFisher, nbeta: float, localization: float) -> dict[str, Any]:
    known = fisher.eigenvalues[fisher.eigenvalues > ROUNDING * fisher.eigenvalues[0]]
    return {
        "fisher_eigenvalues": _rounded(known),
        "fisher_trace": fisher.trace,
        "fisher_histogram": diagonal_histogram(fisher.diagonal.cpu().numpy()),
        "gauss_newton_rank": int((known > localization / nbeta).sum()),
        "gauss_newton_llc": llc_of_curvatures(known.tolist(), nbeta, localization),
    }


def _context(results: Mapping) -> str:
    """Settings, environment and seconds, which every number depends on."""
    settings = "; ".join(
        f"{name} {json.dumps(section)}" for name, section in results["config"].items()
    )
    return (
        f"Settings: {settings}. Computed with {json.dumps(results['environment'])}, seconds: "
        + ", ".join(f"{phase} {seconds:.0f}" for phase, seconds in results["timing_s"].items())
    )


def _with_error(
    key: str, value: float, std_error: float | None, num_probes: int, quadrature_error: float = 0.0
) -> dict[str, float | None]:
    """The value with an error of which `Z_95` are half a 95 % interval.

    That is Student's, for so few probes, and the quadrature's error, which is no random one, is
    added to it.
    """
    if std_error is not None:
        student = float(scipy.stats.t.ppf(0.975, num_probes - 1))
        std_error = (student * std_error + quadrature_error) / Z_95
    return {key: value, f"{key}_std_error": std_error}


def _rounded(values: Float[np.ndarray, " k"]) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in values]
