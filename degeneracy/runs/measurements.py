"""What is measured of a run? LLC along the trajectories, robustness of its order, and the Hessian's
trace.

Every finding is written at once; what is there already is not measured again.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from degeneracy.curvature.trace import hessian_trace
from degeneracy.llc.estimate import estimate_llcs
from degeneracy.llc.grid import LOCALIZATIONS, NBETAS, llc_grid, max_curvature
from degeneracy.llc.statistics import LLCEstimate, summarise
from degeneracy.models.rescaling import rescalable_layers, rescaled
from degeneracy.runs.results import (
    OPTIMIZERS,
    grid_cell,
    open_grid,
    optimizers,
    points_to_measure,
    put_grid_cell,
    put_hessian_trace,
    put_llc,
    put_rescaled,
    rescaled_finding,
    series_of,
)
from degeneracy.runs.run import Run, timed, write_page
from degeneracy.runs.store import Point, RunStoreError
from degeneracy.texts import with_error
from degeneracy.training import packed_weights
from utils_general import TensorData

CUDA_BLOCK = (
    32  # checkpoints whose chains advance together on CUDA; so much is lost by a kill there
)
HESSIAN_RELATIVE_ERROR = 0.02  # of the trace, at which fewer probes are enough
FACTORS = (0.5, 1.0, 2.0)  # by which the first layer is scaled
RESCALED_IDS = 2**20  # above every identity of a checkpoint


def measure_llcs(run: Run) -> None:
    """LLC and WBIC at the config's epochs."""
    with timed(run, "llc") as tick:
        for title, factory in run.models.items():
            model = factory().to(run.device)
            for block in _blocks(run, list(points_to_measure(run.results, title))):
                _measure_block(run, model, block, tick)
    write_page(run)


def _blocks(run: Run, points: list[Point]) -> list[list[Point]]:
    """What is measured together, without what is there.

    On CUDA, where chains of several checkpoints share a tensor, a block is measured anew as a
    whole: which chains share it decides how their last bits are rounded.
    """
    if run.device.type == "cpu":
        missing = [point for point in points if not _has_llc(run, point)]
        return [missing] if missing else []
    blocks = [points[first : first + CUDA_BLOCK] for first in range(0, len(points), CUDA_BLOCK)]
    return [block for block in blocks if not all(_has_llc(run, point) for point in block)]


def _has_llc(run: Run, point: Point) -> bool:
    return (
        point in run.traces
        and series_of(run.results, point)["num_diverged_chains"][point.epoch] is not None
    )


def _measure_block(run: Run, model: nn.Module, block: list[Point], tick) -> None:
    def keep(position: int, estimate: LLCEstimate) -> None:
        point = block[position]
        run.traces[point] = estimate.trace
        put_llc(run.results, point, estimate)
        tqdm.write(f"{_name(point)}: LLC {with_error(estimate.llc, estimate.std_error)}")
        run.store.write_traces(run.traces)
        tick()

    weights = [weights_at(run, point) for point in block]
    _estimate(
        run, model, weights, [_identity(point) for point in block], f"{block[0].title} LLC", keep
    )


def _estimate(
    run: Run, model: nn.Module, weights, ids: list[int], label: str, keep=lambda *_: None
):
    """LLCs with the run's own settings."""
    return estimate_llcs(
        model,
        weights,
        run.data.train,
        run.config.devinterp,
        run.config.data.batch_size,
        checkpoint_ids=ids,
        on_estimate=keep,
        label=label,
    )


def measure_robustness(run: Run) -> None:
    """Where the config asks for it: does the final LLCs' order survive other γ and nβ, and a
    rescaling of layers?

    The grid needs the final checkpoints of both optimizers, the rescaling two layers with a
    homogeneous activation.
    """
    if not run.config.experiment.robustness:
        return
    with timed(run, "llc") as tick:
        for title, factory in run.models.items():
            model = factory().to(run.device)
            last = run.config.experiment.num_epochs
            finals = [Point(title, name, last) for name in optimizers(run.results["config"])]
            finals = [
                point
                for point in finals
                if series_of(run.results, point)["val_loss"][last] is not None
            ]
            if len(finals) == len(OPTIMIZERS):
                _measure_grid(run, model, finals, tick)
            if layers := rescalable_layers(model):
                for point in finals:
                    _measure_rescaled(run, model, point, layers, tick)
    write_page(run)


def _measure_grid(run: Run, model: nn.Module, finals: list[Point], tick) -> None:
    title, names = finals[0].title, [point.optimizer for point in finals]
    weights, data = [weights_at(run, point) for point in finals], run.data.train
    if not run.results["models"][title].get("llc_grid"):
        curvature = max_curvature(model, weights, data, cross_entropy, run.config.devinterp.seed)
        open_grid(run.results, title, curvature, {point.optimizer: point.epoch for point in finals})
    curvature = run.results["models"][title]["llc_grid"]["max_curvature"]
    for localization in LOCALIZATIONS:
        if all(grid_cell(run.results, title, localization, setting) for setting in NBETAS):
            continue
        cells = llc_grid(
            model,
            weights,
            data,
            run.config.devinterp,
            run.config.data.batch_size,
            localizations=[localization],
            curvature=curvature,
            checkpoint_ids=[_identity(point) for point in finals],
            label=f"{title} grid, γ = {localization:g}",
        )
        for cell in cells:
            put_grid_cell(run.results, title, names, cell)
            llcs = (
                f"{name.upper()} {with_error(estimate.llc, estimate.std_error)}"
                for name, estimate in zip(names, cell.estimates, strict=True)
            )
            tqdm.write(
                f"{title} at γ = {localization:g}, nβ = {cell.nbeta:.4g}: LLC {', '.join(llcs)}"
            )
        tick()


