"""What did the runs of a sweep find, as one table? A row a number, or a row a trained model.

`measurements`: one row a run × model × optimizer × checkpoint × quantity. `final_values`: one row a
run × model × optimizer, a column a quantity. Both have a column for each swept key; a failed run
has one row, with its reason and no values.
"""

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from degeneracy.files import write_atomically
from degeneracy.report.tables import csv_table
from degeneracy.sweeps.folder import State
from degeneracy.sweeps.grid import Planned, seed_keys
from degeneracy.texts import number

OF_RUN = ("seed", "run", "directory", "status", "reason")
OF_MODEL = ("model", "optimizer", "diverged_epoch")
OF_NUMBER = ("epoch", "is_final", "quantity", "value", "text")
ENDS = {"llc_interval": ("llc_interval_low", "llc_interval_high")}  # pairs, as two quantities
SETTLED = ("train_size", "nbeta")  # numbers of a whole run that a reader of its LLCs needs

Row = dict[str, Any]
Record = tuple[Planned, str, State]  # a run, its directory as the table says it, what became of it


def measurements(records: Sequence[Record]) -> pd.DataFrame:
    """One row a number or text that was measured: `quantity` and its `value` or `text`.

    `epoch` is that of the checkpoint; `is_final` marks the last one at which the quantity was
    measured, unless that training diverged, which then has no final values.
    """
    rows = []
    for run, directory, state in records:
        about = _about(run, directory, state)
        found = list(numbers_of(state.results)) if state.results is not None else []
        rows += [about | row for row in found or [{}]]
    columns = dict.fromkeys([*_swept(records), *OF_RUN, *OF_MODEL, *OF_NUMBER])
    return _typed(pd.DataFrame(rows, columns=[*columns]), _swept(records))


def final_values(records: Sequence[Record]) -> pd.DataFrame:
    """One row a trained model, with a column for each quantity's final value.

    A quantity that has a text and a number somewhere, keeps the number.
    """
    rows, quantities = [], {}
    for run, directory, state in records:
        about = _about(run, directory, state)
        models: dict[tuple, Row] = {}
        for found in numbers_of(state.results) if state.results is not None else ():
            key = found["model"], found["optimizer"]
            row = models.setdefault(key, about | {name: found[name] for name in OF_MODEL})
            if found["is_final"]:
                value = found["text"] if found["value"] is None else found["value"]
                row[found["quantity"]] = value
                quantities[found["quantity"]] = None
        settled = {name: state.results[name] for name in SETTLED if name in (state.results or {})}
        rows += [row | settled for row in models.values()] or [about]
        quantities |= dict.fromkeys(settled)
    columns = dict.fromkeys([*_swept(records), *OF_RUN, *OF_MODEL, *quantities])
    return _typed(pd.DataFrame(rows, columns=[*columns]), _swept(records))


def _about(run: Planned, directory: str, state: State) -> Row:
    own = {"seed": _seed(run), "run": run.name, "directory": directory}
    return {**run.changes, **own, "status": state.status, "reason": state.reason}


def _seed(run: Planned) -> int | None:
    """The run's seed, swept or not; the first one where a study has several."""
    value: Any = run.settings.model_dump(mode="json")
    keys = seed_keys(type(run.settings))
    for name in keys[0].split(".") if keys else ():
        value = value[name]
    return value if keys else None


def _swept(records: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(key for run, _, _ in records for key in run.changes))


def _typed(table: pd.DataFrame, swept: Iterable[str]) -> pd.DataFrame:
    """One type a column, so that Parquet can keep it: what is mixed or a list is JSON text."""
    for key in swept:
        table[key] = one_type(table[key].tolist())
    for column in ("seed", "diverged_epoch", "epoch"):
        if column in table:
            table[column] = table[column].astype("Int64")
    if "is_final" in table:
        table["is_final"] = table["is_final"].astype("boolean")
        table["value"] = table["value"].astype("float64")
        table["text"] = table["text"].astype("str")
    own = {*swept, *OF_RUN, *OF_MODEL, *OF_NUMBER}
    for column in set(table.columns) - own:
        values = table[column].tolist()
        if any(isinstance(value, str) for value in values):
            table[column] = [None if pd.isna(value) else str(value) for value in values]
        else:
            table[column] = table[column].astype("float64")
    return table


