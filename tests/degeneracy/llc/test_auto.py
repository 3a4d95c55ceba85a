"""How `auto` goes about a checkpoint: coordinates, step, length, and what it refuses or remarks."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from degeneracy.llc import coordinates
from degeneracy.llc.auto import (
    BATCH,
    DRAWS,
    SHORTEST,
    WITHOUT_NOISE,
    PilotError,
    extremes,
    planned,
    prepared,
)
from degeneracy.llc.chains import Problem
from degeneracy.llc.estimate import estimate_llcs
from degeneracy.llc.settings import SamplerSettings
from degeneracy.llc.statistics import paired_difference
from degeneracy.models.coefficients import normal_crossing_llc, quadratic_llc
from degeneracy.models.known import NormalCrossing, Quadratic

QUICK = {"num_chains": 4, "num_draws": 40}


def of_loss(model, loss=None, nbeta: float = 100.0, localization: float = 10.0, **change):
    """The estimate of a module that is a loss without data."""
    settings = SamplerSettings(nbeta=nbeta, localization=localization, **change)
    loss = loss or model.population_loss
    return estimate_llcs(model, [model.state_dict()], None, settings, population_loss=loss)[0]


def of_case(case, state=None, batch_size: int = 100, loss_fn=None, **change):
    settings = SamplerSettings(**QUICK | {"nbeta": 60.0, "localization": 50.0} | change)
    state = case.model.state_dict() if state is None else state
    loss_fn = loss_fn or case.loss_fn
    return estimate_llcs(case.model, [state], case.data, settings, batch_size, loss_fn)[0]


def place_of(case, nbeta: float = 60.0, batch_size: int = 100, **change):
    settings = SamplerSettings(localization=50.0, nbeta=nbeta, **change)
    problem = case.problem(batch_size)
    given = problem, case.weights, case.init_loss, settings.nbeta, settings
    return prepared(case.objective, *given), settings


# ---- coordinates, minibatch, step, length --------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 12])
def test_the_extremes_are_those_of_the_dense_matrix(size):
    """Of A^-½ (nβ H + γ) A^-½ with a dense H, to Lanczos's 5 %."""
    generator = torch.Generator().manual_seed(size)
    root = torch.randn(size, size, generator=generator)
    matrix = root @ root.T / size

    def loss(parameters):
        return parameters["w"] @ matrix @ parameters["w"] / 2

    weights, nbeta, gamma = {"w": torch.zeros(size)}, 30.0, 2.0
    whole = nbeta * matrix.double() + gamma * torch.eye(size)
    for at in (coordinates.flat(loss, weights), coordinates.diagonal(loss, weights, (), 0)):
        scale = at.precision(nbeta, gamma).double().rsqrt()
        values = torch.linalg.eigvalsh(scale[:, None] * whole * scale)
        largest, smallest = extremes(at, (), nbeta, gamma)
        assert largest == pytest.approx(max(1.0, values[-1].item()), rel=0.06)
        if at.kind == "none" and size > 2:
            assert smallest == 1.0  # flat directions are softer than any that is seen
        else:
            expected = min(1.0, max(0.05, values[0].item()))
            assert smallest == pytest.approx(expected, rel=0.06, abs=0.01)


def test_no_preconditioner_is_looked_for_where_directions_are_alike_already(classification):
    assert place_of(classification, nbeta=10.0)[0].at.kind == "none"
    assert place_of(classification, nbeta=1e4)[0].at.kind == "kfac"
    assert place_of(classification, nbeta=10.0, preconditioner="diagonal")[0].at.kind == "diagonal"


def test_far_from_the_checkpoint_its_curvature_is_not_used(classification):
    """√(d/γ) beyond 0.3 |w*|: weights as they are, no control variates, losses unpaired."""
    case = classification
    for localization, near in ((100.0, True), (1.0, False)):
        settings = SamplerSettings(localization=localization, nbeta=1e4)
        given = case.problem(100), case.weights, case.init_loss, 1e4, settings
        place = prepared(case.objective, *given)
        plan = planned(place, 1e4, settings, 0.1)
        assert place.near is near
        assert place.controlled is near
        assert plan.paired is near
        assert (place.at.kind == "kfac") is near


