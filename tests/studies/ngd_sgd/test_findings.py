"""Does the report say what the numbers say, and nothing more?"""

import math
import re

import pytest
from synthetic_results import (
    DIVERGED_CELLS,
    UNSETTLED_CELLS,
    add_grid,
    add_rescaling,
    diverge,
    set_final,
    synthetic_run,
)

from degeneracy.report.run_tables import series_csv
from degeneracy.report.style import optimizer_colours
from degeneracy.texts import label
from studies.ngd_sgd.figures import study_figures
from studies.ngd_sgd.findings import findings

TITLE = "FFNN 2 HL, 256 HN"
FOUR = ("sgd", "ngd", "adamw", "my opt <b>")


def run_with(*finals, names=("sgd", "ngd"), loss=None, **options):
    """A run whose final LLCs are overwritten by (llc, std_error), one for each of `names`.

    `loss`, where given, is everyone's final training loss; nothing else then weakens the verdict.
    """
    results, _ = synthetic_run(optimizers=names, **options)
    for name, (llc, error) in zip(names, finals, strict=True):
        set_final(results, TITLE, name, llc=llc, llc_std_error=error, llc_drift=0.1)
        if loss is not None:
            good = {"llc_init_loss": loss, "llc_ess": 500.0, "num_unsettled_chains": 0}
            set_final(results, TITLE, name, **good)
    return results


def only_card(results):
    (card,) = findings(results).cards
    return card


def lines(results):
    return [note.line for note in only_card(results).notes]


def said(results):
    """Every word of the card."""
    card = only_card(results)
    return "\n".join([card.headline, *card.text, *(f"{n.line} {n.detail}" for n in card.notes)])


# The headline


@pytest.mark.parametrize(
    ("ngd", "words"),
    [
        (
            55.0,
            "NGD's final LLC is higher, i.e. its solution is less degenerate at these settings, as"
            " published.",
        ),
        (
            30.0,
            "NGD's final LLC is lower, i.e. its solution is more degenerate at these settings,"
            " opposite to published.",
        ),
        (
            43.0,
            "No difference detected: its interval includes 0, while in the published runs NGD's"
            " final LLC is higher.",
        ),
    ],
)
def test_the_headline_follows_the_numbers_whichever_way_they_fall(ngd, words):
    assert only_card(run_with((42.5, 0.6), (ngd, 0.8), loss=0.1)).headline == words


@pytest.mark.parametrize("names", [("sgd", "adamw"), ("ngd", "sgd"), ("sgd", "ngd_smooth")])
@pytest.mark.parametrize(("llc", "word"), [(55.0, "higher"), (30.0, "lower"), (43.0, "between")])
def test_only_ngd_against_sgd_is_held_against_the_publication(names, llc, word):
    headline = only_card(run_with((42.5, 0.6), (llc, 0.8), names=names, loss=0.1)).headline
    assert "publish" not in headline
    assert f"{label(names[1])}'s" in headline
    assert f"{label(names[0])}'s" in headline
    assert word in headline


@pytest.mark.parametrize("llc", [55.0, 30.0, 43.0])
@pytest.mark.parametrize("names", [("sgd", "ngd"), ("sgd", "ngd", "adamw")])
def test_optimizers_from_python_are_not_the_published_ones_of_their_names(names, llc):
    finals = ((42.5, 0.6), (llc, 0.8), (55.0, 0.8))[: len(names)]
    results = run_with(*finals, names=names, loss=0.1)
    from_config = only_card(results).headline
    results["own_optimizers"] = dict.fromkeys(names, "SGD(lr=0.1)")
    assert "publish" not in said(results)
    assert "NGD" in only_card(results).headline
    results["own_optimizers"] = {}
    assert only_card(results).headline == from_config


def test_four_optimizers_are_compared_in_one_sentence():
    finals = ((43.0, 0.5), (55.0, 0.5), (30.0, 0.5), (43.2, 0.5))
    headline = only_card(run_with(*finals, names=FOUR, loss=0.1)).headline
    assert headline == (
        "Against SGD's, the final LLC is higher for NGD (as published), lower for AdamW, not"
        " detectably different for my opt <b>."
    )


