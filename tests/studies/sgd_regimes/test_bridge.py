"""Are the main experiment's runs read as they are, and placed where their own curvature says?"""

import json
import shutil

import numpy as np
import pytest
import torch

import studies
from degeneracy.config.reader import parse_config
from degeneracy.data.files import DataError
from degeneracy.models.networks import FFNN
from degeneracy.optimizers.exact_ngd import fisher_matrix
from degeneracy.runs.config import Config
from degeneracy.runs.store import RunStoreError
from degeneracy.study import measure, open_work, run_study
from studies.sgd_regimes import STUDY, bridge, convergence_boundary
from studies.sgd_regimes import measure as measured
from studies.sgd_regimes.bridge import (
    checkpoints,
    complete_runs,
    name_below,
    position,
    training_images,
    weighted_kernel,
)
from studies.sgd_regimes.figures import bridge_figure
from studies.sgd_regimes.findings import findings
from studies.sgd_regimes.settings import Settings


@pytest.fixture(scope="module")
def experiments(data_root, tmp_path_factory, device):
    """A folder with one finished run of the main experiment, a swap of a few seconds."""
    root = tmp_path_factory.mktemp("experiments")
    config = {
        "experiment": {
            "hidden_nodes": [8],
            "hidden_layers": [1],
            "cut_off_epochs": 1,
            "num_epochs": 2,
            "hessian": False,
            "robustness": False,
            "sgd_swap_lr": 0.02,
        },
        "data": {"batch_size": 1000, "root": str(data_root)},
        "devinterp": {"sampler": "sgld", "num_draws": 10},
    }
    out = root / "ngd_sgd" / "small"
    run_study(studies.find("ngd_sgd"), parse_config(config, Config), out, device)
    return root


def test_the_weighted_kernel_has_the_gauss_newton_matrixs_eigenvalues():
    """Its dense matrix over weights, the Fisher matrix with the expectation over labels."""
    torch.manual_seed(0)
    model, x = FFNN(4, 1, (1, 3, 3), 5).double(), torch.randn(6, 1, 3, 3, dtype=torch.float64)
    expected = torch.linalg.eigvalsh(fisher_matrix(model, x).double()).flip(0)[:24]
    found = np.linalg.eigvalsh(weighted_kernel(model, x))[::-1][:24]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-9)


def test_only_finished_runs_of_the_main_experiment_are_read(experiments, tmp_path):
    assert [run.name for run in complete_runs(experiments)] == ["small"]
    assert complete_runs(tmp_path / "nowhere") == []


def test_checkpoints_are_sgds_with_the_settings_that_trained_them(experiments):
    (run,) = complete_runs(experiments)
    found = list(checkpoints(run, 10))
    assert [(one.point.optimizer, one.point.epoch) for one in found] == [
        ("sgd", 0),
        ("sgd", 1),
        ("sgd", 2),
    ]
    images, count = training_images(found[0].config, 6)
    assert count == 60_000
    places = [position(one, images, count) for one in found]
    assert [place["lr"] for place in places] == [0.01, 0.01, 0.02]  # the last after the swap
    results = json.loads((run / "results.json").read_text())
    series = results["models"]["FFNN 1 HL, 8 HN"]["optimizers"]["sgd"]
    assert [place["llc"] for place in places] == series["llc"]
    values = np.linalg.eigvalsh(weighted_kernel(found[2].model, images))
    values = np.where(values > 1e-9 * values.max(), values, 0)
    edge = convergence_boundary(values, 10_000, 0.9, num_samples=600_000)
    assert places[2]["closeness"] == pytest.approx(0.02 / edge, rel=1e-9)


def test_reading_a_run_leaves_it_as_it_was(experiments):
    (run,) = complete_runs(experiments)
    before = {p.name: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    list(checkpoints(run, 2))
    assert {p.name: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_the_report_shows_where_runs_lie(experiments, tmp_path):
    config = {"bridge": {"root": str(experiments), "num_images": 4, "num_epochs": 2}}
    work = open_work(STUDY, parse_config(config, Settings), tmp_path / "run", "cpu")
    measure(work, "bridge")
    work.store.close()
    part = work.results["parts"]["bridge"]
    assert [one["epoch"] for one in part["ngd_sgd/small"]["positions"]] == [0, 2]
    figure = bridge_figure(part)
    assert [trace.name for trace in figure.data if trace.showlegend] == ["ngd_sgd/small"]
    (card,) = findings(work.results).cards
    assert "2 checkpoints of 1 run" in card.headline
    assert "cannot be said: 1 trained checkpoint at 1 learning rate" in card.headline


def bridged(root, out):
    """The part "bridge", measured over the runs below `root`."""
    settings = parse_config({"bridge": {"root": str(root), "num_images": 4}}, Settings)
    work = open_work(STUDY, settings, out, "cpu")
    measure(work, "bridge")
    work.store.close()
    return work.results


def test_runs_with_one_name_are_kept_apart(tmp_path):
    assert name_below(tmp_path / "a" / "run", tmp_path) == "a/run"
    assert name_below(tmp_path / "b" / "run", tmp_path) == "b/run"
    assert name_below(tmp_path, tmp_path) == tmp_path.name


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (DataError("no such images; get them"), "no such images; get them"),
        (KeyError("val_loss"), "its results hold no 'val_loss'"),
        (RuntimeError("Error(s) in loading state_dict:\n\tMissing"), "loading state_dict: Missing"),
    ],
)
def test_a_run_that_cannot_be_read_says_why_and_the_others_are(
    experiments, tmp_path, monkeypatch, error, said
):
    shutil.copytree(experiments, tmp_path / "runs")
    shutil.copytree(experiments / "ngd_sgd" / "small", tmp_path / "runs" / "other" / "small")
    right = measured.positions

    def positions(directory, settings):
        if directory.parent.name == "other":
            raise error
        return right(directory, settings)

    monkeypatch.setattr(measured, "positions", positions)
    results = bridged(tmp_path / "runs", tmp_path / "out")
    part = results["parts"]["bridge"]
    assert set(part) == {"ngd_sgd/small", "other/small"}
    assert said in part["other/small"]["refused"]
    (card,) = findings(results).cards
    assert "3 checkpoints of 1 run." in card.headline
    assert any(line.startswith("other/small: ") for line in card.text)


def test_weights_that_fit_no_model_are_said(experiments, tmp_path, monkeypatch):
    monkeypatch.setattr(bridge, "packed_weights", lambda tensors: {"layer": torch.zeros(1)})
    part = bridged(experiments, tmp_path / "out")["parts"]["bridge"]
    assert "state_dict" in part["ngd_sgd/small"]["refused"]


def test_a_run_in_use_is_not_kept_as_refused(experiments, tmp_path, monkeypatch):
    def busy(directory, settings):
        raise RunStoreError(f"{directory} is in use by another process; wait for it")

    with monkeypatch.context() as patched:
        patched.setattr(measured, "positions", busy)
        assert bridged(experiments, tmp_path / "out")["parts"]["bridge"] == {}
    part = bridged(experiments, tmp_path / "out")["parts"]["bridge"]
    assert len(part["ngd_sgd/small"]["positions"]) == 3
