"""What is measured of SP-NGD, a run at a time? Touches no file."""

from collections.abc import Iterator
from functools import cache, partial
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from degeneracy.data.images import DataSplits, TensorData, load_data
from degeneracy.optimizers.distributed import numbers_sent
from degeneracy.optimizers.spngd import SPNGD
from degeneracy.runs.work import Measured, Work, from_project
from degeneracy.stepper import Stepper, TorchStepper
from studies.natural_gradients.sp_ngd.balance import balance, resnet50_blocks
from studies.natural_gradients.sp_ngd.runs import flat_images, network, run_refreshes, run_to_loss
from studies.natural_gradients.sp_ngd.settings import Settings

OPTIMIZERS = ("sgd", "spngd")


def measure(work: Work) -> Measured:
    """`to loss, OPTIMIZER, seed N`; `refreshes, batch B, alpha A`; `balance`."""
    settings: Settings = work.settings.sp_ngd
    makers = dict(_makers(settings, work.device))
    for key in work.todo(makers, "run"):
        yield key, makers[key]()


def _makers(settings: Settings, device: torch.device) -> Iterator[tuple[str, Any]]:
    """Key → the function that measures it."""

    @cache
    def data() -> DataSplits:
        return load_data("mnist", from_project(settings.root), device)

    for seed in settings.seeds:
        for name in OPTIMIZERS:
            yield f"to loss, {name}, seed {seed}", partial(to_loss, settings, data, name, seed)
    for size in settings.batch_sizes:
        for alpha in settings.alphas:
            yield (
                f"refreshes, batch {size}, alpha {alpha:g}",
                partial(refreshes, settings, data, size, alpha),
            )
    yield "balance", partial(resnet50_balance, settings)


def to_loss(settings: Settings, data, name: str, seed: int) -> dict[str, Any]:
    """One optimizer's way to the target loss on whole images."""
    train = flat_images(data().train)
    model = _network(settings, train, seed)
    found = run_to_loss(
        model,
        partial(_stepper, settings, name),
        train,
        settings.batch_size,
        settings.target_loss,
        settings.max_steps,
        seed,
    )
    return {"optimizer": name, "seed": seed, "target": settings.target_loss} | found


def _stepper(settings: Settings, name: str, model: nn.Module) -> Stepper:
    if name == "spngd":
        return SPNGD(model, settings.lr, momentum=settings.momentum, damping=settings.damping)
    sgd = torch.optim.SGD(model.parameters(), lr=settings.sgd_lr, momentum=settings.momentum)
    return TorchStepper(model, cross_entropy, [sgd])


def refreshes(settings: Settings, data, batch_size: int, alpha: float) -> dict[str, Any]:
    """One run of the same samples, with its refreshes counted."""
    train, test = (flat_images(part, settings.pool) for part in data())
    seed = settings.seeds[0]
    optimizer = SPNGD(
        _network(settings, train, seed),
        settings.lr,
        momentum=settings.momentum,
        damping=settings.damping,
        alpha=alpha,
    )
    found = run_refreshes(
        optimizer, train, test, batch_size, settings.num_samples, settings.num_ranks, seed
    )
    return {"batch_size": batch_size, "alpha": alpha, "num_ranks": settings.num_ranks} | found


def resnet50_balance(settings: Settings) -> dict[str, Any]:
    """Speed-up of ResNet-50's inverses by number of owners, and what a step of it sends."""
    blocks = resnet50_blocks()
    ranks = list(range(1, settings.max_ranks + 1))
    found = [balance(blocks, count) for count in ranks]
    every = [(name, statistic) for name, block in blocks.items() for statistic in block.shapes]
    return {
        "ranks": ranks,
        "greedy": [one.greedy for one in found],
        "in_turn": [one.in_turn for one in found],
        "most": [one.most for one in found],
        "layers": len(blocks),
        "sent": {
            "whole": numbers_sent(blocks, every, 2, triangles=False).total,
            "packed": numbers_sent(blocks, every, 2).total,
            "stale": numbers_sent(blocks, [], 2).total,
        },
    }


def _network(settings: Settings, data: TensorData, seed: int) -> nn.Module:
    sizes = (data.inputs.shape[1], settings.hidden_nodes, settings.hidden_layers)
    return network(*sizes, seed).to(data.labels.device)
