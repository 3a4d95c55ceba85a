"""What happens to LLC and curvature where training leaves a plateau? The verdict, its numbers and a
table; what was not measured is left out.
"""

from collections.abc import Mapping

from degeneracy.report.page import Card, Findings, Tile
from degeneracy.report.style import optimizer_colours
from degeneracy.report.tables import Table
from degeneracy.runs.results import at, optimizers_of
from degeneracy.texts import difference_texts, interval_of, label, listed, with_error
from studies.phase_transitions.comparison import at_equal_loss, curves_after_drops
from studies.phase_transitions.figures import drawing_key
from studies.phase_transitions.phases import (
    Results,
    Value,
    known_losses,
    largest_drop,
    llc_at,
    phases_of,
    top_eigenvalue_at,
    trace_at,
    transitions_of,
    value_at,
)
from studies.phase_transitions.rule import Transition
from studies.phase_transitions.sentences import (
    CURVATURES,
    Peak,
    arrow,
    notes,
    peak_of,
    sentences,
    value_text,
)

IN_WORDS = 2  # optimizers whose numbers the headline gives; those of more are in the tiles
HEAD = (
    "optimizer, phase",
    "epoch",
    "training loss L(w*)",
    "LLC λ̂",
    "Hessian trace",
    "largest eigenvalue",
    "rank",
    "Gauss-Newton rank",
    "‖H − F‖/‖H‖",
)


def findings(results: Results) -> Findings:
    """A card a model, and a table of the phases, where there are any."""
    table = phases_table(results)
    cards = [card(title, results) for title in results["models"]]
    return Findings(cards, [table] if table.rows else [])


def card(title: str, results: Results) -> Card:
    """The verdict on one model; what shows it is the figure of LLC over epochs."""
    return Card(
        title,
        headline(title, results),
        tiles=tiles(title, results),
        drawing=drawing_key("llc", title, results),
        text=sentences(title, results),
        notes=notes(title, results),
    )


# ---- the headline --------------------------------------------------------------------------------


def headline(title: str, results: Results) -> str:
    """What the LLC does over the drop, and where curvature is largest."""
    optimizers, drops = optimizers_of(results, title), drops_of(results, title)
    stay = [label(name) for name in optimizers if name not in drops]
    stays = f"{listed(stay)} {'leaves' if len(stay) == 1 else 'leave'} no plateau" if stay else ""
    if not drops:
        if all(len(known_losses(series)[1]) < 2 for series in optimizers.values()):
            return "Training has not come far enough to show a plateau."
        return f"{stays} by the rule, so there is no drop to look across."
    changes = _llc_changes(optimizers, drops)
    if changes:
        first = f"Over the drop the LLC {_grouped(changes, '; it ')}"
    else:
        ends = [f"{label(name)} after epoch {drop.plateau_end}" for name, drop in drops.items()]
        first = f"The plateau ends with {listed(ends)}; the LLC around the drop was not measured"
    first += f"; {stays}" if stays else ""
    return f"{first}. {_curvature_sentence(optimizers, drops)}"


def drops_of(results: Results, title: str) -> dict[str, Transition]:
    """The largest drop of each optimizer that leaves a plateau."""
    transitions = transitions_of(results, title)
    return {name: largest_drop(own) for name, own in transitions.items() if own}


def _llc_changes(
    optimizers: Mapping[str, Mapping], drops: Mapping[str, Transition]
) -> list[tuple[str, str, str]]:
    """(what it does, optimizer, numbers) where the LLC was measured on both sides."""
    ends = {name: _llc_around(optimizers[name], drop) for name, drop in drops.items()}
    return [
        (_verb(before, after), name, arrow(before, after) if len(drops) <= IN_WORDS else "")
        for name, (before, after) in ends.items()
        if before[0] is not None and after[0] is not None
    ]


def _llc_around(series: Mapping, drop: Transition) -> tuple[Value, Value]:
    return llc_at(series, drop.plateau_end), llc_at(series, drop.end)


def _verb(before: Value, after: Value) -> str:
    difference = after[0] - before[0]
    interval = interval_of(difference, before[1], after[1])
    if interval is not None and interval[0] <= 0 <= interval[1]:
        return "changes within noise"
    return "rises" if difference > 0 else "falls"


def _curvature_sentence(optimizers: Mapping[str, Mapping], drops: Mapping[str, Transition]) -> str:
    """Where the trace is largest; the largest eigenvalue where no trace was measured."""
    for words, of_epoch in CURVATURES:
        peaks = {name: peak_of(optimizers[name], of_epoch, drop) for name, drop in drops.items()}
        found = [
            (peak.place, name, value_text(peak.largest) if len(drops) <= IN_WORDS else "")
            for name, peak in peaks.items()
            if peak is not None
        ]
        if found:
            return f"The {words} peaks {_grouped(found, ' and ')}."
    return "Curvature around the drop was not measured."


