"""Are a verdict's numbers those of the results: differences, intervals, equal losses, obstacles?"""

import math

import pytest
from synthetic_results import diverge, set_final, synthetic_run

from studies.ngd_sgd.verdict import verdict_of, verdicts

TITLE = "FFNN 2 HL, 256 HN"


def run_with(*finals, names=("sgd", "ngd"), **options):
    """A run whose final LLCs are overwritten by (llc, std_error), one for each of `names`."""
    results, _ = synthetic_run(optimizers=names, **options)
    for name, (llc, error) in zip(names, finals, strict=True):
        set_final(results, TITLE, name, llc=llc, llc_std_error=error, llc_drift=0.1)
    return results


def only_comparison(results):
    (comparison,) = verdict_of(TITLE, results).comparisons
    return comparison


@pytest.mark.parametrize(
    ("ngd", "direction"),
    [(55.0, "higher"), (30.0, "lower"), (43.0, "undetected"), (42.0, "undetected")],
)
def test_the_direction_follows_the_numbers_whichever_way_they_fall(ngd, direction):
    assert only_comparison(run_with((42.5, 0.6), (ngd, 0.8))).direction == direction


def test_the_interval_by_hand():
    comparison = only_comparison(run_with((43.0, 0.3), (55.0, 0.4)))
    half = 1.96 * 0.5  # hypot(0.3, 0.4) = 0.5
    assert comparison.difference == pytest.approx(12.0)
    assert comparison.interval == pytest.approx((12 - half, 12 + half))


@pytest.mark.parametrize(
    ("sgd", "ngd", "factor", "direction"),
    [(40, 41, 1.0001, "undetected"), (40, 41, 0.9999, "higher"), (41, 40, 0.9999, "lower")],
)
def test_an_interval_that_just_includes_zero_detects_nothing(sgd, ngd, factor, direction):
    error = factor / (1.96 * math.sqrt(2))
    assert only_comparison(run_with((sgd, error), (ngd, error))).direction == direction


def test_a_missing_standard_error_gives_the_difference_without_interval():
    comparison = only_comparison(run_with((43.0, None), (55.0, 0.4)))
    assert (comparison.direction, comparison.interval) == (None, None)
    assert comparison.difference == pytest.approx(12)


def test_every_optimizer_is_compared_with_the_first():
    names = ("adamw", "sgd", "ngd", "mine")
    finals = ((40.0, 0.5), (45.0, 0.5), (30.0, 0.5), (40.5, 0.5))
    verdict = verdict_of(TITLE, run_with(*finals, names=names, kind="standard"))
    assert verdict.baseline == "adamw"
    found = {one.other.optimizer: one.direction for one in verdict.comparisons}
    assert found == {"sgd": "higher", "ngd": "lower", "mine": "undetected"}
    assert [one.names for one in verdict.comparisons] == [
        "SGD − AdamW",
        "NGD − AdamW",
        "mine − AdamW",
    ]
    assert verdict.obstacles == {}


def test_one_optimizer_is_compared_with_nothing():
    results, _ = synthetic_run(kind="standard", optimizers=("ngd",))
    verdict = verdict_of(TITLE, results)
    assert (verdict.comparisons, verdict.obstacles) == ((), {})
    (final,) = verdict.finals
    assert final.llc == results["models"][TITLE]["optimizers"]["ngd"]["llc"][20]


def equal_loss_run(ngd_llc, losses=(0.11, 0.1 * 0.1 / 0.11)):
    """SGD ends at loss 0.1 with 43 ± 1; NGD passes there midway between epochs 14 and 15 and ends
    at 0.02.
    """
    results = run_with((43.0, 1.0), (55.0, 0.4))
    sgd, ngd = (results["models"][TITLE]["optimizers"][name] for name in ("sgd", "ngd"))
    sgd["llc_init_loss"][20], ngd["llc_init_loss"][20] = 0.1, 0.02
    for epoch in range(10, 20):
        ngd["llc_init_loss"][epoch] = 0.5 if epoch < 14 else 0.03
    ngd["llc_init_loss"][14:16] = losses
    ngd["llc"][14:16], ngd["llc_std_error"][14:16] = [ngd_llc - 2, ngd_llc + 2], [1.0, 1.0]
    return results


@pytest.mark.parametrize(
    ("ngd_llc", "direction"), [(44.0, "undetected"), (50.0, "higher"), (38.0, "lower")]
)
def test_optimizers_are_compared_at_equal_loss_where_both_passed_it(ngd_llc, direction):
    verdict = verdict_of(TITLE, equal_loss_run(ngd_llc))
    assert verdict.comparisons[0].direction == "higher"
    (equal,) = verdict.at_equal_loss
    assert equal.direction == direction
    assert equal.other.train_loss == equal.baseline.train_loss == 0.1
    assert equal.difference == pytest.approx(ngd_llc - 43)
    half = 1.96 * math.hypot(1, 1 / math.sqrt(2))  # halfway between two errors of 1
    assert equal.interval == pytest.approx((ngd_llc - 43 - half, ngd_llc - 43 + half))


