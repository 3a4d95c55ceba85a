"""Every estimate is the same whatever the data came as: tensors, a loader, a stream; and chains by
whatever pieces and draws they are told of.
"""

from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, TensorDataset

from degeneracy.curvature.fisher import fisher_operator, fisher_trace
from degeneracy.curvature.largest import top_eigenvalues
from degeneracy.curvature.operators import hessian_operator
from degeneracy.curvature.trace import hessian_trace
from degeneracy.llc.estimate import estimate_llcs
from degeneracy.llc.settings import SamplerSettings

N = 300


def tensors(count: int = N) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 4, generator=generator).double(), torch.arange(count) % 3


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


class Uneven:
    """Batches of uneven sizes, in the data's order, anew at each pass."""

    def __init__(self, data: tuple[Tensor, Tensor]):
        self.data = data

    def __iter__(self):
        rest, sizes = len(self.data[0]), []
        while rest:
            sizes.append(min(rest, 37 + 53 * len(sizes) % 71))
            rest -= sizes[-1]
        return iter(zip(*(part.split(sizes) for part in self.data), strict=True))


SOURCES = {
    "dataset": lambda data: (TensorDataset(*data), {}),
    "loader": lambda data: (DataLoader(TensorDataset(*data), 90), {}),
    "shuffled loader": lambda data: (DataLoader(TensorDataset(*data), 90, shuffle=True), {}),
    "stream": lambda data: (Uneven(data), {"cache_bytes": 100}),
    "shuffled stream": lambda data: (
        DataLoader(TensorDataset(*data), 90, shuffle=True),
        {"cache_bytes": 100},
    ),
}
ordered = pytest.mark.parametrize("source", ["dataset", "loader", "stream"])
every = pytest.mark.parametrize("source", sorted(SOURCES))


def given(source: str, count: int = N):
    return SOURCES[source](tensors(count))


def matrix(operator) -> Tensor:
    return operator.products(torch.eye(operator.dim, dtype=operator.dtype)).detach()


# ---- curvature -----------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("batch_size", [1280, 40])
def test_the_hessian_is_that_of_the_tensors(source, batch_size):
    data, options = given(source)
    found = matrix(hessian_operator(network(), cross_entropy, data, batch_size, **options))
    right = matrix(hessian_operator(network(), cross_entropy, tensors()))
    assert torch.allclose(found, right, atol=1e-13)


@every
def test_the_top_eigenvalues_are_those_of_the_tensors(source):
    data, options = given(source)
    exact = {"k": 3, "tolerance": 1e-8}
    found = top_eigenvalues(network(), cross_entropy, data, **exact, **options)
    right = top_eigenvalues(network(), cross_entropy, tensors(), **exact)
    assert np.allclose(found, right, rtol=1e-7)


@every
@pytest.mark.parametrize("method", ["hutchinson", "xtrace"])
def test_the_trace_is_that_of_the_tensors_with_the_same_probes(source, method):
    data, options = given(source)
    exact = {"num_probes": 6, "method": method, "seed": 3}
    found = hessian_trace(network(), cross_entropy, data, **exact, **options)
    right = hessian_trace(network(), cross_entropy, tensors(), **exact)
    assert found.trace == pytest.approx(right.trace, rel=1e-9)
    assert found.std_error == pytest.approx(right.std_error, rel=1e-6)


@ordered
def test_the_blockwise_trace_is_that_of_the_tensors_where_there_is_one_block(source):
    data, options = given(source, count=120)
    found = hessian_trace(network(), cross_entropy, data, 6, **options)
    right = hessian_trace(network(), cross_entropy, tensors(120), 6)
    assert found.trace == pytest.approx(right.trace, rel=1e-9)


@every
def test_the_blockwise_trace_is_right_within_its_error(source):
    data, options = given(source)
    found = hessian_trace(network(), cross_entropy, data, 60, **options)
    right = float(matrix(hessian_operator(network(), cross_entropy, tensors())).trace())
    assert abs(found.trace - right) < 4 * found.std_error
    assert found.std_error < 0.1 * right


@every
@pytest.mark.parametrize("kind", ["expected", "empirical"])
@pytest.mark.parametrize("batch_size", [1280, 40])
def test_the_fisher_information_is_that_of_the_tensors(source, kind, batch_size):
    data, options = given(source)
    found = fisher_operator(network(), data, kind, batch_size=batch_size, **options)
    right = fisher_operator(network(), tensors(), kind)
    assert torch.allclose(matrix(found), matrix(right), atol=1e-13)
    traced = fisher_trace(network(), data, kind, batch_size=batch_size, **options)
    assert traced == pytest.approx(float(matrix(right).trace()), rel=1e-9)


