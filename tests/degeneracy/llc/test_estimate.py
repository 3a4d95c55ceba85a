"""LLC estimates: against exact values, devinterp's own function, and what an estimate promises."""

import copy
import dataclasses
import math
import warnings

import numpy as np
import pytest
import torch
from devinterp.slt.sampler import estimate_learning_coeff_with_summary
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, TensorDataset

from degeneracy.llc.estimate import estimate_llcs, resolve_nbeta, stream_llcs
from degeneracy.llc.settings import SamplerSettings
from degeneracy.llc.statistics import chain_verdict, summarise
from degeneracy.models.known import Quadratic

FAST = SamplerSettings(sampler="sgld", num_chains=2, num_draws=50)


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    return model, (torch.randn(400, 6), torch.randint(3, (400,)))


def quadratic(dim: int = 12, num_samples: int = 4000):
    """Noise-free linear regression at its minimum: L(w) = ½ Σ over eigen-directions h_i w_i², h_i
    those of XᵀX/n.
    """
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(num_samples, dim, generator=generator)
    model = nn.Linear(dim, 1, bias=False)
    nn.init.zeros_(model.weight)
    curvatures = torch.linalg.eigvalsh(inputs.T @ inputs / num_samples).double().numpy()
    return model, (inputs, torch.zeros(num_samples, 1)), curvatures


def half_mse(outputs, targets):
    return 0.5 * mse_loss(outputs, targets)


@pytest.mark.parametrize("localization", [0.0, 300.0, 3000.0])
def test_sgld_near_a_quadratic_minimum_gives_the_finite_temperature_value(localization):
    """λ̂ = ½ Σ nβ h / (A (1 − εA/4)) with A = nβ h + γ: the stationary variance of w ← (1 − εA/2) w
    + N(0, ε).
    """
    model, data, h = quadratic()
    nbeta, epsilon = 1000.0, 1e-4
    settings = SamplerSettings(
        sampler="sgld",
        num_chains=4,
        num_draws=1500,
        num_burnin_steps=200,
        localization=localization,
        sampler_lr=epsilon,
        nbeta=nbeta,
    )
    (estimate,) = estimate_llcs(
        model, [model.state_dict()], data, settings, batch_size=1000, loss_fn=half_mse
    )
    a = nbeta * h + localization
    expected = 0.5 * (nbeta * h / (a * (1 - epsilon * a / 4))).sum()
    assert estimate.init_loss == 0.0  # devinterp's own front end would replace a loss of exactly 0
    assert abs(estimate.llc - expected) < 4 * estimate.std_error
    assert estimate.std_error < 0.07 * expected
    assert abs(estimate.drift) < 4 * estimate.std_error


@pytest.mark.parametrize(
    ("sampler", "settings"),
    [
        ("sgnht", {"sampler_lr": 1e-5, "diffusion_factor": 0.1}),
        ("rmsprop_sgld", {"sampler_lr": 1e-5, "localization": 0.0}),
    ],
)
def test_other_samplers_give_half_the_dimension_without_localisation(sampler, settings):
    """λ = d/2 for a regular model; both samplers keep a bias of order √ε and ε, hence the 10 %."""
    model, data, _ = quadratic()
    settings = SamplerSettings(
        sampler=sampler,
        num_chains=4,
        num_draws=1500,
        num_burnin_steps=500,
        nbeta=1000.0,
        **settings,
    )
    (estimate,) = estimate_llcs(
        model, [model.state_dict()], data, settings, batch_size=1000, loss_fn=half_mse
    )
    assert abs(estimate.llc - 6.0) < 4 * estimate.std_error + 0.6


