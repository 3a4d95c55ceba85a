"""What the tests of this study share: results made by formula, and a tiny real run."""

import json

import pytest
from paper_results import made_results

from degeneracy.config.reader import parse_config
from degeneracy.study import run_study
from studies.paper import STUDY
from studies.paper.settings import Settings


@pytest.fixture
def results():
    return made_results()


TINY = {
    "training": {
        "cut_off_epochs": 1,
        "num_epochs": 2,
        "batch_size": 1000,
        "measure_epochs": [1, 2],
        "num_hessian_batches": 1,
        "num_probes": 3,
    },
    "sampler": {"num_draws": 10},
    "sizes": [{"hidden_layers": 1, "hidden_nodes": [8], "seeds": [1, 2]}],
    "smoothing": {"seeds": [], "measure_epochs": [2]},
    "rates": {"seeds": [], "measure_epochs": [2]},
    "overfitting": {"seeds": []},
    "other_sizes": [],
}


@pytest.fixture(scope="session")
def tiny_config(data_root):
    """One part of one sweep of two runs: 6,370 weights, two epochs."""
    return TINY | {"training": TINY["training"] | {"root": str(data_root)}}


@pytest.fixture(scope="session")
def tiny_settings(tiny_config):
    return parse_config(tiny_config, Settings)


@pytest.fixture(scope="session")
def finished(tiny_settings, tmp_path_factory, device):
    """The directory of a finished real run, on Ray."""
    out = tmp_path_factory.mktemp("paper") / "run"
    run_study(STUDY, tiny_settings, out, device)
    return out


@pytest.fixture
def found(finished):
    return json.loads((finished / "results.json").read_text())
