"""Are the known learning coefficients those of the literature, and the tempered values those of the
integrals?
"""

import math
from fractions import Fraction
from itertools import permutations, product

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import linprog
from scipy.special import k0e, k1e

from degeneracy.models.coefficients import (
    LearningCoefficient,
    deep_linear,
    normal_crossing,
    normal_crossing_llc,
    quadratic,
    quadratic_llc,
)


def half(integer, multiplicity=1):
    return LearningCoefficient(Fraction(integer, 2), multiplicity)


def test_quadratic_and_normal_crossing_are_the_textbook_values():
    assert quadratic(7) == half(7)
    assert quadratic(0) == half(0)
    assert normal_crossing([1]) == quadratic(1)
    assert normal_crossing([1, 1, 1]) == half(1, multiplicity=3)
    assert normal_crossing([2, 1, 2]) == LearningCoefficient(Fraction(1, 4), 2)


# Deep linear networks


def reduced_rank_regression(inputs, hidden, outputs, rank):
    """The four cases of Aoyagi & Watanabe, Neural Networks 18 (2005), main theorem: M, H, N, r."""
    m, h, n, r = inputs, hidden, outputs, rank
    if m + h < n + r:
        return half(h * m - h * r + n * r)
    if n + h < m + r:
        return half(h * n - h * r + m * r)
    if m + n < h + r:
        return half(m * n)
    odd = (m + h + n + r) % 2
    value = Fraction(
        -((h + r) ** 2) - m**2 - n**2 + 2 * (h + r) * m + 2 * (h + r) * n + 2 * m * n + odd, 8
    )
    return LearningCoefficient(value, 1 + odd)


def test_two_layers_are_reduced_rank_regression():
    for widths in product(range(1, 9), repeat=3):
        for rank in range(min(widths) + 1):
            assert deep_linear(widths, rank) == reduced_rank_regression(*widths, rank), (
                widths,
                rank,
            )


def test_deep_linear_examples():
    assert deep_linear((20, 20, 20, 20), 10) == LearningCoefficient(Fraction(367, 2), 3)
    assert deep_linear((5, 3, 5), 3) == half(21)


@pytest.mark.parametrize("num_layers", [1, 2, 3, 4])
def test_a_teacher_of_the_largest_possible_rank_is_regular(num_layers):
    """Then the maps that the network can reach near the true one are a manifold: the matrices of
    rank r.
    """
    for widths in product(range(1, 5), repeat=num_layers + 1):
        rank = min(widths)
        assert deep_linear(widths, rank) == half(rank * (widths[0] + widths[-1] - rank)), widths


def test_one_layer_is_linear_regression_and_wide_hidden_layers_add_nothing():
    for rank in range(4):
        assert deep_linear((5, 4), rank) == half(20)
        assert deep_linear((5, 40, 50, 4), rank) == half(20)


def test_order_of_the_hidden_layers_and_transposition_do_not_matter():
    for inputs, outputs, hidden, rank in [
        (5, 7, (4, 6, 9), 2),
        (6, 6, (3, 5, 5), 0),
        (9, 4, (4, 8, 5), 3),
    ]:
        expected = deep_linear((inputs, *hidden, outputs), rank)
        for order in permutations(hidden):
            assert deep_linear((inputs, *order, outputs), rank) == expected
            assert deep_linear((outputs, *order, inputs), rank) == expected


@pytest.mark.parametrize("num_layers", [2, 3, 4, 5])
def test_networks_with_a_layer_of_one_unit_and_a_zero_map(num_layers):
    """Under Gaussian weights K = ‖W_L ⋯ W_1‖²_F is then a product of independent χ²_{H_l} over the
    other layers l.

    (A row vector v times a Gaussian matrix is |v| times an independent Gaussian vector.) The moment
    E[(χ²_H)^z] has its first pole at z = −H/2, of order one: λ is the smallest H_l/2 and m counts
    the layers that attain it.
    """
    for others in product(range(1, 5), repeat=num_layers):
        for position in range(num_layers + 1):
            widths = (*others[:position], 1, *others[position:])
            assert deep_linear(widths, 0) == half(
                min(others), multiplicity=others.count(min(others))
            ), widths


