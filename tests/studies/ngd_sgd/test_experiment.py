"""The whole flow on real data: who shares what, what a kill leaves, how the command ends."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from degeneracy.curvature.largest import largest_curvature, loss_on
from degeneracy.curvature.trace import hessian_trace
from degeneracy.data.files import main
from degeneracy.models.networks import FFNN, LeNet5
from degeneracy.runs.config import parse_config
from degeneracy.runs.measurements import measure_hessian_traces, measure_llcs, measure_robustness
from degeneracy.runs.results import grid_cell
from degeneracy.runs.run import config_optimizer, default_directory, model_factories, open_run
from degeneracy.runs.store import Point, RunStore
from degeneracy.training import evaluate, packed_weights, train, unpack_state
from experiment import finish, legs, run_experiment, train_models
from utils_general import load_data

TITLE = "FFNN 1 HL, 16 HN"
COMMAND = [sys.executable, str(Path(__file__).resolve().parent.parent / "experiment.py")]


def small_config(data_root, **experiment):
    """A few seconds of real MNIST."""
    small = {
        "hidden_nodes": [16],
        "hidden_layers": [1],
        "cut_off_epochs": 1,
        "num_epochs": 2,
        "robustness": False,
    }
    return {
        "experiment": {**small, **experiment},
        "data": {
            "dataset": "mnist",
            "root": str(data_root),
            "batch_size": 500,
            "num_hessian_batches": 1,
            "num_probes": 3,
        },
        "devinterp": {"num_draws": 20},
    }


def run_small(config: dict, out: Path) -> dict:
    run_experiment(parse_config(config), out, device="cpu")
    return json.loads((out / "results.json").read_text())


@pytest.fixture(scope="module")
def swap(data_root, tmp_path_factory):
    """A finished swap run: its directory and its results."""
    out = tmp_path_factory.mktemp("swap") / "run"
    return out, run_small(small_config(data_root), out)


@pytest.fixture(scope="module")
def standard(data_root, tmp_path_factory):
    """A finished standard run."""
    out = tmp_path_factory.mktemp("standard") / "run"
    return out, run_small(
        small_config(data_root, experiment_type="standard", measure_epochs="final"), out
    )


def series(results: dict, optimizer: str) -> dict:
    return results["models"][TITLE]["optimizers"][optimizer]


def test_the_run_directory_holds_what_it_should(swap):
    out, results = swap
    files = {path.name for path in out.iterdir()}
    assert files == {
        ".lock",
        "config.json",
        "results.json",
        "traces.npz",
        "report.html",
        "checkpoints",
    }
    assert len(list((out / "checkpoints").iterdir())) == 4  # SGD 0, 1, 2 and NGD 2
    assert results["status"] == "complete"
    assert results["models"][TITLE]["num_parameters"] == 784 * 16 + 16 + 160 + 10
    assert results["timing_s"]["total"] == pytest.approx(
        sum(results["timing_s"][k] for k in ("train", "llc", "hessian"))
    )


def test_swap_shares_the_checkpoint_at_the_cut_off_and_only_that(swap):
    _, results = swap
    sgd, ngd = series(results, "sgd"), series(results, "ngd")
    for name, values in sgd.items():
        if name in ("kappa", "cosine", "diverged_epoch"):
            continue
        assert ngd[name][0] is None
        assert ngd[name][1] == values[1]
    assert ngd["train_loss"][2] != sgd["train_loss"][2]
    assert ngd["llc"][2] != sgd["llc"][2]


def test_every_series_is_measured_at_every_epoch(swap):
    _, results = swap
    sgd = series(results, "sgd")
    never_at_0 = {"update_norm"}
    for name, values in sgd.items():
        if name not in ("kappa", "cosine", "diverged_epoch", "llc_rhat"):
            assert len(values) == 3
            assert [v is None for v in values] == [name in never_at_0, False, False], name
    kappa = series(results, "ngd")["kappa"]
    assert set(kappa) == {"layers.1.weight", "layers.1.bias", "layers.3.weight", "layers.3.bias"}
    assert [v is None for v in kappa["layers.1.weight"]["1"]] == [True, True, False]
    assert sgd["kappa"] == sgd["cosine"] == {}
    cosines = series(results, "ngd")["cosine"]
    assert set(cosines) == set(kappa)
    assert all(values[:2] == [None, None] and 0 < values[2] <= 1 for values in cosines.values())


def test_traces_are_kept_once_for_each_measured_checkpoint(swap):
    out, results = swap
    with np.load(out / "traces.npz") as traces:
        assert set(traces.files) == {
            f"{TITLE}/{o}/{e}" for o, e in (("sgd", 0), ("sgd", 1), ("sgd", 2), ("ngd", 2))
        }
        trace = traces[f"{TITLE}/ngd/2"].astype(float)
    assert trace.shape == (2, 20)
    ngd = series(results, "ngd")
    assert ngd["llc"][2] == pytest.approx(
        results["nbeta"] * (trace.mean() - ngd["llc_init_loss"][2])
    )


@pytest.fixture(scope="module")
def robust(data_root, tmp_path_factory):
    """A finished swap run with its grid of settings and its rescaling."""
    out = tmp_path_factory.mktemp("robust") / "run"
    return out, run_small(small_config(data_root, robustness=True, measure_epochs="final"), out)


def test_the_grid_samples_both_final_checkpoints_with_the_same_step(robust):
    _, results = robust
    grid = results["models"][TITLE]["llc_grid"]
    assert grid["epochs"] == {"sgd": 2, "ngd": 2}
    places = [(cell["localization"], cell["nbeta_setting"]) for cell in grid["cells"]]
    assert sorted(places) == sorted(
        (gamma, n) for gamma in (10, 100, 1000, 10_000) for n in ("batch", "dataset")
    )
    for cell in grid["cells"]:
        expected = 0.2 / (cell["nbeta"] * grid["max_curvature"] + cell["localization"])
        assert cell["sampler_lr"] == pytest.approx(expected)
        assert cell["optimizers"].keys() == {"sgd", "ngd"}
        for finding in cell["optimizers"].values():
            assert finding["llc"] is not None
            assert len(finding["chains"]) == 2


def test_the_grids_curvature_is_that_of_the_stiffer_checkpoint(robust, data_root):
    out, results = robust
    inputs, labels = some_images(data_root)
    found = []
    for optimizer in ("sgd", "ngd"):
        model = weights_at(out, optimizer, 2, data_root, robustness=True, measure_epochs="final")
        loss = loss_on(model, (inputs, labels), cross_entropy)
        found.append(
            largest_curvature(loss, {name: p.detach() for name, p in model.named_parameters()})
        )
    # On 1,280 of 60,000 images: the top eigenvalue varies by some per cent between subsets.
    assert results["models"][TITLE]["llc_grid"]["max_curvature"] == pytest.approx(
        max(found), rel=0.25
    )


def test_rescaling_keeps_the_loss_and_its_factor_one_is_the_runs_own_estimate(robust):
    _, results = robust
    rescaling = results["models"][TITLE]["rescaling"]
    assert rescaling["layers"] == ["layers.1", "layers.3"]
    for optimizer in ("sgd", "ngd"):
        found = {entry["factor"]: entry for entry in rescaling["optimizers"][optimizer]}
        assert sorted(found) == [0.5, 1.0, 2.0]
        assert found[1.0]["llc"] == pytest.approx(series(results, optimizer)["llc"][2])
        assert found[2.0]["llc"] != found[1.0]["llc"]


def test_a_grid_that_was_stopped_goes_on_to_the_same_numbers(robust, data_root, tmp_path):
    _, expected = robust
    config = parse_config(small_config(data_root, robustness=True, measure_epochs="final"))
    out = tmp_path / "run"
    run = open_run(config, out, "cpu")
    train_models(run)
    measure_llcs(run)
    measure_robustness(run)
    model = run.results["models"][TITLE]
    model["llc_grid"]["cells"] = model["llc_grid"]["cells"][:3]  # as if stopped on the way
    del model["rescaling"]["optimizers"]["ngd"]
    run.store.write_results(run.results)
    run.store.close()
    run = open_run(config, out, "cpu")
    measure_robustness(run)
    finish(run)
    again = json.loads((out / "results.json").read_text())
    assert again["models"][TITLE]["rescaling"] == expected["models"][TITLE]["rescaling"]
    for cell in expected["models"][TITLE]["llc_grid"]["cells"]:
        assert grid_cell(again, TITLE, cell["localization"], cell["nbeta_setting"]) == cell


def test_one_optimizer_has_no_grid_to_compare_on(data_root, tmp_path):
    config = small_config(
        data_root, experiment_type="standard", optimizer="sgd", num_epochs=1, robustness=True
    )
    results = run_small(config, tmp_path / "run")
    assert not results["models"][TITLE].get("llc_grid")
    assert results["models"][TITLE]["rescaling"]["optimizers"].keys() == {"sgd"}


def test_same_seed_same_numbers_another_seed_others(swap, data_root, tmp_path):
    _, results = swap
    again = run_small(small_config(data_root), tmp_path / "again")
    other = run_small(small_config(data_root, seed=5), tmp_path / "other")
    assert again["models"] == results["models"]
    assert series(other, "sgd")["train_loss"][0] != series(results, "sgd")["train_loss"][0]


def some_images(data_root):
    inputs, labels = load_data("mnist", data_root).train
    return inputs[:10_000], labels[:10_000]


def weights_at(out: Path, optimizer: str, epoch: int, data_root, **experiment) -> torch.nn.Module:
    store = RunStore(
        out, parse_config(small_config(data_root, **experiment)).model_dump(mode="json")
    )
    model = FFNN(16, 1)
    model.load_state_dict(
        packed_weights(store.load_checkpoint(Point(TITLE, optimizer, epoch)).tensors)
    )
    store.close()
    return model


@pytest.mark.parametrize(("optimizer", "epoch"), [("sgd", 0), ("sgd", 1), ("sgd", 2), ("ngd", 2)])
def test_measurements_are_of_the_checkpoint_they_stand_at(swap, data_root, mnist, optimizer, epoch):
    out, results = swap
    model, s = weights_at(out, optimizer, epoch, data_root), series(results, optimizer)
    assert s["llc_init_loss"][epoch] == pytest.approx(evaluate(model, mnist.train)[0], rel=1e-6)
    assert s["val_loss"][epoch] == pytest.approx(evaluate(model, mnist.test)[0], rel=1e-6)
    chosen = torch.randperm(60000, generator=torch.Generator().manual_seed(0))[:500]
    images = mnist.train.inputs[chosen], mnist.train.labels[chosen]
    assert s["hessian_trace"][epoch] == pytest.approx(
        hessian_trace(model, cross_entropy, images, 3, 0).trace, rel=1e-5
    )


@pytest.mark.parametrize("optimizer", ["sgd", "ngd"])
def test_after_the_swap_each_optimizer_starts_fresh_on_the_shared_weights(
    swap, data_root, mnist, optimizer
):
    out, results = swap
    config = parse_config(small_config(data_root))
    store = RunStore(out, config.model_dump(mode="json"))
    tensors = store.load_checkpoint(Point(TITLE, "sgd", 1)).tensors
    store.close()
    model, generator = FFNN(16, 1), torch.Generator()
    unpack_state(tensors, model, None, generator)
    fresh = config_optimizer(config, optimizer, model, after_swap=True)
    (record,) = train(model, fresh, mnist, 1, 500, generator).records
    s = series(results, optimizer)
    assert (record.train_loss, record.val_loss, record.update_norm) == pytest.approx(
        (s["train_loss"][2], s["val_loss"][2], s["update_norm"][2]), rel=1e-6
    )


def test_a_finished_run_started_again_does_nothing_again(swap, data_root):
    out, results = swap
    kept = {path: path.stat().st_mtime_ns for path in (out / "checkpoints").iterdir()}
    kept[out / "traces.npz"] = (out / "traces.npz").stat().st_mtime_ns
    again = run_small(small_config(data_root), out)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert again["models"] == results["models"]
    assert again["environment"] == results["environment"]


def test_another_environment_is_recorded_where_work_remains(data_root, tmp_path):
    config = parse_config(small_config(data_root, measure_epochs="final", hessian=False))
    open_run(config, tmp_path, "cpu").store.close()
    run = open_run(config, tmp_path, "cpu")
    run.results["environment"] |= {"torch": "0.1", "device": "cuda (old)"}
    run.store.write_results(run.results)
    later = open_run(config, tmp_path, "cpu").results["environment"]
    assert later["torch"] == "0.1"
    assert later["torch, later"] == torch.__version__
    assert later["device, later"].startswith("cpu")


def test_the_report_is_there_before_the_last_measurement(data_root, tmp_path):
    run = open_run(parse_config(small_config(data_root)), tmp_path, "cpu")
    train_models(run)
    assert "This run is not finished" in (tmp_path / "report.html").read_text()
    measure_llcs(run)
    measure_hessian_traces(run)
    assert "This run is not finished" not in finish(run).read_text()


def test_standard_starts_both_from_the_same_weights_and_measures_where_asked(standard):
    _, results = standard
    sgd, ngd = series(results, "sgd"), series(results, "ngd")
    assert sgd["train_loss"][0] == ngd["train_loss"][0]
    assert sgd["train_loss"][1] != ngd["train_loss"][1]
    for s in (sgd, ngd):
        assert [v is None for v in s["llc"]] == [True, True, False]
        assert [v is None for v in s["hessian_trace"]] == [True, True, False]


def test_legs_of_a_swap_leave_from_sgds_cut_off(data_root):
    assert [tuple(leg) for leg in legs(parse_config(small_config(data_root)))] == [
        ("sgd", "sgd", 0, 1),
        ("sgd", "sgd", 1, 2),
        ("ngd", "sgd", 1, 2),
    ]


def test_sgd_swap_lr_is_used_after_the_swap_only(swap, data_root, tmp_path):
    _, results = swap
    slow = run_small(
        small_config(data_root, sgd_swap_lr=1e-6, measure_epochs="final", hessian=False),
        tmp_path / "slow",
    )
    assert series(slow, "sgd")["train_loss"][1] == series(results, "sgd")["train_loss"][1]
    assert series(slow, "sgd")["update_norm"][2] < 1e-2 * series(results, "sgd")["update_norm"][2]
    assert series(slow, "sgd")["hessian_trace"] == [None] * 3


def test_an_optimizer_that_diverges_is_recorded_and_the_other_goes_on(data_root, tmp_path):
    config = small_config(
        data_root, experiment_type="standard", sgd_lr=1e20, measure_epochs="final"
    )
    results = run_small(config, tmp_path / "run")
    sgd, ngd = series(results, "sgd"), series(results, "ngd")
    assert sgd["diverged_epoch"] == 1
    assert sgd["train_loss"][1:] == [None, None]
    assert sgd["llc"] == [None] * 3
    assert ngd["diverged_epoch"] is None
    assert ngd["llc"][2] is not None
    assert "diverged" in (tmp_path / "run" / "report.html").read_text()
    assert (
        run_small(config, tmp_path / "run")["models"] == results["models"]
    )  # and a second start changes nothing


def test_a_swap_whose_sgd_diverges_has_nothing_to_swap(data_root, tmp_path):
    results = run_small(small_config(data_root, sgd_lr=1e20), tmp_path / "run")
    assert series(results, "sgd")["diverged_epoch"] == 1
    assert series(results, "ngd")["diverged_epoch"] == 1
    assert series(results, "ngd")["train_loss"] == [None] * 3


def test_models_and_optimizers_of_ones_own(data_root, tmp_path):
    config = parse_config(small_config(data_root, experiment_type="standard", num_epochs=1))

    def adam(name, model, after_swap):
        return torch.optim.AdamW(model.parameters(), lr={"sgd": 1e-4, "ngd": 1e-3}[name])

    run = open_run(
        config,
        tmp_path / "run",
        "cpu",
        models={"Mine <b>": lambda: FFNN(8, 1)},
        make_optimizer=adam,
    )
    train_models(run)
    run.store.close()
    losses = [
        run.results["models"]["Mine <b>"]["optimizers"][name]["train_loss"][1]
        for name in ("sgd", "ngd")
    ]
    assert losses[1] < losses[0] < 3
    with pytest.raises(ValueError, match="pass out="):
        open_run(config, device="cpu", make_optimizer=adam)


def test_models_of_a_config_have_the_published_titles():
    def titles(**experiment):
        return {
            title: type(make())
            for title, make in model_factories(
                parse_config([experiment, {}, {}]), (1, 28, 28), 10
            ).items()
        }

    assert titles(hidden_nodes=[64, 256], hidden_layers=[1, 2]) == {
        "FFNN 1 HL, 64 HN": FFNN,
        "FFNN 2 HL, 256 HN": FFNN,
    }
    assert titles(model_type="cnn", hidden_conv_layers=[0, 2]) == {
        "CNN 0 HCL": LeNet5,
        "CNN 2 HCL": LeNet5,
    }


def test_each_config_has_a_directory_of_its_own(data_root):
    a, same, b = (
        default_directory(parse_config(small_config(data_root, seed=s))) for s in (1, 1, 2)
    )
    assert a == same
    assert a != b
    assert a.parent.parts[-2:] == ("experiments", "ngd_sgd")


# ---- the command ---------------------------------------------------------------------------------


def test_a_refused_config_exits_2_lists_every_problem_and_leaves_nothing(tmp_path):
    path = tmp_path / "bad.json"
    path.write_text(
        '{"experiment": {"alpha": -1, "optimiser": "sgd"}, "data": {"batch_size": 100000}}'
    )
    done = subprocess.run(
        [*COMMAND, str(path), "--out", str(tmp_path / "run")], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    for key in ("experiment.alpha", "optimiser", "data.batch_size"):
        assert key in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["bad.json"]


def test_a_directory_with_another_config_exits_1_with_the_reason(swap, data_root, tmp_path, capsys):
    out, _ = swap
    path = tmp_path / "other.json"
    path.write_text(json.dumps(small_config(data_root, seed=9)))
    assert main([str(path), "--out", str(out), "--device", "cpu"]) == 1
    assert "experiment.seed: 1 there, 9 now" in capsys.readouterr().err


def test_the_reports_path_is_printed_last(swap, data_root, tmp_path, capsys):
    out, _ = swap
    path = tmp_path / "same.json"
    path.write_text(json.dumps(small_config(data_root)))
    assert main([str(path), "--out", str(out), "--device", "cpu"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out / "report.html")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_without_a_device_is_refused(data_root, tmp_path, capsys):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(small_config(data_root)))
    assert main([str(path), "--out", str(tmp_path / "run"), "--device", "cuda"]) == 1
    assert "no CUDA device" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


# ---- kill −9 and resume --------------------------------------------------------------------------


def kill_when(command: list[str], condition, log: Path, timeout: float = 120) -> None:
    """Starts `command` and kills it with SIGKILL as soon as `condition()` holds."""
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + timeout
        while not condition():
            assert process.poll() is None, (
                f"ended before it could be killed:\n{log.read_text()[-2000:]}"
            )
            assert time.monotonic() < deadline, "the condition never came"
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL


def test_killed_in_training_and_in_sampling_it_ends_as_an_uninterrupted_run(data_root, tmp_path):
    config = small_config(data_root, cut_off_epochs=2, num_epochs=5)
    config["data"]["batch_size"] = 128
    config["devinterp"]["num_draws"] = 300
    path, whole, killed = tmp_path / "config.json", tmp_path / "whole", tmp_path / "killed"
    path.write_text(json.dumps(config))

    def checkpoints(out: Path) -> list[Path]:
        return sorted((out / "checkpoints").glob("*.safetensors"))

    command = [*COMMAND, str(path), "--device", "cpu", "--out"]
    subprocess.run([*command, str(whole)], check=True, capture_output=True)
    kill_when(
        [*command, str(killed)], lambda: len(checkpoints(killed)) == 7, tmp_path / "log1"
    )  # NGD's first epoch is there
    assert len(checkpoints(killed)) < len(checkpoints(whole)) == 9
    first = {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in checkpoints(killed)}

    def first_estimate_is_kept() -> bool:
        return (
            series(json.loads((killed / "results.json").read_text()), "sgd")["llc"][0] is not None
        )

    kill_when([*command, str(killed)], first_estimate_is_kept, tmp_path / "log2")
    assert json.loads((killed / "results.json").read_text())["status"] == "running"
    resumed = subprocess.run([*command, str(killed)], check=True, capture_output=True, text=True)

    for name, (written, content) in first.items():  # finished epochs were not done again
        assert (killed / "checkpoints" / name).stat().st_mtime_ns == written
        assert (killed / "checkpoints" / name).read_bytes() == content
    assert [p.read_bytes() for p in checkpoints(killed)] == [
        p.read_bytes() for p in checkpoints(whole)
    ]
    results = [json.loads((out / "results.json").read_text()) for out in (killed, whole)]
    assert results[0]["models"] == results[1]["models"]
    assert f"{TITLE} SGD epoch 0: LLC" not in resumed.stdout  # nor was the finished estimate
    assert f"{TITLE} NGD epoch 5: LLC" in resumed.stdout
    with np.load(killed / "traces.npz") as a, np.load(whole / "traces.npz") as b:
        assert all(np.array_equal(a[key], b[key], equal_nan=True) for key in b.files)
    assert resumed.stdout.splitlines()[-1] == str(killed / "report.html")


def test_a_damaged_checkpoint_is_trained_again_to_the_same_numbers(swap, data_root, tmp_path):
    _, results = swap
    run = open_run(parse_config(small_config(data_root)), tmp_path / "run", "cpu")
    train_models(run)
    path = run.store.checkpoint_path(Point(TITLE, "ngd", 2))
    content = path.read_bytes()
    path.write_bytes(content[:-9] + b"corrupted")
    train_models(run)
    run.store.close()
    assert path.read_bytes() == content
    assert (
        run.results["models"][TITLE]["optimizers"]["ngd"]["train_loss"]
        == series(results, "ngd")["train_loss"]
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device in this machine")
def test_on_cuda_a_resumed_run_equals_an_uninterrupted_one(data_root, tmp_path):
    config = parse_config(small_config(data_root))
    run_experiment(config, tmp_path / "whole", device="cuda")
    run = open_run(config, tmp_path / "parts", "cuda")
    train_models(run)
    run.store.close()
    for path in (tmp_path / "parts" / "checkpoints").glob("*0002*"):
        path.unlink()
    run_experiment(config, tmp_path / "parts", device="cuda")
    results = [
        json.loads((tmp_path / name / "results.json").read_text()) for name in ("whole", "parts")
    ]
    assert results[0]["models"] == results[1]["models"]
