"""What do SP-NGD's steps, refreshes, messages and owners look like?"""

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from degeneracy.report.page import Drawing
from degeneracy.report.style import (
    DASHES,
    INK,
    PARAMETER_COLOURS,
    SOFT,
    axis_scale,
    empty_figure,
    optimizer_colours,
)
from degeneracy.texts import label, number

LOSS, REFRESHED, SENT, BALANCE = (
    f"sp-ngd-{key}" for key in ("loss", "refreshed", "sent", "balance")
)
COMPARED = ("sgd", "spngd")
COLOURS = optimizer_colours(COMPARED)
MESSAGES = {
    "whole": ("fresh, whole matrices", "#999933"),
    "packed": ("fresh, triangles", "#0072b2"),
    "stale": ("triangles, as refreshed", "#cc3311"),
}
CAPTIONS = {
    LOSS: (
        "Training loss of 784-128-128-10 on MNIST, a line a seed, until the target (dotted) is"
        " reached: by steps, and by the processor time of the steps alone."
    ),
    REFRESHED: (
        "Share of all possible refreshes that the rule made, by batch size at the same number of"
        " samples: of A, which layers take in, and of G, of derivatives by outputs. Right: loss at"
        " the end over that of fresh statistics."
    ),
    SENT: (
        "Numbers that processes send each other in a mean step, gradients and directions included:"
        " with whole matrices, with triangles, and with triangles of those statistics alone that"
        " were due."
    ),
    BALANCE: (
        "ResNet-50: how much faster its factors are inverted when each layer is owned by one of so"
        " many ranks, counted in multiplications. No assignment of whole layers gets above the"
        " dotted line, where the most expensive layer's owner has nothing else to do."
    ),
}


def of_kind(part: Mapping, kind: str) -> list[Mapping]:
    """What was found under keys of a kind, `to loss` or `refreshes`."""
    return [found for key, found in part.items() if key.startswith(kind + ",")]


def figures(part: Mapping) -> list[Drawing]:
    """Of what is there."""
    makers = {LOSS: loss_figure, REFRESHED: refreshed_figure, SENT: sent_figure}
    makers[BALANCE] = balance_figure
    drawn = {key: make(part) for key, make in makers.items()}
    return [Drawing(key, CAPTIONS[key], one) for key, one in drawn.items() if one is not None]


def _array(values) -> np.ndarray:
    return np.array([np.nan if number(v) is None else v for v in values], dtype=float)


def loss_figure(part: Mapping) -> go.Figure | None:
    """Losses by steps and by seconds."""
    runs = of_kind(part, "to loss")
    if not runs:
        return None
    figure = empty_figure("To the same loss", "MNIST, 784-128-128-10", columns=2)
    shown = set()
    for run in runs:
        name = run["optimizer"]
        for column, axis in enumerate(("steps", "seconds"), start=1):
            line = go.Scatter(x=run[axis], y=_array(run["losses"]), mode="lines")
            line.update(name=label(name), legendgroup=name, showlegend=name not in shown)
            line.update(line={"color": COLOURS[name], "width": 1.6})
            figure.add_trace(line, row=1, col=column)
            shown.add(name)
    figure.add_hline(y=runs[0]["target"], line_dash="dot", line_color=SOFT)
    figure.update_xaxes(title_text="step", col=1)
    figure.update_xaxes(title_text="processor time (s)", col=2)
    scale = axis_scale([_array(run["losses"]) for run in runs])
    return figure.update_yaxes(title_text="training loss (nats)", **scale)


def by_alpha(part: Mapping) -> dict[float, list[Mapping]]:
    """Runs of each tolerance, by batch size."""
    runs = sorted(of_kind(part, "refreshes"), key=lambda run: (run["alpha"], run["batch_size"]))
    alphas = dict.fromkeys(run["alpha"] for run in runs)
    return {alpha: [run for run in runs if run["alpha"] == alpha] for alpha in alphas}


def beside_fresh(part: Mapping, run: Mapping, key: str) -> tuple[float, float] | None:
    """(what a run has under `key`, what the run with α = 0 at its batch size has)."""
    fresh = [r for r in by_alpha(part).get(0.0, []) if r["batch_size"] == run["batch_size"]]
    pair = (number(run[key]), number(fresh[0][key]) if fresh else None)
    return None if None in pair else pair


def refreshed_figure(part: Mapping) -> go.Figure | None:
    """Shares by batch size, and the loss that they lead to."""
    stale = {alpha: runs for alpha, runs in by_alpha(part).items() if alpha > 0}
    if not stale:
        return None
    figure = empty_figure("How many statistics are refreshed", "a line for each α", columns=2)
    for i, (alpha, runs) in enumerate(stale.items()):
        colour = PARAMETER_COLOURS[i % len(PARAMETER_COLOURS)]
        sizes = [run["batch_size"] for run in runs]
        for dash, kind in zip(DASHES, runs[0]["shares"], strict=False):
            line = go.Scatter(x=sizes, y=_array(run["shares"][kind] for run in runs))
            line.update(name=f"{kind}, α = {alpha:g}", mode="lines+markers")
            line.update(line={"color": colour, "dash": dash})
            figure.add_trace(line, row=1, col=1)
        pairs = [beside_fresh(part, run, "loss") for run in runs]
        ratios = [pair[0] / pair[1] if pair else np.nan for pair in pairs]
        line = go.Scatter(x=sizes, y=ratios, mode="lines+markers", name=f"loss, α = {alpha:g}")
        figure.add_trace(line.update(line={"color": colour, "width": 2.4}), row=1, col=2)
    figure.add_hline(y=1.0, line_dash="dot", line_color=SOFT, col=2, row=1)
    ticks = sorted({run["batch_size"] for runs in stale.values() for run in runs})
    figure.update_xaxes(title_text="batch size", type="log", tickvals=ticks, ticktext=ticks)
    figure.update_yaxes(title_text="share refreshed", range=[0, 1.05], col=1)
    return figure.update_yaxes(title_text="loss / loss with fresh statistics", col=2)


def sent_figure(part: Mapping) -> go.Figure | None:
    """Numbers a step, a group of bars for each batch size at the largest α."""
    runs = next(reversed(by_alpha(part).values()), None)
    if runs is None:
        return None
    heading = f"Numbers between {runs[0]['num_ranks']} processes in a step"
    figure = empty_figure(heading, f"α = {runs[0]['alpha']:g}")
    for key, (name, colour) in MESSAGES.items():
        heights = [run["sent"][key] for run in runs]
        bar = go.Bar(x=[f"batch {run['batch_size']}" for run in runs], y=heights, name=name)
        figure.add_trace(bar.update(marker={"color": colour}))
    figure.update_xaxes(title_text="batch size")
    return figure.update_yaxes(title_text="numbers a step")


def balance_figure(part: Mapping) -> go.Figure | None:
    """Speed-up by ranks."""
    found = part.get("balance")
    if not found:
        return None
    figure = empty_figure("Who inverts what", f"ResNet-50, {found['layers']} layers")
    looks = (
        ("greedy", "greedy owners", COLOURS["spngd"], "solid"),
        ("in_turn", "layers in turn", COLOURS["sgd"], "dash"),
        ("most", "at most, by whole layers", INK, "dot"),
    )
    for key, name, colour, dash in looks:
        line = go.Scatter(x=found["ranks"], y=_array(found[key]), name=name, mode="lines")
        figure.add_trace(line.update(line={"color": colour, "dash": dash, "width": 2}))
    figure.update_xaxes(title_text="ranks", type="log", dtick="D2")
    return figure.update_yaxes(title_text="speed-up over one rank", rangemode="tozero")
