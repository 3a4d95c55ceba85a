"""Do the sentences say what the numbers say?"""

import pytest

from studies.min_singular_models.findings import findings, signed
from studies.min_singular_models.records import records

GONE = {
    "llc": None,
    "std_error": None,
    "drift": None,
    "verdict": "diverged",
    "num_diverged_chains": 128,
    "running_mean": {"draw": [], "llc": []},
}


@pytest.fixture
def exact(results):
    """Results in which every estimate is what is expected."""
    for record in records(results).values():
        record.update(llc=record["expected"], std_error=0.01 * record["expected"])
        record.update(verdict="steady", num_diverged_chains=0)
    return results


def card_of(results):
    (card,) = findings(results).cards
    return card


def test_estimates_that_are_all_near_answer_yes(exact):
    card = card_of(exact)
    assert card.headline == (
        "Yes: all 7 estimates are within 5 % of the value expected at the case's nβ and γ, half of"
        " them within 0.0 %."
    )
    assert card.drawing == "error"
    assert [tile.value for tile in card.tiles] == ["+0.0 %"] * 4
    assert [note.line for note in card.notes] == ["More than 5 % off: none.", "Not settled: none."]


def test_an_estimate_that_is_far_is_named(exact):
    far = exact["parts"]["deep_linear"]["(4, 2, 4), r = 2"]
    far.update(llc=0.8 * far["expected"], verdict="falling")
    card = card_of(exact)
    assert card.headline == (
        "In 6 of 7 cases: the estimate is within 5 % of the value expected at its nβ and γ."
        " Furthest off is (4, 2, 4), r = 2: −20.0 %."
    )
    assert card.tiles[-1].value == "−20.0 %"
    missed, moving = card.notes
    assert missed.line == "More than 5 % off: 1 of 7 cases."
    assert missed.detail == "(4, 2, 4), r = 2 (−20.0 %)."
    assert moving.line == "Not settled: 1 of 7 cases."
    assert moving.detail.startswith("(4, 2, 4), r = 2 (falling). By the two halves")


def test_an_interval_wider_than_what_is_asked_for_is_a_note(exact):
    unsure = exact["parts"]["normal_crossings"]["w₁²"]
    unsure["std_error"] = 0.1 * unsure["expected"]
    *_, note = card_of(exact).notes
    assert note == ("95 % interval wider than ±5 %: 1 of 7 cases.", "w₁² (±19.6 %).")


def test_chains_that_diverged_are_a_note(exact):
    exact["parts"]["normal_crossings"]["w₁²"]["num_diverged_chains"] = 2
    *_, note = card_of(exact).notes
    assert note.detail == "w₁² (2 of 128 chains)."


def test_a_case_that_diverged_is_a_miss(results):
    results["parts"]["normal_crossings"]["w₁²"] |= GONE
    found = findings(results)
    missed, moving = found.cards[0].notes[:2]
    assert "w₁² (–)" in missed.detail
    assert "w₁² (diverged)" in moving.detail
    (row,) = (row for row in found.tables[0].rows if row[0] == ("w₁²", ""))
    assert ("diverged", "") in row


def test_a_study_in_which_everything_diverged_says_no(results):
    results["parts"] = {"deep_linear": results["parts"]["deep_linear"]}
    results["parts"]["deep_linear"]["(4, 2, 4), r = 2"] |= GONE
    card = card_of(results)
    assert card.headline.startswith("No: no estimate is within 5 %")
    assert card.headline.endswith("Every chain diverged.")
    assert [tile.value for tile in card.tiles] == ["–"]


def test_a_study_that_has_just_begun_says_so(results):
    results["parts"] = {}
    found = findings(results)
    assert found.cards[0].headline == "No case has been measured yet."
    assert found.cards[0].drawing is None
    assert not found.tables


def test_a_sentence_stands_for_each_kind_of_case_that_is_there(results):
    del results["parts"]["normal_crossings"]
    question, *sentences = card_of(results).text
    assert "SGLD estimates it from w* alone" in question
    assert [sentence.split(": ")[0] for sentence in sentences] == [
        "Linear model, population loss (2 cases)",
        "Linear model, sample loss (2 cases)",
        "Deep linear networks (1 case)",
    ]
    assert "% of λ" in sentences[-1]


def test_the_table_has_a_row_a_case(results):
    (table,) = findings(results).tables
    assert [row[0][0] for row in table.rows] == list(records(results))
    assert table.row_headers
    (deep,) = (row for row in table.rows if row[0][0] == "(4, 2, 4), r = 2")
    assert deep[1][0] == "6"


def test_signs_are_written_as_signs():
    assert (signed(-0.66), signed(0.66), signed(float("nan"))) == ("−0.7 %", "+0.7 %", "–")
