"""Are the yardsticks that online NGD's directions are compared with right?"""

import numpy as np
import pytest
import torch

from degeneracy.optimizers.exact_ngd import fisher_matrix, natural_gradient, smoothing
from ngd import NGD
from studies.ngd_directions.yardsticks import (
    averaged_factors,
    dense_step,
    exact_directions,
    layerwise_directions,
    next_directions,
    stepped_directions,
    turned,
)


def flat(stacks):
    return torch.cat([stack.flatten(1) for stack in stacks], dim=1).double()


@pytest.mark.parametrize("alpha", [0.01, 1.0])
def test_exact_directions_are_natural_gradients(trained, pooled, alpha):
    model, _, gradients = trained
    fisher = fisher_matrix(model, pooled.inputs[:300]).double()
    kappa = smoothing(fisher, alpha)
    found = exact_directions(flat(gradients), fisher, kappa)
    right = torch.stack([natural_gradient(gradient, fisher, kappa) for gradient in flat(gradients)])
    torch.testing.assert_close(found, right, rtol=1e-9, atol=0)


def test_layerwise_directions_invert_the_blocks_of_layers(trained, pooled):
    model, _, gradients = trained
    fisher = fisher_matrix(model, pooled.inputs[:300]).double()
    kappa, sizes = smoothing(fisher, 0.1), [49 * 6 + 6, 6 * 6 + 6, 6 * 10 + 10]
    layer = torch.repeat_interleave(torch.arange(3), torch.tensor(sizes))
    right = exact_directions(flat(gradients), fisher * (layer[:, None] == layer), kappa)
    torch.testing.assert_close(
        layerwise_directions(flat(gradients), fisher, kappa, sizes), right, rtol=1e-9, atol=1e-15
    )


def test_next_directions_are_those_of_the_coming_step_and_change_nothing(trained):
    model, optimizer, gradients = trained
    before = [tensor.clone() for state in optimizer.state.values() for tensor in state.values()]
    weights = [param.clone() for param in model.parameters()]
    ours = [stack[0] for stack in gradients]
    found = next_directions(optimizer, ours)
    after = [tensor for state in optimizer.state.values() for tensor in state.values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    for param, gradient, direction in zip(model.parameters(), ours, found, strict=True):
        param.grad = gradient.clone()
        cosine = torch.cosine_similarity(direction.flatten(), gradient.flatten(), dim=0).item()
        assert cosine == pytest.approx(optimizer.cosine(param).item(), abs=1e-5)
        assert direction.norm().item() == pytest.approx(gradient.norm().item(), rel=1e-5)


def test_averaged_factors_are_second_moments_along_each_axis(trained):
    gradients = trained[2][0].double()  # (5, 6, 49)
    factors = averaged_factors(gradients, alpha=0.5)
    first = sum(g @ g.T / 49 for g in gradients) / 5
    torch.testing.assert_close(factors[0], first, rtol=1e-12, atol=1e-18)
    smoothed = first + 0.5 * first.trace() / 6 * torch.eye(6, dtype=torch.float64)
    passed_on = [torch.linalg.inv(smoothed) @ g for g in gradients]
    passed_on = [x * g.norm() / x.norm() for x, g in zip(passed_on, gradients, strict=True)]
    torch.testing.assert_close(
        factors[1], sum(x.T @ x / 6 for x in passed_on) / 5, rtol=1e-9, atol=1e-18
    )


def test_dense_steps_follow_the_definition(trained):
    """T = η XᵀX/N + (1 − η) F, X G⁻¹ with G = F + κI inverted as it stands, in NumPy."""
    alpha, eta, epsilon = 0.3, 0.6, 1e-6
    fishers, factors = {}, {}
    for step, gradient in enumerate(trained[2][0].double()):
        direction, factors = dense_step(
            gradient, factors, step, alpha=alpha, eta=eta, epsilon=epsilon
        )
        x = gradient.numpy()
        for axis in (0, 1):
            rows = x.T if axis == 0 else x
            moment, identity = rows.T @ rows / len(rows), np.eye(rows.shape[1])
            if step == 0:
                fishers[axis] = (
                    eta * moment * (1 + (1 - eta) + (1 - eta) ** 2)
                    + (1 - eta) ** 3 * epsilon * identity
                )
            fisher = fishers[axis]
            turned_rows = rows @ np.linalg.inv(
                fisher + alpha * np.trace(fisher) / len(fisher) * identity
            )
            turned_rows *= np.linalg.norm(rows) / np.linalg.norm(turned_rows)
            fishers[axis] = eta * moment + (1 - eta) * fisher
            x = turned_rows.T if axis == 0 else turned_rows
        np.testing.assert_allclose(direction.numpy(), x, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("parameter", [2, 4])
@pytest.mark.parametrize("alpha", [0.1, 4.0])
def test_dense_steps_agree_with_online_ngd_where_its_rank_leaves_nothing_out(
    trained, parameter, alpha
):
    """With a dead row and a dead column, rank D − 1 holds all that the gradients span: without the
    floor δ what is left between the recursions is ε, below which NGD lets no eigenvalue fall,
    against tr F."""
    gradients = torch.nn.functional.pad(trained[2][parameter].double(), (0, 1, 0, 1))
    weight = torch.zeros_like(gradients[0])
    how = {"alpha": alpha, "eta": 0.3, "epsilon": 1e-14}
    optimizer, factors = NGD([weight], lr=1.0, delta=0.0, rank=100, **how), {}
    for step in range(30):
        gradient = gradients[step % 5]
        dense, factors = dense_step(gradient, factors, step, **how)
        (online,) = stepped_directions(optimizer, [gradient])
        assert (dense - online).norm() < 1e-7 * gradient.norm()
        assert (dense - gradient).norm() > 0.1 * gradient.norm()  # there was something to turn


def test_large_smoothing_leaves_every_direction_the_gradient(trained, pooled):
    model, _, gradients = trained
    fisher = fisher_matrix(model, pooled.inputs[:100]).double()
    directions = exact_directions(flat(gradients), fisher, smoothing(fisher, 1e12))
    kappas = flat(gradients).norm(dim=1, keepdim=True) / directions.norm(dim=1, keepdim=True)
    torch.testing.assert_close(directions * kappas, flat(gradients), rtol=1e-6, atol=1e-12)
    stack = gradients[0].double()
    found = turned(stack, averaged_factors(stack, 1e12), 1e12)
    torch.testing.assert_close(found, stack, rtol=1e-6, atol=1e-12)
