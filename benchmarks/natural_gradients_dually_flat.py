"""What does a natural gradient in closed form cost? A pass of DSNGD beside SGD's, a dense solve.

All in one process, in turn, medians of process seconds over repeats. `benchmarks/README.md` has a
run.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/natural_gradients_dually_flat.py [--repeats 5]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from studies.natural_gradients.dually_flat.measure import problem
from studies.natural_gradients.dually_flat.model import dual, natural_gradient, reduced
from studies.natural_gradients.dually_flat.runs import METHODS, run
from studies.natural_gradients.dually_flat.settings import Settings

GOAL = 1.0  # seconds of a pass


def seconds(call: Callable[[], object]) -> float:
    """Process time of one call: the machine may be shared."""
    since = time.process_time()
    call()
    return time.process_time() - since


def passes(repeats: int) -> None:
    """A pass of each method over the default samples, case by case."""
    settings = Settings()
    for case in settings.cases:
        made = problem(case, 1, settings.num_samples, 1)
        rates = [(settings.lr, settings.decay)]
        spent: dict[str, list[float]] = {name: [] for name in METHODS}
        for _ in range(repeats):
            for name, make in METHODS.items():
                direction, stream = make(made.model), (made.cells, made.labels)
                how = (made.model, direction, *stream, rates, settings.batch_size)
                spent[name].append(seconds(lambda how=how: run(*how)))
        median = {name: statistics.median(found) for name, found in spent.items()}
        ratios = ", ".join(
            f"{median['DSNGD'] / median[n]:.2f} of {n}'s" for n in METHODS if n != "DSNGD"
        )
        print(
            f"s = {case.classes}, m = {case.sizes}: DSNGD {median['DSNGD']:.2f} s for"
            f" {settings.num_samples:,} samples in batches of {settings.batch_size}"
            f" (goal: {GOAL:g}); {ratios}",
            flush=True,
        )


def closed_form(repeats: int) -> None:
    """One natural gradient of 64 samples, against solving the joint's Fisher matrix."""
    settings = Settings()
    made = problem(settings.cases[0], 1, 64, 1)
    model = made.model
    features = np.stack(np.unravel_index(made.cells, model.sizes), axis=1)
    alpha, beta = reduced(model, np.zeros((model.rows, model.classes)))
    mu = dual(model, np.zeros((model.rows, model.classes)))
    size = len(alpha) + beta.size
    half = np.random.default_rng(0).normal(size=(size, size))
    fisher, slope = half @ half.T + np.eye(size), half[0]
    own, dense = [], []
    for _ in range(20 * repeats):
        how = (model, alpha, beta, features, made.labels, mu)
        own.append(seconds(lambda how=how: natural_gradient(*how)))
        dense.append(seconds(lambda: np.linalg.solve(fisher, slope)))
    one, other = statistics.median(own), statistics.median(dense)
    print(
        f"closed form, {size} coordinates, 64 samples: {1e6 * one:.0f} µs, {one / other:.2f} of"
        f" solving alone ({1e6 * other:.0f} µs, the Fisher matrix given)"
    )


def main() -> None:
    """Prints both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    passes(options.repeats)
    closed_form(options.repeats)


if __name__ == "__main__":
    main()
