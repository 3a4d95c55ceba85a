"""How is `results.json` kept, so that no damage costs what was measured and no change goes unseen?

It carries a digest of its own content under `sha256`, and the one written before it lies beside
it as `results.previous.json`. One that cannot be read, or does not fit what is asked, is set aside,
and the work goes on from the one before; one whose content does not fit its digest is refused, for
somebody may have meant it.
"""

import hashlib
import json
import math
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from degeneracy.files import write_atomically

RESULTS, PREVIOUS, CORRUPT = "results.json", "results.previous.json", "results.json.corrupt"
PREVIOUS_CORRUPT = f"{PREVIOUS}.corrupt"
DIGEST = "sha256"  # the key under which the digest lies


class RunStoreError(RuntimeError):
    """The run directory cannot be used; the message says why and what to do."""


class LostResultsError(RunStoreError):
    """Neither the results nor those before them can be used."""


Misfit = Callable[[Mapping[str, Any]], str | None]  # what of results is not as it must be


class ResultsFile:
    """The results of one run directory, for the process that holds it.

    Attributes:
        unsealed: Whether what was read had no digest, and so may be of anybody's making.
    """

    def __init__(self, directory: Path):
        self.path, self.previous = directory / RESULTS, directory / PREVIOUS
        self.unsealed = False
        self._good: bytes | None = None  # what `results.json` held when last read or written

    def read(self, misfit: Misfit = lambda results: None) -> dict[str, Any] | None:
        """What was found, without the digest; None before the first write.

        Args:
            misfit: What is wrong with results for the run that is to go on from them, or None.

        Raises:
            RunStoreError: It was changed; `LostResultsError` where neither it nor the one before
                can be used.
        """
        if not self.path.exists() and not self.previous.exists():
            return None
        try:
            content = self.path.read_bytes()
            results = json_object(content)
            digest = results.pop(DIGEST, None)
            # what was changed may be meant: it is no damage, and not set aside
            if digest is None or digest == content_digest(results):
                _refuse_misfit(results, misfit)
        except (OSError, ValueError) as error:
            return self._before(error, misfit)
        if digest is None:
            self.unsealed = True
            warnings.warn(
                f"{self.path} has no {DIGEST}: an earlier version wrote it, or somebody changed it;"
                " it is taken as it is",
                stacklevel=4,
            )
        elif digest != content_digest(results):
            raise RunStoreError(self._changed())
        self._good = content
        return results

    def write(self, results: dict[str, Any]) -> None:
        """Writes results, and beside them those before; numbers that are not finite become null.

        Raises:
            files.WriteError: The disk is full, or the directory cannot be written.
        """
        # As a reader will see it: keys are texts, tuples are lists.
        content = json.loads(json.dumps(finite(results), allow_nan=False))
        content[DIGEST] = content_digest(content)
        text = json.dumps(content, indent=1).encode()
        if self._good is not None:
            write_atomically(self.previous, self._good)
        write_atomically(self.path, text)
        self._good = text

    def _changed(self) -> str:
        instead = (
            f"{PREVIOUS} is then taken, the results one step earlier"
            if self.previous.exists()
            else "what the checkpoints do not hold is then measured again"
        )
        return (
            f"{self.path} was changed after it was written: its content does not fit its {DIGEST}."
            f" To undo the change, restore the file or remove it ({instead}); to keep the change,"
            f' remove the key "{DIGEST}" from the file, which is then taken as it is'
        )

    def set_aside(self) -> None:
        """Renames what cannot be used, so that the work begins without it and nothing is lost."""
        for path in (self.path, self.previous):
            if path.exists():
                os.replace(path, path.with_name(f"{path.name}.corrupt"))

    def _before(self, error: Exception, misfit: Misfit) -> dict[str, Any]:
        """The results one step earlier, in place of those that cannot be used."""
        try:
            content = self.previous.read_bytes()
            results = json_object(content)
            if results.pop(DIGEST, None) != content_digest(results):
                raise ValueError("its content does not fit its digest")
            _refuse_misfit(results, misfit)
        except (OSError, ValueError):
            raise LostResultsError(
                f"{self.path} cannot be read ({error}), and there is no {PREVIOUS} that can be;"
                " restore it, or remove both: what the checkpoints do not hold is then measured"
                " again"
            ) from error
        kept = ""
        if self.path.exists():
            os.replace(self.path, self.path.with_name(CORRUPT))
            kept = f" It is now {CORRUPT}."
        warnings.warn(
            f"{self.path} cannot be read ({error}): the work goes on from {PREVIOUS}, the results"
            f" one step earlier, and what is missing there is measured again.{kept}",
            stacklevel=5,
        )
        self._good = content
        return results


def results_of(run: Path, study: str) -> dict[str, Any]:
    """What a run directory of a study holds so far, for who reads and does not write.

    Raises:
        ValueError: There is nothing that can be read, or it is of another study.
    """
    try:
        results = json_object((run / RESULTS).read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"{run}: no results of a run that can be read ({error})") from error
    if (named := results.get("study")) != study:
        raise ValueError(f"{run}: a run of {named!r} given; allowed: run directories of {study}")
    return results


def _refuse_misfit(results: dict[str, Any], misfit: Misfit) -> None:
    if (wrong := misfit(results)) is not None:
        raise ValueError(wrong)


def json_object(content: bytes) -> dict[str, Any]:
    """JSON's object; ValueError where `content` is none."""
    try:
        found = json.loads(content)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    if not isinstance(found, dict):
        raise ValueError("it holds no JSON object")
    return found


def content_digest(content: Any) -> str:
    """SHA-256 of JSON's values; order of keys, white space and the like do not count."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def finite(value):
    """`value` with None for every float that is not finite, in nested dicts and lists too."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    return value
