"""Does the study keep what it finds, go on after a stop, and write its report and notebook?"""

import copy
import json

import numpy as np
import pytest
import torch
from transition_results import TITLE as MADE_UP_TITLE

from degeneracy.config.reader import ConfigError
from degeneracy.device import DeviceError
from degeneracy.runs.store import RunStore, RunStoreError
from degeneracy.runs.work import Work
from degeneracy.study import finish, measure, open_work, page
from studies.phase_transitions import STUDY
from studies.phase_transitions import measure as measuring
from studies.phase_transitions.settings import Settings

TITLE = "FFNN 7 HL, 32 HN"
FIGURES = 9


def written_page(results, directory):
    """The page of made-up results."""
    results |= {"environment": {"torch": torch.__version__}, "timing_s": {"total": 1.0}}
    store = RunStore(directory, {})
    report = page(Work(STUDY, Settings(), store, torch.device("cpu"), results))
    store.close()
    return report.read_text()


def test_the_notebook_shows_every_figure_and_writes_the_report(executed):
    outputs, directory = executed
    assert (
        sum("application/vnd.plotly.v1+json" in output.get("data", {}) for output in outputs)
        == FIGURES
    )
    text = "".join(output.get("text", "") for output in outputs)
    assert f"report: {directory / 'report.html'}" in text
    page = (directory / "report.html").read_text()
    assert len(page) > 1_000_000  # plotly.js is inside
    assert page.count('<figure id="figure-') == FIGURES
    assert "src=" not in page.split("<body>")[1]
    assert "This run is not finished" not in page
    assert f"Leaving the plateau: {TITLE} on fashion-mnist" in page


def test_what_is_there_is_not_measured_again_and_what_is_missing_is(
    executed, trained, small_settings, monkeypatch
):
    """As after a kill: one epoch's curvature is gone, and everything else stays as it was."""
    path = executed[1] / "results.json"
    broken = copy.deepcopy(trained)
    broken["models"][TITLE]["optimizers"]["ngd"]["spectrum"][3] = None
    broken["status"] = "running"
    del broken["sha256"]  # what is edited is then taken as it is
    path.write_text(json.dumps(broken))
    measured = []
    curvature_at = measuring.curvature_at
    monkeypatch.setattr(
        measuring, "curvature_at", lambda *given: measured.append(1) or curvature_at(*given)
    )
    work = open_work(STUDY, small_settings(), executed[1], "cpu")
    measure(work)
    finish(work)
    assert len(measured) == 1
    again = json.loads(path.read_text())
    for name in ("sgd", "ngd"):
        one, other = (r["models"][TITLE]["optimizers"][name] for r in (again, trained))
        assert one.keys() == other.keys()
        assert all(one[key] == other[key] for key in one if key != "spectrum")
        np.testing.assert_allclose(
            one["spectrum"][3]["diagonals"], other["spectrum"][3]["diagonals"], rtol=1e-4
        )


def test_too_few_images_or_too_many_for_the_memory_are_refused_before_training(
    small_settings, tmp_path
):
    few = small_settings({"dataset": "mnist", "num_train_images": 2, "batch_size": 2})
    with pytest.raises(  # the first two are a five and a zero
        ConfigError,
        match=r"num_train_images: the first 2 training images .*allowed: enough of them",
    ):
        open_work(STUDY, few, tmp_path / "run", "cpu")
    many = {"num_train_images": 6400, "num_hessian_batches": 200}
    with pytest.raises(
        ConfigError,
        match=r"data.num_hessian_batches: 200 given; 64,000 gradients of .*give fewer samples",
    ):
        open_work(STUDY, small_settings(many, model_type="cnn"), tmp_path / "run", "cpu")
    assert not (tmp_path / "run").exists()


def test_the_report_can_be_written_before_anything_is_measured(small_settings, tmp_path):
    report = finish(open_work(STUDY, small_settings(), tmp_path / "run", "cpu"))
    assert "Training has not come far enough to show a plateau." in report.read_text()


def test_room_is_made_for_every_series_of_every_optimizer(small_settings, tmp_path):
    settings = small_settings(optimizer=["sgd", "adamw", "ngd"])
    work = open_work(STUDY, settings, tmp_path / "run", "cpu")
    optimizers = work.results["models"][TITLE]["optimizers"]
    assert list(optimizers) == ["sgd", "adamw", "ngd"]
    for series in optimizers.values():
        assert all(series[key] == [None] * 8 for key in measuring.SERIES)
    work.store.close()


@pytest.mark.parametrize("keep", [0, 3, 6])
def test_a_run_that_is_not_finished_has_a_page(results, cut, tmp_path, keep):
    for series in results["models"][MADE_UP_TITLE]["optimizers"].values():
        cut(series, keep)
    results["status"] = "running"
    html = written_page(results, tmp_path / "run")
    assert "This run is not finished" in html
    assert html.count('<figure id="figure-') == (FIGURES if keep else 0)


def test_names_cannot_bring_markup_into_the_page(results, tmp_path):
    model = results["models"][MADE_UP_TITLE]
    results["models"] = {"<script>alert(1)</script>": model, "other": copy.deepcopy(model)}
    assert "<script>alert" not in written_page(results, tmp_path / "run")


def test_another_config_in_the_same_directory_is_refused(executed, small_settings):
    with pytest.raises(RunStoreError, match="another config"):
        open_work(STUDY, small_settings(num_epochs=8), executed[1], "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_is_refused_where_there_is_none(tmp_path):
    with pytest.raises(DeviceError, match="use cpu or auto"):
        open_work(STUDY, Settings(), tmp_path / "run", "cuda")
    assert not (tmp_path / "run").exists()


def test_each_config_has_a_directory_of_its_own_that_says_what_it_is(small_settings):
    one, other = (STUDY.run_name(small_settings(seed=seed)) for seed in (1, 2))
    assert one == "fashion-mnist-ffnn-standard-seed1"
    assert other == "fashion-mnist-ffnn-standard-seed2"


def test_its_notebook_and_config_are_there():
    assert STUDY.notebook_path.is_file()
    assert STUDY.config_path.is_file()
