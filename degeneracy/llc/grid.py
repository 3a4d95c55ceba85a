"""Which sampler settings? The order of solutions over a grid of settings, and a calibration that
picks them by a rule.

γ and nβ decide what λ̂ estimates, ε how well. ε is adapted to a cell of (γ, nβ) by the stiffest
direction there is: along a Hessian eigenvector of curvature h a chain relaxes at the rate A = nβ h
+ γ, is stable for ε A < 4 and then has a variance that is too large by 1/(1 − εA/4). `adapted_step`
keeps that at 5 % in the stiffest direction.
"""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from degeneracy.curvature.largest import largest_curvature
from degeneracy.llc.auto import BURN_IN, DRAWS, first_step, sees_all
from degeneracy.llc.checks import checked_objective
from degeneracy.llc.estimate import estimate_llcs, resolve_nbeta
from degeneracy.llc.settings import AUTO, SamplerSettings
from degeneracy.llc.statistics import LLCEstimate
from degeneracy.objective.data import as_data

LOCALIZATIONS = (10.0, 100.0, 1_000.0, 10_000.0, 100_000.0)  # γ of the grid
NBETAS = ("batch", "dataset")  # nβ of the grid: m/ln m and n/ln n
STEP = 0.2  # ε (nβ h_max + γ) of the grid
MOST_STEPS = 800  # of a chain; a cell that needs more to come to rest is not sampled
CURVATURE_SAMPLES = 1280  # samples on which the largest curvature is taken


def adapted_step(
    nbeta: float, max_curvature: float, localization: float, step: float = STEP
) -> float:
    """ε = step / (nβ h_max + γ): the same step for the same stability, whatever the cell."""
    return step / (nbeta * max_curvature + localization)


def max_curvature(
    model: nn.Module,
    checkpoints: Sequence[dict[str, Tensor]],
    data: Any,
    loss_fn: Callable = cross_entropy,
    seed: int = 0,
) -> float:
    """The largest Hessian eigenvalue of the mean loss at any of the checkpoints, on 1,280 samples
    (loss / weight²).

    Raises:
        ValueError: A model, checkpoints, data or a loss that cannot be sampled.
    """
    objective = checked_objective(model, checkpoints, data, 1, loss_fn)
    few = objective.data.some(CURVATURE_SAMPLES, seed).whole
    found = []
    for checkpoint in checkpoints:
        there = objective.at(checkpoint)
        loss = partial(there.batch_loss, batch=few)
        found.append(largest_curvature(loss, there.weights, seed=seed))
    return max(found)


