"""How does a test run a study's notebook on a config of its own?"""

import json
from pathlib import Path

import papermill

EXPERIMENTS = Path(__file__).resolve().parent.parent / "experiments"


def execute(name: str, config: dict, directory: Path) -> tuple[list, Path]:
    """Runs `experiments/<name>.ipynb` on the CPU; returns its cells' outputs and the study's
    directory.
    """
    (directory / "config.json").write_text(json.dumps(config))
    parameters = {
        "config_path": str(directory / "config.json"),
        "out": str(directory / "run"),
        "device": "cpu",
    }
    notebook = papermill.execute_notebook(
        EXPERIMENTS / f"{name}.ipynb",
        directory / "executed.ipynb",
        cwd=EXPERIMENTS,
        progress_bar=False,
        parameters=parameters,
    )
    outputs = [
        output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    ]
    return outputs, directory / "run"
