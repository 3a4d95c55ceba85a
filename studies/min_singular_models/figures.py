"""What did SGLD find where λ is known? Figures, sentences and a table from the results of
`measure`.

`results["cases"]` maps a case's name to its record, as `results.json` holds it. Nothing here
measures.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from markupsafe import Markup

from degeneracy.llc.statistics import STEADY
from degeneracy.report.style import (
    DASHES,
    HEIGHT,
    INK,
    OTHER_COLOURS,
    PARAMETER_COLOURS,
    SOFT,
    empty_figure,
)
from degeneracy.texts import Z_95, with_error

POPULATION, SAMPLE = "linear model, population loss", "linear model, sample loss"
CROSSING, DEEP = "normal crossings", "deep linear networks"
LINEAR, SINGULAR = (POPULATION, SAMPLE), (CROSSING, DEEP)
COLOURS = {
    POPULATION: OTHER_COLOURS[0],
    SAMPLE: OTHER_COLOURS[1],
    CROSSING: OTHER_COLOURS[2],
    DEEP: PARAMETER_COLOURS[0],
}
WANTED = 5.0  # percent that an estimate may be off
# the two losses stand this far apart on a log axis, so that their bars do not hide each other
NUDGE = 1.02

CAPTIONS = {
    "llc": (
        "Does the estimate count the weights that matter? The dotted line is λ = r/2. Diamonds are"
        " what is expected at the finite nβ and γ: a little below it, because γ takes γ/(nβ h + γ)"
        " of every direction, and on a sample also because w* = 0 is not the sample's minimum. Bars"
        " are 95 % intervals of the sampling alone, smaller than the points here; a hollow point"
        " has not settled."
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
}

QUESTION = (
    "For every model here the learning coefficient λ at w* is known exactly, and SGLD estimates it"
    " from w* alone. At finite nβ and localisation γ an estimate aims at another number, the one"
    " called expected: for a quadratic loss with curvatures h it is ½ Σ nβ h/(nβ h + γ), for a"
    " normal crossing an integral; for deep linear networks it is not known, and λ itself stands in"
    " its place."
)

Results = Mapping


def study_figures(results: Results) -> list[tuple[str, str, go.Figure]]:
    """Every figure of the cases that are there, as (key, caption, figure)."""
    figures = {
        "llc": llc_figure(results),
        "error": error_figure(results),
        "running-mean": running_mean_figure(results),
        "rank": rank_figure(results),
        "singular": singular_figure(results),
    }
    return [(key, CAPTIONS[key], figure) for key, figure in figures.items() if figure.data]


def llc_figure(results: Results) -> go.Figure:
    """λ̂ with 95 % intervals against r/2, log-log, a panel a loss; the identity, and what is
    expected.
    """
    figure = empty_figure("Estimated LLC against r/2", _linear_title(results), columns=2)
    for column, family in enumerate(LINEAR, start=1):
        records = _records(results, family)
        if not records:
            continue
        half, expected = _column(records, "lambda"), _column(records, "expected")
        _add_identity(figure, half, column, "λ = r/2")
        diamonds = go.Scatter(
            x=half, y=expected, mode="markers", name="expected at this nβ and γ", meta="expected"
        )
        diamonds.update(
            marker={"symbol": "diamond-open", "size": 13, "color": INK, "line": {"width": 1.5}}
        )
        diamonds.update(hovertemplate="r/2 = %{x:g}: %{y:.5g}<extra>%{meta}</extra>")
        figure.add_trace(
            diamonds.update(legendgroup="expected", showlegend=column == 1), row=1, col=column
        )
        figure.add_trace(
            _estimates(records, half, _column(records, "llc"), family), row=1, col=column
        )
        figure.update_yaxes(title_text=f"LLC λ̂, {family.split(', ')[1]}", col=column)
    return _log_axes(figure, "half the number of weights that matter, r/2").update_yaxes(**LOG)


def error_figure(results: Results) -> go.Figure:
    """λ̂/expected − 1 in percent with 95 % intervals: the linear model against r/2, the other cases
    side by side.
    """
    columns = 2 if any(_records(results, family) for family in SINGULAR) else 1
    figure = empty_figure(
        "Relative error of the estimate", "against the expected value", columns=columns
    )
    for family, nudge in zip(LINEAR, (1 / NUDGE, NUDGE), strict=True):
        if records := _records(results, family):
            half = _column(records, "lambda") * nudge
            figure.add_trace(
                _estimates(records, half, _percent(records, "llc"), family, percent=True),
                row=1,
                col=1,
            )
            step = go.Scatter(
                x=half, y=_percent(records, "expected_with_step"), mode="lines", hoverinfo="skip"
            )
            step.update(
                line={"color": COLOURS[family], "dash": "dot", "width": 1.5},
                name="error of the step ε",
            )
            figure.add_trace(step.update(legendgroup=family, showlegend=False), row=1, col=1)
    for family in SINGULAR:
        if records := _records(results, family):
            values = _percent(records, "llc")
            figure.add_trace(
                _estimates(records, list(records), values, family, percent=True), row=1, col=2
            )
    for level in (-WANTED, WANTED):
        figure.add_hline(
            y=level, row="all", col="all", line={"color": SOFT, "width": 1, "dash": "dash"}
        )
    figure.add_hline(y=0, row="all", col="all", line={"color": INK, "width": 1})
    _log_axes(figure, "half the number of weights that matter, r/2", col=1)
    if columns == 2:
        figure.update_xaxes(tickangle=-35, col=2)
    figure.update_layout(height=HEIGHT + 60)
    return figure.update_yaxes(
        title_text="λ̂ / expected − 1 (%)", range=_error_range(results), ticksuffix=""
    )


def running_mean_figure(results: Results) -> go.Figure:
    """λ̂ from the first draws as a fraction of what is expected, for the first and last case of
    each kind.
    """
    figure = empty_figure("Running means over the draws", "mean over chains, after burn-in")
    for family in (*LINEAR, *SINGULAR):
        records = _records(results, family)
        ends = dict.fromkeys([*list(records)[:1], *list(records)[-1:]])
        for name, dash in zip(ends, DASHES, strict=False):
            record = records[name]
            means = np.array(record["running_mean"]["llc"], dtype=float) / record["expected"]
            line = go.Scatter(
                x=record["running_mean"]["draw"], y=means, mode="lines", name=name, meta=name
            )
            line.update(line={"color": COLOURS[family], "dash": dash, "width": 2})
            figure.add_trace(line.update(hovertemplate="draw %{x}: %{y:.4f}<extra>%{meta}</extra>"))
    figure.add_hrect(
        y0=1 - WANTED / 100, y1=1 + WANTED / 100, fillcolor=SOFT, opacity=0.12, line_width=0
    )
    figure.add_hline(y=1, line={"color": INK, "width": 1})
    drawn = np.concatenate(
        [np.asarray(line.y, dtype=float)[len(line.y) // 8 :] for line in figure.data] or [[]]
    )
    if len(drawn):
        spread = max(0.1, *(1.1 * np.abs(drawn - 1)))
        figure.update_yaxes(range=[max(0, 1 - spread), 1 + spread])
    figure.update_layout(hovermode="closest")
    figure.update_xaxes(title_text="draws of each chain so far", type="log", dtick=1)
    return figure.update_yaxes(title_text="running mean of λ̂ / expected")


def rank_figure(results: Results) -> go.Figure:
    """Half the rank of the Hessian, from its spectrum, against r/2, log-log."""
    figure = empty_figure("Rank of the Hessian, from its spectrum", _linear_title(results))
    every = [_column(_records(results, family), "lambda") for family in LINEAR]
    if not any(map(len, every)):
        return figure
    _add_identity(figure, np.concatenate(every), 1, "rank(H)/2 = r/2")
    for family, symbol, size in zip(LINEAR, ("circle", "square-open"), (7, 13), strict=True):
        if records := _records(results, family):
            value, error = _half_rank(records)
            points = go.Scatter(
                x=_column(records, "lambda"), y=value, mode="markers", name=family, meta=family
            )
            points.update(
                marker={
                    "color": COLOURS[family],
                    "size": size,
                    "symbol": symbol,
                    "line": {"width": 1.8, "color": COLOURS[family]},
                }
            )
            points.error_y = {"type": "data", "array": error, "thickness": 1.2, "width": 3}
            figure.add_trace(
                points.update(hovertemplate="r/2 = %{x:g}: %{y:.5g}<extra>%{meta}</extra>")
            )
    figure.update_layout(hovermode="closest")
    _log_axes(figure, "half the number of weights that matter, r/2")
    return figure.update_yaxes(title_text="rank(H)/2", **LOG)


def singular_figure(results: Results) -> go.Figure:
    """Estimate, what is expected, and rank(H)/2, as fractions of λ, for normal crossings and deep
    linear networks.
    """
    records = {name: r for family in SINGULAR for name, r in _records(results, family).items()}
    figure = empty_figure(
        "Normal crossings and deep linear networks", "as fractions of the exact λ"
    )
    if not records:
        return figure
    exact = _column(records, "lambda")
    labels = [
        f"{name}: λ = {r['lambda_exact']}, d/2 = {r['num_weights'] / 2:g}, m = {r['multiplicity']}"
        for name, r in records.items()
    ]
    half_rank, rank_error = _half_rank(records)
    marks = (
        ("rank(H)/2", half_rank, "x-thin", SOFT),
        ("expected at this nβ and γ", _expected_at_temperature(records), "diamond-open", INK),
    )
    for name, values, symbol, colour in marks:
        points = go.Scatter(x=values / exact, y=labels, mode="markers", name=name, meta=name)
        if name == "rank(H)/2":
            points.error_x = {
                "type": "data",
                "array": rank_error / exact,
                "color": colour,
                "thickness": 1,
                "width": 0,
            }
        points.update(
            marker={
                "symbol": symbol,
                "size": 12,
                "color": colour,
                "line": {"width": 1.8, "color": colour},
            }
        )
        figure.add_trace(points.update(hovertemplate="%{y}<br>%{x:.4f} λ<extra>%{meta}</extra>"))
    for family in SINGULAR:
        own = _records(results, family)
        if not own:
            continue
        place = [i for i, r in enumerate(records.values()) if r["family"] == family]
        line = _estimates(own, None, _column(own, "llc"), family)
        bars = Z_95 * _column(own, "std_error") / exact[place]
        line.update(
            x=_column(own, "llc") / exact[place], y=[labels[i] for i in place], error_y=None
        )
        line.error_x = {
            "type": "data",
            "array": bars,
            "color": COLOURS[family],
            "thickness": 1.2,
            "width": 4,
        }
        figure.add_trace(line.update(name=f"λ̂, {family}"))
    figure.add_vline(x=1, line={"color": INK, "width": 1, "dash": "dot"})
    figure.update_layout(hovermode="closest", height=HEIGHT + 22 * max(0, len(records) - 8))
    figure.update_xaxes(
        title_text="LLC as a fraction of λ",
        range=[-0.04, max(1.2, 1.05 * np.nanmax([1, *(_column(records, "llc") / exact)]))],
    )
    return figure.update_yaxes(autorange="reversed", title_text="")


def _expected_at_temperature(records: Mapping) -> np.ndarray:
    """The expected values of normal crossings; those of deep linear networks are λ, where the
    dotted line is.
    """
    known = [r["family"] == CROSSING for r in records.values()]
    return np.where(known, _column(records, "expected"), np.nan)


# ---- sentences and the table ---------------------------------------------------------------------


def findings(results: Results) -> list[str]:
    """What was found, in words: what was asked, a sentence a kind of case, what misses and what has
    not settled.
    """
    texts = [QUESTION]
    for family in (*LINEAR, *SINGULAR):
        records = _records(results, family)
        errors = _percent(records, "llc")
        if np.isfinite(errors).any():
            worst = int(np.nanargmax(np.abs(errors)))
            against = "λ" if family == DEEP else "the value expected at its nβ and γ"
            texts.append(
                f"{family[0].upper()}{family[1:]} ({count_of(len(records), 'case')}): every"
                f" estimate is within {abs(errors[worst]):.1f} % of {against}, half of them within"
                f" {np.nanmedian(np.abs(errors)):.1f} %. The furthest is {list(records)[worst]},"
                f" {signed(errors[worst])}."
            )
    every = results["cases"]
    missed = [
        f"{name} ({signed(error)})"
        for name, error in zip(every, _percent(every, "llc"), strict=True)
        if not abs(error) <= WANTED
    ]
    moving = [f"{name} ({r['verdict']})" for name, r in every.items() if r["verdict"] != STEADY]
    texts.append(
        f"More than {WANTED:g} % off: {', '.join(missed) or 'none'}. Not settled, by the two halves"
        f" of the draws: {', '.join(moving) or 'none'}. A settled case is called rising or falling"
        " about once in fifteen times."
    )
    return texts


def signed(percent: float) -> str:
    """`+0.7 %`, or a dash for NaN."""
    return "–" if np.isnan(percent) else f"{percent:+.1f} %".replace("-", "−")


def count_of(count: int, noun: str) -> str:
    """`1 case`, `9 cases`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def results_table(results: Results) -> Markup:
    """Every case as a row of an HTML table."""
    head = (
        "case",
        "λ",
        "m",
        "rank(H)/2",
        "expected",
        "λ̂ ± standard error",
        "error",
        "error of ε",
        "drift",
        "verdict",
        "chains × draws",
        "nβ",
        "γ",
        "s",
    )
    rows = Markup("").join(_row(name, record) for name, record in results["cases"].items())
    cells = Markup("").join(Markup('<th scope="col">{}</th>').format(text) for text in head)
    caption = (
        "Error: of λ̂ against expected. Error of ε: what the Langevin step does to the expected"
        " value, where it is known. Drift: second half of the draws minus all. Verdict: of the mean"
        " over chains."
    )
    return Markup(
        '<div class="scroll"><table class="data"><caption>All cases <span>{}</span></caption>'
        "<thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>"
    ).format(caption, cells, rows)


