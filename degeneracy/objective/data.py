"""What is a data set, whatever it came as? Inputs and targets, batch by batch.

Tensors, trees of tensors (tuples, lists, dicts), a `Dataset`, a `DataLoader`, or any iterable of
batches. What fits is gone through once and kept; what does not is gone through again and again.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map, tree_unflatten
from torch.utils.data import DataLoader, Dataset, IterableDataset

CACHE_BYTES = 2**32  # of batches that are kept; a data set with more is gone through as it came
SHUFFLED = 16  # minibatches among which those of a chain are drawn, where data are not kept
LABELS = ("labels", "label", "targets", "target")  # of a batch that is a dict, the first there is
LOADED = 1024  # samples of a batch that a `Dataset` is loaded with
HALVES = (torch.float16, torch.bfloat16)


class Batch(NamedTuple):
    """Samples: trees of tensors with the same number of rows."""

    inputs: Any
    targets: Any

    @property
    def leaves(self) -> list[Tensor]:
        """All tensors, those of the inputs first."""
        return tree_flatten(tuple(self))[0]

    @property
    def size(self) -> int:
        """Number of samples."""
        return len(self.leaves[0])

    def take(self, index: Tensor | slice) -> "Batch":
        """Some of the samples."""
        return Batch(*tree_map(lambda leaf: leaf[index], tuple(self)))

    def split(self, size: int) -> Iterator["Batch"]:
        """Pieces of at most `size` samples, in order."""
        for start in range(0, self.size, size):
            yield self.take(slice(start, start + size))


class Data(ABC):
    """A data set of n samples on one device."""

    spec: TreeSpec  # of (inputs, targets)
    device: torch.device

    @abstractmethod
    def __len__(self) -> int:
        """n."""

    @abstractmethod
    def batches(self, size: int) -> Iterator[Batch]:
        """All samples, at most `size` at a time, each time in the same order."""

    @abstractmethod
    def some(self, count: int, seed: int) -> "InMemory":
        """`count` samples drawn at random, or all of them where there are no more."""

    def chosen(self, indices: Iterable[int]) -> Batch:
        """The samples of these positions, ascending, in one pass."""
        wanted, found, start = sorted(set(indices)), [], 0
        for batch in self.batches(LOADED):
            own = [i - start for i in wanted if start <= i < start + batch.size]
            if own:
                found.append(batch.take(torch.tensor(own, device=self.device)))
            start += batch.size
        return joined(found)


class InMemory(Data):
    """All samples in tensors."""

    def __init__(self, whole: Batch):
        self.whole = whole
        leaves, self.spec = tree_flatten(tuple(whole))
        self.leaves, self.device = tuple(leaves), leaves[0].device

    def __len__(self) -> int:
        return self.whole.size

    def batches(self, size: int) -> Iterator[Batch]:
        """Pieces of the tensors, without a copy."""
        return self.whole.split(size)

    def some(self, count: int, seed: int) -> "InMemory":
        """See `Data.some`."""
        if len(self) <= count:
            return self
        return InMemory(self.whole.take(drawn(len(self), count, seed).to(self.device)))

    def chosen(self, indices: Iterable[int]) -> Batch:
        """See `Data.chosen`."""
        return self.whole.take(torch.tensor(sorted(set(indices)), device=self.device))


class Streamed(Data):
    """Batches that come one by one from an iterable, which is asked for them pass by pass."""

    def __init__(self, source: Iterable, device: torch.device, seed: int, count: int, first: Batch):
        self.source, self.device, self.seed, self.count = source, device, seed, count
        self.spec = tree_flatten(tuple(first))[1]

    def __len__(self) -> int:
        return self.count

    def batches(self, size: int) -> Iterator[Batch]:
        """A pass through the source, its batches cut where they are larger."""
        for batch in passed(self.source, self.device, self.seed):
            yield from batch.split(size)

    def some(self, count: int, seed: int) -> InMemory:
        """See `Data.some`."""
        return InMemory(self.chosen(drawn(len(self), min(count, len(self)), seed).tolist()))

    def minibatches(self, size: int, seed: int) -> Iterator[Batch]:
        """Endless minibatches of `size`, drawn without replacement from as many as `SHUFFLED` of
        them that came one after the other, pass after pass with seeds of their own. What does not
        fill a minibatch at the end of a pass is left out, at random from all of it. Data sorted by
        class are hardly mixed so: let their loader shuffle.
        """
        generator, number, kept = torch.Generator().manual_seed(seed), 0, []
        while True:
            left_out = torch.randperm(self.count, generator=generator)[: self.count % size]
            for batch in self._without(left_out, seed + number):
                kept.append(batch)
                if sum(one.size for one in kept) >= SHUFFLED * size:
                    pool = joined(kept)
                    order = torch.randperm(pool.size, generator=generator).to(self.device)
                    half = max(1, pool.size // (2 * size))
                    for index in order[: half * size].split(size):
                        yield pool.take(index)
                    kept = [pool.take(order[half * size :])]
            if kept:
                pool = joined(kept)
                order = torch.randperm(pool.size, generator=generator).to(self.device)
                for index in order[: pool.size // size * size].split(size):
                    yield pool.take(index)
            number, kept = number + 1, []

    def _without(self, left_out: Tensor, seed: int) -> Iterator[Batch]:
        """A pass without the samples of some positions."""
        counts = torch.ones(self.count, dtype=torch.bool)
        counts[left_out] = False
        start = 0
        for batch in passed(self.source, self.device, seed):
            own = counts[start : start + batch.size].to(self.device)
            start += batch.size
            if own.any():
                yield batch.take(own)


def as_data(
    given: Any, device: torch.device, *, seed: int = 0, cache_bytes: int | None = None
) -> Data:
    """The data set that was given, in full precision, on `device`.

    Args:
        given: (inputs, targets), each a tensor or a tree of tensors; a dict with labels among its
            entries; or a `Dataset`, `DataLoader` or other iterable of such pairs or dicts.
        device: Batches of an iterable are moved to it; tensors are expected there.
        seed: PyTorch's, while an iterable is gone through: the order of a shuffling loader.
        cache_bytes: Of an iterable's samples kept in memory; None: 4 GiB.

    Raises:
        ValueError: Something else, no samples, rows that do not fit, values that are not finite, or
            an iterable that can be gone through only once and does not fit.
    """
    if isinstance(given, Data):
        return given
    if _is_whole(given):
        whole = _as_batch(given)
        _check_place(whole, device)
        check_finite_data(whole)
        return InMemory(whole)
    if isinstance(given, Dataset) and not isinstance(given, IterableDataset):
        given = DataLoader(given, LOADED)
    if isinstance(given, Tensor) or not isinstance(given, Iterable):
        raise ValueError(
            "data must be (inputs, targets), two tensors that hold the whole data set, or an"
            f" iterable of such batches, as a DataLoader; given: {type(given).__name__}"
        )
    limit = CACHE_BYTES if cache_bytes is None else cache_bytes
    kept, count, used, first = [], 0, 0, None
    for number, batch in enumerate(passed(given, device, seed)):
        check_finite_data(batch, f"batch {number}: ")
        first, count = first or batch, count + batch.size
        used += sum(leaf.nbytes for leaf in batch.leaves)
        kept = [*kept, batch] if used <= limit else []
    if first is None:
        raise ValueError("data is empty; allowed: at least one sample")
    if used <= limit:
        return InMemory(joined(kept))
    if isinstance(given, Iterator):
        raise ValueError(
            f"data is an iterator that can be gone through once, and its {used:,} bytes exceed the"
            f" {limit:,} that are kept; give a DataLoader, or another iterable that starts anew"
        )
    return Streamed(given, device, seed, count, first.take(slice(0, 1)))


def passed(source: Iterable, device: torch.device, seed: int) -> Iterator[Batch]:
    """The batches of one pass on the device; random numbers outside are left as they were."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        stream = iter(source)
        inside = torch.get_rng_state()
    while True:
        with torch.random.fork_rng(devices=devices):
            torch.set_rng_state(inside)
            found = list(islice(stream, 1))
            inside = torch.get_rng_state()
        if not found:
            return
        yield Batch(*tree_map(lambda leaf: leaf.to(device), tuple(_as_batch(found[0]))))


