"""Do the "95 %" intervals of `auto` hold the value in 95 of 100 repetitions?

    .venv/bin/python benchmarks/llc_coverage.py [quadratic | spread | linear | network …]
        [--replicates N] [--steps 1 0.5 …] [--out FILE.json]

One pilot a case, then many repetitions with random numbers of their own, as a call of
`estimate_llcs` does it with many checkpoints. The value that an interval is to hold is exact for
quadratics (`quadratic_llc`) and else Hamiltonian Monte Carlo's (`llc_reference.hmc`), in float64
over all the data and without the bias of a step; its error is to be at most a fifth of the
interval.

`--steps` also walks at multiples of the pilot's step: what its bias does to the coverage.
"""

import argparse
import copy
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from llc_reference import exact_place, hmc, local_pull, trained_network
from scipy.stats import beta
from torch import nn
from torch.nn.functional import cross_entropy

from degeneracy.llc import auto
from degeneracy.llc.auto import Place
from degeneracy.llc.chains import Problem, problem_of
from degeneracy.llc.estimate import mean_loss
from degeneracy.llc.langevin import walk
from degeneracy.llc.settings import SamplerSettings
from degeneracy.llc.statistics import summarise
from degeneracy.models.coefficients import quadratic_llc
from degeneracy.models.known import DeepLinear, Quadratic
from degeneracy.models.networks import num_parameters
from degeneracy.objective.loss import objective_of

SMALL_BUDGET = 256 * 2**20  # bytes for chains of a few weights, which hold little but their noise
PASS = {1000: (0.93, 0.97), 200: (0.91, 0.98)}  # replicates → coverage that is wanted


@dataclass(frozen=True)
class Case:
    """A loss at w* with what is sampled of it, and the value that intervals are to hold."""

    name: str
    model: nn.Module
    data: tuple
    settings: SamplerSettings
    batch_size: int
    value: Callable[[], tuple[float, float]]  # and its standard error
    replicates: int
    memory_budget: int | None = None


@dataclass(frozen=True)
class Row:
    """What is reported of a case at one step."""

    case: str
    weights: int
    nbeta: float
    localization: float
    coordinates: str
    step: float
    of_pilot: float  # the step, of the one that the pilot chose
    num_burnin_steps: int
    num_draws: int
    replicates: int
    coverage: float
    coverage_interval: tuple[float, float]  # 95 %, Clopper and Pearson
    below: float  # share of intervals that lie below the value
    above: float
    value: float
    value_error: float
    mean: float  # of the estimates
    mean_error: float
    half_width: float  # of an interval, mean
    error_ratio: float  # mean stated standard error over the estimates' standard deviation
    at_rest: float  # share with R-hat of the losses at most 1.05
    seconds: float


def quadratic_cases() -> dict[str, Case]:
    """Fifty curvatures, in plain weights over 1.5 decades, and as `auto` likes over three."""
    cases = {}
    for name, decades, kind in (("quadratic", 1.5, "none"), ("spread", 3.0, "auto")):
        curvatures = torch.logspace(-decades, 0, 50).tolist()
        settings = SamplerSettings(nbeta=1000.0, localization=20.0, preconditioner=kind)
        exact = quadratic_llc(curvatures, 1000.0, 20.0)
        cases[name] = Case(
            f"quadratic, 50 curvatures over {decades:g} decades",
            Quadratic(curvatures),
            (),
            settings,
            0,
            lambda exact=exact: (exact, 0.0),
            1000,
            SMALL_BUDGET,
        )
    return cases


def linear_case() -> Case:
    """A deep linear network at a singular minimum, with its exact loss."""
    model = DeepLinear((8, 6, 8), 3)
    settings = SamplerSettings(nbeta=1000.0, localization=10.0)

    def value() -> tuple[float, float]:
        at, data = exact_place(DeepLinear((8, 6, 8), 3), (), preconditioned=False)
        found = hmc(
            at, data, 1000.0, 10.0, chains=256, draws=1000, burn_in=150, first_step=0.05, path=3.0
        )
        print(f"    reference {found.llc:.4f} ± {found.std_error:.4f}, R-hat {found.rhat:.3f}")
        return found.llc, found.std_error

    return Case("(8,6,8), r = 3", model, (), settings, 0, value, 1000, SMALL_BUDGET)


def network_case() -> Case:
    """A trained network, nβ = n/ln n, chains about a quarter of |w*| away."""
    model, data = trained_network()
    nbeta, localization = len(data[0]) / math.log(len(data[0])), local_pull(model)
    settings = SamplerSettings(nbeta=nbeta, localization=localization)

    def value() -> tuple[float, float]:
        at, exact = exact_place(copy.deepcopy(model), data)
        found = hmc(at, exact, nbeta, localization, chains=16, draws=1200, burn_in=100)
        print(f"    reference {found.llc:.4f} ± {found.std_error:.4f}, R-hat {found.rhat:.3f}")
        return found.llc, found.std_error

    return Case("FFNN 1 × 16, 7 × 7 Fashion-MNIST", model, data, settings, 128, value, 200)


