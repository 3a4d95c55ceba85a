"""Do the grid of γ × nβ and the rescaled layers say what the numbers say, from the estimate to the
sentence?
"""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from synthetic_results import GRID, add_grid, add_rescaling, found_llc, synthetic_run

from degeneracy.llc.statistics import summarise
from degeneracy.runs.results import (
    add_model,
    finding,
    grid_cell,
    open_grid,
    put_grid_cell,
    put_llc,
    put_rescaled,
    rescaled_finding,
)
from degeneracy.runs.store import Point
from studies.ngd_sgd.robustness_figures import CLIP, llc_grid_figure, rescaling_figure
from studies.ngd_sgd.robustness_verdict import grid_clause, grid_orders
from studies.ngd_sgd.verdict import verdicts

TITLE = "FFNN 2 HL, 256 HN"


def estimate(llc=2.0, diverged=1, num_draws=400):
    """Four chains of white noise around λ̂ = `llc` at nβ = 10, the first ones `diverged`, the last
    one rising.
    """
    rng = np.random.default_rng(0)
    trace = (0.5 + llc / 10 + 0.01 * rng.standard_normal((4, num_draws))).astype(np.float32)
    trace[:diverged, num_draws // 2 :] = np.nan
    trace[-1] += np.linspace(-0.1, 0.1, num_draws, dtype=np.float32)
    return summarise(trace, 0.5, 10.0, acceptance=np.array([0.5, 0.9, 0.8, 0.7]))


def run_with(cells):
    """A run with these cells: (nβ setting, γ) → (SGD λ̂, NGD λ̂, standard error)."""
    results, _ = synthetic_run(measured="final")
    add_grid(results, cells)
    return results


def cell_at(results, setting, localization):
    return grid_cell(results, TITLE, localization, setting)


def only_verdict(results):
    (verdict,) = verdicts(results)
    return verdict


# What is kept


def test_a_finding_is_the_estimate_as_json_with_diverged_chains_in_it():
    one = estimate()
    found = finding(one)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["llc"], found["std_error"], found["drift"]) == (one.llc, one.std_error, one.drift)
    assert found["acceptance"] == pytest.approx(0.8)  # of the chains that stayed finite
    assert found["settled"] is False
    assert found["num_diverged_chains"] == 1
    assert [chain["verdict"] for chain in found["chains"]] == [
        "diverged",
        "steady",
        "steady",
        "still rising",
    ]
    assert found["chains"][0]["llc"] is None
    assert [chain["llc"] for chain in found["chains"][1:]] == pytest.approx(
        [2.0, 2.0, 2.0], abs=0.05
    )


def test_a_checkpoints_llc_keeps_what_each_chain_found_also_in_a_run_from_before():
    results, _ = synthetic_run(measured=[])
    for series in results["models"][TITLE]["optimizers"].values():
        del series["llc_chains"], series["num_unsettled_chains"], series["llc_acceptance"]
    add_model(results, TITLE, 269322)
    put_llc(results, Point(TITLE, "sgd", 10), estimate())  # the epoch that both share
    for series in results["models"][TITLE]["optimizers"].values():
        assert series["llc_chains"][10] == finding(estimate())["chains"]
        assert (series["num_diverged_chains"][10], series["num_unsettled_chains"][10]) == (1, 1)
        assert series["llc_acceptance"][10] == pytest.approx(0.8)
        assert series["llc_chains"][11] is None


def test_a_grid_is_filled_cell_by_cell_and_goes_on_where_it_stopped():
    results, _ = synthetic_run(measured=[])
    assert cell_at(results, "batch", 10.0) is None
    open_grid(results, TITLE, 81.0, {"sgd": 20, "ngd": 20})
    cell = SimpleNamespace(localization=10.0, nbeta=26.4, nbeta_setting="batch", sampler_lr=1e-4)
    cell.estimates = (estimate(1.0), estimate(2.0))
    put_grid_cell(results, TITLE, ("sgd", "ngd"), cell)
    results = json.loads(json.dumps(results))  # a restart
    open_grid(results, TITLE, 7.0, {"sgd": 1, "ngd": 1})
    grid = results["models"][TITLE]["llc_grid"]
    assert (grid["max_curvature"], grid["epochs"]) == (81.0, {"sgd": 20, "ngd": 20})
    there = cell_at(results, "batch", 10.0)
    assert there == grid["cells"][0]
    assert (there["nbeta"], there["sampler_lr"]) == (26.4, 1e-4)
    assert there["optimizers"] == {"sgd": finding(estimate(1.0)), "ngd": finding(estimate(2.0))}
    assert cell_at(results, "dataset", 10.0) is None
    put_grid_cell(results, TITLE, ("sgd", "ngd"), cell)
    assert len(grid["cells"]) == 1


