"""What did SGLD find where λ is known, in pictures?"""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from degeneracy.llc.statistics import STEADY
from degeneracy.report.page import Drawing, Section
from degeneracy.report.style import DASHES, HEIGHT, INK, SOFT, empty_figure
from degeneracy.texts import number, with_error
from studies.min_singular_models.cases import (
    CROSSING,
    DEEP,
    FAMILIES,
    LINEAR,
    POPULATION,
    SAMPLE,
    SINGULAR,
)
from studies.min_singular_models.records import (
    WANTED,
    Records,
    column,
    half_rank,
    half_width,
    percent_off,
    records,
)

# Tol's: apart under colour blindness, and dark enough for text.
COLOURS = {POPULATION: "#009988", SAMPLE: "#aa4499", CROSSING: "#997700", DEEP: "#332288"}
# The two losses stand this far apart on a log axis, so that their bars do not hide each other.
NUDGE = 1.02
LOG = {"type": "log", "dtick": "D2", "tickformat": "~g"}
HALF_RANK_AXIS = "half the number of weights that matter, r/2"

CAPTIONS = {
    "llc": (
        "Does the estimate count the weights that matter? The dotted line is λ = r/2. Diamonds are"
        " what is expected at the finite nβ and γ: a little below it, because γ takes γ/(nβ h + γ)"
        " of every direction, and on a sample also because w* = 0 is not the sample's minimum. Bars"
        " are 95 % intervals of the sampling alone, smaller than the points here; a hollow point"
        " has not settled."
    ),
    "rank": (
        "Is the rank of the Hessian the number of weights that matter? Half the number of"
        " eigenvalues above a thousandth of the largest, by stochastic Lanczos quadrature. Bars are"
        " 95 % intervals over probes plus the quadrature's error."
    ),
    "singular": (
        "Where the Hessian does not tell. All numbers as fractions of the exact λ. Crosses are"
        " rank(H)/2, the part of λ that the Hessian at w* sees, with 95 % intervals; without"
        " singularity λ would be d/2, d the number of weights. For normal crossings diamonds are"
        " the exact value at these nβ and γ, lower than λ: at multiplicity m by (m − 1)/ln nβ to"
        " first order. For deep linear networks no such value is known and λ itself is expected."
        " Bars are 95 % intervals of the sampling alone; a hollow point has not settled."
    ),
    "error": (
        "How far from the value expected at these nβ and γ, in percent? Bars are 95 % intervals of"
        " the sampling alone; the grey lines are ±5 %. The dotted curves are the error that the"
        " Langevin step ε itself makes, which is known for the linear model. For deep linear"
        " networks the error is against λ itself: it holds the finite nβ and γ too. A hollow point"
        " has not settled. The two losses stand a little left and right of their r/2."
    ),
    "running-mean": (
        "Has it settled? The mean over all chains and the draws so far, as a fraction of what is"
        " expected; the first and last case of each kind. Draws before the first one shown are"
        " burn-in. A line that still slopes at the last draw depends on the number of draws, and"
        " one that is flat does not prove convergence: all chains start at w*."
    ),
}


def study_figures(results: Mapping, traces: Mapping) -> list[Section]:
    """The figures of the cases that are there; this study keeps no traces."""
    figures = {
        "Of d weights, r matter": {"llc": llc_figure(results), "rank": rank_figure(results)},
        "Normal crossings and deep linear networks": {"singular": singular_figure(results)},
        "How far off, and has it settled?": {
            "error": error_figure(results),
            "running-mean": running_mean_figure(results),
        },
    }
    sections = []
    for heading, by_key in figures.items():
        drawn = [Drawing(key, CAPTIONS[key], fig) for key, fig in by_key.items() if fig.data]
        if drawn:
            sections.append(Section(heading, drawn))
    return sections


def llc_figure(results: Mapping) -> go.Figure:
    """λ̂ with 95 % intervals against r/2, log-log, a panel a loss; the identity, and what is
    expected.
    """
    figure = empty_figure("Estimated LLC against r/2", _linear_title(results), columns=2)
    for col, family in enumerate(LINEAR, start=1):
        cases = records(results, family)
        if not cases:
            continue
        half = column(cases, "lambda")
        lines = [
            _identity(half, "λ = r/2"),
            _expected_marks(half, column(cases, "expected"), "r/2 = %{x:g}: %{y:.5g}"),
        ]
        named = not figure.data  # what both panels have stands in the legend once
        for line in lines:
            figure.add_trace(line.update(showlegend=named), row=1, col=col)
        figure.add_trace(_estimates(cases, half, column(cases, "llc"), family), row=1, col=col)
        figure.update_yaxes(title_text=f"LLC λ̂, {family.split(', ')[1]}", col=col)
    return _log_axes(figure, HALF_RANK_AXIS).update_yaxes(**LOG)


