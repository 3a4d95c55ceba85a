"""How does a training with a change of optimizer go, and where do its annealed branches end?

    walk = Walk(settings, data)
    for branch in walk.branches():
        branch.weights  # after an epoch in which the learning rate fell to 0

A branch is a copy: the training it leaves goes on as if there had been none.
"""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from degeneracy.data.images import DataSplits, TensorData
from degeneracy.models.networks import ARCHITECTURES
from degeneracy.optimizers.kinds import KINDS
from degeneracy.stepper import Stepper, rates_of, set_rates
from degeneracy.training import evaluate, weights_of
from studies.branches.settings import TrainingSettings

SWITCHED, REACHED, DIVERGED, TIRED = "switched", "reached", "diverged", "out of epochs"


@dataclass(frozen=True)
class Branch:
    """The end of an annealed branch, and where it left the training.

    Attributes:
        targets: The losses of `branch_losses` that it stands for: all that one look found passed.
        left_at: Step at which it left.
        left_loss: Whole training loss there, nats.
        train_loss, val_loss, val_accuracy: After annealing.
        weights: After annealing, on the CPU.
        length: Path length Σ|Δw| of the training up to where it left, weight units.
        since_drop: Epochs since the steepest fall of the log loss between two looks.
    """

    targets: list[float]
    left_at: int
    left_loss: float
    train_loss: float
    val_loss: float
    val_accuracy: float
    weights: dict[str, Tensor]
    length: float
    since_drop: float


@dataclass
class Walk:
    """A training under way.

    Attributes:
        looks: (step, whole training loss) every `look_every` steps.
        switched_at: Step at which the late optimizer took over; None before.
        outcome: `REACHED` (every branch was left), `DIVERGED`, or `TIRED`; None under way.
        early_weights: Weights after epoch 2, on the CPU; None before, or where it is not reached.
    """

    settings: TrainingSettings
    data: DataSplits
    looks: list[tuple[int, float]] = field(default_factory=list)
    switched_at: int | None = None
    outcome: str | None = None
    early_weights: dict[str, Tensor] | None = None

    def __post_init__(self):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)
            self.model = network(self.settings, self.data.train)

    @property
    def steps_an_epoch(self) -> int:
        """Of whole and cut-off minibatches."""
        return math.ceil(len(self.data.train.labels) / self.settings.batch_size)

    def branches(self) -> Iterator[Branch]:
        """Trains; yields each branch where the training leaves it behind."""
        s, train = self.settings, self.data.train
        generator = torch.Generator().manual_seed(s.seed)
        stepper = built(self.model, s, "early")
        targets, length = list(s.branch_losses), 0.0
        bar = tqdm(total=s.max_epochs, desc="training", unit="epoch", leave=False)
        step = 0
        with bar:
            for epoch in range(s.max_epochs):
                order = torch.randperm(len(train.labels), generator=generator)
                for index in order.to(train.labels.device).split(s.batch_size):
                    length += advanced(self.model, stepper, train, index)
                    step += 1
                    if step % s.look_every:
                        continue
                    loss = self._look(step)
                    if not math.isfinite(loss):
                        self.outcome = DIVERGED
                        return
                    if self.switched_at is None and loss <= s.switch_loss:
                        self.switched_at = step
                        stepper = built(self.model, s, "late")
                    passed = [target for target in targets if loss <= target]
                    if self.switched_at is not None and passed:
                        targets = targets[len(passed) :]
                        yield self._branch(passed, step, stepper, generator, length)
                    if not targets:
                        self.outcome = REACHED
                        return
                if epoch == 1:
                    self.early_weights = weights_of(self.model)
                bar.update()
        self.outcome = TIRED

    def _look(self, step: int) -> float:
        loss, _ = evaluate(self.model, self.data.train)
        self.looks.append((step, loss))
        return loss

    def _branch(
        self,
        targets: list[float],
        step: int,
        stepper: Stepper,
        generator: torch.Generator,
        length: float,
    ) -> Branch:
        model = annealed(self.model, stepper, self.data.train, self.settings, generator)
        train_loss, _ = evaluate(model, self.data.train)
        val_loss, val_accuracy = evaluate(model, self.data.test)
        return Branch(
            targets,
            step,
            self.looks[-1][1],
            train_loss,
            val_loss,
            val_accuracy,
            weights_of(model),
            length,
            (step - self._steepest()) / self.steps_an_epoch,
        )

    def _steepest(self) -> int:
        """The step of the look before which log loss fell most."""
        pairs = zip(self.looks, self.looks[1:], strict=False)
        falls = [(math.log(before / after), step) for (_, before), (step, after) in pairs]
        return max(falls)[1] if falls else self.looks[-1][0]


def network(settings: TrainingSettings, data: TensorData) -> nn.Module:
    """The untrained network for images as in `data`, on their device."""
    make = ARCHITECTURES[settings.architecture]
    model = make(settings.hidden_nodes, settings.hidden_layers, tuple(data.inputs.shape[1:]))
    return model.to(data.labels.device)


def built(model: nn.Module, settings: TrainingSettings, phase: str) -> Stepper:
    """A fresh optimizer of a phase over the model's parameters."""
    kind, of_kind = settings.optimizer(phase)
    return KINDS[kind].build(model, cross_entropy, of_kind)


def advanced(model: nn.Module, stepper: Stepper, data: TensorData, index: Tensor) -> float:
    """Takes a step on a minibatch; returns its length |Δw|, weight units."""
    params = list(model.parameters())
    before = [p.detach().clone() for p in params]
    stepper.step(data.inputs[index], data.labels[index])
    change = torch._foreach_sub([p.detach() for p in params], before)
    return float(torch.stack(torch._foreach_norm(change)).square().sum().sqrt())


def annealed(
    model: nn.Module,
    stepper: Stepper,
    data: TensorData,
    settings: TrainingSettings,
    generator: torch.Generator,
) -> nn.Module:
    """A copy after `annealing_epochs` more with the learning rate falling to 0, momentum and all.

    The copy sees the minibatches that the training would have seen in epochs begun here.
    """
    there = copy.deepcopy(model)
    own = built(there, settings, "late")
    own.load_state_dict(copy.deepcopy(stepper.state_dict()))
    order = torch.Generator()
    order.set_state(generator.get_state())
    batches: list[Tensor] = []
    for _ in range(settings.annealing_epochs):
        epoch = torch.randperm(len(data.labels), generator=order).to(data.labels.device)
        batches += epoch.split(settings.batch_size)
    rates = rates_of(own)
    for number, index in enumerate(batches):
        set_rates(own, [rate * (1 - number / len(batches)) for rate in rates])
        own.step(data.inputs[index], data.labels[index])
    return there
