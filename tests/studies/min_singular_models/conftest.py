"""What the tests of this study share: a few seconds of chains, sampled once."""

import json
import shutil

import pytest

from degeneracy.config.reader import parse_config
from degeneracy.study import run_study
from studies.min_singular_models import STUDY
from studies.min_singular_models.settings import Settings

SMALL = {
    "linear": {
        "num_weights": 40,
        "ranks": [10, 25],
        "num_samples": 150,
        "num_chains": 32,
        "num_draws": 600,
        "num_burnin_steps": 600,
    },
    "normal_crossings": {
        "exponents": [[1], [1, 1]],
        "nbeta": 30,
        "localization": 3,
        "num_chains": 128,
        "num_draws": 1000,
        "num_burnin_steps": 600,
    },
    "deep_linear": {
        "networks": [{"widths": [4, 2, 4], "rank": 2}],
        "nbeta_ratio": 100,
        "num_chains": 16,
        "num_draws": 800,
        "num_burnin_steps": 600,
    },
    "spectrum": {"num_probes": 20, "num_steps": 40},
}


@pytest.fixture(scope="session")
def small_config():
    """A config of a few seconds: two ranks, two crossings and one network, seven cases."""
    return SMALL


@pytest.fixture(scope="session")
def small_settings():
    return parse_config(SMALL, Settings)


@pytest.fixture(scope="session")
def finished(small_settings, tmp_path_factory, device):
    """The directory of a finished run of the small config."""
    out = tmp_path_factory.mktemp("min_singular_models") / "run"
    run_study(STUDY, small_settings, out, device)
    return out


@pytest.fixture
def results(finished):
    return json.loads((finished / "results.json").read_text())


@pytest.fixture
def interrupted(finished, tmp_path):
    """A copy of the finished directory as a kill could have left it, without one case."""
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    left = json.loads((out / "results.json").read_text()) | {"status": "running"}
    del left["sha256"]  # what is edited is then taken as it is
    del left["parts"]["linear"]["sample, r = 25"]
    (out / "results.json").write_text(json.dumps(left))
    return out
