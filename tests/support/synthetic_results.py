"""What does a run's `results.json` look like? Made-up results in realistic ranges, for tests of
figures and report, for any number of optimizers.

The numbers are drawn, not measured: nothing here says anything about NGD or SGD.
"""

import copy
import math

import numpy as np

from degeneracy.llc.statistics import chain_verdict
from degeneracy.runs.results import CHAIN_SERIES, SERIES
from degeneracy.runs.store import FORMAT

PARAMETERS = {
    f"layers.{i}.{part}": axes for i in range(3) for part, axes in (("weight", 2), ("bias", 1))
}
FINAL_LLC = {"sgd": 43.6, "ngd": 55.2, "adamw": 39.0, "muon": 50.5}
FINAL_LOSS = {"sgd": 0.295, "ngd": 0.093, "adamw": 0.15, "muon": 0.12}
STEP = {"sgd": 0.0006, "ngd": 0.006, "adamw": 0.002}  # update norm


def synthetic_run(
    seed=0,
    *,
    titles=("FFNN 2 HL, 256 HN",),
    kind="swap",
    optimizers=("sgd", "ngd"),
    num_epochs=20,
    cut_off=10,
    measured="all",
    hessian=True,
    num_chains=2,
    num_draws=200,
):
    """(results, traces) of a made-up run; `measured` as the config's `measure_epochs`.

    The first of `optimizers` trains up to the cut-off of a swap; those whose names begin with `ngd`
    log κ and cosines.
    """
    rng = np.random.default_rng(seed)
    config = _config(
        kind, optimizers, num_epochs, cut_off, measured, hessian, num_chains, num_draws
    )
    results = {
        "format": FORMAT,
        "study": "ngd_sgd",
        "status": "complete",
        "optimizers": list(optimizers),
        "config": config,
        "environment": {"python": "3.12.3", "torch": "2.13.0", "device": "cpu", "threads": 2},
        "timing_s": {"train": 61.2, "llc": 402.0, "hessian": 88.4, "total": 551.6},
        "nbeta": 128 / math.log(128),
        "train_size": 60000,
        "models": {title: {"num_parameters": 269322, "optimizers": {}} for title in titles},
    }
    traces = {}
    for title in titles:
        for optimizer in optimizers:
            series = _series(rng, results, optimizer, traces, title)
            results["models"][title]["optimizers"][optimizer] = series
        if kind == "swap":
            _share_checkpoint(results["models"][title]["optimizers"], cut_off)
    return results, traces


GRID = {  # (nβ setting, γ) → (λ̂ of the first, of the second, standard error)
    ("batch", 10): (188.0, 200.0, 4.0),
    ("batch", 100): (43.5, 55.3, 0.8),
    ("batch", 1000): (4.3, 6.3, 0.1),
    ("batch", 10_000): (0.51, 0.5, 0.02),
    ("dataset", 10): (2410.0, 2980.0, 60.0),
    ("dataset", 100): (1100.0, 1280.0, 30.0),
    ("dataset", 1000): (310.0, 270.0, 9.0),
    ("dataset", 10_000): (30.0, 65.0, 0.7),
}
# Places of optimizers whose estimate has not settled, or has lost a chain; all else has settled.
UNSETTLED_CELLS = {("batch", 10): (0, 1), ("dataset", 10): (1,)}
DIVERGED_CELLS = {("dataset", 10): (0,), ("dataset", 1000): (1,)}
SPREAD = (0.0, 1.0, -0.3, 0.5)  # where optimizers lie between the first and the second
RESCALED = {0.5: 1.4, 1.0: 1.0, 2.0: 1.2}  # factor → λ̂ over that at factor 1


def add_grid(results, cells=GRID, without=()):
    """Gives every model LLCs on the grid: the second's is higher than the first's in four cells,
    lower in one, undecided in one. Further optimizers lie between and below the two; those of
    `without` are in no cell.
    """
    last, n = results["config"]["experiment"]["num_epochs"], results["train_size"]
    nbetas = {"batch": results["nbeta"], "dataset": n / math.log(n)}
    names = results["optimizers"]
    for model in results["models"].values():
        model["llc_grid"] = {
            "max_curvature": 81.3,
            "epochs": {name: last for name in names if name not in without},
            "cells": [],
        }
        for (setting, localization), (first, second, error) in cells.items():
            nbeta, key = nbetas[setting], (setting, localization)
            found = {
                name: found_llc(
                    first + SPREAD[place % 4] * (second - first),
                    error,
                    settled=place not in UNSETTLED_CELLS.get(key, ()),
                    num_diverged=int(place in DIVERGED_CELLS.get(key, ())),
                )
                for place, name in enumerate(names)
                if name not in without
            }
            settings = {
                "localization": float(localization),
                "nbeta": nbeta,
                "nbeta_setting": setting,
            }
            settings["sampler_lr"] = 0.2 / (nbeta * 81.3 + localization)
            model["llc_grid"]["cells"].append({**settings, "optimizers": found})


