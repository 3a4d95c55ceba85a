"""What do wide networks' rates say?"""

from collections.abc import Mapping

import numpy as np

from degeneracy.report.page import Card, Note, Tile
from degeneracy.report.tables import Table
from degeneracy.texts import listed
from studies.natural_gradients.overparameterised.figures import (
    METHODS,
    RATES_KEY,
    angle_text,
    numbers,
    pairs,
    widths,
)

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
    return Card(
        TITLE,
        " ".join(headline[:2]) or "Parallel inputs are refused; nothing else was measured.",
        tiles=tiles(part),
        drawing=RATES_KEY,
        text=[CLAIM, measured_text(part)],
        notes=[Note("Parallel inputs are refused.", text) for text in refused],
    )


def rates_text(part: Mapping) -> str:
    """Whether the rate at the largest width is the limit's, within 1/√m."""
    if not widths(part):
        return ""
    widest = widths(part)[-1]
    m = widest["width"]
    below = [of for of in widest["rates"].values() if of["lr"] < 2]
    off = [np.nanmax(np.abs(numbers(of["worst"]) - of["predicted"])) for of in below]
    away = [f"{of['lr']:g}" for of, one in zip(below, off, strict=True) if not one <= m**-0.5]
    if not below:
        return f"At width {m:,} no learning rate below 2 was tried."
    if away:
        return f"At width {m:,} the rate leaves (1 − η)² by more than 1/√m at η = {listed(away)}."
    return (
        f"At width {m:,} the squared error contracts by (1 − η)² a step within {max(off):.2g} at"
        " every η below 2."
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
        shown = [f"{of['width']:,}" for of in found]
        count = len(found[0]["kfac_gaps"])
        text.append(
            f"{count} networks at each of the widths {listed(shown)}; K-FAC's first step misses its"
            f" leverages' prediction by {listed(gaps)} of |r|, as 1/√m does."
        )
    for of in pairs(part):
        each = [f"{METHODS[m][0]} {_steps(of[m])}" for m in METHODS]
        text.append(f"To 10⁻⁶ of the squared error, {angle_text(of['angle'])}: {', '.join(each)}.")
    return " ".join(text)


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
            "Natural gradient's worst ratio of squared errors",
            "The largest over steps and networks, down to rounding; above 1 a run diverges. Last"
            " column: K-FAC's largest |r₁ − (1 − ηh)r₀| / |r₀|. Last row: the wide limit.",
            ["width", *(f"η = {key}" for key in lrs), "K-FAC"],
            rows,
            row_headers=True,
        )
    ]


def _worst(of: Mapping | None) -> str:
    return "–" if of is None else f"{np.nanmax(numbers(of['worst'])):.4g}"


def _steps(of: Mapping) -> str:
    return f"> {of['limit']:,}" if of["steps"] is None else f"{of['steps']:,}"
