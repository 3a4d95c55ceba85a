"""Are a part's records read as one, whatever is there of it?"""

import numpy as np

from studies.ngd_directions.records import cosine_pairs, exact_part, joined, recorded_part


def test_nested_dicts_are_joined_into_lists():
    found = [{"a": {"b": 1, "c": [2]}}, {"a": {"b": 3, "c": [4]}}]
    assert joined(found) == {"a": {"b": [1, 3], "c": [[2], [4]]}}


def test_checkpoints_are_read_in_the_order_of_steps(results):
    results["parts"]["exact"] = dict(reversed(results["parts"]["exact"].items()))
    part, records = exact_part(results), results["parts"]["exact"]
    assert part["steps"] == [3, 12]
    assert part["train_loss"] == [records["3"]["train_loss"], records["12"]["train_loss"]]
    of = ("cosines", "expected", "online", "")
    for place, step in enumerate(("3", "12")):
        found = records[step]
        for key in of:
            found = found[key]
        np.testing.assert_array_equal(cosine_pairs(part, "online")[place], found)


def test_a_part_that_is_not_there_is_none(results):
    results["parts"] = {"exact": {}}
    assert exact_part(results) is None
    assert recorded_part(results, "dense") is None


def test_a_cosine_that_was_not_finite_is_not_a_number(results):
    results["parts"]["exact"]["3"]["cosines"]["expected"]["online"][""][0] = [None, None]
    pairs = cosine_pairs(exact_part(results), "online")
    assert np.isnan(pairs[0, 0]).all()
    assert np.isfinite(pairs[1]).all()
