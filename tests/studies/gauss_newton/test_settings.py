"""Is the config of the Gauss-Newton study checked, with all problems at once?"""

import pytest

from degeneracy.config.reader import ConfigError, parse_config, read_config
from degeneracy.runs.work import PROJECT
from studies.gauss_newton.settings import Settings


def problems_of(content):
    with pytest.raises(ConfigError) as error:
        parse_config(content, Settings)
    return error.value.problems


@pytest.mark.parametrize(
    ("content", "start"),
    [
        ({"network": {"hidden": 1}}, "network.hidden: 1 given; allowed: an integer >= 2"),
        ({"network": {"num_blocks": 0}}, "network.num_blocks: 0 given; allowed: an integer >= 1"),
        (
            {"training": {"mini": {"batch_size": 1}}},
            "training.mini.batch_size: 1 given; allowed: an integer >= 2",
        ),
        (
            {"data": {"num_train": 513}},
            "training.mini.batch_size: 256 given with data.num_train 513, which leaves a batch of"
            " 1; allowed",
        ),
        (
            {"data": {"num_train": 100}},
            "training.mini.batch_size: 256 given with data.num_train 100; allowed: at most",
        ),
        (
            {"data": {"num_train": 60000, "dataset": "cifar10"}},
            'data.num_train: 60000 given with dataset "cifar10"; allowed there: at most 50000',
        ),
        ({"optimizers": {}}, "optimizers: {} given; allowed: at least one"),
        (
            {"optimizers": {"a": {"kind": "lbfgs"}}},
            'optimizers.a.kind: "lbfgs" given; allowed: "gauss_newton" or "sgd"',
        ),
        (
            {"optimizers": {"a": {"kind": "gauss_newton", "rtol": 1.0}}},
            "optimizers.a.rtol: 1.0 given; allowed: a finite number >= 0 and < 1",
        ),
        (
            {"swaps": [{"first": "adamw", "then": "block"}]},
            'swaps: "adamw" given; allowed: block, min_norm, ridge, sgd, ngd, adam',
        ),
        (
            {"swaps": [{"first": "adam", "then": "block", "epoch": 10}]},
            "swaps: epoch 10 given with training.mini.epochs 10; allowed: fewer epochs",
        ),
        (
            {"training": {"full": {"batch_size": 2000}}},
            "optimizers: min_norm given with solution min_norm and a batch of 2000; allowed there:"
            " batches of at most 1638 images",
        ),
        (
            {"degeneracy": {"optimizers": ["sgdm"]}},
            'degeneracy.optimizers: "sgdm" given; allowed: block, min_norm, ridge, sgd, ngd, adam',
        ),
        (
            {"degeneracy": {"localizations": [10, 1]}},
            "degeneracy.localizations: [10, 1] given; allowed: numbers that increase",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_what_is_allowed(content, start):
    (problem,) = problems_of(content)
    assert problem.startswith(start), problem


def test_rates_are_of_the_regime():
    settings = parse_config({}, Settings)
    assert settings.optimizers["block"].rate("full") == 0.5
    assert settings.optimizers["block"].rate("mini") == 0.1
    assert settings.optimizers["sgd"].rate("full") == settings.optimizers["sgd"].rate("mini")


@pytest.mark.parametrize(
    ("name", "num_seeds"),
    [
        ("args_gauss_newton", 1),
        ("args_gauss_newton_seeds", 5),
        ("args_gauss_newton_published", 3),
        ("args_gauss_newton_cifar10", 3),
    ],
)
def test_the_configs_are_sound(name, num_seeds):
    settings = read_config(PROJECT / "experiments" / f"{name}.json", Settings, "gauss_newton")
    assert settings.training.seeds == list(range(42, 42 + num_seeds))
    assert {"block", "min_norm", "ridge", "sgd", "ngd", "adam"} <= settings.optimizers.keys()


def test_the_published_config_has_the_papers_sizes():
    path = PROJECT / "experiments" / "args_gauss_newton_published.json"
    settings = read_config(path, Settings, "gauss_newton")
    assert settings.network.hidden == 8000
    assert settings.training.seeds == [42, 43, 44]
    for regime in (settings.training.full, settings.training.mini):
        assert (regime.batch_size, regime.epochs) == (1024, 100)
    rates = {name: (o.rate("full"), o.rate("mini")) for name, o in settings.optimizers.items()}
    assert rates["block"] == (0.5, 0.1)
    assert rates["adam"] == (1e-4, 1e-4)
    assert rates["sgd"] == (0.1, 0.1)


def test_the_config_of_cifar_has_the_papers_sizes():
    path = PROJECT / "experiments" / "args_gauss_newton_cifar10.json"
    settings = read_config(path, Settings, "gauss_newton")
    assert (settings.data.dataset, settings.data.augment) == ("cifar10", True)
    assert (settings.network.hidden, settings.network.num_blocks) == (8000, 6)
    rates = {name: (o.rate("full"), o.rate("mini")) for name, o in settings.optimizers.items()}
    assert rates["block"] == (0.5, 0.1)
    assert rates["adam"] == (1e-5, 1e-4)
    assert rates["sgd"] == (0.01, 0.01)