def test_rescaled_layers_are_filled_factor_by_factor():
    results, _ = synthetic_run(measured=[])
    assert rescaled_finding(results, TITLE, "sgd", 2.0) is None
    for factor in (2.0, 0.5, 1.0, 2.0):
        put_rescaled(results, TITLE, ("layers.1", "layers.3"), "sgd", factor, estimate(factor))
    rescaling = results["models"][TITLE]["rescaling"]
    assert rescaling["layers"] == ["layers.1", "layers.3"]
    assert [found["factor"] for found in rescaling["optimizers"]["sgd"]] == [0.5, 1.0, 2.0]
    assert rescaled_finding(results, TITLE, "sgd", 2.0)["llc"] == estimate(2.0).llc
    assert rescaled_finding(results, TITLE, "ngd", 2.0) is None


# What the verdict says


@pytest.mark.parametrize(
    ("llcs", "order"),
    [((40.0, 43.0, 1.0), "higher"), ((43.0, 40.0, 1.0), "lower"), ((40.0, 42.7, 1.0), "undecided")],
)
def test_an_order_needs_an_interval_without_zero(llcs, order):
    (cell,) = grid_orders(TITLE, run_with({("batch", 100): llcs}))
    assert cell.order == order  # 1.96 √2 = 2.77
    assert cell.interval == pytest.approx(
        (llcs[1] - llcs[0] - 2.772, llcs[1] - llcs[0] + 2.772), abs=1e-3
    )


@pytest.mark.parametrize("optimizer", ["sgd", "ngd"])
def test_a_cell_that_has_not_settled_counts_neither_way_however_clear_it_looks(optimizer):
    results = run_with({("batch", 100): (40.0, 90.0, 0.1), ("batch", 1000): (4.0, 5.0, 0.1)})
    cell_at(results, "batch", 100)["optimizers"][optimizer] = found_llc(60.0, 0.1, settled=False)
    verdict = only_verdict(results)
    assert (
        "higher than SGD's (95 % interval above 0) in 1 (nβ = 26.38 with γ = 1000)"
        in verdict.text[-1]
    )
    assert "not settled, so counted neither way, in 1 (nβ = 26.38 with γ = 100)" in verdict.text[-1]


def test_a_cell_whose_chains_all_diverged_is_named_and_leaves_the_others():
    results = run_with({("batch", 100): (40.0, 90.0, 0.1), ("batch", 1000): (4.0, 5.0, 0.1)})
    lost = {**found_llc(1.0, None, num_diverged=4), "llc": None, "settled": False}
    cell_at(results, "batch", 100)["optimizers"]["ngd"] = lost
    text = only_verdict(results).text[-1]
    assert "higher than SGD's (95 % interval above 0) in 1 (nβ = 26.38 with γ = 1000)" in text
    assert "without an LLC of both in 1 (nβ = 26.38 with γ = 100)" in text


def test_the_verdict_names_the_cells_in_which_the_order_holds():
    results = run_with(GRID)
    assert (
        only_verdict(results).text[-1]
        == "Over 8 cells of γ × nβ, NGD's LLC after epoch 20 is higher than SGD's (95 % interval"
        " above 0) in 4 (nβ = 26.38 with γ = 100, 1000 and nβ = 5454 with γ = 100, 10000); lower"
        " (95 % interval below 0) in 1 (nβ = 5454 with γ = 1000); undecided (the interval"
        " includes 0) in 1 (nβ = 26.38 with γ = 10000); not settled, so counted neither way, in"
        " 2 (nβ = 26.38 with γ = 10 and nβ = 5454 with γ = 10). Each interval stands for itself:"
        " sampling error only, one training seed."
    )


HIGHER, LOWER = (40.0, 50.0, 1.0), (50.0, 40.0, 1.0)
UNDECIDED = (40.0, 41.0, 1.0)


