"""Every run is done until it is finished or its retries are used up, never more than fit."""

import io

from hypothesis import given
from hypothesis import strategies as st

from degeneracy.sweeps.folder import Ended
from degeneracy.sweeps.progress import ProgressLines, duration
from degeneracy.sweeps.schedule import Progress, seconds_left, typical_seconds, work_off

OUTCOMES = st.sampled_from(["finished", "failed", "refused", "lost"])


class Scripted:
    """A pool whose runs end as a script says, the one begun first first; then they finish."""

    def __init__(self, script, room=2):
        self.script = {name: list(outcomes) for name, outcomes in script.items()}
        self.room, self.order, self.most, self.now = room, [], 0, []

    def slots(self):
        return self.room

    def begin(self, name):
        assert name not in self.now, "begun twice at the same time"
        self.order.append(name)
        self.now.append(name)
        self.most = max(self.most, len(self.now))
        return name

    def ended(self, handles, timeout):
        name = handles[0]
        self.now.remove(name)
        outcomes = self.script[name]
        return {name: Ended(outcomes.pop(0) if outcomes else "finished", "why", 1.0)}


def attempts_of(script, retries, room=2):
    noted = {}
    pool = Scripted(script, room)
    work_off([*script], pool, retries, lambda n, e: noted.setdefault(n, []).append(e.outcome))
    return noted, pool


@given(
    st.dictionaries(st.sampled_from("abcde"), st.lists(OUTCOMES, max_size=4), min_size=1),
    st.integers(0, 3),
    st.integers(1, 4),
)
def test_a_run_is_begun_until_it_is_done_and_no_more_often(script, retries, room):
    noted, pool = attempts_of(script, retries, room)
    assert set(noted) == set(script)
    assert pool.most <= room
    for outcomes in noted.values():
        *before, last = outcomes
        assert set(before) <= {"failed", "lost"}
        assert last in ("finished", "refused") or len(outcomes) == retries + 1


def test_what_was_lost_waits_behind_what_waits_already():
    noted, pool = attempts_of({"a": ["lost"], "b": [], "c": []}, retries=1, room=1)
    assert pool.order == ["a", "b", "c", "a"]
    assert noted["a"] == ["lost", "finished"]


def test_one_is_begun_even_where_no_machine_is_left():
    """It waits for a machine to come; otherwise nothing would ever."""
    noted, _ = attempts_of({"a": []}, retries=0, room=0)
    assert noted == {"a": ["finished"]}


def test_the_time_left_is_the_work_left_over_the_slots():
    assert seconds_left(Progress({}, ["a", "b", "c"], 1), None) is None
    assert seconds_left(Progress({}, ["a", "b", "c", "d"], 2), 10.0) == 20.0
    assert seconds_left(Progress({"a": 4.0}, ["b"], 2), 10.0) == 8.0
    assert seconds_left(Progress({"a": 4.0}, [], 2), 10.0) == 6.0  # no faster than its longest run
    assert seconds_left(Progress({"a": 30.0}, [], 2), 10.0) == 0.0


def test_a_run_takes_what_all_its_attempts_took():
    lost, finished = {"outcome": "lost", "seconds": 3}, {"outcome": "finished", "seconds": 5}
    assert typical_seconds({"a": [lost, finished], "b": [finished], "c": [lost]}) == (8 + 5) / 2
    assert typical_seconds({"c": [lost]}) is None


def test_the_table_says_counts_time_left_and_what_runs():
    stream, attempts = io.StringIO(), {}
    lines = ProgressLines(4, {"a": "finished"}, attempts, stream)
    attempts["b"] = [{"outcome": "finished", "seconds": 60}]
    lines.end("b", Ended("finished", "", 60))
    lines.end("c", Ended("refused", "no memory\nmore", 1))
    lines.show(Progress({"d": 15.0}, [], 2))
    said = stream.getvalue()
    assert "2 of 4 finished, 1 failed, 1 running, 0 waiting; time left: 45 s" in said
    assert "refused   c  1 s: no memory\n" in said
    assert "  d  15 s" in said
    lines.show(Progress({"d": 16.0}, [], 2))
    assert stream.getvalue() == said  # nothing changed, no new lines


def test_durations_are_read_at_a_glance():
    texts = [duration(s) for s in (0.4, 59, 61, 3599, 3600, 86_399, 90_000)]
    assert texts == [
        "0 s",
        "59 s",
        "1 min 01 s",
        "59 min 59 s",
        "1 h 00 min",
        "23 h 59 min",
        "1 d 01 h",
    ]
