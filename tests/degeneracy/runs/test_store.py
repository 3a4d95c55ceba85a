"""The run directory: whole files or none, nothing mixed up, damage noticed."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

from degeneracy.files import write_atomically
from degeneracy.runs.store import Checkpoint, Point, RunStore, RunStoreError, _digest

CONFIG = {"experiment": {"alpha": 0.1, "seed": 1}, "data": {"root": "data"}}
POINT = Point("FFNN 2 HL, 256 HN", "sgd", 3)


@pytest.fixture
def store(tmp_path):
    store = RunStore(tmp_path / "run", CONFIG)
    yield store
    store.close()


def test_a_checkpoint_comes_back_bit_for_bit(store):
    tensors = {
        "weight": torch.randn(5, 3),
        "transposed": torch.randn(4, 2).T,
        "step": torch.tensor(7),
        "empty": torch.zeros(0),
        "double": torch.randn(2, dtype=torch.float64),
        "generator": torch.Generator().get_state(),
    }
    record = {
        "train_loss": 0.1 + 0.2,
        "diverged": False,
        "kappa": {"weight": {"0": 1e-30}},
        "cosine": {"weight": 0.5},
    }
    store.save_checkpoint(POINT, Checkpoint(tensors, record))
    there = store.load_checkpoint(POINT)
    assert there.record == record
    assert there.tensors.keys() == tensors.keys()
    assert all(torch.equal(there.tensors[name], tensor) for name, tensor in tensors.items())
    assert all(there.tensors[name].dtype == tensor.dtype for name, tensor in tensors.items())


def test_a_loaded_tensor_lies_where_pytorch_would_put_it(store):
    """Inside the file they lie at any address, and on some processors a matrix product rounds by
    that.
    """
    odd = {f"{i:03d}": torch.full((i,), 1.0) for i in range(1, 40)}
    store.save_checkpoint(POINT, Checkpoint({"a": torch.ones(1, dtype=torch.uint8), **odd}, {}))
    there = store.load_checkpoint(POINT).tensors
    assert [name for name, tensor in there.items() if tensor.data_ptr() % 64] == []
    assert len({tensor.untyped_storage().data_ptr() for tensor in there.values()}) == len(there)


def test_no_checkpoint_is_none(store):
    assert store.load_checkpoint(POINT) is None


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "text"])
def test_a_damaged_checkpoint_is_as_good_as_none(store, damage):
    store.save_checkpoint(POINT, Checkpoint({"weight": torch.ones(100)}, {"diverged": False}))
    path = store.checkpoint_path(POINT)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(
        {"flip": bytes(content), "truncate": content[:-40], "empty": b"", "text": b"not a tensor"}[
            damage
        ]
    )
    assert store.load_checkpoint(POINT) is None


def test_titles_that_look_alike_do_not_share_a_file():
    points = [Point(title, "sgd", 1) for title in ("Mine", "mine", "mine!", "mine/2", "mine 2")]
    assert len({point.file_name for point in points}) == len(points)


def test_the_same_config_opens_a_directory_again_and_another_is_refused_naming_the_key(tmp_path):
    RunStore(tmp_path, CONFIG).close()
    RunStore(tmp_path, CONFIG).close()
    other = {**CONFIG, "experiment": {"alpha": 4.0, "seed": 1}}
    with pytest.raises(RunStoreError, match=r"experiment\.alpha: 0\.1 there, 4\.0 now"):
        RunStore(tmp_path, other)


def test_a_directory_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(RunStoreError, match="neither empty nor a run directory"):
        RunStore(tmp_path, CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_path_that_cannot_be_a_directory_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunStoreError, match="cannot write the run directory"):
        RunStore(tmp_path / "file" / "run", CONFIG)


def test_a_directory_in_use_by_another_process_is_refused(store):
    script = (
        f"from degeneracy.runs.store import RunStore; RunStore({str(store.directory)!r},"
        f" {CONFIG!r})"
    )
    other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert other.returncode != 0
    assert "in use by another process" in other.stderr


def test_results_come_back_and_numbers_json_cannot_say_become_null(store):
    store.write_results({"llc": [1.5, float("nan"), None], "trace": {"x": float("inf")}})
    assert store.read_results() == {"llc": [1.5, None, None], "trace": {"x": None}}
    json.loads((store.directory / "results.json").read_text(), parse_constant=pytest.fail)


def test_traces_come_back_under_their_points(store):
    traces = {
        POINT: np.array([[1.0, np.nan]], dtype=np.float32),
        Point("A/B <x>", "ngd", 20): np.ones((2, 3), dtype=np.float32),
    }
    assert store.read_traces() == {}
    store.write_traces(traces)
    there = store.read_traces()
    assert there.keys() == traces.keys()
    for point, trace in traces.items():
        np.testing.assert_array_equal(there[point], trace)


@pytest.mark.parametrize("content", [b"{ half a file", b"", b"[]", b'"text"', b"[" * 200_000])
def test_an_unreadable_results_file_is_set_aside_and_named(store, content):
    (store.directory / "results.json").write_bytes(content)
    with pytest.warns(UserWarning, match=r"results\.json cannot be read .* is measured again"):
        assert store.read_results() is None
    assert (store.directory / "results.json.corrupt").read_bytes() == content
    assert not (store.directory / "results.json").exists()


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "text"])
def test_a_damaged_traces_file_is_set_aside_and_named(store, damage):
    store.write_traces({POINT: np.ones((2, 100))})
    path = store.directory / "traces.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(
        {"flip": bytes(content), "truncate": content[:-40], "empty": b"", "text": b"no archive"}[
            damage
        ]
    )
    with pytest.warns(UserWarning, match=r"traces\.npz cannot be used .* measured again"):
        assert store.read_traces() == {}
    assert (store.directory / "traces.npz.corrupt").exists()


# ---- whose it is ---------------------------------------------------------------------------------


def resealed(path, **changed):
    """Changes a checkpoint's seal and leaves its tensors as they are."""
    with safetensors.safe_open(path, framework="pt") as file:
        seal = json.loads(file.metadata()["checkpoint"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    seal |= changed
    seal = {key: value for key, value in seal.items() if value is not None}
    path.write_bytes(safetensors.torch.save(tensors, {"checkpoint": json.dumps(seal)}))


@pytest.mark.parametrize("other", [{"title": "B"}, {"optimizer": "ngd"}, {"epoch": 4}])
def test_another_points_checkpoint_under_the_right_name_is_none(store, other):
    there = POINT._replace(**other)
    store.save_checkpoint(there, Checkpoint({"weight": torch.ones(3)}, {"diverged": False}))
    store.checkpoint_path(there).rename(store.checkpoint_path(POINT))
    assert store.load_checkpoint(POINT) is None


@pytest.mark.parametrize(
    ("config", "data"), [({"experiment": {"seed": 2}}, ""), (CONFIG, "other data")]
)
def test_another_runs_checkpoint_and_traces_are_not_taken(store, tmp_path, config, data):
    other = RunStore(tmp_path / "other", config, data)
    other.save_checkpoint(POINT, Checkpoint({"weight": torch.ones(3)}, {"diverged": False}))
    other.write_traces({POINT: np.ones((2, 3))})
    other.close()
    for path in (store.checkpoint_path(POINT), store.directory / "traces.npz"):
        path.write_bytes((other.directory / path.relative_to(store.directory)).read_bytes())
    assert store.load_checkpoint(POINT) is None
    with pytest.warns(UserWarning, match="of a run with another config or on other data"):
        assert store.read_traces() == {}


def test_whose_a_checkpoint_is_lies_under_its_checksum(store):
    """One that is renamed inside, too, is none; so is one that does not say whose it is."""
    there = POINT._replace(epoch=4)
    store.save_checkpoint(there, Checkpoint({"weight": torch.ones(3)}, {"diverged": False}))
    path = store.checkpoint_path(there)
    resealed(path, of=store._of(POINT))
    path.rename(store.checkpoint_path(POINT))
    assert store.load_checkpoint(POINT) is None
    store.save_checkpoint(POINT, Checkpoint({"weight": torch.ones(3)}, {"diverged": False}))
    resealed(store.checkpoint_path(POINT), of=None)
    assert store.load_checkpoint(POINT) is None


def test_a_checkpoint_of_the_seal_before_is_still_read(store):
    record = json.dumps({"diverged": False})
    store.save_checkpoint(POINT, Checkpoint({"weight": torch.ones(3)}, {"diverged": False}))
    digest = _digest({"weight": torch.ones(3)}, record)  # without `of`
    resealed(store.checkpoint_path(POINT), sha256=digest)
    assert store.load_checkpoint(POINT).record == {"diverged": False}


@pytest.mark.parametrize("record", ["[]", "[" * 200_000, '"text"', "{", None, 3])
def test_a_record_that_is_no_object_is_no_checkpoint(store, record):
    store.save_checkpoint(POINT, Checkpoint({"weight": torch.ones(3)}, {}))
    changed = {"record": record}
    if isinstance(record, str):
        of = store._of(POINT)
        changed["sha256"] = _digest({"weight": torch.ones(3)}, record, of)
    resealed(store.checkpoint_path(POINT), **changed)
    assert store.load_checkpoint(POINT) is None


def test_traces_that_do_not_say_whose_they_are_are_measured_again(store):
    np.savez(store.directory / "traces.npz", **{POINT.key: np.ones((2, 3))})
    with pytest.warns(UserWarning, match="does not say whose it is.*measured again"):
        assert store.read_traces() == {}


def test_a_trace_key_that_names_no_point_is_no_traceback(store):
    store.write_traces({Point("A", "sgd", "x"): np.ones((2, 3))})
    with pytest.warns(UserWarning, match=r"traces\.npz cannot be used"):
        assert store.read_traces() == {}


# ---- the lock ------------------------------------------------------------------------------------


def test_a_link_in_place_of_the_lock_is_refused_and_its_target_left_alone(tmp_path):
    run, target = tmp_path / "run", tmp_path / "thesis.tex"
    target.write_text("mine")
    run.mkdir()
    (run / ".lock").symlink_to(target)
    with pytest.raises(RunStoreError, match=r"\.lock is not a file, but a link"):
        RunStore(run, CONFIG)
    assert target.read_text() == "mine"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_no_lock_that_is_not_a_file_is_opened(tmp_path, make):
    make(tmp_path / ".lock")
    with pytest.raises(RunStoreError, match=r"\.lock is not a file"):
        RunStore(tmp_path, CONFIG)


def test_a_locks_content_is_left_as_it_is(tmp_path):
    (tmp_path / ".lock").write_text("a note")
    RunStore(tmp_path, CONFIG).close()
    assert (tmp_path / ".lock").read_text() == "a note"


def test_a_config_written_while_waiting_for_the_lock_is_seen(tmp_path, monkeypatch):
    """Between this one's first look and its lock another process writes its config and ends."""
    other = {**CONFIG, "experiment": {"alpha": 4.0, "seed": 1}}
    claim = RunStore._claim

    def slow_claim(store):
        (tmp_path / "config.json").write_text(json.dumps(other))
        return claim(store)

    monkeypatch.setattr(RunStore, "_claim", slow_claim)
    with pytest.raises(RunStoreError, match=r"experiment\.alpha: 4\.0 there, 0\.1 now"):
        RunStore(tmp_path, CONFIG)
    monkeypatch.undo()
    RunStore(tmp_path, other).close()  # the lock was given back


# ---- opening again -------------------------------------------------------------------------------


def test_opening_again_in_one_process_takes_over(tmp_path):
    """As a notebook does whose cell is run twice while the first store is still alive."""
    first = RunStore(tmp_path, CONFIG)
    second = RunStore(tmp_path, CONFIG)
    second.write_results({"status": "running"})
    assert first.directory == second.directory
    second.close()


def test_a_run_of_a_version_that_had_fewer_keys_is_not_told_to_restore_its_config(tmp_path):
    RunStore(tmp_path, CONFIG).close()
    newer = {**CONFIG, "experiment": {**CONFIG["experiment"], "pairs": ["new", "key"]}}
    with pytest.raises(RunStoreError, match="go on with the version that made it") as error:
        RunStore(tmp_path, newer)
    assert "'nothing' there, ['new', 'key'] now" in str(error.value)
    changed = {**newer, "experiment": {**newer["experiment"], "alpha": 7}}
    with pytest.raises(RunStoreError, match="restore the config"):
        RunStore(tmp_path, changed)


def test_a_refused_store_takes_nothing_from_an_open_one(store):
    with pytest.raises(RunStoreError, match="another config"):
        RunStore(store.directory, {"experiment": {"alpha": 7}})
    script = (
        f"from degeneracy.runs.store import RunStore; RunStore({str(store.directory)!r},"
        f" {CONFIG!r})"
    )
    assert (
        "in use"
        in subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stderr
    )


def test_a_key_that_only_the_old_config_has_is_a_difference(tmp_path):
    RunStore(tmp_path, {"experiment": {"alpha": 0.1, "gone": 3}}).close()
    with pytest.raises(RunStoreError, match=r"experiment\.gone: 3 there, 'nothing' now"):
        RunStore(tmp_path, {"experiment": {"alpha": 0.1}})


def test_tied_weights_can_be_saved(store):
    weight = torch.randn(3)
    store.save_checkpoint(POINT, Checkpoint({"a": weight, "b": weight}, {}))
    assert torch.equal(store.load_checkpoint(POINT).tensors["b"], weight)


def test_what_a_kill_left_half_written_is_cleared_away(tmp_path):
    RunStore(tmp_path, CONFIG).close()
    left = [
        tmp_path / ".results.json.abc.partial",
        tmp_path / "checkpoints" / ".x.safetensors.abc.partial",
    ]
    for path in left:
        path.write_bytes(b"half")
    RunStore(tmp_path, CONFIG).close()
    assert not any(path.exists() for path in left)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with pytest.raises(TypeError):
        write_atomically(path, "text is not bytes")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
