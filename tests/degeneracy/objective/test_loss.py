"""What L(w) holds besides the data's loss, and which of its weights are looked at."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from zoo import draw, ffnn, integers, seeded

from degeneracy.curvature.fisher import fisher_operator
from degeneracy.curvature.largest import top_eigenvalues
from degeneracy.curvature.operators import hessian_operator
from degeneracy.curvature.trace import hessian_trace
from degeneracy.llc.estimate import estimate_llcs
from degeneracy.llc.settings import SamplerSettings
from degeneracy.objective.loss import objective_of
from degeneracy.weights import flattened

DATA = draw(40, 3), integers(3, 40)
NAMES = ["0.weight", "0.bias", "2.weight", "2.bias"]
SIZES = [12, 4, 12, 3]
build = seeded(ffnn)


def positions(*names: str) -> list[int]:
    """Of these parameters among all weights."""
    starts = np.cumsum([0, *SIZES])
    return [
        i
        for name, start, size in zip(NAMES, starts, SIZES, strict=False)
        for i in range(start, start + size)
        if name in names
    ]


def matrix(operator) -> Tensor:
    return operator.products(torch.eye(operator.dim, dtype=operator.dtype)).detach()


def hessian(**options) -> Tensor:
    return matrix(hessian_operator(build(), cross_entropy, DATA, **options))


def penalty(parameters: dict[str, Tensor]) -> Tensor:
    """Of curvature 1 in every weight, and coupled between layers."""
    half_norm = 0.5 * sum(p.square().sum() for p in parameters.values())
    return half_norm + 0.3 * parameters["0.bias"].sum() * parameters["2.bias"].sum()


def dense_penalty() -> Tensor:
    right = torch.eye(31, dtype=torch.float64)
    for i in positions("0.bias"):
        right[i, positions("2.bias")] = right[positions("2.bias"), i] = 0.3
    return right


# ---- which weights -------------------------------------------------------------------------------


def some_mask(*shape: int, seed: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5


MASKS = {"2.weight": some_mask(3, 4, seed=1), "0.bias": some_mask(4, seed=2)}


@pytest.mark.parametrize(
    ("restrict", "chosen"),
    [
        (["0.bias"], positions("0.bias")),
        ("0.bias", positions("0.bias")),
        (["2.bias", "0.weight"], positions("0.weight", "2.bias")),
        (["2"], positions("2.weight", "2.bias")),
        (["0", "0.bias", "2.bias"], positions("0.weight", "0.bias", "2.bias")),
        (
            MASKS,
            [
                *np.array(positions("0.bias"))[MASKS["0.bias"].numpy()],
                *np.array(positions("2.weight"))[MASKS["2.weight"].flatten().numpy()],
            ],
        ),
        ({"2.bias": torch.ones(3, dtype=torch.bool)}, positions("2.bias")),
    ],
    ids=["name", "one string", "names", "module", "module and names", "masks", "mask of all"],
)
def test_a_restriction_gives_the_sub_matrix_in_the_models_order(restrict, chosen):
    right = hessian()[chosen][:, chosen]
    assert torch.allclose(hessian(restrict=restrict), right, atol=1e-12)
    fisher = matrix(fisher_operator(build(), DATA))[chosen][:, chosen]
    found = matrix(fisher_operator(build(), DATA, restrict=restrict))
    assert torch.allclose(found, fisher, atol=1e-12)
    largest = torch.linalg.eigvalsh(right).flip(0)[:2].numpy()
    options = {"k": 2, "tolerance": 1e-8, "restrict": restrict}
    values = top_eigenvalues(build(), cross_entropy, DATA, **options)
    assert np.allclose(values, largest, rtol=1e-6)


def test_a_restriction_to_an_empty_mask_beside_another_leaves_the_parameter_out():
    none = {"0.bias": torch.zeros(4, dtype=torch.bool)}
    right = hessian(restrict={"2.weight": MASKS["2.weight"]})
    assert torch.equal(hessian(restrict=none | {"2.weight": MASKS["2.weight"]}), right)


def test_frozen_parameters_are_left_out_and_cannot_be_asked_for():
    model = build()
    model[0].requires_grad_(False)
    assert list(objective_of(model, cross_entropy, DATA).weights) == ["2.weight", "2.bias"]
    with pytest.raises(ValueError, match=r"restrict names '0'; allowed: .*2.weight, 2.bias"):
        objective_of(model, cross_entropy, DATA, restrict=["0"])


@pytest.mark.parametrize(
    ("restrict", "message"),
    [
        (["3.weight"], "restrict names '3.weight'; allowed: .* 0.weight, 0.bias"),
        (["0.wei"], "restrict names '0.wei'"),
        (["1"], "restrict names '1'"),
        ([""], "restrict names ''"),
        ({"0": torch.ones(3, 4, dtype=torch.bool)}, "restrict names '0'"),
        ({"0.weight": torch.ones(3, 4, dtype=torch.bool)}, r"is \(3, 4\); allowed: .*\(4, 3\)"),
        ({"0.weight": torch.ones(4, 3)}, "must be a tensor of booleans"),
        ({"0.weight": [True]}, "must be a tensor of booleans"),
        ({"0.weight": torch.zeros(4, 3, dtype=torch.bool)}, "restrict leaves no weight"),
    ],
)
def test_restrictions_that_name_nothing_or_do_not_fit_are_refused(restrict, message):
    with pytest.raises(ValueError, match=message):
        objective_of(build(), cross_entropy, DATA, restrict=restrict)


@pytest.mark.parametrize("restrict", [[], {}], ids=["list", "dict"])
def test_restrictions_to_nothing_are_refused_by_curvature(restrict):
    with pytest.raises(ValueError, match="restrict"):
        hessian(restrict=restrict)


@pytest.mark.parametrize("restrict", [[], {}], ids=["list", "dict"])
def test_restrictions_to_nothing_are_refused_by_chains(restrict):
    model = build()
    with pytest.raises(ValueError, match="restrict"):
        estimate_llcs(model, [model.state_dict()], DATA, CHAINS, 20, restrict=restrict)


CHAINS = SamplerSettings(
    sampler="sgld", num_chains=2, num_draws=6, localization=1.0, sampler_lr=1e-3, nbeta=10.0
)


@pytest.mark.parametrize("backend", ["batched", "devinterp"])
def test_only_the_entries_of_a_mask_move_along_a_chain(backend):
    model, draws = build().float(), []
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    settings = CHAINS.model_copy(update={"backend": backend})
    data = DATA[0].float(), DATA[1]
    options = {"restrict": MASKS, "on_draw": draws.append}
    estimate_llcs(model, [model.state_dict()], data, settings, 20, **options)
    assert len(draws) == 12
    for name in MASKS:
        for number in range(1, 6):
            moved = [d.weights[name] != start[name] for d in draws if d.number == number]
            assert all(torch.equal(one, MASKS[name]) for one in moved)
    assert {key for d in draws for key in d.weights} == set(MASKS)


def test_only_the_entries_of_a_mask_move_with_auto():
    model, draws = build().float(), []
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    settings = SamplerSettings(num_chains=2, num_draws=5, num_burnin_steps=2, nbeta=10.0)
    data = DATA[0].float(), DATA[1]
    options = {"restrict": MASKS, "on_draw": draws.append}
    estimate_llcs(model, [model.state_dict()], data, settings, 20, **options)
    assert len(draws) == 10
    for draw_ in draws:
        for name, mask in MASKS.items():
            assert torch.equal(draw_.weights[name] != start[name], mask)


def test_a_checkpoint_sets_what_does_not_move_as_well():
    """Of a masked parameter the entries that are left out are the checkpoint's."""
    model, other = build(), seeded(ffnn, seed=5)()
    there = objective_of(model, cross_entropy, DATA, restrict=MASKS).at(other.state_dict())
    right = float(cross_entropy(other(DATA[0]), DATA[1]).detach())
    assert there.mean_loss(7) == pytest.approx(right, rel=1e-12)
    inputs = there.data.whole.inputs
    assert torch.equal(there.outputs(there.weights, inputs), other(inputs))


