"""The batched engine: devinterp's steps with the same noise, and numbers that do not depend on how
work was grouped.
"""

import copy
import warnings

import numpy as np
import pytest
import torch
from devinterp.optim import SGLD, SGMCMC, SGNHT
from devinterp.slt.mala import mala_acceptance_probability
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from degeneracy.llc.chains import (
    Problem,
    Samples,
    Schedule,
    index_stream,
    noise_stream,
    run_chains,
    seeds,
)
from degeneracy.llc.samplers import SAMPLERS, Chain, Coefficients, mala_acceptance, noise_scale

EPSILON, NBETA, GAMMA, DIFFUSION = 1e-3, 20.0, 50.0, 0.1


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(1)
    data = torch.randn(300, 5, generator=generator), torch.randint(3, (300,), generator=generator)
    model = small_model()

    def loss(parameters, inputs, targets):
        return cross_entropy(functional_call(model, parameters, (inputs,)), targets)

    return Problem(loss, data, batch_size=50), [dict(model.named_parameters())]


def some_chains(count: int, start: int = 0, seed: int = 0) -> list[Chain]:
    return [Chain(start, (seed, 3, number), EPSILON, NBETA, GAMMA) for number in range(count)]


def collected(stream, count: int) -> np.ndarray:
    losses: list = [None] * count
    for rows, samples in stream:
        for row, trace in zip(rows, samples.losses, strict=True):
            losses[row] = trace
    return np.stack(losses)


def devinterp_optimizer(sampler: str, parameters):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if sampler == "sgnht":
            return SGNHT(parameters, lr=EPSILON, diffusion_factor=DIFFUSION, nbeta=NBETA)
        kind = {"sgld": SGLD, "rmsprop_sgld": SGMCMC.rmsprop_sgld}[sampler]
        return kind(parameters, lr=EPSILON, nbeta=NBETA, localization=GAMMA)


def unit_noise(parameters) -> torch.Tensor:
    """What devinterp draws in a step: parameter by parameter, from the global generator."""
    return torch.cat([torch.normal(0.0, 1.0, p.shape).flatten() for p in parameters])[None]


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_a_step_is_devinterps_step(sampler):
    """Ten steps with the same gradients and the same noise, SGNHT's thermostat and initial momentum
    included.
    """
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in small_model().parameters()]
    starts = torch.cat([p.detach().flatten() for p in theirs])[None]
    weights, chains = starts.clone(), some_chains(1)
    c = Coefficients.of(chains, DIFFUSION, starts)
    scale = noise_scale(sampler, c)

    torch.manual_seed(5)
    optimizer = devinterp_optimizer(sampler, theirs)
    torch.manual_seed(5)  # SGNHT has drawn its momentum by now, the others nothing
    step = SAMPLERS[sampler](starts, c, lambda: unit_noise(theirs) * scale)
    for t in range(10):
        gradient = torch.randn(starts.shape, generator=torch.Generator().manual_seed(t))
        pieces = gradient[0].split([p.numel() for p in theirs])
        for p, piece in zip(theirs, pieces, strict=True):
            p.grad = piece.view(p.shape).clone()
        torch.manual_seed(100 + t)
        optimizer.step()
        torch.manual_seed(100 + t)
        step(weights, gradient, unit_noise(theirs) * scale)
    expected = torch.cat([p.detach().flatten() for p in theirs])[None]
    assert (expected - starts).norm() > 0.01  # it has moved
    torch.testing.assert_close(weights, expected, rtol=1e-5, atol=1e-6)


def test_sgnht_has_a_thermostat_for_each_chain(problem):
    """A chain's numbers are the same alone and beside another with another step size, which heats
    differently.
    """
    problem, checkpoints = problem
    schedule = Schedule("sgnht", 60, diffusion_factor=DIFFUSION)
    one = Chain(0, (0, 3, 0), 1e-4, NBETA, 0.0)
    other = Chain(0, (0, 3, 1), 1e-2, NBETA, 0.0)
    both = collected(run_chains(problem, checkpoints, [one, other], schedule, 10**9), 2)
    alone = collected(run_chains(problem, checkpoints, [one], schedule), 1)
    np.testing.assert_allclose(both[0], alone[0], rtol=1e-4)


