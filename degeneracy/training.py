"""How is a model trained and evaluated on data held as tensors, and what does a restart need?

The mathematics is the optimizer's; this file has the loop around it, what is recorded in an epoch,
and the rule that a loss which stops being finite ends the run.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from degeneracy.stepper import Logged, Stepper, TorchStepper

FINITE_CHECK_PERIOD = 50  # steps between looks at the loss: each look waits for the device
WATCH_PERIOD = 10  # steps between looks at what costs time to know: with NGD about a step each


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch of training left behind. Losses in nats a sample."""

    train_loss: float | None  # mean of the epoch's minibatch losses
    val_loss: float | None
    val_accuracy: float | None  # in [0, 1]
    update_norm: float | None  # mean over steps of the sum over tensors of ‖Δw‖₂
    # mean of what the optimizer logged, by name
    logged: dict[str, Any] = field(default_factory=dict)
    # So far, by NGD: tensors left as they were, for their gradient was not finite; and tensors
    # whose direction was not finite, so that their factors started anew.
    num_skipped_updates: int = 0
    num_restarts: int = 0
    diverged: bool = False  # a loss was not finite; the other numbers are then None


class TrainingResult(NamedTuple):
    """`records[i]`, `state_dicts[i]` belong to the i-th epoch; a diverged one has only a record."""

    records: list[EpochRecord]
    state_dicts: list[dict[str, Tensor]]


@torch.no_grad()
def evaluate(
    model: nn.Module,
    data: tuple[Float[Tensor, "n ..."], Int[Tensor, " n"]],
    batch_size: int = 2000,
    loss_fn: Callable = cross_entropy,
) -> tuple[float, float]:
    """Mean loss a sample and accuracy in [0, 1] on (inputs, labels), in evaluation mode."""
    inputs, labels = data
    was_training = model.training
    model.eval()
    loss = torch.zeros((), dtype=torch.float64, device=labels.device)
    correct = torch.zeros((), dtype=torch.int64, device=labels.device)
    for x, y in zip(inputs.split(batch_size), labels.split(batch_size), strict=True):
        logits = model(x)
        loss += loss_fn(logits, y).double() * len(y)
        correct += (logits.argmax(dim=1) == y).sum()
    model.train(was_training)
    return loss.item() / len(labels), correct.item() / len(labels)


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | Stepper,
    data,
    epochs: int,
    batch_size: int,
    generator: torch.Generator,
    *,
    loss_fn: Callable = cross_entropy,
    label: str = "training",
) -> TrainingResult:
    """Trains `model` in place for `epochs` epochs, or until a loss is not finite.

    Args:
        model: Any module from inputs to what `loss_fn` takes.
        optimizer: Any `torch.optim.Optimizer` over the model's parameters, or a `Stepper`.
        data: `.train` and `.test`, each (inputs (n, …), labels (n,)) on the model's device.
        epochs: Number of epochs to train now.
        batch_size: Images a step; the last batch of an epoch may be smaller.
        generator: CPU generator that shuffles the training set; its state goes on over epochs.
        loss_fn: Mean-reduced loss of (outputs, labels).
        label: Stands before the progress bar.

    Returns:
        Records and CPU copies of the model's state, one an epoch.
    """
    stepper = as_stepper(model, optimizer, loss_fn)
    result = TrainingResult([], [])
    for _, record in trained(
        model,
        stepper,
        data,
        range(1, epochs + 1),
        batch_size,
        generator,
        loss_fn=loss_fn,
        label=label,
    ):
        result.records.append(record)
        if not record.diverged:
            result.state_dicts.append(weights_of(model))
    return result


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """The model's state as it is now, a copy on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


def trained(
    model: nn.Module,
    stepper: Stepper,
    data,
    epochs: range,
    batch_size: int,
    generator: torch.Generator,
    *,
    loss_fn: Callable = cross_entropy,
    label: str = "training",
) -> Iterator[tuple[int, EpochRecord]]:
    """As `train`, epoch by epoch; yields (epoch, record), all as that epoch left it."""
    for epoch in epochs:
        description = f"{label} epoch {epoch}/{epochs[-1]}"
        record = _train_epoch(model, stepper, data, batch_size, generator, loss_fn, description)
        yield epoch, record
        if record.diverged:
            return


def as_stepper(
    model: nn.Module, optimizer: torch.optim.Optimizer | Stepper, loss_fn: Callable = cross_entropy
) -> Stepper:
    """`optimizer` itself, or the stepper of a PyTorch optimizer.

    Raises:
        ValueError: It is neither, or one that wants to evaluate the loss itself.
    """
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ValueError(
            "LBFGS given, which evaluates the loss several times a step; allowed: optimizers whose"
            " step needs no closure"
        )
    if isinstance(optimizer, torch.optim.Optimizer):
        return TorchStepper(model, loss_fn, [optimizer])
    needed = ("lr", "step", "state_dict", "load_state_dict")
    if missing := [name for name in needed if not hasattr(optimizer, name)]:
        raise ValueError(
            f"a {type(optimizer).__name__} without {', '.join(missing)} given; allowed: a"
            " torch.optim.Optimizer or a degeneracy.stepper.Stepper"
        )
    return optimizer


def pack_state(
    model: nn.Module, stepper: Stepper | None, generator: torch.Generator
) -> dict[str, Tensor]:
    """All that training needs to go on bit for bit, as one flat dict of tensors.

    `model.<name>` are the weights, `optimizer.<entry>` the stepper's state (momentum, step
    counters, factors) unless it is None, `generator` the shuffling generator's state.
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for name, value in ({} if stepper is None else stepper.state_dict()).items():
        tensors[f"optimizer.{name}"] = torch.as_tensor(value)
    return tensors | {"generator": generator.get_state()}