def joined(batches: list[Batch]) -> Batch:
    """One batch with the samples of all."""
    if len(batches) == 1:
        return batches[0]
    leaves, specs = zip(*(tree_flatten(tuple(batch)) for batch in batches), strict=True)
    kinds = [[(leaf.shape[1:], leaf.dtype) for leaf in of_batch] for of_batch in leaves]
    if any(kind != kinds[0] for kind in kinds) or any(spec != specs[0] for spec in specs):
        raise ValueError(
            "the batches of data differ in more than their number of samples (shapes, types or"
            " names); allowed: batches alike, as padding to one length makes them"
        )
    return Batch(
        *tree_unflatten([torch.cat(parts) for parts in zip(*leaves, strict=True)], specs[0])
    )


def drawn(total: int, count: int, seed: int) -> Tensor:
    """`count` positions of `total`, at random, on the CPU whatever the device."""
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:count]


def full_precision(tensor: Tensor) -> Tensor:
    """Half-precision numbers as float32, others as they are; what was made in inference mode, where
    it cannot be differentiated by, as a copy.
    """
    if tensor.dtype in HALVES:
        return tensor.float()
    return tensor.clone() if tensor.is_inference() else tensor


def check_finite_data(batch: Batch, where: str = "") -> None:
    """Raises ValueError for samples that hold NaN or infinity."""
    for name, tree in zip(Batch._fields, batch, strict=True):
        for tensor in tree_flatten(tree)[0]:
            # A finite sum is one of finite values, and costs a fraction of looking at each.
            if tensor.is_floating_point() and not torch.isfinite(tensor.sum()):
                bad = (~torch.isfinite(tensor.reshape(len(tensor), -1))).any(1).nonzero()
                if len(bad):
                    raise ValueError(
                        f"{where}{name} hold NaN or infinity in {len(bad)} samples, the first at"
                        f" index {int(bad[0])}"
                    )


