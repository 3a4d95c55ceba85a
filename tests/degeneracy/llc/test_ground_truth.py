"""Does the batched sampler find learning coefficients that are known? `benchmarks/llc_accuracy.py`
is the full answer.

Where the value at finite (nβ, γ) is known, chains must agree with it within sampling error plus the
error of the Langevin step. Every direction of curvature h contributes too much by a factor 1/(1 −
εA/4), A = nβ h + γ: at most `step_bias`, where ε is chosen for the largest curvature that chains
meet.
"""

import math

import pytest
import torch

from degeneracy.llc.estimate import estimate_llcs
from degeneracy.llc.settings import SamplerSettings
from degeneracy.models.coefficients import deep_linear, normal_crossing_llc, quadratic_llc
from degeneracy.models.known import DeepLinear, NormalCrossing, Quadratic

ERRORS = (
    4.0  # standard errors that an estimate may be away: one estimate in ten thousand is further
)


def sample(model, nbeta, localization, epsilon, draws, burn_in, chains=8, data=None, **source):
    settings = SamplerSettings(
        sampler="sgld",
        num_chains=chains,
        num_draws=draws,
        num_burnin_steps=burn_in,
        localization=localization,
        nbeta=nbeta,
        sampler_lr=epsilon,
        backend="batched",
    )
    source = source or {"population_loss": model.population_loss}
    (estimate,) = estimate_llcs(model, [model.state_dict()], data, settings, **source)
    assert not estimate.diverged.any()
    return estimate


def half_squared_error(outputs, targets):
    return 0.5 * (outputs - targets).square().sum(1).mean()


def step_bias(c):
    """Largest relative error of the step, c = ε(nβ h + γ) at the largest curvature."""
    return 1 / (1 - c / 4) - 1


# Quadratic


@pytest.mark.parametrize("c", [0.1, 1.0, 2.5])
def test_quadratic_with_spread_curvatures_step_included(c):
    """At c = 2.5 the steepest direction contributes 2.7 times what it does for small steps."""
    curvatures = torch.logspace(-1.5, 0, 40).tolist()
    nbeta, localization = 1000.0, 20.0
    epsilon = c / (nbeta * max(curvatures) + localization)
    estimate = sample(
        Quadratic(curvatures), nbeta, localization, epsilon, draws=2500, burn_in=int(300 / c)
    )
    expected = quadratic_llc(curvatures, nbeta, localization, epsilon)
    assert abs(estimate.llc - expected) < ERRORS * estimate.std_error
    assert estimate.std_error < 0.03 * expected  # so that the sentence above says something
    if c == 2.5:
        assert (
            estimate.llc > quadratic_llc(curvatures, nbeta, localization) + 10 * estimate.std_error
        )


def test_flat_directions_of_a_quadratic_contribute_nothing():
    curvatures = [1.0] * 20 + [0.0] * 80
    epsilon = 0.1 / 1010
    estimate = sample(Quadratic(curvatures), 1000.0, 10.0, epsilon, draws=2000, burn_in=200)
    assert (
        abs(estimate.llc - quadratic_llc(curvatures, 1000.0, 10.0, epsilon))
        < ERRORS * estimate.std_error
    )


# Normal crossings, against quadrature


@pytest.mark.parametrize(
    ("exponents", "nbeta", "epsilon"),
    [((1,), 100.0, 1e-3), ((2,), 100.0, 2e-3), ((2, 1), 30.0, 4e-3), ((1, 1, 1), 30.0, 4e-3)],
)
def test_normal_crossings(exponents, nbeta, epsilon):
    """One weight: ε(nβ h + γ) is 0.2 at h = 2 (K = w²) and less at ⟨w⁴⟩ = 1/4nβ (K = w⁴). Several:
    below 0.1 where the other weights have w² = 1/γ. The rare draws far out have more; what the step
    does to them is not bounded.

    γ = 3 forgets w* within 2/(εγ) steps; burn-in lasts three times that.
    """
    localization = 3.0
    burn_in = int(3 * 2 / (epsilon * localization))
    estimate = sample(
        NormalCrossing(exponents),
        nbeta,
        localization,
        epsilon,
        draws=3000,
        burn_in=burn_in,
        chains=32,
    )
    expected = normal_crossing_llc(exponents, nbeta, localization)
    assert abs(estimate.llc - expected) < ERRORS * estimate.std_error + step_bias(0.2) * expected
    assert estimate.std_error < 0.06 * expected


