"""Do figures, sentences and table of a phase transition show what was measured, where the rule
says, whole or not?
"""

import copy
import json
import math
import re

import numpy as np
import pytest
import torch

from degeneracy.curvature.histogram import diagonal_histogram
from degeneracy.curvature.operators import Operator
from degeneracy.curvature.spectrum import spectrum_of, tridiagonals
from degeneracy.report.page import write_figs_to_html
from degeneracy.report.style import COLOURS, OTHER_COLOURS
from studies.phase_transitions.figures import (
    CAPTIONS,
    FIGURES,
    developmental_figure,
    llc_figure,
    marked,
    show,
    spectra_figure,
    study_figures,
)
from studies.phase_transitions.findings import findings, summary_table
from studies.phase_transitions.phases import phases_of, transitions_of

TITLE = "LeNet-5, 4 more"
DIM = 30
NBETA, GAMMA = 20.0, 10.0  # γ/nβ = 0.5
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

# By the rule both plateaus end after epoch 2, SGD's drop after epoch 4 and NGD's after epoch 3.
SGD = {
    "val_loss": [2.3, 2.3, 2.3, 1.0, 0.3, 0.29],
    "llc_init_loss": [2.3, 2.3, 2.3, 1.0, 0.4, 0.2],
    "llc": [1.0, 2.0, 3.0, 50.0, 120.0, 100.0],
    "llc_std_error": [0.5, 0.5, 0.3, 1.0, 0.4, 3.0],
    "hessian_trace": [1.0, 1.0, 2.0, 60.0, 20.0, 20.0],
    "top": [0.1, 0.1, 0.2, 30.0, 10.0, 9.0],
}
NGD = {
    "val_loss": [2.3, 2.31, 2.3, 0.3, 0.29, 0.28],
    "llc_init_loss": [2.3, 2.3, 2.3, 0.5, 0.4, 0.1],
    "llc": [1.0, 1.0, -5.0, 40.0, 60.0, 80.0],
    "llc_std_error": [0.5, 0.5, 0.5, 4.0, 4.0, 4.0],
    "hessian_trace": [1.0, 1.0, 2.0, 10.0, 20.0, 30.0],
    "top": [0.1, 0.1, 0.2, 5.0, 6.0, 7.0],
}


def series_of(given):
    """All series of a made-up optimizer: a Hessian whose largest eigenvalue is `top`, of which 10
    are not zero.
    """
    last = len(given["val_loss"])
    series = {key: list(values) for key, values in given.items() if key != "top"}
    series |= {
        "train_loss": given["val_loss"],
        "diverged_epoch": None,
        "num_unsettled_chains": [0] * last,
    }
    series["hessian_trace_std_error"] = [0.5] * last
    curvatures = [top * 2.0 ** -np.arange(10) for top in given["top"]]
    series["top_eigenvalues"] = [values[:3] for values in curvatures]
    series["fisher_eigenvalues"] = [0.9 * values for values in curvatures]
    series["spectrum"] = []
    for values in curvatures:
        diagonal = torch.zeros(DIM)
        diagonal[:10] = torch.from_numpy(values)
        operator = Operator(lambda rows, diagonal=diagonal: rows * diagonal, DIM)
        series["spectrum"].append(tridiagonals(spectrum_of(operator, num_probes=2, num_steps=DIM)))
    for key, value in (
        ("hessian_rank", 5.0),
        ("quadratic_llc", 60.0),
        ("hessian_fisher_distance", 0.5),
        ("fisher_empirical_distance", 0.3),
    ):
        series[key], series[f"{key}_std_error"] = [value] * last, [0.1 * value] * last
    for key, value in (("gauss_newton_rank", 4), ("gauss_newton_llc", 40.0), ("fisher_trace", 7.0)):
        series[key] = [value] * last
    series["empirical_fisher_trace"] = [8.0] * last
    series["fisher_histogram"] = [diagonal_histogram(values) for values in curvatures]
    return {
        key: [*v] if isinstance(v, list) else v
        for key, v in json.loads(json.dumps(series, default=list)).items()
    }


