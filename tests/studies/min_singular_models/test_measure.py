"""Do the chains find what theory says they should?"""

import pytest

from studies.min_singular_models.cases import CROSSING, LINEAR
from studies.min_singular_models.records import records

# Standard errors that an estimate may be away: one estimate in ten thousand is further.
ERRORS = 4.0
BIAS = 0.06  # of λ, in the small deep linear network: finite nβ, γ and ε together
STEP_BIAS = 0.06  # ε A ≤ 0.2 where w_i² ≤ 1/γ: at most 1/(1 − 0.05) − 1 a direction


def test_linear_models_agree_with_the_law_of_their_langevin_steps(results):
    found = records(results, *LINEAR)
    assert len(found) == 4
    for record in found.values():
        assert abs(record["llc"] - record["expected_with_step"]) < ERRORS * record["std_error"]
        # So that the sentence above says something; of 32 chains an error has one of 13 % itself:
        assert record["std_error"] < 0.05 * record["expected"]
        assert record["num_diverged_chains"] == 0
        assert record["expected"] < record["expected_with_step"] < 1.03 * record["expected"]


def test_the_hessians_rank_is_the_number_of_weights_that_matter(results):
    for record in records(results, *LINEAR).values():
        assert record["hessian_rank"]["value"] == pytest.approx(2 * record["lambda"], abs=1e-3)


def test_normal_crossings_agree_with_quadrature(results):
    found = records(results, CROSSING)
    assert len(found) == 2
    for record in found.values():
        allowed = ERRORS * record["std_error"] + STEP_BIAS * record["expected"]
        assert abs(record["llc"] - record["expected"]) < allowed


def test_a_crossing_of_two_weights_is_where_the_hessian_sees_nothing(results):
    crossing = results["parts"]["normal_crossings"]["w₁² w₂²"]
    assert crossing["multiplicity"] == 2
    assert crossing["hessian_rank"]["value"] == 0
    assert crossing["expected"] < crossing["lambda"]  # −(m − 1)/ln nβ


def test_a_deep_linear_network_agrees_with_aoyagis_formula(results):
    deep = results["parts"]["deep_linear"]["(4, 2, 4), r = 2"]
    assert deep["lambda_exact"] == "6"
    assert deep["expected"] == deep["lambda"]  # none is known at finite nβ and γ
    assert abs(deep["llc"] - deep["lambda"]) < ERRORS * deep["std_error"] + BIAS * deep["lambda"]
