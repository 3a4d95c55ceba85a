"""A grid of settings: the rule that chooses ε, and what it finds where the answer is known."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from degeneracy.llc.auto import BURN_IN, DRAWS, first_step
from degeneracy.llc.estimate import estimate_llcs
from degeneracy.llc.grid import LOCALIZATIONS, adapted_step, llc_grid, max_curvature, second_half
from degeneracy.llc.settings import SamplerSettings
from degeneracy.models.coefficients import quadratic_llc

FEW = SamplerSettings(sampler="sgld", num_chains=2, num_draws=200, num_burnin_steps=50)


def half_mse(outputs, targets):
    return 0.5 * mse_loss(outputs, targets)


@pytest.fixture(scope="module")
def regression():
    """Linear regression at its minimum, with curvatures known: those of XᵀX/n."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(1000, 8, generator=generator) * torch.linspace(0.3, 2.0, 8)
    model = nn.Linear(8, 1, bias=False)
    nn.init.zeros_(model.weight)
    curvatures = torch.linalg.eigvalsh(inputs.T @ inputs / 1000).double().numpy()
    return model, (inputs, torch.zeros(1000, 1)), curvatures


def test_the_largest_curvature_is_that_of_the_stiffest_checkpoint(regression):
    """On a subset of the data when it is larger than that; here all 1,000 samples are used."""
    model, data, curvatures = regression
    state = model.state_dict()
    assert max_curvature(model, [state, state], data, half_mse) == pytest.approx(
        curvatures.max(), rel=0.02
    )


def test_a_grids_steps_are_adapted_to_the_cell_and_its_numbers_are_those_of_a_single_estimate(
    regression,
):
    model, data, _ = regression
    states = [model.state_dict(), {"weight": model.weight.detach() + 0.1}]
    cells = llc_grid(
        model,
        states,
        data,
        FEW,
        1000,
        half_mse,
        localizations=(10.0, 1000.0),
        nbetas=("dataset", 50.0),
        curvature=4.5,
        checkpoint_ids=[7, 8],
    )
    assert [(cell.nbeta_setting, cell.localization) for cell in cells] == [
        ("dataset", 10.0),
        ("dataset", 1000.0),
        (50.0, 10.0),
        (50.0, 1000.0),
    ]
    for cell in cells:
        assert cell.nbeta == pytest.approx(
            50.0 if cell.nbeta_setting == 50.0 else 1000 / math.log(1000)
        )
        assert cell.sampler_lr == pytest.approx(0.2 / (cell.nbeta * 4.5 + cell.localization))
        for state, name, estimate in zip(states, (7, 8), cell.estimates, strict=True):
            update = {
                "sampler_lr": cell.sampler_lr,
                "localization": cell.localization,
                "nbeta": cell.nbeta,
            }
            settings = second_half(FEW).model_copy(update=update)
            (alone,) = estimate_llcs(
                model, [state], data, settings, 1000, half_mse, checkpoint_ids=[name]
            )
            np.testing.assert_allclose(estimate.trace, alone.trace, rtol=1e-3, atol=1e-6)


def test_a_grid_finds_the_finite_temperature_values(regression):
    """Full batches, so that λ̂ = ½ Σ nβ h/(A(1 − εA/4)); within 4 errors wherever the chains can
    settle in 200 draws.
    """
    model, data, curvatures = regression
    cells = llc_grid(
        model,
        [model.state_dict()],
        data,
        FEW,
        1000,
        half_mse,
        localizations=(100.0, 1000.0),
        nbetas=("dataset",),
    )
    for cell in cells:
        (estimate,) = cell.estimates
        expected = quadratic_llc(curvatures, cell.nbeta, cell.localization, cell.sampler_lr)
        assert abs(estimate.llc - expected) < 4 * estimate.std_error


@pytest.mark.parametrize("sampler", ["sgnht", "rmsprop_sgld"])
def test_a_grid_is_sampled_with_sgld_whatever_the_settings_say(regression, sampler):
    model, data, _ = regression
    settings = SamplerSettings(sampler=sampler, num_draws=20)
    (cell,) = llc_grid(
        model,
        [model.state_dict()],
        data,
        settings,
        100,
        half_mse,
        localizations=(10.0,),
        nbetas=("batch",),
    )
    assert cell.estimates[0].settings.sampler == "sgld"
    assert cell.estimates[0].mean_acceptance is not None


LONG = (0.1, *LOCALIZATIONS)  # the first asks for more steps than a cell gets


@pytest.fixture(scope="module")
def automatic(regression):
    """Of the cells, some of which `auto` cannot bring to rest within 800 steps a chain."""
    model, data, curvatures = regression
    settings = SamplerSettings(num_chains=4, num_draws=200)
    state = {"weight": model.weight.detach() + 0.05}
    cells = llc_grid(
        model,
        [state, state],
        data,
        settings,
        1000,
        half_mse,
        curvature=curvatures.max(),
        localizations=LONG,
        nbetas=("dataset",),
        checkpoint_ids=[7, 8],
    )
    return settings, state, cells


