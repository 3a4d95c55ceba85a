"""Does the section keep what it finds, show all of it, and say what may be said?"""

import copy

import numpy as np
import pytest
from markupsafe import escape
from pydantic import ValidationError

from studies.natural_gradients.dually_flat.figures import figures
from studies.natural_gradients.dually_flat.findings import card, tables
from studies.natural_gradients.dually_flat.measure import (
    BATCHES,
    LIKELIHOOD,
    RATES,
    likeliest,
    problem,
)
from studies.natural_gradients.dually_flat.runs import METHODS
from studies.natural_gradients.dually_flat.settings import Case, Settings


def test_every_method_is_measured_at_every_count(part):
    cases = {key: found for key, found in part.items() if key != BATCHES}
    assert len(cases) == 4
    for found in cases.values():
        assert set(found["methods"]) == {*METHODS, LIKELIHOOD}
        for name, one in found["methods"].items():
            assert len(one["ratio"]) == len(found["samples"])
            assert name == LIKELIHOOD or tuple(one["rate"]) in RATES[name]
    assert np.array(part[BATCHES]["ratios"]).shape == (2, 2)


def test_the_report_holds_figures_and_sentences(finished, part):
    page = (finished / "report.html").read_text().replace("\u00a0", " ")
    drawn = figures(part)
    assert [drawing.key for drawing in drawn] == ["dually-flat-efficiency", "dually-flat-batches"]
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
        assert ("In one pass DSNGD ends at" in headline) == (key != BATCHES)
        assert (headline == "Batch sizes alone were measured.") == (key == BATCHES)
    assert figures({}) == []
    assert tables({}) == []
    assert card({}).headline == "Nothing has been measured yet."


def test_a_method_that_diverged_is_said_to(part):
    broken = copy.deepcopy(part)
    for key, found in broken.items():
        if key != BATCHES:
            found["methods"]["SNGD"]["ratio"][-1] = None
    assert any("SNGD diverged" in text for text in card(broken).text)
    assert {tile.name: tile.value for tile in card(broken).tiles}["SNGD"] == "diverged"
    figures(broken)
    tables(broken)


def test_where_there_is_no_likeliest_model_it_is_said_and_why():
    """The second value of a feature was never drawn: no divergence, and no number either."""
    made = problem(Case(classes=2, sizes=[2]), 1, 50, 10)
    made = made._replace(cells=np.zeros_like(made.cells))
    found = likeliest(made, [25, 50])
    assert found["ratio"] == [None, None]
    assert found["reasons"]["50"].startswith("x_1 = 1 was never seen")


def test_a_likelihood_without_maximum_is_not_called_diverged(part):
    broken = copy.deepcopy(part)
    for key, found in broken.items():
        if key.startswith("s = 2"):
            found["methods"][LIKELIHOOD]["ratio"][-1] = None
            found["methods"][LIKELIHOOD]["reasons"] = {"2000": "y = 1 was never seen"}
    told = card(broken)
    assert "maximum likelihood not defined." in told.text[2]
    assert {tile.name: tile.value for tile in told.tiles}[LIKELIHOOD].endswith("to not defined")
    notes = {note.line: note.detail for note in told.notes}
    name = "Maximum likelihood is not defined for s = 2, m = [4], σ = 0.7, seed 1."
    assert notes[name] == "y = 1 was never seen"
    assert not any("not defined" in note.line for note in card(part).notes)


def test_what_is_said_of_rates_is_what_was_tried_and_chosen(part):
    given = copy.deepcopy(part)
    for key, found in given.items():
        if key != BATCHES:
            found["methods"]["DSNGD"]["rate"] = [0.125, 0.1]
            found["methods"]["SNGD"]["diverged"] = 0
    (note,) = card(given).notes
    assert f"{len(RATES['DSNGD'])} of DSNGD" in note.detail
    assert "DSNGD's a came out as 0.125." in note.detail


def test_the_headline_has_the_medians(part):
    first = [found for key, found in part.items() if key.startswith("s = 3, m = [3, 2]")]
    value = np.median([found["methods"]["DSNGD"]["ratio"][-1] for found in first])
    text = next(text for text in card(part).text if text.startswith("s = 3"))
    assert f"DSNGD {value:.2f}" in text


def test_settings_that_are_none_are_refused():
    for wrong in ({"sizes": [1]}, {"sizes": []}, {"classes": 1}, {"scale": 0.0}):
        with pytest.raises(ValidationError):
            Case(**wrong)
    with pytest.raises(ValidationError):
        Settings(seeds=[1, 1])
