"""Are derivatives of mixtures and objectives exact, and does the matching metric converge?"""

import numpy as np
import pytest

from studies.natural_gradients.states.descent import descend
from studies.natural_gradients.states.grids import Grid
from studies.natural_gradients.states.measure import TARGET, mixture_path
from studies.natural_gradients.states.metrics import METRICS
from studies.natural_gradients.states.mixture import LEVELS, OBJECTIVES, mixture

LINE = Grid((-8.0,), (8.0,), (200,))
SQUARE = Grid((-3.0, -2.0), (3.0, 2.0), (12, 9))


def central(function, at: np.ndarray, step: float = 1e-6) -> np.ndarray:
    eye = step * np.eye(len(at))
    return np.stack([(function(at + one) - function(at - one)) / (2 * step) for one in eye], -1)


@pytest.mark.parametrize("grid", [LINE, SQUARE], ids=["line", "square"])
def test_the_jacobian_is_the_derivative(grid):
    """Central differences of step 1e-6 have an error of some 1e-10."""
    axes, random = len(grid.shape), np.random.default_rng(0)
    parameters = random.normal(0, 0.5, 2 * axes + 3)
    state = mixture(grid, parameters)
    assert state.density.sum() * grid.volume == pytest.approx(1.0, rel=1e-13)
    assert np.abs(state.jacobian.sum(axis=0)).max() < 1e-12 * np.abs(state.jacobian).max()
    expected = central(lambda at: mixture(grid, at).density, parameters)
    np.testing.assert_allclose(state.jacobian, expected, rtol=0, atol=2e-9)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_have_their_derivative(name):
    random = np.random.default_rng(1)
    objective = OBJECTIVES[name](LINE, mixture(LINE, np.array(TARGET)).density)
    density = mixture(LINE, np.r_[random.normal(0, 2, 3), np.zeros(5)]).density + 1e-2
    slope = objective(density)[1]
    some = slice(0, None, 7)
    step = 1e-6
    expected = [
        (objective(density + step * one)[0] - objective(density - step * one)[0]) / (2 * step)
        for one in np.eye(LINE.size)[some]
    ]
    np.testing.assert_allclose(slope[some], expected, rtol=2e-5, atol=1e-7 * np.abs(slope).max())


def test_half_w2_squared_of_a_shift_is_half_its_square():
    """Quantiles of ρ moved by 40 cells are moved by as much; background changes that by a share."""
    one = mixture(LINE, np.array([-1.0, 0.0])).density
    moved = np.roll(one, 40)
    found = OBJECTIVES["½W₂²"](LINE, moved)(one)[0]
    distance = 40 * LINE.volume
    assert found == pytest.approx(0.5 * distance**2, rel=2e-2)
    assert OBJECTIVES["½W₂²"](LINE, one)(one)[0] == 0
    assert LINE.size < LEVELS


@pytest.mark.parametrize(("name", "metric"), [("½L²", "L²"), ("KL", "Fisher-Rao"), ("½W₂²", "W₂")])
def test_the_metric_of_the_objective_converges(name, metric):
    """From near the target the loss falls to rounding; with the gradient it does not."""
    objective = OBJECTIVES[name](LINE, mixture(LINE, np.array(TARGET)).density)
    start = np.array(TARGET) + np.array([0.3, -0.3, 0.2, 0.1, 0.1, -0.1, 0.1, 0.1])
    path = mixture_path(LINE, objective, lambda density: METRICS[metric](LINE, density), start, 40)
    plain = mixture_path(LINE, objective, None, start, 40)
    assert path.losses[-1] < 1e-12 * path.losses[0]
    assert path.losses[-1] < 1e-3 * plain.losses[-1]
    np.testing.assert_allclose(path.parameters, TARGET, atol=1e-5)


def test_descent_falls_and_ends_where_it_must():
    seen = []

    def losses(at):
        return float(at @ at)

    def step(at):
        return 10 * at, 2 * at

    path = descend(np.ones(2), losses, step, 50, enough=1e-6, watch=seen.append)
    assert all(b < a for a, b in zip(path.losses, path.losses[1:], strict=False))
    assert path.losses[-1] <= 1e-6 < path.losses[-2]
    assert max(path.lengths) <= 0.2
    assert len(seen) == len(path.lengths) == len(path.losses) - 1
    uphill = descend(np.ones(2), losses, lambda at: (-at, 2 * at), 50)
    assert uphill.losses == [2.0]
    stopped = descend(np.zeros(2), losses, step, 50)
    assert stopped.losses == [0.0]


def test_a_refused_trial_is_a_step_too_long():
    def wall(at):
        if at[0] < 0.5:
            raise ValueError("beyond the wall")
        return float(at @ at)

    path = descend(np.ones(1), wall, lambda at: (2 * at, 2 * at), 20)
    assert path.losses[-1] == pytest.approx(0.25, rel=1e-6)


# ---- refusals ------------------------------------------------------------------------------------


def test_mixtures_that_the_grid_does_not_see_are_refused():
    with pytest.raises(ValueError, match=r"3 parameters given.*allowed: K·3 − 1"):
        mixture(LINE, np.zeros(3))
    with pytest.raises(ValueError, match="finite: False"):
        mixture(LINE, np.array([np.nan, 0.0]))
    for wrong in ([8.5, 0.0], [0.0, -5.0], [0.0, 4.0]):
        with pytest.raises(ValueError, match=r"bell 1 given at .*allowed: inside the box"):
            mixture(LINE, np.array(wrong))


def test_targets_that_are_no_density_are_refused():
    for name in ("KL", "½W₂²"):
        with pytest.raises(ValueError, match="allowed: finite and > 0"):
            OBJECTIVES[name](LINE, np.zeros(LINE.size))