def add_rescaling(results, llcs=None):
    """Gives every model LLCs of its rescaled final weights; `llcs` maps optimizer → factor → λ̂."""
    if llcs is None:
        llcs = {
            name: {c: change * FINAL_LLC.get(name, 48.0) for c, change in RESCALED.items()}
            for name in results["optimizers"]
        }
    for model in results["models"].values():
        found = {
            name: [
                {"factor": c, **found_llc(llc, 0.8, settled=c != 2)} for c, llc in by_factor.items()
            ]
            for name, by_factor in llcs.items()
        }
        model["rescaling"] = {"layers": ["layers.1", "layers.3"], "optimizers": found}


def found_llc(llc, std_error, settled=True, num_diverged=0, num_chains=4):
    """What `runs.results.finding` gives for made-up chains with this pooled estimate."""
    spread = 0.0 if std_error is None else 2 * std_error
    chains = [
        {
            "llc": llc + spread * (-1) ** chain,
            "verdict": "steady" if settled or chain else "still rising",
        }
        for chain in range(num_chains - num_diverged)
    ] + [{"llc": None, "verdict": "diverged"}] * num_diverged
    return {
        "llc": llc,
        "std_error": std_error,
        "drift": (0.3 if settled else 3.0) * (std_error or 1.0),
        "ess": 210.0,
        "acceptance": 0.93,
        "settled": settled,
        "num_diverged_chains": num_diverged,
        "chains": chains,
    }


def local_llc(llc, std_error=0.8, gauge="given", **values):
    """What a run's `local` holds of an estimate of `auto` whose certificates all pass, but for
    `values`.
    """
    interval = (
        None if None in (llc, std_error) else [llc - 2.36 * std_error, llc + 2.36 * std_error]
    )
    found = {**found_llc(llc, std_error, num_chains=8), "interval": interval, "init_loss": 0.09}
    found |= {"locality": 0.021, "distance": 2.6, "relative_distance": 0.12, "basin_shift": 0.4}
    found |= {"basin_llc": llc + 0.4, "relaxation": 41.0, "rhat": 1.008}
    found |= {"num_burnin_steps": 130, "num_draws": 420, "distance_rhat": 1.012, "step": 0.05}
    found |= {"step_bias": -0.1, "coordinates": "kfac", "gauge": gauge, "remarks": []}
    return {**found, "verdict": "local estimate", "advice": "", **values}


NOT_AT_MINIMUM = {
    "basin_shift": 89.0,
    "basin_llc": 60.0,
    "verdict": "not at a minimum",
    "advice": "The loss falls by 89 (times nβ) to the bottom of its basin: train on.",
}
NOT_AT_REST = {
    "relaxation": 3095.0,
    "verdict": "not at rest",
    "advice": "The slowest direction needs 3095 steps to forget its start.",
}


def make_auto(results):
    """Turns a made-up run into one of the sampler `auto` at the published nβ and γ, in place."""
    chosen = {"sampler": "auto", "sampler_lr": None, "num_draws": None, "num_burnin_steps": None}
    results["config"]["devinterp"] |= {**chosen, "num_chains": 8}
    for model in results["models"].values():
        for series in model["optimizers"].values():
            known = [llc is not None for llc in series["llc"]]
            errors = zip(series["llc"], series["llc_std_error"], strict=True)
            series["llc_interval"] = [
                None if None in pair else [pair[0] - 2.36 * pair[1], pair[0] + 2.36 * pair[1]]
                for pair in errors
            ]
            words = {"llc_verdict": "tempered, not local", "llc_locality": 0.51}
            words |= {"llc_relative_distance": 2.4, "llc_relaxation": 12.0}
            words |= {"llc_basin_shift": None, "llc_basin_llc": None}
            for key, value in words.items():
                series[key] = [value if there else None for there in known]


