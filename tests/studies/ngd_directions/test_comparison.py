"""Do comparisons say how far directions are apart?"""

import math

import pytest
import torch

from degeneracy.optimizers.exact_ngd import cosines, fisher_matrix, smoothing
from ngd import NGD
from studies.ngd_directions.comparison import (
    AGREEMENT,
    COMPARED,
    Directions,
    cosines_by_layer,
    dense_comparison,
    exact_comparison,
    flat,
    mean_and_error,
    mean_cosine,
    rounding_errors,
)
from studies.ngd_directions.yardsticks import dense_step, exact_directions

KINDS = ("expected", "sampled")
ALPHAS = (0.1, 1e12)


@pytest.fixture(scope="module")
def compared(trained, pooled):
    """Five gradients, beside an exact F that is the same for all kinds but one."""
    model, _, gradients = trained
    stack = torch.stack([flat(one) for one in zip(*gradients, strict=True)])
    fisher = fisher_matrix(model, pooled.inputs[:200]).double()
    identity = torch.eye(len(fisher), dtype=torch.float64)
    names = {name for pair in AGREEMENT.values() for name in pair}
    fishers = dict.fromkeys(names, fisher) | {"sampled": identity}
    turned = {a: exact_directions(stack, fisher, smoothing(fisher, a)) for a in ALPHAS}
    directions = Directions(stack, -stack, turned, own=1e12)
    return exact_comparison(model, directions, fishers, KINDS, ALPHAS)


def test_every_comparison_has_a_mean_and_an_error_for_each_layer_and_alpha(compared):
    assert set(compared["cosines"]) == set(KINDS)
    for of in compared["cosines"].values():
        assert list(of) == list(COMPARED)
        for by_layer in of.values():
            assert list(by_layer) == ["layers.1", "layers.3", "layers.5", ""]
            assert all(len(pairs) == len(ALPHAS) for pairs in by_layer.values())
            assert all(len(pair) == 2 for pairs in by_layer.values() for pair in pairs)


def test_the_best_of_averaged_directions_is_the_exact_one_where_it_is_among_them(compared):
    best = [mean for mean, _ in compared["cosines"]["expected"]["averaged_best"][""]]
    assert best == pytest.approx([1.0, 1.0])
    own = [mean for mean, _ in compared["cosines"]["expected"]["averaged"][""]]
    assert own[0] < 0.9  # α = 1e12 is the gradient
    assert own[1] == pytest.approx(1.0)


def test_what_points_the_other_way_has_the_opposite_cosine(compared):
    online, gradient = (
        compared["cosines"]["expected"][name][""] for name in ("online", "gradient")
    )
    for (one, error), (other, same_error) in zip(online, gradient, strict=True):
        assert one == pytest.approx(-other)
        assert error == pytest.approx(same_error)


def test_beside_a_multiple_of_the_identity_the_gradient_is_exact(compared):
    for name in ("gradient", "layerwise"):
        means = [mean for mean, _ in compared["cosines"]["sampled"][name][""]]
        assert means == pytest.approx([1.0, 1.0])


def test_equal_fisher_matrices_agree_and_different_ones_do_not(compared):
    agreement = compared["agreement"]
    assert set(agreement) == set(AGREEMENT)
    assert agreement["halves"] == pytest.approx([1.0, 1.0])
    assert agreement["sampled"][0] < 0.9
    assert agreement["sampled"][1] == pytest.approx(1.0)  # both are the gradient


def test_cosines_are_taken_layer_by_layer(trained):
    model, _, gradients = trained
    found = torch.stack([flat(one) for one in zip(*gradients, strict=True)])
    signs = torch.ones_like(found[0])
    signs[: 49 * 6 + 6] = -1.0  # the first layer
    by_layer = cosines_by_layer(model, found, found * signs)
    assert by_layer["layers.1"][0] == pytest.approx(-1.0)
    assert by_layer["layers.3"][0] == pytest.approx(1.0)
    assert -1.0 < by_layer[""][0] < 1.0


def test_means_and_standard_errors():
    assert mean_and_error([1.0, 2.0, 3.0]) == pytest.approx((2.0, 1 / math.sqrt(3)))
    a, b = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    assert mean_cosine(a, b) == pytest.approx(0.5)


def test_a_dense_comparison_is_of_one_step_of_both(trained):
    """From the same start, where F is εI and the first gradients; parameter by parameter."""
    names = [name for name, _ in trained[0].named_parameters()]
    gradients = {name: stack[0].double() for name, stack in zip(names, trained[2], strict=True)}
    how = {"alpha": 0.1, "eta": 0.9, "epsilon": 1e-10}
    online = NGD([torch.zeros_like(g) for g in gradients.values()], lr=1.0, delta=5e-4, **how)
    found, factors = dense_comparison(gradients, online, [{} for _ in names], 0, **how)
    dense = {name: dense_step(g, {}, 0, **how)[0] for name, g in gradients.items()}
    right = cosines(gradients, dense)
    assert found["gradient"] == {name: right[name].item() for name in (*names, "")}
    assert set(found["online"]) == {*names, ""}
    assert [sorted(of) for of in factors] == [[0, 1], [0]] * 3  # weights and biases


def test_nothing_is_lost_where_both_optimizers_are_the_same(trained):
    names = [name for name, _ in trained[0].named_parameters()]
    gradients = {name: stack[0].double() for name, stack in zip(names, trained[2], strict=True)}
    one, other = (NGD([torch.zeros_like(g) for g in gradients.values()], lr=1.0) for _ in range(2))
    errors = rounding_errors(gradients, one, other)
    assert errors["direction_error"] == errors["worst_tensor_error"] == 0.0
    assert errors["orthonormality_error"] < 1e-12  # float64


def test_the_worst_tensor_and_axis_are_named(trained):
    names = [name for name, _ in trained[0].named_parameters()]
    gradients = {name: stack[0] for name, stack in zip(names, trained[2], strict=True)}
    single, double = (
        NGD([torch.zeros_like(g, dtype=dtype) for g in gradients.values()], lr=1.0)
        for dtype in (torch.float32, torch.float64)
    )
    errors = rounding_errors(gradients, single, double)
    assert errors["worst_tensor"] in names
    assert errors["worst_axis"].rsplit(", axis ")[0] in names
    assert 0.0 < errors["direction_error"] <= errors["worst_tensor_error"] < 1e-3
