"""Are runs planned as asked, decomposed as least squares says, and told as they went?"""

import doctest
import json
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from degeneracy.config.reader import ConfigError, parse_config
from degeneracy.llc.certificates import LOCAL
from degeneracy.sweeps.sweep import sweep_of
from studies import find
from studies.natural_gradients.comparison import SECTION, variance
from studies.natural_gradients.comparison.export import main, run_table
from studies.natural_gradients.comparison.figures import DEGENERACY, DESCENT, fastest
from studies.natural_gradients.comparison.findings import counted, speed_text
from studies.natural_gradients.comparison.measure import MOST_LOOKS, found, thinned
from studies.natural_gradients.comparison.plan import axis_of, cells, content_of
from studies.natural_gradients.comparison.rows import steps_of
from studies.natural_gradients.comparison.settings import Settings
from studies.natural_gradients.comparison.variance import along_rates, at_matched_speed

NAMES = ("sgd", "ngd", "seng")
OTHERS = {
    "choices": [{"optimizer": "sgd", "lrs": [0.3]}, {"optimizer": "muon", "lrs": [0.2]}],
    "dataset": "fashion-mnist",
    "root": "elsewhere",
    "num_images": 700,
    "pooled": 7,
    "hidden_nodes": 12,
    "hidden_layers": 3,
    "batch_size": 50,
    "loss": 0.4,
    "gauge": "balanced",
    "nbeta": 50.0,
    "localization": 300.0,
    "num_chains": 3,
    "num_draws": 30,
}


def synthetic(gap: float, slope: float, seed: int = 0, noise: float = 0.05):
    """Runs of three optimizers at three rates and seeds: values, names, rates, steps, seeds."""
    generator = np.random.default_rng(seed)
    values, names, lrs, steps, seeds = [], [], [], [], []
    for place, name in enumerate(NAMES):
        for lr in (0.01, 0.03, 0.1):
            for run in (1, 2, 3):
                count = 20 / lr * math.exp(0.1 * generator.normal())
                steps.append(count)
                values.append(
                    10 + gap * place + slope * math.log(count) + noise * generator.normal()
                )
                names.append(name)
                lrs.append(lr)
                seeds.append(run)
    return values, names, lrs, steps, seeds


def row(optimizer="sgd", lr=0.1, seed=1, llc=10.0, step=100, **other):
    point = {"llc": {"llc": llc, "std_error": 0.1, "verdict": LOCAL}, "trace": 5 * llc}
    passage = {"targets": [0.2], "step": step, "seconds": 0.01 * step, "loss": 0.199}
    given = {"optimizer": optimizer, "lr": lr, "seed": seed, "status": "finished", "reason": ""}
    looks = [[0, 0.0, 2.3], [step, 0.01 * step, 0.199]]
    given |= {"outcome": "reached", "looks": looks, "passage": passage, "point": point}
    return given | other


def part_of(gap: float, slope: float):
    rows = [
        row(name, lr, run, value, round(steps))
        for value, name, lr, steps, run in zip(*synthetic(gap, slope), strict=True)
    ]
    return {"seed 1": {"rows": rows}}


# ---- variance ------------------------------------------------------------------------------------


def test_the_f_test_and_the_offsets_are_those_of_statsmodels():
    """Each seed has a height of its own, here one of ± 2, in the whole model and in the common."""
    values, names, _, steps, seeds = synthetic(0.1, 0.5, noise=0.3)
    values = [value + 2.0 * (run - 2) for value, run in zip(values, seeds, strict=True)]
    table = pd.DataFrame({"y": values, "o": names, "x": np.log(steps), "s": seeds})
    whole, common = ols("y ~ C(o) + C(s) + x", table).fit(), ols("y ~ C(s) + x", table).fit()
    found = at_matched_speed(values, names, steps, seeds)
    compared = anova_lm(common, whole)
    assert found.f == pytest.approx(compared["F"].iloc[1], rel=1e-9)
    assert found.p == pytest.approx(compared["Pr(>F)"].iloc[1], rel=1e-9)
    assert found.degrees == (2, 21)
    assert found.slope == pytest.approx(whole.params["x"], rel=1e-9)
    difference = found.offsets["seng"] - found.offsets["ngd"]
    assert difference == pytest.approx(whole.params["C(o)[T.seng]"], rel=1e-9)
    assert sum(found.offsets.values()) == pytest.approx(0, abs=1e-12)


