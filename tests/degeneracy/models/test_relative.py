"""Is a model as a function of relative changes of its weights the same in every gauge?"""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from degeneracy.curvature.trace import hessian_trace
from degeneracy.llc.estimate import mean_loss
from degeneracy.models.balance import rescaled_units
from degeneracy.models.networks import FFNN
from degeneracy.models.relative import Relative


@pytest.fixture
def small():
    torch.manual_seed(0)
    model = FFNN(5, 2, (1, 2, 2), 3).double()
    data = torch.randn(20, 1, 2, 2, dtype=torch.float64), torch.randint(3, (20,))
    return model, data


def rescaled(model):
    return rescaled_units(model, model.state_dict(), torch.Generator().manual_seed(1))


def test_at_zero_it_is_the_model(small):
    model, (inputs, _) = small
    assert torch.equal(Relative(model, model.state_dict())(inputs), model(inputs))


def test_a_change_is_relative(small):
    model, (inputs, _) = small
    view = Relative(model, model.state_dict())
    with torch.no_grad():
        for change in view.changes:
            change.fill_(-1.0)  # every weight is 0
    assert torch.equal(view(inputs), torch.zeros(20, 3, dtype=torch.float64))


def test_the_same_changes_give_the_same_outputs_in_every_gauge(small):
    model, (inputs, _) = small
    views = [Relative(model, state) for state in (model.state_dict(), rescaled(model))]
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for one, other in zip(views[0].changes, views[1].changes, strict=True):
            one.normal_(std=0.3, generator=generator)
            other.copy_(one)
    torch.testing.assert_close(views[1](inputs), views[0](inputs), rtol=1e-12, atol=1e-12)


def test_the_trace_is_that_of_weighted_curvatures(small):
    model, data = small
    view = Relative(model, model.state_dict())
    found = hessian_trace(view, cross_entropy, data, num_probes=400)
    params = list(model.parameters())
    grads = torch.autograd.grad(cross_entropy(model(data[0]), data[1]), params, create_graph=True)
    exact = 0.0
    for param, grad in zip(params, grads, strict=True):
        for place, slope in enumerate(grad.flatten()):
            (row,) = torch.autograd.grad(slope, param, retain_graph=True)
            exact += float(row.flatten()[place] * param.detach().flatten()[place] ** 2)
    assert abs(found.trace - exact) < 4 * found.std_error


def test_a_state_dict_tells_where_it_is(small):
    model, data = small
    there = Relative(model, rescaled(model))
    here = Relative(model, model.state_dict())
    here.load_state_dict(there.state_dict())
    assert torch.equal(here.center_0, there.center_0)
    assert mean_loss(here, data) == pytest.approx(mean_loss(model, data))


def test_only_the_changes_are_its_weights(small):
    model, _ = small
    view = Relative(model, model.state_dict())
    assert sum(p.numel() for p in view.parameters()) == sum(p.numel() for p in model.parameters())
    assert isinstance(view.changes, nn.ParameterList)
