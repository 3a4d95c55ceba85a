"""Does the section keep what it finds, show all of it, and say what may be said?"""

import copy

import pytest
from markupsafe import escape
from pydantic import ValidationError

from studies.natural_gradients.states.figures import figures, is_near
from studies.natural_gradients.states.findings import card, parted, tables
from studies.natural_gradients.states.measure import GRADIENT
from studies.natural_gradients.states.metrics import METRICS
from studies.natural_gradients.states.settings import Settings

KEYS = {
    *("states-mixture", "states-basins", "states-transport", "states-inverse"),
    *("states-coefficient", "states-process"),
}


def test_every_example_is_measured(part):
    assert set(part) == {
        *("exactness", "mixture, ½L²", "mixture, KL", "mixture, ½W₂²"),
        *("transport", "inverse", "process"),
    }
    for key in ("mixture, ½L²", "mixture, KL", "mixture, ½W₂²"):
        assert set(part[key]["methods"]) == {*METRICS, GRADIENT}
    assert part["inverse"]["parameters"] == 100


def test_the_report_holds_figures_and_sentences(finished, part):
    page = (finished / "report.html").read_text().replace("\u00a0", " ")
    drawn = figures(part)
    assert {drawing.key for drawing in drawn} == KEYS
    for drawing in drawn:
        assert f'id="figure-{drawing.key}"' in page
        axes = [*drawing.figure.select_xaxes(), *drawing.figure.select_yaxes()]
        assert any(axis.title.text for axis in axes)
    assert str(escape(card(part).headline)) in page


def test_what_is_there_of_an_unfinished_section_is_shown(part):
    for key in part:
        some = {key: part[key]}
        figures(some)
        assert card(some).headline
    assert figures({}) == []
    assert tables({}) == []
    assert card({}).headline == "Nothing has been measured yet."


def test_losses_that_are_none_are_shown(part):
    broken = copy.deepcopy(part)
    for of in broken["mixture, KL"]["methods"].values():
        of["losses"][0][-1] = None
    figures(broken)
    assert card(broken).text


def test_a_split_is_one_that_arrived_and_one_at_rest_elsewhere():
    def one(ends, count):
        return {"ends": [ends], "losses": [[1.0] * count]}

    found = {"steps": 5, "target": [0.0, 1.0], "methods": {}}
    found["methods"] = {"a": one([0.1, 1.0], 6), "b": one([0.0, 3.0], 3)}
    assert parted(found) == [0]
    found["methods"]["b"] = one([0.0, 3.0], 6)  # still on its way
    assert parted(found) == []
    assert is_near([0.1, 1.0], [0.0, 1.0])
    assert not is_near([0.3, 1.0], [0.0, 1.0])


def test_settings_that_are_none_are_refused():
    for wrong in (
        {"first_damping": 0.0},
        {"first_damping": 0.01, "last_damping": 0.1},
        {"gp_rates": [1.5]},
        {"gp_noise": 0.0},
        {"side": 31},
    ):
        with pytest.raises(ValidationError):
            Settings(**wrong)
