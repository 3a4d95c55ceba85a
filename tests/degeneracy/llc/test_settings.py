"""What may be said of a sampler: `auto` finds its step, the published ones stay as published."""

import pytest

from degeneracy.llc.settings import SamplerSettings


def test_auto_is_the_default_with_eight_chains_and_nothing_that_it_finds_itself():
    s = SamplerSettings()
    assert (s.sampler, s.num_chains, s.backend) == ("auto", 8, "batched")
    assert (s.sampler_lr, s.num_draws, s.num_burnin_steps) == (None, None, None)


@pytest.mark.parametrize(
    ("sampler", "localization"), [("sgld", 100.0), ("rmsprop_sgld", 100.0), ("sgnht", 0.0)]
)
def test_a_published_sampler_left_to_itself_is_as_published(sampler, localization):
    s = SamplerSettings(sampler=sampler)
    assert (s.num_chains, s.num_draws, s.num_burnin_steps) == (2, 1000, 0)
    assert (s.sampler_lr, s.localization) == (1e-4, localization)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"sampler_lr": 1e-4}, 'sampler_lr: 0.0001 given with sampler "auto".*allowed: null'),
        ({"backend": "devinterp"}, 'backend: "devinterp" given with sampler "auto"'),
        ({"sampler": "sgld", "sampler_lr": None}, 'sampler_lr: null given with sampler "sgld"'),
        ({"sampler": "sgnht", "num_draws": None}, 'num_draws: null given with sampler "sgnht"'),
        ({"sampler": "sgld", "num_burnin_steps": None}, "num_burnin_steps: null given"),
        ({"sampler": "sgld", "dynamics": "euler"}, 'dynamics: "euler" given.*a part of "auto"'),
        ({"sampler": "sgld", "cooled": False}, "cooled: false given"),
        ({"sampler": "sgld", "starts": "checkpoint"}, 'starts: "checkpoint" given'),
        ({"sampler": "sgld", "preconditioner": "kfac"}, 'preconditioner: "kfac" given'),
        ({"sampler": "sgnht", "control_variates": "on"}, 'control_variates: "on" given'),
        ({"sampler": "sgld", "paired_losses": False}, "paired_losses: false given"),
        ({"sampler": "sgld", "sampler_batch_size": 64}, "sampler_batch_size: 64 given"),
        ({"sampler_batch_size": 0}, "sampler_batch_size"),
        ({"num_draws": 3}, "num_draws"),
    ],
)
def test_what_does_not_go_together_is_refused(given, match):
    with pytest.raises(ValueError, match=match):
        SamplerSettings(**given)


def test_several_problems_are_named_at_once():
    with pytest.raises(ValueError, match=r"num_draws: null.*starts: "):
        SamplerSettings(sampler="sgld", num_draws=None, starts="checkpoint")


@pytest.mark.parametrize(
    "given",
    [
        {"num_draws": 4, "num_burnin_steps": 0},
        {"sampler": "sgld", "dynamics": "kinetic", "paired_losses": True},
        {"sampler": "sgld", "gauge": "balanced"},
        {"sampler": "sgld", "backend": "devinterp"},
        {"dynamics": "euler", "starts": "checkpoint", "preconditioner": "none"},
        {"control_variates": "off", "paired_losses": False, "sampler_batch_size": 1},
    ],
)
def test_what_goes_together_is_kept(given):
    settings = SamplerSettings(**given)
    assert all(getattr(settings, key) == value for key, value in given.items())
    assert SamplerSettings(**settings.model_dump()) == settings
