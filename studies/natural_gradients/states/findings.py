"""What do natural gradients of states say? A verdict, its numbers, and a table of descents."""

from collections.abc import Mapping, Sequence

import numpy as np

from degeneracy.report.page import Card, Tile
from degeneracy.report.tables import Table
from degeneracy.texts import count_of, listed
from studies.natural_gradients.states.figures import (
    COLOURS,
    NATURAL,
    is_near,
    median_losses,
    mixtures,
)
from studies.natural_gradients.states.figures import reached as reached_by
from studies.natural_gradients.states.measure import GRADIENT

TITLE = "States: any metric, one least-squares problem"
CLAIM = (
    "The natural gradient of a state in any metric |Lζ|² is argmin |(L†)ᵀ∂f − L ∂ρ/∂θ η|, so that"
    " QR or LSQR serves all metrics, and a state that an equation defines costs one factorisation a"
    " step (arXiv:2202.06236)."
)
ZERO = 1e-16  # a loss nearer to 0 than this is 0 to rounding
ROUNDING = 1e-9  # an optimum nearer than this is reached


def card(part: Mapping) -> Card:
    """Exactness first, then what each example gave."""
    if not part:
        return Card(TITLE, "Nothing has been measured yet.", text=[CLAIM])
    headlines = [*_exact_headline(part), *_inverse_headline(part)]
    text = [
        *exact_text(part),
        *mixture_text(part),
        *transport_text(part),
        *inverse_text(part),
        *process_text(part),
    ]
    return Card(
        TITLE,
        " ".join(headlines) or text[0],
        tiles=tiles(part),
        drawing="states-mixture" if mixtures(part) else None,
        text=[CLAIM, *text],
    )


def tiles(part: Mapping) -> list[Tile]:
    """A number an example."""
    found = []
    if exact := part.get("exactness"):
        worst = max(exact["inverse"].values())
        found.append(
            Tile("QR beside the explicit inverse", f"{worst:.0e}", "worst of five metrics")
        )
    if inverse := part.get("inverse"):
        for name, of in inverse["methods"].items():
            detail = f"misfit, {len(of['misfit']) - 1} steps, {of['seconds'][-1]:.2g} s"
            found.append(Tile(name, f"{of['misfit'][-1]:.2g}", detail, COLOURS[name]))
    if (process := part.get("process")) and "1" in process["rates"]:
        off = process["rates"]["1"]["off"][1]
        found.append(Tile("Gaussian process", f"{off:.0e}", "from the optimum after one step"))
    return found


def _exact_headline(part: Mapping) -> list[str]:
    found = part.get("exactness")
    if not found:
        return []
    worst = max(found["inverse"].values())
    return [
        f"In {count_of(len(found['inverse']), 'metric')} QR's direction differs from that of the"
        f" explicit inverse by at most {worst:.0e} of its size."
    ]


def _inverse_headline(part: Mapping) -> list[str]:
    found = part.get("inverse")
    if not found:
        return []
    ends = {name: of["misfit"][-1] for name, of in found["methods"].items()}
    steps = {name: len(of["misfit"]) - 1 for name, of in found["methods"].items()}
    return [
        f"With {found['parameters']:,} parameters {count_of(steps[NATURAL], 'natural step')} bring"
        f" the misfit to {ends[NATURAL]:.2g} (noise {found['noise']:.2g}),"
        f" {count_of(steps[GRADIENT], 'gradient step')} to {ends[GRADIENT]:.2g}."
    ]


def exact_text(part: Mapping) -> list[str]:
    """Constants, and what parallel columns do."""
    found = part.get("exactness")
    if not found:
        return []
    constants = ", ".join(f"{name} {small(gap)}" for name, gap in found["constants"].items())
    parallel = found["parallel"]
    return [
        f"A Gaussian's shift on 400 cells has the squared norms 1/(4√π s³), 1/s² and 1, off by"
        f" {constants}.",
        f"Where columns are nearly parallel (condition {parallel['condition']:.1e}) QR is off the"
        f" known solution by {parallel['qr']:.0e}, normal equations by {parallel['normal']:.0e}.",
    ]


def mixture_text(part: Mapping) -> list[str]:
    """Which metric is fastest for each objective, and what decides the basin."""
    found = mixtures(part)
    texts = []
    for objective, of in found.items():
        ends = {name: float(median_losses(of, name)[-1]) for name in of["methods"]}
        best = least(ends)
        texts.append(
            f"Mixture, objective {objective}: after {of['steps']} steps the least median loss is"
            f" that of {listed(best)}, {small(ends[best[0]])}; the gradient's is"
            f" {small(ends[GRADIENT])}."
        )
    if len(found) > 1:
        texts.append(basin_text(found))
    return texts


