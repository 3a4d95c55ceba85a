"""Does the order of the LLCs hold at other settings, and λ̂ keep still where λ does? Judged by
numbers, in words.

The grid holds the final LLCs at several localisations γ and inverse temperatures nβ, of all
optimizers whose training reached its end. A cell counts for or against an order only where both
estimates have come to rest and are positive; one in which chains cannot come to rest in the draws
they get is not sampled.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from degeneracy.report.run_tables import is_auto
from degeneracy.texts import Z_95, difference_texts, label, listed, number, with_error
from studies.ngd_sgd.local_verdict import LocalVerdict, ends_of, is_at_rest
from studies.ngd_sgd.verdict import (
    HIGHER,
    LOWER,
    NEGATIVE,
    NOT_AT_REST,
    UNDETECTED,
    Verdict,
    interval_about,
)

# Of an optimizer's LLC against the baseline's in one cell, beside `HIGHER` and `LOWER`.
UNDECIDED, UNSETTLED, INCOMPARABLE = "undecided", "not settled", "no comparison"
UNSAMPLED = "cannot come to rest"
SETTLED = (HIGHER, LOWER, UNDECIDED)
# A comparison's direction → the order of a cell that says the same.
AS_ORDER = {HIGHER: HIGHER, LOWER: LOWER, UNDETECTED: UNDECIDED, None: None}
WORDS = {
    HIGHER: "higher than {}'s (95 % interval above 0)",
    LOWER: "lower (95 % interval below 0)",
    UNDECIDED: "undecided (the interval includes 0)",
    UNSETTLED: "not settled, so counted neither way,",
    NOT_AT_REST: "not at rest, so counted neither way,",
    NEGATIVE: "negative for one of the two, so counted neither way,",
    UNSAMPLED: "not sampled, because chains cannot come to rest in the draws they get,",
    INCOMPARABLE: "without an LLC of both",
}
NBETA_RULES = {"batch": "m/ln m", "dataset": "n/ln n"}  # the config's words → the formula


@dataclass(frozen=True)
class CellOrder:
    """How an optimizer's LLC stands to the baseline's at one (γ, nβ).

    Attributes:
        optimizer: Which one.
        baseline: What it is compared with.
        localization: γ.
        nbeta: nβ.
        nbeta_setting: What nβ was asked for as: `"batch"`, `"dataset"` or a number.
        sampler_lr: ε; None where each chain's is found by a pilot.
        findings: What was found of the two, as `runs.results.finding` gives it.
        order: `HIGHER` or `LOWER` (the 95 % interval excludes 0), `UNDECIDED` (it does not),
            `UNSETTLED`, `NOT_AT_REST` or `NEGATIVE` (whatever the interval says), `UNSAMPLED`, or
            `INCOMPARABLE` (one of the two has no LLC).
        difference: Its LLC minus the baseline's.
        std_error: The difference's standard error, from two independent ones; None without both.
        interval: The difference's 95 % interval, sampling error only.
        needed_steps: That a chain would need to come to rest; None where it does, or none tells.
    """

    optimizer: str
    baseline: str
    localization: float
    nbeta: float
    nbeta_setting: str | float
    sampler_lr: float | None
    findings: Mapping[str, Mapping]
    order: str = INCOMPARABLE
    difference: float | None = None
    std_error: float | None = None
    interval: tuple[float, float] | None = None
    needed_steps: int | None = None

    @property
    def is_sampled(self) -> bool:
        """Whether chains were run at all."""
        return self.order != UNSAMPLED

    @property
    def order_text(self) -> str:
        """The order, and of a cell that was not sampled what it would take."""
        if self.is_sampled or self.needed_steps is None:
            return self.order
        return f"{self.order}: needs {self.needed_steps:,} steps a chain"

    @property
    def flaws(self) -> dict[str, list[str]]:
        """Why an estimate counts for no order → of which of the two."""
        found = {}
        for name, one in self.findings.items():
            if (flaw := flaw_of(one)) is not None:
                found.setdefault(flaw, []).append(name)
        return found

    @property
    def num_diverged_chains(self) -> int:
        """Of both together; their estimates are of the other chains."""
        return sum(found.get("num_diverged_chains") or 0 for found in self.findings.values())


def flaw_of(found: Mapping) -> str | None:
    """Why an estimate counts for no order: `NOT_AT_REST`, `NEGATIVE` or `UNSETTLED`; None: it does.

    Where certificates tell whether chains are at rest, what their halves say is left aside: of
    eight chains one looks unsettled by chance in two estimates of five.
    """
    llc, at_rest = number(found.get("llc")), is_at_rest(found)
    if at_rest is False:
        return NOT_AT_REST
    if llc is not None and llc < 0:
        return NEGATIVE
    return None if at_rest or found.get("settled") else UNSETTLED


def grid_cells(title: str, results: Mapping) -> list[Mapping]:
    """The cells of a model's grid measured so far, by nβ, then γ; empty without a grid."""
    cells = (results["models"][title].get("llc_grid") or {}).get("cells", ())
    return sorted(cells, key=lambda cell: (cell["nbeta"], cell["localization"]))


