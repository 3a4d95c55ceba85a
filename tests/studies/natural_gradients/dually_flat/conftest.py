"""What these tests share: a small model with its samples, and one short run of the section."""

import json

import numpy as np
import pytest
from pydantic import Field

from degeneracy.config.section import Section
from degeneracy.report.page import Findings
from degeneracy.report.page import Section as Figures
from degeneracy.runs.work import Part
from degeneracy.study import Study, run_study
from studies.natural_gradients.dually_flat.figures import figures
from studies.natural_gradients.dually_flat.findings import card, tables
from studies.natural_gradients.dually_flat.measure import measure
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


class Config(Section):
    dually_flat: Settings = Field(default=TINY)


STUDY = Study(
    name="dually_flat_alone",
    question="Does the section stand on its own?",
    minutes=0.1,
    title="Dually flat models",
    settings=Config,
    parts={"dually_flat": Part(measure)},
    figures=lambda results, traces: [Figures("", figures(results["parts"].get("dually_flat", {})))],
    findings=lambda results: Findings(
        [card(results["parts"].get("dually_flat", {}))],
        tables(results["parts"].get("dually_flat", {})),
    ),
)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("dually_flat") / "run"
    run_study(STUDY, Config(), out, "cpu")
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
