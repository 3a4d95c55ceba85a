"""Are `runs.csv` and what docs/ show one row a checkpoint, and one a run and optimizer?"""

import json

import pandas as pd
import pytest
from paper_results import LAST, MEASURED, failed_row, made_results, made_row

from studies.paper import export
from studies.paper.tables import runs_table


def test_runs_have_a_row_for_each_known_epoch(results):
    table = runs_table(results)
    one = table[(table.part == "sizes") & (table.seed == 3) & (table.hidden_nodes == 64)]
    sgd = one[one.optimizer == "sgd"]
    assert list(sgd.epoch) == list(range(LAST + 1))
    assert list(sgd[sgd.llc.notna()].epoch) == list(MEASURED)
    assert one[one.optimizer == "ngd"].kappa.iloc[-1] == pytest.approx(2e-7, rel=1e-6)


def test_a_failed_run_has_one_row_with_its_reason():
    table = runs_table(made_results(sizes={"seed 1": [failed_row("sgd", 1), made_row("ngd", 1)]}))
    (row,) = table[table.optimizer == "sgd"].to_dict("records")
    assert row["reason"] == "OutOfMemoryError: no room"
    assert pd.isna(row["epoch"])


def test_nothing_measured_is_an_empty_table(results):
    empty = results | {"parts": {}}
    assert runs_table(empty).empty
    assert list(export.final_table(empty)) == [*export.ABOUT, *export.VALUES]


def test_docs_show_the_last_epoch_of_each_run_and_optimizer(results):
    table = export.final_table(results)
    assert set(table.epoch) == {LAST, 10}
    one = table[(table.part == "rates") & (table.optimizer == "sgd x10") & (table.seed == 2)]
    assert one.llc.item() == pytest.approx(20 + 16 + 3 + 0.8)
    assert one.lr.item() == 1e-3
    per_seed = 4 + (3 + 2 + 1) + 3 + 4 + 2  # SGD's trunk of smoothing once
    assert len(table) == 5 * per_seed


def test_another_studys_run_is_refused(tmp_path, capsys):
    (tmp_path / "results.json").write_text(json.dumps({"study": "ngd_sgd"}))
    assert export.main([str(tmp_path), str(tmp_path / "out")]) == 2
    assert "a run of 'ngd_sgd' given; allowed: run directories of paper" in capsys.readouterr().err
