"""How does a signal become a sentence, from the first import to the last line?

It imports nothing that takes time: a command needs it before its other imports.
"""

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

GOES_ON = "the same command goes on where this one left off"


def interruptible(work: Callable[[], int]) -> int:
    """What `work` returns; 1, and a sentence on stderr, where Ctrl-C or SIGTERM ended it."""
    try:
        with sigterm_interrupts():
            return work()
    except KeyboardInterrupt as stop:
        said = str(stop)
        by = f" by {said}" if said else ""
        text = said if said.startswith("stopped") else f"stopped{by}; {GOES_ON}"
        print(text, file=sys.stderr)
        return 1


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Makes SIGTERM an interruption that says its name, as SIGINT is one."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    try:
        usual = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not in the main thread, which alone gets signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, usual)
