"""What does the factorial experiment look like?"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from degeneracy.report.page import Drawing, Section
from degeneracy.report.style import DASHES, INK, SOFT, empty_figure, optimizer_colours
from degeneracy.sweeps.statistics import LEAST, Mean, mean_of
from degeneracy.texts import label, listed
from studies.atlas.contrasts import (
    ENDPOINT,
    contrast_groups,
    contrasts_of,
    endpoint_label,
    quantities_of,
    rows_of,
    table_of,
    window_of,
)
from studies.atlas.endpoint import points_of, value_at
from studies.atlas.model import fitted
from studies.atlas.planned import has_all_pairs, levels_of, planned
from studies.atlas.settings import name_of

CAPTIONS = {
    "llc-against-loss": (
        "λ̂ of annealed branches against the training loss that they end in, a"
        " thin line a run, a thick one the mean over seeds with its 95 % band, at losses that all"
        " of them have; certified or not. Panels: the network and, where it differs from the late"
        " one, the early optimizer. Colour: the late optimizer. Line style: the learning rate, in"
        " largest stable ones. The grey band is the window over which the endpoint is averaged."
        " Lower is more degenerate."
    ),
    "contrasts": (
        "Each contrast as a ratio of λ̂, its mean over seeds with the 95 % interval, and every"
        " seed's own value. The grey band is the margin within which two are called equivalent. A"
        " hollow marker was not tested: some arm has an endpoint in too few of its runs."
    ),
    "rates": (
        "The endpoint against the learning rate, in largest stable ones of the same optimizer:"
        " means over seeds with 95 % intervals, a line for each optimizer, or each pair of an early"
        " and a late one. A point without an interval is one run."
    ),
    "measures": (
        "The contrasts of one factor by every measure in the same window: is the answer one of the"
        " gauge, or of how λ̂ is sampled? Means over seeds with 95 % intervals, as ratios."
    ),
    "variance": (
        "What makes two runs of one cell differ: the seed (initial weights, data order and the"
        " sampler's noise, as far as they do the same to all cells), what the run makes of it"
        " (trajectory), and what is left of the sampler's own error. Standard deviation of log λ̂,"
        " in percent of λ̂. Right: the spread between the cells of a network, beside it."
    ),
}
GROUPS = (INK, "#009e73", "#e69f00", "#332288")  # colours of networks, all together first
BAND_RUNS = 3  # runs from which on there is a band: that of two is all over the figure
BAND = "rgba(97, 110, 124, 0.14)"
SHOWN = ("raw", ENDPOINT, "gauge_free", "relative_trace", "balanced_trace", "raw_trace")
SHOWN_TOO = ("balanced_largest", "published", "val_loss", "norm", "length")


def atlas_figures(results: Mapping, traces: Mapping) -> list[Section]:
    """What is there to be drawn."""
    if not rows_of(results):
        return []
    drawn = {"llc-against-loss": loss_figure(results)}
    if contrast_groups(results):
        drawn["contrasts"] = contrast_figure(results)
        drawn["rates"] = rate_figure(results)
        drawn["measures"] = measure_figure(results)
    if fitted(results) is not None:
        drawn["variance"] = variance_figure(results)
    drawings = [Drawing(key, CAPTIONS[key], figure) for key, figure in drawn.items()]
    return [Section("The factorial experiment", drawings)]


def seeds_text(results: Mapping) -> str:
    """`MNIST, 6,400 images; 2×256: 10 seeds`."""
    table, factorial = table_of(results), results["config"]["factorial"]
    counts = table.groupby("model", sort=False)["seed"].nunique()
    done = ", ".join(f"{model}: {count} seeds" for model, count in counts.items())
    return f"{factorial['dataset'].upper()}, {factorial['num_images']:,} images; {done}"


def over(results: Mapping) -> str:
    """`NGD over SGD`; `over SGD` where several are compared with it."""
    base, other = map(label, levels_of(results)[:2])
    return f"{other} over {base}" if has_all_pairs(results) else f"over {base}"


def starts_of(results: Mapping) -> list[str | None]:
    """Early optimizers, a panel each; one panel, of None, where they are the late ones too."""
    return results["config"]["factorial"]["optimizers"] if has_all_pairs(results) else [None]


# ---- λ̂ by loss -----------------------------------------------------------------------------------


def loss_figure(results: Mapping) -> go.Figure:
    """λ̂ of every branch measured, by training loss; panels early optimizer × network."""
    names = starts_of(results)
    models = list(dict.fromkeys(row["model"] for row in rows_of(results)))
    figure = make_subplots(
        len(models),
        len(names),
        shared_xaxes=True,
        shared_yaxes="rows",
        horizontal_spacing=0.04,
        vertical_spacing=0.1,
        subplot_titles=[
            model if name is None else f"{model}, early {label(name)}"
            for model in models
            for name in names
        ],
    )
    styled(figure, "λ̂ by training loss", seeds_text(results), height=180 + 300 * len(models))
    seen: set[str] = set()
    for (row, column), runs in _panels(results, models, names):
        for (late, fraction), lines in runs.items():
            _lines(figure, results, (row, column), late, fraction, lines, seen)
    top, bottom = window_of(results)
    for row in range(1, len(models) + 1):
        for column in range(1, len(names) + 1):
            figure.add_vrect(
                x0=bottom, x1=top, fillcolor=BAND, line_width=0, layer="below", row=row, col=column
            )
        figure.update_yaxes(title_text=endpoint_label(results), row=row, col=1)
    points = [line_of(run) for run in rows_of(results)]
    losses, values = ([number for line in points for number in line[place]] for place in (0, 1))
    figure.update_xaxes(type="log", autorange="reversed", matches="x", **ticks(losses))
    figure.update_xaxes(title_text="training loss after annealing (nats)", row=len(models))
    figure.update_yaxes(type="log", **ticks(values))
    figure.update_annotations(font_size=13)
    return figure


def ticks(values: Sequence[float]) -> dict[str, Any]:
    """Ticks of a log axis at 1, 2, 5 times powers of ten, written out, around some values."""
    if not values:
        return {}
    low, high = (math.floor(math.log10(end)) for end in (min(values), max(values)))
    found = [digit * 10.0**power for power in range(low, high + 2) for digit in (1, 2, 5)]
    return {"tickvals": found, "ticktext": [f"{value:g}" for value in found]}


def _panels(
    results: Mapping, models: Sequence[str], names: Sequence[str | None]
) -> Iterator[tuple[tuple[int, int], dict[tuple, list[tuple[list, list]]]]]:
    """(row, column) → (late, fraction) → (losses, λ̂) of each run."""
    for row, model in enumerate(models, start=1):
        for column, name in enumerate(names, start=1):
            found: dict[tuple, list] = {}
            for run in rows_of(results):
                if run["model"] == model and name in (None, run["early"]):
                    line = line_of(run)
                    found.setdefault((run["late"], run["fraction"]), []).append(line)
            yield (row, column), found


def line_of(run: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """(losses, falling; λ̂) of a run's branches."""
    pairs = [(p["train_loss"], value_at(p, ENDPOINT)) for p in points_of(run)]
    pairs = sorted(((x, y) for x, y in pairs if y is not None and y > 0), reverse=True)
    return [x for x, _ in pairs], [y for _, y in pairs]


