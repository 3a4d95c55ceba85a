"""What follows from the comparison? A card with one paragraph that is computed, and a table."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from degeneracy.report.page import Card, Note, Tile
from degeneracy.report.tables import Table
from degeneracy.texts import count_of, label, listed
from studies.natural_gradients.comparison.figures import DEGENERACY, fastest
from studies.natural_gradients.comparison.rows import (
    Row,
    by_rate,
    is_certified,
    llc_of,
    names_in,
    rows_in,
    steps_of,
    trace_of,
)
from studies.natural_gradients.comparison.variance import (
    Along,
    Matched,
    along_rates,
    at_matched_speed,
)

TITLE = "Optimizers compared, each along its own learning rates"
CLAIM = (
    "The question: does an optimizer end in less degenerate solutions than another at the same"
    " training loss, or does its learning rate alone decide?"
)
LEVEL = 0.05  # of the F test
LEAST = 2  # certified runs of an optimizer from which on it counts


def card(part: Mapping) -> Card:
    """The verdict, and the paragraph of what follows."""
    rows = counted(part)
    if len({row["optimizer"] for row in rows}) < 2:
        text = [CLAIM, measured_text(part, rows)] if part else [CLAIM]
        return Card(TITLE, _nothing(part), text=text, notes=failures(part))
    along, matched = decomposed(rows)
    largest = max(along.ranges, key=along.ranges.get) if along.ranges else None
    spread = max(matched.offsets.values()) - min(matched.offsets.values())
    tiles = []
    if not math.isnan(spread):
        tiles.append(Tile("between optimizers", f"{spread:.1f}", "of λ̂, at matched steps"))
    if largest is not None:
        within = float(np.mean(list(along.ranges.values())))
        detail = f"of λ̂ on average, at most {along.ranges[largest]:.1f} ({label(largest)})"
        tiles.append(Tile("along an optimizer's rates", f"{within:.1f}", detail))
    return Card(
        TITLE,
        headline(along, matched),
        tiles=tiles,
        drawing=DEGENERACY,
        text=[CLAIM, paragraph(along, matched), speed_text(part), measured_text(part, rows)],
        notes=failures(part),
    )


def counted(part: Mapping) -> list[Row]:
    """Certified runs of optimizers that have at least `LEAST` of them."""
    rows = [row for row in rows_in(part) if is_certified(row)]
    count = Counter(row["optimizer"] for row in rows)
    return [row for row in rows if count[row["optimizer"]] >= LEAST]


def decomposed(rows: Sequence[Row]) -> tuple[Along, Matched]:
    """λ̂ along the rates, and at matched steps."""
    values = [llc_of(row) for row in rows]
    names = [row["optimizer"] for row in rows]
    along = along_rates(values, names, [row["lr"] for row in rows])
    steps, seeds = [steps_of(row) for row in rows], [row["seed"] for row in rows]
    return along, at_matched_speed(values, names, steps, seeds)


def headline(along: Along, matched: Matched) -> str:
    """What optimizers do at matched steps, and rates along an optimizer, side by side."""
    spread = max(matched.offsets.values()) - min(matched.offsets.values())
    ranges = list(along.ranges.values())
    if math.isnan(matched.p):
        why = "too few runs count"
        if math.isnan(spread):
            why = "the seeds and steps of the runs that count do not tell them apart"
        return (
            "At matched steps to the loss no test is possible of whether optimizers differ in λ̂:"
            f" {why}."
        )
    if matched.p >= LEVEL:
        text = (
            "At matched steps to the loss no difference of λ̂ between optimizers is seen"
            f" (p = {matched.p:.2g})"
        )
        return f"{text}{_spans(ranges)}."
    text = (
        "At matched steps to the loss optimizers differ in λ̂"
        f" (p = {matched.p:.1g}), by up to {spread:.1f}"
    )
    return f"{text}{_spans(ranges)}."


def _spans(ranges: Sequence[float]) -> str:
    """What an optimizer's own rates do, to stand beside; empty where none has several."""
    if not ranges:
        return ""
    mean, most = float(np.mean(ranges)), max(ranges)
    return f"; over its own rates an optimizer's mean λ̂ spans {mean:.1f}, at most {most:.1f}"


def paragraph(along: Along, matched: Matched) -> str:
    """What follows, in numbers."""
    lines = [offsets_text(matched)]
    rises = "rises" if matched.slope > 0 else "falls"
    lines.append(
        f"λ̂ {rises} by {abs(matched.slope) * math.log(2):.1f} where a run takes twice as many steps"
    )
    if not math.isnan(along.share):
        lines.append(
            f"within optimizers a line in the log rate explains {100 * along.share:.0f} % of the"
            " variance"
        )
    if along.ranges:
        ranges = [f"{value:.1f} with {label(name)}" for name, value in along.ranges.items()]
        lines.append(f"over its rates the mean λ̂ spans {listed(ranges)}")
    return "; ".join(lines) + "."


