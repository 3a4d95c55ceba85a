"""Are the notebooks committed without outputs, and do they run headless from their own folder?"""

import json
from pathlib import Path

import nbformat
import pytest
from executed_notebook import EXPERIMENTS, execute

from studies.listing import report_of, studies_in

PROJECT = EXPERIMENTS.parent
NOTEBOOKS = sorted(EXPERIMENTS.glob("*.ipynb"))
SMALL = {
    "experiment": {
        "hidden_nodes": [16],
        "hidden_layers": [1],
        "cut_off_epochs": 1,
        "num_epochs": 2,
    },
    "data": {"batch_size": 500, "num_hessian_batches": 1, "num_probes": 3},
    "devinterp": {"sampler": "sgld", "num_draws": 20},
}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_carry_no_outputs_and_are_valid(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    for cell in code:
        assert cell.outputs == []
        assert cell.execution_count is None
        assert len(cell.source.splitlines()) <= 10, "longer code belongs in a module"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_takes_config_directory_and_device_as_parameters(path):
    cells = nbformat.read(path, as_version=4).cells
    (first,) = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    given = [line.split(" = ")[0] for line in first.source.splitlines() if " = " in line]
    assert {"config_path", "out", "device"} <= set(given)


def test_every_notebook_is_a_studys():
    of_studies = {study.notebook_path for study in studies_in(PROJECT / "studies")}
    assert of_studies == {str(path.relative_to(PROJECT)) for path in NOTEBOOKS}


def test_no_folder_of_results_hides_a_module_from_the_notebooks_beside_it():
    """A notebook runs in experiments/, where a folder comes before a module of the same name."""
    folders = {study.name for study in studies_in(PROJECT / "studies")}
    modules = {path.stem for path in PROJECT.glob("*.py")}
    packages = {path.parent.name for path in PROJECT.glob("*/__init__.py")}
    assert {"ngd", "degeneracy"} <= modules | packages
    assert folders & (modules | packages) == set()


@pytest.fixture(scope="module")
def executed(data_root, tmp_path_factory):
    """Outputs and run directory of the primary notebook on a small real config."""
    config = SMALL | {"data": SMALL["data"] | {"root": str(data_root)}}
    directory = tmp_path_factory.mktemp("eval_ngd_sgd")
    return execute("eval_ngd_sgd", config, directory, calibration=True)


def test_eval_ngd_sgd_shows_every_figure_and_finishes_its_run(executed):
    outputs, run = executed
    figures = [o for o in outputs if "application/vnd.plotly.v1+json" in o.get("data", {})]
    assert len(figures) == 12  # nine of the trajectories, grid, rescaling, calibration
    assert "keeps chains within" in "".join(output.get("text", "") for output in outputs)
    results = json.loads((run / "results.json").read_text())
    assert results["status"] == "complete"
    assert results["config"]["data"]["dataset"] == "fashion-mnist"


def test_eval_ngd_sgd_prints_the_path_of_a_report_that_needs_no_network(executed):
    _, run = executed
    report = Path(report_of(run.parent / "executed.ipynb"))
    assert report == run / "report.html"
    assert report.stat().st_size > 1_000_000  # plotly.js is inside