@pytest.fixture(scope="module")
def made_up():
    model = {"num_parameters": DIM, "optimizers": {"sgd": series_of(SGD), "ngd": series_of(NGD)}}
    return {
        "status": "complete",
        "config": {
            "experiment": {
                "experiment_type": "simple",
                "num_epochs": 5,
                "cut_off_epochs": 0,
                "optimizer": "both",
            },
            "data": {"batch_size": 64, "num_hessian_batches": 2},
            "devinterp": {"sampler": "sgld", "localization": GAMMA, "num_chains": 4},
            "transitions": {"flat": 0.02, "steep": 0.1, "min_plateau": 2},
        },
        "nbeta": NBETA,
        "train_size": 60000,
        "models": {TITLE: model},
    }


@pytest.fixture
def results(made_up):
    return copy.deepcopy(made_up)


def optimizers_of(results, title=TITLE):
    return results["models"][title]["optimizers"]


@pytest.fixture(scope="module")
def figures(made_up):
    """Key → figure, of the whole results; not to be changed."""
    return {key: figure for key, _, figure in study_figures(made_up)}


def named(figure, name):
    (trace,) = [trace for trace in figure.data if trace.name == name]
    return trace


def text_of(results, start, place=0):
    return [text for text in findings(results) if text.startswith(start)][place]


# ---- where the transitions are -------------------------------------------------------------------


def test_phases_are_where_the_rule_says(results):
    assert phases_of(results, TITLE) == {
        "sgd": {"before": 2, "across": 3, "after": 4, "end": 5},
        "ngd": {"before": 2, "after": 3, "end": 5},  # the drop is one epoch: across is after
    }
    optimizers_of(results)["ngd"]["val_loss"] = [2.3, 2.0, 1.7, 1.4, 1.1, 0.8]
    assert phases_of(results, TITLE)["ngd"] == {"first": 0, "middle": 2, "last": 5}


def test_the_rules_numbers_are_those_of_the_config(results):
    results["config"]["transitions"]["min_plateau"] = 3
    assert transitions_of(results, TITLE) == {"sgd": [], "ngd": []}


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
    entries = study_figures(results)
    assert [key for key, *_ in entries] == KEYS
    for key, caption, figure in entries:
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


# ---- sentences -----------------------------------------------------------------------------------


def test_the_rule_is_stated_once_with_its_numbers(results):
    rule, *others = findings(results)
    for words in (
        "validation loss",
        "at most 2 % of R",
        "at least 10 % of R",
        "at least 2 flat epochs in a row",
    ):
        assert words in rule
    assert all("of R" not in text for text in others)


def test_an_optimizers_findings_are_those_computed_by_hand(results):
    text = text_of(results, "SGD: ")
    for sentence in (
        (
            "A plateau from epoch 0 to 2, then a drop to epoch 4, steepest in epoch 3: "
            "the validation loss falls from 2.300 to 0.3000."
        ),
        # 0.3² + 0.4² = 0.5², 1.96 · 0.5 = 0.98
        (
            "LLC 3.00 ± 0.30 → 120.00 ± 0.40: change +117.00, 95 % interval 116.02 to 117.98,"
            " beyond noise."
        ),
        (
            "Hessian trace: 2.00 ± 0.50 before, 60.00 ± 0.50 at its largest (epoch 3, inside the"
            " drop), 20.00 ± 0.50 after."
        ),
        (
            "Largest Hessian eigenvalue: 0.2000 before, 30.00 at its largest (epoch 3, inside the"
            " drop), 10.00 after."
        ),
        "‖H − F‖/‖H‖ 0.500 ± 0.050 → 0.500 ± 0.050.",
        (
            "After the drop the LLC measured is 120.00 ± 0.40; to second order, on 128 images, 60.0"
            " ± 6.0 by the Hessian's spectrum (the measured one is 2.00 of it), 40.00 by the"
            " Gauss-Newton matrix's spectrum (the measured one is 3.00 of it)."
        ),
    ):
        assert sentence in text
    assert "below zero" not in text
    assert "Not settled" not in text