def _grouped(found: list[tuple[str, str, str]], between: str) -> str:
    """`rises with SGD (…) and NGD (…); it falls with muon (…)`.

    `found` are (verdict, optimizer, numbers or nothing).
    """
    parts = []
    for verdict in dict.fromkeys(verdict for verdict, *_ in found):
        own = [(label(name), numbers) for one, name, numbers in found if one == verdict]
        names = listed(f"{name} ({numbers})" if numbers else name for name, numbers in own)
        parts.append(f"{verdict} with {names}")
    return between.join(parts)


# ---- tiles ---------------------------------------------------------------------------------------


def tiles(title: str, results: Results) -> list[Tile]:
    """LLC and Hessian trace of each drop, then each optimizer against the first at equal loss."""
    optimizers, drops = optimizers_of(results, title), drops_of(results, title)
    colours = optimizer_colours(list(optimizers))
    found = []
    for name, drop in drops.items():
        before, after = _llc_around(optimizers[name], drop)
        where = f"{label(name)}: LLC over the drop"
        found += _difference_tile(where, before, after, colours[name])
        peak = peak_of(optimizers[name], trace_at, drop)
        found += [] if peak is None else [_peak_tile(label(name), peak, colours[name])]
    return found + _equal_loss_tiles(title, results, drops)


def _equal_loss_tiles(title: str, results: Results, drops: Mapping) -> list[Tile]:
    """Of the optimizers that have a drop, where the first of all has one too."""
    curves = curves_after_drops(results, title)
    baseline, *others = [*curves] or [None]
    found = []
    for other in others:
        if not (baseline in drops and other in drops and curves[baseline] and curves[other]):
            continue
        if pair := at_equal_loss(curves[baseline], curves[other]):
            first, second = ((point.llc, point.std_error) for point in pair)
            names = f"LLC, {label(other)} − {label(baseline)} at loss {pair[0].loss:#.3g}"
            found += _difference_tile(names, first, second)
    return found


def _peak_tile(name: str, peak: Peak, colour: str) -> Tile:
    words = f"{name}: Hessian trace at its largest, {peak.place}"
    return Tile(words, value_text(peak.largest), f"epoch {peak.epoch}", colour)


def _difference_tile(name: str, first: Value, second: Value, colour: str = "") -> list[Tile]:
    """The second minus the first with its interval; no tile where one was not measured."""
    if first[0] is None or second[0] is None:
        return []
    difference = second[0] - first[0]
    interval = interval_of(difference, first[1], second[1])
    if interval is None:
        return [Tile(name, f"{difference:+.4g}", "no interval", colour)]
    return [Tile(f"{name}, 95 % interval", *difference_texts(difference, interval), colour)]


# ---- the table -----------------------------------------------------------------------------------


def phases_table(results: Results) -> Table:
    """A row an optimizer and phase."""
    note = (
        "± one standard error, of the sampling or over probes; largest eigenvalue and Gauss-Newton"
        " rank have none, and – was not measured. Ranks: eigenvalues above γ/nβ. Before: the"
        " plateau's end. Across: the epoch that falls most, where it is not the drop's end. After:"
        " the drop's end. Without a transition: first, middle and last epoch."
    )
    rows = [row for title in results["models"] for row in _phase_rows(title, results)]
    return Table("Before and after the drop", note, HEAD, rows, row_headers=True)


def _phase_rows(title: str, results: Results) -> list[list]:
    """Those of a model; where there are several, its title stands below the optimizer's name."""
    optimizers, small = optimizers_of(results, title), title if len(results["models"]) > 1 else ""
    return [
        [(f"{label(name)}, {phase}", small), str(epoch), *_phase_cells(optimizers[name], epoch)]
        for name, phases in phases_of(results, title).items()
        for phase, epoch in phases.items()
    ]


def _phase_cells(series: Mapping, epoch: int) -> list[str]:
    loss, gauss_newton = (at(series, key, epoch) for key in ("llc_init_loss", "gauss_newton_rank"))
    return [
        "–" if loss is None else f"{loss:#.4g}",
        with_error(*llc_at(series, epoch)),
        with_error(*trace_at(series, epoch)),
        value_text(top_eigenvalue_at(series, epoch)),
        with_error(*value_at(series, "hessian_rank", epoch)),
        "–" if gauss_newton is None else f"{gauss_newton:,.0f}",
        with_error(*value_at(series, "hessian_fisher_distance", epoch)),
    ]
