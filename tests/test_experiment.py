"""A command is stopped, or given nonsense, and says a sentence: no traceback, at any moment."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
LONG = {"num_chains": 8, "num_draws": 2_000_000, "num_burnin_steps": 1_000}
CONFIG = {"study": "min_singular_models", "linear": {"num_weights": 20, "ranks": [5], **LONG}}
WATCHER = """
import sys, time, builtins
usual = builtins.__import__
def slow(name, *rest, **more):
    if name == "studies":
        print("importing", flush=True)
        time.sleep(60)
    return usual(name, *rest, **more)
builtins.__import__ = slow
from {command} import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def started():
    """Starts a Python process that listens to SIGINT, whatever the suite itself was told to ignore,
    and ends what is left of it.
    """
    begun = []

    def start(*command) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, *map(str, command)],
            cwd=PROJECT,
            env=os.environ | {"TQDM_DISABLE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=listening,
        )
        begun.append(process)
        return process

    yield start
    for process in begun:
        process.kill()
        process.wait()


def listening() -> None:
    """A job in the background inherits that SIGINT is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("command", "number"),
    [("experiment", signal.SIGINT), ("experiment", signal.SIGTERM), ("sweep", signal.SIGINT)],
)
def test_a_signal_during_the_imports_is_a_sentence(started, command, number):
    process = started("-c", WATCHER.format(command=command), "args_ngd_sgd.json")
    assert process.stdout.readline() == "importing\n"
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    by = " by SIGTERM" if number == signal.SIGTERM else ""
    assert said == f"stopped{by}; the same command goes on where this one left off\n"
    assert process.returncode == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_work_is_a_sentence_that_names_the_directory(started, tmp_path, number):
    config, out = tmp_path / "config.json", tmp_path / "run"
    config.write_text(json.dumps(CONFIG))
    process = started("experiment.py", config, "--out", out, "--device", "cpu")
    while not (out / "config.json").exists() and process.poll() is None:
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert "Traceback" not in said
    assert "goes on where this one left off" in said
    assert ("by SIGTERM" in said) == (number == signal.SIGTERM)
    assert process.returncode == 1
    assert not list(out.rglob("*.partial"))