def error_figure(results: Mapping) -> go.Figure:
    """λ̂/expected − 1 in percent with 95 % intervals: the linear model against r/2, the other cases
    side by side.
    """
    columns = 2 if records(results, *SINGULAR) else 1
    title = "against the expected value"
    figure = empty_figure("Relative error of the estimate", title, columns=columns)
    for family, nudge in zip(LINEAR, (1 / NUDGE, NUDGE), strict=True):
        if cases := records(results, family):
            half = column(cases, "lambda") * nudge
            off = percent_off(cases, "llc")
            figure.add_trace(_estimates(cases, half, off, family, percent=True), row=1, col=1)
            figure.add_trace(_step_error(cases, half, family), row=1, col=1)
    for family in SINGULAR:
        if cases := records(results, family):
            off = percent_off(cases, "llc")
            points = _estimates(cases, list(cases), off, family, percent=True)
            figure.add_trace(points, row=1, col=2)
    grey = {"color": SOFT, "width": 1, "dash": "dash"}
    for level, look in ((-WANTED, grey), (WANTED, grey), (0, {"color": INK, "width": 1})):
        figure.add_hline(y=level, row="all", col="all", line=look)
    _log_axes(figure, HALF_RANK_AXIS, col=1)
    if columns == 2:
        figure.update_xaxes(tickangle=-35, col=2)
    figure.update_layout(height=HEIGHT + 60)
    return figure.update_yaxes(
        title_text="λ̂ / expected − 1 (%)", range=_error_range(results), ticksuffix=""
    )


