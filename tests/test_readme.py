"""The README tells the truth: its config table, its commands, its examples."""

import json
import re
from pathlib import Path

import pytest
import torch

from degeneracy.models.networks import FFNN
from degeneracy.runs.config import Config

PROJECT = Path(__file__).resolve().parent.parent
README = (PROJECT / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, flags=re.S)


def test_the_config_table_has_every_key_with_its_default():
    rows = dict(re.findall(r"^\| `(\w+\.\w+)` \| `([^`]*)` \|", README, flags=re.M))
    defaults = {
        f"{section}.{key}": value
        for section, keys in Config().model_dump(mode="json").items()
        for key, value in keys.items()
    }
    assert rows.keys() == defaults.keys()
    for key, default in defaults.items():
        assert json.loads(rows[key]) == default, key


@pytest.mark.parametrize(
    "target", sorted(set(re.findall(r"(?:`|^)make ([a-z-]+)", README, flags=re.M)))
)
def test_the_make_targets_it_names_exist(target):
    assert re.search(rf"^{target}:", (PROJECT / "Makefile").read_text(), flags=re.M)


def test_the_files_it_names_exist():
    first_cells = re.findall(
        r"^\| (`[^|]+) \|", README.split("## What lies where")[1].split("## Data")[0], flags=re.M
    )
    named = [path for cell in first_cells for path in re.findall(r"`([^`]+)`", cell)]
    assert len(named) > 15
    named += re.findall(r"\]\((?!http)([^)#]+)\)", README)
    for path in named:
        if "<run>" not in path:
            assert (PROJECT / path).exists(), path


def test_the_example_of_an_own_model_and_optimizer_runs(data_root, tmp_path):
    config = {
        "experiment": {
            "cut_off_epochs": 1,
            "num_epochs": 2,
            "measure_epochs": "final",
            "hessian": False,
        },
        "data": {"root": str(data_root), "batch_size": 1000},
        "devinterp": {"num_draws": 10},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    code = EXAMPLES[0].replace("args_ngd_sgd.json", str(tmp_path / "config.json"))
    exec(code.replace("experiments/ngd_sgd/adamw", str(tmp_path / "run")), {})
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["status"] == "complete"
    assert results["models"]["My model"]["optimizers"]["ngd"]["llc"][2] is not None


def small_problem():
    torch.manual_seed(0)
    inputs, labels = torch.randn(200, 1, 4, 4), torch.randint(10, (200,))
    return {"torch": torch, "model": FFNN(4, 1, (1, 4, 4)), "inputs": inputs, "labels": labels}


def test_the_example_of_ngd_takes_a_step_and_shows_it(capsys):
    names = small_problem()
    before = [p.detach().clone() for p in names["model"].parameters()]
    exec(EXAMPLES[1], names)
    assert not any(map(torch.equal, before, names["model"].parameters()))
    assert capsys.readouterr().out.count("cosine to the gradient ") == len(before)


def test_the_example_of_an_estimate_has_five_lines_and_runs(capsys):
    names = small_problem()
    assert len(EXAMPLES[2].strip().splitlines()) == 5
    exec(EXAMPLES[2], names)
    assert names["e"].trace.shape == (4, 1000)
    assert "drift" in capsys.readouterr().out
