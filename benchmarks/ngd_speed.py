"""What does a training step with NGD cost, in steps of `torch.optim.SGD`, and where does the time
go?

A training step is that of `training.train`: take a batch of 128 from data in memory, forward,
backward, optimizer. The optimizers' steps are interleaved in one process, so that all see the same
machine: run it alone there. Printed are medians over repeats: the step in SGD steps, the same ratio
counted in multiplications of matrix products (PyTorch's FlopCounterMode; decompositions are not in
it), and the split of NGD's step by part. `benchmarks/README.md` has a run.
"""

import statistics
import sys
from collections import defaultdict
from functools import partial

import torch
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

import ngd
from degeneracy.cost import clock
from degeneracy.models.networks import DLNN, FFNN, LeNet5

NUM_IMAGES, BATCH_SIZE, PERIOD, REPEATS = 20_000, 128, 4, 15
SHARED = {"lr": 1e-3, "momentum": 0.9, "nesterov": True}
MODELS = {
    "FFNN 1×64": partial(FFNN, 64, 1),
    "FFNN 2×256": partial(FFNN, 256, 2),
    "FFNN 3×1024": partial(FFNN, 1024, 3),
    "DLNN 2×256": partial(DLNN, 256, 2),
    "LeNet-5": LeNet5,
    "LeNet-5, CIFAR-10": partial(LeNet5, in_shape=(3, 32, 32)),
}
OPTIMIZERS = {
    "sgd": partial(torch.optim.SGD, **SHARED),
    "stable": partial(ngd.NGD, **SHARED, alpha=0.1, eta=0.9, update_period=PERIOD),
    "published": partial(
        ngd.NGD, **SHARED, alpha=0.1, eta=0.9, update_period=PERIOD, arithmetic="published"
    ),
}
PARTS = {
    "prescaled": "scaling",
    "precondition": "directions",
    "updated_factors": "updates",
    "_descend": "descent",
}


class Contender:
    """A model and its optimizer on made-up images: what a step costs does not depend on what they
    show.
    """

    def __init__(self, build, make_optimizer, device):
        torch.manual_seed(0)
        self.model = build().to(device)
        self.optimizer = make_optimizer(self.model.parameters())
        channels_and_size = (3, 32, 32) if build is MODELS["LeNet-5, CIFAR-10"] else (1, 28, 28)
        self.images = torch.randn(NUM_IMAGES, *channels_and_size, device=device)
        self.labels = torch.randint(10, (NUM_IMAGES,), device=device)

    def gradient(self):
        batch = torch.randint(NUM_IMAGES, (BATCH_SIZE,), device=self.images.device)
        self.optimizer.zero_grad()
        cross_entropy(self.model(self.images[batch]), self.labels[batch]).backward()

    def period(self) -> list[float]:
        """Seconds of batch, forward and backward, and of the optimizer, over steps from one update
        to the next.
        """
        spent = [0.0, 0.0]
        for _ in range(PERIOD):
            for part, work in enumerate((self.gradient, self.optimizer.step)):
                started = clock(self.images.device)
                work()
                spent[part] += clock(self.images.device) - started
        return spent


def seconds_by_part(contender: Contender) -> dict[str, float]:
    """Median seconds a step in each part of NGD's step."""
    spent, originals = defaultdict(list), {name: getattr(ngd, name) for name in PARTS}

    def timed(name, function):
        def call(*args, **kwargs):
            started = clock(contender.images.device)
            result = function(*args, **kwargs)
            spent[name][-1] += clock(contender.images.device) - started
            return result

        return call

    try:
        for name, function in originals.items():
            setattr(ngd, name, timed(name, function))
        for _ in range(REPEATS):
            for name in (*PARTS, "whole"):
                spent[name].append(0.0)
            spent["whole"][-1] = contender.period()[1]
    finally:
        for name, function in originals.items():
            setattr(ngd, name, function)
    medians = {
        PARTS.get(name, name): statistics.median(values) / PERIOD for name, values in spent.items()
    }
    return medians | {"rest": medians["whole"] - sum(medians[part] for part in PARTS.values())}


def multiplications(contender: Contender) -> tuple[float, float]:
    """Millions of multiplications in matrix products a step: (forward and backward, NGD's)."""
    counts = []
    for work in ([contender.gradient] * PERIOD, [contender.optimizer.step] * PERIOD):
        with FlopCounterMode(display=False) as counter:
            for step in work:
                step()
        counts.append(counter.get_total_flops() / 2 / PERIOD / 1e6)
    return counts[0], counts[1]


def main() -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(
        f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, {REPEATS} repeats"
        f" of {PERIOD} steps"
    )
    print(
        "| model | weights | SGD step, ms | stable ÷ SGD | published ÷ SGD | counted in"
        " multiplications |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    splits = []
    for title, build in tqdm(MODELS.items(), unit="model", file=sys.stderr):
        contenders = {name: Contender(build, make, device) for name, make in OPTIMIZERS.items()}
        for contender in contenders.values():
            for _ in range(ngd.ALWAYS_UPDATE_BEFORE // PERIOD + 1):
                contender.period()  # past the steps that update every time
        spent = {name: [] for name in contenders}
        for _ in range(REPEATS):
            for name, contender in contenders.items():
                spent[name].append(contender.period())
        whole = {
            name: statistics.median(sum(parts) / PERIOD for parts in values)
            for name, values in spent.items()
        }
        forward_backward, of_ngd = multiplications(contenders["stable"])
        weights = sum(p.numel() for p in contenders["sgd"].model.parameters())
        print(
            f"| {title} | {weights:,} | {whole['sgd'] * 1e3:.2f} |"
            f" {whole['stable'] / whole['sgd']:.2f} | {whole['published'] / whole['sgd']:.2f} |"
            f" {1 + of_ngd / forward_backward:.2f} |",
            flush=True,
        )
        split = {
            "batch, forward, backward": (
                statistics.median(parts[0] for parts in spent["stable"]) / PERIOD
            )
        }
        splits.append((title, split | seconds_by_part(contenders["stable"])))
    names = ["batch, forward, backward", *PARTS.values(), "rest"]
    print(f"\n| ms a step, stable NGD | {' | '.join(names)} |\n| --- |{' --- |' * len(names)}")
    for title, split in splits:
        print(f"| {title} | {' | '.join(f'{split[name] * 1e3:.2f}' for name in names)} |")


if __name__ == "__main__":
    main()
