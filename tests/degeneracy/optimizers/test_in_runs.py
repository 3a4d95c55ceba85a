"""Does a run train every kind that a config names, and refuse what one cannot step at once?"""

import pytest
import torch

from degeneracy.config.reader import parse_config
from degeneracy.data.images import DataSplits, TensorData
from degeneracy.runs.config import Config
from degeneracy.runs.run import new_run
from degeneracy.study import measure
from studies.ngd_sgd import STUDY

NAMES = ["sgd", "ngd", "spngd", "seng", "exact_ngd", "soap"]


def images(count: int, seed: int) -> TensorData:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    inputs = torch.randn(count, 1, 4, 4, generator=generator) + labels[:, None, None, None]
    return TensorData(inputs, labels)


@pytest.fixture
def splits() -> DataSplits:
    return DataSplits(images(120, 0), images(60, 1))


def config(**experiment) -> Config:
    given = {"optimizer": NAMES, "hidden_nodes": [5], "hidden_layers": [1], "num_epochs": 2}
    given |= {"experiment_type": "standard"} | experiment
    return parse_config({"experiment": given, "data": {"batch_size": 30}}, Config)


def test_a_run_trains_every_optimizer_that_its_config_names(splits, tmp_path):
    run = new_run(STUDY, config(), tmp_path / "run", torch.device("cpu"), data=splits)
    measure(run, "train")
    (found,) = run.results["models"].values()
    losses = {name: series["train_loss"] for name, series in found["optimizers"].items()}
    run.store.close()
    assert list(losses) == NAMES
    assert all(len(series) == 3 and series[-1] < series[0] for series in losses.values())


def test_a_network_that_an_optimizer_cannot_step_is_refused_before_any_has_trained(
    splits, tmp_path
):
    large = config(hidden_nodes=[1000])
    with pytest.raises(ValueError, match=r"exact_ngd: the model has 20,003 trainable weights"):
        new_run(STUDY, large, tmp_path / "run", torch.device("cpu"), data=splits)
    assert not (tmp_path / "run").exists()
