"""Does a run survive kills, damage, swaps, bad inputs and a full disk, or say what is wrong?

    .venv/bin/python benchmarks/reliability.py [--kills 20] [--seed 1] [--only swaps inputs …]
                                              [--studies ngd_sgd]

Two small studies, a run of `ngd_sgd` on MNIST and a plain study. Each is done once undisturbed.
Then it is disturbed, started again with the same command, and compared: weights, traces and results
to the bit (times and environment aside). An outcome is "same results as undisturbed", or "refused"
with the sentence; where the sentence says what to do, that is done, and it must then be the same.
Results whose digest somebody removed are "other results, said so". Exit status 1 where an outcome
is none of these: something silently different, a traceback, or no word.
"""

import argparse
import contextlib
import errno
import io
import json
import math
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from degeneracy import files
from degeneracy.config.reader import parse_config
from degeneracy.data.images import DataSplits, TensorData
from degeneracy.runs.config import Config
from degeneracy.runs.store import Point, RunStore
from degeneracy.study import measure, open_work
from experiment import main as experiment
from studies import find
from studies.ngd_sgd import open_run

PROJECT = Path(__file__).resolve().parents[1]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
SAME, REFUSED, FAILED = "same results as undisturbed", "refused", "FAILED"
SAID_SO = "other results, said so"
RUN = {
    "study": "ngd_sgd",
    "experiment": {
        "hidden_nodes": [16],
        "hidden_layers": [1],
        "num_epochs": 2,
        "cut_off_epochs": 1,
        "robustness": False,
    },
    "data": {"dataset": "mnist", "root": str(PROJECT / "data"), "batch_size": 1_000}
    | {"num_hessian_batches": 1, "num_probes": 3},
    "devinterp": {"sampler": "sgld", "num_draws": 20},
}
SHORT = {"num_chains": 16, "num_draws": 400, "num_burnin_steps": 200}
PLAIN = {
    "study": "min_singular_models",
    "linear": {"num_weights": 20, "ranks": [5, 10], "num_samples": 60, **SHORT},
    "normal_crossings": {"exponents": [[1], [1, 1]], "nbeta": 30, "localization": 3, **SHORT},
    "deep_linear": {"networks": [{"widths": [4, 2, 4], "rank": 2}], "nbeta_ratio": 100, **SHORT},
    "spectrum": {"num_probes": 4, "num_steps": 10},
}
PARTS = ("kills", "signals", "damage", "swaps", "inputs", "company", "disk", "machine")
FIRST = {"ngd_sgd": ("train", "llc"), "min_singular_models": ("linear",)}


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    said: str  # on stderr


class Row(NamedTuple):
    """A line of the table."""

    case: str
    done: str
    outcome: str


