"""Results are never lost to damage, and never changed without a word."""

import json
import warnings

import pytest

from degeneracy.runs.results_file import CORRUPT, PREVIOUS, ResultsFile, RunStoreError

FIRST, SECOND = {"llc": [1.5, None]}, {"llc": [1.5, 2.5], "interval": (1, float("inf"))}
READ = {"llc": [1.5, 2.5], "interval": [1, None]}  # as JSON says the second
DAMAGE = {
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "not UTF-8": lambda content: content.replace(b"llc", b"\xff\xfe\xfd"),
    "no object": lambda content: b"[]",
    "nested too deep": lambda content: b"[" * 100_000,
}


@pytest.fixture
def written(tmp_path):
    """A directory with results and those before them."""
    file = ResultsFile(tmp_path)
    file.write(FIRST)
    file.write(SECOND)
    return tmp_path


def no_warning(directory):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return ResultsFile(directory).read()


def test_before_the_first_write_there_is_nothing(tmp_path):
    assert no_warning(tmp_path) is None


def test_results_come_back_without_their_digest_which_is_in_the_file(written):
    assert no_warning(written) == READ
    there = json.loads((written / "results.json").read_text())
    assert {**READ, "sha256": there["sha256"]} == there
    assert json.loads((written / PREVIOUS).read_text())["llc"] == FIRST["llc"]


def test_white_space_and_order_are_no_change(written):
    there = json.loads((written / "results.json").read_text())
    (written / "results.json").write_text(json.dumps(dict(reversed(there.items()))))
    assert no_warning(written) == READ


@pytest.mark.parametrize("how", DAMAGE)
def test_results_that_cannot_be_read_are_set_aside_for_those_before(written, how):
    damaged = DAMAGE[how]((written / "results.json").read_bytes())
    (written / "results.json").write_bytes(damaged)
    file = ResultsFile(written)
    with pytest.warns(UserWarning, match=rf"goes on from {PREVIOUS}.*is now {CORRUPT}"):
        assert file.read() == FIRST
    assert (written / CORRUPT).read_bytes() == damaged
    file.write(SECOND)  # and the good ones are what is kept beside the next
    assert no_warning(written) == READ
    assert json.loads((written / PREVIOUS).read_text())["llc"] == FIRST["llc"]


def test_results_that_are_gone_are_those_before(written):
    (written / "results.json").unlink()
    with pytest.warns(UserWarning, match="goes on from"):
        assert ResultsFile(written).read() == FIRST


@pytest.mark.parametrize("how", [*DAMAGE, "a number changed", "gone"])
def test_without_good_ones_before_the_sentence_says_what_to_do(written, how):
    previous = written / PREVIOUS
    if how == "gone":
        previous.unlink()
    elif how == "a number changed":
        previous.write_text(previous.read_text().replace("1.5", "1.25"))
    else:
        previous.write_bytes(DAMAGE[how](previous.read_bytes()))
    (written / "results.json").write_bytes(b"{")
    with pytest.raises(RunStoreError, match=r"cannot be read .*restore it, or remove both"):
        ResultsFile(written).read()
    assert (written / "results.json").read_bytes() == b"{"


@pytest.mark.parametrize("value", ["NaN", "Infinity", "2.4", "null", '"2.5"'])
def test_a_changed_number_is_refused_and_the_sentence_says_how_to_keep_it(written, value):
    path = written / "results.json"
    path.write_text(path.read_text().replace("2.5", value))
    with pytest.raises(RunStoreError, match=r"changed after it was written.*remove the key"):
        ResultsFile(written).read()
    changed = json.loads(path.read_text())
    del changed["sha256"]
    path.write_text(json.dumps(changed))
    with pytest.warns(UserWarning, match="has no sha256.*taken as it is"):
        kept = ResultsFile(written).read()
    assert kept["interval"] == READ["interval"]
    assert kept["llc"][1] != 2.5
