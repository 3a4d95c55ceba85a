"""Is the endpoint λ̂ at the same training loss, and only where it is certified and bracketed?"""

import math

import numpy as np
import pytest
from atlas_results import atlas_results
from hypothesis import example, given
from hypothesis import strategies as st

from studies.atlas.endpoint import (
    DIVERGED,
    NOT_BRACKETED,
    NOT_CERTIFIED,
    NOT_REACHED,
    endpoint,
    used,
    window_mean,
)

WINDOW = (0.03, 0.02)


def a_row(**changes):
    results = atlas_results(seeds=[1], models=[(256, 2)], noise=0.0, **changes)
    return results["parts"]["runs"]["2×256, seed 1"]["rows"][0]


def test_what_is_linear_in_log_loss_has_its_middle_as_mean():
    losses = [0.1, 0.01]
    values = [math.log(loss) for loss in losses]
    middle = (math.log(0.03) + math.log(0.02)) / 2
    assert window_mean(losses, values, WINDOW) == pytest.approx(middle)


@example(inside=[0.021000000000000005, 0.021], values=[0.0, 0.0, 1.0, 0.0, 0.0, 0.0])
@given(
    st.lists(st.floats(0.021, 0.029), min_size=1, max_size=4, unique=True),
    st.lists(st.floats(-5, 5), min_size=6, max_size=6),
)
def test_the_mean_is_that_of_a_fine_grid(inside, values):
    losses = [0.05, *inside, 0.01]
    values = values[: len(losses)]
    grid = np.linspace(math.log(0.02), math.log(0.03), 20_001)
    order = np.argsort(losses)
    heights = np.interp(grid, np.log(np.array(losses)[order]), np.array(values)[order])
    fine = np.trapezoid(heights, grid) / (grid[-1] - grid[0])
    assert window_mean(losses, values, WINDOW) == pytest.approx(fine, abs=1e-5)


@pytest.mark.parametrize("losses", [[], [0.05], [0.05, 0.021], [0.029, 0.01]])
def test_a_window_that_is_not_bracketed_has_no_mean(losses):
    assert window_mean(losses, [1.0] * len(losses), WINDOW) is None


def test_a_certified_run_has_its_endpoint():
    row = a_row()
    value, why = endpoint(row, "balanced", WINDOW)
    assert why == ""
    middle = [f["balanced"]["llc"] for f in row["points"]["found"]]
    assert middle[-1] < value < middle[0]
    assert endpoint(row, "raw", WINDOW)[0] == pytest.approx(value / 2)
    assert endpoint(row, "val_loss", WINDOW)[0] > 0.1


def test_one_estimate_that_is_not_local_takes_it_away():
    row = a_row()
    row["points"]["found"][1]["balanced"] = {
        **row["points"]["found"][1]["balanced"],
        "verdict": "not at rest",
    }
    assert endpoint(row, "balanced", WINDOW) == (None, NOT_CERTIFIED)


def test_an_estimate_outside_the_window_need_not_be_certified():
    row = a_row(losses=(0.1, 0.04, 0.025, 0.012, 0.005))
    for place in (0, 4):
        found = row["points"]["found"][place]
        found["balanced"] = {**found["balanced"], "verdict": "not at rest"}
    assert endpoint(row, "balanced", WINDOW)[1] == ""


def test_why_there_is_none_is_said():
    row = a_row(losses=(0.06, 0.025))
    assert endpoint(row, "balanced", WINDOW) == (None, NOT_BRACKETED)
    for outcome, why in (("out of epochs", NOT_REACHED), ("diverged", DIVERGED)):
        whole = a_row()
        whole["training"]["outcome"] = outcome
        assert endpoint(whole, "balanced", WINDOW) == (None, why)
    assert endpoint({**row, "training": None}, "balanced", WINDOW) == (None, NOT_REACHED)
    assert endpoint(a_row(), "published", WINDOW)[0] is None


def test_a_window_is_not_taken_across_an_estimate_that_is_none():
    row = a_row()
    found = row["points"]["found"][1]
    found["balanced"] = {**found["balanced"], "llc": None, "verdict": "no estimate"}
    assert endpoint(row, "balanced", WINDOW) == (None, NOT_CERTIFIED)


def test_a_branch_whose_loss_is_no_number_is_passed_over():
    row = a_row(losses=(0.1, 0.06, 0.025, 0.012))
    row["training"]["branches"][0]["train_loss"] = None
    assert endpoint(row, "balanced", WINDOW)[1] == ""


def test_the_gauge_free_estimate_must_be_at_rest_and_need_not_be_near():
    row = a_row()
    for verdict, there in (("tempered, not local", True), ("not at rest", False)):
        for point in row["points"]["found"]:
            point["gauge_free"] = {"llc": 2.0, "std_error": 0.1, "verdict": verdict}
        assert (endpoint(row, "gauge_free", WINDOW)[0] is not None) == there


def test_a_mean_takes_the_nearest_on_both_sides():
    points = [{"train_loss": loss} for loss in (0.1, 0.05, 0.028, 0.022, 0.01, 0.001)]
    taken = [point["train_loss"] for point in used(points, WINDOW)]
    assert taken == [0.05, 0.028, 0.022, 0.01]