class Bench:
    """The two studies undisturbed, and a folder for everything."""

    def __init__(self, folder: Path, studies: Container[str]):
        self.folder, self.number = folder, 0
        asked = [config for config in (RUN, PLAIN) if config["study"] in studies]
        self.configs = {config["study"]: self.config_file(config) for config in asked}
        self.whole = {study: folder / f"{study}-whole" for study in self.configs}
        self.seconds: dict[str, float] = {}  # from the directory's first file to the end
        for study, out in self.whole.items():
            with self.opened(study, out) as process:
                since = time.monotonic()
                process.wait()
            self.seconds[study] = time.monotonic() - since
            assert process.returncode == 0, f"{study} undisturbed: {process.stderr.read()}"
        self._foreign: dict[str, Path] = {}
        self.stopped = {study: self._stopped(study) for study in self.configs}

    def config_file(self, config: dict) -> Path:
        """A config as a file."""
        self.number += 1
        path = self.folder / f"config-{self.number}.json"
        path.write_text(json.dumps(config))
        return path

    def command(self, study: str, out: Path) -> list[str]:
        """What a user types."""
        command = [sys.executable, str(PROJECT / "experiment.py"), str(self.configs[study])]
        return [*command, "--device", "cpu", "--out", str(out)]

    def opened(self, study: str, out: Path) -> subprocess.Popen:
        """The command as a process that has opened its directory."""
        process = subprocess.Popen(
            self.command(study, out),
            cwd=PROJECT,
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        while not (out / "config.json").exists() and process.poll() is None:
            time.sleep(0.01)
        return process

    def fresh(self) -> Path:
        """A directory that is not there yet."""
        self.number += 1
        return self.folder / f"run-{self.number}"

    def copy(self, study: str) -> Path:
        """A run that stopped after its first parts."""
        return Path(shutil.copytree(self.stopped[study], self.fresh()))

    def _stopped(self, study: str, seed: int | None = None) -> Path:
        path = self.configs[study]
        if seed is not None:
            content = json.loads(path.read_text())
            content.setdefault("experiment" if study == RUN["study"] else "linear", {})["seed"] = (
                seed
            )
            path = self.config_file(content)
        work = open_work(find(study, path), path, self.fresh(), "cpu")
        with silence():
            measure(work, *FIRST[study])
        work.store.close()
        return work.store.directory

    def foreign(self, study: str) -> Path:
        """The same stopped run with another seed."""
        if study not in self._foreign:
            self._foreign[study] = self._stopped(study, seed=7)
        return self._foreign[study]

    def again(self, study: str, out: Path) -> str:
        """The outcome of the same command in this process, and of what its sentence asks for."""
        return self.judged(study, out, here(self.command(study, out)[2:]))

    def judged(self, study: str, out: Path, ended: Ended) -> str:
        """How a command that ended is called in the table."""
        if "Traceback" in ended.said or ended.status not in (0, 1, 2):
            return f"{FAILED}: status {ended.status}, {ended.said.strip()[-200:]}"
        if ended.status:
            said = " ".join(" ".join(sentences(ended.said)).split())
            said = said.replace(str(out), "RUN").replace(str(self.folder), "FOLDER")
            return f"{REFUSED}: {said}" if said else f"{FAILED}: status {ended.status}, no word"
        wrong = differences(self.whole[study], out)
        if wrong and "taken as it is" in ended.said:
            return f"{SAID_SO}: {wrong}"
        said = next((line for line in sentences(ended.said) if "UserWarning" in line), "")
        said = said.partition("UserWarning: ")[2].replace(str(out), "RUN")[:300]
        return f"{FAILED}: {wrong}" if wrong else SAME + (f", saying: {said}" if said else "")


# ---- running and comparing -----------------------------------------------------------------------


@contextlib.contextmanager
def silence() -> Iterator[io.StringIO]:
    """Keeps what is printed from the table."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        yield said


def started(command: list[str], **how) -> Ended:
    """A command in a process of its own."""
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=PROJECT, env=ENVIRONMENT, **how
    )
    return Ended(done.returncode, done.stderr)


def here(arguments: list[str]) -> Ended:
    """The command in this process, which spares its imports."""
    said = io.StringIO()
    with silence(), contextlib.redirect_stderr(said), warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, category, *_: print(
            f"{category.__name__}: {message}", file=said
        )
        try:
            status = experiment(arguments)
        except Exception as error:
            return Ended(1, f"Traceback: {type(error).__name__}: {error}")
    return Ended(status, said.getvalue())


def sentences(said: str) -> list[str]:
    """The lines of what was said, without progress bars."""
    return [line for line in re.split(r"[\r\n]+", said) if line.strip() and "%|" not in line]


def differences(whole: Path, other: Path) -> str:
    """What of a finished run differs from another; empty where nothing does."""
    found = []
    one, two = (json.loads((out / "results.json").read_text()) for out in (whole, other))
    for key in sorted((one.keys() | two.keys()) - {"timing_s", "environment", "sha256"}):
        if one.get(key) != two.get(key):
            found.append(f"results.json differs in {key}")
    names = {path.name for out in (whole, other) for path in (out / "checkpoints").iterdir()}
    for name in sorted(names):
        paths = [out / "checkpoints" / name for out in (whole, other)]
        if not all(p.exists() for p in paths) or paths[0].read_bytes() != paths[1].read_bytes():
            found.append(f"{name} differs")
    if (whole / "traces.npz").exists():
        with np.load(whole / "traces.npz") as a, np.load(other / "traces.npz") as b:
            alike = a.files == b.files and all(np.array_equal(a[k], b[k], True) for k in a.files)
        found += [] if alike else ["traces.npz differs"]
    if not (other / "report.html").exists():
        found.append("no report.html")
    return "; ".join(found)


# ---- kills ---------------------------------------------------------------------------------------


def kills(bench: Bench, study: str, count: int, rng: random.Random) -> Iterator[Row]:
    """SIGKILL at random moments of the time that the study takes, then the same command again."""
    for number in range(1, count + 1):
        out, after = bench.fresh(), rng.uniform(0, bench.seconds[study])
        with bench.opened(study, out) as process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(after)
            was_running = process.poll() is None
            process.send_signal(signal.SIGKILL)
        there = len(list(out.rglob("*.*"))) if out.exists() else 0
        done = f"SIGKILL after {after:.1f} s, {there} files there"
        done += "" if was_running else " (it had ended)"
        yield Row(f"kill {number}, {study}", done, bench.again(study, out))


# ---- damage --------------------------------------------------------------------------------------


def damaged(path: Path, how: str, foreign: Path, rng: random.Random) -> None:
    """Damages a file."""
    content = bytearray(path.read_bytes())
    if how == "truncate":
        path.write_bytes(content[: len(content) // 2])
    elif how == "flip a byte":
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "delete":
        path.unlink()
    elif how == "another run's":
        shutil.copy(foreign, path)
    elif how == "NaN in a number":
        text = content.decode()
        place = text.index('"llc"')
        digit = next(i for i in range(place, len(text)) if text[i].isdigit())
        end = next(i for i in range(digit, len(text)) if text[i] not in "0123456789.e+-")
        path.write_text(f"{text[:digit]}NaN{text[end:]}")
    elif how == "another epoch's":
        shutil.copy(next(p for p in sorted(path.parent.iterdir()) if p != path), path)


def remedied(bench: Bench, study: str, path: Path, saved: bytes, outcome: str) -> str:
    """What the sentence of a refusal says, done: a config is restored, another file removed."""
    if not outcome.startswith(REFUSED):
        return outcome
    if path.name == "config.json":
        path.write_bytes(saved)
        what = "restored"
    else:
        path.unlink()
        what = "removed"
    return f"{outcome} – {what}: {bench.again(study, path.parent)}"


def corruptions(bench: Bench, study: str, rng: random.Random) -> Iterator[Row]:
    """Every kind of damage to every kind of file of a run that stopped on its way."""
    usual = ("truncate", "flip a byte", "empty", "delete")
    of_json = (*usual, "another run's")
    plans = {"results.json": (*of_json, "NaN in a number"), "results.previous.json": of_json}
    plans["config.json"] = of_json
    if study == RUN["study"]:
        names = [path.name for path in sorted((bench.stopped[study] / "checkpoints").iterdir())]
        plans["traces.npz"] = of_json
        plans[f"checkpoints/{names[0]}"] = plans[f"checkpoints/{names[-1]}"] = (
            *of_json,
            "another epoch's",
        )
        plans["report.html"] = plans[".lock"] = ("truncate", "delete")
    foreign = bench.foreign(study)
    for name, hows in plans.items():
        for how in hows:
            out = bench.copy(study)
            path = out / name
            saved = path.read_bytes()
            damaged(path, how, foreign / name, rng)
            outcome = remedied(bench, study, path, saved, bench.again(study, out))
            yield Row(f"{Path(name).name}, {study}", how, outcome)
    out = bench.copy(study)
    (out / "notes.txt").write_text("mine")
    outcome = bench.again(study, out)
    kept = (out / "notes.txt").read_text() == "mine"
    yield Row(
        f"a file of somebody's, {study}", "added", outcome if kept else f"{FAILED}: it is gone"
    )


# ---- swaps: sound files of another making --------------------------------------------------------


def rewritten(path: Path, change: Callable[[dict], None], seal: bool = False) -> None:
    """Changes results by a function; without their digest, or with one that does not fit."""
    results = json.loads(path.read_text())
    if not seal:
        del results["sha256"]
    change(results)
    path.write_text(json.dumps(results))


def first_model(results: dict) -> dict:
    """The series of the first optimizer of a run."""
    (model,) = results["models"].values()
    return next(iter(model["optimizers"].values()))


def first_case(results: dict) -> dict:
    """The record of the first case of a plain study."""
    return next(iter(results["parts"]["linear"].values()))


def plus_ten(results: dict) -> None:
    """Adds 10 to an LLC."""
    if "models" in results:
        llcs = first_model(results)["llc"]
        llcs[-1] += 10
    else:
        first_case(results)["llc"] += 10


def not_finite(results: dict) -> None:
    """Makes an LLC NaN."""
    if "models" in results:
        first_model(results)["llc"][-1] = math.nan
    else:
        first_case(results)["llc"] = math.nan


def of_another_type(results: dict) -> None:
    """A number for a table."""
    results["models" if "models" in results else "parts"] = 3


def a_case_without_fields(results: dict) -> None:
    """An empty record, or series that are too short."""
    if "models" in results:
        first_model(results)["llc"] = [1.0]
    else:
        first_case(results).clear()


OF_RESULTS: dict[str, Callable[[dict], None]] = {
    "an LLC plus 10": plus_ten,
    "an LLC of NaN": not_finite,
    "a table of another type": of_another_type,
    "findings without fields": a_case_without_fields,
    "no config": lambda results: results.pop("config"),
    "no environment": lambda results: results.pop("environment"),
    "no times": lambda results: results.pop("timing_s"),
    "status 3": lambda results: results.update(status=3),
}
OF_RUNS: dict[str, Callable[[dict], None]] = {
    "nbeta 1": lambda results: results.update(nbeta=1),
    "train_size 7": lambda results: results.update(train_size=7),
    "no optimizers": lambda results: results.pop("optimizers"),
}


def swaps(bench: Bench, study: str) -> Iterator[Row]:
    """Files of another making, each sound by itself, in the place of this run's."""
    is_run = study == RUN["study"]
    for how, change in (OF_RESULTS | (OF_RUNS if is_run else {})).items():
        for sealed in (True, False):
            out = bench.copy(study)
            path = out / "results.json"
            saved = path.read_bytes()
            rewritten(path, change, sealed)
            done = f"{how}, {'its digest left' if sealed else 'without digest'}"
            outcome = remedied(bench, study, path, saved, bench.again(study, out))
            yield Row(f"results.json, {study}", done, outcome)
    for name in ("results.json", "config.json"):
        out = bench.copy(study)
        saved = (out / name).read_bytes()
        (out / name).write_text("[" * 200_000)
        outcome = remedied(bench, study, out / name, saved, bench.again(study, out))
        yield Row(f"{name}, {study}", "nested 200,000 deep", outcome)
    if is_run:
        yield from swapped_arrays(bench, study)


def swapped_arrays(bench: Bench, study: str) -> Iterator[Row]:
    """Checkpoints and traces of another making."""
    points = [Point("FFNN 1 HL, 16 HN", name, 2) for name in ("sgd", "ngd")]
    for what in ("another optimizer's", "without a field", "of a smaller network"):
        out = bench.copy(study)
        store = RunStore(out, json.loads((out / "config.json").read_text()))
        there = store.load_checkpoint(points[0])
        if what == "another optimizer's":
            shutil.copy(store.checkpoint_path(points[0]), store.checkpoint_path(points[1]))
        elif what == "without a field":
            record = {key: value for key, value in there.record.items() if key != "diverged"}
            store.save_checkpoint(points[0], there._replace(record=record))
        else:
            tensors = {name: t[:8] if t.ndim == 2 else t for name, t in there.tensors.items()}
            store.save_checkpoint(points[0], there._replace(tensors=tensors))
        store.close()
        yield Row(f"a checkpoint, {study}", what, bench.again(study, out))
    changes: dict[str, Callable] = {
        "a draw less": lambda trace: trace[:, 1:],
        "a chain less": lambda trace: trace[1:],
        "all NaN": lambda trace: np.full_like(trace, np.nan),
        "integers": lambda trace: trace.astype(int),
    }
    for what, change in changes.items():
        out = bench.copy(study)
        store = RunStore(out, json.loads((out / "config.json").read_text()))
        store.write_traces({p: change(trace) for p, trace in store.read_traces().items()})
        store.close()
        yield Row(f"traces.npz, {study}", what, bench.again(study, out))


# ---- bad inputs ----------------------------------------------------------------------------------


def bad_configs(study: str) -> dict[str, bytes]:
    """What is wrong with a config → the file."""
    sound = json.dumps(RUN if study == RUN["study"] else PLAIN)
    start = sound[:-1]
    found = {
        "a key twice": f'{start}, "study": "{study}"}}',
        "nested 200,000 deep": "[" * 200_000,
        "a raw escape in a key": f'{start}, "\\u001b[31m": 1}}',
        "a lone surrogate in a key": f'{start}, "\\ud800": 1}}',
        "an unknown study": '{"study": "\\u001b[31m"}',
        "a number": "3",
        "an integer of 5,000 digits": f'{start}, "more": {"9" * 5_000}}}',
    }
    if study == RUN["study"]:
        changes = {
            "root with a NUL byte": ("data", {"root": "da\0ta"}),
            "sgd_lr 1e308": ("experiment", {"sgd_lr": 1e308}),
            "sgd_swap_lr 1e300": ("experiment", {"sgd_swap_lr": 1e300}),
            "alpha 1e300": ("experiment", {"alpha": 1e300}),
            "diffusion_factor 1e300": ("devinterp", {"diffusion_factor": 1e300}),
            "sampler_lr 1e300": ("devinterp", {"sampler_lr": 1e300}),
            "sampler_lr 1e-300": ("devinterp", {"sampler_lr": 1e-300}),
            "nbeta 1e300": ("devinterp", {"nbeta": 1e300}),
            "10⁵ chains × 10⁷ draws": ("devinterp", {"num_chains": 10**5, "num_draws": 10**7}),
        }
        for what, (section, values) in changes.items():
            found[what] = json.dumps(RUN | {section: RUN[section] | values})
    else:
        linear = PLAIN["linear"]
        for what, values in {
            "nbeta 1e300": {"nbeta": 1e300},
            "10⁵ chains × 10⁷ draws": {"num_chains": 10**5, "num_draws": 10**7},
        }.items():
            found[what] = json.dumps(PLAIN | {"linear": linear | values})
    return {what: text.encode("utf-8") for what, text in found.items()} | {"empty": b""}


def inputs(bench: Bench, study: str) -> Iterator[Row]:
    """Configs that must be refused before a directory is made, and one that is only odd."""
    for what, content in bad_configs(study).items():
        path, out = bench.config_file({}), bench.fresh()
        path.write_bytes(content)
        ended = here([str(path), "--device", "cpu", "--out", str(out)])
        outcome = bench.judged(study, out, ended) if ended.status else f"{FAILED}: accepted"
        yield Row(f"a config, {study}", what, f"{FAILED}: a directory" if out.exists() else outcome)
    path, out = bench.config_file({}), bench.fresh()
    path.write_bytes(b"\xef\xbb\xbf" + bench.configs[study].read_bytes())
    ended = here([str(path), "--device", "cpu", "--out", str(out)])
    yield Row(f"a config, {study}", "a byte-order mark", bench.judged(study, out, ended))
    ended = here([str(bench.folder), "--device", "cpu", "--out", str(out)])
    yield Row(f"a config, {study}", "a directory", bench.judged(study, out, ended))
    out, target = bench.copy(study), bench.fresh()
    target.write_text("mine")
    (out / ".lock").unlink()
    (out / ".lock").symlink_to(target)
    outcome = bench.again(study, out)
    kept = target.read_text() == "mine"
    yield Row(f".lock, {study}", "a link", outcome if kept else f"{FAILED}: its target is empty")
    if study == RUN["study"]:
        yield from own_inputs(bench)


def own_inputs(bench: Bench) -> Iterator[Row]:
    """Data and titles of one's own that `open_run` must refuse before a directory is made."""
    config = parse_config({key: value for key, value in RUN.items() if key != "study"}, Config)
    pixels, labels = torch.rand(1_200, 1, 4, 4), torch.arange(1_200) % 3
    nan = pixels.clone()
    nan[3, 0, 2, 2] = math.nan
    few = pixels[:60], labels[:60]
    cases = {
        "NaN pixels": ((nan, labels), few, "mine"),
        "fewer images than a batch": (few, few, "mine"),
        "label -1": ((pixels, labels - 1), few, "mine"),
        "float labels": ((pixels, labels.float()), few, "mine"),
        "an empty test set": ((pixels, labels), (pixels[:0], labels[:0]), "mine"),
        "unequal lengths": ((pixels, labels[:-1]), few, "mine"),
        "a label beyond the outputs": ((pixels, labels + 1), few, "mine"),
        "a title with a NUL byte": ((pixels, labels), few, "mi\0ne"),
        "a title of 300 characters": ((pixels, labels), few, "m" * 300),
        "a title with a lone surrogate": ((pixels, labels), few, "\ud800"),
        "a title with an escape": ((pixels, labels), few, "\x1b[31m"),
    }
    for what, (train, test, title) in cases.items():
        out = bench.fresh()
        model = {title: lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 3))}
        data = DataSplits(TensorData(*train), TensorData(*test))
        try:
            open_run(config, out, "cpu", models=model, data=data).store.close()
            outcome = f"{FAILED}: accepted"
        except ValueError as error:
            outcome = f"{REFUSED}: {error}" if "allowed" in str(error) else f"{FAILED}: {error}"
        except Exception as error:
            outcome = f"{FAILED}: {type(error).__name__}: {error}"
        yield Row("open_run", what, f"{FAILED}: a directory" if out.exists() else outcome)


