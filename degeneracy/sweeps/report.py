"""What does a sweep's page show? How many runs finished, the quantity against each swept key, the
table, and what failed.
"""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from degeneracy.report.page import Card, Drawing, Findings, Section, Tile, write_page
from degeneracy.report.style import (
    DASHES,
    SYMBOLS,
    axis_scale,
    empty_figure,
    optimizer_colours,
    shorten,
)
from degeneracy.report.tables import Table, key_values
from degeneracy.sweeps.folder import DIVERGED, FAILED, FINISHED, OPEN
from degeneracy.sweeps.grid import Axis
from degeneracy.sweeps.progress import first_line
from degeneracy.sweeps.table import SETTLED, default_quantity, number_or_none, quantities_of
from degeneracy.texts import count_of, label

# Of the final values, those that the page's table shows; the files have all.
SHOWN = ("train_loss", "val_loss", "val_accuracy", "llc", "llc_std_error", "llc_verdict")
SHOWN += ("wbic", "hessian_trace", "hessian_trace_std_error")
MOST_OTHERS = 6  # quantities shown of a study that has none of those
MOST_ROWS = 500


def write_report(
    folder: Path,
    defined: Mapping[str, Any],
    final: pd.DataFrame,
    axes: Sequence[Axis],
    quantity: str | None = None,
    running: bool = False,
) -> Path:
    """Writes `report.html` into a sweep's folder and returns its path.

    Args:
        defined: What `sweep.json` says.
        final: From `table.final_values`.
        quantity: What is drawn; None: `table.default_quantity`.
    """
    quantity = quantity or default_quantity(final)
    has_numbers = quantity in quantities_of(final)
    drawings = drawings_of(final, axes, quantity) if has_numbers else []
    title = f"Sweep of {defined['study']}: {', '.join(swept_names(axes))}"
    return write_page(
        folder / "report.html",
        title,
        Findings(
            [summary(final, quantity, has_numbers)], [values_table(final, axes), *_failures(final)]
        ),
        [Section(f"{quantity} against what was swept", drawings)] if drawings else [],
        running=running,
        context=[
            ("What was swept", [(", ".join(a.keys), _steps(a)) for a in axes]),
            ("Config that was changed", key_values(defined["config"])),
        ],
    )


def swept_names(axes: Sequence[Axis]) -> list[str]:
    """What figures are drawn against: every swept key, the seeds as one."""
    seeds = [axis.keys[0] for axis in axes if axis.is_seed]
    return [key for axis in axes if not axis.is_seed for key in axis.keys] + seeds


def _steps(axis: Axis) -> str:
    return "; ".join(", ".join(map(str, step[:1] if axis.is_seed else step)) for step in axis.steps)


def summary(final: pd.DataFrame, quantity: str | None, has_numbers: bool) -> Card:
    """How many runs finished, diverged, failed, or are open."""
    status = final.drop_duplicates("run")["status"]
    counts = {name: int((status == name).sum()) for name in (FINISHED, DIVERGED, FAILED, OPEN)}
    done = counts[FINISHED] + counts[DIVERGED]
    headline = f"{done} of {count_of(len(status), 'run')} finished"
    if counts[DIVERGED]:
        headline += f", {counts[DIVERGED]} of them with a training that diverged"
    headline += f". {counts[FAILED]} failed: the reasons stand below." * bool(counts[FAILED])
    there = ", ".join(quantities_of(final)) or "nothing"
    text = [f"{quantity or 'A number'} was not measured; there is {there}."] * (not has_numbers)
    tiles = [Tile(name, str(count)) for name, count in counts.items()]
    return Card("Runs", headline.removesuffix(".") + ".", tiles, text=text)


# ---- figures -------------------------------------------------------------------------------------


def drawings_of(final: pd.DataFrame, axes: Sequence[Axis], quantity: str) -> list[Drawing]:
    """A figure for each swept key; the seeds have one only where nothing else is swept."""
    names = swept_names(axes)
    seeds = [axis.keys[0] for axis in axes if axis.is_seed]
    drawn = [name for name in names if name not in seeds] or names
    hidden = [key for axis in axes if axis.is_seed for key in axis.keys]
    caption = "A marker is a run; lines join means over seeds, each other setting by itself."
    return [
        Drawing(f"by-{place}", caption, quantity_figure(final, key, quantity, names, hidden, axes))
        for place, key in enumerate(drawn, start=1)
    ]


