"""How exact do natural steps get, by cut-off, seed and problem, and what do others reach?"""

from collections.abc import Callable

import numpy as np

from degeneracy.device import one_thread
from degeneracy.runs.work import Measured, Work
from studies.natural_gradients.energy.descent import (
    BASELINES,
    Curve,
    baseline_descent,
    natural_descent,
)
from studies.natural_gradients.energy.network import initial_weights
from studies.natural_gradients.energy.problems import make_problem
from studies.natural_gradients.energy.settings import Settings

DEFAULT = "poisson-2d"
BESIDE = ("adam", "lbfgs", "bfgs")  # on the problems other than the default one
BASELINE_STARTS = 2  # of the default problem by each baseline, at most
BFGS_BESIDE = 300  # iterations of BFGS there, at most: its matrix grows with the dimension
SHOWN = 150  # points of a curve that are kept, at most


def measure(work: Work) -> Measured:
    """Yields `"PROBLEM, METHOD, seed k"`; methods: `rule`, `cut 1e-06`, and `BASELINES`."""
    settings: Settings = work.settings.energy
    cases = all_cases(settings)
    for key in work.todo(cases, "run"):
        kind, method, seed = key.split(", ")
        with one_thread():  # BFGS with its small matrices is far slower on two
            found = cases[key]()
        yield key, {"problem": kind, "method": method, "seed": int(seed.split()[1])} | found


def all_cases(settings: Settings) -> dict[str, Callable[[], dict]]:
    """What makes each key."""
    seeds = range(settings.seed, settings.seed + settings.num_seeds)
    cases = {}

    def add(kind: str, method: str, seed: int, steps: int, cuts: list[float] | None = None) -> None:
        cases[f"{kind}, {method}, seed {seed}"] = lambda: run(
            settings, kind, method, seed, steps, cuts
        )

    for seed in seeds:
        add(DEFAULT, "rule", seed, settings.rule_steps, settings.corrected_cuts)
    for cut in settings.cuts:
        for seed in seeds:
            add(DEFAULT, f"cut {cut:g}", seed, settings.cut_steps, [cut])
    for name in BASELINES:
        for seed in seeds[:BASELINE_STARTS]:
            add(DEFAULT, name, seed, baseline_steps(settings, name))
    for kind in settings.problems:
        add(kind, "rule", settings.seed, settings.problem_steps, settings.corrected_cuts)
        for name in BESIDE:
            steps = baseline_steps(settings, name)
            steps = min(steps, BFGS_BESIDE) if name == "bfgs" else steps
            add(kind, name, settings.seed, steps)
    return cases


def baseline_steps(settings: Settings, name: str) -> int:
    """How many steps a baseline takes."""
    return settings.adam_steps if name in ("adam", "gd") else settings.bfgs_steps


def run(
    settings: Settings, kind: str, method: str, seed: int, steps: int, cuts: list[float] | None
) -> dict:
    """One descent, as JSON."""
    problem = make_problem(kind)
    start = initial_weights(settings.width, problem.dim, seed)
    if cuts is None:
        lr = {"adam": settings.adam_lr, "gd": settings.gd_lr}.get(method, 1.0)
        curve = baseline_descent(problem, start, method, steps, lr)
    else:
        curve = natural_descent(problem, start, steps, cuts, settings.corrections)
    return kept(curve)


def kept(curve: Curve) -> dict:
    """A curve at `SHOWN` steps at most, with the last."""
    count = len(curve.steps)
    at = np.unique(np.linspace(0, count - 1, min(count, SHOWN)).round().astype(int))
    names = ("steps", "errors", "losses", "seconds", "cuts")
    found = {}
    for name in names:
        values = getattr(curve, name)
        found[name] = [values[i] for i in at] if values else []
    return found | {"error": curve.errors[-1] if count else None}
