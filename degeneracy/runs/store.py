"""Where does a run keep its work, so that a kill loses nothing? The run directory.

`config.json`, `results.json`, `traces.npz`, `report.html` and `checkpoints/*.safetensors`. A file
appears whole or not at all (write, fsync, rename); checkpoints, traces and results carry a checksum
of their content, under which the first two also have whose they are: another run's are not taken
for this one's. Weights are never read through pickle, and one process at a time writes into a
directory.
"""

import errno
import fcntl
import hashlib
import io
import json
import os
import re
import stat
import struct
import warnings
import weakref
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from degeneracy.files import PARTIAL, write_atomically
from degeneracy.runs.results_file import (
    CORRUPT,
    PREVIOUS,
    PREVIOUS_CORRUPT,
    RESULTS,
    LostResultsError,
    Misfit,
    ResultsFile,
    RunStoreError,
    content_digest,
    finite,
    json_object,
)

__all__ = ["FORMAT", "Checkpoint", "Point", "RunStore", "RunStoreError", "finite"]

TRACES, TRACES_CORRUPT = "traces.npz", "traces.npz.corrupt"
FORMAT = 2  # of a run directory, in `results.json`; 1 had no number
# directory → this process's open `RunStore`
_OPEN: weakref.WeakValueDictionary = weakref.WeakValueDictionary()
BROKEN_ARCHIVE = (
    *(OSError, ValueError, EOFError, KeyError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, struct.error),
)
BROKEN_CHECKPOINT = (
    *(safetensors.SafetensorError, OSError, ValueError),
    *(KeyError, TypeError, AttributeError, RecursionError),
)


class Checkpoint(NamedTuple):
    """One epoch's end: what a restart needs (`tensors`), what was recorded (`record`, as JSON)."""

    tensors: dict[str, Tensor]
    record: dict[str, Any]


class Point(NamedTuple):
    """A checkpoint's place: after `epoch` epochs of `optimizer` on the model called `title`."""

    title: str
    optimizer: str
    epoch: int

    @property
    def key(self) -> str:
        """Name in `traces.npz`."""
        return f"{self.title}/{self.optimizer}/{self.epoch}"

    @property
    def file_name(self) -> str:
        """`<title>-<optimizer>-<epoch>.safetensors`, as far as file systems allow."""
        # Names that differ in other characters only would share a slug; a digest keeps them apart.
        title = f"{_slug(self.title)}-{hashlib.sha256(self.title.encode()).hexdigest()[:6]}"
        optimizer = _slug(self.optimizer)
        if optimizer != self.optimizer:
            optimizer += f"-{hashlib.sha256(self.optimizer.encode()).hexdigest()[:6]}"
        return f"{title}-{optimizer}-{self.epoch:04d}.safetensors"


