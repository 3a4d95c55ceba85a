"""Are the runs those of the plan, and is what makes no sense refused?"""

import re

import pytest
import torch

import studies
from degeneracy.config.reader import ConfigError, parse_config, read_config
from degeneracy.data.images import TensorData
from degeneracy.runs.work import PROJECT
from degeneracy.sweeps.sweep import sweep_of
from studies.atlas.measure import searched
from studies.atlas.plan import axis_of, cells, content_of
from studies.atlas.settings import SearchSettings, Settings

PLAN = (PROJECT / "docs" / "atlas-plan.md").read_text(encoding="utf-8")


def test_the_default_config_is_the_plan():
    factorial = read_config(PROJECT / "experiments/args_atlas.json", Settings, "atlas").factorial
    runs = len(list(cells(factorial))) * len(factorial.models) * len(factorial.seeds)
    assert f"{runs} runs." in PLAN
    assert factorial.num_images == 6_400
    assert [model.name for model in factorial.models] == ["2×256", "8×64"]
    assert factorial.further_seeds == list(range(11, 17))
    assert "log\nlosses from 0.03 to 0.02" in PLAN
    assert factorial.window == [0.03, 0.02]
    assert factorial.fractions == [0.0625, 0.25, 0.6667]
    assert factorial.margin == 0.05
    assert [model.localization for model in factorial.models] == [25_000, 8_000]
    assert "γ = 25,000" in PLAN
    assert "γ = 8,000" in PLAN
    assert [model.nbeta for model in factorial.models] == ["dataset", 365]
    assert factorial.thorough_seeds == [1]
    assert Settings().search.seeds == [101, 102, 103]


def test_a_cell_is_a_run_with_rates_of_its_own_optimizers(tmp_path):
    factorial = Settings().factorial
    model = factorial.models[0]
    sweep = sweep_of(
        studies.find("branches"),
        content_of(factorial, model, 7),
        [axis_of(factorial, {"sgd": 0.1, "ngd": 0.02})],
        tmp_path / "sweep",
    )
    assert len(sweep.runs) == 12
    for cell, run in zip(cells(factorial), sweep.runs, strict=True):
        training = run.settings.training
        rates = {"sgd": 0.1, "ngd": 0.02}
        assert (training.early, training.late) == (cell.early, cell.late)
        assert training.early_lr == cell.fraction * rates[cell.early]
        assert training.late_lr == cell.fraction * rates[cell.late]
        assert training.seed == 7
        assert training.window == factorial.window
        assert run.settings.measurement.localization == model.localization
        assert not run.settings.measurement.thorough


def test_the_same_throughout_is_a_run_an_optimizer_and_rate():
    names = ["sgd", "adamw", "spngd"]
    given = {"pairs": "same", "optimizers": names, "fractions": [0.1, 0.5]}
    factorial = parse_config({"factorial": given}, Settings).factorial
    assert [tuple(cell) for cell in cells(factorial)] == [
        (name, name, fraction) for fraction in (0.5, 0.1) for name in names
    ]


def test_a_network_of_another_architecture_is_run_and_named(tmp_path):
    given = {"models": [{"architecture": "residual", "hidden_nodes": 12, "hidden_layers": 3}]}
    factorial = parse_config({"factorial": given}, Settings).factorial
    (model,) = factorial.models
    assert model.name == "3×12 residual"
    content = content_of(factorial, model, 1)
    rates = {"sgd": 0.1, "ngd": 0.02}
    sweep = sweep_of(studies.find("branches"), content, [axis_of(factorial, rates)], tmp_path)
    training = sweep.runs[0].settings.training
    assert (training.architecture, training.hidden_nodes) == ("residual", 12)
    search = SearchSettings(seeds=[5], num_rates=1)
    found = searched("sgd", model, random_images(), 32, search)
    assert len(found.tried) == 1


def random_images():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(64, 1, 28, 28, generator=generator)
    return TensorData(inputs, torch.randint(10, (64,), generator=generator))


STAGE_2 = sorted((PROJECT / "experiments").glob("args_atlas_stage2_*.json"))


@pytest.mark.parametrize("path", STAGE_2, ids=lambda path: path.stem)
def test_the_configs_of_stage_2_are_those_of_the_plan(path):
    settings = read_config(path, Settings, "atlas")
    factorial, search = settings.factorial, settings.search
    assert factorial.pairs == "same"
    assert {"sgd", "ngd", "adamw", "muon"} <= set(factorial.optimizers)
    assert (factorial.seeds, factorial.further_seeds) == ([1, 2, 3], [])
    (row,) = re.findall(rf"\| `{path.stem.removeprefix('args_atlas_stage2_')}` \| (.*) \|", PLAN)
    (model,) = factorial.models
    assert f"γ = {model.localization:,.0f}" in row or model.localization == 25_000
    assert f"nβ = {model.nbeta:g}" in row if model.nbeta != "dataset" else "nβ" not in row
    assert f"batches of {factorial.batch_size}" in row or factorial.batch_size == 64
    assert f"up to {factorial.max_epochs} epochs" in row or factorial.max_epochs == 60
    assert f"annealed for {factorial.annealing_epochs}" in row or factorial.annealing_epochs == 1
    assert f"comes to {search.reach:g}" in row or search.reach == 0.15
    assert f"in {search.epochs} epochs" in row or search.epochs == 20
    assert f"for {search.more_epochs} more" in row or search.more_epochs == 2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"models": [{"architecture": "vit", "hidden_nodes": 33}]},
            "vit given with hidden_nodes 33; allowed: a multiple of 2",
        ),
        ({"models": [{"architecture": "vit"}, {}]}, "vit given beside other networks"),
        (
            {"dataset": "cifar10", "num_images": 50_001},
            '50001 given with dataset "cifar10"; allowed there: at most 50000',
        ),
        (
            {"models": [{"architecture": "vit"}], "optimizers": ["sgd", "seng"]},
            '["seng"] given with a network vit',
        ),
        ({"further_seeds": [3, 20]}, "[3] given in further_seeds too"),
        ({"thorough_seeds": [99]}, "thorough_seeds that have [99]"),
        ({"window": [0.02, 0.03]}, "allowed: the top first"),
        ({"optimizers": ["sgd"]}, "optimizers"),
        ({"optimizers": ["sgd", "sgd"]}, "each once"),
        ({"fractions": [0.0]}, "fractions"),
        ({"seeds": []}, "seeds"),
        ({"margin": 1.5}, "margin"),
        ({"further_seeds": [101]}, "allowed: seeds that no run uses"),
    ],
)
def test_what_makes_no_sense_is_refused(given, said):
    with pytest.raises(ConfigError) as error:
        parse_config({"factorial": given}, Settings)
    assert said in str(error.value)
