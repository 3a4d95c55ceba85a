"""How is a reversible network trained, by what, and what is seen of every step?

One trajectory is one optimizer, or a swap of two, on one seed in one regime: `full`, every step on
the same first images, or `mini`. It goes on from any epoch's state to the same numbers.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import affine_grid, cross_entropy, grid_sample

from degeneracy.cost import clock, forget_peak, memory_mb
from degeneracy.data.images import TensorData
from degeneracy.optimizers.gauss_newton import GaussNewton, NonFiniteError
from degeneracy.stepper import Stepper, TorchStepper
from degeneracy.training import evaluate, pack_state, packed_weights, unpack_state
from ngd import NGD
from studies.gauss_newton.network import MemoryFree, RevMLP
from studies.gauss_newton.records import REGIMES
from studies.gauss_newton.settings import FEATURES, NUM_CLASSES, Choice, Settings, SwapSettings

CROP_AREA, CROP_RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of torchvision's RandomResizedCrop
Row = dict[str, float | int | None]


class Trajectory(NamedTuple):
    """One training: `full` or `mini`, an optimizer's name or a swap's, a seed."""

    regime: str
    name: str
    seed: int

    @property
    def key(self) -> str:
        """In results."""
        return f"{self.regime}/{self.name}/{self.seed}"


def trajectories(settings: Settings) -> list[Trajectory]:
    """All of a config: seeds, regimes, optimizers in the config's order, then swaps."""
    return [
        Trajectory(regime, name, seed)
        for seed in settings.training.seeds
        for regime in REGIMES
        for name in [*settings.optimizers, *(s.name for s in settings.swaps if s.regime == regime)]
    ]


def network(settings: Settings, seed: int) -> RevMLP:
    """The untrained network of a seed; the global generator stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return RevMLP(
            FEATURES[settings.data.dataset],
            settings.network.hidden,
            settings.network.num_blocks,
            NUM_CLASSES,
            settings.network.bias,
            settings.network.init_std,
        )


def stepper_of(model: RevMLP, choice: Choice, regime: str) -> Stepper:
    """What an optimizer's settings stand for; first-order ones keep no activations."""
    lr, how = choice.rate(regime), choice.model_dump(exclude={"kind", "lr", "full_lr"})
    if choice.kind == "gauss_newton":
        return GaussNewton(model, lr, **how)
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "ngd": NGD}
    optimizer = kinds[choice.kind](model.parameters(), lr=lr, **how)
    return TorchStepper(MemoryFree(model), cross_entropy, [optimizer])


def random_resized_crops(
    images: Float[Tensor, "n channels side side"], generator: torch.Generator
) -> Float[Tensor, "n channels side side"]:
    """Of each image a rectangle at random, resized to the whole: torchvision's RandomResizedCrop,
    bilinear, without antialiasing.

    It is linear with weights that sum to 1, so that cropping normalised images is the same as
    cropping before normalisation.
    """
    area, log_ratio, across, down = torch.rand(4, len(images), generator=generator).to(images)
    area = CROP_AREA[0] + (CROP_AREA[1] - CROP_AREA[0]) * area
    low, high = (math.log(ratio) for ratio in CROP_RATIO)
    ratio = (low + (high - low) * log_ratio).exp()
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    maps = torch.zeros(len(images), 2, 3).to(images)  # of places from −1 to 1
    maps[:, 0, 0], maps[:, 1, 1] = width, height
    maps[:, 0, 2], maps[:, 1, 2] = (1 - width) * (2 * across - 1), (1 - height) * (2 * down - 1)
    grid = affine_grid(maps, list(images.shape), align_corners=False)
    return grid_sample(images, grid, padding_mode="border", align_corners=False)


