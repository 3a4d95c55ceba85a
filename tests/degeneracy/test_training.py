"""Training and evaluation: the loop does what its record says."""

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy

from degeneracy.data.images import DataSplits, TensorData
from degeneracy.models.networks import FFNN
from degeneracy.training import as_stepper, evaluate, pack_state, train, trained, unpack_state
from ngd import NGD

BATCH_SIZE = 64


@pytest.fixture
def small(mnist) -> DataSplits:
    """The first 600 training and 300 test images."""
    return DataSplits(
        *(
            TensorData(s.inputs[:n], s.labels[:n])
            for s, n in ((mnist.train, 600), (mnist.test, 300))
        )
    )


def model_and(optimizer, **kwargs):
    torch.manual_seed(0)
    model = FFNN(hidden_nodes=16, hidden_layers=1)
    return model, optimizer(model.parameters(), **kwargs)


def shuffling(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_evaluate_is_the_mean_over_all_samples_whatever_the_batch_size(small):
    model, _ = model_and(torch.optim.SGD, lr=0.1)
    logits = model(small.test.inputs)
    loss = cross_entropy(logits, small.test.labels).item()
    accuracy = (logits.argmax(1) == small.test.labels).double().mean().item()
    for batch_size in (7, 300, 1000):
        assert evaluate(model, small.test, batch_size) == pytest.approx((loss, accuracy), rel=1e-6)


def test_one_epoch_equals_a_loop_written_by_hand(small):
    model, optimizer = model_and(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True)
    by_hand = copy.deepcopy(model)
    (record,), (state,) = train(model, optimizer, small, 1, BATCH_SIZE, shuffling())

    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    losses, norms = [], []
    for index in torch.randperm(600, generator=shuffling()).split(BATCH_SIZE):
        before = [p.detach().clone() for p in by_hand.parameters()]
        loss = cross_entropy(by_hand(small.train.inputs[index]), small.train.labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        norms.append(
            sum((p - b).norm().item() for p, b in zip(by_hand.parameters(), before, strict=True))
        )
    assert len(losses) == 10  # the last batch has 24 images
    assert record.train_loss == pytest.approx(sum(losses) / 10, rel=1e-6)
    assert record.update_norm == pytest.approx(sum(norms) / 10, rel=1e-5)
    assert (record.val_loss, record.val_accuracy) == pytest.approx(
        evaluate(by_hand, small.test), rel=1e-6
    )
    for name, tensor in by_hand.state_dict().items():
        assert torch.equal(state[name], tensor)


def test_same_seed_same_numbers_and_another_seed_others(small):
    def losses(seed):
        model, optimizer = model_and(NGD, lr=0.01, alpha=0.1, eta=0.9)
        return [
            r.train_loss
            for r in train(model, optimizer, small, 2, BATCH_SIZE, shuffling(seed)).records
        ]

    assert losses(0) == losses(0)
    assert losses(0) != losses(1)


def test_an_optimizer_that_shows_kappa_has_its_epoch_means_recorded(small):
    model, optimizer = model_and(NGD, lr=0.01)
    (record,), _ = train(
        model, optimizer, small, 1, 600, shuffling()
    )  # one step: the mean is that step's κ
    assert {name: set(axes) for name, axes in record.logged["kappa"].items()} == {
        "layers.1.weight": {"0", "1"},
        "layers.1.bias": {"0"},
        "layers.3.weight": {"0", "1"},
        "layers.3.bias": {"0"},
    }
    for name, param in model.named_parameters():
        for axis, kappa in optimizer.kappa(param).items():
            assert record.logged["kappa"][name][str(axis)] == pytest.approx(kappa.item())


def test_sgd_logs_its_loss_alone(small):
    model, optimizer = model_and(torch.optim.SGD, lr=0.01)
    (record,) = train(model, optimizer, small, 1, BATCH_SIZE, shuffling()).records
    assert record.logged == {}


def test_cosines_belong_to_the_steps_that_were_taken(small):
    """With one step an epoch and lr 1, the step is what the weights moved by."""
    model, optimizer = model_and(NGD, lr=1.0, alpha=0.1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    (record,), _ = train(model, optimizer, small, 1, 600, shuffling())
    for name, param in model.named_parameters():
        step = before[name] - param.detach()
        expected = torch.nn.functional.cosine_similarity(
            step.flatten(), param.grad.flatten(), dim=0
        )
        assert record.logged["cosine"][name] == pytest.approx(expected.item(), abs=1e-4)
        # The start knows this gradient alone: a bias, one row, is an eigenvector of its F and keeps
        # its direction.
        assert (record.logged["cosine"][name] > 0.999) == name.endswith("bias")


def test_a_loss_that_is_not_finite_ends_the_run_and_is_recorded(small):
    model, optimizer = model_and(torch.optim.SGD, lr=1e20)
    result = train(model, optimizer, small, 5, BATCH_SIZE, shuffling())
    assert [r.diverged for r in result.records] == [True]
    assert result.records[0].train_loss is None
    assert result.state_dicts == []


def test_skipped_updates_are_counted_in_the_record(small):
    inputs = small.train.inputs.clone()
    inputs[0, 0, 0, 0] = float("nan")  # spoils the loss and every gradient of one batch
    spoiled = DataSplits(TensorData(inputs, small.train.labels), small.test)
    model, optimizer = model_and(NGD, lr=0.01)
    (record,) = train(model, optimizer, spoiled, 1, BATCH_SIZE, shuffling()).records
    assert record.num_skipped_updates == len(list(model.parameters()))
    assert record.diverged
    assert all(p.isfinite().all() for p in model.parameters())


def test_epochs_come_one_by_one_with_their_numbers(small):
    model, optimizer = model_and(torch.optim.SGD, lr=0.01)
    stepper = as_stepper(model, optimizer)
    seen, weights = [], []
    for epoch, record in trained(model, stepper, small, range(4, 6), BATCH_SIZE, shuffling()):
        seen.append((epoch, record.train_loss))
        weights.append(model.layers[1].weight.detach().clone())
    assert [epoch for epoch, _ in seen] == [4, 5]
    assert seen[1][1] < seen[0][1]
    assert not torch.equal(*weights)


class Shrinking:
    """An optimizer that needs the batch and logs what it likes: steps along −w, by the batch."""

    lr, watching = 0.5, False

    def __init__(self, model):
        self.model, self.steps = model, torch.zeros(())

    def step(self, inputs, targets):
        self.steps = self.steps + 1
        loss = cross_entropy(self.model(inputs), targets).detach()
        with torch.no_grad():
            for param in self.model.parameters():
                param.mul_(1 - self.lr * len(inputs) / 600)
        return {"loss": loss, "size": torch.tensor(len(inputs)), "deep": {"a": {"b": self.steps}}}

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"].clone()


def test_a_stepper_sees_the_batch_and_what_it_logs_is_averaged_as_it_is_nested(small):
    model, _ = model_and(torch.optim.SGD, lr=0.01)
    stepper = Shrinking(model)
    norm = model.layers[1].weight.norm().item()
    (record,), _ = train(model, stepper, small, 1, 250, shuffling())  # 250, 250, 100 images
    assert record.logged == {"size": 200.0, "deep": {"a": {"b": 2.0}}}
    factors = (1 - 125 / 600) ** 2 * (1 - 50 / 600)
    assert model.layers[1].weight.norm().item() == pytest.approx(norm * factors, rel=1e-5)


def test_kappa_means_are_over_the_steps_that_have_one(small):
    model, optimizer = model_and(torch.optim.SGD, lr=0.01)
    shown = iter([{}, {0: torch.tensor(1.0)}, {}, {0: torch.tensor(3.0)}])
    bias = model.layers[1].bias
    optimizer.kappa = lambda param: next(shown, {}) if param is bias else {}
    (record,) = train(
        model, optimizer, small, 1, 15, shuffling()
    ).records  # forty steps, four looks
    assert record.logged["kappa"] == {"layers.1.bias": {"0": 2.0}}


def test_a_models_own_randomness_repeats_with_the_generator(small):
    def losses(seed):
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(784, 10)
        )
        torch.manual_seed(seed)  # what the global generator happens to be at
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        return [
            r.train_loss for r in train(model, optimizer, small, 2, BATCH_SIZE, shuffling()).records
        ]

    assert losses(1) == losses(2)


def test_restarts_are_counted_in_the_record(small):
    """The published arithmetic divides by its floor, which is zero at η = 1."""
    model, optimizer = model_and(NGD, lr=0.01, eta=1.0, arithmetic="published")
    (record,) = train(model, optimizer, small, 1, BATCH_SIZE, shuffling()).records
    assert record.num_restarts > 0
    assert not record.diverged


def test_a_step_that_gives_no_loss_is_refused_with_what_it_gave(small):
    model, _ = model_and(torch.optim.SGD, lr=0.01)
    stepper = Shrinking(model)
    stepper.step = lambda inputs, targets: {"size": 1}
    with pytest.raises(ValueError, match=r"Shrinking.step returned size; allowed: .*`loss`"):
        train(model, stepper, small, 1, 250, shuffling())


def test_what_cannot_step_is_refused_before_it_trains():
    model, _ = model_and(torch.optim.SGD, lr=0.01)
    with pytest.raises(ValueError, match=r"a float without lr, step, .* given; allowed: a torch"):
        as_stepper(model, 0.01)
    with pytest.raises(ValueError, match="LBFGS given"):
        as_stepper(model, torch.optim.LBFGS(model.parameters()))


def test_every_epochs_weights_are_kept(small):
    model, optimizer = model_and(torch.optim.SGD, lr=0.01)
    first, last = train(model, optimizer, small, 2, 300, shuffling()).state_dicts
    assert all(torch.equal(last[name], tensor) for name, tensor in model.state_dict().items())
    assert not torch.equal(first["layers.1.weight"], last["layers.1.weight"])


def test_a_packed_state_goes_on_along_the_same_path(small):
    model, optimizer = model_and(NGD, lr=0.01, momentum=0.9, alpha=0.1)
    generator = shuffling()
    train(model, optimizer, small, 1, BATCH_SIZE, generator)
    packed = pack_state(model, as_stepper(model, optimizer), generator)
    packed = {name: tensor.clone() for name, tensor in packed.items()}
    (onward,) = train(model, optimizer, small, 1, BATCH_SIZE, generator).records

    other, fresh = model_and(NGD, lr=0.01, momentum=0.9, alpha=0.1)
    restored = shuffling(99)
    unpack_state(packed, other, as_stepper(other, fresh), restored)
    (resumed,) = train(other, fresh, small, 1, BATCH_SIZE, restored).records
    assert resumed == onward
