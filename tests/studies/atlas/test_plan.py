"""Are the runs those of the plan, and is what makes no sense refused?"""

import pytest

import studies
from degeneracy.config.reader import ConfigError, parse_config, read_config
from degeneracy.runs.work import PROJECT
from degeneracy.sweeps.sweep import sweep_of
from studies.atlas.plan import axis_of, cells, content_of
from studies.atlas.settings import Settings

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


@pytest.mark.parametrize(
    ("given", "said"),
    [
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