@pytest.mark.parametrize("names", [("ngd",), ("sgd", "ngd"), ("sgd", "muon"), FOUR])
@pytest.mark.parametrize("kind", ["swap", "standard"])
@pytest.mark.parametrize("seed", range(3))
def test_a_headline_has_at_most_two_sentences(names, kind, seed):
    results, _ = synthetic_run(seed, optimizers=names, kind=kind if len(names) > 1 else "standard")
    add_grid(results)
    headline = only_card(results).headline.replace("i.e. ", "")
    assert len(re.findall(r"[.] [A-Z]", headline)) <= 1
    assert headline.endswith(".")


def test_one_optimizer_gets_its_number_and_no_comparison():
    results = run_with((43.0, 0.5), names=("adamw",), kind="standard")
    card = only_card(results)
    assert card.headline == (
        "AdamW's final LLC is 43.00 ± 0.50; there is no other to compare it with."
    )
    assert [tile.name for tile in card.tiles] == ["AdamW, final LLC"]
    assert "ifference" not in said(results)


def test_equal_losses_stand_in_the_headline_where_both_passed_them():
    results, _ = synthetic_run(1, kind="standard", optimizers=FOUR)
    headline = only_card(results).headline
    (pair,) = findings(synthetic_run(1, kind="standard")[0]).cards
    assert "At equal training loss NGD's LLC is " in pair.headline
    assert "At equal training loss it is " in headline


def test_nothing_measured_is_said():
    card = only_card(synthetic_run(measured=[])[0])
    assert card.headline == "No LLC was measured, so there is no verdict."
    assert (card.tiles, card.text, card.notes, card.drawing) == ([], [], [], None)


def test_chains_that_all_diverged_leave_no_llc():
    results, _ = synthetic_run()
    for name in ("sgd", "ngd"):
        lost = {"num_diverged_chains": 2, "llc": None, "llc_std_error": None, "llc_drift": None}
        set_final(results, TITLE, name, **lost)
    assert only_card(results).headline == "No LLC: every chain diverged."
    assert "SGD: 2 of 2, NGD: 2 of 2 chains diverged" in lines(results)


@pytest.mark.parametrize(("kind", "epoch"), [("swap", 10), ("standard", 0)])
def test_why_there_is_no_comparison_is_said_once(kind, epoch):
    results, _ = synthetic_run(kind=kind, measured=[epoch], optimizers=FOUR)
    why = f"no LLC was measured after epoch {epoch}, whose weights all share"
    assert only_card(results).headline == f"No comparison: {why}."


def test_an_optimizer_that_cannot_be_compared_is_a_note_beside_those_that_can():
    results, _ = synthetic_run(kind="standard", optimizers=FOUR)
    diverge(results, TITLE, "adamw", 3)
    card = only_card(results)
    assert "AdamW" not in card.headline
    notes = {note.line: note.detail for note in card.notes}
    assert notes["AdamW is not compared with SGD"] == (
        "The last LLC is of epoch 20 for SGD, of epoch 2 for AdamW."
    )


def test_optimizers_that_cannot_be_compared_for_one_reason_share_a_clause_and_a_note():
    results, _ = synthetic_run(kind="standard", optimizers=FOUR)
    for name in ("ngd", "adamw"):
        diverge(results, TITLE, name, 3)
    notes = {note.line: note.detail for note in only_card(results).notes}
    assert notes["NGD and AdamW are not compared with SGD"] == (
        "The last LLC is of epoch 20 for SGD, of epoch 2 for NGD and AdamW."
    )
    diverge(results, TITLE, "my opt <b>", 5)
    assert only_card(results).headline == (
        "No comparison: the last LLC is of epoch 20 for SGD, of epoch 2 for NGD and AdamW, of epoch"
        " 4 for my opt <b>."
    )


