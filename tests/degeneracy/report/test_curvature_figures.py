"""Do the figures of curvature show the numbers that they are given, one epoch at a time, and say in
which units?
"""

import json

import numpy as np
import pytest

from degeneracy.curvature.histogram import BIN_EDGES, diagonal_histogram
from degeneracy.report import curvature_figures
from degeneracy.report.curvature_figures import (
    AT_THE_EDGE,
    density_figure,
    fisher_histogram_figure,
    quadratic_llc_figure,
    rank_figure,
    stretched,
    three_way_figure,
    top_eigenvalues_figure,
    unstretched,
)
from degeneracy.report.style import COLOURS, optimizer_colours

TITLE = "FFNN 2 HL, 256 HN"
GRID = np.linspace(-1, 9, 50)


def lists(value, first=0, count=6):
    return [None if epoch < first else value(epoch) for epoch in range(count)]


@pytest.fixture
def optimizers():
    """Two optimizers over epochs 0 to 5, NGD from epoch 2 on, SGD's epoch 3 not measured."""
    found = {}
    for optimizer, first, scale in (("sgd", 0, 1.0), ("ngd", 2, 2.0)):
        series = {
            "spectral_density": lists(
                lambda e, s=scale: list(s * np.exp(-((GRID - e) ** 2))), first
            ),
            "top_eigenvalues": lists(lambda e, s=scale: [s * (9 + e), s * 4, s * 0.5], first),
            "fisher_histogram": lists(
                lambda e, s=scale: diagonal_histogram([0, s * 10.0**-e, s, 3e-7]), first
            ),
        }
        for place, key in enumerate(
            (
                "hessian_rank",
                "hessian_trace",
                "fisher_trace",
                "empirical_fisher_trace",
                "hessian_fisher_distance",
                "fisher_empirical_distance",
                "llc",
                "quadratic_llc",
                "gauss_newton_llc",
            )
        ):
            series[key] = lists(lambda e, s=scale, place=place: s * (10 + e + place), first)
            series[f"{key}_std_error"] = lists(lambda e: 0.5 + e, first)
        for values in series.values():
            values[3] = None if optimizer == "sgd" else values[3]
        found[optimizer] = series
    return json.loads(json.dumps(found))  # as they come from results.json


def named(figure, name):
    (trace,) = [trace for trace in figure.data if trace.name == name]
    return trace


def every_figure(optimizers):
    return [
        density_figure(TITLE, optimizers, GRID, 1000),
        top_eigenvalues_figure(TITLE, optimizers),
        rank_figure(TITLE, optimizers, "h_max/1000"),
        fisher_histogram_figure(TITLE, optimizers),
        three_way_figure(TITLE, optimizers),
        quadratic_llc_figure(TITLE, optimizers, 26.4, 100),
    ]


def epochs_shown(figure, optimizers, key):
    """Epoch of the slider → optimizers and traces that it shows, having checked that they are those
    measured then.
    """
    (slider,) = figure.layout.sliders
    assert [step.label for step in slider.steps] == ["0", "1", "2", "3", "4", "5"]
    assert [trace.visible for trace in figure.data] == list(
        slider.steps[slider.active].args[0]["visible"]
    )
    found = {}
    for epoch, step in enumerate(slider.steps):
        shown = [
            trace for trace, on in zip(figure.data, step.args[0]["visible"], strict=True) if on
        ]
        measured = [name for name in optimizers if optimizers[name][key][epoch] is not None]
        assert [trace.legendgroup for trace in shown] == measured
        found[epoch] = list(zip(measured, shown, strict=True))
    return found


def test_the_slider_shows_the_densities_of_one_epoch_at_a_time(optimizers):
    figure = density_figure(TITLE, optimizers, GRID, 1000)
    for epoch, shown in epochs_shown(figure, optimizers, "spectral_density").items():
        for name, trace in shown:
            assert trace.name == name.upper()
            np.testing.assert_array_equal(trace.y, optimizers[name]["spectral_density"][epoch])
            np.testing.assert_array_equal(trace.x, GRID)


