"""Does a real run go through Ray, keep what it finds, go on after a stop, and write its report?"""

import json
import shutil

import pytest
from executed_notebook import execute

from degeneracy.config.reader import parse_config
from degeneracy.runs.store import RunStoreError
from degeneracy.study import measure, open_work
from studies.paper import STUDY
from studies.paper.measure import SERIES, has
from studies.paper.settings import Settings

pytestmark = pytest.mark.xdist_group("ray")  # one Ray at a time
KEY = "mnist, 1 hidden layer, seeds 1, 2"


def test_a_row_a_run_and_optimizer_is_kept(found):
    assert found["status"] == "complete"
    rows = found["parts"]["sizes"][KEY]["rows"]
    told = [(row["factors"]["seed"], row["optimizer"], row["status"]) for row in rows]
    assert told == [(s, o, "finished") for s in (1, 2) for o in ("sgd", "ngd")]
    for row in rows:
        assert tuple(row["series"]) == SERIES
        assert row["series"]["llc"][0] is None
        assert None not in (row["series"]["llc"][2], row["series"]["hessian_trace"][2])
        assert row["model"] == "FFNN 1 HL, 8 HN"
    ngd = rows[1]
    assert ngd["factors"]["alpha"] == 0.1
    assert ngd["kappa"]["layers.1.weight"]["0"][2] > 0
    assert ngd["series"]["llc"][1] == rows[0]["series"]["llc"][1]  # the shared checkpoint


def test_seeds_differ(found):
    first, _, second, _ = found["parts"]["sizes"][KEY]["rows"]
    assert first["series"]["train_loss"][2] != second["series"]["train_loss"][2]


def test_the_table_and_the_report_are_there(finished):
    assert (finished / "runs.csv").read_text().startswith("part,key,optimizer")
    assert (finished / "sweeps" / "sizes-mnist-1-hidden-layer-seeds-1-2" / "sweep.json").exists()
    page = (finished / "report.html").read_text()
    for key in ("differences", "swap", "llc-mnist-1-hidden-layer"):
        assert f'id="figure-{key}"' in page
    assert "Not compared: training.batch_size" in page


def test_what_is_there_is_not_done_again(finished, found, tiny_settings, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    left = json.loads((tmp_path / "run" / "results.json").read_text()) | {"status": "running"}
    del left["sha256"]  # what is edited is then taken as it is
    del left["parts"]["sizes"][KEY]
    (tmp_path / "run" / "results.json").write_text(json.dumps(left))
    work = open_work(STUDY, tiny_settings, tmp_path / "run", "cpu")
    measure(work, "sizes")  # from the sweep's finished runs: no Ray, no training
    again = work.results["parts"]["sizes"][KEY]
    assert again == found["parts"]["sizes"][KEY]
    assert work.results["timing_s"]["sizes"] - found["timing_s"]["sizes"] < 5


def test_a_sweep_with_a_failed_run_counts_as_not_done(finished, tiny_settings, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    work = open_work(STUDY, tiny_settings, tmp_path / "run", "cpu")
    work.part = "sizes", STUDY.parts["sizes"]
    assert has(work, KEY)
    work.found()[KEY]["rows"][0]["status"] = "failed"
    assert not has(work, KEY)
    work.store.close()


def test_a_directory_with_another_config_is_refused(finished, tiny_settings):
    changed = tiny_settings.model_dump() | {"sampler": {"num_draws": 11}}
    with pytest.raises(RunStoreError, match=r"sampler\.num_draws: 10 there, 11 now"):
        open_work(STUDY, parse_config(changed, Settings), finished, "cpu")


def test_the_notebook_takes_what_is_there_and_writes_the_report(finished, tiny_config, tmp_path):
    """Parts without seeds are left out; their figures are empty."""
    shutil.copytree(finished, tmp_path / "run")
    outputs, out = execute("eval_paper", tiny_config, tmp_path)
    shown = ["application/vnd.plotly.v1+json" in output.get("data", {}) for output in outputs]
    assert sum(shown) == 10
    text = "".join(output.get("text", "") for output in outputs)
    assert f"report: {out / 'report.html'}" in text
    assert "NGD's mean LLC ends" in text
    assert "Nothing has been measured yet." in text
