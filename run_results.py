"""What does `results.json` hold? Its keys, which optimizers share a checkpoint, and how a finding is put in.

Functions on the plain dict that is written as JSON. Every series is a list indexed by epoch, None where not measured.
"""

from collections.abc import Iterator
from typing import Any

from run_store import Point

OPTIMIZERS = ("sgd", "ngd")
RECORD_SERIES = ("train_loss", "val_loss", "val_accuracy", "update_norm", "num_skipped_updates", "num_restarts")
LLC_SERIES = {  # name in results.json → attribute of `llc.LLCEstimate`
    "llc": "llc", "llc_std_error": "std_error", "llc_drift": "drift", "llc_rhat": "rhat", "llc_ess": "ess",
    "llc_init_loss": "init_loss", "wbic": "wbic", "wbic_std_error": "wbic_std_error",
}  # fmt: skip
HESSIAN_SERIES = {"hessian_trace": "trace", "hessian_trace_std_error": "std_error"}  # → `HessianTrace`
SERIES = (*RECORD_SERIES, *LLC_SERIES, "num_diverged_chains", *HESSIAN_SERIES)


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
    model = results["models"].setdefault(title, {"num_parameters": num_parameters, "optimizers": {}})
    for name in optimizers(results["config"]):
        series = model["optimizers"].setdefault(name, {"kappa": {}, "diverged_epoch": None})
        for key in SERIES:
            series.setdefault(key, [None] * (results["config"]["experiment"]["num_epochs"] + 1))


def optimizers(config: dict[str, Any]) -> tuple[str, ...]:
    """The optimizers that a config trains, in the order in which they are trained."""
    chosen = config["experiment"]["optimizer"]
    return OPTIMIZERS if chosen == "both" else (chosen,)


def parting_epoch(config: dict[str, Any]) -> int:
    """The epoch whose checkpoint all optimizers share: the cut-off of a swap, else the initial weights."""
    experiment = config["experiment"]
    return experiment["cut_off_epochs"] if experiment["experiment_type"] == "swap" else 0


def series_of(results: dict[str, Any], point: Point) -> dict[str, Any]:
    """The series of the optimizer that `point` belongs to."""
    return results["models"][point.title]["optimizers"][point.optimizer]


def _put(results: dict[str, Any], point: Point, findings: dict[str, Any]) -> None:
    """Puts values into every series that shows `point`'s checkpoint: all optimizers' where it is the shared one."""
    shared = point.epoch == parting_epoch(results["config"])
    for name in optimizers(results["config"]) if shared else (point.optimizer,):
        series = series_of(results, point._replace(optimizer=name))
        for key, value in findings.items():
            series[key][point.epoch] = value


def put_record(results: dict[str, Any], point: Point, record: dict[str, Any]) -> None:
    """Puts what was recorded of an epoch of training (`training.EpochRecord` as a dict)."""
    _put(results, point, {key: record[key] for key in RECORD_SERIES})
    series = series_of(results, point)
    if record["diverged"]:
        series["diverged_epoch"] = point.epoch
    for parameter, axes in record["kappa"].items():
        for axis, kappa in axes.items():
            epochs = series["kappa"].setdefault(parameter, {}).setdefault(axis, [None] * len(series["train_loss"]))
            epochs[point.epoch] = kappa


def put_llc(results: dict[str, Any], point: Point, estimate) -> None:
    """Puts an `llc.LLCEstimate`."""
    findings = {key: getattr(estimate, attribute) for key, attribute in LLC_SERIES.items()}
    _put(results, point, findings | {"num_diverged_chains": int(estimate.diverged.sum())})


def put_hessian_trace(results: dict[str, Any], point: Point, estimate) -> None:
    """Puts a `utils_hessian_fim.HessianTrace`."""
    _put(results, point, {key: getattr(estimate, attribute) for key, attribute in HESSIAN_SERIES.items()})


def points_to_measure(results: dict[str, Any], title: str) -> Iterator[Point]:
    """The checkpoints that the config wants measured and training reached, by epoch, a shared one once."""
    experiment = results["config"]["experiment"]
    wanted, last = experiment["measure_epochs"], experiment["num_epochs"]
    names = optimizers(results["config"])
    for epoch in {"all": range(last + 1), "final": [last]}[wanted] if isinstance(wanted, str) else sorted(wanted):
        for name in names[:1] if epoch == parting_epoch(results["config"]) else names:
            point = Point(title, name, epoch)
            if series_of(results, point)["val_loss"][epoch] is not None:
                yield point
