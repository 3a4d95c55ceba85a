"""Is the config of the study of NGD's directions checked, with all problems at once?"""

import pytest

from degeneracy.config.reader import ConfigError, parse_config
from studies.ngd_directions.settings import ExactSettings, Settings

WRONG = {
    "training": {"alpha": 0, "momentum": 0, "eta": 1, "sgd_lr": 0.1, "dataset": "cifar10"},
    "exact": {"alphas": [1, 0.1], "num_minibatches": 1, "hidden_nodes": 2.5},
    "recorded": {"alphas": [], "num_steps": True},
    "swap": {},
}


def problems_of(content: object) -> list[str]:
    with pytest.raises(ConfigError) as error:
        parse_config(content, Settings)
    return error.value.problems


def test_every_problem_of_the_settings_is_listed():
    found = sorted(problems_of(WRONG))
    starts = [
        "exact.alphas: [1, 0.1] given; allowed: numbers that increase",
        "exact.hidden_nodes: 2.5 given; allowed: an integer >= 1 and <= 256",
        "exact.num_minibatches: 1 given; allowed: an integer >= 2",
        "recorded.alphas: [] given; allowed: a list of finite numbers >= 0.0001",
        "recorded.num_steps: true given; allowed: an integer >= 1",
        "swap: unknown section, {} given; allowed: training, exact, recorded",
        "training.alpha: 0 given; allowed: a finite number > 0",
        'training.dataset: "cifar10" given; allowed: "mnist" or "fashion-mnist"',
        "training.eta: 1 given; allowed: a finite number > 0 and < 1",
        "training.nesterov: true given with training.momentum 0; allowed there: false",
        "training.sgd_lr: unknown key, 0.1 given; ",
    ]
    assert len(found) == len(starts)
    for problem, start in zip(found, starts, strict=True):
        assert problem.startswith(start)


def test_the_exact_matrix_must_fit():
    (problem,) = problems_of({"exact": {"pooling": 2, "hidden_nodes": 100}})
    assert problem == (
        "exact.hidden_nodes: 100 given with exact.hidden_layers 2 and exact.pooling 2, which makes"
        " 30,810 weights; allowed: at most 20,000"
    )
    with pytest.raises(ValueError, match="30,810 weights"):
        ExactSettings(pooling=2, hidden_nodes=100)


def test_the_exact_parts_network_sees_pooled_images():
    model = ExactSettings(pooling=7, hidden_nodes=5, hidden_layers=1).model()
    assert [tuple(p.shape) for p in model.parameters()] == [(5, 16), (5,), (10, 5), (10,)]


def test_a_folder_is_a_name():
    (problem,) = problems_of({"training": {"root": " "}})
    assert problem.startswith('training.root: " " given; allowed: a string that is not empty')
