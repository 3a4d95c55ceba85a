"""Does what is said of a phase transition follow from what was measured, whole or not?"""

import copy
import math

import pytest
from transition_results import SGD, TITLE, optimizers_of, series_of

from degeneracy.report.style import COLOURS
from studies.phase_transitions.findings import findings, phases_table

SERIES = [key for key in series_of(SGD) if key not in ("train_loss", "diverged_epoch")]
SAID = {  # in which words a series is spoken of, where it is
    "llc": "LLC 3.00",
    "hessian_trace": "Hessian trace: ",
    "top_eigenvalues": "Largest Hessian eigenvalue: ",
    "hessian_fisher_distance": "‖H − F‖/‖H‖ ",
    "quadratic_llc": "by the Hessian's spectrum",
    "gauss_newton_llc": "by the Gauss-Newton matrix's spectrum",
}
DESCENDS = [2.3, 2.0, 1.7, 1.4, 1.1, 0.8]  # from its start, so that there is no plateau


def card_of(results):
    (card,) = findings(results).cards
    return card


def text_of(results, start):
    (text,) = [text for text in card_of(results).text if text.startswith(start)]
    return text


def notes_of(results):
    return {note.line: note.detail for note in card_of(results).notes}


def tiles_of(results):
    return {tile.name: (tile.value, tile.detail) for tile in card_of(results).tiles}


# ---- the verdict ---------------------------------------------------------------------------------


def test_the_headline_says_what_llc_and_curvature_do_over_the_drop(results):
    assert card_of(results).headline == (
        "Over the drop the LLC rises with SGD (3.00 ± 0.30 → 120.00 ± 0.40) and NGD (-5.00 ± 0.50 →"
        " 40.0 ± 4.0). The Hessian trace peaks inside the drop with SGD (60.00 ± 0.50) and after"
        " the drop with NGD (30.00 ± 0.50)."
    )


def test_of_many_optimizers_the_headline_tells_those_that_differ_and_tiles_have_the_numbers(four):
    optimizers_of(four)["adamw"]["val_loss"] = DESCENDS
    card = card_of(four)
    assert card.headline == (
        "Over the drop the LLC rises with SGD and NGD; it falls with my own; AdamW leaves no"
        " plateau. The Hessian trace peaks inside the drop with SGD and my own and after the drop"
        " with NGD."
    )
    names = " ".join(tile.name for tile in card.tiles)
    assert all(name in names for name in ("SGD: ", "NGD: ", "my own: "))
    assert "AdamW" not in names


def test_a_change_within_its_interval_is_no_rise(results):
    optimizers_of(results)["sgd"]["llc"][4] = 3.5
    headline = card_of(results).headline
    assert headline.startswith("Over the drop the LLC changes within noise with SGD (3.00 ± 0.30 →")
    assert "; it rises with NGD" in headline


def test_without_a_trace_the_largest_eigenvalue_is_spoken_of_and_without_both_neither(results):
    for series in optimizers_of(results).values():
        series["hessian_trace"] = [None] * 6
    assert card_of(results).headline.endswith(
        "The largest Hessian eigenvalue peaks inside the drop with SGD (30.00) and after the drop"
        " with NGD (7.000)."
    )
    for series in optimizers_of(results).values():
        series["top_eigenvalues"] = [None] * 6
    assert card_of(results).headline.endswith("Curvature around the drop was not measured.")


def test_without_llc_the_headline_says_where_the_plateau_ends(results):
    for series in optimizers_of(results).values():
        series["llc"] = [None] * 6
    assert card_of(results).headline.startswith(
        "The plateau ends with SGD after epoch 2 and NGD after epoch 2; the LLC around the drop was"
        " not measured. The Hessian trace peaks"
    )


