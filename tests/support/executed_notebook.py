"""How does a test run a study's notebook on a config of its own?"""

import json
from pathlib import Path

import papermill

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"


def execute(name: str, config: dict, directory: Path, **more: object) -> tuple[list, Path]:
    """Runs `experiments/<name>.ipynb` on the CPU; returns its cells' outputs and the study's
    directory. `more` are other parameters of the notebook.
    """
    (directory / "config.json").write_text(json.dumps(config))
    own = {"config_path": str(directory / "config.json"), "out": str(directory / "run")}
    notebook = papermill.execute_notebook(
        EXPERIMENTS / f"{name}.ipynb",
        directory / "executed.ipynb",
        cwd=EXPERIMENTS,
        progress_bar=False,
        parameters={**own, "device": "cpu", **more},
    )
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [output for cell in cells for output in cell.outputs], directory / "run"
