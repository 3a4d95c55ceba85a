"""What does the training loop ask of an optimizer? A `Stepper`; any PyTorch optimizer is one."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

Logged = Mapping[str, "Tensor | Logged"]  # numbers by name, in any depth of nesting


class Stepper(Protocol):
    """An optimizer that is given the batch, for some need more than the gradient of its loss.

    One that also has `counts() -> dict`, with `num_skipped_updates` and `num_restarts` so far, has
    these recorded. One that also has `hyper`, a mapping, has its numbers, texts and tuples shown
    where a run says what trained (`description`).

    Attributes:
        lr: Learning rate, in weight units per unit of the direction; the training log shows it.
        watching: Set by the loop before each step: whether to log what costs time to know.
    """

    lr: float
    watching: bool

    def step(self, inputs: Tensor, targets: Tensor) -> Logged:
        """One step on one batch.

        Returns:
            `loss`, the batch's mean loss before the step, and what else there is to log, as tensors
            of one number on the model's device: reading them here would wait for it. The loop
            averages each name over an epoch; in results it is a series of that name, so it must
            not be one that a run measures.
        """

    def state_dict(self) -> dict[str, Tensor]:
        """All that a restart needs to go on bit for bit."""

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state_dict`."""


class TorchStepper:
    """PyTorch optimizers over disjoint parameters of one model, stepped together.

    What an optimizer shows of itself is logged: `kappa(parameter)` and `cosine(parameter)`, as
    `ngd.NGD` has them, while `watching`.

    Args:
        model: From inputs to what `loss_fn` takes.
        loss_fn: Mean-reduced loss of (outputs, targets).
        optimizers: One or several.
    """

    def __init__(self, model: nn.Module, loss_fn: Callable, optimizers: Sequence):
        self.model, self.loss_fn, self.optimizers = model, loss_fn, list(optimizers)
        self.watching = False

    @property
    def lr(self) -> float:
        """Of the first parameter group."""
        return self.optimizers[0].param_groups[0]["lr"]

    def step(self, inputs: Tensor, targets: Tensor) -> Logged:
        """Forward, backward, and one step of every optimizer."""
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss = self.loss_fn(self.model(inputs), targets)
        loss.backward()
        logged = {"loss": loss.detach()}
        if self.watching:  # cosines belong to the gradients that the coming step will use
            logged["cosine"] = {
                name: optimizer.cosine(parameter)
                for name, parameter, optimizer in self._showing("cosine")
                if parameter.grad is not None
            }
        for optimizer in self.optimizers:
            optimizer.step()
        if self.watching:
            logged["kappa"] = {
                name: {str(axis): kappa for axis, kappa in optimizer.kappa(parameter).items()}
                for name, parameter, optimizer in self._showing("kappa")
            }
        return logged

    def is_finite(self, loss: Tensor) -> bool:
        """Whether the loss and, after its backward pass, every gradient is."""
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        gradients = [p.grad for group in groups for p in group["params"] if p.grad is not None]
        return all(bool(tensor.isfinite().all()) for tensor in (loss, *gradients))

    def state_dict(self) -> dict[str, Tensor]:
        """`<parameter's position>.<entry>`, positions counted on from optimizer to optimizer."""
        state: dict[str, Tensor] = {}
        for first, optimizer in self._numbered():
            for index, entries in optimizer.state_dict()["state"].items():
                named = {f"{first + index}.{key}": value for key, value in entries.items()}
                state |= {name: value for name, value in named.items() if value is not None}
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state_dict`; hyper-parameters stay those of the optimizers."""
        entries: dict[int, dict[str, Tensor]] = {}
        for name, tensor in state.items():
            index, key = name.split(".", 1)
            entries.setdefault(int(index), {})[key] = tensor
        for first, optimizer in self._numbered():
            groups = optimizer.state_dict()["param_groups"]
            own = [index for group in groups for index in group["params"]]
            there = {i: entries[first + i] for i in own if first + i in entries}
            optimizer.load_state_dict({"state": there, "param_groups": groups})

    def counts(self) -> dict[str, int]:
        """Updates skipped and restarts so far, of optimizers that count them, as `ngd.NGD` does."""
        return {
            name: sum(getattr(optimizer, name, 0) for optimizer in self.optimizers)
            for name in ("num_skipped_updates", "num_restarts")
        }

    def _numbered(self):
        """(position of its first parameter, optimizer)."""
        first = 0
        for optimizer in self.optimizers:
            yield first, optimizer
            first += sum(len(group["params"]) for group in optimizer.param_groups)

    def _showing(self, method: str):
        """(name, parameter, its optimizer) for optimizers that have the method."""
        names = {id(p): name for name, p in self.model.named_parameters() if p.requires_grad}
        for optimizer in self.optimizers:
            if hasattr(optimizer, method):
                params = [p for group in optimizer.param_groups for p in group["params"]]
                yield from ((names[id(p)], p, optimizer) for p in params if id(p) in names)


def description(stepper: Stepper) -> str:
    """Its optimizers with their hyper-parameters, as `SGD(lr=0.01, momentum=0.9)`, and what the
    stepper's own `hyper` adds.
    """
    own = getattr(stepper, "hyper", {})
    if not isinstance(stepper, TorchStepper):
        return f"{type(stepper).__name__}({_shown({'lr': stepper.lr} | own)})"
    return " and ".join(
        f"{type(optimizer).__name__}({_shown(optimizer.param_groups[0] | own)})"
        for optimizer in stepper.optimizers
    )


def rates_of(stepper: Stepper) -> list[float]:
    """Its learning rates: one for every parameter group, or the stepper's own."""
    groups = _groups(stepper)
    return [stepper.lr] if groups is None else [group["lr"] for group in groups]


def set_rates(stepper: Stepper, rates: Sequence[float]) -> None:
    """The inverse of `rates_of`."""
    groups = _groups(stepper)
    if groups is None:
        (stepper.lr,) = rates
        return
    for group, rate in zip(groups, rates, strict=True):
        group["lr"] = rate


def _groups(stepper: Stepper) -> list[dict] | None:
    """Parameter groups of PyTorch optimizers; None of another stepper."""
    if not isinstance(stepper, TorchStepper):
        return None
    return [group for optimizer in stepper.optimizers for group in optimizer.param_groups]


def copied_buffers(model: nn.Module) -> list[Tensor]:
    """What `restore_buffers` puts back: batch norm's moments change in a forward pass, also in one
    whose step is left out.
    """
    return [buffer.clone() for buffer in model.buffers()]


@torch.no_grad()
def restore_buffers(model: nn.Module, copies: Sequence[Tensor]) -> None:
    """Gives the model's buffers the values of copies that were made of them."""
    for buffer, copy in zip(model.buffers(), copies, strict=True):
        buffer.copy_(copy)


def _shown(group: Mapping) -> str:
    """Hyper-parameters of a group that are numbers, texts, or tuples of numbers."""
    kinds = (bool, int, float, str, tuple)
    return ", ".join(f"{key}={value}" for key, value in group.items() if isinstance(value, kinds))
