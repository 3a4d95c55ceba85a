"""Which contrasts does a plan ask for, and of which cells is each made?

Each is taken within a seed, over all cells that differ in nothing but its factors. With `pairs`
"all" they are the five of `docs/atlas-plan.md`; with "same", an optimizer throughout, every one is
compared with the first, and so is what the learning rate does to it.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import pandas as pd

from degeneracy.texts import label
from studies.atlas.settings import name_of

Values = Mapping[tuple, float]  # (early, late, fraction, model) → log endpoint, of one seed


class Levels(NamedTuple):
    """The levels between which contrasts are taken, from the config, whatever runs there are.

    Attributes:
        base, other: Optimizers.
        slow, fast: The smallest and the largest learning rate.
        shallow, deep: Networks of the fewest and the most layers; None where they have as many.
    """

    base: str
    other: str
    slow: float
    fast: float
    shallow: str | None
    deep: str | None


class Asked(NamedTuple):
    """A contrast of a plan.

    Attributes:
        value: Of one seed's values; None where they lack a partner.
        cells: Which rows of a table of runs are of cells that it is made of.
        plain: What it compares, in words.
        is_main: Whether it is of one factor; the others are ratios of such ratios.
    """

    value: Callable[[Values], float | None]
    cells: Callable[[pd.DataFrame], pd.Series]
    plain: str
    is_main: bool


def levels_of(results: Mapping[str, Any]) -> Levels:
    """The levels of a config."""
    factorial = results["config"]["factorial"]
    models = sorted(factorial["models"], key=lambda model: model["hidden_layers"])
    ends = models[0], models[-1]
    differ = ends[0]["hidden_layers"] < ends[1]["hidden_layers"]
    names = [name_of(model) if differ else None for model in ends]
    rates = factorial["fractions"]
    return Levels(*factorial["optimizers"][:2], min(rates), max(rates), *names)


def has_all_pairs(results: Mapping[str, Any]) -> bool:
    """Whether every optimizer is early with every one late; else each is the same throughout."""
    return results["config"]["factorial"].get("pairs", "all") == "all"


def planned(results: Mapping[str, Any]) -> dict[str, Asked]:
    """The contrasts of a config, by name, in their order."""
    return _factorial(levels_of(results)) if has_all_pairs(results) else _throughout(results)


def _factorial(at: Levels) -> dict[str, Asked]:
    base, other = label(at.base), label(at.other)
    pair = (at.base, at.other)

    def both(table: pd.DataFrame) -> pd.Series:
        return table["early"].isin(pair) & table["late"].isin(pair)

    def ends(table: pd.DataFrame) -> pd.Series:
        return both(table) & _is_pure(table) & table["fraction"].isin([at.slow, at.fast])

    def depths(table: pd.DataFrame) -> pd.Series:
        return both(table) & table["model"].isin([at.shallow, at.deep])

    return {
        "early": Asked(
            partial(early, at=at), both, f"starting with {other} instead of {base}", True
        ),
        "late": Asked(partial(late, at=at), both, f"going on with {other} instead of {base}", True),
        "early × late": Asked(
            partial(early_by_late, at=at),
            both,
            f"starting with {other}, where {other} goes on, against where {base} does",
            False,
        ),
        "optimizer × learning rate": Asked(
            partial(optimizer_by_rate, at=at),
            ends,
            f"{other} instead of {base} throughout, at the largest rate against at the smallest",
            False,
        ),
        "early × depth": Asked(
            partial(early_by_depth, at=at),
            depths,
            f"starting with {other}, in the deeper network against in the other",
            False,
        ),
    }


def _throughout(results: Mapping[str, Any]) -> dict[str, Asked]:
    at = levels_of(results)
    others = results["config"]["factorial"]["optimizers"][1:]
    found = {}
    for name in others:
        own = at._replace(other=name)
        found[label(name)] = Asked(
            partial(throughout, at=own),
            partial(_cells_of, (at.base, name), None),
            f"{label(name)} instead of {label(at.base)}",
            True,
        )
    for name in others if at.slow < at.fast else ():
        own = at._replace(other=name)
        found[f"{label(name)} × learning rate"] = Asked(
            partial(optimizer_by_rate, at=own),
            partial(_cells_of, (at.base, name), (at.slow, at.fast)),
            f"{label(name)} instead of {label(at.base)}, at the largest rate against at the"
            " smallest",
            False,
        )
    return found


def _is_pure(table: pd.DataFrame) -> pd.Series:
    return table["early"] == table["late"]


def _cells_of(
    names: tuple[str, str], rates: tuple[float, float] | None, table: pd.DataFrame
) -> pd.Series:
    """Rows of optimizers that go throughout, at some rates (None: all)."""
    there = _is_pure(table) & table["late"].isin(names)
    return there if rates is None else there & table["fraction"].isin(rates)


# ---- within a seed -------------------------------------------------------------------------------


def _mean(values: Iterable[float]) -> float | None:
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


def _pure(values: Values) -> dict[tuple, float]:
    """Of optimizers that go throughout: (optimizer, fraction, model) → value."""
    return {key[1:]: value for key, value in values.items() if key[0] == key[1]}


def early(values: Values, at: Levels) -> float | None:
    """The other optimizer early against the base, each late."""
    return _mean(_pairs(_of_two(values, at), 0, at.base, at.other).values())


def late(values: Values, at: Levels) -> float | None:
    """The other optimizer late against the base, each early."""
    return _mean(_pairs(_of_two(values, at), 1, at.base, at.other).values())


def early_by_late(values: Values, at: Levels) -> float | None:
    """How much more the other does early where it is late too."""
    by_late = _pairs(values, 0, at.base, at.other)
    return _mean(_pairs(by_late, 0, at.base, at.other).values())


def throughout(values: Values, at: Levels) -> float | None:
    """The other optimizer throughout against the base."""
    return _mean(_pairs(_pure(values), 0, at.base, at.other).values())


def optimizer_by_rate(values: Values, at: Levels) -> float | None:
    """How much more the other does throughout, at the largest rate than at the smallest."""
    by_rate = _pairs(_pure(values), 0, at.base, at.other)
    return _mean(_pairs(by_rate, 0, at.slow, at.fast).values())


def early_by_depth(values: Values, at: Levels) -> float | None:
    """How much more the other does early in the deeper network."""
    by_model = _pairs(_of_two(values, at), 0, at.base, at.other)
    return _mean(_pairs(by_model, 2, at.shallow, at.deep).values())


def _of_two(values: Values, at: Levels) -> dict[tuple, float]:
    """Without other optimizers than the two."""
    pair = {at.base, at.other}
    return {key: value for key, value in values.items() if {key[0], key[1]} <= pair}
