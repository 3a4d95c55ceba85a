"""Which sampler settings? The order of solutions over a grid of settings, and a calibration that
picks them by a rule.

γ and nβ decide what λ̂ estimates, ε how well. ε is adapted to a cell of (γ, nβ) by the stiffest
direction there is: along a Hessian eigenvector of curvature h a chain relaxes at the rate A = nβ h
+ γ, is stable for ε A < 4 and then has a variance that is too large by 1/(1 − εA/4). `adapted_step`
keeps that at 5 % in the stiffest direction.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from degeneracy.curvature.largest import largest_curvature, loss_on
from degeneracy.llc.checks import check_problem
from degeneracy.llc.estimate import estimate_llcs, resolve_nbeta
from degeneracy.llc.settings import SamplerSettings
from degeneracy.llc.statistics import LLCEstimate

LOCALIZATIONS = (10.0, 100.0, 1_000.0, 10_000.0)  # γ of the grid
NBETAS = ("batch", "dataset")  # nβ of the grid: m/ln m and n/ln n
STEP = 0.2  # ε (nβ h_max + γ) of the grid
CURVATURE_SAMPLES = 1280  # samples on which the largest curvature is taken


def adapted_step(
    nbeta: float, max_curvature: float, localization: float, step: float = STEP
) -> float:
    """ε = step / (nβ h_max + γ): the same step for the same stability, whatever the cell."""
    return step / (nbeta * max_curvature + localization)


def max_curvature(
    model: nn.Module,
    checkpoints: Sequence[dict[str, Tensor]],
    data: tuple[Tensor, Tensor],
    loss_fn: Callable = cross_entropy,
    seed: int = 0,
) -> float:
    """The largest Hessian eigenvalue of the mean loss at any of the checkpoints, on 1,280 samples
    (loss / weight²).

    Raises:
        ValueError: A model, checkpoints, data or a loss that cannot be sampled.
    """
    model = copy.deepcopy(model).train()  # as it is sampled
    check_problem(model, checkpoints, data, 1, loss_fn)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(data[0]), generator=generator)[:CURVATURE_SAMPLES].to(
        data[0].device
    )
    loss = loss_on(model, (data[0][chosen], data[1][chosen]), loss_fn)
    found = []
    for checkpoint in checkpoints:
        model.load_state_dict(checkpoint)
        sampled = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
        found.append(largest_curvature(loss, sampled, seed=seed))
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
    """The checkpoints' LLCs at one (γ, nβ), all with the same ε."""

    localization: float  # γ
    nbeta: float
    nbeta_setting: str | float  # as asked for: "batch", "dataset" or a number
    sampler_lr: float  # ε
    estimates: tuple[LLCEstimate, ...]  # one a checkpoint


def llc_grid(
    model: nn.Module,
    checkpoints: Sequence[dict[str, Tensor]],
    data: tuple[Tensor, Tensor],
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
        settings: Number of chains, draws and burn-in steps, seed and backend; the sampler is SGLD
            in every cell. The first half of the draws becomes burn-in too (`second_half`): a
            chain's rise would keep it from settling.
        localizations: γ, the columns.
        nbetas: nβ, the rows.
        curvature: h_max in ε = 0.2/(nβ h_max + γ); default: the largest curvature of the
            checkpoints, so that all of a cell's are sampled alike.
        label: Stands before the progress bar.

    Raises:
        ValueError: As `llc.estimate.estimate_llcs`.
    """
    check_lists(checkpoints=checkpoints, localizations=localizations, nbetas=nbetas)
    settings = second_half(settings)
    if curvature is None:
        curvature = max_curvature(model, checkpoints, data, loss_fn, settings.seed)
    ids = range(len(checkpoints)) if checkpoint_ids is None else checkpoint_ids
    cells = list(product(nbetas, localizations))
    changed = [
        sgld_settings(
            settings,
            localization,
            setting,
            cell_step(setting, localization, curvature, batch_size, len(data[0]), STEP),
        )
        for setting, localization in cells
    ]
    estimates = estimate_llcs(
        model,
        [checkpoint for _ in cells for checkpoint in checkpoints],
        data,
        [one for one in changed for _ in checkpoints],
        batch_size,
        loss_fn,
        checkpoint_ids=[checkpoint_id for _ in cells for checkpoint_id in ids],
        label=label,
    )
    count = len(checkpoints)
    return [
        GridCell(localization, mine[0].nbeta, setting, one.sampler_lr, tuple(mine))
        for position, ((setting, localization), one) in enumerate(zip(cells, changed, strict=True))
        for mine in [estimates[position * count : (position + 1) * count]]
    ]


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
