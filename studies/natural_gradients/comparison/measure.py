"""All descents, seed by seed, each seed as a sweep. Files are the sweeps' alone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import studies
from degeneracy.runs.work import Measured, Work
from degeneracy.sweeps.sweep import run_sweep, sweep_of
from studies.natural_gradients.comparison.plan import STUDY, axis_of, cells, content_of
from studies.natural_gradients.comparison.settings import Settings

MOST_LOOKS = 80  # of a descent that are kept for the figure


def measure(work: Work) -> Measured:
    """The rows of each seed; a kill loses the runs that were under way."""
    seeds = {f"seed {seed}": seed for seed in work.settings.comparison.seeds}
    for key in work.todo(seeds, "seed"):
        yield key, {"rows": list(rows_of(work, seeds[key]))}


def rows_of(work: Work, seed: int) -> Iterator[dict[str, Any]]:
    """Does the runs of a seed; a row for each."""
    settings: Settings = work.settings.comparison
    sweep = sweep_of(
        studies.find(STUDY),
        content_of(settings, seed),
        [axis_of(settings)],
        work.store.directory / STUDY / f"seed-{seed:02d}",
    )
    given = replace(settings.runs.resources, device=work.device.type)
    _, states = run_sweep(sweep, studies.find, given, settings.runs.retries)
    for cell, state in zip(cells(settings), states, strict=True):
        row = {"optimizer": cell.optimizer, "lr": cell.lr, "seed": seed}
        row |= {"status": state.status, "reason": state.reason}
        yield row | found((state.results or {}).get("parts", {}))


def found(parts: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a descent: how it went, when it passed the loss, and what was measured."""
    training = parts.get("training", {}).get("descent")
    if training is None:
        return {"outcome": None, "looks": [], "passage": None, "point": None}
    points = list(parts.get("degeneracy", {}).values())
    passages = training["passages"]
    return {
        "outcome": training["outcome"],
        "looks": thinned(training["looks"]),
        "passage": passages[-1] if passages else None,
        "point": points[-1] if points else None,
    }


def thinned(looks: Sequence[Any]) -> list[Any]:
    """Every k-th look, at most `MOST_LOOKS`, and the last."""
    stride = -(-len(looks) // MOST_LOOKS)
    kept = [*looks[::stride]] if looks else []
    return kept if not kept or kept[-1] == looks[-1] else [*kept, looks[-1]]
