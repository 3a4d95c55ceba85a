"""How do all figures look? Colours, fonts, an empty figure, a line with error bars, axes and their
titles, and what a figure says to a reader who does not see it.
"""

import html
import itertools
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from degeneracy.texts import Z_95, label

# Okabe and Ito's, Tol's, and four that a search found between them: any two stay apart under
# protanopia, deuteranopia and tritanopia.
COLOURS = {
    "sgd": "#0072b2",
    "ngd": "#cc3311",
    "adamw": "#009e73",
    "muon": "#332288",
    "soap": "#9922ff",
    "spngd": "#880066",
    "seng": "#aacc77",
    "exact_ngd": "#9977ff",
}
OTHER_COLOURS = ("#cc79a7", "#663333", "#e69f00")  # for optimizers that a user plugs in
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


def optimizer_colours(names: Sequence[str]) -> dict[str, str]:
    """The colour of each optimizer of a run, as `#rrggbb`: a known kind has its own in every run.

    The others take the colours that are left, in order. No two are alike up to eleven optimizers;
    from there on they repeat, with another of `optimizer_symbols`.
    """
    return {name: colour for name, (colour, _) in _looks(names).items()}


def optimizer_symbols(names: Sequence[str]) -> dict[str, str]:
    """The marker of each optimizer of a run: circles, and another one where a colour repeats."""
    return {name: symbol for name, (_, symbol) in _looks(names).items()}


def _looks(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """(colour, symbol) of each name."""
    palette = [*OTHER_COLOURS, *COLOURS.values()]
    taken = {COLOURS.get(name) for name in names}
    free = [(colour, SYMBOLS[0]) for colour in palette if colour not in taken]
    free += [(colour, symbol) for symbol in SYMBOLS[1:] for colour in palette]
    others = [name for name in dict.fromkeys(names) if name not in COLOURS]
    own = {name: (COLOURS[name], SYMBOLS[0]) for name in names if name in COLOURS}
    looks = own | dict(zip(others, itertools.cycle(free), strict=False))
    return {name: looks[name] for name in names}


def optimizer_colour(optimizer: str) -> str:
    """The colour of an optimizer that stands alone; those of one run: `optimizer_colours`."""
    return optimizer_colours([optimizer])[optimizer]


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
            **{"y": 0.95, "yref": "container", "yanchor": "top", "pad": {"l": 12}},
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
    x,
    y,
    optimizer: str,
    name: str = "",
    dash: str = "solid",
    std_error=None,
    *,
    colour: str | None = None,
    symbol: str = SYMBOLS[0],
) -> go.Scatter:
    """`y` against `x` as the line of an optimizer, with 95 % error bars where `std_error` is given.

    `colour` and `symbol` are those that `optimizer_colours` and `optimizer_symbols` give it among
    the optimizers of its run; without them it stands alone.
    """
    colour = colour or optimizer_colour(optimizer)
    line = go.Scatter(
        x=x,
        y=y,
        name=name or label(optimizer),
        legendgroup=name or label(optimizer),
        mode="lines+markers",  # the markers show an epoch that was measured alone
        line={"color": colour, "dash": dash, "width": 2},
        marker={"color": colour, "size": 6 if len(y) <= 60 else 3, "symbol": symbol},
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
    has_gamma = sampler["sampler"] != "sgnht"
    gamma = f", γ = {sampler['localization']:g}" if has_gamma else ""
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


def alt_text(figure: go.Figure) -> str:
    """What a figure shows, in words: its title, its axes, and the names in its legend."""
    layout = figure.layout
    axes = [*figure.select_xaxes(), *figure.select_yaxes()]
    bars = [layout.coloraxis.colorbar, *(t.colorbar for t in figure.select_traces("heatmap"))]
    named = [trace.name for trace in figure.data if trace.showlegend is not False]
    parts = [
        _plain(layout.title.text) or "Figure without a title",
        *_listed("axes", [axis.title.text for axis in axes]),
        *_listed("colour", [bar.title.text for bar in bars]),
        *_listed("shown", named),
    ]
    return ". ".join(parts) + "."


def _listed(what: str, texts: Sequence[str | None]) -> list[str]:
    """One part of an alternative text, each of its texts once; none where there is no text."""
    words = [word for word in dict.fromkeys(map(_plain, texts)) if word]
    return [f"{what}: {'; '.join(words)}"] if words else []


def _plain(text: str | None) -> str:
    """A text as Plotly draws it, without its tags, on one line."""
    text = re.sub(r"<br ?/?>", ", ", text or "")
    text = re.sub(r"</?(?:b|i|em|s|u|a|sub|sup|span|strong)(?: [^<>]*)?>", "", text)
    return re.sub(r"[\s,]*,\s", ", ", " ".join(html.unescape(text).split())).strip(" ,")
