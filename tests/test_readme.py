"""Do the README and the pages in docs/ tell the truth? Their examples, commands, links, keys."""

import json
import re
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

import studies
from degeneracy.config.reader import parse_config
from degeneracy.models.networks import FFNN
from degeneracy.optimizers.settings import Kind
from degeneracy.runs.config import Config
from degeneracy.runs.results import CHAIN_SERIES, SERIES
from degeneracy.runs.store import FORMAT
from degeneracy.study import run_study
from degeneracy.training import evaluate

PROJECT = Path(__file__).resolve().parent.parent
README = PROJECT / "README.md"
PAGES = [README, PROJECT / "benchmarks" / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]
NAMED_PATH = re.compile(
    r"`((?:degeneracy|studies|experiments|benchmarks|tests|docs)/[\w./]*|\w+\.(?:py|json))`"
)
EXAMPLE_STUDY = "float32_sums"  # docs/own-work.md makes it and everything below its name


def examples(page: Path, language: str = "python") -> list[str]:
    """Its fenced blocks of this language, those without a file's name."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.S | re.M)


def slugs(page: Path) -> set[str]:
    """The anchors of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_has_at_most_a_thousand_words():
    assert len(README.read_text().split()) <= 1000


def test_the_readme_lists_every_study_with_its_command():
    rows = re.findall(r"^\| \[(.+)\]\((\S+)\) \| `make ([a-z-]+)`", README.read_text(), flags=re.M)
    named = {"ngd-sgd" if command == "run" else command for _, _, command in rows}
    assert named == {name.replace("_", "-") for name in studies.names()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_the_make_targets_a_page_names_exist(page):
    makefile = (PROJECT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z0-9-]+):", makefile, flags=re.M))
    targets |= {name.replace("_", "-") for name in [*studies.names(), EXAMPLE_STUDY]}
    assert set(re.findall(r"(?:`|^)make ([a-z0-9-]+)", page.read_text(), flags=re.M)) <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_what_a_page_links_to_exists(page):
    for target, anchor in re.findall(r"\]\((?!http)([^)#\s]*)#?([^)\s]*)\)", page.read_text()):
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), target
        assert not anchor or anchor in slugs(path), f"{target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_the_files_a_page_names_exist(page):
    beside = (PROJECT, PROJECT / "benchmarks", PROJECT / "experiments")
    run_files = {"config.json", "results.json"}
    shapes = {f"{name}.py" for name in ("settings", "measure", "figures", "findings", "__init__")}
    for path in set(NAMED_PATH.findall(page.read_text())) - run_files - shapes:
        if EXAMPLE_STUDY not in path:
            assert any((folder / path).exists() for folder in beside), path


def test_every_page_of_docs_is_linked_from_another():
    linked = {
        (page.parent / target).resolve()
        for page in PAGES
        for target in re.findall(r"\]\((?!http)([^)#\s]+)", page.read_text())
    }
    assert {page for page in PAGES if page != README} <= linked


def test_the_page_on_results_names_every_key_of_a_run():
    text = (PROJECT / "docs" / "results-json.md").read_text()
    keys = {*SERIES, *CHAIN_SERIES, "kappa", "cosine", "diverged_epoch"}
    keys |= {"format", "study", "status", "config", "environment", "timing_s", "nbeta"}
    keys |= {"train_size", "optimizers", "models", "parts", "llc_grid", "rescaling"}
    assert keys <= set(re.findall(r"`(\w+)`", text))
    assert f"format {FORMAT}" in text


def test_the_configs_it_shows_are_accepted():
    (shown,) = examples(README, "json")
    config = parse_config(json.loads(shown), Config)
    assert config.optimizer_names == ("sgd", "ngd_smooth", "adamw", "muon")
    assert config.optimizer_settings("ngd_smooth").alpha == 4.0


def small_problem() -> dict:
    torch.manual_seed(0)
    inputs, labels = torch.randn(200, 1, 4, 4), torch.randint(10, (200,))
    return {"torch": torch, "model": FFNN(4, 1, (1, 4, 4)), "inputs": inputs, "labels": labels}


