"""Which sampler settings? A calibration that picks them by a rule."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import pandas as pd
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from degeneracy.llc.estimate import estimate_llcs
from degeneracy.llc.grid import (
    LOCALIZATIONS,
    NBETAS,
    cell_step,
    check_lists,
    max_curvature,
    sgld_settings,
)
from degeneracy.llc.settings import SamplerSettings
from degeneracy.llc.statistics import LLCEstimate, standard_error
from degeneracy.texts import with_error

STEPS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # and those that a calibration tries
MIN_ACCEPTANCE = 0.574  # at which a Langevin step is most efficient (Roberts & Rosenthal 1998)
# of λ̂, or of standard errors: how far it may be from the next smaller ε's
PLATEAU_SHARE, PLATEAU_ERRORS = (0.02, 2.0)


@dataclass(frozen=True)
class Calibration:
    """What a calibration found.

    Attributes:
        table: One row a cell: `nbeta`, `localization`, `sampler_lr`, `llc`, `std_error`, `drift`,
            `acceptance`, `num_diverged_chains`, `settled`, `plateau` (agrees with the next smaller
            ε), `admissible`, `chosen`.
        settings: The settings that the rule picked, None where no cell is admissible.
        reason: Why these, in a sentence.
    """

    table: pd.DataFrame
    settings: SamplerSettings | None
    reason: str


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

    The rule: a cell is admissible when no chain diverged, the MALA acceptance is at least 0.574, λ̂
    is within 2 %, or else two standard errors, of the one at the next smaller ε (the plateau; the
    smallest ε has none to stand on), and the estimate has settled (doubling the draws moved it by
    less than its error, every chain steady). All cells share their random numbers, and the
    plateau's error is that of the paired difference. Of the admissible cells: the first nβ in the
    order given that has one, there the smallest γ (the least localised estimate that can be had),
    there the largest ε.

    Args:
        model, checkpoint, data, batch_size, loss_fn: As `llc.estimate.estimate_llcs` takes them.
        settings: Number of chains, draws and burn-in steps, seed; the sampler is SGLD. Default: the
            defaults.
        steps: ε in units of 1/(nβ h_max + γ), with h_max the largest curvature at the checkpoint;
            two or more. A chain is unstable from 4 on.
        localizations: γ.
        nbetas: nβ, the preferred one first.
        label: Stands before the progress bar.

    Raises:
        ValueError: As `llc.estimate.estimate_llcs`.
    """
    settings = settings or SamplerSettings()
    check_lists(steps=steps, localizations=localizations, nbetas=nbetas)
    if len(set(steps)) < 2:
        raise ValueError(
            f"steps = {tuple(steps)}; allowed: two or more, since each is compared with the next"
            " smaller"
        )
    curvature = max_curvature(model, [checkpoint], data, loss_fn, settings.seed)
    cells = list(product(nbetas, sorted(localizations), sorted(steps)))
    changed = [
        sgld_settings(
            settings,
            localization,
            setting,
            cell_step(setting, localization, curvature, batch_size, len(data[0]), step),
        )
        for setting, localization, step in cells
    ]
    same = {"checkpoint_ids": [0] * len(cells)}  # the same random numbers in every cell
    estimates = estimate_llcs(
        model, [checkpoint] * len(cells), data, changed, batch_size, loss_fn, label=label, **same
    )
    rows = []
    for position, (_, _, step) in enumerate(cells):
        smaller = None if step == min(steps) else estimates[position - 1]
        rows.append(_calibration_row(changed[position], estimates[position], smaller))
    table = pd.DataFrame(rows)
    admissible = [position for position, row in enumerate(rows) if row["admissible"]]
    # Cells are in the order of preference but for ε, of which the largest is best.
    best = min(
        admissible, key=lambda p: (cells[p][:2] != cells[admissible[0]][:2], -p), default=None
    )
    table["chosen"] = [position == best for position in range(len(rows))]
    return Calibration(table, None if best is None else changed[best], _reason(table, best))


def _calibration_row(
    settings: SamplerSettings, estimate: LLCEstimate, smaller: LLCEstimate | None
) -> dict:
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
    """Whether λ̂ at one ε is that at the next smaller one; their chains share random numbers draw
    by draw.
    """
    if estimate.llc is None or smaller.llc is None:
        return False
    both = ~(estimate.diverged | smaller.diverged)
    error = (
        standard_error((estimate.trace - smaller.trace)[both].astype(float)) if both.any() else None
    )
    apart = abs(estimate.llc - smaller.llc)
    return apart <= max(
        PLATEAU_SHARE * abs(smaller.llc), PLATEAU_ERRORS * estimate.nbeta * (error or 0.0)
    )


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
        return (
            f"No cell of {len(table)} is admissible ({shown}): take more draws, burn-in steps or"
            " smaller steps."
        )
    row = table.loc[best]
    return (
        f"nβ = {row.nbeta:.4g}, γ = {row.localization:g}, ε = {row.sampler_lr:.3g}: the largest ε"
        " on the plateau at the smallest γ that settles, with a MALA acceptance of"
        f" {row.acceptance:.2f} and λ̂ = {with_error(row.llc, row.std_error)};"
        f" {int(table['admissible'].sum())} of {len(table)} cells are admissible."
    )