def quantity_figure(
    final: pd.DataFrame,
    key: str,
    quantity: str,
    names: Sequence[str],
    hidden: Sequence[str],
    axes: Sequence[Axis],
) -> go.Figure:
    """Final values against one key: all seeds as markers, a line through their means.

    Args:
        key: The swept key on the horizontal axis.
        names: All swept keys.
        hidden: Those of the seeds.
        axes: The keys that go with `key` in a zip make no lines of their own.
    """
    figure = empty_figure(f"{quantity} against {key}", f"{len(final)} trained models")
    together = next(axis.keys for axis in axes if key in axis.keys)
    others = [name for name in names if name not in {*hidden, *together}]
    own = final.assign(
        **{quantity: [number_or_none(value) for value in final[quantity]]},
        optimizer=_optimizers(final),
    ).dropna(subset=[quantity])
    colours = optimizer_colours(list(dict.fromkeys(own["optimizer"])))
    by = ["optimizer", "model", *others]
    models = list(dict.fromkeys(own["model"]))
    is_number = pd.api.types.is_numeric_dtype(final[key]) and final[key].dtype != bool
    for place, (setting, rows) in enumerate(own.groupby(by, sort=False)):
        xs = rows[key] if is_number else rows[key].astype(str)
        colour, model = colours[setting[0]], models.index(setting[1])
        name = _line_name(setting, others, len(models) > 1)
        look = {"color": colour, "symbol": SYMBOLS[model % len(SYMBOLS)], "size": 8, "opacity": 0.7}
        figure.add_scatter(
            x=xs,
            y=rows[quantity],
            mode="markers",
            name=name,
            legendgroup=name,
            marker=look,
            customdata=rows["run"],
            hovertemplate="%{customdata}: %{y:.5g}<extra></extra>",
        )
        means = rows.groupby(xs, sort=is_number)[quantity].mean()
        dash = DASHES[place // max(1, len(colours)) % len(DASHES)]
        figure.add_scatter(
            x=means.index,
            y=means,
            mode="lines",
            name=name,
            legendgroup=name,
            showlegend=False,
            line={"color": colour, "width": 1.5, "dash": dash},
            hoverinfo="skip",
        )
    figure.update_layout(hovermode="closest")
    scale = axis_scale([final[key].to_numpy()]) if is_number else {"type": "category"}
    figure.update_xaxes(title_text=html.escape(key, quote=False), **scale)
    return figure.update_yaxes(title_text=quantity, **axis_scale([own[quantity].to_numpy()]))


def _optimizers(final: pd.DataFrame) -> list[str]:
    return ["" if pd.isna(name) else name for name in final["optimizer"]]


def _line_name(setting: Sequence[Any], others: Sequence[str], with_model: bool) -> str:
    """`NGD, alpha 0.1`, with the model where there are several."""
    optimizer, model, *values = setting
    parts = [label(optimizer)] if optimizer else []
    parts += [model] if with_model or not optimizer else []
    parts += [f"{name.rpartition('.')[2]} {v}" for name, v in zip(others, values, strict=True)]
    return shorten(", ".join(parts), 60)


# ---- tables --------------------------------------------------------------------------------------


def values_table(final: pd.DataFrame, axes: Sequence[Axis]) -> Table:
    """The final values that a reader looks for first, a row a trained model."""
    columns = list(final.columns)
    swept = [key for axis in axes for key in (axis.keys[:1] if axis.is_seed else axis.keys)]
    names = [name for name in SHOWN if name in columns]
    names = names or [name for name in quantities_of(final) if name not in SETTLED][:MOST_OTHERS]
    shown = [*swept, "status", "model", "optimizer", *names]
    rows = [[_cell(row[name]) for name in shown] for _, row in final.head(MOST_ROWS).iterrows()]
    left = f" The first {MOST_ROWS} of {len(final)} rows." if len(final) > MOST_ROWS else ""
    note = f"Every quantity is in final.csv, every checkpoint in measurements.csv.{left}"
    return Table("Final values", note, shown, rows)


def _failures(final: pd.DataFrame) -> list[Table]:
    """The runs that failed or diverged, and why; no table without one."""
    rows = [
        [row["run"], row["status"], first_line(row["reason"])]
        for _, row in final.drop_duplicates("run").iterrows()
        if row["reason"]
    ]
    note = "logs/<run>.txt has what it printed."
    return [Table("Failed and diverged", note, ["run", "status", "why"], rows)] if rows else []


def _cell(value: Any) -> str:
    if value is None or (not isinstance(value, (list, dict)) and pd.isna(value)):
        return "–"
    is_real = isinstance(value, float)
    return f"{value:.5g}" if is_real else str(value)
