"""Which nβ and γ? Those at which an estimate is local, about a minimum and at rest.

γ: chains go √(d/γ) from the checkpoint; γ lets them go a quarter of |w*|, of 0.3 |w*| that count
as local. nβ: the largest of n/ln n, n/(2 ln n), n/(4 ln n), … at which every checkpoint is at a
minimum of what is sampled, nβ(L(w*) − L(w_b)) ≤ 1 (`basin`). The larger nβ, the more directions λ̂
counts, all with a curvature above γ/nβ; but a checkpoint whose gradient does not vanish is a
minimum at a coarse scale alone. ℓ, how far the sampled loss goes towards chance, is known only once
chains have walked: the estimate's own certificate tells.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from degeneracy.curvature.largest import largest_curvature
from degeneracy.llc import coordinates
from degeneracy.llc.auto import BURN_IN, CURVATURE_SAMPLES, DRAWS, first_step, sees_all
from degeneracy.llc.basin import bottom
from degeneracy.llc.certificates import MOST_DISTANCE, MOST_SHIFT
from degeneracy.llc.chains import problem_of
from degeneracy.llc.checks import checked_objective
from degeneracy.llc.estimate import resolve_nbeta
from degeneracy.llc.langevin import full_gradient
from degeneracy.llc.settings import AUTO, SamplerSettings
from degeneracy.objective.loss import Objective
from degeneracy.weights import flattened

REACH = 0.25  # of |w*|: how far γ lets chains go
HALVINGS = 14  # of nβ
HOPELESS = 8.0  # nats that a Newton step in the metric γ would win, from which nβ is not tried


@dataclass(frozen=True)
class Calibration:
    """What a calibration found.

    Attributes:
        table: One row an nβ tried, the largest first: `nbeta`, `localization`, `distance` (√(d/γ)
            over |w*|), `shift` (the largest of the checkpoints' nβ(L(w*) − L(w_b)), NaN where it
            was plainly too large to be looked for), `expected_shift` (½ nβ²|∇L|²/γ), `steps` (that
            a chain needs to come to rest), `admissible`, `chosen`.
        settings: The settings that the rule picked, None where no nβ is admissible.
        reason: Why these, in a sentence.
    """

    table: pd.DataFrame
    settings: SamplerSettings | None
    reason: str


def calibrate(
    model: nn.Module,
    checkpoints: dict[str, Tensor] | Sequence[dict[str, Tensor]],
    data: Any,
    settings: SamplerSettings | None = None,
    batch_size: int = 128,
    loss_fn: Callable = cross_entropy,
    *,
    localization: float | None = None,
    **options: Any,
) -> Calibration:
    """Picks nβ and γ at which the LLC of all checkpoints is local, about a minimum, and at rest.

    Args:
        model: Any module; it is not changed.
        checkpoints: A state dict, or several that are to be compared.
        data, batch_size, loss_fn: As `llc.estimate.estimate_llcs` takes them.
        settings: All else that is sampled with; the sampler is `auto`.
        localization: γ; default: by the rule.
        options: forward, penalty, restrict, cache_bytes of `objective.loss.objective_of`.

    Raises:
        ValueError: As `llc.estimate.estimate_llcs`; or γ that is not above 0.
    """
    states = [checkpoints] if isinstance(checkpoints, Mapping) else list(checkpoints)
    if not states:
        raise ValueError("checkpoints is empty; allowed: a state dict, or a list of them")
    if localization is not None and not localization > 0:
        raise ValueError(f"localization = {localization}; allowed: a number above 0")
    objective = checked_objective(model, states, data, batch_size, loss_fn, **options)
    settings = settings or SamplerSettings()
    places = [_Measured(objective.at(state), batch_size, settings.seed) for state in states]
    reach = REACH * min(place.length for place in places)
    gamma = localization or (places[0].size / reach**2 if reach else 1.0)
    n = len(objective.data)
    rows = []
    for halving in range(HALVINGS):
        nbeta = resolve_nbeta("dataset", batch_size, n) / 2**halving
        rows.append(_row(places, nbeta, gamma, settings))
        if rows[-1]["admissible"]:
            break
    table = pd.DataFrame(rows)
    table["chosen"] = table["admissible"]
    return _chosen(table, settings, n)


def _row(
    places: Sequence["_Measured"], nbeta: float, gamma: float, settings: SamplerSettings
) -> dict:
    expected = max(nbeta**2 * place.slope_norm**2 / (2 * gamma) for place in places)
    shift, reached = math.nan, False
    if expected <= HOPELESS:
        basins = [place.basin(nbeta, gamma, settings.seed) for place in places]
        shift = max(basin.shift for basin in basins)
        # A shift is at most twice what a Newton step in the metric γ would win.
        reached = 2 * expected <= MOST_SHIFT or all(basin.reached for basin in basins)
    stiffness = 1 + nbeta * max(place.curvature for place in places) / gamma
    exact = sees_all(settings, places[0].problem.num_samples)
    distance = max(
        math.sqrt(place.size / gamma) / place.length if place.length else math.inf
        for place in places
    )
    return {
        "nbeta": nbeta,
        "localization": gamma,
        "distance": distance,
        "shift": shift,
        "expected_shift": expected,
        "steps": math.ceil((BURN_IN + DRAWS) * 2 / first_step(stiffness, settings.dynamics, exact)),
        "admissible": reached and shift <= MOST_SHIFT and distance <= MOST_DISTANCE,
    }


class _Measured:
    """A checkpoint with what does not hang on nβ: |w*|, ∇L, the largest curvature."""

    def __init__(self, objective: Objective, batch_size: int, seed: int):
        weights = objective.weights
        self.problem = problem_of(objective, batch_size)
        self.at = coordinates.flat(self.problem.loss, weights)
        row = flattened(weights)
        self.size, self.length = len(row), float(torch.linalg.vector_norm(row))
        self.slope = full_gradient(self.problem, weights)
        self.slope_norm = float(torch.linalg.vector_norm(self.slope[0]))
        if not math.isfinite(self.slope_norm):
            raise ValueError("the gradient at a checkpoint is not finite; leave it out")
        few = objective.data.some(CURVATURE_SAMPLES, seed).whole
        loss = partial(objective.batch_loss, batch=few)
        self.curvature = largest_curvature(loss, weights, seed=seed)

    def basin(self, nbeta: float, gamma: float, seed: int):
        stiffness = 1 + nbeta * self.curvature / gamma
        return bottom(self.problem, self.at, nbeta, gamma, stiffness, self.slope, seed)


def _chosen(table: pd.DataFrame, settings: SamplerSettings, n: int) -> Calibration:
    last = table.iloc[-1]
    if not last["admissible"]:
        far = last["distance"] > MOST_DISTANCE
        why = (
            f"γ = {last['localization']:.3g} lets chains go {last['distance']:.2g} |w*|: raise it"
            if far
            else "the checkpoints are at no minimum even at the smallest: train on, or raise γ"
        )
        return Calibration(table, None, f"No nβ of {len(table)} is admissible; {why}.")
    chosen = settings.model_dump() | {
        "sampler": AUTO,
        "nbeta": float(last["nbeta"]),
        "localization": float(last["localization"]),
        "backend": "batched",
        **({} if settings.sampler == AUTO else dict.fromkeys(_LENGTHS)),
    }
    top = table["nbeta"].iloc[0]
    share = "n/ln n" if last["nbeta"] == top else f"n/ln n over {top / last['nbeta']:.0f}"
    return Calibration(
        table,
        SamplerSettings(**chosen),
        f"γ = {last['localization']:.3g} keeps chains within {last['distance']:.2f} |w*|;"
        f" nβ = {last['nbeta']:.4g} ({share}, n = {n:,}) is the largest tried at which every"
        f" checkpoint is at a minimum (basin shift {last['shift']:.2f}, at most 1).",
    )


_LENGTHS = ("sampler_lr", "num_draws", "num_burnin_steps")
