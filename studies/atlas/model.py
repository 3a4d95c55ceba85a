"""What does a mixed linear model say beside the contrasts, and what makes runs differ?

log λ̂ by early and late optimizer, learning rate and network, with the seed as a random effect
(statsmodels' MixedLM, by restricted maximum likelihood).
"""

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from statsmodels.formula.api import mixedlm

from studies.atlas.contrasts import ENDPOINT, FACTORS, table_of

NAMES = {  # of the model's terms → of the contrasts
    "early": "early",
    "late": "late",
    "early:late": "early × late",
    "both:rate": "optimizer × learning rate",
    "early:depth": "early × depth",
}


class Term(NamedTuple):
    """A coefficient, with its 95 % interval and two-sided p by the normal approximation."""

    name: str
    value: float
    low: float
    high: float
    p: float


class Components(NamedTuple):
    """Variances of log λ̂ within a cell of the plan.

    Attributes:
        seed: Between seeds, common to all cells.
        trajectory: What is left between runs, without the sampler's.
        sampler: The mean squared relative error of the estimates.
    """

    seed: float
    trajectory: float
    sampler: float


class Fitted(NamedTuple):
    """A fit."""

    terms: list[Term]
    components: Components
    count: int  # runs


def fitted(results: Mapping[str, Any]) -> Fitted | None:
    """The fit to all runs with an endpoint; None with fewer than two seeds, or runs than terms."""
    frame = design(table_of(results), results["config"]["factorial"]["optimizers"][:2])
    deep = frame["depth"].nunique() > 1 if len(frame) else False
    right = "early * late + rate + both:rate"
    right += " + depth + early:depth + late:depth" if deep else ""
    if frame["seed"].nunique() < 2 or len(frame) < 3 * len(NAMES):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a variance at its bound, 0
        fit = mixedlm(f"y ~ {right}", frame, groups=frame["seed"]).fit(reml=True)
    bounds = fit.conf_int()
    terms = [
        Term(name, float(fit.params[term]), *map(float, bounds.loc[term]), float(fit.pvalues[term]))
        for term, name in NAMES.items()
        if term in fit.params
    ]
    sampler = float(np.nanmean(frame["relative_error"] ** 2))
    own = max(0.0, float(fit.scale) - sampler)
    return Fitted(terms, Components(float(fit.cov_re.iloc[0, 0]), own, sampler), len(frame))


def design(table: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Runs with an endpoint, factors as −½ and ½, so that a coefficient is a contrast.

    The learning rate's is its place between the smallest and the largest, on a log scale.
    """
    other = names[1]
    kept = table[(table[ENDPOINT] > 0) & table["early"].isin(names) & table["late"].isin(names)]
    frame = kept[["seed", *FACTORS]].copy()
    frame["y"] = np.log(kept[ENDPOINT])
    for factor in ("early", "late"):
        frame[factor] = (kept[factor] == other) - 0.5
    logs = np.log(kept["fraction"].astype(float))
    span = logs.max() - logs.min() if len(logs) else 0.0
    frame["rate"] = (logs - logs.min()) / span - 0.5 if span else 0.0
    layers = kept["model"].str.split("×").str[0].astype(float)
    frame["depth"] = np.where(layers == layers.max(), 0.5, -0.5) if layers.nunique() > 1 else 0.0
    frame["both"] = (frame["early"] + frame["late"]) / 2  # −½, 0 where mixed, ½
    frame["relative_error"] = kept["std_error"] / kept[ENDPOINT]
    return frame
