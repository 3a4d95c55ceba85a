"""What the tests of this study share: made-up results, and a small network trained once."""

import copy
import json

import pytest
import transition_results
from executed_notebook import execute
from transition_results import TITLE, optimizers_of

from degeneracy.config.reader import parse_config
from studies.phase_transitions.settings import Settings

SMALL_DATA = {
    "dataset": "fashion-mnist",
    "batch_size": 32,
    "num_hessian_batches": 1,
    "num_train_images": 1600,
    "num_test_images": 300,
    "num_probes": 5,
}
SMALL_CURVATURE = {"num_probes": 2, "num_steps": 15, "num_eigenvalues": 3, "num_gap_probes": 2}


@pytest.fixture(scope="session")
def made_up():
    """Made-up results, not to be changed."""
    return transition_results.made_up()


@pytest.fixture
def results(made_up):
    """A copy of them, to be changed."""
    return copy.deepcopy(made_up)


@pytest.fixture
def four(results):
    """Made-up results of four optimizers: a kind and a user's own besides."""
    optimizers = optimizers_of(results)
    optimizers["adamw"] = copy.deepcopy(optimizers["ngd"])
    optimizers["my own"] = copy.deepcopy(optimizers["sgd"])
    optimizers["my own"]["llc"] = [100.0, 100.0, 90.0, 80.0, 70.0, 60.0]
    results["optimizers"] = list(results["models"][TITLE]["optimizers"])
    return results


@pytest.fixture(scope="session")
def cut():
    """Leaves what an optimizer had before an epoch."""

    def cut(series: dict, epoch: int) -> None:
        for values in series.values():
            if isinstance(values, list):
                values[epoch:] = [None] * (len(values) - epoch)

    return cut


@pytest.fixture(scope="session")
def small_config(data_root):
    """A config, with other settings of its sections `experiment` and `data`.

    Seven layers of 32 on 1,600 images: plateau and drop within seven epochs of 50 steps.
    """

    def config(data: dict | None = None, **experiment) -> dict:
        network = {"hidden_nodes": [32], "hidden_layers": [7], "num_epochs": 7}
        rates = {"sgd_lr": 0.03, "ngd_lr": 0.03}
        return {
            "experiment": {**network, **rates, **experiment},
            "data": {**SMALL_DATA, "root": str(data_root), **(data or {})},
            "devinterp": {"num_draws": 30, "num_burnin_steps": 20},
            "curvature": SMALL_CURVATURE,
        }

    return config


@pytest.fixture(scope="session")
def small_settings(small_config):
    """The same, checked."""

    def settings(data: dict | None = None, **experiment) -> Settings:
        return parse_config(small_config(data, **experiment), Settings)

    return settings


@pytest.fixture(scope="session")
def executed(small_config, tmp_path_factory):
    """The notebook, executed on the small config: its cells' outputs and its run directory."""
    directory = tmp_path_factory.mktemp("phase_transitions")
    return execute("eval_mnist_phase_transitions", small_config(), directory)


@pytest.fixture
def trained(executed):
    """What it found."""
    return json.loads((executed[1] / "results.json").read_text())
