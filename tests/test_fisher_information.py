"""Is the Fisher information the sum of gradients' outer products, and as far from the Hessian as it is said to be?"""

import copy
import doctest

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, hessian, jacrev
from torch.nn.functional import cross_entropy, linear, log_softmax, relu

import fisher_information
from fisher_information import (
    KINDS,
    curvature_gap,
    fisher_diagonal,
    fisher_eigenvalues,
    fisher_operator,
    fisher_trace,
    kfac_eigenvalues,
    kfac_factors,
    kfac_trace,
)
from spectrum import hessian_operator, spectral_sum, spectrum_of


class Convolutional(nn.Module):
    """A convolution, and a linear layer whose weight is used once more outside of it."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(1, 2, 3)
        self.layer = nn.Linear(8, 3)

    def forward(self, images):
        features = relu(self.convolution(images)).flatten(1)
        return self.layer(features) + linear(features.square(), self.layer.weight)


class Reused(nn.Module):
    """All weights are those of linear layers; one weight is used again, behind the layer's back."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, inputs):
        return self.last(torch.tanh(linear(torch.tanh(self.first(inputs)), self.first.weight)))


def flat_gradients(model, inputs) -> torch.Tensor:
    """∇_w log p(c | x_n) for every n and c, one after another: (n, classes, d)."""
    rows = []
    for sample in inputs:
        log_p = log_softmax(model(sample[None])[0], 0)
        for c in range(len(log_p)):
            trained = [p for p in model.parameters() if p.requires_grad]
            rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(log_p[c], trained, retain_graph=True)]))
    return torch.stack(rows).view(len(inputs), -1, rows[0].numel())


def dense_fisher(model, inputs, labels, kind: str) -> torch.Tensor:
    """F written out, in float64."""
    model, inputs = copy.deepcopy(model).double(), inputs.double()
    gradients = flat_gradients(model, inputs)
    weights = model(inputs).detach().softmax(1)
    if kind != "expected":
        weights = nn.functional.one_hot(labels, gradients.shape[1]).double()
    return torch.einsum("nc,nci,ncj->ij", weights, gradients, gradients) / len(inputs)


def dense_hessian(model, inputs, labels) -> torch.Tensor:
    model = copy.deepcopy(model).double()
    params = dict(model.named_parameters())
    sizes = [p.numel() for p in params.values()]

    def loss(flat):
        pieces = zip(params.items(), flat.split(sizes), strict=True)
        named = {name: piece.view_as(p) for (name, p), piece in pieces}
        return cross_entropy(functional_call(model, named, (inputs.double(),)), labels)

    return hessian(loss)(torch.cat([p.detach().flatten() for p in params.values()]))


def given_labels(model, inputs, labels, kind):
    """The labels behind `kind` at seed 4; sampled ones as the module draws them: from p, on the CPU."""
    if kind != "sampled":
        return labels
    return model(inputs).softmax(1).double().multinomial(1, generator=torch.Generator().manual_seed(4))[:, 0]


def perceptron():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.ReLU(inplace=True), nn.Linear(6, 3))


MODELS = {
    "perceptron": perceptron,
    "convolutional": Convolutional,
    "reused": lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 5, bias=False), Reused()),
}


@pytest.fixture(params=MODELS)
def problem(request):
    torch.manual_seed(0)
    return MODELS[request.param](), torch.randn(23, 1, 4, 4), torch.randint(3, (23,))


@pytest.fixture
def small():
    torch.manual_seed(0)
    return perceptron(), torch.randn(23, 1, 4, 4), torch.randint(3, (23,))


@pytest.mark.parametrize("kind", KINDS)
def test_products_diagonal_trace_and_eigenvalues_are_those_of_the_dense_matrix(problem, kind):
    model, inputs, labels = problem
    dense = dense_fisher(model, inputs, given_labels(model, inputs, labels, kind), kind)
    for batch_size in (100, 6):
        given = {"seed": 4, "batch_size": batch_size}
        operator = fisher_operator(model, (inputs, labels), kind, **given)
        rows = torch.randn(9, operator.dim)
        torch.testing.assert_close(operator.products(rows).double(), rows.double() @ dense, rtol=1e-4, atol=1e-5)
        found = fisher_diagonal(model, (inputs, labels), kind, **given)
        torch.testing.assert_close(found.double(), dense.diag(), rtol=1e-4, atol=1e-6)
        assert fisher_trace(model, (inputs, labels), kind, **given) == pytest.approx(dense.trace().item(), rel=1e-5)
    found = fisher_eigenvalues(model, (inputs, labels), 4, kind, seed=4)
    np.testing.assert_allclose(found, torch.linalg.eigvalsh(dense).flip(0)[:4], rtol=1e-4)


