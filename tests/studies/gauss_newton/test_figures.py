"""Do the figures and the sentences show what was measured, whatever is there of it?"""

import copy
import math

import numpy as np
import pytest
from scipy import stats

from studies.gauss_newton.figures import study_figures
from studies.gauss_newton.findings import findings
from studies.gauss_newton.records import (
    at_loss,
    by_name,
    common_level,
    comparable,
    spread_text,
    trained,
)


def drawings_of(results):
    sections = study_figures(results, {})
    return {drawing.key: drawing for section in sections for drawing in section.drawings}


def texts_of(results):
    return "\n".join(
        line for card in findings(results).cards for line in (card.headline, *card.text)
    )


def test_every_figure_has_its_axes_named_and_a_caption(results):
    drawings = drawings_of(results)
    assert len(drawings) == 10
    for key, drawing in drawings.items():
        assert drawing.caption
        axes = [*drawing.figure.select_xaxes(), *drawing.figure.select_yaxes()]
        if key != "cka-across":  # whose vertical axis repeats the horizontal one
            assert all(axis.title.text for axis in axes), key


def test_nothing_is_there_before_a_study_has_begun(results):
    results["parts"] = {}
    assert study_figures(results, {}) == []
    assert findings(results).cards[0].headline == "Nothing has been measured yet."


@pytest.mark.parametrize("regime", ["full", "mini"])
def test_one_regime_alone_is_shown(results, regime):
    results["parts"] = {
        "train": {k: r for k, r in results["parts"]["train"].items() if r["regime"] == regime}
    }
    drawings = drawings_of(results)
    assert ("full-batch" in drawings) == (regime == "full")
    assert ("mini-batch" in drawings) == (regime == "mini")
    assert findings(results).cards


def test_optimizers_of_first_order_alone_are_shown(results):
    kept = ("adam", "ngd")
    results["config"]["optimizers"] = {n: results["config"]["optimizers"][n] for n in kept}
    results["parts"] = {
        "train": {k: r for k, r in results["parts"]["train"].items() if r["name"] in kept}
    }
    assert "missed" not in drawings_of(results)
    assert len(findings(results).cards) == 2


def test_a_line_is_drawn_as_it_was_measured(results):
    figure = drawings_of(results)["mini-batch"].figure
    lines = {(trace.name, trace.xaxis): trace for trace in figure.data}
    series = results["parts"]["train"]["mini/block/42"]["series"]
    np.testing.assert_array_equal(lines["block", "x"].y, series["train_loss"])
    np.testing.assert_allclose(lines["block", "x2"].y, 100 * np.array(series["val_accuracy"]))


def test_each_optimizer_stands_in_a_legend_once(results):
    for drawing in drawings_of(results).values():
        shown = [t.name for t in drawing.figure.data if t.showlegend]
        assert len(shown) == len(set(shown))


def test_further_seeds_are_thinner_and_not_in_the_legend(results):
    train = results["parts"]["train"]
    train |= {f"{k[:-2]}43": r | {"seed": 43} for k, r in list(train.items())}
    figure = drawings_of(results)["full-batch"].figure
    widths = [t.line.width for t in figure.data if t.name == "block"]
    assert widths == [2.2, 1, 2.2, 1]
    assert "48.0 to 48.0" not in texts_of(results)


def test_a_training_that_diverged_is_told_and_drawn(results):
    record = results["parts"]["train"]["mini/block/42"]
    record["diverged"] = {"epoch": 2, "iteration": 1, "reason": "the loss is not finite"}
    record["last_epoch"] = 1
    for name in ("train_loss", "val_loss", "val_accuracy", "missed_fraction"):
        record["series"][name][2] = None
    assert "block, seed 42, ended in epoch 2 at step 1: the loss is not finite." in texts_of(
        results
    )
    assert len(drawings_of(results)) == 10


