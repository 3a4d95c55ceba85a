"""Are Hessian, Fisher and empirical Fisher as far apart as dense matrices and theory say?"""

import copy

import dense
import numpy as np
import pytest
import torch
from fisher_oracle import dense_fisher, dense_hessian, small_problem
from torch import nn
from torch.nn.functional import cross_entropy
from zoo import ANIMALS

from degeneracy.curvature.fisher import fisher_operator
from degeneracy.curvature.gap import curvature_gap
from degeneracy.curvature.operators import hessian_operator


@pytest.fixture
def small():
    return small_problem()


def test_the_gap_is_that_of_the_dense_matrices_within_its_errors(small):
    model, inputs, labels = small
    matrices = {
        "hessian": dense_hessian(model, inputs, labels),
        "fisher": dense_fisher(model, inputs, labels, "expected"),
        "empirical": dense_fisher(model, inputs, labels, "empirical"),
    }
    gap = curvature_gap(model, (inputs, labels), num_probes=100, num_eigenvalues=3, batch_size=10)
    for name, matrix in matrices.items():
        value, error = gap.traces[name]
        assert abs(value - matrix.trace()) < 4 * error
        np.testing.assert_allclose(
            gap.top_eigenvalues[name], torch.linalg.eigvalsh(matrix).flip(0)[:3], rtol=1e-3
        )
    for a, b in gap.distances:
        value, error = gap.distances[a, b]
        assert abs(value - (matrices[a] - matrices[b]).norm() / matrices[a].norm()) < 4 * error
        value, error = gap.trace_differences[a, b]
        assert abs(value - (matrices[a] - matrices[b]).trace()) < 4 * error
    assert gap.trace_differences["hessian", "fisher"][1] < 2 * gap.traces["hessian"][1]


@pytest.mark.parametrize("name", ["ffnn squared error", "bce", "tokens", "gru"])
def test_the_gap_is_that_of_the_dense_matrices_for_other_losses_and_models(name):
    animal = ANIMALS[name]
    right = {
        "hessian": dense.dense_hessian(animal),
        "fisher": dense.dense_fisher(animal, "expected"),
        "empirical": dense.dense_fisher(animal, "empirical"),
    }
    gap = curvature_gap(
        animal.build(), animal.data, loss_fn=animal.loss_fn, num_probes=100, batch_size=5
    )
    for matrix, (value, error) in gap.traces.items():
        assert abs(value - right[matrix].trace()) < 4 * error
        top = torch.linalg.eigvalsh(right[matrix])[-1:]
        np.testing.assert_allclose(gap.top_eigenvalues[matrix], top, rtol=1e-6)
    for (a, b), (value, error) in gap.distances.items():
        assert abs(value - (right[a] - right[b]).norm() / right[a].norm()) < 4 * error


def test_hessian_and_fisher_are_the_same_in_softmax_regression():
    torch.manual_seed(0)
    model, inputs, labels = nn.Linear(5, 4), torch.randn(30, 5), torch.randint(4, (30,))
    gap = curvature_gap(model, (inputs, labels), num_probes=3)
    assert gap.distances["hessian", "fisher"][0] == pytest.approx(0, abs=1e-5)
    assert gap.distances["fisher", "empirical"][0] > 0.1


def test_all_three_meet_where_the_model_is_true():
    """Labels drawn from p(y | x) make H − F and E − F means of independent terms of mean zero: they
    go as 1/√n.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 3))
    sizes, squares = (60, 60 * 16), {}
    for n in sizes:
        for _ in range(10):
            inputs = torch.randn(n, 3)
            data = inputs, model(inputs).softmax(1).multinomial(1)[:, 0]
            fisher = fisher_operator(model, data)
            every = torch.eye(fisher.dim)
            for other in (
                hessian_operator(model, cross_entropy, data),
                fisher_operator(model, data, "empirical"),
            ):
                apart = (other.products(every) - fisher.products(every)).square().sum().item()
                squares.setdefault(n, []).append(apart)
    few, many = (np.array(squares[n]).reshape(10, 2) for n in sizes)
    ratio = many.mean(0) / few.mean(0)
    error = ratio * np.hypot(*(s.std(0, ddof=1) / s.mean(0) / 10**0.5 for s in (few, many)))
    assert (abs(ratio - 1 / 16) < 4 * error).all()
    assert (ratio < 1 / 6).all()


def test_one_probe_has_no_error(small):
    model, inputs, labels = small
    gap = curvature_gap(model, (inputs, labels), num_probes=1)
    assert all(error is None for _, error in [*gap.traces.values(), *gap.distances.values()])


def test_without_eigenvalues_no_iteration_for_them_runs(small, monkeypatch):
    model, inputs, labels = small
    with_one = curvature_gap(model, (inputs, labels), num_probes=2)
    monkeypatch.delattr("degeneracy.curvature.gap.eigenvalues_of")
    gap = curvature_gap(model, (inputs, labels), num_probes=2, num_eigenvalues=0)
    assert {name: values.shape for name, values in gap.top_eigenvalues.items()} == dict.fromkeys(
        gap.traces, (0,)
    )
    assert (gap.traces, gap.distances) == (with_one.traces, with_one.distances)


def test_nothing_of_the_model_is_touched_and_the_same_seed_gives_the_same(small):
    model, inputs, labels = small
    state, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    with torch.no_grad():  # a caller's, in which derivatives are taken all the same
        first, again, other = (
            curvature_gap(model, (inputs, labels), kind="sampled", num_probes=2, seed=seed)
            for seed in (3, 3, 0)
        )
    assert first.traces == again.traces
    assert first.traces["fisher"] != other.traces["fisher"]
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_bad_numbers_for_the_gap_are_refused(small):
    model, inputs, labels = small
    for change, message in (
        ({"num_probes": 0}, "num_probes = 0; allowed"),
        ({"num_eigenvalues": -1}, "num_eigenvalues = -1; allowed: an integer, at least 0"),
        ({"num_eigenvalues": 1.0}, "num_eigenvalues = 1.0; allowed: an integer, at least 0"),
        ({"kind": "empirical"}, "compared anyway"),
    ):
        with pytest.raises(ValueError, match=message):
            curvature_gap(model, (inputs, labels), **change)


def test_a_penalty_is_refused(small):
    model, inputs, labels = small
    with pytest.raises(ValueError, match="penalty is given, which has no likelihood"):
        curvature_gap(
            model, (inputs, labels), penalty=lambda w: sum(p.square().sum() for p in w.values())
        )