def test_agrees_with_devinterps_own_function(classifier):
    """Same settings, same L(w*): the two differ by sampling error only."""
    model, (inputs, targets) = classifier
    settings = SamplerSettings(
        sampler="sgld", num_chains=4, num_draws=250, num_burnin_steps=50, sampler_lr=1e-3
    )
    (ours,) = estimate_llcs(
        model, [model.state_dict()], (inputs, targets), settings, batch_size=100
    )
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=100, shuffle=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = estimate_learning_coeff_with_summary(
            copy.deepcopy(model),
            loader,
            evaluate=lambda m, batch: cross_entropy(m(batch[0]), batch[1]),
            optimizer_kwargs={"lr": 1e-3, "localization": 100.0, "nbeta": ours.nbeta},
            num_draws=250,
            num_chains=4,
            num_burnin_steps=50,
            init_loss=ours.init_loss,
            seed=7,
            verbose=False,
        )
    errors = summarise(theirs["loss/trace"], ours.init_loss, ours.nbeta, 400)
    assert theirs["llc/mean"] == pytest.approx(errors.llc, rel=1e-4)
    assert abs(ours.llc - errors.llc) < 4 * math.hypot(ours.std_error, errors.std_error)


def test_the_estimate_is_what_its_trace_says(classifier):
    model, data = classifier
    (e,) = estimate_llcs(model, [model.state_dict()], data, FAST, batch_size=100)
    assert e.trace.shape == (2, 50)
    assert e.nbeta == pytest.approx(100 / math.log(100))
    assert e.init_loss == pytest.approx(cross_entropy(model(data[0]), data[1]).item(), rel=1e-6)
    mean = e.trace.astype(np.float64).mean()
    assert e.llc == pytest.approx(e.nbeta * (mean - e.init_loss))
    assert e.wbic == pytest.approx(400 * mean)
    assert e.wbic_std_error == pytest.approx(e.std_error * 400 / e.nbeta)
    assert e.drift == pytest.approx(e.nbeta * (e.trace[:, 25:].astype(np.float64).mean() - mean))
    assert not e.diverged.any()


def test_random_numbers_belong_to_the_checkpoint_not_to_the_grouping(classifier):
    model, data = classifier
    first = model.state_dict()
    second = {name: tensor + 0.1 for name, tensor in first.items()}
    both = estimate_llcs(model, [first, None, second], data, FAST, 100, checkpoint_ids=[4, 5, 6])
    (alone,) = estimate_llcs(model, [second], data, FAST, 100, checkpoint_ids=[6])
    (other,) = estimate_llcs(model, [second], data, FAST, 100, checkpoint_ids=[7])
    assert both[1] is None
    np.testing.assert_allclose(both[2].trace, alone.trace, rtol=1e-4)
    assert not np.array_equal(alone.trace, other.trace)
    assert not np.array_equal(alone.trace[0], alone.trace[1])  # chains differ


def test_the_seed_decides_and_nothing_else_is_touched(classifier):
    model, data = classifier
    state, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    checkpoint = {name: tensor + 0.1 for name, tensor in state.items()}
    seeds = [FAST.model_copy(update={"seed": seed}) for seed in (0, 0, 1)]
    a, b, c = (estimate_llcs(model, [checkpoint], data, s, 100)[0] for s in seeds)
    np.testing.assert_array_equal(a.trace, b.trace)
    assert not np.array_equal(a.trace, c.trace)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_chains_that_diverge_are_counted_and_nothing_is_raised(classifier):
    model, data = classifier
    settings = SamplerSettings(sampler="sgld", num_chains=2, num_draws=200, sampler_lr=1e8)
    (e,) = estimate_llcs(model, [model.state_dict()], data, settings, batch_size=100)
    assert e.diverged.tolist() == [True, True]
    assert e.chain_verdicts == ("diverged", "diverged")
    assert not e.settled
    assert (e.llc, e.std_error, e.drift, e.wbic, e.rhat) == (None,) * 5
    assert np.isfinite(e.trace[:, 0]).all()  # what was drawn before is kept


def test_a_diverged_chain_leaves_the_others_numbers_alone():
    good = np.random.default_rng(0).normal(1.0, 0.1, size=(3, 100)).astype(np.float32)
    bad = np.concatenate([np.ones((1, 40)), np.full((1, 60), np.nan)], axis=1).astype(np.float32)
    alone = summarise(good, 0.9, 20.0, 500)
    beside = summarise(np.concatenate([good[:1], bad, good[1:]]), 0.9, 20.0, 500)
    assert beside.diverged.tolist() == [False, True, False, False]
    for name in ("llc", "std_error", "drift", "wbic", "wbic_std_error", "rhat", "ess"):
        assert getattr(beside, name) == getattr(alone, name)


