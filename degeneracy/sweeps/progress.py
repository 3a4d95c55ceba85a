"""How does a terminal show a sweep under way? Lines of plain text, a table where it changed."""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from degeneracy.sweeps.folder import Ended
from degeneracy.sweeps.schedule import Progress, seconds_left, typical_seconds

EVERY_S = 30.0  # between lines while nothing changes
MOST_ROWS = 20  # of runs under way


class ProgressLines:
    """Writes how far a sweep is: a line for each end, and a table of what runs.

    Args:
        total: How many runs the sweep has.
        done: Name → its status, of those that an earlier call did.
        attempts: As `SweepFolder.attempts`, which grows meanwhile.
        stream: Where to; None: standard error.
    """

    def __init__(
        self,
        total: int,
        done: Mapping[str, str],
        attempts: Mapping[str, Sequence[Mapping[str, Any]]],
        stream: TextIO | None = None,
    ):
        self.total, self.attempts, self.stream = total, attempts, stream
        self.ended = dict(done)
        self._shown: tuple = ()
        self._at = float("-inf")

    def end(self, name: str, ended: Ended) -> None:
        """Tells how an attempt ended."""
        self.ended[name] = ended.outcome
        reason = f": {first_line(ended.reason)}" if ended.reason else ""
        self._write(f"{ended.outcome:<8}  {name}  {duration(ended.seconds)}{reason}")

    def show(self, progress: Progress) -> None:
        """Writes the table, if what runs has changed or some time has passed."""
        now, what = time.monotonic(), (*progress.running, len(progress.waiting))
        if what == self._shown and now - self._at < EVERY_S:
            return
        self._shown, self._at = what, now
        for line in self.lines(progress):
            self._write(line)

    def lines(self, progress: Progress) -> list[str]:
        """The table: counts and the time left, then what runs and since when."""
        open_names = {*progress.running, *progress.waiting}
        outcomes = [outcome for name, outcome in self.ended.items() if name not in open_names]
        bad = sum(outcome in ("failed", "refused", "lost") for outcome in outcomes)
        left = seconds_left(progress, typical_seconds(self.attempts))
        head = (
            f"{len(outcomes) - bad} of {self.total} finished, {bad} failed,"
            f" {len(progress.running)} running, {len(progress.waiting)} waiting;"
            f" time left: {'not known yet' if left is None else duration(left)}"
        )
        rows = [f"  {name}  {duration(s)}" for name, s in [*progress.running.items()][:MOST_ROWS]]
        hidden = len(progress.running) - len(rows)
        return [head, *rows, *([f"  and {hidden} more"] if hidden else [])]

    def _write(self, line: str) -> None:
        print(f"{time.strftime('%H:%M:%S')}  {line}", file=self.stream or sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """`42 s`, `3 min 05 s`, `2 h 07 min`, `3 d 04 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    hours, minutes = whole // 3600, whole // 60 % 60
    if hours < 24:
        return f"{hours} h {minutes:02d} min"
    return f"{hours // 24} d {hours % 24:02d} h"


def first_line(text: str) -> str:
    """The first line of a text, at most 200 characters of it."""
    line = text.strip().split("\n")[0]
    return line if len(line) <= 200 else line[:199] + "…"
