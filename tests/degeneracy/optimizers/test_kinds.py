"""Kinds of optimizers: each is PyTorch's own, steps the model, and goes on from its state."""

import copy
import re

import pytest
import torch
from torch.nn.functional import cross_entropy

from degeneracy.models.networks import FFNN, LeNet5
from degeneracy.optimizers.exact_ngd import ExactNGD
from degeneracy.optimizers.kinds import KINDS
from degeneracy.stepper import TorchStepper, description


def batches(count: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        yield torch.randn(8, 1, 28, 28, generator=generator), torch.arange(8)


def built(kind: str, model: torch.nn.Module, **settings):
    declared = KINDS[kind]
    return declared.build(model, cross_entropy, declared.settings(**settings))


def model(seed: int = 0) -> FFNN:
    torch.manual_seed(seed)
    return FFNN(12, 1)


def fitting(kind: str) -> torch.nn.Module:
    """Of pooled images where each step inverts a matrix of all weights."""
    if kind != "exact_ngd":
        return model()
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.AvgPool2d(4), FFNN(12, 1, (1, 7, 7)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_lowers_the_loss_with_its_defaults_and_knows_its_rate(kind):
    stepper = built(kind, fitting(kind), lr=0.01)
    assert stepper.lr == 0.01
    data = next(batches(1))
    losses = [float(stepper.step(*data)["loss"]) for _ in range(30)]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_goes_on_from_its_state_along_the_same_path(kind):
    network = fitting(kind)
    stepper = built(kind, network, lr=0.01)
    for batch in batches(7):
        stepper.step(*batch)
    state = {name: tensor.clone() for name, tensor in stepper.state_dict().items()}
    other = copy.deepcopy(network)
    resumed = built(kind, other, lr=0.01)
    resumed.load_state_dict(state)
    for batch in batches(5, seed=1):
        assert torch.equal(stepper.step(*batch)["loss"], resumed.step(*batch)["loss"])
    assert all(map(torch.equal, network.parameters(), other.parameters()))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device in this machine")
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "soap"])
def test_a_kind_takes_the_same_path_on_cuda(kind):
    here, there = fitting(kind).double(), fitting(kind).double().cuda()
    steppers = built(kind, here, lr=0.01), built(kind, there, lr=0.01)
    for inputs, targets in batches(8):
        inputs = inputs.double()
        steppers[0].step(inputs, targets)
        steppers[1].step(inputs.cuda(), targets.cuda())
    # SOAP does not: in directions without gradient its basis is that of the rounding, and Adam's
    # step there has the length of any other.
    tolerance = 1e-2 if kind == "muon" else 1e-7  # muon orthogonalises in bfloat16
    for on_cpu, on_cuda in zip(here.parameters(), there.parameters(), strict=True):
        assert torch.allclose(on_cuda.cpu(), on_cpu, rtol=tolerance, atol=tolerance)


def test_adamw_and_sgd_take_pytorchs_own_steps():
    cases = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.5, nesterov=True),
        "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, betas=(0.8, 0.9), eps=1e-6),
    }
    settings = {
        "sgd": {"lr": 0.1, "momentum": 0.5},
        "adamw": {"lr": 0.1, "beta1": 0.8, "beta2": 0.9, "eps": 1e-6},
    }
    for kind, make in cases.items():
        ours, theirs = model(), model()
        optimizer = make(theirs.parameters())
        stepper = built(kind, ours, **settings[kind])
        for inputs, targets in batches(3):
            stepper.step(inputs, targets)
            optimizer.zero_grad()
            cross_entropy(theirs(inputs), targets).backward()
            optimizer.step()
        assert all(map(torch.equal, ours.parameters(), theirs.parameters()))


def test_muon_steps_matrices_and_adamw_all_other_tensors():
    torch.manual_seed(0)
    network = LeNet5(1)
    stepper = built("muon", network, lr=0.02, adamw_lr=0.003)
    muon, adamw = stepper.optimizers
    assert isinstance(muon, torch.optim.Muon)
    assert isinstance(adamw, torch.optim.AdamW)
    assert {p.ndim for g in muon.param_groups for p in g["params"]} == {2}
    assert {p.ndim for g in adamw.param_groups for p in g["params"]} == {1, 4}
    assert (stepper.lr, adamw.param_groups[0]["lr"]) == (0.02, 0.003)
    before = [p.detach().clone() for p in network.parameters()]
    stepper.step(*next(batches(1)))
    assert not any(map(torch.equal, before, network.parameters()))
    without = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten())
    with pytest.raises(ValueError, match="no matrix"):
        built("muon", without)


def test_what_ngd_shows_is_logged_only_when_the_loop_asks():
    stepper = built("ngd", model())
    inputs, targets = next(batches(1))
    assert stepper.step(inputs, targets).keys() == {"loss"}
    stepper.watching = True
    logged = stepper.step(inputs, targets)
    assert logged.keys() == {"loss", "cosine", "kappa"}
    assert set(logged["kappa"]["layers.1.weight"]) == {"0", "1"}
    assert 0 < logged["cosine"]["layers.1.weight"] <= 1
    assert stepper.counts() == {"num_skipped_updates": 0, "num_restarts": 0}


def test_several_optimizers_keep_their_states_apart():
    network = model()
    first, *others = network.parameters()
    optimizers = [torch.optim.SGD([first], lr=0.1, momentum=0.9), torch.optim.Adam(others, lr=0.1)]
    stepper = TorchStepper(network, cross_entropy, optimizers)
    stepper.step(*next(batches(1)))
    state = stepper.state_dict()
    assert {name.split(".")[0] for name in state} == {"0", "1", "2", "3"}
    assert "0.momentum_buffer" in state
    assert "1.exp_avg" in state


def test_the_exact_natural_gradient_is_of_a_batchs_first_samples():
    ours, theirs = fitting("exact_ngd"), fitting("exact_ngd")
    stepper = built("exact_ngd", ours, lr=0.3, alpha=0.5, eta=0.4, num_images=3)
    optimizer = ExactNGD(theirs, lr=0.3, alpha=0.5, eta=0.4)
    for inputs, targets in batches(3):
        stepper.step(inputs, targets)
        optimizer.zero_grad()
        cross_entropy(theirs(inputs), targets).backward()
        optimizer.observe(inputs[:3])
        optimizer.step()
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))


def test_the_exact_natural_gradient_takes_no_model_of_more_than_20_000_weights():
    with pytest.raises(ValueError, match="25,450 trainable weights, allowed: at most 20,000"):
        built("exact_ngd", FFNN(32, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_a_description_has_every_number_that_a_kind_was_given(kind):
    settings = KINDS[kind].settings(lr=0.0123)
    shown = description(built(kind, fitting(kind), lr=0.0123))
    given = settings.model_dump(exclude={"swap_lr"}, exclude_none=True)
    for key, value in given.items():
        assert re.search(rf"[=( ]{re.escape(str(value))}[,)]", shown), key


def test_a_stepper_of_ones_own_is_described_by_what_it_offers():
    class Own:
        lr = 0.25

    assert description(Own()) == "Own(lr=0.25)"
    Own.hyper = {"lr": 0.25, "damping": 0.5, "fisher": "sampled", "interval": None}
    assert description(Own()) == "Own(lr=0.25, damping=0.5, fisher=sampled)"
