"""Do contrasts, the mixed model and its components find the law that made the runs?"""

import json
import math

import numpy as np
import pytest
from atlas_results import EFFECTS, SEED_SPREAD, atlas_results, law

from degeneracy.sweeps.statistics import paired
from studies.atlas.contrasts import arms_of, contrasts_of, is_complete, needs_more_seeds, table_of
from studies.atlas.model import fitted

EXPECTED = {
    "early": EFFECTS["early"],
    "late": EFFECTS["late"],
    "early × late": EFFECTS["early × late"],
    "optimizer × learning rate": 0.0,
    "early × depth": EFFECTS["early × depth"],
}


@pytest.fixture(scope="module")
def exact():
    """No noise within a cell; seeds differ."""
    return atlas_results(noise=0.0)


@pytest.fixture(scope="module")
def noisy():
    return atlas_results(seeds=range(1, 11), noise=0.05)


def test_without_noise_every_contrast_is_the_law(exact):
    found = {c.name: c for c in contrasts_of(exact)}
    assert list(found) == list(EXPECTED)
    for name, expected in EXPECTED.items():
        values = [*found[name].by_seed.values()]
        assert values == pytest.approx([expected] * 4, abs=1e-12)


def test_a_network_alone_has_the_law_at_its_depth(exact):
    for model, sign in (("2×256", -0.5), ("8×64", 0.5)):
        early = contrasts_of(exact, model=model)[0]
        assert early.test.mean.value == pytest.approx(
            EFFECTS["early"] + sign * EFFECTS["early × depth"]
        )
        assert "early × depth" not in [c.name for c in contrasts_of(exact, model=model)]


def test_an_interaction_with_the_rate_is_found(exact):
    for group in exact["parts"]["runs"].values():
        for row in group["rows"]:
            if row["early"] == row["late"] == "ngd" and row["fraction"] > 0.5:
                for point in row["points"]["found"]:
                    point["raw_trace"] = 3 * point["raw_trace"]
    found = {c.name: c for c in contrasts_of(exact, "raw_trace")}
    tripled = found["optimizer × learning rate"].test.mean.value
    assert tripled == pytest.approx(math.log(3))


def test_intervals_over_seeds_are_students_and_p_is_holms(noisy):
    found = contrasts_of(noisy)
    margin = math.log1p(0.05)
    tests = {c.name: paired([*c.by_seed.values()], margin) for c in found}
    assert {c.name: c.test for c in found} == tests
    highest = 0.0
    for place, contrast in enumerate(sorted(found, key=lambda c: c.test.p)):
        highest = max(highest, min(1.0, (5 - place) * contrast.test.p))
        assert contrast.adjusted == pytest.approx(highest)


def test_the_law_is_within_the_intervals_or_near(noisy):
    for contrast in contrasts_of(noisy):
        error = contrast.test.mean.deviation / math.sqrt(10)
        assert abs(contrast.test.mean.value - EXPECTED[contrast.name]) < 4 * error


def test_pairs_without_a_partner_are_left_out():
    lost = {(1, "ngd", "ngd", 0.25, "2×256"), (2, "sgd", "sgd", 0.0625, "8×64")}
    found = contrasts_of(atlas_results(noise=0.0, missing=lost))
    early = {c.name: c for c in found}["early"]
    # Of seed 1 a pair of the shallow network is missing, so the deep ones weigh more.
    shares = [5 * -0.5 + 6 * 0.5, 6 * -0.5 + 5 * 0.5]
    for seed, share in zip((1, 2), shares, strict=True):
        # 1 and 2: early × late is left unbalanced too.
        e_l = {1: -0.5, 2: 0.5}[seed] * EFFECTS["early × late"] / 11
        expected = EFFECTS["early"] + EFFECTS["early × depth"] * share / 11 + e_l
        assert early.by_seed[seed] == pytest.approx(expected)


def test_what_is_covered_too_little_is_reported_and_not_tested():
    """One cell of the early contrast has an endpoint in a quarter of its runs."""
    lost = {(seed, "ngd", "ngd", 0.0625, "2×256") for seed in (1, 2, 3)}
    found = {c.name: c for c in contrasts_of(atlas_results(missing=lost))}
    assert found["early"].coverage == pytest.approx(1 / 4)
    assert not found["early"].is_tested
    assert found["early"].adjusted is None
    assert found["early"].test is not None


