"""What does `results.json` hold? Its keys, which optimizers share a checkpoint, and how a finding
is put in.

Functions on the plain dict that is written as JSON. Every series is a list indexed by epoch, None
where not measured.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from degeneracy.llc.statistics import FALLING, RISING, LLCEstimate
from degeneracy.runs.store import Point

OPTIMIZERS = ("sgd", "ngd")
RECORD_SERIES = (
    "train_loss",
    "val_loss",
    "val_accuracy",
    "update_norm",
    "num_skipped_updates",
    "num_restarts",
)
LLC_SERIES = {  # name in results.json → attribute of `LLCEstimate`
    "llc": "llc",
    "llc_std_error": "std_error",
    "llc_drift": "drift",
    "llc_rhat": "rhat",
    "llc_ess": "ess",
    "llc_init_loss": "init_loss",
    "llc_acceptance": "mean_acceptance",
    "wbic": "wbic",
    "wbic_std_error": "wbic_std_error",
}
CHAIN_COUNTS = ("num_diverged_chains", "num_unsettled_chains")
HESSIAN_SERIES = {
    "hessian_trace": "trace",
    "hessian_trace_std_error": "std_error",
}  # → `HessianTrace`
SERIES = (*RECORD_SERIES, *LLC_SERIES, *CHAIN_COUNTS, *HESSIAN_SERIES)  # one number an epoch
CHAIN_SERIES = ("llc_chains",)  # a list an epoch, an entry a chain


def new_results(config: dict[str, Any], nbeta: float, train_size: int) -> dict[str, Any]:
    """The results of a run that has not begun."""
    return {
        "status": "running",
        "config": config,
        "environment": {},
        "timing_s": {"train": 0.0, "llc": 0.0, "hessian": 0.0, "total": 0.0},
        "nbeta": nbeta,
        "train_size": train_size,
        "models": {},
    }


def add_model(results: dict[str, Any], title: str, num_parameters: int) -> None:
    """Makes room for a model; what is there already stays."""
    model = results["models"].setdefault(
        title, {"num_parameters": num_parameters, "optimizers": {}}
    )
    for name in optimizers(results["config"]):
        series = model["optimizers"].setdefault(
            name, {"kappa": {}, "cosine": {}, "diverged_epoch": None}
        )
        for key in (*SERIES, *CHAIN_SERIES):
            series.setdefault(key, [None] * (results["config"]["experiment"]["num_epochs"] + 1))


def optimizers(config: dict[str, Any]) -> tuple[str, ...]:
    """The optimizers that a config trains, in the order in which they are trained."""
    chosen = config["experiment"]["optimizer"]
    return OPTIMIZERS if chosen == "both" else (chosen,)


def parting_epoch(config: dict[str, Any]) -> int:
    """The epoch whose checkpoint all optimizers share: the cut-off of a swap, else the initial
    weights.
    """
    experiment = config["experiment"]
    return experiment["cut_off_epochs"] if experiment["experiment_type"] == "swap" else 0


def series_of(results: dict[str, Any], point: Point) -> dict[str, Any]:
    """The series of the optimizer that `point` belongs to."""
    return results["models"][point.title]["optimizers"][point.optimizer]


def put_findings(results: dict[str, Any], point: Point, findings: dict[str, Any]) -> None:
    """Puts values into every series that shows `point`'s checkpoint: all optimizers' where it is
    the shared one.
    """
    shared = point.epoch == parting_epoch(results["config"])
    for name in optimizers(results["config"]) if shared else (point.optimizer,):
        series = series_of(results, point._replace(optimizer=name))
        for key, value in findings.items():
            series[key][point.epoch] = value


def put_record(results: dict[str, Any], point: Point, record: dict[str, Any]) -> None:
    """Puts what was recorded of an epoch of training (`training.EpochRecord` as a dict)."""
    put_findings(results, point, {key: record[key] for key in RECORD_SERIES})
    series = series_of(results, point)
    if record["diverged"]:
        series["diverged_epoch"] = point.epoch
    unmeasured = [None] * len(series["train_loss"])
    for parameter, axes in record["kappa"].items():
        for axis, kappa in axes.items():
            series["kappa"].setdefault(parameter, {}).setdefault(axis, [*unmeasured])[
                point.epoch
            ] = kappa
    for parameter, cosine in record["cosine"].items():
        series["cosine"].setdefault(parameter, [*unmeasured])[point.epoch] = cosine


def put_llc(results: dict[str, Any], point: Point, estimate: LLCEstimate) -> None:
    """Puts the LLC of a checkpoint, with what each chain found."""
    findings = {key: getattr(estimate, attribute) for key, attribute in LLC_SERIES.items()}
    chains = _chains(estimate)
    findings |= {
        "num_diverged_chains": int(estimate.diverged.sum()),
        "num_unsettled_chains": sum(chain["verdict"] in (RISING, FALLING) for chain in chains),
        "llc_chains": chains,
    }
    put_findings(results, point, findings)


def put_hessian_trace(results: dict[str, Any], point: Point, estimate) -> None:
    """Puts a `curvature.trace.HessianTrace`."""
    put_findings(
        results,
        point,
        {key: getattr(estimate, attribute) for key, attribute in HESSIAN_SERIES.items()},
    )


def finding(estimate: LLCEstimate) -> dict[str, Any]:
    """An LLC estimate outside the series over epochs, as JSON: its numbers and what each chain
    found.
    """
    return {
        "llc": estimate.llc,
        "std_error": estimate.std_error,
        "drift": estimate.drift,
        "ess": estimate.ess,
        "acceptance": estimate.mean_acceptance,
        "settled": bool(estimate.settled),
        "num_diverged_chains": int(estimate.diverged.sum()),
        "chains": _chains(estimate),
    }


def _chains(estimate: LLCEstimate) -> list[dict[str, Any]]:
    llcs = (float(llc) if math.isfinite(llc) else None for llc in estimate.chain_llcs)
    return [
        {"llc": llc, "verdict": verdict}
        for llc, verdict in zip(llcs, estimate.chain_verdicts, strict=True)
    ]


def open_grid(
    results: dict[str, Any], title: str, max_curvature: float, epochs: dict[str, int]
) -> None:
    """Makes room for a model's LLCs on the grid of γ × nβ; a grid that is there already stays.

    Args:
        max_curvature: h_max in the grid's ε = 0.2/(nβ h_max + γ).
        epochs: Optimizer → epoch of the checkpoint that is sampled.
    """
    model = results["models"][title]
    if not model.get("llc_grid"):
        model["llc_grid"] = {"max_curvature": max_curvature, "epochs": dict(epochs), "cells": []}


def grid_cell(
    results: dict[str, Any], title: str, localization: float, nbeta_setting: str | float
) -> dict[str, Any] | None:
    """The cell of a model's grid at (γ, nβ), None where it has not been measured."""
    grid = results["models"][title].get("llc_grid") or {"cells": []}
    asked = (localization, nbeta_setting)
    return next(
        (cell for cell in grid["cells"] if (cell["localization"], cell["nbeta_setting"]) == asked),
        None,
    )


