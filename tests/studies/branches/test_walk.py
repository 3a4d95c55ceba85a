"""Is a branch a copy that leaves its training as it was, and does the late optimizer take over?"""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from degeneracy.data.images import DataSplits, TensorData
from degeneracy.stepper import rates_of, set_rates
from degeneracy.training import evaluate
from studies.branches.measure import wanted
from studies.branches.settings import TrainingSettings
from studies.branches.walk import (
    DIVERGED,
    REACHED,
    TIRED,
    Walk,
    advanced,
    annealed,
    built,
    network,
    weights_of,
)

SMALL = {
    "num_images": 640,
    "hidden_nodes": 16,
    "hidden_layers": 1,
    "batch_size": 64,
    "look_every": 5,
    "early": "sgd",
    "late": "sgd",
    "early_lr": 0.02,
    "late_lr": 0.02,
    "switch_loss": 0.8,
    "branch_losses": [0.7, 0.6, 0.4],
    "window": [0.5, 0.45],
    "max_epochs": 20,
}


@pytest.fixture(scope="module")
def data(mnist):
    few = TensorData(*(part[:640].clone() for part in mnist.train))
    return DataSplits(few, TensorData(*(part[:500].clone() for part in mnist.test)))


def walked(data, **changes):
    walk = Walk(TrainingSettings(**SMALL | changes), data)
    return walk, list(walk.branches())


def test_every_loss_has_its_branch_once(data):
    walk, branches = walked(data)
    assert walk.outcome == REACHED
    assert [target for branch in branches for target in branch.targets] == [0.7, 0.6, 0.4]
    for branch in branches:
        assert branch.left_loss <= min(branch.targets)
        assert branch.train_loss < branch.left_loss


def test_the_training_goes_on_as_if_no_branch_had_left(data):
    many, _ = walked(data)
    few, _ = walked(data, branch_losses=[0.4], window=[0.3, 0.2])
    assert many.looks == few.looks


def test_the_late_optimizer_is_another_one_from_the_switch_on(data):
    alike, _ = walked(data)
    other, _ = walked(data, late="ngd", late_lr=0.005)
    switch = alike.switched_at
    assert other.switched_at == switch
    before = [look for look in alike.looks if look[0] <= switch]
    assert other.looks[: len(before)] == before
    assert other.looks[len(before)] != alike.looks[len(before)]


def test_a_late_optimizer_begins_afresh_even_if_it_is_the_same(data):
    """At the switch the momentum is lost."""
    walk, _ = walked(data)
    whole, _ = walked(data, switch_loss=1e-9, branch_losses=[0.4], window=[0.3, 0.2], max_epochs=6)
    until = [look for look in walk.looks if look[0] <= walk.switched_at]
    assert whole.looks[: len(until)] == until
    assert whole.looks[len(until)] != walk.looks[len(until)]
    assert whole.outcome == TIRED
    assert whole.switched_at is None


def test_annealing_is_an_epoch_whose_rate_falls_linearly_to_zero(data):
    settings = TrainingSettings(**SMALL | {"momentum": 0.0, "nesterov": False})
    torch.manual_seed(3)
    model = network(settings, data.train)
    generator = torch.Generator().manual_seed(5)
    stepper = built(model, settings, "late")
    found = weights_of(annealed(model, stepper, data.train, settings, generator))
    by_hand = network(settings, data.train)
    by_hand.load_state_dict(model.state_dict())
    batches = torch.randperm(640, generator=torch.Generator().manual_seed(5)).split(64)
    for number, index in enumerate(batches):
        loss = cross_entropy(by_hand(data.train.inputs[index]), data.train.labels[index])
        by_hand.zero_grad()
        loss.backward()
        with torch.no_grad():
            for param in by_hand.parameters():
                param -= 0.02 * (1 - number / 10) * param.grad
    for name, tensor in by_hand.state_dict().items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-7)


def test_annealing_keeps_the_momentum(data):
    settings = TrainingSettings(**SMALL)
    torch.manual_seed(3)
    model = network(settings, data.train)
    used, fresh = built(model, settings, "late"), built(model, settings, "late")
    for index in torch.arange(640).split(64)[:3]:
        advanced(model, used, data.train, index)
    ends = [
        weights_of(annealed(model, stepper, data.train, settings, torch.Generator()))
        for stepper in (used, fresh)
    ]
    assert not torch.equal(ends[0]["layers.1.weight"], ends[1]["layers.1.weight"])


