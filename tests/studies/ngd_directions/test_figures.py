"""Do the figures show what was measured, whatever is there of it?"""

import numpy as np
import pytest

from studies.ngd_directions.figures import nearest, study_figures
from studies.ngd_directions.records import cosine_pairs, exact_part, recorded_part

KEYS = {"exact": ["exact-smoothing", "exact-training"], "dense": ["dense"], "float32": ["float32"]}


def drawings_of(results):
    return [drawing for section in study_figures(results, {}) for drawing in section.drawings]


def figure_of(results, key):
    return {drawing.key: drawing.figure for drawing in drawings_of(results)}[key]


def test_every_figure_has_its_axes_named_and_its_data_finite(results):
    drawings = drawings_of(results)
    assert [drawing.key for drawing in drawings] == [key for keys in KEYS.values() for key in keys]
    for drawing in drawings:
        assert drawing.caption
        layout = drawing.figure.layout
        axes = (layout.xaxis, layout.yaxis, layout.xaxis2, layout.yaxis2)
        assert all(axis.title.text for axis in axes)
        assert all(np.isfinite(np.array(t.y, dtype=float)).all() for t in drawing.figure.data)


@pytest.mark.parametrize("part", KEYS)
def test_what_is_there_of_an_unfinished_study_is_shown(results, part):
    results["parts"] = {part: results["parts"][part]}
    assert [drawing.key for drawing in drawings_of(results)] == KEYS[part]


def test_a_study_that_has_just_begun_has_no_figures(results):
    results["parts"] = {}
    assert study_figures(results, {}) == []


def test_the_smoothing_is_shown_at_the_last_checkpoint(results):
    lines = {t.meta: t for t in figure_of(results, "exact-smoothing").data}
    pairs = cosine_pairs(exact_part(results), "online")[-1]
    np.testing.assert_array_equal(lines["online NGD, F expected"].y, pairs[:, 0])
    np.testing.assert_array_equal(lines["online NGD, F expected"].error_y.array, pairs[:, 1])
    assert lines["online NGD, F expected"].x == (0.1, 10, 1e8)


def test_one_checkpoint_alone_is_shown(results):
    del results["parts"]["exact"]["12"]
    title = figure_of(results, "exact-smoothing").layout.title.text
    assert "after 3 steps" in title
    assert {t.x for t in figure_of(results, "exact-training").data} == {(3,)}


def test_cosines_with_whole_matrices_are_shown_as_distances(results):
    online = recorded_part(results, "dense")["cosines"]["online"]
    lines = [t for t in figure_of(results, "dense").data if t.name == "all tensors"]
    for line, of in zip(lines, online, strict=True):
        np.testing.assert_allclose(line.y, np.maximum(1 - np.array(of[""]), 1e-8))


def test_each_arithmetic_and_alpha_stands_in_the_legend_once(results):
    figure = figure_of(results, "float32")
    shown = [trace.name for trace in figure.data if trace.showlegend]
    assert sorted(shown) == [
        "published, α = 0.1",
        "published, α = 4",
        "stable, α = 0.1",
        "stable, α = 4",
    ]


def test_numbers_that_are_missing_leave_gaps(results):
    results["parts"]["exact"]["12"]["cosines"]["expected"]["online"][""][0] = [None, None]
    results["parts"]["float32"]["recorded"]["runs"][0]["direction_error"][0] = None
    assert len(drawings_of(results)) == 4


def test_the_nearest_alpha_is_so_on_a_log_scale():
    assert nearest([0.01, 0.1, 1], 0.2) == 1
    assert nearest([0.01, 0.1, 1], 0.5) == 2
    assert nearest([1, 100], 20) == 1
