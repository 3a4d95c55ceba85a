"""Does the study keep what it finds, go on after a stop, and write its report?"""

import json
import math
import shutil
import subprocess
import sys

import pytest
from executed_notebook import execute
from markupsafe import escape

from degeneracy.runs.work import PROJECT
from degeneracy.study import measure, open_work
from degeneracy.sweeps.folder import FINISHED, State
from degeneracy.sweeps.grid import Planned, seed_keys
from degeneracy.sweeps.table import final_values
from studies.gauss_newton import STUDY
from studies.gauss_newton.__main__ import main
from studies.gauss_newton.findings import findings
from studies.gauss_newton.measure import model_at, trajectories
from studies.gauss_newton.settings import Settings

KEYS = (
    *("full-batch", "own-batch", "mini-batch", "ntk", "cka-own", "cka-across"),
    *("gap", "missed", "weights", "degeneracy"),
)


def read(directory):
    return json.loads((directory / "results.json").read_text())


def untimed(parts):
    """Without the seconds that steps took."""
    kept = json.loads(json.dumps(parts))
    for record in kept["train"].values():
        del record["series"]["time_s"]
    return kept


def test_the_report_holds_every_figure_and_sentence(finished, results):
    page = (finished / "report.html").read_text()
    for key in KEYS:
        assert f'id="figure-{key}"' in page
    unbroken = page.replace("\u00a0", " ")
    for card in findings(results).cards:
        assert str(escape(card.headline)) in unbroken
        assert all(str(escape(text)) in unbroken for text in card.text)


def test_every_part_has_every_training(results, tiny_settings):
    keys = [trajectory.key for trajectory in trajectories(tiny_settings)]
    assert results["status"] == "complete"
    parts = results["parts"]
    assert list(parts["train"]) == list(parts["ntk"]) == list(parts["weights"]) == keys
    for regime in ("full", "mini"):
        across = parts["cka"][f"across/{regime}/42"]
        for name, epoch, loss in zip(
            across["names"], across["reached"], across["losses"], strict=True
        ):
            losses = parts["train"][f"{regime}/{name}/42"]["series"]["train_loss"]
            assert loss == losses[epoch]
            apart = {e: abs(math.log(at / across["level"])) for e, at in enumerate(losses)}
            assert apart[epoch] == min(
                apart[e] for e in parts["ntk"][f"{regime}/{name}/42"]["epochs"]
            )
    assert list(parts["cka"]) == [*(f"own/{k}" for k in keys), "across/full/42", "across/mini/42"]
    assert list(parts["degeneracy"]) == ["mini/block/42/trace", "mini/block/42/1e+06"]
    for record in parts["train"].values():
        assert record["diverged"] is None
        assert len(record["series"]["val_loss"]) == record["last_epoch"] + 1


def test_checkpoints_lie_at_every_epoch(finished, tiny_settings):
    files = list((finished / "checkpoints").glob("*.safetensors"))
    assert len(files) == 4 * 4 + 5 * 2


def test_what_a_kill_took_is_trained_and_measured_again_to_the_same_numbers(
    interrupted, results, tiny_settings, device
):
    """Two trainings: of one the last checkpoint is gone too, so that it goes on from the first."""
    mini, full = "mini/ngd/42", "full/adam/42"
    directory = interrupted(train=[mini, full], ntk=[full], cka=[f"own/{mini}"], weights=[mini])
    (last,) = (directory / "checkpoints").glob("mini-seed-42-*-ngd-0002.safetensors")
    last.unlink()
    work = open_work(STUDY, tiny_settings, directory, device)
    measure(work, "train", "cka", "ntk", "weights")
    work.store.close()
    found, right = untimed(read(directory)["parts"]), untimed(results["parts"])
    assert found == right
    log = json.loads((directory / "logs" / "mini-ngd-42.json").read_text())
    assert [row["epoch"] for row in log] == [1, 1, 1, 2, 2, 2]


def test_a_damaged_checkpoint_is_named(finished, tiny_settings, tmp_path, device):
    directory = tmp_path / "run"
    shutil.copytree(finished, directory)
    (path,) = (directory / "checkpoints").glob("mini-seed-42-*-block-0002.safetensors")
    path.write_bytes(b"nothing")
    work = open_work(STUDY, tiny_settings, directory, device)
    block = next(t for t in trajectories(tiny_settings) if t.key == "mini/block/42")
    with pytest.raises(FileNotFoundError, match="no sound checkpoint there; remove mini/block/42"):
        model_at(work, block, 2)
    work.store.close()


def test_what_diverged_before_a_checkpoint_is_no_end_point(interrupted, tiny_settings, device):
    directory = interrupted(degeneracy=["mini/block/42/trace", "mini/block/42/1e+06"])
    left = read(directory)
    left["parts"]["train"]["mini/block/42"]["last_epoch"] = 0
    (directory / "results.json").write_text(json.dumps(left))
    work = open_work(STUDY, tiny_settings, directory, device)
    measure(work, "degeneracy")
    work.store.close()
    assert not read(directory)["parts"]["degeneracy"]


@pytest.mark.parametrize("analysis", ["cka", "ntk", "weights"])
def test_an_analysis_is_a_command_and_a_figure(interrupted, capsys, analysis):
    missing = "own/mini/adam/42" if analysis == "cka" else "mini/adam/42"
    directory = interrupted(**{analysis: [missing]})
    assert main([analysis, str(directory)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == str(directory / f"{analysis}.html")
    assert any(line.startswith(f"{missing}: ") for line in printed)
    assert 'id="figure-' in (directory / f"{analysis}.html").read_text()


def test_a_directory_that_is_no_run_of_this_study_is_refused(tmp_path, capsys):
    assert main(["ntk", str(tmp_path)]) == 2
    assert "config.json: 1 problem" in capsys.readouterr().err
    (tmp_path / "config.json").write_text('{"study": "ngd_sgd"}')
    assert main(["ntk", str(tmp_path)]) == 2
    assert "a run of 'ngd_sgd' given; allowed: run directories of gauss_newton" in (
        capsys.readouterr().err
    )


@pytest.mark.slow
def test_the_command_runs_as_a_module(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    command = [sys.executable, "-m", "studies.gauss_newton", "ntk", tmp_path / "run"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(tmp_path / "run" / "ntk.html")


def test_a_sweep_sets_its_seed_and_finds_its_numbers(results, tiny_settings):
    assert seed_keys(Settings) == ("training.seed",)
    run = Planned("1", {"optimizers.block.lr": 0.2}, {}, tiny_settings)
    table = final_values([(run, "runs/1", State(FINISHED, "", 1.0, 1, results))])
    block = table[table["model"] == "train: mini/block/42"].iloc[0]
    right = results["parts"]["train"]["mini/block/42"]["final"]
    assert block["final.val_accuracy"] == right["val_accuracy"]
    assert block["final.train_loss"] == right["train_loss"]


def test_the_notebook_goes_on_shows_every_figure_and_writes_the_report(interrupted, tiny_config):
    directory = interrupted(weights=["mini/adam/42"])
    outputs, out = execute("eval_gauss_newton", tiny_config, directory.parent)
    assert out == directory
    shown = ["application/vnd.plotly.v1+json" in output.get("data", {}) for output in outputs]
    assert sum(shown) == len(KEYS)
    text = "".join(output.get("text", "") for output in outputs)
    assert f"report: {directory / 'report.html'}" in text
    assert read(directory)["status"] == "complete"
