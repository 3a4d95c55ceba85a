"""Which studies are there, what does each ask, and where are its notebook, config and report?

    python3 studies/listing.py [--folder DIR]                every study, its minutes, its question
    python3 studies/listing.py [--folder DIR] notebook NAME  the path of its notebook
    python3 studies/listing.py [--folder DIR] config NAME    the path of its default config
    python3 studies/listing.py report NOTEBOOK               the report that a notebook wrote

`make` asks before there is a virtual environment, so nothing is imported but the standard library:
a study's declaration, `STUDY = Study(name=…, question=…, …)`, is read without being run.
"""

import argparse
import ast
import difflib
import json
import sys
from dataclasses import dataclass
from pathlib import Path

READ = ("name", "question", "minutes", "notebook", "config")  # of a declaration


class ListingError(ValueError):
    """What was asked for cannot be said; the message names the file and what is wrong with it."""


@dataclass(frozen=True)
class Declared:
    """What a study's folder says of it, as `degeneracy.study.Study` has it.

    Attributes:
        name: Its folder.
        question: What it asks, in one line.
        minutes: What it takes with its default config on two cores.
        notebook, config: Paths from the project's folder.
    """

    name: str
    question: str
    minutes: float
    notebook: str = ""
    config: str = ""

    @property
    def target(self) -> str:
        """What one gives to `make`."""
        return self.name.replace("_", "-")

    @property
    def notebook_path(self) -> str:
        """The notebook that tells the study's story."""
        return self.notebook or f"experiments/eval_{self.name}.ipynb"

    @property
    def config_path(self) -> str:
        """The config that the notebook reads by default."""
        return self.config or f"experiments/args_{self.name}.json"


def declared_in(file: Path) -> Declared:
    """What the `__init__.py` of a study declares.

    Raises:
        ListingError: It declares no study, or not with its own folder's name, or in a form that
            only running it would tell.
    """
    found = [
        node.value
        for node in ast.parse(file.read_text(encoding="utf-8"), str(file)).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "STUDY"
    ]
    if len(found) != 1 or not isinstance(found[0], ast.Call):
        raise ListingError(f"{file}: no study; a study's folder says `STUDY = Study(name=…, …)`")
    given = {keyword.arg: keyword.value for keyword in found[0].keywords if keyword.arg in READ}
    if missing := [key for key in ("name", "question", "minutes") if key not in given]:
        raise ListingError(f"{file}: STUDY has no {', '.join(missing)}")
    values = {key: _written_out(file, key, value) for key, value in given.items()}
    if values["name"] != file.parent.name:
        raise ListingError(
            f"{file}: name={values['name']!r} given; allowed: the folder's, {file.parent.name!r}"
        )
    return Declared(**values)


def _written_out(file: Path, key: str, value: ast.expr) -> str | float:
    try:
        return ast.literal_eval(value)
    except ValueError:
        raise ListingError(
            f"{file}: {key}={ast.unparse(value)} given; allowed: a value that is written out,"
            " for the list of studies reads it without running it"
        ) from None


def studies_in(folder: Path) -> list[Declared]:
    """Every study in `folder`, by name. Raises what `declared_in` raises."""
    return [declared_in(file) for file in sorted(folder.glob("*/__init__.py"))]


def find(folder: Path, name: str) -> Declared:
    """The study that `make` or Python calls `name`; raises `ListingError` where there is none."""
    found = {study.name: study for study in studies_in(folder)}
    name = name.replace("-", "_")
    if name not in found:
        near = difflib.get_close_matches(name, found, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ListingError(f"study: {name!r} given; {hint}allowed: {', '.join(found)}")
    return found[name]


def table(found: list[Declared]) -> str:
    """A line for each study: its target, its minutes, its question."""
    width = max((len(study.target) for study in found), default=0)
    return "\n".join(
        f"{study.target:<{width}}  {study.minutes:>4g} min  {study.question}" for study in found
    )


def report_of(notebook: Path) -> str:
    """The path that an executed notebook printed after `report: `, the last one.

    Raises:
        ListingError: It printed none.
    """
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    printed = ["".join(output["text"]) for output in outputs if output.get("name") == "stdout"]
    lines = "".join(printed).splitlines()
    reports = [line.removeprefix("report: ") for line in lines if line.startswith("report: ")]
    if not reports:
        raise ListingError(f"{notebook}: it printed no line `report: PATH`")
    return reports[-1]


def main(arguments: list[str] | None = None) -> int:
    """Prints what was asked for; exit status 2 where it cannot be said."""
    parser = argparse.ArgumentParser(description="Which studies are there?")
    parser.add_argument("--folder", type=Path, default=Path(__file__).resolve().parent)
    parser.add_argument("what", nargs="?", choices=["list", "notebook", "config", "report"])
    parser.add_argument("name", nargs="?", help="the study, or the executed notebook of a report")
    options = parser.parse_args(arguments)
    what = options.what or "list"
    if (what == "list") != (options.name is None):
        parser.error("a name goes with notebook, config and report, and with nothing else")
    try:
        if what == "list":
            print(table(studies_in(options.folder)))
        elif what == "report":
            print(report_of(Path(options.name)))
        elif what == "notebook":
            print(find(options.folder, options.name).notebook_path)
        else:
            print(find(options.folder, options.name).config_path)
    except ListingError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