def test_where_no_optimizer_leaves_a_plateau_the_headline_says_so(results):
    for series in optimizers_of(results).values():
        series["val_loss"] = DESCENDS
    card = card_of(results)
    assert card.headline == (
        "SGD and NGD leave no plateau by the rule, so there is no drop to look across."
    )
    assert card.tiles == []
    del optimizers_of(results)["ngd"]
    assert card_of(results).headline.startswith("SGD leaves no plateau by the rule")


def test_tiles_are_the_changes_with_their_intervals_the_peaks_and_the_difference(results):
    # √(0.3² + 0.4²) = 0.5, 1.96 · 0.5 = 0.98; √(0.5² + 4²) = 4.03, 1.96 · 4.03 = 7.9
    assert tiles_of(results) == {
        "SGD: LLC over the drop, 95 % interval": ("+117.00", "116.02 to 117.98"),
        "SGD: Hessian trace at its largest, inside the drop": ("60.00 ± 0.50", "epoch 3"),
        "NGD: LLC over the drop, 95 % interval": ("+45.0", "37.1 to 52.9"),
        "NGD: Hessian trace at its largest, after the drop": ("30.00 ± 0.50", "epoch 5"),
        "LLC, NGD − SGD at loss 0.200, 95 % interval": ("-30.0", "-38.1 to -21.9"),
    }
    colours = [tile.colour for tile in card_of(results).tiles]
    assert colours == [COLOURS["sgd"]] * 2 + [COLOURS["ngd"]] * 2 + [""]


def test_every_other_optimizer_is_compared_with_the_first_alone(four):
    heads = [text.split(":")[0] for text in card_of(four).text[1:]]
    assert heads == ["SGD", "NGD", "AdamW", "my own"] + [
        f"SGD and {name}" for name in ("NGD", "AdamW", "my own")
    ]
    differences = [name for name in tiles_of(four) if "−" in name]
    assert [name.split(" at ")[0] for name in differences] == [
        f"LLC, {name} − SGD" for name in ("NGD", "AdamW", "my own")
    ]


def test_the_drawing_of_the_card_is_the_llc_over_epochs(results):
    assert card_of(results).drawing == "llc"


# ---- what qualifies it ---------------------------------------------------------------------------


def test_it_is_noted_what_the_intervals_hold_and_nothing_else_where_nothing_is_wrong(results):
    del optimizers_of(results)["ngd"]
    assert list(notes_of(results)) == ["Intervals are of sampling and probes alone"]


def test_notes_say_where_no_checkpoint_lies_inside_and_what_stands_beside_an_llc_below_zero(
    results,
):
    optimizers_of(results)["ngd"]["num_unsettled_chains"][3] = 1
    notes = notes_of(results)
    assert "No checkpoint lies inside it" in notes["NGD: the drop takes one epoch"]
    assert "w* is no minimum there" in notes["NGD: LLC below zero after epoch 2"]
    assert "NGD: 1 of 4 chains not settled after epoch 3" in notes
    optimizers_of(results)["ngd"]["llc_std_error"][2] = 10.0
    assert "NGD: LLC below zero after epoch 2" not in notes_of(results)


# ---- sentences -----------------------------------------------------------------------------------


def test_the_rule_is_stated_once_with_its_numbers(results):
    rule, *others = card_of(results).text
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


def test_a_peak_after_the_drop_is_called_so(results):
    assert "30.00 ± 0.50 at its largest (epoch 5, after the drop)" in text_of(results, "NGD: ")


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


def rows_of(results):
    return [[text for text, _ in row] for row in phases_table(results).rows]


def test_the_table_has_a_row_an_optimizer_and_phase(results):
    (table,) = findings(results).tables
    assert table == phases_table(results)
    assert table.row_headers
    rows = rows_of(results)
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


