"""The tables have every number once, with what was swept; page and files say the same."""

import copy
import math

import pandas as pd
import pytest

from degeneracy.sweeps.folder import definition, state_of
from degeneracy.sweeps.grid import parse_grid, parse_seeds, parse_zip, planned
from degeneracy.sweeps.report import swept_names, write_report
from degeneracy.sweeps.table import (
    default_quantity,
    final_values,
    measurements,
    one_type,
    quantities_of,
    write_table,
)

TITLE = "FFNN 1 HL, 8 HN"


def series(llcs, diverged=None):
    """Series of one optimizer over three epochs."""
    return {
        "train_loss": [2.0, 1.0, 0.5],
        "llc": llcs,
        "llc_interval": [None if llc is None else [llc - 1, llc + 1] for llc in llcs],
        "llc_verdict": [None, None, "local" if llcs[-1] else None],
        "llc_chains": [[{"llc": 1.0}], None, None],
        "kappa": {"weight": [1.0, 2.0, 3.0]},
        "diverged_epoch": diverged,
    }


def results(llc, diverged=None):
    both = {"sgd": series([1.0, None, 3.0]), "ngd": series([1.0, None, llc], diverged)}
    return {
        "models": {TITLE: {"num_parameters": 10, "optimizers": both}},
        "nbeta": 100.0,
        "train_size": 9,
    }


@pytest.fixture
def axes(schema):
    return [*parse_grid("experiment.alpha=0.1,10"), parse_seeds("1-2", schema)]


@pytest.fixture
def records(tiny, schema, axes):
    """Four runs: two that finished, one that diverged, one that failed."""
    runs = planned(tiny, schema, axes, "args.json")
    states = [
        state_of(results(20.0), []),
        state_of(results(22.0), []),
        state_of(results(None, diverged=1), []),
        state_of(
            None, [{"outcome": "failed", "reason": "OSError: no room\nat all", "seconds": 1.0}]
        ),
    ]
    return [(run, f"runs/{run.name}", state) for run, state in zip(runs, states, strict=True)]


def test_every_measured_number_has_one_row(records):
    table = measurements(records)
    first = table[(table["run"] == records[0][0].name) & (table["optimizer"] == "ngd")]
    assert not first.duplicated(["model", "optimizer", "epoch", "quantity"]).any()
    losses = first[first["quantity"] == "train_loss"]
    assert losses["value"].tolist() == [2.0, 1.0, 0.5]
    assert losses["is_final"].tolist() == [False, False, True]
    llcs = first[first["quantity"] == "llc"]
    assert llcs["epoch"].tolist() == [0, 2]
    ends = first[first["quantity"].isin(["llc_interval_low", "llc_interval_high"])]
    assert sorted(ends[ends["is_final"]]["value"]) == [19.0, 21.0]
    assert first[first["quantity"] == "llc_verdict"]["text"].tolist() == ["local"]
    assert set(table["quantity"].dropna()) == {
        *("train_loss", "llc", "llc_interval_low", "llc_interval_high", "llc_verdict")
    }


def test_a_row_tells_what_was_swept_its_seed_and_its_directory(records):
    for table in (measurements(records), final_values(records)):
        row = table[table["run"] == records[1][0].name].iloc[0]
        assert (row["experiment.alpha"], row["experiment.seed"], row["seed"]) == (0.1, 2, 2)
        assert row["directory"] == f"runs/{records[1][0].name}"
        assert row["status"] == "finished"


def test_a_final_value_is_the_last_one_and_a_diverged_training_has_none(records):
    table = final_values(records).set_index(["run", "optimizer"])
    names = [run.name for run, _, _ in records]
    assert table.loc[(names[0], "ngd"), "llc"] == 20.0
    assert table.loc[(names[0], "sgd"), "llc"] == 3.0
    assert table.loc[(names[2], "sgd"), "llc"] == 3.0
    assert math.isnan(table.loc[(names[2], "ngd"), "train_loss"])
    assert table.loc[(names[2], "ngd"), "diverged_epoch"] == 1
    assert table.loc[(names[2], "ngd"), "status"] == "diverged"


def test_a_failed_run_has_a_row_with_its_reason_and_no_values(records):
    for table in (measurements(records), final_values(records)):
        (row,) = table[table["run"] == records[3][0].name].to_dict("records")
        assert row["status"] == "failed"
        assert row["reason"].startswith("OSError: no room")
        assert pd.isna(row["model"])


