"""Does `auto` find the learning coefficients that are known? One rule, every case reported.

    .venv/bin/python benchmarks/llc_accuracy.py [--full] [--weights N] [--device cuda]
        [--out FILE.json]

The rule sees the number of weights d and nothing else:

    γ = √d. The random weights that γ alone allows, N(0, 1/γ), give a square layer a norm of order 1
        whatever its size.
    Coordinates, step, burn-in, draws and 8 chains are what `auto` finds; "at rest" is its
        certificate. Models of fewer than ten weights get 512 chains, so that errors are small.

Quadratics and normal crossings are judged against their values at finite (nβ, γ), nβ = 100 γ:
`quadratic_llc`, and quadrature. Deep linear networks (two layers: reduced-rank regression) are
judged against λ itself, by λ̂ at nβ = 1,000 γ and 10,000 γ extrapolated to nβ → ∞ as if what is
missing falls with (γ/nβ)^½: the share of singular values below (γ/nβ)^½, where their density does
not vanish. At multiplicity m it falls more slowly, with (m − 1)/ln nβ, which is not corrected.
`--full` adds 10⁶ weights (two chains), and on CUDA 10⁷; `--weights` leaves out larger cases.
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
from degeneracy.llc.statistics import LLCEstimate
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

RATIO, RATIOS = 100.0, (1_000.0, 10_000.0)  # nβ/γ: of one estimate, of two to be extrapolated
MISSING = math.sqrt(RATIOS[0] / RATIOS[1])  # at the second of them, of what is missing at the first
FEW_WEIGHTS, MANY_CHAINS = 10, 512
BATCH = 128  # the m of nβ, which is given
HUGE, FEW_CHAINS = 500_000, 2
FULL_BATCH, MINIBATCHES = 500, 5000  # samples of the cases with data; `auto`'s minibatch is 512


@dataclass(frozen=True)
class Case:
    """A loss with known learning coefficient; `target` is a function of (nβ, γ)."""

    name: str
    family: str
    model: nn.Module
    known: LearningCoefficient
    target: Callable[[float, float], float]
    num_samples: int | None = None  # of a noise-free teacher's data; None: the population loss


@dataclass(frozen=True)
class Row:
    """What is reported of a case."""

    case: str
    family: str
    weights: int
    target: float
    learning_coefficient: float
    multiplicity: int
    by_ratio: dict[str, float]  # nβ/γ → λ̂
    llc: float  # of deep linear networks extrapolated
    std_error: float
    relative_error: float
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


def linear_case(widths: tuple[int, ...], rank: int, num_samples: int | None = None) -> Case:
    known = deep_linear(widths, rank)
    name = f"{widths}, r = {rank}".replace(" ", "").replace(",r=", ", r = ")
    if num_samples is not None:
        name += f", {num_samples:,} samples"
    return Case(
        name,
        "deep linear",
        DeepLinear(widths, rank),
        known,
        lambda *_: float(known.value),
        num_samples,
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
        linear_case((8, 6, 8), 3, FULL_BATCH),
        linear_case((8, 6, 8), 3, MINIBATCHES),
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
    localization, known = math.sqrt(num_parameters(model)), case.known
    started = time.perf_counter()
    ratios = RATIOS if case.family == "deep linear" else (RATIO,)
    found = [
        sampled(case, model, localization, ratio * localization, seed)
        for seed, ratio in enumerate(ratios)
    ]
    last, llc, error = found[-1], found[-1].llc, found[-1].std_error
    if len(found) > 1:
        share = MISSING / (1 - MISSING)
        llc = last.llc + share * (last.llc - found[0].llc)
        error = math.hypot((1 + share) * last.std_error, share * found[0].std_error)
    proof, target = last.certificates, case.target(last.nbeta, localization)
    return Row(
        case=case.name,
        family=case.family,
        weights=num_parameters(model),
        target=target,
        learning_coefficient=float(known.value),
        multiplicity=known.multiplicity,
        by_ratio={f"{ratio:g}": e.llc for ratio, e in zip(ratios, found, strict=True)},
        llc=llc,
        std_error=error,
        relative_error=llc / target - 1,
        at_rest=all(bool(e.certificates.is_at_rest) for e in found),
        rhat=proof.rhat,
        burn_in=proof.num_burnin_steps,
        draws=proof.num_draws,
        chains=len(last.trace),
        diverged=sum(int(e.diverged.sum()) for e in found),
        nbeta=last.nbeta,
        localization=localization,
        coordinates=proof.coordinates,
        step=proof.step,
        seconds=time.perf_counter() - started,
    )


def sampled(
    case: Case, model: nn.Module, localization: float, nbeta: float, seed: int = 0
) -> LLCEstimate:
    """The estimate at one temperature."""
    device = next(model.parameters()).device
    if case.num_samples is None:
        data, source = None, {"population_loss": model.population_loss}
    else:
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(case.num_samples, model.true_map.shape[1], generator=generator).to(
            device
        )
        data = inputs, inputs @ model.true_map.T
        source = {"batch_size": BATCH, "loss_fn": half_squared_error}
    size = num_parameters(model)
    chains = {"num_chains": MANY_CHAINS} if size < FEW_WEIGHTS else {}
    chains |= {"num_chains": FEW_CHAINS} if size > HUGE else {}
    settings = SamplerSettings(localization=localization, nbeta=nbeta, seed=seed, **chains)
    states = [model.state_dict()]
    return estimate_llcs(model, states, data, settings, label=case.name, **source)[0]


HEADER = (
    "| case | weights | target | λ, m | λ̂ at each nβ/γ | λ̂ ± standard error | error | at rest,"
    " R-hat | burn-in + draws, chains | coordinates, h | seconds |\n" + "| --- " * 11 + "|"
)


def as_markdown(row: Row) -> str:
    each = ", ".join(f"{llc:.4g}" for llc in row.by_ratio.values())
    errors = abs(row.llc - row.target) / row.std_error
    rest = ("yes" if row.at_rest else "no") + (f", {row.rhat:.3f}" if row.rhat else "")
    return (
        f"| {row.case} | {row.weights:,} | {row.target:.5g} | {row.learning_coefficient:g},"
        f" {row.multiplicity} | {each} | {row.llc:.5g} ± {row.std_error:.2g} |"
        f" {row.relative_error:+.1%}, {errors:.1f} σ | {rest} | {row.burn_in:,} + {row.draws:,},"
        f" {row.chains} | {row.coordinates}, {row.step:.2g} | {row.seconds:.0f} |"
    )


def summary(rows: list[Row]) -> dict[str, float]:
    """Over the deep linear networks."""
    chosen = [abs(row.relative_error) for row in rows if row.family == "deep linear"]
    return {"median": statistics.median(chosen), "largest": max(chosen)} if chosen else {}


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
    if errors:
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
