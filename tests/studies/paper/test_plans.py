"""Which runs does each part make? Their number, their configs, and that `ngd_sgd` takes them."""

import pytest

import studies
from degeneracy.config.reader import parse_config, read_config
from degeneracy.runs.work import PROJECT
from degeneracy.sweeps.grid import planned
from studies.paper import STUDY
from studies.paper.plans import PLANS, plans_of
from studies.paper.settings import Settings

RUN = studies.find("ngd_sgd").settings


def runs_of(part, settings):
    """Key → planned runs."""
    return {
        key: planned(plan.content, RUN, [plan.axis], key)
        for key, plan in plans_of(settings, part).items()
    }


def test_every_part_has_its_plan():
    assert tuple(PLANS) == tuple(STUDY.parts)


def test_the_networks_with_published_values_are_made_seed_by_seed():
    found = runs_of("sizes", Settings())
    assert list(found) == [f"mnist, 2 hidden layers, seed {seed}" for seed in (1, 2, 3, 4, 5)]
    for seed, runs in enumerate(found.values(), start=1):
        nodes = [run.settings.experiment.hidden_nodes for run in runs]
        assert nodes == [[256], [128], [64]]  # the longest first
        assert {run.settings.experiment.seed for run in runs} == {seed}


def test_a_swap_run_is_the_published_one():
    published = read_config(PROJECT / "experiments" / "args_published_swap.json", RUN)
    (run, *_) = runs_of("sizes", Settings())["mnist, 2 hidden layers, seed 2"]
    mine, theirs = run.settings.model_dump(), published.model_dump()
    for free in ("hessian", "measure_epochs", "optimizer"):
        del mine["experiment"][free], theirs["experiment"][free]
    assert mine["experiment"] == theirs["experiment"]
    assert mine["devinterp"] == theirs["devinterp"]
    assert mine["data"] == theirs["data"]
    assert run.settings.optimizer_names == ("sgd", "ngd")
    for name in ("sgd", "ngd"):
        for after in (False, True):
            ours = run.settings.optimizer_settings(name, after)
            assert ours == published.optimizer_settings(name, after)


def test_a_group_of_one_size_has_two_seeds_side_by_side():
    group = {"model_type": "cnn", "dataset": "fashion-mnist", "seeds": [3, 1, 2]}
    found = runs_of("other_sizes", parse_config({"other_sizes": [group]}, Settings))
    seeds = {key: [run.settings.experiment.seed for run in runs] for key, runs in found.items()}
    assert seeds == {
        "fashion-mnist, LeNet-5, seeds 3, 1": [3, 1],
        "fashion-mnist, LeNet-5, seed 2": [2],
    }


def test_smoothing_goes_on_from_one_trunk_with_each_setting():
    chosen = {"alphas": [0.01, 50], "epsilons": [1e-19], "seeds": [4], "measure_epochs": [30]}
    (runs,) = runs_of("smoothing", parse_config({"smoothing": chosen}, Settings)).values()
    by_alpha, by_floor = (run.settings for run in runs)
    assert by_alpha.optimizer_names == ("sgd", "ngd alpha 0.01", "ngd alpha 50")
    assert by_floor.optimizer_names == ("sgd", "ngd epsilon 1e-19")
    assert by_alpha.optimizer_settings("ngd alpha 50", after_swap=True).alpha == 50
    floored = by_floor.optimizer_settings("ngd epsilon 1e-19", after_swap=True)
    assert (floored.epsilon, floored.alpha, floored.lr) == (1e-19, 0.1, 1e-3)
    assert floored.arithmetic == "published"
    assert by_floor.experiment.measure_epochs == [30]


def test_rates_multiply_sgds_after_the_swap_alone():
    found = runs_of("rates", Settings())
    assert list(found) == ["seeds 1, 2", "seeds 3, 4"]
    settings = found["seeds 3, 4"][1].settings
    assert settings.experiment.seed == 4
    assert settings.optimizer_names == ("sgd", "ngd", "sgd x10", "sgd x100")
    rates = [settings.optimizer_settings(n, after_swap=True).lr for n in settings.optimizer_names]
    assert rates == pytest.approx([1e-4, 1e-3, 1e-3, 1e-2])
    assert settings.optimizer_settings("sgd").lr == 1e-4


def test_overfitting_is_sampled_at_both_temperatures_and_trains_alike():
    found = runs_of("overfitting", Settings())
    assert list(found) == ["seed 1", "seed 2", "seed 3"]
    true, published = (run.settings for run in found["seed 3"])
    assert true.experiment == published.experiment
    assert true.experiment.experiment_type == "standard"
    assert (true.devinterp.nbeta, published.devinterp.nbeta) == ("dataset", "batch")
    assert (true.devinterp.localization, published.devinterp.localization) == (1e4, 100)


def test_the_full_config_has_so_many_runs():
    counts = {part: sum(map(len, runs_of(part, Settings()).values())) for part in PLANS}
    assert counts == {
        "sizes": 3 * 5,
        "smoothing": 2 * 3,
        "rates": 4,
        "overfitting": 2 * 3,
        "other_sizes": (3 * 3 + 2) * 5,
    }


def test_the_quick_config_has_two_seeds_of_each_part():
    quick = read_config(PROJECT / "experiments" / "args_paper_quick.json", Settings, "paper")
    for part in PLANS:
        found = {r.settings.experiment.seed for runs in runs_of(part, quick).values() for r in runs}
        assert found == {1, 2}, part


def test_a_part_without_seeds_has_no_run():
    left_out = {"seeds": []}
    settings = parse_config(
        {"sizes": [left_out], "smoothing": left_out, "rates": left_out, "overfitting": left_out},
        Settings,
    )
    assert [plans_of(settings, part) for part in PLANS if part != "other_sizes"] == [{}] * 4
    bare = {"smoothing": {"alphas": [], "epsilons": []}}
    assert plans_of(parse_config(bare, Settings), "smoothing") == {}