def test_a_study_of_parts_has_a_row_a_case(tiny, schema):
    (run,) = planned(tiny, schema, parse_grid("experiment.alpha=0.1"), "args.json")
    cases = {
        "r = 2": {"llc": 1.0, "hessian_rank": {"value": 2, "nodes": [1, 2]}, "family": "linear"}
    }
    found = final_values([(run, "runs/a", state_of({"parts": {"linear": cases}}, []))])
    (row,) = found.to_dict("records")
    assert row["model"] == "linear: r = 2"
    assert (row["llc"], row["hessian_rank.value"], row["family"]) == (1.0, 2.0, "linear")


def test_csv_and_parquet_hold_the_same(records, tmp_path):
    for name, table in (("all", measurements(records)), ("final", final_values(records))):
        write_table(table, tmp_path, name)
        parquet = pd.read_parquet(tmp_path / f"{name}.parquet")
        csv = pd.read_csv(tmp_path / f"{name}.csv")
        assert list(parquet.columns) == list(csv.columns) == list(table.columns)
        assert len(parquet) == len(csv) == len(table)
        for column in table.columns:
            ours = [None if pd.isna(v) or v == "" else v for v in parquet[column]]
            read = [None if pd.isna(v) else v for v in csv[column]]
            assert ours == read, column


def test_a_column_has_one_type_whatever_was_swept():
    assert one_type([1, 0.5]).tolist() == [1.0, 0.5]
    assert one_type(["a", "b"]).tolist() == ["a", "b"]
    assert one_type([True, False]).dtype == bool
    assert one_type([[16], [8, 8]]).tolist() == ["[16]", "[8, 8]"]
    assert one_type([None, 0.1]).tolist() == ["null", "0.1"]
    assert one_type(["batch", 100.0]).tolist() == ['"batch"', "100.0"]


def test_the_llc_is_drawn_unless_another_quantity_is_asked_for(records):
    final = final_values(records)
    assert default_quantity(final) == "llc"
    assert default_quantity(final.drop(columns="llc")) == "train_loss"
    assert "llc_verdict" not in quantities_of(final)


def written(records, axes, tiny, folder, quantity=None):
    runs = [run for run, _, _ in records]
    defined = definition("phase_transitions", tiny, axes, runs)
    return write_report(folder, defined, final_values(records), axes, quantity).read_text()


def test_the_page_counts_draws_and_tells_the_failures(records, axes, tiny, tmp_path):
    page = written(records, axes, tiny, tmp_path)
    assert "3 of 4 runs finished, 1 of them with a training that diverged. 1 failed: the" in page
    assert "OSError: no room" in page
    assert f"{TITLE} ngd diverged in epoch 1" in page
    assert 'id="figure-by-1"' in page
    assert 'id="figure-by-2"' not in page  # all seeds are in the one figure


def test_a_page_without_any_number_says_so(records, axes, tiny, tmp_path):
    nothing = [(run, directory, state_of(None, [])) for run, directory, _ in records]
    assert "0 of 4 runs finished." in written(nothing, axes, tiny, tmp_path)
    assert "lcc was not measured; there is train_loss" in written(
        records, axes, tiny, tmp_path, "lcc"
    )


def test_every_kind_of_axis_has_its_figure(tiny, schema, records, tmp_path):
    axes = [
        parse_zip("experiment.hidden_nodes=[8],[16],experiment.sgd_lr=0.01,0.1"),
        *parse_grid("experiment.nesterov=true,false"),
        *parse_grid("experiment.sgd_swap_lr=null,0.5"),
        parse_seeds("1-2", schema),
    ]
    runs = planned(tiny, schema, axes, "args.json")
    found = copy.deepcopy(results(20.0))
    records = [(run, f"runs/{run.name}", state_of(found, [])) for run in runs]
    page = written(records, axes, tiny, tmp_path)
    assert swept_names(axes)[-1] == "experiment.seed"
    assert [f'id="figure-by-{place}"' in page for place in range(1, 6)] == [True] * 4 + [False]


def test_where_only_seeds_are_swept_they_have_the_figure(tiny, schema, tmp_path):
    axes = [parse_seeds("1-3", schema)]
    runs = planned(tiny, schema, axes, "args.json")
    records = [(run, "runs/a", state_of(results(20.0), [])) for run in runs]
    assert "llc against experiment.seed" in written(records, axes, tiny, tmp_path)