def add_local(results, llcs=None, difference=0.4, **by_name):
    """Turns the run into one of `auto` with local estimates: (as given, balanced) of each
    optimizer, paired differences with an error of `difference`, and the parting checkpoint.
    `by_name`: optimizer → what its estimates have in place of what passes.
    """
    make_auto(results)
    names, experiment = results["optimizers"], results["config"]["experiment"]
    if llcs is None:
        llcs = {n: (FINAL_LLC.get(n, 48.0), 1.4 * FINAL_LLC.get(n, 48.0)) for n in names}
    points = [_local_point(n, experiment["num_epochs"], llcs[n], by_name.get(n, {})) for n in names]
    if experiment["experiment_type"] == "swap":
        points.append(_local_point(names[0], experiment["cut_off_epochs"], (30.0, 41.0), {}))
    local = {
        "nbeta": 5453.6,
        "localization": 10_000.0,
        "reason": "The largest nβ at which all checkpoints are at a minimum.",
        "points": points,
        "differences": {
            name: {
                gauge: _paired(llcs[names[0]][place], llcs[name][place], difference)
                for place, gauge in enumerate(("given", "balanced"))
            }
            for name in names[1:]
        },
    }
    for model in results["models"].values():
        model["local"] = copy.deepcopy(local)
    return results


def _local_point(name, epoch, llcs, values):
    given, balanced = llcs
    second = None if balanced is None else local_llc(balanced, gauge="balanced") | values
    first = local_llc(given) | values
    return {"optimizer": name, "epoch": epoch, "given": first, "balanced": second}


def _paired(baseline, other, error):
    if None in (baseline, other):
        return None
    difference = other - baseline
    half = 2.36 * error
    interval = [difference - half, difference + half]
    return {"difference": difference, "std_error": error, "interval": interval}


def leave_unsampled(results, needed_steps=13_000, where=lambda cell: cell["localization"] < 1000):
    """Makes the grid one of `auto`, whose cells of small γ cannot come to rest, in place."""
    for model in results["models"].values():
        for cell in model["llc_grid"]["cells"]:
            cell["sampler_lr"], cell["needed_steps"] = None, None
            if where(cell):
                cell |= {"optimizers": {}, "needed_steps": needed_steps}
            for found in cell["optimizers"].values():
                found |= {"verdict": "tempered, not local", "interval": None}


def measured_epochs(config):
    epochs = config["experiment"]["measure_epochs"]
    last = config["experiment"]["num_epochs"]
    return (
        {"all": list(range(last + 1)), "final": [last]}.get(epochs, epochs)
        if isinstance(epochs, str)
        else epochs
    )


def diverge(results, title, optimizer, epoch):
    """Makes `optimizer` stop being finite in `epoch`, in place."""
    series = results["models"][title]["optimizers"][optimizer]
    series["diverged_epoch"] = epoch
    for key in (*SERIES, *CHAIN_SERIES):
        series[key][epoch:] = [None] * len(series[key][epoch:])
    for by_axis in series["kappa"].values():
        for values in by_axis.values():
            values[epoch:] = [None] * len(values[epoch:])
    for values in series["cosine"].values():
        values[epoch:] = [None] * len(values[epoch:])


def set_final(results, title, optimizer, **values):
    """Overwrites values of the last epoch, in place."""
    for key, value in values.items():
        results["models"][title]["optimizers"][optimizer][key][-1] = value


def _config(kind, optimizers, num_epochs, cut_off, measured, hessian, num_chains, num_draws):
    return {
        "experiment": {
            "model_type": "ffnn",
            "experiment_type": kind,
            "optimizer": list(optimizers),
            "hessian": hessian,
            "hidden_nodes": [256],
            "hidden_layers": [2],
            "cut_off_epochs": cut_off,
            "num_epochs": num_epochs,
            "sgd_lr": 0.01,
            "sgd_swap_lr": None,
            "ngd_lr": 0.01,
            "alpha": 0.1,
            "eta": 0.9,
            "epsilon": 1e-10,
            "delta": 5e-4,
            "ngd_arithmetic": "stable",
            "momentum": 0.9,
            "nesterov": True,
            "seed": 1,
            "measure_epochs": measured,
        },
        "data": {
            "dataset": "fashion-mnist",
            "batch_size": 128,
            "num_hessian_batches": 10,
            "num_probes": 50,
            "root": "data",
        },
        "devinterp": {
            "sampler": "sgld",
            "num_chains": num_chains,
            "num_draws": num_draws,
            "num_burnin_steps": 0,
            "localization": 100.0,
            "sampler_lr": 1e-4,
            "nbeta": "batch",
            "backend": "batched",
            "seed": 0,
        },
    }


