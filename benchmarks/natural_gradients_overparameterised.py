"""What does a natural step of a wide network cost beside a step of gradient descent?

32 inputs of 16 dimensions, two-layer ReLU networks, float64, one thread. The kernel takes one
product of 32 × m patterns more than the gradient, and a 32 × 32 solve: both methods run in turn, in
one process. Medians over repeats.

    .venv/bin/python benchmarks/natural_gradients_overparameterised.py [--repeats 5]
"""

import argparse
import statistics
import time

import torch

from studies.natural_gradients.overparameterised.network import (
    descend,
    random_inputs,
    random_network,
)

STEPS, GOAL = 30, 1.0
RATES = {"ngd": 0.5, "gd": 0.01}


def main() -> None:
    """Prints seconds and the ratio, by width."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    inputs, labels = random_inputs(32, 16, 0)
    for width in (1024, 4096, 16_384):
        network = random_network(width, 16, 1)
        spent: dict[str, list[float]] = {method: [] for method in RATES}
        for _ in range(options.repeats):
            for method, lr in RATES.items():
                since = time.perf_counter()
                descend(network, inputs, labels, method, lr, STEPS)
                spent[method].append(time.perf_counter() - since)
        middle = {method: statistics.median(times) for method, times in spent.items()}
        goal = f" (goal: {GOAL:g} s)" if width == 16_384 else ""
        print(
            f"width {width:,}: {STEPS} natural steps {middle['ngd']:.2f} s{goal},"
            f" {middle['ngd'] / middle['gd']:.2f} of gradient descent"
        )


if __name__ == "__main__":
    main()
