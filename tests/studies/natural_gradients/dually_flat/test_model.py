"""Is the closed form the natural gradient, and are the coordinates dual?"""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from degeneracy.natural import natural_direction
from studies.natural_gradients.dually_flat.likelihood import maximum_likelihood
from studies.natural_gradients.dually_flat.model import (
    Model,
    check_samples,
    conditional_kl,
    dual,
    joint,
    natural,
    natural_gradient,
    random_table,
    reduced,
    shares,
    softmax,
    table_of,
)


def statistics(model: Model) -> np.ndarray:
    """(x, y) → the joint's sufficient statistics: 1[y = c], c < s, then 1[x_i = k, y = c], k < m_i.

    In the order of (α, β), flattened.
    """
    kept = np.flatnonzero(model.free[1:, 0]) + 1
    rows = []
    for at in model.design:
        for label in range(model.classes):
            one = np.eye(model.classes)[label]
            rows.append(np.r_[one[:-1], np.outer(at[kept], one).ravel()])
    return np.array(rows)


def dense_gradient(model, alpha, beta, features, labels):
    """The gradient of the mean of −log p(y | x) by (α, β), by autograd from the definition."""
    alpha, beta = (torch.tensor(one, requires_grad=True) for one in (alpha, beta))
    starts = np.cumsum([0, *(m - 1 for m in model.sizes[:-1])])
    logits = torch.cat([alpha, alpha.new_zeros(1)]).repeat(len(labels), 1)
    for i, (start, size) in enumerate(zip(starts, model.sizes, strict=True)):
        rows = torch.cat([beta[start : start + size - 1], beta.new_zeros(1, model.classes)])
        logits = logits + rows[torch.as_tensor(features[:, i])]
    loss = torch.nn.functional.cross_entropy(logits, torch.as_tensor(labels))
    return np.concatenate([g.numpy().ravel() for g in torch.autograd.grad(loss, (alpha, beta))])


@pytest.mark.parametrize("own", [True, False])
def test_the_closed_form_is_the_dense_solution(small, own):
    """F d = ∇ with the joint's dense Fisher matrix, at the model's own and at other expectations.

    F's condition number is some 1e2, so that both agree to 1e-12 of their size.
    """
    model, table, _, features, labels = small
    alpha, beta = reduced(model, table)
    other = random_table(model, 0.5, np.random.default_rng(1))
    mu = None if own else dual(model, other)
    weights = joint(model, table if own else other).ravel()
    stats = statistics(model)
    centred = stats - weights @ stats
    fisher = centred.T @ (weights[:, None] * centred)
    assert np.linalg.cond(fisher) < 1e4
    expected = np.linalg.solve(fisher, dense_gradient(model, alpha, beta, features, labels))
    found = natural_gradient(model, alpha, beta, features, labels, mu)
    found = np.concatenate([one.ravel() for one in found])
    assert np.abs(found - expected).max() < 1e-12 * np.abs(expected).max()


def test_the_closed_form_is_the_least_squares_direction(small):
    """J = √p (t − E t), r with Jᵀr = ∇: the thread that all systems share."""
    model, table, truth, features, labels = small
    alpha, beta = reduced(model, table)
    stats, weights = statistics(model), truth.ravel()
    jacobian = np.sqrt(weights)[:, None] * (stats - weights @ stats)
    slope = dense_gradient(model, alpha, beta, features, labels)
    wanted = np.linalg.pinv(jacobian).T @ slope
    expected = natural_direction(torch.as_tensor(jacobian), torch.as_tensor(wanted)).direction
    found = natural_gradient(model, alpha, beta, features, labels)
    found = np.concatenate([one.ravel() for one in found])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11 * float(expected.abs().max()))


def test_expectations_by_factors_are_those_by_enumeration(small):
    model, table, truth, *_ = small
    expected = model.design.T @ truth
    np.testing.assert_allclose(dual(model, table), expected, rtol=1e-13)


def test_natural_and_dual_coordinates_are_inverse(small):
    model, table, *_ = small
    back = natural(model, dual(model, table))
    for found, expected in zip(reduced(model, back), reduced(model, table), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    alpha, beta = reduced(model, back)
    np.testing.assert_allclose(
        joint(model, table_of(model, alpha, beta)), joint(model, table), rtol=1e-12
    )


def test_expectations_of_runs_side_by_side_are_each_its_own(small):
    model, table, *_ = small
    other = random_table(model, 2.0, np.random.default_rng(2))
    both = dual(model, np.stack([table, other], axis=1))
    np.testing.assert_allclose(both[:, 0], dual(model, table), rtol=1e-14)
    np.testing.assert_allclose(both[:, 1], dual(model, other), rtol=1e-14)


def test_the_divergence_is_zero_for_the_truth_alone(small):
    model, table, truth, *_ = small
    assert abs(float(conditional_kl(model, truth, table))) < 1e-15
    other = random_table(model, 0.7, np.random.default_rng(3))
    p, q = (softmax(model.design @ one) for one in (table, other))
    expected = (truth.sum(axis=1) * (p * np.log(p / q)).sum(axis=1)).sum()
    assert float(conditional_kl(model, truth, other)) == pytest.approx(expected, rel=1e-12)


def test_newton_finds_what_scikit_learn_finds(small):
    model, _, _, features, labels = small
    cells = check_samples(model, features, labels)
    table = maximum_likelihood(model, shares(model, cells, labels))
    design = model.design[:, model.free[:, 0] > 0][:, 1:]
    solver = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000, solver="newton-cholesky")
    solver.fit(design[cells], labels)
    np.testing.assert_allclose(
        softmax(model.design @ table), solver.predict_proba(design), rtol=0, atol=1e-6
    )


