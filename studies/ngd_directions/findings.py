"""How exact is online NGD? A verdict, its numbers and its sentences for each part."""

from collections.abc import Mapping, Sequence

import numpy as np

from degeneracy.report.page import Card, Findings, Note, Tile
from degeneracy.texts import listed, number, with_error
from studies.ngd_directions.figures import ARITHMETIC_COLOURS, COLOURS, NAMES, nearest
from studies.ngd_directions.records import cosine_pairs, exact_part, recorded_part

SHOWN = ("online", "averaged", "layerwise", "gradient")  # as tiles


def findings(results: Mapping) -> Findings:
    """A card for each part that is there."""
    cards = []
    if exact_part(results):
        cards.append(exact_card(results))
    if recorded_part(results, "dense"):
        cards.append(dense_card(results))
    if recorded_part(results, "float32"):
        cards.append(float32_card(results))
    return Findings(cards or [Card("Online NGD", "Nothing has been measured yet.")])


def exact_card(results: Mapping) -> Card:
    """How near online NGD comes to the exact natural gradient, at the last checkpoint."""
    part, own = exact_part(results), results["config"]["training"]["alpha"]
    place = nearest(part["alphas"], own)
    found = {name: cosine_pairs(part, name)[-1, place] for name in SHOWN}
    at = {name: "–" if number(mean) is None else f"{mean:.2f}" for name, (mean, _) in found.items()}
    return Card(
        "Beside the exact natural gradient",
        f"At smoothing α = {part['alphas'][place]:g} of the exact F, online NGD's direction has"
        f" cosine {at['online']} with the exact natural gradient, the gradient as it is"
        f" {at['gradient']}. Factors averaged over {_minibatches(part)} would bring it to"
        f" {at['averaged']}, the exact F layer by layer to {at['layerwise']}.",
        tiles=[Tile(NAMES[name], _with_error(found[name]), "", COLOURS[name]) for name in SHOWN],
        drawing="exact-smoothing",
        text=exact_texts(part, place),
        notes=exact_notes(part, place, own),
    )


def exact_texts(part: Mapping, place: int) -> list[str]:
    """Which smoothing suits online NGD, and how that changes along training; `place` of its α."""
    alphas, steps = part["alphas"], part["steps"]
    online, gradient = (cosine_pairs(part, name)[-1, :, 0] for name in ("online", "gradient"))
    nearer = [f"{a:g}" for a, o, g in zip(alphas, online, gradient, strict=True) if o > g]
    texts = [
        f"Beside the exact natural gradient of {part['num_weights']:,} weights, after"
        f" {steps[-1]:,} steps, online NGD is nearer than the gradient as it is at"
        f" {f'α = {listed(nearer)}' if nearer else 'no α'} of those scanned."
    ]
    if np.isfinite(online).any():
        best = int(np.nanargmax(online))
        texts.append(
            f"Its best match is {online[best]:.2f} at α = {alphas[best]:g}, where the gradient as"
            f" it is has {gradient[best]:.2f}."
        )
    best = _with_error(cosine_pairs(part, "averaged_best")[-1, place])
    texts.append(
        f"At α = {alphas[place]:g} the same inverse with factors averaged over"
        f" {_minibatches(part)}, its own α chosen best, reaches {best}."
    )
    early, late = (_with_error(cosine_pairs(part, "online")[at, place]) for at in (0, -1))
    texts.append(
        f"Along training online NGD goes from {early} after {steps[0]:,} steps to {late} after"
        f" {steps[-1]:,}."
    )
    return texts


def exact_notes(part: Mapping, place: int, own: float) -> list[Note]:
    """What qualifies the cosines: how sure the yardstick is, and at which α it stands."""
    agreement = {name: _cosine(values[-1][place]) for name, values in part["agreement"].items()}
    notes = [
        Note(
            f"How sure is the yardstick? Two halves of the images agree to {agreement['halves']}.",
            "Cosines of exact directions with each other, at the last checkpoint: from two halves"
            f" of the images {agreement['halves']}; with drawn labels in place of the expectation"
            f" over labels {agreement['sampled']}; with the given labels {agreement['empirical']}.",
        )
    ]
    nearby = part["alphas"][place]
    if nearby != own:
        notes.append(
            Note(
                f"Online NGD's own α = {own:g} is not among those scanned.",
                f"The exact F is smoothed with the nearest one, α = {nearby:g}.",
            )
        )
    return notes


