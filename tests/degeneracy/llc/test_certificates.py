"""The verdict of an estimate: each condition at its border, their order, and what to change."""

import math
import re
from dataclasses import replace

import pytest

from degeneracy.llc.certificates import Certificates

LOCAL = Certificates(  # every condition at its border
    locality=0.1,
    distance=3.0,
    relative_distance=0.3,
    basin_shift=1.0,
    basin_llc=10.0,
    basin_reached=True,
    relaxation=10.0,
    num_burnin_steps=30,
    num_draws=100,
    rhat=1.05,
    distance_rhat=1.05,
    starts_spread=True,
)
FAR = {"relative_distance": math.nextafter(0.3, 1)}
CHANCE = {"locality": math.nextafter(0.1, 1)}
HIGH = {"basin_shift": math.nextafter(1.0, 2)}
RESTLESS = {"distance_rhat": math.nextafter(1.05, 2)}


def test_at_every_border_it_is_a_local_estimate():
    assert LOCAL.verdict == "local estimate"
    assert (LOCAL.is_local, LOCAL.is_at_minimum, LOCAL.is_at_rest) == (True, True, True)
    assert LOCAL.advice == ""


@pytest.mark.parametrize(
    ("change", "verdict", "advice"),
    [
        (FAR, "tempered, not local", r"0\.3 \|w\*\| away .* Raise γ, and nβ with it"),
        ({"relative_distance": None}, "tempered, not local", "Chains are too far away"),
        (CHANCE, "tempered, not local", "lose 10 % of what the network knows: raise nβ"),
        ({"locality": math.nan}, "tempered, not local", "raise nβ"),
        (HIGH, "not at a minimum", "The loss falls by 1 .*quote λ̂_b beside λ̂"),
        ({"basin_shift": math.nan}, "not at a minimum", "quote λ̂_b"),
        ({"basin_reached": False}, "not at a minimum", "not reached: raise γ"),
        ({"num_burnin_steps": 29}, "not at rest", "needs 10 steps .* 30 burn-in .* 100 draws"),
        ({"num_draws": 99}, "not at rest", "needs 10 steps"),
        ({"relaxation": 10.01}, "not at rest", "take 31 burn-in steps and 101 draws"),
        ({"rhat": math.nextafter(1.05, 2)}, "not at rest", r"disagree \(R-hat 1\.050\)"),
        ({"distance_rhat": 1.2}, "not at rest", r"disagree \(R-hat 1\.200\)"),
        ({"rhat": None, "distance_rhat": None}, "not at rest", "no R-hat .* take at least two"),
    ],
)
def test_past_one_border_the_verdict_names_it_and_the_advice_says_what_to_change(
    change, verdict, advice
):
    found = replace(LOCAL, **change)
    assert found.verdict == verdict
    assert re.search(advice, found.advice)


def test_the_gravest_condition_comes_first():
    """Without rest no number means anything; far away there is no basin to be at the bottom of."""
    assert replace(LOCAL, **RESTLESS, **FAR, **HIGH).verdict == "not at rest"
    assert replace(LOCAL, **FAR, **HIGH).verdict == "tempered, not local"
    assert replace(LOCAL, **CHANCE, **HIGH).verdict == "tempered, not local"
    assert replace(LOCAL, **HIGH).verdict == "not at a minimum"


@pytest.mark.parametrize(
    ("llc", "shift", "allowed"),
    [
        (100.0, 10.0, True),  # a tenth of λ̂_b
        (100.0, 10.1, False),
        (5.0, 1.0, True),  # 1 where that is more
        (-50.0, 1.0, True),
        (-50.0, 1.1, False),
        (None, 1.0, True),
        (None, 1.1, False),
    ],
)
def test_a_minimum_is_one_to_a_nat_or_a_tenth_of_the_estimate(llc, shift, allowed):
    assert replace(LOCAL, basin_llc=llc, basin_shift=shift).is_at_minimum is allowed


def test_what_was_not_measured_is_not_known():
    nothing = Certificates()
    assert (nothing.is_local, nothing.is_at_minimum, nothing.is_at_rest) == (None, None, None)
    assert nothing.needed_steps is None
    assert (nothing.verdict, nothing.advice) == ("no estimate", "")
    for unknown in (
        {"basin_shift": None},
        {"relaxation": None},
        {"locality": None, "relative_distance": None},
    ):
        assert replace(LOCAL, **unknown).verdict == "no estimate"
        # what is known to fail is said all the same
        fails = RESTLESS if "relaxation" not in unknown else FAR
        assert replace(LOCAL, **unknown, **fails).verdict not in ("no estimate", "local estimate")


def test_without_a_loss_of_chance_the_distance_alone_says_what_is_local():
    assert replace(LOCAL, locality=None).verdict == "local estimate"
    assert replace(LOCAL, locality=None, **FAR).verdict == "tempered, not local"


def test_needed_steps_are_three_and_ten_relaxation_times():
    assert replace(LOCAL, relaxation=10.0).needed_steps == 130
    assert replace(LOCAL, relaxation=33.34).needed_steps == 101 + 334
