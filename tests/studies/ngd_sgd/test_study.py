"""The whole flow on real data: who shares what, what a kill leaves, how the command ends."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d, cross_entropy

from degeneracy.config.reader import ConfigError, parse_config
from degeneracy.curvature.trace import hessian_trace
from degeneracy.data.images import DataSplits, TensorData
from degeneracy.models.networks import FFNN
from degeneracy.optimizers.exact_ngd import ExactNGD
from degeneracy.runs.config import Config
from degeneracy.runs.run import config_optimizer
from degeneracy.runs.store import Point, RunStore, RunStoreError
from degeneracy.stepper import TorchStepper
from degeneracy.study import default_directory, finish, open_work, run_study
from degeneracy.training import evaluate, packed_weights, train, unpack_state
from experiment import main
from studies.ngd_sgd import STUDY, measure_hessian_traces, measure_llcs, open_run, train_models

TITLE = "FFNN 1 HL, 16 HN"
CERTIFICATES = {
    "llc_locality",
    "llc_relative_distance",
    "llc_basin_shift",
    "llc_basin_llc",
    "llc_relaxation",
    "llc_verdict",
}
COMMAND = [sys.executable, str(Path(__file__).resolve().parents[3] / "experiment.py")]


def store_of(out: Path, config: dict) -> RunStore:
    settings = parse_config(config, Config).model_dump(mode="json")
    return RunStore(out, {"study": "ngd_sgd", **settings})


def test_the_run_directory_holds_what_it_should(swap):
    out, results = swap
    files = {path.name for path in out.iterdir()}
    assert files == {
        ".lock",
        "config.json",
        "results.json",
        "results.previous.json",
        "traces.npz",
        "report.html",
        "checkpoints",
    }
    assert len(list((out / "checkpoints").iterdir())) == 4  # SGD 0, 1, 2 and NGD 2
    assert results["status"] == "complete"
    assert results["models"][TITLE]["num_parameters"] == 784 * 16 + 16 + 160 + 10
    assert (results["format"], results["study"]) == (2, "ngd_sgd")
    phases = ("train", "llc", "local", "robustness", "hessian")
    total = sum(results["timing_s"][phase] for phase in phases)
    assert results["timing_s"]["total"] == pytest.approx(total)


def test_swap_shares_the_checkpoint_at_the_cut_off_and_only_that(swap, series):
    _, results = swap
    sgd, ngd = series(results, "sgd"), series(results, "ngd")
    for name, values in sgd.items():
        if name in ("kappa", "cosine", "diverged_epoch"):
            continue
        assert ngd[name][0] is None
        assert ngd[name][1] == values[1]
    assert ngd["train_loss"][2] != sgd["train_loss"][2]
    assert ngd["llc"][2] != sgd["llc"][2]


def test_every_series_is_measured_at_every_epoch(swap, series):
    _, results = swap
    sgd = series(results, "sgd")
    never_at_0 = {"update_norm"}
    for name, values in sgd.items():
        if name in CERTIFICATES:
            assert values == [None] * 3, name  # of the sampler auto alone
        elif name not in ("kappa", "cosine", "diverged_epoch", "llc_rhat"):
            assert len(values) == 3
            assert [v is None for v in values] == [name in never_at_0, False, False], name
    kappa = series(results, "ngd")["kappa"]
    assert set(kappa) == {"layers.1.weight", "layers.1.bias", "layers.3.weight", "layers.3.bias"}
    assert [v is None for v in kappa["layers.1.weight"]["1"]] == [True, True, False]
    assert sgd["kappa"] == sgd["cosine"] == {}
    cosines = series(results, "ngd")["cosine"]
    assert set(cosines) == set(kappa)
    assert all(values[:2] == [None, None] and 0 < values[2] <= 1 for values in cosines.values())


def test_traces_are_kept_once_for_each_measured_checkpoint(swap, series):
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


def test_same_seed_same_numbers_another_seed_others(
    swap, tmp_path, small_config, run_small, series
):
    _, results = swap
    again = run_small(small_config(), tmp_path / "again")
    other = run_small(small_config(seed=5), tmp_path / "other")
    assert again["models"] == results["models"]
    assert series(other, "sgd")["train_loss"][0] != series(results, "sgd")["train_loss"][0]


@pytest.mark.parametrize(("optimizer", "epoch"), [("sgd", 0), ("sgd", 1), ("sgd", 2), ("ngd", 2)])
def test_measurements_are_of_the_checkpoint_they_stand_at(
    swap, series, small_config, mnist, optimizer, epoch
):
    out, results = swap
    store, s = store_of(out, small_config()), series(results, optimizer)
    model = FFNN(16, 1)
    model.load_state_dict(
        packed_weights(store.load_checkpoint(Point(TITLE, optimizer, epoch)).tensors)
    )
    store.close()
    assert s["llc_init_loss"][epoch] == pytest.approx(evaluate(model, mnist.train)[0], rel=1e-6)
    assert s["val_loss"][epoch] == pytest.approx(evaluate(model, mnist.test)[0], rel=1e-6)
    chosen = torch.randperm(60000, generator=torch.Generator().manual_seed(0))[:500]
    images = mnist.train.inputs[chosen], mnist.train.labels[chosen]
    assert s["hessian_trace"][epoch] == pytest.approx(
        hessian_trace(model, cross_entropy, images, 3, 0).trace, rel=1e-5
    )


@pytest.mark.parametrize("optimizer", ["sgd", "ngd"])
def test_after_the_swap_each_optimizer_starts_fresh_on_the_shared_weights(
    swap, series, small_config, mnist, optimizer
):
    out, results = swap
    config = parse_config(small_config(), Config)
    store = store_of(out, small_config())
    tensors = store.load_checkpoint(Point(TITLE, "sgd", 1)).tensors
    store.close()
    model, generator = FFNN(16, 1), torch.Generator()
    unpack_state(tensors, model, None, generator)
    fresh = config_optimizer(config, optimizer, model, after_swap=True)
    (record,) = train(model, fresh, mnist, 1, 500, generator).records
    s = series(results, optimizer)
    assert (record.train_loss, record.val_loss, record.update_norm) == pytest.approx(
        (s["train_loss"][2], s["val_loss"][2], s["update_norm"][2]),
        rel=1e-5,  # 120 float32 steps
    )


def test_a_finished_run_started_again_does_nothing_again(swap, small_config, run_small):
    out, results = swap
    kept = {path: path.stat().st_mtime_ns for path in (out / "checkpoints").iterdir()}
    kept[out / "traces.npz"] = (out / "traces.npz").stat().st_mtime_ns
    again = run_small(small_config(), out)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert again["models"] == results["models"]
    assert again["environment"] == results["environment"]


def test_another_environment_is_recorded_where_work_remains(tmp_path, small_config):
    config = parse_config(small_config(measure_epochs="final", hessian=False), Config)
    open_run(config, tmp_path, "cpu").store.close()
    run = open_run(config, tmp_path, "cpu")
    run.results["environment"] |= {"torch": "0.1", "device": "cuda (old)"}
    run.store.write_results(run.results)
    later = open_run(config, tmp_path, "cpu").results["environment"]
    assert later["torch"] == "0.1"
    assert later["torch, later"] == version("torch")
    assert later["device, later"].startswith("cpu")


def test_the_report_is_there_before_the_last_measurement(tmp_path, small_config):
    run = open_run(parse_config(small_config(), Config), tmp_path, "cpu")
    train_models(run)
    assert "This run is not finished" in (tmp_path / "report.html").read_text()
    measure_llcs(run)
    measure_hessian_traces(run)
    assert "This run is not finished" not in finish(run).read_text()


def test_standard_starts_both_from_the_same_weights_and_measures_where_asked(standard, series):
    _, results = standard
    sgd, ngd = series(results, "sgd"), series(results, "ngd")
    assert sgd["train_loss"][0] == ngd["train_loss"][0]
    assert sgd["train_loss"][1] != ngd["train_loss"][1]
    for s in (sgd, ngd):
        assert [v is None for v in s["llc"]] == [True, True, False]
        assert [v is None for v in s["hessian_trace"]] == [True, True, False]


def test_sgd_swap_lr_is_used_after_the_swap_only(swap, tmp_path, small_config, run_small, series):
    _, results = swap
    slow = run_small(
        small_config(sgd_swap_lr=1e-6, measure_epochs="final", hessian=False), tmp_path / "slow"
    )
    assert series(slow, "sgd")["train_loss"][1] == series(results, "sgd")["train_loss"][1]
    assert series(slow, "sgd")["update_norm"][2] < 1e-2 * series(results, "sgd")["update_norm"][2]
    assert series(slow, "sgd")["hessian_trace"] == [None] * 3


def test_an_optimizer_that_diverges_is_recorded_and_the_other_goes_on(
    tmp_path, small_config, run_small, series
):
    config = small_config(experiment_type="standard", sgd_lr=1e20, measure_epochs="final")
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


def test_a_swap_whose_sgd_diverges_has_nothing_to_swap(tmp_path, small_config, run_small, series):
    results = run_small(small_config(sgd_lr=1e20), tmp_path / "run")
    assert series(results, "sgd")["diverged_epoch"] == 1
    assert series(results, "ngd")["diverged_epoch"] == 1
    assert series(results, "ngd")["train_loss"] == [None] * 3


def adamw(lr):
    return lambda model: torch.optim.AdamW(model.parameters(), lr=lr)


def test_models_and_optimizers_of_ones_own(small_config, tmp_path):
    """As many as one likes, called by their names, in place of the config's two."""
    config = parse_config(small_config(experiment_type="standard", num_epochs=1), Config)
    mine = {"slow": adamw(1e-4), "Fast one": adamw(1e-3), "again": adamw(1e-3), "sgd": adamw(1e-2)}
    models = {"Mine <b>": lambda: FFNN(8, 1)}
    run = open_run(config, tmp_path, "cpu", models=models, optimizers=mine)
    train_models(run)
    measure_llcs(run)
    page = finish(run).read_text()
    assert run.results["optimizers"] == list(mine)
    series = run.results["models"]["Mine <b>"]["optimizers"]
    assert list(series) == list(mine)
    assert series["Fast one"]["train_loss"][1] < series["slow"]["train_loss"][1] < 3
    # From the same weights, with the same batches; but what is sampled is another checkpoint's.
    assert series["again"]["train_loss"] == series["Fast one"]["train_loss"]
    assert series["again"]["llc"][1] != series["Fast one"]["llc"][1]
    assert "Fast one, final LLC" in page
    assert "AdamW(lr=0.001" in page  # for the config does not tell
    assert "Mine <b>" not in page
    for others in ({**mine, "sgd": adamw(1e-3)}, {"sgd": mine["sgd"]}, None):
        with pytest.raises(RunStoreError, match="other optimizers"):
            open_run(config, tmp_path, "cpu", models=models, optimizers=others)
    with pytest.raises(RunStoreError, match=r"other models \(Mine <b> there, Mine <b>, B now\)"):
        open_run(config, tmp_path, "cpu", models={**models, "B": FFNN}, optimizers=mine)