def test_the_standard_error_is_right_for_white_noise_and_for_an_autoregression():
    """AR(1) with coefficient φ: the mean of N draws has variance σ²(1 + φ)/(1 − φ)/N for stationary
    variance σ².
    """
    rng = np.random.default_rng(1)
    chains, draws = 8, 4000
    for phi in (0.0, 0.9):
        noise = rng.normal(size=(chains, draws + 500)) * math.sqrt(1 - phi**2)
        x = np.zeros_like(noise)
        for t in range(1, draws + 500):
            x[:, t] = phi * x[:, t - 1] + noise[:, t]
        expected = 10.0 * math.sqrt((1 + phi) / (1 - phi) / (chains * draws))
        error = summarise(x[:, 500:], 0.0, 10.0, 100).std_error
        # Larger of two: never much below; the one between 8 chains has a relative deviation of
        # 1/√14.
        assert 0.8 * expected < error < 2.1 * expected


def test_chains_that_disagree_set_the_error():
    trace = np.random.default_rng(0).normal(0, 0.01, size=(2, 500)) + np.array([[0.0], [1.0]])
    assert summarise(trace, 0.0, 1.0, 100).std_error >= 0.5 * 0.99  # std of (0, 1) over √2


def test_one_short_chain_has_no_error_and_says_so():
    estimate = summarise(np.array([[1.0, 1.1, 0.9]]), 0.5, 2.0, 10)
    assert estimate.llc == pytest.approx(1.0)
    assert estimate.std_error is None
    assert estimate.wbic_std_error is None


def test_nbeta_by_name_and_by_number():
    assert resolve_nbeta("batch", 128, 60000) == pytest.approx(26.3807, abs=1e-4)
    assert resolve_nbeta("dataset", 128, 60000) == pytest.approx(60000 / math.log(60000))
    assert resolve_nbeta(17, 128, 60000) == 17.0