def least(ends: Mapping[str, float]) -> list[str]:
    """Whose loss is least: one name, or all of those that are 0 to rounding."""
    if zero := [name for name, value in ends.items() if abs(value) <= ZERO]:
        return zero
    return [min(ends, key=lambda name: np.nan_to_num(ends[name], nan=np.inf))]


def basin_text(found: Mapping[str, Mapping]) -> str:
    """Starts that reach the target: spread over methods, and over objectives."""
    counts = {
        objective: {name: reached_by(of, name) for name in of["methods"]}
        for objective, of in found.items()
    }
    starts = len(next(iter(next(iter(found.values()))["methods"].values()))["losses"])
    said = listed(
        [
            f"{min(of.values())} to {max(of.values())} with {objective}"
            for objective, of in counts.items()
        ]
    )
    split = sum(len(parted(of)) for of in found.values())
    return (
        f"Of {count_of(starts, 'start')} the target's basin is reached, by method (plain gradient"
        f" descent is one), in {said}. In {split} of {starts * len(found)} cases of a start and an"
        " objective one method arrived while another came to rest elsewhere."
    )


def parted(found: Mapping) -> list[int]:
    """Starts from which one method reaches the target and another comes to rest elsewhere.

    At rest: it ended before its steps did, as no step lowered the loss any more.
    """
    split = []
    for start in range(len(next(iter(found["methods"].values()))["losses"])):
        arrived, rested = False, False
        for of in found["methods"].values():
            near = is_near(of["ends"][start], found["target"])
            arrived |= near
            rested |= not near and len(of["losses"][start]) - 1 < found["steps"]
        if arrived and rested:
            split.append(start)
    return split


def small(value: float) -> str:
    """A number that is 0 to rounding as that; a loss of rounding may be negative."""
    return f"{abs(value):.1e}" if abs(value) > ZERO else "0 to rounding"


def transport_text(part: Mapping) -> list[str]:
    """What a step in W₂ costs on a square."""
    found = part.get("transport")
    if not found:
        return []
    said = listed(
        [
            f"{name} {of['losses'][-1]:.2g} ({1000 * _each(of):.3g} ms a step)"
            for name, of in found["methods"].items()
        ]
    )
    return [
        f"On {found['cells']:,} cells KL ends at {said}; a shift has W₂ speed 1 there to"
        f" {abs(found['shift']):.0e}, the grid's error."
    ]


def _each(of: Mapping) -> float:
    return of["process_s"] / max(1, len(of["losses"]) - 1)


def inverse_text(part: Mapping) -> list[str]:
    """Errors of the coefficient, and the work."""
    found = part.get("inverse")
    if not found:
        return []
    natural, plain = (found["methods"][name] for name in (NATURAL, GRADIENT))
    return [
        f"The coefficient is then off by {100 * natural['error'][-1]:.3g} % after"
        f" {natural['seconds'][-1]:.2g} process seconds ({sum(natural['iterations'])} LSQR"
        f" iterations), by {100 * plain['error'][-1]:.3g} % after {plain['seconds'][-1]:.2g} with"
        " gradient descent."
    ]


def process_text(part: Mapping) -> list[str]:
    """Whether one natural step is the whole way."""
    found = part.get("process")
    if not found:
        return []
    texts = []
    for rate, of in found["rates"].items():
        arrived = np.flatnonzero(np.array(of["off"], dtype=float) < ROUNDING)
        how = f"after {count_of(int(arrived[0]), 'step')}" if len(arrived) else "not yet"
        texts.append(f"rate {rate} {how}")
    adam = len(found["adam"]) - 1
    return [
        f"The Gaussian process is within {ROUNDING:g} of its optimum with {listed(texts)} of"
        f" {len(of['off']) - 1}; {count_of(adam, 'step')} of Adam leave"
        f" {found['adam'][-1]:.2g} nats."
    ]


def tables(part: Mapping) -> Sequence[Table]:
    """Each objective and metric: loss, basin, time."""
    rows = [
        [
            objective,
            name,
            small(float(median_losses(of, name)[-1])),
            f"{reached_by(of, name)} of {len(one['losses'])}",
            f"{1000 * one['process_s'] / max(1, sum(len(x) - 1 for x in one['losses'])):.2g}",
        ]
        for objective, of in mixtures(part).items()
        for name, one in of["methods"].items()
    ]
    if not rows:
        return []
    return [
        Table(
            "Mixtures by objective and metric",
            "Median loss at the end, starts whose means end at the target's, process milliseconds a"
            " step.",
            ["objective", "metric", "loss", "basin", "ms"],
            rows,
        )
    ]
