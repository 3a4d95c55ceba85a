"""Local estimates of a run: small networks on pooled images, sampled by `auto`."""

import pytest
import torch
from torch.nn.functional import avg_pool2d

from degeneracy.config.reader import parse_config
from degeneracy.data.images import DataSplits, TensorData
from degeneracy.llc.certificates import LOCAL, NO_MINIMUM, NO_REST, TEMPERED
from degeneracy.runs.config import Config
from degeneracy.study import finish
from studies.ngd_sgd import measure_llcs, measure_local, open_run, train_models

TITLE = "FFNN 1 HL, 8 HN"


@pytest.fixture(scope="module")
def run(fashion_mnist, tmp_path_factory):
    """Five epochs of SGD, the last three of them also with NGD, 2,000 images of 7 × 7 pixels."""
    splits = [
        TensorData(avg_pool2d(part.inputs[:2000], 4), part.labels[:2000]) for part in fashion_mnist
    ]
    config = parse_config(
        {
            "experiment": {
                "hidden_nodes": [8],
                "hidden_layers": [1],
                "cut_off_epochs": 2,
                "num_epochs": 5,
                "robustness": False,
                "hessian": False,
                "measure_epochs": [4, 5],
            },
            "data": {"batch_size": 32},
            "devinterp": {"num_chains": 4, "num_draws": 60, "num_burnin_steps": 10},
        },
        Config,
    )
    out = tmp_path_factory.mktemp("local") / "run"
    work = open_run(config, out, "cpu", data=DataSplits(*splits))
    train_models(work)
    measure_llcs(work)
    measure_local(work)
    yield work
    finish(work)


def test_every_end_and_the_parting_checkpoint_is_estimated_in_both_gauges(run):
    local = run.results["models"][TITLE]["local"]
    points = [(point["optimizer"], point["epoch"]) for point in local["points"]]
    assert points[:3] == [("sgd", 5), ("ngd", 5), ("sgd", 2)]
    for point in local["points"]:
        for gauge in ("given", "balanced"):
            found = point[gauge]
            assert found["gauge"] == gauge
            assert found["verdict"] in (LOCAL, NO_MINIMUM, NO_REST, TEMPERED)
            assert found["interval"][0] < found["llc"] < found["interval"][1]
            assert len(found["chains"]) == 8


def test_the_settings_are_those_at_which_all_are_near_and_at_a_minimum(run):
    local = run.results["models"][TITLE]["local"]
    for point in local["points"]:
        assert point["given"]["relative_distance"] <= 0.3
        assert point["given"]["basin_shift"] <= 1.01


def test_a_difference_is_of_the_same_chains(run):
    local = run.results["models"][TITLE]["local"]
    sgd, ngd = (point["given"] for point in local["points"][:2])
    found = local["differences"]["ngd"]["given"]
    assert found["difference"] == pytest.approx(ngd["llc"] - sgd["llc"], abs=1e-9)
    by_chain = torch.tensor([chain["llc"] for chain in ngd["chains"]]) - torch.tensor(
        [chain["llc"] for chain in sgd["chains"]]
    )
    assert found["std_error"] == pytest.approx(float(by_chain.std() / 8**0.5), rel=1e-4)


def test_the_trajectory_says_that_it_is_not_local(run):
    verdicts = run.results["models"][TITLE]["optimizers"]["sgd"]["llc_verdict"]
    assert verdicts[5] in (TEMPERED, NO_REST)
    assert verdicts[3] is None


def test_what_is_there_is_not_estimated_again(run, monkeypatch):
    def refused(*_, **__):
        raise AssertionError("estimated again")

    monkeypatch.setattr("studies.ngd_sgd.local_measure.estimate_llcs", refused)
    measure_local(run)
