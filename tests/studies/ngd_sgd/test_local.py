"""Does the verdict rest on local estimates, count only those that may be counted, and say so?"""

import copy

import pytest
from synthetic_results import (
    NOT_AT_MINIMUM,
    NOT_AT_REST,
    add_grid,
    add_local,
    leave_unsampled,
    local_llc,
    make_auto,
    set_final,
    synthetic_run,
)

from degeneracy.report.run_tables import series_csv
from studies.ngd_sgd.figures import study_figures
from studies.ngd_sgd.findings import findings
from studies.ngd_sgd.local_figures import local_llc_figure
from studies.ngd_sgd.local_verdict import local_verdict_of
from studies.ngd_sgd.robustness_figures import llc_grid_figure
from studies.ngd_sgd.robustness_verdict import grid_orders
from studies.ngd_sgd.verdict import verdict_of

TITLE = "FFNN 2 HL, 256 HN"
FOUR = ("sgd", "ngd", "adamw", "my opt <b>")


def run_with(sgd=(43.0, 60.0), ngd=(55.0, 72.0), of_sgd=None):
    """A run of two optimizers with (given, balanced) local λ̂ of each; `of_sgd` in place of what
    passes of SGD's.
    """
    results, _ = synthetic_run(measured="final")
    return add_local(results, {"sgd": sgd, "ngd": ngd}, sgd=of_sgd or {})


def local_of(results):
    return results["models"][TITLE]["local"]


def only_card(results):
    (card,) = findings(results).cards
    return card


def lines(results):
    return [note.line for note in only_card(results).notes]


# The headline


@pytest.mark.parametrize(
    ("ngd", "words"),
    [
        (72.0, "NGD's solution is less degenerate than SGD's: its local λ̂ is higher (+12.00, 95 %"),
        (50.0, "NGD's solution is more degenerate than SGD's: its local λ̂ is lower (-10.00, 95 %"),
        (60.5, "No difference detected between NGD's and SGD's local λ̂: +0.50, 95 % interval from"),
    ],
)
def test_the_headline_is_the_order_of_the_balanced_estimates(ngd, words):
    headline = only_card(run_with(ngd=(55.0, ngd))).headline
    assert headline.startswith(words)
    assert "; the tempered sensitivity, as published, is higher for NGD" in headline


def test_the_interval_is_that_of_the_paired_difference():
    (one,) = local_verdict_of(TITLE, run_with()).comparisons
    assert one.interval == pytest.approx((12 - 2.36 * 0.4, 12 + 2.36 * 0.4))
    assert one.difference == 12


def test_the_published_measure_is_named_as_such_and_never_an_llc():
    results = run_with()
    card = only_card(results)
    text = "\n".join([*card.text, *(t.name for t in card.tiles), *lines(results)])
    assert "Tempered sensitivity, as published, mean ± standard error" in text
    assert "LLC" not in text + card.headline


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (NOT_AT_MINIMUM, "SGD's last checkpoint is not at a minimum"),
        (NOT_AT_REST, "SGD's chains have not come to rest"),
        (
            {"verdict": "tempered, not local", "locality": 0.6},
            "SGD's chains leave the neighbourhood of the checkpoint",
        ),
        ({"verdict": "no estimate"}, "SGD's certificates are not known"),
        ({"verdict": None}, "SGD's certificates are not known"),
        ({"llc": -3.0}, "SGD's λ̂ is negative"),
        ({"llc": None}, "SGD's local λ̂ is missing"),
    ],
)
def test_an_estimate_that_does_not_count_leaves_no_order(values, why):
    results = run_with(of_sgd=values)
    card = only_card(results)
    assert card.headline.startswith(f"No order: {why}; the tempered sensitivity, as published, is")
    assert local_verdict_of(TITLE, results).comparisons == ()
    assert not any(tile.name.startswith("NGD − SGD") for tile in card.tiles)
    assert not any(text.startswith("Difference NGD − SGD of the local") for text in card.text)


def test_no_minimum_and_a_negative_estimate_are_both_said():
    results = run_with((-30.0, -22.0), of_sgd=NOT_AT_MINIMUM)
    assert only_card(results).headline.startswith(
        "No order: SGD's last checkpoint is not at a minimum (its λ̂ is negative); "
    )


def test_what_is_wrong_with_both_is_said_once_and_with_each_apart():
    both = run_with()
    for point in local_of(both)["points"][:2]:
        point["balanced"] |= NOT_AT_MINIMUM
    assert "SGD's and NGD's last checkpoints are not at a minimum;" in only_card(both).headline
    local_of(both)["points"][1]["balanced"] |= NOT_AT_REST
    assert (
        "SGD's last checkpoint is not at a minimum and NGD's chains have not come to rest;"
        in only_card(both).headline
    )


