"""Do wide networks contract as theory says, and are parallel inputs named?"""

import numpy as np
import pytest
import torch
from torch.func import jacrev

from degeneracy.natural import RankDeficiencyWarning, natural_direction
from studies.natural_gradients.overparameterised.network import (
    Network,
    check_inputs,
    descend,
    gradient_step,
    jacobian,
    kernel,
    kfac_step,
    leverages,
    natural_step,
    nearest_pair,
    outputs,
    parallel_pair,
    random_inputs,
    random_network,
    ratios,
    with_near_pair,
)

ROUNDING = 1e-11  # float64 times the kernel's condition number, some 1e2, and sums of 64 terms


@pytest.fixture(scope="module")
def data():
    return random_inputs(32, 16, 0)


def test_jacobian_and_kernel_are_those_of_autograd(data):
    inputs, _ = data
    network = random_network(64, 16, 1)
    by_torch = jacrev(lambda w: outputs(Network(w, network.signs), inputs))(network.inner)
    dense = jacobian(network, inputs)
    assert torch.allclose(dense, by_torch.flatten(1), atol=1e-14)
    assert torch.allclose(kernel(network, inputs), dense @ dense.T, atol=1e-13)


def test_natural_step_is_the_least_squares_solution_by_the_dense_jacobian(data):
    inputs, labels = data
    network = random_network(64, 16, 1)
    moved, solved = natural_step(network, inputs, labels, 0.5)
    dense = natural_direction(
        jacobian(network, inputs), outputs(network, inputs) - labels, method="qr"
    )
    step = (network.inner - moved.inner).flatten()
    assert float((step - 0.5 * dense.direction).norm() / step.norm()) < ROUNDING
    assert solved.rank == len(inputs)


def test_gradient_step_is_autograds(data):
    inputs, labels = data
    network = random_network(64, 16, 1)
    inner = network.inner.clone().requires_grad_()
    loss = (outputs(Network(inner, network.signs), inputs) - labels).square().sum() / 2
    loss.backward()
    moved = gradient_step(network, inputs, labels, 0.1)
    assert torch.allclose(network.inner - moved.inner, 0.1 * inner.grad, atol=1e-14)


def test_kfac_step_is_that_of_the_dense_factors(data):
    inputs, labels = data
    network = random_network(100, 16, 1)
    active = (inputs @ network.inner.T > 0).double()
    slopes = active * network.signs  # of unit r on sample i, times √m
    residual = outputs(network, inputs) - labels
    gradient = (slopes.T * residual) @ inputs / 10  # √m = 10
    of_slopes = np.linalg.pinv((slopes.T @ slopes).numpy() / 100, rcond=1e-10, hermitian=True)
    of_inputs = np.linalg.inv((inputs.T @ inputs).numpy())
    reference = torch.from_numpy(of_slopes @ gradient.numpy() @ of_inputs)
    moved = network.inner - kfac_step(network, inputs, labels, 1.0).inner
    assert float((moved - reference).norm() / reference.norm()) < 1e-9


@pytest.mark.parametrize("width", [256, 4096, 16_384])
def test_rate_at_half_is_a_quarter_within_one_over_root_width(data, width):
    run = descend(random_network(width, 16, 1), *data, "ngd", 0.5, 20)
    assert run.rank == 32
    assert np.abs(np.array(ratios(run.errors)) - 0.25).max() < width**-0.5


def test_a_whole_step_nearly_solves_and_beyond_two_diverges(data):
    network = random_network(16_384, 16, 1)
    assert ratios(descend(network, *data, "ngd", 1.0, 1).errors)[0] < 1e-3
    slow = ratios(descend(network, *data, "ngd", 1.9, 20).errors)
    assert max(slow) == pytest.approx(0.81, abs=16_384**-0.5)
    beyond = descend(network, *data, "ngd", 2.1, 20).errors
    assert beyond[-1] > beyond[0]