def _lines(figure, results, place, late, fraction, lines, seen) -> None:
    """Thin runs, then their mean on a grid with its band."""
    factorial = results["config"]["factorial"]
    colour = optimizer_colours(factorial["optimizers"])[late]
    dash = DASHES[sorted(factorial["fractions"])[::-1].index(fraction) % len(DASHES)]
    phase = "late " if has_all_pairs(results) else ""
    name = f"{phase}{label(late)}, rate {fraction:.3g}"
    row, column = place
    for losses, values in lines:
        figure.add_scatter(
            x=losses,
            y=values,
            mode="lines",
            line={"color": colour, "width": 0.6, "dash": dash},
            opacity=0.35,
            showlegend=False,
            hoverinfo="skip",
            row=row,
            col=column,
        )
    grid, mean, low, high = band_of(lines)
    if len(grid):
        figure.add_scatter(
            x=[*grid, *grid[::-1]],
            y=[*high, *low[::-1]],
            fill="toself",
            fillcolor=colour,
            opacity=0.12,
            line={"width": 0},
            showlegend=False,
            hoverinfo="skip",
            row=row,
            col=column,
        )
    figure.add_scatter(
        x=grid if len(grid) else [None],
        y=mean if len(grid) else [None],
        name=name,
        legendgroup=name,
        mode="lines",
        line={"color": colour, "width": 2.4, "dash": dash},
        showlegend=name not in seen,
        row=row,
        col=column,
    )
    seen.add(name)


