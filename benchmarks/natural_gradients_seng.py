"""How long do a SENG step and its direction take, exact and sketched, beside SGD's step?

    python benchmarks/natural_gradients_seng.py

784-256-256-10, n = 256, one thread; medians of processor time, and ratios to the exact direction
and to SGD's step.
"""

import time

import torch
from torch.nn.functional import cross_entropy

from degeneracy.models.networks import FFNN
from degeneracy.optimizers import seng, sgd
from studies.natural_gradients.seng.directions import directions, layers_of, median_seconds

REPEATS = 21
BATCH = 256


def main() -> None:
    """Prints a line for each."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    inputs, labels = torch.randn(BATCH, 1, 28, 28), torch.arange(BATCH) % 10
    layers = layers_of(FFNN(256, 2), inputs, labels)
    generator = torch.Generator().manual_seed(0)
    found = {}
    for q in (None, 16, 64, 128, 256):
        name = "exact" if q is None else f"q = {q}"
        found[name] = median_seconds(
            lambda q=q: directions(layers, 0.01, q, generator), time.process_time, REPEATS
        )
        print(
            f"direction, {name}: {1e3 * found[name]:.1f} ms,"
            f" {found[name] / found['exact']:.2f} of the exact one"
        )
    steppers = {
        "sgd": sgd.build(FFNN(256, 2), cross_entropy, sgd.Settings(lr=1e-6)),
        "seng": seng.build(FFNN(256, 2), cross_entropy, seng.Settings(lr=1e-6)),
        "seng, q = 64": seng.build(FFNN(256, 2), cross_entropy, seng.Settings(lr=1e-6, sketch=64)),
    }
    for name, stepper in steppers.items():
        found[name] = median_seconds(
            lambda stepper=stepper: stepper.step(inputs, labels), time.process_time, REPEATS
        )
        print(f"step, {name}: {1e3 * found[name]:.1f} ms, {found[name] / found['sgd']:.2f} of SGD")


if __name__ == "__main__":
    main()
