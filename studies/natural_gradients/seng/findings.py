"""What do SENG's sketches cost, and what do they save? A card and a table."""

from collections.abc import Mapping

import numpy as np

from degeneracy.report.page import Card, Tile
from degeneracy.report.tables import Table
from degeneracy.texts import count_of
from studies.natural_gradients.seng.figures import COLOURS, KEY, NAMES, mean_of, pooled, sizes

TITLE = "SENG: sketches of the empirical natural gradient"
CLAIM = (
    "The claim (arXiv:2006.05924): a step of the damped empirical natural gradient needs n × n"
    " systems alone, and these may be made from a few coordinates of each layer's inputs and"
    " slopes."
)
GOOD = 0.9  # cosine from which a sketched step is said to point where the exact one does
ALIKE = 0.1  # difference of cosines below which two directions are said to be as good


def card(part: Mapping) -> Card:
    """Which sketch keeps the direction, and whether it saves time."""
    if not part:
        return Card(TITLE, "Nothing has been measured yet.", text=[CLAIM])
    found = {variant: means(part, variant) for variant in NAMES}
    reached = {variant: first_good(of) for variant, of in found.items()}
    headline = (
        f"The unbiased sketch {kept(reached['unbiased'], found['unbiased'])}; with the published"
        f" scaling it {kept(reached['published'], found['published'])}. {root_text(part)}"
    )
    gradient = mean_of(part, "gradient")
    tiles = [
        Tile(
            NAMES[variant],
            f"{of[max(of, key=int)]:.3f}",
            f"cosine at q = {max(of, key=int)}",
            COLOURS[variant],
        )
        for variant, of in found.items()
        if of
    ]
    if gradient is not None:
        tiles.append(Tile("plain gradient", f"{gradient:.3f}", "cosine"))
    count = count_of(len(part), "seed")
    return Card(
        TITLE,
        headline,
        tiles=tiles,
        drawing=KEY,
        text=[
            CLAIM,
            "UᵀU = (ΔΔᵀ)∘(AAᵀ)/n and Ub = Δᵀdiag(b)A/√n need no sketch at all: they are what the"
            " optimizer does unless it is told otherwise.",
            f"Measured over {count}: {time_text(part)}",
        ],
    )


def means(part: Mapping, variant: str) -> dict[str, float]:
    """q → mean cosine over seeds and sketches."""
    values = {q: pooled(part, variant, q) for q in sizes(part)}
    return {q: float(np.mean(of)) for q, of in values.items() if of}


def first_good(found: Mapping[str, float]) -> str | None:
    """The smallest q from which on every mean cosine is at least `GOOD`; None: none."""
    good = None
    for q in sorted(found, key=int, reverse=True):
        if found[q] < GOOD:
            break
        good = q
    return good


def kept(q: str | None, found: Mapping[str, float]) -> str:
    """`keeps a cosine of 0.9 from q = 64 on`."""
    if not found:
        return "was not measured"
    if q is None:
        return f"reaches {max(found.values()):.2f} at most"
    return f"keeps a cosine of at least {GOOD:g} from q = {q} on"


def root_text(part: Mapping) -> str:
    """Whether the √|b| product is less than the gradient, about as much, or more."""
    root, gradient = mean_of(part, "root_without_sketch"), mean_of(part, "gradient")
    beside = mean_of(part, "root_beside_gradient")
    if root is None or gradient is None or beside is None:
        return "The √|b| product was not measured."
    said = "about as much as"
    if abs(root - gradient) >= ALIKE:
        said = "more than" if root > gradient else "less than"
    return (
        f"The √|b| product gives {root:.2f} without a sketch, {said} the plain gradient"
        f" ({gradient:.2f}), with which its cosine is {beside:.2f}."
    )


def seconds(part: Mapping, key: str) -> float | None:
    """Median over seeds of process seconds; None where there is none."""
    found = [seed["seconds"].get(key) for seed in part.values()]
    found = [value for value in found if value is not None]
    return float(np.median(found)) if found else None


def time_text(part: Mapping) -> str:
    """What the exact step takes and the fastest sketched one saves."""
    exact = seconds(part, "exact")
    others = {q: s for q in sizes(part) if (s := seconds(part, q)) is not None}
    if not exact or not others:
        return "no times."
    quickest = min(others, key=others.get)
    return (
        f"the exact direction takes {1e3 * exact:.0f} ms of processor time, with sketches of"
        f" q = {', '.join(others)} it takes {', '.join(f'{1e3 * s:.0f}' for s in others.values())}"
        f" ms: at best {others[quickest] / exact:.2f} of the exact one's."
    )


def tables(part: Mapping) -> list[Table]:
    """Cosines and times by q."""
    if not part:
        return []
    rows = [["exact", *["1"] * len(NAMES), _ms(seconds(part, "exact"))]]
    for q in sizes(part):
        cells = [_spread(pooled(part, variant, q)) for variant in NAMES]
        rows.append([f"q = {q}", *cells, _ms(seconds(part, q))])
    return [
        Table(
            "SENG's sketches",
            "Cosine with the exact step, mean ± standard deviation over seeds and sketches; median"
            " processor time of a direction, forward and backward pass not counted.",
            ["", *NAMES.values(), "ms"],
            rows,
            row_headers=True,
        )
    ]


def _spread(values: list[float]) -> str:
    return f"{np.mean(values):.3f} ± {np.std(values):.3f}" if values else "–"


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{1e3 * value:.1f}"
