"""Where does a run keep its work, so that a kill loses nothing? The run directory.

`config.json`, `results.json`, `traces.npz`, `report.html` and `checkpoints/*.safetensors`. A file
appears whole or not at all (write, fsync, rename), a checkpoint carries a checksum of its content,
weights are never read through pickle, and one process at a time writes into a directory.
"""

import fcntl
import hashlib
import io
import json
import math
import os
import re
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

FORMAT = 2  # of a run directory, in `results.json`; 1 had no number
# directory → this process's open `RunStore`
_OPEN: weakref.WeakValueDictionary = weakref.WeakValueDictionary()


class RunStoreError(RuntimeError):
    """The run directory cannot be used; the message says why and what to do."""


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

    Raises:
        RunStoreError: The directory holds a run with another config, something that is not a run,
            or is in use.
    """

    def __init__(self, directory: str | os.PathLike, config: dict[str, Any]):
        self.directory = Path(directory)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            names = {path.name for path in self.directory.iterdir()}
            if names and not names & {"config.json", ".lock"}:
                raise RunStoreError(
                    f"{self.directory} is neither empty nor a run directory; name another one"
                )
            # Before the lock: a store that is refused takes nothing from another.
            self._check_format(config)
            self._check_config(config)
            self._lock = self._claim()
        except OSError as error:
            raise RunStoreError(
                f"cannot write the run directory {self.directory}: {error.strerror}"
            ) from error
        _OPEN[self.directory.resolve()] = self
        (self.directory / "checkpoints").mkdir(exist_ok=True)
        for folder in (self.directory, self.directory / "checkpoints"):
            for partial in folder.glob(f".*{PARTIAL}"):  # what a kill left half written
                partial.unlink(missing_ok=True)
        if not (self.directory / "config.json").exists():
            write_atomically(self.directory / "config.json", json.dumps(config, indent=2).encode())

    def _claim(self) -> IO:
        """Takes the directory; the lock goes when the process ends, however it ends."""
        if (earlier := _OPEN.get(self.directory.resolve())) is not None:
            earlier.close()  # a notebook that opens its run again
        lock = open(self.directory / ".lock", "w")  # noqa: SIM115 – held until the store is closed
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

    def close(self) -> None:
        """Gives the directory free for another process."""
        self._lock.close()

    def _check_format(self, config: dict[str, Any]) -> None:
        """Refuses what an earlier version wrote: it named no study in `config.json`."""
        path, results = self.directory / "config.json", self.directory / "results.json"
        earlier = path.exists() and "study" in config.keys() - _read_json(path).keys()
        if earlier or (results.exists() and _read_json(results).get("format", 1) != FORMAT):
            raise RunStoreError(
                f"{self.directory} holds a run of another format, which another version of this"
                f" project wrote; this one reads and writes format {FORMAT}: name another directory"
            )

    def _check_config(self, config: dict[str, Any]) -> None:
        path = self.directory / "config.json"
        if not path.exists() or (there := _read_json(path)) == config:
            return
        old, new = _flat(there), _flat(config)
        changed = "; ".join(
            f"{key}: {old.get(key, 'nothing')!r} there, {new.get(key, 'nothing')!r} now"
            for key in sorted(old.keys() | new.keys())
            if old.get(key) != new.get(key)
        )
        raise RunStoreError(
            f"{self.directory} holds a run with another config ({changed}); "
            "name another directory or restore the config"
        )

    def checkpoint_path(self, point: Point) -> Path:
        return self.directory / "checkpoints" / point.file_name

    def save_checkpoint(self, point: Point, checkpoint: Checkpoint) -> None:
        """Writes `checkpoint`; tensors may lie on any device."""
        # A copy of each: safetensors takes no two names for one memory, as tied weights are.
        tensors = {
            name: tensor.detach().cpu().contiguous().clone()
            for name, tensor in checkpoint.tensors.items()
        }
        record = json.dumps(checkpoint.record)
        # One entry: safetensors writes several in no fixed order, and equal checkpoints should be
        # equal files.
        metadata = {
            "checkpoint": json.dumps({"record": record, "sha256": _digest(tensors, record)})
        }
        write_atomically(self.checkpoint_path(point), safetensors.torch.save(tensors, metadata))

    def load_checkpoint(self, point: Point) -> Checkpoint | None:
        """The checkpoint on the CPU, or None where there is none or its content does not fit its
        checksum.

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
            if _digest(tensors, metadata["record"]) == metadata["sha256"]:
                return Checkpoint(tensors, json.loads(metadata["record"]))
        except (safetensors.SafetensorError, KeyError, TypeError, ValueError, OSError):
            pass
        return None

    def read_results(self) -> dict[str, Any] | None:
        """`results.json`, or None before the first write."""
        path = self.directory / "results.json"
        return _read_json(path) if path.exists() else None

    def write_results(self, results: dict[str, Any]) -> None:
        """Writes `results.json`; numbers that are not finite become null, which JSON can say."""
        text = json.dumps(finite(results), indent=1, allow_nan=False)
        write_atomically(self.directory / "results.json", text.encode())

    def read_traces(self) -> dict[Point, np.ndarray]:
        """Losses (num_chains, num_draws) sampled at each measured point."""
        path = self.directory / "traces.npz"
        if not path.exists():
            return {}
        try:
            with np.load(path, allow_pickle=False) as archive:
                traces = {key: archive[key] for key in archive.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise RunStoreError(
                f"{path} cannot be read ({error}); remove it, then those points are measured again"
            ) from error
        keys = {key: key.rsplit("/", 2) for key in traces}
        return {
            Point(title, optimizer, int(epoch)): traces[key]
            for key, (title, optimizer, epoch) in keys.items()
        }

    def write_traces(self, traces: dict[Point, np.ndarray]) -> None:
        """Writes `traces.npz`; sampled losses are noise and do not compress."""
        buffer = io.BytesIO()
        np.savez(buffer, **{point.key: trace for point, trace in traces.items()})
        write_atomically(self.directory / "traces.npz", buffer.getvalue())


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _digest(tensors: dict[str, Tensor], record: str) -> str:
    digest = hashlib.sha256(record.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict):
            raise ValueError("it holds no JSON object")
        return content
    except (OSError, ValueError) as error:
        raise RunStoreError(
            f"{path} cannot be read ({error}); restore it, or name another directory"
        ) from error


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    return {
        f"{section}.{key}": value
        for section, keys in config.items()
        for key, value in (keys.items() if isinstance(keys, dict) else [("", keys)])
    }


def finite(value):
    """`value` with None for every float that is not finite, in nested dicts and lists too."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [finite(entry) for entry in value]
    return value
