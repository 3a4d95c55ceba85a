"""Does the atlas search its rates, do its runs on Ray, go on after a stop, and report?"""

import json
import shutil

import pytest

from degeneracy.config.reader import parse_config
from degeneracy.study import measure, open_work, run_study
from studies.atlas import STUDY
from studies.atlas.contrasts import table_of
from studies.atlas.settings import Settings


@pytest.fixture(scope="module")
def config(data_root):
    model = {"hidden_nodes": 8, "hidden_layers": 1, "localization": 400.0, "num_draws": 20}
    return {
        "factorial": {
            "root": str(data_root),
            "num_images": 640,
            "max_epochs": 6,
            "models": [model],
            "fractions": [0.5],
            "seeds": [1],
            "further_seeds": [],
            "thorough_seeds": [],
        },
        "search": {"seeds": [101], "num_rates": 12},
    }


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory, device):
    out = tmp_path_factory.mktemp("atlas") / "run"
    run_study(STUDY, parse_config(config, Settings), out, device)
    return out


@pytest.fixture
def results(finished):
    return json.loads((finished / "results.json").read_text())


def test_every_cell_has_a_row_with_the_rates_that_were_found(finished, results):
    rates = {key: found["rate"] for key, found in results["parts"]["rates"].items()}
    assert set(rates) == {"sgd, 1×8", "ngd, 1×8"}
    rows = results["parts"]["runs"]["1×8, seed 1"]["rows"]
    assert [(row["early"], row["late"]) for row in rows] == [
        ("sgd", "sgd"),
        ("sgd", "ngd"),
        ("ngd", "sgd"),
        ("ngd", "ngd"),
    ]
    for row in rows:
        assert row["status"] == "finished", row["reason"]
        assert row["training"]["looks"]
    configs = sorted((finished / "runs").glob("*/runs/*/config.json"))
    training = json.loads(configs[1].read_text())["training"]
    assert (training["early"], training["late"]) == ("sgd", "ngd")
    assert training["late_lr"] == pytest.approx(0.5 * rates["ngd, 1×8"])
    assert training["early_lr"] == pytest.approx(0.5 * rates["sgd, 1×8"])


def test_every_run_is_in_the_table_with_or_without_an_endpoint(results):
    table = table_of(results)
    assert len(table) == 4
    assert (table["balanced"].isna() == (table["missing"] != "")).all()


def test_finished_runs_are_not_done_again(finished, results, config, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("runs/*/results.json")}
    work = open_work(STUDY, parse_config(config, Settings), tmp_path / "run", "cpu")
    del work.results["parts"]["runs"]["1×8, seed 1"]
    measure(work)
    assert work.results["parts"] == results["parts"]
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_the_page_says_what_is_there(finished):
    page = (finished / "report.html").read_text()
    assert "What makes one solution less degenerate than another?" in page
    assert 'id="figure-llc-against-loss"' in page
