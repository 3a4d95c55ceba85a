"""Is a table whole before it is shown, and does a setting read as it was given?"""

import math

import pandas as pd
import pytest

from degeneracy.report.tables import (
    Table,
    check_colour,
    csv_table,
    csv_text,
    key_values,
    seconds,
    unbroken,
)


def test_a_cell_may_be_given_as_its_text_alone():
    table = Table("All", "", ["case", ("SGD", "#0072b2")], [["one", ("1.0", "epoch 3")]])
    assert table.head == [("case", ""), ("SGD", "#0072b2")]
    assert table.rows == [[("one", ""), ("1.0", "epoch 3")]]


def test_a_row_that_does_not_fit_its_head_is_refused():
    with pytest.raises(ValueError, match=r"table 'All': a row of 1 cells given.*'one'.*allowed: 2"):
        Table("All", "", ["case", "value"], [["zero", "0"], ["one"]])


@pytest.mark.parametrize("colour", ["sgd", "red; position: fixed", "#12345", "#0072b2 "])
def test_a_colour_that_is_none_is_refused(colour):
    with pytest.raises(ValueError, match=r"column 'SGD': colour .* given; allowed: #rrggbb"):
        Table("All", "", [("SGD", colour)], [])
    check_colour("#0072B2", "somewhere")
    check_colour("", "somewhere")


def test_nested_settings_are_joined_by_dots_and_read_as_json():
    section = {"alpha": 0.1, "nodes": [64, 256], "own": {"kind": "λ", "lr": None}, "on": True}
    assert key_values(section) == [
        ("alpha", "0.1"),
        ("nodes", "[64, 256]"),
        ("own.kind", '"λ"'),
        ("own.lr", "null"),
        ("on", "true"),
    ]


def test_times_are_in_seconds_and_a_dash_where_there_is_none():
    times = {"train": 1234.56, "llc": None, "total": float("nan")}
    assert seconds(times) == [("train", "1,234.6 s"), ("llc", "–"), ("total", "–")]


def test_a_number_stays_on_the_line_of_its_error_and_unit():
    assert unbroken("γ = 100: 43.6 ± 0.7, 95 % of it") == (
        "γ\u00a0=\u00a0100: 43.6\u00a0±\u00a00.7, 95\u00a0% of it"
    )


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_spreadsheet_takes_a_text_for_a_formula(start):
    assert csv_text(f"{start}1+1") == f"'{start}1+1"
    assert csv_text(f"FFNN {start}1") == f"FFNN {start}1"
    assert csv_text("") == ""


def test_no_text_of_a_csv_is_a_formula_and_numbers_stay_numbers():
    table = pd.DataFrame({"title": ["=1+1", None], "llc": [-1.23456789, math.nan], "seed": [-1, 2]})
    assert csv_table(table, digits=3) == "title,llc,seed\n'=1+1,-1.23,-1\n,,2\n"
    assert csv_table(table).splitlines()[1] == "'=1+1,-1.23456789,-1"
    assert table["title"][0] == "=1+1"
    assert csv_table(pd.DataFrame({"=x": [1]})) == "'=x\n1\n"
