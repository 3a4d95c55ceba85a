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
import warnings

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


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


def opened(out, seed=1, **changed):
    config = json.loads(json.dumps(CONFIG))
    config["experiment"] |= {"seed": seed, **changed.pop("experiment", {})}
    own = {"models": {"mine": linear}, "data": DataSplits(images(48, 0), images(24, 1))} | changed
    settings, cpu = parse_config(config, Config), torch.device("cpu")
    return new_run(STUDY, settings, out, cpu, **own)


def done(out, seed=1, parts=(), **changed):
    """What a run found, once it has come to its end or has done these parts."""
    run = opened(out, seed, **changed)
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
AGAIN = [("traces.npz", how) for how in ("flipped", "truncated", "empty", "foreign")]
REFUSED = [
    *[("config.json", how) for how in ("flipped", "truncated", "empty", "foreign")],
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


@pytest.mark.parametrize(("name", "how"), AGAIN)
def test_traces_that_are_not_sound_are_measured_again(stopped, foreign, whole, name, how):
    damaged(stopped / name, how, foreign)
    with pytest.warns(UserWarning, match=r"traces\.npz cannot be used.*measured again"):
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
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                traces = store.read_traces()
            if said:
                continue
            assert traces.keys() == {point}, place
            assert traces[point].tolist() == [0.0, 1.0, 2.0], place
    store.close()


# ---- swaps: sound files of another making --------------------------------------------------------


def unsealed(out, change):
    """Changes the stopped run's results and removes their digest, as somebody would by hand."""
    path = out / "results.json"
    results = json.loads(path.read_text())
    del results["sha256"]
    change(results, results["models"]["mine"])
    path.write_text(json.dumps(results))


def series_of_sgd(model):
    return model["optimizers"]["sgd"]


CHANGES = {
    "nbeta": lambda results, model: results.update(nbeta=1),
    "train_size": lambda results, model: results.update(train_size=47),
    "no train_size": lambda results, model: results.pop("train_size"),
    "not finite": lambda results, model: series_of_sgd(model).update(llc=[float("nan")] * 3),
    "a word": lambda results, model: series_of_sgd(model).update(train_loss=["low"] * 3),
    "too short": lambda results, model: series_of_sgd(model).update(llc=[None]),
    "no series": lambda results, model: model.update(optimizers={"sgd": []}),
    "no optimizers": lambda results, model: results.pop("optimizers"),
    "no models": lambda results, model: results.pop("models"),
    "no config": lambda results, model: results.pop("config"),
    "a grid of another type": lambda results, model: model.update(llc_grid=[1]),
    "chains": lambda results, model: series_of_sgd(model).update(llc_chains=[[1], None, None]),
}


@pytest.mark.parametrize("how", CHANGES)
def test_results_that_do_not_fit_what_is_asked_are_not_taken(stopped, whole, how):
    unsealed(stopped, CHANGES[how])
    with pytest.warns(UserWarning, match=r"results\.json cannot be read.*measured again"):
        assert done(stopped) == whole


@pytest.mark.parametrize("files", [("results.json",), ("results.json", "results.previous.json")])
@pytest.mark.parametrize("content", [b"[" * 200_000, b"{}", b'{"models": 3}'])
def test_results_of_no_use_are_made_again_from_the_checkpoints(stopped, whole, files, content):
    for name in files:
        (stopped / name).write_bytes(content)
    with pytest.warns(UserWarning, match="measured again"):
        assert done(stopped) == whole


def traces_of(out, change):
    """Writes the stopped run's traces again, changed and with a seal that fits."""
    run = opened(out)
    run.store.write_traces({point: change(trace) for point, trace in run.traces.items()})
    run.store.close()


@pytest.mark.parametrize(
    "change",
    [
        lambda trace: trace[:, :-1],
        lambda trace: trace[:1],
        lambda trace: trace.ravel(),
        lambda trace: np.full_like(trace, np.nan),
        lambda trace: trace.astype(int),
    ],
)
def test_traces_that_are_not_of_this_estimate_are_measured_again(stopped, whole, change, capsys):
    traces_of(stopped, change)
    assert done(stopped) == whole
    assert "do not fit what was asked for or found there" in capsys.readouterr().out


def test_a_network_of_another_size_under_the_right_name_is_trained_again(stopped, whole, tmp_path):
    def wider():
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.Linear(5, 3))

    run = opened(tmp_path / "wider", models={"mine": wider})
    measure(run, "train")
    run.store.close()
    for path in (tmp_path / "wider" / "checkpoints").iterdir():
        shutil.copy(path, stopped / "checkpoints" / path.name)
    assert done(stopped) == whole