def test_only_cells_of_a_contrast_count_in_its_coverage():
    lost = {(seed, "ngd", "sgd", 0.25, "2×256") for seed in (1, 2, 3)}
    found = {c.name: c for c in contrasts_of(atlas_results(missing=lost))}
    assert not found["late"].is_tested
    assert found["optimizer × learning rate"].coverage == 1.0
    assert found["optimizer × learning rate"].is_tested


def test_a_mean_over_networks_is_of_seeds_that_have_them_all():
    results = atlas_results(seeds=range(1, 5), noise=0.0)
    for seed in (3, 4):
        del results["parts"]["runs"][f"8×64, seed {seed}"]
    (early, *_) = contrasts_of(results)
    assert list(early.by_seed) == [1, 2]
    assert early.test.mean.value == pytest.approx(EFFECTS["early"])
    assert list(contrasts_of(results, model="2×256")[0].by_seed) == [1, 2, 3, 4]
    assert not is_complete(results)


def test_the_largest_rate_is_the_plans_whatever_is_missing():
    """A seed without its fastest runs has no contrast with the rate, not one of other rates."""
    lost = {(1, n, n, 0.6667, m) for n in ("sgd", "ngd") for m in ("2×256", "8×64")}
    found = {c.name: c for c in contrasts_of(atlas_results(missing=lost))}
    assert list(found["optimizer × learning rate"].by_seed) == [2, 3, 4]


def test_the_first_optimizer_is_what_others_are_compared_with(exact):
    results = {**exact, "config": json.loads(json.dumps(exact["config"]))}
    results["config"]["factorial"]["optimizers"] = ["ngd", "sgd"]
    found = {c.name: c for c in contrasts_of(results)}
    assert found["early"].test.mean.value == pytest.approx(-EFFECTS["early"])
    assert found["early × late"].test.mean.value == pytest.approx(EFFECTS["early × late"])


def test_a_third_optimizer_is_in_no_contrast_of_the_first_two(exact):
    results = json.loads(json.dumps(exact))
    for group in results["parts"]["runs"].values():
        base = json.loads(json.dumps([row for row in group["rows"] if row["late"] == "sgd"]))
        third = [{**row, "late": "adamw"} for row in base]
        for row in third:
            for point in row["points"]["found"]:
                point["balanced"]["llc"] = 1e6 if row["early"] == "ngd" else 1e-6
        group["rows"] += third
    results["config"]["factorial"]["optimizers"] = ["sgd", "ngd", "adamw"]
    assert contrasts_of(results)[0].test.mean.value == pytest.approx(EFFECTS["early"])


def test_optimizers_that_go_throughout_are_each_compared_with_the_first():
    names = ("sgd", "ngd", "adamw", "muon")
    results = atlas_results(noise=0.0, throughout=names)
    found = {c.name: c for c in contrasts_of(results)}
    others = ["NGD", "AdamW", "Muon"]
    assert list(found) == [*others, *(f"{name} × learning rate" for name in others)]
    for name, text in zip(names[1:], others, strict=True):
        mean = sum(
            law(name, name, 0.25, deep) - law("sgd", "sgd", 0.25, deep) for deep in (False, True)
        )
        assert found[text].test.mean.value == pytest.approx(mean / 2)
        assert found[f"{text} × learning rate"].test.mean.value == pytest.approx(0, abs=1e-12)
    for group in results["parts"]["runs"].values():
        for row in group["rows"]:
            if (row["late"], row["fraction"]) == ("muon", 0.6667):
                for point in row["points"]["found"]:
                    point["balanced"]["llc"] *= 3
    tripled = {c.name: c for c in contrasts_of(results)}
    assert tripled["Muon × learning rate"].test.mean.value == pytest.approx(math.log(3))
    assert tripled["AdamW × learning rate"].test.mean.value == pytest.approx(0, abs=1e-12)