class RunStore:
    """The run directory `directory`, for one config.

    Args:
        directory: Made where it is missing.
        config: The study's name and every setting.
        data: Digest of a data set that the config does not tell, "" for the config's own: files of
            a run on another one are not taken for this one's. None: what the results there say.

    Raises:
        RunStoreError: The directory holds a run with another config, something that is not a run,
            or is in use.
    """

    def __init__(
        self, directory: str | os.PathLike, config: dict[str, Any], data: str | None = None
    ):
        self.directory, self.config = Path(directory), config
        if data is None:
            data = self.glimpsed_data() or ""
        # tells this run's files from another's
        self._owner = content_digest({**config, "own data": data} if data else config)
        self._results = ResultsFile(self.directory)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            names = {path.name for path in self.directory.iterdir()}
            if names and not names & {"config.json", ".lock"}:
                raise RunStoreError(
                    f"{self.directory} is neither empty nor a run directory; name another one"
                )
            # Before the lock: a store that is refused takes nothing from another.
            self._check()
            self._lock = self._claim()
            try:
                self._check()  # another process may have begun a run meanwhile
                self._prepare()
            except BaseException:
                self.close()
                raise
        except OSError as error:
            raise RunStoreError(
                f"cannot write the run directory {self.directory}: {error.strerror}"
            ) from error
        _OPEN[self.directory.resolve()] = self

    def _check(self) -> None:
        """Refuses a directory that holds something else than this run."""
        self._check_format()
        self._check_config()

    def _prepare(self) -> None:
        """Clears away what a kill left half written, and says whose directory it is."""
        (self.directory / "checkpoints").mkdir(exist_ok=True)
        for folder in (self.directory, self.directory / "checkpoints"):
            for partial in folder.glob(f".*{PARTIAL}"):
                partial.unlink(missing_ok=True)
        path = self.directory / "config.json"
        if not path.exists():
            write_atomically(path, json.dumps(self.config, indent=2).encode())

    def _claim(self) -> IO:
        """Takes the directory; the lock goes when the process ends, however it ends."""
        if (earlier := _OPEN.get(self.directory.resolve())) is not None:
            earlier.close()  # a notebook that opens its run again
        lock = self._opened_lock()
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.close()
            raise RunStoreError(
                f"{self.directory} is in use by another process; wait for it or name another"
            ) from error
        except OSError as error:
            warnings.warn(
                f"{self.directory} cannot be locked ({error.strerror}): start one run in it at a"
                " time",
                stacklevel=4,
            )
        return lock

    def _opened_lock(self) -> IO:
        """The lock's file, made where it is missing; nobody else's is opened, none emptied."""
        path = self.directory / ".lock"
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            handle = os.open(path, flags, 0o666)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                raise
            raise RunStoreError(_no_lock(path)) from error
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise RunStoreError(_no_lock(path))
        return os.fdopen(handle, "r+b", buffering=0)

    def close(self) -> None:
        """Gives the directory free for another process."""
        self._lock.close()

    def _check_format(self) -> None:
        """Refuses what an earlier version wrote: it named no study in `config.json`."""
        path = self.directory / "config.json"
        names_study = path.exists() and "study" in _read_json(path)
        earlier = path.exists() and "study" in self.config and not names_study
        # beside a config of this format, results without a number lost it
        results, lost = self._glimpse(RESULTS), FORMAT if names_study else 1
        if earlier or (results is not None and results.get("format", lost) != FORMAT):
            raise RunStoreError(
                f"{self.directory} holds a run of another format, which another version of this"
                f" project wrote; this one reads and writes format {FORMAT}: name another directory"
            )

    def _check_config(self) -> None:
        """Refuses another run's directory, and another run's results in this one's."""
        path, of_results = self.directory / "config.json", self._config_of_results()
        if path.exists():
            what = f"{self.directory} holds a run with another config"
            self._refuse_other(
                _read_json(path), what, "name another directory or restore the config"
            )
        elif of_results is None and any((self.directory / "checkpoints").glob("*.safetensors")):
            raise RunStoreError(
                f"{path} is gone, and nothing else tells of which run the checkpoints are; restore"
                " it, or name another directory"
            )
        if of_results is not None:
            results = self.directory / RESULTS
            what = f"{results} is of a run with another config"
            self._refuse_other(of_results, what, "restore or remove it, or name another directory")

    def _config_of_results(self) -> dict[str, Any] | None:
        """The config that the results are of; None where there are none that tell."""
        found = self._glimpse(RESULTS) or self._glimpse(PREVIOUS) or {}
        config = found.get("config")
        return {"study": found.get("study"), **config} if isinstance(config, dict) else None

    def glimpsed_data(self) -> str | None:
        """Digest of the data that the results are of, "" for the config's own; None where there are
        none that tell.
        """
        found = self._glimpse(RESULTS) or self._glimpse(PREVIOUS) or {}
        digest = found.get("data_sha256")
        return digest if isinstance(digest, str) else None

    def _refuse_other(self, there: dict[str, Any], what: str, advice: str) -> None:
        if there == self.config:
            return
        old, new = _flat(there), _flat(self.config)
        changed = "; ".join(
            f"{key}: {old.get(key, 'nothing')!r} there, {new.get(key, 'nothing')!r} now"
            for key in sorted(old.keys() | new.keys())
            if old.get(key) != new.get(key)
        )
        if old.items() < new.items():
            advice = "name another directory, or go on with the version that made it"
        raise RunStoreError(f"{what} ({changed}); {advice}")

    def _glimpse(self, name: str) -> dict[str, Any] | None:
        """What a file of the directory holds, before it is checked; None where it holds nothing
        that can be read.
        """
        try:
            return json_object((self.directory / name).read_bytes())
        except (OSError, ValueError):
            return None

    def _refuse_lost_lock(self) -> None:
        """Before each write: without its lock another process may write here too.

        Raises:
            RunStoreError: The lock's file was removed.
        """
        if not self._lock.closed and os.fstat(self._lock.fileno()).st_nlink == 0:
            raise RunStoreError(
                f"{self.directory / '.lock'} was removed while this process wrote there, so another"
                " one may be writing too; stop it, then start this again"
            )

    def checkpoint_path(self, point: Point) -> Path:
        return self.directory / "checkpoints" / point.file_name

    def save_checkpoint(self, point: Point, checkpoint: Checkpoint) -> None:
        """Writes `checkpoint`; tensors may lie on any device."""
        self._refuse_lost_lock()
        # A copy of each: safetensors takes no two names for one memory, as tied weights are.
        tensors = {
            name: tensor.detach().cpu().contiguous().clone()
            for name, tensor in checkpoint.tensors.items()
        }
        record = json.dumps(checkpoint.record)
        # One entry: safetensors writes several in no fixed order, and equal checkpoints should be
        # equal files.
        of = self._of(point)
        seal = {"record": record, "of": of, "sha256": _digest(tensors, record, of)}
        metadata = {"checkpoint": json.dumps(seal)}
        write_atomically(self.checkpoint_path(point), safetensors.torch.save(tensors, metadata))

    def load_checkpoint(self, point: Point) -> Checkpoint | None:
        """The checkpoint on the CPU, or None where there is none, its content does not fit its
        checksum, or it is another point's or another run's.

        A damaged checkpoint is as good as none: the epoch is trained again, from the one before, to
        the same numbers.
        """
        path = self.checkpoint_path(point)
        if not path.exists():
            return None
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                metadata = json.loads(file.metadata()["checkpoint"])
                # Each in memory of its own: inside the file they lie at any address, and how MKL
                # rounds a product may depend on its operands' alignment.
                names = file.keys()
                tensors = {name: file.get_tensor(name).clone() for name in names}
            record, of = metadata["record"], metadata["of"]
            # earlier versions did not have `of` under the checksum
            sound = metadata["sha256"] in (_digest(tensors, record, of), _digest(tensors, record))
            if sound and of == self._of(point):
                return Checkpoint(tensors, json_object(record.encode()))
        except BROKEN_CHECKPOINT:
            pass
        return None

    def _of(self, point: Point) -> str:
        """Whose checkpoint it is."""
        return f"{self._owner} {point.key}"

    @property
    def unsealed(self) -> bool:
        """Whether the results that were read had no digest, and so may be of anybody's making."""
        return self._results.unsealed

    def read_results(self, misfit: Misfit = lambda results: None) -> dict[str, Any] | None:
        """`results.json`, or None before the first write; see `results_file.ResultsFile.read`.

        Where neither it nor the one before can be used, both are set aside, with a warning: what
        the checkpoints do not hold is measured again.

        Raises:
            RunStoreError: It was changed after it was written.
        """
        try:
            return self._results.read(misfit)
        except LostResultsError as error:
            self._results.set_aside()
            warnings.warn(
                f"{error.args[0].partition(';')[0]}: what the checkpoints do not hold is measured"
                f" again. What was there is now {CORRUPT} and {PREVIOUS_CORRUPT}.",
                stacklevel=3,
            )
            return None

    def write_results(self, results: dict[str, Any]) -> None:
        """Writes `results.json`; numbers that are not finite become null, which JSON can say."""
        self._refuse_lost_lock()
        self._results.write(results)

    def read_traces(self) -> dict[Point, np.ndarray]:
        """Losses (num_chains, num_draws) sampled at each measured point.

        A file that is damaged, without its seal or another run's is set aside, with a warning:
        those points are measured again, to the same losses.
        """
        path = self.directory / TRACES
        if not path.exists():
            return {}
        try:
            return self._sound_traces(path)
        except BROKEN_ARCHIVE as error:
            os.replace(path, path.with_name(TRACES_CORRUPT))
            warnings.warn(
                f"{path} cannot be used ({error}): those points are measured again. It is now"
                f" {TRACES_CORRUPT}.",
                stacklevel=3,
            )
            return {}

    def _sound_traces(self, path: Path) -> dict[Point, np.ndarray]:
        """The traces; one of `BROKEN_ARCHIVE` where they are not sound, or not of this run."""
        with np.load(path, allow_pickle=False) as archive:
            traces = {key: archive[key] for key in archive.files}
            comment = archive.zip.comment
        if not comment:
            raise ValueError("it does not say whose it is")
        seal = json_object(comment)
        of, digest = seal.get("of"), seal.get("sha256")
        # earlier versions did not have `of` under the checksum
        if digest not in (_arrays_digest(traces, str(of)), _arrays_digest(traces)):
            raise ValueError("its content does not fit its checksum")
        if of != self._owner:
            raise ValueError("it is of a run with another config or on other data")
        return {_point(key): trace for key, trace in traces.items()}

    def write_traces(self, traces: dict[Point, np.ndarray]) -> None:
        """Writes `traces.npz`; sampled losses are noise and do not compress."""
        self._refuse_lost_lock()
        arrays = {point.key: trace for point, trace in traces.items()}
        seal = {"of": self._owner, "sha256": _arrays_digest(arrays, self._owner)}
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        with zipfile.ZipFile(buffer, "a") as archive:
            archive.comment = json.dumps(seal).encode()
        write_atomically(self.directory / TRACES, buffer.getvalue())


def _point(key: str) -> Point:
    """The inverse of `Point.key`."""
    title, optimizer, epoch = key.rsplit("/", 2)
    return Point(title, optimizer, int(epoch))


def _arrays_digest(arrays: dict[str, np.ndarray], of: str = "") -> str:
    digest = hashlib.sha256(of.encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}{array.dtype}{array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()


def _no_lock(path: Path) -> str:
    return f"{path} is not a file, but a link or something else; remove it, or name another one"


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _digest(tensors: dict[str, Tensor], record: str, of: str = "") -> str:
    digest = hashlib.sha256(of.encode() + record.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json_object(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RunStoreError(
            f"{path} cannot be read ({error}); restore it, or name another directory"
        ) from error


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    return {
        f"{section}.{key}" if key else section: value
        for section, keys in config.items()
        for key, value in (keys.items() if isinstance(keys, dict) else [("", keys)])
    }
