"""Does the study keep what it finds, go on after a stop, and write its report?"""

import json
import shutil

import pytest
from executed_notebook import execute
from markupsafe import escape

from degeneracy.config.reader import parse_config
from degeneracy.runs.store import RunStoreError
from degeneracy.study import measure, open_work
from studies.ngd_directions import STUDY
from studies.ngd_directions.findings import findings
from studies.ngd_directions.settings import Settings


def read(directory):
    return json.loads((directory / "results.json").read_text())


def test_the_report_holds_every_figure_and_sentence(finished, results):
    page = (finished / "report.html").read_text()
    assert len(page) > 1_000_000  # plotly.js is inside
    for key in ("exact-smoothing", "exact-training", "dense", "float32"):
        assert f'id="figure-{key}"' in page
    unbroken = page.replace("\u00a0", " ")
    for card in findings(results).cards:
        assert str(escape(card.headline)) in unbroken
        assert all(str(escape(text)) in unbroken for text in card.text)


def test_what_was_found_is_taken_from_the_directory(
    finished, results, tiny_settings, tmp_path, device
):
    assert results["status"] == "complete"
    assert {part: list(found) for part, found in results["parts"].items()} == {
        "exact": ["3", "12"],
        "dense": ["recorded"],
        "float32": ["recorded"],
    }
    shutil.copytree(finished, tmp_path / "run")
    work = open_work(STUDY, tiny_settings, tmp_path / "run", device)
    measure(work)
    assert work.results["parts"] == results["parts"]


@pytest.mark.parametrize(("part", "key"), [("exact", "3"), ("exact", "12"), ("dense", "recorded")])
def test_what_is_missing_is_measured_again_to_the_same_numbers(
    interrupted, results, tiny_settings, part, key, device
):
    directory = interrupted(part, key)
    measure(open_work(STUDY, tiny_settings, directory, device))
    assert read(directory)["parts"] == results["parts"]


def test_a_part_is_measured_without_the_others(tiny_config, tmp_path):
    config = tiny_config | {"recorded": {"hidden_nodes": 4, "num_steps": 2}}
    work = open_work(STUDY, parse_config(config, Settings), tmp_path / "run", "cpu")
    measure(work, "float32")
    assert list(read(tmp_path / "run")["parts"]) == ["float32"]
    assert 'id="figure-float32"' in (tmp_path / "run" / "report.html").read_text()


def test_a_directory_with_another_config_is_refused(finished, tiny_config):
    recorded = tiny_config["recorded"] | {"num_steps": 13}
    other = parse_config(tiny_config | {"recorded": recorded}, Settings)
    with pytest.raises(RunStoreError, match=r"recorded\.num_steps: 12 there, 13 now"):
        open_work(STUDY, other, finished, "cpu")


def test_the_notebook_goes_on_shows_every_figure_and_writes_the_report(interrupted, tiny_config):
    directory = interrupted("float32", "recorded")
    outputs, out = execute("eval_ngd_directions", tiny_config, directory.parent)
    assert out == directory
    shown = ["application/vnd.plotly.v1+json" in output.get("data", {}) for output in outputs]
    assert sum(shown) == 4
    text = "".join(output.get("text", "") for output in outputs)
    assert f"report: {directory / 'report.html'}" in text
    assert "Rounding to float32 moves the directions" in text
    found = read(directory)
    assert found["status"] == "complete"
    assert list(found["parts"]["float32"]) == ["recorded"]
