"""Which factors move the endpoint, by how much, and which by too little to matter?

The endpoint's logarithm, so that a contrast is a ratio. Each contrast is taken within a seed, over
all cells that differ in nothing but its factors, then compared with 0 over seeds (Student), and
with the margin (two one-sided tests); p-values by Holm. `docs/atlas-plan.md` said so beforehand.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from degeneracy.sweeps.statistics import LEAST, Paired, holm, paired
from studies.atlas.endpoint import endpoint, points_of, used
from studies.atlas.planned import Values, planned
from studies.atlas.settings import name_of

ENDPOINT = "balanced"  # λ̂ in balanced weights; in those given where no balance is known
SECONDARY = {  # quantity → what it is
    "raw": "λ̂, weights as given",
    "relative_trace": "Hessian trace by relative changes (no gauge)",
    "gauge_free": "λ̂ by relative changes (no gauge)",
    "published": "λ̂ as published",
    "balanced_trace": "Hessian trace, balanced",
    "balanced_largest": "largest Hessian eigenvalue, balanced",
    "raw_trace": "Hessian trace, as given",
    "raw_largest": "largest Hessian eigenvalue, as given",
    "val_loss": "validation loss",
    "norm": "|w|",
    "length": "length of the path",
    "since_drop": "epochs since the drop",
}
ENOUGH = 0.8  # of an arm's runs must have an endpoint for a contrast to be tested
HALF_OF_MARGIN = 0.5
FACTORS = ("early", "late", "fraction", "model")


@dataclass(frozen=True)
class Contrast:
    """A contrast over seeds.

    Attributes:
        name: One of the plan's.
        by_seed: Seed → its value, in logs.
        test: Over seeds; None with fewer than two.
        adjusted: p by Holm over the contrasts that are tested; None where it is not.
        coverage: The lowest share of runs with an endpoint, over the cells it is made of.
        is_tested: Whether that is enough.
    """

    name: str
    by_seed: dict[int, float]
    test: Paired | None
    adjusted: float | None
    coverage: float
    is_tested: bool


def endpoint_label(results: Mapping[str, Any]) -> str:
    """What the endpoint is, as figures and tables say it."""
    return "λ̂, balanced" if can_balance(results) else "λ̂, weights as given"


def quantities_of(results: Mapping[str, Any]) -> dict[str, str]:
    """The endpoint and all else that is measured, with what each is called."""
    same = ("raw", "balanced_trace", "balanced_largest")  # where there is no balance
    left_out = () if can_balance(results) else same
    others = {name: text for name, text in SECONDARY.items() if name not in left_out}
    return {ENDPOINT: endpoint_label(results), **others}


def can_balance(results: Mapping[str, Any]) -> bool:
    """Whether the networks' units have a balance that is known; a config has one kind alone."""
    models = results["config"]["factorial"]["models"]
    return all(model.get("architecture", "ffnn") != "vit" for model in models)


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
    points = used(points_of(row), window)
    errors = [point[ENDPOINT]["std_error"] for point in points]
    return sum(errors) / len(errors) if None not in errors else math.nan


# ---- over seeds ----------------------------------------------------------------------------------


def contrasts_of(
    results: Mapping[str, Any],
    quantity: str = ENDPOINT,
    model: str | None = None,
    table: pd.DataFrame | None = None,
) -> list[Contrast]:
    """Every contrast that the runs so far allow, of one quantity.

    Args:
        model: One network; None: all of the config, from the seeds that were done with all of them.
        table: `table_of(results)`, where it is at hand.
    """
    table = table_of(results) if table is None else table
    table = whole_seeds(results, table) if model is None else table[table["model"] == model]
    margin = math.log1p(results["config"]["factorial"]["margin"])
    found = []
    for name, asked in planned(results).items():
        by_seed = dict(_by_seed(table, quantity, asked.value))
        if by_seed:
            test = paired([*by_seed.values()], margin) if len(by_seed) >= LEAST else None
            coverage = coverage_of(table[asked.cells(table)], quantity)
            found.append(Contrast(name, by_seed, test, None, coverage, coverage >= ENOUGH))
    adjusted = holm({c.name: c.test.p for c in found if c.test is not None and c.is_tested})
    return [
        Contrast(c.name, c.by_seed, c.test, adjusted.get(c.name), c.coverage, c.is_tested)
        for c in found
    ]


def contrast_groups(results: Mapping[str, Any]) -> dict[str | None, list[Contrast]]:
    """Contrasts of all networks together, under None, then of each alone, as far as there are any.

    Together are those that every network has, and those between networks. Of an atlas of one
    network None's are that network's.
    """
    models = [name_of(model) for model in results["config"]["factorial"]["models"]]
    groups = {model: contrasts_of(results, model=model) for model in [None, *models]}
    if len(models) == 1:
        return {None: groups[None]} if groups[None] else {}
    alone = [{contrast.name for contrast in groups[model]} for model in models]
    of_some = set.union(*alone) - set.intersection(*alone)  # which would be of these networks only
    groups[None] = [contrast for contrast in groups[None] if contrast.name not in of_some]
    return {model: found for model, found in groups.items() if found}


def whole_seeds(results: Mapping[str, Any], table: pd.DataFrame) -> pd.DataFrame:
    """The runs of seeds that were done with every network: a mean over networks is then of the same
    networks in every seed.
    """
    models = {name_of(model) for model in results["config"]["factorial"]["models"]}
    done = table.groupby("seed")["model"].agg(set)
    return table[table["seed"].isin(done.index[done == models])]


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


def coverage_of(table: pd.DataFrame, quantity: str) -> float:
    """The lowest share of runs with a value, over the cells in a table of runs."""
    shares = table.assign(there=table[quantity] > 0).groupby([*FACTORS])["there"].mean()
    return float(shares.min()) if len(shares) else 0.0


def needs_more_seeds(results: Mapping[str, Any]) -> bool:
    """Whether a contrast's 95 % interval is longer, on one side, than half the margin.

    Its sign and size are not looked at, nor any seed but the first ones: what further seeds bring
    does not end their own making.
    """
    factorial = results["config"]["factorial"]
    half = HALF_OF_MARGIN * math.log1p(factorial["margin"])
    table = table_of(results)
    first = table[table["seed"].isin(factorial["seeds"])]
    tests = [contrast.test for contrast in contrasts_of(results, table=first)]
    return any(test is not None and test.mean.half_width > half for test in tests)


def is_complete(results: Mapping[str, Any]) -> bool:
    """Whether every seed of the plan was done with every network, the further ones if need be."""
    factorial = results["config"]["factorial"]
    wanted = set(factorial["seeds"])
    done = set(whole_seeds(results, table_of(results))["seed"])
    if wanted <= done and needs_more_seeds(results):
        wanted |= set(factorial["further_seeds"])
    return wanted <= done


def arms_of(results: Mapping[str, Any]) -> pd.DataFrame:
    """Runs with and without an endpoint by arm, and why: `runs`, `there`, a column a reason."""
    table = table_of(results)
    table["why"] = table["missing"].where(table["missing"] != "", "there")
    counted = table.groupby([*FACTORS])["why"].value_counts().unstack(fill_value=0)
    counted.insert(0, "runs", counted.sum(axis=1))
    return counted.reset_index()