def test_the_share_along_rates_is_one_minus_the_ratio_of_residuals():
    values, names, lrs, _, _ = synthetic(1.0, 0.3, noise=0.5)
    table = pd.DataFrame({"y": values, "o": names, "x": np.log(lrs)})
    lines, means = ols("y ~ C(o) * x", table).fit(), ols("y ~ C(o)", table).fit()
    assert along_rates(values, names, lrs).share == pytest.approx(1 - lines.ssr / means.ssr)


def test_what_was_put_in_comes_out():
    values, names, lrs, steps, seeds = synthetic(2.0, 0.5)
    found = at_matched_speed(values, names, steps, seeds)
    offsets = [found.offsets[name] for name in NAMES]
    assert np.diff(offsets) == pytest.approx([2, 2], abs=4 * 0.05)
    assert found.slope == pytest.approx(0.5, abs=0.1)
    assert found.p < 1e-9
    along = along_rates(values, names, lrs)
    assert along.ranges["sgd"] == pytest.approx(0.5 * math.log(10), abs=0.3)
    assert along.share > 0.8


def test_where_there_is_nothing_to_test_there_is_no_p():
    assert math.isnan(at_matched_speed([1.0, 2.0], ["a", "b"], [10, 20], [1, 1]).p)
    assert math.isnan(along_rates([1.0, 2.0], ["a", "b"], [0.1, 0.1]).share)
    assert along_rates([1.0, 2.0], ["a", "b"], [0.1, 0.1]).ranges == {}
    with pytest.raises(ValueError, match="runs of 1 optimizers given"):
        at_matched_speed([1.0, 2.0], ["a", "a"], [10, 20], [1, 1])


def test_optimizers_of_different_seeds_are_not_told_apart():
    """What the optimizer does and what the seed does are one and the same column."""
    names, steps = ["a"] * 4 + ["b"] * 4, [10, 20, 40, 80] * 2
    values = [1.0, 2.1, 2.9, 4.0, 5.0, 6.1, 7.2, 8.0]
    found = at_matched_speed(values, names, steps, [1] * 4 + [2] * 4)
    assert math.isnan(found.p)
    assert all(math.isnan(offset) for offset in found.offsets.values())
    assert at_matched_speed(values, names, steps, [1, 1, 2, 2] * 2).p < 1e-4


# ---- the plan ------------------------------------------------------------------------------------


def test_every_optimizer_goes_along_its_own_rates(tmp_path):
    settings = Settings()
    axis = axis_of(settings)
    sweep = sweep_of(find("descents"), content_of(settings, 7), [axis], tmp_path / "sweep")
    assert len(sweep.runs) == sum(len(choice.lrs) for choice in settings.choices)
    for run, cell in zip(sweep.runs, cells(settings), strict=True):
        training, how = run.settings.training, run.settings.measurement
        assert (training.optimizer, training.lr, training.max_steps) == cell
        assert (training.seed, training.losses) == (7, [settings.loss])
        assert (how.nbeta, how.localization) == (settings.nbeta, settings.localization)
    most = {cell.max_steps for cell in cells(settings) if cell.optimizer == "exact_ngd"}
    assert most == {1_000}


def test_what_the_config_says_is_what_a_run_is_told():
    """Each with a value that is nobody's default."""
    content = content_of(parse_config(OTHERS, Settings), 7)
    training, how = content["training"], content["measurement"]
    assert training.pop("seed") == 7
    assert training.pop("losses") == [OTHERS["loss"]]
    told = {"choices": OTHERS["choices"], "loss": OTHERS["loss"], **training, **how}
    assert told == OTHERS
    settings = find("descents").settings.model_validate(
        {"training": content_of(parse_config(OTHERS, Settings), 7)["training"], "measurement": how}
    )
    assert settings.training.num_images == OTHERS["num_images"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"choices": [{"optimizer": "sgd"}, {"optimizer": "sgd"}]}, "each optimizer once"),
        ({"choices": [{"optimizer": "sgd"}]}, "choices"),
        ({"choices": [{"optimizer": "sgd", "lrs": []}, {"optimizer": "ngd"}]}, "lrs"),
        ({"seeds": [1, 1]}, "each once"),
        ({"loss": 0.0}, "loss"),
    ],
)
def test_what_makes_no_sense_is_refused(given, said):
    with pytest.raises(ConfigError, match=said):
        parse_config(given, Settings)


