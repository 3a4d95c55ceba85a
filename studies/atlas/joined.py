"""What do several run directories of one atlas say together? Seeds and networks may be done apart,
each piece on a machine of its own; here their results become one, or it is said why they cannot.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from studies.atlas.measure import RATES
from studies.atlas.settings import Settings, name_of

PLAN = (
    "dataset",
    "num_images",
    "batch_size",
    "max_epochs",
    "optimizers",
    "pairs",
    "annealing_epochs",
    "fractions",
    "window",
    "margin",
)
UNITED = ("models", "seeds", "further_seeds", "thorough_seeds")  # which may differ
LENGTH = "num_draws"  # of a network's chains, which tells how exact λ̂ is and not what it estimates


def joined(runs: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """The results of one atlas, from those of its pieces.

    Args:
        runs: (name, results) of each piece, at least one; a config may leave out keys that have
            defaults.

    Returns:
        The first one's results, with the networks, seeds, rates and runs of all. Where two have a
        network and seed, the later one's runs count. A seed that one runs and another keeps for an
        extension is a seed.

    Raises:
        ValueError: Two pieces differ in what makes runs comparable, in a network's sampler but for
            its draws, or in a largest stable rate.
    """
    (first_name, first), *others = [(name, _completed(results)) for name, results in runs]
    parts = {name: dict(part) for name, part in first["parts"].items()}
    plan = dict(first["config"]["factorial"])
    for name, results in others:
        own = results["config"]["factorial"]
        for key in PLAN:
            if own[key] != plan[key]:
                raise ValueError(
                    f"{first_name} and {name} are of two plans: factorial.{key} is {plan[key]!r}"
                    f" and {own[key]!r}; allowed: pieces that differ in {', '.join(UNITED)}"
                )
        for key in UNITED:
            known = [_but_for_length(one) for one in plan[key]]
            plan[key] = [
                *plan[key],
                *(one for one in own[key] if _but_for_length(one) not in known),
            ]
        if (rule := results["config"]["search"]) != first["config"]["search"]:
            raise ValueError(
                f"{first_name} and {name} found their rates by two rules,"
                f" {first['config']['search']} and {rule}; allowed: pieces of one search"
            )
        _check_rates(parts.get(RATES, {}), results["parts"].get(RATES, {}), name)
        for part, found in results["parts"].items():
            parts[part] = parts.get(part, {}) | found
    names = [name_of(model) for model in plan["models"]]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{twice[0]} is sampled with several settings; allowed: one for all runs")
    plan["further_seeds"] = [seed for seed in plan["further_seeds"] if seed not in plan["seeds"]]
    return {**first, "config": {**first["config"], "factorial": plan}, "parts": parts}


def _completed(results: Mapping[str, Any]) -> dict[str, Any]:
    """With the defaults of keys that its config left out."""
    given = {key: value for key, value in results["config"].items() if key != "study"}
    return {**results, "config": Settings.model_validate(given).model_dump(mode="json")}


def _but_for_length(one: Any) -> Any:
    """A network without the draws of its chains; anything else as it is."""
    return {k: v for k, v in one.items() if k != LENGTH} if isinstance(one, Mapping) else one


def _check_rates(there: Mapping[str, Any], found: Mapping[str, Any], name: str) -> None:
    """A rate may have been searched twice, with one outcome."""
    for key in there.keys() & found.keys():
        if found[key]["rate"] != there[key]["rate"]:
            raise ValueError(
                f"{name} found {found[key]['rate']:g} as the largest stable rate of {key}, another"
                f" found {there[key]['rate']:g}; allowed: one, of which all runs take their shares"
            )