def test_control_variates_come_where_minibatches_heat(classification):
    for nbeta, controlled in ((799.0, False), (800.0, True)):  # 8 times 100
        place, _ = place_of(classification, nbeta)
        assert place.controlled is controlled
        assert place.problem.batch_size == BATCH < 800
    assert place_of(classification, 60.0, control_variates="on")[0].controlled
    assert not place_of(classification, 1e4, control_variates="off")[0].controlled
    assert not place_of(classification, 1e4, sampler_batch_size=800)[0].controlled  # no noise
    assert place_of(classification, 60.0, sampler_batch_size=30)[0].problem.batch_size == 30


def test_chains_are_as_long_as_the_slowest_direction_asks(classification):
    """Three relaxation times of burn-in, at least ten of draws; given lengths are kept."""
    place, settings = place_of(classification)
    plan = planned(place, 60.0, settings, 0.01)
    relaxation = 2 / (0.01 * place.softness)
    assert plan.num_burnin_steps == math.ceil(3 * relaxation)
    assert plan.num_draws == max(SHORTEST, math.ceil(DRAWS * relaxation))
    assert plan.num_draws >= 10 * relaxation
    given = settings.model_copy(update={"num_draws": 7, "num_burnin_steps": 0})
    plan = planned(place, 60.0, given, 0.01)
    assert (plan.num_burnin_steps, plan.num_draws) == (0, 7)
    found = of_case(classification, num_draws=7).certificates
    assert found.num_draws == 7
    assert found.verdict == "not at rest"
    assert f"{math.ceil(10 * found.relaxation)} draws" in found.advice


def test_a_step_that_euler_would_bias_is_halved_until_it_does_not():
    """λ̂ at e and e/2 within 2 % or two errors; what the pilot found is told."""
    model = Quadratic(np.geomspace(0.1, 1.0, 200).tolist())
    found = of_loss(
        model, nbeta=1000.0, localization=100.0, dynamics="euler", preconditioner="none"
    )
    expected = quadratic_llc(model.curvatures.tolist(), 1000.0, 100.0)
    proof = found.certificates
    assert proof.step <= WITHOUT_NOISE / (1100 / 100) * 1.01  # Lanczos is near enough
    allowed = 2 * 0.02 * expected  # the bias is linear in e: twice that from e to e/2
    assert abs(found.llc - expected) < 4 * found.std_error + allowed + 2 * abs(proof.step_bias)


def test_one_pilot_serves_all_checkpoints_and_they_share_noise(classification):
    """One step, by each stiffness; and a difference sharper than that of independent chains."""
    case = classification
    first = case.model.state_dict()
    second = {name: 1.02 * tensor for name, tensor in first.items()}
    settings = SamplerSettings(nbeta=60.0, localization=50.0, num_draws=150)
    run = (case.data, settings, 100, case.loss_fn)
    one, two = estimate_llcs(case.model, [first, second], *run, checkpoint_ids=[3, 3])
    soft, stiff = sorted((one.certificates.step, two.certificates.step))
    assert 0.5 * stiff < soft <= stiff  # as large in the stiffest direction of each
    (apart,) = estimate_llcs(case.model, [second], *run, checkpoint_ids=[4])
    paired, unpaired = paired_difference(two, one), paired_difference(apart, one)
    assert paired.std_error < unpaired.std_error / 4
    difference = paired.value - unpaired.value
    assert abs(difference) < 4 * math.hypot(paired.std_error, unpaired.std_error)


