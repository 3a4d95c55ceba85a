"""Are the five metrics what they are called, and QR's direction the natural gradient?"""

import numpy as np
import pytest
import torch

from degeneracy.natural import natural_direction
from studies.natural_gradients.states.grids import Grid
from studies.natural_gradients.states.implicit import explicit_direction
from studies.natural_gradients.states.measure import (
    dense_metric,
    gap_to_inverse,
    parallel_columns,
    shift_constants,
    shift_error,
)
from studies.natural_gradients.states.metrics import (
    METRICS,
    fisher_rao,
    wasserstein,
    wasserstein_1d,
)
from studies.natural_gradients.states.mixture import mixture

LINE = Grid((-4.0,), (4.0,), (40,))
SQUARE = Grid((-3.0, -2.0), (3.0, 2.0), (7, 6))


def bell(grid: Grid) -> np.ndarray:
    return np.exp(-0.5 * (grid.centres**2).sum(axis=1)) + 0.1


@pytest.mark.parametrize("grid", [LINE, SQUARE], ids=["line", "square"])
@pytest.mark.parametrize("name", METRICS)
def test_the_root_squared_is_the_metric(name, grid):
    """|Lζ|² = ζᵀGζ, G dense from its definition: for every ζ, so LᵀL = G."""
    density = bell(grid)
    dense = dense_metric(grid, density, name)
    root = METRICS[name](grid, density).root(np.eye(grid.size))
    np.testing.assert_allclose(root.T @ root, dense, rtol=0, atol=1e-12 * np.abs(dense).max())


@pytest.mark.parametrize("grid", [LINE, SQUARE], ids=["line", "square"])
@pytest.mark.parametrize("name", METRICS)
def test_pulled_is_the_transposed_pseudo_inverse_up_to_what_has_no_mass(name, grid):
    """(L†)ᵀ by NumPy's SVD; for W₂, whose L takes no mass, of gradients up to a constant."""
    density = bell(grid)
    metric = METRICS[name](grid, density)
    root = metric.root(np.eye(grid.size))
    expected = np.linalg.pinv(root, rcond=1e-10).T
    found = metric.pulled(np.eye(grid.size))
    if name == "W₂":  # L†ᵀ takes gradients modulo constants; on Y's range both are the same
        left = np.linalg.svd(root, full_matrices=False)[0][:, : grid.size - 1]
        found = left @ (left.T @ found)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11 * np.abs(expected).max())