@pytest.mark.parametrize("losses", [(0.16, 0.09), (0.09, 0.08)])
def test_without_two_near_epochs_around_the_loss_there_is_no_comparison_at_equal_loss(losses):
    verdict = verdict_of(TITLE, equal_loss_run(44.0, losses))
    assert verdict.at_equal_loss == ()
    assert verdict.comparisons[0].is_unequal_in_loss


def test_the_one_that_got_less_far_stays_at_its_last_epoch_also_where_it_is_not_the_baseline():
    results = equal_loss_run(50.0)
    optimizers = results["models"][TITLE]["optimizers"]
    optimizers["sgd"], optimizers["ngd"] = optimizers["ngd"], optimizers["sgd"]
    (equal,) = verdict_of(TITLE, results).at_equal_loss
    assert (equal.baseline.llc, equal.other.llc) == (pytest.approx(50), 43)
    assert equal.direction == "lower"


@pytest.mark.parametrize(
    ("sgd_loss", "unequal"),
    [(0.1, False), (0.109, False), (0.091, False), (0.12, True), (0.05, True)],
)
def test_losses_count_as_equal_within_a_tenth(sgd_loss, unequal):
    results = run_with((43.0, 0.3), (55.0, 0.4))
    set_final(results, TITLE, "ngd", llc_init_loss=0.1)
    set_final(results, TITLE, "sgd", llc_init_loss=sgd_loss)
    assert only_comparison(results).is_unequal_in_loss == unequal


def test_an_optimizer_that_diverged_is_the_only_one_not_compared():
    names = ("sgd", "ngd", "adamw")
    results, _ = synthetic_run(kind="standard", optimizers=names)
    diverge(results, TITLE, "adamw", 3)
    verdict = verdict_of(TITLE, results)
    assert [one.other.optimizer for one in verdict.comparisons] == ["ngd"]
    why = "the last LLC is of epoch 20 for SGD, of epoch 2 for AdamW"
    assert verdict.obstacles == {("adamw",): why}


@pytest.mark.parametrize(("kind", "epoch"), [("swap", 10), ("standard", 0)])
def test_a_run_is_not_judged_by_weights_that_all_share(kind, epoch):
    results, _ = synthetic_run(kind=kind, measured=[epoch])
    verdict = verdict_of(TITLE, results)
    assert verdict.comparisons == ()
    why = f"no LLC was measured after epoch {epoch}, whose weights all share"
    assert verdict.obstacles == {("ngd",): why}


def test_an_epoch_whose_chains_all_diverged_is_not_replaced_by_an_earlier_one():
    results, _ = synthetic_run()
    set_final(results, TITLE, "ngd", num_diverged_chains=2, llc=None, llc_std_error=None)
    verdict = verdict_of(TITLE, results)
    assert [(final.epoch, final.llc is None) for final in verdict.finals] == [
        (20, False),
        (20, True),
    ]
    assert verdict.obstacles == {("ngd",): "there is no final LLC of NGD"}


def test_those_that_cannot_be_compared_for_one_reason_are_named_together():
    names = ("sgd", "ngd", "adamw", "muon", "lion", "tiger")
    results, _ = synthetic_run(kind="standard", optimizers=names)
    for name, epoch in (("ngd", 3), ("adamw", 3), ("muon", 5)):
        diverge(results, TITLE, name, epoch)
    for name in ("lion", "tiger"):
        set_final(results, TITLE, name, num_diverged_chains=2, llc=None, llc_std_error=None)
    verdict = verdict_of(TITLE, results)
    assert verdict.comparisons == ()
    assert verdict.obstacles == {
        ("lion", "tiger"): "there is no final LLC of lion and tiger",
        ("ngd", "adamw", "muon"): (
            "the last LLC is of epoch 20 for SGD, of epoch 2 for NGD and AdamW, of epoch 4 for Muon"
        ),
    }


def test_without_a_baseline_nothing_else_stands_in_the_way():
    names = ("sgd", "ngd", "adamw")
    results, _ = synthetic_run(kind="standard", optimizers=names)
    for name in ("sgd", "ngd"):
        set_final(results, TITLE, name, num_diverged_chains=2, llc=None, llc_std_error=None)
    verdict = verdict_of(TITLE, results)
    assert verdict.comparisons == ()
    assert verdict.obstacles == {("ngd", "adamw"): "there is no final LLC of SGD"}


def test_one_verdict_a_model():
    titles = ("FFNN 2 HL, 64 HN", "CNN 2 HCL")
    results, _ = synthetic_run(titles=titles)
    assert tuple(verdict.title for verdict in verdicts(results)) == titles
