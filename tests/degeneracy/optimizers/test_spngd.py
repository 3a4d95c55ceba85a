"""Is SP-NGD's step K-FAC's, are its statistics refreshed when the rule says, what is refused?"""

import doctest
import math

import pytest
import torch
from curvlinops import FisherType, KFACInverseLinearOperator, KFACLinearOperator
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

from degeneracy.optimizers import kfac
from degeneracy.optimizers.kfac import blocks_of, pi_of
from degeneracy.optimizers.settings import Kind
from degeneracy.optimizers.spngd import (
    KIND,
    SPNGD,
    Schedule,
    Settings,
    build,
    drawn_labels,
    next_interval,
)
from degeneracy.stepper import description
from degeneracy.training import pack_state, train, unpack_state

TOLERANCE = 1e-12  # relative, of float64: condition 1e3 times some rounding
CLASSES = 3


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def linear_net():
    return nn.Sequential(
        nn.Linear(6, 8),
        nn.Tanh(),
        nn.Linear(8, 5, bias=False),
        nn.ReLU(inplace=True),
        nn.Linear(5, CLASSES),
    ).double()


def conv_net():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, stride=2),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 3, 2, bias=False),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(27, CLASSES),
    ).double()


def normed_net():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(4 * 6 * 6, 5),
        nn.BatchNorm1d(5),
        nn.Linear(5, CLASSES),
    ).double()


def batch(model, size=20):
    shape = (6,) if isinstance(model[0], nn.Linear) else (2, 8, 8)
    return torch.randn(size, *shape).double(), torch.randint(CLASSES, (size,))


def flat(tensors):
    return torch.cat([t.detach().flatten() for t in tensors])


def change(model, optimizer, inputs, labels):
    before = flat(model.parameters())
    optimizer.step(inputs, labels)
    return flat(model.parameters()) - before


def assert_same(found, right):
    assert ((found - right).norm() / right.norm()).item() <= TOLERANCE


def by_curvlinops(model, inputs, labels, kind, damping):
    """Its inverse times the gradient of the loss, of the labels that `kind` sees."""
    parameters = list(model.parameters())
    factors = KFACLinearOperator(
        model,
        nn.CrossEntropyLoss(),
        parameters,
        [(inputs, labels if kind == "empirical" else drawn(model, inputs))],
        fisher_type=FisherType.EMPIRICAL,
        separate_weight_and_bias=False,
    )
    inverse = KFACInverseLinearOperator(factors, damping=damping, use_heuristic_damping=True)
    gradient = torch.autograd.grad(cross_entropy(model(inputs), labels), parameters)
    return flat(inverse @ list(gradient))


def drawn(model, inputs, seed=0):
    """The labels that SPNGD draws at its first step."""
    generator = torch.Generator().manual_seed(seed * 2**31)
    uniform = torch.rand(len(inputs), generator=generator, dtype=torch.float64)
    return drawn_labels(model(inputs), uniform)


@pytest.mark.parametrize("make", [linear_net, conv_net])
@pytest.mark.parametrize("kind", ["empirical", "sampled"])
@pytest.mark.parametrize("damping", [1e-3, 0.3])
def test_the_direction_is_that_of_curvlinops(make, kind, damping):
    model = make()
    inputs, labels = batch(model)
    right = by_curvlinops(model, inputs, labels, kind, damping)
    optimizer = SPNGD(model, 0.5, momentum=0.0, damping=damping, fisher=kind)
    assert_same(change(model, optimizer, inputs, labels), -0.5 * right)


def test_a_layer_on_sequences_is_that_of_curvlinops():
    """Linear at 4 positions of a sample: the factor T stands in G's place of A's."""
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Flatten(), nn.Linear(20, 3)).double()
    inputs, labels = torch.randn(12, 4, 6).double(), torch.randint(CLASSES, (12,))
    right = by_curvlinops(model, inputs, labels, "empirical", 1e-2)
    optimizer = SPNGD(model, 1.0, momentum=0.0, damping=1e-2)
    assert_same(change(model, optimizer, inputs, labels), -right)


