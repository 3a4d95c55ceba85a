"""Whatever is wrong with a sweep is said before its first run, with exit status 2."""

import ast
import json
import socket
import time
from pathlib import Path

import pytest

from degeneracy.sweeps import running, sweep
from degeneracy.sweeps.grid import SweepError
from sweep import main

PROJECT = Path(__file__).resolve().parents[3]


def refused(capsys, *arguments):
    assert main([*map(str, arguments)]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--grid", "experiment.alhpa=1"], "did you mean experiment.alpha"),
        (["--grid", "experiment.alpha="], "no values"),
        (
            ["--grid", "experiment.alpha=0.1,-1", "--seeds", "1-2"],
            "in experiment.alpha=-1, experiment",
        ),
        (["--zip", "experiment.alpha=1,2,experiment.seed=1"], "as many values for each key"),
        (["--seeds", "2-1"], "--seeds"),
        ([], "nothing is swept"),
    ],
)
def test_what_cannot_be_swept_is_refused_and_leaves_no_folder(
    config_file, tmp_path, capsys, arguments, said
):
    out = tmp_path / "sweep"
    assert said in refused(capsys, config_file, *arguments, "--out", out)
    assert not out.exists()


def test_work_beyond_reason_is_refused_before_the_first_run_unless_it_is_meant(
    config_file, tmp_path, capsys
):
    values = "devinterp.num_draws=8,10000000,devinterp.num_chains=2,1000"
    asked = [config_file, "--zip", values, "--out", tmp_path / "sweep"]
    said = refused(capsys, *asked)
    assert "in devinterp.num_draws=10000000, devinterp.num_chains=1000" in said
    assert "the flag --large" in said
    assert main([*map(str, asked), "--large", "--dry-run"]) == 0


def test_a_file_that_is_no_config_is_refused(tmp_path, capsys):
    assert "cannot be read" in refused(capsys, tmp_path / "none.json", "--seeds", "1")
    (tmp_path / "other.json").write_text('{"study": "no_study"}')
    assert "no_study" in refused(capsys, tmp_path / "other.json", "--seeds", "1")


def test_a_number_that_makes_no_sense_is_refused(config_file):
    for option, value in (("--threads", "0"), ("--retries", "-1"), ("--at-once", "two")):
        with pytest.raises(SystemExit) as error:
            main([str(config_file), "--seeds", "1", option, value])
        assert error.value.code == 2


def test_a_folder_of_another_sweep_is_refused(config_file, tmp_path, capsys):
    out = tmp_path / "sweep"
    (out / "runs" / "1_seed-1").mkdir(parents=True)
    there = {"format": 1, "study": "phase_transitions", "axes": {"experiment.seed": [1]}}
    (out / "sweep.json").write_text(json.dumps(there))
    said = refused(capsys, config_file, "--seeds", "1,2", "--out", out)
    assert "axes.experiment.seed: [1] there" in said


def test_a_dry_run_says_runs_and_disk_and_writes_nothing(config_file, tmp_path, capsys):
    out = tmp_path / "sweep"
    arguments = ["--grid", "experiment.alpha=0.01,0.1", "--seeds", "1-3", "--out", str(out)]
    assert main([str(config_file), *arguments, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "6 runs of phase_transitions" in said
    assert "MB of disk" in said
    assert "5_alpha-0.1_seed-2: experiment.alpha=0.1, experiment.seed=2" in said
    assert not out.exists()


def test_an_address_where_nothing_listens_is_refused_at_once(config_file, tmp_path, capsys):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    since, out = time.monotonic(), tmp_path / "sweep"
    said = refused(capsys, config_file, "--seeds", "1", "--out", out, "--address", address)
    assert f"{address} given, where no Ray cluster answers" in said
    assert time.monotonic() - since < running.ANSWER_S + 10
    assert not any((out / "runs").iterdir())


def test_an_address_where_something_else_listens_is_refused_in_time(monkeypatch):
    monkeypatch.setattr(running, "CONNECT_S", 3.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(SweepError, match="no answer in 3 s"):
            running.refuse_silent_address(address)


@pytest.mark.parametrize("address", ["6379", "ray://head:10001", "head:port", ":6379"])
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(SweepError, match="allowed: HOST:PORT"):
        running.refuse_silent_address(address)


def test_a_disk_that_is_too_small_is_refused(config_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sweep, "free_disk", lambda directory: 1000)
    said = refused(capsys, config_file, "--seeds", "1", "--out", tmp_path / "sweep")
    assert "1 run take about" in said


def test_slots_are_what_cpus_and_gpus_allow():
    assert running.slots_of({"CPU": 8}, threads=3, num_gpus=0) == 2
    assert running.slots_of({"CPU": 8, "GPU": 2}, threads=1, num_gpus=1 / 3) == 6
    assert running.slots_of({"CPU": 4, "GPU": 2}, threads=1, num_gpus=1 / 3) == 4
    assert running.slots_of({"CPU": 4}, threads=1, num_gpus=1) == 0


def test_only_one_file_knows_ray():
    knowing = []
    for path in [*(PROJECT / "degeneracy").rglob("*.py"), *PROJECT.glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            knowing += [path.name] * any(m.split(".")[0] == "ray" for m in modules)
    assert set(knowing) == {"running.py"}