def put_grid_cell(results: dict[str, Any], title: str, names: Sequence[str], cell) -> None:
    """Puts a measured cell, an `llc.grid.GridCell` whose estimates are of the optimizers `names`,
    in that order.

    It replaces a cell of the same γ and nβ. Cells stand in the order in which they were measured.
    """
    there = grid_cell(results, title, cell.localization, cell.nbeta_setting)
    cells = results["models"][title]["llc_grid"]["cells"]
    findings = {name: finding(one) for name, one in zip(names, cell.estimates, strict=True)}
    settings = {
        key: getattr(cell, key) for key in ("localization", "nbeta", "nbeta_setting", "sampler_lr")
    }
    if there is not None:
        cells.remove(there)
    cells.append({**settings, "optimizers": findings})


def rescaled_finding(
    results: dict[str, Any], title: str, optimizer: str, factor: float
) -> dict[str, Any] | None:
    """What was found with the model's first layer times `factor`, None where it has not been
    measured.
    """
    rescaling = results["models"][title].get("rescaling") or {"optimizers": {}}
    found = rescaling["optimizers"].get(optimizer, ())
    return next((entry for entry in found if entry["factor"] == factor), None)


def put_rescaled(
    results: dict[str, Any],
    title: str,
    layers: tuple[str, str],
    optimizer: str,
    factor: float,
    estimate: LLCEstimate,
) -> None:
    """Puts the LLC of an optimizer's final weights with `layers[0]` times `factor` and `layers[1]`
    divided by it.

    It replaces one of the same factor; factors stand in ascending order.
    """
    model = results["models"][title]
    rescaling = model.get("rescaling") or {"layers": list(layers), "optimizers": {}}
    model["rescaling"] = rescaling
    others = [
        entry for entry in rescaling["optimizers"].get(optimizer, ()) if entry["factor"] != factor
    ]
    entry = {"factor": factor, **finding(estimate)}
    rescaling["optimizers"][optimizer] = sorted([*others, entry], key=lambda entry: entry["factor"])


def points_to_measure(results: dict[str, Any], title: str) -> Iterator[Point]:
    """The checkpoints that the config wants measured and training reached, by epoch, a shared one
    once.
    """
    experiment = results["config"]["experiment"]
    wanted, last = experiment["measure_epochs"], experiment["num_epochs"]
    names = optimizers(results["config"])
    for epoch in (
        {"all": range(last + 1), "final": [last]}[wanted]
        if isinstance(wanted, str)
        else sorted(wanted)
    ):
        for name in names[:1] if epoch == parting_epoch(results["config"]) else names:
            point = Point(title, name, epoch)
            if series_of(results, point)["val_loss"][epoch] is not None:
                yield point
