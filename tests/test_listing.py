"""`make` finds a study that is added as a folder, before anything is installed."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from studies.listing import ListingError, declared_in, find, report_of, studies_in

PROJECT = Path(__file__).resolve().parent.parent
LISTING = PROJECT / "studies" / "listing.py"
TOY = """
from nowhere import Study, measure_toy  # never imported: it is not there

STUDY = Study(
    name="toy_study",
    question="Is a toy "
    "a study?",
    minutes=0.5,
    parts={"only": measure_toy},
)
"""


@pytest.fixture
def toys(tmp_path):
    """A folder of studies with one in it, and folders that hold none."""
    folder = tmp_path / "studies"
    (folder / "toy_study").mkdir(parents=True)
    (folder / "toy_study" / "__init__.py").write_text(TOY)
    (folder / "__pycache__").mkdir()
    (folder / "schemas.py").write_text("")
    return folder


def make(*arguments):
    """What `make` prints, without the repository's own Python."""
    command = ["make", "--no-print-directory", f"PYTHON={sys.executable} -S", *arguments]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)


def listing(*arguments):
    """The command, with nothing but the standard library to import."""
    command = [sys.executable, "-S", LISTING, *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_every_study_of_the_project_is_listed_as_it_declares_itself():
    import studies

    found = studies_in(PROJECT / "studies")
    assert [study.name for study in found] == studies.names()
    for listed in found:
        study = studies.find(listed.name)
        assert (listed.question, listed.minutes) == (study.question, study.minutes)
        assert PROJECT / listed.notebook_path == study.notebook_path
        assert PROJECT / listed.config_path == study.config_path
        assert study.notebook_path.is_file()
        assert study.config_path.is_file()


def test_make_help_names_every_study_with_its_question_and_its_minutes():
    lines = make("help").stdout.splitlines()
    for study in studies_in(PROJECT / "studies"):
        (line,) = [line for line in lines if line.split()[:1] == [study.target]]
        assert line.endswith(f"{study.minutes:g} min  {study.question}")


def test_a_study_added_as_a_folder_is_in_make_help(toys):
    done = make("help", f"STUDIES={toys}")
    assert done.returncode == 0
    assert "  toy-study   0.5 min  Is a toy a study?" in done.stdout.splitlines()


def test_a_study_added_as_a_folder_is_a_target_of_make(toys):
    recipe = make("--dry-run", "toy-study", f"STUDIES={toys}").stdout
    assert "papermill" in recipe
    assert "notebook toy-study" in recipe
    assert listing("--folder", toys, "notebook", "toy-study").stdout == (
        "experiments/eval_toy_study.ipynb\n"
    )
    assert listing("--folder", toys, "config", "toy_study").stdout == (
        "experiments/args_toy_study.json\n"
    )


def test_a_notebook_and_a_config_with_names_of_their_own_are_found(toys):
    text = TOY.replace("minutes=0.5,", 'minutes=3, notebook="a/b.ipynb", config="c.json",')
    (toys / "toy_study" / "__init__.py").write_text(text)
    study = find(toys, "toy-study")
    assert (study.notebook_path, study.config_path) == ("a/b.ipynb", "c.json")


def test_no_study_takes_the_name_of_another_target():
    done = make("--dry-run", "help")
    assert "overriding" not in done.stderr


def test_make_run_is_the_primary_experiment():
    assert "notebook ngd-sgd" in make("--dry-run", "run").stdout


def test_make_of_a_study_takes_another_config():
    recipe = make("--dry-run", "phase-transitions", "CONFIG=experiments/args_other.json").stdout
    assert 'config="experiments/args_other.json"' in recipe


def test_an_unknown_study_is_refused_with_the_closest_name(toys):
    done = listing("--folder", toys, "notebook", "toy-studi")
    assert done.returncode == 2
    assert done.stderr == ("study: 'toy_studi' given; did you mean toy_study? allowed: toy_study\n")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (TOY, "", "no study"),
        (TOY, "STUDY = 3", "no study"),
        ("minutes=0.5,", "", "STUDY has no minutes"),
        ("minutes=0.5", "minutes=half()", r"minutes=half\(\) given; allowed: a value that is"),
        ('"toy_study"', '"other"', "name='other' given; allowed: the folder's, 'toy_study'"),
    ],
)
def test_a_declaration_that_cannot_be_listed_is_named(toys, old, new, message):
    file = toys / "toy_study" / "__init__.py"
    assert old in TOY
    file.write_text(TOY.replace(old, new))
    with pytest.raises(ListingError, match=f"{re.escape(str(file))}: {message}"):
        declared_in(file)


def test_the_report_is_the_path_that_the_notebook_printed_last(tmp_path):
    texts = [
        {"name": "stdout", "output_type": "stream", "text": "report: /early.html\nmore\n"},
        {"name": "stderr", "output_type": "stream", "text": "50%"},
        {"name": "stdout", "output_type": "stream", "text": ["report: /a b/", "last.html\n"]},
        {"output_type": "display_data", "data": {}},
    ]
    cells = [{"cell_type": "markdown"}, {"cell_type": "code", "outputs": texts}]
    notebook = tmp_path / "executed.ipynb"
    notebook.write_text(json.dumps({"cells": cells}))
    assert report_of(notebook) == "/a b/last.html"
    assert listing("report", notebook).stdout == "/a b/last.html\n"


def test_a_notebook_without_a_report_is_refused(tmp_path):
    notebook = tmp_path / "executed.ipynb"
    notebook.write_text(json.dumps({"cells": []}))
    done = listing("report", notebook)
    assert done.returncode == 2
    assert "no line `report: PATH`" in done.stderr


@pytest.mark.parametrize("arguments", [["notebook"], ["list", "toy"]])
def test_a_name_goes_with_what_has_one(arguments):
    assert listing(*arguments).returncode == 2


def test_the_demo_is_a_small_real_run_of_the_primary_experiment():
    from degeneracy.runs.config import load_config

    config = load_config(PROJECT / "experiments" / "args_demo.json")
    assert config.data.dataset in ("mnist", "fashion-mnist")
    assert config.experiment.num_epochs <= 5


@pytest.mark.slow
def test_the_demo_trains_measures_and_prints_its_reports_path_last(data_root, tmp_path):
    command = [sys.executable, "experiment.py", "experiments/args_demo.json", "--out", tmp_path]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(tmp_path / "report.html")
    results = json.loads((tmp_path / "results.json").read_text())
    (model,) = results["models"].values()
    for series in model["optimizers"].values():
        assert series["val_accuracy"][-1] > 0.8
        assert series["llc"][-1] is not None
        assert series["hessian_trace"][-1] > 0