@ordered
def test_sampled_labels_hang_on_the_position_of_a_sample_alone(source):
    data, options = given(source)
    found = fisher_trace(network(), data, "sampled", seed=4, **options)
    assert found == pytest.approx(fisher_trace(network(), tensors(), "sampled", seed=4), rel=1e-9)


def test_class_weights_are_those_of_the_whole_stream():
    loss_fn = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 9.0, 2.0], dtype=torch.float64))
    data, options = given("stream")
    found = matrix(hessian_operator(network(), loss_fn, data, **options))
    right = matrix(hessian_operator(network(), loss_fn, tensors()))
    assert torch.allclose(found, right, atol=1e-13)


def test_dicts_of_a_loader_are_the_models_named_arguments():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, x, scale):
            return self.net(x * scale[:, None])

    inputs, labels = tensors()
    scale = torch.linspace(0.5, 2, N).double()
    rows = [
        {"x": a, "scale": b, "labels": c} for a, b, c in zip(inputs, scale, labels, strict=True)
    ]
    for options in ({}, {"cache_bytes": 100}):
        found = matrix(hessian_operator(Named(), cross_entropy, DataLoader(rows, 50), **options))
        right = matrix(
            hessian_operator(network(), cross_entropy, (inputs * scale[:, None], labels))
        )
        assert torch.allclose(found, right, atol=1e-12)


# ---- the LLC -------------------------------------------------------------------------------------