def test_a_pilot_that_is_given_decides_for_the_others(classification):
    case = classification
    state = case.model.state_dict()
    settings = SamplerSettings(**QUICK, nbeta=60.0, localization=50.0)
    run = ([state], case.data, settings, 100, case.loss_fn)
    soft = {name: 3 * tensor for name, tensor in state.items()}  # saturated: hardly any curvature
    (own,), (given,) = (
        estimate_llcs(case.model, *run),
        estimate_llcs(case.model, *run, pilot={k: 0 * v for k, v in state.items()}),
    )
    assert own.certificates.step != given.certificates.step
    (same,) = estimate_llcs(case.model, *run, pilot=dict(state))
    np.testing.assert_array_equal(same.trace, own.trace)
    # but no step that would be unstable here
    (careful,) = estimate_llcs(case.model, *run, pilot=soft)
    assert np.isfinite(careful.trace).all()


def test_starts_are_narrower_where_the_loss_is_flat_at_the_checkpoint_only():
    """K = w⁴ has no curvature at 0: N(0, 1/γ) would start chains at a U of thousands. The law's
    own mean of nβ K is d/4.
    """
    model = NormalCrossing((2,))
    found = of_loss(model, nbeta=1e6, localization=10.0, num_draws=2000)
    exact = normal_crossing_llc((2,), 1e6, 10.0)
    assert abs(found.llc - exact) < 4 * found.std_error
    assert found.std_error < 0.15 * exact
    settings = SamplerSettings(nbeta=1e6, localization=10.0)
    for shape, spread in ((model, False), (Quadratic([1e-6] * 3), True)):
        weights = {name: p.detach() for name, p in shape.named_parameters()}
        problem = Problem(shape.population_loss, (), 0)
        place = prepared(None, problem, weights, 0.0, 1e6, settings)
        assert (place.spread == 1.0) is spread


# ---- certificates of an estimate -----------------------------------------------------------------


def test_a_convex_problem_at_its_minimum_is_a_local_estimate(classification):
    """30 relaxation times, so that R-hat is seldom above 1.05 by chance."""
    found = of_case(classification, num_chains=8, num_draws=360)
    proof = found.certificates
    assert found.verdict == proof.verdict == "local estimate"
    assert proof.remarks == ()
    shares = classification.data[1].bincount().double() / 800
    chance = -float((shares * shares.log()).sum())
    rise = found.llc / 60.0
    assert found.locality == pytest.approx(rise / (chance - found.init_loss), rel=1e-4)
    assert found.basin_llc == pytest.approx(found.llc + found.basin_shift)
    assert found.basin_shift == pytest.approx(0, abs=0.01)
    assert found.relative_distance <= 0.3
    size = math.sqrt(sum(float(w.square().sum()) for w in classification.weights.values()))
    assert found.relative_distance == pytest.approx(proof.distance / size)


def test_away_from_the_minimum_it_says_so_and_about_the_bottom_it_is_the_same(regression):
    """On a quadratic λ̂_b is λ̂ at the minimum, wherever w* is."""
    state = {"weight": regression.weights["weight"] + 0.3}
    change = {"nbeta": 100.0, "localization": 300.0, "num_chains": 8, "num_draws": 700}
    there, here = of_case(regression, state, **change), of_case(regression, **change)
    assert there.verdict == "not at a minimum"
    assert there.basin_shift > 1
    assert there.llc < here.llc - 1
    error = 4 * math.hypot(there.std_error, here.std_error)
    assert abs(there.basin_llc - here.basin_llc) < error + 0.1  # 0.1: what a descent leaves
    assert abs(here.llc - quadratic_llc(regression.curvatures, 100.0, 300.0)) < error


def test_a_loss_of_chance_that_is_given_is_used(classification):
    case = classification
    settings = SamplerSettings(**QUICK, nbeta=60.0, localization=50.0)
    run = ([case.model.state_dict()], case.data, settings, 100, case.loss_fn)
    (own,), (given,) = (
        estimate_llcs(case.model, *run, chance_loss=chance) for chance in (None, 10.0)
    )
    rise = own.llc / 60.0
    assert given.locality == pytest.approx(rise / (10.0 - case.init_loss))
    assert own.locality > given.locality
    (none,) = estimate_llcs(case.model, *run, chance_loss=0.0)  # below w*'s own: no way there
    assert none.locality == 1.0
    assert none.certificates.is_local is False


