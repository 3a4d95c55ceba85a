"""What is an optimizer's largest stable learning rate? A search down a grid, with a stated rule."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from tqdm import tqdm

from degeneracy.data.images import TensorData
from degeneracy.stepper import Stepper
from degeneracy.training import evaluate

STEPS_PER_OCTAVE = 2  # of the grid
LARGEST = 1.0


@dataclass(frozen=True)
class Rule:
    """What a training must do with a rate that is called stable.

    Attributes:
        reach: Training loss (nats) that it must come down to,
        epochs: within so many epochs,
        stay: and above which it must not be at any look
        more_epochs: in so many more epochs.
        batch_size: Samples in a minibatch.
        look_every: Steps between looks at the whole training loss.
    """

    reach: float = 0.15
    epochs: int = 20
    stay: float = 0.3
    more_epochs: int = 2
    batch_size: int = 64
    look_every: int = 20


@dataclass(frozen=True)
class Search:
    """What a search found.

    Attributes:
        rate: The largest rate of the grid that is stable on every seed; None where none is.
        tried: (rate, what happened) down to it.
    """

    rate: float | None
    tried: list[tuple[float, str]]


def rate_grid(count: int) -> list[float]:
    """1, 1/√2, 1/2, … downwards."""
    return [LARGEST * 2 ** (-k / STEPS_PER_OCTAVE) for k in range(count)]


def largest_stable_rate(
    make: Callable[[], nn.Module],
    build: Callable[[nn.Module, float], Stepper],
    data: TensorData,
    seeds: Sequence[int],
    rule: Rule = Rule(),
    count: int = 20,
) -> Search:
    """Goes down the grid until a rate passes the rule on every seed.

    Args:
        make: A fresh model, whose weights torch's global generator draws.
        build: (model, learning rate) → its optimizer.
        data: The training set, on the model's device.
        seeds: Of weights and data order; not those of runs that use the rate.
        rule: What is called stable.
        count: Rates of the grid at most.
    """
    tried = []
    for rate in tqdm(rate_grid(count), "largest stable rate", unit="rate", leave=False):
        said = (behaviour(make, build, data, rate, seed, rule) for seed in seeds)
        failures = (f"seed {seed}: {text}" for seed, text in zip(seeds, said, strict=True) if text)
        failure = next(failures, "")
        tried.append((rate, failure or "stable"))
        if not failure:
            return Search(rate, tried)
    return Search(None, tried)


def behaviour(
    make: Callable[[], nn.Module],
    build: Callable[[nn.Module, float], Stepper],
    data: TensorData,
    rate: float,
    seed: int,
    rule: Rule,
) -> str:
    """Why a rate is not stable on a seed; empty where it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make()
    stepper, first = build(model, rate), evaluate(model, data)[0]
    until = None
    for epoch, loss in looks(model, stepper, data, seed, rule):
        if not math.isfinite(loss) or (until is None and loss > 2 * first):
            return f"loss {loss:.3g} in epoch {epoch + 1}"
        if until is not None and loss > rule.stay:
            return f"loss {loss:.3g} after it had been below {rule.reach:g}"
        if until is None and loss <= rule.reach:
            until = epoch + rule.more_epochs
        if until is None and epoch >= rule.epochs:
            return f"loss {loss:.3g} after {rule.epochs} epochs"
        if until is not None and epoch >= until:
            return ""
    raise AssertionError("looks go on without end")


def looks(
    model: nn.Module, stepper: Stepper, data: TensorData, seed: int, rule: Rule
) -> Iterator[tuple[float, float]]:
    """(epochs trained, whole training loss) without end, at each look."""
    generator = torch.Generator().manual_seed(seed)
    an_epoch = math.ceil(len(data.labels) / rule.batch_size)
    step = 0
    while True:
        order = torch.randperm(len(data.labels), generator=generator).to(data.labels.device)
        for index in order.split(rule.batch_size):
            stepper.step(data.inputs[index], data.labels[index])
            step += 1
            if step % rule.look_every == 0:
                yield step / an_epoch, evaluate(model, data)[0]