def test_a_missing_standard_error_is_said():
    results = run_with((43.0, None), (55.0, 0.4))
    assert only_card(results).headline == (
        "No verdict: a standard error is missing, so the difference has no interval."
    )
    assert "SGD: final LLC without a standard error" in lines(results)
    assert "Difference NGD − SGD: +12, without an interval" in said(results)


def test_an_llc_of_an_earlier_epoch_is_not_called_final():
    results, _ = synthetic_run(measured=[15])
    assert "LLC after epoch 15 of 20" in only_card(results).headline
    assert "final" not in said(results).replace("in the published runs NGD's final", "")


# The numbers behind it


def test_the_interval_its_limits_and_the_losses_stand_in_one_sentence():
    results = run_with((43.0, 0.3), (55.0, 0.4))
    set_final(results, TITLE, "sgd", llc_init_loss=0.3)
    set_final(results, TITLE, "ngd", llc_init_loss=0.1)
    assert (
        "Difference NGD − SGD: +12.00, 95 % interval from 11.02 to 12.98 (sampling error only, one"
        " training seed), at final training losses of 0.300 (SGD) and 0.100 (NGD)."
    ) in only_card(results).text


def test_each_llc_comes_with_its_error_drift_and_settings():
    text = only_card(run_with((43.0, 0.3), (55.0, 0.4))).text[0]
    assert "SGD 43.00 ± 0.30 after epoch 20 (drift +0.10)" in text
    assert "SGLD, 2 chains × 200 draws, ε = 0.0001, γ = 100, nβ = 26.38" in text


def test_every_difference_to_the_baseline_has_a_sentence_and_a_tile():
    finals = ((43.0, 0.3), (55.0, 0.4), (40.0, 0.4), (50.0, 0.4))
    card = only_card(run_with(*finals, names=FOUR))
    half = 1.96 * 0.5
    for name, difference in (("NGD", 12), ("AdamW", -3), ("my opt <b>", 7)):
        ends = f"{difference - half:.2f} to {difference + half:.2f}"
        start = f"Difference {name} − SGD: {difference:+.2f}, 95 % interval from {ends}"
        assert any(text.startswith(start) for text in card.text)
        (tile,) = [one for one in card.tiles if one.name == f"{name} − SGD, 95 % interval"]
        assert (tile.value, tile.detail) == (f"{difference:+.2f}", ends)


def test_the_tiles_of_final_llcs_have_the_colours_of_the_figures():
    card = only_card(synthetic_run(optimizers=FOUR, kind="standard")[0])
    finals = [tile for tile in card.tiles if tile.name.endswith("final LLC")]
    assert [tile.colour for tile in finals] == list(optimizer_colours(FOUR).values())


def test_the_comparison_at_equal_loss_says_between_what_it_stands():
    results, _ = synthetic_run(1, kind="standard")
    (sentence,) = [text for text in only_card(results).text if text.startswith("At equal")]
    assert "the one that went further interpolated between epochs" in sentence
    assert "sampling error only, one training seed" in sentence


# What weakens it


def test_every_verdict_says_that_this_is_not_the_learning_coefficient():
    for names in (("ngd",), ("sgd", "ngd"), FOUR):
        results, _ = synthetic_run(kind="standard", optimizers=names)
        assert lines(results)[-1] == "λ̂ is not the learning coefficient itself"


def test_a_verdict_that_nothing_weakens_has_no_other_note():
    assert len(lines(run_with((43.0, 0.3), (55.0, 0.4), loss=0.1))) == 1


def test_unequal_training_losses_are_said():
    results = run_with((43.0, 0.3), (55.0, 0.4), loss=0.1)
    set_final(results, TITLE, "sgd", llc_init_loss=0.3)
    assert "The final training losses differ: SGD 0.300, NGD 0.100" in lines(results)
    assert "not at equal loss" in said(results)


def test_drift_beyond_the_standard_error_is_said():
    results = run_with((43.0, 0.5), (55.0, 0.5), loss=0.1)
    set_final(results, TITLE, "sgd", llc_drift=-0.6)
    set_final(results, TITLE, "ngd", llc_drift=0.4)
    (line,) = [line for line in lines(results) if "drift" in line]
    assert line == "SGD: -0.60 drift beyond the standard error"
    assert "depends on the draws" in said(results)


