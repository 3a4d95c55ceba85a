"""What do one pass of DSNGD and of its rivals look like, beside the efficiency floor?"""

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from degeneracy.report.page import Drawing
from degeneracy.report.style import HEIGHT, INK, axis_scale, empty_figure
from degeneracy.texts import count_of
from studies.natural_gradients.dually_flat.measure import BATCHES, LIKELIHOOD

LOOKS = {
    "SGD": ("#0072b2", "solid"),
    "AdaGrad": ("#e69f00", "solid"),
    "SNGD": ("#cc79a7", "dash"),
    "DSNGD": ("#cc3311", "solid"),
    LIKELIHOOD: (INK, "dot"),
}


def figures(part: Mapping) -> list[Drawing]:
    """KL over the floor against samples, and against DSNGD's batch size."""
    drawn = []
    if by_case(part):
        caption = (
            "Conditional KL from the true model over d/2N, the floor that maximum likelihood"
            " reaches in the limit, in one pass over N samples; medians over seeds, a panel a"
            " case. Rates are those of the least loss on held-out samples. A line ends where a"
            " method diverged at half of the seeds; maximum likelihood begins where every value has"
            " been seen."
        )
        drawn.append(Drawing("dually-flat-efficiency", caption, efficiency_figure(part)))
    if part.get(BATCHES):
        caption = (
            "DSNGD with at most b samples a step, on the same streams, a dot each seed. 1 is the"
            " published method; a batch is never more than a fiftieth of the samples seen."
        )
        drawn.append(Drawing("dually-flat-batches", caption, batch_figure(part[BATCHES])))
    return drawn


def by_case(part: Mapping) -> dict[str, list[Mapping]]:
    """What was measured of each case, a seed each."""
    cases: dict[str, list[Mapping]] = {}
    for key, found in part.items():
        if key != BATCHES and found:
            cases.setdefault(found["case"], []).append(found)
    return cases


def medians(seeds: list[Mapping], method: str) -> np.ndarray:
    """KL over the floor, medians over seeds; what is not finite counts as infinite."""
    rows = np.array([found["methods"][method]["ratio"] for found in seeds], dtype=float)
    return np.median(np.where(np.isfinite(rows), rows, np.inf), axis=0)


def efficiency_figure(part: Mapping) -> go.Figure:
    """A panel a case."""
    cases = by_case(part)
    count = count_of(max(map(len, cases.values())), "seed")
    note = f"medians over {count}"
    figure = empty_figure("How efficient is one pass?", note, columns=len(cases))
    drawn = []
    for column, (case, seeds) in enumerate(cases.items(), start=1):
        samples = seeds[0]["samples"]
        for method in (name for name in LOOKS if name in seeds[0]["methods"]):
            colour, dash = LOOKS[method]
            values = medians(seeds, method)
            values = np.where(np.isfinite(values), values, np.nan)
            drawn.append(values)
            line = go.Scatter(x=samples, y=values, name=method, legendgroup=method)
            line.update(mode="lines", line={"color": colour, "dash": dash, "width": 2.2})
            line.update(showlegend=column == 1, meta=method)
            line.update(hovertemplate="N = %{x:,}: %{y:.3g}<extra>%{meta}</extra>")
            figure.add_trace(line, row=1, col=column)
        figure.add_hline(y=1, row=1, col=column, line={"color": INK, "width": 1})
        title = f"samples N<br>{case}"
        ticks = {"type": "log", "dtick": 1, "tickformat": "~s"}
        figure.update_xaxes(title_text=title, row=1, col=column, **ticks)
    figure.update_yaxes(title_text="KL / (d/2N)", **axis_scale(drawn))
    return figure.update_layout(height=HEIGHT + 60, hovermode="closest")


def batch_figure(found: Mapping) -> go.Figure:
    """A dot each seed and batch size."""
    note = f"{found['case']}, {found['samples']:,} samples"
    figure = empty_figure("What batches do to DSNGD", note)
    ratios = np.array(found["ratios"], dtype=float)
    for i, row in enumerate(ratios.T, start=1):
        dots = go.Scatter(x=found["batches"], y=row, name=f"seed {i}", mode="lines+markers")
        figure.add_trace(dots.update(line={"width": 1.2}, marker={"size": 7}))
    figure.add_hline(y=1, line={"color": INK, "width": 1})
    figure.update_xaxes(title_text="samples of a step, at most", **axis_scale([found["batches"]]))
    figure.update_yaxes(title_text="KL / (d/2N)", rangemode="tozero")
    return figure.update_layout(hovermode="closest")