def test_a_difference_without_interval_states_no_order():
    results = run_with()
    local_of(results)["differences"]["ngd"]["balanced"] = None
    assert only_card(results).headline.startswith(
        "No order: the difference of NGD's and SGD's local λ̂, +12, has no interval; "
    )


def test_several_optimizers_are_compared_where_both_estimates_count():
    results, _ = synthetic_run(kind="standard", optimizers=FOUR, measured="final")
    add_local(results, adamw=NOT_AT_REST)
    headline = only_card(results).headline
    assert headline.startswith(
        "Against SGD's, the local λ̂ is higher for NGD and my opt <b>; no order where AdamW's chains"
        " have not come to rest; the tempered sensitivity, as published, is higher for NGD"
    )


def test_one_optimizer_gets_its_number():
    results, _ = synthetic_run(kind="standard", optimizers=("sgd",), measured="final")
    add_local(results, {"sgd": (43.0, 60.0)})
    assert only_card(results).headline == (
        "SGD's local λ̂ is 60.00 ± 0.80; there is no other to compare it with."
    )


def test_an_optimizer_without_a_last_checkpoint_is_missing():
    results = run_with()
    local = local_of(results)
    local["points"] = [p for p in local["points"] if p["optimizer"] != "ngd"]
    assert "NGD's local λ̂ is missing" in only_card(results).headline


def test_checkpoints_of_nearly_equal_loss_stand_in_the_headline_and_the_numbers():
    results = run_with()
    local = local_of(results)
    local["points"].append(
        {"optimizer": "ngd", "epoch": 13, "given": local_llc(39.0), "balanced": local_llc(50.0)}
    )
    paired = {"difference": -10.0, "std_error": 0.4, "interval": [-10.9, -9.1]}
    there = {"epochs": [20, 13], "losses": [0.29, 0.3], "given": None, "balanced": paired}
    local["equal_loss"] = {"ngd": there}
    card = only_card(results)
    assert "At nearly equal training loss NGD's local λ̂ is lower." in card.headline
    assert any(
        "at nearly equal training losses, 0.290 (SGD, epoch 20) and 0.300 (NGD, epoch 13)" in text
        for text in card.text
    )
    kinds = [point.kind for point in local_verdict_of(TITLE, results).points]
    assert kinds == ["last", "last", "where the optimizers part", "nearly equal training loss"]


# Gauges


@pytest.mark.parametrize("lost", ["sgd", "ngd"])
def test_where_one_could_not_be_balanced_all_are_taken_as_given(lost):
    results = run_with(**{lost: (50.0, None)})
    verdict = local_verdict_of(TITLE, results)
    assert verdict.gauge == "given"
    assert [one.gauge for one in verdict.finals.values()] == ["given", "given"]
    assert "λ̂ of the weights as given" in lines(results)


def test_balanced_estimates_are_explained():
    assert "λ̂ of balanced weights" in lines(run_with())


# Tiles, notes, table, figure


def test_tiles_have_the_local_estimates_with_intervals_and_their_certificates():
    tiles = [(tile.name, tile.value, tile.detail) for tile in only_card(run_with()).tiles]
    assert tiles == [
        ("SGD, local λ̂ (balanced), 95 % interval", "60.00", "58.11 to 61.89"),
        ("NGD, local λ̂ (balanced), 95 % interval", "72.00", "70.11 to 73.89"),
        ("SGD: locality ℓ, basin shift", "0.021, 0.4", "≤ 0.1, ≤ 6"),
        ("NGD: locality ℓ, basin shift", "0.021, 0.4", "≤ 0.1, ≤ 7.2"),
        ("NGD − SGD, 95 % interval", "+12.00", "11.06 to 12.94"),
    ]


def test_every_failing_certificate_is_a_note_with_its_advice():
    wrong = {**NOT_AT_REST, "locality": 0.5, "basin_shift": 89.0}
    notes = {note.line: note.detail for note in only_card(run_with(of_sgd=wrong)).notes}
    assert "3095 steps" in notes["SGD: not at rest"]
    assert "50 %" in notes["SGD: tempered, not local"]
    assert "quote λ̂_b" in notes["SGD: not at a minimum"]


def test_a_sound_estimate_has_no_note_of_a_certificate():
    words = ("not at", "not local", "negative", "no interval", "diverged")
    assert not any(word in line for line in lines(run_with()) for word in words)


