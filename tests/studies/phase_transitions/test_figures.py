"""Do the figures of a phase transition show what was measured, where the rule says?"""

import copy
import re

import numpy as np
import pytest
from transition_results import NGD, SGD, TITLE, optimizers_of, series_of

from degeneracy.report.style import COLOURS, OTHER_COLOURS, optimizer_colours
from studies.phase_transitions.developmental_figure import developmental_figure
from studies.phase_transitions.figures import (
    CAPTIONS,
    FIGURES,
    SECTIONS,
    drawing_key,
    llc_figure,
    marked,
    show,
    study_figures,
)
from studies.phase_transitions.spectra_figures import spectra_figure

KEYS = [
    "loss",
    "llc",
    "developmental",
    "spectra",
    "density",
    "top-eigenvalues",
    "rank",
    "three-way",
    "fisher-histogram",
]
SERIES = [key for key in series_of(SGD) if key not in ("train_loss", "diverged_epoch")]


@pytest.fixture(scope="module")
def figures(made_up):
    """Key → figure, of the whole results; not to be changed."""
    return {drawing.key: drawing.figure for drawing in drawings_of(made_up)}


def drawings_of(results):
    return [drawing for section in study_figures(results, {}) for drawing in section.drawings]


def named(figure, name):
    (trace,) = [trace for trace in figure.data if trace.name == name]
    return trace


# ---- where the transitions are -------------------------------------------------------------------


@pytest.mark.parametrize("key", ["loss", "llc", "top-eigenvalues", "rank", "three-way"])
def test_a_band_in_the_optimizers_colour_spans_its_drop_in_every_panel(figures, key):
    figure = figures[key]
    panels = {trace.xaxis or "x" for trace in figure.data}
    bands = [shape for shape in figure.layout.shapes if shape.type == "rect"]
    for name, ends in (("sgd", (2, 4)), ("ngd", (2, 3))):
        mine = [shape for shape in bands if shape.fillcolor == COLOURS[name]]
        assert {shape.xref for shape in mine} == panels
        assert {(shape.x0, shape.x1) for shape in mine} == {ends}
        assert [shape.name for shape in mine if shape.showlegend] == [f"{name.upper()}'s drop"]
        assert all((shape.y0, shape.y1, shape.layer) == (0, 1, "below") for shape in mine)
        assert all(shape.yref.endswith("domain") for shape in mine)
    assert len(bands) == 2 * len(panels)


def test_figures_without_epochs_on_their_axis_have_no_bands(figures):
    for key in ("developmental", "spectra", "density", "fisher-histogram"):
        assert all(shape.type != "rect" for shape in figures[key].layout.shapes)


# ---- figures -------------------------------------------------------------------------------------


def test_every_figure_is_there_with_a_caption_titles_and_units(results):
    drawings = drawings_of(results)
    assert [drawing.key for drawing in drawings] == KEYS
    for key, caption, figure in ((d.key, d.caption, d.figure) for d in drawings):
        assert caption == CAPTIONS[key]
        assert TITLE in figure.layout.title.text
        assert all(axis.title.text for axis in (*figure.select_xaxes(), *figure.select_yaxes()))
        assert all(trace.name for trace in figure.data)
        figure.to_json()


@pytest.mark.parametrize(
    ("key", "name", "series"),
    [
        ("loss", "SGD, validation", "val_loss"),
        ("llc", "SGD, measured", "llc"),
        ("llc", "SGD, quadratic, Hessian", "quadratic_llc"),
        ("llc", "SGD, quadratic, Gauss-Newton", "gauss_newton_llc"),
        ("rank", "SGD, Hessian", "hessian_rank"),
        ("rank", "SGD, Gauss-Newton", "gauss_newton_rank"),
        ("three-way", "SGD, Hessian", "hessian_trace"),
        ("three-way", "SGD, Fisher from Hessian", "hessian_fisher_distance"),
    ],
)
def test_the_numbers_arrive_in_the_figure(results, figures, key, name, series):
    found = optimizers_of(results)["sgd"]
    trace = named(figures[key], name)
    np.testing.assert_array_equal(trace.x, range(6))
    np.testing.assert_array_equal(trace.y, found[series])
    if f"{series}_std_error" in found:
        np.testing.assert_allclose(
            trace.error_y.array, 1.96 * np.array(found[f"{series}_std_error"])
        )


def test_axes_name_the_threshold_and_the_samplers_settings(results, figures):
    assert figures["rank"].layout.yaxis.title.text == "eigenvalues above γ/nβ = 0.5"
    assert figures["llc"].layout.yaxis.title.text == "LLC λ̂ (nβ = 20, γ = 10)"
    shapes = spectra_figure(TITLE, results).layout.shapes
    assert shapes[0].x0 == 0.5


