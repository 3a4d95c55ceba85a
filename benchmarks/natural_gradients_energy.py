"""What does the energy natural gradient cost? 200 published steps, and the corrected ones beside.

Poisson's equation on the unit square, 784 + 116 points, 32 tanh units, float64, one thread. The
published step has one cut-off of singular values; the corrected one chooses among several and takes
back what long steps bend up. L-BFGS runs beside them in the same process; the ratio is that of
process seconds. Medians over starts, in turn.

    .venv/bin/python benchmarks/natural_gradients_energy.py [--starts 3]
"""

import argparse
import statistics

import torch

from studies.natural_gradients.energy.descent import Curve, baseline_descent, natural_descent
from studies.natural_gradients.energy.network import initial_weights
from studies.natural_gradients.energy.problems import make_problem

STEPS, CORRECTED, BASELINE = 200, 75, 1500
GOAL = 6.0  # seconds for the published steps


def main() -> None:
    """Prints seconds, errors and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--starts", type=int, default=3, help="seeds 0, 1, …")
    options = parser.parse_args()
    torch.set_num_threads(1)
    problem = make_problem("poisson-2d")
    runs: dict[str, list[Curve]] = {"published": [], "corrected": [], "L-BFGS": []}
    for seed in range(options.starts):
        start = initial_weights(32, problem.dim, seed)
        runs["published"].append(natural_descent(problem, start, STEPS, [1e-6]))
        runs["corrected"].append(natural_descent(problem, start, CORRECTED))
        runs["L-BFGS"].append(baseline_descent(problem, start, "lbfgs", BASELINE))
    middle = {
        name: statistics.median(c.seconds[-1] for c in curves) for name, curves in runs.items()
    }
    for name, curves in runs.items():
        error = statistics.median(curve.errors[-1] for curve in curves)
        steps = statistics.median(curve.steps[-1] for curve in curves)
        goal = f" (goal for {STEPS}: {GOAL:g})" if name == "published" else ""
        print(
            f"{name}: {middle[name]:.2f} s{goal} for {steps:g} steps,"
            f" {middle[name] / middle['L-BFGS']:.2f} of L-BFGS; relative error {error:.1e}"
        )


if __name__ == "__main__":
    main()