def sample_gradients(model, inputs, labels):
    """By name (n, …), each sample's own, batch norm in evaluation mode."""
    weights = {name: p.detach() for name, p in model.named_parameters()}
    buffers = dict(model.named_buffers())

    def loss(weights, x, y):
        return cross_entropy(functional_call(model, weights | buffers, (x[None],)), y[None])

    return vmap(grad(loss), in_dims=(None, 0, 0))(weights, inputs, labels)


def test_batch_norm_has_the_dense_two_by_two_blocks():
    model = normed_net()
    model(batch(model)[0])  # so that running moments are not the initial ones
    model.eval()
    with torch.no_grad():
        model[1].weight[0] = 0.0  # where the outputs do not tell the normalised inputs
    inputs, labels = batch(model)
    gradients = sample_gradients(model, inputs, labels)
    right = []
    for layer in ("1", "5"):
        rows = torch.stack([gradients[f"{layer}.weight"], gradients[f"{layer}.bias"]], -1)
        fisher = torch.einsum("nci,ncj->cij", rows, rows) / len(inputs)
        damped = fisher + 0.01 * torch.eye(2).double()
        right.append(torch.linalg.solve(damped, rows.mean(0)).T.flatten())
    optimizer = SPNGD(model, 1.0, momentum=0.0, damping=0.01)
    before = flat(p for i in (1, 5) for p in model[i].parameters())
    optimizer.step(inputs, labels)
    found = before - flat(p for i in (1, 5) for p in model[i].parameters())
    assert_same(found, torch.cat(right))


def test_batch_norm_in_training_looks_at_the_batch_and_moves_its_moments_once():
    model, other = normed_net(), normed_net()
    other.load_state_dict(model.state_dict())
    inputs, labels = batch(model)
    SPNGD(model, 1e-3).step(inputs, labels)
    other(inputs)
    for name, buffer in other.named_buffers():
        torch.testing.assert_close(model.get_buffer(name), buffer)


def test_labels_are_drawn_from_the_models_probabilities():
    logits = torch.tensor([1.0, 0.0, -2.0]).expand(20_000, 3)
    labels = drawn_labels(logits, torch.rand(20_000, dtype=torch.float64))
    shares = labels.bincount(minlength=3) / len(labels)
    errors = (shares * (1 - shares) / len(labels)).sqrt()
    assert ((shares - logits[0].softmax(0)).abs() < 4 * errors).all()


# ---- stale statistics ----------------------------------------------------------------------------


def intervals_of(sequence, alpha):
    """Intervals of a statistic that has the values of a function of the step."""
    schedule, latest, earlier, found = Schedule(), None, None, []
    for _ in range(len(sequence)):
        new = sequence[schedule.due % len(sequence)]
        interval = next_interval(new, latest, earlier, schedule, alpha)
        schedule = schedule.refreshed(schedule.due, interval)
        latest, earlier = new, latest
        found.append(interval)
    return found


def test_a_constant_statistic_serves_fibonaccis_intervals():
    assert intervals_of([torch.eye(3)] * 9, 0.1) == [1, 1, 2, 3, 5, 8, 13, 21, 34]


def test_a_statistic_that_changes_halves_its_interval():
    one = torch.eye(3)
    other = 2 * one
    schedule = Schedule(10, 8, 5)
    assert next_interval(other, one, one, schedule, 0.1) == 4
    assert next_interval(one, one, other, schedule, 0.1) == 8
    assert next_interval(one, one, one, schedule, 0.1) == 13
    assert next_interval(other, one, one, Schedule(10, 1, 1), 0.1) == 1
    assert intervals_of([one] * 5, 0.0) == [1] * 5


def test_the_border_of_similarity_is_strict():
    one, schedule = torch.eye(4).double(), Schedule(0, 6, 4)
    assert next_interval(1.25 * one, one, one, schedule, 0.25) == 3
    assert next_interval(1.2499 * one, one, one, schedule, 0.25) == 10