def grid_orders(title: str, results: Mapping) -> dict[str, list[CellOrder]]:
    """Every optimizer on the grid but the baseline → its cells, as `grid_cells` sorts them; empty
    without.
    """
    cells, missing = grid_cells(title, results), not_on_grid(title, results)
    baseline, *others = results["models"][title]["optimizers"]
    return {
        other: [_cell_order(cell, baseline, other, is_auto(results)) for cell in cells]
        for other in others
        if cells and other not in missing
    }


def not_on_grid(title: str, results: Mapping) -> list[str]:
    """The optimizers that no cell has; empty without a grid."""
    cells = grid_cells(title, results)
    epochs = (results["models"][title].get("llc_grid") or {}).get("epochs") or {}
    there = {name for cell in cells for name in cell.get("optimizers") or {}} | epochs.keys()
    return [name for name in results["models"][title]["optimizers"] if cells and name not in there]


def grid_sentences(title: str, results: Mapping) -> list[str]:
    """In which cells each optimizer's LLC is above the baseline's, and in which not."""
    orders = grid_orders(title, results)
    if not orders:
        return []
    epochs = (results["models"][title]["llc_grid"].get("epochs") or {}).values()
    epochs = sorted({epoch for epoch in epochs if epoch is not None})
    where = f" after epoch {' and '.join(map(str, epochs))}" if epochs else ""
    sentences = [
        f"Over {_count(len(cells), 'cell')} of γ × nβ, {label(other)}'s {grid_measure(results)}"
        f"{where} is {_by_order(cells)}."
        for other, cells in orders.items()
    ]
    sentences[-1] += " Each interval stands for itself: sampling error only, one training seed."
    return sentences


def grid_measure(results: Mapping) -> str:
    """What the grid's numbers are called: only some cells of `auto` are local, which they say."""
    return "λ̂" if is_auto(results) else "LLC"


def grid_clause(verdict: Verdict | LocalVerdict, results: Mapping) -> str:
    """For the headline: what settled cells say, where they do not all say what the verdict does.

    Empty where they do, where the verdict compares nothing, or where there is no grid.
    """
    orders = grid_orders(verdict.title, results) if verdict.comparisons else {}
    settled = {
        other: [cell.order for cell in cells if cell.order in SETTLED]
        for other, cells in orders.items()
    }
    stated = {one.other.optimizer: AS_ORDER[one.direction] for one in verdict.comparisons}
    unlike = [other for other, found in settled.items() if {*found} - {stated.get(other)}]
    silent = [other for other, found in settled.items() if not found]
    ordered = [other for other in orders if stated.get(other) in (HIGHER, LOWER)]
    clauses = _unlike_clauses(verdict, unlike, ordered, settled, grid_measure(results))
    if clauses:
        clauses[0] = f"over γ × nβ {clauses[0]}"
    if silent and len(verdict.optimizers) == 2:
        doubt = ", so they do not show whether the order holds" if ordered else ""
        clauses.append(f"no cell of γ × nβ has settled{doubt}")
    elif silent:
        clauses.append(f"no cell of γ × nβ has settled for {listed([*map(label, silent)])}")
    return "; ".join(clauses)


def _unlike_clauses(
    verdict: Verdict | LocalVerdict,
    unlike: Sequence[str],
    ordered: Sequence[str],
    settled: Mapping[str, Sequence[str]],
    measure: str,
) -> list[str]:
    """Of several optimizers, who leaves the order that the headline states; of the others, and of
    a single one, in how many cells their LLC is higher and lower.
    """
    broken = [other for other in unlike if other in ordered and len(verdict.optimizers) > 2]
    clauses = []
    if broken:
        names = listed([label(other) for other in broken])
        clauses.append(f"that order does not hold in every settled cell for {names}")
    alike = {}  # orders of the settled cells → whose
    for other in unlike:
        if other not in broken:
            alike.setdefault(tuple(sorted(settled[other])), []).append(other)
    return clauses + [_counted(others, found, measure) for found, others in alike.items()]