def test_a_chain_is_what_devinterps_optimizer_does_on_its_batches_and_noise(problem):
    """Gradients, minibatches, recording and steps together: 20 draws of a loop over devinterp's
    SGLD.
    """
    problem, checkpoints = problem
    chains = some_chains(2)
    traces = collected(run_chains(problem, checkpoints, chains, Schedule("sgld", 20)), 2)
    for number, chain in enumerate(chains):
        model = small_model()
        optimizer = devinterp_optimizer("sgld", model.parameters())
        like = torch.empty(1, sum(p.numel() for p in model.parameters()))
        noise = noise_stream([chain], torch.ones(1, 1), like)
        batches = index_stream([chain], 300, 50, torch.device("cpu"))
        for t in range(20):
            index = next(batches)[0]
            loss = cross_entropy(model(problem.data[0][index]), problem.data[1][index])
            assert traces[number, t] == pytest.approx(loss.item(), rel=1e-5)
            optimizer.zero_grad()
            loss.backward()
            pieces = iter(next(noise)[0].split([p.numel() for p in model.parameters()]))
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(
                    torch, "normal", lambda size, pieces=pieces, **_: next(pieces).view(size)
                )
                optimizer.step()


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
@pytest.mark.parametrize("threads", [1, 2])
def test_numbers_do_not_depend_on_the_grouping(problem, sampler, threads):
    """100 draws: chains one by one, in one tensor, in threads, and a chain alone agree to 1e-4."""
    problem, checkpoints = problem
    other = {name: tensor + 0.05 for name, tensor in checkpoints[0].items()}
    chains = some_chains(3) + some_chains(3, start=1, seed=9)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        groupings = [
            collected(
                run_chains(
                    problem, [checkpoints[0], other], chains, Schedule(sampler, 100), budget
                ),
                6,
            )
            for budget in (1, 30_000, 10**9)
        ]
        (alone,) = collected(
            run_chains(problem, [other], [chains[4]._replace(start=0)], Schedule(sampler, 100)), 1
        )
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for traces in groupings[1:]:
        np.testing.assert_allclose(traces, groupings[0], rtol=1e-4)
    np.testing.assert_allclose(alone, groupings[0][4], rtol=1e-4)
    assert len({trace.tobytes() for trace in groupings[0]}) == 6


def test_more_draws_begin_with_the_same_draws_and_burnin_is_dropped(problem):
    problem, checkpoints = problem
    runs = [
        collected(run_chains(problem, checkpoints, some_chains(1), schedule), 1)[0]
        for schedule in (
            Schedule("sgld", 30),
            Schedule("sgld", 90),
            Schedule("sgld", 60, num_burnin_steps=30),
        )
    ]
    np.testing.assert_array_equal(runs[1][:30], runs[0])
    np.testing.assert_array_equal(runs[1][30:], runs[2])


def test_minibatches_are_shuffled_passes_without_the_remainder():
    batches = index_stream(some_chains(2), 10, 3, torch.device("cpu"))
    # (chains, 6, 3): two passes of three batches
    passes = torch.stack([next(batches) for _ in range(6)], dim=1)
    for chain in passes:
        for one in chain.view(2, 9):
            assert len(set(one.tolist())) == 9
    assert not torch.equal(passes[0], passes[1])
    assert not torch.equal(passes[0, :3], passes[0, 3:])


def test_noise_has_the_asked_variance_and_is_independent_between_chains():
    chains = some_chains(2)
    noise = noise_stream(chains, torch.tensor([[0.5], [2.0]]), torch.empty(2, 1000))
    draws = torch.stack([next(noise).clone() for _ in range(200)], dim=1).flatten(1)  # (2, 200000)
    deviation = draws.std(dim=1) / torch.tensor([0.5, 2.0])
    assert (deviation - 1).abs().max() < 5 / (2 * 200_000) ** 0.5
    assert abs(torch.corrcoef(draws)[0, 1]) < 5 / 200_000**0.5
    assert seeds((0, 0, 1)) != seeds((0, 1, 0))


class ExhaustedBeyondTwo(Problem):
    """Stands for a device whose memory holds two chains."""

    def gradient(self, parameters, num_chains):
        if num_chains > 2:
            raise torch.OutOfMemoryError("out of memory")
        return super().gradient(parameters, num_chains)


def test_a_group_that_exhausts_memory_is_halved_and_the_numbers_stay(problem):
    problem, checkpoints = problem
    chains = some_chains(7)
    expected = collected(run_chains(problem, checkpoints, chains, Schedule("sgld", 20), 1), 7)
    small = ExhaustedBeyondTwo(*problem)
    sizes = []

    def noted(stream):
        for rows, samples in stream:
            sizes.append(len(rows))
            yield rows, samples

    found = collected(noted(run_chains(small, checkpoints, chains, Schedule("sgld", 20), 10**9)), 7)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert max(sizes) <= 2


class AlwaysExhausted(Problem):
    def gradient(self, parameters, num_chains):
        raise torch.OutOfMemoryError("out of memory")


def test_memory_that_does_not_hold_one_chain_is_an_error(problem):
    problem, checkpoints = problem
    with pytest.raises(torch.OutOfMemoryError):
        list(
            run_chains(AlwaysExhausted(*problem), checkpoints, some_chains(2), Schedule("sgld", 5))
        )