def regression(count: int = 400) -> tuple[nn.Module, tuple[Tensor, Tensor], np.ndarray]:
    """Linear, at its minimum, without noise: a quadratic with the curvatures that come last."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(count, 8, generator=generator)
    model = nn.Linear(8, 1, bias=False)
    nn.init.zeros_(model.weight)
    hessian = 2 * inputs.double().T @ inputs.double() / count
    return model, (inputs, torch.zeros(count, 1)), torch.linalg.eigvalsh(hessian).numpy()


def sgld(**more) -> SamplerSettings:
    given = {"sampler": "sgld", "num_chains": 2, "num_draws": 800, "num_burnin_steps": 100}
    given |= {"nbeta": 200.0, "localization": 200.0, "sampler_lr": 2e-4}
    return SamplerSettings(**given | more)


def expected(h: np.ndarray, s: SamplerSettings) -> float:
    """½ Σ nβ h / (a (1 − εa/4)), a = nβ h + γ: of a quadratic, and a step ε."""
    a = s.nbeta * h + s.localization
    return float(0.5 * (s.nbeta * h / (a * (1 - s.sampler_lr * a / 4))).sum())


@every
def test_the_llc_is_the_exact_one(source):
    """Minibatches of noise-free regression are unbiased, and their noise vanishes at w*."""
    model, data, h = regression()
    held, options = SOURCES[source](data)
    (found,) = estimate_llcs(model, [model.state_dict()], held, sgld(), 200, mse_loss, **options)
    assert found.init_loss == 0
    # the noise of halves of the data raises variances by some percent at most
    assert abs(found.llc - expected(h, sgld())) < 4 * found.std_error + 0.03 * found.llc
    assert found.std_error < 0.08 * found.llc


@pytest.mark.parametrize("source", ["loader", "stream"])
def test_auto_finds_the_exact_llc(source):
    model, data, h = regression()
    held, options = SOURCES[source](data)
    settings = SamplerSettings(
        nbeta=200.0, localization=200.0, num_chains=4, num_draws=250, sampler_batch_size=200
    )
    (found,) = estimate_llcs(model, [model.state_dict()], held, settings, 200, mse_loss, **options)
    right = 0.5 * (200 * h / (200 * h + 200)).sum()
    assert found.init_loss == 0
    assert abs(found.llc - right) < 4 * found.std_error
    assert found.std_error < 0.1 * right


@ordered
def test_what_is_kept_has_the_draws_of_the_tensors_to_the_bit(source):
    data, options = given(source)
    if "cache_bytes" in options:
        options = {}  # a stream that fits
    settings = sgld(num_draws=20)
    model = network()
    found, right = (
        estimate_llcs(model, [model.state_dict()], held, settings, 50, **options)[0]
        for held in (data, tensors())
    )
    assert np.array_equal(found.trace, right.trace)
    assert found.init_loss == pytest.approx(right.init_loss, rel=1e-12)


@every
def test_the_loss_at_the_checkpoint_is_that_of_the_tensors(source):
    data, options = given(source)
    model, settings = network(), sgld(num_draws=4, num_burnin_steps=0)
    (found,) = estimate_llcs(model, [model.state_dict()], data, settings, 50, **options)
    right = float(cross_entropy(model(tensors()[0]), tensors()[1]).detach())
    assert found.init_loss == pytest.approx(right, rel=1e-12)


def test_a_chain_that_stays_sees_every_sample_of_a_stream_equally_often():
    """Its losses then average to L(w*): 6 · 40 minibatches of 50 samples are 40 passes of 300."""
    data, options = given("shuffled stream")
    model, settings = network(), sgld(num_draws=240, num_burnin_steps=0, sampler_lr=1e-20)
    (found,) = estimate_llcs(model, [model.state_dict()], data, settings, 50, **options)
    spread = found.trace.std()
    # a pool of 16 minibatches is all that may be left over
    assert abs(found.trace.mean() - found.init_loss) < 16 / 240 * spread
    assert spread > 0.001


def test_chains_of_a_stream_are_a_function_of_their_seed():
    data, options = given("shuffled stream")
    model = network()
    state, settings = [model.state_dict()], sgld(num_draws=12, num_chains=3)
    torch.manual_seed(1)
    (one,) = estimate_llcs(model, state, data, settings, 50, **options)
    torch.manual_seed(2)
    (two,) = estimate_llcs(model, state, data, settings, 50, memory_budget=1, **options)
    assert np.allclose(one.trace, two.trace, rtol=1e-6)
    assert len({row.tobytes() for row in one.trace}) == 3


def test_devinterp_refuses_a_stream_with_the_way_out():
    data, options = given("stream")
    model, settings = network(), sgld(num_draws=4, backend="devinterp")
    with pytest.raises(ValueError, match="needs data that fit in memory; raise cache_bytes"):
        estimate_llcs(model, [model.state_dict()], data, settings, 50, **options)


def test_nbeta_of_the_data_set_counts_the_samples_of_a_stream():
    data, options = given("stream")
    model, settings = network(), sgld(num_draws=4, nbeta="dataset")
    (found,) = estimate_llcs(model, [model.state_dict()], data, settings, 50, **options)
    assert found.nbeta == pytest.approx(N / np.log(N))


# ---- pieces of minibatches -----------------------------------------------------------------------


@pytest.mark.parametrize(("size", "source"), [(16, "loader"), (25, "stream"), (1000, "loader")])
def test_gradients_by_pieces_give_the_same_chain(size, source):
    data, options = given(source)
    model, state = network(), [network().state_dict()]
    whole = estimate_llcs(model, state, data, sgld(num_draws=20), 50, **options)[0]
    pieces = sgld(num_draws=20, micro_batch_size=size)
    found = estimate_llcs(model, state, data, pieces, 50, **options)[0]
    assert np.allclose(found.trace, whole.trace, rtol=1e-6)
    assert np.allclose(found.acceptance, whole.acceptance, rtol=1e-6)


@pytest.mark.parametrize("size", [90, 300])
def test_gradients_by_pieces_of_all_the_data_give_the_same_chain(size):
    model, state = network(), [network().state_dict()]
    options = {"penalty": lambda p: p["0.weight"].square().sum()}
    loss_fn = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 9.0, 2.0], dtype=torch.float64))
    whole, found = (
        estimate_llcs(model, state, tensors(), settings, N, loss_fn, **options)[0]
        for settings in (sgld(num_draws=20), sgld(num_draws=20, micro_batch_size=size))
    )
    assert np.allclose(found.trace, whole.trace, rtol=1e-6)


@pytest.mark.parametrize("sampler", ["sgnht", "rmsprop_sgld"])
def test_gradients_by_pieces_give_the_same_chain_of_other_samplers(sampler):
    model, state = network(), [network().state_dict()]
    more = {"sampler": sampler, "num_draws": 20, "sampler_lr": 1e-5, "localization": 0.0}
    whole, found = (
        estimate_llcs(model, state, tensors(), settings, 50)[0]
        for settings in (sgld(**more), sgld(**more, micro_batch_size=20))
    )
    assert np.allclose(found.trace, whole.trace, rtol=1e-5)


def test_auto_by_pieces_finds_the_exact_llc():
    model, data, h = regression()
    settings = SamplerSettings(
        nbeta=200.0, localization=200.0, num_chains=4, num_draws=250, micro_batch_size=150
    )
    (found,) = estimate_llcs(model, [model.state_dict()], data, settings, 400, mse_loss)
    right = 0.5 * (200 * h / (200 * h + 200)).sum()
    assert abs(found.llc - right) < 4 * found.std_error


# ---- draws ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["batched", "devinterp"])
@pytest.mark.parametrize("sampler", ["sgld", "sgnht", "rmsprop_sgld"])
@pytest.mark.parametrize("k", [2, 5])
def test_thinning_keeps_every_kth_draw_of_the_same_chain(backend, sampler, k):
    model, state = network(), [network().state_dict()]
    more = {"backend": backend, "sampler": sampler, "num_burnin_steps": 3}
    more |= {"sampler_lr": 1e-5, "localization": 0.0}
    thinned = sgld(num_draws=6, thinning=k, **more)
    (found,) = estimate_llcs(model, state, tensors(), thinned, 50)
    (every_one,) = estimate_llcs(model, state, tensors(), sgld(num_draws=6 * k, **more), 50)
    # devinterp takes the last of k steps, the batched engine the first
    first = k - 1 if backend == "devinterp" else 0
    assert np.array_equal(found.trace, every_one.trace[:, first::k])


def test_draws_are_the_same_in_both_backends():
    """With all the data in every batch and steps too short to be random, draws are of one path."""
    model, state = network(), [network().state_dict()]
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    more = {"num_draws": 5, "num_burnin_steps": 2, "localization": 0.0}
    more |= {"sampler_lr": 1e-12, "nbeta": 1e10}  # a drift of 1e-2 ∇L, and noise of 1e-6
    found, right = (
        estimate_llcs(model, state, tensors(), sgld(backend=backend, **more), N)[0].trace
        for backend in ("batched", "devinterp")
    )
    assert np.allclose(found, right, rtol=1e-6)
    assert found.std() > 1e-5


@pytest.mark.parametrize("backend", ["batched", "devinterp"])
@pytest.mark.parametrize("thinning", [1, 3])
def test_on_draw_is_told_of_every_draw_with_its_weights_and_their_loss(backend, thinning):
    model, draws, settings = network(), [], sgld(num_draws=7, num_chains=3, num_burnin_steps=2)
    settings = settings.model_copy(update={"backend": backend, "thinning": thinning})
    states = [network().state_dict(), {k: 2 * t for k, t in network().state_dict().items()}]
    estimates = estimate_llcs(
        model, states, tensors(), settings, N, checkpoint_ids=[4, 9], on_draw=draws.append
    )
    told = Counter((d.checkpoint, d.chain, d.number) for d in draws)
    assert told == Counter((c, i, t) for c in (4, 9) for i in range(3) for t in range(7))
    inputs, labels = tensors()
    for found in draws:
        outputs = torch.func.functional_call(model, found.weights, (inputs,))
        estimate = estimates[[4, 9].index(found.checkpoint)]
        right = float(cross_entropy(outputs, labels).detach())
        assert found.loss == pytest.approx(right, rel=1e-6)
        assert estimate.trace[found.chain, found.number] == pytest.approx(right, rel=1e-6)


def test_weights_that_were_told_stay_and_are_nobodys():
    """They are copies: writing into them changes no chain."""
    model, kept = network(), []
    settings = sgld(num_draws=6)

    def spoil(found) -> None:
        kept.append({name: w.clone() for name, w in found.weights.items()})
        for weight in found.weights.values():
            weight.zero_()

    state = [model.state_dict()]
    (spoiled,) = estimate_llcs(model, state, tensors(), settings, 50, on_draw=spoil)
    (plain,) = estimate_llcs(model, state, tensors(), settings, 50)
    assert np.array_equal(spoiled.trace, plain.trace)
    assert len({float(w["0.weight"].sum()) for w in kept}) == 12


@pytest.mark.parametrize("source", ["loader", "stream"])
def test_on_draw_of_auto_is_told_of_every_draw_with_weights_of_their_loss(source):
    data, options = given(source)
    model, draws = network(), []
    settings = SamplerSettings(
        num_chains=2, num_draws=6, num_burnin_steps=2, nbeta=50.0, paired_losses=False
    )
    (found,) = estimate_llcs(
        model, [model.state_dict()], data, settings, N, on_draw=draws.append, **options
    )
    assert Counter((d.chain, d.number) for d in draws) == Counter(
        (i, t) for i in range(2) for t in range(6)
    )
    inputs, labels = tensors()
    for told in draws:
        outputs = torch.func.functional_call(model, told.weights, (inputs,))
        right = float(cross_entropy(outputs, labels).detach())
        assert told.loss == pytest.approx(right, rel=1e-5)
        assert found.trace[told.chain, told.number] == pytest.approx(right, rel=1e-5)


def test_an_error_in_on_draw_ends_the_chains():
    def fails(found) -> None:
        raise KeyError("of the user's")

    model = network()
    with pytest.raises(KeyError, match="of the user's"):
        estimate_llcs(model, [model.state_dict()], tensors(), sgld(), 50, on_draw=fails)


def test_on_draw_is_told_of_chains_that_advance_one_by_one():
    """As of a module that looks at values on its way."""

    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, x):
            return self.net(x) if float(self.net[0].bias.detach().sum()) < 1e9 else x

    model, plain, draws = Branching(), network(), []
    settings = sgld(num_draws=5)
    with pytest.warns(UserWarning, match="one after the other"):
        (found,) = estimate_llcs(
            model, [model.state_dict()], tensors(), settings, 50, on_draw=draws.append
        )
    (right,) = estimate_llcs(plain, [plain.state_dict()], tensors(), settings, 50)
    assert len(draws) == 10
    assert np.allclose(found.trace, right.trace, rtol=1e-6)
