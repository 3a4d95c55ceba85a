"""What do exact Gauss-Newton's steps do, and which of its solutions? A verdict for each chapter."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from degeneracy.report.page import Card, Findings, Note, Tile
from degeneracy.report.style import optimizer_colours
from degeneracy.report.tables import Table
from degeneracy.sweeps.statistics import LEAST, Mean
from degeneracy.sweeps.statistics import mean_of as mean_of_values
from degeneracy.texts import label, listed, number, with_error
from studies.gauss_newton.figures import least_ranks
from studies.gauss_newton.records import (
    REGIMES,
    Found,
    at_loss,
    by_name,
    comparable,
    losses_text,
    mean_of,
    names,
    part,
    second_order,
    spread_text,
    trained,
)

LOCAL = "local estimate"


def findings(results: Mapping) -> Findings:
    """A card for each chapter that is there, then the table of end points."""
    cards = []
    if trained(results, "full"):
        cards.append(full_batch_card(results))
    if trained(results, "mini"):
        cards.append(mini_batch_card(results))
    if part(results, "ntk"):
        cards.append(unchanged_card(results))
    if any(one.name in second_order(results) for one in trained(results)):
        cards.append(solutions_card(results))
    if part(results, "degeneracy"):
        cards.append(degeneracy_card(results))
    nothing = Card("Gauss-Newton", "Nothing has been measured yet.")
    tables = [ends_table(results)] if trained(results) else []
    return Findings(cards or [nothing], tables)


def card_text(results: Mapping, chapter: str) -> str:
    """A chapter's sentences, as a notebook shows them: `full_batch`, `mini_batch`, `unchanged`,
    `solutions` or `degeneracy`.
    """
    cards = {
        "full_batch": full_batch_card,
        "mini_batch": mini_batch_card,
        "unchanged": unchanged_card,
        "solutions": solutions_card,
        "degeneracy": degeneracy_card,
    }
    return cards[chapter](results).told()


# ---- as published --------------------------------------------------------------------------------


def full_batch_card(results: Mapping) -> Card:
    """How far each optimizer comes on one batch."""
    groups = by_name(trained(results, "full"))
    losses = {name: mean_of([_final(one, "train_loss") for one in g]) for name, g in groups.items()}
    ranked = sorted((n for n in losses if losses[n] is not None), key=losses.get)
    steps = results["config"]["training"]["full"]["epochs"]
    size = results["config"]["training"]["full"]["batch_size"]
    last = [f"{label(name)} {losses[name]:.3g}" for name in ranked]
    return Card(
        "Each batch at once",
        f"After {steps} steps on the same {size} images the training loss is, in nats:"
        f" {listed(last)}.",
        tiles=_tiles(results, groups, "train_loss", " nats", 1.0, 3),
        drawing="full-batch",
        text=[own_batch_text(results), *divergence_texts(trained(results, "full"))],
    )


def own_batch_text(results: Mapping) -> str:
    """What the first epoch's steps do to their own batch."""
    regime = "mini" if trained(results, "mini") else "full"
    groups = by_name(trained(results, regime))
    first = {
        name: mean_of([one.series("loss_change_percent")[1] for one in group])
        for name, group in groups.items()
    }
    told = [f"{label(name)} {value:+.1f} %" for name, value in first.items() if value is not None]
    return (
        f"In the first epoch ({REGIMES[regime]}) a step changes the loss of its own batch by"
        f" {listed(told)}."
    )


def mini_batch_card(results: Mapping) -> Card:
    """Who generalises best from mini-batches."""
    groups = by_name(trained(results, "mini"))
    reached = {n: mean_of([_final(one, "val_accuracy") for one in g]) for n, g in groups.items()}
    best = max(reached, key=lambda name: reached[name] or 0.0)
    exact = [name for name in second_order(results) if name in reached]
    others = [name for name in reached if name not in exact]
    told = [
        f"{label(name)} {spread_text([_final(one, 'val_accuracy') for one in groups[name]], 100)} %"
        for name in sorted(reached, key=lambda name: -(reached[name] or 0.0))
    ]
    text = []
    if exact and others:
        text.append(
            f"Best of Gauss-Newton: {_best(exact, reached)}; best of the others:"
            f" {_best(others, reached)}."
        )
    epochs = results["config"]["training"]["mini"]["epochs"]
    return Card(
        "In mini-batches",
        f"After {epochs} epochs {label(best)} has the highest test accuracy: {listed(told)}.",
        tiles=_tiles(results, groups, "val_accuracy", " %", 100.0, 1),
        drawing="mini-batch",
        text=[*text, *saturation_texts(results), *divergence_texts(trained(results, "mini"))],
    )


