"""What these tests share: a small model with its samples, and one short run of the section."""

import json

import numpy as np
import pytest
from section_alone import alone

from degeneracy.study import run_study
from studies.natural_gradients.dually_flat import SECTION
from studies.natural_gradients.dually_flat.model import Model, draw, joint, random_table
from studies.natural_gradients.dually_flat.settings import Case, Settings

TINY = Settings(
    cases=[Case(classes=3, sizes=[3, 2]), Case(classes=2, sizes=[4])],
    num_samples=2000,
    num_heldout=500,
    seeds=[1, 2],
    compared_batches=[1, 32],
    compared_samples=500,
)


STUDY, CONFIG = alone("dually_flat", SECTION, TINY)


@pytest.fixture(scope="session")
def finished(tmp_path_factory, device):
    out = tmp_path_factory.mktemp("dually_flat") / "run"
    run_study(STUDY, CONFIG, out, device)
    return out


@pytest.fixture
def part(finished):
    return json.loads((finished / "results.json").read_text())["parts"]["dually_flat"]


@pytest.fixture(scope="session")
def small():
    """(model, θ, its joint, features, labels) of 400 samples, s = 4, m = [3, 2, 4]."""
    random = np.random.default_rng(0)
    model = Model((3, 2, 4), 4)
    table = random_table(model, 0.7, random)
    truth = joint(model, table)
    cells, labels = draw(truth, 400, random)
    features = np.stack(np.unravel_index(cells, model.sizes), axis=1)
    return model, table, truth, features, labels