def _row(name: str, record: Mapping) -> Markup:
    one = {name: record}
    error, step = (_percent(one, key)[0] for key in ("llc", "expected_with_step"))
    exact = record["lambda_exact"]
    texts = (
        name,
        exact,
        record["multiplicity"],
        f"{_half_rank(one)[0][0]:.4g}",
        f"{record['expected']:.4g}",
        with_error(record["llc"], record["std_error"]),
        signed(error),
        signed(step),
        signed(100 * _column(one, "drift")[0] / record["expected"]),
        record["verdict"],
        f"{record['num_chains']:,} × {record['num_draws']:,}",
        f"{record['nbeta']:.4g}",
        f"{record['localization']:.3g}",
        f"{record['seconds']:.0f}",
    )
    cells = Markup("").join(Markup("<td>{}</td>").format(text) for text in texts)
    return Markup("<tr>{}</tr>").format(cells)


# ---- helpers -------------------------------------------------------------------------------------

LOG = {"type": "log", "dtick": "D2", "tickformat": "~g"}


def _records(results: Results, family: str) -> dict[str, Mapping]:
    return {name: record for name, record in results["cases"].items() if record["family"] == family}


def _column(records: Mapping[str, Mapping], key: str) -> np.ndarray:
    return np.array([np.nan if r[key] is None else r[key] for r in records.values()], dtype=float)