def test_a_stretched_axis_tells_a_narrow_spectrum_from_a_wide_one(optimizers):
    """It is linear near zero, a decade a unit beyond, the same on both sides, and its ticks are
    eigenvalues.
    """
    values = np.array([-100.0, -1e-4, 0.0, 1e-4, 1.0, 10.0, 100.0])
    places = stretched(values, 0.01)
    np.testing.assert_allclose(unstretched(places, 0.01), values, atol=1e-12)
    np.testing.assert_allclose(places, -stretched(-values, 0.01))
    np.testing.assert_allclose(np.diff(places[-3:]), 1, atol=1e-4)
    assert places[3] == pytest.approx(0.01 / np.log(10), rel=1e-4)
    figure = density_figure(TITLE, optimizers, GRID, 1000, linear_below=0.01)
    np.testing.assert_allclose(figure.data[0].x, stretched(GRID, 0.01))
    np.testing.assert_array_equal(figure.data[0].customdata, GRID)
    ticks = [float(text.replace("−", "-")) for text in figure.layout.xaxis.ticktext]
    assert 0 in ticks
    np.testing.assert_allclose(figure.layout.xaxis.tickvals, stretched(np.array(ticks), 0.01))
    assert "linear below 0.01" in figure.layout.xaxis.title.text
    assert "per decade" in figure.layout.yaxis.title.text


def test_the_density_is_on_a_log_axis_down_to_a_single_eigenvalue(optimizers):
    figure = density_figure(TITLE, optimizers, GRID, 1000)
    low, high = figure.layout.yaxis.range
    top = max(max(d) for series in optimizers.values() for d in series["spectral_density"] if d)
    assert figure.layout.yaxis.type == "log"
    assert 10**low == pytest.approx(top / 10_000)
    assert 10**high > top


def test_the_legend_of_the_density_stays_away_from_the_slider(optimizers):
    """Which is below the plot."""
    figure = density_figure(TITLE, optimizers, GRID, 1000)
    assert figure.layout.legend.yref == "paper"
    assert figure.layout.legend.y > 1
    assert figure.layout.sliders[0].y == 0
    assert figure.layout.sliders[0].yanchor == "top"


def test_every_eigenvalue_has_a_line_and_each_optimizer_one_entry_in_the_legend(optimizers):
    figure = top_eigenvalues_figure(TITLE, optimizers)
    assert len(figure.data) == 6
    assert [trace.name for trace in figure.data if trace.showlegend] == [
        "SGD, 3 largest",
        "NGD, 3 largest",
    ]
    np.testing.assert_array_equal(figure.data[0].y, [9, 10, 11, np.nan, 13, 14])
    np.testing.assert_array_equal(figure.data[3].y, [np.nan, np.nan, 22, 24, 26, 28])
    assert figure.layout.yaxis.type == "log"


def test_ranks_have_95_percent_intervals_and_the_axis_names_the_threshold(optimizers):
    figure = rank_figure(TITLE, optimizers, "h_max/1000", swap_epoch=2)
    trace = named(figure, "SGD")
    np.testing.assert_array_equal(trace.y, [10, 11, 12, np.nan, 14, 15])
    np.testing.assert_allclose(
        trace.error_y.array, 1.96 * np.array([0.5, 1.5, 2.5, np.nan, 4.5, 5.5])
    )
    assert "above h_max/1000" in figure.layout.yaxis.title.text
    assert "swap after epoch 2" in [annotation.text for annotation in figure.layout.annotations]


def test_the_rank_of_the_gauss_newton_matrix_is_drawn_where_there_is_one(optimizers):
    optimizers["sgd"]["gauss_newton_rank"] = [9, 9, 9, None, 9, 8]
    figure = rank_figure(TITLE, optimizers, "γ/nβ")
    assert [trace.name for trace in figure.data] == [
        "SGD, Hessian",
        "SGD, Gauss-Newton",
        "NGD, Hessian",
    ]
    exact = named(figure, "SGD, Gauss-Newton")
    np.testing.assert_array_equal(exact.y, [9, 9, 9, np.nan, 9, 8])
    assert exact.error_y.array is None
    del optimizers["sgd"]["hessian_rank"], optimizers["ngd"]["hessian_rank"]
    figure = rank_figure(TITLE, optimizers, "γ/nβ")
    assert figure.layout.xaxis.range[1] > 5


