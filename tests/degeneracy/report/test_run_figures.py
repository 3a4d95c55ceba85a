"""Do the figures show the numbers of the results, and say in which units?"""

import math

import numpy as np
import pytest
from synthetic_results import add_grid, add_rescaling, diverge, synthetic_run

from degeneracy.report import run_figures as figures
from degeneracy.report.run_figures import model_figures
from degeneracy.report.style import COLOURS

TITLE = "FFNN 2 HL, 256 HN"
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


def by_key(results, traces, title=TITLE):
    return {key: figure for key, _, figure in model_figures(title, results, traces)}


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


def test_everything_measured_is_drawn_in_the_reports_order(drawn):
    assert list(drawn) == ALL


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        ({"hessian": False}, {"hessian-trace"}),
        ({"optimizers": ("sgd",), "kind": "standard"}, {"kappa", "cosine"}),
        ({"measured": []}, {"llc", "wbic", "running-mean", "hessian-trace", "llc-against-loss"}),
    ],
)
def test_what_was_not_measured_is_left_out(options, missing):
    assert set(ALL) - set(by_key(*synthetic_run(**options))) == missing


def test_robustness_is_drawn_before_the_hessian_trace_where_it_was_measured():
    results, traces = synthetic_run()
    add_grid(results)
    add_rescaling(results)
    place = ALL.index("hessian-trace")
    assert list(by_key(results, traces)) == [*ALL[:place], "llc-grid", "rescaling", *ALL[place:]]


def test_sgd_is_blue_and_ngd_red_in_every_figure(drawn):
    for key, figure in drawn.items():
        if key in ("kappa", "cosine"):
            continue
        for trace in figure.data:
            assert trace.line.color == COLOURS[trace.name[:3].lower()], (key, trace.name)


def test_an_optimizer_that_a_user_plugs_in_has_a_colour_of_its_own():
    results, _ = synthetic_run(optimizers=("sgd", "adamw"), kind="standard")
    (trace,) = named(figures.update_norm_figure(TITLE, results), "adamw")
    assert trace.line.color not in COLOURS.values()


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


def test_a_run_from_before_there_were_verdicts_still_tells_which_chain_diverged(run):
    results, traces = run
    del series(results, "sgd")["llc_chains"]
    traces[TITLE, "sgd", 20][1, 60:] = np.nan
    figure = figures.running_mean_figure(TITLE, results, traces)
    assert (
        named(figure, "SGD, epoch 20: each chain")[0].name
        == "SGD, epoch 20: each chain (1 finite, 1 diverged)"
    )


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
    assert labels == [(f"epoch {e}", COLOURS["sgd"], llc["sgd"][e]) for e in (0, 10, 20)] + [
        ("epoch 20", COLOURS["ngd"], llc["ngd"][20])
    ]
    assert sgd.customdata[7].startswith("epoch 7: ")


def test_an_axis_is_logarithmic_from_a_decade_on(run):
    results, _ = run
    for optimizer in ("sgd", "ngd"):
        series(results, optimizer)["update_norm"][1:] = [0.2] * 20
    assert figures.update_norm_figure(TITLE, results).layout.yaxis.type is None
    series(results, "sgd")["update_norm"][3] = 0.02
    assert figures.update_norm_figure(TITLE, results).layout.yaxis.type == "log"
    series(results, "sgd")["update_norm"][3] = 0.0
    assert figures.update_norm_figure(TITLE, results).layout.yaxis.type is None


def test_kappa_has_a_line_a_tensor_axis_and_one_legend_entry_a_tensor(drawn):
    figure = drawn["kappa"]
    lines = [trace for trace in figure.data if trace.x[0] is not None]
    assert len(lines) == 9
    assert (
        len({trace.legendgroup for trace in lines}) == sum(trace.showlegend for trace in lines) == 6
    )
    assert len({(trace.line.color, trace.line.dash) for trace in lines}) == 9
    assert figure.layout.yaxis.type == "log"


def test_cosine_has_a_line_a_tensor_between_nought_and_one(drawn):
    figure = drawn["cosine"]
    assert len(figure.data) == len({trace.name for trace in figure.data}) == 6
    assert tuple(figure.layout.yaxis.range) == (0, 1.05)


def test_nothing_in_a_title_or_a_parameters_name_is_read_as_a_tag():
    evil = "<a href='javascript:alert(1)'>model</a>"
    results, traces = synthetic_run(titles=(evil,))
    kappa = series(results, "ngd", evil)["kappa"]
    kappa["<b>weight</b>"] = kappa.pop("layers.0.weight")
    for figure in by_key(results, traces, evil).values():
        assert "<a" not in figure.layout.title.text
        assert "&lt;a href" in figure.layout.title.text
        assert not any(
            "<b>" in (trace.name or "") or "<b>" in (trace.meta or "") for trace in figure.data
        )


def test_a_diverged_optimizer_leaves_the_other_ones_figures():
    results, traces = synthetic_run(kind="standard")
    diverge(results, TITLE, "ngd", 1)
    traces = {key: trace for key, trace in traces.items() if key[1] == "sgd" or key[2] < 1}
    drawn = by_key(results, traces)
    assert list(drawn) == [key for key in ALL if key not in ("kappa", "cosine")]
    assert len(drawn["update-norm"].data) == 1
    diverge(results, TITLE, "sgd", 0)
    diverge(results, TITLE, "ngd", 0)
    assert by_key(results, {}) == {}
