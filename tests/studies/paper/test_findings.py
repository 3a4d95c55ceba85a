"""Does every sentence follow from the numbers, with n stated, and partial results too?"""

import pytest
from paper_results import LAST, failed_row, made_results, made_row

from studies.paper.findings import card_text, findings

TITLES = [
    "NGD beside SGD",
    "Beside the published values",
    "After the swap",
    "Smoothing",
    "The learning rate beside the optimizer",
    "Through over-fitting",
]


def test_every_part_has_its_card(results):
    found = findings(results)
    assert [card.title for card in found.cards] == TITLES
    captions = [table.caption for table in found.tables]
    assert captions == [
        "Published values and ours",
        "LLC after the last epoch",
        "What else differs",
    ]
    assert found.csv.splitlines()[0].startswith("part,key,optimizer,dataset")


def test_sizes_are_compared_at_equal_epochs_and_at_equal_loss(results):
    text = card_text(results, "NGD beside SGD")
    assert "higher than SGD's in 3 of 3 networks, beyond chance (Welch, Holm) in 3 of" in text
    assert "MNIST, 2 × 64: LLC ends at 49.7 ± 1.9 (5 seeds) with NGD and 29.2 ± 1.9" in text
    assert "a difference of +20.5 (95 %: 17.6 to 23.3)" in text
    assert "Hedges g = 9.6" in text
    assert "at the higher of the two final training losses: NGD − SGD is +7.28" in text


def test_a_null_result_is_said_as_plainly():
    spread = {1: 30.0, 2: 40.0, 3: 50.0}
    rows = {}
    for seed, llc in spread.items():
        pair = [made_row(name, seed) for name in ("sgd", "ngd")]
        for row, shift in zip(pair, (0.0, 1.0), strict=True):
            row["series"]["llc"][LAST] = llc + shift
        rows[f"seed {seed}"] = pair
    text = card_text(made_results(sizes=rows), "NGD beside SGD")
    assert "beyond chance (Welch, Holm) in 0 of the 1 tested" in text
    assert "not beyond chance" in text


def test_one_seed_is_said_to_be_one():
    results = made_results(1)
    assert "one seed of each allows no test" in card_text(results, "NGD beside SGD")
    assert "(1 seed)" in card_text(results, "After the swap")
    published = card_text(results, "Beside the published values")
    assert "of one seed each: not judged" in published
    assert "one seed does not tell whether they agree" in published


@pytest.mark.parametrize("count", [1, 2, 5])
def test_sentences_carry_no_nan(count):
    for card in findings(made_results(count)).cards:
        assert "nan" not in " ".join([card.headline, *card.text]).lower()


def test_published_values_that_differ_are_named_first(results):
    headline, first, *_ = card_text(results, "Beside the published values").splitlines()
    assert headline == (
        "3 of 20 published values come out again, within two standard errors of our mean plus the"
        " published spread."
    )
    assert first.endswith("they do not agree.")


def test_other_settings_are_said_not_to_be_compared(results):
    results["config"]["training"]["num_epochs"] = 10
    text = card_text(results, "Beside the published values")
    assert text == "Not compared: training.num_epochs is not as published."
    captions = [table.caption for table in findings(results).tables]
    assert "Published values and ours" not in captions


def test_smoothing_names_the_ends_of_each_scan_and_kappa(results):
    text = card_text(results, "Smoothing")
    assert text.startswith("NGD's LLC goes from 61.7 at α = 0.1 to 41.6 at α = 50 and 61.7 at ε")
    assert "α = 50: LLC 41.6 ± 1.9 (5 seeds), κ 1.00e-04." in text
    assert "From α = 0.1 to 50 the LLC changes within seeds by -20" in text
    assert "the rank correlation of LLC and κ is -0.95 (Spearman" in text


def test_rates_are_compared_with_ngd_at_equal_loss(results):
    text = card_text(results, "The learning rate beside the optimizer")
    assert "NGD − SGD × 10 at equal training loss: +7.28" in text


def test_overfitting_says_where_validation_loss_turns_and_what_both_wbics_do(results):
    text = card_text(results, "Through over-fitting")
    assert text.startswith("Validation loss comes to its least with SGD after epoch 9 (5 seeds)")
    assert "The published WBIC, NGD: from the measured epoch nearest" in text
    assert "WBIC at nβ = n/ln n, SGD: from the measured epoch nearest" in text


def test_failed_and_diverged_trainings_are_listed_and_left_out():
    diverged = made_row("ngd", 2) | {"diverged_epoch": 20, "status": "diverged"}
    rows = {
        "seed 1": [made_row("sgd", 1), made_row("ngd", 1)],
        "seed 2": [made_row("sgd", 2), diverged],
        "seed 3": [failed_row("sgd", 3), failed_row("ngd", 3)],
    }
    results = made_results(sizes=rows)
    text = card_text(results, "Runs without an end")
    assert text.startswith("3 trainings failed or diverged and are left out")
    assert "OutOfMemoryError: no room" in text
    assert "with NGD and" in card_text(results, "NGD beside SGD")
    assert "(1 seed) with NGD" in card_text(results, "NGD beside SGD")


@pytest.mark.parametrize("part", ["sizes", "smoothing", "rates", "overfitting", "other_sizes"])
def test_any_part_stands_alone(part):
    whole = made_results(2)
    results = whole | {"parts": {part: whole["parts"][part]}}
    assert findings(results).cards


def test_nothing_measured_is_said():
    (card,) = findings(made_results() | {"parts": {}}).cards
    assert card.headline == "Nothing has been measured yet."
    assert card_text(made_results() | {"parts": {}}, "Smoothing") == card.headline
