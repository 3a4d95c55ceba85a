"""Whatever happens to a run, it ends as an undisturbed one, or a sentence says what to do.

`benchmarks/reliability.py` does the same to whole studies, with kills at random moments.
"""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from degeneracy import files
from degeneracy.config.reader import parse_config
from degeneracy.data.images import DataSplits, TensorData
from degeneracy.files import WriteError, write_atomically
from degeneracy.report.page import Findings
from degeneracy.runs.config import Config
from degeneracy.runs.measurements import LLC
from degeneracy.runs.run import load_weights, new_run
from degeneracy.runs.store import Point, RunStore, RunStoreError
from degeneracy.runs.training import TRAIN
from degeneracy.study import Study, finish, measure

CONFIG = {
    "experiment": {"num_epochs": 2, "cut_off_epochs": 1},
    "data": {"batch_size": 16},
    "devinterp": {"sampler": "sgld", "num_draws": 8},
}
STUDY = Study(
    name="tiny",
    question="Does it survive?",
    minutes=0,
    title="Tiny",
    settings=Config,
    parts={"train": TRAIN, "llc": LLC},
    figures=lambda results, traces: [],
    findings=lambda results: Findings([]),
)
CHECKPOINTS = [("sgd", 0), ("sgd", 1), ("sgd", 2), ("ngd", 2)]
LAST = "checkpoints/" + Point("mine", "ngd", 2).file_name
FIRST = "checkpoints/" + Point("mine", "sgd", 0).file_name


def images(size: int, seed: int) -> TensorData:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(size) % 3
    return TensorData(torch.rand(size, 1, 4, 4, generator=generator), labels)


def opened(out, seed=1):
    config = json.loads(json.dumps(CONFIG))
    config["experiment"]["seed"] = seed
    models = {"mine": lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 3))}
    data = DataSplits(images(48, 0), images(24, 1))
    settings, cpu = parse_config(config, Config), torch.device("cpu")
    return new_run(STUDY, settings, out, cpu, models=models, data=data)


def done(out, seed=1, parts=()):
    """What a run found, once it has come to its end or has done these parts."""
    run = opened(out, seed)
    try:
        measure(run, *parts)
        if not parts:
            finish(run)
    finally:
        run.store.close()
    results = json.loads((out / "results.json").read_text())
    with np.load(out / "traces.npz") if not parts else {} as traces:
        sampled = {name: traces[name].tolist() for name in traces}
    weights = {path.name: path.read_bytes() for path in (out / "checkpoints").iterdir()}
    return results["models"], sampled, weights


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What an undisturbed run found."""
    return done(tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that was stopped between training and measuring, with another run's traces."""
    out = tmp_path_factory.mktemp("trained") / "run"
    run = opened(out)
    measure(run, "train")
    run.part = "llc", LLC
    point, found = next(iter(LLC.measure(run)))
    LLC.put(run, point, found)
    run.write()
    run.store.close()
    return out


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """The finished run of another seed."""
    out = tmp_path_factory.mktemp("foreign") / "run"
    done(out, seed=2)
    return out


@pytest.fixture
def stopped(trained, tmp_path):
    """A copy of the stopped run."""
    return shutil.copytree(trained, tmp_path / "run")


