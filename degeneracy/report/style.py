"""How do all figures look? Colours, fonts, an empty figure, a line with error bars, axes and their
titles.
"""

import html
import math
from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from degeneracy.texts import Z_95

COLOURS = {
    "sgd": "#0072b2",
    "ngd": "#cc3311",
}  # blue and red that stay apart under all common colour blindness
OTHER_COLOURS = ("#009988", "#aa4499", "#997700")  # for optimizers that a user plugs in
PARAMETER_COLOURS = (
    "#332288",
    "#cc6677",
    "#117733",
    "#ddaa33",
    "#88ccee",
    "#882255",
    "#44aa99",
    "#999933",
    "#aa4499",
)
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross")

HEIGHT = 460  # pixels, every figure
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
INK, SOFT, GRID = "#1f2933", "#616e7c", "#e4e7eb"


def label(optimizer: str) -> str:
    """How a figure, table or sentence calls an optimizer; plain text."""
    return optimizer.upper() if optimizer in COLOURS else optimizer


def optimizer_colour(optimizer: str) -> str:
    """Blue for SGD, red for NGD, another one for any other, always the same."""
    return COLOURS.get(optimizer) or OTHER_COLOURS[sum(optimizer.encode()) % len(OTHER_COLOURS)]


def shorten(text: str, length: int) -> str:
    """`text` as Plotly may draw it: at most `length` characters, cut in the middle, and nothing in
    it read as a tag.
    """
    if len(text) > length:
        head = (length - 1) // 2
        text = f"{text[:head]}…{text[len(text) - (length - 1 - head) :]}"
    return html.escape(text, quote=False)


def empty_figure(heading: str, title: str, columns: int = 1) -> go.Figure:
    """A figure in the report's look: heading, model title below it, `columns` panels, a legend at
    the bottom.
    """
    figure = make_subplots(rows=1, cols=columns, horizontal_spacing=0.13)
    figure.update_layout(
        template="none",
        title={
            "text": (
                f"<b>{heading}</b><br><span"
                f" style='font-size:13px;color:{SOFT}'>{shorten(title, 80)}</span>"
            ),
            "font": {"size": 17},
            **{"x": 0, "xref": "container", "xanchor": "left"},
            **{"y": 0.97, "yref": "container", "yanchor": "top", "pad": {"l": 12}},
        },
        height=HEIGHT,
        margin={"l": 64, "r": 20, "t": 84, "b": 40},
        font={"family": FONT, "size": 13, "color": INK},
        paper_bgcolor="white",
        plot_bgcolor="white",
        hovermode="x unified",
        hoverlabel={"namelength": -1, "font": {"family": FONT, "size": 12}},
        showlegend=True,
        # Anchored to the bottom of the container, the legend reserves its own margin however many
        # rows it wraps into.
        legend={
            "orientation": "h",
            "yref": "container",
            "y": 0,
            "yanchor": "bottom",
            "x": 0,
            "maxheight": 0.45,
        },
    )
    look = {
        "gridcolor": GRID,
        "linecolor": "#9aa5b1",
        "tickcolor": "#9aa5b1",
        "showline": True,
        "zeroline": False,
    }
    look |= {"ticks": "outside", "automargin": True, "title_font_size": 13}
    figure.update_xaxes(**look, title_standoff=8)
    figure.update_yaxes(**look, title_standoff=10)
    return figure


def optimizer_line(
    x, y, optimizer: str, name: str = "", dash: str = "solid", std_error=None
) -> go.Scatter:
    """`y` against `x` in the optimizer's colour, with 95 % error bars where `std_error` is given."""
    colour = optimizer_colour(optimizer)
    line = go.Scatter(
        x=x,
        y=y,
        name=name or label(optimizer),
        legendgroup=name or label(optimizer),
        mode="lines+markers",  # the markers show an epoch that was measured alone
        line={"color": colour, "dash": dash, "width": 2},
        marker={"color": colour, "size": 6 if len(y) <= 60 else 3},
        customdata=hover_texts(y, std_error),
        hovertemplate="%{customdata}",
    )
    if std_error is not None:
        line.error_y = {
            "type": "data",
            "array": Z_95 * std_error,
            "color": colour,
            "thickness": 1.2,
            "width": 3,
        }
    return line


def hover_texts(values: np.ndarray, std_error) -> list[str]:
    """Each value, with half its 95 % interval where `std_error` is given."""
    if std_error is None:
        return [f"{value:.4g}" for value in values]
    return [
        (
            f"{value:.4g} ± {Z_95 * error:.2g} (95 %)"
            if np.isfinite(error)
            else f"{value:.4g} (no standard error)"
        )
        for value, error in zip(values, std_error, strict=True)
    ]


def axis_scale(drawn: list[np.ndarray]) -> dict:
    """A log axis where positive values span a decade or more: ticks at 1, 2, 5, written out, or at
    powers of ten.
    """
    values = np.concatenate([*(np.asarray(values, dtype=float) for values in drawn), [np.nan]])
    values = values[np.isfinite(values)]
    if not len(values) or values.min() <= 0 or values.max() < 10 * values.min():
        return {}
    if values.max() < 1000 * values.min():
        return {"type": "log", "dtick": "D2", "tickformat": "~g" if values.min() >= 1e-4 else "~e"}
    return {"type": "log", "dtick": 1, "tickformat": ".0e"}


def llc_axis(results: Mapping) -> str:
    """Axis title of the LLC, with the settings that the number depends on."""
    sampler = results["config"]["devinterp"]
    gamma = (
        f", γ = {sampler['localization']:g}" if sampler["sampler"] != "sgnht" else ""
    )  # SGNHT has none
    return f"LLC λ̂ (nβ = {results['nbeta']:.3g}{gamma})"


def wbic_axis(results: Mapping) -> str:
    """Axis title of WBIC, which is Watanabe's only at nβ = n/ln n."""
    return (
        "WBIC (nats, nβ = n/ln n)"
        if is_watanabe_nbeta(results)
        else "WBIC (nats; tempered, as published)"
    )


def is_watanabe_nbeta(results: Mapping) -> bool:
    """Whether nβ is n/ln n, where n · mean sampled loss is WBIC (Watanabe 2013)."""
    n = results["train_size"]
    return math.isclose(results["nbeta"], n / math.log(n), rel_tol=1e-3)
