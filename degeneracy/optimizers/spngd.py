"""How does SP-NGD step: K-FAC whose statistics are refreshed only where they have changed?

Osawa et al., "Scalable and practical natural gradient for large-scale deep learning",
arXiv:2002.06015. Each layer's gradient is turned by the damped inverses of its Fisher factors
(`kfac`), and w ← w − ηΔ + m·v with v the step before. A factor is computed from the labels that are
given (or sampled), and only at steps where it is due: how long it then serves grows while it stays
similar to what it was. Several processes share a step (`distributed`).
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from degeneracy.config.values import Seed
from degeneracy.optimizers.distributed import Key, Sent, Team
from degeneracy.optimizers.kfac import (
    Block,
    ChannelBlock,
    KroneckerBlock,
    blocks_of,
    channel_inverse,
    damped_inverse,
    pi_of,
)
from degeneracy.optimizers.settings import MAX_RATE, Kind, OptimizerSettings
from degeneracy.stepper import copied_buffers, restore_buffers

FISHERS = ("empirical", "sampled")
HYPER = (  # what a description tells of it
    "lr",
    "momentum",
    "damping",
    "fisher",
    "alpha",
    "interval",
    "scale_momentum",
    "rescale_weights",
    "seed",
)

# ---- when a statistic is refreshed ---------------------------------------------------------------


def similar(new: Tensor, old: Tensor, alpha: float) -> bool:
    """Whether |X − Y|_F < α|Y|_F."""
    return bool((new - old).norm() < alpha * old.norm())


class Schedule(NamedTuple):
    """When a statistic is refreshed.

    Attributes:
        due: The step, counted from 0, at which it is next.
        interval: Δ, steps from its last refresh to that.
        before: Δ₋₁, the interval before.
    """

    due: int = 0
    interval: int = 1
    before: int = 1

    def refreshed(self, step: int, interval: int) -> "Schedule":
        """After a refresh at a step."""
        return Schedule(step + interval, interval, self.interval)


def next_interval(
    new: Tensor, latest: Tensor | None, earlier: Tensor | None, schedule: Schedule, alpha: float
) -> int:
    """Δ after a refresh: half where X is not similar to X₋₁; as it is where X is not similar to
    X₋₂; else Δ + Δ₋₁, so that a constant statistic serves 1, 1, 2, 3, 5, 8, … steps.

    Args:
        new, latest, earlier: X, X₋₁ and X₋₂, each None where there is none yet.
        alpha: Of `similar`.
    """
    if latest is None or not similar(new, latest, alpha):
        return max(1, schedule.interval // 2)
    if earlier is None or not similar(new, earlier, alpha):
        return schedule.interval
    return schedule.interval + schedule.before


@dataclass(frozen=True)
class Known:
    """What a layer's owner keeps of it.

    Attributes:
        latest, earlier: Statistic's name → X₋₁, X₋₂.
        inverses: Statistic's name → its damped inverse.
        pis: Statistic's name → π of that inverse.
    """

    latest: dict[str, Tensor] = field(default_factory=dict)
    earlier: dict[str, Tensor] = field(default_factory=dict)
    inverses: dict[str, Tensor] = field(default_factory=dict)
    pis: dict[str, float] = field(default_factory=dict)

    def inverted(
        self, block: Block, fresh: Collection[str], damping: float, alpha: float
    ) -> "Known":
        """With inverses of the `fresh` statistics, and of others whose π has moved by more than α
        of itself, for A's damping hangs on G's size and the other way round.
        """
        if isinstance(block, ChannelBlock):
            inverses = {name: channel_inverse(self.latest[name], damping) for name in fresh}
            return replace(self, inverses=self.inverses | inverses)
        pi, root = pi_of(self.latest["A"], self.latest["G"]), math.sqrt(damping)
        shifts = {"A": pi * root, "G": root / pi}
        stale = [
            name
            for name in shifts
            if name in fresh or not abs(pi - self.pis[name]) < alpha * self.pis[name]
        ]
        inverses = {name: damped_inverse(self.latest[name], shifts[name]) for name in stale}
        return replace(
            self, inverses=self.inverses | inverses, pis=self.pis | dict.fromkeys(stale, pi)
        )


# ---- what a batch says ---------------------------------------------------------------------------


class Sums(NamedTuple):
    """Over this process's samples."""

    count: int
    loss: Float[Tensor, ""]  # mean
    gradients: dict[str, Tensor]  # layer → count · ∂(mean loss)
    statistics: dict[Key, Tensor]  # those that are due