def test_it_says_where_a_checkpoint_cannot_lie_inside_and_what_stands_beside_an_llc_below_zero(
    results,
):
    optimizers_of(results)["ngd"]["num_unsettled_chains"][3] = 1
    text = text_of(results, "NGD: ")
    assert "30.00 ± 0.50 at its largest (epoch 5, after the drop)" in text
    assert "The drop takes one epoch, so no checkpoint lies inside it." in text
    assert "After epoch 2 it is below zero: w* is no minimum there" in text
    assert "Not settled: 1 chain after epoch 3." in text
    optimizers_of(results)["ngd"]["llc_std_error"][2] = 10.0
    assert "below zero" not in text_of(results, "NGD: ")


def test_a_change_within_its_interval_is_called_noise(results):
    optimizers_of(results)["sgd"]["llc"][4] = 3.5
    assert "change +0.50, 95 % interval -0.48 to 1.48, within noise" in text_of(results, "SGD: ")


def test_optimizers_are_compared_at_their_last_epoch_and_at_equal_loss(results):
    text = text_of(results, "SGD and NGD: ")
    assert "Both leave their plateau after epoch 2." in text
    # √(3² + 4²) = 5, 1.96 · 5 = 9.8
    assert "SGD 100.0 ± 3.0 (epoch 5, loss 0.200), NGD 80.0 ± 4.0 (epoch 5, loss 0.100)" in text
    assert "NGD − SGD -20.0, 95 % interval -29.8 to -10.2, beyond noise" in text
    # 0.2 is half way from 0.4 to 0.1 in the logarithm: 70 ± √(2² + 2²); √(3² + 8) = 4.12, 1.96 ·
    # 4.12 = 8.08
    assert "At equal training loss, 0.200" in text
    assert (
        "SGD 100.0 ± 3.0, NGD 70.0 ± 2.8; NGD − SGD -30.0, 95 % interval -38.1 to -21.9, beyond"
        " noise." in text
    )
    optimizers_of(results)["ngd"]["val_loss"] = [2.3, 2.3, 2.3, 2.3, 0.3, 0.3]
    assert "SGD leaves its plateau first, after epoch 2; NGD after epoch 3." in text_of(
        results, "SGD and NGD: "
    )


def test_losses_that_do_not_overlap_are_not_compared_at_equal_loss(results):
    optimizers_of(results)["ngd"]["llc_init_loss"] = [2.3, 2.3, 2.3, 0.1, 0.09, 0.08]
    text = text_of(results, "SGD and NGD: ")
    assert "no training loss in common (SGD 0.200 to 0.400, NGD 0.0800 to 0.100)" in text


def test_the_part_of_the_rule_that_failed_is_named(results):
    sgd, ngd = (optimizers_of(results)[name] for name in ("sgd", "ngd"))
    sgd["val_loss"] = [2.0 - 0.09 * epoch for epoch in range(6)] + [
        2.0 - 0.09 * 5 - 0.01 * e for e in range(1, 56)
    ]
    text = text_of(results, "SGD: ")
    assert "No transition: no epoch is steep. The largest fall, in epoch" in text
    assert "is 9 % of the loss's range, below 10 %" in text
    ngd["val_loss"] = [2.3, 2.3, 1.3, 0.3, 0.3, 0.3]
    text = text_of(results, "NGD: ")
    assert "No transition: no plateau comes before a drop." in text
    assert "begins after epoch 1, the number of flat epochs in a row is 1, below 2" in text
    assert "Neither has a transition." in text_of(results, "SGD and NGD: ")
    assert "At equal training loss" not in text_of(results, "SGD and NGD: ")
    ngd["val_loss"] = [2.3, 2.4, 2.5, 2.5, 2.6, 2.7]
    assert "the validation loss never falls" in text_of(results, "NGD: ")
    ngd["val_loss"] = [2.3] * 6
    assert "the validation loss does not change" in text_of(results, "NGD: ")
    ngd["val_loss"] = [None] * 6
    assert "fewer than two epochs have a validation loss" in text_of(results, "NGD: ")


