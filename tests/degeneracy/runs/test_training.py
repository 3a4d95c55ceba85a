"""Who trains from whose weights: the legs of a run."""

from degeneracy.runs.training import Leg, legs


def test_in_a_swap_the_first_trains_the_trunk_and_all_leave_from_its_cut_off():
    assert legs(("adamw", "sgd", "ngd"), 4, 9) == [
        Leg("adamw", "adamw", 0, 4),
        Leg("adamw", "adamw", 4, 9),
        Leg("sgd", "adamw", 4, 9),
        Leg("ngd", "adamw", 4, 9),
    ]


def test_in_a_standard_run_each_trains_from_the_shared_start():
    assert legs(("ngd",), 0, 3) == [Leg("ngd", "ngd", 0, 3)]
    assert legs(("a", "b"), 0, 3) == [Leg("a", "a", 0, 3), Leg("b", "a", 0, 3)]
