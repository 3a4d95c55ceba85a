"""Do the figures show the numbers of the results, and say in which units?"""

import math

import numpy as np
import pytest
from synthetic_results import diverge, synthetic_run

from degeneracy.report import run_figures as figures
from degeneracy.report.run_figures import CAPTIONS, PLOT, REACHES
from degeneracy.report.style import COLOURS, optimizer_colours

TITLE = "FFNN 2 HL, 256 HN"
FOUR = ("sgd", "ngd", "adamw", "my opt <b>")


def by_key(results, traces, title=TITLE):
    """Every figure, by the key of its caption."""
    given = (title, results)
    return {
        "loss": figures.loss_figure(*given),
        "update-norm": figures.update_norm_figure(*given),
        "llc": figures.llc_figure(*given),
        "wbic": figures.wbic_figure(*given),
        "running-mean": figures.running_mean_figure(*given, traces),
        "hessian-trace": figures.hessian_trace_figure(*given),
        "llc-against-loss": figures.llc_against_loss_figure(*given),
    }


def drawn_keys(results, traces):
    return {key for key, figure in by_key(results, traces).items() if figure.data}


def named(figure, name):
    """The traces of that name; what chains did may stand behind it in brackets."""
    return [
        trace
        for trace in figure.data
        if trace.name == name or (trace.name or "").startswith(f"{name} (")
    ]


@pytest.fixture
def run():
    return synthetic_run()


@pytest.fixture(scope="module")
def drawn():
    """The figures of an untouched `run`."""
    return by_key(*synthetic_run())


def series(results, optimizer, title=TITLE):
    return results["models"][title]["optimizers"][optimizer]


def test_every_figure_has_a_caption(drawn):
    assert list(drawn) == list(CAPTIONS)


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        ({}, set()),
        ({"hessian": False}, {"hessian-trace"}),
        ({"optimizers": ("sgd",), "kind": "standard"}, set()),
        ({"measured": []}, {"llc", "wbic", "running-mean", "hessian-trace", "llc-against-loss"}),
    ],
)
def test_what_was_not_measured_has_no_lines(options, missing):
    assert CAPTIONS.keys() - drawn_keys(*synthetic_run(**options)) == missing


def test_sgd_is_blue_and_ngd_red_in_every_figure(drawn):
    for key, figure in drawn.items():
        for trace in figure.data:
            assert trace.line.color == COLOURS[trace.name[:3].lower()], (key, trace.name)


@pytest.mark.parametrize("optimizers", [("adamw",), FOUR, ("muon", "sgd", "x", "y", "z")])
def test_every_optimizer_of_the_results_has_a_line_of_its_own_colour(optimizers):
    """However many there are, and whatever a user calls them."""
    results, traces = synthetic_run(optimizers=optimizers, kind="standard")
    colours = optimizer_colours(optimizers)
    assert len(set(colours.values())) == len(optimizers)
    for key, figure in by_key(results, traces).items():
        assert {trace.line.color for trace in figure.data} == set(colours.values()), key
    lines = figures.update_norm_figure(TITLE, results).data
    assert [line.line.color for line in lines] == list(colours.values())


def test_more_optimizers_than_colours_are_told_apart_by_their_markers():
    names = tuple(f"optimizer {place}" for place in range(12))
    results, _ = synthetic_run(optimizers=names, kind="standard", measured=[])
    lines = figures.update_norm_figure(TITLE, results).data
    assert len({(line.line.color, line.marker.symbol) for line in lines}) == 12


def test_a_null_is_a_gap_and_everything_else_is_the_value(run, drawn):
    results, _ = run
    (trace,) = named(drawn["loss"], "NGD, training")
    expected = [np.nan if v is None else v for v in series(results, "ngd")["train_loss"]]
    np.testing.assert_array_equal(trace.y, expected)
    assert np.isnan(trace.y[:10]).all()
    assert list(trace.x) == list(range(21))


@pytest.mark.parametrize("key", ["llc", "wbic", "hessian_trace"])
def test_error_bars_are_95_percent_intervals(run, drawn, key):
    results, _ = run
    trace = named(drawn[key.replace("_", "-")], "SGD")[0]
    np.testing.assert_allclose(
        trace.error_y.array, 1.96 * np.array(series(results, "sgd")[f"{key}_std_error"])
    )