def test_a_histogram_has_every_weight_once_in_bins_that_never_change():
    rng = np.random.default_rng(0)
    diagonal = np.concatenate(
        [10 ** rng.normal(-5, 1, 300), np.zeros(96), [1e-30, 1e9, 1e-16, 1e4]]
    )
    histogram = diagonal_histogram(diagonal.astype(np.float32))
    assert histogram["zeros"] == pytest.approx(96 / 400)
    assert len(histogram["shares"]) == len(BIN_EDGES) - 1 == 80
    assert sum(histogram["shares"]) + histogram["zeros"] == pytest.approx(1)
    # beyond the ends, too
    assert histogram["shares"][0] == histogram["shares"][-1] == pytest.approx(2 / 400)
    inside = np.array(histogram["shares"])[(BIN_EDGES[:-1] >= -8) & (BIN_EDGES[1:] <= -2)]
    np.testing.assert_allclose(
        400 * inside, np.histogram(diagonal, 10 ** np.linspace(-8, -2, 25))[0]
    )
    assert json.loads(json.dumps(histogram)) == histogram


@pytest.mark.parametrize("diagonal", [[], [1.0, -1e-9], [1.0, np.nan], [np.inf]])
def test_what_is_no_diagonal_of_a_fisher_information_is_refused(diagonal):
    with pytest.raises(ValueError, match="negative or not finite"):
        diagonal_histogram(np.array(diagonal))


def test_the_slider_shows_the_histograms_of_one_epoch_at_a_time(optimizers):
    figure = fisher_histogram_figure(TITLE, optimizers)
    for epoch, shown in epochs_shown(figure, optimizers, "fisher_histogram").items():
        for name, trace in shown:
            assert trace.name == f"{name.upper()} (25 % are exactly 0)"
            np.testing.assert_allclose(
                trace.y, 100 * np.array(optimizers[name]["fisher_histogram"][epoch]["shares"])
            )
    assert figure.layout.xaxis.type == "log"
    low, high = figure.layout.xaxis.range  # of the bins that any epoch uses: from 3e-7 to 2
    assert (low, high) == (-6.75, 0.5)
    assert figure.layout.yaxis.range[1] >= 50


def test_three_traces_and_two_distances_of_each_optimizer(optimizers):
    figure = three_way_figure(TITLE, optimizers)
    left = [trace.name for trace in figure.data if trace.xaxis == "x"]
    right = [trace.name for trace in figure.data if trace.xaxis == "x2"]
    matrices = ("Hessian", "Fisher", "empirical Fisher")
    assert left == [f"{name}, {matrix}" for name in ("SGD", "NGD") for matrix in matrices]
    assert len(right) == 4
    np.testing.assert_array_equal(named(figure, "NGD, Fisher").y, [np.nan, np.nan, 28, 30, 32, 34])
    assert len({trace.line.dash for trace in figure.data[:3]}) == 3


def test_the_prediction_stands_beside_the_measured_llc_with_its_settings(optimizers):
    figure = quadratic_llc_figure(TITLE, optimizers, nbeta=26.4, localization=100)
    assert figure.layout.yaxis.title.text == "LLC λ̂ (nβ = 26.4, γ = 100)"
    measured, predicted = named(figure, "SGD, measured"), named(figure, "SGD, quadratic, Hessian")
    np.testing.assert_array_equal(np.subtract(predicted.y, measured.y), [1, 1, 1, np.nan, 1, 1])
    del optimizers["ngd"]["gauss_newton_llc"]
    assert len(quadratic_llc_figure(TITLE, optimizers, 26.4, 100).data) == 5


def test_a_log_axis_ends_where_the_values_do_also_where_an_interval_reaches_below_zero(optimizers):
    for epoch in range(3):
        optimizers["sgd"]["hessian_trace"][epoch] = 0.1
        optimizers["sgd"]["hessian_trace_std_error"][epoch] = 1.0
    axis = three_way_figure(TITLE, optimizers).layout.yaxis
    assert axis.type == "log"
    assert 0.01 < 10 ** axis.range[0] < 0.1


