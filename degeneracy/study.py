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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from degeneracy.config.reader import read_config
from degeneracy.config.section import Section
from degeneracy.device import chosen_device
from degeneracy.report.page import Findings, write_page
from degeneracy.report.page import Section as Figures
from degeneracy.report.tables import key_values, seconds
from degeneracy.runs.store import RunStore, finite
from degeneracy.runs.work import PROJECT, Part, Work, new_results, note_environment

RUNS = PROJECT / "experiments"


def open_plain(study: "Study", settings: Section, out: Path, device: torch.device) -> Work:
    """Opens the directory of a study that keeps what it finds under `results["parts"]`."""
    config = settings.model_dump(mode="json")
    store = RunStore(out, {"study": study.name, **config})
    try:
        fresh = {**new_results(study.name, config, study.parts), "parts": {}}
        results = store.read_results() or fresh
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
) -> Work:
    """Opens a study's run directory, with all that an earlier call left there.

    Args:
        study: What is studied.
        config: A JSON file, or its checked settings.
        out: Run directory; None: `experiments/<study>/<run>`, one for each config.
        device: `"cpu"`, `"cuda"`, or `"auto"` (CUDA where there is one).

    Raises:
        config.reader.ConfigError: The config is refused.
        device.DeviceError: CUDA was asked for and there is none.
        data.files.DataError: The data set cannot be had.
        runs.store.RunStoreError: The directory cannot be used, or holds a run with another config.
    """
    settings = config
    if not isinstance(settings, Section):
        settings = read_config(config, study.settings, study.name)
    out = default_directory(study, settings) if out is None else Path(out)
    return study.opens(study, settings, out, chosen_device(device))


def default_directory(study: Study, settings: Section) -> Path:
    """`experiments/<study>/<run>`, one for each config: the same config finds its run again."""
    digest = hashlib.sha256(settings.model_dump_json().encode()).hexdigest()[:8]
    return RUNS / study.name / f"{study.run_name(settings)}-{digest}"


def measure(work: Work, *names: str) -> None:
    """Does the parts called `names`, by default all, in order, and writes the page after each.

    Raises:
        ValueError: The study has no part of this name.
    """
    for name in names or work.study.parts:
        if name not in work.study.parts:
            parts = ", ".join(work.study.parts)
            raise ValueError(f"{work.study.name} has no part {name!r}; allowed: {parts}")
        part = work.study.parts[name]
        work.part = name, part
        with timed(work, name) as tick:
            for key, found in part.measure(work):
                part.put(work, key, found)
                tick()
        page(work)


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
    sections = study.figures(results, work.traces)
    own = results.get("own_optimizers")  # which the config does not tell
    drawn = {drawing.key for section in sections for drawing in section.drawings}
    found = study.findings(results)
    cards = [c if c.drawing in drawn else replace(c, drawing=None) for c in found.cards]
    return write_page(
        work.store.directory / "report.html",
        study.title(results) if callable(study.title) else study.title,
        replace(found, cards=cards),
        sections,
        running=results["status"] == "running",
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
    """
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
) -> Path:
    """All of it: opens, measures, finishes; returns the report's path. Raises as `open_work`."""
    work = open_work(study, config, out, device)
    try:
        measure(work)
        return finish(work)
    finally:
        work.store.close()


def settings_text(work: Work) -> str:
    """The settings as a notebook shows them, with the directory."""
    return f"{work.settings.model_dump_json(indent=2)}\n{work.store.directory}"