def signals(bench: Bench, study: str, rng: random.Random) -> Iterator[Row]:
    """SIGINT and SIGTERM at random moments: a sentence, then the same command again."""
    for number in (signal.SIGINT, signal.SIGTERM):
        out, after = bench.fresh(), rng.uniform(0, bench.seconds[study])
        with bench.opened(study, out) as process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(after)
            process.send_signal(number)
            _, said = process.communicate()
        outcome = bench.judged(study, out, Ended(process.returncode, said))
        if not outcome.startswith(FAILED):
            outcome += f" – again: {bench.again(study, out)}"
        yield Row(f"signal, {study}", f"{number.name} after {after:.1f} s", outcome)


# ---- company, a full disk, no network, no memory -------------------------------------------------


def company(bench: Bench, study: str) -> Iterator[Row]:
    """A second process in the same directory, then the first one's end."""
    out = bench.fresh()
    first = bench.opened(study, out)
    second = bench.again(study, out)
    _, said = first.communicate()
    yield Row(f"two processes, {study}", "the second", second)
    ended = Ended(first.returncode, said)
    yield Row(f"two processes, {study}", "the first", bench.judged(study, out, ended))


@contextlib.contextmanager
def full_after(count: int) -> Iterator[None]:
    """A disk that is full from the `count`-th file on."""
    usual, left = files.os.fsync, [2 * count]  # of a file and of its folder

    def fsync(handle: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        usual(handle)

    files.os.fsync = fsync
    try:
        yield
    finally:
        files.os.fsync = usual


def full_disk(bench: Bench, study: str, rng: random.Random) -> Iterator[Row]:
    """ENOSPC at random files, and a limit on a file's size; then again with room."""
    for count in sorted(rng.sample(range(24), 5)):
        out = bench.fresh()
        with full_after(count):
            outcome = bench.again(study, out)
        outcome += f" – with room: {bench.again(study, out)}"
        yield Row(f"full disk, {study}", f"ENOSPC after {count} files", outcome)
    out, limit = bench.fresh(), 20_000

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    ended = started(bench.command(study, out), preexec_fn=limited)
    outcome = f"{bench.judged(study, out, ended)} – with room: {bench.again(study, out)}"
    yield Row(f"full disk, {study}", f"no file above {limit:,} bytes", outcome)


def no_network(bench: Bench) -> Iterator[Row]:
    """In a network of its own that leads nowhere, with the data there and without."""
    study, alone = RUN["study"], ["unshare", "--map-root-user", "--net"]
    if subprocess.run([*alone, "true"], capture_output=True).returncode:
        yield Row("no network", "not done: unshare is not allowed here", SAME)
        return
    out = bench.fresh()
    ended = started([*alone, *bench.command(study, out)])
    yield Row("no network", "data there", bench.judged(study, out, ended))
    empty = bench.fresh()
    path = bench.config_file(RUN | {"data": RUN["data"] | {"root": str(empty)}})
    command = [
        str(path) if part == str(bench.configs[study]) else part
        for part in bench.command(study, out)
    ]
    ended = started([*alone, *command])
    yield Row("no network", "data missing", bench.judged(study, out, ended))


def no_memory(bench: Bench) -> Iterator[Row]:
    """A network that no machine holds."""
    large = {"hidden_nodes": [60_000], "hidden_layers": [100]}
    path = bench.config_file({"experiment": large})
    out = bench.fresh()
    ended = started([sys.executable, "experiment.py", str(path), "--out", str(out)])
    yield Row("no memory", "100 layers of 60,000 nodes", bench.judged(RUN["study"], out, ended))


def rows(bench: Bench, num_kills: int, seed: int, only: Container[str]) -> Iterator[Row]:
    """The table, or those of `PARTS` of it that are named in `only`."""
    rng = random.Random(seed)
    made: dict[str, Callable[[str], Iterator[Row]]] = {
        "kills": lambda study: kills(bench, study, num_kills // 2, rng),
        "signals": lambda study: signals(bench, study, rng),
        "damage": lambda study: corruptions(bench, study, rng),
        "swaps": lambda study: swaps(bench, study),
        "inputs": lambda study: inputs(bench, study),
        "company": lambda study: company(bench, study),
        "disk": lambda study: full_disk(bench, study, rng),
    }
    for part, rows_of in made.items():
        for study in bench.configs if part in only else ():
            yield from rows_of(study)
    if "machine" in only and RUN["study"] in bench.configs:
        yield from no_network(bench)
        yield from no_memory(bench)


def main() -> int:
    """Prints the table; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="in all, half of each study")
    parser.add_argument("--seed", type=int, default=1, help="of moments and places")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=PARTS, help="parts of the table"
    )
    names = [config["study"] for config in (RUN, PLAIN)]
    parser.add_argument("--studies", nargs="+", choices=names, default=names, help="which of them")
    options = parser.parse_args()
    torch.set_num_threads(1)  # as the processes that it starts
    failed = count = 0
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), options.studies)
        print("| case | what was done | outcome |\n| --- | --- | --- |", flush=True)
        for row in rows(bench, options.kills, options.seed, options.only):
            print(f"| {' | '.join(row)} |", flush=True)
            count += 1
            failed += FAILED in row.outcome
    print(f"\n{count} cases, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