def test_each_factor_is_looked_at_only_when_it_is_due(monkeypatch):
    """Of a model whose batch and weights hardly move the intervals are Fibonacci's, and layers are
    looked at in no step between.
    """
    model = linear_net()
    inputs, labels = batch(model)
    looked = []
    for kind in ("input_sums", "output_sums"):
        own = getattr(type(blocks_of(model)["0"]), kind)
        monkeypatch.setattr(
            type(blocks_of(model)["0"]),
            kind,
            lambda self, *a, own=own, kind=kind: looked.append((self.name, kind)) or own(self, *a),
        )
    optimizer = SPNGD(model, 1e-9)
    steps = []
    for step in range(33):
        looked.clear()
        optimizer.step(inputs, labels)
        assert len(looked) in (0, 6)
        steps += [step] if looked else []
        assert len(optimizer.refreshed) == len(looked)
    assert steps == [0, 1, 2, 4, 7, 12, 20]


def test_a_forced_interval_refreshes_all_together():
    model = linear_net()
    optimizer = SPNGD(model, 1e-3, interval=4)
    shares = [float(optimizer.step(*batch(model))["refreshed"]["A"]) for _ in range(9)]
    assert shares == [1, 0, 0, 0, 1, 0, 0, 0, 1]


def test_between_refreshes_the_old_inverses_turn_the_new_gradient():
    model = linear_net()
    inputs, labels = batch(model)
    optimizer = SPNGD(model, 0.1, momentum=0.0, interval=2)
    optimizer.step(inputs, labels)
    inverses = {name: known.inverses for name, known in optimizer.known.items()}
    inputs, labels = batch(model)
    gradients = torch.autograd.grad(cross_entropy(model(inputs), labels), model.parameters())
    moved = change(model, optimizer, inputs, labels)
    first = torch.cat([gradients[0], gradients[1][:, None]], dim=1)
    right = -0.1 * inverses["0"]["G"] @ first @ inverses["0"]["A"]
    assert_same(moved[:48], right[:, :6].flatten())


def test_an_inverse_follows_pi_where_only_the_other_factor_is_fresh():
    """A's damping hangs on G's size: A stays due far ahead, G shrinks, A's inverse is made anew."""
    model = nn.Sequential(nn.Linear(6, CLASSES)).double()
    inputs, labels = batch(model)
    optimizer = SPNGD(model, 1e-9, momentum=0.0, damping=0.1)
    optimizer.step(inputs, labels)
    optimizer.schedules["0", "A"] = Schedule(1000, 999, 1)
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.copy_(torch.tensor([9.0, 0.0, 0.0]))
    optimizer.step(inputs, torch.zeros_like(labels))  # certain and right: G nearly vanishes
    known = optimizer.known["0"]
    pi = pi_of(known.latest["A"], known.latest["G"])
    assert optimizer.refreshed == [("0", "G")]
    assert known.pis == {"A": pi, "G": pi}
    right = torch.linalg.inv(known.latest["A"] + pi * math.sqrt(0.1) * torch.eye(7).double())
    assert_same(known.inverses["A"], right)


def test_a_batch_of_another_size_gives_the_same_statistics():
    """They are means: twice the same samples are the same batch."""
    models = [linear_net(), linear_net()]
    models[1].load_state_dict(models[0].state_dict())
    inputs, labels = batch(models[0])
    twice = torch.cat([inputs, inputs]), torch.cat([labels, labels])
    one, other = (SPNGD(model, 0.1) for model in models)
    for mine, others in (((inputs, labels), twice), (twice, (inputs, labels))):
        one.step(*mine)
        other.step(*others)
    assert_same(flat(models[1].parameters()), flat(models[0].parameters()))


# ---- the step ------------------------------------------------------------------------------------


def test_momentum_adds_the_step_before_scaled_as_the_rate_falls():
    model, still = linear_net(), linear_net()
    still.load_state_dict(model.state_dict())
    inputs, labels = batch(model)
    optimizer = SPNGD(model, 0.1, momentum=0.8, scale_momentum=True)
    first = change(model, optimizer, inputs, labels)
    still.load_state_dict(model.state_dict())
    right = by_curvlinops(still, inputs, labels, "empirical", 1e-2)
    optimizer.lr = 0.05
    second = change(model, optimizer, inputs, labels)
    assert_same(second, 0.4 * first - 0.05 * right)


