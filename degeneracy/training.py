"""How is a model trained and evaluated on data held as tensors, and what does a restart need?

The mathematics is the optimizer's; this file has the loop around it, what is recorded in an epoch,
and the rule that a loss which stops being finite ends the run.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

FINITE_CHECK_PERIOD = 50  # steps between looks at the loss: each look waits for the device
WATCH_PERIOD = (
    10  # steps between looks at what the optimizer shows of itself: each costs about a step of NGD
)


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch of training left behind. Losses in nats a sample."""

    train_loss: float | None  # mean of the epoch's minibatch losses
    val_loss: float | None
    val_accuracy: float | None  # in [0, 1]
    update_norm: float | None  # mean over steps of the sum over tensors of ‖Δw‖₂
    kappa: dict[str, dict[str, float]] = field(
        default_factory=dict
    )  # parameter → axis → mean smoothing κ (NGD)
    cosine: dict[str, float] = field(
        default_factory=dict
    )  # parameter → mean cosine of direction and gradient (NGD)
    num_skipped_updates: int = (
        0  # tensors left as they were because their gradient was not finite (NGD), so far
    )
    num_restarts: int = (
        0  # tensors whose direction was not finite and whose factors started anew (NGD), so far
    )
    diverged: bool = False  # a loss was not finite; the other numbers are then None


class TrainingResult(NamedTuple):
    """`records[i]` and `state_dicts[i]` belong to the i-th epoch trained; a diverged epoch has a
    record only.
    """

    records: list[EpochRecord]
    state_dicts: list[dict[str, Tensor]]


@torch.no_grad()
def evaluate(
    model: nn.Module,
    data: tuple[Float[Tensor, "n ..."], Int[Tensor, "n"]],
    batch_size: int = 2000,
    loss_fn: Callable = cross_entropy,
) -> tuple[float, float]:
    """Mean loss a sample and accuracy in [0, 1] of `model` on (inputs, labels), in evaluation mode."""
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
    optimizer: torch.optim.Optimizer,
    data,
    epochs: int,
    batch_size: int,
    generator: torch.Generator,
    *,
    loss_fn: Callable = cross_entropy,
    first_epoch: int = 1,
    on_epoch: Callable[[int, EpochRecord], None] | None = None,
    keep_state_dicts: bool = True,
    label: str = "training",
) -> TrainingResult:
    """Trains `model` in place for `epochs` epochs, or until a loss is not finite.

    Args:
        model: Any module from inputs to what `loss_fn` takes.
        optimizer: Any `torch.optim.Optimizer` over the model's parameters. One that has
            `kappa(parameter)`, `cosine(parameter)` and `num_skipped_updates`, as `ngd.NGD` has,
            gets them recorded, the first two every tenth step.
        data: `.train` and `.test`, each (inputs (n, …), labels (n,)) on the model's device.
        epochs: Number of epochs to train now.
        batch_size: Images a step; the last batch of an epoch may be smaller.
        generator: CPU generator that shuffles the training set; its state goes on from epoch to
            epoch.
        loss_fn: Mean-reduced loss of (outputs, labels).
        first_epoch: Number of the first epoch, for bars and `on_epoch`.
        on_epoch: Called with (epoch, record) after each epoch, `model` and `optimizer` as that
            epoch left them.
        keep_state_dicts: Whether the result holds every epoch's weights.
        label: Stands before the progress bar.

    Returns:
        Records and CPU copies of the model's state, one an epoch.
    """
    result = TrainingResult([], [])
    for epoch in range(first_epoch, first_epoch + epochs):
        description = f"{label} epoch {epoch}/{first_epoch + epochs - 1}"
        record = _train_epoch(model, optimizer, data, batch_size, generator, loss_fn, description)
        result.records.append(record)
        if keep_state_dicts and not record.diverged:
            result.state_dicts.append(
                {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
            )
        if on_epoch is not None:
            on_epoch(epoch, record)
        if record.diverged:
            break
    return result


def pack_state(
    model: nn.Module, optimizer: torch.optim.Optimizer | None, generator: torch.Generator
) -> dict[str, Tensor]:
    """All that training needs to go on bit for bit, as one flat dict of tensors.

    `model.<name>` are the weights, `optimizer.<parameter>.<entry>` the optimizer's state (momentum,
    step counters, factors), `generator` the shuffling generator's state. Without `optimizer`, its
    state is left out.
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for index, entries in ({} if optimizer is None else optimizer.state_dict()["state"]).items():
        for key, value in entries.items():
            if value is not None:
                tensors[f"optimizer.{index}.{key}"] = torch.as_tensor(value)
    return tensors | {"generator": generator.get_state()}


def unpack_state(
    tensors: dict[str, Tensor],
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    generator: torch.Generator,
) -> None:
    """The inverse of `pack_state`, into existing objects; without `optimizer` its state is not
    read.
    """
    model.load_state_dict(packed_weights(tensors))
    generator.set_state(tensors["generator"])
    if optimizer is not None:
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".", 2)
                state.setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict(
            {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
        )


def packed_weights(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The model's state dict inside a packed state."""
    return {
        name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")
    }


def _train_epoch(
    model, optimizer, data, batch_size, generator, loss_fn, description
) -> EpochRecord:
    inputs, labels = data.train
    model.train()
    params = [p for p in model.parameters() if p.requires_grad]
    losses, norms, watch = [], [], _Watch(model, optimizer)
    batches = torch.randperm(len(labels), generator=generator).to(labels.device).split(batch_size)
    # A model's own randomness (dropout) starts from the generator's state too, so that a restart
    # repeats it.
    devices = [labels.device] if labels.device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices),
        tqdm(batches, desc=description, unit="step", leave=False) as bar,
    ):
        torch.manual_seed(_seed_from(generator))
        for step, index in enumerate(bar):
            optimizer.zero_grad()
            loss = loss_fn(model(inputs[index]), labels[index])
            loss.backward()
            watched = step % WATCH_PERIOD == 0
            if watched:
                watch.before_step()
            before = [p.detach().clone() for p in params]
            optimizer.step()
            if watched:
                watch.after_step()
            losses.append(loss.detach())
            norms.append(
                torch.stack(
                    torch._foreach_norm(torch._foreach_sub([p.detach() for p in params], before))
                ).sum()
            )
            if step % FINITE_CHECK_PERIOD == 0:
                bar.set_postfix(loss=f"{losses[-1].item():.4f}", refresh=False)
                if not losses[-1].isfinite():
                    break
    train_loss = torch.stack(losses).double().mean().item()
    val_loss, val_accuracy = evaluate(model, data.test, loss_fn=loss_fn)
    counts = {name: getattr(optimizer, name, 0) for name in ("num_skipped_updates", "num_restarts")}
    if counts["num_skipped_updates"]:
        tqdm.write(
            f"{description}: {counts['num_skipped_updates']} updates of a tensor skipped, gradient"
            " not finite"
        )
    if counts["num_restarts"]:
        tqdm.write(
            f"{description}: {counts['num_restarts']} times a tensor took its raw gradient, factors"
            " started anew"
        )
    if not (math.isfinite(train_loss) and math.isfinite(val_loss)):
        tqdm.write(f"{description}: the loss is no longer finite, this run stops here")
        return EpochRecord(None, None, None, None, **counts, diverged=True)
    update_norm = torch.stack(norms).double().mean().item()
    tqdm.write(
        f"{description}: train loss {train_loss:.4f}, validation loss {val_loss:.4f}, accuracy"
        f" {val_accuracy:.2%}"
    )
    return EpochRecord(
        train_loss, val_loss, val_accuracy, update_norm, watch.kappa, watch.cosine, **counts
    )


