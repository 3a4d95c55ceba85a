"""Are the gradients those of the training, seen before each step is taken?"""

import pytest
import torch
from torch.nn.functional import cross_entropy

from degeneracy.models.networks import FFNN
from studies.ngd_directions.settings import TrainingSettings
from studies.ngd_directions.training import Training, minibatch_gradients


def training_of(pooled):
    return Training(TrainingSettings(seed=5), lambda: FFNN(6, 2, (1, 7, 7)), pooled)


def weights_of(training):
    return [param.detach().clone() for param in training.model.parameters()]


def test_training_to_a_checkpoint_is_the_same_with_and_without_a_stop(pooled):
    straight, stopped = training_of(pooled), training_of(pooled)
    straight.train_to(7)
    stopped.train_to(0)
    start = weights_of(stopped)
    stopped.train_to(7)
    for one, other, first in zip(weights_of(straight), weights_of(stopped), start, strict=True):
        assert torch.equal(one, other)
        assert not torch.equal(one, first)


def test_training_does_not_go_back(pooled):
    training = training_of(pooled)
    training.train_to(2)
    with pytest.raises(ValueError, match="step 0 given; allowed: at least 2"):
        training.train_to(0)


def test_initial_weights_depend_on_the_seed_alone(pooled):
    torch.manual_seed(1)
    one = weights_of(training_of(pooled))
    torch.manual_seed(2)
    other = weights_of(training_of(pooled))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_gradients_of_minibatches_are_those_of_their_mean_loss(trained, pooled):
    model, _, gradients = trained
    batches = torch.randint(60_000, (5, 64), generator=torch.Generator().manual_seed(0))
    loss = cross_entropy(model(pooled.inputs[batches[2]]), pooled.labels[batches[2]])
    right = torch.autograd.grad(loss, list(model.parameters()))
    for stack, gradient in zip(gradients, right, strict=True):
        torch.testing.assert_close(stack[2], gradient)


def test_the_generator_decides_which_minibatches_are_drawn(trained, pooled):
    model, _, gradients = trained
    again = minibatch_gradients(model, pooled, 5, 64, torch.Generator().manual_seed(0))
    other = minibatch_gradients(model, pooled, 5, 64, torch.Generator().manual_seed(1))
    assert torch.equal(again[0], gradients[0])
    assert not torch.equal(other[0], gradients[0])
