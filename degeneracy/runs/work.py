"""What is under way? Settings, a directory, a device, and what was found in it so far."""

import platform
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from degeneracy.config.section import Section
from degeneracy.runs.store import FORMAT, RunStore

PROJECT = Path(__file__).resolve().parents[2]  # what relative paths of a config are relative to
PACKAGES = ("torch", "devinterp", "numpy", "plotly")

Found = Mapping[str, Any]  # as JSON
Measured = Iterator[tuple[Any, Found]]  # (key, what was found)


def from_project(path: str) -> Path:
    """A path of a config: relative ones are from the project's folder, `~` is the user's."""
    return PROJECT / Path(path).expanduser()


@dataclass(frozen=True)
class Part:
    """One kind of measurement, and where `results` keeps it.

    Attributes:
        measure: Yields (key, findings) one by one; it asks `work.todo(keys)` for what is missing.
        has: Whether the findings of a key are there.
        put: Keeps them.
        needs: Names of the parts without which it cannot be done, where one of them failed; None:
            all before it.
    """

    measure: Callable[[Any], Measured]
    has: Callable[[Any, Hashable], bool] = lambda work, key: key in work.found()
    put: Callable[[Any, Hashable, Found], None] = lambda work, key, found: work.keep(key, found)
    needs: tuple[str, ...] | None = None


@dataclass
class Work:
    """A study under way.

    Attributes:
        study: The `study.Study` that it is of.
        settings: Its config, checked.
        store: Its directory.
        device: Where tensors live.
        results: What `results.json` holds.
        part: (name, `Part`) under way.
        traces: What figures draw beside results: the losses that a run sampled, else nothing.
    """

    study: Any
    settings: Section
    store: RunStore
    device: torch.device
    results: dict[str, Any]
    part: tuple[str, Part] | None = None
    traces: dict = field(default_factory=dict)

    def found(self) -> dict[Hashable, Any]:
        """What the part under way has found, key → findings."""
        return self.results["parts"].setdefault(self.part[0], {})

    def keep(self, key: Hashable, found: Found) -> None:
        """Keeps the findings of a key among those of the part under way."""
        self.found()[key] = dict(found)

    def has(self, key: Hashable) -> bool:
        """Whether the part under way has found `key`."""
        return self.part[1].has(self, key)

    def todo(self, keys: Iterable[Hashable], unit: str = "case") -> Iterator[Any]:
        """Those of `keys` that the part under way has not found yet, with a progress bar."""
        keys = list(keys)
        missing = [key for key in keys if not self.has(key)]
        name = self.part[0]
        if len(missing) < len(keys):
            tqdm.write(
                f"{name}: {len(keys) - len(missing)} of {len(keys)} finished before, taken from"
                f" {self.store.directory}"
            )
        yield from tqdm(missing, desc=name, unit=unit, leave=False, disable=not missing)

    def write(self) -> None:
        """Writes what was found."""
        self.store.write_results(self.results)


def new_results(study: str, config: Mapping[str, Any], parts: Iterable[str]) -> dict[str, Any]:
    """The results of a study that has not begun."""
    return {
        "format": FORMAT,
        "study": study,
        "status": "running",
        "config": config,
        "environment": {},
        "timing_s": dict.fromkeys([*parts, "total"], 0.0),
    }


def note_environment(results: dict[str, Any], device: torch.device) -> None:
    """Records what is computed with; of work that goes on with something else, first and latest."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = platform.processor() or platform.machine()
    now = {**versions, "device": f"{device} ({name})", "threads": torch.get_num_threads()}
    there = results["environment"]
    changed = {key: value for key, value in now.items() if there.get(key, value) != value}
    if results["status"] == "running" and changed:
        tqdm.write(
            f"this run began with another environment and may not repeat bit for bit: now {changed}"
        )
        results["environment"] |= {f"{key}, later": value for key, value in changed.items()}
    results["environment"] = now | results["environment"]