def _percent(records: Mapping[str, Mapping], key: str) -> np.ndarray:
    """How far `key` is from what is expected, in percent."""
    return 100 * (_column(records, key) / _column(records, "expected") - 1)


def _half_rank(records: Mapping[str, Mapping]) -> tuple[np.ndarray, np.ndarray]:
    """rank(H)/2, and half its 95 % interval with the quadrature's error."""
    ranks = [record["hessian_rank"] for record in records.values()]
    errors = [Z_95 * (rank["std_error"] or 0) + rank["quadrature_error"] for rank in ranks]
    return np.array([rank["value"] for rank in ranks]) / 2, np.array(errors) / 2


def _estimates(
    records: Mapping[str, Mapping], x: Sequence, y: np.ndarray, family: str, percent=False
) -> go.Scatter:
    """Points with 95 % bars, hollow where the estimate has not settled."""
    error = _column(records, "std_error") * (100 / _column(records, "expected") if percent else 1)
    points = go.Scatter(x=x, y=y, mode="markers", name=family, legendgroup=family)
    hollow = ["circle" if r["verdict"] == STEADY else "circle-open" for r in records.values()]
    points.update(
        marker={
            "color": COLOURS[family],
            "size": 8,
            "symbol": hollow,
            "line": {"width": 1.8, "color": COLOURS[family]},
        }
    )
    points.error_y = {
        "type": "data",
        "array": Z_95 * error,
        "color": COLOURS[family],
        "thickness": 1.2,
        "width": 3,
    }
    points.customdata = [
        f"{name}: λ̂ = {with_error(r['llc'], r['std_error'])} (standard error), expected"
        f" {r['expected']:.4g}, {r['verdict']}"
        for name, r in records.items()
    ]
    return points.update(hovertemplate="%{customdata}<extra></extra>")


