"""Does the section keep what it finds, show all of it, and say what may be said?"""

import json
import re

import pytest
from markupsafe import escape
from pydantic import ValidationError
from section_alone import alone

from degeneracy.study import run_study
from studies.natural_gradients.energy import SECTION
from studies.natural_gradients.energy.settings import Settings

NAME = "energy"
TINY = Settings(
    width=6, cuts=[1e-3, 1e-6], corrected_cuts=[1e-3, 1e-5], num_seeds=2, cut_steps=3,
    rule_steps=3, problems=["heat"], problem_steps=2, adam_steps=10, bfgs_steps=10,
)  # fmt: skip


STUDY, CONFIG = alone(NAME, SECTION, TINY)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, device):
    out = tmp_path_factory.mktemp(NAME) / "run"
    run_study(STUDY, CONFIG, out, device)
    return out


@pytest.fixture
def part(finished):
    return json.loads((finished / "results.json").read_text())["parts"][NAME]


def test_every_run_is_there(part):
    methods = {(found["problem"], found["method"]) for found in part.values()}
    default = {"rule", "cut 0.001", "cut 1e-06", "adam", "gd", "lbfgs", "bfgs"}
    assert methods == {("poisson-2d", name) for name in default} | {
        ("heat", name) for name in ("rule", "adam", "lbfgs", "bfgs")
    }
    assert sum(found["method"] == "rule" for found in part.values()) == 3
    for found in part.values():
        assert found["error"] == found["errors"][-1]
        assert len(found["steps"]) == len(found["seconds"])


def test_the_page_has_figures_and_verdict(finished, part):
    page = (finished / "report.html").read_text().replace("\u00a0", " ")
    for drawing in SECTION.figures(part):
        assert f'id="figure-{drawing.key}"' in page
    assert str(escape(SECTION.card(part).headline)) in page
    assert SECTION.card(part).text[0].startswith("The claim:")


def test_what_is_there_of_an_unfinished_section_is_shown(part):
    for key in part:
        some = {key: part[key]}
        SECTION.figures(some)
        SECTION.tables(some)
        headline = SECTION.card(some).headline
        is_default, method = key.startswith("poisson-2d"), some[key]["method"]
        assert ("Corrected steps" in headline) == (is_default and method == "rule")
        assert ("With one cut-off" in headline) == method.startswith("cut ")
        natural = is_default and (method == "rule" or method.startswith("cut "))
        assert ("on the default problem have not been measured" in headline) != natural
    assert (SECTION.figures({}), SECTION.tables({})) == ([], [])
    assert SECTION.card({}).headline == "Nothing has been measured yet."


def test_the_verdict_follows_the_numbers(part):
    assert "reach a relative error of 10⁻⁶ from 0 of 2 starts" in SECTION.card(part).headline
    good = json.loads(json.dumps(part))
    for found in good.values():
        if found["method"] == "rule":
            found["errors"][-1] = found["error"] = 1e-7
    assert "all 2 starts reach a relative error of 10⁻⁶ within 3" in SECTION.card(good).headline


def test_steps_and_starts_are_told_as_they_were(part):
    """Here the rule takes more steps than a single cut-off, and BFGS went from one start alone."""
    longer = json.loads(json.dumps(part))
    del longer["poisson-2d, bfgs, seed 1"]
    for found in longer.values():
        if (found["problem"], found["method"]) == ("poisson-2d", "rule"):
            found["steps"][-1] = 75
    (by_cut, _) = SECTION.tables(longer)
    assert "The rule took up to 75 steps, each over several cut-offs, a single" in by_cut.note
    assert "cut-off up to 3." in by_cut.note
    told = SECTION.card(longer).text[-1]
    assert re.search(r"natural, corrected cut-offs \S+ in \S+ s \(2 starts\)", told)
    assert re.search(r"Adam \S+ in \S+ s \(2 starts\)", told)
    assert re.search(r" BFGS \S+ in \S+ s \(1 start\)", told)


def test_runs_without_a_finite_error_are_shown_as_such(part):
    failed = json.loads(json.dumps(part))
    for found in failed.values():
        found["errors"] = [None] * len(found["errors"])
        found["error"] = None
    SECTION.figures(failed)
    assert any("no step" in cell[0] for table in SECTION.tables(failed) for cell in table.rows[0])
    assert "inf at worst" in SECTION.card(failed).headline


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ValidationError, match="allowed: falling, each once"):
        Settings(corrected_cuts=[1e-8, 1e-6])
    with pytest.raises(ValidationError, match="less than 1"):
        Settings(cuts=[1.0])