def test_llc_against_loss_has_a_point_an_epoch_in_order_and_names_before_and_after(results):
    figure = developmental_figure(TITLE, results)
    for name, given in (("sgd", SGD), ("ngd", NGD)):
        points, key = [trace for trace in figure.data if trace.legendgroup == name.upper()]
        np.testing.assert_array_equal(points.x, given["llc_init_loss"])
        np.testing.assert_array_equal(points.y, given["llc"])
        np.testing.assert_array_equal(points.marker.color, range(6))
        np.testing.assert_allclose(points.error_y.array, 1.96 * np.array(given["llc_std_error"]))
        assert points.line.color == COLOURS[name]
        assert points.marker.symbol == key.marker.symbol
        assert (points.showlegend, key.name) == (False, name.upper())
    assert figure.data[0].marker.symbol != figure.data[2].marker.symbol
    assert figure.layout.coloraxis.colorbar.title.text == "epoch"
    assert figure.layout.xaxis.type == "log"
    places = {note.text: (10**note.x, note.y) for note in figure.layout.annotations}
    assert places == {
        "SGD before, epoch 2": pytest.approx((2.3, 3.0)),
        "SGD after, epoch 4": pytest.approx((0.4, 120.0)),
        "NGD before, epoch 2": pytest.approx((2.3, -5.0)),
        "NGD after, epoch 3": pytest.approx((0.5, 40.0)),
    }


def test_labels_of_two_optimizers_go_to_opposite_sides_of_their_points(results):
    offsets = {
        note.text: note.ay for note in developmental_figure(TITLE, results).layout.annotations
    }
    assert offsets["SGD before, epoch 2"] < 0 < offsets["NGD before, epoch 2"]
    assert offsets["SGD after, epoch 4"] < 0 < offsets["NGD after, epoch 3"]


def test_eigenvalues_are_counted_above_every_h_in_a_panel_an_optimizer(results):
    figure = spectra_figure(TITLE, results)
    hessian = named(figure, "SGD, after (epoch 4), Hessian")
    eigenvalues = 10 * 2.0 ** -np.arange(10)
    apart = np.abs(np.log(hessian.x[:, None] / eigenvalues)).min(1) > 0.1
    counts = (eigenvalues > hessian.x[:, None]).sum(1)
    np.testing.assert_allclose(hessian.y[apart], counts[apart], atol=0.05)
    exact = named(figure, "SGD, after (epoch 4), Gauss-Newton")
    np.testing.assert_allclose(exact.x, 0.9 * eigenvalues)
    np.testing.assert_array_equal(exact.y, np.arange(1, 11))
    assert (exact.line.shape, exact.line.dash, exact.line.color) == (
        "hv",
        "dot",
        hessian.line.color,
    )
    assert named(figure, "NGD, after (epoch 3), Hessian").xaxis == "x2"
    legend = [trace.name for trace in figure.data if trace.showlegend is not False]
    assert legend == [
        "before (epoch: SGD 2, NGD 2)",
        "across (epoch: SGD 3)",
        "after (epoch: SGD 4, NGD 3)",
        "end (epoch: SGD 5, NGD 5)",
        "Hessian",
        "Gauss-Newton",
    ]
    assert [shape.x0 for shape in figure.layout.shapes] == [0.5, 0.5]
    assert [shape.name for shape in figure.layout.shapes if shape.showlegend] == ["γ/nβ = 0.5"]
    assert 10 ** figure.layout.xaxis.range[0] == pytest.approx(
        0.2e-3, rel=1e-3
    )  # three decades below the plateau's largest


def test_without_a_transition_spectra_are_those_of_first_middle_and_last_epoch(results):
    for series in optimizers_of(results).values():
        series["val_loss"] = [2.3, 2.0, 1.7, 1.4, 1.1, 0.8]
    names = [trace.name for trace in spectra_figure(TITLE, results).data]
    for name in (
        "SGD, first (epoch 0), Hessian",
        "NGD, middle (epoch 2), Hessian",
        "NGD, last (epoch 5), Gauss-Newton",
    ):
        assert name in names


def test_the_density_of_plateau_and_drop_both_fill_a_part_of_the_axis(figures):
    """On a linear axis the plateau's would be a line: its eigenvalues are 1/300 of the largest."""
    figure = figures["density"]
    assert len(figure.data) == 12
    assert len(figure.layout.sliders[0].steps) == 6
    for trace in figure.data:
        assert np.trapezoid(trace.y, trace.x) == pytest.approx(1, abs=0.01)
    plateau, after = figure.data[0], figure.data[5]
    seen = [
        np.ptp(trace.x[trace.y > 10 ** figure.layout.yaxis.range[0]]) for trace in (plateau, after)
    ]
    assert seen[0] > 0.15 * seen[1]
    assert len(set(map(tuple, (trace.x for trace in figure.data)))) == 1