class TestBadInput:
    """Each is refused with a clear error before the first draw."""

    @pytest.fixture(autouse=True)
    def _forbid_sampling(self, monkeypatch):
        def no_draws(*_, **__):
            raise AssertionError("sampling began")

        monkeypatch.setattr("degeneracy.llc.estimate.run_chains", no_draws)
        monkeypatch.setattr("degeneracy.llc.estimate.walk", no_draws)
        monkeypatch.setattr("degeneracy.llc.auto.walk", no_draws)

    def assert_refused(self, match, model, data, checkpoint=None, batch_size=100, **kwargs):
        checkpoint = model.state_dict() if checkpoint is None else checkpoint
        for settings in (FAST, SamplerSettings()):
            with pytest.raises(ValueError, match=match):
                estimate_llcs(model, [checkpoint], data, settings, batch_size, **kwargs)

    @pytest.mark.parametrize("layer", [nn.Dropout(0.1), nn.BatchNorm1d(8)])
    def test_a_layer_that_is_random_or_keeps_statistics(self, classifier, layer):
        model = nn.Sequential(nn.Linear(6, 8), layer, nn.Linear(8, 3))
        self.assert_refused(f"1 is a {type(layer).__name__}", model, classifier[1])

    def test_a_forward_pass_that_is_random_by_hand(self, classifier):
        class Noisy(nn.Linear):
            def forward(self, x):
                return super().forward(x) + torch.randn(len(x), 3)

        self.assert_refused("forward pass is random", Noisy(6, 3), classifier[1])

    def test_a_forward_pass_that_keeps_statistics_by_hand(self, classifier):
        class Counting(nn.Linear):
            def __init__(self):
                super().__init__(6, 3)
                self.register_buffer("mean", torch.zeros(6))

            def forward(self, x):
                self.mean.copy_(x.mean(0))
                return super().forward(x)

        self.assert_refused("changes its mean", Counting(), classifier[1])

    def test_a_checkpoint_of_other_shapes(self, classifier):
        model, data = classifier
        other = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3)).state_dict()
        self.assert_refused(
            r"checkpoint 0 .*size mismatch for 0.weight, which is \(9, 6\)", model, data, other
        )

    def test_a_checkpoint_of_other_names(self, classifier):
        model, data = classifier
        other = {
            name.replace("0.", "first."): tensor for name, tensor in model.state_dict().items()
        }
        self.assert_refused(
            "without 0.bias, 0.weight and with first.bias, first.weight", model, data, other
        )

    def test_a_checkpoint_that_is_not_finite(self, classifier):
        model, data = classifier
        broken = {**model.state_dict(), "2.bias": torch.full((3,), math.nan)}
        self.assert_refused("2.bias holds values that are not finite", model, data, broken)

    def test_integer_inputs(self, classifier):
        model, (inputs, targets) = classifier
        self.assert_refused(
            r"inputs .* torch.int64.*inputs.to\(torch.float32\)", model, (inputs.long(), targets)
        )

    @pytest.mark.parametrize(("label", "shown"), [(3, "0 to 3"), (-1, "-1 to 2")])
    def test_labels_out_of_range(self, classifier, label, shown):
        model, (inputs, targets) = classifier
        targets = targets.clone()
        targets[7] = label
        self.assert_refused(
            f"labels go from {shown}; allowed for 3 outputs: 0 to 2", model, (inputs, targets)
        )

    def test_no_data(self, classifier):
        model, (inputs, targets) = classifier
        self.assert_refused("data is empty", model, (inputs[:0], targets[:0]))
        self.assert_refused("data is None", model, None)

    def test_inputs_without_targets(self, classifier):
        model, (inputs, targets) = classifier
        self.assert_refused("400 inputs and 399 targets", model, (inputs, targets[1:]))

    @pytest.mark.parametrize("batch_size", [0, 401])
    def test_a_batch_that_does_not_fit_the_data(self, classifier, batch_size):
        self.assert_refused(f"batch_size = {batch_size}.*400", *classifier, batch_size=batch_size)

    def test_a_batch_of_one_has_no_m_over_ln_m(self, classifier):
        self.assert_refused("at least 2", *classifier, batch_size=1)

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_data_that_is_not_finite(self, classifier, value):
        model, (inputs, targets) = classifier
        inputs = inputs.clone()
        inputs[11, 2] = value
        self.assert_refused(
            "NaN or infinity in 1 samples, the first at index 11", model, (inputs, targets)
        )

    @pytest.mark.parametrize("reduction", ["none", "sum"])
    def test_a_loss_that_is_not_the_mean(self, classifier, reduction):
        self.assert_refused(
            "loss_fn returns",
            *classifier,
            loss_fn=lambda o, t: cross_entropy(o, t, reduction=reduction),
        )

    def test_a_loss_that_is_a_plain_number(self, classifier):
        self.assert_refused("loss_fn returns float", *classifier, loss_fn=lambda o, t: 1.0)

    def test_a_loss_that_fails(self, classifier):
        self.assert_refused(
            "loss_fn fails on outputs", *classifier, loss_fn=lambda o, t: mse_loss(o, o) @ o
        )

    def test_nothing_to_sample(self, classifier):
        model, data = classifier
        model.requires_grad_(False)
        self.assert_refused("no weights that require a gradient", model, data)

    @pytest.mark.parametrize("label", [3, -1])
    @pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), lambda o, t: cross_entropy(o, t)])
    def test_labels_out_of_range_of_a_loss_of_ones_own(self, classifier, loss, label):
        model, (inputs, targets) = classifier
        targets = targets.clone()
        targets[300] = label
        self.assert_refused(f"{label}", model, (inputs, targets), loss_fn=loss)

    def test_a_state_dict_in_place_of_a_list_of_them(self, classifier):
        model, data = classifier
        with pytest.raises(ValueError, match="a list of state dicts"):
            estimate_llcs(model, model.state_dict(), data, FAST, 100)

    def test_settings_and_data_of_another_kind(self, classifier):
        model, (inputs, targets) = classifier
        with pytest.raises(ValueError, match="must be SamplerSettings"):
            estimate_llcs(model, [model.state_dict()], (inputs, targets), {"num_draws": 10}, 100)
        self.assert_refused("inputs hold ndarray", model, (inputs.numpy(), targets.numpy()))
        self.assert_refused("two tensors.*DataLoader; given: Tensor", model, inputs)

    def test_data_beside_a_population_loss(self, classifier):
        self.assert_refused("both given", *classifier, population_loss=lambda p: p["0.bias"].sum())

    def test_settings_that_need_data_or_one_call_each(self, classifier):
        model, data = classifier
        states = [model.state_dict()] * 2
        with pytest.raises(ValueError, match="needs data"):
            estimate_llcs(model, states, None, FAST, population_loss=lambda p: p["0.bias"].sum())
        with pytest.raises(ValueError, match="settings differ in num_draws"):
            estimate_llcs(
                model, states, data, [FAST, FAST.model_copy(update={"num_draws": 60})], 100
            )
        with pytest.raises(ValueError, match="2 checkpoints with 1 settings"):
            estimate_llcs(model, states, data, [FAST], 100)
        devinterp = SamplerSettings(sampler="sgld", backend="devinterp", nbeta=10.0)
        with pytest.raises(ValueError, match="population_loss needs backend"):
            estimate_llcs(
                model, states, None, devinterp, population_loss=lambda p: p["0.bias"].sum()
            )
        with pytest.raises(ValueError, match="one floating-point number"):
            estimate_llcs(
                model,
                states,
                None,
                SamplerSettings(nbeta=10.0),
                population_loss=lambda p: p["0.bias"],
            )


