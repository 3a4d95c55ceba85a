"""When does a training first pass given losses, and with which weights?

    descent = Descent(settings, data)
    for passage in descent.passages():
        passage.weights

Process time counts the optimizer's steps alone, not the looks at the whole training loss.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from degeneracy.data.images import TensorData
from degeneracy.models.networks import FFNN
from degeneracy.optimizers.kinds import KINDS
from degeneracy.training import evaluate, weights_of
from studies.descents.settings import Settings, TrainingSettings

REACHED, DIVERGED, TIRED = "reached", "diverged", "out of steps"
NEAR = 1.05  # times the next loss: below it every step is looked at


@dataclass(frozen=True)
class Passage:
    """Where a training first came down to a loss.

    Attributes:
        targets: The losses that this look was the first to be at or below.
        step: Steps taken.
        seconds: Process time of these steps.
        loss: Whole training loss there, nats.
        weights: On the CPU.
    """

    targets: list[float]
    step: int
    seconds: float
    loss: float
    weights: dict[str, Tensor]


@dataclass
class Descent:
    """A training under way.

    Attributes:
        settings: Of the study.
        data: The training images.
        looks: (step, process seconds, whole training loss).
        outcome: `REACHED` (the last loss was passed), `DIVERGED`, or `TIRED`; None under way.
    """

    settings: Settings
    data: TensorData
    looks: list[tuple[int, float, float]] = field(default_factory=list)
    outcome: str | None = None

    def __post_init__(self):
        training = self.settings.training
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(training.seed)
            self.model = network(training, self.data).to(self.data.labels.device)

    def passages(self) -> Iterator[Passage]:
        """Trains; yields at the first look at or below each loss."""
        training, step, seconds = self.settings.training, 0, 0.0
        kind, targets = KINDS[training.optimizer], list(training.losses)
        stepper = kind.build(self.model, cross_entropy, self.settings.optimizer())
        first = self._look(0, 0.0)
        bar = tqdm(total=training.max_steps, desc="training", unit="step", leave=False)
        with bar:
            for inputs, labels in self._batches():
                since = time.process_time()
                stepper.step(inputs, labels)
                seconds += time.process_time() - since
                step += 1
                bar.update()
                near = self.looks[-1][2] <= NEAR * targets[0]
                if not (near or step % training.look_every == 0 or step == training.max_steps):
                    continue
                loss = self._look(step, seconds)
                if not math.isfinite(loss) or loss > 100 * max(first, targets[0]):
                    self.outcome = DIVERGED
                    return
                if passed := [target for target in targets if loss <= target]:
                    targets = targets[len(passed) :]
                    yield Passage(passed, step, seconds, loss, weights_of(self.model))
                if not targets or step == training.max_steps:
                    self.outcome = TIRED if targets else REACHED
                    return

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Epochs without end, each in an order of its own."""
        inputs, labels = self.data
        generator = torch.Generator().manual_seed(self.settings.training.seed)
        while True:
            order = torch.randperm(len(labels), generator=generator).to(labels.device)
            for index in order.split(self.settings.training.batch_size):
                yield inputs[index], labels[index]

    def _look(self, step: int, seconds: float) -> float:
        loss, _ = evaluate(self.model, self.data)
        self.looks.append((step, seconds, loss))
        return loss


def network(training: TrainingSettings, data: TensorData) -> FFNN:
    """The untrained network."""
    shape = tuple(data.inputs.shape[1:])
    return FFNN(training.hidden_nodes, training.hidden_layers, shape)
