"""What do the swap, smoothing, the learning rate and over-fitting show? A card each."""

from collections.abc import Mapping, Sequence
from typing import Any

from scipy import stats

from degeneracy.report.page import Card
from degeneracy.sweeps.statistics import Mean, mean_of
from degeneracy.texts import count_of, listed
from studies.paper.comparison import differences_of, paired_finals
from studies.paper.figures import scan_rows, sgd_trunks, swap_network
from studies.paper.records import (
    Row,
    at_equal_loss,
    called,
    final,
    known_epochs,
    network_of,
    networks,
    of_optimizer,
    optimizers_of,
    rows_of,
    value_at,
    values_of,
)
from studies.paper.sentences import mean_text, p_text, paired_text

# ---- swap ----------------------------------------------------------------------------------------


def swap_card(results: Mapping[str, Any]) -> Card:
    """What happens after the switch, on one network."""
    network = swap_network(results)
    rows = networks(results)[network]
    cut_off, last = (rows[0]["factors"][key] for key in ("cut_off_epochs", "num_epochs"))
    llc = {name: mean_at(rows, name, "llc", last) for name in ("sgd", "ngd")}
    shared = mean_at(rows, "sgd", "llc", cut_off)
    headline = f"After the swap ({network}) the LLC goes"
    if shared is not None:
        headline += f" from {shared.value:.3g}"
    ends = [f"{found.value:.3g} with {called(name)}" for name, found in llc.items() if found]
    headline += (
        f" to {listed(ends)}, by epoch {last}." if ends else " on; its end is not there yet."
    )
    text = []
    for quantity, name in SWAP_QUANTITIES.items():
        for epoch in (cut_off + 1, last):
            found = {o: mean_at(rows, o, quantity, epoch) for o in ("ngd", "sgd")}
            if all(found.values()):
                text.append(
                    f"{name} in epoch {epoch}: {mean_text(found['ngd'])} with NGD,"
                    f" {mean_text(found['sgd'])} with SGD, a ratio of"
                    f" {found['ngd'].value / found['sgd'].value:.3g}."
                )
    return Card("After the swap", headline, drawing="swap", text=text)


SWAP_QUANTITIES = {
    "llc": "LLC",
    "update_norm": "Update norm",
    "train_loss": "Training loss",
    "val_loss": "Validation loss",
}


def mean_at(rows: Sequence[Row], optimizer: str, quantity: str, epoch: int) -> Mean | None:
    """Mean over seeds after an epoch; None where nothing is there."""
    values = values_of(of_optimizer(rows, optimizer), quantity, epoch)
    return mean_of(values) if values else None


# ---- smoothing -----------------------------------------------------------------------------------


def smoothing_card(results: Mapping[str, Any]) -> Card:
    """How the LLC goes with α and ε, and with κ."""
    rows = rows_of(results, "smoothing")
    sgd = values_of(sgd_trunks(results), "llc")
    text, said = [], []
    for key, symbol in (("alpha", "α"), ("epsilon", "ε")):
        scan = {value: values_of(of, "llc") for value, of in scan_rows(results, key).items()}
        scan = {value: found for value, found in scan.items() if found}
        if len(scan) > 1:
            low, high = min(scan), max(scan)
            ends = [mean_of(scan[value]).value for value in (low, high)]
            said.append(
                f"{ends[0]:.3g} at {symbol} = {low:g} to {ends[1]:.3g} at {symbol} = {high:g}"
            )
            names = (f"ngd {key} {high:g}", f"ngd {key} {low:g}")
            change = paired_finals(rows, "llc", *names)
            if change is not None:
                text.append(
                    f"From {symbol} = {low:g} to {high:g} the LLC changes within seeds by"
                    f" {paired_text(change)}."
                )
        text += [
            f"{symbol} = {value:g}: LLC {mean_text(mean_of(found))},"
            f" {_kappa_text(scan_rows(results, key)[value])}."
            for value, found in scan.items()
        ]
    headline = f"NGD's LLC goes from {listed(said)}." if said else "One setting of NGD only."
    if sgd:
        headline += f" SGD from the same trunks has {mean_text(mean_of(sgd))}."
    if correlation := _rank_correlation(results):
        text.append(correlation)
    return Card("Smoothing", headline, drawing="smoothing", text=text)


def _kappa_text(rows: Sequence[Row]) -> str:
    values = values_of(rows, "kappa")
    return f"κ {mean_of(values).value:.2e}" if values else "κ not known"


def _rank_correlation(results: Mapping[str, Any]) -> str | None:
    """Spearman's between LLC and κ over settings (means over seeds)."""
    settings = [of for key in ("alpha", "epsilon") for of in scan_rows(results, key).values()]
    both = [(values_of(of, "kappa"), values_of(of, "llc")) for of in settings]
    # The published setting is in both scans.
    pairs = {(mean_of(k).value, mean_of(llc).value) for k, llc in both if k and llc}
    if len(pairs) < 4:
        return None
    found = stats.spearmanr(*zip(*pairs, strict=True))
    return (
        f"Over all {len(pairs)} settings (means over seeds) the rank correlation of LLC and κ is"
        f" {found.statistic:+.2f} (Spearman, {p_text(float(found.pvalue))})."
    )