def rescaling_sentences(title: str, results: Mapping) -> list[str]:
    """λ̂ of every factor, and how far the farthest is from the one at factor 1; empty where not
    measured.
    """
    rescaling = results["models"][title].get("rescaling")
    if not rescaling:
        return []
    first, second = rescaling["layers"]
    parts = [
        _rescaled(label(name), found) for name, found in rescaling["optimizers"].items() if found
    ]
    return [
        f"Scaling {first} by c and {second} by 1/c changes neither the network's function nor λ. λ̂"
        f" then is, for {'. For '.join(parts)}."
    ]


def _cell_order(cell: Mapping, baseline: str, other: str, student: bool) -> CellOrder:
    """`student`: whether estimates come with intervals of their own that hold."""
    pair, there = (other, baseline), cell.get("optimizers") or {}
    findings = {name: there[name] for name in pair[::-1] if there.get(name)}
    keys = ("localization", "nbeta", "nbeta_setting", "sampler_lr", "needed_steps")
    one = CellOrder(other, baseline, **{key: cell.get(key) for key in keys}, findings=findings)
    llcs = [number(findings.get(name, {}).get("llc")) for name in pair]
    if None in llcs:
        return replace(one, order=INCOMPARABLE if there else UNSAMPLED)
    difference = llcs[0] - llcs[1]
    halves = (_half_width(findings[name], student) for name in pair)
    interval = interval_about(difference, *halves)
    flaws = [flaw for flaw in (NOT_AT_REST, NEGATIVE, UNSETTLED) if flaw in one.flaws]
    if flaws or interval is None:
        order = flaws[0] if flaws else UNSETTLED
    else:
        order = HIGHER if interval[0] > 0 else LOWER if interval[1] < 0 else UNDECIDED
    return replace(
        one,
        order=order,
        difference=difference,
        std_error=None if interval is None else (interval[1] - interval[0]) / (2 * Z_95),
        interval=interval,
    )


def _half_width(found: Mapping, student: bool = False) -> float | None:
    """Of an estimate's 95 % interval: the one it comes with (Student), else 1.96 errors."""
    if student and (ends := ends_of(found.get("interval"))):
        return (ends[1] - ends[0]) / 2
    error = number(found.get("std_error"))
    return None if error is None else Z_95 * error


def _by_order(cells: Sequence[CellOrder]) -> str:
    found = {cell.order for cell in cells}
    parts = [
        f"{words.format(label(cells[0].baseline))} in {_named(cells, order)}"
        for order, words in WORDS.items()
        if order in {HIGHER, *found}
    ]
    return "; ".join(parts)


def _counted(others: Sequence[str], settled: Sequence[str], measure: str) -> str:
    """`NGD's LLC is higher in 3, lower in 1 of 4 settled cells`, of several `NGD's and adamw's`."""
    counts = [f"{order} in {settled.count(order)}" for order in SETTLED if order in settled]
    cells = _count(len(settled), "settled cell")
    whose = listed([f"{label(other)}'s" for other in others])
    return f"{whose} {measure} is {', '.join(counts)} of {cells}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _named(cells: Sequence[CellOrder], order: str) -> str:
    """`3 (nβ = 26.4 with γ = 10, 100; nβ = 5454 with γ = 1000)`."""
    chosen = [cell for cell in cells if cell.order == order]
    rows = [
        f"nβ = {nbeta:.4g} with γ = {', '.join(f'{cell.localization:g}' for cell in row)}"
        for nbeta, row in groupby(chosen, key=lambda cell: cell.nbeta)
    ]
    return f"{len(chosen)} ({' and '.join(rows)})" if rows else "none"


def _rescaled(name: str, found: Sequence[Mapping]) -> str:
    """`SGD: 51.2 ± 0.9 at c = 0.5, 43.6 ± 0.7 at c = 1; farthest from c = 1 at …`."""
    values = [
        f"{with_error(number(f.get('llc')), number(f.get('std_error')))} at c = {f['factor']:g}"
        + ("" if number(f.get("llc")) is None or not flaw_of(f) else f" ({flaw_of(f)})")
        for f in found
    ]
    text = f"{name}: {', '.join(values)}"
    measured = [f for f in found if number(f.get("llc")) is not None]
    reference = next((f for f in measured if f["factor"] == 1), None)
    others = [f for f in measured if f["factor"] != 1]
    if reference is None or not others:
        return text
    farthest = max(others, key=lambda f: abs(f["llc"] - reference["llc"]))
    difference = farthest["llc"] - reference["llc"]
    interval = interval_about(difference, *map(_half_width, (farthest, reference)))
    if interval is None:
        return text
    value, ends = difference_texts(difference, interval)
    return (
        f"{text}; farthest from c = 1 at c = {farthest['factor']:g}: {value}, 95 % interval from"
        f" {ends}"
    )