def test_what_an_optimizer_lacks_is_no_other_ones_coverage():
    lost = {(seed, "muon", "muon", 0.25, "2×256") for seed in (1, 2, 3)}
    results = atlas_results(missing=lost, throughout=("sgd", "ngd", "muon"))
    found = {c.name: c for c in contrasts_of(results)}
    assert (found["NGD"].coverage, found["Muon"].coverage) == (1.0, 0.25)
    assert found["Muon × learning rate"].coverage == 1.0
    fit = fitted(results)
    assert [term.name for term in fit.terms] == list(found)


def test_networks_of_one_depth_have_no_contrast_of_depth():
    results = atlas_results(models=((256, 2), (64, 2)), noise=0.0)
    assert "early × depth" not in [c.name for c in contrasts_of(results)]


def test_one_seed_has_contrasts_and_no_test():
    (early, *_) = contrasts_of(atlas_results(seeds=[3]))
    assert early.test is None
    assert list(early.by_seed) == [3]
    assert not needs_more_seeds(atlas_results(seeds=[3]))


def test_more_seeds_are_asked_for_by_width_alone():
    assert not needs_more_seeds(atlas_results(seeds=range(1, 11), noise=0.005))
    assert needs_more_seeds(atlas_results(seeds=range(1, 11), noise=0.4))


def test_further_seeds_do_not_end_their_own_making():
    results = atlas_results(seeds=range(1, 13), noise=0.005)
    wide = atlas_results(seeds=range(1, 11), noise=0.4)
    results["parts"]["runs"] |= wide["parts"]["runs"]
    assert needs_more_seeds(results)
    assert not is_complete(results)


def test_an_atlas_is_complete_with_all_its_seeds():
    assert is_complete(atlas_results(seeds=range(1, 11), noise=0.005))
    assert not is_complete(atlas_results(seeds=range(1, 10), noise=0.005))
    assert is_complete(atlas_results(seeds=range(1, 17), noise=0.4))


def test_an_estimate_that_is_not_certified_is_counted():
    results = atlas_results(verdict="not at rest")
    assert table_of(results)["balanced"].isna().all()
    assert contrasts_of(results) == []
    assert arms_of(results)["not certified"].sum() == 96


def test_runs_are_counted_by_arm_with_their_reasons():
    lost = {(1, "ngd", "ngd", 0.25, "2×256")}
    arms = arms_of(atlas_results(missing=lost))
    assert arms["runs"].sum() == 96
    assert arms["there"].sum() == 95
    assert arms["ValueError: stopped"].sum() == 1


def test_the_mixed_model_agrees_with_the_contrasts(noisy):
    fit = fitted(noisy)
    beside = {c.name: c.test.mean for c in contrasts_of(noisy)}
    assert [term.name for term in fit.terms] == list(EXPECTED)
    for term in fit.terms:
        assert abs(term.value - beside[term.name].value) < beside[term.name].half_width
        assert term.low < beside[term.name].value < term.high
    assert fit.count == 240


def test_the_components_are_those_that_were_put_in(noisy):
    components = fitted(noisy).components
    shifts = [SEED_SPREAD * np.random.default_rng(seed).normal() for seed in range(1, 11)]
    assert components.seed == pytest.approx(np.var(shifts, ddof=1), rel=0.1)
    assert components.sampler == pytest.approx(0.02**2, rel=0.1)
    # 198 degrees of freedom: a variance is known to 10 %
    assert components.trajectory + components.sampler == pytest.approx(0.05**2, rel=0.3)


def test_a_rate_that_acts_in_no_simple_way_is_not_taken_for_noise(noisy):
    results = json.loads(json.dumps(noisy))
    for group in results["parts"]["runs"].values():
        for row in group["rows"]:
            factor = 3.0 if row["fraction"] == 0.25 and row["early"] == "ngd" else 1.0
            for point in row["points"]["found"]:
                point["balanced"]["llc"] *= factor
                point["balanced"]["std_error"] *= factor
    one, other = fitted(noisy).components, fitted(results).components
    assert other == pytest.approx(one, abs=1e-6)


def test_too_few_runs_have_no_fit():
    assert fitted(atlas_results(seeds=[1])) is None
