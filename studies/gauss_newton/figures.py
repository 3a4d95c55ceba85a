"""What do exact Gauss-Newton's steps do, in pictures?"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from degeneracy.report.page import Drawing, Section
from degeneracy.report.style import (
    HEIGHT,
    INK,
    SOFT,
    axis_scale,
    empty_figure,
    optimizer_colours,
    optimizer_symbols,
    shorten,
)
from degeneracy.texts import Z_95, label, number
from studies.gauss_newton.records import (
    REGIMES,
    Found,
    losses_text,
    names,
    part,
    second_order,
    trained,
)

CAPTIONS = {
    "full-batch": (
        "How fast is one batch learned? Every step is on the same first images, an epoch a step."
        " Left: training loss after each step, in nats. Right: accuracy on all test images, of"
        " which nothing was seen."
    ),
    "own-batch": (
        "How much does a step change the loss of its own batch? Percent of the loss before, mean"
        " over an epoch's steps; −100 is all of it."
    ),
    "mini-batch": (
        "The same optimizers on mini-batches. Left: loss of all training images after each epoch."
        " Right: accuracy on the test images."
    ),
    "ntk": (
        "Does the tangent kernel change? Cosine of the exact class-space kernel JJᵀ of a fixed set"
        " of training images with that of the untrained network: 1 is a network that trains as its"
        " linearisation does."
    ),
    "cka-own": (
        "Do representations change? Linear CKA, on test images, of [y₁, y₂] after each half-layer"
        " at the end of training with the same at the start; 1 is the same up to rotation and"
        " scale."
    ),
    "cka-across": (
        "Do optimizers come to the same representations? CKA of every pair after the last"
        " half-layer, of mini-batch training on the first seed: at the last epoch that all have,"
        " and at the checkpoints nearest to the lowest training loss that all came to."
    ),
    "gap": (
        "What does the same training loss cost on test images? Test loss against training loss, in"
        " nats, over training; points are epochs, training goes to the left. On the dotted line"
        " there is no gap. Of two optimizers at one training loss the lower generalises better."
    ),
    "missed": (
        "How exact are the steps? Left: the part of the wanted step that Gauss-Newton's does not"
        " make, mean over an epoch: at the last activations, of minimum norm at the logits. Right:"
        " the least rank of [A, 1] of each half-layer over training, by the cut-offs; a block-wise"
        " step is exact where none is below the batch (dotted)."
    ),
    "weights": (
        "How far do the weights go? ‖W − W₀‖ of all weights as one vector, weight units, over"
        " training: of all solutions of one system the minimum-norm one is the shortest."
    ),
    "degeneracy": (
        "How degenerate are the end points? Left: λ̂ against the strength γ of the pull to them,"
        " with 95 % intervals; a filled marker is a certified local estimate, an open one is not."
        " Right: trace of the Hessian of the training loss, ± 95 %."
    ),
}


def study_figures(results: Mapping, traces: Mapping) -> list[Section]:
    """The figures of what is there, in the order of the story."""
    parts = {name: bool(part(results, name)) for name in ("cka", "ntk", "weights", "degeneracy")}
    regimes = {one.regime for one in trained(results)}
    exact = any(one.name in second_order(results) for one in trained(results))
    story = [
        ("Each batch at once", "full-batch", full_batch_figure, "full" in regimes),
        ("Each batch at once", "own-batch", own_batch_figure, bool(regimes)),
        ("In mini-batches", "mini-batch", mini_batch_figure, "mini" in regimes),
        ("What hardly changes", "ntk", ntk_figure, parts["ntk"]),
        ("What hardly changes", "cka-own", cka_own_figure, parts["cka"]),
        ("What hardly changes", "cka-across", cka_across_figure, bool(_across(results))),
        ("Which of the solutions", "gap", gap_figure, bool(regimes)),
        ("Which of the solutions", "missed", missed_figure, exact),
        ("Which of the solutions", "weights", weights_figure, parts["weights"]),
        ("End points", "degeneracy", degeneracy_figure, parts["degeneracy"]),
    ]
    sections: dict[str, list[Drawing]] = {}
    for heading, key, draw, is_there in story:
        if is_there:
            sections.setdefault(heading, []).append(Drawing(key, CAPTIONS[key], draw(results)))
    return [Section(heading, drawings) for heading, drawings in sections.items()]


def title_of(results: Mapping) -> str:
    """The network and the images, in a line."""
    network, data = results["config"]["network"], results["config"]["data"]
    hidden = "no bottleneck" if network["hidden"] is None else f"h = {network['hidden']}"
    batch = results["config"]["training"]["mini"]["batch_size"]
    return f"RevMLP, {network['num_blocks']} blocks, {hidden}, {data['dataset']}, B = {batch}"


# ---- training ------------------------------------------------------------------------------------


def full_batch_figure(results: Mapping) -> go.Figure:
    """Loss and accuracy over steps on one batch."""
    return _learning(results, "full", "On one batch", "step")


def mini_batch_figure(results: Mapping) -> go.Figure:
    """Loss and accuracy over epochs of mini-batches."""
    return _learning(results, "mini", "On mini-batches", "epoch")


def _learning(results: Mapping, regime: str, heading: str, unit: str) -> go.Figure:
    figure = empty_figure(heading, title_of(results), columns=2)
    found = trained(results, regime)
    losses = _add_lines(figure, results, found, lambda one: one.series("train_loss"), 1)
    _add_lines(figure, results, found, lambda one: 100 * one.series("val_accuracy"), 2)
    figure.update_yaxes(title_text="training loss (nats)", **axis_scale(losses), col=1)
    figure.update_yaxes(title_text="test accuracy (%)", col=2)
    return figure.update_xaxes(title_text=unit)


def own_batch_figure(results: Mapping) -> go.Figure:
    """Change of the loss on its own batch, a panel a regime."""
    figure = empty_figure("What a step does to its own batch", title_of(results), columns=2)
    for column, regime in enumerate(REGIMES, start=1):
        found = trained(results, regime)
        _add_lines(figure, results, found, lambda one: one.series("loss_change_percent"), column)
        title = f"change of the loss (%), {REGIMES[regime]}"
        figure.update_yaxes(title_text=title, col=column)
    figure.update_xaxes(title_text="step", col=1)
    return figure.update_xaxes(title_text="epoch", col=2)


def gap_figure(results: Mapping) -> go.Figure:
    """Test loss against training loss, a panel a regime."""
    figure = empty_figure("Test loss at equal training loss", title_of(results), columns=2)
    for column, regime in enumerate(REGIMES, start=1):
        found = trained(results, regime)
        if not found:
            continue
        drawn = _add_lines(
            figure,
            results,
            found,
            lambda one: one.series("val_loss"),
            column,
            at=lambda one: one.series("train_loss"),
        )
        losses = [one.series("train_loss") for one in found]
        ends = [np.nanmin(np.concatenate(losses)), np.nanmax(np.concatenate(losses))]
        equal = np.geomspace(*ends)  # a curve where the axis is logarithmic
        line = go.Scatter(x=equal, y=equal, mode="lines", line={"color": SOFT, "dash": "dot"})
        line.update(showlegend=False, hoverinfo="skip")
        figure.add_trace(line, row=1, col=column)
        scale = axis_scale(losses)
        if ends[1] > 100 * ends[0]:  # where labels at 1, 2 and 5 would meet
            scale |= {"dtick": 1}
        title = f"training loss (nats), {REGIMES[regime]}"
        figure.update_xaxes(title_text=title, **scale, col=column)
        figure.update_yaxes(**axis_scale(drawn), col=column)
    figure.update_layout(hovermode="closest")
    return figure.update_yaxes(title_text="test loss (nats)")


def missed_figure(results: Mapping) -> go.Figure:
    """Missed fraction over training, and the least rank of every half-layer."""
    figure = empty_figure("How exact the steps are", title_of(results), columns=2)
    exact = second_order(results)
    found = [one for one in trained(results, "mini") if one.name in exact]
    found = found or [one for one in trained(results) if one.name in exact]
    _add_lines(figure, results, found, lambda one: 100 * one.series("missed_fraction"), 1)
    colours = optimizer_colours(names(results))
    for one in _first_seed(found):
        ranks = least_ranks(one)
        bars = go.Bar(x=list(ranks), y=list(ranks.values()), name=label(one.name))
        bars.update(marker_color=colours[one.name], legendgroup=one.name, showlegend=False)
        figure.add_trace(bars, row=1, col=2)
    size = results["config"]["training"][found[0].regime]["batch_size"]
    figure.add_hline(y=size, line={"color": INK, "dash": "dot", "width": 1.5}, row=1, col=2)
    figure.update_yaxes(title_text="missed of the wanted step (%)", rangemode="tozero", col=1)
    figure.update_yaxes(title_text=f"least rank of [A, 1], batch {size}", col=2)
    figure.update_xaxes(title_text="epoch", col=1)
    return figure.update_xaxes(title_text="half-layer", col=2)


def least_ranks(one: Found) -> dict[str, int]:
    """Half-layer → least rank over all epochs; empty of a first-order optimizer."""
    found = [ranks for ranks in one.record["series"]["min_rank"] if ranks]
    return {name: min(ranks[name] for ranks in found) for name in (found[0] if found else ())}


# ---- analyses ------------------------------------------------------------------------------------


def ntk_figure(results: Mapping) -> go.Figure:
    """Similarity of the tangent kernel with its start, a panel a regime."""
    similar = part(results, "ntk")
    heading = "The tangent kernel beside that at the start"
    return _from_checkpoints(results, similar, "similarity", heading, "cosine of the kernels")


def weights_figure(results: Mapping) -> go.Figure:
    """‖W − W₀‖ over training, a panel a regime."""
    moved = part(results, "weights")
    return _from_checkpoints(results, moved, "change", "How far the weights go", "‖W − W₀‖", True)


def _from_checkpoints(
    results: Mapping, found: Mapping, key: str, heading: str, title: str, is_log: bool = False
) -> go.Figure:
    figure = empty_figure(heading, title_of(results), columns=2)
    for column, regime in enumerate(REGIMES, start=1):
        there = [one for one in trained(results, regime) if one.key in found]
        drawn = _add_lines(
            figure,
            results,
            there,
            lambda one: _drawable(found[one.key][key], is_log),
            column,
            at=lambda one: found[one.key]["epochs"],
        )
        scale = axis_scale(drawn) if is_log else {}
        figure.update_yaxes(title_text=f"{title}, {REGIMES[regime]}", **scale, col=column)
    figure.update_xaxes(title_text="step", col=1)
    return figure.update_xaxes(title_text="epoch", col=2)


def _drawable(values: Sequence, is_log: bool) -> np.ndarray:
    """Numbers, those that a log axis cannot show as NaN."""
    numbers = np.array(values, dtype=float)
    return np.where(numbers > 0, numbers, np.nan) if is_log else numbers


def cka_own_figure(results: Mapping) -> go.Figure:
    """CKA of end and start by half-layer, a panel a regime."""
    heading = "Representations at the end beside those at the start"
    figure = empty_figure(heading, title_of(results), columns=2)
    found = part(results, "cka")
    for column, regime in enumerate(REGIMES, start=1):
        there = [one for one in trained(results, regime) if f"own/{one.key}" in found]
        _add_lines(
            figure,
            results,
            there,
            lambda one: np.array(list(found[f"own/{one.key}"]["last"].values()), dtype=float),
            column,
            at=lambda one: list(found[f"own/{one.key}"]["last"]),
        )
        figure.update_yaxes(title_text=f"CKA, {REGIMES[regime]}", col=column)
    return figure.update_xaxes(title_text="after half-layer")


def cka_across_figure(results: Mapping) -> go.Figure:
    """CKA of every pair after the last half-layer: at equal epoch, at equal training loss."""
    found = _across(results)
    figure = empty_figure("Optimizers beside each other", title_of(results), columns=2)
    shown = [shorten(label(name), 18) for name in found["names"]]
    for column, key in enumerate(("equal_epoch", "equal_loss"), start=1):
        matrix = np.array(list(found[key].values())[-1], dtype=float)
        heat = go.Heatmap(
            z=matrix,
            x=shown,
            y=shown,
            zmin=np.nanmin(matrix) if np.nanmin(matrix) < 0.9 else 0.9,
            zmax=1,
            colorscale="Blues",
            text=[[f"{value:.3f}" for value in row] for row in matrix],
            texttemplate="%{text}",
            showscale=False,
            hovertemplate="%{x}, %{y}: %{z:.4f}<extra></extra>",
        )
        figure.add_trace(heat, row=1, col=column)
    figure.update_yaxes(autorange="reversed")
    figure.update_yaxes(showticklabels=False, col=2)
    figure.update_xaxes(tickangle=-40)
    figure.update_xaxes(title_text=f"at epoch {found['common_epoch']}", col=1)
    figure.update_xaxes(title_text=f"at training losses of {losses_text(found)}", col=2)
    return figure.update_layout(showlegend=False, hovermode="closest", height=HEIGHT + 40)


def _across(results: Mapping) -> Mapping | None:
    """The comparison that is drawn: mini-batches, first seed; else the first that is there."""
    seed = results["config"]["training"]["seed"]
    found = part(results, "cka")
    others = [value for key, value in found.items() if key.startswith("across/")]
    return found.get(f"across/mini/{seed}") or next(iter(others), None)


def degeneracy_figure(results: Mapping) -> go.Figure:
    """λ̂ against γ and the Hessian's trace of the end points."""
    found = part(results, "degeneracy")
    figure = empty_figure("Degeneracy of the end points", title_of(results), columns=2)
    colours = optimizer_colours(names(results))
    ends = [one for one in trained(results) if f"{one.key}/trace" in found]
    for one in ends:
        gammas = sorted(
            (
                record
                for key, record in found.items()
                if key.rpartition("/")[0] == one.key and record.get("llc") is not None
            ),
            key=lambda record: record["gamma"],
        )
        line = go.Scatter(x=[r["gamma"] for r in gammas], y=[r["llc"] for r in gammas])
        halves = [Z_95 * (number(r["std_error"]) or 0) for r in gammas]
        local = [r["verdict"] == "local estimate" for r in gammas]
        line.update(mode="lines+markers", name=label(one.name), legendgroup=one.name)
        line.update(line={"color": colours[one.name], "width": 2})
        line.update(
            marker={
                "size": 9,
                "color": [colours[one.name] if x else "white" for x in local],
                "line": {"color": colours[one.name], "width": 2},
            }
        )
        line.update(error_y={"type": "data", "array": halves, "thickness": 1.2, "width": 3})
        line.update(customdata=[r["verdict"] for r in gammas])
        line.update(hovertemplate="γ = %{x}: %{y:.3g}, %{customdata}")
        figure.add_trace(line, row=1, col=1)
    traces = [found[f"{one.key}/trace"] for one in ends]
    points = go.Scatter(x=[label(one.name) for one in ends], y=[t["trace"] for t in traces])
    points.update(mode="markers", showlegend=False)
    points.update(marker={"color": [colours[one.name] for one in ends], "size": 9})
    points.update(error_y={"type": "data", "array": [Z_95 * (t["std_error"] or 0) for t in traces]})
    figure.add_trace(points, row=1, col=2)
    figure.update_xaxes(title_text="optimizer", tickangle=-40, col=2)
    gammas = results["config"]["degeneracy"]["localizations"]
    figure.update_xaxes(
        title_text="γ (weight units⁻²)",
        type="log",
        dtick=1,
        exponentformat="power",
        range=[np.log10(gammas[0]) - 0.3, np.log10(gammas[-1]) + 0.3],
        col=1,
    )
    figure.update_yaxes(title_text="LLC λ̂", col=1)
    scale = axis_scale([points.y])
    figure.update_yaxes(title_text="Hessian trace (nats / weight²)", **scale, col=2)
    return figure.update_layout(hovermode="closest")