@pytest.mark.parametrize(
    ("cells", "direction", "clause"),
    [
        ([HIGHER, HIGHER], "higher", ""),
        (
            [HIGHER, LOWER],
            "higher",
            "Over γ × nβ NGD's LLC is higher in 1, lower in 1 of 2 settled cells.",
        ),
        (
            [HIGHER, UNDECIDED],
            "higher",
            "Over γ × nβ NGD's LLC is higher in 1, undecided in 1 of 2 settled cells.",
        ),
        ([UNDECIDED], "higher", "Over γ × nβ NGD's LLC is undecided in 1 of 1 settled cell."),
        ([HIGHER, HIGHER], "lower", "Over γ × nβ NGD's LLC is higher in 2 of 2 settled cells."),
        ([HIGHER, HIGHER], None, "Over γ × nβ NGD's LLC is higher in 2 of 2 settled cells."),
        ([], "higher", ""),
    ],
)
def test_the_headline_is_qualified_unless_all_settled_cells_agree_with_it(cells, direction, clause):
    results = run_with({("batch", 10.0 ** (k + 1)): llcs for k, llcs in enumerate(cells)})
    for cell in results["models"][TITLE]["llc_grid"]["cells"]:
        for found in cell["optimizers"].values():
            found["settled"] = True
    assert grid_clause(TITLE, results, direction) == clause


def test_a_grid_in_which_nothing_settled_shows_nothing():
    results = run_with({("batch", 100): HIGHER})
    cell_at(results, "batch", 100)["optimizers"]["sgd"]["settled"] = False
    assert only_verdict(results).headline.endswith(
        " No cell of γ × nβ has settled, so they do not show whether the order holds."
    )


def test_without_grid_and_rescaling_the_verdict_is_silent_about_them():
    results, _ = synthetic_run(measured="final")
    verdict = only_verdict(results)
    assert not any(
        "γ × nβ" in text or "Scaling" in text for text in (verdict.headline, *verdict.text)
    )


def test_the_verdict_says_how_far_the_rescaled_estimate_departs():
    results, _ = synthetic_run(measured="final")
    add_rescaling(
        results, {"sgd": {0.5: 61.0, 1.0: 43.6, 2.0: 40.0}, "ngd": {1.0: 55.0, 2.0: 50.0}}
    )
    half = 1.96 * 0.8 * 2**0.5
    assert (
        only_verdict(results).text[-1]
        == "Scaling layers.1 by c and layers.3 by 1/c changes neither the network's function nor"
        " λ. λ̂ then is, for SGD: 61.00 ± 0.80 at c = 0.5, 43.60 ± 0.80 at c = 1, 40.00 ± 0.80"
        " at c = 2 (not settled); farthest from c = 1 at c = 0.5: +17.4, 95 % interval from"
        f" {17.4 - half:.1f} to {17.4 + half:.1f}. For NGD: 55.00 ± 0.80 at c = 1, 50.00 ± 0.80"
        " at c = 2 (not settled); farthest from c = 1 at c = 2: -5.0, 95 % interval from"
        f" {-5 - half:.1f} to {-5 + half:.1f}."
    )


# What the figures show


def test_a_cells_colour_is_the_difference_in_standard_errors_and_its_text_the_difference():
    figure = llc_grid_figure(TITLE, run_with(GRID))
    heat = figure.data[0]
    assert heat.z.shape == (2, 4)
    assert (figure.layout.xaxis.ticktext, figure.layout.yaxis.ticktext) == (
        ("10", "100", "1000", "10000"),
        ("26.38<br>m/ln m", "5454<br>n/ln n"),
    )
    assert heat.z[0, 3] == pytest.approx(-0.01 / (0.02 * 2**0.5))
    assert heat.z[1, 3] == CLIP == heat.zmax == -heat.zmin
    (texts,) = figure.select_traces({"mode": "text"})
    by_place = dict(zip(zip(texts.x, texts.y, strict=True), texts.text, strict=True))
    assert by_place[1, 0] == "<b>+11.8</b><br>9.6 to 14.0"
    assert by_place[2, 1] == "<b>-40</b><br>-65 to -15<br>× 1 diverged"
    assert "γ = 1000, nβ = 5454" in heat.text[1, 2]
    assert "λ̂ = 270.0 ± 9.0" in heat.text[1, 2]
    assert "3 steady, 1 diverged" in heat.text[1, 2]
    assert "ε = 4.5e-07" in heat.text[1, 2]


