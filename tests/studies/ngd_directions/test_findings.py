"""Do the sentences say what the numbers say?"""

import numpy as np

from degeneracy.texts import with_error
from studies.ngd_directions.findings import findings
from studies.ngd_directions.records import recorded_part


def cards_of(results):
    return {card.drawing: card for card in findings(results).cards}


def set_cosines(results, name, pairs):
    results["parts"]["exact"]["12"]["cosines"]["expected"][name][""] = pairs


def test_the_first_card_gives_the_cosines_at_online_ngds_alpha(results):
    set_cosines(results, "online", [[0.3, 0.02], [0.6, 0.01], [0.5, 0.01]])
    set_cosines(results, "gradient", [[0.2, 0.01], [0.4, 0.01], [1.0, 0.0]])
    card = findings(results).cards[0]
    assert card.headline.startswith(
        "At smoothing α = 0.1 of the exact F, online NGD's direction has cosine 0.30 with the exact"
        " natural gradient, the gradient as it is 0.20. Factors averaged over 5 minibatches"
    )
    assert card.drawing == "exact-smoothing"
    assert card.tiles[0].value == "0.300 ± 0.020"
    assert card.tiles[-1].value == "0.200 ± 0.010"
    nearer, best, *_ = card.text
    assert nearer.endswith("at α = 0.1 and 10 of those scanned.")
    assert best == ("Its best match is 0.60 at α = 10, where the gradient as it is has 0.40.")


def test_a_direction_that_is_never_nearer_than_the_gradient_is_said_to_be_so(results):
    set_cosines(results, "online", [[0.1, 0.01]] * 3)
    set_cosines(results, "gradient", [[0.2, 0.01]] * 3)
    assert "at no α of those scanned" in findings(results).cards[0].text[0]


def test_the_first_card_tells_where_online_ngd_started(results):
    early = results["parts"]["exact"]["3"]["cosines"]["expected"]["online"][""][0]
    text = findings(results).cards[0].text[-1]
    assert text.startswith(f"Along training online NGD goes from {with_error(*early)} after 3")


def test_how_sure_the_yardstick_is_is_a_note(results):
    results["parts"]["exact"]["12"]["agreement"]["halves"][0] = 0.98765
    (note,) = findings(results).cards[0].notes
    assert note.line == "How sure is the yardstick? Two halves of the images agree to 0.988."
    assert "with drawn labels" in note.detail


def test_an_alpha_that_is_not_scanned_is_a_note(results):
    results["config"]["training"]["alpha"] = 0.2
    *_, note = findings(results).cards[0].notes
    assert note.line == "Online NGD's own α = 0.2 is not among those scanned."
    assert "α = 0.1" in note.detail


def test_cosines_with_whole_matrices_are_means_over_the_second_half(results):
    part = recorded_part(results, "dense")
    part["cosines"]["online"][0][""] = [0.0] * 6 + [0.5] * 6
    part["cosines"]["online"][1][""] = [0.0] * 6 + [0.75] * 6
    card = cards_of(results)["dense"]
    assert "cosine 0.500 at α = 0.1 and 0.750 at α = 4 with those of whole" in card.headline
    assert [tile.value for tile in card.tiles] == ["0.500", "0.750"]


def test_the_worst_tensor_is_named(results):
    part = recorded_part(results, "dense")
    part["cosines"]["online"][0]["layers.1.bias"] = [-0.5] * 12
    (text,) = cards_of(results)["dense"].text
    assert "at α = 0.1 -0.500 (layers.1.bias)" in text


def test_rounding_is_given_as_the_median_over_steps(results):
    run = recorded_part(results, "float32")["runs"][0]
    assert (run["arithmetic"], run["alpha"]) == ("stable", 0.1)
    run["direction_error"] = [0.5] * 5 + [0.01] * 7
    run["orthonormality_error"][4], run["worst_axis"][4] = 7.0, "layers.3.weight, axis 0"
    card = cards_of(results)["float32"]
    assert card.headline.startswith(
        "Rounding to float32 moves the directions of the stable arithmetic by 1 % at α = 0.1 and"
    )
    assert "stable at α = 0.1 up to 7 (layers.3.weight, axis 0)" in card.text[1]
    assert [tile.name for tile in card.tiles] == [
        "stable, α = 0.1",
        "stable, α = 4",
        "published, α = 0.1",
        "published, α = 4",
    ]


def test_a_card_stands_for_each_part_that_is_there(results):
    assert list(cards_of(results)) == ["exact-smoothing", "dense", "float32"]
    del results["parts"]["exact"]
    assert list(cards_of(results)) == ["dense", "float32"]
    results["parts"] = {}
    (card,) = findings(results).cards
    assert card.headline == "Nothing has been measured yet."


def test_numbers_that_were_not_finite_are_dashes(results):
    set_cosines(results, "online", [[None, None]] * 3)
    run = recorded_part(results, "float32")["runs"][0]
    run["direction_error"] = [None] * 12
    run["orthonormality_error"] = [None] * 12
    part = recorded_part(results, "dense")
    part["cosines"]["online"][0] = {name: [None] * 12 for name in part["cosines"]["online"][0]}
    cards = cards_of(results)
    assert cards["exact-smoothing"].tiles[0].value == "–"
    assert cards["dense"].tiles[0].value == "–"
    assert cards["float32"].tiles[0].value == "–"
    assert np.isfinite(float(cards["dense"].tiles[1].value))
