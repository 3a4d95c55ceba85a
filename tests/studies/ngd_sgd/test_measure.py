"""Robustness: all final checkpoints on one grid, rescaled functions that stay what they are."""

import json

import pytest
from torch.nn.functional import cross_entropy

from degeneracy.config.reader import parse_config
from degeneracy.curvature.largest import largest_curvature, loss_on
from degeneracy.llc.grid import LOCALIZATIONS
from degeneracy.models.networks import FFNN
from degeneracy.runs.config import Config
from degeneracy.runs.store import Point, RunStore
from degeneracy.study import finish
from degeneracy.training import packed_weights
from studies.ngd_sgd import measure_llcs, measure_robustness, open_run, train_models

TITLE = "FFNN 1 HL, 16 HN"
NAMES = ["sgd", "ngd", "adamw"]


def test_the_grid_samples_every_final_checkpoint_with_the_same_step(robust):
    _, results = robust
    grid = results["models"][TITLE]["llc_grid"]
    assert grid["epochs"] == dict.fromkeys(NAMES, 2)
    places = [(cell["localization"], cell["nbeta_setting"]) for cell in grid["cells"]]
    assert sorted(places) == sorted(
        (gamma, n) for gamma in LOCALIZATIONS for n in ("batch", "dataset")
    )
    for cell in grid["cells"]:
        expected = 0.2 / (cell["nbeta"] * grid["max_curvature"] + cell["localization"])
        assert cell["sampler_lr"] == pytest.approx(expected)
        assert list(cell["optimizers"]) == NAMES
        for finding in cell["optimizers"].values():
            assert finding["llc"] is not None
            assert len(finding["chains"]) == 2


def test_the_grids_curvature_is_that_of_the_stiffest_checkpoint(robust, mnist):
    out, results = robust
    data = mnist.train.inputs[:10_000], mnist.train.labels[:10_000]
    store = RunStore(out, json.loads((out / "config.json").read_text()))
    found = []
    for optimizer in NAMES:
        model = FFNN(16, 1)
        checkpoint = store.load_checkpoint(Point(TITLE, optimizer, 2))
        model.load_state_dict(packed_weights(checkpoint.tensors))
        weights = {name: p.detach() for name, p in model.named_parameters()}
        found.append(largest_curvature(loss_on(model, data, cross_entropy), weights))
    store.close()
    # On 1,280 of 60,000 images: the top eigenvalue varies by some per cent between subsets.
    stiffest = results["models"][TITLE]["llc_grid"]["max_curvature"]
    assert stiffest == pytest.approx(max(found), rel=0.25)


def test_rescaling_has_the_runs_own_estimate_at_factor_one(robust, series):
    _, results = robust
    rescaling = results["models"][TITLE]["rescaling"]
    assert rescaling["layers"] == ["layers.1", "layers.3"]
    for optimizer in NAMES:
        found = {entry["factor"]: entry for entry in rescaling["optimizers"][optimizer]}
        assert list(found) == [0.5, 1.0, 2.0]
        assert found[1.0]["llc"] == pytest.approx(series(results, optimizer)["llc"][2])
        assert found[2.0]["llc"] != found[1.0]["llc"]


def test_a_grid_that_was_stopped_goes_on_to_the_same_numbers(robust, tmp_path, device):
    finished, expected = robust
    content = json.loads((finished / "config.json").read_text())
    config = parse_config(content, Config)
    run = open_run(config, tmp_path, device)
    train_models(run)
    measure_llcs(run)
    measure_robustness(run)
    model = run.results["models"][TITLE]
    model["llc_grid"]["cells"] = model["llc_grid"]["cells"][:3]  # as if stopped on the way
    del model["rescaling"]["optimizers"]["ngd"]
    run.write()
    run.store.close()
    run = open_run(config, tmp_path, device)
    measure_robustness(run)
    finish(run)
    again = json.loads((tmp_path / "results.json").read_text())["models"][TITLE]
    expected = expected["models"][TITLE]
    assert again["rescaling"]["optimizers"] == expected["rescaling"]["optimizers"]
    assert sorted_cells(again) == sorted_cells(expected)


def sorted_cells(model: dict) -> list[dict]:
    cells = model["llc_grid"]["cells"]
    return sorted(cells, key=lambda cell: (cell["localization"], cell["nbeta"]))


def test_one_optimizer_has_no_grid_to_compare_on(small_config, run_small, tmp_path):
    config = small_config(
        experiment_type="standard", optimizer="sgd", num_epochs=1, robustness=True
    )
    model = run_small(config, tmp_path / "run")["models"][TITLE]
    assert not model.get("llc_grid")
    assert model["rescaling"]["optimizers"].keys() == {"sgd"}
