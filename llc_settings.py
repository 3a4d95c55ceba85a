"""Which sampler settings? The order of solutions over a grid of settings, and a calibration that picks them by a rule.

γ and nβ decide what λ̂ estimates, ε how well. ε is adapted to a cell of (γ, nβ) by the stiffest direction there is:
along a Hessian eigenvector of curvature h a chain relaxes at the rate A = nβ h + γ, is stable for ε A < 4 and then has
a variance that is too large by 1/(1 − εA/4). `adapted_step` keeps that at 5 % in the stiffest direction.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import pandas as pd
import plotly.graph_objects as go
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from calibration_figure import calibration_figure
from experiment_config import SamplerSettings
from llc import LLCEstimate, estimate_llcs, resolve_nbeta
from llc_checks import check_problem
from llc_estimate import standard_error
from number_texts import with_error
from utils_hessian_fim import largest_curvature, loss_on

LOCALIZATIONS = (10.0, 100.0, 1_000.0, 10_000.0)  # γ of the grid
NBETAS = ("batch", "dataset")  # nβ of the grid: m/ln m and n/ln n
STEP = 0.2  # ε (nβ h_max + γ) of the grid
STEPS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # and those that a calibration tries
CURVATURE_SAMPLES = 1280  # samples on which the largest curvature is taken
MIN_ACCEPTANCE = 0.574  # at which a Langevin step is most efficient (Roberts & Rosenthal 1998)
PLATEAU_SHARE, PLATEAU_ERRORS = 0.02, 2.0  # of λ̂, or of standard errors: how far it may be from the next smaller ε's


def adapted_step(nbeta: float, max_curvature: float, localization: float, step: float = STEP) -> float:
    """ε = step / (nβ h_max + γ): the same step for the same stability, whatever the cell."""
    return step / (nbeta * max_curvature + localization)


def max_curvature(
    model: nn.Module,
    checkpoints: Sequence[dict[str, Tensor]],
    data: tuple[Tensor, Tensor],
    loss_fn: Callable = cross_entropy,
    seed: int = 0,
) -> float:
    """The largest Hessian eigenvalue of the mean loss at any of the checkpoints, on 1,280 samples (loss / weight²).

    Raises:
        ValueError: A model, checkpoints, data or a loss that cannot be sampled.
    """
    model = copy.deepcopy(model).train()  # as it is sampled
    check_problem(model, checkpoints, data, 1, loss_fn)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(data[0]), generator=generator)[:CURVATURE_SAMPLES].to(data[0].device)
    loss = loss_on(model, (data[0][chosen], data[1][chosen]), loss_fn)
    found = []
    for checkpoint in checkpoints:
        model.load_state_dict(checkpoint)
        sampled = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
        found.append(largest_curvature(loss, sampled, seed=seed))
    return max(found)


def second_half(settings: SamplerSettings) -> SamplerSettings:
    """The settings with the first half of the draws as burn-in, at the same cost: what a chain's rise would blur."""
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
    """LLCs of the checkpoints on a grid of localisations γ and inverse temperatures nβ: does their order survive?

    Args:
        model, checkpoints, data, batch_size, loss_fn, checkpoint_ids: As `llc.estimate_llcs` takes them.
        settings: Number of chains, draws and burn-in steps, seed and backend; the sampler is SGLD in every cell. The
            first half of the draws becomes burn-in too (`second_half`): a chain's rise would keep it from settling.
        localizations: γ, the columns.
        nbetas: nβ, the rows.
        curvature: h_max in ε = 0.2/(nβ h_max + γ); default: the largest curvature of the checkpoints, so that all of a
            cell's are sampled alike.
        label: Stands before the progress bar.

    Raises:
        ValueError: As `llc.estimate_llcs`.
    """
    _check_lists(checkpoints=checkpoints, localizations=localizations, nbetas=nbetas)
    settings = second_half(settings)
    if curvature is None:
        curvature = max_curvature(model, checkpoints, data, loss_fn, settings.seed)
    ids = range(len(checkpoints)) if checkpoint_ids is None else checkpoint_ids
    cells = list(product(nbetas, localizations))
    changed = [
        _sgld(settings, localization, setting, _step(setting, localization, curvature, batch_size, len(data[0]), STEP))
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


@dataclass(frozen=True)
class Calibration:
    """What a calibration found.

    Attributes:
        table: One row a cell: `nbeta`, `localization`, `sampler_lr`, `llc`, `std_error`, `drift`, `acceptance`,
            `num_diverged_chains`, `settled`, `plateau` (agrees with the next smaller ε), `admissible`, `chosen`.
        settings: The settings that the rule picked, None where no cell is admissible.
        reason: Why these, in a sentence.
        figure: λ̂ against ε, a line for each (γ, nβ).
    """

    table: pd.DataFrame
    settings: SamplerSettings | None
    reason: str
    figure: go.Figure


def calibrate(
    model: nn.Module,
    checkpoint: dict[str, Tensor],
    data: tuple[Tensor, Tensor],
    settings: SamplerSettings | None = None,
    batch_size: int = 128,
    loss_fn: Callable = cross_entropy,
    *,
    steps: Sequence[float] = STEPS,
    localizations: Sequence[float] = LOCALIZATIONS[:3],
    nbetas: Sequence[str | float] = NBETAS,
    label: str = "calibration",
) -> Calibration:
    """Sweeps ε × γ × nβ at one checkpoint and picks settings.

    The rule: a cell is admissible when no chain diverged, the MALA acceptance is at least 0.574, λ̂ is within 2 %, or
    else two standard errors, of the one at the next smaller ε (the plateau; the smallest ε has none to stand on), and
    the estimate has settled (doubling the draws moved it by less than its error, every chain steady). All cells share
    their random numbers, and the plateau's error is that of the paired difference. Of the admissible cells: the first
    nβ in the order given that has one, there the smallest γ (the least localised estimate that can be had), there the
    largest ε.

    Args:
        model, checkpoint, data, batch_size, loss_fn: As `llc.estimate_llcs` takes them.
        settings: Number of chains, draws and burn-in steps, seed; the sampler is SGLD. Default: the defaults.
        steps: ε in units of 1/(nβ h_max + γ), with h_max the largest curvature at the checkpoint; two or more. A chain
            is unstable from 4 on.
        localizations: γ.
        nbetas: nβ, the preferred one first.
        label: Stands before the progress bar.

    Raises:
        ValueError: As `llc.estimate_llcs`.
    """
    settings = settings or SamplerSettings()
    _check_lists(steps=steps, localizations=localizations, nbetas=nbetas)
    if len(set(steps)) < 2:
        raise ValueError(f"steps = {tuple(steps)}; allowed: two or more, since each is compared with the next smaller")
    curvature = max_curvature(model, [checkpoint], data, loss_fn, settings.seed)
    cells = list(product(nbetas, sorted(localizations), sorted(steps)))
    changed = [
        _sgld(settings, localization, setting, _step(setting, localization, curvature, batch_size, len(data[0]), step))
        for setting, localization, step in cells
    ]
    same = {"checkpoint_ids": [0] * len(cells)}  # the same random numbers in every cell
    estimates = estimate_llcs(model, [checkpoint] * len(cells), data, changed, batch_size, loss_fn, label=label, **same)
    rows = []
    for position, (_, _, step) in enumerate(cells):
        smaller = None if step == min(steps) else estimates[position - 1]
        rows.append(_calibration_row(changed[position], estimates[position], smaller))
    table = pd.DataFrame(rows)
    admissible = [position for position, row in enumerate(rows) if row["admissible"]]
    # Cells are in the order of preference but for ε, of which the largest is best.
    best = min(admissible, key=lambda p: (cells[p][:2] != cells[admissible[0]][:2], -p), default=None)
    table["chosen"] = [position == best for position in range(len(rows))]
    return Calibration(table, None if best is None else changed[best], _reason(table, best), calibration_figure(table))


def _step(setting: str | float, localization: float, curvature: float, batch_size: int, n: int, step: float) -> float:
    return adapted_step(resolve_nbeta(setting, batch_size, n), curvature, localization, step)


def _sgld(settings: SamplerSettings, localization: float, nbeta: str | float, epsilon: float) -> SamplerSettings:
    cell = {"sampler": "sgld", "localization": float(localization), "nbeta": nbeta, "sampler_lr": epsilon}
    return SamplerSettings(**settings.model_dump() | cell)


def _check_lists(**lists: Sequence) -> None:
    for name, given in lists.items():
        if isinstance(given, str) or len(given) == 0:
            raise ValueError(f"{name} = {given!r}; allowed: a list that is not empty")
    for nbeta in lists.get("nbetas", ()):
        if nbeta not in NBETAS and not (isinstance(nbeta, int | float) and nbeta > 0):
            raise ValueError(f'nbetas has {nbeta!r}; allowed: "batch", "dataset" or a number above 0')


def _calibration_row(settings: SamplerSettings, estimate: LLCEstimate, smaller: LLCEstimate | None) -> dict:
    """A row of the table; `smaller` is the estimate at the next smaller ε and the same γ and nβ."""
    row = {
        "nbeta": estimate.nbeta,
        "localization": settings.localization,
        "sampler_lr": settings.sampler_lr,
        "llc": estimate.llc,
        "std_error": estimate.std_error,
        "drift": estimate.drift,
        "acceptance": estimate.mean_acceptance,
        "num_diverged_chains": int(estimate.diverged.sum()),
        "settled": estimate.settled,
        "plateau": smaller is not None and _agree(estimate, smaller),
    }
    sound = row["num_diverged_chains"] == 0 and (row["acceptance"] or 0.0) >= MIN_ACCEPTANCE
    return {**row, "admissible": row["plateau"] and row["settled"] and sound}


def _agree(estimate: LLCEstimate, smaller: LLCEstimate) -> bool:
    """Whether λ̂ at one ε is that at the next smaller one; their chains share random numbers draw by draw."""
    if estimate.llc is None or smaller.llc is None:
        return False
    both = ~(estimate.diverged | smaller.diverged)
    error = standard_error((estimate.trace - smaller.trace)[both].astype(float)) if both.any() else None
    apart = abs(estimate.llc - smaller.llc)
    return apart <= max(PLATEAU_SHARE * abs(smaller.llc), PLATEAU_ERRORS * estimate.nbeta * (error or 0.0))


def _reason(table: pd.DataFrame, best: int | None) -> str:
    if best is None:
        counts = {
            "with diverged chains": int((table["num_diverged_chains"] > 0).sum()),
            f"with a MALA acceptance below {MIN_ACCEPTANCE}": int(
                (table["acceptance"].fillna(0) < MIN_ACCEPTANCE).sum()
            ),
            "off the plateau in ε": int((~table["plateau"]).sum()),
            "not settled": int((~table["settled"]).sum()),
        }
        shown = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        return f"No cell of {len(table)} is admissible ({shown}): take more draws, burn-in steps or smaller steps."
    row = table.loc[best]
    return (
        f"nβ = {row.nbeta:.4g}, γ = {row.localization:g}, ε = {row.sampler_lr:.3g}: the largest ε on the plateau "
        f"at the smallest γ that settles, with a MALA acceptance of {row.acceptance:.2f} and λ̂ = "
        f"{with_error(row.llc, row.std_error)}; {int(table['admissible'].sum())} of {len(table)} cells are admissible."
    )
