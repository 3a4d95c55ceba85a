"""What is a table of a report? Texts in cells, each with a smaller one below it, and rows of
settings.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from degeneracy.texts import number

FORMULAS = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for the start of one
Cell = str | tuple[str, str]  # a text, or (text, smaller text below it)


@dataclass(frozen=True)
class Table:
    """A table as the page shows it. A cell may be given as its text alone.

    Raises ValueError where a row has not as many cells as the head, and for a colour that is none.
    """

    caption: str
    note: str  # stands below the caption
    head: Sequence[Cell]  # (text, its colour as #rrggbb or "")
    rows: Sequence[Sequence[Cell]]  # (text, smaller text or "")
    row_headers: bool = False  # whether the first cell of a row says what the row is

    def __post_init__(self):
        head, rows = _pairs(self.head), [_pairs(row) for row in self.rows]
        for text, colour in head:
            check_colour(colour, f"table {self.caption!r}, column {text!r}")
        for row in rows:
            if len(row) != len(head):
                raise ValueError(
                    f"table {self.caption!r}: a row of {len(row)} cells given, beginning with"
                    f" {row[:1]}; allowed: {len(head)}, as in its head"
                )
        object.__setattr__(self, "head", head)
        object.__setattr__(self, "rows", rows)

    def markdown(self) -> str:
        """Head and rows as Markdown, without the smaller texts."""
        head = [text for text, _ in self.head]
        rows = [[text for text, _ in row] for row in self.rows]
        lines = [head, ["---"] * len(head), *rows]
        escaped = ([cell.replace("|", "\\|") for cell in cells] for cells in lines)
        return "\n".join(f"| {' | '.join(cells)} |" for cells in escaped)


def check_colour(colour: str, where: str) -> None:
    """Raises ValueError unless `colour` is `#rrggbb` or empty, which is the colour of the text."""
    if colour and not re.fullmatch(r"#[0-9a-fA-F]{6}", colour):
        raise ValueError(f"{where}: colour {colour!r} given; allowed: #rrggbb, or nothing")


def key_values(section: Mapping, prefix: str = "") -> list[tuple[str, str]]:
    """(key, value as JSON) of a section of a config, keys of nested objects joined by dots."""
    rows = []
    for key, value in section.items():
        if isinstance(value, Mapping):
            rows += key_values(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", json.dumps(value, ensure_ascii=False, default=str)))
    return rows


def seconds(timing_s: Mapping[str, float | None]) -> list[tuple[str, str]]:
    """(what took the time, `61.2 s`), with a dash for what was not measured or not finished."""
    return [
        (key, "–" if number(value) is None else f"{value:,.1f} s")
        for key, value in timing_s.items()
    ]


def unbroken(text: str) -> str:
    """`text` without line breaks inside `γ = 100`, `43.6 ± 0.7` and `95 %`."""
    spaces = {" = ": "\u00a0=\u00a0", " ± ": "\u00a0±\u00a0", " %": "\u00a0%"}
    for broken, kept in spaces.items():
        text = text.replace(broken, kept)
    return text


def csv_text(text: str) -> str:
    """`text` as a cell of a CSV that no spreadsheet takes for a formula: with ' before it where it
    begins like one.
    """
    return f"'{text}" if text.startswith(FORMULAS) else text


def csv_table(table: pd.DataFrame, digits: int | None = None) -> str:
    """A table as CSV, a row a line: texts by `csv_text`, floats to `digits` significant ones."""
    texts = [name for name in table.columns if not pd.api.types.is_numeric_dtype(table[name])]
    safe = table.copy()
    for name in texts:
        safe[name] = [csv_text(cell) if isinstance(cell, str) else cell for cell in table[name]]
    safe.columns = [csv_text(str(name)) for name in table.columns]
    return safe.to_csv(index=False, float_format=None if digits is None else f"%.{digits}g")


def _pairs(cells: Sequence[Cell]) -> list[tuple[str, str]]:
    return [(cell, "") if isinstance(cell, str) else cell for cell in cells]