# Deep linear networks, against Aoyagi's formula

NBETA, LOCALIZATION, STEP = 600.0, 3.0, 0.1
# of finite nβ, γ and ε together: the step makes λ̂ larger, by `step_bias(STEP)` at most, γ smaller
BIAS = 0.05


def teacher(widths, rank, num_samples=500, whiten=False):
    """A network at the teacher's weights, and data of that teacher, without noise."""
    model = DeepLinear(widths, rank)
    inputs = torch.randn(
        num_samples, widths[0], generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    if whiten:
        inputs = torch.linalg.qr(inputs).Q * math.sqrt(num_samples)  # XᵀX/n = 1
    inputs = inputs.float()
    return model, (inputs, inputs @ model.true_map.T)


def small_step(model):
    """ε for the largest curvature at w*, which is the number of layers."""
    return STEP / (NBETA * len(model.layers) + LOCALIZATION)


@pytest.mark.parametrize(
    ("widths", "rank"),
    [
        ((5, 3, 5), 3),  # regular
        ((6, 6, 6), 2),  # reduced-rank regression
        ((6, 6, 6, 6), 3),
    ],
)
def test_deep_linear_networks(widths, rank):
    model = DeepLinear(widths, rank)
    known = deep_linear(widths, rank)
    assert known.multiplicity == 1  # else the finite-nβ value is lower by about (m − 1)/ln nβ
    estimate = sample(model, NBETA, LOCALIZATION, small_step(model), draws=3000, burn_in=1500)
    assert abs(estimate.llc - known.value) < ERRORS * estimate.std_error + BIAS * known.value
    assert estimate.std_error < 0.03 * known.value
    half_the_weights = sum(p.numel() for p in model.parameters()) / 2
    # it is the singularity that is seen, not the number of weights
    assert estimate.llc < 0.8 * half_the_weights


@pytest.mark.parametrize("batch_size", [500, 50])
def test_reduced_rank_regression_from_data(batch_size):
    """Noise-free targets have no gradient noise at w*: minibatches add little."""
    model, data = teacher((6, 4, 6), 2)
    known = deep_linear((6, 4, 6), 2)
    assert known.multiplicity == 1
    estimate = sample(
        model,
        NBETA,
        LOCALIZATION,
        small_step(model),
        draws=3000,
        burn_in=1500,
        data=data,
        batch_size=batch_size,
        loss_fn=half_squared_error,
    )
    assert abs(estimate.llc - known.value) < ERRORS * estimate.std_error + BIAS * known.value
    assert estimate.std_error < 0.03 * known.value


def test_whitened_data_in_full_batches_are_the_population_loss():
    """XᵀX/n = 1 makes the two losses one function, and the noise is the same: draw for draw the
    same chains.
    """
    model, data = teacher((6, 5, 6, 4), 2, whiten=True)
    run = {
        "nbeta": NBETA,
        "localization": LOCALIZATION,
        "epsilon": small_step(model),
        "draws": 200,
        "burn_in": 0,
    }
    population = sample(model, **run)
    from_data = sample(model, **run, data=data, batch_size=500, loss_fn=half_squared_error)
    scale = population.trace.mean()
    torch.testing.assert_close(
        torch.from_numpy(from_data.trace),
        torch.from_numpy(population.trace),
        rtol=0,
        atol=float(1e-3 * scale),
    )