def test_the_running_mean_ends_at_the_estimate(run, drawn):
    results, traces = run
    figure = drawn["running-mean"]
    llc, wbic = named(figure, "NGD, epoch 20: mean of chains")
    assert llc.x[-1] == 200
    assert llc.y[-1] == pytest.approx(series(results, "ngd")["llc"][20])
    assert wbic.y[-1] == pytest.approx(series(results, "ngd")["wbic"][20])
    chains = named(figure, "NGD, epoch 20: each chain")
    expected = results["nbeta"] * (
        traces[TITLE, "ngd", 20][1, :7].mean() - series(results, "ngd")["llc_init_loss"][20]
    )
    assert chains[1].y[6] == pytest.approx(expected)


def test_a_long_trace_is_thinned_but_keeps_both_ends():
    results, traces = synthetic_run(num_draws=5000, measured="final")
    llc = named(
        figures.running_mean_figure(TITLE, results, traces), "SGD, epoch 20: mean of chains"
    )[0]
    assert len(llc.x) == figures.MAX_POINTS
    assert (llc.x[0], llc.x[-1]) == (1, 5000)


def test_a_chain_that_diverged_leaves_the_mean_and_the_axis_alone(run):
    results, traces = run
    trace = traces[TITLE, "sgd", 20]
    trace[0, 40:60], trace[0, 60:] = 1e9, np.nan
    figure = figures.running_mean_figure(TITLE, results, traces)
    mean = named(figure, "SGD, epoch 20: mean of chains")[0]
    init_loss = series(results, "sgd")["llc_init_loss"][20]
    assert mean.y[-1] == pytest.approx(results["nbeta"] * (trace[1].mean() - init_loss))
    assert figure.layout.yaxis.range[1] < 200


def test_a_chain_that_diverged_is_marked_where_it_left_and_named_in_legend_and_hover(run):
    results, traces = run
    trace = traces[TITLE, "sgd", 20]
    trace[0, 40:60], trace[0, 60:] = 1e9, np.nan
    series(results, "sgd")["llc_chains"][20] = [
        {"llc": None, "verdict": "diverged"},
        {"llc": 43.0, "verdict": "still rising"},
    ]
    figure = figures.running_mean_figure(TITLE, results, traces)
    crosses = named(figure, "SGD, epoch 20: a chain diverged")
    assert [(cross.x, cross.showlegend) for cross in crosses] == [((40,), True), ((40,), False)]
    first, second, *_ = named(figure, "SGD, epoch 20: each chain")
    assert first.name == "SGD, epoch 20: each chain (1 diverged, 1 still rising)"
    assert (first.meta, second.meta) == (
        "SGD, epoch 20, chain 1: diverged",
        "SGD, epoch 20, chain 2: still rising",
    )
    assert not named(figure, "NGD, epoch 20: a chain diverged")


def test_chains_that_all_diverged_are_drawn_as_far_as_they_went(run):
    results, traces = run
    traces[TITLE, "sgd", 20][:, 50:] = np.nan
    figure = figures.running_mean_figure(TITLE, results, traces)
    assert not named(figure, "SGD, epoch 20: mean of chains")
    assert np.isfinite(named(figure, "SGD, epoch 20: each chain")[0].y[:50]).all()


def test_axes_name_units_and_settings(run, drawn):
    results, _ = run
    assert drawn["llc"].layout.yaxis.title.text == "LLC λ̂ (nβ = 26.4, γ = 100)"
    assert drawn["wbic"].layout.yaxis.title.text == "WBIC (nats; tempered, as published)"
    assert "nats" in drawn["loss"].layout.yaxis.title.text
    results["nbeta"] = results["train_size"] / math.log(results["train_size"])
    assert figures.wbic_figure(TITLE, results).layout.yaxis.title.text == "WBIC (nats, nβ = n/ln n)"
    results["config"]["devinterp"] |= {"sampler": "sgnht", "localization": 0.0}
    assert "γ" not in figures.llc_figure(TITLE, results).layout.yaxis.title.text
    for figure in drawn.values():
        for axis in (*figure.select_xaxes(), *figure.select_yaxes()):
            assert axis.title.text


def test_the_swap_is_marked_in_every_figure_over_epochs_and_only_in_a_swap_run(drawn):
    for key, figure in drawn.items():
        over_epochs = key not in ("running-mean", "llc-against-loss")
        panels = len(list(figure.select_xaxes())) if over_epochs else 0
        assert [shape.x0 for shape in figure.layout.shapes] == [10] * panels, key
    for figure in by_key(*synthetic_run(kind="standard")).values():
        assert not figure.layout.shapes


