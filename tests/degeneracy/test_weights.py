"""Flat vectors and named weights: the one is the other."""

import pytest
import torch

from degeneracy.weights import flattened, named


def test_named_is_the_inverse_of_flattened_also_for_stacked_rows():
    weights = {"a": torch.randn(2, 3), "scalar": torch.randn(()), "b": torch.randn(4)}
    flat = flattened(weights)
    assert flat.shape == (11,)
    assert all(torch.equal(named(flat, weights)[name], tensor) for name, tensor in weights.items())
    rows = torch.stack([flat, 2 * flat])
    stacked = named(rows, weights)
    assert stacked["scalar"].shape == (2,)
    assert torch.equal(stacked["a"][1], 2 * weights["a"])


def test_named_weights_are_views_and_a_vector_of_another_length_is_refused():
    weights = {"a": torch.zeros(2, 2)}
    flat = torch.arange(4.0)
    named(flat, weights)["a"][1, 1] = 9
    assert flat[3] == 9
    with pytest.raises(RuntimeError):
        named(torch.zeros(5), weights)