class Naming:
    """Logs under a name that a run measures itself."""

    lr, watching = 0.1, False

    def __init__(self, model, name):
        self.model, self.name = model, name

    def step(self, inputs, targets):
        return {"loss": cross_entropy(self.model(inputs), targets).detach(), self.name: 7}

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


@pytest.mark.parametrize("name", ["llc", "hessian_trace", "llc_chains", "diverged_epoch", "kappa"])
def test_an_optimizer_cannot_log_what_a_run_measures(small_config, tmp_path, name):
    config = parse_config(small_config(experiment_type="standard", num_epochs=1), Config)
    own = {"mine": lambda model: Naming(model, name)}
    run = open_run(config, tmp_path, "cpu", optimizers=own)
    with pytest.raises(ValueError, match=f"'mine' logs {name}; allowed"):
        train_models(run)
    run.store.close()


def test_what_is_ones_own_needs_a_directory_and_names_that_can_be_used(small_config, tmp_path):
    config = parse_config(small_config(), Config)

    def make(model):
        return torch.optim.SGD(model.parameters(), lr=0.1)

    with pytest.raises(ValueError, match="pass out="):
        open_run(config, device="cpu", optimizers={"a": make, "b": make})
    with pytest.raises(ValueError, match="optimizers"):
        open_run(config, tmp_path / "run", "cpu", optimizers={"a/b": make, "b": make})
    with pytest.raises(ValueError, match="a float without"):
        open_run(config, tmp_path / "other", "cpu", optimizers={"a": make, "b": lambda model: 0.1})
    with pytest.raises(ValueError, match="swap"):
        open_run(config, tmp_path / "run", "cpu", optimizers={"alone": make})
    assert not (tmp_path / "run").exists()


