"""The series of a run: shared checkpoints stand in all, findings say what each chain found."""

import json

import numpy as np
import pytest

from degeneracy.llc.statistics import summarise
from degeneracy.runs.results import (
    add_model,
    at,
    finding,
    llc_findings,
    parting_epoch,
    points_to_measure,
    put_findings,
    put_record,
    series_of,
)
from degeneracy.runs.store import Point

TITLE = "A model"


def results_of(experiment_type: str, names: list[str], measure_epochs="all") -> dict:
    """Results of three epochs, parting after the first in a swap, all trained."""
    experiment = {
        "experiment_type": experiment_type,
        "cut_off_epochs": 1,
        "num_epochs": 3,
        "measure_epochs": measure_epochs,
    }
    results = {"config": {"experiment": experiment}, "optimizers": names, "models": {}}
    add_model(results, TITLE, 10)
    for name in names:
        for epoch in range(parting_epoch(results["config"]), 4):
            put_findings(results, Point(TITLE, name, epoch), {"val_loss": 1.0})
    put_findings(results, Point(TITLE, names[0], 0), {"val_loss": 1.0})
    return results


def test_what_is_found_at_the_parting_stands_in_every_series_and_else_in_its_own():
    results = results_of("swap", ["a", "b", "c"])
    put_findings(results, Point(TITLE, "a", 1), {"llc": 5.0})
    put_findings(results, Point(TITLE, "b", 2), {"llc": 7.0, "of a later study": 1})
    llcs = {name: series["llc"] for name, series in results["models"][TITLE]["optimizers"].items()}
    assert llcs == {
        "a": [None, 5.0, None, None],
        "b": [None, 5.0, 7.0, None],
        "c": [None, 5.0, None, None],
    }
    series = series_of(results, Point(TITLE, "b", 0))
    assert series["of a later study"] == [None, None, 1, None]


def test_shared_checkpoints_are_measured_once_and_unreached_ones_never():
    results = results_of("swap", ["a", "b"])
    results["models"][TITLE]["optimizers"]["b"]["val_loss"][3] = None  # it diverged
    points = [(p.optimizer, p.epoch) for p in points_to_measure(results, TITLE)]
    assert points == [("a", 0), ("a", 1), ("a", 2), ("b", 2), ("a", 3)]
    final = results_of("standard", ["a", "b", "c"], "final")
    assert [p.optimizer for p in points_to_measure(final, TITLE)] == ["a", "b", "c"]
    chosen = results_of("standard", ["a", "b"], [0, 2])
    points = [(p.optimizer, p.epoch) for p in points_to_measure(chosen, TITLE)]
    assert points == [("a", 0), ("a", 2), ("b", 2)]


def test_what_an_optimizer_logged_becomes_series_nested_as_it_was():
    results = results_of("standard", ["a"])
    numbers = dict.fromkeys(("train_loss", "val_loss", "val_accuracy", "update_norm"), 0.5)
    counts = {"num_skipped_updates": 2, "num_restarts": 0}
    logged = {"kappa": {"w": {"0": 0.1}}, "trace": 9.0}
    record = {**numbers, **counts, "diverged": False, "logged": logged}
    put_record(results, Point(TITLE, "a", 2), record)
    series = series_of(results, Point(TITLE, "a", 2))
    assert series["kappa"] == {"w": {"0": [None, None, 0.1, None]}}
    assert series["trace"] == [None, None, 9.0, None]
    assert series["num_skipped_updates"] == [None, None, 2, None]
    assert series["diverged_epoch"] is None
    lost = {**dict.fromkeys(numbers), **counts, "diverged": True, "logged": {}}
    put_record(results, Point(TITLE, "a", 3), lost)
    assert series["diverged_epoch"] == 3


def test_findings_of_an_llc_are_json_and_say_what_each_chain_did():
    rng = np.random.default_rng(0)
    steady = 1.0 + 0.01 * rng.standard_normal(200)
    rising = np.linspace(0.0, 2.0, 200) + 0.01 * rng.standard_normal(200)
    lost = np.full(200, np.nan)
    estimate = summarise(np.stack([steady, rising, lost]), 0.5, 10.0, 100)
    found = llc_findings(estimate)
    json.dumps(found, allow_nan=False)
    assert found["llc"] == pytest.approx(estimate.llc)
    assert found["num_diverged_chains"] == 1
    assert found["num_unsettled_chains"] == 1
    verdicts = ["steady", "still rising", "diverged"]
    assert [chain["verdict"] for chain in found["llc_chains"]] == verdicts
    assert found["llc_chains"][0]["llc"] == pytest.approx(5.0, abs=0.1)
    assert found["llc_chains"][2]["llc"] is None
    alone = finding(estimate)
    json.dumps(alone, allow_nan=False)
    assert alone["chains"] == found["llc_chains"]
    assert alone["settled"] is False


def test_a_value_that_is_missing_or_not_finite_is_none():
    series = {"llc": [1.0, None, float("nan")]}
    assert [at(series, "llc", epoch) for epoch in range(4)] == [1.0, None, None, None]
    assert at(series, "wbic", 0) is None