def test_a_drift_as_large_as_the_difference_is_said():
    results = run_with((43.0, 0.1), (44.0, 0.1), loss=0.1)
    assert "change its sign" not in said(results)
    set_final(results, TITLE, "ngd", llc_drift=1.5)
    assert "The drift is as large as the difference: NGD − SGD" in lines(results)
    assert "change its sign" in said(results)


@pytest.mark.parametrize(
    ("last", "line"),
    [
        (20.0, "At equal training loss, too, the drift is as large as the difference: NGD − SGD"),
        (0.1, "At equal training loss the drift is as large as the difference: NGD − SGD"),
    ],
)
def test_a_drift_at_equal_loss_is_one_too_many_only_where_the_last_one_is(last, line):
    """SGD ends at the loss that NGD passes between epochs 14 and 15, with nearly SGD's LLC."""
    results = run_with((43.0, 0.4), (55.0, 0.4))
    sgd, ngd = (results["models"][TITLE]["optimizers"][name] for name in ("sgd", "ngd"))
    sgd["llc_init_loss"][20], ngd["llc_init_loss"][20] = 0.1, 0.02
    ngd["llc_init_loss"][10:20] = [0.5] * 4 + [0.11, 0.09] + [0.03] * 4
    ngd["llc"][14:16], ngd["llc_drift"][14:16] = [43.1, 43.1], [2.0, 2.0]
    set_final(results, TITLE, "ngd", llc_drift=last)
    drifts = [text for text in lines(results) if "as large as the difference" in text]
    first = ["The drift is as large as the difference: NGD − SGD"] if last > 12 else []
    assert drifts == [*first, line]


@pytest.mark.parametrize(("ess", "few"), [(49.0, True), (51.0, False)])
def test_few_effective_draws_are_said(ess, few):
    results = run_with((43.0, 0.3), (55.0, 0.4), loss=0.1)
    set_final(results, TITLE, "ngd", llc_ess=ess)
    assert ("NGD: 49 effective draws, too few" in lines(results)) == few


def test_steps_that_mala_would_refuse_are_said():
    results = run_with((43.0, 0.3), (55.0, 0.4), loss=0.1)
    set_final(results, TITLE, "ngd", llc_acceptance=0.12)
    assert "NGD: 12 % MALA acceptance, too low" in lines(results)


def test_chains_that_had_not_settled_are_counted():
    results = run_with((43.0, 0.3), (55.0, 0.4), loss=0.1)
    set_final(results, TITLE, "sgd", num_unsettled_chains=1)
    assert [line for line in lines(results) if "settled" in line] == [
        "SGD: 1 of 2 chains had not settled"
    ]


def test_what_many_optimizers_share_is_one_short_line_with_their_numbers_in_the_detail():
    finals = [(43.0, 0.3)] * 4
    results = run_with(*finals, names=FOUR, loss=0.1)
    for name in FOUR:
        set_final(results, TITLE, name, num_unsettled_chains=2)
    (note,) = [note for note in only_card(results).notes if "settled" in note.line]
    assert note.line == "4 optimizers: chains had not settled"
    assert note.detail.startswith("SGD: 2 of 2, NGD: 2 of 2, AdamW: 2 of 2, my opt <b>: 2 of 2. ")


def test_diverged_chains_are_counted():
    results, _ = synthetic_run()
    lost = {"num_diverged_chains": 2, "llc": None, "llc_std_error": None, "llc_drift": None}
    set_final(results, TITLE, "ngd", **lost)
    assert only_card(results).headline == "No comparison: there is no final LLC of NGD."
    assert "NGD: 2 of 2 chains diverged" in lines(results)
    assert "NGD: epoch 20 without an LLC" in lines(results)


def test_skipped_updates_are_said():
    results, _ = synthetic_run()
    set_final(results, TITLE, "ngd", num_skipped_updates=4)
    assert "NGD skipped 4 updates of a tensor" in lines(results)


