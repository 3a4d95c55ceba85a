"""Is the config of the study of SGD's regimes checked, with all problems at once?"""

import pytest

from degeneracy.config.reader import ConfigError, parse_config, read_config
from studies.sgd_regimes import STUDY
from studies.sgd_regimes.settings import Settings, exactly

WRONG = {
    "regimes": {"lrs": [0], "momenta": [1.0], "batch_sizes": [200], "taus": []},
    "stability": {"nu": 0, "batch_size": 300},
    "asymptotics": {"laws": [{"nu": 1.0}]},
    "budget": {"batch_sizes": [1, 1]},
    "spectrum": {"datasets": ["iris"], "last": 5, "first": 4},
}


def problems_of(content):
    with pytest.raises(ConfigError) as error:
        parse_config(content, Settings)
    return error.value.problems


def test_every_problem_of_the_settings_is_listed():
    found = sorted(problems_of(WRONG))
    starts = [
        "asymptotics.laws[0].nu: 1.0 given; allowed: a finite number > 1",
        "budget.batch_sizes: [1, 1] given; allowed: each once, but 1 is there twice",
        "regimes.batch_sizes: 200 given with size 100; allowed there: at most 100",
        "regimes.lrs: [0] given, where entry 1 is 0; allowed: a list of finite numbers > 0",
        "regimes.momenta: [1.0] given, where entry 1 is 1.0; allowed: a list of",
        "regimes.taus: [] given; allowed: a list",
        'spectrum.datasets: ["iris"] given',
        "spectrum.last: 5 given with first 4 and size 1000; allowed there: from 6 to 1000",
        "stability.batch_size: 300 given with size 200; allowed there: at most 200",
        "stability.nu: 0 given; allowed: a finite number > 0",
    ]
    assert len(found) == len(starts), found
    for problem, start in zip(found, starts, strict=True):
        assert problem.startswith(start)


def test_tau_keeps_second_moments():
    (problem,) = problems_of({"regimes": {"taus": [20], "batch_sizes": [10]}})
    assert problem.startswith("regimes.taus: 20 given with γ up to 0.09091; allowed there: at most")


def test_each_law_is_there_once():
    (problem,) = problems_of({"asymptotics": {"laws": [{"kappa": 2.0}, {"kappa": 2.0}]}})
    assert problem.startswith("asymptotics.laws: ")
    assert "is there twice" in problem


def test_numbers_that_differ_are_written_differently():
    assert [exactly(value) for value in (1.0, 0.3, 1e-7)] == ["1", "0.3", "1e-07"]
    assert exactly(0.3) != exactly(0.30000001)


def test_the_default_config_is_what_a_config_that_says_nothing_means():
    default = read_config(STUDY.config_path, Settings, "sgd_regimes")
    assert default == Settings()
