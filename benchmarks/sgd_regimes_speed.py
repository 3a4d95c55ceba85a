"""What do SGD's regimes cost? The averaged one in matrix products, the spectral one in seconds.

A step of the averaged regime at N = 1,000 is compared with two float64 products of that size, which
the recursion takes as it is written; step and products are timed in turn, in one process, so that
both see the same machine. The spectral regime runs 100 settings × 10,000 modes × 10,000 steps with
the tail of modes taken by quadrature, and is compared with all modes on a few of the settings and
steps: their time per setting and step gives the ratio. `benchmarks/README.md` has a run.

    .venv/bin/python benchmarks/sgd_regimes_speed.py [--steps 10000]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from studies.sgd_regimes import spectral_diagonal
from studies.sgd_regimes.averaging import Moments
from studies.sgd_regimes.checks import noise_strength
from studies.sgd_regimes.samples import cosine_basis
from studies.sgd_regimes.spectral import spectral_curves
from studies.sgd_regimes.theory import PowerLaw

SIZE, STEPS, REPEATS = 1000, 8, 5
NUM_SETTINGS, NUM_MODES, COMPARED, COMPARED_STEPS = 100, 10_000, 3, 300


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    since = time.perf_counter()
    run()
    return time.perf_counter() - since


def averaged_speed() -> None:
    """Steps of the averaged regime against products, with and without momentum."""
    values, vectors = PowerLaw(1.5, 1.0).eigenvalues(SIZE), cosine_basis(SIZE)
    start = PowerLaw(1.5, 1.0).moments(SIZE) ** 0.5
    matrix = np.random.default_rng(0).normal(size=(SIZE, SIZE))
    for momentum in (0.0, 0.5):
        gamma = float(noise_strength(10, SIZE))
        moments = Moments(values, vectors, start, gamma, plain=momentum == 0)
        moments.step(0.5, momentum)
        ratios, each = [], []
        for _ in range(REPEATS):
            products = seconds(lambda: [matrix @ matrix for _ in range(2 * STEPS)])
            run = seconds(lambda m=moments, b=momentum: [m.step(0.5, b) for _ in range(STEPS)])
            ratios.append(run / products)
            each.append(run / STEPS)
        median = statistics.median(each)
        print(
            f"averaged, N = {SIZE:,}, momentum {momentum:g}: {1000 * median:.0f} ms a step,"
            f" {statistics.median(ratios):.2f} of two float64 products (goal: 1.5);"
            f" {1000 * median:.0f} s for 1,000 steps (goal: 60)",
            flush=True,
        )


def spectral_speed(num_steps: int) -> None:
    """100 settings by quadrature, and three of them with all modes."""
    law = PowerLaw(1.5, 1.0)
    values, moments = law.eigenvalues(NUM_MODES), law.moments(NUM_MODES)
    lrs = np.geomspace(0.02, 0.5, NUM_SETTINGS // 4)[:, None]
    momenta, batch = np.array([0.0, 0.3, 0.6, 0.9]), 100
    how = (values, moments, batch)
    whole = seconds(lambda: spectral_diagonal(*how, lrs, momenta, 1.0, num_steps))
    off, exact_s = 0.0, []
    for lr, momentum in zip(lrs[:: len(lrs) // COMPARED, 0], (0.0, 0.6, 0.9), strict=False):
        one = (*how, float(lr), momentum, 1.0, COMPARED_STEPS)
        exact_s.append(seconds(lambda one=one: spectral_curves(*one)))
        exact = spectral_curves(*one).losses
        off = max(off, float(np.abs(spectral_diagonal(*one) / exact - 1).max()))
    per_step = statistics.median(exact_s) / COMPARED_STEPS
    print(
        f"spectral, {NUM_SETTINGS} settings × {NUM_MODES:,} modes × {num_steps:,} steps:"
        f" {whole:.1f} s (goal: 10 s for 10,000); error {off:.1e} (goal: 1e-10); all modes would"
        f" take {per_step * num_steps * NUM_SETTINGS / whole:.0f} times as long"
    )


def main() -> None:
    """Prints both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10_000, help="of the spectral regime")
    options = parser.parse_args()
    averaged_speed()
    spectral_speed(options.steps)


if __name__ == "__main__":
    main()
