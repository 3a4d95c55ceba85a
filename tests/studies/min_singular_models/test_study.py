"""Does the study keep what it finds, go on after a stop, and write its report?"""

import json

import pytest
import torch
from executed_notebook import execute

from degeneracy.config.reader import parse_config
from degeneracy.device import DeviceError
from degeneracy.runs.store import RunStoreError
from degeneracy.study import finish, measure, open_work
from studies.min_singular_models import STUDY
from studies.min_singular_models.records import records
from studies.min_singular_models.settings import Settings

MISSING, KEPT = "sample, r = 25", "sample, r = 10"  # in a run that was interrupted


def read(directory):
    return json.loads((directory / "results.json").read_text())


def test_the_report_holds_verdict_figures_and_every_case(finished, results):
    page = (finished / "report.html").read_text()
    assert len(page) > 1_000_000  # plotly.js is inside
    assert "src=" not in page.split("<body>")[1]
    for key in ("error", "llc", "rank", "singular", "running-mean"):
        assert f'id="figure-{key}"' in page
    for name in records(results):
        assert name in page


def test_every_case_is_recorded_with_its_environment_and_time(results):
    assert results["status"] == "complete"
    assert {part: len(found) for part, found in results["parts"].items()} == {
        "linear": 4,
        "normal_crossings": 2,
        "deep_linear": 1,
    }
    assert torch.__version__.startswith(results["environment"]["torch"])
    assert all(results["timing_s"][part] > 0 for part in results["parts"])


def test_what_is_missing_is_measured_again_to_the_same_numbers(
    interrupted, results, small_settings, device
):
    """Whatever is beside it; what is there is not touched."""
    left = read(interrupted)
    left["parts"]["linear"][KEPT]["llc"] = 123.0
    (interrupted / "results.json").write_text(json.dumps(left))
    work = open_work(STUDY, small_settings, interrupted, device)
    measure(work)
    found = read(interrupted)["parts"]
    assert found["linear"][KEPT]["llc"] == 123.0
    assert found["linear"][MISSING] == results["parts"]["linear"][MISSING]
    for part in ("normal_crossings", "deep_linear"):
        assert found[part] == results["parts"][part]
    assert finish(work) == interrupted / "report.html"


def test_a_directory_with_another_config_is_refused(interrupted, small_config):
    linear = small_config["linear"] | {"noise": 0.25}
    other = parse_config(small_config | {"linear": linear}, Settings)
    with pytest.raises(RunStoreError, match="another config"):
        open_work(STUDY, other, interrupted, "cpu")


def test_the_notebook_goes_on_shows_every_figure_and_writes_the_report(interrupted, small_config):
    outputs, directory = execute("eval_min_singular_models", small_config, interrupted.parent)
    assert directory == interrupted
    shown = ["application/vnd.plotly.v1+json" in output.get("data", {}) for output in outputs]
    assert sum(shown) == 5
    text = "".join(output.get("text", "") for output in outputs)
    assert f"report: {directory / 'report.html'}" in text
    assert "Deep linear networks (1 case)" in text
    assert "Not settled" in text
    found = read(directory)
    assert found["status"] == "complete"
    assert MISSING in found["parts"]["linear"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_is_refused_where_there_is_none(tmp_path):
    with pytest.raises(DeviceError, match="use cpu or auto"):
        open_work(STUDY, Settings(), tmp_path / "study", "cuda")
    assert not (tmp_path / "study").exists()
