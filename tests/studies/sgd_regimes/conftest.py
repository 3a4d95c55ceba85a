"""What the tests of this study share: small problems, and one short run of the whole study."""

import json

import numpy as np
import pytest

from degeneracy.config.reader import parse_config
from degeneracy.study import run_study
from studies.sgd_regimes import STUDY
from studies.sgd_regimes.samples import Problem, synthetic
from studies.sgd_regimes.settings import Settings


@pytest.fixture(scope="session")
def problem():
    """N = 200, ν = 1.5, ϰ = 1, in the cosine basis: the numbers of the study's specification."""
    return synthetic(200, 1.5, 1.0)


@pytest.fixture(scope="session")
def random_problem():
    """A kernel of no structure on 12 samples, λ_max = 1, and a residual."""
    random = np.random.default_rng(0)
    factor = random.normal(size=(12, 15))
    kernel = factor @ factor.T
    return Problem(kernel / np.linalg.eigvalsh(kernel)[-1], random.normal(size=12))


@pytest.fixture(scope="session")
def tiny_config(data_root, tmp_path_factory):
    """A config of a few seconds, without runs of the main experiment."""
    empty = tmp_path_factory.mktemp("no_runs")
    return {
        "regimes": {
            "size": 30,
            "width": 64,
            "lrs": [0.5, 6.0],
            "momenta": [0.0],
            "taus": [1, 2],
            "num_steps": 400,
            "num_runs": 4,
            "num_networks": 1,
        },
        "stability": {"size": 20, "num_steps": 200, "num_lrs": 7, "num_momenta": 5},
        "asymptotics": {
            "laws": [{"kappa": 3.0}, {"kappa": 0.75, "lr": 1.0}, {"lr": 3.0}],
            "size": 2000,
            "num_steps": 500,
        },
        "momentum": {"kappas": [4.0], "momenta": [-0.2, 0.2], "times": [50], "size": 200},
        "budget": {"kappas": [0.75], "batch_sizes": [1, 10], "budget": 500, "size": 200},
        "spectrum": {"datasets": ["digits"], "size": 60, "first": 5, "last": 30},
        "bridge": {"root": str(empty)},
    }


@pytest.fixture(scope="session")
def tiny_settings(tiny_config):
    return parse_config(tiny_config, Settings)


@pytest.fixture(scope="session")
def finished(tiny_settings, tmp_path_factory, device):
    """The directory of a finished run of the tiny config."""
    out = tmp_path_factory.mktemp("sgd_regimes") / "run"
    run_study(STUDY, tiny_settings, out, device)
    return out


@pytest.fixture
def results(finished):
    return json.loads((finished / "results.json").read_text())