def running_mean_figure(results: Mapping) -> go.Figure:
    """λ̂ from the first draws as a fraction of what is expected, for the first and last case of
    each kind.
    """
    figure = empty_figure("Running means over the draws", "mean over chains, after burn-in")
    for family in FAMILIES:
        cases = records(results, family)
        ends = dict.fromkeys([*list(cases)[:1], *list(cases)[-1:]])
        for name, dash in zip(ends, DASHES, strict=False):
            means, expected = cases[name]["running_mean"], cases[name]["expected"]
            fractions = np.array(means["llc"], dtype=float) / expected
            line = go.Scatter(x=means["draw"], y=fractions, mode="lines", name=name, meta=name)
            line.update(line={"color": COLOURS[family], "dash": dash, "width": 2})
            figure.add_trace(line.update(hovertemplate="draw %{x}: %{y:.4f}<extra>%{meta}</extra>"))
    near = WANTED / 100
    figure.add_hrect(y0=1 - near, y1=1 + near, fillcolor=SOFT, opacity=0.12, line_width=0)
    figure.add_hline(y=1, line={"color": INK, "width": 1})
    late = [np.asarray(line.y, dtype=float)[len(line.y) // 8 :] for line in figure.data]
    late = np.concatenate([*late, []])
    if len(late):
        spread = max(0.1, *(1.1 * np.abs(late - 1)))
        figure.update_yaxes(range=[max(0, 1 - spread), 1 + spread])
    figure.update_layout(hovermode="closest")
    figure.update_xaxes(title_text="draws of each chain so far", type="log", dtick=1)
    return figure.update_yaxes(title_text="running mean of λ̂ / expected")


def rank_figure(results: Mapping) -> go.Figure:
    """Half the rank of the Hessian, from its spectrum, against r/2, log-log."""
    figure = empty_figure("Rank of the Hessian, from its spectrum", _linear_title(results))
    every = records(results, *LINEAR)
    if not every:
        return figure
    figure.add_trace(_identity(column(every, "lambda"), "rank(H)/2 = r/2"))
    for family, symbol, size in zip(LINEAR, ("circle", "square-open"), (7, 13), strict=True):
        if cases := records(results, family):
            value, error = half_rank(cases)
            half = column(cases, "lambda")
            points = go.Scatter(x=half, y=value, mode="markers", name=family, meta=family)
            points.update(marker=_marker(COLOURS[family], symbol, size))
            points.error_y = {"type": "data", "array": error, "thickness": 1.2, "width": 3}
            hover = "r/2 = %{x:g}: %{y:.5g}<extra>%{meta}</extra>"
            figure.add_trace(points.update(hovertemplate=hover))
    return _log_axes(figure, HALF_RANK_AXIS).update_yaxes(title_text="rank(H)/2", **LOG)


def singular_figure(results: Mapping) -> go.Figure:
    """Estimate, what is expected, and rank(H)/2, as fractions of λ, for normal crossings and deep
    linear networks.
    """
    cases = records(results, *SINGULAR)
    title = "as fractions of the exact λ"
    figure = empty_figure("Normal crossings and deep linear networks", title)
    if not cases:
        return figure
    labels = {name: _label(name, record) for name, record in cases.items()}
    figure.add_trace(_rank_crosses(cases, list(labels.values())))
    if crossings := records(results, CROSSING):
        fractions = column(crossings, "expected") / column(crossings, "lambda")
        places = [labels[name] for name in crossings]
        figure.add_trace(_expected_marks(fractions, places, "%{y}<br>%{x:.4f} λ"))
    for family in SINGULAR:
        if own := records(results, family):
            figure.add_trace(_estimates_across(own, [labels[name] for name in own], family))
    figure.add_vline(x=1, line={"color": INK, "width": 1, "dash": "dot"})
    figure.update_layout(hovermode="closest", height=HEIGHT + 22 * max(0, len(cases) - 8))
    fractions = column(cases, "llc") / column(cases, "lambda")
    top = max(1.2, 1.05 * np.nanmax([1, *fractions]))
    figure.update_xaxes(title_text="LLC as a fraction of λ", range=[-0.04, top])
    return figure.update_yaxes(autorange="reversed", title_text="")


# ---- parts of figures ----------------------------------------------------------------------------


def _estimates(
    cases: Records, x: Sequence, y: np.ndarray, family: str, percent: bool = False
) -> go.Scatter:
    """Points with 95 % bars, hollow where the estimate has not settled."""
    points = go.Scatter(x=x, y=y, mode="markers", name=family, legendgroup=family)
    symbols = ["circle" if r["verdict"] == STEADY else "circle-open" for r in cases.values()]
    points.update(marker=_marker(COLOURS[family], symbols, 8))
    bars = half_width(cases) * (100 / column(cases, "expected") if percent else 1)
    points.error_y = _bars(bars, COLOURS[family], width=3)
    points.customdata = [_hover(name, record) for name, record in cases.items()]
    return points.update(hovertemplate="%{customdata}<extra></extra>")


def _estimates_across(cases: Records, labels: Sequence[str], family: str) -> go.Scatter:
    """`_estimates` as fractions of λ, from left to right."""
    exact = column(cases, "lambda")
    points = _estimates(cases, column(cases, "llc") / exact, labels, family)
    points.update(name=f"λ̂, {family}", error_y=None)
    points.error_x = _bars(half_width(cases) / exact, COLOURS[family], width=4)
    return points


def _rank_crosses(cases: Records, labels: Sequence[str]) -> go.Scatter:
    """rank(H)/2 as fractions of λ."""
    exact, (value, error) = column(cases, "lambda"), half_rank(cases)
    name = "rank(H)/2"
    points = go.Scatter(x=value / exact, y=labels, mode="markers", name=name, meta=name)
    points.update(marker=_marker(SOFT, "x-thin", 12))
    points.error_x = {**_bars(error / exact, SOFT, width=0), "thickness": 1}
    return points.update(hovertemplate="%{y}<br>%{x:.4f} λ<extra>%{meta}</extra>")


def _expected_marks(x: Sequence, y: Sequence, hover: str) -> go.Scatter:
    """Diamonds at what is expected."""
    name = "expected at this nβ and γ"
    points = go.Scatter(x=x, y=y, mode="markers", name=name, legendgroup=name, meta="expected")
    points.update(marker={"symbol": "diamond-open", "size": 13, "color": INK})
    points.update(marker_line={"width": 1.5})
    return points.update(hovertemplate=f"{hover}<extra>%{{meta}}</extra>")


def _step_error(cases: Records, x: np.ndarray, family: str) -> go.Scatter:
    """What the Langevin step ε itself does to the expected value, as a dotted curve."""
    off = percent_off(cases, "expected_with_step")
    line = go.Scatter(x=x, y=off, mode="lines", name="error of the step ε", legendgroup=family)
    line.update(line={"color": COLOURS[family], "dash": "dot", "width": 1.5})
    return line.update(hoverinfo="skip", showlegend=False)


def _identity(values: np.ndarray, name: str) -> go.Scatter:
    ends = [values.min() / 1.15, values.max() * 1.15]
    line = go.Scatter(x=ends, y=ends, mode="lines", name=name, legendgroup=name, hoverinfo="skip")
    return line.update(line={"color": INK, "dash": "dot", "width": 1.5})


def _marker(colour: str, symbol: str | list[str], size: int) -> dict:
    line = {"width": 1.8, "color": colour}
    return {"color": colour, "size": size, "symbol": symbol, "line": line}


def _bars(array: np.ndarray, colour: str, width: int) -> dict:
    return {"type": "data", "array": array, "color": colour, "thickness": 1.2, "width": width}


def _hover(name: str, record: Mapping) -> str:
    found = with_error(number(record["llc"]), number(record["std_error"]))
    expected = f"expected {record['expected']:.4g}"
    return f"{name}: λ̂ = {found} (standard error), {expected}, {record['verdict']}"


def _label(name: str, record: Mapping) -> str:
    exact, half = record["lambda_exact"], record["num_weights"] / 2
    return f"{name}: λ = {exact}, d/2 = {half:g}, m = {record['multiplicity']}"


def _log_axes(figure: go.Figure, title: str, **where) -> go.Figure:
    figure.update_layout(hovermode="closest")
    return figure.update_xaxes(title_text=title, **LOG, **where)


def _linear_title(results: Mapping) -> str:
    linear = results["config"]["linear"]
    sizes = f"{linear['num_weights']:,} weights, {linear['num_samples']:,} samples"
    return f"y = Σ wᵢxᵢ over i ≤ r, {sizes}"


def _error_range(results: Mapping) -> list[float]:
    """Symmetric, so that ±5 % and every bar are inside."""
    cases = records(results)
    bars = 100 * half_width(cases) / column(cases, "expected")
    top = np.nanmax([1.3 * WANTED, *(1.1 * (np.abs(percent_off(cases, "llc")) + bars))])
    return [-top, top]