def test_of_many_looks_some_are_kept_and_the_last():
    looks = list(range(1_001))
    kept = thinned(looks)
    assert kept[0] == 0
    assert kept[-1] == 1_000
    assert len(kept) <= MOST_LOOKS + 1
    assert thinned(looks[:5]) == looks[:5]
    assert thinned([]) == []


# ---- what is told --------------------------------------------------------------------------------


def test_a_difference_beside_the_rate_is_told_and_none_is_told_where_there_is_none():
    card = SECTION.card(part_of(3.0, 0.2))
    assert "At matched steps to the loss optimizers differ in λ̂ (p = " in card.headline
    assert "over its own rates an optimizer's mean λ̂ spans" in card.headline
    assert "λ̂ of SENG is highest (+3.0" in card.text[1]
    assert "of SGD lowest (-3.0" in card.text[1]
    none = SECTION.card(part_of(0.0, 0.8))
    assert "to the loss no difference of λ̂ between optimizers is seen (p = " in none.headline
    assert "over its own rates an optimizer's mean λ̂ spans" in none.headline
    assert "over its rates the mean λ̂ spans" in none.text[1]
    assert "λ̂ rises by 0.6 where a run takes twice as many steps" in none.text[1]


def at_one_rate(gap: float) -> dict:
    """Two optimizers at one rate each, four seeds, steps that vary."""
    generator = np.random.default_rng(1)
    rows = [
        row(
            name,
            0.1,
            seed,
            10 + gap * place + 0.1 * generator.normal(),
            generator.integers(80, 120),
        )
        for place, name in enumerate(("sgd", "ngd"))
        for seed in (1, 2, 3, 4)
    ]
    return {"seed 1": {"rows": rows}}


def test_without_several_rates_p_decides_too():
    none, some = SECTION.card(at_one_rate(0.0)).headline, SECTION.card(at_one_rate(3.0)).headline
    assert "no difference of λ̂ between optimizers is seen" in none
    assert "optimizers differ in λ̂ (p = " in some
    assert "spans" not in none + some


def test_headline_and_tiles_say_the_same_numbers():
    card = SECTION.card(part_of(3.0, 0.2))
    between, along = card.tiles
    assert f"by up to {between.value};" in card.headline
    assert f"spans {along.value}, at most" in card.headline
    largest = along.detail.split("at most ")[1].split()[0]
    assert card.headline.endswith(f"at most {largest}.")


def test_where_no_test_is_possible_no_difference_is_claimed():
    """Four runs: two optimizers, two seeds and a slope leave no degree of freedom."""
    rows = [row("sgd", seed=1, llc=9.0, step=90), row("sgd", seed=2, llc=9.5, step=100)]
    rows += [row("ngd", seed=1, llc=5.0, step=95), row("ngd", seed=2, llc=5.0, step=80)]
    card = SECTION.card({"seed 1": {"rows": rows}})
    assert "no test is possible" in card.headline
    assert "too few runs count" in card.headline
    assert "differ in λ̂ (p" not in card.headline
    for one in rows:
        one["seed"] = 1 + (one["optimizer"] == "ngd")
    card = SECTION.card({"seed 1": {"rows": rows}})
    assert "no test is possible" in card.headline
    assert "do not tell them apart" in card.headline
    assert "nan" not in " ".join([card.headline, *card.text, *(tile.value for tile in card.tiles)])


def test_only_certified_runs_that_arrived_count():
    part = part_of(3.0, 0.2)
    rows = part["seed 1"]["rows"]
    count = len(counted(part))
    rows[0]["point"]["llc"]["verdict"] = "not at rest"
    rows[1] |= {"outcome": "diverged", "passage": None, "point": None}
    rows[2] |= {"status": "failed", "reason": "no memory", "outcome": None}
    rows[2] |= {"looks": [], "passage": None, "point": None}
    rows.append(row("muon"))  # one run of an optimizer is none
    assert len(counted(part)) == count - 3
    card = SECTION.card(part)
    assert "1 diverged, 1 failed" in card.text[-1]
    assert "Left out, with fewer than 2 certified runs: Muon (1)." in card.text[-1]
    assert [note.detail for note in card.notes] == ["no memory"]
    (table,) = SECTION.tables(part)
    assert table.rows[2][6] == ("0 of 3", "")
    assert {drawing.key for drawing in SECTION.figures(part)} == {DEGENERACY, DESCENT}


