"""Is the config of the paper's study checked, with all problems at once?"""

import pytest

from degeneracy.config.reader import ConfigError, parse_config
from studies.paper.settings import Settings

WRONG = {
    "training": {"cut_off_epochs": 30, "alpha": 0, "eta": 1, "momentum": 0.9},
    "sampler": {"num_draws": 3, "nbeta": "batch"},
    "sizes": [{"dataset": "cifar10", "hidden_nodes": [64, 64]}],
    "smoothing": {"alphas": [0], "epsilons": [1e-10, 1e-10], "measure_epochs": [31]},
    "rates": {"factors": [], "seeds": [-1]},
    "overfitting": {"num_epochs": 5, "measure_epochs": [5, 6]},
    "runs": {"threads": 0},
    "swap": {},
}


def problems_of(content: object) -> list[str]:
    with pytest.raises(ConfigError) as error:
        parse_config(content, Settings)
    return error.value.problems


def test_every_problem_of_the_settings_is_listed():
    found = sorted(problems_of(WRONG))
    starts = [
        "overfitting.measure_epochs: [5, 6] given with overfitting.num_epochs 5; allowed there:",
        "rates.factors: [] given; allowed: a list of finite numbers > 0",
        "rates.seeds: [-1] given, where entry 1 is -1; allowed: a list of integers >= 0",
        "runs.threads: 0 given; allowed: an integer >= 1",
        "sampler.nbeta: unknown key",
        "sampler.num_draws: 3 given; allowed: an integer >= 4",
        'sizes[0].dataset: "cifar10" given; allowed: "mnist" or "fashion-mnist"',
        "sizes[0].hidden_nodes: [64, 64] given; allowed: each once, but 64 is there twice",
        "smoothing.alphas: [0] given, where entry 1 is 0; allowed: a list of finite numbers > 0",
        "smoothing.epsilons: [1e-10, 1e-10] given; allowed: each once, but 1e-10 is there twice",
        "smoothing.measure_epochs: [31] given with training.num_epochs 30; allowed there: epochs",
        "swap: unknown section",
        "training.alpha: 0 given; allowed: a finite number > 0",
        "training.cut_off_epochs: 30 given with training.num_epochs 30; allowed there: an integer",
        "training.eta: 1 given; allowed: a finite number > 0 and < 1",
        "training.momentum: unknown key",
    ]
    assert len(found) == len(starts)
    for problem, start in zip(found, starts, strict=True):
        assert problem.startswith(start)


def test_measured_epochs_lie_within_training():
    training = {"num_epochs": 20, "measure_epochs": [15, 20]}
    problems = problems_of({"training": training, "rates": {"measure_epochs": [18, 25]}})
    assert sorted(problem.split(":")[0] for problem in problems) == [
        "rates.measure_epochs",
        "smoothing.measure_epochs",  # whose default is up to 30
    ]


def test_a_kind_of_network_is_there_once():
    again = {"dataset": "mnist", "hidden_layers": 2, "hidden_nodes": [32]}
    (problem,) = problems_of({"other_sizes": [again]})
    assert problem == (
        "other_sizes: mnist, 2 hidden layers given twice, with sizes; allowed: each data set and"
        " depth once"
    )


def test_parts_may_be_left_out():
    settings = parse_config({"sizes": [], "other_sizes": [], "rates": {"seeds": []}}, Settings)
    assert (settings.sizes, settings.other_sizes, settings.rates.seeds) == ([], [], [])
