"""What does a run's `results.json` hold? Its series, and which optimizers share a checkpoint.

Functions on the plain dict that is written as JSON. Every series is a list indexed by epoch, None
where not measured.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from degeneracy.llc.certificates import Certificates
from degeneracy.llc.statistics import FALLING, RISING, LLCEstimate
from degeneracy.runs.store import Point
from degeneracy.texts import number

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
    "llc_interval": "interval",
    "llc_locality": "locality",
    "llc_relative_distance": "relative_distance",
    "llc_basin_shift": "basin_shift",
    "llc_basin_llc": "basin_llc",
    "llc_relaxation": "relaxation",
    "llc_verdict": "verdict",
}
CHAIN_COUNTS = ("num_diverged_chains", "num_unsettled_chains")
HESSIAN_SERIES = {"hessian_trace": "trace", "hessian_trace_std_error": "std_error"}
SERIES = (*RECORD_SERIES, *LLC_SERIES, *CHAIN_COUNTS, *HESSIAN_SERIES)  # one number an epoch
CHAIN_SERIES = ("llc_chains",)  # a list an epoch, an entry a chain


# ---- reading -------------------------------------------------------------------------------------


def optimizers(results: Mapping[str, Any]) -> tuple[str, ...]:
    """The optimizers compared, in the order of their training; the first is the baseline."""
    return tuple(results["optimizers"])


def parting_epoch(config: Mapping[str, Any]) -> int:
    """The epoch whose checkpoint all share: the cut-off of a swap, else the initial weights."""
    return swap_epoch(config) or 0


def swap_epoch(config: Mapping[str, Any]) -> int | None:
    """The epoch after which the optimizers of a swap part; None of any other run."""
    experiment = config["experiment"]
    return experiment["cut_off_epochs"] if experiment["experiment_type"] == "swap" else None


def optimizers_of(results: Mapping[str, Any], title: str) -> dict[str, dict[str, Any]]:
    """Optimizer → series of a model."""
    return results["models"][title]["optimizers"]


def series_of(results: Mapping[str, Any], point: Point) -> dict[str, Any]:
    """The series of the optimizer that `point` belongs to."""
    return optimizers_of(results, point.title)[point.optimizer]


def at(series: Mapping[str, Sequence], key: str, epoch: int) -> float | None:
    """The finite value of `series[key]` at `epoch`, or None."""
    values = series.get(key) or ()
    return number(values[epoch]) if epoch < len(values) else None


def points_to_measure(results: Mapping[str, Any], title: str) -> Iterator[Point]:
    """Checkpoints that the config wants measured and training reached; shared ones once."""
    for point in wanted_points(results["config"], title, optimizers(results)):
        if series_of(results, point)["val_loss"][point.epoch] is not None:
            yield point


def wanted_points(config: Mapping[str, Any], title: str, names: Sequence[str]) -> Iterator[Point]:
    """Checkpoints that the config wants measured, whether they are there or not."""
    experiment = config["experiment"]
    wanted, last = experiment["measure_epochs"], experiment["num_epochs"]
    named = {"all": range(last + 1), "final": [last]}
    for epoch in named[wanted] if isinstance(wanted, str) else sorted(wanted):
        # up to a swap only the first trains, and its last checkpoint there is everybody's
        for name in names[:1] if epoch <= parting_epoch(config) else names:
            yield Point(title, name, epoch)


# ---- putting in ----------------------------------------------------------------------------------


def add_model(results: dict[str, Any], title: str, num_parameters: int) -> None:
    """Makes room for a model; what is there already stays."""
    fresh = {"num_parameters": num_parameters, "optimizers": {}}
    model = results["models"].setdefault(title, fresh)
    for name in optimizers(results):
        series = model["optimizers"].setdefault(
            name, {"kappa": {}, "cosine": {}, "diverged_epoch": None}
        )
        for key in (*SERIES, *CHAIN_SERIES):
            series.setdefault(key, unmeasured(results))


def unmeasured(results: Mapping[str, Any]) -> list[None]:
    """A series of which nothing is known."""
    return [None] * (results["config"]["experiment"]["num_epochs"] + 1)


def put_findings(results: dict[str, Any], point: Point, findings: Mapping[str, Any]) -> None:
    """Puts values into every series that shows `point`'s checkpoint: all that share it."""
    shared = point.epoch == parting_epoch(results["config"])
    for name in optimizers(results) if shared else (point.optimizer,):
        series = series_of(results, point._replace(optimizer=name))
        for key, value in findings.items():
            series.setdefault(key, unmeasured(results))[point.epoch] = value