def test_auto_samples_the_cells_that_can_come_to_rest_and_tells_of_the_others(
    automatic, regression
):
    """Burn-in and draws, in relaxation times 2/h of the softest direction, h by A/γ."""
    _, _, curvatures = regression
    _, _, cells = automatic
    assert [cell.localization for cell in cells] == list(LONG)
    for cell in cells:
        stiffness = (cell.nbeta * curvatures.max() + cell.localization) / cell.localization
        needed = math.ceil((BURN_IN + DRAWS) * 2 / first_step(stiffness))
        assert cell.sampler_lr is None
        if needed > 800:
            assert cell.estimates == ()
            assert cell.needed_steps == needed
        else:
            assert len(cell.estimates) == 2
            assert cell.needed_steps is None
    assert {len(cell.estimates) for cell in cells} == {0, 2}  # there are both


def test_autos_cells_are_those_of_single_estimates(automatic, regression):
    model, data, _ = regression
    settings, state, cells = automatic
    cell = next(cell for cell in cells if cell.estimates)
    update = {"localization": cell.localization, "nbeta": cell.nbeta_setting}
    alone = estimate_llcs(
        model,
        [state, state],
        data,
        settings.model_copy(update=update),
        1000,
        half_mse,
        checkpoint_ids=[7, 8],
    )
    for estimate, expected in zip(cell.estimates, alone, strict=True):
        np.testing.assert_allclose(estimate.trace, expected.trace, rtol=1e-3, atol=1e-6)
        assert estimate.certificates.verdict == expected.certificates.verdict


def test_autos_cells_have_the_finite_temperature_values_about_their_bottoms(automatic, regression):
    """λ̂_b = ½ Σ nβ h/(nβ h + γ), wherever w* is: no step in it."""
    _, _, curvatures = regression
    _, _, cells = automatic
    for cell in cells:
        expected = quadratic_llc(curvatures, cell.nbeta, cell.localization)
        for estimate in cell.estimates:
            left = 2 * 0.05  # nats that the descent to w_b may have left, twice
            assert abs(estimate.basin_llc - expected) < 4 * estimate.std_error + left


def test_without_localisation_auto_cannot_say_when_it_is_at_rest(regression):
    model, data, _ = regression
    (cell,) = llc_grid(
        model,
        [model.state_dict()],
        data,
        SamplerSettings(),
        1000,
        half_mse,
        localizations=(0.0,),
        nbetas=(50.0,),
    )
    assert cell.estimates == ()
    assert cell.needed_steps > 10**9


def test_a_grid_has_five_localisations():
    assert LOCALIZATIONS == (10.0, 100.0, 1_000.0, 10_000.0, 100_000.0)


def test_the_step_rule():
    assert adapted_step(100.0, 3.0, 100.0) == pytest.approx(0.2 / 400.0)


@pytest.mark.parametrize(
    ("draws", "burnin", "kept", "dropped"), [(1000, 0, 500, 500), (21, 3, 10, 14), (5, 0, 4, 1)]
)
def test_the_first_half_of_the_draws_becomes_burnin(draws, burnin, kept, dropped):
    halved = second_half(SamplerSettings(sampler="sgld", num_draws=draws, num_burnin_steps=burnin))
    assert (halved.num_draws, halved.num_burnin_steps) == (kept, dropped)
    assert kept + dropped == draws + burnin


def test_curvature_is_that_of_the_checkpoint_with_its_frozen_weights(regression):
    """A frozen scale of 3 in the checkpoint, of 1 in the model as it is built: curvatures grow
    ninefold.
    """

    class Scaled(nn.Module):
        def __init__(self, scale: float):
            super().__init__()
            self.linear = nn.Linear(8, 1, bias=False)
            self.scale = nn.Parameter(torch.tensor(scale), requires_grad=False)

        def forward(self, x):
            return self.scale * self.linear(x)

    _, data, curvatures = regression
    found = max_curvature(Scaled(1.0), [Scaled(3.0).state_dict()], data, half_mse)
    assert found == pytest.approx(9 * curvatures.max(), rel=0.02)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"nbetas": ("dataste",)}, "nbetas has 'dataste'"),
        ({"nbetas": "batch"}, "a list that is not empty"),
        ({"localizations": ()}, "localizations = "),
    ],
)
def test_lists_that_make_no_grid_are_refused(regression, change, match):
    model, data, _ = regression
    with pytest.raises(ValueError, match=match):
        llc_grid(model, [model.state_dict()], data, FEW, 100, half_mse, **change)


def test_what_cannot_be_sampled_is_refused_before_a_curvature_is_taken(regression):
    model, (inputs, targets), _ = regression
    broken = inputs.clone()
    broken[3] = math.nan
    with pytest.raises(ValueError, match="NaN or infinity in 1 samples"):
        llc_grid(model, [model.state_dict()], (broken, targets), FEW, 100, half_mse)
    with pytest.raises(ValueError, match="without weight"):
        llc_grid(model, [{"other": inputs}], (inputs, targets), FEW, 100, half_mse)
    with pytest.raises(ValueError, match="checkpoints = "):
        llc_grid(model, [], (inputs, targets), FEW, 100, half_mse)
