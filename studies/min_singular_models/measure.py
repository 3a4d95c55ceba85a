"""Does the sampler find learning coefficients that are known, from minimally singular models to
deep linear networks?

    study = open_study(load_settings("experiments/args_min_singular_models.json"))
    measure_linear(study)  # d weights of which r matter, population and sample loss: λ = r/2
    measure_crossings(study)  # K(w) = Π w_i^{2k_i}
    measure_deep_linear(study)  # reduced-rank regression and deeper, against Aoyagi's formula
    print(finish(study))

Every case is kept as soon as it is there; the same call with the same settings and directory takes
it from there.
"""

import json
import math
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from markupsafe import Markup
from torch import Tensor, nn
from torch.func import grad, vjp, vmap
from tqdm import tqdm

from degeneracy.curvature.largest import largest_curvature
from degeneracy.curvature.operators import Operator
from degeneracy.curvature.spectrum import (
    Spectrum,
    count_above,
    hessian_spectrum,
    rank_threshold,
    spectrum_of,
)
from degeneracy.device import chosen_device
from degeneracy.llc.estimate import estimate_llcs
from degeneracy.llc.settings import SamplerSettings
from degeneracy.llc.statistics import DIVERGED, STEADY, LLCEstimate, chain_verdict
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
from degeneracy.report.page import write_figs_to_html
from degeneracy.runs.store import RunStore
from degeneracy.weights import flattened, named
from studies.min_singular_models.figures import (
    CROSSING,
    DEEP,
    POPULATION,
    SAMPLE,
    findings,
    results_table,
    study_figures,
)
from studies.min_singular_models.settings import LinearSettings, Sampling, Settings

STUDY = Path(__file__).parent / "experiments" / "min_singular_models"
OUTSKIRTS = 10.0  # ε(nβ h + γ) may be so many times larger far from w* than at it
NUM_POINTS = 16  # weights N(w*, 1/γ) at which "far" is looked at
CPU_BUDGET = (
    2**28
)  # bytes for the chains that advance together: small models want hundreds in one tensor
SHOWN_DRAWS = 200  # points of a running mean that are kept


# ---- models and what is expected of them ---------------------------------------------------------


class SparseLinear(nn.Module):
    """y = Σ_{i≤rank} w_i x_i for inputs (batch, d): of `num_weights` d weights the first `rank`
    matter; w* = 0.
    """

    def __init__(self, num_weights: int, rank: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_weights))
        self.rank = rank

    def forward(self, inputs: Float[Tensor, "batch d"]) -> Float[Tensor, " batch"]:
        return inputs[:, : self.rank] @ self.weight[: self.rank]


def half_squared_error(
    outputs: Float[Tensor, " batch"], targets: Float[Tensor, " batch"]
) -> Float[Tensor, ""]:
    """½(output − target)², mean over the batch."""
    return (outputs - targets).square().mean() / 2


def gaussian_llc(
    curvatures: Float[np.ndarray, " k"],
    slopes: Float[np.ndarray, " k"],
    nbeta: float,
    localization: float,
    step_size: float = 0.0,
) -> float:
    """λ̂ = nβ E[L(w) − L(0)] for L(w) = L(0) − Σ b_i w_i + ½ Σ h_i w_i², in the coordinates of H's
    eigenvectors.

    The posterior exp(−nβ L − (γ/2)|w|²) is Gaussian with precision A_i = nβ h_i + γ and mean nβ
    b_i/A_i, so that

        λ̂ = ½ Σ nβ h_i/A_i − nβ² Σ b_i² (½ nβ h_i + γ)/A_i².

    The second sum is how far below L(0) the posterior finds the loss, where w* = 0 is not its
    minimum. Langevin steps ε widen the posterior (see `coefficients.quadratic_llc`) and leave its
    mean.

    Args:
        curvatures: Eigenvalues h_i ≥ 0 of the Hessian.
        slopes: b_i, minus the gradient at 0 along each eigenvector.
        nbeta: nβ > 0.
        localization: γ > 0.
        step_size: ε; 0 is the posterior itself.

    Raises:
        ValueError: As `quadratic_llc`.
    """
    spread = quadratic_llc(curvatures, nbeta, localization, step_size)
    signal = nbeta * curvatures
    return spread - float(
        (nbeta**2 * slopes**2 * (signal / 2 + localization) / (signal + localization) ** 2).sum()
    )