def drawn_labels(logits: Float[Tensor, "n classes"], uniform: Float[Tensor, " n"]) -> Tensor:
    """A label of each sample from softmax(logits), by where a uniform number falls."""
    cumulated = logits.detach().double().softmax(1).cumsum(1)
    labels = torch.searchsorted(cumulated, uniform.to(cumulated)[:, None]).squeeze(1)
    return labels.clamp(max=logits.shape[1] - 1)


class SPNGD:
    """Natural gradient by K-FAC with stale statistics; a `Stepper`.

    Statistics are means over samples, so a batch may have another size than the one before. A step
    whose gradient or direction is not finite is left out: no weight moves, and nothing is kept of
    it, in batch norm's moments neither. With `torch.distributed` initialised each process gives
    `step` its share of the batch, of any size, and all take the step of the whole batch; but batch
    norm in training mode normalises each share by itself.

    Args:
        model: Of Linear, Conv2d and batch norm layers; other trained layers are refused, by name.
        lr: Learning rate η, > 0.
        loss_fn: Mean-reduced loss of (outputs, targets).
        momentum: m, in [0, 1).
        damping: λ > 0, in units of the Fisher matrix.
        fisher: "empirical" with the labels given, or "sampled" with labels drawn from the model, of
            a classifier with cross-entropy: one more backward pass where a factor is due.
        alpha: Of the stale rule, ≥ 0; at 0 every statistic is refreshed at every step.
        interval: Steps between refreshes of every statistic, in place of the rule; None: the rule.
        scale_momentum: Whether m is scaled by η/η₀ as the learning rate changes.
        rescale_weights: Whether each weight of a Linear or Conv2d has norm √(2·d_out) after each
            step; that changes no output where batch norm follows.
        seed: Of sampled labels.

    Attributes:
        lr: η, to be changed at will; η₀ is the first, after a restart that of the start.
        refreshed: (layer, statistic) of those that the last step refreshed.
        sent: Numbers that the last step sent between processes.
        team: The processes, and which owns which layer.

    Raises:
        ValueError: A number out of its range, a layer that has no factors, or more processes than
            layers.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        loss_fn: Callable = cross_entropy,
        *,
        momentum: float = 0.9,
        damping: float = 1e-2,
        fisher: str = "empirical",
        alpha: float = 0.1,
        interval: int | None = None,
        scale_momentum: bool = False,
        rescale_weights: bool = False,
        seed: int = 0,
    ):
        _check_numbers(lr, momentum, damping, fisher, alpha, interval)
        if fisher == "sampled" and loss_fn is not cross_entropy:
            raise ValueError(
                'fisher = "sampled" given with another loss; allowed there: cross_entropy, whose'
                ' labels can be drawn, or "empirical"'
            )
        self.model, self.lr, self.loss_fn = model, lr, loss_fn
        self.first_lr, self.momentum, self.damping = lr, momentum, damping
        self.fisher, self.alpha, self.interval, self.seed = fisher, alpha, interval, seed
        self.scale_momentum, self.rescale_weights = scale_momentum, rescale_weights
        self.blocks = blocks_of(model)
        self.team = Team(self.blocks)
        self.team.agree_on(model)
        self.schedules = {(b.name, s): Schedule() for b in self.blocks.values() for s in b.shapes}
        self.known = {name: Known() for name in self.team.mine}
        self.velocity: dict[str, Tensor] = {}
        self.num_steps = self.num_skipped_updates = 0
        self.refreshed: list[Key] = []
        self.watching = False

    @property
    def sent(self) -> Sent:
        """What the last step sent."""
        return self.team.sent

    @property
    def hyper(self) -> dict[str, float | str | None]:
        """Its numbers, for descriptions."""
        return {name: getattr(self, name) for name in HYPER}

    def step(self, inputs: Float[Tensor, "n ..."], targets: Tensor) -> dict:
        """One step; returns `loss` (before it) and `refreshed`, the share of statistics of each
        kind (A, G, of batch norm F) that were due.

        Raises:
            ValueError: A layer that is not called exactly once in a forward pass.
            distributed.RankLostError: Another process ended.
        """
        due = [key for key, schedule in self.schedules.items() if schedule.due <= self.num_steps]
        self.team.sent, buffers = Sent(), copied_buffers(self.model)
        sums = self._sums(inputs, targets, due)
        with torch.no_grad():
            numbers = torch.stack([sums.loss.new_tensor(float(sums.count)), sums.count * sums.loss])
            numbers, gradients, statistics = self.team.summed(
                numbers, sums.gradients, sums.statistics
            )
            count, loss = numbers.unbind()
            gradients = {layer: gradient.div_(count) for layer, gradient in gradients.items()}
            statistics = {key: statistic.div_(count) for key, statistic in statistics.items()}
            known, intervals, directions = self._turned(gradients, statistics)
            sound = all(map(_is_finite, directions.values()))
            sound, intervals, directions = self.team.shared(sound, intervals, directions, due)
            if sound:
                self.known = known
                for key, interval in intervals.items():
                    self.schedules[key] = self.schedules[key].refreshed(self.num_steps, interval)
                self._move(directions)
                self.num_steps += 1
            else:
                restore_buffers(self.model, buffers)
                self.num_skipped_updates += sum(len(b.parameters) for b in self.blocks.values())
        self.refreshed = due if sound else []
        return {"loss": loss / count, "refreshed": self._shares(self.refreshed)}

    def _sums(self, inputs: Tensor, targets: Tensor, due: list[Key]) -> Sums:
        """Forward and backward passes; looks at the layers only where a statistic is due."""
        count = len(inputs)
        statistics: dict[Key, Tensor] = {}
        with torch.enable_grad(), _watched(self.blocks, due, statistics) as calls:
            outputs = self.model(inputs)
            loss = self.loss_fn(outputs, targets)
        parameters = {n: p for b in self.blocks.values() for n, p in b.parameters.items()}
        seen = [calls[name].outputs for name in calls]
        wanted = list(parameters.values())
        if calls and self.fisher == "sampled":
            labels = self._labels(outputs)
            deltas = torch.autograd.grad(cross_entropy(outputs, labels), seen, retain_graph=True)
            found = torch.autograd.grad(loss, wanted, materialize_grads=True)
        else:
            found = torch.autograd.grad(loss, wanted + seen, materialize_grads=True)
            found, deltas = found[: len(wanted)], found[len(wanted) :]
        by_name = dict(zip(parameters, found, strict=True))
        with torch.no_grad():
            for (name, call), delta in zip(calls.items(), deltas, strict=True):
                sums = self.blocks[name].output_sums(call.inputs, count * delta)
                statistics |= {(name, statistic): found for statistic, found in sums.items()}
            gradients = {
                name: count * block.joined([by_name[key] for key in block.parameters])
                for name, block in self.blocks.items()
            }
        return Sums(count, loss.detach(), gradients, {key: statistics[key] for key in due})

    def _labels(self, logits: Tensor) -> Tensor:
        """This process's share of labels that are drawn anew at each step, a function of the seed
        and the step.
        """
        if logits.ndim != 2:
            raise ValueError(
                f'fisher = "sampled" given with outputs of shape {tuple(logits.shape)}; allowed'
                " there: (n, classes)"
            )
        generator = torch.Generator().manual_seed(self.seed * 2**31 + self.num_steps)
        start, total = self.team.place_of(len(logits), logits.device)
        uniform = torch.rand(total, generator=generator, dtype=torch.float64)
        return drawn_labels(logits, uniform[start:][: len(logits)].to(logits.device))

    def _turned(
        self, gradients: dict[str, Tensor], statistics: dict[Key, Tensor]
    ) -> tuple[dict[str, Known], dict[Key, int], dict[str, Tensor]]:
        """Of the layers owned: what is known then, next intervals, and directions."""
        known, intervals, directions = dict(self.known), {}, {}
        for layer in self.team.mine:
            block, before = self.blocks[layer], self.known[layer]
            fresh = {name: x for (owner, name), x in statistics.items() if owner == layer}
            if not _is_finite(gradients[layer]):  # and what is not due would go on unchanged
                directions[layer] = gradients[layer]
                intervals |= {(layer, name): 1 for name in fresh}
                continue
            for name, new in fresh.items():
                intervals[layer, name] = self.interval or next_interval(
                    new,
                    before.latest.get(name),
                    before.earlier.get(name),
                    self.schedules[layer, name],
                    self.alpha,
                )
            earlier = {name: before.latest[name] for name in fresh if name in before.latest}
            known[layer] = replace(
                before, latest=before.latest | fresh, earlier=before.earlier | earlier
            ).inverted(block, fresh, self.damping, self.alpha)
            directions[layer] = block.direction(gradients[layer], known[layer].inverses)
        return known, intervals, directions

    def _move(self, directions: dict[str, Tensor]) -> None:
        """w ← w − ηΔ + m·v, and v ← that step."""
        momentum = self.momentum
        if self.scale_momentum:
            momentum *= self.lr / self.first_lr
        for layer, block in self.blocks.items():
            for name, direction in block.parted(directions[layer]).items():
                step = direction.mul(-self.lr)
                if name in self.velocity:
                    step.add_(self.velocity[name], alpha=momentum)
                block.parameters[name].add_(step)
                if self.momentum:
                    self.velocity[name] = step
            if self.rescale_weights and isinstance(block, KroneckerBlock):
                weight = block.layer.weight
                norm = weight.norm()
                weight.mul_(torch.where(norm > 0, math.sqrt(2 * len(weight)) / norm, 1.0))

    def _shares(self, refreshed: Collection[Key]) -> dict[str, Tensor]:
        kinds = [name for _, name in self.schedules]
        return {
            kind: torch.tensor(sum(name == kind for _, name in refreshed) / kinds.count(kind))
            for kind in dict.fromkeys(kinds)
        }

    def counts(self) -> dict[str, int]:
        """Tensors that were left as they were, a whole model's at a time, as `ngd.NGD` counts; and
        no restart, for there is none.
        """
        return {"num_skipped_updates": self.num_skipped_updates, "num_restarts": 0}

    def state_dict(self) -> dict[str, Tensor]:
        """All that a restart needs to go on bit for bit; of several processes each has its own."""
        state = {
            "num_steps": torch.tensor(self.num_steps),
            "num_skipped_updates": torch.tensor(self.num_skipped_updates),
            "first_lr": torch.tensor(self.first_lr, dtype=torch.float64),
        }
        state |= {f"velocity.{name}": v for name, v in self.velocity.items()}
        for (layer, name), schedule in self.schedules.items():
            state[f"schedule.{layer}.{name}"] = torch.tensor(schedule)
        for layer, known in self.known.items():
            for part in ("latest", "earlier", "inverses", "pis"):
                for name, value in getattr(known, part).items():
                    value = value if part != "pis" else torch.tensor(value, dtype=torch.float64)
                    state[f"{part}.{layer}.{name}"] = value
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state_dict`; hyper-parameters stay those of the optimizer, but η₀."""
        like = next(iter(next(iter(self.blocks.values())).parameters.values()))
        self.num_steps = int(state["num_steps"])
        self.num_skipped_updates = int(state["num_skipped_updates"])
        self.first_lr = float(state["first_lr"])

        def read(key: str) -> Tensor:
            return state[key].to(like.device, like.dtype).clone()

        names = [name for block in self.blocks.values() for name in block.parameters]
        self.velocity = {n: read(f"velocity.{n}") for n in names if f"velocity.{n}" in state}
        for layer, name in self.schedules:
            self.schedules[layer, name] = Schedule(*state[f"schedule.{layer}.{name}"].tolist())
        for layer in self.team.mine:
            parts = {
                part: {
                    name: float(state[key]) if part == "pis" else read(key)
                    for name in self.blocks[layer].shapes
                    if (key := f"{part}.{layer}.{name}") in state
                }
                for part in ("latest", "earlier", "inverses", "pis")
            }
            self.known[layer] = Known(**parts)


