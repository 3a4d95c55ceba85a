"""What happens to LLC and curvature where training leaves a plateau? Figures from the results of
`measure`.

Nothing here measures; what was not measured is left out.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import plotly.graph_objects as go

from degeneracy.curvature.spectrum import (
    Spectrum,
    count_above,
    density,
    density_grid,
    spectrum_from,
)
from degeneracy.report import curvature_figures
from degeneracy.report.curvature_figures import stretched, unstretched
from degeneracy.report.run_figures import loss_figure
from degeneracy.report.style import (
    INK,
    PARAMETER_COLOURS,
    SOFT,
    SYMBOLS,
    axis_scale,
    empty_figure,
    hover_texts,
    label,
    llc_axis,
    optimizer_colour,
    optimizer_line,
)
from studies.phase_transitions.phases import (
    LLCPoint,
    Results,
    llc_points,
    optimizers_of,
    phases_of,
    swap_epoch,
    threshold_of,
    transitions_of,
)

PHASE_COLOURS = {
    "before": PARAMETER_COLOURS[4],
    "across": PARAMETER_COLOURS[3],
    "after": PARAMETER_COLOURS[2],
    "end": PARAMETER_COLOURS[0],
}
PHASE_COLOURS |= {
    "first": PHASE_COLOURS["before"],
    "middle": PHASE_COLOURS["across"],
    "last": PHASE_COLOURS["end"],
}

DECADES_BELOW = (
    3  # N(h) is drawn down to this far below the smallest of the phases' largest eigenvalues
)

# times `density_grid`'s width: between the nodes near zero the curve should not fall to nothing
SMOOTHING = 2

STRETCH_DECADES = 5  # of the density's axis on each side of zero, at most

CAPTIONS = {
    "loss": (
        "When does each optimizer leave its plateau? A band goes from the last epoch of a plateau"
        " to the end of the drop after it, by a rule on the validation loss. The training loss is"
        " the mean over an epoch's minibatches (epoch 0: the initial model), so it lags behind"
        " while the loss falls fast."
    ),
    "llc": (
        "Does the LLC change with the drop, and does the loss's second order account for it?"
        " Measured by sampling (solid); what it would be were the loss its second-order expansion"
        " at w*, from the Hessian's spectrum (dashed) and from the Gauss-Newton matrix's (dotted),"
        " all at the same nβ and γ. λ̂ may be below zero where w* is no minimum, as on a plateau:"
        " the sampler goes down from it. Bars are 95 % intervals: of the sampling; of the"
        " quadrature, Student's over the few probes plus its own error. The LLC is that of the"
        " whole training set, the spectra are of a few of its batches."
    ),
    "developmental": (
        "Is the LLC a function of the loss, or does the path matter? One point an epoch, joined in"
        " order; training runs towards lower loss, mostly from right to left. Colour is the epoch;"
        " the symbol and the line's colour are the optimizer. At one loss, compare the curves along"
        " a vertical line. Bars are 95 % intervals of the sampling alone. λ̂ may be below zero"
        " where w* is no minimum: the sampler goes down from it."
    ),
    "spectra": (
        "How many directions become curved in the drop? N(h) is the number of eigenvalues above h:"
        " of the Hessian by stochastic Lanczos quadrature (solid; standard errors over probes on"
        " hover; small eigenvalues are not resolved singly), of the Gauss-Newton matrix exactly on"
        " its images (dotted), which has no more of them than images × (classes − 1). At the"
        " vertical line, h = γ/nβ, the posterior is as wide as the localisation: a direction there"
        " adds ¼ to the quadratic LLC, one far to the right of it ½, one far to the left nothing."
    ),
    "density": (
        "Where do the eigenvalues lie? The axis is logarithmic on both sides of zero, because a"
        " plateau's spectrum is far narrower than that after the drop. The slider goes from epoch"
        " to epoch; all of them share both axes. Lines are smoothed means over probes. Inside a"
        " spectrum Lanczos does not tell apart eigenvalues closer than about its range over the"
        " number of steps: peaks near zero are where its nodes lie, not single eigenvalues."
    ),
    "top-eigenvalues": (
        "Does curvature peak within the drop? The largest eigenvalues of the Hessian on its"
        " batches, the first as a thick line, as far as the Lanczos steps know them: up to rounding"
        " never too large, and close where an eigenvalue stands apart. Of a few images they are too"
        " large where single images dominate, as late in training. They say nothing of directions"
        " of negative curvature."
    ),
    "rank": (
        "How many directions does the posterior feel? The number of eigenvalues above γ/nβ, where"
        " it is as wide as the localisation: of the Hessian by quadrature, with 95 % intervals"
        " (Student's over the few probes, plus the quadrature's error), and of the Gauss-Newton"
        " matrix exactly. The images are fixed; what others would give is not in the bars."
    ),
    "three-way": (
        "When is the Fisher information the Hessian? Left the traces, right how far two matrices"
        " are apart, relative to the norm of the one named last. What the Hessian has beyond the"
        " Fisher information is curvature weighted by the residuals. The empirical Fisher takes the"
        " data's labels in place of the model's. Bars are 95 % intervals over the probes, Student's"
        " for so few; the traces of both Fisher matrices are exact on the images."
    ),
    "fisher-histogram": (
        "How is the Fisher information spread over the weights? Its diagonal, exact on the images,"
        " in bins that are the same at all epochs, so that the slider compares. The legend tells"
        " how many weights are at exactly 0, such as those of a unit that no image switches on."
    ),
}


def marked(figure: go.Figure, results: Results, title: str) -> go.Figure:
    """Adds to every panel of a figure over epochs a band for each drop, in its optimizer's colour;
    returns the figure.

    The legend names them, so that drops close to each other have no texts that collide.
    """
    if not figure.data:
        return figure
    panels = sorted({((trace.xaxis or "x"), (trace.yaxis or "y")) for trace in figure.data})
    for optimizer, transitions in transitions_of(results, title).items():
        name = f"{label(optimizer)}'s drop"
        for place, (transition, (x, y)) in enumerate(
            (t, panel) for t in transitions for panel in panels
        ):
            figure.add_shape(
                type="rect",
                x0=transition.plateau_end,
                x1=transition.end,
                y0=0,
                y1=1,
                xref=x,
                yref=f"{y} domain",
                fillcolor=optimizer_colour(optimizer),
                opacity=0.13,
                line={"width": 0},
                layer="below",
                name=name,
                legendgroup=name,
                showlegend=place == 0,
            )
    return figure


def study_figures(results: Results) -> list[tuple[str, str, go.Figure]]:
    """Every figure of every model as (key, caption, figure); what was not measured is left out.

    Where there are several models, a key begins with the model's title, fit for an anchor.
    """
    names = _anchors(list(results["models"]))
    figures = [
        (f"{name}-{key}" if len(names) > 1 else key, CAPTIONS[key], draw(title, results))
        for title, name in names.items()
        for key, draw in FIGURES.items()
    ]
    return [entry for entry in figures if entry[2].data]


def show(results: Results, key: str) -> None:
    """Shows one figure, by its key in `FIGURES`, of every model in a notebook."""
    for title in results["models"]:
        figure = FIGURES[key](title, results)
        if figure.data:
            figure.show()


def training_figure(title: str, results: Results) -> go.Figure:
    """Training and validation loss over epochs."""
    return marked(loss_figure(title, results), results, title)


def llc_figure(title: str, results: Results) -> go.Figure:
    """LLC over epochs: measured, and of the second-order expansion by Hessian and Gauss-Newton
    matrix.
    """
    localization = results["config"]["devinterp"]["localization"]
    given = (
        title,
        optimizers_of(results, title),
        results["nbeta"],
        localization,
        swap_epoch(results),
    )
    return marked(curvature_figures.quadratic_llc_figure(*given), results, title)


def developmental_figure(title: str, results: Results) -> go.Figure:
    """LLC with 95 % intervals against the training loss L(w*) in nats, one point an epoch, coloured
    by epoch.
    """
    figure = empty_figure("LLC against training loss", title)
    curves = {name: llc_points(series) for name, series in optimizers_of(results, title).items()}
    curves = {name: points for name, points in curves.items() if points}
    for place, (optimizer, points) in enumerate(curves.items()):
        epochs, loss, llc, error = (
            np.array(column, dtype=float) for column in zip(*points, strict=True)
        )
        line = optimizer_line(loss, llc, optimizer, std_error=error)
        line.line.width = 1
        look = {"size": 9, "symbol": SYMBOLS[place % len(SYMBOLS)]}
        look |= {"line": {"color": optimizer_colour(optimizer), "width": 1.5}}
        line.marker = look | {"color": epochs, "coloraxis": "coloraxis"}
        line.customdata = [
            f"{label(optimizer)}, epoch {e:g}: {hover}, loss {x:.4g}"
            for e, hover, x in zip(epochs, line.customdata, loss, strict=True)
        ]
        figure.add_trace(
            line.update(hovertemplate="%{customdata}<extra></extra>", showlegend=False)
        )
        key = go.Scatter(
            x=[None], y=[None], mode="lines+markers", name=line.name, legendgroup=line.legendgroup
        )
        figure.add_trace(
            key.update(line=line.line, marker=look | {"color": "white"}, hoverinfo="skip")
        )
    losses = np.array([point.loss for points in curves.values() for point in points])
    scale = axis_scale([losses])
    if scale:  # the labels' texts must not widen it
        ends = np.log10([losses.min(), losses.max()])
        scale["range"] = ends + 0.08 * np.ptp(ends) * np.array([-1, 1])
    _label_phases(figure, curves, phases_of(results, title), is_log=bool(scale))
    colours = {
        "colorscale": "Viridis",
        "cmin": 0,
        "cmax": results["config"]["experiment"]["num_epochs"],
    }
    bar = {
        "title": {"text": "epoch", "font": {"size": 13}},
        "thickness": 12,
        "outlinewidth": 0,
        "tickformat": "d",
    }
    figure.update_layout(hovermode="closest", coloraxis={**colours, "colorbar": bar}, height=520)
    figure.update_xaxes(title_text="training loss L(w*) (nats, training set)", **scale)
    return figure.update_yaxes(title_text=llc_axis(results))


def _label_phases(
    figure: go.Figure, curves: Mapping[str, list[LLCPoint]], phases: Mapping, is_log: bool
) -> None:
    """Labels the points before and after the drop: the highest above itself, the others below,
    aside of the curve.
    """
    for phase, side in (("before", -1), ("after", 1)):
        points = [
            (p, name)
            for name, curve in curves.items()
            for p in curve
            if p.epoch == phases[name].get(phase)
        ]
        points.sort(key=lambda one: -one[0].llc)
        for place, (point, optimizer) in enumerate(points):
            colour = optimizer_colour(optimizer)
            figure.add_annotation(
                x=math.log10(point.loss) if is_log else point.loss,
                y=point.llc,
                ax=24 * side,
                ay=-44 if place == 0 else 20 + 24 * place,
                arrowcolor=colour,
                arrowwidth=1,
                arrowhead=0,
                standoff=6,
                xanchor="left" if side > 0 else "right",
                bgcolor="rgba(255,255,255,0.8)",
                text=f"{label(optimizer)} {phase}, epoch {point.epoch}",
                font={"color": colour, "size": 12},
            )


def spectra_figure(title: str, results: Results) -> go.Figure:
    """Number of eigenvalues above h, log-log, before, across and after the drop: Hessian and
    Gauss-Newton matrix.
    """
    optimizers = optimizers_of(results, title)
    shown = [  # (optimizer, phase, epoch, spectrum or None, Fisher eigenvalues)
        (optimizer, phase, epoch, spectrum, eigenvalues)
        for optimizer, phases in phases_of(results, title).items()
        for phase, epoch in phases.items()
        for spectrum, eigenvalues in [_spectra_at(optimizers[optimizer], epoch)]
        if spectrum is not None or len(eigenvalues)
    ]
    panels = {
        optimizer: column
        for column, optimizer in enumerate(dict.fromkeys(o for o, *_ in shown), start=1)
    }
    figure = empty_figure("Number of eigenvalues N(h) above h", title, columns=max(1, len(panels)))
    tops = [_largest_eigenvalue(spectrum, eigenvalues) for *_, spectrum, eigenvalues in shown]
    tops = [top for top in tops if top > 0]
    if not tops:
        return figure
    threshold = threshold_of(results)
    low = max(min(tops) / 10**DECADES_BELOW, max(tops) * 1e-12)
    high = 2 * max(tops)
    low, high = min(low, threshold / 3), max(high, 3 * threshold)
    grid = np.geomspace(low, high, 200)
    for optimizer, phase, epoch, spectrum, eigenvalues in shown:
        name, colour = f"{label(optimizer)}, {phase} (epoch {epoch})", PHASE_COLOURS[phase]
        if spectrum is not None:
            counts = [count_above(spectrum, h) for h in grid]
            values = np.array([count.value for count in counts])
            errors = np.array(
                [np.nan if count.std_error is None else count.std_error for count in counts]
            )
            line = go.Scatter(
                x=grid, y=values, mode="lines", customdata=hover_texts(values, errors)
            )
            line.update(line={"color": colour, "width": 2}, name=f"{name}, Hessian")
            _add_count(figure, line, panels[optimizer])
        if len(eigenvalues):
            line = go.Scatter(x=eigenvalues, y=1 + np.arange(len(eigenvalues)), mode="lines")
            line.update(customdata=[f"{count:,}" for count in line.y], name=f"{name}, Gauss-Newton")
            line.update(line={"color": colour, "width": 2, "dash": "dot", "shape": "hv"})
            _add_count(figure, line, panels[optimizer])
    _add_spectra_legend(figure, shown)
    for column in panels.values():
        figure.add_vline(
            x=threshold,
            col=column,
            row=1,
            line={"color": SOFT, "width": 1.5, "dash": "dash"},
            layer="below",
            name=f"γ/nβ = {threshold:.3g}",
            showlegend=column == 1,
            legendgroup="threshold",
        )
    for optimizer, column in panels.items():
        axis = "" if column == 1 else column
        figure.add_annotation(
            x=0,
            xref=f"x{axis} domain",
            y=1,
            yref=f"y{axis} domain",
            xanchor="left",
            yanchor="bottom",
            text=label(optimizer),
            showarrow=False,
            font={"color": optimizer_colour(optimizer), "size": 13},
        )
    ends, decades = [math.log10(low), math.log10(high)], math.log10(high / low)
    figure.update_xaxes(
        title_text="h (nats / weight²)", type="log", dtick=max(1, round(decades / 4)), range=ends
    )
    figure.update_xaxes(tickformat=".0e")
    most = max(
        max(
            (y for x, y in zip(line.x, line.y, strict=True) if x is not None and x >= low),
            default=1,
        )
        for line in figure.data
    )
    figure.update_yaxes(
        title_text="N(h)",
        type="log",
        dtick=1,
        range=[-0.3, math.log10(2 * most)],
        tickformat="~s",
        matches="y",
    )
    for column in list(panels.values())[1:]:
        figure.update_yaxes(showticklabels=False, col=column)  # the first panel's
    return figure.update_layout(hovermode="closest", height=540)


def _add_count(figure: go.Figure, line: go.Scatter, column: int) -> None:
    line.update(
        showlegend=False,
        hovertemplate=f"{line.name}<br>%{{customdata}} above %{{x:.3g}}<extra></extra>",
    )
    figure.add_trace(line, row=1, col=column)


def _add_spectra_legend(figure: go.Figure, shown: Sequence[tuple]) -> None:
    """Empty traces: a key to the colours, with the epochs, and to the dashes."""
    for phase in dict.fromkeys(
        phase for phase in PHASE_COLOURS if any(phase == one for _, one, *_ in shown)
    ):
        epochs = ", ".join(
            f"{label(optimizer)} {epoch}" for optimizer, one, epoch, *_ in shown if one == phase
        )
        key = go.Scatter(
            x=[None], y=[None], mode="lines", hoverinfo="skip", name=f"{phase} (epoch: {epochs})"
        )
        figure.add_trace(key.update(line={"color": PHASE_COLOURS[phase], "width": 4}), row=1, col=1)
    for name, dash in (("Hessian", "solid"), ("Gauss-Newton", "dot")):
        key = go.Scatter(x=[None], y=[None], mode="lines", hoverinfo="skip", name=name)
        figure.add_trace(key.update(line={"color": INK, "width": 2, "dash": dash}), row=1, col=1)


def density_figure(title: str, results: Results) -> go.Figure:
    """Spectral density of the Hessian with a slider over epochs, on an axis that is logarithmic on
    both sides of zero.

    A plateau's spectrum is thousands of times narrower than that after the drop: on a linear axis
    for both it would be a spike at zero, as wide as the smoothing.
    """
    model = results["models"][title]
    spectra = {
        optimizer: [
            None if found is None else spectrum_from(found)
            for found in series.get("spectrum") or []
        ]
        for optimizer, series in model["optimizers"].items()
    }
    measured = [
        spectrum for of_epoch in spectra.values() for spectrum in of_epoch if spectrum is not None
    ]
    extents = [float(np.abs(spectrum.nodes[spectrum.weights > 0]).max()) for spectrum in measured]
    extents = [extent for extent in extents if extent > 0]
    if not extents:
        return empty_figure("Spectrum of the Hessian", title)
    # Below the smallest extent, so that there are powers of ten to label on every epoch's axis.
    linear_below = 10.0 ** math.floor(
        math.log10(max(min(extents), max(extents) * 10**-STRETCH_DECADES) / 2)
    )

    def on_axis(spectrum: Spectrum) -> Spectrum:
        return replace(spectrum, nodes=stretched(spectrum.nodes, linear_below))

    places, width = density_grid([on_axis(spectrum) for spectrum in measured])
    width *= SMOOTHING
    places = np.linspace(places[0] - 4 * width, places[-1] + 4 * width, len(places))
    densities = {
        optimizer: {
            "spectral_density": [
                None if spectrum is None else density(on_axis(spectrum), places, width)
                for spectrum in of_epoch
            ]
        }
        for optimizer, of_epoch in spectra.items()
    }
    grid = unstretched(places, linear_below)
    figure = curvature_figures.density_figure(
        title, densities, grid, model["num_parameters"], linear_below=linear_below
    )
    threshold = threshold_of(results)
    figure.add_vline(
        x=float(stretched(threshold, linear_below)),
        line={"color": SOFT, "width": 1.5, "dash": "dash"},
        layer="below",
        name=f"γ/nβ = {threshold:.3g}",
        showlegend=True,
    )
    return figure


def top_eigenvalues_figure(title: str, results: Results) -> go.Figure:
    """The largest eigenvalues of the Hessian over epochs."""
    given = title, optimizers_of(results, title)
    figure = curvature_figures.top_eigenvalues_figure(*given, swap_epoch=swap_epoch(results))
    return marked(figure, results, title)


def rank_figure(title: str, results: Results) -> go.Figure:
    """Number of eigenvalues above γ/nβ over epochs, of the Hessian and of the Gauss-Newton matrix."""
    threshold = threshold_of(results)
    words = f"γ/nβ = {threshold:.3g}"
    figure = curvature_figures.rank_figure(
        title, optimizers_of(results, title), words, swap_epoch(results)
    )
    return marked(figure, results, title)


def three_way_figure(title: str, results: Results) -> go.Figure:
    """Traces of Hessian, Fisher and empirical Fisher over epochs, and how far they are apart."""
    figure = curvature_figures.three_way_figure(
        title, optimizers_of(results, title), swap_epoch(results)
    )
    return marked(figure, results, title)


def fisher_histogram_figure(title: str, results: Results) -> go.Figure:
    """The Fisher information's diagonal, with a slider over epochs."""
    return curvature_figures.fisher_histogram_figure(title, optimizers_of(results, title))