def one_type(values: list[Any]) -> pd.Series:
    """Numbers as numbers, texts as texts, true and false as such; else every value as JSON."""
    kinds = {bool if isinstance(value, bool) else type(value) for value in values}
    if kinds <= {int, float} or kinds in ({bool}, {str}):
        return pd.Series(values, dtype="float64" if float in kinds else None)
    return pd.Series([json.dumps(value) for value in values], dtype="object")


# ---- the numbers in results ----------------------------------------------------------------------


def numbers_of(results: Mapping[str, Any]) -> Iterator[Row]:
    """Every number and text in a run's results: series over epochs, or the cases of parts.

    Lists, apart from an interval's ends, and what is nested inside a series are left to
    `results.json`.
    """
    for title, model in results.get("models", {}).items():
        for name, series in model["optimizers"].items():
            about = {"model": title, "optimizer": name}
            about |= {"diverged_epoch": series.get("diverged_epoch")}
            for row in _of_series(series):
                yield about | row
    for part, cases in results.get("parts", {}).items():
        for case, found in cases.items():
            about = {"model": f"{part}: {case}", "optimizer": None, "diverged_epoch": None}
            for quantity, value in _leaves(found):
                yield about | {"epoch": None, "is_final": True, **_as_row(quantity, value)}


def _of_series(series: Mapping[str, Any]) -> Iterator[Row]:
    """The rows of one optimizer's series, quantity by quantity."""
    for quantity, values in series.items():
        if not isinstance(values, list):
            continue
        rows = [
            {"epoch": epoch, **row}
            for epoch, value in enumerate(values)
            for row in _rows_at(quantity, value)
        ]
        last = max((row["epoch"] for row in rows), default=None)
        if series.get("diverged_epoch") is not None:
            last = None
        yield from (row | {"is_final": row["epoch"] == last} for row in rows)


def _rows_at(quantity: str, value: Any) -> list[Row]:
    """A checkpoint's entry of a series: one row, two of an interval, none where it is no number."""
    if quantity in ENDS:
        pairs = zip(ENDS[quantity], value or (), strict=False)
        return [_as_row(name, end) for name, end in pairs if end is not None]
    return [_as_row(quantity, value)] if isinstance(value, (int, float, str)) else []


def _as_row(quantity: str, value: float | str) -> Row:
    is_text = isinstance(value, str)
    text = value if is_text else None
    return {"quantity": quantity, "value": None if is_text else float(value), "text": text}


def _leaves(found: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of the numbers and texts in nested objects."""
    if isinstance(found, Mapping):
        for key, inner in found.items():
            yield from _leaves(inner, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(found, (int, float, str)):
        yield prefix, found


# ---- writing -------------------------------------------------------------------------------------


def write_table(table: pd.DataFrame, folder: Path, name: str) -> None:
    """Writes `<name>.csv` and `<name>.parquet`, each whole or not at all."""
    write_atomically(folder / f"{name}.csv", csv_table(table).encode())
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False, engine="pyarrow")
    write_atomically(folder / f"{name}.parquet", buffer.getvalue())


def default_quantity(final: pd.DataFrame) -> str | None:
    """What a report draws unless it is told: the LLC, else a loss, else the first number there."""
    names = [name for name in quantities_of(final) if name not in SETTLED]
    wanted = [name for name in ("llc", "val_loss", "train_loss") if name in names]
    return next(iter([*wanted, *names]), None)


def quantities_of(final: pd.DataFrame) -> list[str]:
    """The numbers that `final_values` has columns of."""
    columns = list(final.columns)
    names = columns[columns.index("diverged_epoch") + 1 :]
    return [name for name in names if any(number_or_none(v) is not None for v in final[name])]


def number_or_none(value: Any) -> float | None:
    """A finite number as such; None for texts and what is missing."""
    return None if isinstance(value, str) or pd.isna(value) else number(value)