def test_what_is_not_there_yet_is_said():
    assert SECTION.card({}).headline == "Nothing has been measured yet."
    assert SECTION.figures({}) == []
    assert SECTION.tables({}) == []
    lost = {"seed 1": {"rows": [row(point=None, passage=None, outcome="diverged", looks=[])]}}
    assert "nothing can be compared" in SECTION.card(lost).headline
    assert "fewer than 2 certified runs: SGD (0)." in SECTION.card(lost).text[-1]
    assert SECTION.tables(lost)
    assert SECTION.figures(lost) == []


def test_the_fastest_rate_is_that_of_the_fewest_steps():
    rows = [row(lr=0.1, step=300), row(lr=0.03, step=200), row(lr=0.01, step=900)]
    assert [one["lr"] for one in fastest({"seed 1": {"rows": rows}}, "sgd")] == [0.03]
    assert fastest({"seed 1": {"rows": rows}}, "ngd") == []


def test_a_rate_at_which_more_seeds_arrive_goes_before_a_faster_one_and_medians_are_told():
    rows = [row(lr=0.1, seed=1, step=50), row(lr=0.1, seed=2, passage=None, outcome="diverged")]
    rows += [row(lr=0.03, seed=1, step=100), row(lr=0.03, seed=2, step=300)]
    rows += [row("ngd", seed=1, step=80), row("ngd", seed=2, step=101)]
    part = {"seed 1": {"rows": rows}}
    assert [steps_of(one) for one in fastest(part, "sgd")] == [100, 300]
    text = speed_text(part)
    assert "NGD 90.5 (2 seeds) and SGD 200 (2 seeds)" in text
    assert "Process seconds of the same runs: NGD 0.9 and SGD 2.0." in text


def test_of_a_run_without_results_nothing_is_kept():
    assert found({}) == {"outcome": None, "looks": [], "passage": None, "point": None}


@pytest.mark.slow
def test_the_runs_of_a_seed_are_done_and_kept(data_root, tmp_path):
    given = {
        "root": str(data_root),
        "num_images": 400,
        "pooled": 14,
        "hidden_nodes": 3,
        "hidden_layers": 1,
        "batch_size": 50,
        "choices": [
            {"optimizer": "sgd", "lrs": [0.1], "max_steps": 400},
            {"optimizer": "exact_ngd", "lrs": [1e20], "max_steps": 40},
        ],
        "seeds": [3],
        "loss": 2.0,
        "num_chains": 2,
        "num_draws": 20,
        "runs": {"at_once": 1},
    }
    work = SimpleNamespace(
        settings=SimpleNamespace(comparison=parse_config(given, Settings)),
        device=torch.device("cpu"),
        store=SimpleNamespace(directory=tmp_path),
        todo=lambda keys, unit: iter(keys),
    )
    part = json.loads(json.dumps(dict(SECTION.measure(work))))
    sgd, exact = part["seed 3"]["rows"]
    assert sgd["status"] == exact["status"] == "finished", (sgd["reason"], exact["reason"])
    assert sgd["outcome"] == "reached"
    assert sgd["passage"]["loss"] <= 2.0
    assert sgd["point"]["llc"]["verdict"]
    assert (exact["outcome"], exact["passage"], exact["point"]) == ("diverged", None, None)


def test_the_examples_hold():
    assert doctest.testmod(variance).failed == 0


def test_what_docs_show_is_a_row_a_run_with_gaps_where_nothing_was_reached():
    part = part_of(3.0, 0.2)
    part["seed 1"]["rows"][0] |= {"outcome": "diverged", "passage": None, "point": None}
    table = run_table(part)
    assert len(table) == 27
    assert table["llc"].isna().tolist() == [True] + [False] * 26
    first, second = table.iloc[0], table.iloc[1]
    assert (first["outcome"], second["verdict"]) == ("diverged", LOCAL)
    assert second["trace"] == pytest.approx(5 * second["llc"])


def test_what_holds_no_comparison_is_a_sentence(tmp_path, capsys):
    path, arguments = tmp_path / "results.json", [str(tmp_path), str(tmp_path / "docs")]
    for content, said in (
        ("[", "no results of a run that can be read"),
        ('{"study": "paper"}', "a run of 'paper' given"),
        ('{"study": "natural_gradients", "parts": {}}', "no comparison in these runs"),
    ):
        path.write_text(content)
        assert main(arguments) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "docs").exists()
