"""How does an optimizer get down to a loss, and how often does SP-NGD refresh on its way?"""

import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from degeneracy.data.images import TensorData
from degeneracy.optimizers.distributed import numbers_sent
from degeneracy.optimizers.spngd import SPNGD
from degeneracy.stepper import Stepper
from degeneracy.training import evaluate

LOOK_EVERY = 5  # steps
LOOKED_AT = 10_000  # training samples whose loss is looked at


def network(num_inputs: int, width: int, depth: int, seed: int) -> nn.Sequential:
    """A ReLU network with `depth` hidden layers and 10 classes, on flat images."""
    sizes = [num_inputs, *[width] * depth]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hidden = [
            layer for one, other in pairwise(sizes) for layer in (nn.Linear(one, other), nn.ReLU())
        ]
        return nn.Sequential(*hidden, nn.Linear(width, 10))


def flat_images(data: TensorData, pool: int = 1) -> TensorData:
    """As vectors, `pool` × `pool` pixels averaged to one."""
    return TensorData(data.pooled(pool).inputs.flatten(1), data.labels)


def batches(data: TensorData, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Whole batches without end, shuffled anew in every epoch."""
    generator = torch.Generator().manual_seed(seed)
    count = len(data.labels)
    while True:
        order = torch.randperm(count, generator=generator)
        for index in order[: count - count % size].split(size):
            chosen = index.to(data.labels.device)
            yield data.inputs[chosen], data.labels[chosen]


def run_to_loss(
    model: nn.Module,
    build: Callable[[nn.Module], Stepper],
    data: TensorData,
    batch_size: int,
    target: float,
    max_steps: int,
    seed: int,
) -> dict[str, Any]:
    """Steps and process seconds of steps alone until the loss of the first training samples is at
    most `target`.

    Returns:
        `steps`, `seconds` and `losses` at each look; `reached`, whether it was.
    """
    stepper = build(model)
    first = data.first(LOOKED_AT)
    found = {"steps": [0], "seconds": [0.0], "losses": [evaluate(model, first)[0]]}
    spent = 0.0
    for step, batch in enumerate(batches(data, batch_size, seed), start=1):
        started = time.process_time()
        stepper.step(*batch)
        spent += time.process_time() - started
        if step % LOOK_EVERY == 0:
            loss = evaluate(model, first)[0]
            for key, value in (("steps", step), ("seconds", spent), ("losses", loss)):
                found[key].append(value)
            if not loss > target or step >= max_steps:
                return found | {"reached": loss <= target}
    raise AssertionError("batches go on without end")


def run_refreshes(
    optimizer: SPNGD,
    data: TensorData,
    test: TensorData,
    batch_size: int,
    num_samples: int,
    num_ranks: int,
    seed: int,
) -> dict[str, Any]:
    """Trains on `num_samples`, and counts which statistics were refreshed.

    Returns:
        `share` of all refreshes that there could have been, `shares` by the statistic's kind;
        `loss` and `accuracy` (test) at the end; process `seconds`; `sent`: numbers a step between
        `num_ranks` processes, with fresh statistics `whole`, `packed` as triangles, and packed
        as they were refreshed (`stale`).
    """
    every = list(optimizer.schedules)
    steps, spent, sent = num_samples // batch_size, 0.0, 0
    counts = dict.fromkeys(every, 0)
    for _, batch in zip(range(steps), batches(data, batch_size, seed), strict=False):
        started = time.process_time()
        optimizer.step(*batch)
        spent += time.process_time() - started
        for key in optimizer.refreshed:
            counts[key] += 1
        sent += numbers_sent(optimizer.blocks, optimizer.refreshed, num_ranks).total
    kinds = dict.fromkeys(name for _, name in every)
    by_kind = {kind: [counts[key] / steps for key in every if key[1] == kind] for kind in kinds}
    loss, accuracy = evaluate(optimizer.model, data)[0], evaluate(optimizer.model, test)[1]
    return {
        "steps": steps,
        "share": sum(counts.values()) / (steps * len(every)),
        "shares": {kind: sum(of) / len(of) for kind, of in by_kind.items()},
        "loss": loss,
        "accuracy": accuracy,
        "seconds": spent,
        "sent": {
            "whole": numbers_sent(optimizer.blocks, every, num_ranks, triangles=False).total,
            "packed": numbers_sent(optimizer.blocks, every, num_ranks).total,
            "stale": sent / steps,
        },
    }