def band_of(
    lines: Sequence[tuple[Sequence[float], Sequence[float]]], size: int = 25
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(losses, mean, low, high) of log λ̂ over runs where all that have a line have a value."""
    logs = [
        (np.log(losses)[::-1], np.log(values)[::-1]) for losses, values in lines if len(losses) > 1
    ]
    empty = np.empty(0)
    if len(logs) < BAND_RUNS:
        return empty, empty, empty, empty
    first, last = max(x[0] for x, _ in logs), min(x[-1] for x, _ in logs)
    if first >= last:
        return empty, empty, empty, empty
    grid = np.linspace(first, last, size)
    heights = np.stack([np.interp(grid, x, y) for x, y in logs], axis=1)
    means = [mean_of(row) for row in heights]
    ends = zip(*((m.value, m.low, m.high) for m in means), strict=True)
    return np.exp(grid), *(np.exp(np.array(values)) for values in ends)


# ---- contrasts -----------------------------------------------------------------------------------


def contrast_figure(results: Mapping) -> go.Figure:
    """A forest plot: all networks together, then each alone."""
    models = [name_of(model) for model in results["config"]["factorial"]["models"]]
    together = "all networks" if len(models) > 1 else models[0]
    groups = {model or together: found for model, found in contrast_groups(results).items()}
    figure = empty_figure("Contrasts of λ̂ at equal training loss", seeds_text(results))
    there = {contrast.name for found in groups.values() for contrast in found}
    names = [name for name in planned(results) if name in there]
    for place, (group, found) in enumerate(groups.items()):
        shift = 0.22 * (place - (len(groups) - 1) / 2)
        _forest(figure, group, found, names, shift, GROUPS[place % len(GROUPS)])
    margin = results["config"]["factorial"]["margin"]
    figure.add_vrect(
        x0=1 / (1 + margin), x1=1 + margin, fillcolor=BAND, line_width=0, layer="below"
    )
    figure.add_vline(x=1, line_color=SOFT, line_width=1)
    title = f"ratio of λ̂ ({over(results)}, or of such ratios)"
    figure.update_xaxes(title_text=title, type="log", dtick="D2", tickformat="~g")
    ticks = {"tickvals": list(range(len(names))), "ticktext": names}
    figure.update_yaxes(**ticks, autorange="reversed")
    figure.update_layout(hovermode="closest", height=200 + 90 * len(names))
    return figure


def _forest(figure, group, found, names, shift, colour) -> None:
    for number, contrast in enumerate(found):
        y = names.index(contrast.name) + shift
        figure.add_scatter(
            x=[math.exp(value) for value in contrast.by_seed.values()],
            y=[y + 0.07] * len(contrast.by_seed),
            mode="markers",
            marker={"color": colour, "size": 4, "opacity": 0.4},
            showlegend=False,
            hovertext=[f"seed {seed}" for seed in contrast.by_seed],
        )
        mean = mean_of([*contrast.by_seed.values()])
        middle = math.exp(mean.value)
        has_interval = math.isfinite(mean.low)
        figure.add_scatter(
            x=[middle],
            y=[y],
            error_x={
                "array": [math.exp(mean.high) - middle if has_interval else 0],
                "arrayminus": [middle - math.exp(mean.low) if has_interval else 0],
                "thickness": 2,
            },
            mode="markers",
            name=group,
            legendgroup=group,
            showlegend=number == 0,
            marker={
                "color": colour,
                "size": 10,
                "symbol": "diamond" if contrast.is_tested else "diamond-open",
            },
        )


def rate_figure(results: Mapping) -> go.Figure:
    """The endpoint by relative learning rate; a panel a network."""
    table = table_of(results)
    names = results["config"]["factorial"]["optimizers"]
    models = list(dict.fromkeys(table["model"]))
    figure = empty_figure("λ̂ by learning rate", seeds_text(results), len(models))
    colours = optimizer_colours(names)
    for column, model in enumerate(models, start=1):
        runs = table[table["model"] == model]
        for early, late in dict.fromkeys(zip(table["early"], table["late"], strict=True)):
            own = runs[(runs["early"] == early) & (runs["late"] == late)]
            name = f"{label(early)} → {label(late)}" if has_all_pairs(results) else label(late)
            dash = DASHES[names.index(early) % len(DASHES) if has_all_pairs(results) else 0]
            _rate_line(figure, own, column, name, {"color": colours[late], "dash": dash})
        figure.update_xaxes(
            title_text=f"{model}: learning rate over largest stable", type="log", col=column
        )
    rates = sorted(table["fraction"].unique())
    figure.update_xaxes(tickvals=rates, ticktext=[f"{rate:.3g}" for rate in rates])
    figure.update_yaxes(type="log", **ticks(list(table[ENDPOINT].dropna())))
    figure.update_yaxes(title_text=f"{endpoint_label(results)}, in the window", col=1)
    return figure


def _rate_line(figure, runs: pd.DataFrame, column: int, name: str, line: dict) -> None:
    kept = runs.dropna(subset=[ENDPOINT])
    means = {
        fraction: mean_of(np.log(group[ENDPOINT])) for fraction, group in kept.groupby("fraction")
    }
    y = [math.exp(mean.value) for mean in means.values()]
    ends = [
        (math.exp(m.high) - v, v - math.exp(m.low)) if math.isfinite(m.low) else (0.0, 0.0)
        for m, v in zip(means.values(), y, strict=True)
    ]
    figure.add_scatter(
        x=list(means),
        y=y,
        error_y={"array": [up for up, _ in ends], "arrayminus": [down for _, down in ends]},
        name=name,
        legendgroup=name,
        showlegend=column == 1,
        mode="lines+markers",
        line=line,
        row=1,
        col=column,
    )


def measure_figure(results: Mapping) -> go.Figure:
    """The contrasts of one factor by every measure, a colour a network."""
    asked = {name: one for name, one in planned(results).items() if one.is_main}
    title = f"{listed([*asked])}, by every measure"
    figure = empty_figure(title[0].upper() + title[1:], seeds_text(results), len(asked))
    labels = quantities_of(results)
    wanted = [name for name in (*SHOWN, *SHOWN_TOO) if name in labels]
    models = list(dict.fromkeys(row["model"] for row in rows_of(results)))
    for place, model in enumerate(models):
        shift = 0.24 * (place - (len(models) - 1) / 2)
        colour = GROUPS[(place + 1) % len(GROUPS)]
        rows = _rows_by_contrast(results, model, wanted)
        for column, name in enumerate(asked, start=1):
            _measures(figure, rows.get(name, []), column, shift, model, colour)
    for column, name in enumerate(asked, start=1):
        figure.add_vline(x=1, line_color=SOFT, line_width=1, row=1, col=column)
        colon = ": ratio," if has_all_pairs(results) else ""
        figure.update_xaxes(title_text=f"{name}{colon} {over(results)}", type="log", col=column)
    figure.update_yaxes(
        tickvals=list(range(len(wanted))),
        ticktext=[labels[quantity] for quantity in wanted],
        range=[len(wanted) - 0.5, -0.5],
    )
    for column in range(2, len(asked) + 1):
        figure.update_yaxes(showticklabels=False, col=column)
    figure.update_layout(hovermode="closest", height=200 + 32 * len(wanted))
    return figure


def _rows_by_contrast(
    results: Mapping, model: str, quantities: Sequence[str]
) -> dict[str, list[tuple[int, Mean]]]:
    """Contrast → (row, mean over seeds) of every quantity that has it, in a network."""
    table, found = table_of(results), {}
    for row, quantity in enumerate(quantities):
        for contrast in contrasts_of(results, quantity, model, table):
            mean = mean_of([*contrast.by_seed.values()])
            found.setdefault(contrast.name, []).append((row, mean))
    return found


def _measures(
    figure: go.Figure,
    rows: Sequence[tuple[int, Mean]],
    column: int,
    shift: float,
    model: str,
    colour: str,
) -> None:
    """A network's means over seeds of one contrast, in its panel."""
    figure.add_scatter(
        x=[math.exp(mean.value) for _, mean in rows],
        y=[row + shift for row, _ in rows],
        error_x={
            "array": [_end(mean.high, mean.value) for _, mean in rows],
            "arrayminus": [-_end(mean.low, mean.value) for _, mean in rows],
            "thickness": 2,
        },
        mode="markers",
        name=model,
        legendgroup=model,
        marker={"color": colour, "size": 9, "symbol": "diamond"},
        showlegend=column == 1,
        hovertext=[f"{mean.count} seeds" for _, mean in rows],
        row=1,
        col=column,
    )


def _end(end: float, value: float) -> float:
    return math.exp(end) - math.exp(value) if math.isfinite(end) else 0.0


def variance_figure(results: Mapping) -> go.Figure:
    """Standard deviations of log λ̂: seed, trajectory, sampler, and between cells."""
    components = fitted(results).components
    table = table_of(results).dropna(subset=[ENDPOINT])
    cells = np.log(table[ENDPOINT]).groupby(
        [table[name] for name in ("model", "early", "late", "fraction")]
    )
    deviations = {
        "seed": math.sqrt(components.seed),
        "trajectory": math.sqrt(components.trajectory),
        "sampler": math.sqrt(components.sampler),
        "between cells": float(cells.mean()[cells.count() >= LEAST].groupby("model").std().mean()),
    }
    figure = empty_figure("What makes runs differ", seeds_text(results))
    figure.add_bar(
        x=list(deviations),
        y=[100 * value for value in deviations.values()],
        text=[f"{100 * value:.1f} %" for value in deviations.values()],
        textposition="outside",
        cliponaxis=False,
        marker_color=["#009e73", "#e69f00", "#332288", SOFT],
        showlegend=False,
    )
    figure.update_yaxes(title_text="standard deviation of λ̂ (%)", rangemode="tozero")
    return figure


def styled(figure: go.Figure, heading: str, title: str, height: int) -> None:
    """Gives panels of several rows the report's look."""
    look = empty_figure(heading, title)
    look.update_layout(height=height)
    layout = look.layout.to_plotly_json()
    axes = {key: layout.pop(key) for key in [*layout] if key.startswith(("xaxis", "yaxis"))}
    figure.update_layout(layout)
    for kind in ("xaxis", "yaxis"):
        own = {k: v for k, v in axes[kind].items() if k not in ("anchor", "domain", "title")}
        own["title_font_size"] = 13
        (figure.update_xaxes if kind == "xaxis" else figure.update_yaxes)(**own)
