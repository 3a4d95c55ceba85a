"""Does a sampler find the learning coefficients that are known? One rule for the settings, every
case reported.

    .venv/bin/python benchmarks/llc_accuracy.py [--full] [--device cuda] [--out FILE.json]

The rule sees a loss, its number of weights d and its minimum w*, and nothing else:

    γ = √d, nβ = 1000 γ. The random weights that γ alone allows, N(0, 1/γ), give a square layer a
        norm of order 1 whatever its size, so that wide and narrow networks need about as many
        draws. The ratio 1000 weighs the bias of a finite temperature, which falls with it, against
        the draws needed to leave a singular w*, which grow with it (its square root for two layers,
        its power ⅔ for three).
    ε = min(0.2/(nβ h* + γ), 3/(nβ h_γ + γ)), h* the largest curvature at w*, h_γ the largest of
        those at one draw a chain from N(w*, 1/γ). The first bounds the error that the step makes
        where w* is regular: at most 1/19 of what a direction contributes. The second keeps to ¾ of
        the stability limit, ε A < 4, at the outskirts of where chains go, and is the only one where
        h* = 0.
    2¹¹/d chains, at least 2 and at most 32: small models have small λ and need more chains for the
        same error. 8,192 draws; λ̂ from the second half of them, the first is burn-in. Converged:
        since half as many draws (of which again the second half counts) λ̂ has moved by no more
        than its error then, the larger of the standard error and 0.5 %, and that error is at most
        1 %. If not, 32,768 draws, and with `--full` up to 2,000 weights 131,072. Then it ends; what
        has not converged says so.

Targets are the values at finite (nβ, γ) where they can be computed: for quadratic losses those of
the Langevin steps, ε included, for normal crossings by quadrature. Deep linear networks (two
layers: reduced-rank regression) are judged against λ itself, uncorrected; at multiplicity m the
finite-nβ value is lower, by about (m − 1)/ln nβ, which is printed beside it. `--full` adds 10⁶
weights, and on CUDA 10⁷.

The rule's constants were chosen on the deep linear and normal-crossing cases up to 1,200 weights
that are listed here, not on others: on those, the errors say what the rule can reach, and only the
larger ones test it.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from degeneracy.curvature.largest import largest_curvature, loss_on
from degeneracy.llc.estimate import estimate_llcs
from degeneracy.llc.settings import SamplerSettings
from degeneracy.llc.statistics import LLCEstimate, summarise
from degeneracy.models.coefficients import (
    LearningCoefficient,
    deep_linear,
    normal_crossing,
    normal_crossing_llc,
    quadratic,
    quadratic_llc,
)
from degeneracy.models.known import DeepLinear, NormalCrossing, Quadratic
from degeneracy.models.networks import num_parameters

TEMPERATURE_RATIO = 1000.0  # nβ/γ
STEP_AT_MINIMUM, STEP_AT_OUTSKIRTS = 0.2, 3.0  # ε(nβ h + γ); Langevin steps are stable below 4
CHAIN_WEIGHTS, FEWEST_CHAINS, MOST_CHAINS = 2**11, 2, 32
DRAWS = 8192, 32768
MORE_DRAWS, MORE_DRAWS_WEIGHTS = 131072, 2000  # with --full, up to so many weights
SMALLEST_ERROR, LARGEST_ERROR = 0.005, 0.01  # of λ̂, for "converged"
NUM_SAMPLES = 500  # of the cases with data


@dataclass(frozen=True)
class Case:
    """A loss with known learning coefficient; `target` is a function of (nβ, γ, ε)."""

    name: str
    family: str
    model: nn.Module
    known: LearningCoefficient
    target: Callable[[float, float, float], float]
    batch_size: int | None = (
        None  # None: the population loss; else the loss on data of a noise-free teacher
    )


@dataclass(frozen=True)
class Row:
    """What is reported of a case."""

    case: str
    family: str
    weights: int
    target: float
    learning_coefficient: float
    multiplicity: int
    corrected: float  # λ − (m − 1)/ln nβ
    llc: float | None
    std_error: float | None
    relative_error: float | None
    moved: float | None  # λ̂ since half as many draws, relative
    draws: int
    chains: int
    diverged: int
    converged: bool
    nbeta: float
    localization: float
    step_size: float
    acceptance: float | None
    seconds: float


def half_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return 0.5 * (outputs - targets).square().sum(1).mean()


def quadratic_case(name: str, curvatures: list[float]) -> Case:
    known = quadratic(sum(h > 0 for h in curvatures))
    return Case(
        f"quadratic, {name}",
        "quadratic",
        Quadratic(curvatures),
        known,
        lambda nbeta, localization, step_size: quadratic_llc(
            curvatures, nbeta, localization, step_size
        ),
    )


def crossing_case(*exponents: int) -> Case:
    name = " ".join(f"w{i}^{2 * k}" for i, k in enumerate(exponents, 1))
    return Case(
        name,
        "normal crossing",
        NormalCrossing(exponents),
        normal_crossing(exponents),
        lambda nbeta, localization, _: normal_crossing_llc(exponents, nbeta, localization),
    )


def linear_case(widths: tuple[int, ...], rank: int, batch_size: int | None = None) -> Case:
    known = deep_linear(widths, rank)
    name = f"{widths}, r = {rank}".replace(" ", "").replace(",r=", ", r = ")
    if batch_size is not None:
        name += ", data, " + (
            "full batch" if batch_size == NUM_SAMPLES else f"batches of {batch_size}"
        )
    return Case(
        name,
        "deep linear",
        DeepLinear(widths, rank),
        known,
        lambda *_: float(known.value),
        batch_size,
    )


def cases(full: bool, cuda: bool) -> list[Case]:
    spread = torch.logspace(-2, 0, 100, dtype=torch.float64).tolist()
    chosen = [
        quadratic_case("100 curvatures 0.01 to 1", spread),
        quadratic_case("1000 weights, half of them flat", [1.0] * 500 + [0.0] * 500),
        crossing_case(1),
        crossing_case(2),
        crossing_case(1, 1),
        crossing_case(2, 1),
        crossing_case(1, 1, 1),
        linear_case((5, 3, 5), 3),
        linear_case((6, 6, 6), 2),
        linear_case((8, 6, 8), 3),
        linear_case((8, 6, 8), 3, NUM_SAMPLES),
        linear_case((8, 6, 8), 3, 50),
        linear_case((10, 10, 10), 0),
        linear_case((10, 10, 10, 10), 0),
        linear_case((8, 8, 8, 8), 4),
        linear_case((10, 10, 10, 10, 10), 5),
        linear_case((20, 30, 20), 5),
        linear_case((20, 20, 20, 20), 10),
        linear_case((70, 70, 70), 20),
        linear_case((60, 60, 60, 60), 30),
        linear_case((220, 220, 220), 110),
        linear_case((180, 180, 180, 180), 60),
    ]
    if full:
        chosen.append(linear_case((580, 580, 580, 580), 200))
    if full and cuda:
        chosen.append(linear_case((1830, 1830, 1830, 1830), 600))
    return chosen


def step_size(
    loss: Callable[[dict[str, Tensor]], Tensor],
    minimum: dict[str, Tensor],
    nbeta: float,
    localization: float,
    points: int,
) -> float:
    """ε by the rule above, with `points` from N(w*, 1/γ)."""
    generator = torch.Generator().manual_seed(0)
    bounds = [STEP_AT_MINIMUM / (nbeta * largest_curvature(loss, minimum) + localization)]
    for _ in range(points):
        point = {
            name: (
                p + torch.randn(p.shape, generator=generator).to(p.device) / math.sqrt(localization)
            )
            for name, p in minimum.items()
        }
        bounds.append(STEP_AT_OUTSKIRTS / (nbeta * largest_curvature(loss, point) + localization))
    return min(bounds)


def late_half(estimate: LLCEstimate, draws: int) -> LLCEstimate:
    """The estimate from the second half of the first `draws` draws."""
    return summarise(estimate.trace[:, draws // 2 : draws], estimate.init_loss, estimate.nbeta)


def has_converged(before: LLCEstimate, after: LLCEstimate) -> bool:
    """Whether twice the draws moved λ̂ by no more than its error before, and that was small."""
    if after.llc is None or before.std_error is None or after.diverged.any():
        return False
    error = max(before.std_error, SMALLEST_ERROR * before.llc)
    return abs(after.llc - before.llc) <= error <= LARGEST_ERROR * before.llc


def measure(case: Case, device: torch.device, full: bool = False) -> Row:
    """Samples one case by the rule."""
    model = case.model.to(device)
    num_weights = num_parameters(model)
    localization = math.sqrt(num_weights)
    nbeta = TEMPERATURE_RATIO * localization
    chains = min(MOST_CHAINS, max(FEWEST_CHAINS, CHAIN_WEIGHTS // num_weights))
    minimum = {name: p.detach() for name, p in model.named_parameters()}
    started = time.perf_counter()
    if case.batch_size is None:
        data, loss, source = None, model.population_loss, {"population_loss": model.population_loss}
    else:
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(NUM_SAMPLES, model.true_map.shape[1], generator=generator).to(device)
        data = inputs, inputs @ model.true_map.T
        loss = loss_on(model, data, half_squared_error)
        source = {"batch_size": case.batch_size, "loss_fn": half_squared_error}
    epsilon = step_size(loss, minimum, nbeta, localization, chains)
    more = (MORE_DRAWS,) if full and num_weights <= MORE_DRAWS_WEIGHTS else ()
    for draws in DRAWS + more:
        settings = SamplerSettings(
            num_chains=chains,
            num_draws=draws,
            localization=localization,
            nbeta=nbeta,
            sampler_lr=epsilon,
            backend="batched",
        )
        (estimate,) = estimate_llcs(
            model, [model.state_dict()], data, settings, label=case.name, **source
        )
        before, after = late_half(estimate, draws // 2), late_half(estimate, draws)
        if converged := has_converged(before, after):
            break
    target, known = case.target(nbeta, localization, epsilon), case.known
    return Row(
        case=case.name,
        family=case.family,
        weights=num_weights,
        target=target,
        learning_coefficient=float(known.value),
        multiplicity=known.multiplicity,
        corrected=float(known.value) - (known.multiplicity - 1) / math.log(nbeta),
        llc=after.llc,
        std_error=after.std_error,
        relative_error=None if after.llc is None else after.llc / target - 1,
        moved=None if after.llc is None or not before.llc else after.llc / before.llc - 1,
        draws=draws,
        chains=chains,
        diverged=int(estimate.diverged.sum()),
        converged=converged,
        nbeta=nbeta,
        localization=localization,
        step_size=epsilon,
        acceptance=estimate.mean_acceptance,
        seconds=time.perf_counter() - started,
    )


HEADER = (
    "| case | weights | target | λ | m | λ − (m−1)/ln nβ | λ̂ ± standard error | error | last"
    " doubling | chains × draws | converged | seconds |\n" + "| --- " * 12 + "|"
)


def as_markdown(row: Row) -> str:
    estimate, error = "diverged", "—"
    if row.llc is not None:
        estimate = (
            f"{row.llc:.4g}" if row.std_error is None else f"{row.llc:.5g} ± {row.std_error:.2g}"
        )
        error = f"{row.relative_error:+.1%}"
    known = (
        f"{row.target:.5g} | {row.learning_coefficient:g} | {row.multiplicity} |"
        f" {row.corrected:.5g}"
    )
    verdict = ("yes" if row.converged else "no") + (
        f", {row.diverged} diverged" if row.diverged else ""
    )
    moved = "—" if row.moved is None else f"{row.moved:+.1%}"
    return (
        f"| {row.case} | {row.weights:,} | {known} | {estimate} | {error} | {moved} | {row.chains}"
        f" × {row.draws:,} | {verdict} | {row.seconds:.0f} |"
    )


def summary(rows: list[Row]) -> dict[str, float]:
    """Over the deep linear networks; one whose chains all diverged is infinitely wrong."""
    chosen = [row for row in rows if row.family == "deep linear"]
    errors = [math.inf if row.relative_error is None else abs(row.relative_error) for row in chosen]
    return {"median": statistics.median(errors), "largest": max(errors)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="add 10⁶ weights, and on CUDA 10⁷")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    options = parser.parse_args()
    device = torch.device(options.device)
    print(
        f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads\n\n{HEADER}",
        flush=True,
    )
    started, rows = time.perf_counter(), []
    for case in cases(options.full, device.type == "cuda"):
        rows.append(measure(case, device, options.full))
        print(as_markdown(rows[-1]), flush=True)
    errors = summary(rows)
    print(
        f"\ndeep linear: relative error {errors['median']:.1%} in the median,"
        f" {errors['largest']:.1%} at most"
    )
    print(f"{time.perf_counter() - started:.0f} s in all")
    if options.out:
        about = {
            "torch": torch.__version__,
            "device": str(device),
            "threads": torch.get_num_threads(),
        }
        rows_as_dicts = [asdict(row) for row in rows]
        options.out.write_text(
            json.dumps(
                about | {"deep_linear_relative_error": errors, "rows": rows_as_dicts}, indent=1
            )
            + "\n"
        )


if __name__ == "__main__":
    main()
