"""Does `auto` find the learning coefficients that are known? One rule, every case reported.

    .venv/bin/python benchmarks/llc_accuracy.py [--full] [--weights N] [--device cuda]
        [--out FILE.json]

The rule sees the number of weights d and nothing else:

    γ = √d, nβ = 100 γ. The random weights that γ alone allows, N(0, 1/γ), give a square layer a
        norm of order 1 whatever its size. The bias of a finite temperature falls with nβ/γ, and the
        steps to rest grow with it: 12 relaxation times of L layers are 48 L nβ/γ of them, and 100
        is the largest round ratio at which four layers come to rest in the 20,000 that `auto`
        takes at most.
    Coordinates, step, burn-in, draws and 8 chains are what `auto` finds; "at rest" is its
        certificate.

Targets are the values at finite (nβ, γ) where they can be computed: `quadratic_llc`, and
quadrature for normal crossings. Deep linear networks (two layers: reduced-rank regression) are
judged against λ itself, uncorrected; at multiplicity m the finite-nβ value is lower, by about
(m − 1)/ln nβ, which is printed beside it. `--full` adds 10⁶ weights, and on CUDA 10⁷; `--weights`
leaves out larger cases.
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

from degeneracy.llc.estimate import estimate_llcs
from degeneracy.llc.settings import SamplerSettings
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

TEMPERATURE_RATIO = 100.0  # nβ/γ
NUM_SAMPLES = 500  # of the cases with data


@dataclass(frozen=True)
class Case:
    """A loss with known learning coefficient; `target` is a function of (nβ, γ)."""

    name: str
    family: str
    model: nn.Module
    known: LearningCoefficient
    target: Callable[[float, float], float]
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
    at_rest: bool
    rhat: float | None  # of the losses
    burn_in: int
    draws: int
    chains: int
    diverged: int
    nbeta: float
    localization: float
    coordinates: str
    step: float
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
        lambda nbeta, localization: quadratic_llc(curvatures, nbeta, localization),
    )


def crossing_case(*exponents: int) -> Case:
    name = " ".join(f"w{i}^{2 * k}" for i, k in enumerate(exponents, 1))
    return Case(
        name,
        "normal crossing",
        NormalCrossing(exponents),
        normal_crossing(exponents),
        lambda nbeta, localization: normal_crossing_llc(exponents, nbeta, localization),
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


def measure(case: Case, device: torch.device) -> Row:
    """Samples one case by the rule."""
    model = case.model.to(device)
    num_weights = num_parameters(model)
    localization = math.sqrt(num_weights)
    nbeta = TEMPERATURE_RATIO * localization
    started = time.perf_counter()
    if case.batch_size is None:
        data, source = None, {"population_loss": model.population_loss}
    else:
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(NUM_SAMPLES, model.true_map.shape[1], generator=generator).to(device)
        data = inputs, inputs @ model.true_map.T
        source = {"batch_size": case.batch_size, "loss_fn": half_squared_error}
    settings = SamplerSettings(
        localization=localization, nbeta=nbeta, sampler_batch_size=case.batch_size
    )
    (estimate,) = estimate_llcs(
        model, [model.state_dict()], data, settings, label=case.name, **source
    )
    target, known, found = case.target(nbeta, localization), case.known, estimate.certificates
    return Row(
        case=case.name,
        family=case.family,
        weights=num_weights,
        target=target,
        learning_coefficient=float(known.value),
        multiplicity=known.multiplicity,
        corrected=float(known.value) - (known.multiplicity - 1) / math.log(nbeta),
        llc=estimate.llc,
        std_error=estimate.std_error,
        relative_error=None if estimate.llc is None else estimate.llc / target - 1,
        at_rest=bool(found.is_at_rest),
        rhat=found.rhat,
        burn_in=found.num_burnin_steps,
        draws=found.num_draws,
        chains=settings.num_chains,
        diverged=int(estimate.diverged.sum()),
        nbeta=nbeta,
        localization=localization,
        coordinates=found.coordinates,
        step=found.step,
        seconds=time.perf_counter() - started,
    )


HEADER = (
    "| case | weights | target | λ | m | λ − (m−1)/ln nβ | λ̂ ± standard error | error | at rest,"
    " R-hat | burn-in + draws | coordinates, e | seconds |\n" + "| --- " * 12 + "|"
)


def as_markdown(row: Row) -> str:
    estimate, error = "diverged", "—"
    if row.llc is not None:
        estimate, error = f"{row.llc:.5g} ± {row.std_error:.2g}", f"{row.relative_error:+.1%}"
    known = (
        f"{row.target:.5g} | {row.learning_coefficient:g} | {row.multiplicity} |"
        f" {row.corrected:.5g}"
    )
    rest = ("yes" if row.at_rest else "no") + (f", {row.rhat:.3f}" if row.rhat else "")
    return (
        f"| {row.case} | {row.weights:,} | {known} | {estimate} | {error} | {rest} |"
        f" {row.burn_in:,} + {row.draws:,} | {row.coordinates}, {row.step:.2g} |"
        f" {row.seconds:.0f} |"
    )


def summary(rows: list[Row]) -> dict[str, float]:
    """Over the deep linear networks; one whose chains all diverged is infinitely wrong."""
    chosen = [row for row in rows if row.family == "deep linear"]
    errors = [math.inf if row.relative_error is None else abs(row.relative_error) for row in chosen]
    return {"median": statistics.median(errors), "largest": max(errors)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="add 10⁶ weights, and on CUDA 10⁷")
    parser.add_argument("--weights", type=int, default=10**8, help="leave out larger cases")
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
        if num_parameters(case.model) > options.weights:
            continue
        rows.append(measure(case, device))
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