def saturation_texts(results: Mapping) -> list[str]:
    """How much the second half of training still lowers the training loss."""
    groups, told = by_name(trained(results, "mini")), []
    for name, group in groups.items():
        falls = []
        for one in group:
            losses = one.series("train_loss")
            middle = losses[len(losses) // 2]
            falls.append(100 * (1 - losses[-1] / middle) if len(losses) > 2 else None)
        if (fall := mean_of(falls)) is not None:
            told.append(f"{label(name)} {fall:.0f} %")
    if not told:
        return []
    return [f"The second half of the epochs lowers the training loss by {listed(told)}."]


def unchanged_card(results: Mapping) -> Card:
    """How near the tangent kernel and the representations stay to their start."""
    similar = part(results, "ntk")
    groups = by_name([one for one in trained(results) if one.key in similar])
    last = {n: [number(similar[one.key]["last"]) for one in g] for n, g in groups.items()}
    low = {n: min((v for v in values if v is not None), default=None) for n, values in last.items()}
    told = [f"{label(name)} {value:.3f}" for name, value in low.items() if value is not None]
    colours = optimizer_colours(names(results))
    tiles = [
        Tile(label(n), "–" if v is None else f"{v:.3f}", "cosine", colours[n])
        for n, v in low.items()
    ]
    return Card(
        "What hardly changes",
        "The tangent kernel at the end of training has, in the regime that changes it most, this"
        f" cosine with its start: {listed(told)}.",
        tiles=tiles,
        drawing="ntk",
        text=cka_texts(results),
    )


def cka_texts(results: Mapping) -> list[str]:
    """The least CKA of start and end by optimizer, and the least between two optimizers."""
    found, texts = part(results, "cka"), []
    lows: dict[str, float] = {}
    for one in trained(results):
        own = found.get(f"own/{one.key}")
        values = [v for v in (own or {"last": {}})["last"].values() if number(v) is not None]
        if values:
            lows[one.name] = min([*values, lows.get(one.name, np.inf)])
    if lows:
        told = listed([f"{label(name)} {value:.3f}" for name, value in lows.items()])
        texts.append(f"Least CKA of a half-layer's end with its start: {told}.")
    for key, across in found.items():
        if key.startswith("across/mini/"):
            texts.append(pair_text(across, key.rpartition("/")[2]))
    return texts


def pair_text(across: Mapping, seed: str) -> str:
    """The two optimizers that are furthest apart near one training loss."""
    matrix = np.array(list(across["equal_loss"].values())[-1], dtype=float)
    row, column = np.unravel_index(np.nanargmin(matrix), matrix.shape)
    pair = [label(across["names"][place]) for place in (row, column)]
    return (
        f"At training losses of {losses_text(across)} (mini-batches, seed {seed}) the furthest"
        f" apart are {listed(pair)}, CKA {matrix[row, column]:.3f} after the last half-layer."
    )


# ---- ours ----------------------------------------------------------------------------------------


def solutions_card(results: Mapping) -> Card:
    """Block, minimum norm and ridge: accuracy, gap at equal training loss, missed fraction."""
    exact = second_order(results)
    regime = "mini" if any(o.name in exact for o in trained(results, "mini")) else "full"
    groups = {n: g for n, g in by_name(trained(results, regime)).items() if n in exact}
    told = [
        f"{label(n)} {spread_text([_final(one, 'val_accuracy') for one in g], 100)} %"
        for n, g in groups.items()
    ]
    return Card(
        "Which of the solutions",
        f"Of Gauss-Newton's solutions ({REGIMES[regime]}), test accuracy at the end:"
        f" {listed(told)}.",
        tiles=_tiles(results, groups, "val_accuracy", " %", 100.0, 1),
        drawing="gap",
        text=[
            *gap_texts(results),
            *seed_texts(results),
            *missed_texts(groups),
            *distance_texts(results),
        ],
        notes=[
            Note(
                "Block and minimum norm make the same linearised step only where both are exact.",
                "The block solution misses what its cut-off leaves out, at the last activations;"
                " the minimum-norm one aims at the logits alone.",
            )
        ],
    )


def gap_texts(results: Mapping) -> list[str]:
    """Test loss and accuracy of each optimizer at a training loss that all of a regime came to."""
    texts = []
    for regime, words in REGIMES.items():
        level, found, left_out = comparable(trained(results, regime))
        if level is None or len(by_name(found)) < 2:
            continue
        without = f" Left out: {listed([*map(label, left_out)])}, slower." if left_out else ""
        told = []
        for name, group in by_name(found).items():
            at = [values for one in group if (values := at_loss(one, level)) is not None]
            if at:
                gap = mean_of([values["gap"] for values in at])
                accuracy = spread_text([values["val_accuracy"] for values in at], 100)
                told.append(f"{label(name)} {gap:.3g} ({accuracy} %)")
        texts.append(
            f"Gap of test over training loss at training loss {level:.3g}, which these came to"
            f" ({words}), with test accuracy there: {listed(told)}.{without}"
        )
    return texts


def seed_texts(results: Mapping) -> list[str]:
    """Each solution beside the first one, within seeds: test accuracy at the end, and the gap."""
    first, *others = [name for name in names(results) if name in second_order(results)]
    texts = []
    for regime, words in REGIMES.items():
        found = trained(results, regime)
        level = comparable(found).level
        ends = {name: {o.seed: o for o in group} for name, group in by_name(found).items()}
        for name in others:
            if not {first, name} <= ends.keys():
                continue
            pairs = [
                (ends[name][s], ends[first][s]) for s in ends[name].keys() & ends[first].keys()
            ]
            accuracy = interval_of(pairs, _percent)
            gap = interval_of(pairs, lambda one, level=level: _gap(one, level))
            if accuracy is not None and gap is not None:
                texts.append(
                    f"{label(name)} beside {label(first)} ({words}, within seeds, mean and 95 %):"
                    f" test accuracy {_with_ends(accuracy, '.1f')} points ({accuracy.count} seeds),"
                    f" gap at equal training loss {_with_ends(gap, '.3f')} nats ({gap.count})."
                )
    return texts


def interval_of(
    pairs: Sequence[tuple[Found, Found]], value: Callable[[Found], float | None]
) -> Mean | None:
    """Of the differences within pairs; None with fewer than two that are there."""
    values = [tuple(map(value, pair)) for pair in pairs]
    differences = [a - b for a, b in values if a is not None and b is not None]
    return mean_of_values(differences) if len(differences) >= LEAST else None


def _percent(one: Found) -> float | None:
    accuracy = _final(one, "val_accuracy")
    return None if accuracy is None else 100 * accuracy


def _gap(one: Found, level: float | None) -> float | None:
    at = None if level is None else at_loss(one, level)
    return None if at is None else at["gap"]


def _with_ends(mean: Mean, form: str) -> str:
    """`+3.1 (2.2 to 4.0)`."""
    text = f"{mean.value:+{form}} ({mean.low:+{form}} to {mean.high:+{form}})"
    return text.replace("-", "−")


def missed_texts(groups: Mapping[str, Sequence[Found]]) -> list[str]:
    """What the steps miss, and the least ranks."""
    texts = []
    for name, group in groups.items():
        missed = [100 * np.nanmean(one.series("missed_fraction")[1:]) for one in group]
        ranks = [f"{half} {rank}" for half, rank in least_ranks(group[0]).items()]
        texts.append(
            f"{label(name)} misses {spread_text(missed)} % of the wanted step, mean over training;"
            f" least ranks {listed(ranks)}."
        )
    return texts


def distance_texts(results: Mapping) -> list[str]:
    """‖W − W₀‖ at the end."""
    moved, texts = part(results, "weights"), []
    for regime, words in REGIMES.items():
        groups = by_name([one for one in trained(results, regime) if one.key in moved])
        told = [
            f"{label(n)} {spread_text([moved[one.key]['change'][-1] for one in g], 1, 2)}"
            for n, g in groups.items()
        ]
        if told:
            texts.append(f"‖W − W₀‖ at the end ({words}): {listed(told)}.")
    return texts


def degeneracy_card(results: Mapping) -> Card:
    """LLC and Hessian trace of the end points, and which estimates are local."""
    found = part(results, "degeneracy")
    ends = [one for one in trained(results) if f"{one.key}/trace" in found]
    colours = optimizer_colours(names(results))
    traces = [(one, found[f"{one.key}/trace"]) for one in ends]
    told = [
        f"{label(one.name)} {with_error(number(t['trace']), number(t['std_error']))}"
        for one, t in traces
    ]
    estimates = [record for key, record in found.items() if not key.endswith("/trace")]
    local = [record for record in estimates if record.get("verdict") == LOCAL]
    text = [llc_text(results, gamma) for gamma in results["config"]["degeneracy"]["localizations"]]
    return Card(
        "Degeneracy of the end points",
        f"Hessian trace of the training loss: {listed(told)}. {len(local)} of {len(estimates)}"
        " LLC estimates are certified local.",
        tiles=[
            Tile(label(one.name), f"{t['trace']:,.0f}", "", colours[one.name])
            for one, t in traces
            if number(t["trace"]) is not None
        ],
        drawing="degeneracy",
        text=[line for line in text if line],
        notes=[
            Note(
                "End points are compared at equal epochs, not at equal loss.",
                "Both numbers fall as the loss does; the table has each end point's loss.",
            )
        ],
    )


def llc_text(results: Mapping, gamma: float) -> str:
    """λ̂ of every end point at one γ, with its verdict where it is not local."""
    found, told = part(results, "degeneracy"), []
    for one in trained(results):
        record = found.get(f"{one.key}/{gamma:g}")
        if record is None:
            continue
        value = with_error(number(record["llc"]), number(record.get("std_error")))
        verdict = record.get("verdict", "refused")
        told.append(f"{label(one.name)} {value}" + ("" if verdict == LOCAL else f" ({verdict})"))
    return f"λ̂ at γ = {gamma:g}: {listed(told)}." if told else ""


def ends_table(results: Mapping) -> Table:
    """Every training's end."""
    rows = []
    for one in trained(results):
        final = one.record["final"]
        stop = one.record["diverged"]
        rows.append(
            [
                (label(one.name), REGIMES[one.regime]),
                str(one.seed),
                f"{final['train_loss']:.4g}",
                f"{final['val_loss']:.4g}",
                f"{100 * final['val_accuracy']:.2f} %",
                f"{100 * final['best_val_accuracy']:.2f} %",
                (str(one.record["last_epoch"]), "" if stop is None else "then it diverged"),
            ]
        )
    head = ("optimizer", "seed", "training loss", "test loss", "test accuracy", "best", "epochs")
    return Table("Ends of training", "Losses in nats a sample.", head, rows, row_headers=True)


# ---- numbers as texts ----------------------------------------------------------------------------


def _final(one: Found, name: str) -> float | None:
    return number(one.record["final"][name])


def _tiles(
    results: Mapping, groups: Mapping, name: str, unit: str, scale: float, digits: int
) -> list[Tile]:
    colours = optimizer_colours(names(results))
    return [
        Tile(
            label(n),
            spread_text([_final(one, name) for one in group], scale, digits) + unit,
            "",
            colours[n],
        )
        for n, group in groups.items()
    ]


def _best(of: Sequence[str], reached: Mapping[str, float | None]) -> str:
    best = max(of, key=lambda name: reached[name] or 0.0)
    return f"{label(best)}, {100 * (reached[best] or 0.0):.1f} %"


def divergence_texts(found: Sequence[Found]) -> list[str]:
    """Trainings that ended early, and why."""
    return [
        f"{label(one.name)}, seed {one.seed}, ended in epoch {stop['epoch']} at step"
        f" {stop['iteration']}: {stop['reason']}."
        for one in found
        if (stop := one.record["diverged"]) is not None
    ]
