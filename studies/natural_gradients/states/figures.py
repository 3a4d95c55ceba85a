"""What do descents of states look like, in each metric?"""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from degeneracy.report.page import Drawing
from degeneracy.report.style import HEIGHT, INK, PARAMETER_COLOURS, axis_scale, empty_figure
from studies.natural_gradients.states.measure import GRADIENT

NATURAL = "natural gradient"
COLOURS = {
    "L²": "#0072b2",
    "Fisher-Rao": "#cc3311",
    "H¹": "#009e73",
    "H⁻¹": "#e69f00",
    "W₂": "#aa4499",
    GRADIENT: INK,
    NATURAL: "#cc3311",
}
DASH = {GRADIENT: "dash"}
LEAST = 1e-18  # of a loss: what is less is drawn there
ROUNDING = 1e-12  # nats: what is left of a bound of some hundred
NEAR = 0.25  # of every mean: within it a mixture is said to be in the target's basin
SCALE = [[0.0, "#2166ac"], [0.5, "#f7f7f7"], [1.0, "#b2182b"]]
CAPTIONS = {
    "mixture": (
        "Three Gaussians fitted on a line: median loss over starts by step, a panel an objective,"
        " a line a metric on densities. The metric that belongs to the objective (L², Fisher-Rao,"
        f" W₂) makes it a least-squares fit by Gauss-Newton. Less than {LEAST:g} is drawn there."
    ),
    "basins": (
        "Of the same descents, in how many starts the three means end within"
        f" {NEAR:g} of the target's."
    ),
    "transport": (
        "Five bells on a square of thousands of cells, KL from the target by step. W₂'s metric"
        " takes one sparse factorisation a step."
    ),
    "inverse": (
        "An elliptic inverse problem with a parameter a cell: relative misfit of the states by"
        " process second, and relative error of the coefficient θ. Dotted: the noise, where a"
        " descent ends."
    ),
    "coefficient": "The coefficient θ that was to be found, and what both descents found.",
    "process": (
        "A Gaussian process with Gaussian noise: nats from the best bound, by step. Natural steps"
        " of rate 1 are there after one; of rate t they leave (1 − t) of the way. Less than"
        f" {ROUNDING:g} is rounding, and drawn there."
    ),
}


def figures(part: Mapping) -> list[Drawing]:
    """The figures of the examples that are there."""
    drawn: dict[str, go.Figure] = {}
    if mixtures(part):
        drawn |= {"mixture": mixture_figure(part), "basins": basin_figure(part)}
    if found := part.get("transport"):
        drawn["transport"] = transport_figure(found)
    if found := part.get("inverse"):
        drawn |= {"inverse": inverse_figure(found), "coefficient": coefficient_figure(found)}
    if found := part.get("process"):
        drawn["process"] = process_figure(found)
    return [Drawing(f"states-{key}", CAPTIONS[key], figure) for key, figure in drawn.items()]


def mixtures(part: Mapping) -> dict[str, Mapping]:
    """What was measured of each objective."""
    return {
        found["objective"]: found
        for key, found in part.items()
        if key.startswith("mixture") and found
    }


def median_losses(found: Mapping, method: str) -> np.ndarray:
    """Medians over starts, by step; a descent that ended stays where it ended."""
    steps = found["steps"] + 1
    losses = [np.array(one, dtype=float) for one in found["methods"][method]["losses"]]
    rows = [np.r_[one, np.full(steps - len(one), one[-1])] for one in losses]
    return np.median(rows, axis=0)


def reached(found: Mapping, method: str) -> int:
    """In how many starts the means end near the target's."""
    return sum(is_near(end, found["target"]) for end in found["methods"][method]["ends"])


def is_near(end: Sequence[float], target: Sequence[float]) -> bool:
    """Whether a mixture's means, in order, are those of the target's basin."""
    return bool(np.abs(np.subtract(end, target)).max() < NEAR)


def _line(x, y, name: str, colour: str = "", least: float = LEAST, **more) -> go.Scatter:
    """A curve of what is positive; what is less than `least` is drawn there."""
    y = np.maximum(np.array(y, dtype=float), least)
    line = go.Scatter(x=x, y=y, name=name, legendgroup=name, meta=name, mode="lines")
    colour = colour or COLOURS[name]
    line.update(line={"color": colour, "width": 2.2, "dash": DASH.get(name, "solid")})
    line.update(hovertemplate="%{x:.3g}: %{y:.3g}<extra>%{meta}</extra>")
    return line.update(**more)


