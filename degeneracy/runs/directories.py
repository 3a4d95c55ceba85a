"""Which runs are there, and which may go?

    python -m degeneracy.runs.directories                                       lists them
    python -m degeneracy.runs.directories --remove-older-than DAYS [--yes]      removes old ones
    python -m degeneracy.runs.directories --remove DIR [DIR …] [--yes]          removes these

Only whole run directories are removed: nothing that holds anything else, and none that a process
is writing into. Without `--yes` it says what would go, and asks.
"""

import argparse
import fcntl
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from degeneracy.files import PARTIAL
from degeneracy.runs.results_file import CORRUPT, PREVIOUS, PREVIOUS_CORRUPT, RESULTS, json_object
from degeneracy.runs.store import TRACES_CORRUPT

ROOT = Path(__file__).resolve().parents[2] / "experiments"
CONTENTS = {"config.json", "traces.npz", "report.html", "checkpoints", ".lock"}
CONTENTS |= {"runs", "sweeps", "runs.csv"}  # of studies made of many runs
CONTENTS |= {"logs", "cka.html", "ntk.html", "weights.html"}  # of gauss_newton
CONTENTS |= {RESULTS, PREVIOUS, CORRUPT, PREVIOUS_CORRUPT, TRACES_CORRUPT}
DAY_S = 86400


class NoRunError(ValueError):
    """A directory is not removed; the message says why."""


@dataclass(frozen=True)
class Listed:
    """A run directory, as the list shows it.

    Attributes:
        directory: Where it is.
        study: The study that it is of; "–" where an earlier version wrote it.
        status: "complete"; "running", where a process writes into it; else "stopped".
        written: When results were last written, in seconds since 1970.
        num_bytes: What its files take.
    """

    directory: Path
    study: str
    status: str
    written: float
    num_bytes: int


def find_runs(root: Path) -> list[Listed]:
    """All runs below `root`, the one written last first."""
    found = [described(directory) for directory in _run_directories(root)]
    return sorted(found, key=lambda run: -run.written)


def _run_directories(folder: Path) -> Iterator[Path]:
    """Runs in `folder` and below, not looking into runs, links and hidden folders."""
    if is_run(folder):
        yield folder
        return
    for inner in sorted(folder.iterdir()) if folder.is_dir() else ():
        if inner.is_dir() and not inner.is_symlink() and not inner.name.startswith("."):
            yield from _run_directories(inner)


def is_run(directory: Path) -> bool:
    """Whether a run keeps its work there: a config, and the lock and folder that every run has."""
    lock = directory / ".lock"
    has_lock = lock.is_file() and not lock.is_symlink()
    has_all = has_lock and (directory / "checkpoints").is_dir() and not directory.is_symlink()
    return has_all and _read(directory / "config.json") is not None


def described(directory: Path) -> Listed:
    """What the list says of a run."""
    config = _read(directory / "config.json") or {}
    results = _read(directory / "results.json") or {}
    last = directory / ("results.json" if results else "config.json")
    with _lock(directory) as is_free:
        status = "complete" if results.get("status") == "complete" else "stopped"
        status = status if is_free else "running"
    files = [path for path in directory.rglob("*") if path.is_file() and not path.is_symlink()]
    return Listed(
        directory,
        str(config.get("study", "–")),
        status,
        last.stat().st_mtime,
        sum(path.stat().st_size for path in files),
    )


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None where there is none that can be read."""
    try:
        return json_object(path.read_bytes())
    except (OSError, ValueError):
        return None


@contextmanager
def _lock(directory: Path) -> Iterator[bool]:
    """Whether no process writes into a run; none begins to while the block lasts."""
    handle = os.open(directory / ".lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(handle) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """Holds a run that may be removed, so that no process begins to write into it meanwhile.

    Raises:
        NoRunError: It is no run, is in use, or holds what no run wrote; the message says which.
    """
    if not is_run(directory):
        raise NoRunError(f"{directory} given; allowed: the directory of a run")
    names = {path.name for path in directory.iterdir() if not path.name.endswith(PARTIAL)}
    if others := sorted(names - CONTENTS):
        raise NoRunError(f"{directory} holds {', '.join(others)}, which no run wrote; move it")
    with _lock(directory) as is_free:
        if not is_free:
            raise NoRunError(f"{directory} is in use by another process; wait for it or stop it")
        yield


def remove(directory: Path) -> None:
    """Removes a run; what `held` refuses is left as it is."""
    with held(directory):
        shutil.rmtree(directory)


def table(runs: list[Listed]) -> str:
    """A line for each run: study, status, date, size, directory."""
    width = max([len(run.study) for run in runs] + [5])
    lines = [f"{'study':<{width}}  status    written           {'size':>9}  directory"]
    for run in runs:
        written = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.written))
        lines.append(
            f"{run.study:<{width}}  {run.status:<8}  {written}  {_size(run.num_bytes):>9}"
            f"  {_short(run.directory)}"
        )
    return "\n".join(lines)


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.1f} MB"


def _short(directory: Path) -> str:
    """The path from here, where it lies below; else the whole."""
    here = Path.cwd()
    return str(directory.relative_to(here) if directory.is_relative_to(here) else directory)


def agreed(runs: list[Listed]) -> bool:
    """Shows what would go and asks whether it may; without anyone to ask, it may not."""
    print(table(runs))
    size = _size(sum(run.num_bytes for run in runs))
    try:
        return input(f"Remove {len(runs)} of these, {size}? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        print("\nnothing removed: --yes removes without asking")
        return False


def main(arguments: list[str] | None = None) -> int:
    """Lists or removes; exit status 2 where something that was named is no run, 1 without a yes."""
    parser = argparse.ArgumentParser(description="Lists and removes run directories.")
    parser.add_argument("--root", type=Path, default=ROOT, help="where to look for runs")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--remove-older-than", type=float, metavar="DAYS")
    chosen.add_argument("--remove", type=Path, nargs="+", metavar="DIR")
    parser.add_argument("--yes", action="store_true", help="remove without asking")
    options = parser.parse_args(arguments)
    try:
        if options.remove:
            return _remove(_named(options.remove), options.yes)
        if options.remove_older_than is not None:
            return _remove(_older(options.root, options.remove_older_than), options.yes)
    except NoRunError as error:
        print(error, file=sys.stderr)
        return 2
    runs = find_runs(options.root)
    print(table(runs) if runs else f"no runs in {options.root}")
    return 0


def _remove(runs: list[Listed], is_agreed: bool) -> int:
    """Removes them, once they are agreed to; the exit status."""
    if not runs:
        print("nothing to remove")
        return 0
    if not is_agreed and not agreed(runs):
        return 1
    for run in runs:
        remove(run.directory)
        print(f"removed {_short(run.directory)}")
    return 0


def _named(directories: list[Path]) -> list[Listed]:
    """These runs, each once; refuses them all where one may not go."""
    found = list(dict.fromkeys(path.absolute() for path in directories))
    for directory in found:
        with held(directory):
            pass
    return [described(directory) for directory in found]


def _older(root: Path, days: float) -> list[Listed]:
    """Runs written more than `days` days ago; says which of them stay, and why."""
    if not days >= 0:
        raise NoRunError(f"--remove-older-than: {days:g} given; allowed: a number of days from 0")
    old = []
    for run in find_runs(root):
        if run.written > time.time() - days * DAY_S:
            continue
        try:
            with held(run.directory):
                old.append(run)
        except NoRunError as error:
            print(f"left: {error}")
    return old


if __name__ == "__main__":
    sys.exit(main())
