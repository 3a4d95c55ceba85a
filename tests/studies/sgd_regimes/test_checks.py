"""Is everything that makes no sense refused, with what was given and what is allowed?"""

import numpy as np
import pytest

from studies.sgd_regimes import averaged, averaged_boundary, convergence_boundary, spectral_diagonal
from studies.sgd_regimes.checks import noise_strength
from studies.sgd_regimes.linearised import linearised
from studies.sgd_regimes.samples import load_samples, synthetic
from studies.sgd_regimes.schedules import Jacobi, as_schedule
from studies.sgd_regimes.theory import PowerLaw

VALUES = PowerLaw(1.5, 1.0).eigenvalues(10)
KERNEL, RESIDUAL = synthetic(10, 1.5, 1.0)

WRONG = {  # what is given in place of lr 0.1, batch 2 → what is said
    "batch above N": ({"batch_size": 11}, r"batch_size 11 given with N = 10; allowed: at most N"),
    "batch below 1": ({"batch_size": 0}, r"batch_size 0 given; allowed: a whole number >= 1"),
    "half a batch": ({"batch_size": 2.5}, r"batch_size 2.5 given; allowed: a whole number >= 1"),
    "rate 0": ({"lr": 0.0}, r"lr 0 given; allowed: finite and > 0"),
    "negative rate": ({"lr": -0.1}, r"lr -0.1 given; allowed: finite and > 0"),
    "no rate": ({"lr": float("nan")}, r"lr nan given; allowed: finite and > 0"),
    "momentum 1": ({"momentum": 1.0}, r"momentum 1 given; allowed: -1 < momentum < 1"),
    "momentum -1": ({"momentum": -1.0}, r"momentum -1 given; allowed: -1 < momentum < 1"),
    "no steps": ({"num_steps": 0}, r"num_steps 0 given; allowed: a whole number >= 1"),
    "infinite rate": ({"lr": float("inf")}, r"lr inf given; allowed: finite and > 0"),
    "steps by float": ({"num_steps": 10.0}, r"num_steps 10.0 given; allowed: a whole number >= 1"),
    "steps nan": ({"num_steps": float("nan")}, r"num_steps nan given; allowed: a whole number"),
    "unknown schedule": ({"schedule": "cosine"}, r"schedule 'cosine' given; allowed: None"),
    "two momenta": ({"schedule": Jacobi(1, 1), "momentum": 0.5}, r"Jacobi's schedule"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("regime", [averaged, linearised])
def test_the_kernels_regimes_refuse(regime, case):
    given, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        regime(KERNEL, RESIDUAL, **{"batch_size": 2, "lr": 0.1, **given})


@pytest.mark.parametrize("case", WRONG)
def test_the_spectral_regime_refuses(case):
    given, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        spectral_diagonal(VALUES, VALUES, **{"batch_size": 2, "lr": 0.1, **given})


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (np.ones((2, 3)), r"kernel of shape \(2, 3\) given; allowed: \(N, N\) with N >= 2"),
        (np.ones((1, 1)), r"kernel of shape \(1, 1\) given; allowed: \(N, N\) with N >= 2"),
        (np.array([[1.0, 0.3], [0.1, 1.0]]), r"not symmetric: .* up to 0.2 where .* up to 1;"),
        (np.diag([1.0, -0.25]), r"smallest eigenvalue -0.25, 0.25 of the largest"),
        (np.zeros((3, 3)), r"largest eigenvalue 0 given; allowed: > 0"),
        (np.diag([1.0, np.nan]), r"kernel with 1 numbers that are not finite given"),
    ],
)
def test_a_matrix_that_is_no_kernel_is_refused(kernel, message):
    for function in (
        lambda: averaged(kernel, np.ones(len(kernel)), 1, 0.1),
        lambda: averaged_boundary(kernel, 1),
    ):
        with pytest.raises(ValueError, match=message):
            function()