@pytest.mark.parametrize("grid", [LINE, SQUARE], ids=["line", "square"])
@pytest.mark.parametrize("name", METRICS)
def test_the_adjoint_is_the_transposed_root(name, grid):
    metric = METRICS[name](grid, bell(grid))
    root = metric.root(np.eye(grid.size))
    adjoint = metric.adjoint(np.eye(len(root)))
    np.testing.assert_allclose(adjoint, root.T, rtol=0, atol=1e-12 * np.abs(root).max())
    one = np.random.default_rng(0).normal(size=grid.size)
    np.testing.assert_allclose(metric.root(one), root @ one, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_qr_is_the_explicit_inverse(name):
    """η = (ZᵀGZ)⁻¹Zᵀ∂f with G dense, to 1e-12 of its size."""
    assert gap_to_inverse(name) < 1e-12


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_a_gaussian_s_shift_has_the_known_norms(scale):
    """1/(4√π s³), 1/s² and 1 on 400 cells."""
    off = shift_constants(scale, 400)
    assert abs(off["L²"]) < 1e-8
    assert abs(off["Fisher-Rao"]) < 1e-8
    assert abs(off["W₂"]) < 1e-5


def test_cumulative_sums_are_the_sparse_pseudo_inverse():
    density = bell(LINE)
    one, other = wasserstein_1d(LINE, density), wasserstein(LINE, density)
    eye, faces = np.eye(LINE.size), np.eye(LINE.size - 1)
    for found, expected in (
        (one.root(eye), other.root(eye)),
        (one.adjoint(faces), other.adjoint(faces)),
        (one.pulled(eye), other.pulled(eye)),
    ):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def test_in_thousands_of_cells_a_shift_has_speed_one_up_to_the_grid_s_error():
    """The error of a shift's W₂ speed falls as h⁴: by about 16 from 32² to 64² cells."""
    coarse, fine = (shift_error(Grid((-8.0,) * 2, (8.0,) * 2, (n, n))) for n in (32, 64))
    assert abs(fine) < 1e-3
    assert 8 < coarse / fine < 32


def test_the_flow_of_entropy_in_all_parameters_is_the_heat_equation():
    """∂f = log ρ + 1 for entropy; with a parameter a cell Zη = BBᵀ∂f = −Δ_h ρ up to h².

    (Jordan, Kinderlehrer & Otto, SIAM J. Math. Anal. 29, 1998.)
    """
    gaps = []
    for cells in (100, 200):
        grid = Grid((-6.0,), (6.0,), (cells,))
        x = grid.centres[:, 0]
        density = np.exp(-0.5 * x**2) / np.sqrt(2 * np.pi) + 1e-3
        basis = np.eye(cells)[:, :-1] - np.eye(cells)[:, 1:]  # all changes without mass
        gradient = grid.volume * (np.log(density) + 1)
        metric = wasserstein_1d(grid, density)
        moved = basis @ explicit_direction(basis, metric, gradient).direction.numpy()
        heat = -np.exp(-0.5 * x**2) / np.sqrt(2 * np.pi) * (x**2 - 1)
        gaps.append(np.abs(moved - heat)[5:-5].max())
    assert gaps[1] < 2e-3
    assert 3 < gaps[0] / gaps[1] < 5


def test_nearly_parallel_columns_need_qr():
    """cond 1.4e6: QR's error is at most cond·ε·10, that of normal equations some cond²·ε."""
    found = parallel_columns()
    assert 1e6 < found["condition"] < 1e7
    assert found["qr"] < 10 * found["condition"] * np.finfo(float).eps
    assert found["normal"] > 1e3 * found["qr"]


def test_damping_is_a_share_of_the_largest_column():
    state = mixture(LINE, np.array([-1.0, 1.5, 0.1, -0.2, 0.4]))
    gradient = np.random.default_rng(0).normal(size=LINE.size)
    metric = fisher_rao(LINE, state.density)
    rows = metric.root(state.jacobian)
    weight = 0.1 * (rows**2).sum(axis=0).max()
    expected = np.linalg.solve(
        rows.T @ rows + weight * np.eye(rows.shape[1]), state.jacobian.T @ gradient
    )
    found = explicit_direction(state.jacobian, metric, gradient, 0.1).direction
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    svd = natural_direction(
        torch.from_numpy(rows), torch.from_numpy(metric.pulled(gradient)), method="svd"
    )
    plain = explicit_direction(state.jacobian, metric, gradient).direction
    np.testing.assert_allclose(plain, svd.direction, rtol=1e-9)


# ---- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [fisher_rao, wasserstein, wasserstein_1d])
@pytest.mark.parametrize("wrong", [0.0, -1.0, np.nan, np.inf])
def test_densities_that_are_none_are_refused(make, wrong):
    density = bell(LINE)
    density[3] = wrong
    with pytest.raises(ValueError, match=f"{wrong:g} in 1 of 40 cells given; allowed: finite and"):
        make(LINE, density)
    with pytest.raises(ValueError, match=r"a density of shape \(5,\) given; allowed: \(40,\)"):
        make(LINE, density[:5])


def test_a_square_is_no_line():
    with pytest.raises(ValueError, match="a grid of 2 axes given; allowed: 1"):
        wasserstein_1d(SQUARE, bell(SQUARE))


def test_grids_that_are_none_are_refused():
    for wrong in (((0.0,), (1.0,), (1,)), ((0.0,), (1.0, 1.0), (3, 3)), ((), (), ())):
        with pytest.raises(ValueError, match="allowed: an entry of each an axis"):
            Grid(*wrong)
    with pytest.raises(ValueError, match="allowed: low < high"):
        Grid((1.0,), (1.0,), (4,))
