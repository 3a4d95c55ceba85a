"""A sweep's folder is its own, and tells of each run whether it is done, failed or open."""

import json

import pytest

from degeneracy.study import run_study
from degeneracy.sweeps.folder import Ended, SweepFolder, definition, refuse_other
from degeneracy.sweeps.grid import SweepError, parse_grid, planned
from studies.phase_transitions import STUDY


def sweep_of(tiny, schema, grid):
    axes = parse_grid(grid)
    runs = planned(tiny, schema, axes, "args.json")
    return runs, definition(STUDY.name, tiny, axes, runs)


@pytest.fixture(scope="module")
def own(tiny, schema):
    """Runs and definition of a sweep of two."""
    return sweep_of(tiny, schema, "experiment.alpha=0.1,0.2")


@pytest.fixture
def folder(own, tmp_path):
    """Its folder."""
    opened = SweepFolder(tmp_path / "sweep", own[1])
    yield opened
    opened.close()


def begin(folder, run):
    (folder.run_directory(run.name)).mkdir()


def test_the_same_sweep_goes_on_in_its_folder(own, folder):
    begin(folder, own[0][0])
    folder.note(own[0][0].name, Ended("lost", "the machine went", 3.0, "here"))
    folder.close()
    again = SweepFolder(folder.directory, own[1])
    assert again.attempts == {
        own[0][0].name: [Ended("lost", "the machine went", 3.0, "here")._asdict()]
    }
    again.close()


def test_another_sweep_is_refused_with_what_differs(own, folder, tiny, schema):
    begin(folder, own[0][0])
    _, other = sweep_of(tiny, schema, "experiment.alpha=0.1,0.3")
    with pytest.raises(
        SweepError, match=r"axes\.experiment\.alpha: \[0.1, 0.2\] there, \[0.1, 0.3\]"
    ):
        refuse_other(folder.directory, other)
    _, other = sweep_of(
        tiny | {"devinterp": {"sampler": "sgld", "num_draws": 21}},
        schema,
        "experiment.alpha=0.1,0.2",
    )
    with pytest.raises(SweepError, match=r"config\.devinterp\.num_draws: 20 there, 21 now"):
        refuse_other(folder.directory, other)


def test_a_sweep_of_which_nothing_was_begun_may_be_replaced(folder, tiny, schema):
    _, other = sweep_of(tiny, schema, "experiment.alpha=0.1,0.3")
    folder.close()
    SweepFolder(folder.directory, other).close()
    assert json.loads((folder.directory / "sweep.json").read_text()) == other


def test_something_else_is_refused(own, tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(SweepError, match="neither empty nor the folder of a sweep"):
        refuse_other(tmp_path, own[1])
    with pytest.raises(SweepError, match="is a file"):
        refuse_other(tmp_path / "thesis.tex", own[1])


def test_two_processes_do_not_work_at_one_sweep(own, folder):
    with pytest.raises(SweepError, match="in use"):
        SweepFolder(folder.directory, own[1])


def test_a_run_is_open_then_failed_then_finished(own, folder):
    run = own[0][0]
    assert folder.state(run).status == "open"
    folder.note(run.name, Ended("failed", "OSError: no room", 2.0))
    state = folder.state(run)
    assert (state.status, state.reason, state.num_attempts) == ("failed", "OSError: no room", 1)
    run_study(STUDY, run.settings, folder.run_directory(run.name), "cpu")
    folder.note(run.name, Ended("finished", "", 5.0))
    state = folder.state(run)
    assert (state.status, state.reason, state.seconds) == ("finished", "", 7.0)
    assert state.results["status"] == "complete"


def test_a_finished_run_of_another_config_is_not_taken_for_this_one(own, folder):
    first, second = own[0]
    run_study(STUDY, second.settings, folder.run_directory(first.name), "cpu")
    assert folder.state(first).status == "open"


def test_a_run_that_was_stopped_is_open(own, folder):
    run = own[0][0]
    directory = folder.run_directory(run.name)
    run_study(STUDY, run.settings, directory, "cpu")
    left = json.loads((directory / "results.json").read_text()) | {"status": "running"}
    del left["sha256"]
    (directory / "results.json").write_text(json.dumps(left))
    with pytest.warns(UserWarning, match="sha256"):
        assert folder.state(run).status == "open"
