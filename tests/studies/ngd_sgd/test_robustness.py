"""Do the grid of γ × nβ and the rescaled layers say what the numbers say, from the estimate to the
sentence?
"""

import json
import re

import numpy as np
import pytest
from synthetic_results import (
    GRID,
    add_grid,
    add_rescaling,
    diverge,
    found_llc,
    set_final,
    synthetic_run,
)

from degeneracy.llc.statistics import summarise
from degeneracy.report.style import optimizer_colours
from degeneracy.runs.results import finding
from studies.ngd_sgd.findings import findings
from studies.ngd_sgd.robustness_figures import CLIP, llc_grid_figure, rescaling_figure
from studies.ngd_sgd.robustness_verdict import grid_clause, grid_orders
from studies.ngd_sgd.verdict import verdict_of

TITLE = "FFNN 2 HL, 256 HN"
FOUR = ("sgd", "ngd", "adamw", "my opt <b>")


def estimate(llc=2.0, diverged=1, num_draws=400):
    """Four chains of white noise around λ̂ = `llc` at nβ = 10, the first ones `diverged`, the last
    one rising.
    """
    rng = np.random.default_rng(0)
    trace = (0.5 + llc / 10 + 0.01 * rng.standard_normal((4, num_draws))).astype(np.float32)
    trace[:diverged, num_draws // 2 :] = np.nan
    trace[-1] += np.linspace(-0.1, 0.1, num_draws, dtype=np.float32)
    return summarise(trace, 0.5, 10.0, acceptance=np.array([0.5, 0.9, 0.8, 0.7]))


def run_with(cells, optimizers=("sgd", "ngd")):
    """A run with these cells: (nβ setting, γ) → (λ̂ of the first, of the second, its error)."""
    results, _ = synthetic_run(measured="final", optimizers=optimizers)
    add_grid(results, cells)
    return results


def cell_at(results, setting, localization):
    cells = results["models"][TITLE]["llc_grid"]["cells"]
    asked = (setting, localization)
    return next(c for c in cells if (c["nbeta_setting"], c["localization"]) == asked)


def only_card(results):
    (card,) = findings(results).cards
    return card


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


# What the verdict says


@pytest.mark.parametrize(
    ("llcs", "order"),
    [((40.0, 43.0, 1.0), "higher"), ((43.0, 40.0, 1.0), "lower"), ((40.0, 42.7, 1.0), "undecided")],
)
def test_an_order_needs_an_interval_without_zero(llcs, order):
    ((cell,),) = grid_orders(TITLE, run_with({("batch", 100): llcs})).values()
    assert cell.order == order  # 1.96 √2 = 2.77
    assert cell.interval == pytest.approx(
        (llcs[1] - llcs[0] - 2.772, llcs[1] - llcs[0] + 2.772), abs=1e-3
    )


@pytest.mark.parametrize("optimizer", ["sgd", "ngd"])
def test_a_cell_that_has_not_settled_counts_neither_way_however_clear_it_looks(optimizer):
    results = run_with({("batch", 100): (40.0, 90.0, 0.1), ("batch", 1000): (4.0, 5.0, 0.1)})
    cell_at(results, "batch", 100)["optimizers"][optimizer] = found_llc(60.0, 0.1, settled=False)
    verdict = only_card(results)
    assert (
        "higher than SGD's (95 % interval above 0) in 1 (nβ = 26.38 with γ = 1000)"
        in verdict.text[-1]
    )
    assert "not settled, so counted neither way, in 1 (nβ = 26.38 with γ = 100)" in verdict.text[-1]


def test_a_cell_whose_chains_all_diverged_is_named_and_leaves_the_others():
    results = run_with({("batch", 100): (40.0, 90.0, 0.1), ("batch", 1000): (4.0, 5.0, 0.1)})
    lost = {**found_llc(1.0, None, num_diverged=4), "llc": None, "settled": False}
    cell_at(results, "batch", 100)["optimizers"]["ngd"] = lost
    text = only_card(results).text[-1]
    assert "higher than SGD's (95 % interval above 0) in 1 (nβ = 26.38 with γ = 1000)" in text
    assert "without an LLC of both in 1 (nβ = 26.38 with γ = 100)" in text


def test_the_verdict_names_the_cells_in_which_the_order_holds():
    results = run_with(GRID)
    assert (
        only_card(results).text[-1]
        == "Over 8 cells of γ × nβ, NGD's LLC after epoch 20 is higher than SGD's (95 % interval"
        " above 0) in 4 (nβ = 26.38 with γ = 100, 1000 and nβ = 5454 with γ = 100, 10000); lower"
        " (95 % interval below 0) in 1 (nβ = 5454 with γ = 1000); undecided (the interval"
        " includes 0) in 1 (nβ = 26.38 with γ = 10000); not settled, so counted neither way, in"
        " 2 (nβ = 26.38 with γ = 10 and nβ = 5454 with γ = 10). Each interval stands for itself:"
        " sampling error only, one training seed."
    )


HIGHER, LOWER = (40.0, 50.0, 1.0), (50.0, 40.0, 1.0)
UNDECIDED = (40.0, 41.0, 1.0)


def settled_run(cells, final, optimizers=("sgd", "ngd")):
    """A run with these cells, all of them settled; the final LLCs are (λ̂, λ̂, error) too."""
    places = [("batch", 10.0 ** (place + 1)) for place in range(len(cells))]
    results = run_with(dict(zip(places, cells, strict=True)), optimizers)
    for cell in results["models"][TITLE]["llc_grid"]["cells"]:
        for found in cell["optimizers"].values():
            found["settled"] = True
    for name, llc in zip(optimizers, (*final[:2], *final[:2]), strict=False):
        set_final(results, TITLE, name, llc=llc, llc_std_error=final[2])
    return results


def clause_of(results):
    return grid_clause(verdict_of(TITLE, results), results)


@pytest.mark.parametrize(
    ("cells", "final", "clause"),
    [
        ([HIGHER, HIGHER], HIGHER, ""),
        ([LOWER, LOWER], LOWER, ""),
        ([UNDECIDED], UNDECIDED, ""),
        ([HIGHER, LOWER], HIGHER, "higher in 1, lower in 1 of 2 settled cells"),
        ([HIGHER, UNDECIDED], HIGHER, "higher in 1, undecided in 1 of 2 settled cells"),
        ([UNDECIDED], HIGHER, "undecided in 1 of 1 settled cell"),
        ([HIGHER, HIGHER], LOWER, "higher in 2 of 2 settled cells"),
        ([HIGHER, HIGHER], (40.0, 50.0, None), "higher in 2 of 2 settled cells"),
        ([], HIGHER, ""),
    ],
)
def test_the_headline_is_qualified_unless_all_settled_cells_agree_with_it(cells, final, clause):
    expected = clause and f"over γ × nβ NGD's LLC is {clause}"
    assert clause_of(settled_run(cells, final)) == expected


def test_of_several_optimizers_the_headline_names_those_whose_cells_disagree():
    """The third lies below the first where the second lies above."""
    names = ("sgd", "ngd", "adamw")
    agreeing = settled_run([HIGHER, HIGHER], HIGHER, names)
    set_final(agreeing, TITLE, "adamw", llc=30.0)
    assert clause_of(agreeing) == ""
    results = settled_run([HIGHER, LOWER], HIGHER, names)
    set_final(results, TITLE, "adamw", llc=30.0)
    assert clause_of(results) == (
        "over γ × nβ that order does not hold in every settled cell for NGD and AdamW"
    )
    for cell in results["models"][TITLE]["llc_grid"]["cells"]:
        cell["optimizers"]["adamw"]["settled"] = False
    assert clause_of(results) == (
        "over γ × nβ that order does not hold in every settled cell for NGD; no cell of γ × nβ has"
        " settled for AdamW"
    )


@pytest.mark.parametrize("error", [5.0, None])
def test_of_an_optimizer_without_a_stated_order_the_headline_counts_the_cells(error):
    """NGD's final LLC is higher; of AdamW's, the interval includes 0, or there is none."""
    results = settled_run([HIGHER, LOWER], HIGHER, ("sgd", "ngd", "adamw"))
    set_final(results, TITLE, "adamw", llc=41.0, llc_std_error=error)
    assert clause_of(results) == (
        "over γ × nβ that order does not hold in every settled cell for NGD; AdamW's LLC is higher"
        " in 1, lower in 1 of 2 settled cells"
    )


def test_optimizers_without_a_stated_order_whose_cells_say_the_same_share_a_clause():
    results = settled_run([HIGHER, LOWER], UNDECIDED, FOUR)
    for name in FOUR:
        set_final(results, TITLE, name, llc=40.0)
    for cell in results["models"][TITLE]["llc_grid"]["cells"]:
        found = cell["optimizers"]
        found["adamw"], found["my opt <b>"] = found["ngd"], found["sgd"]
    counts = "higher in 1, lower in 1 of 2 settled cells"
    assert clause_of(results) == f"over γ × nβ NGD's and AdamW's LLC is {counts}"


@pytest.mark.parametrize("names", [("sgd", "ngd"), ("sgd", "ngd", "adamw")])
def test_a_verdict_without_comparison_is_not_qualified_by_the_grid(names):
    results = settled_run([HIGHER, LOWER], HIGHER, names)
    for name in names[1:]:
        set_final(results, TITLE, name, llc=None, llc_std_error=None, num_diverged_chains=2)
    assert verdict_of(TITLE, results).comparisons == ()
    assert clause_of(results) == ""
    card = only_card(results)
    assert card.headline.startswith("No comparison: there is no final LLC of NGD")
    assert "γ × nβ" not in card.headline
    assert any("higher than SGD's" in text for text in card.text)


def test_an_optimizer_that_no_cell_has_is_a_note_and_nowhere_else_of_the_grid():
    results, _ = synthetic_run(kind="standard", optimizers=FOUR)
    lines = {note.line for note in only_card(results).notes}
    assert not any("grid" in line for line in lines)
    add_grid(results, without=("adamw",))
    diverge(results, TITLE, "adamw", 3)
    card = only_card(results)
    assert list(grid_orders(TITLE, results)) == ["ngd", "my opt <b>"]
    assert "AdamW is not on the grid of γ × nβ" in [note.line for note in card.notes]
    assert not any("AdamW" in text for text in card.text if text.startswith("Over"))
    assert not llc_grid_figure(TITLE, results, "adamw").data
    head = [text for text, _ in findings(results).tables[-1].head]
    assert head[3:6] == ["SGD λ̂", "NGD λ̂", "my opt <b> λ̂"]
    assert head[6:] == ["NGD − SGD", "order", "my opt <b> − SGD", "order"]


def test_several_optimizers_that_no_cell_has_share_a_note():
    results, _ = synthetic_run(kind="standard", optimizers=(*FOUR, "muon"))
    add_grid(results, without=("adamw", "muon"))
    assert "AdamW and Muon are not on the grid of γ × nβ" in [
        note.line for note in only_card(results).notes
    ]
    add_grid(results, without=("ngd", "adamw", "muon"))
    (note,) = [note for note in only_card(results).notes if "grid" in note.line]
    assert note.line == "3 optimizers are not on the grid of γ × nβ"
    assert note.detail.startswith("NGD, AdamW and Muon. ")


def test_every_optimizer_is_compared_with_the_first_in_every_cell():
    results = run_with(GRID, FOUR)
    orders = grid_orders(TITLE, results)
    assert list(orders) == ["ngd", "adamw", "my opt <b>"]
    for other, cells in orders.items():
        assert len(cells) == 8
        for cell in cells:
            found = cell_at(results, cell.nbeta_setting, cell.localization)["optimizers"]
            assert list(cell.findings) == ["sgd", other]
            assert cell.difference == found[other]["llc"] - found["sgd"]["llc"]
    sentences = [text for text in only_card(results).text if text.startswith("Over 8 cells")]
    for text, name in zip(sentences, ("NGD", "AdamW", "my opt <b>"), strict=True):
        assert text.startswith(f"Over 8 cells of γ × nβ, {name}'s LLC after epoch 20 is ")
    assert all("higher than SGD's" in text for text in sentences)


def test_an_optimizer_that_another_one_left_unsettled_is_counted():
    """A pair's cell counts where the two have settled, whatever a third one did."""
    results = run_with({("batch", 100): HIGHER}, ("sgd", "ngd", "adamw"))
    cell_at(results, "batch", 100)["optimizers"]["adamw"]["settled"] = False
    orders = {name: cells[0].order for name, cells in grid_orders(TITLE, results).items()}
    assert orders == {"ngd": "higher", "adamw": "not settled"}


def test_a_grid_in_which_nothing_settled_shows_nothing():
    results = run_with({("batch", 100): HIGHER})
    cell_at(results, "batch", 100)["optimizers"]["sgd"]["settled"] = False
    clause = "no cell of γ × nβ has settled, so they do not show whether the order holds"
    assert clause_of(results) == clause
    assert clause in only_card(results).headline.replace("No cell", "no cell")
    set_final(results, TITLE, "ngd", llc_std_error=None)
    assert clause_of(results) == "no cell of γ × nβ has settled"


def test_without_grid_and_rescaling_the_verdict_is_silent_about_them():
    results, _ = synthetic_run(measured="final")
    verdict = only_card(results)
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
        only_card(results).text[-1]
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


def test_each_pair_has_a_grid_in_its_own_two_colours():
    results = run_with(GRID, FOUR)
    colours = optimizer_colours(FOUR)
    for name, words in (("ngd", "NGD"), ("adamw", "AdamW"), ("my opt <b>", "my opt &lt;b&gt;")):
        figure = llc_grid_figure(TITLE, results, name)
        assert f"LLC at other γ and nβ: {words} − SGD" in figure.layout.title.text
        heat = figure.data[0]
        for end, optimizer in ((0, "sgd"), (-1, name)):
            pale, full = (
                [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
                for colour in (heat.colorscale[end][1], colours[optimizer])
            )
            assert pale == pytest.approx([(255 + part) / 2 for part in full], abs=1)
        assert "opt <b>" not in "".join(heat.text.ravel())
    assert llc_grid_figure(TITLE, results) == llc_grid_figure(TITLE, results, "ngd")


def test_the_rescaled_estimate_stands_beside_the_one_at_factor_1():
    results, _ = synthetic_run()
    add_rescaling(
        results, {"sgd": {0.5: 61.0, 1.0: 43.6, 2.0: 52.5}, "ngd": {0.5: 70.2, 1.0: 55.2}}
    )
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
    add_rescaling(results, {"sgd": {0.5: 61.0, 1.0: 43.6, 2.0: 52.5}, "ngd": {1.0: 55.2, 2.0: 6.0}})
    found = results["models"][TITLE]["rescaling"]["optimizers"]
    found["sgd"][1]["llc"] = found["sgd"][2]["llc"] = found["ngd"][1]["llc"] = None
    figure = rescaling_figure(TITLE, results)
    lines = {trace.name: trace for trace in figure.data}
    assert list(lines["SGD"].y) == [61.0]
    assert "SGD at c = 1" not in lines
    texts = {note.x: re.sub(r"<[^>]*>", " ", note.text) for note in figure.layout.annotations}
    assert texts == {
        0: " SGD:  every chain diverged",
        np.log10(2): " SGD:  every chain diverged  NGD:  every chain diverged",
    }
    assert "61.00 ± 0.80 at c = 0.5, – at c = 1" in only_card(results).text[-1]


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
