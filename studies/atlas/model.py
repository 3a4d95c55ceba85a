"""What does a mixed linear model say beside the contrasts, and what makes runs of a cell differ?

log λ̂ = mean of its cell + effect of its seed + rest, with cells (combinations of all factors) fixed
and seeds, each network's own, random (statsmodels' MixedLM, restricted maximum likelihood). A
contrast is the same combination of cell means as within a seed; other than there, runs without a
partner count.
"""

import math
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from statsmodels.formula.api import mixedlm

from studies.atlas.contrasts import ENDPOINT, FACTORS, table_of
from studies.atlas.planned import Asked, planned

LEAST_SEEDS = 2


class Term(NamedTuple):
    """A contrast of cell means, with its 95 % interval and p by the normal approximation."""

    name: str
    value: float
    low: float
    high: float
    p: float


class Components(NamedTuple):
    """Variances of log λ̂ within a cell of the plan.

    Attributes:
        seed: Between seeds, common to all cells of a network; with it the sampler's noise as far as
            it is common, for a seed has one.
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
    """The fit to all runs with an endpoint; None with fewer than two seeds, or runs than cells."""
    table, asked = table_of(results), planned(results)
    used = np.logical_or.reduce([one.cells(table) for one in asked.values()])
    kept = table[(table[ENDPOINT] > 0) & used]
    frame = kept[["seed"]].copy()
    frame["y"] = np.log(kept[ENDPOINT])
    frame["relative_error"] = kept["std_error"] / kept[ENDPOINT]
    keys = list(kept[[*FACTORS]].itertuples(index=False, name=None))
    cells = list(dict.fromkeys(keys))
    frame["group"] = kept["seed"].astype(str) + ", " + kept["model"]
    frame["cell"] = pd.Categorical([cells.index(key) for key in keys])
    if frame["seed"].nunique() < LEAST_SEEDS or len(frame) <= len(cells) + LEAST_SEEDS:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a variance at its bound, 0
        fit = mixedlm("y ~ 0 + cell", frame, groups=frame["group"]).fit(reml=True)
    terms = [t for name, one in asked.items() if (t := _term(fit, name, one, cells)) is not None]
    sampler = float(np.nanmean(frame["relative_error"] ** 2))
    own = max(0.0, float(fit.scale) - sampler)
    return Fitted(terms, Components(float(fit.cov_re.iloc[0, 0]), own, sampler), len(frame))


def _term(fit, name: str, asked: Asked, cells: list[tuple]) -> Term | None:
    """The contrast is linear in the cells' means: its weights are its values at unit vectors."""
    weights = []
    for place in range(len(cells)):
        unit = {cell: float(number == place) for number, cell in enumerate(cells)}
        weights.append(asked.value(unit))
    if None in weights:
        return None
    found = fit.t_test(np.array([weights]))
    (low, high), value = found.conf_int()[0], float(np.squeeze(found.effect))
    p = float(np.squeeze(found.pvalue))
    return Term(name, value, float(low), float(high), p if math.isfinite(p) else 1.0)
