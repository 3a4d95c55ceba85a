"""Does the report of a run have every figure once, and do NGD's insides show what was logged?"""

import numpy as np
import pytest
from synthetic_results import add_grid, add_rescaling, diverge, synthetic_run

from studies.ngd_sgd.figures import cosine_figure, kappa_figure, study_figures

TITLE = "FFNN 2 HL, 256 HN"
FOUR = ("sgd", "ngd", "adamw", "ngd_smooth")
ALL = [
    "loss",
    "update-norm",
    "llc",
    "wbic",
    "running-mean",
    "hessian-trace",
    "kappa",
    "cosine",
    "llc-against-loss",
]


def keys_by_heading(results, traces):
    sections = study_figures(results, traces)
    return {section.heading: [d.key for d in section.drawings] for section in sections}


def logged(results, optimizer, key, title=TITLE):
    return results["models"][title]["optimizers"][optimizer][key]


def test_everything_measured_is_drawn_in_the_reports_order():
    assert keys_by_heading(*synthetic_run()) == {TITLE: ALL}


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        ({"hessian": False}, {"hessian-trace"}),
        ({"optimizers": ("sgd", "adamw"), "kind": "standard"}, {"kappa", "cosine"}),
        ({"measured": []}, {"llc", "wbic", "running-mean", "hessian-trace", "llc-against-loss"}),
    ],
)
def test_what_was_not_measured_is_left_out(options, missing):
    keys = keys_by_heading(*synthetic_run(**options))[TITLE]
    assert set(ALL) - set(keys) == missing


def test_robustness_has_a_section_with_a_grid_for_each_pair():
    for optimizers, grids in (
        (("sgd",), []),
        (("sgd", "ngd"), ["llc-grid"]),
        (FOUR, ["llc-grid", "llc-grid-2", "llc-grid-3"]),
    ):
        results, traces = synthetic_run(optimizers=optimizers, kind="standard", measured="final")
        add_grid(results)
        add_rescaling(results)
        robust = keys_by_heading(results, traces)[f"Robustness: {TITLE}"]
        assert robust == [*grids, "rescaling"]


def test_no_two_drawings_of_several_models_have_one_key():
    results, traces = synthetic_run(titles=("A", "B"), optimizers=FOUR)
    add_grid(results)
    by_heading = keys_by_heading(results, traces)
    assert list(by_heading) == ["A", "Robustness: A", "B", "Robustness: B"]
    keys = [key for keys in by_heading.values() for key in keys]
    assert len(set(keys)) == len(keys)
    assert by_heading["B"][0] == "2-loss"


def test_every_drawing_says_what_to_look_for():
    results, traces = synthetic_run(optimizers=FOUR)
    add_grid(results)
    add_rescaling(results)
    for section in study_figures(results, traces):
        assert all(len(drawing.caption) > 100 for drawing in section.drawings)


def test_a_run_that_has_not_begun_has_no_drawings():
    results, _ = synthetic_run(kind="standard")
    for name in ("sgd", "ngd"):
        diverge(results, TITLE, name, 0)
    (section,) = study_figures(results, {})
    assert section.drawings == []


def test_every_optimizer_that_logged_its_smoothing_has_a_figure_of_it():
    results, traces = synthetic_run(optimizers=FOUR)
    keys = keys_by_heading(results, traces)[TITLE]
    assert [key for key in keys if key.startswith(("kappa", "cosine"))] == [
        "kappa",
        "kappa-2",
        "cosine",
        "cosine-2",
    ]
    for name, heading in (("ngd", "κ of NGD"), ("ngd_smooth", "κ of ngd_smooth")):
        figure = kappa_figure(TITLE, results, name)
        assert heading in figure.layout.title.text
        expected = next(iter(logged(results, name, "kappa").values()))["0"]
        values = [np.nan if value is None else value for value in expected]
        np.testing.assert_array_equal(figure.data[0].y, values)
    assert kappa_figure(TITLE, results) == kappa_figure(TITLE, results, "ngd")


def test_kappa_has_a_line_a_tensor_axis_and_one_legend_entry_a_tensor():
    figure = kappa_figure(TITLE, synthetic_run()[0])
    lines = [trace for trace in figure.data if trace.x[0] is not None]
    assert len(lines) == 9
    groups = {trace.legendgroup for trace in lines}
    assert len(groups) == sum(trace.showlegend for trace in lines) == 6
    assert len({(trace.line.color, trace.line.dash) for trace in lines}) == 9
    assert figure.layout.yaxis.type == "log"


def test_cosine_has_a_line_a_tensor_between_nought_and_one():
    figure = cosine_figure(TITLE, synthetic_run()[0])
    assert len(figure.data) == len({trace.name for trace in figure.data}) == 6
    assert tuple(figure.layout.yaxis.range) == (0, 1.05)


def test_the_swap_is_marked_in_both():
    results, _ = synthetic_run(cut_off=7)
    for figure in (kappa_figure(TITLE, results), cosine_figure(TITLE, results)):
        assert [shape.x0 for shape in figure.layout.shapes] == [7]
    results, _ = synthetic_run(kind="standard")
    assert not kappa_figure(TITLE, results).layout.shapes


def test_without_ngd_both_are_empty():
    results, _ = synthetic_run(optimizers=("sgd",), kind="standard")
    assert not kappa_figure(TITLE, results).data
    assert not cosine_figure(TITLE, results).data


def test_nothing_in_a_parameters_or_an_optimizers_name_is_read_as_a_tag():
    results, _ = synthetic_run(optimizers=("sgd", "ngd <b>"))
    for key, draw in (("kappa", kappa_figure), ("cosine", cosine_figure)):
        found = logged(results, "ngd <b>", key)
        found["<i>weight</i>"] = found.pop("layers.0.weight")
        figure = draw(TITLE, results)
        assert "ngd &lt;b&gt;" in figure.layout.title.text
        texts = [text or "" for trace in figure.data for text in (trace.name, trace.meta)]
        assert not any("<i>" in text for text in texts)
        assert any("&lt;i&gt;weight" in text for text in texts)
