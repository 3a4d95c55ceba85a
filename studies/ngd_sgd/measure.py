"""Does the order of the final LLCs survive other γ and nβ, and a rescaling of layers?

The grid needs the final checkpoints of the baseline and of another optimizer; the rescaling two
layers with a homogeneous activation between them.
"""

from typing import Any, NamedTuple

import numpy as np
from torch import nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from degeneracy.llc.estimate import LLCEstimate, estimate_llcs, summarise
from degeneracy.llc.grid import LOCALIZATIONS, NBETAS, GridCell, llc_grid, max_curvature
from degeneracy.llc.settings import AUTO
from degeneracy.models.rescaling import rescalable_layers, rescaled
from degeneracy.runs.measurements import point_text
from degeneracy.runs.results import finding, optimizers, series_of
from degeneracy.runs.run import Run, identity, weights_at
from degeneracy.runs.store import Point
from degeneracy.runs.work import Measured, Part
from degeneracy.texts import label, with_error

FACTORS = (0.5, 1.0, 2.0)  # by which the first layer is scaled
RESCALED_IDS = 2**20  # between the identities of a checkpoint and of its rescaled ones


class GridRow(NamedTuple):
    """All nβ at one γ, of one model's final checkpoints."""

    title: str
    localization: float


class Rescaled(NamedTuple):
    """One optimizer's final checkpoint with its first layer times each of `FACTORS`."""

    title: str
    optimizer: str


def measure_robustness(run: Run) -> Measured:
    """The grid and the rescaled checkpoints of every model, where the config asks for them."""
    if not run.config.experiment.robustness:
        return
    for title, factory in run.models.items():
        model, last = factory().to(run.device), run.config.experiment.num_epochs
        finals = [Point(title, name, last) for name in optimizers(run.results)]
        finals = [p for p in finals if series_of(run.results, p)["val_loss"][last] is not None]
        baseline = optimizers(run.results)[0]
        if len(finals) > 1 and finals[0].optimizer == baseline:
            yield from _grid(run, model, finals)
        # With `auto` the local estimates are of both gauges, which says the same of a better one.
        if run.config.devinterp.sampler != AUTO and (layers := rescalable_layers(model)):
            for name in run.todo([Rescaled(title, p.optimizer) for p in finals], "checkpoint"):
                yield name, _rescalings(run, model, Point(*name, last), layers)


def _grid(run: Run, model: nn.Module, finals: list[Point]) -> Measured:
    title, data, settings = finals[0].title, run.data.train, run.config.devinterp
    weights = [weights_at(run, point) for point in finals]
    rows = [GridRow(title, localization) for localization in LOCALIZATIONS]
    curvature = (run.results["models"][title].get("llc_grid") or {}).get("max_curvature")
    for row in run.todo(rows, "γ"):
        if curvature is None:
            curvature = max_curvature(model, weights, data, cross_entropy, settings.seed)
        cells = llc_grid(
            model,
            weights,
            data,
            settings,
            run.config.data.batch_size,
            localizations=[row.localization],
            curvature=curvature,
            checkpoint_ids=[identity(run, point) for point in finals],
            label=f"{title} grid, γ = {row.localization:g}",
        )
        names = [point.optimizer for point in finals]
        yield (
            row,
            {
                "max_curvature": curvature,
                "epochs": {point.optimizer: point.epoch for point in finals},
                "cells": [_cell(title, names, cell) for cell in cells],
            },
        )


def _cell(title: str, names: list[str], cell: GridCell) -> dict[str, Any]:
    """A cell as `results.json` holds it; says in the log what was found."""
    found = dict(zip(names, cell.estimates, strict=bool(cell.estimates)))
    llcs = (f"{label(name)} {with_error(e.llc, e.std_error)}" for name, e in found.items())
    said = f"LLC {', '.join(llcs)}" if found else f"not sampled, needs {cell.needed_steps:,} steps"
    tqdm.write(f"{title} at γ = {cell.localization:g}, nβ = {cell.nbeta:.4g}: {said}")
    return {
        "localization": cell.localization,
        "nbeta": cell.nbeta,
        "nbeta_setting": cell.nbeta_setting,
        "sampler_lr": cell.sampler_lr,
        "needed_steps": cell.needed_steps,
        "optimizers": {name: finding(estimate) for name, estimate in found.items()},
    }


def _rescalings(
    run: Run, model: nn.Module, point: Point, layers: tuple[str, str]
) -> dict[str, Any]:
    found: dict[float, LLCEstimate] = {}
    series = series_of(run.results, point)
    if point in run.traces and series["llc_init_loss"][point.epoch] is not None:
        found[1.0] = _own_estimate(run, point)  # at c = 1 it is the run's own
    to_sample = [factor for factor in FACTORS if factor not in found]
    state = weights_at(run, point)
    estimates = estimate_llcs(
        model,
        [rescaled(state, layers, factor) for factor in to_sample],
        run.data.train,
        run.config.devinterp,
        run.config.data.batch_size,
        # Random numbers of their own: errors independent of the run's estimate and each other.
        checkpoint_ids=[
            identity(run, point) + RESCALED_IDS * (1 + FACTORS.index(factor))
            for factor in to_sample
        ],
        label=f"{point_text(point)} rescaled",
    )
    found |= dict(zip(to_sample, estimates, strict=True))
    for factor, estimate in sorted(found.items()):
        llc = with_error(estimate.llc, estimate.std_error)
        tqdm.write(f"{point_text(point)}, {layers[0]} times {factor:g}: LLC {llc}")
    entries = [{"factor": factor, **finding(e)} for factor, e in sorted(found.items())]
    return {"layers": list(layers), "factors": entries}


def _own_estimate(run: Run, point: Point) -> LLCEstimate:
    series, trace = series_of(run.results, point), run.traces[point]
    acceptance = series["llc_acceptance"][point.epoch]
    acceptance = np.full(len(trace), np.nan if acceptance is None else acceptance)
    init_loss, results = series["llc_init_loss"][point.epoch], run.results
    return summarise(trace, init_loss, results["nbeta"], results["train_size"], acceptance)


def _has(run: Run, key: GridRow | Rescaled) -> bool:
    model = run.results["models"][key.title]
    if isinstance(key, Rescaled):
        return key.optimizer in (model.get("rescaling") or {"optimizers": {}})["optimizers"]
    cells = (model.get("llc_grid") or {"cells": []})["cells"]
    there = {cell["nbeta_setting"] for cell in cells if cell["localization"] == key.localization}
    return there >= set(NBETAS)


def _put(run: Run, key: GridRow | Rescaled, found: dict[str, Any]) -> None:
    """Into the model's `llc_grid`, cells in the order measured, or into its `rescaling`."""
    model = run.results["models"][key.title]
    if isinstance(key, GridRow):
        cells = (model.get("llc_grid") or {"cells": []})["cells"]
        others = [cell for cell in cells if cell["localization"] != key.localization]
        model["llc_grid"] = {**found, "cells": others + found["cells"]}
    else:
        rescaling = model.setdefault("rescaling", {"layers": found["layers"], "optimizers": {}})
        rescaling["optimizers"][key.optimizer] = found["factors"]


ROBUSTNESS = Part(measure_robustness, has=_has, put=_put, needs=("train", "llc"))