class Exact:
    """A kind that needs the batch: the exact natural gradient, observed on every batch."""

    def __init__(self, model):
        self.model, self.watching = model, False
        self.optimizer = ExactNGD(model, lr=0.05, alpha=1.0, eta=0.5)
        self.lr = 0.05

    def step(self, inputs, targets):
        self.optimizer.zero_grad()
        loss = cross_entropy(self.model(inputs), targets)
        loss.backward()
        self.optimizer.observe(inputs[:20])
        self.optimizer.step()
        return {"loss": loss.detach(), "trace": self.optimizer.fisher.trace()}

    def state_dict(self):
        return TorchStepper(self.model, cross_entropy, [self.optimizer]).state_dict()

    def load_state_dict(self, state):
        TorchStepper(self.model, cross_entropy, [self.optimizer]).load_state_dict(state)


def test_an_optimizer_that_needs_the_batch_trains_logs_and_resumes(small_config, mnist, tmp_path):
    def small(part, count):
        return TensorData(avg_pool2d(part.inputs[:count], 7), part.labels[:count])

    data = DataSplits(small(mnist.train, 1000), small(mnist.test, 500))
    config = parse_config(small_config(experiment_type="standard", num_epochs=3), Config)
    own = {
        "models": {"tiny": lambda: FFNN(4, 1, (1, 4, 4))},
        "optimizers": {"exact": Exact},
        "data": data,
    }
    run = open_run(config, tmp_path / "whole", "cpu", **own)
    train_models(run)
    whole = run.results["models"]["tiny"]["optimizers"]["exact"]
    assert whole["train_loss"][3] < whole["train_loss"][1]
    assert whole["trace"][0] is None
    assert all(trace > 0 for trace in whole["trace"][1:])

    run = open_run(config, tmp_path / "parts", "cpu", **own)
    train_models(run)
    for epoch in (2, 3):
        run.store.checkpoint_path(Point("tiny", "exact", epoch)).unlink()
    run = open_run(config, tmp_path / "parts", "cpu", **own)
    train_models(run)
    assert run.results["models"]["tiny"]["optimizers"]["exact"] == whole
    run.store.close()