def test_a_restart_with_another_rate_scales_momentum_by_the_first():
    model, again = linear_net(), linear_net()
    first, second = batch(model), batch(model)
    optimizer = SPNGD(model, 0.1, momentum=0.8, scale_momentum=True)
    optimizer.step(*first)
    again.load_state_dict(model.state_dict())
    resumed = SPNGD(again, 0.05, momentum=0.8, scale_momentum=True)
    resumed.load_state_dict({k: v.clone() for k, v in optimizer.state_dict().items()})
    optimizer.lr = 0.05
    optimizer.step(*second)
    resumed.step(*second)
    assert torch.equal(flat(again.parameters()), flat(model.parameters()))


def test_weights_are_rescaled_and_batch_norm_hides_it():
    model = normed_net()
    optimizer = SPNGD(model, 1e-3, rescale_weights=True)
    optimizer.step(*batch(model))
    for layer in (model[0], model[4], model[6]):
        assert float(layer.weight.detach().norm()) == pytest.approx(
            math.sqrt(2 * len(layer.weight)), rel=1e-12
        )
    assert float(model[1].weight.detach().norm()) < 2.1  # batch norm's own scale is left


def test_a_gradient_that_is_not_finite_leaves_all_as_it_was():
    model = linear_net()
    optimizer = SPNGD(model, 0.1)
    for _ in range(3):
        optimizer.step(*batch(model))
    weights, state = flat(model.parameters()), optimizer.state_dict()
    inputs, labels = batch(model)
    inputs[3, 2] = math.nan
    logged = optimizer.step(inputs, labels)
    assert math.isnan(float(logged["loss"]))
    assert torch.equal(flat(model.parameters()), weights)
    after = optimizer.state_dict()
    assert int(after.pop("num_skipped_updates")) == 5  # tensors, as ngd.NGD counts them
    assert optimizer.counts() == {"num_skipped_updates": 5, "num_restarts": 0}
    del state["num_skipped_updates"]
    assert state.keys() == after.keys()
    assert all(torch.equal(state[key], after[key]) for key in state)
    assert change(model, optimizer, *batch(model)).isfinite().all()


@pytest.mark.parametrize("before", [0, 2])
def test_a_step_that_is_left_out_leaves_batch_norms_moments(before):
    model = normed_net()
    optimizer = SPNGD(model, 0.01)
    for _ in range(before):
        optimizer.step(*batch(model))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert int(state["1.num_batches_tracked"]) == before
    inputs, labels = batch(model)
    inputs[3, 1, 2, 2] = math.nan
    optimizer.step(inputs, labels)
    assert optimizer.num_skipped_updates == sum(1 for _ in model.parameters())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert change(model, optimizer, *batch(model)).isfinite().all()
    assert all(buffer.isfinite().all() for buffer in model.buffers())


@pytest.mark.parametrize("fisher", ["empirical", "sampled"])
def test_a_restart_goes_on_bit_for_bit(fisher):
    model, generator = normed_net(), torch.Generator()
    batches = [batch(model) for _ in range(12)]
    optimizer = SPNGD(model, 0.01, fisher=fisher, alpha=0.9)
    for one in batches[:6]:
        optimizer.step(*one)
    packed = {k: v.clone() for k, v in pack_state(model, optimizer, generator).items()}
    for one in batches[6:]:
        optimizer.step(*one)
    again = normed_net()
    resumed = SPNGD(again, 0.01, fisher=fisher, alpha=0.9)
    unpack_state(packed, again, resumed, generator)
    shares = []
    for one in batches[6:]:
        resumed.step(*one)
        shares.append(len(resumed.refreshed))
    assert torch.equal(flat(again.parameters()), flat(model.parameters()))
    assert min(shares) < len(resumed.schedules)  # stale statistics were among them


def test_it_trains_in_the_loop_in_float32_with_an_uneven_last_batch():
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, CLASSES))
    inputs = torch.randn(230, 6)
    data = (inputs, (inputs @ torch.randn(6, CLASSES)).argmax(1))
    optimizer = build(model, cross_entropy, Settings())

    class Splits:
        train = test = data

    records = train(model, optimizer, Splits, 15, 50, torch.Generator().manual_seed(0)).records
    assert records[-1].train_loss < 0.5 * records[0].train_loss
    assert records[-1].num_skipped_updates == 0
    assert set(records[-1].logged["refreshed"]) == {"A", "G"}