@pytest.mark.parametrize("num_layers", [2, 3, 4])
def test_networks_with_two_outputs_and_a_zero_map(num_layers):
    """λ by linear programming over the exponents of Bartlett's triangular factors.

    Under Gaussian weights W_L ⋯ W_1 with two rows has the singular values of T_L ⋯ T_1, T_l = (a_l
    0; b_l c_l), where a_l, c_l, b_l are independent with densities ∝ a^{H−1} and c^{H−2} near 0 and
    b_l normal, H = H_{l−1} ≥ 2. So K = (Π a)² + (Π c)² + x² with x normal given a and c, of
    variance Σ_l (c_L ⋯ c_{l+1} a_{l−1} ⋯ a_1)². For a_l = n^{−α_l} and c_l = n^{−γ_l}, E[exp(−nK)]
    is of the order n^{−λ} up to logarithms, with λ the least Σ_l (H α_l + (H − 1) γ_l) + t, where Σ
    α, Σ γ ≥ ½ and t ≥ 0, t ≥ ½ − Σ_{j>l} γ_j − Σ_{j<l} α_j for every l.
    """
    layers = np.arange(num_layers)
    variances = [np.r_[layers < layer, layers > layer, True] for layer in layers]
    at_least_half = np.array(
        [np.r_[layers >= 0, layers < 0, False], np.r_[layers < 0, layers >= 0, False], *variances]
    )
    for widths in product(range(2, 6), repeat=num_layers):
        cost = np.r_[widths, np.array(widths) - 1, 1]
        found = linprog(cost, A_ub=-1.0 * at_least_half, b_ub=np.full(num_layers + 2, -0.5))
        assert found.status == 0
        assert found.fun == pytest.approx(float(deep_linear((*widths, 2), 0).value), abs=1e-9), (
            widths
        )


@pytest.mark.parametrize(
    ("widths", "rank", "message"),
    [
        ((5,), 0, "two or more"),
        ((5, 0, 5), 0, "each at least 1"),
        ((5, 3, 5), 4, "0 to the smallest width, 3"),
        ((5, 3, 5), -1, "rank = -1"),
    ],
)
def test_impossible_networks_are_refused(widths, rank, message):
    with pytest.raises(ValueError, match=message):
        deep_linear(widths, rank)


# Finite temperature


def test_quadratic_llc_goes_from_the_prior_to_the_learning_coefficient():
    curvatures = [3.0, 0.5, 0.0]
    assert quadratic_llc(curvatures, nbeta=1e12, localization=1e-3) == pytest.approx(
        float(quadratic(2).value), rel=1e-9
    )
    assert quadratic_llc(curvatures[:2], nbeta=1.0, localization=0.0) == 1.0
    # half of each weight's ½ where nβ h = γ, and to first order nβ tr(H)/(2γ) where γ is large
    assert quadratic_llc([2.0, 2.0], nbeta=50.0, localization=100.0) == 0.5
    assert quadratic_llc(curvatures, nbeta=1.0, localization=1e9) == pytest.approx(
        3.5 / 2e9, rel=1e-8
    )


def test_quadratic_llc_is_what_langevin_steps_converge_to():
    """Independent chains, each read once: λ̂ has the standard error of their mean loss."""
    curvatures, nbeta, localization, step_size, num_chains = (
        np.array([8.0, 1.0, 0.0]),
        30.0,
        20.0,
        0.01,
        200_000,
    )
    precision = nbeta * curvatures + localization
    # so large that every step overshoots: 35 % above the posterior's λ̂
    assert step_size * precision.max() > 2
    rng = np.random.default_rng(0)
    weights = np.zeros((num_chains, 3))
    for _ in range(60):  # the slowest weight forgets its start like 0.9^(2·60) ≈ 3e-6
        weights += -step_size / 2 * precision * weights + np.sqrt(step_size) * rng.standard_normal(
            weights.shape
        )
    losses = nbeta * (weights**2 @ curvatures) / 2
    expected = quadratic_llc(curvatures, nbeta, localization, step_size)
    assert expected > 1.3 * quadratic_llc(curvatures, nbeta, localization)
    assert losses.mean() == pytest.approx(expected, abs=4 * losses.std() / np.sqrt(num_chains))


