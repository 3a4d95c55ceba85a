"""Does the order of the LLCs hold at other settings, and λ̂ keep still where λ does? Judged by
numbers, in words.

The grid holds the final LLCs at several localisations γ and inverse temperatures nβ, of all
optimizers whose training reached its end. A cell counts for or against an order only where both
estimates have settled.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from degeneracy.texts import difference_texts, interval_of, label, listed, number, with_error
from studies.ngd_sgd.verdict import HIGHER, LOWER, UNDETECTED, Verdict

# Of an optimizer's LLC against the baseline's in one cell, beside `HIGHER` and `LOWER`.
UNDECIDED, UNSETTLED, INCOMPARABLE = "undecided", "not settled", "no comparison"
SETTLED = (HIGHER, LOWER, UNDECIDED)
# A comparison's direction → the order of a cell that says the same.
AS_ORDER = {HIGHER: HIGHER, LOWER: LOWER, UNDETECTED: UNDECIDED, None: None}
WORDS = {
    HIGHER: "higher than {}'s (95 % interval above 0)",
    LOWER: "lower (95 % interval below 0)",
    UNDECIDED: "undecided (the interval includes 0)",
    UNSETTLED: "not settled, so counted neither way,",
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
        sampler_lr: ε.
        findings: What was found of the two, as `runs.results.finding` gives it.
        order: `HIGHER` or `LOWER` (the 95 % interval excludes 0), `UNDECIDED` (it does not),
            `UNSETTLED` (whatever the interval says), or `INCOMPARABLE` (one of the two has no LLC).
        difference: Its LLC minus the baseline's.
        std_error: The difference's standard error, from two independent ones; None without both.
        interval: The difference's 95 % interval, sampling error only.
    """

    optimizer: str
    baseline: str
    localization: float
    nbeta: float
    nbeta_setting: str | float
    sampler_lr: float
    findings: Mapping[str, Mapping]
    order: str = INCOMPARABLE
    difference: float | None = None
    std_error: float | None = None
    interval: tuple[float, float] | None = None

    @property
    def unsettled(self) -> tuple[str, ...]:
        """Which of the two have not settled."""
        return tuple(name for name, found in self.findings.items() if not found["settled"])

    @property
    def num_diverged_chains(self) -> int:
        """Of both together; their estimates are of the other chains."""
        return sum(found["num_diverged_chains"] for found in self.findings.values())


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
        other: [_cell_order(cell, baseline, other) for cell in cells]
        for other in others
        if cells and other not in missing
    }


def not_on_grid(title: str, results: Mapping) -> list[str]:
    """The optimizers that no cell has; empty without a grid."""
    cells = grid_cells(title, results)
    there = {name for cell in cells for name in cell["optimizers"]}
    return [name for name in results["models"][title]["optimizers"] if cells and name not in there]


def grid_sentences(title: str, results: Mapping) -> list[str]:
    """In which cells each optimizer's LLC is above the baseline's, and in which not."""
    orders = grid_orders(title, results)
    if not orders:
        return []
    epochs = sorted(set(results["models"][title]["llc_grid"]["epochs"].values()))
    where = f"after epoch {' and '.join(map(str, epochs))}"
    sentences = [
        f"Over {_count(len(cells), 'cell')} of γ × nβ, {label(other)}'s LLC {where} is"
        f" {_by_order(cells)}."
        for other, cells in orders.items()
    ]
    sentences[-1] += " Each interval stands for itself: sampling error only, one training seed."
    return sentences


def grid_clause(verdict: Verdict, results: Mapping) -> str:
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
    clauses = _unlike_clauses(verdict, unlike, ordered, settled)
    if clauses:
        clauses[0] = f"over γ × nβ {clauses[0]}"
    if silent and len(verdict.optimizers) == 2:
        doubt = ", so they do not show whether the order holds" if ordered else ""
        clauses.append(f"no cell of γ × nβ has settled{doubt}")
    elif silent:
        clauses.append(f"no cell of γ × nβ has settled for {listed([*map(label, silent)])}")
    return "; ".join(clauses)


def _unlike_clauses(
    verdict: Verdict,
    unlike: Sequence[str],
    ordered: Sequence[str],
    settled: Mapping[str, Sequence[str]],
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
    return clauses + [_counted(others, found) for found, others in alike.items()]


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


def _cell_order(cell: Mapping, baseline: str, other: str) -> CellOrder:
    pair = (other, baseline)
    findings = {name: cell["optimizers"][name] for name in pair[::-1] if name in cell["optimizers"]}
    settings = {key: cell[key] for key in ("localization", "nbeta", "nbeta_setting", "sampler_lr")}
    llcs, errors = (
        [number(findings.get(name, {}).get(key)) for name in pair] for key in ("llc", "std_error")
    )
    if None in llcs:
        return CellOrder(other, baseline, **settings, findings=findings)
    difference = llcs[0] - llcs[1]
    interval = interval_of(difference, *errors)
    if interval is None or not all(found["settled"] for found in findings.values()):
        order = UNSETTLED
    else:
        order = HIGHER if interval[0] > 0 else LOWER if interval[1] < 0 else UNDECIDED
    return CellOrder(
        other,
        baseline,
        **settings,
        findings=findings,
        order=order,
        difference=difference,
        std_error=None if interval is None else math.hypot(*errors),
        interval=interval,
    )


def _by_order(cells: Sequence[CellOrder]) -> str:
    found = {cell.order for cell in cells}
    parts = [
        f"{words.format(label(cells[0].baseline))} in {_named(cells, order)}"
        for order, words in WORDS.items()
        if order in {HIGHER, *found}
    ]
    return "; ".join(parts)


def _counted(others: Sequence[str], settled: Sequence[str]) -> str:
    """`NGD's LLC is higher in 3, lower in 1 of 4 settled cells`, of several `NGD's and adamw's`."""
    counts = [f"{order} in {settled.count(order)}" for order in SETTLED if order in settled]
    cells = _count(len(settled), "settled cell")
    whose = listed([f"{label(other)}'s" for other in others])
    return f"{whose} LLC is {', '.join(counts)} of {cells}"


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
        f"{with_error(number(f['llc']), number(f['std_error']))} at c = {f['factor']:g}"
        + ("" if f["settled"] or number(f["llc"]) is None else " (not settled)")
        for f in found
    ]
    text = f"{name}: {', '.join(values)}"
    measured = [f for f in found if number(f["llc"]) is not None]
    reference = next((f for f in measured if f["factor"] == 1), None)
    others = [f for f in measured if f["factor"] != 1]
    if reference is None or not others:
        return text
    farthest = max(others, key=lambda f: abs(f["llc"] - reference["llc"]))
    difference = farthest["llc"] - reference["llc"]
    errors = (number(f["std_error"]) for f in (farthest, reference))
    interval = interval_of(difference, *errors)
    if interval is None:
        return text
    value, ends = difference_texts(difference, interval)
    return (
        f"{text}; farthest from c = 1 at c = {farthest['factor']:g}: {value}, 95 % interval from"
        f" {ends}"
    )
