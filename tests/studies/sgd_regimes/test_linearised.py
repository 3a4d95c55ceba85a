"""Do sampled runs of the linear model follow their batches, and their mean the average?"""

import numpy as np
import pytest
import torch

from studies.sgd_regimes import averaged, averaged_boundary
from studies.sgd_regimes.averaging import averaged_curves
from studies.sgd_regimes.kernels import features_of
from studies.sgd_regimes.linearised import linearised, linearised_adam, sampled_batches
from studies.sgd_regimes.samples import synthetic
from studies.sgd_regimes.schedules import Jacobi


def test_batches_have_no_sample_twice_and_every_sample_as_often():
    batches = np.stack(list(sampled_batches(500, 6, 2, 40, 0)))
    assert batches.shape == (40, 500, 2)
    assert (batches[..., 0] != batches[..., 1]).all()
    counts = np.bincount(batches.ravel(), minlength=6)
    draws = 20_000  # each sample in a third of them
    assert np.abs(counts - draws / 3).max() < 4.5 * np.sqrt(draws * 2 / 9)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_the_mean_of_runs_is_the_average(momentum):
    """2,000 runs within 4 standard errors at α = 0.4 α_c: nearer to it tails are heavy."""
    kernel, residual = synthetic(32, 1.5, 1.0)
    lr = 0.4 * averaged_boundary(kernel, 4, momentum)
    losses = linearised(kernel, residual, 4, lr, momentum, 1000, 2000, 0).losses
    expected = averaged(kernel, residual, 4, lr, momentum, 1000)
    for t in (10, 100, 1000):
        error = losses[:, t].std(ddof=1) / 2000**0.5
        assert abs(losses[:, t].mean() - expected[t]) < 4 * error, t


def test_one_run_is_sgd_on_weights(random_problem):
    """f = Φw, loss ½ mean over the batch, torch.optim.SGD with momentum."""
    kernel, residual = random_problem
    features = torch.as_tensor(features_of(kernel))
    weights = torch.zeros(12, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([weights], lr=0.3, momentum=0.6)
    start, batches, losses = torch.as_tensor(residual), list(sampled_batches(1, 12, 3, 30, 0)), []
    for (batch,) in [*batches, [np.arange(12)]]:
        state = start + features @ weights
        losses.append(float((state.detach() ** 2).mean() / 2))
        optimizer.zero_grad()
        ((state[torch.as_tensor(batch)] ** 2).mean() / 2).backward()
        optimizer.step()
    found = linearised(kernel, residual, 3, 0.3, 0.6, 30, batches=batches).losses[0]
    np.testing.assert_allclose(found, losses, rtol=1e-9)


def test_one_run_of_adam_is_torchs(random_problem):
    features = torch.as_tensor(features_of(random_problem.kernel))
    weights = torch.zeros(12, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([weights], lr=0.01)
    start = torch.as_tensor(random_problem.residual)
    batches, losses = list(sampled_batches(1, 12, 3, 30, 0)), []
    for (batch,) in [*batches, [np.arange(12)]]:
        state = start + features @ weights
        losses.append(float((state.detach() ** 2).mean() / 2))
        optimizer.zero_grad()
        ((state[torch.as_tensor(batch)] ** 2).mean() / 2).backward()
        optimizer.step()
    run = (features.numpy(), random_problem.residual, 3, 0.01, 30)
    np.testing.assert_allclose(linearised_adam(*run, batches=batches)[0], losses, rtol=1e-9)


def test_under_jacobis_schedule_full_batches_are_the_averages(random_problem):
    run = (*random_problem, 12, 0.8, 0.0)
    found = linearised(*run, 20, 2, 0, Jacobi(0.5, 0.5)).losses
    expected = averaged(*run, 20, Jacobi(0.5, 0.5))
    np.testing.assert_allclose(found, [expected, expected], rtol=1e-10)


def test_modes_and_validation_are_means_of_what_is_averaged(random_problem):
    random = np.random.default_rng(3)
    others = (random.normal(size=(5, 12)) @ random_problem.kernel, random.normal(size=5))
    run = (*random_problem, 4, 0.4, 0.3, 20)
    found = linearised(*run, 3000, 1, modes=True, validation=others)
    expected = averaged_curves(*run, modes=True, validation=others)
    assert found.validation.shape == (3000, 21)
    error = found.validation.std(0, ddof=1) / 3000**0.5
    gap = np.abs(found.validation.mean(0) - expected.validation)
    assert (gap <= 4.5 * error + 1e-12).all()
    np.testing.assert_allclose(found.modes[20, 0], expected.modes[20, 0], rtol=0.3)
    np.testing.assert_allclose(found.modes.sum(1) / 24, found.losses.mean(0), rtol=1e-10)


def test_a_seed_repeats_its_runs(random_problem):
    one, same, other = (
        linearised(*random_problem, 4, 0.4, 0.0, 20, 3, seed).losses for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_a_run_that_overflows_says_at_which_step(random_problem):
    with pytest.raises(OverflowError, match=r"overflows at step \d+ of 2000"):
        linearised(*random_problem, 3, 9.0, 0.0, 2000)