def test_the_kind_builds_it_with_its_settings():
    assert isinstance(KIND, Kind)
    settings = Settings(lr=0.3, damping=0.5, interval=3, fisher="sampled", alpha=0.0)
    optimizer = KIND.build(linear_net(), cross_entropy, settings)
    assert (optimizer.lr, optimizer.damping, optimizer.interval) == (0.3, 0.5, 3)
    assert (optimizer.fisher, optimizer.alpha) == ("sampled", 0.0)
    assert not optimizer.scale_momentum  # of a schedule of rates, which a config has not
    assert "scale_momentum" not in Settings.model_fields
    assert description(optimizer) == (
        "SPNGD(lr=0.3, momentum=0.9, damping=0.5, fisher=sampled, alpha=0.0, interval=3,"
        " scale_momentum=False, rescale_weights=False, seed=0)"
    )


def test_a_factor_that_float32_cannot_invert_is_inverted_in_float64():
    """Two equal inputs: A is singular, and its damping is below float32's rounding of it."""
    model = nn.Sequential(nn.Linear(2, CLASSES, bias=False))
    inputs = torch.randn(30, 1).expand(30, 2).contiguous() * 1e3
    with torch.no_grad():
        model[0].weight.zero_()
    optimizer = SPNGD(model, 1.0, momentum=0.0, damping=1e-12)
    moved = change(model, optimizer, inputs, torch.randint(CLASSES, (30,)))
    assert moved.isfinite().all()
    assert optimizer.num_skipped_updates == 0


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("damping", 0.0),
        ("damping", -1e-3),
        ("damping", math.inf),
        ("alpha", -0.1),
        ("alpha", math.nan),
        ("lr", 0.0),
        ("momentum", 1.0),
        ("interval", 0),
        ("interval", 2.0),
        ("fisher", "exact"),
    ],
)
def test_a_number_out_of_its_range_is_refused_with_what_is_allowed(name, value):
    given = {"lr": 0.1, name: value}
    with pytest.raises(ValueError, match=rf"{name} = {value!r} given; allowed: "):
        SPNGD(linear_net(), **given)


def test_labels_are_drawn_for_cross_entropy_only():
    with pytest.raises(ValueError, match="sampled"):
        SPNGD(linear_net(), 0.1, nn.functional.mse_loss, fisher="sampled")


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(4, 4), nn.Linear(4, 4)
        self.other.weight = self.one.weight

    def forward(self, x):
        return self.other(self.one(x))


def partly_frozen():
    model = linear_net()
    model[0].bias.requires_grad_(False)
    return model


def weight_normed():
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 3)), r"0 \(Embedding\)"),
        (lambda: nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3)), r"1 \(LayerNorm\)"),
        (lambda: nn.Sequential(nn.Conv2d(4, 4, 1, groups=2)), "groups = 2"),
        (weight_normed, r"0 \(ParametrizedLinear\)"),
        (Tied, "shared: one.weight and other.weight"),
        (
            lambda: nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, bias=False)),
            r"1 \(BatchNorm1d\) given, but it has no bias, and its block is of both",
        ),
        (partly_frozen, "bias is frozen"),
        (lambda: linear_net().requires_grad_(False), "no trained weights"),
    ],
)
def test_layers_without_factors_are_refused_by_name(make, words):
    with pytest.raises(ValueError, match=words):
        SPNGD(make(), 0.1)


def test_a_frozen_embedding_is_let_be():
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 3))
    model[0].requires_grad_(False)
    optimizer = SPNGD(model, 0.1)
    assert optimizer.step(torch.randint(9, (5, 3)), torch.randint(3, (5,)))["loss"].isfinite()


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(self.layer(x))


def test_a_layer_that_is_called_twice_is_refused():
    with pytest.raises(ValueError, match="layer was called 2 times"):
        SPNGD(Twice(), 0.1).step(torch.randn(5, 4), torch.randint(4, (5,)))


def test_the_example_of_shared_names_holds():
    found = doctest.testmod(kfac)
    assert found.attempted > 0
    assert found.failed == 0
