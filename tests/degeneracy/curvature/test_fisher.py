"""Is the Fisher information the sum of gradients' outer products, and are its exact eigenvalues
exact?
"""

import copy
import doctest

import numpy as np
import pytest
import torch
from fisher_oracle import (
    REFUSED,
    dense_fisher,
    dense_hessian,
    given_labels,
    perceptron,
    small_problem,
)
from torch import nn
from torch.func import functional_call, hessian, jacrev
from torch.nn.functional import cross_entropy, linear, relu

from degeneracy.curvature import fisher
from degeneracy.curvature.fisher import (
    KINDS,
    exact_fisher,
    fisher_diagonal,
    fisher_eigenvalues,
    fisher_operator,
    fisher_trace,
)
from degeneracy.curvature.spectrum import quadratic_llc as estimated_quadratic_llc
from degeneracy.curvature.spectrum import spectral_sum, spectrum_of
from degeneracy.models.coefficients import quadratic_llc


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
    return small_problem()


@pytest.mark.parametrize("kind", KINDS)
def test_products_diagonal_trace_and_eigenvalues_are_those_of_the_dense_matrix(problem, kind):
    model, inputs, labels = problem
    dense = dense_fisher(model, inputs, given_labels(model, inputs, labels, kind), kind)
    for batch_size in (100, 6):
        given = {"seed": 4, "batch_size": batch_size}
        operator = fisher_operator(model, (inputs, labels), kind, **given)
        rows = torch.randn(9, operator.dim)
        torch.testing.assert_close(
            operator.products(rows).double(), rows.double() @ dense, rtol=1e-4, atol=1e-5
        )
        found = fisher_diagonal(model, (inputs, labels), kind, **given)
        torch.testing.assert_close(found.double(), dense.diag(), rtol=1e-4, atol=1e-6)
        assert fisher_trace(model, (inputs, labels), kind, **given) == pytest.approx(
            dense.trace().item(), rel=1e-5
        )
    found = fisher_eigenvalues(model, (inputs, labels), 4, kind, seed=4)
    np.testing.assert_allclose(found, torch.linalg.eigvalsh(dense).flip(0)[:4], rtol=1e-4)


def test_the_expected_fisher_is_the_hessian_of_softmax_regression():
    torch.manual_seed(0)
    model, inputs, labels = nn.Linear(5, 4), torch.randn(30, 5), torch.randint(4, (30,))
    operator = fisher_operator(model, (inputs, labels), "expected")
    found = operator.products(torch.eye(operator.dim)).double()
    torch.testing.assert_close(found, dense_hessian(model, inputs, labels), rtol=1e-4, atol=1e-6)


def test_the_expected_fisher_is_the_gauss_newton_matrix_of_every_model(problem):
    """(1/n) Σ Jᵀ (∂²loss/∂z²) J, whatever the labels: the loss's Hessian by the logits does not
    hold them.
    """
    model, inputs, labels = problem
    double = copy.deepcopy(model).double()
    params = {name: p.detach() for name, p in double.named_parameters()}
    gauss_newton = 0
    for sample, label in zip(inputs.double(), labels, strict=True):
        jacobians = jacrev(lambda p, x=sample: functional_call(double, p, (x[None],))[0])(params)
        jacobian = torch.cat([part.flatten(1) for part in jacobians.values()], dim=1)
        of_logits = hessian(lambda z, y=label: cross_entropy(z[None], y[None]))(
            double(sample[None])[0].detach()
        )
        gauss_newton = gauss_newton + jacobian.T @ of_logits @ jacobian / len(inputs)
    operator = fisher_operator(model, (inputs, labels), "expected")
    found = operator.products(torch.eye(operator.dim)).double()
    torch.testing.assert_close(found, gauss_newton, rtol=1e-4, atol=1e-5)


def test_sampled_labels_are_unbiased(small):
    model, inputs, labels = small
    expected = fisher_diagonal(model, (inputs, labels), "expected")
    draws = torch.stack(
        [fisher_diagonal(model, (inputs, labels), "sampled", seed=seed) for seed in range(100)]
    )
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
    # of the Gauss rules, whose nodes lie within the spectrum
    assert found.nodes[:, :14].min() > -1e-5


