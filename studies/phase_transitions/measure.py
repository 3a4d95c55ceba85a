"""What are Hessian and Fisher information at every epoch of a run, and how far are they apart?"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.stats
from jaxtyping import Float
from torch import nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from degeneracy.curvature.checks import NotFiniteError
from degeneracy.curvature.fisher import ExactFisher, exact_fisher, fisher_trace
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
from degeneracy.data.images import TensorData
from degeneracy.models.coefficients import quadratic_llc as llc_of_curvatures
from degeneracy.runs.measurements import point_text, series_part
from degeneracy.runs.results import points_to_measure
from degeneracy.runs.run import Run, curvature_images, load_weights
from degeneracy.runs.store import Point
from degeneracy.texts import Z_95
from studies.phase_transitions.settings import CurvatureSettings

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

Measured = Iterator[tuple[Point, dict[str, Any]]]


def measure_curvature(run: Run) -> Measured:
    """Every entry of `SERIES` at the config's epochs.

    A checkpoint at which they are not finite is left out, with a line in the log.
    """
    images = curvature_images(run)
    for title, factory in run.models.items():
        model = factory().to(run.device)
        for point in run.todo(points_to_measure(run.results, title), "checkpoint"):
            load_weights(run, model, point)
            try:
                found = curvature_at(
                    model,
                    images,
                    run.settings.curvature,
                    run.results["nbeta"],
                    run.settings.devinterp.localization,
                )
            except NotFiniteError as error:
                tqdm.write(f"{point_text(point)}: no curvature, {error}")
            else:
                yield point, found


CURVATURE = series_part(measure_curvature, "spectrum")


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
