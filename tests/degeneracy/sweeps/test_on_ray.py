"""On real Ray: what a sweep finds is what `experiment.py` finds, whoever is killed meanwhile."""

import json
import os
import signal
import time

import pandas as pd
import pytest
import torch
from ray.cluster_utils import Cluster

from degeneracy.config.reader import parse_config
from degeneracy.study import run_study
from studies.phase_transitions import STUDY
from sweep import main

pytestmark = pytest.mark.xdist_group("ray")  # one Ray at a time
LIMIT_S = 240  # of one sweep, on a machine that is busy
TICK_S = 0.05


@pytest.fixture(scope="module")
def short(tiny):
    """The tiny config with one optimizer: half of its checkpoints and figures."""
    only = {"experiment_type": "standard", "optimizer": ["sgd"]}
    return tiny | {"experiment": tiny["experiment"] | only}


@pytest.fixture(scope="module")
def config_file(short, tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "args_short.json"
    path.write_text(json.dumps(short))
    return str(path)


def results_of(directory):
    """What a run found, without what tells when and how fast."""
    results = json.loads((directory / "results.json").read_text())
    return {key: results[key] for key in results.keys() - {"timing_s", "environment", "sha256"}}


def alone(short, out, **experiment):
    """What the same config finds as a run by itself, with one thread."""
    content = short | {"experiment": short["experiment"] | experiment}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run_study(STUDY, parse_config(content, STUDY.settings), out, "cpu")
    finally:
        torch.set_num_threads(threads)
    return results_of(out)


def until(fact, process):
    """Waits for something to be so while a sweep goes on."""
    end = time.monotonic() + LIMIT_S
    while not (found := fact()):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < end, "it took too long"
        time.sleep(TICK_S)
    return found


def said_by(process, status=0):
    """What a sweep wrote until it ended."""
    said, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == status, said
    return said


def complete(out):
    """The runs that are finished."""
    found = set()
    for path in (out / "runs").glob("*/results.json"):
        if json.loads(path.read_text())["status"] == "complete":
            found.add(path.parent.name)
    return found


def under_way(out, epochs):
    """The runs that have trained so many checkpoints and are not finished."""
    trained = {
        path.name
        for path in (out / "runs").glob("*")
        if len([*path.glob("checkpoints/*.safetensors")]) >= epochs
    }
    return trained - complete(out)


def attempts_of(out):
    """Run → how its attempts ended."""
    noted = json.loads((out / "attempts.json").read_text())
    return {name: [attempt["outcome"] for attempt in tried] for name, tried in noted.items()}


def written(out, names):
    """When files of these runs were last written."""
    paths = [path for name in names for path in (out / "runs" / name).rglob("*") if path.is_file()]
    return {path: path.stat().st_mtime_ns for path in paths}


def test_a_sweep_finds_what_single_runs_find_and_one_that_fails_costs_no_other(
    short, config_file, tmp_path, capsys
):
    """Three runs: one as it should be, one that diverges, one whose two images lack classes."""
    out = tmp_path / "sweep"
    images = "data.num_train_images=300,300,2,data.batch_size=60,60,2"
    command = [config_file, "--zip", f"{images},experiment.sgd_lr=0.01,1e20,0.01"]
    assert main([*command, "--out", str(out)]) == 1
    said = capsys.readouterr().out
    good, bad, small = sorted(path.stem for path in (out / "logs").iterdir())
    assert attempts_of(out) == {good: ["finished"], bad: ["finished"], small: ["refused"]}
    assert "3 runs of phase_transitions" in said
    assert "failed: data.num_train_images=2, data.batch_size=2" in said
    assert said.splitlines()[-1] == str(out / "report.html")
    runs = out / "runs"
    one = alone(short, tmp_path / "one", sgd_lr=0.01)
    two = alone(short, tmp_path / "two", sgd_lr=1e20)
    assert results_of(runs / good) == one
    assert results_of(runs / bad) == two
    final = pd.read_parquet(out / "final.parquet")
    statuses = final.drop_duplicates("run").set_index("run")["status"].tolist()
    assert statuses == ["finished", "diverged", "failed"]
    (title,) = one["models"]
    for name, series in one["models"][title]["optimizers"].items():
        row = final[(final["run"] == good) & (final["optimizer"] == name)]
        assert row["llc"].item() == series["llc"][-1]
        assert row["val_loss"].item() == series["val_loss"][-1]


def test_a_killed_sweep_goes_on_where_it_stopped(short, config_file, begun, tmp_path, capsys):
    out = tmp_path / "sweep"
    command = [config_file, "--seeds", "1-2", "--at-once", "1", "--out", str(out)]
    first = begun(*command)
    until(lambda: len(complete(out)) == 1 and under_way(out, 2), first)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    done, (half,) = complete(out), under_way(out, 2)
    before = written(out, done), written(out, [half])
    assert main([*command]) == 0
    assert "1 of 2 finished" in capsys.readouterr().err
    assert written(out, done) == before[0]  # not touched again
    checkpoints = {path for path in before[1] if path.suffix == ".safetensors"}
    assert {path: path.stat().st_mtime_ns for path in checkpoints} == {
        path: before[1][path] for path in checkpoints
    }
    assert complete(out) == {*done, half}
    assert results_of(out / "runs" / half) == alone(short, tmp_path / "one", seed=int(half[-1]))


@pytest.mark.slow  # the small version: a sweep that is killed, above
def test_a_cluster_that_loses_a_machine_loses_no_run_and_does_none_twice(short, begun, tmp_path):
    out, config_file = tmp_path / "sweep", tmp_path / "args_long.json"
    sampler = short["devinterp"] | {"num_draws": 400}  # so that a run ends well after the kill
    config_file.write_text(json.dumps(short | {"devinterp": sampler}))
    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    cluster = Cluster(True, head_node_args=node | {"include_dashboard": False})
    try:
        second = cluster.add_node(**node)
        command = [config_file, "--seeds", "1-4", "--out", out, "--address", cluster.address]
        sweep = begun(*command)
        until(lambda: complete(out) and len(under_way(out, 2)) == 2, sweep)
        cluster.remove_node(second, allow_graceful=False)
        done = complete(out)
        before = written(out, done)
        said = said_by(sweep)
    finally:
        cluster.shutdown()
    attempts = attempts_of(out)
    assert len(complete(out)) == 4, said
    assert sorted(outcome for tried in attempts.values() for outcome in tried) == [
        *["finished"] * 4,
        "lost",
    ]
    assert all(tried[-1] == "finished" for tried in attempts.values())
    assert written(out, done) == before
    (lost,) = (name for name, tried in attempts.items() if tried == ["lost", "finished"])
    undisturbed = alone(short | {"devinterp": sampler}, tmp_path / "one", seed=int(lost[-1]))
    assert results_of(out / "runs" / lost) == undisturbed
