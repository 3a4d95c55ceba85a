"""Work beyond reason asks whether it is meant, with the estimate, before anything is made."""

import pytest

from degeneracy.config.reader import ConfigError
from degeneracy.effort import MOST_STEPS, refuse_beyond_reason, sampler_steps, training_steps
from degeneracy.runs.config import Config


def config(**sections) -> Config:
    return Config.model_validate(sections)


def test_the_default_config_is_within_reason():
    default = config()
    assert 0 < training_steps(default.model_dump()) < MOST_STEPS
    refuse_beyond_reason(default)


def test_a_hundred_thousand_chains_of_ten_million_draws_ask_for_the_flag():
    chains = {"sampler": "sgld", "num_chains": 100_000, "num_draws": 10_000_000}
    said = r"num_draws: 10000000 given with num_chains 100000; that is 1,000,000,000,000 sampler"
    with pytest.raises(ConfigError, match=said) as refused:
        refuse_beyond_reason(config(devinterp=chains))
    assert "about 6 years at 5,000 a second" in str(refused.value)
    assert "the flag --large" in str(refused.value)


def test_so_does_training_that_nobody_would_wait_for():
    with pytest.raises(ConfigError, match=r"num_epochs: 100000 .* 3,000,000,000 training steps"):
        refuse_beyond_reason(config(experiment={"num_epochs": 100_000}, data={"batch_size": 2}))


def test_steps_are_counted_with_burn_in_and_thinning():
    section = {"num_chains": 3, "num_draws": 10, "num_burnin_steps": 5, "thinning": 2}
    assert sampler_steps(section) == 3 * (5 + 20)
    assert sampler_steps({"num_chains": 3, "num_draws": None}) == 0  # `auto` finds its own
    small = {"experiment": {"num_epochs": 2}, "data": {"batch_size": 7, "num_train_images": 15}}
    assert training_steps(small) == 2 * 3


def test_exactly_the_bound_is_allowed():
    chains = {"sampler": "sgld", "num_chains": 100, "num_draws": MOST_STEPS // 100}
    assert sampler_steps(chains) == MOST_STEPS
    refuse_beyond_reason(config(devinterp=chains))
