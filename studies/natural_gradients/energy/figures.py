"""What do errors of differential equations look like, by iteration, second and cut-off?"""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from degeneracy.report.page import Drawing
from degeneracy.report.style import DASHES, PARAMETER_COLOURS, SOFT, empty_figure

ERRORS_KEY, CUTS_KEY, PROBLEMS_KEY = (f"energy-{name}" for name in ("errors", "cuts", "problems"))
DEFAULT = "poisson-2d"
GOAL = 1e-6  # relative L2 error that the cut-off rule is held to
METHODS = {  # name, colour
    "rule": ("natural, corrected cut-offs", "#cc3311"),
    "adam": ("Adam", "#009e73"),
    "gd": ("gradient descent", "#0072b2"),
    "lbfgs": ("L-BFGS", "#332288"),
    "bfgs": ("BFGS", "#e69f00"),
}
PROBLEMS = {
    DEFAULT: "Poisson 2D",
    "poisson-5d": "Poisson 5D",
    "heat": "heat",
    "nonlinear": "−Δu + u³ = f",
}
CAPTIONS = {
    ERRORS_KEY: (
        "Relative L2 error of Poisson's equation on the unit square, by iteration and by process"
        " second of one thread; one start. The dotted line is 10⁻⁶."
    ),
    CUTS_KEY: (
        "Left: error after the last step at each cut-off of singular values alone, a point a start,"
        " and that of the corrected rule, which chooses among several. Right: the rule's error by"
        " step, a line each start. The dotted line is 10⁻⁶."
    ),
    PROBLEMS_KEY: (
        "The same by process second on other equations, a colour each, natural steps solid, Adam"
        " dashed, L-BFGS dotted, BFGS dash-dotted. Residuals in five dimensions, in time and of a"
        " nonlinear equation are those of the same network."
    ),
}


def of_default(part: Mapping, method: str) -> list[Mapping]:
    """Runs of the default problem by a method, by seed."""
    runs = [of for of in part.values() if (of["problem"], of["method"]) == (DEFAULT, method)]
    return sorted(runs, key=lambda of: of["seed"])


def cut_names(part: Mapping) -> list[str]:
    """`cut 1e-06`, …, the highest first."""
    names = {of["method"] for of in part.values() if of["method"].startswith("cut ")}
    return sorted(names, key=lambda name: -float(name.split()[1]))


def last_errors(runs: Sequence[Mapping]) -> list[float]:
    """Errors after the last step; ∞ where there was no step or no finite error."""
    errors = [of["error"] for of in runs]
    return [np.inf if e is None or not np.isfinite(e) else float(e) for e in errors]


def figures(part: Mapping) -> list[Drawing]:
    """Error by iteration and second, by cut-off and seed, and of the other problems."""
    drawn = {}
    if any(of_default(part, method) for method in METHODS):
        drawn[ERRORS_KEY] = errors_figure(part)
    if cut_names(part) or of_default(part, "rule"):
        drawn[CUTS_KEY] = cuts_figure(part)
    if any(of["problem"] != DEFAULT for of in part.values()):
        drawn[PROBLEMS_KEY] = problems_figure(part)
    return [Drawing(key, CAPTIONS[key], figure) for key, figure in drawn.items()]


def errors_figure(part: Mapping) -> go.Figure:
    """The default problem's error by every method."""
    figure = empty_figure("Natural steps beside what is usual", PROBLEMS[DEFAULT], columns=2)
    for method, (name, colour) in METHODS.items():
        for of in of_default(part, method)[:1]:
            for column, x in ((1, of["steps"]), (2, of["seconds"])):
                line = _line(x, of["errors"], name, colour, "solid")
                figure.add_trace(line.update(showlegend=column == 1), row=1, col=column)
    figure.update_xaxes(type="log", dtick=1)
    figure.update_xaxes(title_text="iteration", col=1)
    figure.update_xaxes(title_text="process seconds", col=2)
    return _with_goal(figure, "relative L2 error")


def cuts_figure(part: Mapping) -> go.Figure:
    """Last errors by cut-off, and the rule's curves."""
    figure = empty_figure("The cut-off decides", PROBLEMS[DEFAULT], columns=2)
    named = {name: name.removeprefix("cut ") for name in cut_names(part)} | {"rule": "rule"}
    for method, name in named.items():
        runs = of_default(part, method)
        colour = METHODS["rule"][1] if method == "rule" else SOFT
        dots = go.Scatter(x=[name] * len(runs), y=_shown(last_errors(runs)), mode="markers")
        dots.update(marker={"color": colour, "size": 8}, name=name, showlegend=False)
        figure.add_trace(dots, row=1, col=1)
    for i, of in enumerate(of_default(part, "rule")):
        colour = PARAMETER_COLOURS[i % len(PARAMETER_COLOURS)]
        line = _line(of["steps"], of["errors"], f"start {of['seed']}", colour, "solid")
        figure.add_trace(line, row=1, col=2)
    figure.update_xaxes(title_text="cut-off of singular values", type="category", col=1)
    figure.update_xaxes(title_text="step", col=2)
    return _with_goal(figure, "relative L2 error")


def problems_figure(part: Mapping) -> go.Figure:
    """Errors of the other problems by second."""
    figure = empty_figure(
        "Other equations", "natural solid, Adam dashed, L-BFGS dotted, BFGS dash-dotted"
    )
    kinds = [kind for kind in PROBLEMS if kind != DEFAULT]
    for kind, colour in zip(kinds, PARAMETER_COLOURS, strict=False):
        for method, dash in zip(("rule", "adam", "lbfgs", "bfgs"), DASHES, strict=False):
            runs = [of for of in part.values() if (of["problem"], of["method"]) == (kind, method)]
            for of in runs[:1]:
                name = f"{PROBLEMS[kind]}, {METHODS[method][0]}"
                figure.add_trace(_line(of["seconds"], of["errors"], name, colour, dash))
    figure.update_xaxes(title_text="process seconds", type="log", dtick=1)
    return _with_goal(figure, "relative L2 error")


def _with_goal(figure: go.Figure, title: str) -> go.Figure:
    figure.add_hline(y=GOAL, line_dash="dot", line_color=SOFT)
    figure.update_yaxes(title_text=title, type="log", dtick=1, tickformat=".0e")
    return figure.update_layout(hovermode="closest")


def _shown(values: Sequence[float | None]) -> list[float]:
    numbers = np.array([np.nan if v is None else v for v in values], dtype=float)
    return np.where(np.isfinite(numbers) & (numbers > 0), numbers, np.nan).tolist()


def _line(x, y, name: str, colour: str, dash: str) -> go.Scatter:
    line = go.Scatter(x=x, y=_shown(y), name=name, legendgroup=name, mode="lines+markers")
    return line.update(
        line={"color": colour, "dash": dash, "width": 2}, marker={"color": colour, "size": 3}
    )
