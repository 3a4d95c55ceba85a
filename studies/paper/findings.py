"""Do the paper's values come out again, and does the difference hold over seeds?"""

from collections.abc import Mapping, Sequence
from typing import Any

from degeneracy.report.page import Card, Findings, Note, Tile
from degeneracy.report.tables import Table, csv_table
from degeneracy.sweeps.statistics import Paired
from degeneracy.texts import count_of, label, listed
from studies.paper.cards import overfitting_card, rates_card, smoothing_card, swap_card
from studies.paper.comparison import LEVEL, Compared, compared, compared_at_equal_loss
from studies.paper.figures import BLUE, RED, swap_network
from studies.paper.published import agreements, differing_settings
from studies.paper.records import Network, every_row, rows_of
from studies.paper.sentences import (
    agreement_text,
    compared_text,
    interval_text,
    p_text,
    paired_text,
    short,
)
from studies.paper.tables import runs_table


def findings(results: Mapping[str, Any]) -> Findings:
    """A card for each part that is there, and the tables behind them."""
    if not any(True for _ in every_row(results)):
        return Findings([Card("The paper again", "Nothing has been measured yet.")])
    cards, tables = [], []
    if llc := compared(results, "llc"):
        cards.append(sizes_card(results, llc))
        tables += [published_table(results), compared_table(results, llc)]
        tables.append(trace_table(results))
    if differing_settings(results) or agreements(results):
        cards.append(published_card(results))
    if swap_network(results) is not None:
        cards.append(swap_card(results))
    if rows_of(results, "smoothing"):
        cards.append(smoothing_card(results))
    if rows_of(results, "rates"):
        cards.append(rates_card(results))
    if rows_of(results, "overfitting"):
        cards.append(overfitting_card(results))
    if problems := _problems(results):
        cards.append(Card("Runs without an end", problems[0], text=problems[1:]))
    tables = [table for table in tables if table.rows]
    return Findings(cards, tables, csv_table(runs_table(results)))


def card_text(results: Mapping[str, Any], title: str) -> str:
    """Headline and sentences of a card, a line each, for a notebook."""
    cards = {card.title: card for card in findings(results).cards}
    card = cards.get(title, Card(title, "Nothing has been measured yet."))
    return card.told()


def _problems(results: Mapping[str, Any]) -> list[str]:
    """Which runs failed or diverged, and that they are left out."""
    found = [
        f"{part}, {key}, {row['run']}, {label(row['optimizer'])}: {row['status']}"
        + (f" ({row['reason']})" if row["reason"] else "")
        for part, key, row in every_row(results)
        if row["status"] == "failed" or row.get("diverged_epoch") is not None
    ]
    if not found:
        return []
    count = count_of(len(found), "training")
    return [f"{count} failed or diverged and are left out of all means at the end.", *found]


# ---- every network -------------------------------------------------------------------------------


def sizes_card(results: Mapping[str, Any], llc: Mapping[Network, Compared]) -> Card:
    """NGD beside SGD after equal epochs, and at equal loss."""
    equal = compared_at_equal_loss(results)
    tested = {network: one for network, one in llc.items() if one.test is not None}
    higher = sum(one.difference > 0 for one in llc.values())
    headline = (
        f"NGD's mean LLC ends higher than SGD's in {higher} of {count_of(len(llc), 'network')}"
    )
    if tested:
        sure = [one.difference > 0 for one in tested.values() if one.p < LEVEL]
        headline += f", beyond chance (Welch, Holm) in {sum(sure)} of the {len(tested)} tested"
        lower = len(sure) - sum(sure)
        headline += f", and lower beyond chance in {lower}." if lower else "."
    else:
        headline += "; one seed of each allows no test."
    if equal:
        means = [_mean_difference(one) for one in equal.values()]
        pairs = [one for one in equal.values() if isinstance(one, Paired)]
        sure = [one.mean.value > 0 for one in pairs if one.p < LEVEL]
        beyond = (
            f" (of {len(pairs)} tested, not corrected: {sum(sure)} above 0 beyond chance,"
            f" {len(sure) - sum(sure)} below)"
        )
        headline += f" At equal training loss the difference is {_range(means)}"
        headline += f"{beyond if pairs else ''}."
    tiles = [
        Tile(f"{network}, NGD − SGD", f"{one.difference:+.1f}", f"n = {one.ngd.count}", RED)
        for network, one in [*llc.items()][:6]
    ]
    text = [compared_text(str(network), "LLC", one) for network, one in llc.items()]
    text += [
        f"{network}, at the higher of the two final training losses: NGD − SGD is"
        f" {paired_text(one)}."
        for network, one in equal.items()
    ]
    notes = [
        Note(
            "The optimizers end at different training losses.",
            "After equal epochs a difference of LLCs is one of losses too. At equal loss the λ̂ of"
            " whoever got further down is taken between its checkpoints, linearly in ln L, and"
            " compared within seeds.",
        ),
        Note(
            "The published measure is not local.",
            "At its nβ and γ chains go far from the solution, and λ̂ says how much the network loses"
            " to noise: docs/results-ngd-sgd.md. It is kept here to be compared with published"
            " values.",
        ),
    ]
    return Card("NGD beside SGD", headline, tiles, "differences", text, notes)


