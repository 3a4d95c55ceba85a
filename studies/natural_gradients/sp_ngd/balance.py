"""How evenly can ranks own a network's layers, and what would a step send? Counted from shapes."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from degeneracy.data.files import import_torchvision
from degeneracy.optimizers.distributed import greedy_owners
from degeneracy.optimizers.kfac import Block, blocks_of


class Balance(NamedTuple):
    """How much faster than one rank all inverses are done, the time of communication left out.

    Attributes:
        greedy: With `distributed.greedy_owners`.
        in_turn: With layer i owned by rank i modulo ranks.
        most: No assignment of whole layers does better: the ranks' number, or all layers over the
            most expensive one.
    """

    greedy: float
    in_turn: float
    most: float


def resnet50_blocks() -> dict[str, Block]:
    """The layers of ResNet-50 (He et al., arXiv:1512.03385) on 1,000 classes, without weights."""
    with torch.device("meta"):
        return blocks_of(import_torchvision().models.resnet50())


def balance(blocks: Mapping[str, Block], num_ranks: int) -> Balance:
    """How well the layers' inverses spread over ranks."""
    costs = [float(block.cost) for block in blocks.values()]
    turns = [layer % num_ranks for layer in range(len(costs))]
    return Balance(
        sum(costs) / largest_load(costs, greedy_owners(costs, num_ranks)),
        sum(costs) / largest_load(costs, turns),
        min(num_ranks, sum(costs) / max(costs)),
    )


def largest_load(costs: Sequence[float], owners: Sequence[int]) -> float:
    """Of the rank that has most to do."""
    loads: dict[int, float] = {}
    for cost, owner in zip(costs, owners, strict=True):
        loads[owner] = loads.get(owner, 0.0) + cost
    return max(loads.values())
