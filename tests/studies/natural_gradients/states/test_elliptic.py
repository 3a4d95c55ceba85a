"""Is the implicit Jacobian the equation's, its adjoint exact, and LSQR's direction dense's?"""

import numpy as np
import pytest
import scipy.sparse as sp

from studies.natural_gradients.states.elliptic import Elliptic, spread_sources, true_coefficient
from studies.natural_gradients.states.grids import Grid
from studies.natural_gradients.states.implicit import (
    explicit_direction,
    implicit_direction,
    implicit_jacobian,
)
from studies.natural_gradients.states.measure import Inverse
from studies.natural_gradients.states.metrics import METRICS, l2
from studies.natural_gradients.states.settings import Settings

UNIT = ((0.0, 0.0), (1.0, 1.0))


def problem(side: int, sources: int) -> tuple[Elliptic, np.ndarray, np.ndarray]:
    grid = Grid(*UNIT, (side, side))
    made = Elliptic(grid, spread_sources(grid, sources))
    theta = true_coefficient(grid)
    return made, theta, made.states(theta)


def jacobian_of(made: Elliptic, theta: np.ndarray, states: np.ndarray):
    return implicit_jacobian(made.matrix(theta), made.by_parameters(theta, states))


def test_a_constant_coefficient_gives_poisson_s_solution():
    """−Δu = 2π² sin πx sin πy: the error falls as h²."""
    gaps = []
    for side in (16, 32):
        grid = Grid(*UNIT, (side, side))
        exact = np.sin(np.pi * grid.centres).prod(axis=1)
        made = Elliptic(grid, 2 * np.pi**2 * exact[None])
        gaps.append(np.abs(made.states(np.zeros(grid.size))[0] - exact).max())
    assert gaps[1] < 2e-3
    assert 3.5 < gaps[0] / gaps[1] < 4.5


def test_the_jacobian_is_the_derivative_of_the_states():
    """Central differences of step 1e-5 have a relative error of some 1e-9."""
    made, theta, states = problem(6, 2)
    matvec, _ = jacobian_of(made, theta, states)
    for v in np.random.default_rng(0).normal(size=(3, made.grid.size)):
        up, down = (made.states(theta + t * v).ravel() for t in (1e-5, -1e-5))
        expected = (up - down) / 2e-5
        np.testing.assert_allclose(matvec(v), expected, rtol=0, atol=1e-7 * abs(expected).max())


@pytest.mark.parametrize("sources", [1, 2])
def test_the_adjoint_is_exact(sources):
    """⟨Jv, w⟩ = ⟨v, Jᵀw⟩ at 4,096 parameters, to 1e-12 of |Jv||w|."""
    made, theta, states = problem(64, sources)
    matvec, rmatvec = jacobian_of(made, theta, states)
    random = np.random.default_rng(0)
    v, w = random.normal(size=made.grid.size), random.normal(size=states.size)
    pushed = matvec(v)
    gap = abs(pushed @ w - v @ rmatvec(w))
    assert gap < 1e-12 * np.linalg.norm(pushed) * np.linalg.norm(w)


@pytest.mark.parametrize("name", METRICS)
def test_lsqr_is_the_dense_direction(name):
    """In every metric, undamped where J is well conditioned: a coefficient of few parameters."""
    made, theta, states = problem(12, 1)
    grid, state = made.grid, states[0]
    x, y = grid.centres.T
    waves = np.stack(
        [np.cos(a * np.pi * x) * np.cos(b * np.pi * y) for a in (0, 1) for b in (0, 1)]
    )
    slopes = sp.csr_array(made.by_parameters(theta, states) @ waves.T)
    pair = implicit_jacobian(made.matrix(theta), slopes)
    dense = np.stack([pair[0](one) for one in np.eye(len(waves))], axis=1)
    gradient = np.random.default_rng(0).normal(size=grid.size)
    metric = METRICS[name](grid, state)
    found = implicit_direction(pair, metric, gradient).direction.numpy()
    expected = explicit_direction(dense, metric, gradient).direction.numpy()
    assert np.abs(found - expected).max() < 1e-9 * np.abs(expected).max()


def test_damped_lsqr_is_the_dense_direction_with_a_parameter_a_cell():
    made, theta, states = problem(8, 2)
    pair, metric = jacobian_of(made, theta, states), l2(made.grid)
    dense = np.stack([metric.root(pair[0](one)) for one in np.eye(made.grid.size)], axis=1)
    gradient = np.random.default_rng(0).normal(size=states.size)
    damping = (0.02 * np.linalg.norm(dense, 2)) ** 2
    expected = np.linalg.solve(
        dense.T @ dense + damping * np.eye(made.grid.size), pair[1](gradient)
    )
    found = implicit_direction(pair, metric, gradient, damping).direction.numpy()
    assert np.abs(found - expected).max() < 1e-9 * np.abs(expected).max()


def test_natural_steps_find_what_gradient_steps_do_not():
    """To the noise in at most 8 steps at 16² parameters, where 60 gradient steps are not."""
    made = Inverse(Settings(inverse_side=16))
    natural, plain = made.descent(True), made.descent(False)
    norm = 0.5 * made.grid.volume * (made.observed**2).sum()
    noise = np.sqrt(made.enough / norm)
    assert natural["misfit"][-1] <= noise
    assert plain["misfit"][-1] > 3 * noise
    assert natural["error"][-1] < 0.5 * plain["error"][-1]


# ---- refusals ------------------------------------------------------------------------------------


def test_equations_that_define_no_state_are_refused():
    with pytest.raises(ValueError, match="cannot be factorised"):
        implicit_jacobian(sp.csc_array((3, 3)), sp.csc_array(np.ones((3, 2))))
    with pytest.raises(ValueError, match=r"g_ρ of shape \(3, 2\)"):
        implicit_jacobian(sp.csc_array(np.ones((3, 2))), sp.csc_array(np.ones((3, 2))))
    with pytest.raises(ValueError, match="or a multiple of N"):
        implicit_jacobian(sp.eye_array(3, format="csc"), sp.csc_array(np.ones((4, 2))))


def test_coefficients_that_are_none_are_refused():
    made, theta, _ = problem(4, 1)
    with pytest.raises(ValueError, match="finite: False"):
        made.matrix(np.full_like(theta, np.nan))
    with pytest.raises(ValueError, match=r"allowed: finite, of shape \(16,\)"):
        made.states(theta[:3])
