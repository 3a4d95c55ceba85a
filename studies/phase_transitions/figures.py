"""What happens to LLC and curvature where training leaves a plateau? Every figure, section by
section; what was not measured is left out.
"""

import re
from collections.abc import Callable, Mapping, Sequence

import plotly.graph_objects as go

from degeneracy.report import curvature_figures
from degeneracy.report.page import Drawing, Section
from degeneracy.report.run_figures import loss_figure
from degeneracy.report.style import optimizer_colours
from degeneracy.runs.results import optimizers_of, swap_epoch
from degeneracy.texts import label
from studies.phase_transitions.developmental_figure import developmental_figure
from studies.phase_transitions.phases import Results, threshold_of, transitions_of
from studies.phase_transitions.rule import Transition
from studies.phase_transitions.spectra_figures import density_figure, spectra_figure

DEPTH = 0.26  # opacity of all bands together, where all drops overlap

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


def study_figures(results: Results, traces: Mapping) -> list[Section]:
    """The figures of every model; of the sampled losses `traces` none are shown.

    Where there are several models, a heading begins with the model's title.
    """
    several = len(results["models"]) > 1
    sections = []
    for title in results["models"]:
        for heading, keys in SECTIONS.items():
            drawings = [
                Drawing(drawing_key(key, title, results), CAPTIONS[key], figure)
                for key in keys
                if (figure := FIGURES[key](title, results)).data
            ]
            sections.append(Section(f"{title}: {heading}" if several else heading, drawings))
    return [section for section in sections if section.drawings]


def drawing_key(key: str, title: str, results: Results) -> str:
    """A drawing's key on the page; of several models it begins with the model's title, fit for an
    anchor.
    """
    names = _anchors(list(results["models"]))
    return f"{names[title]}-{key}" if len(names) > 1 else key


def show(results: Results, key: str) -> None:
    """Shows one figure, by its key in `FIGURES`, of every model in a notebook."""
    for title in results["models"]:
        figure = FIGURES[key](title, results)
        if figure.data:
            figure.show()


def marked(figure: go.Figure, results: Results, title: str) -> go.Figure:
    """Adds to every panel of a figure over epochs a band for each drop, in its optimizer's colour;
    returns the figure.

    The legend names them, so that drops close to each other have no texts that collide.
    """
    panels = sorted({(trace.xaxis or "x", trace.yaxis or "y") for trace in figure.data})
    transitions = transitions_of(results, title)
    colours = optimizer_colours(list(transitions))
    for optimizer, own in transitions.items():
        name = f"{label(optimizer)}'s drop"
        places = [(transition, panel) for transition in own for panel in panels]
        for place, (transition, panel) in enumerate(places):
            look = {"fillcolor": colours[optimizer], "name": name, "legendgroup": name}
            look["opacity"] = DEPTH / max(2, len(transitions))
            figure.add_shape(**_band(transition, *panel), **look, showlegend=place == 0)
    return figure


def _band(transition: Transition, x: str, y: str) -> dict:
    """A rectangle from the plateau's end to the drop's, over the whole height of a panel."""
    return {
        "type": "rect",
        **{"x0": transition.plateau_end, "x1": transition.end, "xref": x},
        **{"y0": 0, "y1": 1, "yref": f"{y} domain"},
        **{"line": {"width": 0}, "layer": "below"},
    }


def training_figure(title: str, results: Results) -> go.Figure:
    """Training and validation loss over epochs."""
    return marked(loss_figure(title, results), results, title)


def llc_figure(title: str, results: Results) -> go.Figure:
    """LLC over epochs: measured, and of the second-order expansion by Hessian and Gauss-Newton
    matrix.
    """
    figure = curvature_figures.quadratic_llc_figure(
        title,
        optimizers_of(results, title),
        results["nbeta"],
        results["config"]["devinterp"]["localization"],
        swap_epoch(results["config"]),
    )
    return marked(figure, results, title)


def top_eigenvalues_figure(title: str, results: Results) -> go.Figure:
    """The largest eigenvalues of the Hessian over epochs."""
    figure = curvature_figures.top_eigenvalues_figure(
        title, optimizers_of(results, title), swap_epoch=swap_epoch(results["config"])
    )
    return marked(figure, results, title)


def rank_figure(title: str, results: Results) -> go.Figure:
    """Number of eigenvalues above γ/nβ over epochs, of Hessian and Gauss-Newton matrix."""
    threshold = f"γ/nβ = {threshold_of(results):.3g}"
    figure = curvature_figures.rank_figure(
        title, optimizers_of(results, title), threshold, swap_epoch(results["config"])
    )
    return marked(figure, results, title)


def three_way_figure(title: str, results: Results) -> go.Figure:
    """Traces of Hessian, Fisher and empirical Fisher over epochs, and how far they are apart."""
    figure = curvature_figures.three_way_figure(
        title, optimizers_of(results, title), swap_epoch(results["config"])
    )
    return marked(figure, results, title)


def fisher_histogram_figure(title: str, results: Results) -> go.Figure:
    """The Fisher information's diagonal, with a slider over epochs."""
    return curvature_figures.fisher_histogram_figure(title, optimizers_of(results, title))


FIGURES: dict[str, Callable[[str, Results], go.Figure]] = {
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
SECTIONS = {  # heading → keys of `FIGURES`, in the report's order
    "Loss and LLC": ("loss", "llc", "developmental"),
    "Spectrum of the Hessian": ("spectra", "density", "top-eigenvalues", "rank"),
    "Hessian and Fisher information": ("three-way", "fisher-histogram"),
}


def _anchors(titles: Sequence[str]) -> dict[str, str]:
    """Title → a name for an anchor, no two the same."""
    names: dict[str, str] = {}
    for title in titles:
        name = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "model"
        while name in names.values():
            name += "-again"
        names[title] = name
    return names