def principal_axes(
    inputs: Float[Tensor, "n r"], targets: Float[Tensor, " n"]
) -> tuple[Float[np.ndarray, " r"], Float[np.ndarray, " r"]]:
    """(h, b) of `gaussian_llc` for the sample loss ½ mean (y − x·w)²: H = XᵀX/n, b = Xᵀy/n in H's
    eigenvectors.
    """
    x, y = inputs.double().cpu().numpy(), targets.double().cpu().numpy()
    curvatures, vectors = np.linalg.eigh(x.T @ x / len(x))
    return curvatures.clip(min=0), vectors.T @ (x.T @ y) / len(x)


def population_hessian(model: Quadratic | NormalCrossing | DeepLinear) -> Operator:
    """The Hessian of the model's `population_loss` at its weights."""
    weights = {name: p.detach() for name, p in model.named_parameters()}
    flat = flattened(weights)
    _, product = vjp(grad(lambda flat: model.population_loss(named(flat, weights))), flat)
    return Operator(vmap(lambda row: product(row)[0]), len(flat), flat.dtype, flat.device)


def langevin_step(
    model: Quadratic | NormalCrossing | DeepLinear, nbeta: float, localization: float, step: float
) -> float:
    """ε = step/(nβ h + γ), h the largest curvature of the population loss at w*; and 10 step/(nβ h
    + γ) where less.

    The second is for the largest h at weights N(w*, 1/γ), where chains may go at most: the only
    bound where the curvature at w* is 0.
    """
    minimum = {name: p.detach() for name, p in model.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    points = [
        {
            name: (
                w + torch.randn(w.shape, generator=generator).to(w.device) / math.sqrt(localization)
            )
            for name, w in minimum.items()
        }
        for _ in range(NUM_POINTS)
    ]
    far = max(largest_curvature(model.population_loss, point) for point in points)
    near = largest_curvature(model.population_loss, minimum)
    return min(
        step / (nbeta * near + localization), OUTSKIRTS * step / (nbeta * far + localization)
    )


# ---- the study -----------------------------------------------------------------------------------


@dataclass
class Study:
    """The study under way: settings, where it keeps its work, device, and what it has found so far."""

    settings: Settings
    store: RunStore
    device: torch.device
    results: dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A loss whose λ is known, with the temperature at which it is sampled."""

    name: str
    family: str  # POPULATION, SAMPLE, CROSSING or DEEP
    number: int  # of all cases of the study: keeps their random numbers apart
    model: nn.Module
    known: LearningCoefficient
    nbeta: float
    localization: float
    sampling: Sampling


def open_study(settings: Settings, out: str | Path | None = None, device: str = "auto") -> Study:
    """Opens the directory, with the cases that an earlier call finished.

    Args:
        settings: From `load_settings`.
        out: Directory; None for `experiments/min_singular_models`. It holds one study: for other
            settings name another.
        device: `"cpu"`, `"cuda"`, or `"auto"` (CUDA where there is one).

    Raises:
        device.DeviceError: CUDA was asked for and there is none.
        runs.store.RunStoreError: The directory cannot be used, or holds a study with other
            settings.
    """
    chosen = chosen_device(device)
    config = settings.model_dump(mode="json")
    store = RunStore(STUDY if out is None else out, config)
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    environment = versions | {"device": chosen.type, "threads": torch.get_num_threads()}
    fresh = {"settings": config, "environment": environment, "cases": {}}
    return Study(settings, store, chosen, store.read_results() or fresh)


def cases(settings: Settings) -> list[Case]:
    """Every case of the study."""
    linear, crossings, deep = settings.linear, settings.normal_crossings, settings.deep_linear
    temperature = linear.resolved_nbeta, linear.localization
    found: list[Case] = []

    def add(name: str, family: str, model: nn.Module, known: LearningCoefficient, *rest) -> None:
        found.append(Case(name, family, len(found), model, known, *rest))

    for rank in linear.ranks:
        flat = linear.num_weights - rank
        model = Quadratic([1.0] * rank + [0.0] * flat)  # E[½(y − x·w)²] − ½σ² = ½ Σ_{i≤r} w_i²
        add(f"population, r = {rank}", POPULATION, model, quadratic(rank), *temperature, linear)
    for rank in linear.ranks:
        add(
            f"sample, r = {rank}",
            SAMPLE,
            SparseLinear(linear.num_weights, rank),
            quadratic(rank),
            *temperature,
            linear,
        )
    for k in crossings.exponents:
        model, known = NormalCrossing(k), normal_crossing(k)
        add(
            _crossing_name(k),
            CROSSING,
            model,
            known,
            crossings.nbeta,
            crossings.localization,
            crossings,
        )
    for network in deep.networks:
        model, known = (
            DeepLinear(network.widths, network.rank),
            deep_linear(network.widths, network.rank),
        )
        name = f"({', '.join(map(str, network.widths))}), r = {network.rank}"
        gamma = math.sqrt(num_parameters(model))
        add(name, DEEP, model, known, deep.nbeta_ratio * gamma, gamma, deep)
    return found


def measure_linear(study: Study) -> None:
    """d weights of which r matter, first with the population loss, then with the loss on a sample."""
    _measure(study, POPULATION)
    _measure(study, SAMPLE)


def measure_crossings(study: Study) -> None:
    """Normal crossings, against quadrature at their nβ and γ."""
    _measure(study, CROSSING)


def measure_deep_linear(study: Study) -> None:
    """Reduced-rank regression and deep linear networks, against λ itself."""
    _measure(study, DEEP)


def finish(study: Study) -> Path:
    """Writes the report of the cases that are there, gives the directory free and returns the
    report's path.
    """
    said = Markup("").join(Markup("<p>{}</p>").format(text) for text in findings(study.results))
    context = Markup("<p>{}</p>").format(_context(study))
    report = study.store.directory / "report.html"
    title = "Learning coefficients that are known, and what SGLD finds"
    write_figs_to_html(
        study_figures(study.results), report, title, said + results_table(study.results) + context
    )
    study.store.close()
    return report


def _measure(study: Study, family: str) -> None:
    every = [case for case in cases(study.settings) if case.family == family]
    todo = [case for case in every if case.name not in study.results["cases"]]
    if len(todo) < len(every):
        count = len(every) - len(todo)
        tqdm.write(
            f"{family}: {count} of {len(every)} finished before, taken from {study.store.directory}"
        )
    for case in tqdm(todo, desc=family, unit="case", leave=False, disable=not todo):
        start = time.perf_counter()
        record = (
            _sample_case(study, case) if case.family == SAMPLE else _population_case(study, case)
        )
        study.results["cases"][case.name] = record | {"seconds": time.perf_counter() - start}
        study.store.write_results(study.results)


def _population_case(study: Study, case: Case) -> dict[str, Any]:
    """A case whose loss is a function of the weights alone."""
    model = case.model.to(study.device)
    nbeta, localization = case.nbeta, case.localization
    epsilon = langevin_step(model, nbeta, localization, case.sampling.step)
    spectrum = spectrum_of(population_hessian(model), **study.settings.spectrum.model_dump())
    expected, with_step = float(case.known.value), None
    if case.family == POPULATION:
        curvatures = model.curvatures.tolist()
        expected, with_step = (
            quadratic_llc(curvatures, nbeta, localization, e) for e in (0.0, epsilon)
        )
    if case.family == CROSSING:
        expected = normal_crossing_llc(model.exponents, nbeta, localization)
    estimate = _sampled(case, model, epsilon, None, population_loss=model.population_loss)
    return _record(case, estimate, spectrum, expected, with_step, epsilon)


def _sample_case(study: Study, case: Case) -> dict[str, Any]:
    """The linear model's loss on n samples, all of them in every draw; expected with the sample's
    own eigenvalues.
    """
    model = case.model.to(study.device)
    nbeta, localization = case.nbeta, case.localization
    inputs, targets = linear_data(study.settings.linear)
    axes = principal_axes(inputs[:, : model.rank], targets)
    epsilon = case.sampling.step / (nbeta * axes[0].max() + localization)
    data = inputs.to(study.device), targets.to(study.device)
    spectrum = hessian_spectrum(
        model,
        half_squared_error,
        data,
        **study.settings.spectrum.model_dump(),
        batch_size=len(inputs),
    )
    expected, with_step = (gaussian_llc(*axes, nbeta, localization, e) for e in (0.0, epsilon))
    estimate = _sampled(
        case, model, epsilon, data, batch_size=len(inputs), loss_fn=half_squared_error
    )
    return _record(case, estimate, spectrum, expected, with_step, epsilon)


def linear_data(settings: LinearSettings) -> tuple[Float[Tensor, "n d"], Float[Tensor, " n"]]:
    """x ~ N(0, 1) and y = noise, since w* = 0; the same for every rank."""
    generator = torch.Generator().manual_seed(settings.seed)
    inputs = torch.randn(settings.num_samples, settings.num_weights, generator=generator)
    return inputs, settings.noise * torch.randn(settings.num_samples, generator=generator)


def _sampled(
    case: Case, model: nn.Module, epsilon: float, data: tuple[Tensor, Tensor] | None, **source
) -> LLCEstimate:
    chosen = case.sampling.model_dump(
        include={"num_chains", "num_draws", "num_burnin_steps", "seed"}
    )
    settings = SamplerSettings(
        nbeta=case.nbeta, localization=case.localization, sampler_lr=float(epsilon), **chosen
    )
    (estimate,) = estimate_llcs(
        model,
        [model.state_dict()],
        data,
        settings,
        checkpoint_ids=[case.number],
        label=case.name,
        memory_budget=CPU_BUDGET if next(model.parameters()).device.type == "cpu" else None,
        **source,
    )
    return estimate


def _record(
    case: Case,
    estimate: LLCEstimate,
    spectrum: Spectrum,
    expected: float,
    with_step: float | None,
    epsilon: float,
) -> dict[str, Any]:
    """What `results.json` holds of a case; `expected` at the finite nβ and γ, λ itself for deep
    linear networks.
    """
    rank = count_above(spectrum, rank_threshold(spectrum))
    finite = estimate.trace[~estimate.diverged].astype(np.float64)
    sampling = case.sampling.model_dump(include={"num_chains", "num_draws", "num_burnin_steps"})
    return {
        "family": case.family,
        "num_weights": num_parameters(case.model),
        "lambda": float(case.known.value),
        "lambda_exact": str(case.known.value),
        "multiplicity": case.known.multiplicity,
        "hessian_rank": rank._asdict(),
        "expected": expected,
        "expected_with_step": (
            with_step
        ),  # of the stationary law of Langevin steps; null where it is not known
        "llc": estimate.llc,
        "std_error": estimate.std_error,
        "drift": estimate.drift,
        # Of the mean over chains: it sees a rise that a single chain's noise hides.
        "verdict": chain_verdict(finite.mean(axis=0)) if len(finite) else DIVERGED,
        "num_unsteady_chains": sum(
            verdict not in (STEADY, DIVERGED) for verdict in estimate.chain_verdicts
        ),
        "num_diverged_chains": int(estimate.diverged.sum()),
        "ess": estimate.ess,
        "acceptance": estimate.mean_acceptance,
        "nbeta": case.nbeta,
        "localization": case.localization,
        "step_size": float(epsilon),
        **sampling,
        "running_mean": _running_mean(estimate),
    }


def _running_mean(estimate: LLCEstimate) -> dict[str, list]:
    """λ̂ over the chains that stayed finite from their first 1, 2, … draws, at draws that are
    evenly spread in log.
    """
    means = estimate.running_means()[~estimate.diverged]
    if not len(means):
        return {"draw": [], "llc": []}
    draws = np.unique(np.geomspace(1, means.shape[1], SHOWN_DRAWS).round().astype(int))
    return {"draw": draws.tolist(), "llc": means.mean(axis=0)[draws - 1].tolist()}


def _crossing_name(exponents: Sequence[int]) -> str:
    """`w₁² w₂⁴` for (1, 2)."""
    below, above = (
        str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"),
        str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"),
    )
    powers = (
        f"w{str(i).translate(below)}{str(2 * k).translate(above)}"
        for i, k in enumerate(exponents, start=1)
    )
    return " ".join(powers)


def _context(study: Study) -> str:
    settings = "; ".join(f"{k} {json.dumps(v)}" for k, v in study.results["settings"].items())
    seconds = sum(record["seconds"] for record in study.results["cases"].values())
    return (
        f"Settings: {settings}. Computed with {json.dumps(study.results['environment'])} in"
        f" {seconds:.0f} s."
    )
