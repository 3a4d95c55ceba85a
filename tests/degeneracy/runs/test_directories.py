"""Runs are listed as they are, and nothing is removed but whole runs that nobody writes into."""

import os
import subprocess
import sys
import time

import pytest

from degeneracy.runs.directories import NoRunError, find_runs, is_run, main, remove
from degeneracy.runs.store import RunStore

HOLDS_A_RUN = """
import sys
from degeneracy.runs.store import RunStore
store = RunStore(sys.argv[1], {"study": "toy"})
print("open", flush=True)
sys.stdin.read()
"""


def run_in(directory, *, study="toy", status="complete", days=0.0):
    """A closed run directory, last written `days` days ago."""
    store = RunStore(directory, {"study": study, "section": {"seed": 1}})
    store.write_results({"format": 2, "study": study, "status": status})
    store.close()
    written = time.time() - 86400 * days
    os.utime(directory / "results.json", (written, written))
    return directory


@pytest.fixture
def experiments(tmp_path):
    """A folder with runs of two studies and much that is no run."""
    root = tmp_path / "experiments"
    run_in(root / "toy" / "new")
    run_in(root / "toy" / "old", days=40)
    run_in(root / "other" / "older", study="other", status="running", days=400)
    (root / "eval_toy.ipynb").write_text("{}")
    (root / "notes").mkdir()
    (root / "notes" / "config.json").write_text('{"study": "toy"}')
    (root / "toy" / "broken").mkdir()
    return root


def names(root):
    return [run.directory.name for run in find_runs(root)]


def test_every_run_is_listed_and_nothing_else(experiments):
    found = {run.directory.name: run for run in find_runs(experiments)}
    assert {name: (run.study, run.status) for name, run in found.items()} == {
        "new": ("toy", "complete"),
        "old": ("toy", "complete"),
        "older": ("other", "stopped"),
    }


def test_the_run_written_last_comes_first(experiments):
    assert names(experiments) == ["new", "old", "older"]


def test_a_runs_size_is_that_of_its_files(experiments):
    run = next(run for run in find_runs(experiments) if run.directory.name == "new")
    (run.directory / "checkpoints" / "one.safetensors").write_bytes(b"0" * 1000)
    again = next(run for run in find_runs(experiments) if run.directory.name == "new")
    assert again.num_bytes == run.num_bytes + 1000


def test_the_list_on_the_command_line_names_study_status_and_directory(experiments, capsys):
    assert main(["--root", str(experiments)]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["study", "status", "written", "size", "directory"]
    assert [line.split()[:2] for line in lines] == [
        ["toy", "complete"],
        ["toy", "complete"],
        ["other", "stopped"],
    ]
    assert lines[0].endswith("new")


def test_a_folder_without_runs_says_so(tmp_path, capsys):
    assert main(["--root", str(tmp_path / "nothing")]) == 0
    assert "no runs" in capsys.readouterr().out


def test_a_run_of_an_earlier_version_is_listed_without_a_study(experiments):
    earlier = run_in(experiments / "ngd_sgd" / "earlier")
    (earlier / "config.json").write_text('{"experiment": {"seed": 1}}')
    found = {run.directory.name: run.study for run in find_runs(experiments)}
    assert found["earlier"] == "–"


def test_only_runs_older_than_the_days_given_are_removed(experiments):
    assert main(["--root", str(experiments), "--remove-older-than", "41", "--yes"]) == 0
    assert names(experiments) == ["new", "old"]
    assert main(["--root", str(experiments), "--remove-older-than", "39.5", "--yes"]) == 0
    assert names(experiments) == ["new"]
    assert (experiments / "eval_toy.ipynb").exists()
    assert (experiments / "notes" / "config.json").exists()


@pytest.mark.parametrize(("answer", "left"), [("y\n", []), ("\n", ["new"]), ("", ["new"])])
def test_without_yes_it_says_what_would_go_and_asks(experiments, answer, left):
    command = [sys.executable, "-m", "degeneracy.runs.directories", "--root", experiments]
    done = subprocess.run(
        [*command, "--remove", experiments / "toy" / "new"],
        input=answer,
        capture_output=True,
        text=True,
    )
    assert str(experiments / "toy" / "new") in done.stdout
    assert names(experiments) == [*left, "old", "older"]
    assert done.returncode == (1 if left else 0)


@pytest.mark.parametrize("what", ["notes", "toy", "toy/broken", ".", "eval_toy.ipynb", "missing"])
def test_what_is_no_run_is_never_removed(experiments, capsys, what):
    before = sorted(experiments.rglob("*"))
    command = ["--remove", str(experiments / "toy" / "new"), str(experiments / what), "--yes"]
    assert main(command) == 2
    assert str(experiments / what) in capsys.readouterr().err
    assert sorted(experiments.rglob("*")) == before  # the run beside it neither


def test_a_run_with_a_file_of_somebody_elses_is_not_removed(experiments, capsys):
    mine = experiments / "toy" / "old" / "notes.txt"
    mine.write_text("do not lose")
    assert main(["--remove", str(mine.parent), "--yes"]) == 2
    assert "notes.txt" in capsys.readouterr().err
    assert main(["--root", str(experiments), "--remove-older-than", "1", "--yes"]) == 0
    assert mine.read_text() == "do not lose"
    assert names(experiments) == ["new", "old"]


def test_a_link_to_a_run_is_no_run(experiments):
    link = experiments / "toy" / "link"
    link.symlink_to(experiments / "toy" / "new")
    assert not is_run(link)
    assert names(experiments) == ["new", "old", "older"]
    with pytest.raises(NoRunError, match="link given; allowed"):
        remove(link)


def test_a_run_that_a_process_writes_into_is_running_and_stays(experiments):
    directory = experiments / "toy" / "old"
    (directory / "config.json").write_text('{"study": "toy"}')
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS_A_RUN, directory],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "open\n"
        assert {r.directory.name: r.status for r in find_runs(experiments)}["old"] == "running"
        with pytest.raises(NoRunError, match="in use"):
            remove(directory)
    finally:
        process.communicate("")
    remove(directory)
    assert not directory.exists()


def test_what_a_kill_left_half_written_goes_with_the_run(experiments):
    directory = experiments / "toy" / "old"
    (directory / ".results.json.x1.partial").write_text("{")
    remove(directory)
    assert not directory.exists()


@pytest.mark.parametrize("days", ["-1", "nan"])
def test_a_number_of_days_below_zero_is_refused(experiments, capsys, days):
    assert main(["--root", str(experiments), f"--remove-older-than={days}", "--yes"]) == 2
    assert "allowed: a number of days from 0" in capsys.readouterr().err
    assert len(names(experiments)) == 3
