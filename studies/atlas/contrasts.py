"""Which factors move the endpoint, by how much, and which by too little to matter?

The endpoint's logarithm, so that a contrast is a ratio. Each contrast is taken within a seed, over
all cells that differ in nothing but its factors, then compared with 0 over seeds (Student), and
with the margin (two one-sided tests); p-values by Holm. `docs/atlas-plan.md` said so beforehand.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import pandas as pd

from degeneracy.sweeps.statistics import LEAST, Paired, holm, paired
from studies.atlas.endpoint import endpoint, points_of, used, value_at

ENDPOINT = "balanced"  # λ̂ in balanced weights
SECONDARY = {  # quantity → what it is
    "raw": "λ̂, weights as given",
    "relative_trace": "Hessian trace by relative changes (no gauge)",
    "gauge_free": "λ̂ by relative changes (no gauge)",
    "published": "λ̂ as published",
    "balanced_trace": "Hessian trace, balanced",
    "balanced_largest": "largest Hessian eigenvalue, balanced",
    "raw_trace": "Hessian trace, as given",
    "val_loss": "validation loss",
    "norm": "|w|",
    "length": "length of the path",
    "since_drop": "epochs since the drop",
}
ENOUGH = 0.8  # of an arm's runs must have an endpoint for a contrast to be tested
HALF_OF_MARGIN = 0.5
FACTORS = ("early", "late", "fraction", "model")

Values = Mapping[tuple, float]  # (early, late, fraction, model) → log endpoint, of one seed


@dataclass(frozen=True)
class Contrast:
    """A contrast over seeds.

    Attributes:
        name: One of `CONTRASTS`.
        by_seed: Seed → its value, in logs.
        test: Over seeds; None with fewer than two.
        adjusted: p by Holm over the contrasts that are tested; None where it is not.
        coverage: The lowest share of runs with an endpoint, over its arms.
        is_tested: Whether that is enough.
    """

    name: str
    by_seed: dict[int, float]
    test: Paired | None
    adjusted: float | None
    coverage: float
    is_tested: bool


def window_of(results: Mapping[str, Any]) -> tuple[float, float]:
    """Top and bottom of the window of annealed training losses, nats."""
    return tuple(results["config"]["factorial"]["window"])


def rows_of(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every run so far."""
    groups = results["parts"].get("runs", {})
    return [row for group in groups.values() for row in group["rows"]]


def table_of(results: Mapping[str, Any]) -> pd.DataFrame:
    """One row a run: its factors, the endpoint (NaN, with `missing` saying why), the rest."""
    window = window_of(results)
    quantities = (ENDPOINT, *SECONDARY)
    rows = []
    for row in rows_of(results):
        kept = {name: row[name] for name in ("seed", *FACTORS, "status", "seconds")}
        kept[ENDPOINT], kept["missing"] = endpoint(row, ENDPOINT, window)
        kept["missing"] = row["reason"] or kept["missing"]
        kept |= {name: endpoint(row, name, window)[0] for name in SECONDARY}
        kept["std_error"] = _error(row, window) if kept[ENDPOINT] is not None else None
        rows.append(kept)
    columns = ["seed", *FACTORS, "status", "seconds", "missing", *quantities, "std_error"]
    table = pd.DataFrame(rows, columns=columns)
    return table.astype(dict.fromkeys((*quantities, "std_error"), float))


def _error(row: Mapping[str, Any], window: tuple[float, float]) -> float:
    """Sampler's error of the endpoint: the mean of its points', which share their noise."""
    points = used([p for p in points_of(row) if value_at(p, ENDPOINT) is not None], window)
    errors = [point[ENDPOINT]["std_error"] for point in points]
    return sum(errors) / len(errors) if None not in errors else math.nan


# ---- within a seed -------------------------------------------------------------------------------


def _mean(values: Iterator[float]) -> float | None:
    found = list(values)
    return sum(found) / len(found) if found else None


def _pairs(values: Values, place: int, first: Any, second: Any) -> dict[tuple, float]:
    """Second minus first of a factor, with all the others as they are; keys without it."""
    out = {}
    for key, value in values.items():
        if key[place] == second:
            other = (*key[:place], first, *key[place + 1 :])
            if other in values:
                out[(*key[:place], *key[place + 1 :])] = value - values[other]
    return out


def early(values: Values, base: str, other: str) -> float | None:
    """NGD early against SGD early."""
    return _mean(iter(_pairs(values, 0, base, other).values()))


def late(values: Values, base: str, other: str) -> float | None:
    """NGD late against SGD late."""
    return _mean(iter(_pairs(values, 1, base, other).values()))


def early_by_late(values: Values, base: str, other: str) -> float | None:
    """How much more NGD early does where NGD is late too."""
    return _mean(iter(_pairs(_pairs(values, 0, base, other), 0, base, other).values()))


