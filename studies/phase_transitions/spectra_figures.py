"""How many directions become curved in the drop, and where do the eigenvalues lie? Spectra from the
kept quadratures.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from degeneracy.curvature.spectrum import (
    Spectrum,
    count_above,
    density,
    density_grid,
    spectrum_from,
)
from degeneracy.report import curvature_figures
from degeneracy.report.curvature_figures import stretched, unstretched
from degeneracy.report.style import (
    INK,
    PARAMETER_COLOURS,
    SOFT,
    empty_figure,
    hover_texts,
    optimizer_colours,
)
from degeneracy.runs.results import optimizers_of
from degeneracy.texts import label
from studies.phase_transitions.phases import Results, phases_of, threshold_of

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

# N(h) is drawn down to so far below the smallest of the phases' largest eigenvalues
DECADES_BELOW = 3
# times `density_grid`'s width: between the nodes near zero the curve should not fall to nothing
SMOOTHING = 2
STRETCH_DECADES = 5  # of the density's axis on each side of zero, at most


class PhaseSpectra(NamedTuple):
    """What is known of the eigenvalues at one phase of one optimizer."""

    optimizer: str
    phase: str
    epoch: int
    hessian: Spectrum | None
    gauss_newton: Float[np.ndarray, " k"]  # the positive ones, descending

    @property
    def name(self) -> str:
        """How the legend of a curve begins."""
        return f"{label(self.optimizer)}, {self.phase} (epoch {self.epoch})"

    @property
    def largest(self) -> float:
        """The largest eigenvalue of both matrices."""
        hessian = [] if self.hessian is None else [_nodes(self.hessian).max()]
        return float(max([*hessian, *self.gauss_newton[:1]]))


def spectra_figure(title: str, results: Results) -> go.Figure:
    """Number of eigenvalues above h, log-log, before, across and after the drop: Hessian and
    Gauss-Newton matrix, a panel an optimizer.
    """
    shown = _phase_spectra(title, results)
    columns = {name: 1 + place for place, name in enumerate(dict.fromkeys(s[0] for s in shown))}
    figure = empty_figure("Number of eigenvalues N(h) above h", title, columns=len(columns) or 1)
    tops = [spectra.largest for spectra in shown if spectra.largest > 0]
    if not tops:
        return figure
    threshold = threshold_of(results)
    low = min(max(min(tops) / 10**DECADES_BELOW, max(tops) * 1e-12), threshold / 3)
    high = max(2 * max(tops), 3 * threshold)
    for spectra in shown:
        for line in _count_lines(spectra, np.geomspace(low, high, 200)):
            figure.add_trace(line, row=1, col=columns[spectra.optimizer])
    figure.add_traces([*_phase_keys(shown), *_matrix_keys()], rows=1, cols=1)
    _name_panels(figure, columns, optimizer_colours(list(optimizers_of(results, title))))
    for column in columns.values():
        place = {"row": 1, "col": column}
        _mark_threshold(figure, threshold, threshold, showlegend=column == 1, **place)
    _count_axes(figure, low, high)
    return figure.update_layout(hovermode="closest", height=540)


def _phase_spectra(title: str, results: Results) -> list[PhaseSpectra]:
    """Those of every optimizer's phases at which something was measured."""
    optimizers = optimizers_of(results, title)
    found = [
        PhaseSpectra(name, phase, epoch, *_spectra_at(optimizers[name], epoch))
        for name, phases in phases_of(results, title).items()
        for phase, epoch in phases.items()
    ]
    return [one for one in found if one.hessian is not None or len(one.gauss_newton)]


def _spectra_at(series: Mapping, epoch: int) -> tuple[Spectrum | None, Float[np.ndarray, " k"]]:
    """The Hessian's spectrum, None where not measured, and the Gauss-Newton matrix's positive
    eigenvalues.
    """
    hessian = _entry(series, "spectrum", epoch)
    eigenvalues = np.array(_entry(series, "fisher_eigenvalues", epoch) or (), dtype=float)
    return None if hessian is None else spectrum_from(hessian), eigenvalues[eigenvalues > 0]


def _entry(series: Mapping, key: str, epoch: int) -> Any:
    values = series.get(key) or ()
    return values[epoch] if epoch < len(values) else None


def _count_lines(spectra: PhaseSpectra, grid: Float[np.ndarray, " points"]) -> list[go.Scatter]:
    """N(h): of the Hessian on the grid, of the Gauss-Newton matrix a step an eigenvalue."""
    look = {"color": PHASE_COLOURS[spectra.phase], "width": 2}
    lines = []
    if spectra.hessian is not None:
        counts = [count_above(spectra.hessian, h) for h in grid]
        values = np.array([count.value for count in counts])
        errors = np.array([count.std_error for count in counts], dtype=float)  # None is NaN
        lines.append(go.Scatter(x=grid, y=values, customdata=hover_texts(values, errors)))
        lines[-1].update(name=f"{spectra.name}, Hessian", line=look)
    if len(spectra.gauss_newton):
        ranks = 1 + np.arange(len(spectra.gauss_newton))
        texts = [f"{rank:,}" for rank in ranks]
        lines.append(go.Scatter(x=spectra.gauss_newton, y=ranks, customdata=texts))
        steps = {**look, "dash": "dot", "shape": "hv"}
        lines[-1].update(name=f"{spectra.name}, Gauss-Newton", line=steps)
    for line in lines:
        hover = f"{line.name}<br>%{{customdata}} above %{{x:.3g}}<extra></extra>"
        line.update(mode="lines", showlegend=False, hovertemplate=hover)
    return lines


