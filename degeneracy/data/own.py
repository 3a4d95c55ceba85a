"""Can a data set of the user's own be trained on, and is it the one that a run began with?"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from degeneracy.data.images import DataSplits, TensorData

PARTS = ("train", "test")


def checked_splits(data: Any, batch_size: int, device: torch.device) -> DataSplits:
    """`data` on the device, once everything that training would stumble over is ruled out.

    Args:
        data: `.train` and `.test`, each (inputs (n, …), labels (n,)).
        batch_size: Samples in a minibatch; there must be as many in `train`.
        device: Where the tensors will live.

    Raises:
        ValueError: Lists every problem: what was given, and what is allowed.
    """
    problems = [problem for part in PARTS for problem in _problems_of(part, data)]
    if not problems:
        problems = [*_problems_of_both(data.train, data.test, batch_size)]
    if problems:
        raise ValueError("\n".join(f"data.{problem}" for problem in problems))
    train, test = (TensorData(*(t.to(device) for t in getattr(data, part))) for part in PARTS)
    return DataSplits(train, test)


def data_digest(data: DataSplits) -> str:
    """SHA-256 of all tensors, their types and shapes."""
    digest = hashlib.sha256()
    for tensor in (*data.train, *data.test):
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        content = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(content.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _problems_of(part: str, data: Any) -> Iterator[str]:
    """What is wrong with one part by itself."""
    pair = getattr(data, part, None)
    is_pair = isinstance(pair, Sequence) and len(pair) == 2
    if not is_pair or not all(isinstance(tensor, Tensor) for tensor in pair):
        given = type(pair).__name__ if pair is not None else "nothing"
        yield f"{part}: {given} given; allowed: (inputs, labels), two tensors"
        return
    inputs, labels = pair
    if inputs.ndim == 0 or len(inputs) == 0:
        yield f"{part}: inputs of shape {tuple(inputs.shape)} given; allowed: at least one sample"
    elif inputs.is_complex():
        yield f"{part}: inputs of type {inputs.dtype} given; allowed: real numbers"
    elif count := int((~inputs.isfinite()).sum()):
        yield f"{part}: {count} input values that are not finite given; allowed: finite numbers"
    if labels.dtype != torch.int64 or labels.ndim != 1:
        yield (
            f"{part}: labels of type {labels.dtype} and shape {tuple(labels.shape)} given; allowed:"
            " torch.int64 (n,), the number of each sample's class"
        )
        return
    if inputs.ndim and len(inputs) != len(labels):
        yield (
            f"{part}: {len(inputs):,} inputs and {len(labels):,} labels given; allowed: as many of"
            " one as of the other"
        )
    if len(labels) and int(labels.min()) < 0:
        yield f"{part}: label {int(labels.min())} given; allowed: classes from 0 on"


def _problems_of_both(
    train: Sequence[Tensor], test: Sequence[Tensor], batch_size: int
) -> Iterator[str]:
    """What is wrong with two parts that are sound by themselves."""
    if len(train[1]) < batch_size:
        yield (
            f"train: {len(train[1]):,} samples given with data.batch_size {batch_size}; allowed"
            f" there: at least {batch_size}"
        )
    one, other = (f"{inputs.dtype} {tuple(inputs.shape[1:])}" for inputs, _ in (train, test))
    if one != other:
        yield f"test: inputs of {other} given; allowed: {one}, as in train"