def test_the_expected_fisher_is_the_hessian_of_softmax_regression():
    torch.manual_seed(0)
    model, inputs, labels = nn.Linear(5, 4), torch.randn(30, 5), torch.randint(4, (30,))
    operator = fisher_operator(model, (inputs, labels), "expected")
    found = operator.products(torch.eye(operator.dim)).double()
    torch.testing.assert_close(found, dense_hessian(model, inputs, labels), rtol=1e-4, atol=1e-6)
    gap = curvature_gap(model, (inputs, labels), num_probes=3)
    assert gap.distances["hessian", "fisher"][0] == pytest.approx(0, abs=1e-5)
    assert gap.distances["fisher", "empirical"][0] > 0.1


def test_the_expected_fisher_is_the_gauss_newton_matrix_of_every_model(problem):
    """(1/n) Σ Jᵀ (∂²loss/∂z²) J, whatever the labels: the loss's Hessian by the logits does not hold them."""
    model, inputs, labels = problem
    double = copy.deepcopy(model).double()
    params = {name: p.detach() for name, p in double.named_parameters()}
    gauss_newton = 0
    for sample, label in zip(inputs.double(), labels, strict=True):
        jacobians = jacrev(lambda p, x=sample: functional_call(double, p, (x[None],))[0])(params)
        jacobian = torch.cat([part.flatten(1) for part in jacobians.values()], dim=1)
        of_logits = hessian(lambda z, y=label: cross_entropy(z[None], y[None]))(double(sample[None])[0].detach())
        gauss_newton = gauss_newton + jacobian.T @ of_logits @ jacobian / len(inputs)
    operator = fisher_operator(model, (inputs, labels), "expected")
    found = operator.products(torch.eye(operator.dim)).double()
    torch.testing.assert_close(found, gauss_newton, rtol=1e-4, atol=1e-5)


def test_sampled_labels_are_unbiased(small):
    model, inputs, labels = small
    expected = fisher_diagonal(model, (inputs, labels), "expected")
    draws = torch.stack([fisher_diagonal(model, (inputs, labels), "sampled", seed=seed) for seed in range(100)])
    assert not torch.equal(draws[0], draws[1])
    errors = (draws.mean(0) - expected) / (draws.std(0) / 100**0.5 + 1e-7)
    assert errors.abs().max() < 4.5  # the largest of 123 normal deviates
    traces = draws.sum(1)
    assert abs(traces.mean() - expected.sum()) < 4 * traces.std() / 100**0.5


def test_its_spectrum_is_had_like_the_hessians(small):
    model, inputs, labels = small
    found = spectrum_of(fisher_operator(model, (inputs, labels)), num_probes=20, num_steps=15)
    trace = spectral_sum(found, lambda h: h)
    assert abs(trace.value - fisher_trace(model, (inputs, labels))) < 4 * trace.std_error
    assert found.nodes[:, :14].min() > -1e-5  # of the Gauss rules, whose nodes lie within the spectrum


def test_frozen_weights_are_left_out(small):
    model, inputs, labels = small
    model[1].weight.requires_grad_(False)
    dense = dense_fisher(model, inputs, labels, "expected")
    assert len(dense) == 6 + 18 + 3
    found = fisher_diagonal(model, (inputs, labels))
    torch.testing.assert_close(found.double(), dense.diag(), rtol=1e-4, atol=1e-6)
    factors = kfac_factors(model, (inputs, labels))
    assert factors["1"].inputs.tolist() == [[1]]
    assert kfac_trace(factors) > 0


# K-FAC