def _measure_rescaled(
    run: Run, model: nn.Module, point: Point, layers: tuple[str, str], tick
) -> None:
    missing = [
        f for f in FACTORS if rescaled_finding(run.results, point.title, point.optimizer, f) is None
    ]
    found: dict[float, LLCEstimate] = {}
    if 1.0 in missing and _has_llc(run, point):  # that one is the run's own estimate
        series = series_of(run.results, point)
        trace, init_loss = run.traces[point], series["llc_init_loss"][point.epoch]
        acceptance = series["llc_acceptance"][point.epoch]
        acceptance = np.full(len(trace), np.nan if acceptance is None else acceptance)
        found[1.0] = summarise(
            trace, init_loss, run.results["nbeta"], run.results["train_size"], acceptance
        )
    to_sample = [factor for factor in missing if factor not in found]
    if to_sample:
        state = weights_at(run, point)
        scaled = [rescaled(state, layers, factor) for factor in to_sample]
        label = f"{_name(point)} rescaled"
        # Random numbers of their own, so that their errors are independent of the run's estimate
        # and of each other.
        ids = [
            _identity(point) + RESCALED_IDS * (1 + FACTORS.index(factor)) for factor in to_sample
        ]
        estimates = _estimate(run, model, scaled, ids, label)
        found |= dict(zip(to_sample, estimates, strict=True))
    for factor, estimate in sorted(found.items()):
        put_rescaled(run.results, point.title, layers, point.optimizer, factor, estimate)
        llc = with_error(estimate.llc, estimate.std_error)
        tqdm.write(f"{_name(point)}, {layers[0]} times {factor:g}: LLC {llc}")
    tick()


def measure_hessian_traces(run: Run) -> None:
    """Hessian trace at the config's epochs, where the config asks for it; finished ones are not
    made again.
    """
    data = run.config.data
    if not run.config.experiment.hessian:
        return
    images = curvature_images(run)
    with timed(run, "hessian") as tick:
        for title, factory in run.models.items():
            model = factory().to(run.device)
            for point in list(points_to_measure(run.results, title)):
                if series_of(run.results, point)["hessian_trace"][point.epoch] is not None:
                    continue
                load_weights(run, model, point)
                estimate = hessian_trace(
                    model,
                    cross_entropy,
                    images,
                    data.num_probes,
                    run.config.devinterp.seed,
                    relative_error=HESSIAN_RELATIVE_ERROR,
                )
                put_hessian_trace(run.results, point, estimate)
                tqdm.write(
                    f"{_name(point)}: Hessian trace"
                    f" {with_error(estimate.trace, estimate.std_error)}"
                )
                tick()


def curvature_images(run: Run) -> TensorData:
    """Training images on which curvature is measured, the same for every checkpoint: all compare on
    equal terms.
    """
    data, generator = run.config.data, torch.Generator().manual_seed(run.config.devinterp.seed)
    chosen = torch.randperm(len(run.data.train.labels), generator=generator)
    chosen = chosen[: data.num_hessian_batches * data.batch_size].to(run.device)
    return TensorData(run.data.train.inputs[chosen], run.data.train.labels[chosen])


def final_weights(run: Run, title: str, optimizer: str) -> dict[str, Tensor]:
    """The state dict that an optimizer's training ended with, on the CPU.

    Raises:
        ValueError: Training has not reached the last epoch, or diverged before.
    """
    point = Point(title, optimizer, run.config.experiment.num_epochs)
    checkpoint = run.store.load_checkpoint(point)
    if checkpoint is None or checkpoint.record["diverged"]:
        raise ValueError(
            f"{_name(point)}: training has not come that far, or diverged; there are no weights"
        )
    return packed_weights(checkpoint.tensors)


def load_weights(run: Run, model: nn.Module, point: Point) -> None:
    """Gives the model the weights of a checkpoint that training reached.

    Raises:
        runs.store.RunStoreError: They are another model's.
    """
    try:
        model.load_state_dict(weights_at(run, point))
    except RuntimeError as error:
        path = run.store.checkpoint_path(point)
        raise RunStoreError(
            f"{path} does not fit {point.title} ({error}); remove it, then that epoch is trained"
            " again"
        ) from None


def weights_at(run: Run, point: Point) -> dict[str, Tensor]:
    """The state dict of a checkpoint that training reached, on the CPU."""
    return packed_weights(run.store.load_checkpoint(point).tensors)


def _name(point: Point) -> str:
    return f"{point.title} {point.optimizer.upper()} epoch {point.epoch}"


def _identity(point: Point) -> int:
    """Number that tells a checkpoint's random numbers from those of the model's other checkpoints."""
    return len(OPTIMIZERS) * point.epoch + OPTIMIZERS.index(point.optimizer)
