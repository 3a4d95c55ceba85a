"""Is the sampler of `benchmarks/llc_reference.py` exact, and does `auto` find what it finds?"""

import importlib.util
import math
from pathlib import Path

import pytest
import torch

from degeneracy.llc import coordinates
from degeneracy.llc.estimate import estimate_llcs
from degeneracy.llc.settings import SamplerSettings
from degeneracy.models.coefficients import normal_crossing_llc, quadratic_llc
from degeneracy.models.known import DeepLinear, NormalCrossing, Quadratic
from degeneracy.models.networks import FFNN

ERRORS = 4.0  # standard errors apart: one comparison in ten thousand is further


@pytest.fixture(scope="module")
def reference():
    path = Path(__file__).resolve().parents[3] / "benchmarks" / "llc_reference.py"
    spec = importlib.util.spec_from_file_location("llc_reference", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_quadratic_is_found_exactly(reference):
    curvatures = torch.logspace(-2, 0, 30).tolist()
    at, data = reference.exact_place(Quadratic(curvatures), (), preconditioned=False)
    found = reference.hmc(at, data, 1000.0, 20.0, chains=32, draws=200, path=3.0)
    assert found.std_error < 0.02 * found.llc
    assert abs(found.llc - quadratic_llc(curvatures, 1000.0, 20.0)) < ERRORS * found.std_error


def test_singular_minimum_is_found_exactly(reference):
    at, data = reference.exact_place(NormalCrossing((1, 1)), (), preconditioned=False)
    found = reference.hmc(at, data, 30.0, 2.0, chains=64, draws=500, path=3.0)
    assert found.std_error < 0.03 * found.llc
    assert abs(found.llc - normal_crossing_llc((1, 1), 30.0, 2.0)) < ERRORS * found.std_error


def test_weights_in_single_precision_are_refused(reference):
    model = Quadratic([1.0, 2.0])
    weights = {name: p.detach() for name, p in model.named_parameters()}
    at = coordinates.flat(model.population_loss, weights)
    with pytest.raises(ValueError, match="float64"):
        reference.hmc(at, (), 10.0, 1.0)


def agree(estimate, found):
    """Within 4 combined errors, themselves at most 3 %."""
    combined = math.hypot(estimate.std_error, found.std_error)
    assert combined <= 0.03 * found.llc
    return abs(estimate.llc - found.llc) <= ERRORS * combined


def test_auto_agrees_on_a_deep_linear_network(reference):
    nbeta, localization = 100.0, 10.0
    model = DeepLinear((6, 6, 6), 2)
    settings = SamplerSettings(num_chains=16, nbeta=nbeta, localization=localization)
    (estimate,) = estimate_llcs(
        model, [model.state_dict()], None, settings, population_loss=model.population_loss
    )
    at, data = reference.exact_place(model, (), preconditioned=False)
    found = reference.hmc(at, data, nbeta, localization, chains=32, draws=200, first_step=0.1)
    assert agree(estimate, found)


@pytest.mark.slow  # the deep linear one is the small version
def test_auto_agrees_on_a_relu_network(reference):
    """In K-FAC's coordinates, with minibatches: 500 samples, of which a draw sees a part."""
    torch.manual_seed(0)
    inputs = torch.randn(500, 6)
    labels = inputs[:, :3].argmax(1)
    model = FFNN(8, 1, (6,), 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    nbeta, localization = 80.0, 20.0
    settings = SamplerSettings(num_chains=16, nbeta=nbeta, localization=localization)
    (estimate,) = estimate_llcs(model, [model.state_dict()], (inputs, labels), settings)
    at, data = reference.exact_place(model, (inputs, labels))
    found = reference.hmc(at, data, nbeta, localization, chains=32, draws=200)
    assert agree(estimate, found)
