"""Are the two numbers of a loss's curvature those of its dense Hessian?"""

import pytest
import torch
from torch import nn
from torch.func import functional_call, hessian
from torch.nn.functional import cross_entropy

from degeneracy.curvature.summary import TOLERANCE, curvature_summary
from degeneracy.weights import flattened


def test_they_are_those_of_the_dense_hessian_at_the_weights_given():
    torch.manual_seed(0)
    data = (torch.randn(40, 4), torch.randint(3, (40,)))
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    state = {name: 0.7 * value + 0.1 for name, value in model.state_dict().items()}

    def loss(flat):
        pieces = flat.split([value.numel() for value in state.values()])
        weights = {
            name: piece.view_as(value)
            for (name, value), piece in zip(state.items(), pieces, strict=True)
        }
        return cross_entropy(functional_call(model, weights, data[0]), data[1])

    dense = hessian(loss)(torch.cat([value.flatten() for value in state.values()]))
    found = curvature_summary(model, state, data, num_probes=400)
    assert found.trace_std_error > 0
    assert found.trace == pytest.approx(dense.trace().item(), abs=4 * found.trace_std_error)
    assert found.largest == pytest.approx(torch.linalg.eigvalsh(dense)[-1].item(), rel=TOLERANCE)
    assert torch.equal(flattened(model.state_dict()), flattened(state))
