"""Notebooks: committed without outputs, and run headless from their own folder."""

import json
from pathlib import Path

import nbformat
import papermill
import pytest

EXPERIMENTS = Path(__file__).resolve().parent.parent / "experiments"
NOTEBOOKS = sorted(EXPERIMENTS.glob("*.ipynb"))


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


def test_no_folder_of_results_hides_a_module_from_the_notebooks_beside_it():
    """A notebook runs in experiments/, where a folder comes before a module of the same name."""
    ignored = (EXPERIMENTS.parent / ".gitignore").read_text().splitlines()
    folders = [
        line.removeprefix("experiments/").rstrip("/")
        for line in ignored
        if line.startswith("experiments/")
    ]
    assert len(folders) >= 3
    assert not [folder for folder in folders if (EXPERIMENTS.parent / f"{folder}.py").exists()]


def test_eval_ngd_sgd_runs_on_a_small_real_config(data_root, tmp_path):
    config = {
        "experiment": {
            "hidden_nodes": [16],
            "hidden_layers": [1],
            "cut_off_epochs": 1,
            "num_epochs": 2,
        },
        "data": {
            "root": str(data_root),
            "batch_size": 500,
            "num_hessian_batches": 1,
            "num_probes": 3,
        },
        "devinterp": {"num_draws": 20},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    executed = papermill.execute_notebook(
        EXPERIMENTS / "eval_ngd_sgd.ipynb",
        tmp_path / "executed.ipynb",
        cwd=EXPERIMENTS,
        progress_bar=False,
        parameters={
            "config_path": str(tmp_path / "config.json"),
            "out": str(tmp_path / "run"),
            "device": "cpu",
            "calibration": True,
        },
    )
    outputs = [
        output for cell in executed.cells if cell.cell_type == "code" for output in cell.outputs
    ]
    figures = [o for o in outputs if "application/vnd.plotly.v1+json" in o.get("data", {})]
    assert len(figures) == 12  # nine of the trajectories, grid, rescaling, calibration
    text = "".join(output.get("text", "") for output in outputs)
    assert "admissible" in text
    assert f"report: {tmp_path / 'run' / 'report.html'}" in text
    assert (tmp_path / "run" / "report.html").stat().st_size > 1_000_000  # plotly.js is inside
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["status"] == "complete"
    assert results["config"]["data"]["dataset"] == "fashion-mnist"
