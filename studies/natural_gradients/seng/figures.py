"""How far do SENG's sketches turn the step, in pictures?"""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from degeneracy.report.page import Drawing
from degeneracy.report.style import SOFT, empty_figure
from degeneracy.texts import count_of

KEY = "seng-cosines"
COLOURS = {"unbiased": "#0072b2", "published": "#e69f00", "root": "#cc3311"}
NAMES = {
    "unbiased": "unbiased sketch, √(d/q)",
    "published": "published scaling, d/q",
    "root": "unbiased sketch, √|b| product",
}
CAPTION = (
    "Cosine of the sketched step with the exact one, over all weights together, by the number q of"
    " coordinates that are kept of each layer's inputs and slopes. Points are means over seeds and"
    " sketches, bars ± one standard deviation; the dashed line is the plain gradient's cosine."
)


def pooled(part: Mapping, variant: str, q: str) -> list[float]:
    """Cosines of all seeds and sketches that are there and finite."""
    values = [v for seed in part.values() for v in seed["cosines"].get(variant, {}).get(q, [])]
    return [value for value in values if value is not None and np.isfinite(value)]


def mean_of(part: Mapping, key: str) -> float | None:
    """Mean over seeds of a number; None where there is none."""
    values = [seed[key] for seed in part.values() if seed.get(key) is not None]
    values = [value for value in values if np.isfinite(value)]
    return float(np.mean(values)) if values else None


def sizes(part: Mapping) -> list[str]:
    """The q of all seeds, rising."""
    found = {q for seed in part.values() for of in seed["cosines"].values() for q in of}
    return sorted(found, key=int)


def figures(part: Mapping) -> list[Drawing]:
    """Cosines by q."""
    if not part:
        return []
    figure = empty_figure("What a sketch leaves of the direction", count_of(len(part), "seed"))
    for variant, name in NAMES.items():
        there = [(q, values) for q in sizes(part) if (values := pooled(part, variant, q))]
        if there:
            figure.add_trace(_line(name, COLOURS[variant], there))
    if (height := mean_of(part, "gradient")) is not None and (q := sizes(part)):
        figure.add_scatter(
            x=[int(q[0]), int(q[-1])],
            y=[height, height],
            name="plain gradient",
            mode="lines",
            line={"color": SOFT, "dash": "dash"},
        )
    figure.update_xaxes(title_text="coordinates q", type="log", dtick="D2", tickformat="~g")
    figure.update_yaxes(title_text="cosine with the exact step", range=[0, 1.05])
    return [Drawing(KEY, CAPTION, figure)]


def _line(name: str, colour: str, there: Sequence[tuple[str, list[float]]]) -> go.Scatter:
    return go.Scatter(
        x=[int(q) for q, _ in there],
        y=[float(np.mean(values)) for _, values in there],
        error_y={"array": [float(np.std(values)) for _, values in there], "color": colour},
        name=name,
        mode="lines+markers",
        line={"color": colour},
    )
