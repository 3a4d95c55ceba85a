"""Do the figures show what was measured, whatever is there of it?"""

import numpy as np
import pytest

from degeneracy.study import open_work
from studies.min_singular_models import STUDY
from studies.min_singular_models.cases import LINEAR, SAMPLE
from studies.min_singular_models.figures import study_figures
from studies.min_singular_models.records import records

EVERY = {"llc", "rank", "singular", "error", "running-mean"}
DRAWN = {  # parts that are there → figures
    ("linear",): EVERY - {"singular"},
    ("normal_crossings",): {"singular", "error", "running-mean"},
    ("deep_linear",): {"singular", "error", "running-mean"},
    ("linear", "deep_linear"): EVERY,
    (): set(),
}


def figures_of(results):
    sections = study_figures(results, {})
    return {drawing.key: drawing.figure for section in sections for drawing in section.drawings}


def test_estimates_stand_at_half_the_rank_with_their_intervals(results):
    figure = figures_of(results)["llc"]
    line = {trace.name: trace for trace in figure.data}[SAMPLE]
    found = records(results, SAMPLE).values()
    np.testing.assert_allclose(line.x, [5, 12.5])
    np.testing.assert_allclose(line.y, [record["llc"] for record in found])
    bars = [1.96 * record["std_error"] for record in found]
    np.testing.assert_allclose(line.error_y.array, bars)
    assert figure.layout.xaxis.type == figure.layout.yaxis2.type == "log"


def test_a_running_mean_ends_at_the_estimate(results):
    means = {trace.name: trace for trace in figures_of(results)["running-mean"].data}
    assert set(means) == set(records(results))
    for name, record in records(results).items():
        assert means[name].x[-1] == record["num_draws"]
        assert means[name].y[-1] == pytest.approx(record["llc"] / record["expected"], rel=1e-6)


def test_the_rank_stands_beside_the_weights_that_matter(results):
    lines = {trace.name: trace for trace in figures_of(results)["rank"].data}
    for family in LINEAR:
        np.testing.assert_allclose(lines[family].y, lines[family].x, atol=1e-3)


def test_every_figure_has_a_caption_and_axes_with_titles(results):
    for section in study_figures(results, {}):
        assert section.heading
        for drawing in section.drawings:
            assert drawing.caption
            axes = [*drawing.figure.select_xaxes(), *drawing.figure.select_yaxes()]
            assert any(axis.title.text for axis in axes)


@pytest.mark.parametrize(
    ("parts", "keys"), DRAWN.items(), ids=lambda names: " ".join(sorted(names))
)
def test_what_is_there_of_an_unfinished_study_is_shown(results, parts, keys):
    results["parts"] = {name: results["parts"][name] for name in parts}
    assert set(figures_of(results)) == keys


def test_one_loss_of_the_linear_model_is_shown_without_the_other(results):
    sampled = records(results, SAMPLE)
    results["parts"] = {"linear": sampled}
    figure = figures_of(results)["llc"]
    assert {trace.name for trace in figure.data if trace.showlegend is not False} == {
        "λ = r/2",
        "expected at this nβ and γ",
        SAMPLE,
    }


def test_a_study_that_has_just_begun_has_no_figures(small_settings, tmp_path):
    work = open_work(STUDY, small_settings, tmp_path / "run", "cpu")
    assert study_figures(work.results, work.traces) == []


def test_a_case_that_diverged_leaves_the_figures_of_the_others(results):
    gone = {"llc": None, "std_error": None, "drift": None, "verdict": "diverged"}
    results["parts"]["normal_crossings"]["w₁²"] |= gone
    results["parts"]["normal_crossings"]["w₁²"]["running_mean"] = {"draw": [], "llc": []}
    assert set(figures_of(results)) == EVERY
