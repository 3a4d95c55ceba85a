"""What do docs/ show of a run of the atlas? The table of runs, its figures, its tables as Markdown.

    python -m studies.atlas.export RUN_DIRECTORY… docs/results

writes `atlas.csv`, one row a run, and `atlas-….png`, and prints sentences and tables. A run that is
not finished is taken as far as it is; several, of other seeds or networks, are taken together, and
of a network and seed that two have the later one's runs. The figures need Chromium and
`make venv-dev`.
"""

import argparse
import sys
from pathlib import Path

from degeneracy.files import write_atomically
from degeneracy.report.pictures import draw
from degeneracy.runs.results_file import results_of
from studies.atlas.figures import atlas_figures
from studies.atlas.findings import findings, tidy_csv
from studies.atlas.joined import joined


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    parser = argparse.ArgumentParser(description="Writes what docs/ show of a run of the atlas.")
    parser.add_argument("run", nargs="+", type=Path, help="run directories of the study `atlas`")
    parser.add_argument("folder", type=Path, help="where to, such as docs/results")
    options = parser.parse_args(arguments)
    try:
        results = joined([(str(run), results_of(run, "atlas")) for run in options.run])
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    options.folder.mkdir(parents=True, exist_ok=True)
    write_atomically(options.folder / "atlas.csv", tidy_csv(results).encode())
    found = findings(results)
    for card in found.cards:
        print(f"**{card.headline}**", *card.text, *(note.line for note in card.notes), sep="\n\n")
    for table in found.tables:
        print(f"\n{table.caption}\n\n{table.markdown()}")
    drawings = [drawing for section in atlas_figures(results, {}) for drawing in section.drawings]
    for path in draw(drawings, options.folder, "atlas-"):
        print(path, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