# ---- lines ---------------------------------------------------------------------------------------


def _add_lines(
    figure: go.Figure,
    results: Mapping,
    found: Sequence[Found],
    values: Callable[[Found], np.ndarray],
    column: int,
    at: Callable[[Found], Sequence] = lambda one: one.series("epoch"),
) -> list[np.ndarray]:
    """A line a trajectory, those of further seeds thinner and not in the legend; what was drawn."""
    every = names(results)
    colours, symbols = optimizer_colours(every), optimizer_symbols(every)
    named = {trace.name for trace in figure.data}
    first_seeds, drawn = _first_seed(found), []
    for one in found:
        first, y = one in first_seeds, values(one)
        line = go.Scatter(x=list(at(one)), y=y, mode="lines+markers", name=label(one.name))
        line.update(line={"color": colours[one.name], "width": 2.2 if first else 1})
        line.update(marker={"size": 5, "symbol": symbols[one.name]})
        line.update(legendgroup=one.name, showlegend=first and label(one.name) not in named)
        line.update(hovertemplate="%{y:.4g}" + f", seed {one.seed}")
        figure.add_trace(line, row=1, col=column)
        drawn.append(y)
    return drawn


def _first_seed(found: Sequence[Found]) -> list[Found]:
    return list({one.name: one for one in reversed(found)}.values())[::-1]
