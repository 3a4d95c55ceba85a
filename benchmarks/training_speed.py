"""What does an epoch of training cost, and what is won by holding the data in memory?

Data in memory against per-image transforms, in one process: run it alone on the machine.
"""

import statistics
import time
from itertools import pairwise

import torch
from torch.utils.data import DataLoader

from degeneracy.data.files import import_torchvision
from degeneracy.models.networks import FFNN
from degeneracy.runs.work import PROJECT
from degeneracy.training import as_stepper, trained
from utils_general import load_data

BATCH_SIZE = 128


def epoch_seconds(data) -> float:
    """Seconds of an epoch of training with SGD, with its record and evaluation; median of three."""
    model = FFNN(256, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    stepper, generator = as_stepper(model, optimizer), torch.Generator()
    epochs = trained(model, stepper, data, range(1, 5), BATCH_SIZE, generator)
    ends = [time.perf_counter() for _ in epochs]  # the first epoch warms up
    return statistics.median(end - start for start, end in pairwise(ends))


def loader_seconds() -> tuple[float, float]:
    """Seconds to read one epoch of MNIST: (as tensors by index, through a DataLoader with per-image
    transforms).
    """
    torchvision = import_torchvision()
    transform = torchvision.transforms.Compose(
        [torchvision.transforms.ToTensor(), torchvision.transforms.Normalize((0.1307,), (0.3081,))]
    )
    dataset = torchvision.datasets.MNIST(PROJECT / "data", train=True, transform=transform)
    started = time.perf_counter()
    for _ in DataLoader(dataset, BATCH_SIZE, shuffle=True):
        pass
    transforms = time.perf_counter() - started
    inputs, labels = load_data("mnist", PROJECT / "data").train
    started = time.perf_counter()
    for index in torch.randperm(len(labels)).split(BATCH_SIZE):
        inputs[index], labels[index]
    return time.perf_counter() - started, transforms


def main() -> None:
    data = load_data("mnist", PROJECT / "data")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(
        "an epoch of training with SGD, FFNN 2 HL, 256 HN, evaluation included:"
        f" {epoch_seconds(data):.2f} s"
    )
    in_memory, transforms = loader_seconds()
    print(
        f"reading an epoch of MNIST: in memory {in_memory:.2f} s, DataLoader with per-image"
        f" transforms {transforms:.1f} s, ratio {transforms / in_memory:.0f}"
    )


if __name__ == "__main__":
    main()
