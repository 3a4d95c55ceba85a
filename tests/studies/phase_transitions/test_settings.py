"""Is a config of phase transitions a run's config, with other defaults and rules of its own?"""

import pickle

import pytest

from degeneracy.config.reader import ConfigError, parse_config, read_config
from degeneracy.runs.config import Config
from degeneracy.runs.work import PROJECT
from studies.phase_transitions.settings import Settings


def problems_of(content: object) -> list[str]:
    with pytest.raises(ConfigError) as error:
        parse_config(content, Settings)
    return error.value.problems


def test_defaults_are_a_deep_network_on_few_images_and_a_runs_own_elsewhere():
    settings, run = Settings(), Config()
    assert isinstance(settings, Config)
    changed = {
        "experiment": {
            "experiment_type": "standard",
            "robustness": False,
            "hidden_nodes": [64],
            "hidden_layers": [8],
            "hidden_conv_layers": [7],
            "num_epochs": 18,
            "sgd_lr": 0.02,
            "ngd_lr": 0.02,
        },
        "data": {"dataset": "mnist", "batch_size": 64, "num_hessian_batches": 3},
        "devinterp": {
            "sampler": "sgld",
            "num_chains": 2,
            "num_draws": 400,
            "num_burnin_steps": 300,
            "sampler_lr": 1e-4,
            "nbeta": 100.0,
        },
        "optimizers": {},
    }
    more = {"data": {"num_train_images": 6400, "num_test_images": 1000}}
    dumped = settings.model_dump()
    for name, section in run.model_dump().items():
        assert dumped[name] == section | changed[name] | more.get(name, {})
    assert list(dumped) == [*changed, "transitions", "curvature"]


def test_the_convolutional_config_is_one():
    settings = read_config(PROJECT / "experiments" / "args_phase_transitions_cnn.json", Settings)
    assert settings.experiment.model_type == "cnn"
    assert min(settings.experiment.hidden_conv_layers) >= 4
    assert settings.experiment.sgd_lr == 0.02


def test_it_may_compare_any_number_of_optimizers():
    content = {
        "experiment": {"optimizer": ["sgd", "ngd", "slow"]},
        "optimizers": {"slow": {"kind": "sgd", "lr": 0.001}},
    }
    settings = parse_config(content, Settings)
    assert settings.optimizer_names == ("sgd", "ngd", "slow")
    assert settings.optimizer_settings("ngd").lr == 0.02
    assert pickle.loads(pickle.dumps(settings)) == settings


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (
            {"data": {"num_train_images": 60_001}},
            "data.num_train_images: 60001 given; allowed: at most 60000, or null",
        ),
        (
            {"data": {"num_train_images": 100}},
            "data.num_train_images: 100 given; allowed: at least data.batch_size",
        ),
        (
            {"transitions": {"flat": 0.2}},
            "transitions.flat: 0.2 given; allowed: below transitions.steep, 0.1",
        ),
        (
            {"transitions": {"step": 0.2}},
            "transitions.step: unknown key, 0.2 given; did you mean transitions.steep?",
        ),
        (
            {"curvature": {"num_probes": 0}},
            "curvature.num_probes: 0 given; allowed: an integer >= 2",
        ),
        (
            {"curvature": {"num_steps": 3}},
            "curvature.num_eigenvalues: 5 given; allowed: at most curvature.num_steps, 3",
        ),
        ({"devinterp": {"localization": 0}}, "devinterp.localization: 0 given; allowed: above 0"),
        ({"devinterp": {"sampler": "sgnht"}}, 'devinterp.sampler: "sgnht" given; allowed: others'),
        ({"experiment": {"robustness": True}}, "experiment.robustness: true given; allowed: false"),
        (
            {"data": {"num_test_images": 10_001}},
            "data.num_test_images: 10001 given; allowed: an integer >= 1 and <= 10000 or null",
        ),
        ({"experiment": {"momentum": 0}}, "experiment.nesterov: true given with experiment."),
        (
            {"data": {"num_hessian_batches": 1_000}, "experiment": {"hessian": True}},
            "data.num_train_images: 6400 given; allowed: at least",
        ),
        ({"experiment": []}, "experiment: [] given; allowed: an object of settings"),
        ({"experiment": {"flat": 1}}, "another section: transitions.flat"),
        (
            {"phases": {}},
            "phases: unknown section, {} given; allowed: experiment, data, devinterp, optimizers,"
            " transitions, curvature",
        ),
        ([{}, {}, {}], "[{}, {}, {}] given; allowed: an object with the sections experiment"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(content, problem):
    assert any(problem in found for found in problems_of(content))
