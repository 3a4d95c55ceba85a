"""What do natural gradients of states cost? An inverse problem, W₂ on a square, and their peers.

The inverse problem of 64 × 64 parameters runs to its noise, gradient descent beside it for its
default steps. W₂'s direction on 64 × 64 cells is compared with Fisher-Rao's, which factorises
nothing, and on 32 × 32 with W₂'s by a dense pseudo-inverse. All in one process, in turn,
medians of process seconds over repeats. `benchmarks/README.md` has a run.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/natural_gradients_states.py [--repeats 3]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from studies.natural_gradients.states.grids import Grid
from studies.natural_gradients.states.implicit import explicit_direction
from studies.natural_gradients.states.measure import Inverse, dense_metric
from studies.natural_gradients.states.metrics import fisher_rao, wasserstein
from studies.natural_gradients.states.mixture import mixture
from studies.natural_gradients.states.settings import Settings

GOAL = 5.0  # seconds of the inverse problem


def seconds(call: Callable[[], object]) -> float:
    """Process time of one call: the machine may be shared."""
    since = time.process_time()
    call()
    return time.process_time() - since


def inverse_speed(repeats: int) -> None:
    """Natural steps to the noise, and gradient descent."""
    settings, spent, ends = Settings(), {True: [], False: []}, {}
    for _ in range(repeats):
        for natural in spent:
            made = Inverse(settings)
            found = {}
            spent[natural].append(
                seconds(lambda made=made, n=natural, f=found: f.update(made.descent(n)))
            )
            ends[natural] = found
    natural, plain = (statistics.median(spent[key]) for key in (True, False))
    one, other = (
        f"{len(e['misfit']) - 1} steps, misfit {e['misfit'][-1]:.2g}" for e in ends.values()
    )
    print(
        f"inverse problem, {settings.inverse_side**2:,} parameters: {natural:.2f} s ({one};"
        f" goal: {GOAL:g} s), {natural / plain:.2f} of gradient descent's {plain:.2f} s ({other})",
        flush=True,
    )


def transport_speed(repeats: int) -> None:
    """A direction in W₂ beside one in Fisher-Rao, and beside the dense pseudo-inverse."""
    parameters = np.r_[np.linspace(-4, 4, 10), np.full(5, 0.1), np.zeros(4)]
    for side in (64, 32):
        grid = Grid((-8.0,) * 2, (8.0,) * 2, (side, side))
        state = mixture(grid, parameters)
        gradient = np.random.default_rng(0).normal(size=grid.size)
        spent: dict[str, list[float]] = {"W₂": [], "peer": []}
        peer = fisher_rao if side == 64 else None

        def by_metric(make, state=state, grid=grid, gradient=gradient) -> None:
            explicit_direction(state.jacobian, make(grid, state.density), gradient)

        def dense(state=state, grid=grid, gradient=gradient) -> None:
            matrix = dense_metric(grid, state.density, "W₂")
            z = state.jacobian
            np.linalg.solve(z.T @ matrix @ z, z.T @ gradient)

        for _ in range(repeats):
            spent["W₂"].append(seconds(lambda f=by_metric: f(wasserstein)))
            other = dense if peer is None else (lambda f=by_metric: f(fisher_rao))
            spent["peer"].append(seconds(other))
        one, other = (1000 * statistics.median(found) for found in spent.values())
        name = "Fisher-Rao's" if peer else "the dense pseudo-inverse's"
        print(
            f"W₂, {grid.size:,} cells, {len(parameters)} parameters: {one:.1f} ms a direction,"
            f" {one / other:.3g} of {name} {other:.1f} ms",
            flush=True,
        )


def main() -> None:
    """Prints both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    inverse_speed(options.repeats)
    transport_speed(options.repeats)


if __name__ == "__main__":
    main()
