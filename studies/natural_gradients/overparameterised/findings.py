"""What do wide networks' rates say?"""

from collections.abc import Mapping, Sequence

import numpy as np

from degeneracy.report.page import Card, Note, Tile
from degeneracy.report.tables import Table
from degeneracy.texts import count_of, listed
from studies.natural_gradients.overparameterised.figures import (
    METHODS,
    RATES_KEY,
    angle_text,
    numbers,
    pairs,
    widths,
)
from studies.natural_gradients.overparameterised.measure import farthest

TITLE = "Overparameterised networks"
CLAIM = (
    "The claim: on a network that is wide enough, natural gradient at learning rate η contracts the"
    " squared error by (1 − η)² a step whatever the inputs are, as long as no two are parallel;"
    " K-FAC contracts residual i by 1 − ηh_i, with h_i the leverage of its input"
    " (arXiv:1905.10961)."
)


def card(part: Mapping) -> Card:
    """Rates over widths, K-FAC's leverages, near-parallel inputs."""
    if not part:
        return Card(TITLE, "Nothing has been measured yet.", text=[CLAIM])
    headline = [text for text in (rates_text(part), pairs_text(part)) if text]
    refused = [of["refused"] for of in part.values() if "refused" in of]
    if not headline and pairs(part):
        headline = ["Random inputs alone were measured; nothing is said of widths or small angles."]
    return Card(
        TITLE,
        " ".join(headline[:2]) or "Parallel inputs are refused; nothing else was measured.",
        tiles=tiles(part),
        drawing=RATES_KEY,
        text=[CLAIM, measured_text(part)],
        notes=[
            *singular_notes(part),
            *(Note("Parallel inputs are refused.", text) for text in refused),
        ],
    )


def singular_notes(part: Mapping) -> list[Note]:
    """Where the kernel was singular to rounding, its rank there, and the nearest inputs."""
    found = [
        (f"at width {of['width']:,} and η = {rate['lr']:g}", of, rate["rank"])
        for of in widths(part)
        for rate in of["rates"].values()
    ]
    found += [(f"with {angle_text(of['angle'])}", of, of["ngd"]["rank"]) for of in pairs(part)]
    return [
        Note(
            f"The kernel was singular to rounding {where}: rank {rank} of {of['size']}.",
            f"The nearest inputs, {of['pair'][0]} and {of['pair'][1]}, are at a sine of"
            f" {of['sine']:.2g}. Natural steps are then the shortest of those that answer what is"
            " left of the residuals, and what the kernel has lost stays.",
        )
        for where, of, rank in found
        if rank < of["size"]
    ]


def rates_text(part: Mapping) -> str:
    """Whether the rate at the largest width is the limit's, within 1/√m."""
    if not widths(part):
        return ""
    widest = widths(part)[-1]
    m = widest["width"]
    below = [of for of in widest["rates"].values() if of["lr"] < 2]
    off = [farthest(numbers(of["worst"]), of["predicted"]) - of["predicted"] for of in below]
    away = [
        f"{of['lr']:g} ({abs(one) * m**0.5:.2g}/√m, {'faster' if one < 0 else 'slower'})"
        for of, one in zip(below, off, strict=True)
        if not abs(one) <= m**-0.5
    ]
    if not below:
        return f"At width {m:,} no learning rate below 2 was tried."
    if away:
        return f"At width {m:,} some step leaves (1 − η)² by more than 1/√m at η = {listed(away)}."
    return (
        f"At width {m:,} the squared error contracts by (1 − η)² a step within"
        f" {max(map(abs, off)):.2g} at every η below 2."
    )


def pairs_text(part: Mapping) -> str:
    """At which angles natural gradient arrives, and gradient descent."""
    near = [of for of in pairs(part) if of["angle"] is not None]
    if not near:
        return ""
    said = [f"{_steps(of['ngd'])} at {of['angle']:g}" for of in near]
    slow = [f"{of['angle']:g}" for of in near if of["gd"]["steps"] is None]
    descent = f"does not arrive at {listed(slow)}" if slow else "arrives at every angle"
    return (
        f"With one pair of inputs at a small angle, where theory says"
        f" {near[0]['ngd']['predicted']} steps to 10⁻⁶, natural gradient takes {listed(said)};"
        f" gradient descent {descent}."
    )


