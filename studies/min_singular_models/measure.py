"""What does SGLD find, case by case, where λ is known?

A case's record holds the estimate with its error and verdict, what is expected at the case's nβ and
γ, and the rank of the Hessian at w*.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from degeneracy.curvature.spectrum import (
    Spectrum,
    count_above,
    hessian_spectrum,
    rank_threshold,
    spectrum_of,
)
from degeneracy.llc.estimate import estimate_llcs
from degeneracy.llc.settings import SamplerSettings
from degeneracy.llc.statistics import DIVERGED, STEADY, LLCEstimate, chain_verdict
from degeneracy.models.coefficients import normal_crossing_llc, quadratic_llc
from degeneracy.models.networks import num_parameters
from degeneracy.runs.work import Measured, Work
from studies.min_singular_models.cases import (
    CROSSING,
    DEEP,
    POPULATION,
    SAMPLE,
    Case,
    cases,
    half_squared_error,
    linear_data,
)
from studies.min_singular_models.expected import (
    gaussian_llc,
    langevin_step,
    population_hessian,
    principal_axes,
)
from studies.min_singular_models.settings import Settings

# Bytes for the chains that advance together: small models want hundreds in one tensor.
CPU_BUDGET = 2**28
SHOWN_DRAWS = 200  # points of a running mean that are kept


class Aim(NamedTuple):
    """What an estimate is compared with, and the Langevin step that it is made with."""

    expected: float  # at the finite nβ and γ; λ itself for deep linear networks
    with_step: float | None  # of the stationary law of Langevin steps; None where it is not known
    epsilon: float


def measure_linear(work: Work) -> Measured:
    """d weights of which r matter, first the population loss, then the loss on a sample."""
    return _records(work, POPULATION, SAMPLE)


def measure_crossings(work: Work) -> Measured:
    """Normal crossings, against quadrature at their nβ and γ."""
    return _records(work, CROSSING)


def measure_deep_linear(work: Work) -> Measured:
    """Reduced-rank regression and deep linear networks, against λ itself."""
    return _records(work, DEEP)


def _records(work: Work, *families: str) -> Measured:
    named = {case.name: case for case in cases(work.settings) if case.family in families}
    for name in work.todo(named):
        measured = _sample_case if named[name].family == SAMPLE else _population_case
        yield name, measured(named[name], work.settings, work.device)


def _population_case(case: Case, settings: Settings, device: torch.device) -> dict[str, Any]:
    """A case whose loss is a function of the weights alone."""
    model = case.model.to(device)
    aim = _population_aim(case, langevin_step(model, *_temperature(case), case.sampling.step))
    spectrum = spectrum_of(population_hessian(model), **settings.spectrum.model_dump())
    estimate = _sampled(case, model, aim.epsilon, None, population_loss=model.population_loss)
    return _record(case, aim, spectrum, estimate)


def _population_aim(case: Case, epsilon: float) -> Aim:
    if case.family == POPULATION:
        curvatures = case.model.curvatures.tolist()
        exact, stepped = (quadratic_llc(curvatures, *_temperature(case), e) for e in (0.0, epsilon))
        return Aim(exact, stepped, epsilon)
    if case.family == CROSSING:
        integral = normal_crossing_llc(case.model.exponents, *_temperature(case))
        return Aim(integral, None, epsilon)
    return Aim(float(case.known.value), None, epsilon)


def _sample_case(case: Case, settings: Settings, device: torch.device) -> dict[str, Any]:
    """The linear model's loss on n samples, all of them in every draw; expected with the sample's
    own eigenvalues.
    """
    model = case.model.to(device)
    inputs, targets = linear_data(settings.linear)
    axes = principal_axes(inputs[:, : model.rank], targets)
    epsilon = case.sampling.step / (case.nbeta * axes[0].max() + case.localization)
    exact, stepped = (gaussian_llc(*axes, *_temperature(case), e) for e in (0.0, epsilon))
    data, whole = (inputs.to(device), targets.to(device)), {"batch_size": len(inputs)}
    how = settings.spectrum.model_dump()
    spectrum = hessian_spectrum(model, half_squared_error, data, **how, **whole)
    estimate = _sampled(case, model, epsilon, data, loss_fn=half_squared_error, **whole)
    return _record(case, Aim(exact, stepped, epsilon), spectrum, estimate)


def _temperature(case: Case) -> tuple[float, float]:
    return case.nbeta, case.localization


def _sampled(
    case: Case, model: nn.Module, epsilon: float, data: tuple[Tensor, Tensor] | None, **source
) -> LLCEstimate:
    chosen = case.sampling.model_dump(
        include={"num_chains", "num_draws", "num_burnin_steps", "seed"}
    )
    settings = SamplerSettings(
        sampler="sgld",
        nbeta=case.nbeta,
        localization=case.localization,
        sampler_lr=float(epsilon),
        **chosen,
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


def _record(case: Case, aim: Aim, spectrum: Spectrum, estimate: LLCEstimate) -> dict[str, Any]:
    """What `results.json` holds of a case."""
    rank = count_above(spectrum, rank_threshold(spectrum))
    return {
        "family": case.family,
        "num_weights": num_parameters(case.model),
        "lambda": float(case.known.value),
        "lambda_exact": str(case.known.value),
        "multiplicity": case.known.multiplicity,
        "hessian_rank": rank._asdict(),
        "expected": aim.expected,
        "expected_with_step": aim.with_step,
        **_found(estimate),
        "nbeta": case.nbeta,
        "localization": case.localization,
        "step_size": float(aim.epsilon),
        **case.sampling.model_dump(include={"num_chains", "num_draws", "num_burnin_steps"}),
        "running_mean": _running_mean(estimate),
    }


def _found(estimate: LLCEstimate) -> dict[str, Any]:
    """An estimate's numbers."""
    finite = estimate.trace[~estimate.diverged].astype(np.float64)
    moving = [verdict not in (STEADY, DIVERGED) for verdict in estimate.chain_verdicts]
    return {
        "llc": estimate.llc,
        "std_error": estimate.std_error,
        "drift": estimate.drift,
        # Of the mean over chains: it sees a rise that a single chain's noise hides.
        "verdict": chain_verdict(finite.mean(axis=0)) if len(finite) else DIVERGED,
        "num_unsteady_chains": sum(moving),
        "num_diverged_chains": int(estimate.diverged.sum()),
        "ess": estimate.ess,
        "acceptance": estimate.mean_acceptance,
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