def mixture_figure(part: Mapping) -> go.Figure:
    """A panel an objective."""
    found = mixtures(part)
    starts = len(next(iter(next(iter(found.values()))["methods"].values()))["losses"])
    note = f"medians over {starts} starts"
    figure = empty_figure("Which metric for which objective?", note, columns=len(found))
    for column, (objective, of) in enumerate(found.items(), start=1):
        for method in of["methods"]:
            losses = median_losses(of, method)
            line = _line(np.arange(len(losses)), losses, method, showlegend=column == 1)
            figure.add_trace(line, row=1, col=column)
        figure.update_xaxes(title_text=f"step<br>objective {objective}", row=1, col=column)
    figure.update_yaxes(type="log", tickformat=".0e", nticks=7)
    figure.update_yaxes(title_text="loss", col=1)
    return figure.update_layout(height=HEIGHT + 60, hovermode="closest")


def basin_figure(part: Mapping) -> go.Figure:
    """Bars: starts that reach the target, by metric and objective."""
    found = mixtures(part)
    figure = empty_figure("Which basin is reached?", f"means within {NEAR:g} of the target's")
    for i, (objective, of) in enumerate(found.items()):
        names = list(of["methods"])
        bars = go.Bar(x=names, y=[reached(of, name) for name in names], name=objective)
        figure.add_trace(bars.update(marker={"color": PARAMETER_COLOURS[i]}))
    figure.update_xaxes(title_text="metric")
    figure.update_yaxes(title_text="starts that reach it", rangemode="tozero")
    return figure


def transport_figure(found: Mapping) -> go.Figure:
    """Losses by step."""
    note = f"{found['cells']:,} cells, {found['parameters']} parameters"
    figure = empty_figure("W₂ in thousands of dimensions", note)
    for name, of in found["methods"].items():
        figure.add_trace(_line(np.arange(len(of["losses"])), of["losses"], name))
    figure.update_xaxes(title_text="step")
    figure.update_yaxes(
        title_text="KL (nats)", **axis_scale([of["losses"] for of in found["methods"].values()])
    )
    return figure.update_layout(hovermode="closest")


def inverse_figure(found: Mapping) -> go.Figure:
    """Misfit and error by process second."""
    note = f"{found['parameters']:,} parameters, {found['sources']} sources"
    figure = empty_figure("An elliptic inverse problem", note, columns=2)
    for name, of in found["methods"].items():
        for column, key in enumerate(("misfit", "error"), start=1):
            line = _line(of["seconds"], of[key], name, showlegend=column == 1)
            figure.add_trace(line.update(mode="lines+markers"), row=1, col=column)
    if found["noise"]:
        figure.add_hline(y=found["noise"], row=1, col=1, line={"color": INK, "dash": "dot"})
    figure.update_xaxes(title_text="process seconds")
    for column, key in enumerate(("misfit", "error"), start=1):
        values = [of[key] for of in found["methods"].values()]
        figure.update_yaxes(title_text=f"relative {key}", col=column, **axis_scale(values))
    return figure.update_layout(hovermode="closest")


def coefficient_figure(found: Mapping) -> go.Figure:
    """θ: true, and as found."""
    maps = {"true": found["truth"], **{k: of["found"] for k, of in found["methods"].items()}}
    figure = empty_figure("The coefficient", "θ of e^θ", columns=len(maps))
    size = float(np.abs(np.array(found["truth"])).max())
    for column, (name, values) in enumerate(maps.items(), start=1):
        heat = go.Heatmap(
            z=np.transpose(np.array(values, dtype=float)),
            **{"x0": 0.5 / len(values), "dx": 1 / len(values)},
            **{"y0": 0.5 / len(values), "dy": 1 / len(values)},
            zmin=-size,
            zmax=size,
            colorscale=SCALE,
            showscale=column == len(maps),
            colorbar={"title": {"text": "θ"}, "thickness": 12},
            hovertemplate="θ = %{z:.3g}<extra></extra>",
        )
        figure.add_trace(heat, row=1, col=column)
        figure.update_xaxes(title_text=f"x<br>{name}", row=1, col=column)
    figure.update_yaxes(title_text="y", col=1)
    return figure.update_layout(hovermode="closest", showlegend=False)


def process_figure(found: Mapping) -> go.Figure:
    """Nats from the optimum by step."""
    note = f"{found['points']} points, {found['inducing']} inducing"
    figure = empty_figure("One natural step", note)
    runs = {f"natural, rate {rate}": of["gaps"] for rate, of in found["rates"].items()}
    for i, (name, gaps) in enumerate([*runs.items(), ("Adam", found["adam"])]):
        colour = INK if name == "Adam" else PARAMETER_COLOURS[i]
        line = _line(np.arange(len(gaps)) + 1, gaps, name, colour, ROUNDING)
        figure.add_trace(line)
    figure.update_xaxes(title_text="step, the start being 1", type="log")
    figure.update_yaxes(title_text="nats from the optimum", type="log", tickformat=".0e")
    return figure.update_layout(hovermode="closest")