class Masked(nn.Linear):
    def forward(self, x):
        y = super().forward(x)
        return y if x[x > 0].sum() > 0 else -y


class RarelyNoisy(nn.Linear):
    def forward(self, x):
        return nn.functional.dropout(super().forward(x), 1e-6)


def test_a_forward_pass_that_looks_at_values_runs_one_chain_after_the_other(classifier):
    """To the bit of float32, as the same function without a look does."""
    model, data = Masked(6, 3), classifier[1]
    plain = nn.Linear(6, 3)
    plain.load_state_dict(model.state_dict())
    with pytest.warns(UserWarning, match="one after the other.*depends on values|looks at values"):
        (e,) = estimate_llcs(model, [model.state_dict()], data, FAST, 100)
    with torch.no_grad():  # as a caller may have it
        (same,) = estimate_llcs(plain, [plain.state_dict()], data, FAST, 100)
    np.testing.assert_allclose(e.trace, same.trace, rtol=1e-4)


def test_randomness_too_rare_to_be_seen_is_refused_all_the_same(classifier):
    """The recorded operations hold it, whatever a trial showed."""
    model, data = RarelyNoisy(6, 3), classifier[1]
    for num_chains in (1, 8):
        with pytest.raises(ValueError, match=r"random|several chains"):
            estimate_llcs(
                model,
                [model.state_dict()],
                data,
                SamplerSettings(sampler="sgld", num_chains=num_chains, num_draws=5),
                100,
            )


def test_outputs_need_not_be_a_tensor(classifier):
    class Pair(nn.Linear):
        def forward(self, x):
            return super().forward(x), x

    model, data = Pair(6, 3), classifier[1]
    (e,) = estimate_llcs(
        model, [model.state_dict()], data, FAST, 100, loss_fn=lambda o, t: cross_entropy(o[0], t)
    )
    assert np.isfinite(e.trace).all()


def test_dropout_that_drops_nothing_is_taken(classifier):
    _, data = classifier
    model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.0), nn.Linear(8, 3))
    assert estimate_llcs(model, [model.state_dict()], data, FAST, 100)[0].llc is not None