def test_values_at_or_below_zero_stand_at_the_edge_of_a_log_axis_and_hide_nothing(optimizers):
    """As on a plateau, where curvature is a thousandth of what it is later."""
    optimizers["sgd"]["llc"] = [-3.0, 0.0, 0.1, None, 80.0, 100.0]
    optimizers["ngd"]["llc"] = [None, None, 1e-9, 0.2, 70.0, 90.0]
    figure = quadratic_llc_figure(TITLE, optimizers, 26.4, 100)
    axis, edge = figure.layout.yaxis, named(figure, AT_THE_EDGE)
    assert axis.type == "log"
    assert 0.01 < 10 ** axis.range[0] < 0.1
    np.testing.assert_array_equal(
        named(figure, "SGD, measured").y, [np.nan, np.nan, 0.1, np.nan, 80, 100]
    )
    # Inside the axis, or the browser leaves them out.
    assert all(
        axis.range[0] + 0.01 < place < axis.range[0] + 0.1 * np.ptp(axis.range)
        for place in np.log10(edge.y)
    )
    assert edge.x == (0, 1, 2)
    assert edge.marker.color == (COLOURS["sgd"], COLOURS["sgd"], COLOURS["ngd"])
    for text, words in zip(
        edge.customdata, ("epoch 0: -3 ±", "epoch 1: 0 ±", "epoch 2: 1e-09 ±"), strict=True
    ):
        assert words in text
    assert edge.showlegend


def test_values_as_far_below_zero_as_above_keep_a_linear_axis(optimizers):
    for name in optimizers:
        optimizers[name] = {"llc": [-80.0, 0.1, 50.0, 100.0]}
    figure = quadratic_llc_figure(TITLE, optimizers, 26.4, 100)
    assert figure.layout.yaxis.type is None
    assert all(list(trace.y) == [-80, 0.1, 50, 100] for trace in figure.data)


def test_colours_titles_and_axes_are_those_of_the_report(optimizers):
    for figure in every_figure(optimizers):
        assert TITLE in figure.layout.title.text
        assert all(axis.title.text for axis in (*figure.select_xaxes(), *figure.select_yaxes()))
        for trace in figure.data:
            assert trace.line.color == COLOURS[trace.name[:3].lower()]


def test_four_optimizers_have_four_colours_and_nothing_in_a_name_is_read_as_a_tag(optimizers):
    four = optimizers | {"adamw": optimizers["sgd"], "<b>mine</b>": optimizers["ngd"]}
    for figure in every_figure(four):
        lines = [trace for trace in figure.data if trace.line.color]
        assert {trace.line.color for trace in lines} == set(optimizer_colours(list(four)).values())
        assert not any("<b>" in trace.name for trace in figure.data)
        assert any("&lt;b&gt;mine" in trace.name for trace in figure.data)


def test_the_swap_is_marked_in_both_panels(optimizers):
    figure = three_way_figure(TITLE, optimizers, swap_epoch=2)
    marks = [note.xref for note in figure.layout.annotations]
    assert marks == ["x", "x2"]
    assert [shape.x0 for shape in figure.layout.shapes] == [2, 2]


def test_what_was_not_measured_is_not_drawn():
    nothing = {"sgd": {"llc": [None, None]}, "ngd": {}}
    for figure in (
        density_figure(TITLE, nothing, GRID, 1000),
        top_eigenvalues_figure(TITLE, nothing),
        rank_figure(TITLE, nothing, "0.1"),
        fisher_histogram_figure(TITLE, nothing),
        fisher_histogram_figure(
            TITLE, {"sgd": {"fisher_histogram": [None, diagonal_histogram(np.zeros(3))]}}
        ),
        three_way_figure(TITLE, nothing),
        quadratic_llc_figure(TITLE, nothing, 1, 1),
    ):
        assert not figure.data


def test_a_name_of_a_model_cannot_bring_markup_into_the_page():
    figure = curvature_figures.rank_figure("<script>", {}, "0.1")
    assert "<script>" not in figure.layout.title.text