def measured_text(part: Mapping) -> str:
    """What the verdict rests on."""
    text = ["Measured:"]
    if found := widths(part):
        gaps = [f"{np.nanmean(numbers(of['kfac_gaps'])):.2g}" for of in found]
        scaled = [
            f"{np.nanmean(numbers(of['kfac_gaps'])) * of['width'] ** 0.5:.2g}" for of in found
        ]
        shown = [f"{of['width']:,}" for of in found]
        count = len(found[0]["kfac_gaps"])
        text.append(
            f"{count_of(count, 'network')} at each of the widths {listed(shown)}; K-FAC's first"
            f" step misses its leverages' prediction by {listed(gaps)} of |r|, which times √m is"
            f" {listed(scaled)}."
        )
        text.append(distance_text(found))
    for of in pairs(part):
        each = [f"{METHODS[m][0]} {_steps(of[m])}" for m in METHODS]
        text.append(f"To 10⁻⁶ of the squared error, {angle_text(of['angle'])}: {', '.join(each)}.")
    return " ".join(filter(None, text))


def distance_text(found: Sequence[Mapping]) -> str:
    """How far ratios are from the limit, times √m: as 1/√m where that is the same at all widths."""
    said = []
    for key, of in found[-1]["rates"].items():
        there = [(one["width"], one["rates"][key]) for one in found if key in one["rates"]]
        if of["lr"] < 2:
            gaps = [
                abs(farthest(numbers(rate["worst"]), rate["predicted"]) - rate["predicted"])
                * m**0.5
                for m, rate in there
            ]
            said.append(f"{listed([f'{gap:.2g}' for gap in gaps])} at η = {key}")
    if not said:
        return ""
    return (
        f"The ratio of squared errors that is farthest from (1 − η)², by width: {'; '.join(said)},"
        " in 1/√m."
    )


def tiles(part: Mapping) -> list[Tile]:
    """The first ratio at η = 1, and steps on random inputs."""
    found = []
    if widths(part) and (whole := widths(part)[-1]["rates"].get("1")):
        first = float(np.nanmax(numbers(whole["first"])))
        detail = f"at η = 1, width {widths(part)[-1]['width']:,}"
        found.append(Tile("first ratio", f"{first:.2g}", detail))
    for of in pairs(part):
        if of["angle"] is None:
            found += [
                Tile(f"steps, {name}", _steps(of[method]), "to 10⁻⁶, random inputs", colour)
                for method, (name, colour) in METHODS.items()
            ]
    return found


def tables(part: Mapping) -> list[Table]:
    """Ratios by width and learning rate."""
    if not (found := widths(part)):
        return []
    lrs = {key: of["predicted"] for one in found for key, of in one["rates"].items()}
    rows = [
        [
            f"{of['width']:,}",
            *(_worst(of["rates"].get(key)) for key in lrs),
            f"{np.nanmax(numbers(of['kfac_gaps'])):.3f}",
        ]
        for of in found
    ]
    rows.append(["(1 − η)²", *(f"{predicted:.4g}" for predicted in lrs.values()), "0"])
    return [
        Table(
            "Natural gradient's ratio of squared errors",
            "The one farthest from the wide limit over steps and networks, down to rounding. Last"
            " column: K-FAC's largest |r₁ − (1 − ηh)r₀| / |r₀|. Last row: the wide limit; above 1"
            " runs diverge.",
            ["width", *(f"η = {key}" for key in lrs), "K-FAC"],
            rows,
            row_headers=True,
        )
    ]


def _worst(of: Mapping | None) -> str:
    if of is None:
        return "–"
    return f"{farthest(numbers(of['worst']), of['predicted']):.4g}"


def _steps(of: Mapping) -> str:
    return f"> {of['limit']:,}" if of["steps"] is None else f"{of['steps']:,}"
