"""How did a descent go, and how degenerate is where it came by, in pictures?"""

from collections.abc import Mapping

import plotly.graph_objects as go

from degeneracy.report.page import Drawing, Section
from degeneracy.report.style import INK, empty_figure, optimizer_colour
from degeneracy.texts import label

CAPTIONS = {
    "descent": (
        "The whole training loss by step, and by process time of the optimizer's steps. Circles are"
        " where a loss was first passed."
    ),
    "degeneracy": (
        "λ̂, with one standard error of the sampler, and the Hessian's trace, where the losses were"
        " first passed."
    ),
}


def descent_figures(results: Mapping, traces: Mapping) -> list[Section]:
    """What is there to be drawn."""
    drawings = []
    if training := results["parts"].get("training", {}).get("descent"):
        drawings.append(Drawing("descent", CAPTIONS["descent"], losses_figure(results, training)))
        if points := results["parts"].get("degeneracy"):
            figure = degeneracy_figure(training, points)
            drawings.append(Drawing("degeneracy", CAPTIONS["degeneracy"], figure))
    return [Section("The descent", drawings)] if drawings else []


def losses_figure(results: Mapping, training: Mapping) -> go.Figure:
    """Training loss by step and by second."""
    figure = empty_figure("Training loss", title_of(results), columns=2)
    steps, seconds, losses = zip(*training["looks"], strict=True)
    colour = optimizer_colour(results["config"]["training"]["optimizer"])
    passages = training["passages"]
    at = [passage["loss"] for passage in passages]
    for column, (x, key) in enumerate(((steps, "step"), (seconds, "seconds")), start=1):
        line = {"color": colour, "width": 1.5}
        shown = {"row": 1, "col": column}
        figure.add_scatter(
            x=x, y=losses, name="training", line=line, showlegend=column == 1, **shown
        )
        figure.add_scatter(
            x=[passage[key] for passage in passages],
            y=at,
            name="first passage",
            mode="markers",
            marker={"color": INK, "symbol": "circle-open", "size": 9},
            showlegend=column == 1,
            **shown,
        )
    figure.update_xaxes(title_text="step", row=1, col=1)
    figure.update_xaxes(title_text="process seconds", row=1, col=2)
    figure.update_yaxes(title_text="training loss (nats)", type="log")
    return figure


def degeneracy_figure(training: Mapping, points: Mapping) -> go.Figure:
    """λ̂ and trace by loss."""
    figure = empty_figure("Degeneracy along the descent", "", columns=2)
    reached = {f"{t:g}": one["loss"] for one in training["passages"] for t in one["targets"]}
    there = [(reached[key], found) for key, found in points.items()]
    losses = [loss for loss, _ in there]
    llcs = [found["llc"] for _, found in there]
    columns = (
        ("λ̂", [llc["llc"] for llc in llcs], [llc["std_error"] or 0 for llc in llcs]),
        (
            "trace of the Hessian",
            [found["trace"] for _, found in there],
            [found["trace_std_error"] or 0 for _, found in there],
        ),
    )
    for column, (name, values, errors) in enumerate(columns, start=1):
        figure.add_scatter(
            x=losses, y=values, error_y={"array": errors}, name=name, row=1, col=column
        )
        figure.update_yaxes(title_text=name, rangemode="tozero", row=1, col=column)
    figure.update_xaxes(title_text="training loss (nats)")
    return figure


def title_of(results: Mapping) -> str:
    """`SGD at 0.1, 2×20, seed 1`."""
    config = results["config"]["training"]
    return (
        f"{label(config['optimizer'])} at {config['lr']:.3g},"
        f" {config['hidden_layers']}×{config['hidden_nodes']}, seed {config['seed']}"
    )
