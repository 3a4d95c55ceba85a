"""What do wide networks' rates look like?"""

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from degeneracy.report.page import Drawing
from degeneracy.report.style import DASHES, INK, PARAMETER_COLOURS, SOFT, axis_scale, empty_figure

RATES_KEY, KFAC_KEY, PAIRS_KEY = (
    f"overparameterised-{name}" for name in ("rates", "kfac", "pairs")
)
METHODS = {"ngd": ("natural gradient", "#cc3311"), "gd": ("gradient descent", "#0072b2")}
CAPTIONS = {
    RATES_KEY: (
        "Squared error over its start at the largest width, a colour each learning rate η; dotted:"
        " (1 − η)² a step, what the wide limit says. It counts how far the lines leave the dots:"
        " at η = 1 the network's own curvature is all that is left, above 2 no width helps. A line"
        " ends where rounding is reached, or the error has overflowed."
    ),
    KFAC_KEY: (
        "Left: largest distance of a ratio of squared errors from (1 − η)², by width, at η = ½;"
        " the dashed line is 1/√m. Right: what one K-FAC step leaves beside (1 − ηh_i) r_i, of |r|;"
        " the dashed line is 8/√m. Points are networks."
    ),
    PAIRS_KEY: (
        "Squared error over its start where two of the inputs are turned to a small angle, labels"
        " as they were. Solid: natural gradient at η = ½; dashed: gradient descent at the inverse"
        " of the kernel's largest eigenvalue."
    ),
}


def widths(part: Mapping) -> list[Mapping]:
    """What was found at each width, rising."""
    return sorted((of for of in part.values() if "width" in of), key=lambda of: of["width"])


def pairs(part: Mapping) -> list[Mapping]:
    """What was found at each angle, wide ones first; refused ones are left out."""
    found = [of for of in part.values() if "angle" in of and "refused" not in of]
    return sorted(found, key=lambda of: -np.inf if of["angle"] is None else -of["angle"])


def angle_text(angle: float | None) -> str:
    """What an angle is called."""
    return "random inputs" if angle is None else f"a pair at {angle:g}"


def numbers(values) -> np.ndarray:
    """Floats, NaN where there is none."""
    return np.array([np.nan if v is None else v for v in values], dtype=float)


def figures(part: Mapping) -> list[Drawing]:
    """Rates, their distance from the limit, and near-parallel inputs."""
    drawn = {}
    if widths(part):
        drawn[RATES_KEY] = rates_figure(part)
        drawn[KFAC_KEY] = distance_figure(part)
    if pairs(part):
        drawn[PAIRS_KEY] = pairs_figure(part)
    return [Drawing(key, CAPTIONS[key], figure) for key, figure in drawn.items()]


def rates_figure(part: Mapping) -> go.Figure:
    """Errors by step at the largest width, the first network's."""
    widest = widths(part)[-1]
    figure = empty_figure("The rate of natural gradient", f"width {widest['width']:,}")
    for i, of in enumerate(widest["rates"].values()):
        colour, name = PARAMETER_COLOURS[i % len(PARAMETER_COLOURS)], f"η = {of['lr']:g}"
        errors = numbers(of["errors"][0])
        errors = np.where(errors > 1e-32, errors, np.nan)
        steps = np.arange(len(errors))
        figure.add_trace(_line(steps, errors, name, colour, "solid"))
        if of["predicted"] > 0:
            limit = of["predicted"] ** steps
            figure.add_trace(_line(steps, limit, name, colour, "dot").update(showlegend=False))
    figure.update_xaxes(title_text="step")
    figure.update_yaxes(title_text="squared error / start", type="log", tickformat=".0e")
    return figure.update_layout(hovermode="closest")


def distance_figure(part: Mapping) -> go.Figure:
    """How far finite networks are from the limit, by width."""
    found = widths(part)
    figure = empty_figure("Distance from the wide limit", "natural gradient, K-FAC", columns=2)
    m = numbers([of["width"] for of in found])
    left = [
        np.abs(numbers(rate["worst"]) - rate["predicted"])
        for of in found
        if (rate := of["rates"].get("0.5"))
    ]
    right = [numbers(of["kfac_gaps"]) for of in found]
    for column, each, over, bound in ((1, left, m**-0.5, "1/√m"), (2, right, 8 * m**-0.5, "8/√m")):
        if len(each) == len(m):
            x = np.concatenate(
                [np.full(len(one), width) for one, width in zip(each, m, strict=True)]
            )
            dots = go.Scatter(x=x, y=np.concatenate(each), mode="markers", name="network")
            dots.update(marker={"color": "#cc3311", "size": 7}, showlegend=column == 1)
            figure.add_trace(dots, row=1, col=column)
        figure.add_trace(_line(m, over, bound, SOFT, "dash"), row=1, col=column)
    figure.update_xaxes(title_text="hidden units m", type="log", dtick=1)
    figure.update_yaxes(type="log", tickformat=".0e")
    figure.update_yaxes(title_text="largest |ratio − ¼|", col=1)
    figure.update_yaxes(title_text="|r₁ − (1 − ηh)r₀| / |r₀|", col=2)
    return figure.update_layout(hovermode="closest")


def pairs_figure(part: Mapping) -> go.Figure:
    """Errors by step, a colour an angle, a dash a method."""
    figure = empty_figure("Inputs that are nearly parallel", "one pair; solid natural, dashed GD")
    drawn = []
    for i, of in enumerate(pairs(part)):
        colour = (INK, *PARAMETER_COLOURS)[i % (1 + len(PARAMETER_COLOURS))]
        for (method, (name, _)), dash in zip(METHODS.items(), DASHES, strict=False):
            errors = numbers(of[method]["errors"])
            steps = 1 + np.arange(len(errors)) * of[method]["every"]
            drawn.append(errors)
            figure.add_trace(
                _line(steps, errors, f"{angle_text(of['angle'])}, {name}", colour, dash)
            )
    figure.update_xaxes(title_text="step + 1", type="log", dtick=1)
    figure.update_yaxes(title_text="squared error / start", **axis_scale(drawn))
    return figure.update_layout(hovermode="closest")


def _line(x, y, name: str, colour: str, dash: str) -> go.Scatter:
    line = go.Scatter(x=x, y=y, name=name, legendgroup=name, mode="lines")
    return line.update(line={"color": colour, "dash": dash, "width": 2})
