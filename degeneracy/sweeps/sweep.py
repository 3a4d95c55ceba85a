"""How does a sweep go from a config to a table and a report, so that a kill loses no finished run?

sweep = open_sweep(STUDY, "args.json", axes, out="experiments/sweeps/alpha")
print(sweep.said_beforehand())
report = run_sweep(sweep, studies.find, Resources(threads=1))
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from degeneracy.config.reader import read_json
from degeneracy.config.section import Section
from degeneracy.data.files import ensure_data_files
from degeneracy.runs.memory import size_text
from degeneracy.runs.work import from_project
from degeneracy.study import RUNS, Study
from degeneracy.sweeps.disk import REPORT, run_bytes
from degeneracy.sweeps.folder import (
    DIVERGED,
    FINISHED,
    Ended,
    State,
    SweepFolder,
    definition,
    refuse_other,
)
from degeneracy.sweeps.grid import Axis, Planned, SweepError, planned, text_of
from degeneracy.sweeps.progress import ProgressLines, first_line
from degeneracy.sweeps.report import write_report
from degeneracy.sweeps.running import Find, RayPool, Resources, check_nodes, connected
from degeneracy.sweeps.schedule import work_off
from degeneracy.sweeps.table import final_values, measurements, write_table
from degeneracy.texts import count_of

DONE = (FINISHED, DIVERGED)


@dataclass(frozen=True)
class Sweep:
    """A sweep that is known in full and may begin.

    Attributes:
        directory: Its folder.
        axes: What is changed.
        runs: Every run, checked.
        defined: What `sweep.json` says.
    """

    directory: Path
    axes: tuple[Axis, ...]
    runs: tuple[Planned, ...]
    defined: dict[str, Any]

    def said_beforehand(self) -> str:
        """How many runs and what disk it takes, and a line for each run."""
        size = sum(run_bytes(run.settings) for run in self.runs) + REPORT  # and the sweep's own
        lines = [f"  {run.name}: {text_of(run.changes)}" for run in self.runs]
        head = (
            f"{count_of(len(self.runs), 'run')} of {self.defined['study']} in {self.directory},"
            f" about {size_text(size)} of disk; {size_text(free_disk(self.directory))} free"
        )
        return "\n".join([head, *lines])


def open_sweep(
    study: Study,
    config: str | os.PathLike[str],
    axes: Sequence[Axis],
    out: str | os.PathLike[str] | None = None,
    large: bool = False,
) -> Sweep:
    """Checks every run of a sweep, and that its folder is not another's; writes nothing.

    Args:
        study: What each run is of.
        config: The JSON file that is changed.
        axes: From `grid`.
        out: The sweep's folder; None: `experiments/sweeps/<config>-<digest>`, one for each sweep.
        large: Whether work beyond reason is meant, see `effort.refuse_beyond_reason`.

    Raises:
        SweepError: A combination is refused, or the folder holds another sweep.
        config.reader.ConfigError: The config cannot be read.
    """
    content = read_json(config)
    return sweep_of(study, content, axes, out, os.fspath(config), large)


def sweep_of(
    study: Study,
    content: Any,
    axes: Sequence[Axis],
    out: str | os.PathLike[str] | None = None,
    where: str = "config",
    large: bool = False,
) -> Sweep:
    """As `open_sweep`, of a config that is at hand; `where` is what errors call it."""
    runs = planned(content, study.settings, axes, where, large)
    if isinstance(content, list):
        content = dict(zip(study.settings.published_form, content, strict=True))
    defined = definition(study.name, content, axes, runs)
    directory = Path(out) if out is not None else default_folder(Path(where).stem, defined)
    refuse_other(directory.absolute(), defined)
    return Sweep(directory.absolute(), tuple(axes), tuple(runs), defined)


def default_folder(stem: str, defined: dict[str, Any]) -> Path:
    """The same command finds its sweep again."""
    digest = hashlib.sha256(json.dumps(defined, sort_keys=True).encode()).hexdigest()[:8]
    return RUNS / "sweeps" / f"{stem.removeprefix('args_')}-{digest}"


def run_sweep(
    sweep: Sweep,
    find: Find,
    resources: Resources,
    retries: int = 2,
    quantity: str | None = None,
    say: Callable[[str], None] = print,
) -> tuple[Path, list[State]]:
    """Does what is left of a sweep; returns its report's path and what became of each run.

    Args:
        find: The study of a name; it is called where the runs are done.
        resources: Where they are done, and what each is given.
        retries: How often a run that failed is done again.
        quantity: What the report draws.
        say: Told what is of interest afterwards: the failures.

    Raises:
        SweepError: The folder is in use, the disk is too small, no cluster answers, or no machine
            has what a run needs.
        data.files.DataError: A data set cannot be had.
    """
    folder = SweepFolder(sweep.directory, sweep.defined)
    try:
        states = {run.name: folder.state(run) for run in sweep.runs}
        left = [run for run in sweep.runs if states[run.name].status not in DONE]
        _refuse_full_disk(folder, left)
        if left:
            _get_data(left)
            done = {name: state.status for name, state in states.items() if state.status in DONE}
            lines = ProgressLines(len(sweep.runs), done, folder.attempts)
            try:
                _do(folder, left, find, resources, retries, lines)
            except KeyboardInterrupt:
                gather(sweep, folder, quantity)
                raise
        report, now = gather(sweep, folder, quantity)
    finally:
        folder.close()
    for run, state in zip(sweep.runs, now, strict=True):
        if state.reason:
            say(f"{state.status}: {text_of(run.changes)}: {first_line(state.reason)}")
    return report, now


def _do(
    folder: SweepFolder,
    left: Sequence[Planned],
    find: Find,
    resources: Resources,
    retries: int,
    lines: ProgressLines,
) -> None:
    """Does these runs on Ray."""

    def note(name: str, ended: Ended) -> None:
        folder.note(name, ended)
        lines.end(name, ended)

    with connected(resources):
        if resources.address is not None:
            check_nodes(folder, find)
        pool = RayPool(folder, left, find, resources)
        work_off([run.name for run in left], pool, retries, note, lines.show)


def gather(sweep: Sweep, folder: SweepFolder, quantity: str | None) -> tuple[Path, list[State]]:
    """Writes tables and report of what is there."""
    states = [folder.state(run) for run in sweep.runs]
    names = [f"runs/{run.name}" for run in sweep.runs]
    records = list(zip(sweep.runs, names, states, strict=True))
    final = final_values(records)
    write_table(measurements(records), folder.directory, "measurements")
    write_table(final, folder.directory, "final")
    running = any(state.status == "open" for state in states)
    report = write_report(folder.directory, sweep.defined, final, sweep.axes, quantity, running)
    return report, states


def free_disk(directory: Path) -> int:
    """Bytes that are free where a folder is or will be."""
    there = next(folder for folder in (directory, *directory.parents) if folder.exists())
    return shutil.disk_usage(there).free


def _refuse_full_disk(folder: SweepFolder, left: Sequence[Planned]) -> None:
    needed, free = sum(run_bytes(run.settings) for run in left), free_disk(folder.directory)
    there = sum(
        path.stat().st_size
        for run in left
        for path in folder.run_directory(run.name).rglob("*")
        if path.is_file()
    )
    if needed - there > free:
        raise SweepError(
            f"{folder.directory}: {count_of(len(left), 'run')} take about {size_text(needed)} of"
            f" disk, and {size_text(free)} are free; allowed: a folder on a larger disk, or fewer"
            " runs, epochs or weights"
        )


def _get_data(runs: Sequence[Planned]) -> None:
    """Gets data sets before the first run, once, not in several runs at the same time."""
    sections = (section for run in runs for _, section in run.settings)
    wanted = {
        (section.dataset, section.root)
        for section in sections
        if isinstance(section, Section) and {"dataset", "root"} <= type(section).model_fields.keys()
    }
    for dataset, root in sorted(wanted):
        ensure_data_files(dataset, from_project(root))
