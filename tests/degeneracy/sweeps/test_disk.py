"""The disk that is said beforehand is the disk that is taken."""

import pytest

import studies
from degeneracy.config.reader import parse_config
from degeneracy.study import run_study
from degeneracy.sweeps.disk import REPORT, checkpoint_bytes, run_bytes, trace_bytes


@pytest.mark.parametrize(
    "experiment",
    [
        pytest.param({}, marks=pytest.mark.slow),
        {"experiment_type": "standard", "optimizer": ["adamw", "muon", "sgd"], "momentum": 0.5},
    ],
    ids=["swap", "standard"],
)
def test_checkpoints_and_traces_take_what_is_said(tiny, schema, tmp_path, experiment):
    content = tiny | {"experiment": tiny["experiment"] | {"hidden_nodes": [64]} | experiment}
    settings = parse_config(content, schema)
    run_study(studies.find("phase_transitions"), settings, tmp_path / "run", "cpu")
    files = [path.stat().st_size for path in (tmp_path / "run/checkpoints").iterdir()]
    headers = 8192 * len(files)  # names, shapes, the generator's state
    assert checkpoint_bytes(settings) <= sum(files) <= 1.02 * checkpoint_bytes(settings) + headers
    traces = (tmp_path / "run/traces.npz").stat().st_size
    assert trace_bytes(settings) <= traces <= trace_bytes(settings) + 1000 * len(files)
    whole = sum(path.stat().st_size for path in (tmp_path / "run").rglob("*") if path.is_file())
    assert 0.7 * run_bytes(settings) <= whole <= 1.1 * run_bytes(settings)


def test_a_study_without_checkpoints_takes_its_report():
    settings = studies.find("min_singular_models").settings()
    assert run_bytes(settings) == REPORT