def test_a_diverged_optimizer_is_named():
    results, _ = synthetic_run(kind="standard")
    diverge(results, TITLE, "sgd", 3)
    assert lines(results)[0] == "SGD diverged in epoch 3"
    assert "epoch 2 for SGD, of epoch 20 for NGD" in only_card(results).headline


@pytest.mark.parametrize(
    ("names", "line", "detail"),
    [
        (("sgd", "ngd"), "NGD never started", ""),
        (("adamw", "sgd", "ngd"), "SGD and NGD never started", ""),
        (FOUR, "3 optimizers never started", "NGD, AdamW and my opt <b>. "),
    ],
)
def test_what_never_started_after_a_swap_is_one_note_and_not_called_diverged(names, line, detail):
    results, _ = synthetic_run(optimizers=names)
    for name in names:
        diverge(results, TITLE, name, 3)
    trunk = label(names[0])
    first, second, *others = only_card(results).notes
    assert first.line == f"{trunk} diverged in epoch 3"
    run = f"The {trunk} run, from which a swap goes on,"
    assert second == (line, f"{detail}{run} diverged in epoch 3.")
    assert not any("diverged" in note.line or "started" in note.line for note in others)


# Cards, tables, CSV


@pytest.mark.parametrize("titles", [(TITLE,), ("A", "B")])
def test_a_card_a_model_shows_a_drawing_that_the_figures_have(titles):
    results, traces = synthetic_run(titles=titles)
    cards = findings(results).cards
    assert tuple(card.title for card in cards) == titles
    drawings = {
        drawing.key: drawing.figure
        for section in study_figures(results, traces)
        for drawing in section.drawings
    }
    for card in cards:
        figure = drawings[card.drawing]
        assert "LLC against training loss" in figure.layout.title.text
        assert card.title in figure.layout.title.text


def test_the_tables_are_metrics_chains_and_grid_and_the_csv_is_the_series():
    results, _ = synthetic_run()
    assert len(findings(results).tables) == 2
    add_grid(results)
    found = findings(results)
    captions = [table.caption for table in found.tables]
    assert captions == [
        "Final metrics",
        "Chains at the last sampled epoch",
        "LLC on the grid of γ × nβ",
    ]
    assert found.csv == series_csv(results)


def test_the_table_of_the_grid_has_the_numbers_of_every_cell():
    results, _ = synthetic_run()
    add_grid(results)
    table = findings(results).tables[-1]
    assert [text for text, _ in table.head] == [
        "nβ",
        "γ",
        "ε",
        "SGD λ̂",
        "NGD λ̂",
        "NGD − SGD",
        "order",
    ]
    assert len(table.rows) == 8
    found = "drift +0.24; acceptance 0.93; 4 steady"
    assert table.rows[1] == [
        ("26.38", "m/ln m"),
        ("100", ""),
        ("8.91e-05", ""),
        ("43.50 ± 0.80", found),
        ("55.30 ± 0.80", found),
        ("+11.8", "9.6 to 14.0"),
        ("higher", ""),
    ]
    unsettled = {(math.isclose(float(row[0][0]), 5454), int(row[1][0])) for row in table.rows}
    assert len(unsettled) == 8
    assert [row[-1][0] for row in table.rows].count("not settled") == len(UNSETTLED_CELLS)
    diverged = [row for row in table.rows if any("1 diverged" in small for _, small in row)]
    assert len(diverged) == len(DIVERGED_CELLS)


def test_the_table_of_the_grid_compares_each_optimizer_with_the_baseline():
    results, _ = synthetic_run(optimizers=FOUR)
    add_grid(results)
    add_rescaling(results)
    table = findings(results).tables[-1]
    names = [text for text, _ in table.head]
    assert names[7:] == ["NGD − SGD", "order", "AdamW − SGD", "order", "my opt <b> − SGD", "order"]
    colours = optimizer_colours(FOUR)
    assert dict(table.head)["my opt <b> λ̂"] == colours["my opt <b>"]
