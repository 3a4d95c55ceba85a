"""What do the paper's runs find? Sweeps of `ngd_sgd`, and of each run what figures are made of."""

import re
from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from typing import Any

from tqdm import tqdm

import studies
from degeneracy.runs.config import Config
from degeneracy.runs.work import Found, Measured, Part, Work
from degeneracy.sweeps.folder import State
from degeneracy.sweeps.grid import Planned
from degeneracy.sweeps.sweep import DONE, Sweep, run_sweep, sweep_of
from studies.paper.plans import Plan, plans_of
from studies.paper.tables import write_runs

RUN_STUDY = "ngd_sgd"
SERIES = (  # lists over epochs that are kept of a run, as `docs/results-json.md` has them
    "llc",
    "llc_std_error",
    "llc_drift",
    "llc_init_loss",
    "num_diverged_chains",
    "num_unsettled_chains",
    "wbic",
    "wbic_std_error",
    "train_loss",
    "val_loss",
    "val_accuracy",
    "update_norm",
    "hessian_trace",
    "hessian_trace_std_error",
)
OF_OPTIMIZER = ("lr", "alpha", "eta", "epsilon", "delta")


def measured_by(name: str) -> Callable[[Work], Measured]:
    """A part's measuring: sweep by sweep, what is there is not made again."""

    def measure_part(work: Work) -> Measured:
        plans = plans_of(work.settings, name)
        for key in work.todo(plans, "sweep"):
            yield key, done(work, name, key, plans[key])
            write_runs(work)
        write_runs(work)

    return measure_part


def done(work: Work, part: str, key: str, plan: Plan) -> Found:
    """Does one sweep, or what is left of it.

    Raises:
        sweeps.grid.SweepError: Its settings are refused, its folder is in use, the disk is too
            small, or no cluster answers.
    """
    sweep = sweep_for(work, part, key, plan)
    runs = work.settings.runs
    resources = replace(runs.resources, device=work.device.type)
    _, states = run_sweep(sweep, studies.find, resources, runs.retries, say=tqdm.write)
    rows = [
        row for run, state in zip(sweep.runs, states, strict=True) for row in rows_of(run, state)
    ]
    seconds = sum(state.seconds for state in states)
    folder = str(sweep.directory.relative_to(work.store.directory.absolute()))
    return {"sweep": folder, "core_seconds": seconds, "rows": rows}


def sweep_for(work: Work, part: str, key: str, plan: Plan) -> Sweep:
    """The sweep, checked; its folder lies in the run directory. Nothing is run."""
    slug = re.sub(r"[^a-z0-9]+", "-", f"{part} {key}".lower()).strip("-")
    folder = work.store.directory / "sweeps" / slug
    study = studies.find(RUN_STUDY)
    where = f"paper, {part}, {key}"
    return sweep_of(study, plan.content, [plan.axis], folder, where, large=True)  # asked for before


def has(work: Work, key: Hashable) -> bool:
    """Whether a sweep is there with all its runs: one of which a run failed is tried again."""
    found = work.found().get(key)
    return found is not None and all(row["status"] in DONE for row in found["rows"])


PARTS = {
    name: Part(measured_by(name), has=has)
    for name in ("sizes", "smoothing", "rates", "overfitting", "other_sizes")
}


# ---- what is kept of a run -----------------------------------------------------------------------


def rows_of(run: Planned, state: State) -> list[dict[str, Any]]:
    """One row an optimizer: what it was, its series over epochs, and NGD's κ.

    Of a failed run the rows have the reason and no series.
    """
    config, results = run.settings, state.results
    about = {"run": run.name, "status": state.status, "reason": state.reason}
    if results is None:
        return [
            about | {"optimizer": name, "factors": factors(config, name)}
            for name in config.optimizer_names
        ]
    return [
        {
            **about,
            "optimizer": name,
            "factors": factors(config, name),
            "model": title,
            "num_parameters": model["num_parameters"],
            "nbeta": results["nbeta"],
            "train_size": results["train_size"],
            "diverged_epoch": series["diverged_epoch"],
            "series": {key: series[key] for key in SERIES},
            "kappa": series["kappa"],
        }
        for title, model in results["models"].items()
        for name, series in model["optimizers"].items()
    ]


def factors(config: Config, optimizer: str) -> dict[str, Any]:
    """What a row may be told apart by; an optimizer's settings are those after the swap."""
    experiment = config.experiment
    is_cnn = experiment.model_type == "cnn"
    is_swap = experiment.experiment_type == "swap"
    network: Mapping[str, Any] = (
        {"hidden_conv_layers": experiment.hidden_conv_layers[0]}
        if is_cnn
        else {
            "hidden_layers": experiment.hidden_layers[0],
            "hidden_nodes": experiment.hidden_nodes[0],
        }
    )
    own = config.optimizer_settings(optimizer, after_swap=is_swap).model_dump()
    return {
        "dataset": config.data.dataset,
        "model_type": experiment.model_type,
        **network,
        "seed": experiment.seed,
        "kind": config.optimizer_kind(optimizer),
        **{key: own[key] for key in OF_OPTIMIZER if key in own},
        "nbeta": config.devinterp.nbeta,
        "localization": config.devinterp.localization,
        "cut_off_epochs": experiment.cut_off_epochs if is_swap else 0,
        "num_epochs": experiment.num_epochs,
    }