def second_half(settings: SamplerSettings) -> SamplerSettings:
    """The settings with the first half of the draws as burn-in, at the same cost: what a chain's
    rise would blur.
    """
    kept = max(4, settings.num_draws // 2)
    burnin = settings.num_burnin_steps + max(0, settings.num_draws - kept)
    return settings.model_copy(update={"num_draws": kept, "num_burnin_steps": burnin})


@dataclass(frozen=True)
class GridCell:
    """The checkpoints' LLCs at one (γ, nβ), all with the same step."""

    localization: float  # γ
    nbeta: float
    nbeta_setting: str | float  # as asked for: "batch", "dataset" or a number
    sampler_lr: float | None  # ε; None with `auto`
    estimates: tuple[LLCEstimate, ...]  # one a checkpoint; none where the cell was not sampled
    needed_steps: int | None = None  # of a chain to come to rest, where the cell was not sampled


def llc_grid(
    model: nn.Module,
    checkpoints: Sequence[dict[str, Tensor]],
    data: Any,
    settings: SamplerSettings,
    batch_size: int = 128,
    loss_fn: Callable = cross_entropy,
    *,
    localizations: Sequence[float] = LOCALIZATIONS,
    nbetas: Sequence[str | float] = NBETAS,
    curvature: float | None = None,
    checkpoint_ids: Sequence[int] | None = None,
    label: str = "LLC grid",
) -> list[GridCell]:
    """LLCs of the checkpoints on a grid of localisations γ and inverse temperatures nβ: does their
    order survive?

    Args:
        model, checkpoints, data, batch_size, loss_fn, checkpoint_ids: As
            `llc.estimate.estimate_llcs` takes them.
        settings: With `auto` every cell that can come to rest within 800 steps a chain is sampled
            by it, with the settings' chains; of the others it is said how many steps they need.
            With a published sampler: number of chains, draws and burn-in steps, seed and backend;
            the sampler is SGLD in every cell, and the first half of the draws becomes burn-in too
            (`second_half`): a chain's rise would keep it from settling.
        localizations: γ, the columns.
        nbetas: nβ, the rows.
        curvature: h_max in ε = 0.2/(nβ h_max + γ); default: the largest curvature of the
            checkpoints, so that all of a cell's are sampled alike.
        label: Stands before the progress bar.

    Raises:
        ValueError: As `llc.estimate.estimate_llcs`.
    """
    check_lists(checkpoints=checkpoints, localizations=localizations, nbetas=nbetas)
    automatic = settings.sampler == AUTO
    settings = settings if automatic else second_half(settings)
    data = as_data(data, next(model.parameters()).device)
    if curvature is None:
        curvature = max_curvature(model, checkpoints, data, loss_fn, settings.seed)
    ids = range(len(checkpoints)) if checkpoint_ids is None else checkpoint_ids
    cells = [
        _Cell(setting, localization, curvature, settings, batch_size, len(data))
        for setting, localization in product(nbetas, localizations)
    ]
    sampled = [cell for cell in cells if not automatic or cell.needed_steps <= MOST_STEPS]
    estimates = estimate_llcs(
        model,
        [checkpoint for _ in sampled for checkpoint in checkpoints],
        data,
        [cell.settings for cell in sampled for _ in checkpoints],
        batch_size,
        loss_fn,
        checkpoint_ids=[checkpoint_id for _ in sampled for checkpoint_id in ids],
        label=label,
    )
    found = dict(zip(map(id, sampled), _parts(estimates, len(checkpoints)), strict=True))
    return [
        GridCell(
            cell.localization,
            resolve_nbeta(cell.setting, batch_size, len(data)),
            cell.setting,
            cell.settings.sampler_lr,
            found.get(id(cell), ()),
            None if id(cell) in found else cell.needed_steps,
        )
        for cell in cells
    ]


class _Cell:
    """A cell to come: its settings, and the steps that `auto` would need with its first step in
    the weights as they are.
    """

    def __init__(self, setting, localization, curvature, settings, batch_size: int, n: int):
        self.setting, self.localization = setting, localization
        nbeta = resolve_nbeta(setting, batch_size, n)
        if settings.sampler == AUTO:
            change = {"nbeta": setting, "localization": float(localization)}
            self.settings = SamplerSettings(**settings.model_dump() | change)
        else:
            step = adapted_step(nbeta, curvature, localization)
            self.settings = sgld_settings(settings, localization, setting, step)
        stiffness = (nbeta * curvature + localization) / localization if localization else math.inf
        step = first_step(stiffness, settings.dynamics, sees_all(settings, n))
        self.needed_steps = math.ceil((BURN_IN + DRAWS) * 2 / step) if step else sys.maxsize


def _parts(values: Sequence, size: int) -> list[tuple]:
    return [tuple(values[first : first + size]) for first in range(0, len(values), size)]


def cell_step(
    setting: str | float,
    localization: float,
    curvature: float,
    batch_size: int,
    n: int,
    step: float,
) -> float:
    return adapted_step(resolve_nbeta(setting, batch_size, n), curvature, localization, step)


def sgld_settings(
    settings: SamplerSettings, localization: float, nbeta: str | float, epsilon: float
) -> SamplerSettings:
    cell = {
        "sampler": "sgld",
        "localization": float(localization),
        "nbeta": nbeta,
        "sampler_lr": epsilon,
    }
    return SamplerSettings(**settings.model_dump() | cell)


def check_lists(**lists: Sequence) -> None:
    for name, given in lists.items():
        if isinstance(given, str) or len(given) == 0:
            raise ValueError(f"{name} = {given!r}; allowed: a list that is not empty")
    for nbeta in lists.get("nbetas", ()):
        if nbeta not in NBETAS and not (isinstance(nbeta, int | float) and nbeta > 0):
            raise ValueError(
                f'nbetas has {nbeta!r}; allowed: "batch", "dataset" or a number above 0'
            )
