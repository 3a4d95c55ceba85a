"""Is SP-NGD's claim met: fewer steps, and stale statistics that cost nothing? A card, tables."""

from collections.abc import Mapping

import numpy as np

from degeneracy.report.page import Card, Tile
from degeneracy.report.tables import Table
from degeneracy.texts import count_of, label, listed, number
from studies.natural_gradients.sp_ngd.figures import (
    COLOURS,
    COMPARED,
    LOSS,
    beside_fresh,
    by_alpha,
    of_kind,
)

TITLE = "SP-NGD: K-FAC with stale statistics"
CLAIM = (
    "The claim (arXiv:2002.06015): natural gradients by K-FAC need fewer steps, and most of their"
    " statistics may be old ones, the fewer are refreshed the larger the batch, at no loss; so the"
    " work, and what processes send each other, falls."
)
SHOWN_RANKS = (1, 2, 4, 8, 16, 32, 64)
ALIKE = 0.002  # of accuracy, which the paper's authors and we call the same


def card(part: Mapping) -> Card:
    """Steps and time beside SGD, then what staleness saves and costs."""
    sentences = [s for s in (race_text(part), stale_text(part)) if s]
    if not part:
        return Card(TITLE, "Nothing has been measured yet.", text=[CLAIM])
    tiles = [
        Tile(label(name), f"{steps:.0f} steps", f"{seconds:.1f} s", COLOURS[name])
        for name in COMPARED
        if (steps := middle(part, name, "steps")) is not None
        and (seconds := middle(part, name, "seconds")) is not None
    ]
    measured = [s for s in (cost_text(part), sent_text(part), balance_text(part)) if s]
    return Card(
        TITLE,
        " ".join(sentences) or others_text(part),
        tiles=tiles,
        drawing=LOSS,
        text=[CLAIM, *measured],
    )


def middle(part: Mapping, optimizer: str, key: str) -> float | None:
    """Median over the seeds that reached the target of the last of a run's `key`."""
    runs = [run for run in of_kind(part, "to loss") if run["optimizer"] == optimizer]
    found = [run[key][-1] for run in runs if run["reached"]]
    return float(np.median(found)) if found else None


def race_text(part: Mapping) -> str:
    """Who is there first, in steps and in time."""
    runs = of_kind(part, "to loss")
    if not runs:
        return ""
    target = runs[0]["target"]
    absent = [label(n) for n in COMPARED if not any(run["optimizer"] == n for run in runs)]
    if absent:
        return f"To a loss of {target:g} {listed(absent)} has not been run yet."
    values = {
        (name, key): middle(part, name, key) for name in COMPARED for key in ("steps", "seconds")
    }
    missed = [run for run in runs if not run["reached"]]
    failed = f" ({count_of(len(missed), 'run')} did not arrive)" if missed else ""
    if lost := [label(name) for name in COMPARED if values[name, "steps"] is None]:
        return f"A loss of {target:g} was not reached by {listed(lost)}{failed}."
    steps = values["spngd", "steps"] / values["sgd", "steps"]
    time = values["spngd", "seconds"] / values["sgd", "seconds"]
    said = "fewer steps" if steps < 1 else "no fewer steps"
    return (
        f"SP-NGD reaches a loss of {target:g} in {said} than SGD, {steps:.2f} times as"
        f" many, and in {time:.2g} times its processor time{failed}."
    )


def stale_text(part: Mapping) -> str:
    """How few refreshes there were, and whether the batch size decides it."""
    runs = [run for alpha, of in by_alpha(part).items() if alpha > 0 for run in of]
    if not runs:
        return ""
    least = min(runs, key=lambda run: run["share"])
    return (
        f"At the least {_percent(least['share'])} of the statistics were refreshed, at batch"
        f" {least['batch_size']:,} with α = {least['alpha']:g}."
    )


def others_text(part: Mapping) -> str:
    """What there is before the first race and the first stale run."""
    if by_alpha(part):
        return "Fresh statistics alone were measured; nothing is said of stale ones yet."
    return "Only the owners of layers were counted."


