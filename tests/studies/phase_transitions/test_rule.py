"""Is a transition where the rule says, and nowhere else?"""

import doctest
import math

import numpy as np
import pytest

from studies.phase_transitions import rule
from studies.phase_transitions.rule import find_transitions

# range 2.12, so that flat is a change of 0.0424
DROP = [2.3, 2.3, 2.29, 2.3, 2.2, 0.5, 0.2, 0.19, 0.18]


def test_the_plateau_ends_before_the_first_epoch_that_falls_and_the_drop_with_the_last():
    (found,) = find_transitions(DROP)
    assert (found.plateau_start, found.plateau_end, found.steepest, found.end) == (0, 3, 5, 6)
    assert (found.loss_before, found.loss_after) == (2.3, 0.2)


def test_the_examples_of_the_docstrings_hold():
    assert doctest.testmod(rule).failed == 0


@pytest.mark.parametrize(("scale", "shift"), [(1e-6, 0.0), (1e6, 0.0), (1.0, -5.0)])
def test_units_of_the_loss_do_not_matter(scale, shift):
    (found,) = find_transitions([scale * loss + shift for loss in DROP])
    assert (found.plateau_end, found.end) == (3, 6)


def test_each_of_several_plateaus_has_its_own_transition():
    found = find_transitions([3, 3, 3, 2, 2, 2, 2, 1, 1, 1])
    assert [(one.plateau_start, one.plateau_end, one.end) for one in found] == [
        (0, 2, 3),
        (3, 6, 7),
    ]


@pytest.mark.parametrize(
    "losses",
    [
        [2.3, 1.5, 1.0, 0.5, 0.2],  # descends from the start
        [2.3, 2.3, 1.5, 1.0, 0.5],  # a single flat epoch
        list(np.linspace(2, 1, 30)),  # no epoch is steep
        [2.3] * 6,
        [1.0, 1.0, 1.0, 2.0, 3.0],  # rises
        [2.3, 2.3, 2.3, 3.0, 2.3, 2.3],  # a spike falls back, and no plateau is before it
        [None, None],
        [],
    ],
)
def test_where_there_is_no_plateau_or_no_drop_there_is_no_transition(losses):
    assert find_transitions(losses) == []


def test_noise_below_the_flat_share_changes_nothing():
    noise = np.random.default_rng(0).uniform(
        -0.02, 0.02, len(DROP)
    )  # two of them: at most 0.04 of 0.0424
    (found,) = find_transitions(
        [loss + eps for loss, eps in zip([2.3] * 4 + DROP[4:], noise, strict=True)]
    )
    assert (found.plateau_end, found.end) == (3, 6)


def test_epochs_count_from_zero_where_an_optimizer_takes_over_later_or_diverges():
    (found,) = find_transitions([None, None, *DROP, None, math.nan])
    assert (found.plateau_start, found.plateau_end, found.end) == (2, 5, 8)


def test_thresholds_decide():
    assert find_transitions(DROP, min_plateau=4) == []
    (later,) = find_transitions(DROP, flat=0.05)
    assert later.plateau_end == 4  # whose fall of 0.1 is 4.7 % of the range
    assert find_transitions(DROP, steep=0.9) == []


@pytest.mark.parametrize(
    ("losses", "options", "said"),
    [
        ([1, None, 2], {}, "no loss after epoch 1; allowed: every epoch from 0 to 2"),
        (DROP, {"flat": 0.2}, "flat = 0.2, steep = 0.1; allowed: 0 ≤ flat < steep ≤ 1"),
        (DROP, {"flat": -0.1}, "allowed: 0 ≤ flat"),
        (DROP, {"steep": 1.1}, "steep ≤ 1"),
        (DROP, {"min_plateau": 0}, "min_plateau = 0; allowed: at least 1"),
    ],
)
def test_what_cannot_be_is_refused(losses, options, said):
    with pytest.raises(ValueError, match=said):
        find_transitions(losses, **options)