def damaged(path, how, foreign):
    content = bytearray(path.read_bytes())
    if how == "foreign":
        shutil.copy(foreign / path.parent.name / path.name, path) if (
            path.parent.name == "checkpoints"
        ) else shutil.copy(foreign / path.name, path)
    elif how == "deleted":
        path.unlink()
    else:
        flipped = content.copy()
        flipped[len(content) // 2] ^= 0x80
        path.write_bytes({"truncated": content[:-30], "empty": b"", "flipped": flipped}[how])


HEALS = [
    *[(name, how) for name in (FIRST, LAST) for how in ("flipped", "foreign")],
    *[(name, how) for name in (FIRST, LAST) for how in ("truncated", "empty", "deleted")],
    *[("results.previous.json", how) for how in ("flipped", "truncated", "empty", "deleted")],
    ("results.previous.json", "foreign"),
    *[("report.html", how) for how in ("flipped", "truncated", "empty", "deleted")],
    *[("traces.npz", "deleted"), ("config.json", "deleted"), (".lock", "deleted")],
]
WARNS = [("results.json", how) for how in ("flipped", "truncated", "empty", "deleted")]
REFUSED = [
    *[("config.json", how) for how in ("flipped", "truncated", "empty", "foreign")],
    *[("traces.npz", how) for how in ("flipped", "truncated", "empty", "foreign")],
    ("results.json", "foreign"),
]


@pytest.mark.parametrize(("name", "how"), HEALS)
def test_what_can_be_made_again_is_made_again(stopped, foreign, whole, name, how):
    damaged(stopped / name, how, foreign)
    assert done(stopped) == whole


@pytest.mark.parametrize(("name", "how"), WARNS)
def test_damaged_results_cost_one_step_and_a_warning(stopped, foreign, whole, name, how):
    damaged(stopped / name, how, foreign)
    with pytest.warns(UserWarning, match=r"goes on from results\.previous\.json"):
        assert done(stopped) == whole


@pytest.mark.parametrize(("name", "how"), REFUSED)
@pytest.mark.filterwarnings("ignore:.*goes on from results.previous.json")
def test_what_cannot_is_refused_and_doing_as_told_ends_well(stopped, foreign, whole, name, how):
    saved = (stopped / name).read_bytes()
    damaged(stopped / name, how, foreign)
    with pytest.raises(RunStoreError, match=r"remove it|name another directory"):
        done(stopped)
    if name == "config.json":
        (stopped / name).write_bytes(saved)
    else:
        (stopped / name).unlink()
    assert done(stopped) == whole


def test_another_epochs_checkpoint_is_not_taken_for_this_ones(stopped, whole):
    shutil.copy(stopped / FIRST, stopped / LAST)
    assert done(stopped) == whole


def test_without_config_and_results_checkpoints_are_nobodys(stopped):
    for name in ("config.json", "results.json", "results.previous.json"):
        (stopped / name).unlink()
    with pytest.raises(RunStoreError, match=r"config\.json is gone.*restore it"):
        opened(stopped)


def test_without_config_another_one_is_refused_by_the_results(stopped):
    (stopped / "config.json").unlink()
    with pytest.raises(RunStoreError, match=r"another config \(experiment\.seed: 1 there, 2 now"):
        opened(stopped, seed=2)
    assert not (stopped / "config.json").exists()


def test_a_checkpoint_that_is_gone_when_it_is_needed_is_named(stopped):
    run = opened(stopped)
    (stopped / LAST).unlink()
    with pytest.raises(RunStoreError, match=r"ngd-0002\.safetensors is gone or damaged; do the"):
        load_weights(run, run.models["mine"](), Point("mine", "ngd", 2))
    run.store.close()


def test_any_flipped_bit_of_the_traces_is_noticed_or_changes_nothing(tmp_path):
    store = RunStore(tmp_path, {"study": "tiny"})
    point = Point("mine", "sgd", 1)
    store.write_traces({point: np.arange(3.0)})
    path = tmp_path / "traces.npz"
    content = path.read_bytes()
    for place in range(len(content)):
        for bit in (1, 4, 128):
            flipped = bytearray(content)
            flipped[place] ^= bit
            path.write_bytes(flipped)
            try:
                traces = store.read_traces()
            except RunStoreError:
                continue
            assert traces.keys() == {point}, place
            assert traces[point].tolist() == [0.0, 1.0, 2.0], place
    store.close()


# ---- company -------------------------------------------------------------------------------------


def test_a_second_process_is_refused_and_the_first_goes_on(tmp_path, whole):
    out = tmp_path / "run"
    run = opened(out)
    measure(run, "train")
    config = (out / "config.json").read_text()
    script = (
        "import json, sys; from degeneracy.runs.store import RunStore;"
        " RunStore(sys.argv[1], json.loads(sys.argv[2]))"
    )
    command = [sys.executable, "-c", script, out, config]
    second = subprocess.run(command, capture_output=True, text=True)
    assert "in use by another process; wait for it" in second.stderr
    measure(run, "llc")
    finish(run)
    assert done(out) == whole


def test_a_process_whose_lock_was_removed_writes_no_more(tmp_path):
    store = RunStore(tmp_path, {"study": "tiny"})
    store.write_results({"llc": 1})
    (tmp_path / ".lock").unlink()
    for write in (
        lambda: store.write_results({"llc": 2}),
        lambda: store.write_traces({}),
        lambda: store.save_checkpoint(Point("mine", "sgd", 1), None),
    ):
        with pytest.raises(RunStoreError, match=r"\.lock was removed"):
            write()
    assert json.loads((tmp_path / "results.json").read_text())["llc"] == 1
    store.close()


# ---- a full disk ---------------------------------------------------------------------------------


@pytest.mark.parametrize("count", range(0, 24, 3))
def test_on_a_full_disk_a_sentence_says_so_and_with_room_it_goes_on(
    tmp_path, whole, monkeypatch, count
):
    usual, left = os.fsync, [count]

    def fsync(handle):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        usual(handle)

    out = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(files.os, "fsync", fsync)
        with pytest.raises((WriteError, RunStoreError), match="No space left on device"):
            done(out)
    assert not list(out.rglob("*.partial"))
    assert done(out) == whole


def test_a_limit_on_files_is_a_sentence_that_names_the_file_which_stays_as_it_was(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(WriteError, match=r"cannot write .*file \(File too large\).*make room"):
            write_atomically(path, b"new" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