def offsets_text(matched: Matched) -> str:
    """The ends of the order of optimizers, and the test of all."""
    low, high = (pick(matched.offsets, key=matched.offsets.get) for pick in (min, max))
    if math.isnan(matched.offsets[low]):
        return "At the same loss and steps optimizers cannot be told apart from seeds and steps"
    text = (
        f"At the same loss and steps, λ̂ of {label(high)} is highest"
        f" ({matched.offsets[high]:+.1f} beside the mean of all) and of {label(low)} lowest"
        f" ({matched.offsets[low]:+.1f})"
    )
    if math.isnan(matched.f):
        return text
    above, below = matched.degrees
    return (
        f"{text}, F({above}, {below}) = {matched.f:.1f}, p = {matched.p:.2g}, each seed"
        " with a height of its own"
    )


def speed_text(part: Mapping) -> str:
    """Who comes down in the fewest steps, and in the fewest seconds."""
    found = {name: rows for name in names_in(part) if (rows := fastest(part, name))}
    steps = {name: np.median([steps_of(row) for row in rows]) for name, rows in found.items()}
    seconds = {
        name: np.median([row["passage"]["seconds"] for row in rows]) for name, rows in found.items()
    }
    counts = {name: count_of(len(rows), "seed") for name, rows in found.items()}
    by_steps = [f"{label(n)} {steps[n]:,g} ({counts[n]})" for n in sorted(found, key=steps.get)]
    by_time = [f"{label(n)} {seconds[n]:.1f}" for n in sorted(found, key=seconds.get)]
    return (
        "Steps, each at the rate at which most seeds arrived and of several the fastest, medians"
        f" over these seeds: {listed(by_steps)}. Process seconds of the same runs:"
        f" {listed(by_time)}."
    )


def measured_text(part: Mapping, rows: Sequence[Row]) -> str:
    """How many runs there were, and how many count."""
    everything = rows_in(part)
    passed = sum(row["passage"] is not None for row in everything)
    outcomes = Counter(row["outcome"] or row["status"] for row in everything)
    others = [f"{count} {name}" for name, count in outcomes.items() if name != "reached"]
    said = f" ({', '.join(others)})" if others else ""
    text = (
        f"Measured: {count_of(len(everything), 'run')} over {count_of(len(part), 'seed')}, of which"
        f" {passed} passed the loss{said} and {len(rows)} have a certified λ̂ and count here."
    )
    count = Counter(row["optimizer"] for row in everything if is_certified(row))
    few = [f"{label(name)} ({count[name]})" for name in names_in(part) if count[name] < LEAST]
    if few:
        text += f" Left out, with fewer than {LEAST} certified runs: {listed(few)}."
    traces = [(llc_of(row), trace) for row in rows if (trace := trace_of(row)) is not None]
    if len(traces) > 2:
        correlation = np.corrcoef(np.array(traces).T)[0, 1]
        text += f" The correlation of λ̂ with the Hessian's trace is {correlation:.2f}."
    return text


def failures(part: Mapping) -> list[Note]:
    """Runs that failed, each with its reason."""
    return [
        Note(
            f"{label(row['optimizer'])} at {row['lr']:g}, seed {row['seed']}: failed.",
            row["reason"],
        )
        for row in rows_in(part)
        if row["status"] == "failed"
    ]


def _nothing(part: Mapping) -> str:
    if not part:
        return "Nothing has been measured yet."
    return "Fewer than two optimizers have certified runs; nothing can be compared."


def tables(part: Mapping) -> list[Table]:
    """A row an optimizer and rate."""
    rows = []
    for optimizer in names_in(part):
        for lr, own in by_rate(part, optimizer):
            passed = [row for row in own if row["passage"]]
            good = [row for row in own if is_certified(row)]
            outcomes = Counter(row["outcome"] or row["status"] for row in own)
            rows.append(
                [
                    label(optimizer),
                    f"{lr:g}",
                    ", ".join(f"{count} {name}" for name, count in outcomes.items()),
                    _range([steps_of(row) for row in passed], ",.0f"),
                    _range([row["passage"]["seconds"] for row in passed], ".1f"),
                    _range([llc_of(row) for row in good], ".1f"),
                    f"{len(good)} of {len(own)}",
                    _range([t for row in passed if (t := trace_of(row)) is not None], ".0f"),
                ]
            )
    head = ["optimizer", "lr", "trainings", "steps", "seconds", "λ̂", "certified", "trace"]
    note = (
        "At the first passage of the loss: smallest to largest over seeds; λ̂ of certified runs"
        " alone; seconds are process time of the optimizer's steps."
    )
    return [Table("Optimizers at equal loss", note, head, rows)] if rows else []


def _range(values: Sequence[float], form: str) -> str:
    texts = dict.fromkeys(f"{pick(values):{form}}" for pick in (min, max)) if values else ["–"]
    return " to ".join(texts)