def _add_identity(figure: go.Figure, values: np.ndarray, column: int, name: str) -> None:
    ends = [values.min() / 1.15, values.max() * 1.15]
    line = go.Scatter(x=ends, y=ends, mode="lines", name=name, legendgroup=name, hoverinfo="skip")
    line.update(line={"color": INK, "dash": "dot", "width": 1.5}, showlegend=column == 1)
    figure.add_trace(line, row=1, col=column)


def _log_axes(figure: go.Figure, title: str, **where) -> go.Figure:
    figure.update_layout(hovermode="closest")
    return figure.update_xaxes(title_text=title, **LOG, **where)


def _linear_title(results: Results) -> str:
    settings = results["settings"]["linear"]
    return (
        f"y = Σ wᵢxᵢ over i ≤ r, {settings['num_weights']:,} weights, {settings['num_samples']:,}"
        " samples"
    )


def _error_range(results: Results) -> list[float]:
    """Symmetric, so that ±5 % and every bar are inside."""
    errors = np.abs(_percent(results["cases"], "llc"))
    bars = (
        100 * Z_95 * _column(results["cases"], "std_error") / _column(results["cases"], "expected")
    )
    top = np.nanmax([1.3 * WANTED, *(1.1 * (errors + bars))])
    return [-top, top]
