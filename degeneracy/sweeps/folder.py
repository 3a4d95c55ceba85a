"""What does a sweep keep in its folder, so that a kill loses nothing and no other sweep gets in?

`sweep.json` (what is swept), `attempts.json` (how each run was tried, and how that ended),
`runs/<name>/` (a run directory each), `logs/<name>.txt`, and the table and report made of them.
"""

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from degeneracy.config.words import shown
from degeneracy.files import write_atomically
from degeneracy.runs.results import optimizers_of
from degeneracy.runs.results_file import RESULTS, ResultsFile, RunStoreError
from degeneracy.runs.store import finite
from degeneracy.sweeps.grid import Axis, Planned, SweepError

FORMAT = 1  # of `sweep.json`
DEFINITION, ATTEMPTS, LOCK = "sweep.json", "attempts.json", ".lock"
FINISHED, DIVERGED, FAILED, OPEN = "finished", "diverged", "failed", "open"


class Ended(NamedTuple):
    """How one attempt at a run ended.

    Attributes:
        outcome: "finished"; "failed", with an error that may not come again; "refused", with one
            that would; "lost", with its process or machine.
        reason: What went wrong, in a sentence.
        seconds: How long it took.
        node: Where it ran.
    """

    outcome: str
    reason: str = ""
    seconds: float = 0.0
    node: str = ""


class State(NamedTuple):
    """What has become of a run.

    Attributes:
        status: "finished"; "diverged" (finished, and a training in it stopped being finite);
            "failed"; "open" (not begun, or under way).
        reason: Why it failed, or which trainings diverged.
        seconds: What its attempts took together.
        num_attempts: How often it was begun.
        results: What a finished run found, else None.
    """

    status: str
    reason: str
    seconds: float
    num_attempts: int
    results: dict[str, Any] | None


def definition(
    study: str, content: Mapping[str, Any], axes: Sequence[Axis], runs: Sequence[Planned]
) -> dict[str, Any]:
    """What tells a sweep from another, as JSON: the study, the config and the axes."""
    return {
        "format": FORMAT,
        "study": study,
        "config": {key: value for key, value in content.items() if key != "$schema"},
        "axes": {", ".join(axis.keys): _steps(axis) for axis in axes},
        "runs": {run.name: run.changes for run in runs},
    }


def _steps(axis: Axis) -> list:
    return [step[0] if len(step) == 1 else [*step] for step in axis.steps]


class SweepFolder:
    """The folder of one sweep, for the process that works at it.

    Raises:
        SweepError: It holds another sweep, something else, or is in use.
    """

    def __init__(self, directory: str | os.PathLike[str], defined: Mapping[str, Any]):
        self.directory = Path(directory).absolute()
        self.defined = dict(defined)
        refuse_other(self.directory, defined)
        try:
            for folder in ("runs", "logs"):
                (self.directory / folder).mkdir(parents=True, exist_ok=True)
            self._lock = self._claim()
            if _read(self.directory / DEFINITION) != json.loads(_json(defined)):
                write_atomically(self.directory / DEFINITION, _json(defined))
        except OSError as error:
            raise SweepError(
                f"cannot write the folder {self.directory}: {error.strerror or error}"
            ) from error
        self.attempts = _read(self.directory / ATTEMPTS) or {}

    def _claim(self) -> IO:
        """Takes the folder; the lock goes when the process ends, however it ends."""
        lock = open(self.directory / LOCK, "w")  # noqa: SIM115 – held until the folder is closed
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise SweepError(
                f"{self.directory} is in use by another process; wait for it or name another folder"
            ) from None
        except OSError:  # a file system without locks
            pass
        return lock

    def close(self) -> None:
        """Gives the folder free for another process."""
        self._lock.close()

    def run_directory(self, name: str) -> Path:
        """Where a run keeps its work."""
        return self.directory / "runs" / name

    def log(self, name: str) -> Path:
        """What a run said, all its attempts one after the other."""
        return self.directory / "logs" / f"{name}.txt"

    def note(self, name: str, ended: Ended) -> None:
        """Keeps how an attempt ended."""
        self.attempts.setdefault(name, []).append(ended._asdict())
        write_atomically(self.directory / ATTEMPTS, _json(self.attempts))

    def state(self, run: Planned) -> State:
        """What has become of a run; its directory knows better than what was noted."""
        return state_of(
            finished_results(self.run_directory(run.name), self.defined["study"], run),
            self.attempts.get(run.name, []),
        )


def refuse_other(directory: Path, defined: Mapping[str, Any]) -> None:
    """Raises SweepError unless a folder is missing, empty or this sweep's; changes nothing.

    A sweep of which no run was begun is no other: it may be replaced.
    """
    if not directory.exists():
        return
    if not directory.is_dir():
        raise SweepError(f"{directory} is a file; name a folder")
    there = _read(directory / DEFINITION)
    has_begun = any((directory / "runs").glob("*"))
    names = {path.name for path in directory.iterdir()} - {LOCK, "runs", "logs"}
    if there is None and (names or has_begun):
        raise SweepError(
            f"{directory} is neither empty nor the folder of a sweep (it has no {DEFINITION} that"
            " can be read); name another one"
        )
    if there == json.loads(_json(defined)) or not has_begun:
        return
    old, new = _flat(there), _flat(json.loads(_json(defined)))
    differing = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    own = [key for key in differing if not key.startswith("runs.")] or differing
    changes = "; ".join(
        f"{key}: {_given(old, key)} there, {_given(new, key)} now" for key in own[:5]
    )
    more = f"; and {len(own) - 5} more" if len(own) > 5 else ""
    raise SweepError(
        f"{directory} holds another sweep ({changes}{more}); name another folder, or give what"
        f" its {DEFINITION} says"
    )


def finished_results(directory: Path, study: str, run: Planned) -> dict[str, Any] | None:
    """What a run found, if it is complete and of this config; else None."""
    if not (directory / RESULTS).exists():
        return None
    try:
        results = ResultsFile(directory).read()
    except RunStoreError:
        return None  # whoever begins it again is told
    config = run.settings.model_dump(mode="json")
    own = results is not None and (results["study"], results["config"]) == (study, config)
    return results if own and results["status"] == "complete" else None


def state_of(results: Mapping[str, Any] | None, attempts: Sequence[Mapping[str, Any]]) -> State:
    """A run's state from its results, None unless it is complete, and from how it was tried."""
    seconds = sum(attempt["seconds"] for attempt in attempts)
    if results is not None:
        where = diverged(results)
        status = DIVERGED if where else FINISHED
        return State(status, "; ".join(where), seconds, len(attempts), dict(results))
    last = attempts[-1] if attempts else {"outcome": OPEN, "reason": ""}
    status = OPEN if last["outcome"] in (OPEN, FINISHED) else FAILED
    return State(status, last["reason"], seconds, len(attempts), None)


def diverged(results: Mapping[str, Any]) -> list[str]:
    """`FFNN 1 HL, 16 HN ngd diverged in epoch 3`, for each training that did."""
    return [
        f"{title} {name} diverged in epoch {series['diverged_epoch']}"
        for title in results.get("models", {})
        for name, series in optimizers_of(results, title).items()
        if series.get("diverged_epoch") is not None
    ]


def _json(content: Any) -> bytes:
    return json.dumps(finite(content), indent=2).encode()


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None where there is none that can be read."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key → value, of nested objects."""
    found: dict[str, Any] = {}
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            found |= _flat(inner, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = inner
    return found


def _given(values: Mapping[str, Any], key: str) -> str:
    return shown(values[key]) if key in values else "nothing"