def test_rows_of_embeddings_for_padding_do_not_move():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.head = nn.Embedding(7, 3, padding_idx=0), nn.Linear(3, 3)

        def forward(self, ids):
            return self.head(self.tokens(ids).mean(1))

    model, draws = seeded(Net, torch.float32)(), []
    data = integers(7, 40, 4), integers(3, 40)
    assert (data[0] == 0).any()
    start = model.tokens.weight.detach().clone()
    estimate_llcs(model, [model.state_dict()], data, CHAINS, 20, on_draw=draws.append)
    moved = draws[-1].weights["tokens.weight"] != start
    assert not moved[0].any()
    assert moved[1:].all()


# ---- penalties -----------------------------------------------------------------------------------


def test_a_penalty_is_part_of_the_loss():
    objective = objective_of(build(), cross_entropy, DATA, penalty=penalty)
    bare = objective_of(build(), cross_entropy, DATA)
    own = float(penalty(dict(build().named_parameters())))
    assert objective.mean_loss(7) == pytest.approx(bare.mean_loss(7) + own, rel=1e-12)
    losses = objective.losses(objective.weights, *objective.data.leaves)
    assert float(losses.mean()) == pytest.approx(objective.mean_loss(7), rel=1e-12)


@pytest.mark.parametrize("batch_size", [1280, 7])
def test_a_penalty_is_part_of_the_hessian_whatever_the_batches(batch_size):
    found = hessian(penalty=penalty, batch_size=batch_size)
    assert torch.allclose(found, hessian() + dense_penalty(), atol=1e-12)


