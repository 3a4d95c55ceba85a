"""Is the config of the study of minimally singular models checked, down to each network?"""

import math

import pytest

from degeneracy.config.reader import ConfigError, parse_config
from studies.min_singular_models.settings import LinearSettings, Network, Settings


def problems_of(content: object) -> list[str]:
    with pytest.raises(ConfigError) as error:
        parse_config(content, Settings)
    return error.value.problems


def test_nbeta_is_n_over_its_logarithm_unless_it_is_given():
    assert Settings().linear.resolved_nbeta == pytest.approx(3000 / math.log(3000))
    assert LinearSettings(nbeta=7).resolved_nbeta == 7


def test_every_problem_is_listed_with_key_given_and_allowed():
    content = {
        "linear": {"ranks": [5, 5], "num_samples": 2, "noise": -1, "nbta": 3},
        "normal_crossings": {"exponents": [[0]], "num_chains": 1.5},
        "deep_linear": {
            "networks": [{"widths": [4, 2, 4], "rank": 3}, {"widths": [4], "rank": 0, "depth": 1}]
        },
        "spectra": {},
    }
    assert problems_of(content) == [
        "spectra: unknown section, {} given; did you mean spectrum?",
        "linear.nbta: unknown key, 3 given; did you mean linear.nbeta?",
        "linear.ranks: [5, 5] given; allowed: each once, but 5 is there twice",
        "linear.num_samples: 2 given; allowed: an integer >= 3 and <= 10000000",
        "linear.noise: -1 given; allowed: a finite number >= 0",
        "normal_crossings.num_chains: 1.5 given; allowed: an integer >= 2 and <= 100000",
        "normal_crossings.exponents: [[0]] given, where entry 1 is [0]; allowed: a list of lists of"
        " integers >= 1 and <= 10, each of 1 to 10 entries, not empty",
        "deep_linear.networks[0].rank: 3 given; allowed: at most the smallest width, 2",
        "deep_linear.networks[1].depth: unknown key, 1 given; allowed: widths, rank",
        "deep_linear.networks[1].widths: [4] given; allowed: a list of integers >= 1 and <= 4096,"
        " of 2 to 20 entries",
    ]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (
            {"linear": {"num_weights": 10, "ranks": [11]}},
            "linear.ranks: [11] given; allowed: at most linear.num_weights, 10",
        ),
        (
            {"linear": {"ranks": [20], "num_samples": 20}},
            "linear.num_samples: 20 given; allowed: more than the largest of linear.ranks, 20",
        ),
        (
            {"deep_linear": {"networks": [{"widths": [2, 2], "rank": 1}] * 2}},
            'allowed: each once, but {"widths": [2, 2], "rank": 1} is there twice',
        ),
        ({"deep_linear": {"networks": []}}, "deep_linear.networks: [] given; allowed: a list of"),
        (
            {"deep_linear": {"networks": [{"rank": 1}]}},
            "deep_linear.networks[0].widths: nothing given; allowed: a list of integers",
        ),
        ([{}, {}, {}], "allowed: an object with the sections linear, normal_crossings"),
    ],
)
def test_combinations_that_make_no_sense_are_refused(content, problem):
    (found,) = problems_of(content)
    assert problem in found


def test_a_network_from_python_has_a_rank_that_exists():
    with pytest.raises(ValueError, match="rank: 3 given; allowed: at most the smallest width, 2"):
        Network(widths=[4, 2, 4], rank=3)
