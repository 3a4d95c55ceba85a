"""How are the records of a study read? As one table of each part, whatever is there of it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

RECORDED = "recorded"  # the one key of the parts that follow a recorded training


def joined(found: Sequence) -> Any:
    """One nested dict of lists from a list of nested dicts."""
    if isinstance(found[0], Mapping):
        return {key: joined([entry[key] for entry in found]) for key in found[0]}
    return list(found)


def exact_part(results: Mapping) -> dict[str, Any] | None:
    """Part `exact`, its checkpoints one after the other; None before the first.

    `steps` (checkpoint), `alphas` (of the exact F), `num_weights`, `num_averaged` (minibatches),
    `train_loss` (checkpoint; nats, over the whole training set), `cosines`: kind of F → what is
    compared → layer, or "" for all → (checkpoint, alpha, 2), mean and standard error, `agreement`:
    name → (checkpoint, alpha).
    """
    records = results["parts"].get("exact")
    if not records:
        return None
    steps, config = sorted(map(int, records)), results["config"]["exact"]
    found = [records[str(step)] for step in steps]
    kept = [{key: one[key] for key in ("train_loss", "cosines", "agreement")} for one in found]
    return {
        "steps": steps,
        "alphas": config["alphas"],
        "num_weights": found[0]["num_weights"],
        "num_averaged": config["num_averaged"],
        **joined(kept),
    }


def cosine_pairs(part: Mapping, name: str, kind: str = "expected", layer: str = "") -> np.ndarray:
    """Cosines of `name` in part `exact`, (checkpoint, alpha, 2): mean and standard error.

    NaN where a number was not finite.
    """
    return np.array(part["cosines"][kind][name][layer], dtype=float)


def recorded_part(results: Mapping, name: str) -> Mapping[str, Any] | None:
    """Part `dense` or `float32`; None before it is measured."""
    return results["parts"].get(name, {}).get(RECORDED)
