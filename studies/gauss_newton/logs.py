"""Where is every step of a training seen? As CSV, as JSON, and in TensorBoard, in `logs/`.

A log is written from its rows, so that one that goes on has no step twice.
"""

import csv
import io
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from degeneracy.files import write_atomically
from degeneracy.runs.store import finite
from studies.gauss_newton.training import Row

FOLDER = "logs"


class Log:
    """The steps of one trajectory.

    Args:
        directory: The run's; the log lies in its `logs/`, TensorBoard's in `logs/tensorboard/`.
        key: The trajectory's.
        rows: What an earlier process saw, to be taken up.
    """

    def __init__(self, directory: Path, key: str, rows: Sequence[Row] = ()):
        # TensorBoard takes a second to import, and an analysis needs none of it
        from torch.utils.tensorboard import SummaryWriter

        name = re.sub(r"[^A-Za-z0-9.+-]+", "-", key)
        self.path = directory / FOLDER / name
        self.path.parent.mkdir(exist_ok=True)
        board = directory / FOLDER / "tensorboard" / name
        shutil.rmtree(board, ignore_errors=True)
        self.board = SummaryWriter(str(board))
        self.rows: list[Row] = []
        self.add(rows)

    def add(self, rows: Sequence[Row]) -> None:
        """Takes the rows of further steps."""
        for row in rows:
            self.rows.append(row)
            for name, value in row.items():
                if value is not None and name not in ("epoch", "iteration"):
                    self.board.add_scalar(name.replace(".", "/", 1), value, len(self.rows))

    def write(self) -> None:
        """Writes all of it; the files appear whole or not at all."""
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_atomically(self.path.with_name(self.path.name + ".csv"), text.getvalue().encode())
        content = json.dumps(finite(self.rows), indent=0, allow_nan=False).encode()
        write_atomically(self.path.with_name(self.path.name + ".json"), content)
        self.board.flush()

    def close(self) -> None:
        """Writes it for the last time."""
        self.write()
        self.board.close()