def _is_whole(given: Any) -> bool:
    """Whether this is the data set itself, and not an iterable of its batches."""
    if isinstance(given, Mapping) or (isinstance(given, tuple) and len(given) == 2):
        return True
    return isinstance(given, list) and len(given) == 2 and isinstance(given[0], Tensor)


def _as_batch(given: Any) -> Batch:
    if isinstance(given, Mapping):
        name = next((name for name in LABELS if name in given), None)
        if name is None:
            raise ValueError(
                f"a batch is a dict of {', '.join(map(str, given))}; allowed: one with labels,"
                f" under {' or '.join(LABELS)}, or a pair (inputs, targets)"
            )
        given = {key: value for key, value in given.items() if key != name}, given[name]
    if not isinstance(given, tuple | list) or len(given) != 2:
        shown = f"{len(given)} parts" if isinstance(given, tuple | list) else type(given).__name__
        raise ValueError(
            f"a batch is of {shown}; allowed: (inputs, targets), where inputs may be a tuple or a"
            " dict of tensors"
        )
    inputs, targets = (_as_tree(part) for part in given)
    sizes = []
    for name, tree in (("inputs", inputs), ("targets", targets)):
        leaves = tree_flatten(tree)[0]
        strange = [type(leaf).__name__ for leaf in leaves if not isinstance(leaf, Tensor)]
        if strange or not leaves or any(leaf.ndim == 0 for leaf in leaves):
            shown = strange[0] if strange else "a number" if leaves else "nothing"
            raise ValueError(
                f"data must be (inputs, targets), tensors or trees of tensors with a row a sample;"
                f" {name} hold {shown}"
            )
        sizes.append({len(leaf) for leaf in leaves})
    if any(len(size) > 1 for size in sizes) or sizes[0] != sizes[1]:
        shown = [" and ".join(map(str, sorted(size))) for size in sizes]
        raise ValueError(
            f"data has {shown[0]} inputs and {shown[1]} targets; allowed: one target an input"
        )
    if sizes[0] == {0}:
        raise ValueError("data is empty; allowed: at least one sample")
    return Batch(*tree_map(full_precision, (inputs, targets)))


def _as_tree(value: Any) -> Any:
    """Mappings of every kind as dicts, which a tree has a rule for."""
    if isinstance(value, Mapping):
        return {key: _as_tree(part) for key, part in value.items()}
    return value


def _check_place(batch: Batch, device: torch.device) -> None:
    for name, tree in zip(Batch._fields, batch, strict=True):
        for leaf in tree_flatten(tree)[0]:
            if leaf.device != device:
                raise ValueError(
                    f"{name} are on {leaf.device} and the model is on {device}; move one to the"
                    " other"
                )