@pytest.mark.parametrize("batch_size", [1280, 7])
@pytest.mark.parametrize("method", ["blockwise", "hutchinson"])
def test_a_penalty_adds_its_own_trace(batch_size, method):
    """½|w|² has the same vᵀHv for every probe of signs: no noise is added, and d exactly."""
    options = {"num_probes": 4, "batch_size": batch_size, "method": method}

    def half_norm(parameters: dict[str, Tensor]) -> Tensor:
        return 0.5 * sum(p.square().sum() for p in parameters.values())

    bare = hessian_trace(build(), cross_entropy, DATA, **options)
    found = hessian_trace(build(), cross_entropy, DATA, penalty=half_norm, **options)
    assert found.trace == pytest.approx(bare.trace + 31, rel=1e-10)
    assert found.std_error == pytest.approx(bare.std_error, rel=1e-6)


def test_a_penalty_is_part_of_the_top_eigenvalues():
    right = torch.linalg.eigvalsh(hessian() + dense_penalty()).flip(0)[:3].numpy()
    found = top_eigenvalues(build(), cross_entropy, DATA, 3, penalty=penalty, tolerance=1e-8)
    assert np.allclose(found, right, rtol=1e-6)


def test_a_penalty_with_a_mask_is_of_whole_parameters_and_moves_its_entries():
    """Every entry counts in its value, and only those of the mask in its curvature."""
    chosen = np.array(positions("0.bias"))[MASKS["0.bias"].numpy()]
    restrict = {"0.bias": MASKS["0.bias"]}
    right = (hessian() + dense_penalty())[chosen][:, chosen]
    assert torch.allclose(hessian(penalty=penalty, restrict=restrict), right, atol=1e-12)
    objective = objective_of(build(), cross_entropy, DATA, penalty=penalty, restrict=restrict)
    assert float(objective.penalised(objective.weights)) == pytest.approx(
        float(penalty(dict(build().named_parameters())))
    )


@pytest.mark.parametrize("backend", ["batched", "devinterp"])
def test_a_penalty_is_part_of_what_a_chain_samples(backend):
    """With the penalty ½|w|² alone, as the data's loss hangs on no weight, curvatures are 1."""

    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(30))

        def forward(self, x):
            return x + 0 * self.weight.sum()

    model, nbeta, gamma = Constant(), 50.0, 50.0
    settings = CHAINS.model_copy(
        update={"num_draws": 600, "num_burnin_steps": 100, "localization": gamma, "nbeta": nbeta}
        | {"backend": backend, "sampler_lr": 1e-3}
    )
    data = torch.ones(20, 1), torch.zeros(20, 1)
    (found,) = estimate_llcs(
        model,
        [model.state_dict()],
        data,
        settings,
        10,
        mse_loss,
        penalty=lambda p: 0.5 * p["weight"].square().sum(),
    )
    a = nbeta + gamma  # whose chains of step ε have the variance 1 / (a (1 − ε a / 4))
    right = 0.5 * 30 * nbeta / (a * (1 - 1e-3 * a / 4))
    assert found.init_loss == 1.0
    assert abs(found.llc - right) < 4 * found.std_error
    assert found.std_error < 0.1 * right


def test_the_fisher_information_refuses_a_penalty():
    with pytest.raises(ValueError, match="penalty"):
        fisher_operator(build(), DATA, penalty=penalty)


def test_losses_of_samples_are_those_of_samples_alone():
    objective = objective_of(build(), cross_entropy, DATA)
    found = objective.losses(objective.weights, *DATA)
    right = cross_entropy(build()(DATA[0]), DATA[1], reduction="none")
    assert torch.allclose(found, right, atol=1e-14)


def test_shares_of_batches_sum_to_the_loss():
    weighted = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 9.0, 2.0], dtype=torch.float64))
    objective = objective_of(build(), weighted, DATA)
    shares = sum(objective.share(b)(objective.weights) for b in objective.data.batches(7))
    right = weighted(build()(DATA[0]), DATA[1])
    assert float(shares) == pytest.approx(float(right), rel=1e-12)


def test_weights_stay_those_of_the_moment_the_objective_was_made():
    model = build()
    objective = objective_of(model, cross_entropy, DATA)
    before = flattened(objective.weights).clone()
    with torch.no_grad():
        model[0].weight.zero_()
    assert torch.equal(flattened(objective.weights), before)