# ---- the table -----------------------------------------------------------------------------------


def test_the_table_has_a_row_an_optimizer_and_phase(results):
    table = summary_table(results)
    rows = [re.findall("<td>(.*?)</td>", row) for row in re.findall("<tr>(<td>.*?)</tr>", table)]
    assert [row[:2] for row in rows] == [
        ["SGD, before", "2"],
        ["SGD, across", "3"],
        ["SGD, after", "4"],
        ["SGD, end", "5"],
        ["NGD, before", "2"],
        ["NGD, after", "3"],
        ["NGD, end", "5"],
    ]
    assert rows[2][2:] == [
        "0.4000",
        "120.00 ± 0.40",
        "20.00 ± 0.50",
        "10.00",
        "5.00 ± 0.50",
        "4",
        "0.500 ± 0.050",
    ]
    assert table.startswith('<div class="scroll"><table class="data">')
    head = re.findall('<th scope="col">(.*?)</th>', table)
    assert len(head) == len(rows[0])


# ---- runs that are not whole ---------------------------------------------------------------------


def everything(results, tmp_path):
    """Draws and writes all there is, as a page does, and returns the figures."""
    figures = study_figures(results)
    write_figs_to_html(figures, tmp_path / "page.html", "Transitions", summary_table(results))
    assert all(
        isinstance(text, str) and text and "nan" not in text.split() for text in findings(results)
    )
    return figures


@pytest.mark.parametrize("keep", [0, 1, 3, 4])
def test_a_run_that_has_just_begun_is_shown(results, tmp_path, keep):
    for series in optimizers_of(results).values():
        for values in series.values():
            if isinstance(values, list):
                values[keep:] = [None] * (len(values) - keep)
    figures = everything(results, tmp_path)
    assert [key for key, *_ in figures] == (KEYS if keep else [])


SERIES = [key for key in series_of(SGD) if key not in ("train_loss", "diverged_epoch")]


SAID = {  # in which words a series is spoken of, where it is
    "llc": "LLC 3.00",
    "hessian_trace": "Hessian trace: ",
    "top_eigenvalues": "Largest Hessian eigenvalue: ",
    "hessian_fisher_distance": "‖H − F‖/‖H‖ ",
    "quadratic_llc": "by the Hessian's spectrum",
    "gauss_newton_llc": "by the Gauss-Newton matrix's spectrum",
}


@pytest.mark.parametrize("key", SERIES)
def test_any_series_may_be_missing_or_not_measured(results, key):
    """Then it is not spoken of, and what else was measured is."""
    assert all(words in text_of(results, "SGD: ") for words in SAID.values())
    for series in optimizers_of(results).values():
        series[key] = [None] * 6
    assert len(findings(results)) == 4
    if key in SAID:
        assert SAID[key] not in text_of(results, "SGD: ")
    elif not key.endswith("_std_error") and key != "val_loss":
        assert all(words in text_of(results, "SGD: ") for words in SAID.values())
    assert ("<td>SGD, " in summary_table(results)) == (
        key != "val_loss"
    )  # without it there are no phases
    for series in optimizers_of(results).values():
        del series[key]
    assert len(findings(results)) == 4
    assert ("<td>SGD, " in summary_table(results)) == (
        key != "val_loss"
    )  # without it there are no phases


@pytest.mark.parametrize("first", range(4))
@pytest.mark.parametrize("is_gone", [False, True])
def test_figures_are_drawn_without_any_quarter_of_the_series(results, first, is_gone):
    for place, series in enumerate(optimizers_of(results).values()):
        for key in SERIES[(first + place) % 4 :: 4]:
            series[key] = [None] * 6
            if is_gone:
                del series[key]
    assert study_figures(results)


def test_a_model_without_optimizers_or_measurements_has_no_figures(results, tmp_path):
    results["models"][TITLE]["optimizers"] = {}
    assert everything(results, tmp_path) == []
    results["models"] = {}
    assert everything(results, tmp_path) == []