def test_kfac_is_exact_for_the_block_of_a_single_sample(small):
    model, inputs, labels = small
    dense = dense_fisher(model, inputs[:1], labels[:1], "expected")
    factors = kfac_factors(model, (inputs[:1], labels[:1]))
    first = 16 * 6 + 6
    for name, block in (("1", dense[:first, :first]), ("3", dense[first:, first:])):
        a, b = factors[name].inputs.double(), factors[name].gradients.double()
        # The block's order is all weights, row by row, then the bias; that of B ⊗ A has a row's bias after the row.
        joint = torch.arange(len(b) * len(a)).view(len(b), len(a))
        order = torch.cat([joint[:, :-1].flatten(), joint[:, -1]])
        torch.testing.assert_close(torch.kron(b, a)[order][:, order], block, rtol=1e-4, atol=1e-6)
    exact = torch.cat([torch.linalg.eigvalsh(dense[:first, :first]), torch.linalg.eigvalsh(dense[first:, first:])])
    np.testing.assert_allclose(kfac_eigenvalues(factors, 3), exact.sort(descending=True).values[:3], rtol=1e-4)
    assert kfac_trace(factors) == pytest.approx(dense.trace().item(), rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_kfac_factors_are_covariances_of_inputs_and_of_gradients(small, kind):
    model, inputs, labels = small
    labels_used = given_labels(model, inputs, labels, kind)
    hidden = model[:3](inputs)
    a = torch.cat([hidden, torch.ones(23, 1)], dim=1)
    p = model(inputs).softmax(1)
    residual = p - nn.functional.one_hot(labels_used, 3)
    b = residual.T @ residual / 23 if kind != "expected" else torch.diag(p.mean(0)) - p.T @ p / 23
    for batch_size in (100, 7):
        factors = kfac_factors(model, (inputs, labels), kind, seed=4, batch_size=batch_size)
        torch.testing.assert_close(factors["3"].inputs, (a.T @ a / 23).detach())
        torch.testing.assert_close(factors["3"].gradients, b.detach())


def test_kfac_eigenvalues_are_those_of_the_kronecker_products(small):
    model, inputs, labels = small
    factors = kfac_factors(model, (inputs, labels))
    dense = [torch.linalg.eigvalsh(torch.kron(f.inputs.double(), f.gradients.double())) for f in factors.values()]
    exact = torch.cat(dense).sort(descending=True).values
    np.testing.assert_allclose(kfac_eigenvalues(factors, 20), exact[:20], rtol=1e-5)
    with pytest.raises(ValueError, match=f"k = 1000; allowed: 1 to the number of weights, {len(exact)}"):
        kfac_eigenvalues(factors, 1000)


def test_kfac_says_which_weights_it_has_no_factors_for(small):
    _, inputs, labels = small
    model = nn.Sequential(nn.Flatten(), nn.LayerNorm(16), nn.Linear(16, 3))
    with pytest.raises(ValueError, match=r"no factors for 1.weight, 1.bias; allowed: weights of Linear and Conv2d"):
        kfac_factors(model, (inputs, labels))


# The gap between the three


def test_the_gap_is_that_of_the_dense_matrices_within_its_errors(small):
    model, inputs, labels = small
    dense = {
        "hessian": dense_hessian(model, inputs, labels),
        "fisher": dense_fisher(model, inputs, labels, "expected"),
        "empirical": dense_fisher(model, inputs, labels, "empirical"),
    }
    gap = curvature_gap(model, (inputs, labels), num_probes=100, num_eigenvalues=3, batch_size=10)
    for name, matrix in dense.items():
        value, error = gap.traces[name]
        assert abs(value - matrix.trace()) < 4 * error
        np.testing.assert_allclose(gap.top_eigenvalues[name], torch.linalg.eigvalsh(matrix).flip(0)[:3], rtol=1e-3)
    for a, b in gap.distances:
        value, error = gap.distances[a, b]
        assert abs(value - (dense[a] - dense[b]).norm() / dense[a].norm()) < 4 * error
        value, error = gap.trace_differences[a, b]
        assert abs(value - (dense[a] - dense[b]).trace()) < 4 * error
    assert gap.trace_differences["hessian", "fisher"][1] < 2 * gap.traces["hessian"][1]


def test_all_three_meet_where_the_model_is_true():
    """Labels drawn from p(y | x) make H − F and E − F means of independent terms of mean zero: they go as 1/√n."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 3))
    sizes, squares = (60, 60 * 16), {}
    for n in sizes:
        for _ in range(10):
            inputs = torch.randn(n, 3)
            data = inputs, model(inputs).softmax(1).multinomial(1)[:, 0]
            fisher = fisher_operator(model, data)
            every = torch.eye(fisher.dim)
            for other in (hessian_operator(model, cross_entropy, data), fisher_operator(model, data, "empirical")):
                apart = (other.products(every) - fisher.products(every)).square().sum().item()
                squares.setdefault(n, []).append(apart)
    few, many = (np.array(squares[n]).reshape(10, 2) for n in sizes)
    ratio = many.mean(0) / few.mean(0)
    error = ratio * np.hypot(*(s.std(0, ddof=1) / s.mean(0) / 10**0.5 for s in (few, many)))
    assert (abs(ratio - 1 / 16) < 4 * error).all()
    assert (ratio < 1 / 6).all()


def test_at_fitted_labels_the_trace_of_the_empirical_one_is_of_second_order(small):
    """With residuals p − y → 0, tr F goes as the residuals and tr E as their squares."""
    model, inputs, labels = small
    inputs, labels = inputs[:8], labels[:8]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(300):
        optimizer.zero_grad()
        loss = cross_entropy(model(inputs), labels)
        loss.backward()
        optimizer.step()
    assert loss < 0.01
    assert fisher_trace(model, (inputs, labels), "empirical") < 0.03 * fisher_trace(model, (inputs, labels))


def test_one_probe_has_no_error(small):
    model, inputs, labels = small
    gap = curvature_gap(model, (inputs, labels), num_probes=1)
    assert all(error is None for _, error in [*gap.traces.values(), *gap.distances.values()])


# Promises


def test_nothing_of_the_model_is_touched_and_the_same_seed_gives_the_same(small):
    model, inputs, labels = small
    state, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    with torch.no_grad():  # a caller's, in which derivatives are taken all the same
        first, again = (curvature_gap(model, (inputs, labels), kind="sampled", num_probes=2, seed=3) for _ in range(2))
        diagonal = fisher_diagonal(model, (inputs, labels), "sampled", seed=3)
        kfac_factors(model, (inputs, labels), "sampled", seed=3)
    assert first.traces == again.traces
    assert (
        first.traces["fisher"] != curvature_gap(model, (inputs, labels), kind="sampled", num_probes=2).traces["fisher"]
    )
    assert not diagonal.requires_grad
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", KINDS)
def test_on_cuda_it_is_the_same_matrix(small, kind):
    model, inputs, labels = small
    here = fisher_diagonal(model, (inputs, labels), kind)
    there = fisher_diagonal(copy.deepcopy(model).cuda(), (inputs.cuda(), labels.cuda()), kind)
    torch.testing.assert_close(there.cpu(), here, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("function", [fisher_operator, fisher_diagonal, fisher_trace, kfac_factors])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "true"}, "kind = 'true'; allowed: expected, sampled, empirical"),
        ({"batch_size": 0}, "batch_size = 0; allowed: an integer, at least 1"),
        ({"model": nn.Flatten()}, "no weights that require a gradient"),
        ({"model": nn.Linear(16, 3).requires_grad_(False)}, "no weights that require a gradient"),
        ({"model": nn.Sequential(nn.Linear(16, 3), nn.BatchNorm1d(3))}, "depends on the other samples.*model.eval"),
        ({"data": (torch.zeros(0, 16), torch.zeros(0, dtype=torch.long))}, "data is empty"),
        ({"data": (torch.zeros(2, 16), torch.tensor([0, 3]))}, "labels go from 0 to 3; allowed for 3 outputs: 0 to 2"),
        ({"data": (torch.zeros(2, 16), torch.zeros(2, 3))}, "allowed: logits .* and class indices"),
    ],
)
def test_bad_input_is_refused_with_a_reason(function, change, message):
    given = {"model": nn.Linear(16, 3), "data": (torch.zeros(2, 16), torch.tensor([0, 1]))} | change
    with pytest.raises(ValueError, match=message):
        function(**given)


def test_bad_numbers_for_the_gap_are_refused(small):
    model, inputs, labels = small
    for change, message in (
        ({"num_probes": 0}, "num_probes = 0; allowed"),
        ({"num_eigenvalues": 0}, "num_eigenvalues = 0; allowed"),
        ({"kind": "empirical"}, "compared anyway"),
    ):
        with pytest.raises(ValueError, match=message):
            curvature_gap(model, (inputs, labels), **change)


def test_the_examples_in_the_docstrings():
    result = doctest.testmod(fisher_information)
    assert result.attempted > 2
    assert result.failed == 0