def test_frozen_weights_are_left_out(small):
    model, inputs, labels = small
    model[1].weight.requires_grad_(False)
    dense = dense_fisher(model, inputs, labels, "expected")
    assert len(dense) == 6 + 18 + 3
    found = fisher_diagonal(model, (inputs, labels))
    torch.testing.assert_close(found.double(), dense.diag(), rtol=1e-4, atol=1e-6)
    eigenvalues = exact_fisher(model, (inputs, labels)).eigenvalues
    np.testing.assert_allclose(
        eigenvalues, torch.linalg.eigvalsh(dense).flip(0), atol=1e-6 * eigenvalues[0]
    )


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
    assert fisher_trace(model, (inputs, labels), "empirical") < 0.03 * fisher_trace(
        model, (inputs, labels)
    )


# All eigenvalues


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("model", "shape", "counts"),
    [
        (lambda: nn.Linear(5, 4), (5,), (4, 100)),  # d = 24
        (perceptron, (1, 4, 4), (5, 200)),  # d = 123
        (Convolutional, (1, 4, 4), (4, 60)),  # d = 47
    ],
)
def test_all_eigenvalues_and_the_diagonal_are_those_of_the_dense_matrix(
    model, shape, counts, kind, monkeypatch
):
    torch.manual_seed(0)
    model = model()
    monkeypatch.setattr(fisher, "GRADIENT_BYTES", 7 * 4 * 500)  # a few samples a chunk
    monkeypatch.setattr(fisher, "ROWS_OF_GRAM", 5)
    sizes = []
    for n in counts:
        inputs = torch.randn(n, *shape)
        labels = torch.randint(3, (n,))
        data = inputs, labels
        dense = dense_fisher(model, inputs, given_labels(model, inputs, labels, kind), kind)
        exact = torch.linalg.eigvalsh(dense).flip(0)
        found = exact_fisher(model, data, kind, seed=4, batch_size=16)
        rank = len(found.eigenvalues)
        assert rank == min(n * (model(inputs).shape[1] if kind == "expected" else 1), len(dense))
        np.testing.assert_allclose(
            found.eigenvalues, exact[:rank], rtol=1e-5, atol=1e-6 * float(exact[0])
        )
        assert exact[rank:].abs().sum() < 1e-12 * exact[0]  # the others are zero
        assert found.eigenvalues.dtype == np.float64
        assert (np.diff(found.eigenvalues) <= 0).all()
        assert found.eigenvalues[-1] >= 0
        torch.testing.assert_close(
            found.diagonal, fisher_diagonal(model, data, kind, seed=4), rtol=1e-5, atol=1e-7
        )
        assert found.trace == pytest.approx(fisher_trace(model, data, kind, seed=4), rel=1e-5)
        assert found.trace == pytest.approx(found.eigenvalues.sum(), rel=1e-5)
        operator = fisher_operator(model, data, kind, seed=4)
        squared_norm = operator.products(torch.eye(operator.dim)).square().sum().item()
        assert np.square(found.eigenvalues).sum() == pytest.approx(squared_norm, rel=1e-5)
        sizes.append(rank)
    assert sizes[0] < len(dense) == sizes[1]


def test_the_smaller_of_the_two_matrices_has_the_same_eigenvalues_as_the_larger():
    """Every sample twice is the same F, here decomposed by samples and by weights."""
    model, inputs, labels = small_problem()
    by_samples = exact_fisher(model, (inputs, labels)).eigenvalues
    by_weights = exact_fisher(model, (inputs.repeat(2, 1, 1, 1), labels.repeat(2))).eigenvalues
    assert (len(by_samples), len(by_weights)) == (69, 123)
    np.testing.assert_allclose(by_weights[:69], by_samples, rtol=1e-5, atol=1e-6 * by_samples[0])
    # 23 of 69 are zero, because residuals sum to zero over labels
    assert by_samples[46:].max() < 1e-6 * by_samples[0]


def test_in_double_precision_small_eigenvalues_are_had_too():
    model, inputs, labels = small_problem()
    model, inputs = model.double(), inputs.double()
    exact = torch.linalg.eigvalsh(dense_fisher(model, inputs, labels, "empirical")).flip(0)
    found = exact_fisher(model, (inputs, labels), "empirical").eigenvalues
    np.testing.assert_allclose(found, exact[:23], rtol=1e-9, atol=1e-14 * float(exact[0]))