def cost_text(part: Mapping) -> str:
    """Measured: what was refreshed by kind, and what it did to loss and accuracy."""
    stale = [run for alpha, of in by_alpha(part).items() if alpha > 0 for run in of]
    losses = [pair for run in stale if (pair := beside_fresh(part, run, "loss"))]
    accuracies = [pair for run in stale if (pair := beside_fresh(part, run, "accuracy"))]
    if not losses or not accuracies:
        return ""
    ratios = [one / fresh for one, fresh in losses]
    apart = max(abs(one - fresh) for one, fresh in accuracies)
    verdict = "the same" if apart <= ALIKE else "not the same"
    kinds = stale[0]["shares"]
    shares = "; ".join(
        f"{kind} {_percent(min(run['shares'][kind] for run in stale))} to"
        f" {_percent(max(run['shares'][kind] for run in stale))}"
        for kind in kinds
    )
    return (
        f"Measured over {count_of(len(stale), 'run')} of the same samples, shares refreshed:"
        f" {shares}. The loss at the end is {min(ratios):.2f} to {max(ratios):.2f} of that with"
        f" fresh statistics, the test accuracy at most {100 * apart:.2g} points off: {verdict}."
    )


def sent_text(part: Mapping) -> str:
    """Measured: how much less is sent."""
    runs = [run for of in by_alpha(part).values() for run in of]
    if not runs:
        return ""
    least = min(runs, key=lambda run: run["sent"]["stale"])
    sent = least["sent"]
    return (
        f"Between {least['num_ranks']} processes a step with fresh statistics sends"
        f" {sent['whole']:,} numbers, as triangles {_percent(sent['packed'] / sent['whole'])} of"
        f" them, and as refreshed at batch {least['batch_size']:,} and α = {least['alpha']:g}"
        f" {_percent(sent['stale'] / sent['whole'])}."
    )


def balance_text(part: Mapping) -> str:
    """Counted: up to how many owners there is a gain."""
    found = part.get("balance")
    if not found:
        return ""
    best = max(found["greedy"])
    first = next(r for r, s in zip(found["ranks"], found["greedy"], strict=True) if s > 0.99 * best)
    return (
        f"ResNet-50's {found['layers']} layers are inverted {best:.2f} times as fast by {first}"
        f" owners as by one, and no faster by {found['ranks'][-1]}: the most expensive layer then"
        " takes all the time."
        if first < found["ranks"][-1]
        else f"ResNet-50's inverses gain up to {first} owners, {best:.2f} times."
    )


def tables(part: Mapping) -> list[Table]:
    """Refreshes run by run, and ResNet-50's owners."""
    found = []
    if runs := [run for of in by_alpha(part).values() for run in of]:
        found.append(refreshes_table(runs))
    if part.get("balance"):
        found.append(balance_table(part["balance"]))
    return found


def refreshes_table(runs: list[Mapping]) -> Table:
    """A row a run."""
    kinds = list(runs[0]["shares"])
    rows = [
        [
            f"batch {run['batch_size']:,}, α = {run['alpha']:g}",
            _percent(run["share"]),
            *(_percent(run["shares"][kind]) for kind in kinds),
            _number(run["loss"], ".4f"),
            _number(run["accuracy"], ".4f"),
            _number(run["seconds"], ".1f"),
            f"{run['sent']['stale']:,.0f}",
        ]
        for run in runs
    ]
    return Table(
        "SP-NGD's refreshes",
        "Of all that there could have been; final loss (nats) and test accuracy, processor seconds,"
        f" numbers sent a step between {runs[0]['num_ranks']} processes.",
        ["run", "refreshed", *kinds, "loss", "accuracy", "s", "sent"],
        rows,
        row_headers=True,
    )


def balance_table(found: Mapping) -> Table:
    """A row for powers of two, and what a step sends."""
    rows = [
        [str(ranks), *(f"{found[key][i]:.2f}" for key in ("greedy", "in_turn", "most"))]
        for i, ranks in enumerate(found["ranks"])
        if ranks in SHOWN_RANKS
    ]
    sent = {key: f"{count:,}" for key, count in found["sent"].items()}
    return Table(
        "Owners of ResNet-50's layers",
        "Speed-up of all inverses over one rank, counted in multiplications. Between 2 ranks a step"
        f" sends {sent['whole']} numbers with whole matrices, {sent['packed']} with triangles, and"
        f" {sent['stale']} where no statistic is due.",
        ["ranks", "greedy", "in turn", "at most"],
        rows,
        row_headers=True,
    )


def _percent(share: float | None) -> str:
    return "–" if number(share) is None else f"{100 * share:.0f} %"


def _number(value: float | None, form: str) -> str:
    return "–" if number(value) is None else f"{value:{form}}"
