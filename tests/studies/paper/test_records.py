"""Are rows read as they were made? By network and seed, κ's mean, λ̂ at a loss."""

import math

import pytest
from paper_results import CUT_OFF, LAST, failed_row, made_results, made_row

from studies.paper import records
from studies.paper.records import Network


def test_networks_stand_in_the_order_of_parts_and_sizes(results):
    assert [str(network) for network in records.networks(results)] == [
        "MNIST, 2 × 64",
        "MNIST, 2 × 256",
        "Fashion-MNIST, 1 × 64",
    ]
    assert Network("mnist", 0, 0).name == "LeNet-5"
    assert Network("mnist", 1, 64).kind == "MNIST, 1 hidden layer"


def test_rows_are_found_by_part_and_factor(results):
    assert len(records.rows_of(results, "overfitting", nbeta="dataset")) == 2 * 5
    assert len(records.rows_of(results, "sizes", hidden_nodes=64, seed=3)) == 2


def test_a_failed_row_is_kept_apart():
    results = made_results(sizes={"seed 1": [failed_row("sgd", 1), made_row("ngd", 1)]})
    assert len(list(records.every_row(results))) == 2
    assert [row["optimizer"] for row in records.rows_of(results, "sizes")] == ["ngd"]


def test_kappa_is_the_geometric_mean_over_axes():
    row = made_row("ngd", 1, alpha=0.5, epsilon=0.0)
    found = records.axis_mean(row)
    assert found[CUT_OFF] is None
    assert found[LAST] == pytest.approx(math.sqrt(0.5e-6 * 4 * 0.5e-6))
    assert records.axis_mean(made_row("sgd", 1)) == []


def test_a_training_that_diverged_has_no_final_value():
    row = made_row("ngd", 1) | {"diverged_epoch": LAST}
    assert records.final(row, "train_loss") is None
    assert records.value_at(row, "train_loss", LAST) is not None


def test_llc_at_a_loss_is_linear_in_its_logarithm():
    """Made losses fall exponentially and made λ̂ rises linearly, so interpolation is exact."""
    row = made_row("ngd", 2)
    between = math.sqrt(row["series"]["llc_init_loss"][18] * row["series"]["llc_init_loss"][20])
    expected = (row["series"]["llc"][18] + row["series"]["llc"][20]) / 2
    assert records.llc_at_loss(row, between) == pytest.approx(expected)
    assert records.llc_at_loss(row, 1e-9) is None
    assert records.llc_at_loss(row, 5.0) is None


def test_at_equal_loss_who_got_further_is_taken_on_its_way():
    """SGD ends at e^(−2) of the start; NGD is there after epoch 15 + 6: 1 + 6/15 + 6/10 = 2."""
    rows = [made_row(name, seed) for name in ("sgd", "ngd") for seed in (1, 2)]
    gain = 1.5 / 1.1
    expected = (21 - 30) / 10 + gain * 6
    found = records.at_equal_loss(rows, "ngd", "sgd")
    assert found == pytest.approx({1: expected, 2: expected})
    backwards = records.at_equal_loss(rows, "sgd", "ngd")
    assert backwards == pytest.approx({1: -expected, 2: -expected})


def test_optimizers_are_called_by_their_rates():
    assert [records.called(n) for n in ("sgd", "ngd", "sgd x10")] == ["SGD", "NGD", "SGD × 10"]
