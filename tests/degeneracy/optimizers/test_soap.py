"""Are SOAP's steps the package's own, and does its state hold all of it?"""

import inspect

import pytest
import pytorch_optimizer
import torch
from torch.nn.functional import cross_entropy

from degeneracy.models.networks import FFNN, LeNet5
from degeneracy.optimizers import soap


def batches(count: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        yield torch.randn(8, 1, 28, 28, generator=generator), torch.arange(8)


def small(seed: int = 0):
    torch.manual_seed(seed)
    return FFNN(6, 2)


def test_its_steps_are_the_packages_own():
    ours, theirs = small(), small()
    settings = soap.Settings(lr=0.02, beta1=0.9, beta2=0.8, precondition_frequency=2)
    stepper = soap.build(ours, cross_entropy, settings)
    optimizer = pytorch_optimizer.SOAP(
        theirs.parameters(), lr=0.02, betas=(0.9, 0.8), precondition_frequency=2
    )
    for inputs, targets in batches(6):
        stepper.step(inputs, targets)
        optimizer.zero_grad()
        cross_entropy(theirs(inputs), targets).backward()
        optimizer.step()
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))


def test_its_defaults_are_the_packages():
    found, settings = inspect.signature(pytorch_optimizer.SOAP).parameters, soap.Settings()
    assert (settings.beta1, settings.beta2) == found["betas"].default
    for key in ("lr", "eps", "weight_decay", "precondition_frequency", "max_precondition_dim"):
        assert getattr(settings, key) == found[key].default


@pytest.mark.parametrize("most", [10_000, 100])
def test_its_state_is_tensors_that_name_every_axis(most):
    """An axis of 784 has no eigenvectors where at most 100 are allowed; a bias never has."""
    settings = soap.Settings(max_precondition_dim=most)
    stepper = soap.build(small(), cross_entropy, settings)
    assert set(stepper.state_dict()) == {"step", "num_skipped_updates"}
    for batch in batches(2):
        stepper.step(*batch)
    state = stepper.state_dict()
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    first = {name: value.shape for name, value in state.items() if name.startswith("0.")}
    expected = {f"0.{key}": (6, 784) for key in ("exp_avg", "exp_avg_sq")}
    expected |= {f"0.{key}_0": (6, 6) for key in soap.LISTS}
    expected |= {f"0.{key}_1": (784, 784) for key in soap.LISTS} if most > 784 else {}
    assert first == expected
    assert {name for name in state if name.startswith("1.")} == {"1.exp_avg", "1.exp_avg_sq"}


def test_a_convolutional_network_goes_on_from_its_state():
    torch.manual_seed(0)
    network, settings = LeNet5(0), soap.Settings(max_precondition_dim=150)
    stepper = soap.build(network, cross_entropy, settings)
    for batch in batches(12):
        stepper.step(*batch)
    other = LeNet5(0)
    other.load_state_dict(network.state_dict())
    resumed = soap.build(other, cross_entropy, settings)
    resumed.load_state_dict({k: v.clone() for k, v in stepper.state_dict().items()})
    for batch in batches(10, seed=1):
        stepper.step(*batch)
        resumed.step(*batch)
    assert all(map(torch.equal, network.parameters(), other.parameters()))


class Normed(torch.nn.Module):
    """With batch norm, and on demand a loss that is finite with a gradient that is not."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = torch.nn.Linear(5, 6), torch.nn.BatchNorm1d(6)
        self.last, self.rooted = torch.nn.Linear(6, 3), False

    def forward(self, inputs):
        outputs = self.last(self.norm(self.first(inputs)))
        return outputs + (0 * outputs).sqrt() if self.rooted else outputs


def samples(count: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        yield torch.randn(8, 5, generator=generator), torch.arange(8) % 3


@pytest.mark.parametrize("bad", ["loss", "gradient"])
@pytest.mark.parametrize("before", [0, 1, 4])
def test_a_batch_that_is_not_finite_is_left_out_and_counted(bad, before):
    """With it, and a restart after it, training goes on along the path of one that never saw it."""
    torch.manual_seed(0)
    network, twin, settings = Normed(), Normed(), soap.Settings(precondition_frequency=2)
    twin.load_state_dict(network.state_dict())
    stepper, other = (soap.build(one, cross_entropy, settings) for one in (network, twin))
    for batch in samples(before, seed=1):
        stepper.step(*batch)
        other.step(*batch)
    (spoiled,) = samples(1, seed=2)
    if bad == "loss":
        spoiled[0][3, 2] = torch.nan
    network.rooted = bad == "gradient"
    loss = stepper.step(*spoiled)["loss"]
    network.rooted = False
    assert bool(loss.isfinite()) == (bad == "gradient")
    assert stepper.counts() == {"num_skipped_updates": 6, "num_restarts": 0}
    resumed = soap.build(network, cross_entropy, settings)
    resumed.load_state_dict({k: v.clone() for k, v in stepper.state_dict().items()})
    for batch in samples(4, seed=3):
        resumed.step(*batch)
        other.step(*batch)
    assert resumed.counts()["num_skipped_updates"] == 6
    assert other.counts()["num_skipped_updates"] == 0
    states = network.state_dict(), twin.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert all(tensor.isfinite().all() for tensor in states[0].values())