def test_two_models_have_a_card_each_and_their_titles_in_the_table(results):
    other = "LeNet-5; 4 more"
    results["models"][other] = copy.deepcopy(results["models"][TITLE])
    cards = findings(results).cards
    assert [card.title for card in cards] == [TITLE, other]
    assert [card.drawing for card in cards] == ["lenet-5-4-more-llc", "lenet-5-4-more-again-llc"]
    firsts = [row[0] for row in phases_table(results).rows]
    assert ("SGD, before", TITLE) in firsts
    assert ("SGD, before", other) in firsts


# ---- runs that are not whole ---------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 1, 3, 4])
def test_of_a_run_that_has_just_begun_it_is_said_how_far_it_came(results, cut, keep):
    for series in optimizers_of(results).values():
        cut(series, keep)
    headline = card_of(results).headline
    if keep < 2:
        assert headline == "Training has not come far enough to show a plateau."
        assert len(rows_of(results)) == 2 * keep
    elif keep == 3:  # SGD's loss has not changed at all, NGD's by less than a hundredth
        assert headline.startswith("SGD and NGD leave no plateau")
    else:
        assert headline.startswith("Over the drop the LLC rises with SGD (3.00 ± 0.30 → 50.0")


@pytest.mark.parametrize("key", SERIES)
def test_any_series_may_be_missing_or_not_measured(results, key):
    """Then it is not spoken of, and what else was measured is."""
    assert all(words in text_of(results, "SGD: ") for words in SAID.values())
    for series in optimizers_of(results).values():
        series[key] = [None] * 6
    assert len(card_of(results).text) == 4
    if key in SAID:
        assert SAID[key] not in text_of(results, "SGD: ")
    elif not key.endswith("_std_error") and key != "val_loss":
        assert all(words in text_of(results, "SGD: ") for words in SAID.values())
    assert bool(rows_of(results)) == (key != "val_loss")  # without it there are no phases
    not_measured = findings(results)
    for series in optimizers_of(results).values():
        del series[key]
    assert findings(results) == not_measured


def test_a_model_without_optimizers_has_a_card_that_says_so(results):
    results["models"][TITLE]["optimizers"] = {}
    assert card_of(results).headline == "Training has not come far enough to show a plateau."
    assert findings(results).tables == []


def test_one_optimizer_alone_is_compared_with_none(results):
    results["models"][TITLE]["optimizers"] = {"mine": optimizers_of(results)["sgd"]}
    assert [text.split(":")[0] for text in card_of(results).text[1:]] == ["mine"]
    assert card_of(results).headline.startswith("Over the drop the LLC rises with mine (3.00")
    assert len(tiles_of(results)) == 2


def test_a_diverged_optimizer_is_spoken_of_up_to_there(results, cut):
    optimizers_of(results)["ngd"]["diverged_epoch"] = 4
    cut(optimizers_of(results)["ngd"], 4)
    assert notes_of(results)["NGD: training diverged in epoch 4"] == (
        "What is said of it is from before."
    )
    assert "NGD 40.0 ± 4.0 (epoch 3, loss 0.500)" in text_of(results, "SGD and NGD: ")


def test_in_a_swap_run_an_optimizer_begins_where_it_took_over(results):
    results["config"]["experiment"] |= {"experiment_type": "swap", "cut_off_epochs": 1}
    optimizers_of(results)["ngd"]["val_loss"] = [None, 2.3, 2.3, 2.3, 0.5, 0.5]
    assert "A plateau from epoch 1 to 3, then a drop to epoch 4" in text_of(results, "NGD: ")


def test_losses_that_are_zero_or_not_finite_break_nothing(results):
    optimizers_of(results)["ngd"]["llc_init_loss"] = [2.3, 2.3, 2.3, 0.5, 0.0, -1e-9]
    optimizers_of(results)["sgd"]["llc"][3] = math.nan
    optimizers_of(results)["sgd"]["llc_std_error"][4] = None
    assert "change +117, without an interval" in text_of(results, "SGD: ")
    assert tiles_of(results)["SGD: LLC over the drop"] == ("+117", "no interval")
    assert all("nan" not in text.split() for text in card_of(results).text)