def test_the_example_of_ngd_takes_a_step():
    names = small_problem()
    before = [p.detach().clone() for p in names["model"].parameters()]
    exec(examples(README)[0], names)
    assert not any(map(torch.equal, before, names["model"].parameters()))


def test_the_example_of_an_estimate_has_five_lines_and_runs(capsys):
    names, code = small_problem(), examples(README)[1]
    assert len(code.strip().splitlines()) == 5
    exec(code, names)
    assert len(names["e"].trace) == 8
    assert names["e"].verdict in capsys.readouterr().out


def test_the_example_of_curvature_has_five_lines_and_runs(capsys):
    names, code = small_problem(), examples(README)[2]
    assert len(code.strip().splitlines()) == 5
    exec(code, names)
    assert names["found"].std_error > 0
    assert "±" in capsys.readouterr().out


def test_the_example_of_own_optimizers_runs_and_is_reported_by_their_names(data_root, tmp_path):
    config = {
        "experiment": {
            "cut_off_epochs": 1,
            "num_epochs": 2,
            "measure_epochs": "final",
            "hidden_nodes": [16],
            "hidden_layers": [1],
        },
        "data": {"root": str(data_root), "batch_size": 1000},
        "devinterp": {"sampler": "sgld", "num_draws": 10},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    code = examples(README)[3].replace("args_ngd_sgd.json", str(tmp_path / "config.json"))
    exec(code.replace("experiments/ngd_sgd/own", str(tmp_path / "run")), {})
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    (model,) = results["models"].values()
    assert results["status"] == "complete"
    assert results["optimizers"] == ["sgd", "adamw"]
    assert all(series["llc"][2] is not None for series in model["optimizers"].values())
    assert "adamw" in (tmp_path / "run" / "report.html").read_text()


def own_work() -> list[str]:
    """The examples of docs/own-work.md: run, NGD, LLC, optimizer kind."""
    return examples(PROJECT / "docs" / "own-work.md")


def test_the_example_of_own_model_data_and_optimizers_measures_all_of_them(tmp_path):
    exec(own_work()[0].replace("experiments/ngd_sgd/mine", str(tmp_path / "run")), {})
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    series = results["models"]["My model"]["optimizers"]
    assert results["status"] == "complete"
    assert list(series) == ["sgd", "adamw"]
    for found in series.values():
        assert found["llc"][2] is not None
        assert found["hessian_trace"][2] is not None


def test_the_examples_of_ngd_and_the_llc_show_what_they_say(capsys):
    for code in own_work()[1:3]:
        exec(code, {})
    shown = capsys.readouterr().out
    assert shown.count("cosine to the gradient ") == 2
    assert "settled" in shown


def test_the_example_of_an_optimizer_kind_builds_a_stepper_that_lowers_the_loss():
    names = {"__name__": "rmsprop"}
    exec(own_work()[3], names)
    kind, problem = names["KIND"], small_problem()
    assert isinstance(kind, Kind)
    batch = problem["inputs"], problem["labels"]
    stepper = kind.build(problem["model"], cross_entropy, kind.settings(lr=0.01))
    before, _ = evaluate(problem["model"], batch)
    for _ in range(20):
        stepper.step(*batch)
    assert evaluate(problem["model"], batch)[0] < before


def test_the_example_of_a_study_runs_from_its_folder_alone(tmp_path, monkeypatch):
    text = (PROJECT / "docs" / "own-work.md").read_text()
    files = re.findall(r"^```python studies/(\S+)\n(.*?)^```", text, flags=re.S | re.M)
    assert len(files) == 5
    for name, code in files:
        path = tmp_path / "studies" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
    monkeypatch.setattr(studies, "__path__", [*studies.__path__, str(tmp_path / "studies")])
    study = studies.find(EXAMPLE_STUDY)
    report = run_study(study, parse_config({}, study.settings), tmp_path / "run", "cpu")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert list(results["parts"]["sums"]) == ["100", "10000"]
    assert "At most " in report.read_text()