@pytest.mark.parametrize("localization", [0.1, 10.0])
def test_their_quadratic_llc_is_the_one_estimated_from_products(small, localization):
    model, inputs, labels = small
    eigenvalues = exact_fisher(model, (inputs, labels)).eigenvalues
    exact = quadratic_llc(list(eigenvalues), 100.0, localization)
    spectrum = spectrum_of(fisher_operator(model, (inputs, labels)), num_probes=40, num_steps=30)
    found = estimated_quadratic_llc(spectrum, 100.0, localization)
    assert abs(found.value - exact) < 4 * found.std_error + found.quadrature_error
    assert found.std_error + found.quadrature_error < 0.05 * exact


def test_what_takes_more_memory_than_allowed_is_refused(small, monkeypatch):
    """69 gradients have 69² products in float64; more than 123 of 123 weights, 123² of those.

    Of a convolution's 47 weights the 30 gradients are kept themselves too, in float32.
    """
    linear, inputs, labels = small
    convolutional = Convolutional()
    for model, samples, needed in (
        (linear, 23, 8 * 69**2),
        (linear, 46, 8 * 123**2),
        (convolutional, 10, 4 * 30 * 47 + 8 * 30**2),
    ):
        data = inputs.repeat(2, 1, 1, 1)[:samples], labels.repeat(2)[:samples]
        monkeypatch.setattr(fisher, "EXACT_BYTES", needed)
        exact_fisher(model, data)
        monkeypatch.setattr(fisher, "EXACT_BYTES", needed - 1)
        with pytest.raises(
            ValueError,
            match=f"take {needed:,} bytes; allowed: {needed - 1:,}; give fewer samples, or",
        ):
            exact_fisher(model, data)


def test_a_weight_used_twice_is_noticed_where_gradients_are_tiny_too():
    """As on a plateau: squares of 1e-8 and less must not pass for zero."""
    torch.manual_seed(0)
    model, inputs, labels = Reused(), torch.randn(9, 5), torch.randint(3, (9,))
    with torch.no_grad():
        model.last.weight.mul_(1e-5)
    trained = dense_fisher(model, inputs, labels, "empirical")
    model.last.requires_grad_(False)
    dense = trained[: -len(model.last.weight) * 5 - 3, : -len(model.last.weight) * 5 - 3]
    assert dense.diagonal().max() < 1e-8
    np.testing.assert_allclose(
        exact_fisher(model, (inputs, labels), "empirical").eigenvalues[0],
        torch.linalg.eigvalsh(dense)[-1],
        rtol=1e-3,
    )
    torch.testing.assert_close(
        fisher_diagonal(model, (inputs, labels), "empirical").double(),
        dense.diagonal(),
        rtol=1e-3,
        atol=0,
    )


def test_gradients_that_are_not_finite_are_refused():
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3))

        def forward(self, inputs):
            return self.weight.sqrt() * inputs

    with pytest.raises(ValueError, match="gradients of the log-likelihood are not finite"):
        exact_fisher(Root(), (torch.ones(2, 3), torch.tensor([0, 1])))


# Promises


def test_nothing_of_the_model_is_touched_and_the_same_seed_gives_the_same(small):
    model, inputs, labels = small
    state, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    with torch.no_grad():  # a caller's, in which derivatives are taken all the same
        first, again = (exact_fisher(model, (inputs, labels), "sampled", seed=3) for _ in range(2))
        diagonal = fisher_diagonal(model, (inputs, labels), "sampled", seed=3)
        fisher_eigenvalues(model, (inputs, labels), 2, "sampled", seed=3)
    np.testing.assert_array_equal(first.eigenvalues, again.eigenvalues)
    assert first.trace != exact_fisher(model, (inputs, labels), "sampled", seed=4).trace
    assert not diagonal.requires_grad
    assert not first.diagonal.requires_grad
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
    here = exact_fisher(model, (inputs, labels), kind).eigenvalues
    there = exact_fisher(
        copy.deepcopy(model).cuda(), (inputs.cuda(), labels.cuda()), kind
    ).eigenvalues
    np.testing.assert_allclose(there, here, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("function", [fisher_operator, fisher_diagonal, fisher_trace, exact_fisher])
@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_bad_input_is_refused_with_a_reason(function, change, message):
    given = {"model": nn.Linear(16, 3), "data": (torch.zeros(2, 16), torch.tensor([0, 1]))} | change
    with pytest.raises(ValueError, match=message):
        function(**given)


def test_the_examples_in_the_docstrings():
    result = doctest.testmod(fisher)
    assert result.attempted > 2
    assert result.failed == 0