def test_llc_against_loss_has_one_point_an_epoch_and_few_labels(run, drawn):
    results, _ = run
    (sgd,) = named(drawn["llc-against-loss"], "SGD")
    np.testing.assert_array_equal(sgd.x, series(results, "sgd")["llc_init_loss"])
    np.testing.assert_array_equal(sgd.y, series(results, "sgd")["llc"])
    labels = [(a.text, a.font.color, a.y) for a in drawn["llc-against-loss"].layout.annotations]
    llc = {name: series(results, name)["llc"] for name in ("sgd", "ngd")}
    assert labels == [
        ("epoch 0", COLOURS["sgd"], llc["sgd"][0]),
        ("epoch 10", COLOURS["sgd"], llc["sgd"][10]),
        ("SGD, epoch 20", COLOURS["sgd"], llc["sgd"][20]),
        ("NGD, epoch 20", COLOURS["ngd"], llc["ngd"][20]),
    ]
    assert sgd.customdata[7].startswith("epoch 7: ")


def boxes_of(figure):
    """Middle and size of each label on the plot that labels are placed for (pixels)."""
    lines = figure.data
    x = np.log10(np.concatenate([line.x for line in lines]))
    y = np.concatenate(
        [np.add(line.y, sign * line.error_y.array) for line in lines for sign in (-1, 1)]
    )
    for note in figure.layout.annotations:
        across = (note.x - x.min()) / np.ptp(x) * PLOT[0] + note.ax
        down = (y.max() - note.y) / np.ptp(y) * PLOT[1] + note.ay
        yield np.array([across, down]), np.array([6 * len(note.text), 14])


@pytest.mark.parametrize("seed", range(5))
def test_the_labels_of_four_optimizers_name_each_and_do_not_overlap(seed):
    results, _ = synthetic_run(seed, optimizers=FOUR)
    figure = figures.llc_against_loss_figure(TITLE, results)
    ends = {note.text for note in figure.layout.annotations if "epoch 20" in note.text}
    names = ("SGD", "NGD", "AdamW", "my opt &lt;b&gt;")
    assert ends == {f"{name}, epoch 20" for name in names}
    placed = list(boxes_of(figure))
    for place, (middle, size) in enumerate(placed):
        for other, other_size in placed[:place]:
            assert (np.abs(middle - other) > (size + other_size) / 2).any()


def test_a_label_stands_near_its_point():
    results, _ = synthetic_run(optimizers=FOUR)
    for note in figures.llc_against_loss_figure(TITLE, results).layout.annotations:
        assert abs(note.ay) <= max(REACHES)


def test_one_measured_epoch_has_one_label():
    results, _ = synthetic_run(kind="standard", optimizers=("sgd",), measured="final")
    (note,) = figures.llc_against_loss_figure(TITLE, results).layout.annotations
    assert note.text == "SGD, epoch 20"


def test_an_axis_is_logarithmic_from_a_decade_on(run):
    results, _ = run
    for optimizer in ("sgd", "ngd"):
        series(results, optimizer)["update_norm"][1:] = [0.2] * 20
    assert figures.update_norm_figure(TITLE, results).layout.yaxis.type is None
    series(results, "sgd")["update_norm"][3] = 0.02
    assert figures.update_norm_figure(TITLE, results).layout.yaxis.type == "log"
    series(results, "sgd")["update_norm"][3] = 0.0
    assert figures.update_norm_figure(TITLE, results).layout.yaxis.type is None


def test_nothing_in_a_title_or_an_optimizers_name_is_read_as_a_tag():
    evil = "<a href='javascript:alert(1)'>model</a>"
    results, traces = synthetic_run(titles=(evil,), optimizers=("sgd", "<b>mine</b>"))
    for figure in by_key(results, traces, evil).values():
        assert "<a" not in figure.layout.title.text
        assert "&lt;a href" in figure.layout.title.text
        texts = [text or "" for trace in figure.data for text in (trace.name, trace.meta)]
        texts += [note.text for note in figure.layout.annotations]
        assert not any("<b>" in text for text in texts)
        assert any("&lt;b&gt;mine" in text for text in texts)


def test_a_diverged_optimizer_leaves_the_other_ones_figures():
    results, traces = synthetic_run(kind="standard")
    diverge(results, TITLE, "ngd", 1)
    traces = {key: trace for key, trace in traces.items() if key[1] == "sgd" or key[2] < 1}
    assert drawn_keys(results, traces) == CAPTIONS.keys()
    assert len(figures.update_norm_figure(TITLE, results).data) == 1
    diverge(results, TITLE, "sgd", 0)
    diverge(results, TITLE, "ngd", 0)
    assert not drawn_keys(results, {})
