"""Does the section keep what it finds, show all of it, and say what may be said?"""

import copy

import numpy as np
import pytest
from markupsafe import escape
from pydantic import ValidationError

from studies.natural_gradients.states.figures import figures, is_near
from studies.natural_gradients.states.findings import card, least, parted, tables
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
        headline = card(some).headline
        assert ("QR's direction differs" in headline) == (key == "exactness")
        assert ("bring the misfit to" in headline) == (key == "inverse")
        assert headline.startswith("Mixture, objective ") == key.startswith("mixture")
        assert headline.startswith("On 1,024 cells KL ends") == (key == "transport")
        assert headline.startswith("The Gaussian process") == (key == "process")
    assert figures({}) == []
    assert tables({}) == []
    assert card({}).headline == "Nothing has been measured yet."


def test_losses_that_are_none_are_shown(part):
    broken = copy.deepcopy(part)
    for of in broken["mixture, KL"]["methods"].values():
        of["losses"][0][-1] = None
    figures(broken)
    assert card(broken).text


def test_all_that_are_least_to_rounding_are_named():
    assert least({"L²": 3e-17, "W₂": -2e-18, "H¹": 1e-9}) == ["L²", "W₂"]
    assert least({"L²": 3e-5, "W₂": 2e-5, "H¹": np.nan}) == ["W₂"]


def test_plain_gradient_descent_is_no_metric(part):
    """It alone reaches the basin: by method 0 to 1 starts do, and no metric does."""
    alone = copy.deepcopy(part)
    for key, found in alone.items():
        if key.startswith("mixture"):
            for name, of in found["methods"].items():
                away = [99.0] * 3
                of["ends"] = [found["target"] if name == GRADIENT else away, away]
    (text,) = [text for text in card(alone).text if "basin" in text]
    assert "by metric" not in text
    assert "is reached, by method (plain gradient descent is one), in 0 to 1 with ½L²" in text


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
