"""Who computes what when several processes take one natural-gradient step, and what do they send?

Every process (a rank) sees its share of the batch; every layer has one owner among them. Sums over
a rank's samples go to the owners, which add them up (reduce-scatter), invert and turn the gradient;
the directions come back to all (Osawa et al., arXiv:2002.06015, section 5). Symmetric matrices
travel as a triangle. By torch.distributed, started by `torchrun`: NCCL where a machine has a GPU
for each of its ranks, else gloo on the CPU.
"""

import math
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from degeneracy.optimizers.kfac import Block


class RankLostError(RuntimeError):
    """Another rank ended or no longer answers; the weights are those before the step."""


@contextmanager
def process_group(timeout_s: float = 60.0) -> Iterator[torch.device]:
    """The group of the ranks that `torchrun` started, and the device of this one: a GPU of its own
    where the machine has one for each of its ranks, else the CPU.

    Args:
        timeout_s: Seconds that a rank waits for the others before it takes them for lost.

    Raises:
        ValueError: The process was not started by torchrun.
    """
    if missing := [key for key in ("RANK", "WORLD_SIZE", "MASTER_ADDR") if key not in os.environ]:
        raise ValueError(
            f"no {', '.join(missing)} given in the environment; allowed: processes that were"
            " started by torchrun --nproc-per-node N -m MODULE"
        )
    device = torch.device("cpu")
    ranks_here = os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"])
    if torch.cuda.device_count() >= int(ranks_here):
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", os.environ["RANK"])))
        torch.cuda.set_device(device)
        # So that a timeout is an error of the waiting call, which says what happened.
        os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
    try:
        yield device
    finally:
        dist.destroy_process_group()


def greedy_owners(costs: Sequence[float], num_ranks: int) -> list[int]:
    """An owner for each layer: from the most expensive on, the rank that has least to do.

    Its largest load is at most 4/3 of the best possible one (Graham, SIAM J. Appl. Math. 17:416,
    1969).

    Raises:
        ValueError: No rank, or more ranks than layers.
    """
    if not 1 <= num_ranks <= len(costs):
        raise ValueError(
            f"{num_ranks} ranks given for {len(costs)} layers; allowed: 1 to {len(costs)}, for a"
            " layer has one owner"
        )
    loads, owners = [0.0] * num_ranks, [0] * len(costs)
    for layer in sorted(range(len(costs)), key=lambda i: -costs[i]):
        rank = min(range(num_ranks), key=loads.__getitem__)
        owners[layer] = rank
        loads[rank] += costs[layer]
    return owners


def packed(matrix: Float[Tensor, "*k d d"]) -> Float[Tensor, " m"]:
    """The upper triangles of symmetric matrices, flat: k·d(d + 1)/2 numbers."""
    size = matrix.shape[-1]
    rows, columns = torch.triu_indices(size, size, device=matrix.device)
    return matrix[..., rows, columns].flatten()


