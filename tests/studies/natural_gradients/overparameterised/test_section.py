"""Does the section keep what it finds, show all of it, and say what may be said?"""

import json
import math

import pytest
from markupsafe import escape
from pydantic import ValidationError
from section_alone import alone

from degeneracy.study import run_study
from studies.natural_gradients.overparameterised import SECTION
from studies.natural_gradients.overparameterised.measure import at_angle, farthest
from studies.natural_gradients.overparameterised.network import random_inputs
from studies.natural_gradients.overparameterised.settings import Settings

NAME = "overparameterised"
TINY = Settings(
    size=12, dim=8, widths=[64, 256], lrs=[0.5, 1.0, 2.5], num_steps=8,
    angles=[0.1, 0.0], pair_width=256, max_steps=50, num_seeds=2,
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
        headline = SECTION.card(some).headline
        assert headline.startswith("At width ") == key.startswith("width")
        assert ("natural gradient takes" in headline) == (key == "angle 0.1")
        assert ("Random inputs alone were measured" in headline) == (key == "random inputs")
        assert ("Parallel inputs are refused; nothing else" in headline) == (key == "angle 0")
    assert (SECTION.figures({}), SECTION.tables({})) == ([], [])
    assert SECTION.card({}).headline == "Nothing has been measured yet."


def test_the_verdict_follows_the_numbers(part):
    near = json.loads(json.dumps(part))
    for width in (64, 256):
        for rate in near[f"width {width}"]["rates"].values():
            rate["worst"] = [rate["predicted"] + 0.5 * width**-0.5] * 2
    assert "contracts by (1 − η)² a step within 0.031 at every" in SECTION.card(near).headline
    told = SECTION.card(near).text[1]
    assert "by width: 0.5 and 0.5 at η = 0.5; 0.5 and 0.5 at η = 1, in 1/√m." in told
    for value, said in ((0.75, "8/√m, slower"), (0.125, "2/√m, faster")):
        near["width 256"]["rates"]["0.5"]["worst"] = [0.25, value]
        headline = SECTION.card(near).headline
        assert f"leaves (1 − η)² by more than 1/√m at η = 0.5 ({said})." in headline


def test_what_is_kept_is_the_ratio_farthest_from_the_prediction():
    assert farthest([0.24, 0.01, 0.3], 0.25) == 0.01
    assert farthest([0.24, 0.01, 0.9], 0.25) == 0.9
    assert math.isnan(farthest([0.24, math.nan, 0.9], 0.25))


def test_k_facs_gap_is_told_times_the_root_of_the_width(part):
    given = json.loads(json.dumps(part))
    given["width 64"]["kfac_gaps"] = [0.25, 0.25]
    given["width 256"]["kfac_gaps"] = [0.5, 0.5]
    assert "by 0.25 and 0.5 of |r|, which times √m is 2 and 8." in SECTION.card(given).text[1]


def test_a_singular_kernel_is_a_note_with_its_rank_and_pair(part):
    assert not any("singular" in note.line for note in SECTION.card(part).notes)
    inputs, labels = random_inputs(TINY.size, TINY.dim, TINY.seed)
    near = {"angle 1e-08": at_angle(TINY, inputs, labels, 1e-8)}
    (note,) = SECTION.card(near).notes
    assert "singular to rounding with a pair at 1e-08: rank 11 of 12." in note.line
    assert "inputs, 0 and 1, are at a sine of 1e-08" in note.detail
    lost = json.loads(json.dumps(part))
    lost["width 64"]["rates"]["2.5"]["rank"] = 10
    (note, _) = SECTION.card(lost).notes
    assert "at width 64 and η = 2.5: rank 10 of 12." in note.line


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ValidationError, match="10 given with dim 16; allowed there: at least 16"):
        Settings(size=10)