def test_four_optimizers_leave_one_report_that_compares_them(standard, series):
    out, results = standard
    names = ["sgd", "ngd", "adamw", "muon"]
    assert results["optimizers"] == list(results["models"][TITLE]["optimizers"]) == names
    assert len({series(results, name)["train_loss"][2] for name in names}) == 4
    assert all(series(results, name)["llc"][2] is not None for name in names)
    page = (out / "report.html").read_text()
    assert all(f"{name}, final LLC" in page for name in ("SGD", "NGD", "AdamW", "Muon"))
    assert "AdamW − SGD" in page
    assert [bool(series(results, name)["kappa"]) for name in names] == [False, True, False, False]


@pytest.mark.parametrize("name", ["ngd", "muon"])
def test_an_optimizers_numbers_do_not_hang_on_which_others_run(
    standard, series, small_config, run_small, tmp_path, name
):
    _, results = standard
    config = small_config(
        experiment_type="standard", optimizer=[name], measure_epochs="final", hessian=False
    )
    alone, together = series(run_small(config, tmp_path), name), series(results, name)
    for key in ("train_loss", "val_loss", "kappa", "llc", "llc_chains"):
        assert alone[key] == together[key]


def test_each_config_has_a_directory_of_its_own(small_config):
    def directory(seed):
        return default_directory(STUDY, parse_config(small_config(seed=seed), Config))

    assert directory(1) == directory(1) != directory(2)
    assert directory(1).parent.parts[-2:] == ("experiments", "ngd_sgd")


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