@dataclass
class Trainer:
    """A trajectory under way.

    Attributes:
        settings, trajectory: What is trained.
        train, test: Images of this regime, and those it is validated on.
        epoch: Epochs done.
        diverged: Where and why it ended early; None while it has not.
    """

    settings: Settings
    trajectory: Trajectory
    train: TensorData
    test: TensorData
    epoch: int = 0
    diverged: dict[str, Any] | None = None
    model: RevMLP = field(init=False)
    stepper: Stepper = field(init=False)
    generator: torch.Generator = field(init=False)

    def __post_init__(self):
        self.model = network(self.settings, self.trajectory.seed).to(self.train.labels.device)
        self.generator = torch.Generator().manual_seed(self.trajectory.seed)
        self.stepper = self._stepper()

    @property
    def regime(self):
        """The regime's settings."""
        return getattr(self.settings.training, self.trajectory.regime)

    @property
    def swap(self) -> SwapSettings | None:
        """The swap that this is; None for an optimizer alone."""
        named = {s.name: s for s in self.settings.swaps if s.regime == self.trajectory.regime}
        return named.get(self.trajectory.name)

    def _stepper(self) -> Stepper:
        """Of the next epoch, with no memory of an earlier one."""
        name = self.trajectory.name
        if self.swap is not None:
            name = self.swap.first if self.epoch < self.swap.epoch else self.swap.then
        return stepper_of(self.model, self.settings.optimizers[name], self.trajectory.regime)

    # ---- one epoch ---------------------------------------------------------------------------

    def run_epoch(self) -> tuple[list[Row], dict[str, Any]]:
        """Trains an epoch; returns a row a step, and the epoch's record.

        Where an activation, a loss or a step stops being finite the epoch ends there: `diverged`
        says so, and the weights are of no use.
        """
        if self.swap is not None and self.epoch == self.swap.epoch:
            self.stepper = self._stepper()
        self.epoch += 1
        rows: list[Row] = []
        for iteration, chosen in enumerate(self._batches(), start=1):
            inputs, labels = self._images(chosen)
            try:
                row = self._step(inputs, labels)
            except (NonFiniteError, torch.linalg.LinAlgError) as error:
                self._note_divergence(iteration, str(error))
                break
            rows.append({"epoch": self.epoch, "iteration": iteration, **row})
            if not math.isfinite(row["loss"]) or not math.isfinite(row["loss_after"]):
                self._note_divergence(iteration, "the loss is not finite")
                break
        record = {"epoch": self.epoch, **self._summary(rows)}
        if self.diverged is None:
            record |= self.evaluated()
            rows[-1] |= {key: record[key] for key in ("val_loss", "val_accuracy")}
        return rows, record

    def _batches(self) -> tuple[Tensor, ...]:
        """Indices of each step's images."""
        count, device = len(self.train.labels), self.train.labels.device
        if self.trajectory.regime == "full":
            return (torch.arange(count, device=device),)
        order = torch.randperm(count, generator=self.generator).to(device)
        return order.split(self.regime.batch_size)

    def _images(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        inputs, labels = self.train.inputs[chosen], self.train.labels[chosen]
        if self.settings.data.augment and self.trajectory.regime == "mini":
            inputs = random_resized_crops(inputs, self.generator)
        return inputs, labels

    def _step(self, inputs: Tensor, labels: Tensor) -> Row:
        """One step, and what is logged of it."""
        second_order = isinstance(self.stepper, GaussNewton)
        logits = None if second_order else self._logits(inputs)
        device = inputs.device
        forget_peak(device)
        started = clock(device)
        self.stepper.step(inputs, labels)
        spent, memory = clock(device) - started, memory_mb(device)
        if second_order:
            logits = self.stepper.last.logits
        before, after = (cross_entropy(o, labels).item() for o in (logits, self._logits(inputs)))
        row: Row = {
            "images": len(labels),
            "loss": before,
            "accuracy": (logits.argmax(dim=1) == labels).double().mean().item(),
            "loss_after": after,
            "loss_change_percent": 100 * (after - before) / before if before else None,
            "val_loss": None,
            "val_accuracy": None,
            "time_s": spent,
            "memory_mb": memory,
        }
        if second_order:
            step = self.stepper.last
            row |= {"missed_fraction": step.residual, "missed_at_logits": step.logit_residual}
            row |= {f"rank.{name}": rank for name, rank in step.ranks.items()}
            if step.kernel_rank is not None:
                row["kernel_rank"] = step.kernel_rank
        for name, weight in self.model.named_parameters():
            row[f"norm.{name}"] = weight.detach().norm().item()
            row[f"variance.{name}"] = weight.detach().var().item()
        return row

    @torch.no_grad()
    def _logits(self, inputs: Tensor) -> Tensor:
        return self.model(inputs)

    def _note_divergence(self, iteration: int, reason: str) -> None:
        self.diverged = {"epoch": self.epoch, "iteration": iteration, "reason": reason}

    @staticmethod
    def _summary(rows: list[Row]) -> dict[str, Any]:
        """Means over the epoch's steps, and every half-layer's least rank on whole batches, for the
        last one may be smaller.
        """
        means = ("loss_change_percent", "missed_fraction", "missed_at_logits", "time_s")
        found: dict[str, Any] = {"step_loss": _mean(rows, "loss")}
        found |= {name: _mean(rows, name) for name in means}
        names = [name for name in (rows[0] if rows else ()) if name.startswith("rank.")]
        size = max((row["images"] for row in rows), default=0)
        whole = [row for row in rows if row["images"] == size]
        ranks = {name.removeprefix("rank."): min(row[name] for row in whole) for name in names}
        return found | {"min_rank": ranks or None}

    def evaluated(self) -> dict[str, float]:
        """Loss in nats and accuracy on the regime's training images and on the test images."""
        train_loss, train_accuracy = evaluate(self.model, self.train)
        val_loss, val_accuracy = evaluate(self.model, self.test)
        return {
            "train_loss": train_loss,
            "train_accuracy": train_accuracy,
            "val_loss": val_loss,
            "val_accuracy": val_accuracy,
        }

    # ---- going on ----------------------------------------------------------------------------

    def packed(self) -> dict[str, Tensor]:
        """What the next epoch needs, but for the fixed C, which the seed gives."""
        tensors = pack_state(self.model, self.stepper, self.generator)
        return {name: tensor for name, tensor in tensors.items() if not name.endswith(".C")}

    def unpack(self, tensors: Mapping[str, Tensor], epoch: int) -> None:
        """Takes up where `packed` left, after `epoch` epochs."""
        self.epoch = epoch
        self.stepper = self._stepper()
        whole = {f"model.{name}": buffer for name, buffer in _fixed(self.model).items()}
        swapped = self.swap is not None and epoch == self.swap.epoch
        unpack_state(
            {**whole, **tensors}, self.model, None if swapped else self.stepper, self.generator
        )


def _fixed(model: nn.Module) -> dict[str, Tensor]:
    return {name: buffer for name, buffer in model.named_buffers() if name.endswith(".C")}


def load_weights(model: RevMLP, tensors: Mapping[str, Tensor]) -> RevMLP:
    """The weights in a packed state, put into a network of the same seed, which is returned.

    Raises:
        ValueError: They are of another architecture.
    """
    model.load_state_dict({**_fixed(model), **packed_weights(dict(tensors))})
    return model


def _mean(rows: list[Row], name: str) -> float | None:
    values = [row[name] for row in rows if row.get(name) is not None]
    return sum(values) / len(values) if values else None
