"""Which data set does a name mean? A whole one as normalised tensors; a batch of it is an index."""

import os
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import avg_pool2d

from degeneracy.data.files import ensure_data_files, import_torchvision

# Published mean and standard deviation of the training images, one a channel, in pixel values from
# 0 to 1.
NORMALISATION: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "mnist": ((0.1307,), (0.3081,)),
    "fashion-mnist": ((0.5,), (0.5,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)),
}


class TensorData(NamedTuple):
    """Images and their classes, as tensors."""

    inputs: Float[Tensor, "n channels height width"]
    labels: Int64[Tensor, " n"]

    def first(self, count: int) -> "TensorData":
        """Its first images, all where there are fewer, apart from the others in memory."""
        return TensorData(*(part[:count].clone() for part in self))

    def pooled(self, side: int) -> "TensorData":
        """Means over squares of `side` × `side` pixels, in which a rest at the edges is left out.

        Example:
            >>> images = torch.arange(16.0).view(1, 1, 4, 4)
            >>> TensorData(images, torch.tensor([0])).pooled(2).inputs.flatten().tolist()
            [2.5, 4.5, 10.5, 12.5]
        """
        return TensorData(avg_pool2d(self.inputs, side), self.labels)


class DataSplits(NamedTuple):
    """A data set's training and test images."""

    train: TensorData
    test: TensorData


def load_data(
    name: str, root: str | os.PathLike[str] = "data", device: torch.device | str = "cpu"
) -> DataSplits:
    """A whole data set on the device, normalised with `NORMALISATION`; files that are missing are
    got first.

    Args:
        name: "mnist", "fashion-mnist" or "cifar10".
        root: folder of the data sets' files; a relative one is relative to the current directory.
        device: where the tensors live.

    Returns:
        `.train` and `.test`, each with `.inputs` (n, channels, height, width) float32 and `.labels`
        (n,) int64.

    Raises:
        ValueError: there is no data set of this name.
        data.files.DataError: its files cannot be got.
    """
    ensure_data_files(name, root)
    datasets = import_torchvision().datasets
    dataset = {
        "mnist": datasets.MNIST,
        "fashion-mnist": datasets.FashionMNIST,
        "cifar10": datasets.CIFAR10,
    }[name]
    mean, std = (
        torch.tensor(numbers, device=device).view(1, -1, 1, 1) for numbers in NORMALISATION[name]
    )

    def tensors(train: bool) -> TensorData:
        files = dataset(Path(root).expanduser(), train=train)
        # (n, height, width) or, in colour, (n, height, width, channels), uint8
        pixels = torch.as_tensor(files.data)
        pixels = (
            pixels.unsqueeze(1) if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2).contiguous()
        )
        inputs = pixels.to(device, torch.float32).div_(255).sub_(mean).div_(std)
        return TensorData(inputs, torch.as_tensor(files.targets, dtype=torch.int64, device=device))

    return DataSplits(tensors(train=True), tensors(train=False))
