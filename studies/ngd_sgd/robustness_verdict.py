"""Does the order of the LLCs hold at other settings, and λ̂ keep still where λ does? Judged by
numbers, in words.

The grid holds both optimizers' final LLCs at several localisations γ and inverse temperatures nβ. A
cell counts for or against the order only where both estimates have settled.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from degeneracy.report.style import label
from degeneracy.texts import difference_texts, interval_of, number, with_error

# Of NGD's LLC against SGD's in one cell.
HIGHER, LOWER, UNDECIDED, UNSETTLED, INCOMPARABLE = (
    "higher",
    "lower",
    "undecided",
    "not settled",
    "no comparison",
)
SETTLED = (HIGHER, LOWER, UNDECIDED)
WORDS = {
    HIGHER: "higher than SGD's (95 % interval above 0)",
    LOWER: "lower (95 % interval below 0)",
    UNDECIDED: "undecided (the interval includes 0)",
    UNSETTLED: "not settled, so counted neither way,",
    INCOMPARABLE: "without an LLC of both",
}
NBETA_RULES = {"batch": "m/ln m", "dataset": "n/ln n"}  # the config's words → the formula


@dataclass(frozen=True)
class CellOrder:
    """How NGD's LLC stands to SGD's at one (γ, nβ).

    Attributes:
        localization: γ.
        nbeta: nβ.
        nbeta_setting: What nβ was asked for as: `"batch"`, `"dataset"` or a number.
        sampler_lr: ε.
        findings: Optimizer → what was found, as `runs.results.finding` gives it.
        order: `HIGHER` or `LOWER` (the 95 % interval excludes 0), `UNDECIDED` (it does not),
            `UNSETTLED` (whatever the interval says), or `INCOMPARABLE` (one of the two has no LLC).
        difference: NGD − SGD.
        std_error: Its standard error, from two independent ones; None without both.
        interval: Its 95 % interval, sampling error only.
    """

    localization: float
    nbeta: float
    nbeta_setting: str | float
    sampler_lr: float
    findings: Mapping[str, Mapping]
    order: str
    difference: float | None
    std_error: float | None
    interval: tuple[float, float] | None

    @property
    def unsettled(self) -> tuple[str, ...]:
        """The optimizers whose estimate has not settled."""
        return tuple(name for name, found in self.findings.items() if not found["settled"])

    @property
    def num_diverged_chains(self) -> int:
        """Of all optimizers together; their estimates are of the other chains."""
        return sum(found["num_diverged_chains"] for found in self.findings.values())


def grid_orders(title: str, results: Mapping) -> list[CellOrder]:
    """The cells of a model's grid measured so far, by nβ, then γ; empty without a grid."""
    cells = (results["models"][title].get("llc_grid") or {}).get("cells", ())
    return sorted(map(_cell_order, cells), key=lambda cell: (cell.nbeta, cell.localization))


def grid_sentences(title: str, results: Mapping) -> list[str]:
    """Which cells the order NGD > SGD holds in, and which not; empty without a grid."""
    cells = grid_orders(title, results)
    if not cells:
        return []
    found = {cell.order for cell in cells}
    parts = [
        f"{words} in {_named(cells, order)}"
        for order, words in WORDS.items()
        if order in {HIGHER, *found}
    ]
    epochs = results["models"][title]["llc_grid"]["epochs"]
    where = f"after epoch {' and '.join(str(epoch) for epoch in sorted(set(epochs.values())))}"
    return [
        f"Over {_count(len(cells), 'cell')} of γ × nβ, NGD's LLC {where} is {'; '.join(parts)}."
        " Each interval stands for itself: sampling error only, one training seed."
    ]


def grid_clause(title: str, results: Mapping, direction: str | None) -> str:
    """For the headline: what settled cells say, where they do not all say what `direction` =
    `"higher"` says.

    Args:
        direction: Of the verdict at the run's own settings.
    """
    cells = grid_orders(title, results)
    settled = [cell.order for cell in cells if cell.order in SETTLED]
    if not cells or (settled and {*settled, direction} == {HIGHER}):
        return ""
    if not settled:
        return "No cell of γ × nβ has settled, so they do not show whether the order holds."
    counts = [f"{order} in {settled.count(order)}" for order in SETTLED if order in settled]
    return (
        f"Over γ × nβ NGD's LLC is {', '.join(counts)} of {_count(len(settled), 'settled cell')}."
    )


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


def _cell_order(cell: Mapping) -> CellOrder:
    found = cell["optimizers"]
    llcs, errors = (
        [number(found.get(name, {}).get(key)) for name in ("ngd", "sgd")]
        for key in ("llc", "std_error")
    )
    settings = {key: cell[key] for key in ("localization", "nbeta", "nbeta_setting", "sampler_lr")}
    if None in llcs:
        return CellOrder(
            **settings,
            findings=found,
            order=INCOMPARABLE,
            difference=None,
            std_error=None,
            interval=None,
        )
    difference = llcs[0] - llcs[1]
    interval = interval_of(difference, *errors)
    if interval is None or not all(found[name]["settled"] for name in ("sgd", "ngd")):
        order = UNSETTLED
    else:
        order = HIGHER if interval[0] > 0 else LOWER if interval[1] < 0 else UNDECIDED
    error = None if interval is None else math.hypot(*errors)
    return CellOrder(
        **settings,
        findings=found,
        order=order,
        difference=difference,
        std_error=error,
        interval=interval,
    )


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
    interval = interval_of(
        difference, number(farthest["std_error"]), number(reference["std_error"])
    )
    if interval is None:
        return text
    value, ends = difference_texts(difference, interval)
    return (
        f"{text}; farthest from c = 1 at c = {farthest['factor']:g}: {value}, 95 % interval from"
        f" {ends}"
    )
