"""In which order are runs done, how many at a time, and which of them again?

The loop of a sweep, whatever does the runs: a `Pool` begins them and says how they ended.
"""

import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple, Protocol

from degeneracy.sweeps.folder import FINISHED, Ended

AGAIN = ("failed", "lost")  # outcomes that another attempt may change
TICK_S = 1.0


class Pool(Protocol):
    """What does runs, several at a time."""

    def slots(self) -> int:
        """How many fit at a time, now."""

    def begin(self, name: str) -> Hashable:
        """Begins a run and returns what it is called by until it ends."""

    def ended(self, handles: Sequence[Hashable], timeout: float) -> dict[Hashable, Ended]:
        """Those of the runs that ended, waiting for one at most `timeout` seconds."""


class Progress(NamedTuple):
    """How far a sweep is.

    Attributes:
        running: Name → seconds since it was begun.
        waiting: Names of those not begun, or to be begun again.
        slots: How many fit at a time.
    """

    running: Mapping[str, float]
    waiting: Sequence[str]
    slots: int


def work_off(
    names: Sequence[str],
    pool: Pool,
    retries: int,
    note: Callable[[str, Ended], None],
    show: Callable[[Progress], None] = lambda progress: None,
) -> None:
    """Does every run until it is finished, refused, or has failed `retries` + 1 times.

    As many are begun as there is room for, no more: a machine that comes gets the next ones, and
    what was lost with one that went is done again after what waits already.

    Args:
        names: The runs, in order.
        note: Told how each attempt ended.
        show: Told how far it is, about once a second.
    """
    waiting, running = deque(names), {}
    left = dict.fromkeys(names, retries)
    while waiting or running:
        slots = pool.slots()
        while waiting and len(running) < max(1, slots):
            name = waiting.popleft()
            running[pool.begin(name)] = name, time.monotonic()
        now = time.monotonic()
        show(Progress({name: now - since for name, since in running.values()}, [*waiting], slots))
        for handle, ended in pool.ended([*running], TICK_S).items():
            name, _ = running.pop(handle)
            note(name, ended)
            if ended.outcome in AGAIN and left[name] > 0:
                left[name] -= 1
                waiting.append(name)


def seconds_left(progress: Progress, typical: float | None) -> float | None:
    """Seconds until all is done, from what a run takes; None as long as no run has ended.

    The longest of what runs now bounds it from below, what is left of all of them, shared out to
    the slots, too.
    """
    if typical is None:
        return None
    rests = [max(0.0, typical - seconds) for seconds in progress.running.values()]
    work = sum(rests) + typical * len(progress.waiting)
    return max([work / max(1, progress.slots), *rests])


def typical_seconds(attempts: Mapping[str, Sequence[Mapping]]) -> float | None:
    """Mean time of the runs that finished, all attempts of each together; None without one."""
    times = [
        sum(attempt["seconds"] for attempt in of_run)
        for of_run in attempts.values()
        if of_run and of_run[-1]["outcome"] == FINISHED
    ]
    return sum(times) / len(times) if times else None
