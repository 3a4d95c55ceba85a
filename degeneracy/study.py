"""What is a study, and how does one go from a config to a report so that a kill loses nothing?

    work = open_work(STUDY, "experiments/args_….json")
    measure(work)  # its parts, in order; what is there is not made again
    report = finish(work)

A study declares what is its own: settings, parts that measure, figures, findings. Opening and
resuming a directory, progress, time, environment, writing and the page are here, once.
"""

import hashlib
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from degeneracy.config.reader import ConfigError, read_config
from degeneracy.config.section import Section
from degeneracy.data.files import DataError
from degeneracy.device import chosen_device
from degeneracy.effort import refuse_beyond_reason
from degeneracy.files import WriteError
from degeneracy.report.page import Findings, write_page
from degeneracy.report.page import Section as Figures
from degeneracy.report.tables import key_values, seconds
from degeneracy.runs.results_file import RESULTS
from degeneracy.runs.soundness import misfit
from degeneracy.runs.store import RunStore, RunStoreError, finite
from degeneracy.runs.work import PROJECT, Part, Work, new_results, note_environment

RUNS = PROJECT / "experiments"


def open_plain(study: "Study", settings: Section, out: Path, device: torch.device) -> Work:
    """Opens the directory of a study that keeps what it finds under `results["parts"]`."""
    config = settings.model_dump(mode="json")
    store = RunStore(out, {"study": study.name, **config})
    try:
        fresh = {**new_results(study.name, config, study.parts), "parts": {}}
        results = store.read_results(lambda found: misfit(found, fresh)) or fresh
        note_environment(results, device)
        return Work(study, settings, store, device, results)
    except BaseException:
        store.close()
        raise


@dataclass(frozen=True)
class Study:
    """A study's declaration.

    Attributes:
        name: Its folder in `studies/`.
        question: What it asks, in one line: `make help` shows it.
        minutes: What it takes with its default config on two cores.
        title: The report's heading, or a function of results.
        settings: What its config may say.
        parts: Name → what measures, in the order in which it is done.
        figures: Results and traces → the report's figures, section by section.
        findings: Results → what the report says of them.
        opens: Opens its directory.
        run_name: Settings → the readable part of a run directory's name.
        notebook, config: Paths from the project's folder; default: called after the study.
    """

    name: str
    question: str
    minutes: float
    title: str | Callable[[Mapping], str]
    settings: type[Section]
    parts: Mapping[str, Part]
    figures: Callable[[Mapping, Mapping], Sequence[Figures]]
    findings: Callable[[Mapping], Findings]
    opens: Callable[["Study", Section, Path, torch.device], Work] = open_plain
    run_name: Callable[[Any], str] = lambda settings: "run"
    notebook: str = ""
    config: str = ""

    @property
    def notebook_path(self) -> Path:
        """The notebook that tells the study's story."""
        return PROJECT / (self.notebook or f"experiments/eval_{self.name}.ipynb")

    @property
    def config_path(self) -> Path:
        """The config that the notebook reads by default."""
        return PROJECT / (self.config or f"experiments/args_{self.name}.json")


def open_work(
    study: Study,
    config: str | os.PathLike[str] | Section,
    out: str | os.PathLike[str] | None = None,
    device: str = "auto",
    large: bool = False,
) -> Work:
    """Opens a study's run directory, with all that an earlier call left there.

    Args:
        study: What is studied.
        config: A JSON file, or its checked settings.
        out: Run directory; None: `experiments/<study>/<run>`, one for each config.
        device: `"cpu"`, `"cuda"`, or `"auto"` (CUDA where there is one).
        large: Whether work beyond reason is meant, see `effort.refuse_beyond_reason`.

    Raises:
        config.reader.ConfigError: The config is refused.
        device.DeviceError: CUDA was asked for and there is none.
        data.files.DataError: The data set cannot be had.
        runs.store.RunStoreError: The directory cannot be used, or holds a run with another config.
    """
    settings = config
    if not isinstance(settings, Section):
        settings = read_config(config, study.settings, study.name)
    if not large:
        refuse_beyond_reason(settings)
    out = default_directory(study, settings) if out is None else Path(out)
    return study.opens(study, settings, out, chosen_device(device))


def default_directory(study: Study, settings: Section) -> Path:
    """`experiments/<study>/<run>`, one for each config: the same config finds its run again."""
    digest = hashlib.sha256(settings.model_dump_json().encode()).hexdigest()[:8]
    return RUNS / study.name / f"{study.run_name(settings)}-{digest}"


class PartError(RuntimeError):
    """A part of a study failed. What does not need it was done, and the page says what failed.

    The message says which part, why and where; `__cause__` is the error itself.
    """


