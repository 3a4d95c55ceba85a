"""Does the section keep what it finds, show all of it, and say what may be said?"""

import json

import pytest
from markupsafe import escape
from pydantic import Field, ValidationError

from degeneracy.config.section import Section
from degeneracy.report.page import Findings
from degeneracy.report.page import Section as Figures
from degeneracy.runs.work import Part
from degeneracy.study import Study, run_study
from studies.natural_gradients.overparameterised import SECTION
from studies.natural_gradients.overparameterised.settings import Settings

NAME = "overparameterised"
TINY = Settings(
    size=12, dim=8, widths=[64, 256], lrs=[0.5, 1.0, 2.5], num_steps=8,
    angles=[0.1, 0.0], pair_width=256, max_steps=50, num_seeds=2,
)  # fmt: skip


class Config(Section):
    overparameterised: Settings = Field(default=TINY)


def of(results):
    return results["parts"].get(NAME, {})


STUDY = Study(
    name="overparameterised_alone",
    question="Does the section stand on its own?",
    minutes=0.1,
    title="Overparameterised",
    settings=Config,
    parts={NAME: Part(SECTION.measure)},
    figures=lambda results, traces: [Figures("", SECTION.figures(of(results)))],
    findings=lambda results: Findings([SECTION.card(of(results))], SECTION.tables(of(results))),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp(NAME) / "run"
    run_study(STUDY, Config(), out, "cpu")
    return out


@pytest.fixture
def part(finished):
    return of(json.loads((finished / "results.json").read_text()))


def test_every_width_and_angle_is_there(part):
    assert list(part) == ["width 64", "width 256", "random inputs", "angle 0.1", "angle 0"]
    assert set(part["width 64"]["rates"]) == {"0.5", "1", "2.5"}
    assert len(part["width 64"]["kfac_gaps"]) == 2
    assert "inputs 0 and 1 are parallel" in part["angle 0"]["refused"]


def test_the_page_has_figures_and_verdict(finished, part):
    page = (finished / "report.html").read_text().replace("\u00a0", " ")
    for drawing in SECTION.figures(part):
        assert f'id="figure-{drawing.key}"' in page
    assert str(escape(SECTION.card(part).headline)) in page
    assert "inputs 0 and 1 are parallel" in page
    assert SECTION.card(part).text[0].startswith("The claim:")


def test_what_is_there_of_an_unfinished_section_is_shown(part):
    for key in part:
        some = {key: part[key]}
        SECTION.figures(some)
        SECTION.tables(some)
        assert SECTION.card(some).headline
    assert (SECTION.figures({}), SECTION.tables({})) == ([], [])
    assert SECTION.card({}).headline == "Nothing has been measured yet."


def test_the_verdict_follows_the_numbers(part):
    assert "leaves (1 − η)²" not in SECTION.card(part).headline
    off = json.loads(json.dumps(part))
    off["width 256"]["rates"]["0.5"]["worst"] = [0.25, 0.9]
    assert "leaves (1 − η)² by more than 1/√m at η = 0.5" in SECTION.card(off).headline


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ValidationError, match="10 given with dim 16; allowed there: at least 16"):
        Settings(size=10)
