"""How `auto`'s chains walk: the law they sample, and what each part does to what is seen of it."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from degeneracy.llc import coordinates
from degeneracy.llc.chains import Problem
from degeneracy.llc.estimate import estimate_llcs
from degeneracy.llc.langevin import Walk, full_gradient, walk
from degeneracy.llc.settings import SamplerSettings
from degeneracy.models.coefficients import quadratic_llc
from degeneracy.models.known import Quadratic

ERRORS = 4.0  # standard errors: one estimate in ten thousand is further away
NBETA, GAMMA = 200.0, 20.0


def chains(count: int = 8) -> list[tuple[int, int, int]]:
    return [(0, 0, number) for number in range(count)]


def llc_and_error(losses: np.ndarray, init_loss: float, nbeta: float) -> tuple[float, float]:
    """λ̂ and its standard error, from the means of chains."""
    means = nbeta * (losses.mean(1) - init_loss)
    return means.mean(), means.std(ddof=1) / math.sqrt(len(means))


def quadratic(curvatures, kind: str = "none"):
    """(problem, coordinates) of a loss without data."""
    model = Quadratic(curvatures)
    weights = dict(model.named_parameters())
    weights = {name: p.detach() for name, p in weights.items()}
    at = (
        coordinates.flat(model.population_loss, weights)
        if kind == "none"
        else coordinates.diagonal(model.population_loss, weights, (), 0)
    )
    return Problem(model.population_loss, (), 0), at


# ---- the law -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dynamics", ["kinetic", "averaged", "euler"])
def test_every_step_but_eulers_is_exact_on_a_quadratic(dynamics):
    """e A_max/γ = 2 doubles Euler's variance of the stiffest direction: ½ Σ nβ h/(A (1 − εA/4)).
    With momentum h² A_max/γ = 2.
    """
    curvatures, nbeta, gamma = np.geomspace(0.1, 1.0, 20).tolist(), 1000.0, 100.0
    problem, at = quadratic(curvatures)
    step = 2 * gamma / (nbeta + gamma)
    relaxation = 2 / step * gamma / (nbeta * 0.1 + gamma)
    size = math.sqrt(step) if dynamics == "kinetic" else step
    plan = Walk(nbeta, gamma, size, math.ceil(3 * relaxation), 1200, dynamics=dynamics)
    found, error = llc_and_error(walk(problem, at, 0.0, chains(), plan).losses, 0.0, nbeta)
    exact = quadratic_llc(curvatures, nbeta, gamma)
    biased = quadratic_llc(curvatures, nbeta, gamma, step_size=step / gamma)
    assert abs(found - (biased if dynamics == "euler" else exact)) < ERRORS * error
    assert error < 0.03 * exact
    assert biased > exact + 10 * error  # so that the two can be told apart


@pytest.mark.parametrize("localization", [0.0, 20.0, 1000.0])
def test_auto_finds_the_exact_value_of_a_quadratic(localization):
    """At step 0, whatever step its pilot took."""
    curvatures = torch.logspace(-1.5, 0, 40).tolist()
    model = Quadratic(curvatures)
    settings = SamplerSettings(nbeta=1000.0, localization=localization, num_draws=500)
    (found,) = estimate_llcs(
        model, [model.state_dict()], None, settings, population_loss=model.population_loss
    )
    expected = quadratic_llc(curvatures, 1000.0, localization)
    assert abs(found.llc - expected) < ERRORS * found.std_error
    assert found.std_error < 0.02 * expected


@pytest.mark.parametrize("kind", ["none", "diagonal"])
def test_spread_starts_are_drawn_from_the_laplace_approximation(kind):
    """With the diagonal, on a quadratic, the very first draw is of the sampled law."""
    curvatures = [1.0, 0.1, 0.0, 4.0]
    problem, at = quadratic(curvatures, kind)
    plan = Walk(NBETA, GAMMA, step=0.2, num_burnin_steps=0, num_draws=1)
    found = walk(problem, at, 0.0, chains(150), plan)
    llc, error = llc_and_error(found.losses, 0.0, NBETA)
    precision = at.precision(NBETA, GAMMA).double().numpy()
    assert abs(llc - NBETA / 2 * (np.array(curvatures) / precision).sum()) < ERRORS * error
    squares = found.distances[:, 0] ** 2
    assert abs(squares.mean() - (1 / precision).sum()) < ERRORS * squares.std() / math.sqrt(150)
    if kind == "diagonal":
        assert abs(llc - quadratic_llc(curvatures, NBETA, GAMMA)) < ERRORS * error
    at_once = walk(problem, at, 0.0, chains(4), replace(plan, spread=0.0))
    assert not at_once.losses.any()
    assert not at_once.distances.any()


@pytest.mark.parametrize("kind", ["none", "diagonal"])
def test_a_preconditioner_leaves_the_law_of_linear_regression(regression, kind):
    """Its inputs are correlated, so that the diagonal is not the Hessian; full batches."""
    problem, weights = regression.problem(), regression.weights
    at = (
        coordinates.flat(problem.loss, weights)
        if kind == "none"
        else coordinates.diagonal(problem.loss, weights, regression.data, 0)
    )
    step = 0.3 if kind == "diagonal" else 0.5 / (1 + NBETA * regression.curvatures[-1] / GAMMA)
    draws = 800 if kind == "diagonal" else 2500
    found = walk(problem, at, regression.init_loss, chains(), Walk(NBETA, GAMMA, step, 200, draws))
    llc, error = llc_and_error(found.losses, regression.init_loss, NBETA)
    assert abs(llc - quadratic_llc(regression.curvatures, NBETA, GAMMA)) < ERRORS * error
    assert error < 0.05 * llc


def test_every_preconditioner_samples_the_same_law_of_softmax_regression(classification):
    """λ̂ and the mean square distance, pairwise within four of their combined errors."""
    case, nbeta, gamma = classification, 60.0, 20.0
    problem, weights = case.problem(), case.weights
    places = {
        "none": (coordinates.flat(problem.loss, weights), 0.07, 1200),
        "diagonal": (coordinates.diagonal(problem.loss, weights, case.data, 0), 0.2, 500),
        "kfac": (coordinates.kfac(case.objective, case.data, 0), 0.2, 500),
    }
    found = []
    for at, step, draws in places.values():
        plan = Walk(nbeta, gamma, step, draws // 10, draws)
        losses, distances, _ = walk(problem, at, case.init_loss, chains(), plan)
        squares = (distances**2).mean(1)
        found.append(
            (
                *llc_and_error(losses, case.init_loss, nbeta),
                squares.mean(),
                squares.std(ddof=1) / math.sqrt(8),
            )
        )
    for one, other in ((0, 1), (0, 2), (1, 2)):
        a, b = found[one], found[other]
        assert abs(a[0] - b[0]) < ERRORS * math.hypot(a[1], b[1])
        assert abs(a[2] - b[2]) < ERRORS * math.hypot(a[3], b[3])
    assert all(error < 0.05 * llc for llc, error, *_ in found)


# ---- what is seen of it --------------------------------------------------------------------------


def seen_at_rest(case, plan: Walk) -> np.ndarray:
    """What one pass through the data shows of chains that do not move: rises above L(w*)."""
    problem = case.problem(batch_size=20)
    at = coordinates.flat(problem.loss, case.weights)
    passes = len(case.data[0]) // 20
    plan = replace(plan, step=1e-20, num_burnin_steps=0, num_draws=passes)
    return walk(problem, at, case.init_loss, chains(4), plan).losses - case.init_loss


@pytest.mark.parametrize("name", ["regression", "classification"])
def test_what_a_draw_shows_is_unbiased_however_it_is_looked_at(name, request):
    """Of a chain at one place w, all minibatches of a pass have the mean L(w) − L(w*), exactly; of
    one minibatch, pairing with w* takes away most of the noise, and control variates more.
    """
    case = request.getfixturevalue(name)
    slope, _ = full_gradient(case.problem(), case.weights)
    plan = Walk(NBETA, 200.0, 0.1, 0, 1)  # starts w* + N(0, 1/200)
    alone = seen_at_rest(case, replace(plan, paired=False))
    paired = seen_at_rest(case, plan)
    controlled = seen_at_rest(case, replace(plan, control=slope))
    unpaired = seen_at_rest(case, replace(plan, control=slope, paired=False))
    np.testing.assert_array_equal(unpaired, alone)
    rise = alone.mean(1)
    assert (rise > 1e-3).all()  # above the minimum, by more than float error
    np.testing.assert_allclose(paired.mean(1), rise, atol=2e-6)
    np.testing.assert_allclose(controlled.mean(1), rise, atol=2e-6)
    noise = [part.std(1) for part in (alone, paired, controlled)]
    assert (noise[1] < noise[0] / 2).all()
    assert (noise[2] < noise[1] / 2).all()


@pytest.mark.parametrize("name", ["regression", "classification"])
def test_control_variates_take_the_minibatchs_noise_away_at_the_checkpoint(name, request):
    """At nβ = 10¹² there is no thermal noise left: with them, chains started at a minimum stay
    there; without them minibatches push them about.
    """
    case = request.getfixturevalue(name)
    problem = case.problem(batch_size=20)
    at = coordinates.diagonal(problem.loss, case.weights, case.data, 0)
    slope, _ = full_gradient(problem, case.weights)
    plan = Walk(1e12, 1e9, 0.2, 0, 200, spread=0.0)
    shaken = walk(problem, at, case.init_loss, chains(2), plan).distances
    still = walk(problem, at, case.init_loss, chains(2), replace(plan, control=slope)).distances
    assert (shaken[:, 100:] > 0.01).all()
    assert still.max() < 1e-3  # what float32 leaves of the gradient at w*, over 1/(nβ h)


def test_control_variates_take_the_heat_away(regression):
    """Minibatches of 20 at nβ = 2,000 add as much noise as the temperature: λ̂ is half too large
    and more; with control variates it is the exact one.
    """
    problem, nbeta, gamma = regression.problem(batch_size=20), 2000.0, 200.0
    at = coordinates.diagonal(problem.loss, regression.weights, regression.data, 0)
    slope, _ = full_gradient(problem, regression.weights)
    plan = Walk(nbeta, gamma, 0.1, 100, 800)
    expected = quadratic_llc(regression.curvatures, nbeta, gamma)
    for control in (None, slope):
        losses = walk(
            problem, at, regression.init_loss, chains(), replace(plan, control=control)
        ).losses
        llc, error = llc_and_error(losses, regression.init_loss, nbeta)
        if control is None:
            assert llc > 1.5 * expected
        else:
            # what is left is of the second order: the minibatch's curvature, e/4 · 6/20 of it
            assert abs(llc - expected) < ERRORS * error + 0.1 / 4 * 6 / 20 * expected * 3


def test_cooling_takes_the_heat_off_the_thermal_noise(regression):
    """Without control variates, minibatches of 40 make λ̂ too large by a fifth; cooled, what is left
    is a tenth of that.
    """
    model, data, loss_fn, curvatures = regression
    state = {"weight": regression.weights["weight"]}
    found = {}
    for cooled in (True, False):
        settings = SamplerSettings(
            nbeta=600.0,
            localization=100.0,
            num_draws=2000,
            num_burnin_steps=100,
            sampler_batch_size=40,
            control_variates="off",
            preconditioner="diagonal",
            cooled=cooled,
        )
        (found[cooled],) = estimate_llcs(model, [state], data, settings, 100, loss_fn)
    exact = quadratic_llc(curvatures, 600.0, 100.0)
    assert found[False].llc > 1.1 * exact
    assert abs(found[True].llc - exact) < 4 * found[True].std_error + 0.1 * (
        found[False].llc - exact
    )


@pytest.mark.parametrize("vanishes", [True, False])
def test_a_loss_that_is_no_mean_over_samples_is_refused(regression, vanishes):
    """Also where it is 0 at w*, and so the mean of anything there."""
    model, data, loss_fn, _ = regression
    state = {"weight": regression.weights["weight"]}
    if vanishes:
        data = data[0], data[0] @ state["weight"].T

    def root(outputs, targets):
        return (loss_fn(outputs, targets) + 1e-12).sqrt()

    with pytest.raises(ValueError, match="not a mean over samples"):
        estimate_llcs(model, [state], data, SamplerSettings(nbeta=10.0), 50, root)


# ---- every part can be switched ------------------------------------------------------------------


BASE = {"nbeta": 60.0, "localization": 50.0, "num_draws": 300, "sampler_batch_size": 400}


@pytest.fixture(scope="module")
def base_estimate(classification):
    return {key: estimate(classification, control_variates=key) for key in ("auto", "on")}


def estimate(case, **change):
    settings = SamplerSettings(**BASE | change)
    state = case.model.state_dict()
    return estimate_llcs(case.model, [state], case.data, settings, 100, case.loss_fn)[0]


@pytest.mark.parametrize(
    ("change", "controlled"),
    [
        ({"dynamics": "euler"}, False),
        pytest.param({"dynamics": "averaged"}, False, marks=pytest.mark.slow),
        ({"cooled": False}, False),
        pytest.param({"cooled": False}, True, marks=pytest.mark.slow),
        ({"starts": "checkpoint"}, False),
        ({"preconditioner": "kfac"}, False),
        ({"preconditioner": "diagonal"}, False),
        pytest.param({"control_variates": "on"}, False, marks=pytest.mark.slow),
        ({"control_variates": "off"}, True),
        pytest.param({"paired_losses": False}, False, marks=pytest.mark.slow),
        ({"paired_losses": False}, True),
        pytest.param({"sampler_batch_size": 800}, False, marks=pytest.mark.slow),
        ({"sampler_batch_size": 200}, False),
    ],
)
def test_every_part_can_be_switched_and_leaves_the_value(
    classification, base_estimate, change, controlled
):
    """Each changes what chains see, none what they estimate: within four combined errors, Euler's
    step (by 1/(1 − c/4), c ≤ ½) and a minibatch's heat (by e nβ/(4 m)) aside.
    """
    switch = "on" if controlled else "auto"
    before = base_estimate[switch]
    after = estimate(classification, **{"control_variates": switch} | change)
    assert not np.array_equal(before.trace, after.trace)
    allowed = 1 / (1 - 0.5 / 4) - 1 if "dynamics" in change else 0.2 * 60 / (4 * 200)
    error = math.hypot(before.std_error, after.std_error)
    assert abs(after.llc - before.llc) < ERRORS * error + allowed * before.llc


def test_chains_that_start_at_the_checkpoint_say_so_and_rise_from_nothing(
    classification, base_estimate
):
    assert base_estimate["auto"].certificates.starts_spread
    together = estimate(classification, starts="checkpoint", num_burnin_steps=0, num_draws=20)
    assert not together.certificates.starts_spread
    np.testing.assert_array_equal(together.trace[:, 0], together.init_loss)


def test_chains_that_go_on_continue_where_they_ended(classification):
    """Without noise and minibatches two walks of ten steps are one of twenty."""
    case = classification
    at = coordinates.flat(case.problem().loss, case.weights)
    nbeta, gamma = 1e12, 1e10  # A = γ: noise of deviation 1e-5
    plan = Walk(nbeta, gamma, 0.05, 0, 20, spread=0.0)
    half = replace(plan, num_draws=10)
    run = (case.problem(), at, case.init_loss, chains(2))
    whole, first = walk(*run, plan), walk(*run, half)
    further = [(0, 0, 100 + number) for number in range(2)]
    ends = first.ends.clone()
    both = first.then(walk(*run[:3], further, half, goes_on=first.ends))
    assert torch.equal(first.ends, ends)
    assert both.losses.shape == whole.losses.shape
    np.testing.assert_array_equal(both.distances[:, :10], whole.distances[:, :10])
    jump = np.abs(np.diff(both.distances[:, ::4])).max()
    assert jump < 2 * np.abs(np.diff(whole.distances[:, ::4])).max()  # no fresh start
    assert (both.distances[:, 12:] > 0.2 * whole.distances[:, 12:]).all()
    assert torch.equal(first.ends[:, 0].norm(dim=1) > 0, torch.ones(2, dtype=torch.bool))


# ---- numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("controlled", [True, False])
def test_numbers_do_not_depend_on_which_chains_share_a_tensor(classification, controlled):
    case = classification
    problem = case.problem(batch_size=50)
    at = coordinates.kfac(case.objective, case.data, 0)
    control = None
    if controlled:
        control, _ = full_gradient(problem._replace(loss=at.loss), at.weights)
    plan = Walk(NBETA, GAMMA, 0.1, 5, 40, control=control)
    one, all_ = (
        walk(problem, at, case.init_loss, chains(3), plan, memory_budget=budget)
        for budget in (1, 10**9)
    )
    np.testing.assert_allclose(one.losses, all_.losses, rtol=1e-4)
    np.testing.assert_allclose(one.distances, all_.distances, rtol=1e-4)
    alone = walk(problem, at, case.init_loss, chains(3)[2:], plan)
    np.testing.assert_allclose(alone.losses[0], all_.losses[2], rtol=1e-4)


def test_distances_are_those_of_the_weights():
    """On a quadratic with one curvature, K = (h/2)|w|²."""
    problem, at = quadratic([3.0] * 5)
    plan = Walk(NBETA, GAMMA, 0.02, 10, 21)
    losses, distances, _ = walk(problem, at, 0.0, chains(2), plan)
    np.testing.assert_allclose(losses[:, ::4], 1.5 * distances[:, ::4] ** 2, rtol=1e-5)


def test_a_full_gradient_is_that_of_the_mean_over_all_samples(regression):
    """Summed over batches of 2,000 of which the last is smaller."""
    _, (inputs, targets), loss_fn, _ = regression
    data = inputs.repeat(8, 1)[:4500], targets.repeat(8, 1)[:4500]
    problem = regression.problem()._replace(data=data)
    weights = {"weight": regression.weights["weight"] + 1}
    slope, loss = full_gradient(problem, weights)
    row = weights["weight"].double().requires_grad_()
    expected = loss_fn(data[0].double() @ row.T, data[1].double())
    (gradient,) = torch.autograd.grad(expected, row)
    assert loss == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(slope.double(), gradient[0], rtol=1e-5, atol=1e-6)
