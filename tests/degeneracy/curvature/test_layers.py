"""Are a layer's trace and eigenvalues those of its own block of the Hessian?"""

import doctest
from dataclasses import replace

import numpy as np
import pytest
import torch
from dense import dense_hessian
from torch import nn
from zoo import ANIMALS, draw, integers, seeded

from degeneracy.curvature import layers
from degeneracy.curvature.layers import layer_curvature
from degeneracy.curvature.trace import hessian_trace


def of(animal, **more):
    given = {"forward": animal.forward or (lambda model, inputs: model(inputs)), **more}
    return layer_curvature(animal.build(), animal.loss_fn, animal.data, **given)


def blocks(animal) -> dict[str, torch.Tensor]:
    """The diagonal blocks of the dense Hessian, by layer."""
    dense, start, found = dense_hessian(animal), 0, {}
    sizes: dict[str, int] = {}
    for name, weight in animal.build().named_parameters():
        if weight.requires_grad:
            layer = name.removeprefix("_orig_mod.").rpartition(".")[0]
            sizes[layer] = sizes.get(layer, 0) + weight.numel()
    for layer, size in sizes.items():
        found[layer] = dense[start : start + size, start : start + size]
        start += size
    return found


NAMES = ["ffnn prelu", "conv2d reflect", "gru", "transformer encoder layer", "frozen layer", "gpt"]


@pytest.mark.parametrize("batch_size", [100, 5])
@pytest.mark.parametrize("name", [*NAMES, "layer never called", "class weights"])
def test_trace_and_eigenvalues_are_those_of_the_dense_block(name, batch_size):
    animal = ANIMALS[name]
    right, found = blocks(animal), of(animal, k=3, batch_size=batch_size)
    assert list(found) == list(right)
    for layer, block in right.items():
        own = found[layer]
        # off-diagonal entries all zero leave no error but rounding
        assert abs(own.trace - block.trace()) < 4 * own.std_error + 1e-9
        values = torch.linalg.eigvalsh(block).flip(0)[:3]
        np.testing.assert_allclose(own.eigenvalues, values, rtol=1e-6, atol=1e-9)


def test_the_traces_sum_to_the_hessians():
    animal = ANIMALS["ffnn tanh"]
    found = of(animal, num_probes=200)
    whole = hessian_trace(animal.build(), animal.loss_fn, animal.data, num_probes=200)
    error = np.hypot(whole.std_error, np.hypot(*(own.std_error for own in found.values())))
    assert abs(sum(own.trace for own in found.values()) - whole.trace) < 4 * error


def test_a_penalty_counts_and_weights_that_are_left_out_do_not():
    animal = ANIMALS["penalty"]
    right, found = blocks(animal), of(animal, penalty=animal.penalty, restrict=["2"])
    assert list(found) == ["2"]
    assert abs(found["2"].trace - right["2"].trace()) < 4 * found["2"].std_error
    top = torch.linalg.eigvalsh(right["2"])[-1]
    np.testing.assert_allclose(found["2"].eigenvalues, [top], rtol=1e-6)


def test_a_layer_with_many_weights_has_its_repeated_eigenvalues():
    """A zero head's block is (I/10 − 11ᵀ/100) ⊗ E[aaᵀ], a = (x, 1): nine times the same."""

    def build():
        return nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 10, bias=False))

    animal = replace(
        ANIMALS["ffnn tanh"], build=seeded(build), data=(draw(40, 3), integers(10, 40))
    )
    model = animal.build()
    nn.init.zeros_(model[1].weight)
    found = layer_curvature(model, animal.loss_fn, animal.data, k=10)["1"].eigenvalues
    np.testing.assert_allclose(found[:9], found[0], rtol=1e-9)
    assert found[9] < 0.99 * found[0]


def test_bad_numbers_are_refused():
    for change in ({"k": 0}, {"num_probes": 0}, {"batch_size": 0}):
        (name,) = change
        with pytest.raises(ValueError, match=f"{name} = 0; allowed: an integer, at least 1"):
            of(ANIMALS["ffnn tanh"], **change)


def test_the_examples_in_the_docstrings():
    result = doctest.testmod(layers)
    assert result.attempted > 2
    assert result.failed == 0
