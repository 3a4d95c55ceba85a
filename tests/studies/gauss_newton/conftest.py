"""What the tests of this study share: networks in float64, and a few seconds of real MNIST."""

import json
import shutil

import pytest
import torch

from degeneracy.config.reader import parse_config
from degeneracy.study import run_study
from studies.gauss_newton import STUDY, RevMLP
from studies.gauss_newton.settings import Settings


@pytest.fixture(autouse=True)
def seeded():
    """Every test draws the same numbers, whatever ran before."""
    torch.manual_seed(0)


@pytest.fixture
def make():
    """A function that makes a network in float64 whose weights are not near zero."""

    def network(num_blocks=2, bias=True, in_features=24, hidden=40, num_classes=4, init_std=0.3):
        return RevMLP(in_features, hidden, num_blocks, num_classes, bias, init_std).double()

    return network


@pytest.fixture(scope="session")
def tiny_config(data_root):
    """A config of some seconds: eight steps on 16 images, and two epochs of mini-batches."""
    return {
        "data": {"root": str(data_root), "num_train": 96},
        "network": {"hidden": 20},
        "training": {
            "full": {"batch_size": 16, "epochs": 4},
            "mini": {"batch_size": 32, "epochs": 2},
        },
        "optimizers": {
            "block": {"kind": "gauss_newton", "lr": 0.2},
            "min_norm": {
                "kind": "gauss_newton",
                "lr": 0.2,
                "solution": "min_norm",
                "rtol": 0.0,
                "atol": 0.0,
            },
            "adam": {"kind": "adam", "lr": 0.001},
            "ngd": {"kind": "ngd"},
        },
        "swaps": [{"first": "adam", "then": "block", "epoch": 1}],
        "analyses": {"num_cka": 64, "num_ntk": 4},
        "degeneracy": {
            "optimizers": ["block"],
            "localizations": [1e6],
            "num_chains": 2,
            "num_draws": 8,
            "num_probes": 2,
            "batch_size": 64,
        },
    }


@pytest.fixture(scope="session")
def tiny_settings(tiny_config):
    return parse_config(tiny_config, Settings)


@pytest.fixture(scope="session")
def finished(tiny_settings, tmp_path_factory, device):
    """The directory of a finished run of the tiny config."""
    out = tmp_path_factory.mktemp("gauss_newton") / "run"
    run_study(STUDY, tiny_settings, out, device)
    return out


@pytest.fixture
def results(finished):
    return json.loads((finished / "results.json").read_text())


@pytest.fixture
def interrupted(finished, tmp_path):
    """A function that copies the finished directory as a kill could have left it, without what
    parts have found under some keys.
    """

    def without(**missing):
        out = tmp_path / "run"
        shutil.copytree(finished, out)
        left = json.loads((out / "results.json").read_text()) | {"status": "running"}
        del left["sha256"]  # what is edited is then taken as it is
        for part, keys in missing.items():
            for key in keys:
                del left["parts"][part][key]
        (out / "results.json").write_text(json.dumps(left))
        return out

    return without