def test_an_llc_that_was_refused_is_left_out_and_said(results):
    results["parts"]["degeneracy"]["mini/block/42/1e+06"] = {
        "gamma": 1e6,
        "llc": None,
        "refused": "no step",
    }
    assert "block – (refused)" in texts_of(results)
    assert "degeneracy" in drawings_of(results)


def falling(results, all_losses):
    """Trajectories whose training losses are given, from the untrained network on."""
    found = trained(results, "mini")
    for one, losses in zip(found, all_losses, strict=True):
        one.record["series"] |= {"epoch": [0, 1, 2], "train_loss": losses}
        one.record["series"] |= {"val_loss": [4.0, 3.0, 2.0], "val_accuracy": [0.1, 0.3, 0.5]}
    return found


def test_losses_are_compared_where_all_came_to(results):
    losses = ([3, 2, 1.0], [3, 2, 0.5], [3, 1.8, 1.5], [3, 2, 0.1], [3, 2, 1.2])
    found = falling(results, losses)
    assert common_level(found) == 1.5
    assert at_loss(found[0], 1.5) == pytest.approx(
        {"val_loss": 2.5, "val_accuracy": 0.4, "gap": 1.0}
    )
    assert at_loss(found[2], 1.0) is None
    assert list(by_name(found)) == ["block", "min_norm", "adam", "ngd", "adam>block at 1"]
    assert comparable(found) == (1.5, found, [])


def test_nothing_is_said_of_the_way_to_the_first_epoch(results):
    """A straight line from the untrained network would decide the order."""
    losses = ([3, 1, 0.2], [3, 1, 0.1], [3, 2.8, 2.5], [3, 1.1, 0.4], [3, 2, 0.3])
    found = falling(results, losses)
    assert at_loss(found[0], 2.5) is None
    assert at_loss(found[0], 1.0)["val_loss"] == 3.0  # at the epoch itself nothing is a guess
    level, kept, left_out = comparable(found)
    assert (level, left_out) == (0.4, ["adam"])
    assert [one.name for one in kept] == ["block", "min_norm", "ngd", "adam>block at 1"]
    assert "Left out: Adam, slower." in texts_of(results)
    assert comparable(falling(results, [[3, 1, 0.5]] * 4 + [[3, 2.9, 2.9]])).left_out


def test_numbers_of_several_seeds_are_a_range():
    assert spread_text([0.5, 0.52], 100) == "50.0 to 52.0"
    assert spread_text([0.5, None], 100) == "50.0"
    assert spread_text([None]) == "–"


def test_solutions_are_compared_within_seeds(results):
    """Made differences of three seeds, beside SciPy's interval."""
    rows = {k: r for k, r in results["parts"]["train"].items() if k.startswith("mini/")}
    results["parts"] = {"train": {}}
    better = {41: 0.01, 42: 0.03, 43: 0.02}
    for seed, by in better.items():
        for name in ("block", "min_norm"):
            found = copy.deepcopy(rows["mini/block/42"]) | {"seed": seed, "name": name}
            found["series"]["val_loss"] = [
                loss - (10 * by if name == "min_norm" else 0)
                for loss in found["series"]["val_loss"]
            ]
            found["final"]["val_accuracy"] += by if name == "min_norm" else 0
            results["parts"]["train"][f"mini/{name}/{seed}"] = found
    half = stats.t.ppf(0.975, 2) * np.std([1, 3, 2], ddof=1) / math.sqrt(3)
    ends = f"({2 - half:+.1f} to {2 + half:+.1f})".replace("-", "−")
    gaps = f"({-0.2 - half / 10:+.3f} to {-0.2 + half / 10:+.3f})".replace("-", "−")
    assert (
        "min_norm beside block (mini-batches, within seeds, mean and 95 %): test accuracy"
        f" +2.0 {ends} points (3 seeds), gap at equal training loss −0.200 {gaps} nats (3)."
    ) in texts_of(results)
    results["parts"]["train"] = {k: r for k, r in results["parts"]["train"].items() if "42" in k}
    assert "within seeds" not in texts_of(results)