def test_a_config_of_another_study_is_refused_where_one_study_is_asked_for(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"study": "ngd_directions"}')
    with pytest.raises(ConfigError, match='"ngd_directions" given; allowed here: "ngd_sgd"'):
        open_work(STUDY, path, tmp_path / "run", "cpu")
    assert not (tmp_path / "run").exists()


def test_a_study_that_does_not_exist_exits_2_with_the_closest_name(tmp_path, capsys):
    path = tmp_path / "config.json"
    path.write_text('{"study": "phase_transition"}')
    assert main([str(path), "--out", str(tmp_path / "run")]) == 2
    assert "did you mean phase_transitions?" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_of_the_earlier_format_is_refused_and_left_alone(small_config, tmp_path, capsys):
    out, path = tmp_path / "run", tmp_path / "config.json"
    path.write_text(json.dumps(small_config()))
    out.mkdir()
    (out / "config.json").write_text(json.dumps(small_config()))
    (out / "results.json").write_text('{"status": "complete", "models": {}}')
    assert main([str(path), "--out", str(out), "--device", "cpu"]) == 1
    assert "format 2" in capsys.readouterr().err
    assert {p.name for p in out.iterdir()} == {"config.json", "results.json"}


def test_a_directory_with_another_config_exits_1_with_the_reason(
    swap, tmp_path, capsys, small_config
):
    out, _ = swap
    path = tmp_path / "other.json"
    path.write_text(json.dumps(small_config(seed=9)))
    assert main([str(path), "--out", str(out), "--device", "cpu"]) == 1
    assert "experiment.seed: 1 there, 9 now" in capsys.readouterr().err


def test_the_reports_path_is_printed_last(swap, tmp_path, capsys, small_config):
    out, _ = swap
    path = tmp_path / "same.json"
    path.write_text(json.dumps(small_config()))
    assert main([str(path), "--out", str(out), "--device", "cpu"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out / "report.html")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_without_a_device_is_refused(tmp_path, capsys, small_config):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(small_config()))
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


def test_killed_in_training_and_in_sampling_it_ends_as_an_uninterrupted_run(
    tmp_path, small_config, series
):
    config = small_config(cut_off_epochs=2, num_epochs=5)
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


def test_a_damaged_checkpoint_is_trained_again_to_the_same_numbers(
    swap, tmp_path, small_config, series
):
    _, results = swap
    run = open_run(parse_config(small_config(), Config), tmp_path / "run", "cpu")
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
def test_on_cuda_a_resumed_run_equals_an_uninterrupted_one(tmp_path, small_config):
    config = parse_config(small_config(), Config)
    run_study(STUDY, config, tmp_path / "whole", device="cuda")
    run = open_run(config, tmp_path / "parts", "cuda")
    train_models(run)
    run.store.close()
    for path in (tmp_path / "parts" / "checkpoints").glob("*0002*"):
        path.unlink()
    run_study(STUDY, config, tmp_path / "parts", device="cuda")
    results = [
        json.loads((tmp_path / name / "results.json").read_text()) for name in ("whole", "parts")
    ]
    assert results[0]["models"] == results[1]["models"]
