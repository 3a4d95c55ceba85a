"""How fast do wide networks fit, by width, learning rate and angle of a pair of inputs?"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from degeneracy.runs.work import Measured, Work
from studies.natural_gradients.overparameterised.network import (
    Network,
    check_inputs,
    descend,
    kernel,
    kfac_step,
    leverages,
    nearest_pair,
    outputs,
    random_inputs,
    random_network,
    ratios,
    with_near_pair,
)
from studies.natural_gradients.overparameterised.settings import Settings

ARRIVED = 1e-6  # of the error at the start
NATURAL_RATE = 0.5  # η of the natural steps whose number is counted
SHOWN = 300  # points of a curve that are kept, about
NATURAL_STEPS = 300  # until natural gradient counts as not arriving: 30 times what theory says


def measure(work: Work) -> Measured:
    """Yields `"width m"` (rates and K-FAC's leverages), then `"angle α"` and `"random inputs"`."""
    settings: Settings = work.settings.overparameterised
    inputs, labels = random_inputs(settings.size, settings.dim, settings.seed)
    keys: dict[str, Any] = {f"width {m}": ("width", m) for m in settings.widths}
    keys |= {"random inputs": ("angle", None)}
    keys |= {f"angle {angle:g}": ("angle", angle) for angle in settings.angles}
    for key in work.todo(keys, "case"):
        kind, value = keys[key]
        at = at_width if kind == "width" else at_angle
        yield key, at(settings, inputs, labels, value)


def at_width(settings: Settings, inputs: Tensor, labels: Tensor, width: int) -> dict:
    """Errors of natural steps by learning rate, and K-FAC's first step, over networks."""
    networks = _networks(settings, width)
    found: dict[str, Any] = {"width": width, "rates": {}} | pair_of(inputs)
    for lr in settings.lrs:
        runs = [descend(net, inputs, labels, "ngd", lr, settings.num_steps) for net in networks]
        predicted = (1 - lr) ** 2
        each = [ratios(run.errors) for run in runs]
        found["rates"][f"{lr:g}"] = {
            "lr": lr,
            "errors": [run.errors for run in runs],
            "worst": [farthest(one, predicted) for one in each],
            "first": [one[0] for one in each],
            "predicted": predicted,
            "rank": min(run.rank for run in runs),
        }
    found["kfac_gaps"] = [leverage_gap(net, inputs, labels) for net in networks]
    return found


def farthest(values: Sequence[float], predicted: float) -> float:
    """The value farthest from what is predicted; one that is not finite is farther than any."""

    def gap(value: float) -> float:
        return abs(value - predicted) if math.isfinite(value) else math.inf

    return max(values, key=gap)


def pair_of(inputs: Tensor) -> dict[str, Any]:
    """How many inputs there are, and which two are nearest to parallel."""
    pair = nearest_pair(inputs)
    return {"size": len(inputs), "pair": [pair.first, pair.second], "sine": pair.sine}


def leverage_gap(network: Network, inputs: Tensor, labels: Tensor) -> float:
    """|r₁ − (1 − ηh)r₀| / |r₀| of one K-FAC step at η = 1/max h."""
    h = leverages(inputs)
    lr = 1 / float(h.max())
    before = outputs(network, inputs) - labels
    after = outputs(kfac_step(network, inputs, labels, lr), inputs) - labels
    return float((after - (1 - lr * h) * before).norm() / before.norm())


def at_angle(settings: Settings, inputs: Tensor, labels: Tensor, angle: float | None) -> dict:
    """Steps to `ARRIVED` with a pair of inputs at `angle`; what is said where they are parallel."""
    given = inputs if angle is None else with_near_pair(inputs, angle)
    try:
        check_inputs(given)
    except ValueError as error:
        return {"angle": angle, "refused": str(error)}
    network = _networks(settings, settings.pair_width)[0]
    eigenvalues = torch.linalg.eigvalsh(kernel(network, given))
    largest, smallest = float(eigenvalues[-1]), float(eigenvalues[0])
    found: dict[str, Any] = {"angle": angle, "largest": largest, "smallest": smallest}
    found |= pair_of(given)
    limits = {"ngd": min(settings.max_steps, NATURAL_STEPS), "gd": settings.max_steps}
    predicted = math.ceil(math.log(ARRIVED) / math.log((1 - NATURAL_RATE) ** 2))
    for method, lr in (("ngd", NATURAL_RATE), ("gd", 1 / largest)):
        run = descend(network, given, labels, method, lr, limits[method], ARRIVED)
        arrived, every = run.errors[-1] <= ARRIVED, max(1, len(run.errors) // SHOWN)
        found[method] = {
            "lr": lr,
            "steps": len(run.errors) - 1 if arrived else None,
            "limit": limits[method],
            "every": every,
            "errors": run.errors[::every],
            "last": run.errors[-1],
            "rank": run.rank,
            "predicted": predicted if method == "ngd" else None,
        }
    return found


def _networks(settings: Settings, width: int) -> list[Network]:
    seeds = range(settings.seed + 1, settings.seed + 1 + settings.num_seeds)
    return [random_network(width, settings.dim, seed) for seed in seeds]