class Stopped(KeyboardInterrupt):
    """The work was stopped from outside; in a notebook it is a sentence, not a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


def measure(work: Work, *names: str) -> None:
    """Does the parts called `names`, by default all, in order, and writes the page after each.

    Where a part fails, those that do not need it are done all the same. Of a single part its own
    error is raised.

    Raises:
        ValueError: The study has no part of this name.
        PartError: Parts failed.
        runs.store.RunStoreError: What is in the directory cannot be used.
        files.WriteError: The disk is full, or the directory cannot be written.
        Stopped: By Ctrl-C or a signal.
    """
    for name in names:
        if name not in work.study.parts:
            parts = ", ".join(work.study.parts)
            raise ValueError(f"{work.study.name} has no part {name!r}; allowed: {parts}")
    failed: dict[str, Exception] = {}
    for name in names or work.study.parts:
        if needed := [one for one in _needs(work.study, name) if one in failed]:
            tqdm.write(f"{name}: not done, for it needs {', '.join(needed)}")
            continue
        try:
            _do_part(work, name)
        except (ConfigError, DataError, RunStoreError, WriteError):
            raise  # no other part would fare better
        except KeyboardInterrupt as stop:
            raise Stopped(_stopped(work, stop)) from None
        except Exception as error:
            failed[name] = error
            work.results.setdefault("failures", {})[name] = _told(error)
            tqdm.write(f"{name}: failed, {_told(error)}")
            work.write()
        page(work)
    if failed and len(names) == 1:
        raise failed[names[0]]
    if failed:
        said = "; ".join(f"the part {name} failed, {_told(e)}" for name, e in failed.items())
        raise PartError(
            f"{said}. What else could be done is done, and in {work.store.directory}; the same"
            " call tries again"
        ) from next(iter(failed.values()))


def _do_part(work: Work, name: str) -> None:
    part = work.study.parts[name]
    work.part = name, part
    with timed(work, name) as tick, blaming_results(work):
        for key, found in part.measure(work):
            part.put(work, key, found)
            tick()
    if failures := work.results.pop("failures", {}):
        others = {key: why for key, why in failures.items() if key != name}
        work.results |= {"failures": others} if others else {}


def _needs(study: Study, name: str) -> Sequence[str]:
    """The parts without which a part cannot be done."""
    names = list(study.parts)
    needs = study.parts[name].needs
    return names[: names.index(name)] if needs is None else needs


def _told(error: Exception) -> str:
    """What failed, why, and in which line of which file."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    why = " ".join(str(error).split()) or "no reason given"
    return f"{type(error).__name__}: {why} ({Path(last.filename).name}, line {last.lineno})"


def _stopped(work: Work, stop: KeyboardInterrupt) -> str:
    by = f" by {stop}" if str(stop) else ""
    return (
        f"stopped{by}; what was found is in {work.store.directory}, and the same call goes on where"
        " this one left off"
    )


@contextmanager
def blaming_results(work: Work) -> Iterator[None]:
    """Where results that were read had no digest, what fails on them is their fault.

    Raises:
        runs.store.RunStoreError: In place of what their content made fail.
    """
    try:
        yield
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        if not work.store.unsealed:
            raise
        path = work.store.directory / RESULTS
        raise RunStoreError(
            f"{path} has no digest, was taken as it is, and holds what cannot be used"
            f" ({_told(error)}); restore it, or remove it: what the checkpoints do not hold is then"
            " measured again"
        ) from error


@contextmanager
def timed(work: Work, phase: str) -> Iterator[Callable[[], None]]:
    """Gives a function that writes results with the seconds so far; called on the way out too."""
    timing = work.results["timing_s"]
    since = time.perf_counter()

    def tick() -> None:
        nonlocal since
        now = time.perf_counter()
        for key in (phase, "total"):
            timing[key] = timing.get(key, 0.0) + now - since
        since = now
        work.write()

    try:
        yield tick
    finally:
        tick()


def page(work: Work) -> Path:
    """Writes the report as far as the work has come, and returns its path."""
    study, results = work.study, finite(work.results)
    with blaming_results(work):
        sections = study.figures(results, work.traces)
        found = study.findings(results)
    own = results.get("own_optimizers")  # which the config does not tell
    drawn = {drawing.key for section in sections for drawing in section.drawings}
    cards = [c if c.drawing in drawn else replace(c, drawing=None) for c in found.cards]
    return write_page(
        work.store.directory / "report.html",
        study.title(results) if callable(study.title) else study.title,
        replace(found, cards=cards),
        sections,
        running=results["status"] == "running",
        failures=[*results.get("failures", {}).items()],
        context=[
            *_config_tables(results["config"]),
            *([("Optimizers from Python", key_values(own))] if own else []),
            ("Environment", key_values(results["environment"])),
            ("Time", seconds(results["timing_s"])),
        ],
    )


def _config_tables(config: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """(caption, rows), a table a section; keys that stand outside all sections come first."""
    sections = {name: value for name, value in config.items() if isinstance(value, Mapping)}
    alone = {name: value for name, value in config.items() if name not in sections}
    tables = [("Config", alone), *((f"Config: {name}", s) for name, s in sections.items())]
    return [(caption, key_values(section)) for caption, section in tables if section]


def finish(work: Work) -> Path:
    """Marks the work complete, writes its report, gives its directory free, returns the path.

    Call it last: what was not measured by then is missing from a report that calls itself finished.
    Where a part failed the work is not complete, and the report says so.
    """
    if not work.results.get("failures"):
        work.results["status"] = "complete"
    report = page(work)
    work.write()
    work.store.close()
    return report


def run_study(
    study: Study,
    config: str | os.PathLike[str] | Section,
    out: str | os.PathLike[str] | None = None,
    device: str = "auto",
    large: bool = False,
) -> Path:
    """All of it: opens, measures, finishes; returns the report's path.

    Raises as `open_work` and `measure`.
    """
    work = open_work(study, config, out, device, large)
    try:
        measure(work)
        return finish(work)
    finally:
        work.store.close()


def settings_text(work: Work) -> str:
    """The settings as a notebook shows them, with the directory."""
    return f"{work.settings.model_dump_json(indent=2)}\n{work.store.directory}"
