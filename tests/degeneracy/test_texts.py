"""Optimizers, counts and lists in words, wherever a figure, a table or a sentence writes them."""

import pytest

from degeneracy.optimizers.kinds import KINDS
from degeneracy.texts import (
    NAMES,
    count_of,
    difference_texts,
    drift_text,
    label,
    listed,
    with_error,
)


def test_every_kind_is_written_as_the_field_does_and_others_as_they_are_called():
    names = ("sgd", "ngd", "adam", "My opt")
    assert [label(name) for name in names] == ["SGD", "NGD", "Adam", "My opt"]
    assert set(NAMES) == {*KINDS, "adam"}  # PyTorch's, of the study of Gauss-Newton


def test_one_is_singular_and_any_other_count_plural():
    counts = [count_of(count, "case") for count in (0, 1, 9)]
    assert counts == ["0 cases", "1 case", "9 cases"]


def test_a_list_reads_as_one_says_it():
    assert [listed("abc"[:size]) for size in (1, 2, 3)] == ["a", "a and b", "a, b and c"]


def test_a_number_has_as_many_decimals_as_its_error_is_worth():
    assert with_error(1234.5678, 0.123) == "1,234.57 ± 0.12"
    assert drift_text(0.71, 0.8) == "+0.71"
    assert difference_texts(11.62, (9.1, 14.1)) == ("+11.6", "9.1 to 14.1")


@pytest.mark.parametrize("size", [1e-300, 1e-30, 1e30, 1e300])
def test_no_number_fills_a_line_with_its_digits(size):
    texts = [
        with_error(size, size),
        with_error(1.0, size),
        with_error(size, None),
        drift_text(size, size),
        *difference_texts(size, (0.0, size)),
    ]
    assert max(map(len, texts)) <= 30, texts
    assert with_error(1e-300, 1e-300) == "1e-300 ± 1e-300"
