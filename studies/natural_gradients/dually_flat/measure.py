"""How near to the efficiency floor do DSNGD, SNGD, SGD, AdaGrad and maximum likelihood come?"""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from degeneracy.runs.work import Measured, Work
from studies.natural_gradients.dually_flat.likelihood import maximum_likelihood
from studies.natural_gradients.dually_flat.model import (
    Model,
    conditional_kl,
    cross_entropy,
    draw,
    joint,
    random_table,
    shares,
)
from studies.natural_gradients.dually_flat.runs import METHODS, dsngd, run
from studies.natural_gradients.dually_flat.settings import Case, Settings

BATCHES = "batches"  # the key of the comparison of batch sizes
LIKELIHOOD = "maximum likelihood"
SHOWN = 16  # points of a curve
FIRST = 1000  # samples at the first of them

# What is tried on held-out samples: (a, b) of a/(1 + bt), or a alone.
RATES: dict[str, list[tuple[float, float]]] = {
    "SGD": [(a, b) for a in (0.3, 1.0, 3.0) for b in (3e-4, 1e-3, 3e-3, 1e-2)],
    "AdaGrad": [(a, 0.0) for a in (0.03, 0.06, 0.1, 0.2, 0.3, 0.6)],
    "SNGD": [(a, a / c) for a in (3e-4, 1e-3, 3e-3, 1e-2) for c in (1.0, 1.5, 3.0)],
    "DSNGD": [(a, a / c) for a in (3e-3, 1e-2, 3e-2) for c in (1.0, 1.5, 3.0)],
}


class Problem(NamedTuple):
    """A true joint p(x, y), and a stream of samples of it."""

    model: Model
    truth: Float[np.ndarray, "cells classes"]
    cells: Int[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]
    heldout: Float[np.ndarray, "cells classes"]

    def floor(self, count: int) -> float:
        """d/2N in nats: the KL that an efficient estimate from N samples has on average."""
        return self.model.dimension / (2 * count)


def measure(work: Work) -> Measured:
    """KL over the floor, a case and seed at a time, and what DSNGD's batch size does."""
    settings: Settings = work.settings.dually_flat
    keys: dict[str, Callable[[], dict]] = {
        f"{case_name(case)}, seed {seed}": lambda case=case, seed=seed: compared(
            settings, case, seed
        )
        for case in settings.cases
        for seed in settings.seeds
    }
    keys[BATCHES] = lambda: batch_sizes(settings)
    for key in work.todo(keys, "case"):
        yield key, keys[key]()


def case_name(case: Case) -> str:
    """`s = 10, m = [10, 5], σ = 0.7`."""
    return f"s = {case.classes}, m = {case.sizes}, σ = {case.scale:g}"


def problem(case: Case, seed: int, num_samples: int, num_heldout: int) -> Problem:
    """A case's true model and samples."""
    random = np.random.default_rng(seed)
    model = Model(tuple(case.sizes), case.classes)
    truth = joint(model, random_table(model, case.scale, random))
    heldout = shares(model, *draw(truth, num_heldout, random))
    return Problem(model, truth, *draw(truth, num_samples, random), heldout)


def compared(settings: Settings, case: Case, seed: int) -> dict[str, Any]:
    """All methods on one stream: KL over the floor at `samples`, at their chosen rates."""
    made = problem(case, seed, settings.num_samples, settings.num_heldout)
    first = min(FIRST, settings.num_samples)
    samples = np.geomspace(first, settings.num_samples, SHOWN).round().astype(int)
    samples = [int(count) for count in np.unique(samples)]
    found: dict[str, Any] = {"case": case_name(case), "seed": seed, "samples": samples}
    found |= {"dimension": made.model.dimension, "floor": made.floor(settings.num_samples)}
    found["methods"] = {
        name: one_method(made, name, samples, settings.batch_size) for name in METHODS
    }
    found["methods"][LIKELIHOOD] = likeliest(made, samples)
    return found


def one_method(made: Problem, name: str, samples: Sequence[int], batch_size: int) -> dict[str, Any]:
    """A method's pass at each of its `RATES`; what is kept is that of the least held-out loss.

    The true KL has no say in it. Process seconds are of all rates together.
    """
    tried = RATES[name]
    since = time.process_time()
    how = (made.cells, made.labels, tried, batch_size, samples[:-1])
    tables = run(made.model, METHODS[name](made.model), *how)
    spent = time.process_time() - since
    with np.errstate(invalid="ignore", over="ignore"):
        heldout = cross_entropy(made.model, made.heldout, tables[-1])
    ended = np.isfinite(heldout)
    best = int(np.where(ended, heldout, np.inf).argmin())
    kl = [float(conditional_kl(made.model, made.truth, table[:, best])) for table in tables]
    return {
        "rate": list(tried[best]),
        "tried": len(tried),
        "diverged": int((~ended).sum()),
        "ratio": [value / made.floor(count) for value, count in zip(kl, samples, strict=True)],
        "process_s": spent,
    }


def likeliest(made: Problem, samples: Sequence[int]) -> dict[str, Any]:
    """Maximum likelihood of the first N samples, for each N of `samples`.

    Where a value was not seen yet there is none: the ratio is None, and `reasons` says why.
    """
    ratios: list[float | None] = []
    reasons: dict[str, str] = {}
    since = time.process_time()
    for count in samples:
        weights = shares(made.model, made.cells[:count], made.labels[:count])
        try:
            table = maximum_likelihood(made.model, weights)
        except (ValueError, ArithmeticError) as error:
            ratios.append(None)
            reasons[str(count)] = str(error)
            continue
        kl = float(conditional_kl(made.model, made.truth, table))
        ratios.append(kl / made.floor(count))
    return {"ratio": ratios, "reasons": reasons, "process_s": time.process_time() - since}


def batch_sizes(settings: Settings) -> dict[str, Any]:
    """DSNGD at several batch sizes, on the same streams of the first case."""
    case, count = settings.cases[0], settings.compared_samples
    ratios, spent = [], []
    problems = [problem(case, seed, count, 1) for seed in settings.seeds]
    for most in settings.compared_batches:
        since, row = time.process_time(), []
        for made in problems:
            how = (made.cells, made.labels, [(settings.lr, settings.decay)], most)
            table = run(made.model, dsngd(made.model), *how)[-1, :, 0]
            row.append(float(conditional_kl(made.model, made.truth, table)) / made.floor(count))
        ratios.append(row)
        spent.append((time.process_time() - since) / len(problems))
    return {
        "case": case_name(case),
        "samples": count,
        "batches": list(settings.compared_batches),
        "ratios": ratios,
        "process_s": spent,
    }