def test_rounding_is_no_reason_to_refuse():
    random = np.random.default_rng(0)
    factor = random.normal(size=(20, 3))  # rank 3: eigenvalues of −1e-15 or so
    kernel = factor @ factor.T
    kernel /= np.linalg.eigvalsh(kernel)[-1]
    assert np.linalg.eigvalsh(kernel)[0] < 0
    losses = averaged(kernel, random.normal(size=20), 5, 0.1, num_steps=5)
    assert np.isfinite(losses).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"moments": VALUES[:5]}, r"moments of shape \(5,\) given; allowed: \(10,\)"),
        ({"moments": -VALUES}, r"moments down to -1 given; allowed: >= 0"),
        ({"eigenvalues": -VALUES}, r"largest eigenvalue -0.03\d+ given; allowed: > 0"),
        ({"tau": 3.0}, r"tau 3 given with γ up to 0.4444; allowed: .* tau <= 2.25"),
        ({"noise": "some"}, r"noise 'some' given; allowed: 'finite', 'online'"),
        ({"num_samples": 1}, r"N = 1 given; allowed: N >= 2"),
        ({"num_samples": 0}, r"N = 0 given; allowed: N >= 2"),
        ({"num_samples": 0, "noise": "online"}, r"N = 0 given; allowed: N >= 2"),
        ({"lr": [0.1, np.inf]}, r"lr inf given; allowed: finite and > 0"),
        ({"tau": -np.inf}, r"tau -inf given; allowed: finite"),
        ({"tau": [0.1, 0.2], "batch_size": [2, 3, 4]}, r"allowed: shapes that broadcast"),
        ({"lr": [0.1, 0.2], "momentum": [0.1, 0.2, 0.3]}, r"allowed: shapes that broadcast"),
    ],
)
def test_a_spectrum_that_is_none_is_refused(given, message):
    known = {"eigenvalues": VALUES, "moments": VALUES, "batch_size": 2, "lr": 0.1}
    with pytest.raises(ValueError, match=message):
        spectral_diagonal(**{**known, **given})


def test_runs_are_counted_in_whole_numbers():
    for count in (0, 2.0):
        with pytest.raises(ValueError, match=rf"num_runs {count} given; allowed: a whole number"):
            linearised(KERNEL, RESIDUAL, 2, 0.1, num_runs=count)
    given = (KERNEL, RESIDUAL, 2.0, 0.1)  # a whole number too
    np.testing.assert_array_equal(
        linearised(*given, num_steps=3).losses, linearised(KERNEL, RESIDUAL, 2, 0.1, 0, 3).losses
    )


def test_a_residual_has_a_number_for_each_sample():
    with pytest.raises(ValueError, match=r"residual of shape \(9,\) given; allowed: \(10,\)"):
        averaged(KERNEL, RESIDUAL[:9], 2, 0.1)


@pytest.mark.parametrize(("nu", "kappa"), [(0.0, 1.0), (-1.0, 1.0), (1.5, 0.0)])
def test_exponents_are_positive(nu, kappa):
    with pytest.raises(ValueError, match=r"(nu|kappa) (0|-1) given; allowed: finite and > 0"):
        PowerLaw(nu, kappa)
    with pytest.raises(ValueError, match=r"(nu|kappa) (0|-1) given; allowed: finite and > 0"):
        synthetic(10, nu, kappa)


def test_boundaries_refuse_what_regimes_refuse():
    with pytest.raises(ValueError, match=r"batch_size 11 given with N = 10"):
        convergence_boundary(VALUES, 11)
    with pytest.raises(ValueError, match=r"momentum 1 given"):
        convergence_boundary(VALUES, 2, 1.0)
    with pytest.raises(ValueError, match=r"N = 0 given; allowed: N >= 2"):
        convergence_boundary(VALUES, 2, num_samples=0)


def test_two_samples_are_the_least():
    for name in ("digits", "mnist"):
        with pytest.raises(ValueError, match=r"N = 1 given; allowed: N >= 2"):
            load_samples(name, 1)
    with pytest.raises(ValueError, match=r"N = 1 given; allowed: N >= 2"):
        synthetic(1, 1.5, 1.0)


def test_noise_strengths():
    assert noise_strength(1, 10) == 1.0
    assert noise_strength(10, 10) == 0.0
    assert noise_strength(4, None, "online") == 0.25


def test_schedules_by_name():
    assert as_schedule("constant") is as_schedule(None) is None
    assert as_schedule(("jacobi", 1, 2)) == Jacobi(1.0, 2.0)
    with pytest.raises(ValueError, match=r"Jacobi a -1, b 0 given; allowed: both > -1"):
        Jacobi(-1, 0)