def _series(rng, results, optimizer, traces, title):
    experiment, sampler = results["config"]["experiment"], results["config"]["devinterp"]
    last = experiment["num_epochs"]
    is_trunk = experiment["experiment_type"] != "swap" or optimizer == results["optimizers"][0]
    first = 0 if is_trunk else experiment["cut_off_epochs"]
    series = {key: [None] * (last + 1) for key in (*SERIES, *CHAIN_SERIES)}
    series["diverged_epoch"] = None
    final = FINAL_LOSS.get(optimizer, 0.2)
    decay = np.exp(-5 * np.arange(last + 1) / last)
    loss = final + (2.31 - final) * decay * (1 + 0.02 * rng.standard_normal(last + 1))
    for e in range(first, last + 1):
        series["train_loss"][e] = float(loss[e])
        series["val_loss"][e] = float(loss[e] * 1.02 + 0.03)
        series["val_accuracy"][e] = float(0.98 - 0.1 * loss[e])
        if e > 0:
            size = STEP.get(optimizer, 0.001)
            series["update_norm"][e] = size * math.exp(0.1 * rng.standard_normal())
        series["num_skipped_updates"][e] = series["num_restarts"][e] = 0
    for e in (e for e in measured_epochs(results["config"]) if e >= first):
        trace = _measure(
            rng,
            results,
            series,
            optimizer,
            e,
            float(loss[e]) * 0.97,
            sampler,
            experiment["hessian"],
        )
        traces[title, optimizer, e] = trace
    is_ngd = optimizer.startswith("ngd")
    series["kappa"] = _kappa(rng, first, last) if is_ngd else {}
    series["cosine"] = _cosine(rng, first, last) if is_ngd else {}
    return series


def _measure(rng, results, series, optimizer, e, init_loss, sampler, hessian):
    last = len(series["llc"]) - 1
    target = 20 + (FINAL_LLC.get(optimizer, 48.0) - 20) * (e / last) ** 0.7
    draws = np.arange(1, sampler["num_draws"] + 1)
    level = target * (1 - np.exp(-12 * draws / sampler["num_draws"])) / 0.917
    noise = rng.standard_normal((sampler["num_chains"], sampler["num_draws"]))
    trace = init_loss + level / results["nbeta"] + 0.15 * noise
    llc = results["nbeta"] * (trace.mean() - init_loss)
    half = results["nbeta"] * (trace[:, sampler["num_draws"] // 2 :].mean() - init_loss)
    error = float(rng.uniform(0.4, 1.1))
    values = {
        "llc": llc,
        "llc_std_error": error,
        "llc_drift": half - llc,
        "llc_init_loss": init_loss,
        "llc_rhat": rng.uniform(1.0, 1.05),
        "llc_ess": rng.uniform(30, 90),
        "wbic": results["train_size"] * trace.mean(),
        "wbic_std_error": error * results["train_size"] / results["nbeta"],
        "llc_acceptance": rng.uniform(0.9, 0.98),
    }
    if hessian:
        values["hessian_trace"] = rng.uniform(100, 500)
        values["hessian_trace_std_error"] = rng.uniform(4, 20)
    for key, value in values.items():
        series[key][e] = float(value)
    chains = [
        {
            "llc": float(results["nbeta"] * (losses.mean() - init_loss)),
            "verdict": chain_verdict(losses),
        }
        for losses in trace
    ]
    series["llc_chains"][e] = chains
    series["num_diverged_chains"][e] = 0
    series["num_unsettled_chains"][e] = sum(chain["verdict"] != "steady" for chain in chains)
    return trace


def _kappa(rng, first, last):
    return {
        name: {
            str(axis): (
                [None] * (first + 1)
                + [
                    float(v)
                    for v in 10 ** (rng.uniform(-8, -3) + 0.1 * rng.standard_normal(last - first))
                ]
            )
            for axis in range(axes)
        }
        for name, axes in PARAMETERS.items()
    }


def _cosine(rng, first, last):
    return {
        name: [None] * (first + 1) + list(rng.uniform(0.2, 0.6, size=last - first))
        for name in PARAMETERS
    }


def _share_checkpoint(optimizers, cut_off):
    trunk, *others = optimizers.values()
    for series in others:
        for key in (*SERIES, *CHAIN_SERIES):
            series[key][cut_off] = trunk[key][cut_off]