def dense_card(results: Mapping) -> Card:
    """What low rank and floors lose: means over the second half of the steps."""
    part = recorded_part(results, "dense")
    online, gradient = (
        [{name: _late_mean(values) for name, values in of.items()} for of in part["cosines"][kind]]
        for kind in ("online", "gradient")
    )
    alphas = [f"α = {alpha:g}" for alpha in part["alphas"]]
    tiles, worst = [], []
    for alpha, late, plain in zip(alphas, online, gradient, strict=True):
        detail = f"gradient as it is {_cosine(plain[''])}"
        tiles.append(Tile(f"cosine at {alpha}", _cosine(late[""]), detail, COLOURS["online"]))
        name = min(part["parameters"], key=lambda tensor: np.nan_to_num(late[tensor], nan=-1))
        worst.append(f"at {alpha} {_cosine(late[name])} ({name})")
    return Card(
        "Beside whole matrices for the same axes",
        "Low rank and floors leave online NGD's directions at cosine"
        f" {_at_alphas(alphas, [_cosine(late['']) for late in online])} with those of whole"
        " matrices, inverted as they stand. The gradient as it is has"
        f" {_at_alphas(alphas, [_cosine(plain['']) for plain in gradient])}.",
        tiles=tiles,
        drawing="dense",
        text=[
            "Means over the second half of the steps, over all tensors. In the worst tensor online"
            f" NGD has cosine {listed(worst)}."
        ],
    )


def float32_card(results: Mapping) -> Card:
    """What float32 loses: medians over steps, and the largest orthonormality error."""
    part = recorded_part(results, "float32")
    tiles, off, bases = [], {}, []
    for run in part["runs"]:
        name, alpha = run["arithmetic"], f"α = {run['alpha']:g}"
        median = _percent(np.median(_array(run["direction_error"])))
        orthonormality = _array(run["orthonormality_error"])
        worst = int(np.argmax(orthonormality))
        off.setdefault(name, []).append(median)
        bases.append(
            f"{name} at {alpha} up to {orthonormality[worst]:.3g} ({run['worst_axis'][worst]})"
        )
        detail = f"basis {orthonormality[worst]:.3g} from orthonormal"
        tiles.append(Tile(f"{name}, {alpha}", median, detail, ARITHMETIC_COLOURS[name]))
    alphas = [f"α = {alpha:g}" for alpha in part["alphas"]]
    lost = [f"of the {name} arithmetic by {_at_alphas(alphas, of)}" for name, of in off.items()]
    return Card(
        "In float32",
        f"Rounding to float32 moves the directions {', those '.join(lost)}.",
        tiles=tiles,
        drawing="float32",
        text=[
            "Medians over steps of ‖d₃₂ − d₆₄‖/‖d₆₄‖ for directions d.",
            f"How far an axis' basis is from orthonormal: {listed(bases)}.",
        ],
    )


# ---- numbers as texts ----------------------------------------------------------------------------


def _minibatches(part: Mapping) -> str:
    count = part["num_averaged"]
    return f"{count:,} minibatch{'' if count == 1 else 'es'}"


def _with_error(pair: Sequence[float]) -> str:
    return with_error(*map(number, pair))


def _cosine(value: float | None) -> str:
    return "–" if number(value) is None else f"{value:.3f}"


def _percent(fraction: float) -> str:
    return "–" if number(fraction) is None else f"{100 * fraction:.2g} %"


def _at_alphas(alphas: Sequence[str], texts: Sequence[str]) -> str:
    """`0.930 at α = 0.1 and 0.992 at α = 4`."""
    return listed([f"{text} at {alpha}" for alpha, text in zip(alphas, texts, strict=True)])


def _late_mean(values: Sequence[float | None]) -> float:
    return float(np.mean(_array(values)[len(values) // 2 :]))


def _array(values: Sequence[float | None]) -> np.ndarray:
    return np.array(values, dtype=float)