def check_logged(optimizer: str, logged: Mapping[str, Any]) -> None:
    """Raises ValueError where what an optimizer logs is called like a series of the run."""
    reserved = {*SERIES, *CHAIN_SERIES, "diverged_epoch"} & logged.keys()
    flat = [name for name in ("kappa", "cosine") if name in logged.keys() - reserved]
    flat = [name for name in flat if not isinstance(logged[name], Mapping)]
    if reserved or flat:
        names = ", ".join(sorted([*reserved, *flat]))
        raise ValueError(
            f"optimizer {optimizer!r} logs {names}; allowed: names that are no series of a run, and"
            " kappa and cosine by parameter"
        )


def put_record(results: dict[str, Any], point: Point, record: Mapping[str, Any]) -> None:
    """Puts what was recorded of an epoch of training (`training.EpochRecord` as a dict)."""
    put_findings(results, point, {key: record[key] for key in RECORD_SERIES})
    series = series_of(results, point)
    if record["diverged"]:
        series["diverged_epoch"] = point.epoch
    _put_logged(series, record["logged"], point.epoch, unmeasured(results))


def _put_logged(into: dict[str, Any], logged: Mapping[str, Any], epoch: int, empty: list) -> None:
    """Nested means of an epoch into nested series."""
    for name, value in logged.items():
        if isinstance(value, Mapping):
            _put_logged(into.setdefault(name, {}), value, epoch, empty)
        else:
            into.setdefault(name, [*empty])[epoch] = value


# ---- what was found, as JSON ---------------------------------------------------------------------


def llc_findings(estimate: LLCEstimate) -> dict[str, Any]:
    """The LLC of a checkpoint as entries of its series, with what each chain found."""
    chains = _chains(estimate)
    return {
        **{key: getattr(estimate, attribute) for key, attribute in LLC_SERIES.items()},
        "num_diverged_chains": int(estimate.diverged.sum()),
        "num_unsettled_chains": sum(chain["verdict"] in (RISING, FALLING) for chain in chains),
        "llc_chains": chains,
    }


def hessian_findings(estimate) -> dict[str, Any]:
    """A `curvature.trace.HessianTrace` as entries of its series."""
    return {key: getattr(estimate, attribute) for key, attribute in HESSIAN_SERIES.items()}


def finding(estimate: LLCEstimate) -> dict[str, Any]:
    """An LLC estimate outside the series over epochs: its numbers and what each chain found."""
    proof = estimate.certificates
    return {
        "llc": estimate.llc,
        "std_error": estimate.std_error,
        "interval": estimate.interval and list(estimate.interval),
        "drift": estimate.drift,
        "ess": estimate.ess,
        "acceptance": estimate.mean_acceptance,
        "settled": bool(estimate.settled),
        "num_diverged_chains": int(estimate.diverged.sum()),
        "chains": _chains(estimate),
        "init_loss": estimate.init_loss,
        **({} if proof is None else certificate_findings(proof)),
    }


def certificate_findings(proof: Certificates) -> dict[str, Any]:
    """What tells whether an estimate is local, with the verdict and what to change."""
    found = {**asdict(proof), "verdict": proof.verdict, "advice": proof.advice}
    return found | {"remarks": list(proof.remarks)}


def _chains(estimate: LLCEstimate) -> list[dict[str, Any]]:
    llcs = (float(llc) if math.isfinite(llc) else None for llc in estimate.chain_llcs)
    return [
        {"llc": llc, "verdict": verdict}
        for llc, verdict in zip(llcs, estimate.chain_verdicts, strict=True)
    ]
