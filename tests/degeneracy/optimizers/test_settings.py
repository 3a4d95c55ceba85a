"""Are an optimizer's settings what PyTorch and `ngd.NGD` take, with their defaults?"""

import inspect

import pytest
import torch

from degeneracy.config.section import Section
from degeneracy.optimizers.kinds import KINDS
from ngd import NGD


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_defaults_a_rate_and_descriptions(kind):
    schema = KINDS[kind].settings
    assert issubclass(schema, Section)
    settings = schema()
    assert settings.lr > 0
    assert settings.swap_lr is None
    assert all(field.description for field in schema.model_fields.values())


def defaults_of(function) -> dict:
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


def test_ngds_defaults_are_the_optimizers_own():
    settings = KINDS["ngd"].settings().model_dump(exclude={"lr", "swap_lr", "momentum", "nesterov"})
    own = defaults_of(NGD)
    assert settings == {key: own[key] for key in settings}
    assert len(settings) == 7


def test_adamws_defaults_are_pytorchs():
    settings, own = KINDS["adamw"].settings(), defaults_of(torch.optim.AdamW)
    assert (settings.beta1, settings.beta2) == own["betas"]
    assert (settings.lr, settings.eps) == (own["lr"], own["eps"])
    assert settings.weight_decay == own["weight_decay"]


def test_muons_defaults_are_pytorchs():
    settings, own = KINDS["muon"].settings(), defaults_of(torch.optim.Muon)
    for key in ("lr", "weight_decay", "momentum", "nesterov", "ns_steps"):
        assert getattr(settings, key) == own[key]
    assert own["adjust_lr_fn"] is None  # which is "original"
    assert settings.adamw_lr == defaults_of(torch.optim.AdamW)["lr"]


@pytest.mark.parametrize("kind", ["sgd", "ngd", "muon"])
def test_nesterov_needs_momentum(kind):
    schema = KINDS[kind].settings
    assert not schema(momentum=0, nesterov=False).nesterov
    with pytest.raises(ValueError, match="nesterov: true given with momentum 0"):
        schema(momentum=0)


def test_the_published_arithmetic_needs_a_floor():
    schema = KINDS["ngd"].settings
    assert schema(eta=1).eta == 1
    with pytest.raises(ValueError, match=r"eta: 1\.0 given with arithmetic"):
        schema(eta=1, arithmetic="published")