def test_one_chain_has_no_interval_and_says_so(classification):
    found = of_case(classification, num_chains=1, num_draws=200)
    assert (found.interval, found.std_error) == (None, None)
    assert found.llc is not None
    assert "one chain alone: no interval" in found.certificates.remarks[0]
    assert found.verdict == "not at rest"
    assert "take at least two" in found.certificates.advice
    assert of_case(classification, num_chains=2).interval is not None


def test_without_localisation_there_is_an_estimate_but_no_basin(classification):
    found = of_case(classification, localization=0.0)
    assert math.isfinite(found.llc)
    assert (found.basin_shift, found.basin_llc) == (None, None)
    assert found.relaxation is None  # of the slowest direction nothing is known
    (remark,) = found.certificates.remarks
    assert remark.startswith("γ = 0: there is no basin to speak of, so no λ̂_b")
    assert found.verdict not in ("local estimate", None)


@pytest.mark.parametrize("curvatures", [[1e-3] * 8, [1e-3, 1e-2, 1e-1, 1.0]])
def test_without_localisation_the_curvature_sets_the_scale(curvatures):
    """λ̂ = d/2 however flat: a step of fixed length would take thousands of steps to get about."""
    found = of_loss(Quadratic(curvatures), nbeta=10.0, localization=0.0, num_draws=400)
    assert abs(found.llc - len(curvatures) / 2) < 4 * found.std_error
    assert found.std_error < 0.15 * found.llc


# ---- refused -------------------------------------------------------------------------------------


def test_a_minibatch_larger_than_the_data_is_refused(classification):
    with pytest.raises(ValueError, match=r"sampler_batch_size = 801; allowed: 1 to .* 800"):
        of_case(classification, sampler_batch_size=801)
    assert of_case(classification, sampler_batch_size=800).llc is not None


def test_a_loss_that_is_nan_around_the_checkpoint_has_no_usable_step():
    def loss(parameters):
        off = (parameters["weight"] != 0).any()
        return parameters["weight"].square().sum() + torch.where(off, math.nan, 0.0)

    with pytest.raises(
        PilotError, match=r"no usable step.*0\.3 \(nan\), 0\.075 \(nan\).*loss is finite"
    ):
        of_loss(Quadratic([1.0] * 3), loss, nbeta=1.0)


@pytest.mark.parametrize("size", [1, 5])
def test_a_curvature_that_is_not_finite_is_refused(size):
    def loss(parameters):
        return parameters["weight"].square().sum().sqrt()  # a cone, whose slope at 0 is 0/0

    with pytest.raises(ValueError, match="not finite"):
        of_loss(Quadratic([1.0] * size), loss)


def test_a_gradient_that_is_not_finite_is_refused_also_where_few_samples_do_not_show_it():
    """One in 3,000 samples has it; the curvature is looked at on 1,000."""
    generator = torch.Generator().manual_seed(0)
    seen = torch.randperm(3000, generator=torch.Generator().manual_seed(0))[:1000]
    bad = min(set(range(3000)) - set(seen.tolist()))
    inputs = torch.randn(3000, 4, generator=generator)
    inputs[bad] = 0
    labels = torch.randint(3, (3000,), generator=generator)
    model = nn.Linear(4, 3, bias=False)

    def loss(outputs, targets):  # the norm's slope at 0 is 0/0
        return cross_entropy(outputs, targets) + outputs.square().sum(1).sqrt().mean()

    settings = SamplerSettings(nbeta=50.0, localization=1e4, preconditioner="none", **QUICK)
    with pytest.raises(ValueError, match="gradient at the checkpoint is not finite over the whole"):
        estimate_llcs(model, [model.state_dict()], (inputs, labels), settings, 100, loss)


def test_extremes_of_nothing_are_one():
    """A loss that is constant: no curvature, and A = γ."""
    at = coordinates.flat(lambda p: 0 * p["w"].sum(), {"w": torch.ones(4)})
    assert extremes(at, (), 10.0, 5.0) == (1.0, 1.0)
    assert Problem(at.loss, (), 0).full_batch
