"""What is measured along a run's trajectories? LLC and Hessian trace at the config's epochs."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from degeneracy.curvature.trace import hessian_trace
from degeneracy.llc.estimate import stream_llcs
from degeneracy.runs.memory import CUDA_BLOCK
from degeneracy.runs.results import (
    hessian_findings,
    llc_findings,
    optimizers,
    points_to_measure,
    put_findings,
    series_of,
)
from degeneracy.runs.run import Run, curvature_images, identity, load_weights, weights_at
from degeneracy.runs.store import Point
from degeneracy.runs.work import Measured, Part
from degeneracy.texts import label, with_error

HESSIAN_RELATIVE_ERROR = 0.02  # of the trace, at which fewer probes are enough


def put_at_point(run: Run, point: Point, found: dict[str, Any]) -> None:
    """Into every series that shows the point's checkpoint."""
    put_findings(run.results, point, found)


def measure_llcs(run: Run) -> Measured:
    """LLC and WBIC."""
    for title, factory in run.models.items():
        model = factory().to(run.device)
        for block in _blocks(run, list(points_to_measure(run.results, title))):
            yield from _measure_block(run, model, block)


def _has_llc(run: Run, point: Point) -> bool:
    counts = series_of(run.results, point)["num_diverged_chains"]
    return point in run.traces and counts[point.epoch] is not None


def _blocks(run: Run, points: list[Point]) -> list[list[Point]]:
    """What is measured together, without what is there.

    On CUDA, where chains of several checkpoints share a tensor, a block is measured anew as a
    whole: which chains share it decides how their last bits are rounded.
    """
    if run.device.type == "cpu":
        missing = [point for point in points if not run.has(point)]
        return [missing] if missing else []
    blocks = [points[first : first + CUDA_BLOCK] for first in range(0, len(points), CUDA_BLOCK)]
    return [block for block in blocks if not all(run.has(point) for point in block)]


def _measure_block(run: Run, model: nn.Module, block: list[Point]) -> Measured:
    estimates = stream_llcs(
        model,
        [weights_at(run, point) for point in block],
        run.data.train,
        run.config.devinterp,
        run.config.data.batch_size,
        checkpoint_ids=[identity(run, point) for point in block],
        pilot=_pilot(run, block[0].title),
        label=f"{block[0].title} LLC",
    )
    for position, estimate in estimates:
        point = block[position]
        run.keep_trace(point, estimate.trace)
        llc = with_error(estimate.llc, estimate.std_error)
        tqdm.write(f"{point_text(point)}: LLC {llc}")
        yield point, llc_findings(estimate)


def _pilot(run: Run, title: str) -> dict[str, Tensor] | None:
    """The baseline's last checkpoint, at which `auto` chooses its step for all; None without one.

    The same one whatever is measured already, so that a run that goes on equals one that did not
    stop.
    """
    last = Point(title, optimizers(run.results)[0], run.config.experiment.num_epochs)
    reached = series_of(run.results, last)["val_loss"][last.epoch] is not None
    return weights_at(run, last) if reached else None


def measure_hessian_traces(run: Run) -> Measured:
    """Hessian traces, where the config asks for them."""
    if not run.config.experiment.hessian:
        return
    images = curvature_images(run)
    for title, factory in run.models.items():
        model = factory().to(run.device)
        for point in run.todo(points_to_measure(run.results, title), "checkpoint"):
            load_weights(run, model, point)
            estimate = hessian_trace(
                model,
                cross_entropy,
                images,
                run.config.data.num_probes,
                run.config.devinterp.seed,
                relative_error=HESSIAN_RELATIVE_ERROR,
            )
            trace = with_error(estimate.trace, estimate.std_error)
            tqdm.write(f"{point_text(point)}: Hessian trace {trace}")
            yield point, hessian_findings(estimate)


def point_text(point: Point) -> str:
    """How the log calls a checkpoint."""
    return f"{point.title} {label(point.optimizer)} epoch {point.epoch}"


def series_part(measure: Callable[[Run], Measured], series: str) -> Part:
    """A part whose findings go into the series of a run; `series` tells which points have them."""

    def has(run: Run, point: Point) -> bool:
        values = series_of(run.results, point).get(series)
        return values is not None and values[point.epoch] is not None

    return Part(measure, has=has, put=put_at_point, needs=("train",))


LLC = Part(measure_llcs, has=_has_llc, put=put_at_point, needs=("train",))
HESSIAN = series_part(measure_hessian_traces, "hessian_trace")
