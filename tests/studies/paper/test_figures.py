"""Do figures show the seeds' means and intervals, and stand with one seed or one part?"""

import numpy as np
import pytest
from paper_results import LAST, made_results
from scipy import stats

from studies.paper.figures import figure_of, study_figures
from studies.paper.lines import means_of
from studies.paper.records import networks, of_optimizer, values_of

KEYS = {
    "differences",
    "swap",
    "smoothing",
    "kappa",
    "rates",
    "rates-loss",
    "overfitting",
    "wbic",
    *(f"{q}-mnist-2-hidden-layers" for q in ("llc", "trace", "norm")),
    *(f"{q}-fashion-mnist-1-hidden-layer" for q in ("llc", "trace", "norm")),
}


def drawings(results):
    found = [one for section in study_figures(results, {}) for one in section.drawings]
    assert len({one.key for one in found}) == len(found)
    return {one.key: one.figure for one in found}


def lines(figure, name):
    return [t for t in figure.data if t.name == name and t.mode == "lines+markers"]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_figure_is_there_with_titled_axes_and_a_legend(count):
    found = drawings(made_results(count))
    assert set(found) == KEYS
    for key, figure in found.items():
        used = {trace.xaxis or "x" for trace in figure.data}
        for axis in figure.select_xaxes():
            if axis.plotly_name.replace("axis", "") in used:
                assert axis.title.text, key
        assert any(trace.showlegend is not False and trace.name for trace in figure.data), key


def test_a_line_is_the_mean_over_seeds_and_its_band_students_interval(results):
    figure = drawings(results)["llc-mnist-2-hidden-layers"]
    network = next(iter(networks(results)))
    rows = of_optimizer(networks(results)[network], "ngd")
    values = values_of(rows, "llc")
    first, *_ = lines(figure, "NGD (5 seeds)")
    assert first.x[-1] == LAST
    assert first.y[-1] == pytest.approx(np.mean(values))
    low, high = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    band = next(t for t in figure.data if t.fill == "toself" and t.legendgroup == first.name)
    half = len(band.x) // 2
    assert (band.y[half - 1], band.y[half]) == pytest.approx((high, low))


def test_one_seed_has_a_line_and_no_band():
    figure = drawings(made_results(1))["swap"]
    assert lines(figure, "SGD (1 seed)")
    assert not [trace for trace in figure.data if trace.fill]


def test_an_axis_is_cut_to_the_seeds_however_wide_a_band_of_two_is():
    results = made_results(2)
    figure = drawings(results)["llc-mnist-2-hidden-layers"]
    low, high = figure.layout.yaxis.range
    values = [
        v for rows in networks(results).values() for row in rows for v in row["series"]["llc"]
    ]
    values = [v for v in values if v is not None]
    assert low > min(values) - 10
    assert high < max(values) + 10


def test_published_values_are_marked_only_where_settings_are_theirs(results):
    def marked(figure):
        return [trace for trace in figure.data if trace.name == "published"]

    assert marked(drawings(results)["smoothing"])
    assert marked(drawings(results)["differences"])[0].x[0] == pytest.approx(31.8 - 25.5)
    results["config"]["training"]["num_epochs"] = 10
    assert not any(marked(figure) for figure in drawings(results).values())


def test_means_leave_out_places_without_values():
    means = means_of({3: [1.0, 3.0], 1: [], 2: [5.0]})
    assert list(means.x) == [2, 3]
    assert list(means.value) == [5, 2]
    assert np.isnan(means.low[0])
    assert list(means.count) == [1, 2]


@pytest.mark.parametrize("part", ["sizes", "smoothing", "rates", "overfitting", "other_sizes"])
def test_any_part_stands_alone(part):
    whole = made_results(2)
    assert drawings(whole | {"parts": {part: whole["parts"][part]}})


def test_what_is_not_measured_is_an_empty_figure(results):
    assert not figure_of(results | {"parts": {}}, "swap").data
    assert figure_of(results, "swap").data
