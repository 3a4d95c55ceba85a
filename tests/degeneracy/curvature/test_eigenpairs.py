"""Are the outermost eigenvalues all there, copies too, and as near as their bounds say?"""

import doctest

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from degeneracy.curvature import eigenpairs
from degeneracy.curvature.checks import NotFiniteError
from degeneracy.curvature.eigenpairs import eigenpairs_of
from degeneracy.curvature.operators import Operator

TOLERANCE = 1e-4  # the function's own, relative to the norm
DIM = 2000


def padded(first, rest=0.0) -> np.ndarray:
    """A spectrum: `first`, then DIM − len(first) of the rest."""
    return np.concatenate([first, np.broadcast_to(rest, DIM - len(first))])


def uniform(low: float, high: float, count: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(low, high, count)


SPECTRA = {
    "nine copies among zeros": padded([0.232] * 9),
    "nine copies above noise": padded([0.232] * 9, uniform(-0.01, 0.01, DIM - 9)),
    "copies that are small beside the norm": padded(
        [1.0] * 3 + [0.01] * 30, uniform(-1e-3, 1e-3, DIM - 33)
    ),
    "a dense cluster": 1 - 1e-6 * np.arange(DIM),
    "a power law": np.arange(1.0, DIM + 1) ** -1.5,
    "all equal": np.full(DIM, 2.5),
    "all equal and negative": np.full(DIM, -2.5),
    "negative and dense": -np.arange(1, DIM + 1) / DIM,
    "indefinite with a tiny gap": np.concatenate(
        [2 - 1e-7 * np.arange(12), [-3.0] * 5, uniform(-1, 1, DIM - 17)]
    ),
    "flat but for four": padded([7.0, 3.0, 2.5, -9.0]),
    "zero": np.zeros(DIM),
}


def diagonal(eigenvalues, dtype=torch.float64) -> Operator:
    """A random start makes it as general as any matrix with this spectrum."""
    entries = torch.as_tensor(eigenvalues, dtype=dtype)
    return Operator(lambda rows: rows * entries, len(entries), dtype)


def rotated(eigenvalues, seed: int) -> np.ndarray:
    """A dense matrix with this spectrum and random eigenvectors."""
    normal = np.random.default_rng(seed).normal(size=(len(eigenvalues),) * 2)
    vectors, _ = np.linalg.qr(normal)
    matrix = vectors * np.asarray(eigenvalues) @ vectors.T
    return (matrix + matrix.T) / 2


def dense(matrix, dtype=torch.float64) -> Operator:
    given = torch.as_tensor(matrix, dtype=dtype)
    return Operator(lambda rows: rows @ given, len(given), dtype)


def at_end(eigenvalues, k: int, which: str) -> np.ndarray:
    ascending = np.sort(np.asarray(eigenvalues, dtype=float))
    return ascending[:k] if which == "smallest" else ascending[::-1][:k]


def one_to_one_within(bound: float, values, exact) -> bool:
    """Whether each value has an eigenvalue of its own, at most `bound` away: the lowest goes to the
    lowest that is left within reach.
    """
    ascending, place = np.sort(exact), 0
    for value in np.sort(values):
        place = max(place, np.searchsorted(ascending, value - bound))
        if place == len(ascending) or ascending[place] > value + bound:
            return False
        place += 1
    return True


@pytest.mark.parametrize("which", ["largest", "smallest"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", SPECTRA)
def test_any_spectrum_ends_with_its_k_outermost_eigenvalues(name, dtype, which):
    operator = diagonal(SPECTRA[name], dtype)
    norm = np.abs(SPECTRA[name]).max()
    for k in (1, 10):
        exact = at_end(SPECTRA[name], k, which)
        found = eigenpairs_of(operator, k, which=which)
        # off by a residual, and by what lies closer to the last than it can be told apart
        np.testing.assert_allclose(found.values, exact, atol=2.001 * TOLERANCE * norm)
        assert (found.residuals <= 1.001 * TOLERANCE * norm).all()
        assert (np.diff(found.values) * (1 if which == "smallest" else -1) >= 0).all()


@pytest.mark.parametrize("which", ["largest", "smallest"])
@pytest.mark.parametrize("k", [1, 5, 30, 45])
def test_more_copies_than_a_block_has_rows_are_all_found(k, which):
    """40 copies, a block being of at most 8 rows; a little noise about zero."""
    ends = np.concatenate([[1.5], np.ones(40), [-1.5], -np.ones(40)])
    spectrum = padded(ends, uniform(-0.1, 0.1, DIM - len(ends)))
    found = eigenpairs_of(diagonal(spectrum), k, which=which)
    np.testing.assert_allclose(found.values, at_end(spectrum, k, which), atol=1e-5)


@pytest.mark.parametrize("seed", range(10))
def test_the_random_vectors_do_not_matter(seed):
    spectrum = padded([3.0, 2.0] + [1.0] * 12, uniform(-0.5, 0.9, DIM - 14))
    found = eigenpairs_of(diagonal(spectrum), 14, seed=seed)
    np.testing.assert_allclose(found.values, at_end(spectrum, 14, "largest"), atol=1e-5)
    again = eigenpairs_of(diagonal(spectrum), 14, seed=seed)
    np.testing.assert_array_equal(found.values, again.values)


@given(
    dim=st.integers(257, 400),
    copies=st.lists(st.tuples(st.integers(-50, 50), st.integers(1, 12)), min_size=1, max_size=4),
    width=st.sampled_from([0.0, 1e-6, 0.1, 3.0]),
    k=st.integers(1, 12),
    which=st.sampled_from(["largest", "smallest"]),
    seed=st.integers(0, 100),
)
@settings(max_examples=25)
def test_k_eigenvalues_lie_one_to_one_within_the_bound(dim, copies, width, k, which, seed):
    repeated = np.concatenate([[value / 10] * count for value, count in copies])
    rest = width * np.random.default_rng(seed).uniform(-1, 1, dim - len(repeated))
    matrix = rotated(np.concatenate([repeated, rest]), seed)
    exact = np.linalg.eigvalsh(matrix)
    norm = np.abs(exact).max()
    found = eigenpairs_of(dense(matrix), k, which=which, seed=seed)
    assert one_to_one_within(found.bound + 1e-13 * norm, found.values, exact)
    outermost = at_end(exact, k, which)
    np.testing.assert_allclose(found.values, outermost, atol=2.001 * TOLERANCE * norm)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("dim", [40, 300, 900])
def test_residuals_and_bound_are_those_of_the_vectors_as_returned(dtype, dim):
    spectrum = np.concatenate([[4.0] * 5, uniform(-1, 2, dim - 5)])
    operator = dense(rotated(spectrum, 1), dtype)
    found = eigenpairs_of(operator, 8)
    assert found.vectors.shape == (8, dim)
    assert found.vectors.dtype == dtype
    vectors, epsilon = found.vectors.double(), torch.finfo(dtype).eps
    inner = vectors @ vectors.T
    np.testing.assert_allclose(inner, np.eye(8), atol=max(4 * epsilon, 1e-13))
    images = operator.products(found.vectors).double()
    errors = (images - torch.from_numpy(found.values.copy())[:, None] * vectors).numpy()
    rounding = 10 * epsilon * 4
    np.testing.assert_allclose(found.residuals, np.linalg.norm(errors, axis=1), atol=rounding)
    assert found.bound == pytest.approx(np.linalg.norm(errors, 2), abs=rounding)
    assert found.residuals.max() <= found.bound * (1 + 1e-9)


@pytest.mark.parametrize(("dim", "k"), [(1, 1), (2, 2), (50, 50), (300, 61), (300, 300)])
def test_a_large_part_of_a_spectrum_and_all_of_it(dim, k):
    spectrum = uniform(-1, 1, dim).round(1)  # with copies
    for which in ("largest", "smallest"):
        found = eigenpairs_of(diagonal(spectrum), k, which=which)
        np.testing.assert_allclose(found.values, at_end(spectrum, k, which), atol=1e-12)


def test_below_the_rounding_of_the_products_the_residuals_say_what_was_reached():
    spectrum = np.concatenate([[3.0, 3.0, 2.0], uniform(-1, 1, 397)])
    found = eigenpairs_of(dense(rotated(spectrum, 0), torch.float32), 3, tolerance=1e-12)
    assert 1e-12 < found.residuals.max() / 3 < 1e-5
    np.testing.assert_allclose(found.values, [3, 3, 2], rtol=1e-6)


def test_a_smaller_tolerance_gives_smaller_residuals():
    operator = diagonal(SPECTRA["a power law"])
    for tolerance in (1e-2, 1e-6, 1e-12):
        assert eigenpairs_of(operator, 5, tolerance=tolerance).residuals.max() <= tolerance


def test_what_cannot_be_is_refused():
    operator = diagonal(np.arange(300.0))
    with pytest.raises(ValueError, match="k = 301; allowed: 1 to the number of weights, 300"):
        eigenpairs_of(operator, 301)
    with pytest.raises(ValueError, match="k = 0; allowed: an integer, at least 1"):
        eigenpairs_of(operator, 0)
    with pytest.raises(ValueError, match='which = \'LA\'; allowed: "largest" and "smallest"'):
        eigenpairs_of(operator, 1, which="LA")
    for tolerance in (0, 1, -1e-4, float("nan")):
        with pytest.raises(ValueError, match=r"tolerance = .*; allowed: between 0 and 1"):
            eigenpairs_of(operator, 1, tolerance=tolerance)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
@pytest.mark.parametrize("dim", [3, 300])
def test_products_that_are_not_finite_are_refused(dim, broken):
    entries = torch.ones(dim)
    entries[1] = broken
    with pytest.raises(NotFiniteError, match="a product with the matrix is not finite"):
        eigenpairs_of(diagonal(entries, torch.float32), 1)


def test_a_search_that_does_not_end_says_how_far_it_came(monkeypatch):
    monkeypatch.setattr(eigenpairs, "MAX_STEPS", 5)
    with pytest.raises(ValueError, match=r"after 5 blocks .* up to .*e-0.; .*a larger tolerance"):
        eigenpairs_of(diagonal(SPECTRA["negative and dense"]), 10)


def test_the_examples_in_the_docstrings():
    result = doctest.testmod(eigenpairs)
    assert result.attempted > 3
    assert result.failed == 0