def _phase_keys(shown: Sequence[PhaseSpectra]) -> list[go.Scatter]:
    """Empty traces for the legend: a phase's colour, with its epochs."""
    phases = {spectra.phase for spectra in shown}
    keys = []
    for phase in [phase for phase in PHASE_COLOURS if phase in phases]:
        own = [spectra for spectra in shown if spectra.phase == phase]
        epochs = ", ".join(f"{label(one.optimizer)} {one.epoch}" for one in own)
        keys.append(_key(f"{phase} (epoch: {epochs})", color=PHASE_COLOURS[phase], width=4))
    return keys


def _matrix_keys() -> list[go.Scatter]:
    """Empty traces for the legend: a matrix's dash."""
    dashes = {"Hessian": "solid", "Gauss-Newton": "dot"}
    return [_key(name, color=INK, width=2, dash=dash) for name, dash in dashes.items()]


def _key(name: str, **line) -> go.Scatter:
    return go.Scatter(x=[None], y=[None], mode="lines", hoverinfo="skip", name=name, line=line)


def _name_panels(figure: go.Figure, columns: Mapping[str, int], colours: Mapping[str, str]) -> None:
    """Puts each optimizer's name above the left end of its panel."""
    for optimizer, column in columns.items():
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
            font={"color": colours[optimizer], "size": 13},
        )


def _count_axes(figure: go.Figure, low: float, high: float) -> None:
    """Log axes from `low` to `high`, and up to the highest count within, the same in all panels."""
    decades = math.log10(high / low)
    figure.update_xaxes(
        title_text="h (nats / weight²)",
        type="log",
        dtick=max(1, round(decades / 4)),
        range=[math.log10(low), math.log10(high)],
        tickformat=".0e",
    )
    points = [point for line in figure.data for point in zip(line.x, line.y, strict=True)]
    most = max((y for x, y in points if x is not None and x >= low), default=1)
    ends = [-0.3, math.log10(2 * max(1, most))]
    figure.update_yaxes(
        title_text="N(h)", type="log", dtick=1, range=ends, tickformat="~s", matches="y"
    )


def density_figure(title: str, results: Results) -> go.Figure:
    """Spectral density of the Hessian with a slider over epochs, on an axis that is logarithmic on
    both sides of zero.

    A plateau's spectrum is thousands of times narrower than that after the drop: on a linear axis
    for both it would be a spike at zero, as wide as the smoothing.
    """
    optimizers = optimizers_of(results, title)
    spectra = {name: _hessian_spectra(series) for name, series in optimizers.items()}
    measured = [one for of_epoch in spectra.values() for one in of_epoch if one is not None]
    extents = [extent for one in measured if (extent := float(np.abs(_nodes(one)).max())) > 0]
    if not extents:
        return empty_figure("Spectrum of the Hessian", title)
    linear_below = _linear_below(extents)
    grid, densities = _stretched_densities(spectra, linear_below)
    figure = curvature_figures.density_figure(
        title,
        densities,
        grid,
        results["models"][title]["num_parameters"],
        linear_below=linear_below,
    )
    threshold = threshold_of(results)
    place = float(stretched(threshold, linear_below))
    return _mark_threshold(figure, threshold, place, showlegend=True)


def _hessian_spectra(series: Mapping) -> list[Spectrum | None]:
    found = series.get("spectrum") or ()
    return [None if one is None else spectrum_from(one) for one in found]


def _linear_below(extents: Sequence[float]) -> float:
    """A power of ten below the smallest extent, so that every epoch's axis has some to label."""
    smallest = max(min(extents), max(extents) * 10**-STRETCH_DECADES)
    return 10.0 ** math.floor(math.log10(smallest / 2))


def _stretched_densities(
    spectra: Mapping[str, Sequence[Spectrum | None]], linear_below: float
) -> tuple[Float[np.ndarray, " points"], dict[str, dict[str, list]]]:
    """A grid of eigenvalues for all spectra, and the series `spectral_density` on it."""
    on_axis = {
        name: [None if one is None else _stretched(one, linear_below) for one in of_epoch]
        for name, of_epoch in spectra.items()
    }
    every = [one for of_epoch in on_axis.values() for one in of_epoch if one is not None]
    places, width = density_grid(every)
    width *= SMOOTHING
    places = np.linspace(places[0] - 4 * width, places[-1] + 4 * width, len(places))
    densities = {
        name: [None if one is None else density(one, places, width) for one in of_epoch]
        for name, of_epoch in on_axis.items()
    }
    series = {name: {"spectral_density": values} for name, values in densities.items()}
    return unstretched(places, linear_below), series


def _stretched(spectrum: Spectrum, linear_below: float) -> Spectrum:
    return replace(spectrum, nodes=stretched(spectrum.nodes, linear_below))


def _nodes(spectrum: Spectrum) -> Float[np.ndarray, " nodes"]:
    """Those that count."""
    return spectrum.nodes[spectrum.weights > 0]


def _mark_threshold(figure: go.Figure, threshold: float, x: float, **where) -> go.Figure:
    """A vertical line at γ/nβ, which stands at `x`; returns the figure."""
    return figure.add_vline(
        x=x,
        line={"color": SOFT, "width": 1.5, "dash": "dash"},
        layer="below",
        name=f"γ/nβ = {threshold:.3g}",
        legendgroup="threshold",
        **where,
    )