def test_exactly_the_cells_that_have_not_settled_are_hatched_and_say_so():
    figure = llc_grid_figure(TITLE, run_with(GRID))
    (hatch,) = figure.select_traces({"fill": "toself"})
    corners = [point for point in zip(hatch.x, hatch.y, strict=True) if point[0] is not None]
    assert {(round(x), round(y)) for x, y in corners} == {(0, 0), (0, 1)}
    assert "not settled" in hatch.name
    (texts,) = figure.select_traces({"mode": "text"})
    marked = [text for text in texts.text if "not settled" in text]
    assert [text.split("<i>")[1].split("</i>")[0] for text in marked] == [
        "not settled",
        "NGD not settled",
    ]
    settled = llc_grid_figure(TITLE, run_with({("batch", 100): HIGHER}))
    assert not list(settled.select_traces({"fill": "toself"}))


def test_a_cell_without_interval_has_no_colour():
    results = run_with({("batch", 100): HIGHER, ("batch", 1000): HIGHER, ("dataset", 100): HIGHER})
    cell_at(results, "batch", 100)["optimizers"]["ngd"] = {
        **found_llc(1.0, None),
        "llc": None,
        "settled": False,
    }
    cell_at(results, "batch", 1000)["optimizers"]["ngd"] = {
        **found_llc(45.0, None),
        "settled": False,
    }
    figure = llc_grid_figure(TITLE, results)
    np.testing.assert_array_equal(np.isnan(figure.data[0].z), [[True, True], [False, True]])
    assert figure.data[0].text[1, 1] == "not measured"
    (texts,) = figure.select_traces({"mode": "text"})
    assert [text.split("<br>")[:2] for text in texts.text[:2]] == [
        ["no comparison", "<i>NGD not settled</i>"],
        ["<b>+5</b>", "no interval"],
    ]


def test_the_rescaled_estimate_stands_beside_the_one_at_factor_1():
    results, _ = synthetic_run()
    add_rescaling(results)
    figure = rescaling_figure(TITLE, results)
    lines = {trace.name: trace for trace in figure.data}
    sgd = lines["SGD"]
    assert (list(sgd.x), list(sgd.y)) == ([0.5, 1.0, 2.0], [61.0, 43.6, 52.5])
    np.testing.assert_allclose(sgd.error_y.array, 1.96 * 0.8)
    assert list(sgd.text) == ["+40 %", "", "+20 %"]
    assert list(sgd.marker.symbol) == ["circle", "circle", "circle-open"]  # c = 2 has not settled
    assert (lines["SGD at c = 1"].y, lines["SGD at c = 1"].line.dash) == ((43.6, 43.6), "dash")
    assert figure.layout.xaxis.title.text == "factor c of layers.1; layers.3 is divided by it"


def test_a_factor_at_which_every_chain_diverged_is_said_and_leaves_the_others():
    results, _ = synthetic_run()
    add_rescaling(results)
    for index in (1, 2):
        results["models"][TITLE]["rescaling"]["optimizers"]["sgd"][index]["llc"] = None
    figure = rescaling_figure(TITLE, results)
    lines = {trace.name: trace for trace in figure.data}
    assert list(lines["SGD"].y) == [61.0]
    assert "SGD at c = 1" not in lines
    assert [note.text for note in figure.layout.annotations] == ["SGD:<br>every chain diverged"] * 2
    assert "61.00 ± 0.80 at c = 0.5, – at c = 1" in only_verdict(results).text[-1]


def test_nothing_in_a_layers_name_is_read_as_a_tag():
    results, _ = synthetic_run()
    add_rescaling(results)
    results["models"][TITLE]["rescaling"]["layers"][0] = "<b>layer</b>"
    assert "<b>" not in rescaling_figure(TITLE, results).layout.xaxis.title.text


def test_without_measurements_there_is_nothing_to_draw():
    results, _ = synthetic_run()
    results["models"][TITLE] |= {
        "llc_grid": {"max_curvature": 81.0, "epochs": {"sgd": 20, "ngd": 20}, "cells": []}
    }
    assert not llc_grid_figure(TITLE, results).data
    assert not rescaling_figure(TITLE, results).data
