"""Does a run survive kills, damage, a full disk and company, or say what is wrong?

    .venv/bin/python benchmarks/reliability.py [--kills 20] [--seed 1]

Two small studies, a run on a few images of MNIST and a plain study. Each is done once undisturbed.
Then it is disturbed, started again with the same command, and compared: weights, traces and results
to the bit (times and environment aside). An outcome is "same results as undisturbed", or "refused"
with the sentence; where the sentence says what to do, that is done, and it must then be the same.
Exit status 1 where an outcome is neither.
"""

import argparse
import contextlib
import errno
import io
import json
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
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from degeneracy import files
from degeneracy.study import measure, open_work
from experiment import main as experiment
from studies import find

PROJECT = Path(__file__).resolve().parents[1]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
SAME, REFUSED, FAILED = "same results as undisturbed", "refused", "FAILED"
RUN = {
    "study": "phase_transitions",
    "experiment": {
        "hidden_nodes": [16],
        "hidden_layers": [1],
        "num_epochs": 4,
        "optimizer": ["sgd", "ngd"],
        "experiment_type": "swap",
        "cut_off_epochs": 2,
    },
    "data": {"root": str(PROJECT / "data"), "num_train_images": 600, "num_test_images": 300}
    | {"batch_size": 60, "num_hessian_batches": 2, "num_probes": 4},
    "devinterp": {"sampler": "sgld", "num_draws": 60},
    "curvature": {"num_probes": 2, "num_steps": 5, "num_gap_probes": 2, "num_eigenvalues": 3},
}
SHORT = {"num_chains": 16, "num_draws": 400, "num_burnin_steps": 200}
PLAIN = {
    "study": "min_singular_models",
    "linear": {"num_weights": 20, "ranks": [5, 10], "num_samples": 60, **SHORT},
    "normal_crossings": {"exponents": [[1], [1, 1]], "nbeta": 30, "localization": 3, **SHORT},
    "deep_linear": {"networks": [{"widths": [4, 2, 4], "rank": 2}], "nbeta_ratio": 100, **SHORT},
    "spectrum": {"num_probes": 4, "num_steps": 10},
}
FIRST = {"phase_transitions": ("train", "llc"), "min_singular_models": ("linear",)}


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

    def __init__(self, folder: Path):
        self.folder, self.number = folder, 0
        self.configs = {config["study"]: self.config_file(config) for config in (RUN, PLAIN)}
        self.whole = {study: folder / f"{study}-whole" for study in self.configs}
        self.seconds: dict[str, float] = {}  # from the directory's first file to the end
        for study, out in self.whole.items():
            with self.opened(study, out) as process:
                since = time.monotonic()
                process.wait()
            self.seconds[study] = time.monotonic() - since
            assert process.returncode == 0, f"{study} undisturbed: {process.stderr.read()}"
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
        return self._stopped(study, seed=7)

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
        said = next((line for line in sentences(ended.said) if "UserWarning" in line), "")
        said = said.partition("UserWarning: ")[2].replace(str(out), "RUN")
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


def rows(bench: Bench, num_kills: int, seed: int) -> Iterator[Row]:
    """The whole table."""
    rng = random.Random(seed)
    for study in bench.configs:
        yield from kills(bench, study, num_kills // 2, rng)
    for study in bench.configs:
        yield from corruptions(bench, study, rng)
        yield from company(bench, study)
        yield from full_disk(bench, study, rng)
    yield from no_network(bench)
    yield from no_memory(bench)


def main() -> int:
    """Prints the table; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="in all, half of each study")
    parser.add_argument("--seed", type=int, default=1, help="of moments and places")
    options = parser.parse_args()
    torch.set_num_threads(1)  # as the processes that it starts
    failed = count = 0
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        print("| case | what was done | outcome |\n| --- | --- | --- |", flush=True)
        for row in rows(bench, options.kills, options.seed):
            print(f"| {' | '.join(row)} |", flush=True)
            count += 1
            failed += FAILED in row.outcome
    print(f"\n{count} cases, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