def triangle_size(shape: Sequence[int]) -> int:
    """Numbers in `packed` of a tensor of this shape."""
    return math.prod(shape[:-2]) * (shape[-1] * (shape[-1] + 1) // 2)


def unpacked(triangles: Float[Tensor, " m"], shape: Sequence[int]) -> Float[Tensor, "*k d d"]:
    """The inverse of `packed`."""
    size = shape[-1]
    rows, columns = torch.triu_indices(size, size, device=triangles.device)
    found = triangles.new_empty(tuple(shape))
    values = triangles.view(*shape[:-2], -1)
    found[..., rows, columns] = values
    found[..., columns, rows] = values
    return found


# ---- what is sent --------------------------------------------------------------------------------

Key = tuple[str, str]  # (layer, name of its statistic)


@dataclass(frozen=True)
class Sent:
    """Numbers that go from rank to rank in a step, of all ranks together: each of a layer's is sent
    to its owner by all others, or by its owner to all others.

    Attributes:
        gradients: Of the weights, to owners.
        statistics: Refreshed ones, to owners.
        directions: Back to all.
        others: Sample counts, losses, the next intervals.
    """

    gradients: int = 0
    statistics: int = 0
    directions: int = 0
    others: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.gradients + self.statistics + self.directions + self.others


def numbers_sent(
    blocks: Mapping[str, Block],
    due: Collection[Key],
    num_ranks: int,
    *,
    triangles: bool = True,
    sampled: bool = False,
) -> Sent:
    """What a step sends in which the statistics `due` are refreshed.

    Args:
        triangles: Whether symmetric matrices travel as a triangle; False: whole, to compare.
        sampled: Whether labels are sampled, for which ranks tell each other their sample counts.
    """
    weights = sum(p.numel() for block in blocks.values() for p in block.parameters.values())
    shapes = [blocks[layer].shapes[name] for layer, name in due]
    sizes = [triangle_size(shape) if triangles else math.prod(shape) for shape in shapes]
    others = num_ranks - 1
    draws = sampled and any(name in blocks[layer].of_outputs for layer, name in due)
    counts = (weights, sum(sizes), weights, (3 + draws) * num_ranks + len(shapes))
    return Sent(*(others * count for count in counts))


class Team:
    """The ranks of the default process group, or this process alone where there is none.

    Attributes:
        rank, size: This rank, and how many there are.
        owners: Layer → the rank that inverts its factors.
        sent: What the step under way has sent, counted as it is sent.

    Raises:
        ValueError: More ranks than layers.
    """

    def __init__(self, blocks: Mapping[str, Block]):
        there = dist.is_available() and dist.is_initialized()
        self.rank, self.size = (dist.get_rank(), dist.get_world_size()) if there else (0, 1)
        self.blocks = blocks
        costs = [block.cost for block in blocks.values()]
        self.owners = dict(zip(blocks, greedy_owners(costs, self.size), strict=True))
        self.sent = Sent()

    @property
    def mine(self) -> list[str]:
        """The layers that this rank owns."""
        return self.owned_by(self.rank)

    def owned_by(self, rank: int) -> list[str]:
        """The layers of a rank, in the model's order."""
        return [name for name, owner in self.owners.items() if owner == rank]

    @torch.no_grad()
    def agree_on(self, model: nn.Module) -> None:
        """Gives every rank the weights and buffers of rank 0."""
        if self.size > 1:
            with self._whole():
                for tensor in (*model.parameters(), *model.buffers()):
                    dist.broadcast(tensor.detach(), src=0)

    def place_of(self, count: int, device: torch.device) -> tuple[int, int]:
        """How many samples the ranks before this one have, and all together, where this one has
        `count`.
        """
        if self.size == 1:
            return 0, count
        counts = [torch.empty(1, dtype=torch.int64, device=device) for _ in range(self.size)]
        with self._whole():
            dist.all_gather(counts, torch.tensor([count], device=device))
        others = self.sent.others + (self.size - 1) * self.size
        self.sent = replace(self.sent, others=others)
        every = torch.cat(counts).tolist()
        return sum(every[: self.rank]), sum(every)

    def summed(
        self,
        numbers: Float[Tensor, "2"],
        gradients: dict[str, Tensor],
        statistics: dict[Key, Tensor],
    ) -> tuple[Tensor, dict[str, Tensor], dict[Key, Tensor]]:
        """Sums over ranks: of `numbers` for all, of the rest for this rank's layers."""
        if self.size == 1:
            return numbers, gradients, statistics
        chunks, counts = [], [0, 0]
        for rank in range(self.size):
            layers = self.owned_by(rank)
            flat = [gradients[layer].flatten() for layer in layers]
            triangles = [packed(s) for (layer, _), s in statistics.items() if layer in layers]
            counts[0] += sum(map(len, flat))
            counts[1] += sum(map(len, triangles))
            chunks.append(torch.cat([numbers, *flat, *triangles]))
        found = torch.empty_like(chunks[self.rank])
        with self._whole():
            dist.reduce_scatter(found, chunks)
        others = self.size - 1
        told = self.sent.others + others * len(numbers) * self.size
        self.sent = Sent(others * counts[0], others * counts[1], 0, told)
        numbers, left = found.split([len(numbers), len(found) - len(numbers)])
        own = [key for key in statistics if key[0] in self.mine]
        sizes = [gradients[layer].numel() for layer in self.mine]
        sizes += [triangle_size(statistics[key].shape) for key in own]
        parts = iter(left.split(sizes))
        summed = {layer: next(parts).view_as(gradients[layer]) for layer in self.mine}
        return numbers, summed, {key: unpacked(next(parts), statistics[key].shape) for key in own}

    def shared(
        self,
        is_sound: bool,
        intervals: dict[Key, int],
        directions: dict[str, Tensor],
        due: list[Key],
    ) -> tuple[bool, dict[Key, int], dict[str, Tensor]]:
        """What owners found, for all: whether everywhere all is finite, the next intervals of the
        statistics that were `due`, and the directions.
        """
        if self.size == 1:
            return is_sound, intervals, directions
        like = next(iter(directions.values()))
        boards = []
        for rank in range(self.size):
            layers = self.owned_by(rank)
            count = sum(layer in layers for layer, _ in due)
            weights = sum(math.prod(self.blocks[layer].gradient_shape) for layer in layers)
            boards.append(like.new_empty(1 + count + weights))
        mine = [float(is_sound), *(float(i) for i in intervals.values())]
        flat = [directions[layer].flatten() for layer in self.mine]
        boards[self.rank] = torch.cat([like.new_tensor(mine), *flat])
        with self._whole():
            waits = [
                dist.broadcast(board, rank, async_op=True) for rank, board in enumerate(boards)
            ]
            for wait in waits:
                wait.wait()
        return self._read(boards, due)

    def _read(
        self, boards: list[Tensor], due: list[Key]
    ) -> tuple[bool, dict[Key, int], dict[str, Tensor]]:
        sound, intervals, directions = True, {}, {}
        for rank, board in enumerate(boards):
            layers = self.owned_by(rank)
            keys = [key for key in due if key[0] in layers]
            numbers = board[: 1 + len(keys)].tolist()
            sound = sound and bool(numbers[0])
            intervals |= {key: int(i) for key, i in zip(keys, numbers[1:], strict=True)}
            shapes = [self.blocks[layer].gradient_shape for layer in layers]
            parts = board[len(numbers) :].split([math.prod(shape) for shape in shapes])
            directions |= {
                layer: part.view(shape)
                for layer, part, shape in zip(layers, parts, shapes, strict=True)
            }
        weights, others = sum(d.numel() for d in directions.values()), self.size - 1
        self.sent = Sent(
            self.sent.gradients,
            self.sent.statistics,
            others * weights,
            self.sent.others + others * (len(boards) + len(intervals)),
        )
        return sound, intervals, directions

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Raises RankLostError where another rank does not answer."""
        try:
            yield
        except RuntimeError as error:
            why = " ".join(str(error).split())[:200]
            raise RankLostError(
                f"rank {self.rank} of {self.size}: another rank ended or did not answer in time"
                f" ({why}); this rank ends too, its weights are those before the step: start all"
                " again from the last checkpoint"
            ) from error
