"""Which gradients are turned? Those of minibatches, at the weights of networks in training."""

from collections.abc import Callable, Iterator
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from degeneracy.data.images import TensorData
from ngd import NGD
from studies.ngd_directions.settings import TrainingSettings
from studies.ngd_directions.yardsticks import UPDATE_PERIOD


class Training:
    """A network in training with online NGD.

    Args:
        settings: Of the optimizer, batches and seed.
        network: Builds the model, whose weights are seeded.
        data: The training set, on the device where everything lives.

    Attributes:
        model, optimizer: As the steps so far left them.
        gradients: Without end, each step's gradients before that step is taken.
    """

    def __init__(
        self, settings: TrainingSettings, network: Callable[[], nn.Module], data: TensorData
    ):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.model = network().to(data.labels.device)
        chosen = settings.model_dump(
            include={"lr", "momentum", "nesterov", "alpha", "eta", "epsilon", "delta"}
        )
        self.optimizer = NGD(self.model.parameters(), **chosen, update_period=UPDATE_PERIOD)
        self.data = data
        self.gradients = training_steps(
            self.model, self.optimizer, data, settings.batch_size, settings.seed
        )
        self._num_steps = -1  # taken so far; none is before the first gradients are there

    def train_to(self, step: int) -> None:
        """Trains until `step` steps are taken; raises ValueError where there are more already."""
        if step < self._num_steps:
            raise ValueError(
                f"step {step} given; allowed: at least {self._num_steps}, taken before"
            )
        for _ in islice(self.gradients, step - self._num_steps):
            self._num_steps += 1


def training_steps(
    model: nn.Module, optimizer: torch.optim.Optimizer, data: TensorData, batch_size: int, seed: int
) -> Iterator[list[Tensor]]:
    """Trains without end; gives each step's gradients before that step is taken."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(data.labels), generator=generator).to(data.labels.device)
        for batch in order.split(batch_size):
            optimizer.zero_grad()
            cross_entropy(model(data.inputs[batch]), data.labels[batch]).backward()
            yield [param.grad for param in model.parameters()]
            optimizer.step()


def minibatch_gradients(
    model: nn.Module, data: TensorData, count: int, batch_size: int, generator: torch.Generator
) -> list[Float[Tensor, "count ..."]]:
    """Gradients of `count` minibatches, drawn with replacement, stacked parameter by parameter."""
    batches = torch.randint(len(data.labels), (count, batch_size), generator=generator)
    batches = batches.to(data.labels.device)
    losses = (cross_entropy(model(data.inputs[batch]), data.labels[batch]) for batch in batches)
    gradients = [torch.autograd.grad(loss, list(model.parameters())) for loss in losses]
    return [torch.stack(tensors) for tensors in zip(*gradients, strict=True)]