def optimizer_by_rate(values: Values, base: str, other: str) -> float | None:
    """How much more NGD throughout does, against SGD throughout, at the largest rate than at the
    smallest.
    """
    rates = sorted({key[2] for key in values})
    pure = {key[1:]: value for key, value in values.items() if key[0] == key[1]}
    if len(rates) < LEAST:
        return None
    return _mean(iter(_pairs(_pairs(pure, 0, base, other), 0, rates[0], rates[-1]).values()))


def early_by_depth(values: Values, base: str, other: str) -> float | None:
    """How much more NGD early does in the deeper network."""
    models = sorted({key[3] for key in values}, key=lambda name: int(name.split("×")[0]))
    if len(models) < LEAST:
        return None
    return _mean(iter(_pairs(_pairs(values, 0, base, other), 2, models[0], models[-1]).values()))


CONTRASTS: dict[str, Callable[[Values, str, str], float | None]] = {
    "early": early,
    "late": late,
    "early × late": early_by_late,
    "optimizer × learning rate": optimizer_by_rate,
    "early × depth": early_by_depth,
}


# ---- over seeds ----------------------------------------------------------------------------------


def contrasts_of(
    results: Mapping[str, Any],
    quantity: str = ENDPOINT,
    model: str | None = None,
    table: pd.DataFrame | None = None,
) -> list[Contrast]:
    """Every contrast that the runs so far allow, of one quantity, of one network or all.

    Args:
        table: `table_of(results)`, where it is at hand.
    """
    table = table_of(results) if table is None else table
    table = table if model is None else table[table["model"] == model]
    base, other = results["config"]["factorial"]["optimizers"][:2]
    margin = math.log1p(results["config"]["factorial"]["margin"])
    found = []
    for name, contrast in CONTRASTS.items():
        by_seed = dict(_by_seed(table, quantity, lambda v, c=contrast: c(v, base, other)))
        if not by_seed:
            continue
        test = paired([*by_seed.values()], margin) if len(by_seed) >= LEAST else None
        coverage = _coverage(table, quantity, name, (base, other))
        found.append(Contrast(name, by_seed, test, None, coverage, coverage >= ENOUGH))
    tested = {c.name: c.test.p for c in found if c.test is not None and c.is_tested}
    adjusted = holm(tested)
    return [
        Contrast(c.name, c.by_seed, c.test, adjusted.get(c.name), c.coverage, c.is_tested)
        for c in found
    ]


def _by_seed(
    table: pd.DataFrame, quantity: str, contrast: Callable[[Values], float | None]
) -> Iterator[tuple[int, float]]:
    for seed, rows in table.groupby("seed", sort=True):
        kept = rows[rows[quantity] > 0]
        keys = kept[[*FACTORS]].itertuples(index=False, name=None)
        values = {key: math.log(v) for key, v in zip(keys, kept[quantity], strict=True)}
        value = contrast(values)
        if value is not None:
            yield int(seed), value


def _coverage(table: pd.DataFrame, quantity: str, name: str, names: tuple[str, str]) -> float:
    """The lowest share of runs with a value, over the levels of the contrast's factors."""
    factors = {
        "early": ["early"],
        "late": ["late"],
        "early × late": ["early", "late"],
        "optimizer × learning rate": ["early", "late", "fraction"],
        "early × depth": ["early", "model"],
    }[name]
    arms = table[table["early"].isin(names) & table["late"].isin(names)]
    if name == "optimizer × learning rate":
        arms = arms[arms["early"] == arms["late"]]
        arms = arms[arms["fraction"].isin([arms["fraction"].min(), arms["fraction"].max()])]
    shares = arms.assign(there=arms[quantity] > 0).groupby(factors)["there"].mean()
    return float(shares.min()) if len(shares) else 0.0


def needs_more_seeds(results: Mapping[str, Any]) -> bool:
    """Whether a contrast's 95 % interval is longer, on one side, than half the margin.

    Its sign and size are not looked at.
    """
    half = HALF_OF_MARGIN * math.log1p(results["config"]["factorial"]["margin"])
    tests = [contrast.test for contrast in contrasts_of(results)]
    return any(test is not None and test.mean.half_width > half for test in tests)


def arms_of(results: Mapping[str, Any]) -> pd.DataFrame:
    """Runs with and without an endpoint by arm, and why: `runs`, `there`, a column a reason."""
    table = table_of(results)
    table["why"] = table["missing"].where(table["missing"] != "", "there")
    counted = table.groupby([*FACTORS])["why"].value_counts().unstack(fill_value=0)
    counted.insert(0, "runs", counted.sum(axis=1))
    return counted.reset_index()


def all_cells(results: Mapping[str, Any]) -> list[tuple]:
    """Every combination of the plan's factors, runs or not."""
    factorial = results["config"]["factorial"]
    names = factorial["optimizers"]
    models = [f"{m['hidden_layers']}×{m['hidden_nodes']}" for m in factorial["models"]]
    return list(product(names, names, factorial["fractions"], models))