FIGURES: dict[str, Callable[[str, Results], go.Figure]] = {  # in the report's order
    "loss": training_figure,
    "llc": llc_figure,
    "developmental": developmental_figure,
    "spectra": spectra_figure,
    "density": density_figure,
    "top-eigenvalues": top_eigenvalues_figure,
    "rank": rank_figure,
    "three-way": three_way_figure,
    "fisher-histogram": fisher_histogram_figure,
}


def _spectra_at(series: Mapping, epoch: int) -> tuple[Spectrum | None, np.ndarray]:
    """The Hessian's spectrum, None where not measured, and the Gauss-Newton matrix's positive
    eigenvalues.
    """
    spectra, eigenvalues = series.get("spectrum") or (), series.get("fisher_eigenvalues") or ()
    found = spectra[epoch] if epoch < len(spectra) else None
    exact = eigenvalues[epoch] if epoch < len(eigenvalues) else None
    exact = np.array(exact or (), dtype=float)
    return None if found is None else spectrum_from(found), exact[exact > 0]


def _largest_eigenvalue(spectrum: Spectrum | None, eigenvalues: np.ndarray) -> float:
    known = [] if spectrum is None else [float(spectrum.nodes[spectrum.weights > 0].max())]
    return max([*known, *eigenvalues[:1]])


def _anchors(titles: Sequence[str]) -> dict[str, str]:
    """Title → a name for an anchor, no two the same."""
    names: dict[str, str] = {}
    for title in titles:
        name = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "model"
        while name in names.values():
            name += "-again"
        names[title] = name
    return names