def test_acceptance_is_devinterps_formula(problem):
    problem, checkpoints = problem
    chains = some_chains(2)
    starts = torch.cat([p.detach().flatten() for p in checkpoints[0].values()]).expand(2, -1)
    c = Coefficients.of(chains, DIFFUSION, starts)
    generator = torch.Generator().manual_seed(0)
    w, w_, g, g_ = (starts + 0.1 * torch.randn(starts.shape, generator=generator) for _ in range(4))
    w_ = w + EPSILON**0.5 * torch.randn(starts.shape, generator=generator)  # a step's length
    loss, loss_ = torch.tensor([1.0, 1.2]), torch.tensor([1.1, 1.15])
    found = mala_acceptance(c, starts, (w, g, loss), (w_, g_, loss_))
    for chain in range(2):
        ends = [(w[chain], g[chain], loss[chain]), (w_[chain], g_[chain], loss_[chain])]
        forces = [NBETA * gradient + GAMMA * (point - starts[chain]) for point, gradient, _ in ends]
        energies = [
            NBETA * value + GAMMA / 2 * ((p - starts[chain]) ** 2).sum() for p, _, value in ends
        ]
        expected = mala_acceptance_probability(
            w[chain], forces[0], energies[0], w_[chain], forces[1], energies[1], EPSILON
        )
        assert 0 < found[chain] <= 1
        assert found[chain].item() == pytest.approx(float(expected), rel=1e-4)


def test_acceptance_goes_to_one_with_the_step(problem):
    problem, checkpoints = problem
    found = []
    for epsilon in (1e-6, 1e-3, 0.05):  # unstable from 4/(nβ h + γ), below 0.08
        chains = [Chain(0, (0, 0, n), epsilon, NBETA, GAMMA) for n in range(2)]
        found.append(
            np.mean(
                [
                    s.acceptance
                    for _, s in run_chains(problem, checkpoints, chains, Schedule("sgld", 200))
                ]
            )
        )
    assert found[0] > 0.99
    assert found[0] > found[1] > found[2]


def test_only_sgld_has_an_acceptance(problem):
    problem, checkpoints = problem
    for sampler, exists in (("sgld", True), ("rmsprop_sgld", False), ("sgnht", False)):
        ((_, samples),) = run_chains(problem, checkpoints, some_chains(1), Schedule(sampler, 5))
        assert np.isfinite(samples.acceptance).all() == exists


def test_double_precision_is_kept_and_full_batches_are_shared(problem):
    """In float64, on all the data: one draw's loss is L(w*) itself."""
    problem, checkpoints = problem
    doubled = [{name: p.detach().double() for name, p in checkpoints[0].items()}]
    model = small_model().double()
    data = problem.data[0].double(), problem.data[1]

    def loss(parameters, inputs, targets):
        assert next(iter(parameters.values())).dtype == torch.float64
        return cross_entropy(functional_call(model, parameters, (inputs,)), targets)

    stream = run_chains(
        Problem(loss, data, 300), doubled, some_chains(3), Schedule("sgld", 4), 10**9
    )
    traces = collected(stream, 3)
    np.testing.assert_allclose(
        traces[:, 0], cross_entropy(model(data[0]), data[1]).item(), rtol=1e-6
    )


def test_the_checkpoints_are_left_alone(problem):
    problem, checkpoints = problem
    before = copy.deepcopy(checkpoints)
    state = torch.get_rng_state()
    list(run_chains(problem, checkpoints, some_chains(2), Schedule("sgld", 10)))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[0][name], p) for name, p in checkpoints[0].items())


def test_empty_samples_have_room_for_every_draw():
    samples = Samples.empty(2, 3)
    assert samples.losses.shape == (2, 3)
    assert np.isnan(samples.losses).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_the_distribution_of_the_cpu(problem):
    problem, checkpoints = problem
    moved = [{name: p.cuda() for name, p in checkpoints[0].items()}]
    data = tuple(part.cuda() for part in problem.data)
    model = small_model().cuda()

    def loss(parameters, inputs, targets):
        return cross_entropy(functional_call(model, parameters, (inputs,)), targets)

    schedule = Schedule("sgld", 500, num_burnin_steps=100)
    there = collected(run_chains(Problem(loss, data, 50), moved, some_chains(8), schedule), 8)
    here = collected(run_chains(problem, checkpoints, some_chains(8), schedule), 8)
    error = np.hypot(there.mean(1).std(ddof=1), here.mean(1).std(ddof=1)) / 8**0.5
    assert abs(there.mean() - here.mean()) < 4 * error
