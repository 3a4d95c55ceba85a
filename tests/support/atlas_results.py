"""Results of the atlas by a law that is known: what its contrasts, fits and pictures must find."""

import math
from itertools import product

import numpy as np

from studies.atlas.settings import Settings

EFFECTS = {"early": 0.4, "late": 0.1, "early × late": 0.06, "rate": -0.5, "early × depth": 0.2}
LOSSES = (0.06, 0.025, 0.012)
SEED_SPREAD = 0.2
SIDES = {"sgd": -0.5, "ngd": 0.5, "adamw": 1.5, "muon": -1.0}  # of an optimizer, in effects
KEY = ("seed", "early", "late", "fraction", "model")  # of a run
FINISHED = {"status": "finished", "reason": "", "seconds": 60.0}
FAILED = FINISHED | {"status": "failed", "reason": "ValueError: stopped"}
FAILED |= {"training": None, "points": None}


def atlas_results(
    seeds=range(1, 5),
    models=((256, 2), (64, 8)),
    noise=0.01,
    verdict="local estimate",
    losses=LOSSES,
    missing=(),
    throughout=(),
):
    """`results.json` with a run for every cell; log λ̂ by `EFFECTS`, a seed's shift and noise.

    Args:
        noise: Deviation of log λ̂ between runs of a cell.
        verdict: Of every estimate.
        losses: Annealed training losses of the branches; λ̂ falls linearly in their log.
        missing: (seed, early, late, fraction, model) of runs that failed.
        throughout: Optimizers, each the same early and late; empty: SGD and NGD in all pairs.
    """
    given = {"models": [{"hidden_nodes": n, "hidden_layers": d} for n, d in models]}
    if throughout:
        given |= {"pairs": "same", "optimizers": [*throughout], "further_seeds": []}
    config = Settings.model_validate({"factorial": given}).model_dump(mode="json")
    generator = np.random.default_rng(0)
    factorial = config["factorial"]
    groups = {}
    for (nodes, layers), seed in product(models, seeds):
        name = f"{layers}×{nodes}"
        shift = SEED_SPREAD * np.random.default_rng(seed).normal()
        rows = []
        names = factorial["optimizers"]
        for fraction, early, late in product(sorted(factorial["fractions"])[::-1], names, names):
            if throughout and early != late:
                continue
            level = shift + law(early, late, fraction, layers == 8) + noise * generator.normal()
            row = {"model": name, "seed": seed, "early": early, "late": late, "fraction": fraction}
            if tuple(row[key] for key in KEY) in missing:
                rows.append(row | FAILED)
            else:
                parts = {"training": training(losses, level)}
                parts["points"] = points(level, losses, verdict, generator)
                rows.append(row | FINISHED | parts)
        groups[f"{name}, seed {seed}"] = {"rows": rows}
    rates = {
        f"{optimizer}, {layers}×{nodes}": {"rate": 0.1, "tried": [[0.1, "stable"]]}
        for optimizer, (nodes, layers) in product(factorial["optimizers"], models)
    }
    return {
        "status": "running",
        "config": config,
        "environment": {},
        "timing_s": {},
        "parts": {"rates": rates, "runs": groups},
    }


def law(early, late, fraction, deep):
    """log λ̂ in the window's middle, apart from seed and noise."""
    e, t = (SIDES[name] for name in (early, late))
    d = 0.5 if deep else -0.5
    return (
        1.5
        + EFFECTS["early"] * e
        + EFFECTS["late"] * t
        + EFFECTS["early × late"] * e * t
        + EFFECTS["rate"] * math.log(fraction / 0.25) / 3
        + EFFECTS["early × depth"] * e * d
    )


def training(losses, level=0.0):
    """What the study `branches` keeps of a training."""
    return {
        "outcome": "reached",
        "steps_an_epoch": 100,
        "switched_at": 100,
        "looks": [[20, 2.0], [100, 0.2]],
        "branches": [
            {
                "targets": [loss],
                "left_at": 100 * place,
                "left_loss": 1.5 * loss,
                "train_loss": loss,
                "val_loss": loss + 0.1 + 0.02 * level,
                "val_accuracy": 0.9,
                "norm": 20.0,
                "length": 100.0 * place,
                "since_drop": 1.0,
            }
            for place, loss in enumerate(losses, start=1)
        ],
    }


def points(level, losses, verdict, generator):
    """What it keeps of the branches: λ̂ = e^level times a line in log loss, 1 in mid-window."""
    middle = (math.log(0.03) + math.log(0.02)) / 2
    found = []
    for loss in losses:
        value = math.exp(level) * (1 + 0.2 * (math.log(loss) - middle))
        estimate = {"llc": value, "std_error": 0.02 * value, "verdict": verdict}
        found.append(
            {
                "raw": estimate | {"llc": value / 2},
                "balanced": estimate,
                "gauge_free": None,
                "published": None,
                "balanced_norm": 15.0,
                "raw_trace": 30 * value,
                "raw_trace_std_error": 1.0,
                "raw_largest": 3.0,
                "balanced_trace": 50 * value,
                "balanced_trace_std_error": 1.0,
                "balanced_largest": 5.0 + generator.random(),
                "relative_trace": 0.1 * value,
                "relative_trace_std_error": 0.01,
            }
        )
    early = {"train_loss": 0.2, "balanced_trace": 40 * math.exp(level), "balanced_largest": 4.0}
    return {"branches": list(range(len(losses))), "found": found, "early": early}
