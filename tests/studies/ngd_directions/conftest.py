"""What the tests of this study share: a few seconds of real MNIST, measured once."""

import json
import shutil

import pytest
import torch
from torch.nn.functional import avg_pool2d

from degeneracy.config.reader import parse_config
from degeneracy.data.images import TensorData
from degeneracy.models.networks import FFNN
from degeneracy.study import run_study
from ngd import NGD
from studies.ngd_directions import STUDY
from studies.ngd_directions.settings import Settings
from studies.ngd_directions.training import minibatch_gradients, training_steps


@pytest.fixture(scope="session")
def tiny_config(data_root):
    """A config of two seconds: 412 weights beside their exact F, 12 steps along recordings."""
    return {
        "training": {"root": str(data_root)},
        "exact": {
            "hidden_nodes": 6,
            "checkpoints": [3, 12],
            "alphas": [0.1, 10, 1e8],
            "num_fisher_samples": 200,
            "num_minibatches": 3,
            "num_averaged": 5,
        },
        "recorded": {"hidden_nodes": 16, "hidden_layers": 1, "num_steps": 12},
    }


@pytest.fixture(scope="session")
def tiny_settings(tiny_config):
    return parse_config(tiny_config, Settings)


@pytest.fixture(scope="session")
def finished(tiny_settings, tmp_path_factory, device):
    """The directory of a finished run of the tiny config."""
    out = tmp_path_factory.mktemp("ngd_directions") / "run"
    run_study(STUDY, tiny_settings, out, device)
    return out


@pytest.fixture
def results(finished):
    return json.loads((finished / "results.json").read_text())


@pytest.fixture
def interrupted(finished, tmp_path):
    """A function that copies the finished directory as a kill could have left it, without what
    one part has found under a key.
    """

    def without(part, key):
        out = tmp_path / "run"
        shutil.copytree(finished, out)
        left = json.loads((out / "results.json").read_text()) | {"status": "running"}
        del left["sha256"]  # what is edited is then taken as it is
        del left["parts"][part][key]
        (out / "results.json").write_text(json.dumps(left))
        return out

    return without


@pytest.fixture(scope="session")
def pooled(mnist):
    """MNIST's training images, 7 × 7 pixels."""
    return TensorData(avg_pool2d(mnist.train.inputs, 4), mnist.train.labels)


@pytest.fixture(scope="session")
def trained(pooled):
    """A small network and its optimizer after 12 steps on MNIST, with gradients of five more
    minibatches.
    """
    torch.manual_seed(0)
    model = FFNN(6, 2, (1, 7, 7))
    optimizer = NGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True, alpha=0.1, eta=0.9)
    for _ in zip(range(13), training_steps(model, optimizer, pooled, 64, seed=0), strict=False):
        pass
    generator = torch.Generator().manual_seed(0)
    return model, optimizer, minibatch_gradients(model, pooled, 5, 64, generator)
