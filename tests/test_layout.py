"""Does every part lie where it should, import downwards only, and stay short enough to read?"""

import ast
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

PROJECT = Path(__file__).resolve().parent.parent
OURS = ("degeneracy", "studies", "benchmarks", "tests")
TOP_LEVEL = {"ngd", "utils_general", "utils_hessian_fim", "experiment", "sweep"}
FACES = ("utils_general", "utils_hessian_fim")
COMMANDS = ("experiment", "sweep")
FILES_OF_A_STUDY = ("__init__.py", "settings.py", "measure.py", "figures.py", "findings.py")
LINE, FUNCTION = 100, 60

MODULES = [*PROJECT.glob("*.py"), *(f for folder in OURS for f in (PROJECT / folder).rglob("*.py"))]
STUDIES = [path.parent for path in (PROJECT / "studies").glob("*/__init__.py")]


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def name(path: Path) -> str:
    return str(path.relative_to(PROJECT))


def imported(path: Path) -> set[str]:
    """The first parts of the names of all modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module.split(".")[0])
    return found


def functions(node: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for inner in ast.walk(node):
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
            yield inner


def num_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """From `def` to its end, without the docstring."""
    first = function.body[0]
    has_docstring = ast.get_docstring(function) is not None
    docstring = first.end_lineno - first.lineno + 1 if has_docstring else 0
    return function.end_lineno - function.lineno + 1 - docstring


def test_the_contracts_of_imports_are_kept(capsys):
    """Studies above degeneracy, no study in another, no face below, packages in layers."""
    status = lint_imports(config_filename=str(PROJECT / "pyproject.toml"), no_cache=True)
    report = capsys.readouterr().out
    assert status == 0, report
    assert "Contracts: 4 kept, 0 broken." in report


def test_a_contract_that_is_broken_is_seen(tmp_path, monkeypatch, capsys):
    """The same contracts, on packages in which a study imports a study, and a library a study."""
    for package in ("upper", "upper/one", "upper/two", "lower"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("")
    (tmp_path / "upper" / "one" / "measure.py").write_text("import upper.two\n")
    (tmp_path / "lower" / "__init__.py").write_text("import upper.one\nimport utils_general\n")
    contracts = (PROJECT / "pyproject.toml").read_text(encoding="utf-8")
    contracts = contracts[contracts.index("[tool.importlinter]") :]
    contracts = contracts[: contracts.rindex("[[")]  # the layers inside degeneracy
    contracts = contracts.replace("studies", "upper").replace("degeneracy", "lower")
    (tmp_path / "pyproject.toml").write_text(contracts)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert lint_imports(config_filename="pyproject.toml", no_cache=True) == 1
    assert "Contracts: 0 kept, 3 broken." in capsys.readouterr().out


def test_at_most_five_modules_lie_at_the_top():
    assert {path.stem for path in PROJECT.glob("*.py")} <= TOP_LEVEL


def test_the_optimizer_imports_nothing_of_ours():
    local = {*OURS, *TOP_LEVEL}
    assert "torch" in imported(PROJECT / "ngd.py")
    assert imported(PROJECT / "ngd.py") & local == set()


@pytest.mark.parametrize("path", sorted(PROJECT.glob("*.py")), ids=name)
def test_no_module_at_the_top_imports_a_face_or_a_command(path):
    assert imported(path) & {*FACES, *COMMANDS} == set()


@pytest.mark.parametrize("face", FACES)
def test_a_face_gathers_names_and_has_no_code_of_its_own(face):
    docstring, *rest = tree(PROJECT / f"{face}.py").body
    assert isinstance(docstring.value, ast.Constant)
    *imports, names = rest
    assert {type(node) for node in imports} == {ast.ImportFrom}
    assert isinstance(names, ast.Assign)
    assert ast.unparse(names.targets[0]) == "__all__"
    given = [alias.asname or alias.name for node in imports for alias in node.names]
    assert sorted(ast.literal_eval(names.value)) == sorted(given)


@pytest.mark.parametrize("study", STUDIES, ids=name)
def test_a_study_has_the_five_files_of_every_study(study):
    assert {path.name for path in study.glob("*.py")} >= set(FILES_OF_A_STUDY)


def test_a_study_measures_without_drawing():
    """Measuring, figures and findings meet in results.json only."""
    for study in STUDIES:
        source = tree(study / "measure.py")
        modules = {node.module for node in ast.walk(source) if isinstance(node, ast.ImportFrom)}
        drawn = [m for m in modules if m.endswith((".figures", ".findings")) or ".report" in m]
        assert drawn == [], name(study)


def test_no_line_is_longer_than_100_characters():
    long = [
        f"{name(path)}:{number}"
        for path in MODULES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if sum(not unicodedata.combining(character) for character in line) > LINE
    ]
    assert long == [], "\n".join(long)


def test_no_function_is_longer_than_60_lines_without_its_docstring():
    found = [(name(path), function) for path in MODULES for function in functions(tree(path))]
    long = [
        f"{file}:{function.lineno} {function.name}"
        for file, function in found
        if num_lines(function) > FUNCTION
    ]
    assert long == [], "\n".join(long)


def test_every_module_begins_with_what_it_is_for():
    without = [name(path) for path in MODULES if not ast.get_docstring(tree(path))]
    assert without == []


def test_tests_lie_as_the_packages_that_they_test():
    """`tests/degeneracy/llc/` tests `degeneracy/llc/`; no folder of tests is of a package gone."""
    folders = {path.parent for path in (PROJECT / "tests").rglob("test_*.py")}
    there = [folder.relative_to(PROJECT / "tests") for folder in folders]
    assert [str(folder) for folder in there if not (PROJECT / folder).is_dir()] == []


def test_no_module_hides_one_of_pythons_own():
    """`studies/listing.py` and the notebooks run with their own folder first in the path."""
    beside = [*(PROJECT / "studies").iterdir(), *(PROJECT / "experiments").iterdir()]
    own = {path.stem for path in beside if path.is_dir() or path.suffix == ".py"}
    assert own & set(sys.stdlib_module_names) == set()