@pytest.mark.parametrize("backend", ["batched", "devinterp"])
def test_frozen_weights_stay(classifier, backend):
    """Only the last bias moves: a quadratic-like posterior in three weights cannot have λ̂ above
    3/2 by much.
    """
    model, data = classifier
    model.requires_grad_(False)
    model[2].bias.requires_grad_(True)
    settings = SamplerSettings(
        sampler="sgld",
        num_chains=2,
        num_draws=300,
        num_burnin_steps=100,
        sampler_lr=1e-2,
        localization=1.0,
        backend=backend,
    )
    torch.nn.init.zeros_(model[2].weight)
    model[2].bias.data = data[1].bincount().div(400).log()  # the minimum of the mean loss
    (e,) = estimate_llcs(model, [model.state_dict()], data, settings, batch_size=400)
    assert 0 < e.llc < 1.5 + 4 * e.std_error


def test_checkpoints_that_differ_in_what_is_not_sampled_are_each_sampled_with_their_own(classifier):
    model, data = classifier
    model[0].requires_grad_(False)
    first = copy.deepcopy(model.state_dict())
    second = {**first, "0.weight": first["0.weight"] * 3}
    together = estimate_llcs(
        model, [first, second, first], data, FAST, 100, checkpoint_ids=[0, 1, 2]
    )
    for position, state in enumerate([first, second, first]):
        (alone,) = estimate_llcs(model, [state], data, FAST, 100, checkpoint_ids=[position])
        np.testing.assert_allclose(together[position].trace, alone.trace, rtol=1e-4)


def test_a_stream_gives_each_estimate_with_its_position_and_settings(classifier):
    model, data = classifier
    wide = FAST.model_copy(update={"localization": 10.0, "nbeta": "dataset"})
    states = [model.state_dict(), None, model.state_dict()]
    given = states, data, [FAST, FAST, wide], 100
    streamed = dict(stream_llcs(model, *given))
    found = estimate_llcs(model, *given)
    assert streamed.keys() == {0, 2}
    assert found[1] is None
    for position, settings in ((0, FAST), (2, wide)):
        assert streamed[position].settings == found[position].settings == settings
        assert np.array_equal(streamed[position].trace, found[position].trace)
    assert found[2].nbeta == pytest.approx(400 / math.log(400))
    assert found[2].chain_llcs.mean() == pytest.approx(found[2].llc)


def test_settings_for_each_checkpoint_are_those_of_separate_calls(classifier):
    model, data = classifier
    several = [
        FAST.model_copy(update=u)
        for u in ({"sampler_lr": 1e-3}, {"localization": 1.0}, {"nbeta": 5.0})
    ]
    states = [model.state_dict()] * 3
    together = estimate_llcs(model, states, data, several, 100)
    for position, settings in enumerate(several):
        (alone,) = estimate_llcs(model, states[:1], data, settings, 100, checkpoint_ids=[position])
        np.testing.assert_allclose(together[position].trace, alone.trace, rtol=1e-4)


@pytest.mark.parametrize("sampler", ["sgld", "rmsprop_sgld", "sgnht"])
def test_the_two_backends_agree(classifier, sampler):
    """Same settings, other random numbers: λ̂ within 3 combined standard errors, and the MALA
    acceptance likewise.
    """
    model, data = classifier
    step = {"sgld": 1e-3, "rmsprop_sgld": 1e-4, "sgnht": 1e-6}[sampler]
    settings = {
        "num_chains": 4,
        "num_draws": 250,
        "num_burnin_steps": 100,
        "sampler_lr": step,
        "sampler": sampler,
    }
    ours, theirs = (
        estimate_llcs(
            model,
            [model.state_dict()],
            data,
            SamplerSettings(**settings, backend=backend),
            batch_size=100,
        )[0]
        for backend in ("batched", "devinterp")
    )
    assert abs(ours.llc - theirs.llc) < 3 * math.hypot(ours.std_error, theirs.std_error)
    if sampler == "sgld":
        spread = math.hypot(ours.acceptance.std(ddof=1), theirs.acceptance.std(ddof=1)) / math.sqrt(
            4
        )
        assert abs(ours.mean_acceptance - theirs.mean_acceptance) < 3 * spread
        assert 0.5 < ours.mean_acceptance < 1
    else:
        assert ours.mean_acceptance is None
        assert theirs.mean_acceptance is None