def test_quadratic_llc_refuses_what_has_no_stationary_law():
    with pytest.raises(ValueError, match="choose nβ > 0 and γ > 0"):
        quadratic_llc([1.0, 0.0], nbeta=10.0, localization=0.0)
    with pytest.raises(ValueError, match=r"choose ε < 0\.4"):
        quadratic_llc([1.0, 0.1], nbeta=9.0, localization=1.0, step_size=0.4)


TEMPERATURES = pytest.mark.parametrize("nbeta", [1.0, 1e3, 1e6])
LOCALIZATIONS = pytest.mark.parametrize("localization", [1e-3, 1.0, 1e3])


@TEMPERATURES
@LOCALIZATIONS
def test_one_weight_squared_is_a_quadratic(nbeta, localization):
    expected = quadratic_llc([2.0], nbeta, localization)
    assert normal_crossing_llc([1], nbeta, localization) == pytest.approx(expected, rel=1e-10)


@TEMPERATURES
@LOCALIZATIONS
def test_two_weights_squared_are_a_bessel_function(nbeta, localization):
    """Z = ∫ exp(−nβ w₁²w₂² − γ|w|²/2) dw ∝ (nβ)^{−½} eˣ K₀(x), x = γ²/(8nβ), and λ̂ = −∂ ln Z/∂ ln
    nβ.
    """
    x = localization**2 / (8 * nbeta)
    expected = 0.5 + x * (1 - k1e(x) / k0e(x))
    # the difference 1 − K₁/K₀ ≈ −1/(2x) + 1/(8x²) cancels two leading orders: u·8x² relative to λ̂
    assert normal_crossing_llc([1, 1], nbeta, localization) == pytest.approx(
        expected, rel=1e-10 + 2e-15 * x**2
    )


@TEMPERATURES
@LOCALIZATIONS
@pytest.mark.parametrize("k", [2, 3])
def test_one_weight_is_an_integral(k, nbeta, localization):
    width = min(localization**-0.5, nbeta ** (-0.5 / k))

    def posterior(u):  # at w = u·width
        return np.exp(-nbeta * (width * u) ** (2 * k) - localization / 2 * (width * u) ** 2)

    mass = quad(posterior, 0, 40, epsabs=0, epsrel=1e-11, limit=500)[0]
    mean = quad(
        lambda u: (width * u) ** (2 * k) * posterior(u), 0, 40, epsabs=0, epsrel=1e-11, limit=500
    )[0]
    assert normal_crossing_llc([k], nbeta, localization) == pytest.approx(
        nbeta * mean / mass, rel=1e-8
    )


@pytest.mark.parametrize("k", [1, 2, 5])
def test_one_weight_without_localization_is_at_its_learning_coefficient(k):
    assert normal_crossing_llc([k], nbeta=3.0, localization=0.0) == float(
        normal_crossing([k]).value
    )
    assert normal_crossing_llc([k], nbeta=1e6, localization=1e-12) == pytest.approx(
        1 / (2 * k), rel=1e-3
    )


