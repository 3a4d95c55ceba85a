"""What these tests share: a short run of the section, and its results."""

import json

import pytest
from pydantic import Field

from degeneracy.config.section import Section
from degeneracy.report.page import Findings
from degeneracy.report.page import Section as Figures
from degeneracy.runs.work import Part
from degeneracy.study import Study, run_study
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


class Config(Section):
    states: Settings = Field(default=TINY)


STUDY = Study(
    name="states_alone",
    question="Does the section stand on its own?",
    minutes=0.1,
    title="States",
    settings=Config,
    parts={"states": Part(SECTION.measure)},
    figures=lambda results, traces: [
        Figures("", SECTION.figures(results["parts"].get("states", {})))
    ],
    findings=lambda results: Findings(
        [SECTION.card(results["parts"].get("states", {}))],
        SECTION.tables(results["parts"].get("states", {})),
    ),
)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("states") / "run"
    run_study(STUDY, Config(), out, "cpu")
    return out


@pytest.fixture
def part(finished):
    return json.loads((finished / "results.json").read_text())["parts"]["states"]
