"""Does SymPy find the closed forms, and would it find a wrong one?"""

import pytest
import sympy as sp

from studies.sgd_regimes.symbolic import (
    BETA,
    TAU,
    X,
    Z,
    closed_denominator,
    derivation,
    mode_matrix,
)


@pytest.fixture(scope="module")
def steps():
    return derivation()


def test_nothing_is_left_over_of_any_formula(steps):
    assert len(steps) == 11
    assert {step.name: step.residue for step in steps if step.residue != "0"} == {}
    assert all(step.formula and step.latex for step in steps)


def test_a_wrong_formula_would_leave_something():
    wrong = closed_denominator() + X * Z * BETA * TAU
    system = (sp.eye(3) - Z * mode_matrix()).det(method="berkowitz")
    assert sp.expand(wrong - system) != 0
