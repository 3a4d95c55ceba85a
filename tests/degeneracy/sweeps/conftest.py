"""What the tests of sweeps share: the smallest config of a run, and its command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from studies.phase_transitions.settings import Settings

PROJECT = Path(__file__).resolve().parents[3]
TINY = {
    "study": "phase_transitions",
    "experiment": {
        "hidden_nodes": [8],
        "hidden_layers": [1],
        "num_epochs": 3,
        "experiment_type": "swap",
        "cut_off_epochs": 1,
        "hessian": False,
    },
    "data": {
        "num_train_images": 300,
        "num_test_images": 100,
        "batch_size": 60,
        "num_hessian_batches": 1,
        "num_probes": 2,
    },
    "devinterp": {"sampler": "sgld", "num_draws": 20, "num_burnin_steps": 10},
    "curvature": {"num_probes": 2, "num_steps": 3, "num_gap_probes": 2, "num_eigenvalues": 2},
}


@pytest.fixture(scope="session")
def tiny(data_root):
    """A config of a second: a swap run of 6,370 weights on 300 images."""
    return TINY | {"data": TINY["data"] | {"root": str(data_root)}}


@pytest.fixture(scope="session")
def schema():
    return Settings


@pytest.fixture(scope="session")
def config_file(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "args_tiny.json"
    path.write_text(json.dumps(tiny))
    return path


@pytest.fixture(scope="session")
def begun():
    """A function that begins `sweep.py` with these arguments, in a process of its own."""

    def begun(*arguments) -> subprocess.Popen:
        environment = os.environ | {"TQDM_DISABLE": "1"}
        command = [sys.executable, str(PROJECT / "sweep.py"), *map(str, arguments)]
        return subprocess.Popen(
            command,
            cwd=PROJECT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return begun