def _is_finite(tensor: Tensor) -> bool:
    """Whether its entries are, and their sum: one pass that needs no memory."""
    return bool(tensor.sum().isfinite())


class _Call(NamedTuple):
    inputs: Tensor
    outputs: Tensor  # of the layer, in the graph


@contextmanager
def _watched(
    blocks: Mapping[str, Block], due: Collection[Key], statistics: dict[Key, Tensor]
) -> Iterator[dict[str, _Call]]:
    """Puts the sums over inputs that are due into `statistics` as layers are called, and gives the
    calls of the layers whose sums over outputs are due.

    Raises:
        ValueError: A layer that is not called exactly once.
    """
    calls: dict[str, _Call] = {}
    times = dict.fromkeys((layer for layer, _ in due), 0)

    def register(block: Block):
        inward = any((block.name, name) in due for name in block.of_inputs)
        outward = any((block.name, name) in due for name in block.of_outputs)

        def after(_, given: tuple, outputs: Tensor) -> Tensor:
            times[block.name] += 1
            inputs = given[0].detach()
            if inward:
                with torch.no_grad():
                    for name, found in block.input_sums(inputs).items():
                        statistics[block.name, name] = found
            if not outward:
                return outputs
            calls[block.name] = _Call(inputs, outputs)
            return outputs.clone()  # operations in place leave the layer's own as they are

        return block.layer.register_forward_hook(after, prepend=True)

    handles = [register(blocks[layer]) for layer in times]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
    if wrong := [name for name, count in times.items() if count != 1]:
        raise ValueError(
            f"SPNGD: {wrong[0] or 'the model'} was called {times[wrong[0]]} times in a forward"
            " pass; allowed: once, for its factors are those of one call"
        )


