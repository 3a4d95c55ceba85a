"""What these tests share: a short run of the section, and its results."""

import json

import pytest
from section_alone import alone

from degeneracy.study import run_study
from studies.natural_gradients.states import SECTION
from studies.natural_gradients.states.settings import Settings

TINY = Settings(
    mixture_cells=60,
    mixture_starts=2,
    mixture_steps=8,
    side=32,
    transport_components=2,
    transport_steps=3,
    inverse_side=10,
    natural_steps=3,
    gradient_steps=5,
    gp_points=30,
    gp_inducing=6,
    gp_rates=[1.0, 0.5],
    gp_steps=4,
    gp_adam_steps=5,
)


STUDY, CONFIG = alone("states", SECTION, TINY)


@pytest.fixture(scope="session")
def finished(tmp_path_factory, device):
    out = tmp_path_factory.mktemp("states") / "run"
    run_study(STUDY, CONFIG, out, device)
    return out


@pytest.fixture
def part(finished):
    return json.loads((finished / "results.json").read_text())["parts"]["states"]