def _seed_from(generator: torch.Generator) -> int:
    """A seed that is a function of the generator's state, which stays as it is."""
    copy = torch.Generator()
    copy.set_state(generator.get_state())
    return int(torch.randint(2**62, (), generator=copy))


class _Watch:
    """Means over an epoch of what an optimizer shows of itself: κ by parameter and axis, cosine by
    parameter.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer):
        self._kappa_of, self._cosine_of = (
            getattr(optimizer, name, None) for name in ("kappa", "cosine")
        )
        self._params = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._kappas: dict[tuple[str, str], list[Tensor]] = {}
        self._cosines: dict[str, list[Tensor]] = {}

    def before_step(self) -> None:
        """Reads the cosines, which belong to the gradients that the coming step will use."""
        for name, param in self._params.items() if self._cosine_of else ():
            if param.grad is not None:
                self._cosines.setdefault(name, []).append(self._cosine_of(param))

    def after_step(self) -> None:
        for name, param in self._params.items() if self._kappa_of else ():
            for axis, kappa in self._kappa_of(param).items():
                self._kappas.setdefault((name, str(axis)), []).append(kappa)

    @property
    def kappa(self) -> dict[str, dict[str, float]]:
        means: dict[str, dict[str, float]] = {}
        for (name, axis), values in self._kappas.items():
            means.setdefault(name, {})[axis] = torch.stack(values).double().mean().item()
        return means

    @property
    def cosine(self) -> dict[str, float]:
        """Over the steps whose gradient was not zero; parameters without any are left out."""
        means = {
            name: torch.stack(values).double().nanmean().item()
            for name, values in self._cosines.items()
        }
        return {name: mean for name, mean in means.items() if math.isfinite(mean)}