@pytest.mark.parametrize("key", ["diverged", "train_loss", "logged", "num_restarts"])
def test_a_checkpoint_whose_record_lacks_a_field_is_trained_again(stopped, whole, key):
    run, point = opened(stopped), Point("mine", "sgd", 1)
    there = run.store.load_checkpoint(point)
    record = {name: value for name, value in there.record.items() if name != key}
    run.store.save_checkpoint(point, there._replace(record=record))
    run.store.close()
    assert done(stopped) == whole


def renamed(tensors):
    """State under a name that no parameter has."""
    return {name.replace("optimizer.0", "optimizer.first"): one for name, one in tensors.items()}


def reshaped(tensors):
    """State of a network that is half as wide."""
    return {
        name: one[: len(one) // 2] if name.startswith("optimizer.") and one.ndim else one
        for name, one in tensors.items()
    }


@pytest.mark.parametrize(
    ("optimizer", "change", "said"),
    [
        ("ngd", renamed, r"ngd-0002\.safetensors does not fit mine NGD"),
        ("ngd", reshaped, r"ngd-0002\.safetensors does not fit mine NGD \(.* of shape"),
        ("sgd", reshaped, r"the epoch after .*sgd-0002\.safetensors failed .* is of another shape"),
    ],
)
def test_a_state_that_the_optimizer_cannot_take_is_a_sentence(tmp_path, optimizer, change, said):
    last = Point("mine", optimizer, 2)
    three = {"num_epochs": 3, "cut_off_epochs": 1}
    run = opened(tmp_path / "three", experiment=three)
    measure(run, "train")
    there = run.store.load_checkpoint(last)
    run.store.save_checkpoint(last, there._replace(tensors=change(there.tensors)))
    run.store.checkpoint_path(last._replace(epoch=3)).unlink()
    run.store.close()
    with pytest.raises(RunStoreError, match=said):
        done(tmp_path / "three", experiment=three)


# ---- data of one's own ---------------------------------------------------------------------------


def test_other_data_in_a_directory_is_refused_and_the_same_goes_on(stopped, whole):
    other = DataSplits(images(48, 5), images(24, 1))
    with pytest.raises(RunStoreError, match=r"a run on other data \(data of your own, .*there"):
        opened(stopped, data=other)
    assert done(stopped) == whole


def test_a_checkpoint_on_other_data_is_not_taken_even_without_results(stopped, whole, tmp_path):
    other = opened(tmp_path / "other", data=DataSplits(images(48, 5), images(24, 1)))
    measure(other, "train")
    other.store.close()
    for path in (tmp_path / "other" / "checkpoints").iterdir():
        shutil.copy(path, stopped / "checkpoints" / path.name)
    for name in ("results.json", "results.previous.json"):
        (stopped / name).unlink()
    assert done(stopped) == whole


@pytest.mark.parametrize(
    ("train", "said"),
    [
        (TensorData(torch.full((48, 1, 4, 4), torch.nan), torch.arange(48) % 3), "not finite"),
        (images(15, 0), "15 samples given with data.batch_size 16"),
        (TensorData(torch.rand(48, 1, 4, 4), torch.arange(48) % 3 - 1), "label -1"),
        (TensorData(torch.rand(48, 1, 4, 4), torch.rand(48)), "torch.float32"),
        (
            TensorData(torch.rand(48, 1, 4, 4), torch.arange(48) % 4),
            "labels go from 0 to 3; allowed for 3",
        ),
    ],
)
def test_data_that_cannot_be_trained_on_is_refused_before_a_directory_is_made(
    tmp_path, train, said
):
    with pytest.raises(ValueError, match=said):
        opened(tmp_path / "run", data=DataSplits(train, images(24, 1)))
    assert not (tmp_path / "run").exists()


def test_a_test_label_beyond_the_outputs_is_refused_before_a_directory_is_made(tmp_path):
    test = images(24, 1)
    test.labels[20] = 3
    with pytest.raises(ValueError, match=r"data\.test: label 3 given with the 3 outputs of the mo"):
        opened(tmp_path / "run", data=DataSplits(images(48, 0), test))
    assert not (tmp_path / "run").exists()


# ---- titles --------------------------------------------------------------------------------------


@pytest.mark.parametrize("title", ["", " ", "a\0b", "\ud800", "\x1b[31m", "a\nb", "m" * 151, 3])
def test_a_title_that_no_file_or_page_can_show_is_refused_before_anything_is_made(tmp_path, title):
    with pytest.raises(ValueError, match=r"models: .*allowed: 1 to 150 printable characters"):
        opened(tmp_path / "run", models={title: linear})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("title", ["=1+1", "m" * 150, "λ/λ", "@mine.npy"])
def test_a_title_that_is_allowed_can_be_reopened(tmp_path, title):
    for _ in range(2):
        run = opened(tmp_path / "run", models={title: linear})
        measure(run)
        run.store.close()
    assert [point.title for point in run.traces] == [title] * len(CHECKPOINTS)


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