def test_the_table_has_a_row_a_checkpoint_and_gauge():
    results = run_with(of_sgd=NOT_AT_MINIMUM)
    (table,) = [t for t in findings(results).tables if t.caption.startswith("Local estimates")]
    assert [(row[0][0], row[1][0]) for row in table.rows] == [
        ("SGD, epoch 20", "as given"),
        ("SGD, epoch 20", "balanced"),
        ("NGD, epoch 20", "as given"),
        ("NGD, epoch 20", "balanced"),
        ("SGD, epoch 10", "as given"),
        ("SGD, epoch 10", "balanced"),
    ]
    verdict, advice = table.rows[0][3]
    assert verdict == "not at a minimum"
    assert "train on" in advice
    ngd = dict(zip([text for text, _ in table.head], table.rows[3], strict=True))
    assert ngd["λ̂ ± standard error, 95 % interval"] == ("72.00 ± 0.80", "70.11 to 73.89")
    assert ngd["burn-in, draws"] == ("130, 420", "")
    assert ngd["R-hat of loss, distance"] == ("1.008, 1.012", "")


def test_the_figure_comes_first_and_is_the_cards():
    results, traces = synthetic_run()
    add_local(results)
    assert study_figures(results, traces)[0].drawings[0].key == "local-llc"
    assert only_card(results).drawing == "local-llc"


def test_the_figure_has_both_gauges_and_says_what_is_not_local():
    figure = local_llc_figure(TITLE, run_with((-30.0, -22.0), of_sgd=NOT_AT_MINIMUM))
    points = [trace for trace in figure.data if trace.x[0] is not None]
    assert [trace.y[0] for trace in points] == [30.0, 41.0, -30.0, -22.0, 55.0, 72.0]
    hollow = [trace.marker.symbol.endswith("-open") for trace in points]
    assert hollow == [False, False, True, True, False, False]
    assert [note.text for note in figure.layout.annotations] == ["not at a minimum"]
    assert points[-1].error_y.array[0] == pytest.approx(2.36 * 0.8)
    low, _ = figure.layout.yaxis.range
    assert low < -31.9


def test_local_estimates_that_all_failed_leave_the_old_figure_on_the_card():
    results = run_with()
    for point in local_of(results)["points"]:
        lost = {"llc": None, "std_error": None, "interval": None, "verdict": None}
        point["given"], point["balanced"] = local_llc(1.0) | lost, None
    assert not local_llc_figure(TITLE, results).data
    card = only_card(results)
    assert card.drawing == "llc-against-loss"
    assert card.headline.startswith("No order: SGD's and NGD's local λ̂ are missing; ")


# The measure along the training


def test_without_local_estimates_a_run_of_auto_says_nothing_of_degeneracy():
    results, _ = synthetic_run(measured="final")
    make_auto(results)
    card = only_card(results)
    assert card.headline.startswith(
        "NGD's final tempered sensitivity, as published, is higher than SGD's, as in the published"
        " runs; only a local estimate"
    )
    assert "degenerate than" not in card.headline
    assert "auto, 8 chains, γ = 100, nβ = 26.38" in card.text[0]


def test_figures_and_tables_of_auto_call_it_tempered():
    results, traces = synthetic_run()
    make_auto(results)
    drawings = study_figures(results, traces)[0].drawings
    by_key = {drawing.key: drawing for drawing in drawings}
    for key in ("llc", "llc-against-loss"):
        figure = by_key[key].figure
        assert "Tempered sensitivity" in figure.layout.title.text
        assert "tempered sensitivity λ̂, as published" in figure.layout.yaxis.title.text
        assert "ublished measure" in by_key[key].caption
    names = [row[0] for row in findings(results).tables[0].rows]
    assert ("Tempered sensitivity λ̂", "as published; ± standard error") in names
    assert ("Verdict", "on λ̂") in names
    assert "tempered, not local" in series_csv(results)


def test_with_auto_at_other_settings_it_is_no_published_measure():
    results, _ = synthetic_run(measured="final")
    make_auto(results)
    results["config"]["devinterp"]["nbeta"] = "dataset"
    assert "tempered sensitivity" not in only_card(results).headline


def test_an_estimate_that_is_negative_or_not_at_rest_counts_in_no_comparison():
    results, _ = synthetic_run(measured="final")
    set_final(results, TITLE, "sgd", llc=-3.0)
    assert verdict_of(TITLE, results).comparisons == ()
    assert "SGD's λ̂ is negative" in only_card(results).headline
    results, _ = synthetic_run(measured="final")
    make_auto(results)
    set_final(results, TITLE, "ngd", llc_verdict="not at rest")
    assert verdict_of(TITLE, results).comparisons == ()
    assert only_card(results).headline == "No comparison: NGD's chains have not come to rest."