def unpack_state(
    tensors: dict[str, Tensor],
    model: nn.Module,
    stepper: Stepper | None,
    generator: torch.Generator,
) -> None:
    """The inverse of `pack_state`, into existing objects; `stepper` may be None."""
    model.load_state_dict(packed_weights(tensors))
    generator.set_state(tensors["generator"])
    if stepper is not None:
        stepper.load_state_dict(_below("optimizer.", tensors))


def packed_weights(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The model's state dict inside a packed state."""
    return _below("model.", tensors)


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _train_epoch(
    model: nn.Module, stepper: Stepper, data, batch_size, generator, loss_fn, description
) -> EpochRecord:
    inputs, labels = data.train
    model.train()
    params = [p for p in model.parameters() if p.requires_grad]
    means = _Means()
    batches = torch.randperm(len(labels), generator=generator).to(labels.device).split(batch_size)
    # A model's own randomness (dropout) starts from the generator's state too, so that a restart
    # repeats it.
    devices = [labels.device] if labels.device.type == "cuda" else []
    bar = tqdm(batches, desc=description, unit="step", leave=False)
    with torch.random.fork_rng(devices), bar:
        torch.manual_seed(_seed_from(generator))
        for step, index in enumerate(bar):
            before = [p.detach().clone() for p in params]
            stepper.watching = step % WATCH_PERIOD == 0
            logged = stepper.step(inputs[index], labels[index])
            if "loss" not in logged:
                raise ValueError(
                    f"{type(stepper).__name__}.step returned {', '.join(logged) or 'nothing'};"
                    " allowed: numbers to log, the batch's `loss` among them"
                )
            change = torch._foreach_sub([p.detach() for p in params], before)
            means.add({**logged, "update_norm": torch.stack(torch._foreach_norm(change)).sum()})
            if step % FINITE_CHECK_PERIOD == 0:
                loss = float(logged["loss"])
                bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
                if not math.isfinite(loss):
                    break
    found = means.taken()
    val_loss, val_accuracy = evaluate(model, data.test, loss_fn=loss_fn)
    counts = getattr(stepper, "counts", dict)()
    return _record(found, val_loss, val_accuracy, counts, f"{description}, lr {stepper.lr:g}")


def _record(
    found: dict[str, Any], val_loss: float, val_accuracy: float, counts: dict, description: str
) -> EpochRecord:
    """The epoch's record, and what it says in the log."""
    if counts.get("num_skipped_updates"):
        count = counts["num_skipped_updates"]
        tqdm.write(f"{description}: {count} updates of a tensor skipped, gradient not finite")
    if counts.get("num_restarts"):
        count = counts["num_restarts"]
        tqdm.write(
            f"{description}: {count} times a tensor took its raw gradient, factors started anew"
        )
    train_loss, update_norm = found.pop("loss"), found.pop("update_norm")
    if not (math.isfinite(train_loss) and math.isfinite(val_loss)):
        tqdm.write(f"{description}: the loss is no longer finite, this run stops here")
        return EpochRecord(None, None, None, None, **counts, diverged=True)
    tqdm.write(
        f"{description}: train loss {train_loss:.4f}, validation loss {val_loss:.4f}, accuracy"
        f" {val_accuracy:.2%}"
    )
    return EpochRecord(train_loss, val_loss, val_accuracy, update_norm, found, **counts)


def _seed_from(generator: torch.Generator) -> int:
    """A seed that is a function of the generator's state, which stays as it is."""
    copy = torch.Generator()
    copy.set_state(generator.get_state())
    return int(torch.randint(2**62, (), generator=copy))


class _Means:
    """Means over an epoch of all that was logged, nested as it was."""

    def __init__(self):
        self._values: dict[tuple[str, ...], list[Tensor]] = {}

    def add(self, logged: Logged, above: tuple[str, ...] = ()) -> None:
        for name, value in logged.items():
            if isinstance(value, Mapping):
                self.add(value, (*above, name))
            else:
                self._values.setdefault((*above, name), []).append(torch.as_tensor(value))

    def taken(self) -> dict[str, Any]:
        """Over the steps that have a number; below the top level, names without any are left out.

        A loss that was not a number at some step is none over the epoch.
        """
        means: dict[str, Any] = {}
        for path, values in self._values.items():
            all_values = torch.stack(values).double()
            mean = all_values.mean().item()
            if len(path) > 1 and not math.isfinite(mean):
                mean = all_values[all_values.isfinite()].mean().item()
            if len(path) == 1 or math.isfinite(mean):
                inner = means
                for name in path[:-1]:
                    inner = inner.setdefault(name, {})
                inner[path[-1]] = mean
        return means
