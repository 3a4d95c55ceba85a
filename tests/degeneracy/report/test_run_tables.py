"""Do a run's tables and its CSV hold the numbers of the results, for any number of optimizers?"""

import csv
import io

import pytest
from synthetic_results import diverge, set_final, synthetic_run

from degeneracy.report.run_tables import MAX_CHAINS, chains_table, metrics_table, series_csv
from degeneracy.report.style import optimizer_colours
from degeneracy.runs.results import SERIES
from degeneracy.texts import label

TITLE = "FFNN 2 HL, 256 HN"
FOUR = ("sgd", "ngd", "adamw", "my opt <b>")


def texts(row):
    return [text for text, _ in row]


@pytest.mark.parametrize("optimizers", [("adamw",), ("sgd", "ngd"), FOUR])
def test_the_metrics_have_a_column_an_optimizer_in_its_colour(optimizers):
    results, _ = synthetic_run(kind="standard", optimizers=optimizers)
    table = metrics_table(TITLE, results)
    labels = [label(name) for name in optimizers]
    colours = optimizer_colours(optimizers)
    assert table.head[1:] == list(zip(labels, colours.values(), strict=True))
    rows = {row[0][0]: row[1:] for row in table.rows}
    series = [results["models"][TITLE]["optimizers"][name] for name in optimizers]
    assert texts(rows["Training loss"]) == [f"{one['train_loss'][-1]:#.4g}" for one in series]


def test_the_metrics_say_when_a_number_is_of_an_earlier_epoch():
    results, _ = synthetic_run(kind="standard")
    diverge(results, TITLE, "sgd", 3)
    rows = {row[0][0]: row[1:] for row in metrics_table(TITLE, results).rows}
    assert [small for _, small in rows["Validation loss"]] == ["epoch 2", ""]


def test_the_metrics_name_what_chains_did_and_that_r_hat_is_blind():
    results, _ = synthetic_run(measured="final")
    counts = {"num_unsettled_chains": 2, "num_diverged_chains": 1}
    set_final(results, TITLE, "sgd", llc_acceptance=0.931, **counts)
    set_final(results, TITLE, "ngd", llc_acceptance=None)
    rows = {row[0][0]: row for row in metrics_table(TITLE, results).rows}
    assert texts(rows["MALA acceptance"]) == ["MALA acceptance", "0.931", "–"]
    assert texts(rows["Unsettled chains"])[1] == "2"
    assert texts(rows["Diverged chains"])[1] == "1"
    assert "blind here, because all chains start at w*" in rows["R-hat"][0][1]


def test_the_table_of_chains_shows_each_chain_diverged_ones_too():
    results, _ = synthetic_run()
    chains = [{"llc": None, "verdict": "diverged"}, {"llc": 43.21, "verdict": "still rising"}]
    set_final(results, TITLE, "sgd", llc_chains=chains)
    set_final(results, TITLE, "ngd", llc_chains=[{"llc": 55.0, "verdict": "steady"}] * 3)
    table = chains_table(TITLE, results)
    head = ["chain", "SGD λ̂, epoch 20", "verdict", "NGD λ̂, epoch 20", "verdict"]
    assert texts(table.head) == head
    assert list(map(texts, table.rows)) == [
        ["1", "–", "diverged", "55.00", "steady"],
        ["2", "43.21", "still rising", "55.00", "steady"],
        ["3", "–", "", "55.00", "steady"],
    ]
    assert "SGD 1 diverged, 1 still rising; NGD 3 steady" in table.note


def test_the_table_of_many_chains_is_short_and_counts_all():
    results, _ = synthetic_run(num_chains=25, num_draws=10, measured="final")
    set_final(results, TITLE, "sgd", llc_chains=[{"llc": 43.2, "verdict": "steady"}] * 25)
    table = chains_table(TITLE, results)
    assert len(table.rows) == MAX_CHAINS
    assert "SGD 25 steady" in table.note


def test_without_chains_there_is_no_table_of_them():
    assert chains_table(TITLE, synthetic_run(measured=[])[0]) is None


def test_the_csv_equals_the_results():
    titles = ("model, with a comma", 'and "quotes"')
    results, _ = synthetic_run(titles=titles, optimizers=FOUR)
    rows = list(csv.DictReader(io.StringIO(series_csv(results))))
    assert len(rows) == 2 * 4 * 21
    for row in rows:
        series = results["models"][row["title"]]["optimizers"][row["optimizer"]]
        for key in SERIES:
            expected = series[key][int(row["epoch"])]
            assert row[key] == "" if expected is None else float(row[key]) == expected
        chains = series["llc_chains"][int(row["epoch"])] or ()
        assert row["llc_chains"] == "; ".join(chain["verdict"] for chain in chains)
    assert set(rows[0]) == {"title", "optimizer", "epoch", *SERIES, "llc_chains"}


def test_a_title_in_the_csv_is_no_formula():
    results, _ = synthetic_run()
    results["models"] = {"=HYPERLINK(1)": results["models"][TITLE]}
    rows = list(csv.DictReader(io.StringIO(series_csv(results))))
    assert {row["title"] for row in rows} == {"'=HYPERLINK(1)"}