@pytest.mark.parametrize("width", [1024, 4096, 16_384])
def test_kfac_contracts_each_residual_by_its_inputs_leverage(data, width):
    inputs, labels = data
    network, h = random_network(width, 16, 1), leverages(inputs)
    assert float(h.sum()) == pytest.approx(16, rel=1e-12)
    lr = 1 / float(h.max())
    before = outputs(network, inputs) - labels
    after = outputs(kfac_step(network, inputs, labels, lr), inputs) - labels
    assert float((after - (1 - lr * h) * before).norm() / before.norm()) < 8 * width**-0.5


def test_natural_gradient_does_not_mind_a_near_pair_that_stops_gradient_descent(data):
    inputs, labels = data
    near, network = with_near_pair(inputs, 0.1), random_network(4096, 16, 1)
    assert float(near[0] @ near[1]) == pytest.approx(np.cos(0.1), rel=1e-6)
    top = float(torch.linalg.eigvalsh(kernel(network, near))[-1])
    natural = descend(network, near, labels, "ngd", 0.5, 60, 1e-6)
    plain = descend(network, near, labels, "gd", 1 / top, 300, 1e-6)
    assert natural.errors[-1] <= 1e-6
    assert plain.errors[-1] > 1e-3


@pytest.mark.parametrize("factor", [1.0, 2.5])
def test_parallel_inputs_are_named(data, factor):
    inputs, labels = data
    inputs = inputs.clone()
    inputs[9] = factor * inputs[4]
    assert parallel_pair(inputs) == (4, 9)
    message = rf"inputs 4 and 9 are parallel \(input 9 = {factor:g} × input 4\)"
    with pytest.raises(ValueError, match=message):
        descend(random_network(64, 16, 1), inputs, labels, "ngd", 0.5, 5)
    with pytest.warns(RankDeficiencyWarning, match="rank 31 of 32"):
        natural_step(random_network(256, 16, 1), inputs, labels, 0.5)


def test_a_pair_too_near_for_the_kernel_is_not_refused_but_its_rank_is_said(data):
    """At 1e-8 the kernel's smallest eigenvalue is some 1e-17: what distinguishes the pair is lost.

    sin² = 1e-16 is far above what is refused as parallel.
    """
    inputs, labels = data
    near = with_near_pair(inputs, 1e-8)
    first, second, _, sine = nearest_pair(near)
    assert (first, second) == (0, 1)
    assert sine == pytest.approx(1e-8, rel=1e-6)
    run = descend(random_network(4096, 16, 1), near, labels, "ngd", 0.5, 3)
    assert run.rank == 31
    assert descend(random_network(64, 16, 1), inputs, labels, "gd", 0.1, 3).rank is None


def test_the_nearest_pair_is_found_where_all_cosines_are_negative():
    three = torch.tensor([[1.0, 0.0], [-0.5, 0.75**0.5], [-0.6, -0.8]], dtype=torch.float64)
    pair = nearest_pair(three)
    assert (pair.first, pair.second) == (1, 2)
    assert pair.cosine == pytest.approx(0.3 - 0.8 * 0.75**0.5)
    with pytest.raises(ValueError, match="1 inputs given; allowed: at least two"):
        nearest_pair(three[:1])


def test_opposite_inputs_are_no_parallel_pair(data):
    inputs = data[0].clone()
    inputs[9] = -inputs[4]  # a unit sees one of them only, so that their outputs are told apart
    assert parallel_pair(inputs) is None


def test_bad_input_is_refused(data):
    inputs, labels = data
    network = random_network(64, 16, 1)
    with pytest.raises(ValueError, match="method 'sgd' given; allowed: ngd, gd"):
        descend(network, inputs, labels, "sgd", 0.5, 5)
    with pytest.raises(ValueError, match="zero row"):
        check_inputs(torch.cat([inputs, torch.zeros(1, 16).double()]))
    with pytest.raises(ValueError, match="8 inputs of 16 dimensions given; allowed: at least 16"):
        leverages(inputs[:8])
