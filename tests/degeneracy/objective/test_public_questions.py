"""Cases in which a plausible wrong number was once returned, with the right ones."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from degeneracy.curvature.largest import top_eigenvalues
from degeneracy.curvature.trace import hessian_trace
from degeneracy.llc.estimate import estimate_llcs
from degeneracy.llc.settings import SamplerSettings


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sgld(**given) -> SamplerSettings:
    return SamplerSettings(**{"sampler": "sgld", "num_chains": 2, "num_draws": 60} | given)


def dense_hessian(loss, row: Tensor) -> Tensor:
    return torch.autograd.functional.hessian(loss, row.double())


# ---- class weights, sorted by class --------------------------------------------------------------

WEIGHTED = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 9.0]))


def sorted_classes() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """5,400 samples of class 0, then 600 of class 1: no batch holds both in the data's shares."""
    inputs, labels = normal(6000, 4), (torch.arange(6000) >= 5400).long()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(4, 2), (inputs + 0.5 * labels[:, None], labels)


@pytest.mark.parametrize("backend", ["batched", "devinterp"])
def test_a_chain_that_stays_at_the_checkpoint_has_an_llc_of_zero_under_class_weights(backend):
    """Each minibatch's loss averages to L(w*): only the noise of minibatches is left."""
    model, data = sorted_classes()
    settings = sgld(sampler_lr=1e-14, backend=backend, num_draws=60)
    (found,) = estimate_llcs(model, [model.state_dict()], data, settings, 600, WEIGHTED)
    right = float(WEIGHTED(model(data[0]), data[1]).detach())
    assert found.init_loss == pytest.approx(right, rel=1e-6)
    # 6 passes of ten whole minibatches see every sample six times
    assert found.llc == pytest.approx(0, abs=1e-5 * found.nbeta * right)


def test_the_whole_batch_has_an_llc_of_zero_under_class_weights():
    model, data = sorted_classes()
    settings = sgld(sampler_lr=1e-14, num_draws=4)
    (found,) = estimate_llcs(model, [model.state_dict()], data, settings, 6000, WEIGHTED)
    assert found.llc == pytest.approx(0, abs=1e-5 * found.nbeta * found.init_loss)


@pytest.mark.parametrize("batch_size", [100, 1280, 6000])
def test_eigenvalues_under_class_weights_are_those_of_the_whole_batch(batch_size):
    model, data = sorted_classes()
    wide = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 9.0], dtype=torch.float64))

    def loss(row: Tensor) -> Tensor:
        return wide(data[0].double() @ row[:8].view(2, 4).T + row[8:], data[1])

    row = torch.cat([p.detach().flatten() for p in model.parameters()])
    right = torch.linalg.eigvalsh(dense_hessian(loss, row)).flip(0)[:4].numpy()
    found = top_eigenvalues(model, WEIGHTED, data, 4, batch_size=batch_size, tolerance=1e-6)
    assert np.allclose(found, right, rtol=1e-4)


# ---- an L2 penalty -------------------------------------------------------------------------------


def half_norm(parameters: dict[str, Tensor]) -> Tensor:
    return 0.5 * sum(p.square().sum() for p in parameters.values())


def softmax_regression() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """Four classes, at the minimum of cross-entropy plus half the squared norm."""
    inputs, labels = normal(400, 5), torch.arange(400) % 4
    inputs = inputs + normal(4, 5, seed=1)[labels]
    model = nn.Linear(5, 4, bias=False).double()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(model(inputs.double()), labels) + half_norm(
            dict(model.named_parameters())
        )
        loss.backward()
        return loss

    optimizer.step(closure)
    return model, (inputs.double(), labels)