# ---- learning rate -------------------------------------------------------------------------------


def rates_card(results: Mapping[str, Any]) -> Card:
    """SGD at multiples of its rate beside NGD, at equal epochs and at equal loss."""
    rows = rows_of(results, "rates")
    ends = {
        name: (values_of(own, "train_loss"), values_of(own, "llc"))
        for name in optimizers_of(rows)
        if (own := of_optimizer(rows, name))
    }
    said = [
        f"{called(name)} at training loss {mean_of(loss).value:.2g} with LLC"
        f" {mean_of(llc).value:.3g}"
        for name, (loss, llc) in ends.items()
        if loss and llc
    ]
    headline = (
        f"{network_of(rows[0])}, after equal epochs: {listed(said)}."
        if said
        else ("No training has come to its end yet.")
    )
    text = [
        f"{called(name)} ends with LLC {mean_text(mean_of(llc))} at training loss"
        f" {mean_text(mean_of(loss))}."
        for name, (loss, llc) in ends.items()
        if loss and llc
    ]
    for name in ends:
        if name == "ngd" or "ngd" not in ends:
            continue
        if (found := paired_finals(rows, "llc", "ngd", name)) is not None:
            text.append(f"NGD − {called(name)} after equal epochs: {paired_text(found)}.")
        equal = differences_of(at_equal_loss(rows, "ngd", name))
        text.append(
            f"NGD − {called(name)} at equal training loss: "
            + (
                "there is no loss at which both were measured."
                if equal is None
                else f"{paired_text(equal)}."
            )
        )
    return Card("The learning rate beside the optimizer", headline, drawing="rates", text=text)


# ---- over-fitting --------------------------------------------------------------------------------


def overfitting_card(results: Mapping[str, Any]) -> Card:
    """Where validation loss turns, and what both WBICs do from there on."""
    rows = rows_of(results, "overfitting")
    own = [row for row in rows if row["factors"]["nbeta"] == "batch"] or rows
    said, text = [], []
    for name in optimizers_of(own):
        turns = [turn for row in of_optimizer(own, name) if (turn := best_epoch(row)) is not None]
        if not turns:
            continue
        rises = [final(row, "val_loss") for row in of_optimizer(own, name)]
        least = mean_of([loss for _, loss in turns])
        said.append(f"{called(name)} after epoch {_epochs([epoch for epoch, _ in turns])}")
        if ends := [value for value in rises if value is not None]:
            text.append(
                f"{called(name)}: validation loss is least at {mean_text(least)} and ends at"
                f" {mean_text(mean_of(ends))}."
            )
    headline = (
        f"Validation loss comes to its least with {listed(said)}."
        if said
        else "Nothing to say yet."
    )
    for nbeta, what in (("batch", "The published WBIC"), ("dataset", "WBIC at nβ = n/ln n")):
        of_kind = [row for row in rows if row["factors"]["nbeta"] == nbeta]
        for name in optimizers_of(of_kind):
            changes = wbic_changes(of_optimizer(of_kind, name))
            if (found := differences_of(changes)) is not None:
                text.append(
                    f"{what}, {called(name)}: from the measured epoch nearest to the least"
                    f" validation loss to the last it changes by {paired_text(found, ' nats')}."
                )
    return Card("Through over-fitting", headline, drawing="overfitting", text=text)


def best_epoch(row: Row) -> tuple[int, float] | None:
    """(epoch, loss) of the least validation loss; None of a training that diverged."""
    if row["diverged_epoch"] is not None:
        return None
    losses = [(value_at(row, "val_loss", e), e) for e in known_epochs([row], "val_loss")]
    return min(losses)[::-1] if losses else None


def wbic_changes(rows: Sequence[Row]) -> dict[int, float]:
    """Seed → WBIC after the last measured epoch minus that nearest to the least validation loss."""
    found = {}
    for row in rows:
        epochs, best = known_epochs([row], "wbic"), best_epoch(row)
        if best is None or len(epochs) < 2:
            continue
        nearest = min(epochs, key=lambda epoch: abs(epoch - best[0]))
        if nearest != epochs[-1]:
            ends = (value_at(row, "wbic", epoch) for epoch in (epochs[-1], nearest))
            last, first = ends
            found[row["factors"]["seed"]] = last - first
    return found


def _epochs(epochs: Sequence[int]) -> str:
    different = sorted(set(epochs))
    seeds = count_of(len(epochs), "seed")
    if len(different) == 1:
        return f"{different[0]} ({seeds})"
    return f"{different[0]} to {different[-1]} ({seeds})"