@pytest.mark.parametrize("exponents", [(1, 2), (3, 1), (1, 1, 1), (1, 1, 2), (2, 1, 3)])
def test_several_weights_are_an_integral(exponents):
    """The midpoint rule in v = w^{1/3}, up to |w_i| = 6; the cubes resolve the ridges along the
    axes.
    """
    nbeta, localization, step = 5.0, 2.0, 0.02
    axis = np.arange(step / 2, 6 ** (1 / 3), step)
    cube_roots = np.meshgrid(*[axis] * len(exponents), sparse=True)
    loss = math.prod(v ** (6 * k) for v, k in zip(cube_roots, exponents, strict=True))
    # of v: dw = 3v² dv
    prior = math.prod(v**2 * np.exp(-localization / 2 * v**6) for v in cube_roots)
    posterior = prior * np.exp(-nbeta * loss)
    expected = nbeta * (loss * posterior).sum() / posterior.sum()
    assert normal_crossing_llc(exponents, nbeta, localization) == pytest.approx(expected, rel=1e-12)


@TEMPERATURES
@LOCALIZATIONS
@pytest.mark.parametrize("k", [1, 2])
def test_three_weights_are_a_mixture_of_two(k, nbeta, localization):
    """Given w₃ = eᵘ the first two weights see nβ w₃^{2k}, whose Z and λ̂ are Bessel functions
    (above).
    """
    # the trapezoidal rule, in another variable
    u = np.linspace(-60, math.log(1500 / localization) / 2, 50_001)
    x = localization**2 / (8 * nbeta * np.exp(2 * k * u))
    mass = np.exp((1 - k) * u - localization / 2 * np.exp(2 * u)) * k0e(x)
    # For large x, where 1 − K₁/K₀ cancels, the first terms of the series in y = nβ w₃^{2k}/γ²:
    # relative error 1600 y³.
    small, y = np.minimum(x, 1e3), 1 / (8 * x)
    llc = np.where(x < 1e3, 0.5 + small * (1 - k1e(small) / k0e(small)), y - 8 * y**2 + 100 * y**3)
    expected = (mass * llc).sum() / mass.sum()
    assert normal_crossing_llc([1, 1, k], nbeta, localization) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("exponents", [(1, 1), (2, 2), (1, 1, 1), (1, 2, 2)])
def test_normal_crossing_llc_climbs_to_the_learning_coefficient_like_one_over_a_logarithm(
    exponents,
):
    """λ − λ̂ ≈ (m − 1)/(ln nβ + c), so (m − 1)/(λ − λ̂) has slope 1 in ln nβ."""
    learning_coefficient, multiplicity = normal_crossing(exponents)
    log_nbeta = np.log(10) * np.array([2, 4, 8, 16, 100, 200])
    gaps = np.array(
        [
            float(learning_coefficient) - normal_crossing_llc(exponents, np.exp(x), 1.0)
            for x in log_nbeta
        ]
    )
    assert (gaps > 0).all()
    assert (np.diff(gaps) < 0).all()
    slope = np.diff((multiplicity - 1) / gaps)[-1] / np.diff(log_nbeta)[-1]
    assert slope == pytest.approx(1, abs=0.01)


def test_normal_crossing_llc_does_not_depend_on_the_order_or_the_units_of_the_weights():
    """w → c w turns nβ into nβ c^{2Σk} and γ into γ c²."""
    expected = normal_crossing_llc([1, 2, 3], 1e4, 10.0)
    for order in permutations([1, 2, 3]):
        assert normal_crossing_llc(order, 1e4, 10.0) == pytest.approx(expected, rel=1e-12)
    assert normal_crossing_llc([1, 2, 3], 1e4 * 3.0**12, 10.0 * 3.0**2) == pytest.approx(
        expected, rel=1e-9
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], 1.0, 1.0), "at least one"),
        (([1, 0], 1.0, 1.0), "positive integer"),
        (([1.5], 1.0, 1.0), "positive integer"),
        (([1, 1], 1.0, 0.0), "γ > 0"),
        (([1], 0.0, 1.0), "nβ > 0"),
        (([1], 1.0, -1.0), "γ ≥ 0"),
    ],
)
def test_posteriors_that_do_not_exist_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        normal_crossing_llc(*arguments)


def test_bad_exponents_and_ranks_are_refused():
    with pytest.raises(ValueError, match="positive integer"):
        normal_crossing([1, -1])
    with pytest.raises(ValueError, match="rank = -1"):
        quadratic(-1)
