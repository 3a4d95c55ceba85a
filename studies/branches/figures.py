"""How did a training and its annealed branches go, in pictures?"""

from collections.abc import Mapping

import plotly.graph_objects as go

from degeneracy.report.page import Drawing, Section
from degeneracy.report.style import COLOURS, INK, SOFT, empty_figure
from studies.branches.findings import MEASURES

CAPTIONS = {
    "losses": (
        "The whole training loss along training. An open circle is where a copy left; the filled"
        " one below it is where that copy ended, after an epoch in which its learning rate fell to"
        " 0: what lies between is noise of the minibatches. The dotted line is where the late"
        " optimizer took over."
    ),
    "degeneracy": (
        "λ̂ of the annealed branches against their training loss, by each measure. Bars are ± one"
        " standard error of the sampler."
    ),
}
MEASURE_COLOURS = {
    "balanced": "#009e73",
    "raw": "#e69f00",
    "gauge_free": "#332288",
    "published": "#cc79a7",
}


def branch_figures(results: Mapping, traces: Mapping) -> list[Section]:
    """What is there to be drawn; this study keeps no traces on disk."""
    drawings = []
    if training := results["parts"].get("training", {}).get("branches"):
        drawings.append(Drawing("losses", CAPTIONS["losses"], losses_figure(results, training)))
        points = results["parts"].get("degeneracy", {}).get("points")
        if points and points["found"]:
            figure = degeneracy_figure(training, points)
            drawings.append(Drawing("degeneracy", CAPTIONS["degeneracy"], figure))
    return [Section("Annealed branches", drawings)] if drawings else []


def losses_figure(results: Mapping, training: Mapping) -> go.Figure:
    """Training loss by epoch, and the branches."""
    config, an_epoch = results["config"]["training"], training["steps_an_epoch"]
    figure = empty_figure("Training and its branches", title_of(results))
    steps, losses = zip(*training["looks"], strict=True) if training["looks"] else ((), ())
    epochs = [step / an_epoch for step in steps]
    colour = COLOURS.get(config["late"], INK)
    figure.add_scatter(
        x=epochs, y=losses, name="training", mode="lines", line={"color": colour, "width": 1.5}
    )
    left = [branch["left_at"] / an_epoch for branch in training["branches"]]
    for name, key, symbol in (
        ("where a branch left", "left_loss", "circle-open"),
        ("after annealing", "train_loss", "circle"),
    ):
        figure.add_scatter(
            x=[x + (key == "train_loss") for x in left],
            y=[branch[key] for branch in training["branches"]],
            name=name,
            mode="markers",
            marker={"color": INK, "symbol": symbol, "size": 8},
        )
    if training["switched_at"] is not None:
        figure.add_vline(x=training["switched_at"] / an_epoch, line_dash="dot", line_color=SOFT)
    figure.update_xaxes(title_text="epoch")
    figure.update_yaxes(title_text="training loss (nats)", type="log")
    return figure


def degeneracy_figure(training: Mapping, points: Mapping) -> go.Figure:
    """λ̂ by training loss."""
    figure = empty_figure("λ̂ after annealing", "")
    losses = [training["branches"][place]["train_loss"] for place in points["branches"]]
    for measure, name in MEASURES.items():
        found = [point[measure] for point in points["found"]]
        if all(one is None or one["llc"] is None for one in found):
            continue
        figure.add_scatter(
            x=losses,
            y=[one and one["llc"] for one in found],
            error_y={"array": [(one and one["std_error"]) or 0 for one in found]},
            name=name,
            mode="lines+markers",
            line={"color": MEASURE_COLOURS[measure]},
        )
    figure.update_xaxes(title_text="training loss after annealing (nats)", type="log")
    figure.update_yaxes(title_text="λ̂", rangemode="tozero")
    return figure


def title_of(results: Mapping) -> str:
    """`2×256, sgd → ngd, seed 1`."""
    config = results["config"]["training"]
    return (
        f"{config['hidden_layers']}×{config['hidden_nodes']}, {config['early']} → {config['late']},"
        f" seed {config['seed']}"
    )