def prepared(case: Case) -> Place:
    """The checkpoint as `estimate_llcs` makes it ready."""
    model, settings = case.model, case.settings
    if case.data:
        objective = objective_of(model, cross_entropy, case.data)
        problem, weights = problem_of(objective, case.batch_size), objective.weights
        init_loss = mean_loss(model, case.data)
    else:
        weights = {name: p.detach() for name, p in model.named_parameters()}
        objective, problem = None, Problem(model.population_loss, (), case.batch_size)
        init_loss = float(model.population_loss(weights))
    return auto.prepared(objective, problem, weights, init_loss, settings.nbeta, settings)


def measure(case: Case, factors: Sequence[float], replicates: int | None = None) -> list[Row]:
    """Coverage at the pilot's step and at multiples of it."""
    settings, place = case.settings, prepared(case)
    step, bias = auto.piloted(place, settings.nbeta, settings, 0, case.name)
    print(f"    pilot: e = {step:.4g}, λ̂(e) − λ̂(e/2) = {bias:.3g}", flush=True)
    value = case.value()
    count = replicates or case.replicates
    return [_row(case, place, factor, step * factor, value, count) for factor in factors]


def _row(case: Case, place: Place, factor: float, step: float, value, replicates: int) -> Row:
    started, settings, chains = time.perf_counter(), case.settings, case.settings.num_chains
    plan = auto.planned(place, settings.nbeta, settings, step)
    seeds = [(1, number, chain) for number in range(replicates) for chain in range(chains)]
    walked = walk(place.problem, place.at, place.init_loss, seeds, plan, case.memory_budget)
    losses = walked.losses.reshape(replicates, chains, -1)
    found = [
        summarise(trace, place.init_loss, settings.nbeta, settings=settings) for trace in losses
    ]
    llcs, errors = (np.array([getattr(f, name) for f in found]) for name in ("llc", "std_error"))
    ends = np.array([f.interval for f in found])
    below, above = ends[:, 1] < value[0], ends[:, 0] > value[0]
    held = int((~below & ~above).sum())
    return Row(
        case=case.name,
        weights=num_parameters(case.model),
        nbeta=settings.nbeta,
        localization=settings.localization,
        coordinates=place.at.kind,
        step=step,
        of_pilot=factor,
        num_burnin_steps=plan.num_burnin_steps,
        num_draws=plan.num_draws,
        replicates=replicates,
        coverage=held / replicates,
        coverage_interval=clopper_pearson(held, replicates),
        below=float(below.mean()),
        above=float(above.mean()),
        value=value[0],
        value_error=value[1],
        mean=float(llcs.mean()),
        mean_error=float(llcs.std(ddof=1) / math.sqrt(replicates)),
        half_width=float((ends[:, 1] - ends[:, 0]).mean() / 2),
        error_ratio=float(np.sqrt(np.square(errors).mean()) / llcs.std(ddof=1)),
        at_rest=float(np.mean([f.rhat is not None and f.rhat <= 1.05 for f in found])),
        seconds=time.perf_counter() - started,
    )


def clopper_pearson(held: int, count: int) -> tuple[float, float]:
    """95 % interval of a probability, from how often it happened."""
    low = float(beta.ppf(0.025, held, count - held + 1)) if held else 0.0
    high = float(beta.ppf(0.975, held + 1, count - held)) if held < count else 1.0
    return low, high


HEADER = (
    "| case | weights | nβ, γ | coordinates, e | burn-in + draws | replicates | value | mean λ̂ |"
    " half-width | coverage | below, above | seconds |\n" + "| --- " * 12 + "|"
)


def as_markdown(row: Row) -> str:
    low, high = row.coverage_interval
    return (
        f"| {row.case} | {row.weights:,} | {row.nbeta:.4g}, {row.localization:.3g} |"
        f" {row.coordinates}, {row.step:.3g} | {row.num_burnin_steps:,} + {row.num_draws:,} |"
        f" {row.replicates:,} | {row.value:.4g} ± {row.value_error:.1g} | {row.mean:.4g} ±"
        f" {row.mean_error:.1g} ({row.mean / row.value - 1:+.1%}) | {row.half_width:.2g} |"
        f" **{row.coverage:.1%}** ({low:.1%} to {high:.1%}) | {row.below:.1%}, {row.above:.1%} |"
        f" {row.seconds:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = ["quadratic", "spread", "linear", "network"]
    parser.add_argument("cases", nargs="*", default=names, help=f"of {', '.join(names)}; all")
    parser.add_argument("--replicates", type=int, help="instead of 1,000, or 200 of the network")
    parser.add_argument("--steps", type=float, nargs="+", default=[1.0], help="of the pilot's")
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    options = parser.parse_args()
    made = {**{name: (lambda name=name: quadratic_cases()[name]) for name in names[:2]}}
    made |= {"linear": linear_case, "network": network_case}
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n\n{HEADER}", flush=True)
    rows = []
    for name in options.cases:
        for row in measure(made[name](), options.steps, options.replicates):
            rows.append(row)
            print(as_markdown(row), flush=True)
    if options.out:
        about = {"torch": torch.__version__, "threads": torch.get_num_threads()}
        options.out.write_text(
            json.dumps(about | {"rows": [asdict(row) for row in rows]}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