def test_models_on_tokens_convolutions_and_tied_weights_are_sampled():
    torch.manual_seed(0)
    embedding = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(12, 3))
    tokens = torch.randint(10, (200, 3)), torch.randint(3, (200,))
    convolution = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3)
    )
    images = torch.randn(200, 1, 6, 6), tokens[1]
    tied = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))
    tied[2].weight = tied[0].weight
    rows = torch.randn(200, 6), tokens[1]
    for model, data in ((embedding, tokens), (convolution, images), (tied, rows)):
        for budget in (1, 10**9):  # one chain at a time, and all in one tensor
            (e,) = estimate_llcs(model, [model.state_dict()], data, FAST, 50, memory_budget=budget)
            assert np.isfinite(e.trace).all()
    assert e.trace[0, 0] != e.trace[0, 1]


def test_a_population_loss_has_no_wbic_and_no_minibatch_noise():
    model = Quadratic([4.0, 1.0])
    settings = SamplerSettings(
        sampler="sgld", num_chains=2, num_draws=10, nbeta=100.0, sampler_lr=1e-4
    )
    (e,) = estimate_llcs(
        model, [model.state_dict()], None, settings, population_loss=model.population_loss
    )
    assert e.init_loss == 0.0
    assert e.wbic is None
    assert e.trace[:, 0].tolist() == [0.0, 0.0]  # the first loss is seen at w* itself


def noisy_chain(rise: float, draws: int = 600, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(1.0, 0.05, draws) + np.linspace(0, rise, draws)


def test_each_chain_gets_a_verdict():
    trace = np.stack([noisy_chain(0), noisy_chain(0.2), noisy_chain(-0.2), np.full(600, np.nan)])
    e = summarise(trace, 0.9, 10.0, 500)
    assert e.chain_verdicts == ("steady", "still rising", "still falling", "diverged")
    assert not e.settled
    # gone from w* after 200 draws
    leaving = np.where(np.arange(600) < 200, np.linspace(0.5, 1.0, 600), 1.0)
    assert chain_verdict(leaving + noisy_chain(0) - 1.0) == "still rising"
    assert summarise(trace[[0, 3]], 0.9, 10.0, 500).diverged.tolist() == [False, True]


def test_steady_noise_is_rarely_called_unsettled():
    """Two errors on either side, of halves of 100 draws, whose error is itself uncertain: about 7 %
    of 300, ± 4.4.
    """
    wrong = sum(chain_verdict(noisy_chain(0, 200, seed)) != "steady" for seed in range(300))
    assert 5 <= wrong <= 35


def test_settled_means_that_doubling_the_draws_moved_it_by_less_than_its_error_before():
    """Of steady chains the move is √½ of that error, normally distributed: 84 % settle (less 5 % a
    chain's verdict).
    """
    found = [
        summarise(
            np.stack([noisy_chain(0, 200, 2 * seed), noisy_chain(0, 200, 2 * seed + 1)]),
            0.9,
            10.0,
            500,
        )
        for seed in range(100)
    ]
    assert 60 <= sum(e.settled for e in found) <= 95
    rising = summarise(
        np.stack([noisy_chain(0.2, seed=3), noisy_chain(0.2, seed=4)]), 0.9, 10.0, 500
    )
    assert not rising.settled


def test_chains_too_short_for_a_verdict_have_not_settled():
    e = summarise(np.array([[1.0, 1.1, 0.9, 1.0, 1.05, 0.95]]), 0.5, 2.0, 10)
    assert e.chain_verdicts == ("too short to tell",)
    assert not e.settled


def test_running_means_end_at_the_chains_estimates():
    trace = np.stack([noisy_chain(0.1, seed=seed) for seed in range(2)])
    e = summarise(trace, 0.9, 10.0, 500)
    means = e.running_means()
    np.testing.assert_allclose(means[:, -1], e.chain_llcs)
    np.testing.assert_allclose(means[:, 0], 10.0 * (trace[:, 0] - 0.9))


def test_an_estimate_cannot_be_changed():
    estimate = summarise(np.ones((1, 10)), 1.0, 1.0, 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        estimate.llc = 0.0
