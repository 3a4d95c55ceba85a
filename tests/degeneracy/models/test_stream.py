"""Are balanced weights of a residual network the same function's, the shortest, and the same for a
whole orbit?
"""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch.func import functional_call

from degeneracy.models.networks import ResidualFFNN
from degeneracy.models.stream import balanced_stream
from degeneracy.weights import flattened


@pytest.fixture
def model():
    torch.manual_seed(0)
    return ResidualFFNN(5, 3, in_shape=(1, 4, 4)).double()


def rescaled(state, scales):
    """The same function: what writes coordinate i times its scale, what reads it divided by it."""
    places = sorted({int(name.split(".")[1]) for name in state})
    found = {}
    for place in places:
        weight, bias = state[f"layers.{place}.weight"], state[f"layers.{place}.bias"]
        if place != places[-1]:
            weight, bias = scales[:, None] * weight, scales * bias
        if place != places[0]:
            weight = weight / scales
        found |= {f"layers.{place}.weight": weight, f"layers.{place}.bias": bias}
    return found


def squares(state):
    return float(flattened(state).square().sum())


def test_the_function_is_the_same(model):
    state, images = model.state_dict(), torch.randn(7, 1, 4, 4).double()
    found = balanced_stream(model, state)
    assert list(found) == list(state)
    torch.testing.assert_close(
        functional_call(model, found, images), model(images), rtol=0, atol=1e-12
    )
    assert squares(found) < squares(state)


def test_no_rescaling_is_shorter(model):
    state = model.state_dict()

    def length(logs):
        return squares(rescaled(state, torch.as_tensor(logs).exp()))

    least = minimize(length, np.zeros(5), method="BFGS", options={"gtol": 1e-9}).fun
    assert squares(balanced_stream(model, state)) == pytest.approx(least, rel=1e-9)


def test_an_orbit_has_one(model):
    state = model.state_dict()
    other = rescaled(state, torch.rand(5).double() * 4 + 0.1)
    one, two = balanced_stream(model, state), balanced_stream(model, other)
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-9, atol=1e-12)


def test_a_coordinate_that_nothing_reads_stays(model):
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, tensor in state.items():
        if name.endswith("weight") and tensor.shape[1] == 5:
            tensor[:, 2] = 0
    found = balanced_stream(model, state)
    assert torch.equal(found["layers.1.weight"][2], state["layers.1.weight"][2])


def test_a_network_of_one_layer_is_balanced_as_a_plain_one():
    torch.manual_seed(1)
    model = ResidualFFNN(4, 1, in_shape=(1, 3, 3)).double()
    found = balanced_stream(model, model.state_dict())
    writes = found["layers.1.weight"].square().sum(1) + found["layers.1.bias"].square()
    torch.testing.assert_close(writes, found["layers.3.weight"].square().sum(0))