# ---- any number of optimizers and models ---------------------------------------------------------


def test_every_optimizer_of_a_run_has_a_colour_of_its_own_in_every_figure(four):
    names = list(optimizers_of(four))
    colours = optimizer_colours(names)
    assert len(set(colours.values())) == 4
    figures = {drawing.key: drawing.figure for drawing in drawings_of(four)}
    bands = {shape.fillcolor for shape in figures["rank"].layout.shapes}
    assert bands == set(colours.values())
    lines = {trace.line.color for trace in figures["developmental"].data}
    assert lines == set(colours.values())
    panels = {note.text: note.font.color for note in figures["spectra"].layout.annotations}
    assert panels == {"SGD": colours["sgd"], "NGD": colours["ngd"], "AdamW": colours["adamw"]} | {
        "my own": colours["my own"]
    }
    assert {trace.xaxis for trace in figures["spectra"].data} == {"x", "x2", "x3", "x4"}


def test_one_optimizer_alone_even_a_users_own_has_every_figure(results):
    results["models"][TITLE]["optimizers"] = {"mine": optimizers_of(results)["sgd"]}
    drawings = drawings_of(results)
    assert [drawing.key for drawing in drawings] == KEYS
    (band,) = drawings[0].figure.layout.shapes
    assert (band.name, band.fillcolor in OTHER_COLOURS) == ("mine's drop", True)


def test_two_models_have_headings_and_anchors_of_their_own(results):
    other = "LeNet-5; 4 more"
    results["models"][other] = copy.deepcopy(results["models"][TITLE])
    sections = study_figures(results, {})
    headings = [section.heading for section in sections]
    assert headings == [f"{title}: {heading}" for title in (TITLE, other) for heading in SECTIONS]
    keys = [drawing.key for drawing in drawings_of(results)]
    assert len(set(keys)) == len(keys) == 2 * len(KEYS)
    assert all(re.fullmatch("[a-z0-9-]+", key) for key in keys)
    assert keys[0] == drawing_key("loss", TITLE, results) == "lenet-5-4-more-loss"


def test_a_notebook_shows_a_figure_of_every_model_by_its_key(results, monkeypatch):
    assert FIGURES.keys() == CAPTIONS.keys()
    shown = []
    monkeypatch.setattr(
        "plotly.graph_objects.Figure.show", lambda figure: shown.append(figure.layout.title.text)
    )
    results["models"]["Another"] = {"num_parameters": 1, "optimizers": {}}
    show(results, "developmental")
    assert len(shown) == 1
    assert TITLE in shown[0]


def test_marking_gives_back_the_figure_that_it_marks(results):
    figure = llc_figure(TITLE, results)
    assert marked(figure, results, TITLE) is figure


def test_a_models_title_cannot_bring_markup_into_a_figure(results):
    results["models"] = {
        "<script>alert(1)</script>": results["models"][TITLE],
        "other": copy.deepcopy(results["models"][TITLE]),
    }
    for drawing in drawings_of(results):
        assert "<script>" not in drawing.figure.layout.title.text
        assert "<" not in drawing.key


# ---- runs that are not whole ---------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 1, 3, 4])
def test_what_was_measured_so_far_is_drawn(results, cut, keep):
    for series in optimizers_of(results).values():
        cut(series, keep)
    assert [drawing.key for drawing in drawings_of(results)] == (KEYS if keep else [])


@pytest.mark.parametrize("first", range(4))
@pytest.mark.parametrize("is_gone", [False, True])
def test_figures_are_drawn_without_any_quarter_of_the_series(results, first, is_gone):
    for place, series in enumerate(optimizers_of(results).values()):
        for key in SERIES[(first + place) % 4 :: 4]:
            series[key] = [None] * 6
            if is_gone:
                del series[key]
    assert drawings_of(results)


def test_a_model_without_optimizers_has_no_figures(results):
    results["models"][TITLE]["optimizers"] = {}
    assert study_figures(results, {}) == []
    results["models"] = {}
    assert study_figures(results, {}) == []


def test_in_a_swap_run_the_swap_is_marked(results):
    results["config"]["experiment"] |= {"experiment_type": "swap", "cut_off_epochs": 1}
    figures = {drawing.key: drawing.figure for drawing in drawings_of(results)}
    for key in ("loss", "llc", "rank", "top-eigenvalues"):
        assert any("swap after epoch 1" in note.text for note in figures[key].layout.annotations)
