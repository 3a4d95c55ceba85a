"""What does a training step cost? NGD against `torch.optim.SGD`, and data in memory against per-image transforms.

Prints medians over repeats, and ratios measured in one process: run it alone on the machine.
"""

import statistics
import time
from itertools import pairwise

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from architectures import FFNN, LeNet5
from data_files import import_torchvision
from experiment import PROJECT
from ngd import NGD
from training import train
from utils_general import load_data

BATCH_SIZE, STEPS, REPEATS = 128, 40, 7


def step_seconds(model, optimizer, inputs, labels) -> float:
    """Seconds a training step (forward, backward, optimizer), mean over `STEPS`."""
    batches = torch.randperm(len(labels))[: STEPS * BATCH_SIZE].split(BATCH_SIZE)
    started = time.perf_counter()
    for index in batches:
        optimizer.zero_grad()
        cross_entropy(model(inputs[index]), labels[index]).backward()
        optimizer.step()
    return (time.perf_counter() - started) / STEPS


def compare_steps(build, inputs, labels) -> dict[str, float]:
    """Median seconds a step of each optimizer, their repeats interleaved so that both see the same machine."""
    contenders = {}
    for name in ("sgd", "ngd stable", "ngd published"):
        model = build()
        shared = {"lr": 1e-3, "momentum": 0.9, "nesterov": True}
        if name == "sgd":
            optimizer = torch.optim.SGD(model.parameters(), **shared)
        else:
            optimizer = NGD(model.parameters(), **shared, alpha=0.1, eta=0.9, arithmetic=name.split()[1])
        step_seconds(model, optimizer, inputs, labels)  # warm-up, past the steps that update every time
        contenders[name] = (model, optimizer)
    seconds = {name: [] for name in contenders}
    for _ in range(REPEATS):
        for name, (model, optimizer) in contenders.items():
            seconds[name].append(step_seconds(model, optimizer, inputs, labels))
    return {name: statistics.median(values) for name, values in seconds.items()}


def epoch_seconds(data) -> float:
    """Seconds an epoch of `train` with SGD takes, with what it records and the evaluation; median of three."""
    model = FFNN(256, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    ends = [time.perf_counter()]
    train(
        model, optimizer, data, 4, BATCH_SIZE, torch.Generator(), on_epoch=lambda *_: ends.append(time.perf_counter())
    )
    return statistics.median(end - start for start, end in pairwise(ends[1:]))


def loader_seconds() -> tuple[float, float]:
    """Seconds to read one epoch of MNIST: (as tensors by index, through a DataLoader with per-image transforms)."""
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
    inputs, labels = data.train
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {REPEATS} repeats of {STEPS} steps")
    for build in (lambda: FFNN(256, 2), LeNet5):
        medians = compare_steps(build, inputs, labels)
        epoch = medians["sgd"] * -(-len(labels) // BATCH_SIZE)
        print(f"{build().title}: SGD {medians['sgd'] * 1e3:.2f} ms a step, {epoch:.2f} s an epoch")
        for name in ("ngd stable", "ngd published"):
            print(f"  {name}: {medians[name] * 1e3:.2f} ms a step, {medians[name] / medians['sgd']:.2f} × SGD")
    print(f"an epoch of `train` with SGD, FFNN 2 HL, 256 HN, evaluation included: {epoch_seconds(data):.2f} s")
    in_memory, transforms = loader_seconds()
    print(
        f"reading an epoch of MNIST: in memory {in_memory:.2f} s, "
        f"DataLoader with per-image transforms {transforms:.1f} s, ratio {transforms / in_memory:.0f}"
    )


if __name__ == "__main__":
    main()