def test_one_optimizer_alone_even_a_users_own(results, tmp_path):
    results["models"][TITLE]["optimizers"] = {"muon": optimizers_of(results)["sgd"]}
    figures = everything(results, tmp_path)
    assert [key for key, *_ in figures] == KEYS
    assert len(findings(results)) == 2
    assert figures[0][2].layout.shapes[0].name == "muon's drop"
    assert figures[0][2].layout.shapes[0].fillcolor in OTHER_COLOURS


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


def test_two_models_have_anchors_of_their_own(results, tmp_path):
    results["models"]["LeNet-5; 4 more"] = copy.deepcopy(results["models"][TITLE])
    keys = [key for key, *_ in everything(results, tmp_path)]
    assert len(set(keys)) == len(keys) == 2 * len(KEYS)
    assert all(re.fullmatch("[a-z0-9-]+", key) for key in keys)
    assert keys[0] == "lenet-5-4-more-loss"
    assert "<td>LeNet-5; 4 more</td><td>SGD, before</td>" in summary_table(results)
    assert text_of(results, f"{TITLE}, SGD: ")
    assert text_of(results, "LeNet-5; 4 more, SGD and NGD: ")


def test_a_diverged_optimizer_is_shown_up_to_there(results, tmp_path):
    series = optimizers_of(results)["ngd"]
    series["diverged_epoch"] = 4
    for values in series.values():
        if isinstance(values, list):
            values[4:] = [None, None]
    assert [key for key, *_ in everything(results, tmp_path)] == KEYS
    assert phases_of(results, TITLE)["ngd"] == {"before": 2, "after": 3}
    assert "Training diverged in epoch 4" in text_of(results, "NGD: ")
    assert "NGD 40.0 ± 4.0 (epoch 3, loss 0.500)" in text_of(results, "SGD and NGD: ")


def test_in_a_swap_run_an_optimizer_begins_where_it_took_over(results, tmp_path):
    results["config"]["experiment"] |= {"experiment_type": "swap", "cut_off_epochs": 1}
    for values in optimizers_of(results)["ngd"].values():
        if isinstance(values, list):
            values[0] = None
    optimizers_of(results)["ngd"]["val_loss"] = [None, 2.3, 2.3, 2.3, 0.5, 0.5]
    figures = {key: figure for key, _, figure in everything(results, tmp_path)}
    assert "A plateau from epoch 1 to 3, then a drop to epoch 4" in text_of(results, "NGD: ")
    for key in ("loss", "llc", "rank", "top-eigenvalues"):
        assert any("swap after epoch 1" in note.text for note in figures[key].layout.annotations)


def test_a_loss_with_a_hole_is_looked_at_up_to_there(results, tmp_path):
    optimizers_of(results)["sgd"]["val_loss"][4] = None
    everything(results, tmp_path)
    assert transitions_of(results, TITLE)["sgd"][0].end == 3


def test_losses_that_are_zero_or_not_finite_break_nothing(results, tmp_path):
    optimizers_of(results)["ngd"]["llc_init_loss"] = [2.3, 2.3, 2.3, 0.5, 0.0, -1e-9]
    optimizers_of(results)["sgd"]["llc"][3] = math.nan
    optimizers_of(results)["sgd"]["llc_std_error"][4] = None
    everything(results, tmp_path)
    assert "change +117, without an interval" in text_of(results, "SGD: ")


def test_names_cannot_bring_markup_into_the_page(results, tmp_path):
    evil = "<script>alert(1)</script>"
    results["models"] = {
        evil: results["models"][TITLE],
        "other": copy.deepcopy(results["models"][TITLE]),
    }
    figures = everything(results, tmp_path)
    assert all("<script>" not in figure.layout.title.text for _, _, figure in figures)
    assert "<script>" not in summary_table(results)
    assert all("<" not in key for key, *_ in figures)
    assert "<script>alert" not in (tmp_path / "page.html").read_text()


def test_marking_gives_back_the_figure_that_it_marks(results):
    figure = llc_figure(TITLE, results)
    assert marked(figure, results, TITLE) is figure
