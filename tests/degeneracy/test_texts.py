"""Optimizers, counts and lists in words, wherever a figure, a table or a sentence writes them."""

from degeneracy.texts import count_of, label, listed


def test_sgd_and_ngd_are_written_large_and_others_as_they_are_called():
    names = ("sgd", "ngd", "adamw", "My opt")
    assert [label(name) for name in names] == ["SGD", "NGD", "adamw", "My opt"]


def test_one_is_singular_and_any_other_count_plural():
    counts = [count_of(count, "case") for count in (0, 1, 9)]
    assert counts == ["0 cases", "1 case", "9 cases"]


def test_a_list_reads_as_one_says_it():
    assert [listed("abc"[:size]) for size in (1, 2, 3)] == ["a", "a and b", "a, b and c"]