def test_the_interval_of_auto_is_students():
    results, _ = synthetic_run(measured="final")
    make_auto(results)
    for name in ("sgd", "ngd"):
        set_final(results, TITLE, name, llc=40.0, llc_interval=[37.0, 43.0])
    (one,) = verdict_of(TITLE, results).comparisons
    assert one.interval == pytest.approx((-(18**0.5), 18**0.5))


# The grid


def grid_run(cells=None):
    results = run_with()
    add_grid(results, **({"cells": cells} if cells else {}))
    return results


def test_cells_that_were_not_sampled_say_what_they_would_need():
    results = grid_run()
    leave_unsampled(results)
    cells = grid_orders(TITLE, results)["ngd"]
    assert [cell.order == "cannot come to rest" for cell in cells] == [True, True, False, False] * 2
    (table,) = [t for t in findings(results).tables if t.caption == "λ̂ on the grid of γ × nβ"]
    assert "ε" not in [text for text, _ in table.head]
    assert table.rows[0][-1] == ("cannot come to rest", "needs 13,000 steps a chain")
    assert table.rows[0][2] == ("–", "")
    figure = llc_grid_figure(TITLE, results)
    (texts,) = figure.select_traces({"mode": "text"})
    assert list(texts.text).count("needs 13,000<br>steps a chain") == 4
    (grey,) = [trace for trace in figure.data if (trace.name or "").startswith("grey")]
    corners = zip(grey.x, grey.y, strict=True)
    assert {(round(x), round(y)) for x, y in corners if x is not None} == {
        (0, 0),
        (1, 0),
        (0, 1),
        (1, 1),
    }
    assert "needs" not in only_card(results).headline


def test_a_grid_of_which_nothing_could_be_sampled_misses_no_optimizer():
    results = grid_run()
    leave_unsampled(results, where=lambda cell: True)
    assert list(grid_orders(TITLE, results)) == ["ngd"]
    assert not any("grid" in line for line in lines(results))
    assert "No cell of γ × nβ has settled" in only_card(results).headline
    assert llc_grid_figure(TITLE, results).data


@pytest.mark.parametrize(
    ("values", "order"),
    [
        ({"llc": -5.0, "verdict": "not at a minimum"}, "negative λ̂"),
        ({"verdict": "not at rest"}, "not at rest"),
        ({"llc": -5.0, "verdict": "not at rest"}, "not at rest"),
        ({"llc": -5.0}, "negative λ̂"),
        ({"verdict": "tempered, not local"}, "higher"),
        ({"verdict": "local estimate", "settled": False}, "higher"),  # rest is what decides
        ({"settled": False}, "not settled"),
    ],
)
def test_an_estimate_that_is_negative_or_not_at_rest_counts_in_no_cell(values, order):
    results = grid_run({("dataset", 10_000): (30.0, 65.0, 0.7)})
    (cell,) = results["models"][TITLE]["llc_grid"]["cells"]
    cell["optimizers"]["sgd"] |= values
    ((one,),) = grid_orders(TITLE, results).values()
    assert one.order == order
    hatched = [t for t in llc_grid_figure(TITLE, results).data if "hatched" in (t.name or "")]
    assert bool(hatched) == (order != "higher")


# Whatever may be missing


@pytest.mark.parametrize("key", [*local_llc(1.0), "points", "differences", "nbeta", "reason"])
def test_any_value_may_be_null_or_missing(key):
    results, traces = synthetic_run()
    add_grid(results)
    add_local(results)
    leave_unsampled(results)
    gone = copy.deepcopy(results)
    for each, drop in ((results, False), (gone, True)):
        local = each["models"][TITLE]["local"]
        cells = each["models"][TITLE]["llc_grid"]["cells"]
        found = [p[g] for p in local["points"] for g in ("given", "balanced")]
        found += [one for cell in cells for one in cell["optimizers"].values()]
        for one in (local, *found):
            if key in one:
                one[key] = None
                if drop:
                    del one[key]
        assert findings(each).cards[0].headline
        assert study_figures(each, traces)


@pytest.mark.parametrize("part", ["points", "series", "nothing"])
def test_a_run_without_local_estimates_reports_as_before(part):
    results, traces = synthetic_run()
    before = findings(results)
    if part == "points":
        results["models"][TITLE]["local"] = {"points": []}
    if part == "nothing":
        results["models"][TITLE]["local"] = None
    if part == "series":  # of published samplers have Student's interval of two chains too
        for series in results["models"][TITLE]["optimizers"].values():
            series["llc_interval"] = [[0.0, 100.0]] * 21
    after = findings(results)
    assert (after.cards, after.tables) == (before.cards, before.tables)
    keys = [drawing.key for drawing in study_figures(results, traces)[0].drawings]
    assert "local-llc" not in keys