def _check_numbers(
    lr: float, momentum: float, damping: float, fisher: str, alpha: float, interval: int | None
) -> None:
    positive = ("> 0 and finite", lambda value: 0 < value < math.inf)
    allowed = {
        "lr": (lr, *positive),
        "momentum": (momentum, "in [0, 1)", lambda value: 0 <= value < 1),
        "damping": (damping, *positive),
        "fisher": (fisher, " or ".join(FISHERS), lambda value: value in FISHERS),
        "alpha": (alpha, "≥ 0 and finite", lambda value: 0 <= value < math.inf),
        "interval": (
            interval,
            "None or an integer ≥ 1",
            lambda value: value is None or (type(value) is int and value >= 1),
        ),
    }
    for name, (given, what, test) in allowed.items():
        if not test(given):
            raise ValueError(f"SPNGD: {name} = {given!r} given; allowed: {what}")


class Settings(OptimizerSettings):
    """Of a kind `spngd`."""

    lr: float = Field(
        0.01, gt=0, le=MAX_RATE, description="Learning rate η (weight units per direction unit)."
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum m, a fraction.")
    damping: float = Field(
        1e-2, gt=0, description="Damping λ of the Fisher matrix, split over A and G by π."
    )
    fisher: Literal["empirical", "sampled"] = Field(
        "empirical", description="Fisher matrix of the labels given, or of labels drawn."
    )
    alpha: float = Field(
        0.1, ge=0, description="Tolerance α within which a statistic counts as unchanged."
    )
    interval: int | None = Field(
        None, ge=1, description="Steps between refreshes; null: by the rule of stale statistics."
    )
    rescale_weights: bool = Field(
        False, description="Give weights the norm √(2·d_out) after each step."
    )
    seed: Seed = Field(0, description="Seed of sampled labels.")


def build(model: nn.Module, loss_fn: Callable, settings: Settings) -> SPNGD:
    """The optimizer over all trained layers of `model`.

    Raises:
        ValueError: A trained layer that has no factors.
    """
    return SPNGD(model, loss_fn=loss_fn, **settings.model_dump(exclude={"swap_lr"}))


KIND = Kind(Settings, build)
