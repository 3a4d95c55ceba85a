"""LLC estimates: against exact values, devinterp's own function, and what an estimate promises."""

import copy
import dataclasses
import math
import warnings

import numpy as np
import pytest
import torch
from devinterp.slt.sampler import estimate_learning_coeff_with_summary
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, TensorDataset

from experiment_config import SamplerSettings
from llc import estimate_llcs, resolve_nbeta, summarise

FAST = SamplerSettings(num_chains=2, num_draws=50)


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    return model, (torch.randn(400, 6), torch.randint(3, (400,)))


def quadratic(dim: int = 12, num_samples: int = 4000):
    """Noise-free linear regression at its minimum: L(w) = ½ Σ over eigen-directions h_i w_i², h_i those of XᵀX/n."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(num_samples, dim, generator=generator)
    model = nn.Linear(dim, 1, bias=False)
    nn.init.zeros_(model.weight)
    curvatures = torch.linalg.eigvalsh(inputs.T @ inputs / num_samples).double().numpy()
    return model, (inputs, torch.zeros(num_samples, 1)), curvatures


def half_mse(outputs, targets):
    return 0.5 * mse_loss(outputs, targets)


@pytest.mark.parametrize("localization", [0.0, 300.0, 3000.0])
def test_sgld_near_a_quadratic_minimum_gives_the_finite_temperature_value(localization):
    """λ̂ = ½ Σ nβ h / (A (1 − εA/4)) with A = nβ h + γ: the stationary variance of w ← (1 − εA/2) w + N(0, ε)."""
    model, data, h = quadratic()
    nbeta, epsilon = 1000.0, 1e-4
    settings = SamplerSettings(
        num_chains=4, num_draws=1500, num_burnin_steps=200, localization=localization, sampler_lr=epsilon, nbeta=nbeta
    )
    (estimate,) = estimate_llcs(model, [model.state_dict()], data, settings, batch_size=1000, loss_fn=half_mse)
    a = nbeta * h + localization
    expected = 0.5 * (nbeta * h / (a * (1 - epsilon * a / 4))).sum()
    assert estimate.init_loss == 0.0  # devinterp's own front end would replace a loss of exactly 0
    assert abs(estimate.llc - expected) < 4 * estimate.std_error
    assert estimate.std_error < 0.07 * expected
    assert abs(estimate.drift) < 4 * estimate.std_error


@pytest.mark.parametrize(
    ("sampler", "settings"),
    [
        ("sgnht", {"sampler_lr": 1e-5, "diffusion_factor": 0.1}),
        ("rmsprop_sgld", {"sampler_lr": 1e-5, "localization": 0.0}),
    ],
)
def test_other_samplers_give_half_the_dimension_without_localisation(sampler, settings):
    """λ = d/2 for a regular model; both samplers keep a bias of order √ε and ε, hence the 10 %."""
    model, data, _ = quadratic()
    settings = SamplerSettings(
        sampler=sampler, num_chains=4, num_draws=1500, num_burnin_steps=500, nbeta=1000.0, **settings
    )
    (estimate,) = estimate_llcs(model, [model.state_dict()], data, settings, batch_size=1000, loss_fn=half_mse)
    assert abs(estimate.llc - 6.0) < 4 * estimate.std_error + 0.6


def test_agrees_with_devinterps_own_function(classifier):
    """Same settings, same L(w*): the two differ by sampling error only."""
    model, (inputs, targets) = classifier
    settings = SamplerSettings(num_chains=4, num_draws=600, num_burnin_steps=100, sampler_lr=1e-3)
    (ours,) = estimate_llcs(model, [model.state_dict()], (inputs, targets), settings, batch_size=100)
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=100, shuffle=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = estimate_learning_coeff_with_summary(
            copy.deepcopy(model), loader, evaluate=lambda m, batch: cross_entropy(m(batch[0]), batch[1]),
            optimizer_kwargs={"lr": 1e-3, "localization": 100.0, "nbeta": ours.nbeta}, num_draws=600, num_chains=4,
            num_burnin_steps=100, init_loss=ours.init_loss, seed=7, verbose=False,
        )  # fmt: skip
    errors = summarise(theirs["loss/trace"], ours.init_loss, ours.nbeta, 400)
    assert theirs["llc/mean"] == pytest.approx(errors.llc, rel=1e-4)
    assert abs(ours.llc - errors.llc) < 4 * math.hypot(ours.std_error, errors.std_error)


def test_the_estimate_is_what_its_trace_says(classifier):
    model, data = classifier
    (e,) = estimate_llcs(model, [model.state_dict()], data, FAST, batch_size=100)
    assert e.trace.shape == (2, 50)
    assert e.nbeta == pytest.approx(100 / math.log(100))
    assert e.init_loss == pytest.approx(cross_entropy(model(data[0]), data[1]).item(), rel=1e-6)
    mean = e.trace.astype(np.float64).mean()
    assert e.llc == pytest.approx(e.nbeta * (mean - e.init_loss))
    assert e.wbic == pytest.approx(400 * mean)
    assert e.wbic_std_error == pytest.approx(e.std_error * 400 / e.nbeta)
    assert e.drift == pytest.approx(e.nbeta * (e.trace[:, 25:].astype(np.float64).mean() - mean))
    assert not e.diverged.any()


def test_random_numbers_belong_to_the_checkpoint_not_to_the_grouping(classifier):
    model, data = classifier
    first = model.state_dict()
    second = {name: tensor + 0.1 for name, tensor in first.items()}
    both = estimate_llcs(model, [first, None, second], data, FAST, 100, checkpoint_ids=[4, 5, 6])
    (alone,) = estimate_llcs(model, [second], data, FAST, 100, checkpoint_ids=[6])
    (other,) = estimate_llcs(model, [second], data, FAST, 100, checkpoint_ids=[7])
    assert both[1] is None
    np.testing.assert_array_equal(both[2].trace, alone.trace)
    assert not np.array_equal(alone.trace, other.trace)
    assert not np.array_equal(alone.trace[0], alone.trace[1])  # chains differ


def test_the_seed_decides_and_nothing_else_is_touched(classifier):
    model, data = classifier
    state, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    checkpoint = {name: tensor + 0.1 for name, tensor in state.items()}
    seeds = [FAST.model_copy(update={"seed": seed}) for seed in (0, 0, 1)]
    a, b, c = (estimate_llcs(model, [checkpoint], data, s, 100)[0] for s in seeds)
    np.testing.assert_array_equal(a.trace, b.trace)
    assert not np.array_equal(a.trace, c.trace)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_chains_that_diverge_are_counted_and_nothing_is_raised(classifier):
    model, data = classifier
    settings = SamplerSettings(num_chains=2, num_draws=200, sampler_lr=1e8)
    (e,) = estimate_llcs(model, [model.state_dict()], data, settings, batch_size=100)
    assert e.diverged.tolist() == [True, True]
    assert (e.llc, e.std_error, e.drift, e.wbic, e.rhat) == (None,) * 5
    assert np.isfinite(e.trace[:, 0]).all()  # what was drawn before is kept


def test_a_diverged_chain_leaves_the_others_numbers_alone():
    good = np.random.default_rng(0).normal(1.0, 0.1, size=(3, 100)).astype(np.float32)
    bad = np.concatenate([np.ones((1, 40)), np.full((1, 60), np.nan)], axis=1).astype(np.float32)
    alone = summarise(good, 0.9, 20.0, 500)
    beside = summarise(np.concatenate([good[:1], bad, good[1:]]), 0.9, 20.0, 500)
    assert beside.diverged.tolist() == [False, True, False, False]
    for name in ("llc", "std_error", "drift", "wbic", "wbic_std_error", "rhat", "ess"):
        assert getattr(beside, name) == getattr(alone, name)


def test_the_standard_error_is_right_for_white_noise_and_for_an_autoregression():
    """AR(1) with coefficient φ: the mean of N draws has variance σ²(1 + φ)/(1 − φ)/N for stationary variance σ²."""
    rng = np.random.default_rng(1)
    chains, draws = 8, 4000
    for phi in (0.0, 0.9):
        noise = rng.normal(size=(chains, draws + 500)) * math.sqrt(1 - phi**2)
        x = np.zeros_like(noise)
        for t in range(1, draws + 500):
            x[:, t] = phi * x[:, t - 1] + noise[:, t]
        expected = 10.0 * math.sqrt((1 + phi) / (1 - phi) / (chains * draws))
        error = summarise(x[:, 500:], 0.0, 10.0, 100).std_error
        # Larger of two: never much below; the one between 8 chains has a relative deviation of 1/√14.
        assert 0.8 * expected < error < 2.1 * expected


def test_chains_that_disagree_set_the_error():
    trace = np.random.default_rng(0).normal(0, 0.01, size=(2, 500)) + np.array([[0.0], [1.0]])
    assert summarise(trace, 0.0, 1.0, 100).std_error >= 0.5 * 0.99  # std of (0, 1) over √2


def test_one_short_chain_has_no_error_and_says_so():
    estimate = summarise(np.array([[1.0, 1.1, 0.9]]), 0.5, 2.0, 10)
    assert estimate.llc == pytest.approx(1.0)
    assert estimate.std_error is None
    assert estimate.wbic_std_error is None


def test_nbeta_by_name_and_by_number():
    assert resolve_nbeta("batch", 128, 60000) == pytest.approx(26.3807, abs=1e-4)
    assert resolve_nbeta("dataset", 128, 60000) == pytest.approx(60000 / math.log(60000))
    assert resolve_nbeta(17, 128, 60000) == 17.0


@pytest.mark.parametrize("layer", [nn.Dropout(0.1), nn.BatchNorm1d(8)])
def test_a_model_whose_loss_is_not_a_function_of_its_weights_is_refused(classifier, layer):
    _, data = classifier
    model = nn.Sequential(nn.Linear(6, 8), layer, nn.Linear(8, 3))
    with pytest.raises(ValueError, match=f"1 is a {type(layer).__name__}"):
        estimate_llcs(model, [model.state_dict()], data, FAST, 100)


def test_dropout_that_drops_nothing_is_taken(classifier):
    _, data = classifier
    model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.0), nn.Linear(8, 3))
    assert estimate_llcs(model, [model.state_dict()], data, FAST, 100)[0].llc is not None


def test_nbeta_of_a_batch_of_one_is_refused(classifier):
    model, data = classifier
    with pytest.raises(ValueError, match="at least 2"):
        estimate_llcs(model, [model.state_dict()], data, FAST, batch_size=1)


@pytest.mark.parametrize("batch_size", [0, 401])
def test_a_batch_must_fit_the_data(classifier, batch_size):
    model, data = classifier
    with pytest.raises(ValueError, match=f"batch_size = {batch_size}.*400"):
        estimate_llcs(model, [model.state_dict()], data, FAST, batch_size)


def test_a_checkpoint_that_does_not_fit_is_refused(classifier):
    model, data = classifier
    with pytest.raises(RuntimeError, match="size mismatch"):
        estimate_llcs(model, [nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3)).state_dict()], data, FAST, 100)


def test_an_estimate_cannot_be_changed():
    estimate = summarise(np.ones((1, 10)), 1.0, 1.0, 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        estimate.llc = 0.0
