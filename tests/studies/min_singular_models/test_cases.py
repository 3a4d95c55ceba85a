"""Are the cases those of the config, each with random numbers of its own?"""

import torch

from studies.min_singular_models.cases import (
    CROSSING,
    DEEP,
    POPULATION,
    SAMPLE,
    SparseLinear,
    cases,
    crossing_name,
    linear_data,
)
from studies.min_singular_models.settings import LinearSettings


def test_only_the_first_weights_of_the_linear_model_matter():
    model = SparseLinear(5, 2)
    inputs, weights = torch.randn(7, 5), torch.randn(5)
    with torch.no_grad():
        model.weight.copy_(weights)
    torch.testing.assert_close(model(inputs), inputs[:, :2] @ weights[:2])
    (gradient,) = torch.autograd.grad(model(inputs).square().sum(), model.weight)
    assert (gradient[:2] != 0).all()
    assert (gradient[2:] == 0).all()


def test_every_entry_of_the_config_is_a_case_with_a_number_of_its_own(small_settings):
    found = cases(small_settings)
    assert [(case.number, case.name, case.family) for case in found] == [
        (0, "population, r = 10", POPULATION),
        (1, "population, r = 25", POPULATION),
        (2, "sample, r = 10", SAMPLE),
        (3, "sample, r = 25", SAMPLE),
        (4, "w₁²", CROSSING),
        (5, "w₁² w₂²", CROSSING),
        (6, "(4, 2, 4), r = 2", DEEP),
    ]


def test_the_localisation_of_a_deep_linear_network_grows_with_its_size(small_settings):
    deep = cases(small_settings)[-1]
    assert deep.localization == 4.0  # √16 weights
    assert deep.nbeta == 100 * 4.0


def test_crossings_are_called_by_their_exponents():
    assert crossing_name((1, 2)) == "w₁² w₂⁴"
    assert crossing_name((5,)) == "w₁¹⁰"


def test_the_sample_is_the_same_whatever_the_ranks():
    one, other = (LinearSettings(num_weights=6, ranks=[r], num_samples=9) for r in (2, 5))
    for a, b in zip(linear_data(one), linear_data(other), strict=True):
        assert torch.equal(a, b)
