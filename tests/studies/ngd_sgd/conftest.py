"""What the tests of this study share: a few seconds of real MNIST, trained once."""

import json
from pathlib import Path

import pytest

from degeneracy.config.reader import parse_config
from degeneracy.runs.config import Config
from degeneracy.study import run_study
from studies.ngd_sgd import STUDY

TITLE = "FFNN 1 HL, 16 HN"


@pytest.fixture(scope="session")
def small_config(data_root):
    """A config of a few seconds, with other settings of its section `experiment`."""

    def config(**experiment) -> dict:
        small = {
            "hidden_nodes": [16],
            "hidden_layers": [1],
            "cut_off_epochs": 1,
            "num_epochs": 2,
            "robustness": False,
        }
        data = {"dataset": "mnist", "root": str(data_root), "batch_size": 500}
        return {
            "experiment": {**small, **experiment},
            "data": {**data, "num_hessian_batches": 1, "num_probes": 3},
            "devinterp": {"sampler": "sgld", "num_draws": 20},
        }

    return config


@pytest.fixture(scope="session")
def run_small(device):
    """Runs a config to its end; returns its results."""

    def run(config: dict, out: Path) -> dict:
        run_study(STUDY, parse_config(config, Config), out, device=device)
        return json.loads((out / "results.json").read_text())

    return run


@pytest.fixture(scope="session")
def series():
    """The series of one optimizer in results."""
    return lambda results, optimizer: results["models"][TITLE]["optimizers"][optimizer]


@pytest.fixture(scope="session")
def swap(small_config, run_small, tmp_path_factory):
    """A finished swap run: its directory and its results."""
    out = tmp_path_factory.mktemp("swap") / "run"
    return out, run_small(small_config(), out)


@pytest.fixture(scope="session")
def standard(small_config, run_small, tmp_path_factory):
    """A finished standard run of four optimizers, measured at its end."""
    out = tmp_path_factory.mktemp("standard") / "run"
    names = ["sgd", "ngd", "adamw", "muon"]
    config = small_config(experiment_type="standard", optimizer=names, measure_epochs="final")
    return out, run_small(config, out)


@pytest.fixture(scope="session")
def robust(small_config, run_small, tmp_path_factory):
    """A finished swap run of three optimizers with its grid of settings and its rescaling."""
    out = tmp_path_factory.mktemp("robust") / "run"
    config = small_config(
        optimizer=["sgd", "ngd", "adamw"], robustness=True, measure_epochs="final", hessian=False
    )
    return out, run_small(config, out)
