"""How soon and how degenerate, each optimizer along its own learning rates, in pictures?"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from degeneracy.report.page import Drawing
from degeneracy.report.style import SYMBOLS, empty_figure, optimizer_colours, optimizer_symbols
from degeneracy.texts import label
from studies.natural_gradients.comparison.rows import (
    Row,
    by_rate,
    is_certified,
    llc_of,
    names_in,
    rows_in,
    steps_of,
    trace_of,
)

DEGENERACY, DESCENT = "comparison-degeneracy", "comparison-descent"
CAPTIONS = {
    DEGENERACY: (
        "Certified λ̂, and the Hessian's trace, where the whole training loss first passed the given"
        " one, against the steps to get there: a line an optimizer, a point a learning rate, means"
        " over seeds. Bars are ± one standard deviation over seeds."
    ),
    DESCENT: (
        "The whole training loss by step and by process second of the optimizer's own steps, each"
        " optimizer at the rate at which the most seeds arrived, of several the one of the fewest"
        " steps; the first of these seeds."
    ),
}


def figures(part: Mapping) -> list[Drawing]:
    """What there is to be drawn."""
    drawings = []
    for key, figure in ((DEGENERACY, degeneracy(part)), (DESCENT, descents(part))):
        if figure.data:
            drawings.append(Drawing(key, CAPTIONS[key], figure))
    return drawings


def degeneracy(part: Mapping) -> go.Figure:
    """λ̂ and trace against steps."""
    figure = empty_figure("Degeneracy along each learning-rate axis", _at_loss(part), columns=2)
    quantities: Sequence[tuple[str, Callable[[Row], float | None]]] = (
        ("λ̂", llc_of),
        ("trace of the Hessian", trace_of),
    )
    for column, (name, of) in enumerate(quantities, start=1):
        for optimizer in names_in(part):
            if line := _line(part, optimizer, of, certified=column == 1):
                line.showlegend = column == 1 or not any(
                    trace.name == line.name for trace in figure.data
                )
                figure.add_trace(line, row=1, col=column)
        figure.update_yaxes(title_text=name, row=1, col=column)
    figure.update_xaxes(title_text="steps to the loss", type="log", dtick="D2", tickformat="~g")
    return figure


def _at_loss(part: Mapping) -> str:
    """`at a training loss of 0.2`; empty where no run passed it."""
    found = [row["passage"]["targets"][-1] for row in rows_in(part) if row["passage"]]
    return f"at a training loss of {found[0]:g}" if found else ""


def _line(
    part: Mapping, optimizer: str, of: Callable[[Row], float | None], certified: bool
) -> go.Scatter | None:
    """An optimizer's means by rate; None without any."""
    x, y, spread, texts = [], [], [], []
    for lr, rows in by_rate(part, optimizer):
        rows = [row for row in rows if row["passage"] and row["point"]]
        rows = [row for row in rows if is_certified(row) or not certified]
        values = [value for row in rows if (value := of(row)) is not None]
        if not values:
            continue
        x.append(float(np.exp(np.mean([np.log(steps_of(row)) for row in rows]))))
        y.append(float(np.mean(values)))
        spread.append(float(np.std(values, ddof=1)) if len(values) > 1 else 0.0)
        texts.append(f"lr {lr:g}: {y[-1]:.4g} after {x[-1]:.0f} steps, {len(values)} seeds")
    if not x:
        return None
    names = names_in(part)
    colour = optimizer_colours(names)[optimizer]
    return go.Scatter(
        x=x,
        y=y,
        error_y={"array": spread, "color": colour, "thickness": 1.2},
        name=label(optimizer),
        legendgroup=optimizer,
        mode="lines+markers",
        line={"color": colour},
        marker={"symbol": optimizer_symbols(names)[optimizer], "size": 8},
        customdata=texts,
        hovertemplate="%{customdata}",
    )


def descents(part: Mapping) -> go.Figure:
    """Loss by step and by second."""
    figure = empty_figure("How fast the loss falls", "", columns=2)
    names = names_in(part)
    colours, symbols = optimizer_colours(names), optimizer_symbols(names)
    for optimizer in names:
        if not (arrived := fastest(part, optimizer)):
            continue
        row = arrived[0]
        steps, seconds, losses = zip(*row["looks"], strict=True)
        dash = "solid" if symbols[optimizer] == SYMBOLS[0] else "dash"  # where a colour repeats
        for column, x in enumerate((steps, seconds), start=1):
            figure.add_scatter(
                x=x,
                y=losses,
                name=f"{label(optimizer)}, lr {row['lr']:g}",
                legendgroup=optimizer,
                line={"color": colours[optimizer], "dash": dash, "width": 1.5},
                showlegend=column == 1,
                row=1,
                col=column,
            )
    figure.update_xaxes(title_text="step", row=1, col=1)
    figure.update_xaxes(
        title_text="process seconds", type="log", dtick="D2", tickformat="~g", row=1, col=2
    )
    figure.update_yaxes(title_text="training loss (nats)", type="log", dtick="D2", tickformat="~g")
    return figure


def fastest(part: Mapping, optimizer: str) -> list[Row]:
    """The runs that arrived, at the rate with most of them; of several that of the fewest steps.

    Steps are medians over seeds. Empty where no run arrived.
    """
    by_lr = [[row for row in rows if row["passage"]] for _, rows in by_rate(part, optimizer)]

    def order(arrived: Sequence[Row]) -> tuple[int, float]:
        return -len(arrived), float(np.median([steps_of(row) for row in arrived]))

    return min(filter(None, by_lr), key=order, default=[])