def test_a_penalty_by_closure_is_refused_by_everything_that_measures():
    model, data = softmax_regression()

    def decayed(z: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(z, y) + half_norm(dict(model.named_parameters()))

    for measure in (
        lambda: hessian_trace(model, decayed, data),
        lambda: top_eigenvalues(model, decayed, data, 1),
        lambda: estimate_llcs(model, [model.state_dict()], data, sgld(), 100, decayed),
        lambda: estimate_llcs(model, [model.state_dict()], data, SamplerSettings(), 100, decayed),
    ):
        with pytest.raises(ValueError, match="penalty="):
            measure()


def test_a_penalty_adds_d_to_the_trace_and_one_to_the_top_eigenvalue():
    model, data = softmax_regression()
    traces = [
        hessian_trace(model, cross_entropy, data, **options).trace
        for options in ({}, {"penalty": half_norm})
    ]
    assert traces[1] - traces[0] == pytest.approx(20, rel=1e-9)
    tops = [
        top_eigenvalues(model, cross_entropy, data, 1, tolerance=1e-8, **options)[0]
        for options in ({}, {"penalty": half_norm})
    ]
    assert tops[1] - tops[0] == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("backend", ["batched", "devinterp"])
def test_the_llc_with_a_penalty_is_that_of_curvatures_that_are_larger_by_one(backend):
    """λ̂ = ½ Σ nβ(h+1)/(a (1 − εa/4)), a = nβ(h+1) + γ, the variance of a chain of step ε."""
    model, data = softmax_regression()
    row = torch.cat([p.detach().flatten() for p in model.parameters()])
    hessian = dense_hessian(lambda w: cross_entropy(data[0] @ w.view(4, 5).T, data[1]), row)
    h = torch.linalg.eigvalsh(hessian).numpy() + 1
    nbeta, gamma, epsilon = 2000.0, 1000.0, 1e-4
    settings = sgld(
        num_draws=500,
        num_burnin_steps=100,
        nbeta=nbeta,
        localization=gamma,
        sampler_lr=epsilon,
        backend=backend,
    )
    (found,) = estimate_llcs(
        model, [model.state_dict()], data, settings, 400, cross_entropy, penalty=half_norm
    )
    a = nbeta * h + gamma
    right = 0.5 * (nbeta * h / (a * (1 - epsilon * a / 4))).sum()
    assert abs(found.llc - right) < 4 * found.std_error
    assert found.std_error < 0.08 * right
    # without it, λ̂ is smaller by far more than that
    assert right - 0.5 * (nbeta * (h - 1) / (nbeta * (h - 1) + gamma)).sum() > 20 * found.std_error


# ---- weights kept in half precision --------------------------------------------------------------

DIM, NBETA, GAMMA, STEP = 20, 100.0, 100.0, 1e-3


def dyadic_regression(dtype: torch.dtype) -> tuple[nn.Module, tuple[Tensor, Tensor], np.ndarray]:
    """Linear regression at its minimum, which every type holds exactly: targets are those of the
    weights, multiples of 1/4.
    """
    inputs = normal(200, DIM)
    model = nn.Linear(DIM, 1, bias=False)
    weights = (torch.arange(DIM) % 8 - 3.5) / 4
    targets = inputs @ weights[:, None]
    model.weight.data = weights[None]
    hessian = 2 * inputs.double().T @ inputs.double() / 200
    return model.to(dtype), (inputs, targets), torch.linalg.eigvalsh(hessian).numpy()


@pytest.mark.parametrize("backend", ["batched", "devinterp"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_llc_of_weights_kept_in_half_precision_is_the_exact_one(dtype, backend):
    """A step of SGLD is far below a half's resolution: chains run in float32 whatever it is."""
    model, data, h = dyadic_regression(dtype)
    settings = sgld(
        num_draws=500,
        num_burnin_steps=100,
        nbeta=NBETA,
        localization=GAMMA,
        sampler_lr=STEP,
        backend=backend,
    )
    before = model.weight
    (found,) = estimate_llcs(model, [model.state_dict()], data, settings, 200, mse_loss)
    a = NBETA * h + GAMMA
    right = 0.5 * (NBETA * h / (a * (1 - STEP * a / 4))).sum()
    assert found.init_loss < 1e-12
    assert abs(found.llc - right) < 3 * found.std_error
    assert found.std_error < 0.08 * right
    assert model.weight is before
    assert model.weight.dtype == dtype


def test_auto_gives_the_exact_llc_for_weights_kept_in_half_precision():
    """Which has no error of its step on a quadratic."""
    model, data, h = dyadic_regression(torch.bfloat16)
    settings = SamplerSettings(
        nbeta=NBETA, localization=GAMMA, num_draws=400, num_burnin_steps=50, num_chains=4
    )
    (found,) = estimate_llcs(model, [model.state_dict()], data, settings, 200, mse_loss)
    right = 0.5 * (NBETA * h / (NBETA * h + GAMMA)).sum()
    assert abs(found.llc - right) < 4 * found.std_error
    assert found.std_error < 0.1 * right


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_curvature_of_weights_kept_in_half_precision_is_computed_in_float32(dtype):
    model, data, h = dyadic_regression(dtype)
    found = top_eigenvalues(model, mse_loss, data, 2, tolerance=1e-6)
    assert np.allclose(found, h[::-1][:2], rtol=1e-5)
    traced = hessian_trace(model, mse_loss, data, 200)
    assert abs(traced.trace - h.sum()) < 4 * traced.std_error


# ---- layers that behave otherwise in training ----------------------------------------------------


def pair_of_networks() -> tuple[nn.Module, nn.Module]:
    """With batch norm and dropout in eval mode, and what that comes to: a scale, a shift."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        norm = nn.BatchNorm1d(6)
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        layers = nn.Linear(4, 6), nn.Dropout(0.5), norm, nn.ReLU(), nn.Linear(6, 3)
    twin = nn.Sequential(layers[0], nn.Identity(), Standardised(norm), layers[3], layers[4])
    return nn.Sequential(*layers).eval(), twin.eval()


class Standardised(nn.Module):
    """Batch norm by its running statistics, under the same names."""

    def __init__(self, norm: nn.BatchNorm1d):
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(norm, name).clone())

    def forward(self, x: Tensor) -> Tensor:
        size = (self.running_var + self.eps).sqrt()
        return (x - self.running_mean) / size * self.weight + self.bias


def test_batch_norm_and_dropout_in_eval_mode_give_the_llc_of_the_network_without_them():
    model, twin = pair_of_networks()
    data = normal(200, 4), torch.arange(200) % 3
    settings = sgld(num_draws=50, nbeta=50.0)
    found, right = (
        estimate_llcs(m, [m.state_dict()], data, settings, 50)[0] for m in (model, twin)
    )
    assert found.init_loss == pytest.approx(right.init_loss, rel=1e-6)
    # the same random numbers, and sums whose order differs in the last bits of float32
    assert np.allclose(found.trace, right.trace, rtol=2e-5)
    assert found.llc == pytest.approx(right.llc, rel=1e-2)


def test_dropout_in_eval_mode_changes_no_bit():
    def network(layer: nn.Module) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return nn.Sequential(nn.Linear(4, 6), layer, nn.ReLU(), nn.Linear(6, 3)).eval()

    data = normal(200, 4), torch.arange(200) % 3
    found, right = (
        estimate_llcs(m, [m.state_dict()], data, sgld(), 50)[0]
        for m in (network(nn.Dropout(0.5)), network(nn.Identity()))
    )
    assert np.array_equal(found.trace, right.trace)
    assert found.llc == right.llc


def test_running_statistics_are_the_checkpoints_own():
    """Two checkpoints whose buffers differ have the losses of their own buffers."""
    model, _ = pair_of_networks()
    other = {k: t.clone() for k, t in model.state_dict().items()}
    other["2.running_mean"] += 1
    data = normal(200, 4), torch.arange(200) % 3
    settings = sgld(sampler_lr=1e-14, num_draws=4)
    found = estimate_llcs(model, [model.state_dict(), other], data, settings, 200)
    for estimate, state in zip(found, (dict(model.state_dict()), other), strict=True):
        outputs = torch.func.functional_call(model, state, (data[0],))
        right = float(cross_entropy(outputs, data[1]).detach())
        assert estimate.init_loss == pytest.approx(right, rel=1e-6)
        assert np.allclose(estimate.trace, right, rtol=1e-5)
    assert not math.isclose(found[0].init_loss, found[1].init_loss, rel_tol=1e-3)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.BatchNorm1d(6), r"1 is a BatchNorm1d that normalises .* call model\.eval\(\)"),
        (nn.Dropout(0.5), r"1 is a Dropout in training mode.* call model\.eval\(\)"),
    ],
)
def test_in_training_mode_they_are_refused_by_everything_that_measures(layer, message):
    model = nn.Sequential(nn.Linear(4, 6), layer, nn.Linear(6, 3)).train()
    data = normal(200, 4), torch.arange(200) % 3
    for measure in (
        lambda: estimate_llcs(model, [model.state_dict()], data, sgld(), 50),
        lambda: hessian_trace(model, cross_entropy, data),
        lambda: top_eigenvalues(model, cross_entropy, data, 1),
    ):
        with pytest.raises(ValueError, match=message):
            measure()
    assert model.training