@pytest.mark.parametrize("kind", ["muon", "soap", "spngd", "seng"])
def test_the_rates_of_every_optimizer_fall(data, kind):
    """Muon has two optimizers; SP-NGD is none of PyTorch's and has one rate of its own."""
    settings = TrainingSettings(**SMALL | {"late": kind, "late_lr": 0.01})
    model = network(settings, data.train)
    stepper = built(model, settings, "late")
    rates = rates_of(stepper)
    assert rates[0] == 0.01
    end = weights_of(annealed(model, stepper, data.train, settings, torch.Generator()))
    assert rates_of(stepper) == rates  # the training it leaves goes on with its own
    by_hand = network(settings, data.train)
    by_hand.load_state_dict(model.state_dict())
    own = built(by_hand, settings, "late")
    batches = torch.randperm(640, generator=torch.Generator()).split(64)
    for number, index in enumerate(batches):
        set_rates(own, [rate * (1 - number / 10) for rate in rates])
        own.step(data.train.inputs[index], data.train.labels[index])
    for name, tensor in by_hand.state_dict().items():
        torch.testing.assert_close(end[name], tensor, rtol=1e-4, atol=1e-6)
    constant = network(settings, data.train)
    constant.load_state_dict(model.state_dict())
    own = built(constant, settings, "late")
    for index in batches:
        own.step(data.train.inputs[index], data.train.labels[index])
    for name, tensor in constant.state_dict().items():
        assert not torch.allclose(end[name], tensor, rtol=1e-3, atol=1e-5)


def test_annealing_over_several_epochs_falls_through_all_of_them(data):
    one = TrainingSettings(**SMALL | {"momentum": 0.0, "nesterov": False})
    three = one.model_copy(update={"annealing_epochs": 3})
    model = network(one, data.train)
    stepper = built(model, one, "late")
    end = weights_of(annealed(model, stepper, data.train, three, torch.Generator()))
    by_hand, generator = network(one, data.train), torch.Generator()
    by_hand.load_state_dict(model.state_dict())
    own = built(by_hand, one, "late")
    orders = [torch.randperm(640, generator=generator) for _ in range(3)]
    for number, index in enumerate(torch.cat(orders).split(64)):
        set_rates(own, [one.late_lr * (1 - number / 30)])
        own.step(data.train.inputs[index], data.train.labels[index])
    for name, tensor in by_hand.state_dict().items():
        torch.testing.assert_close(end[name], tensor, rtol=1e-4, atol=1e-6)


def test_a_step_tells_its_length(data):
    settings = TrainingSettings(**SMALL)
    model = network(settings, data.train)
    before = weights_of(model)
    length = advanced(model, built(model, settings, "early"), data.train, torch.arange(64))
    squares = sum(
        float((after - before[name]).double().square().sum())
        for name, after in model.state_dict().items()
    )
    assert length == pytest.approx(math.sqrt(squares), rel=1e-5)


def test_a_training_that_breaks_says_so(data):
    walk, branches = walked(data, early_lr=1e6)
    assert walk.outcome == DIVERGED
    assert branches == []


def test_branches_hold_the_weights_that_their_losses_are_of(data):
    _, branches = walked(data)
    model = network(TrainingSettings(**SMALL), data.train)
    for branch in branches:
        model.load_state_dict(branch.weights)
        assert evaluate(model, data.train)[0] == pytest.approx(branch.train_loss, rel=1e-6)
        assert evaluate(model, data.test)[0] == pytest.approx(branch.val_loss, rel=1e-6)


LOSSES = [0.09, 0.05, 0.028, 0.022, 0.019, 0.01, math.nan]


@pytest.mark.parametrize(
    ("which", "window", "expected"),
    [
        ("window", (0.03, 0.02), [1, 2, 3, 4]),
        ("window", (0.05, 0.04), [1, 2]),
        ("window", (0.2, 0.1), [0]),
        ("window", (0.005, 0.004), [5]),
        ("all", (0.03, 0.02), [0, 1, 2, 3, 4, 5]),
        ("none", (0.03, 0.02), []),
    ],
)
def test_what_is_measured_is_the_window_and_its_neighbours(which, window, expected):
    assert wanted(LOSSES, which, window) == expected


def test_the_path_and_the_time_since_the_drop_are_those_of_the_training(data):
    walk, branches = walked(data)
    lengths = [branch.length for branch in branches]
    assert lengths == sorted(lengths)
    logs = [math.log(loss) for _, loss in walk.looks]
    steps = [step for step, _ in walk.looks]
    last = branches[-1]
    falls = [(logs[i] - logs[i + 1], steps[i + 1]) for i in range(len(logs) - 1)]
    falls = [fall for fall in falls if fall[1] <= last.left_at]
    assert last.since_drop == pytest.approx((last.left_at - max(falls)[1]) / walk.steps_an_epoch)
