"""What is known early, and does it tell how degenerate a run will end, or how well it generalises?

Rank correlations over runs, with intervals by resampling whole seeds: runs of a seed share initial
weights and data order, and are not independent. They are over all cells: what a learning rate or an
optimizer does to both sides is in them.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import rankdata, spearmanr

import studies
from degeneracy.sweeps.statistics import Mean, mean_of
from studies.atlas.contrasts import ENDPOINT, table_of
from studies.atlas.contrasts import rows_of as runs_of
from studies.atlas.plan import STUDY
from studies.atlas.planned import levels_of

RESAMPLES = 1_000
LEAST_RUNS = 8
LEAST_SEEDS = 5
SAME_UNIT = ("sgd", "ngd")  # late optimizers whose learning rates are of one unit

ASKED = {  # name → (what tells, what it is to tell)
    "curvature after epoch 2 → final λ̂": ("early_trace", ENDPOINT),
    "curvature after epoch 2 → generalisation gap": ("early_trace", "gap"),
    "final λ̂ → generalisation gap": (ENDPOINT, "gap"),
    "Hessian trace → generalisation gap": ("balanced_trace", "gap"),
    "trace by relative changes → generalisation gap": ("relative_trace", "gap"),
    "|w| → generalisation gap": ("norm", "gap"),
}


class Correlation(NamedTuple):
    """Spearman's ρ over runs.

    Attributes:
        name: One of `ASKED`.
        model: The network whose runs these are.
        value: ρ.
        low, high: 95 % interval over resampled seeds; NaN with fewer than `LEAST_SEEDS`.
        count: Runs.
    """

    name: str
    model: str
    value: float
    low: float
    high: float
    count: int


def observed(results: Mapping[str, Any]) -> pd.DataFrame:
    """`table_of` with the early trace, the gap (validation minus training loss in the window, whose
    training losses are all alike), and the effective temperature lr/(m(1 − momentum)).
    """
    table = table_of(results)
    rows = runs_of(results)
    early = [(row["points"] or {}).get("early") or {} for row in rows]
    table["early_trace"] = [found.get("balanced_trace", math.nan) for found in early]
    top, bottom = results["config"]["factorial"]["window"]
    table["gap"] = table["val_loss"] - (top - bottom) / math.log(top / bottom)
    table["temperature"] = [temperature(results, row) for row in rows]
    return table


def temperature(results: Mapping[str, Any], row: Mapping[str, Any]) -> float:
    """Late learning rate over batch, momentum counted in, of SGD and of NGD, which keeps the
    gradient's norm, so that its rate has the same unit; NaN of others.
    """
    if row["late"] not in SAME_UNIT:
        return math.nan
    rates = results["parts"]["rates"]
    rate = row["fraction"] * rates[f"{row['late']}, {row['model']}"]["rate"]
    momentum = studies.find(STUDY).settings().training.momentum  # which the plan leaves as it is
    return rate / (results["config"]["factorial"]["batch_size"] * (1 - momentum))


def correlations(results: Mapping[str, Any], seed: int = 0) -> list[Correlation]:
    """Every question, network by network."""
    table = observed(results)
    found = []
    for model, runs in table.groupby("model", sort=False):
        for name, (first, second) in ASKED.items():
            kept = runs[[first, second, "seed"]].dropna()
            if len(kept) >= LEAST_RUNS and kept[[first, second]].nunique().min() > 1:
                found.append(_correlation(name, str(model), kept, first, second, seed))
    return found


def _correlation(
    name: str, model: str, runs: pd.DataFrame, first: str, second: str, seed: int
) -> Correlation:
    value = float(spearmanr(runs[first], runs[second]).statistic)
    groups = [group[[first, second]].to_numpy() for _, group in runs.groupby("seed")]
    low = high = math.nan
    if len(groups) >= LEAST_SEEDS:
        generator = np.random.default_rng(seed)
        values = []
        for _ in range(RESAMPLES):
            drawn = generator.integers(len(groups), size=len(groups))
            pairs = np.concatenate([groups[place] for place in drawn])
            values.append(np.corrcoef(rankdata(pairs, axis=0), rowvar=False)[0, 1])
        low, high = (float(end) for end in np.nanquantile(values, [0.025, 0.975]))
    return Correlation(name, model, value, low, high, len(runs))


def collapse(results: Mapping[str, Any]) -> pd.DataFrame:
    """How much of log λ̂'s variance between runs of a network with SGD and NGD is accounted for.

    Returns:
        One row a network: `model`, `runs`, and R² (adjusted) of log λ̂ by log temperature alone
        (`temperature`), by the late optimizer and the relative rate (`fraction`), and by all cells
        (`cells`). Temperature collapses the curves where the first is near the last.
    """
    rows = []
    table = observed(results).dropna(subset=[ENDPOINT, "temperature"])
    for model, runs in table.groupby("model", sort=False):
        y = np.log(runs[ENDPOINT].to_numpy())
        heat = np.log(runs["temperature"].to_numpy())
        cells = pd.get_dummies(
            runs[["early", "late", "fraction"]].astype(str).agg("|".join, axis=1)
        )
        relative = pd.get_dummies(runs[["late", "fraction"]].astype(str).agg("|".join, axis=1))
        by = {
            "temperature": np.stack([heat, heat**2], axis=1),
            "fraction": relative.to_numpy(float),
            "cells": cells.to_numpy(float),
        }
        fits = {name: adjusted_r2(y, columns) for name, columns in by.items()}
        rows.append({"model": model, "runs": len(y), **fits})
    return pd.DataFrame(rows, columns=["model", "runs", "temperature", "fraction", "cells"])


def at_equal_rate(results: Mapping[str, Any], model: str) -> dict[str, Mean]:
    """What the late optimizer does at the same late learning rate in absolute terms, over seeds.

    The plan compares equal shares of each optimizer's own largest rate; the same rate is another
    comparison, which was not planned. Within a seed log λ̂ is fitted, by least squares, by early and
    late optimizer, their interaction and a parabola in the logarithm of the late rate. What the
    early optimizer does is as in the plan: its own rate is not held equal.

    Returns:
        `late` and `rate`, the slope in the middle of the rates; empty where no seed has more runs
        than the fit has terms.
    """
    names = levels_of(results)[:2]
    table = observed(results)
    table = table[table["early"].isin(names) & table["late"].isin(names)]
    runs = table[(table["model"] == model) & (table[ENDPOINT] > 0)]
    found: dict[str, list[float]] = {"late": [], "rate": []}
    middle = np.log(table[table["model"] == model]["temperature"]).mean()
    for _, own in runs.groupby("seed"):
        early, late = ((own[name] == names[1]).to_numpy() - 0.5 for name in ("early", "late"))
        heat = np.log(own["temperature"].to_numpy()) - middle
        design = np.column_stack([late, heat, early, early * late, heat**2, np.ones(len(own))])
        if len(own) > design.shape[1] == np.linalg.matrix_rank(design):
            fit = np.linalg.lstsq(design, np.log(own[ENDPOINT].to_numpy()), rcond=None)[0]
            for name, value in zip(found, fit, strict=False):
                found[name].append(float(value))
    return {name: mean_of(values) for name, values in found.items() if values}


def adjusted_r2(y: np.ndarray, columns: np.ndarray) -> float:
    """Of least squares with a constant; NaN with no more values than columns."""
    design = np.column_stack([np.ones(len(y)), columns])
    rank = int(np.linalg.matrix_rank(design))
    if len(y) <= rank or y.var() == 0:
        return math.nan
    residuals = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    return 1 - (residuals @ residuals / (len(y) - rank)) / y.var(ddof=1)