def _mean_difference(found: Paired | float) -> float:
    return found.mean.value if isinstance(found, Paired) else found


def _range(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:+.2g}"
    return f"between {min(values):+.2g} and {max(values):+.2g}"


def compared_table(results: Mapping[str, Any], llc: Mapping[Network, Compared]) -> Table:
    """LLC after the last epoch, network by network."""
    equal = compared_at_equal_loss(results)
    head = ["network", ("NGD", RED), ("SGD", BLUE), "NGD − SGD", "Hedges g", "at equal loss"]
    rows = []
    for network, one in llc.items():
        found = equal.get(network)
        at_loss = ("–", "") if found is None else _paired_cell(found)
        rows.append([str(network), *_compared_cells(one), at_loss])
    note = (
        "Mean ± standard deviation over seeds; Welch's interval, and p by Holm's correction over"
        " the networks. At equal loss: Student over seeds, not corrected."
    )
    return Table("LLC after the last epoch", note, head, rows, row_headers=True)


def trace_table(results: Mapping[str, Any]) -> Table:
    """Hessian trace, update norm and training loss after the last epoch."""
    head = ["network, quantity", ("NGD", RED), ("SGD", BLUE), "NGD − SGD", "Hedges g"]
    names = {
        "hessian_trace": "Tr(H)",
        "update_norm": "update norm",
        "train_loss": "training loss",
        "val_loss": "validation loss",
    }
    rows = [
        [f"{network}, {name}", *_compared_cells(one)]
        for quantity, name in names.items()
        for network, one in compared(results, quantity).items()
    ]
    return Table(
        "What else differs", "As above; each quantity corrected by itself.", head, rows, True
    )


def _compared_cells(one: Compared) -> list[tuple[str, str]]:
    seeds = [count_of(mean.count, "seed") for mean in (one.ngd, one.sgd)]
    cells = [(short(one.ngd), seeds[0]), (short(one.sgd), seeds[1])]
    if one.test is None:
        return [*cells, (f"{one.difference:+.3g}", "no test"), ("–", "")]
    test = one.test
    detail = f"{interval_text(test.low, test.high)}, {p_text(one.p)}"
    return [*cells, (f"{test.difference:+.3g}", detail), (f"{test.effect:.2g}", "")]


def _paired_cell(found: Paired | float) -> tuple[str, str]:
    if not isinstance(found, Paired):
        return f"{found:+.3g}", "1 seed, no test"
    detail = f"{interval_text(found.mean.low, found.mean.high)}, {p_text(found.p)}"
    return f"{found.mean.value:+.3g}", detail


# ---- beside published values ---------------------------------------------------------------------


def published_card(results: Mapping[str, Any]) -> Card:
    """Which published values come out again."""
    title = "Beside the published values"
    if differing := differing_settings(results):
        return Card(
            title,
            f"Not compared: {listed(differing)} {'are' if len(differing) > 1 else 'is'} not as"
            " published.",
        )
    found = agreements(results)
    judged = [one for one in found if one.agrees is not None]
    if not judged:
        headline = (
            f"{count_of(len(found), 'published value')} beside ours, of one seed each: not judged."
        )
    else:
        agreeing = sum(one.agrees for one in judged)
        headline = (
            f"{agreeing} of {count_of(len(judged), 'published value')} come out again, within two"
            " standard errors of our mean plus the published spread."
        )
    wrong = [one for one in judged if not one.agrees]
    text = [agreement_text(one) for one in [*wrong, *(o for o in found if o not in wrong)]]
    notes = [
        Note(
            "Where one run is all that is published, our standard deviation stands for its spread.",
            "Published means have their standard deviation; a single run has none of its own.",
        )
    ]
    return Card(title, headline, text=text, notes=notes)


def published_table(results: Mapping[str, Any]) -> Table:
    """Published values and ours."""
    head = ["value", "published", "ours", "difference", "allowed", "agrees"]
    rows = []
    for one in agreements(results):
        was = one.published
        spread = "one run" if was.deviation is None else f"± {was.deviation:g}"
        agrees = {True: "yes", False: "no", None: "one seed"}[one.agrees]
        rows.append(
            [
                f"{was.what}, {was.optimizer.upper()}",
                (f"{was.value:g}", spread),
                (short(one.ours), count_of(one.ours.count, "seed")),
                f"{one.difference:+.2g}",
                "–" if one.allowed is None else f"{one.allowed:.2g}",
                agrees,
            ]
        )
    note = (
        "Ours: mean ± standard deviation over seeds. Allowed: two standard errors of our mean plus"
        " the published spread."
    )
    return Table("Published values and ours", note, head, rows, row_headers=True)