def test_newton_s_gradient_vanishes(small):
    model, _, _, features, labels = small
    weights = shares(model, check_samples(model, features, labels), labels)
    table = maximum_likelihood(model, weights, tolerance=1e-20)
    slope = model.design.T @ (
        weights.sum(axis=1)[:, None] * softmax(model.design @ table) - weights
    )
    assert np.abs(slope).max() < 1e-10


def test_the_dimension_is_that_of_the_conditional():
    """(1 + 9 + 4)(10 − 1) for s = 10, m = [10, 5]: the rank of p(y | x)'s Fisher matrix."""
    assert Model((10, 5), 10).dimension == 126
    model = Model((3, 2), 3)
    random = np.random.default_rng(0)
    probabilities = softmax(model.design @ random_table(model, 1.0, random))
    spread = probabilities[:, :, None] * (np.eye(3) - probabilities[:, None])
    fisher = np.einsum("ci,cj,cyz->iyjz", model.design, model.design, spread)
    side = model.rows * model.classes
    assert np.linalg.matrix_rank(fisher.reshape(side, side)) == model.dimension


# ---- refusals ------------------------------------------------------------------------------------


def test_values_and_labels_beyond_the_model_are_refused(small):
    model, table, _, features, labels = small
    alpha, beta = reduced(model, table)
    beyond = features.copy()
    beyond[5, 1] = 2
    with pytest.raises(ValueError, match=r"x_2 = 2 given; allowed: 0 to 1"):
        natural_gradient(model, alpha, beta, beyond, labels)
    below = features.copy()
    below[5, 0] = -1
    with pytest.raises(ValueError, match=r"x_1 = -1 given; allowed: 0 to 2"):
        check_samples(model, below, labels)
    with pytest.raises(ValueError, match=r"y = 4 given; allowed: 0 to 3"):
        check_samples(model, features, labels + 1 * (labels == 3))
    with pytest.raises(ValueError, match="allowed: integers"):
        check_samples(model, features * 1.0, labels)
    with pytest.raises(ValueError, match=r"allowed: \(n, 3\) and \(n,\)"):
        check_samples(model, features[:, :2], labels)


@pytest.mark.parametrize("wrong", [0.0, -0.1, np.nan, np.inf])
def test_densities_that_are_none_are_refused(small, wrong):
    model, table, _, features, labels = small
    mu = dual(model, table)
    mu[2, 1] = wrong
    with pytest.raises(ValueError, match=f"mu = {wrong:g} given; allowed: finite and > 0"):
        natural_gradient(model, *reduced(model, table), features, labels, mu)
    with pytest.raises(ValueError, match=r"mu of shape \(2, 4\)"):
        natural_gradient(model, *reduced(model, table), features, labels, mu[:2])


def test_models_that_are_none_are_refused():
    with pytest.raises(ValueError, match=r"sizes \[3, 1\] given; allowed: one or more, each >= 2"):
        Model((3, 1), 4)
    with pytest.raises(ValueError, match="classes = 1 given"):
        Model((3,), 1)


def test_maximum_likelihood_refuses_what_was_never_seen():
    model = Model((3, 2), 2)
    weights = np.full((6, 2), 1.0)
    weights[[0, 1]] = 0  # x_1 = 0
    with pytest.raises(ValueError, match=r"x_1 = 0 was never seen"):
        maximum_likelihood(model, weights)
    weights = np.full((6, 2), 1.0)
    weights[:, 1] = 0
    with pytest.raises(ValueError, match=r"y = 1 was never seen"):
        maximum_likelihood(model, weights)
    with pytest.raises(ValueError, match="least -1"):
        maximum_likelihood(model, weights - 1)
    separated = np.full((6, 2), 1.0)
    separated[:2, 0] = 0  # x_1 = 0 never with y = 0: no maximum, neared to the tolerance
    table = maximum_likelihood(model, separated)
    assert softmax(model.design @ table)[:2, 0].max() < 1e-9
