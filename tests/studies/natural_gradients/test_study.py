"""Does the study do all its sections, show each, and lose nothing to a failure or a second call?"""

import json
import shutil
from dataclasses import replace
from importlib import import_module

import pytest
from executed_notebook import execute
from markupsafe import escape

import degeneracy.study
from degeneracy.config.reader import parse_config
from degeneracy.runs.work import Part
from degeneracy.study import PartError, finish, measure, open_work, run_study
from degeneracy.sweeps.folder import State
from studies.natural_gradients import STUDY
from studies.natural_gradients.figures import study_figures
from studies.natural_gradients.findings import findings
from studies.natural_gradients.sections import SECTIONS
from studies.natural_gradients.settings import Settings


@pytest.fixture(scope="module")
def tiny_config(data_root):
    """All sections in some seconds; two descents of one layer to a loss that both soon pass."""
    root = str(data_root)
    return {
        "overparameterised": {
            **{"size": 8, "dim": 4, "widths": [32], "lrs": [0.5], "num_steps": 3},
            **{"angles": [0.1, 0.0], "pair_width": 32, "max_steps": 10, "num_seeds": 1},
        },
        "energy": {
            **{"width": 3, "cuts": [1e-3], "corrected_cuts": [1e-3, 1e-5], "num_seeds": 1},
            **{"cut_steps": 2, "rule_steps": 2, "problems": ["heat"], "problem_steps": 2},
            **{"adam_steps": 3, "bfgs_steps": 3},
        },
        "states": {
            **{"mixture_cells": 60, "mixture_starts": 1, "mixture_steps": 2, "side": 32},
            **{"transport_components": 2, "transport_steps": 1, "inverse_side": 6},
            **{"natural_steps": 2, "gradient_steps": 2, "gp_points": 20, "gp_inducing": 4},
            **{"gp_rates": [1.0], "gp_steps": 2, "gp_adam_steps": 2},
        },
        "seng": {
            **{"root": root, "hidden_nodes": 4, "hidden_layers": 1, "batch_size": 8},
            **{"num_steps": 2, "sketches": [4], "num_sketches": 2, "seeds": [1]},
        },
        "sp_ngd": {
            **{"root": root, "hidden_nodes": 4, "hidden_layers": 1, "batch_size": 100},
            **{"target_loss": 2.0, "seeds": [1], "max_steps": 20, "batch_sizes": [100]},
            **{"alphas": [0.0, 0.4], "num_samples": 800, "pool": 14, "max_ranks": 2},
        },
        "dually_flat": {
            **{"cases": [{"classes": 2, "sizes": [3]}], "num_samples": 200, "num_heldout": 100},
            **{"seeds": [1], "compared_batches": [4], "compared_samples": 100},
        },
        "comparison": {
            **{"root": root, "num_images": 200, "pooled": 14, "hidden_nodes": 2},
            **{"hidden_layers": 1, "batch_size": 50, "seeds": [1], "loss": 2.4},
            **{"num_chains": 2, "num_draws": 20, "runs": {"at_once": 1}},
            "choices": [
                {"optimizer": "sgd", "lrs": [0.1], "max_steps": 200},
                {"optimizer": "ngd", "lrs": [0.1], "max_steps": 200},
            ],
        },
    }


def in_this_process(sweep, find, resources, retries):
    """The runs of a sweep one after the other, without Ray; what the comparison's own test does."""
    states = []
    for run in sweep.runs:
        out = sweep.directory / "runs" / run.name
        run_study(find("descents"), run.settings, out, "cpu")
        states.append(State("finished", "", 0.0, 1, read(out)))
    return sweep.directory / "sweep.html", states


def failing(work):
    yield next(iter(work.todo(["seed 1"]))), 1 / 0


def measured(study, config, out):
    """Opens, measures all, finishes; the page is written once, not after each part."""
    work = open_work(study, parse_config(config, Settings), out, "cpu")
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(degeneracy.study, "page", lambda work: None)
            comparison = import_module("studies.natural_gradients.comparison.measure")
            patch.setattr(comparison, "run_sweep", in_this_process)
            measure(work)
    finally:
        finish(work)


@pytest.fixture(scope="module")
def broken(tiny_config, tmp_path_factory):
    """The directory of a run in which SENG failed."""
    out = tmp_path_factory.mktemp("natural_gradients") / "run"
    study = replace(STUDY, parts={**STUDY.parts, "seng": Part(failing, needs=())})
    with pytest.raises(PartError, match="the part seng failed, ZeroDivisionError"):
        measured(study, tiny_config, out)
    return out


@pytest.fixture(scope="module")
def finished(broken, tiny_config):
    """Another directory, in which a second call went on where the first one had failed."""
    out = broken.parent / "finished" / "run"
    shutil.copytree(broken, out)
    measured(STUDY, tiny_config, out)
    return out


def read(directory):
    return json.loads((directory / "results.json").read_text())


def page_of(directory):
    return (directory / "report.html").read_text().replace("\u00a0", " ")


def test_every_section_stands_on_the_page_with_card_and_figures(finished):
    results, page = read(finished), page_of(finished)
    assert results["status"] == "complete"
    assert set(results["parts"]) == set(SECTIONS)
    cards = findings(results).cards
    assert len(cards) == len(SECTIONS)
    for card in cards:
        assert str(escape(card.headline)) in page
        assert str(escape(card.title)) in page
    keys = [drawing.key for one in study_figures(results, {}) for drawing in one.drawings]
    assert len(set(keys)) == len(keys)
    for key in keys:
        assert page.count(f'id="figure-{key}"') == 1
    own = {
        name: {d.key for d in SECTIONS[name].figures(of)} for name, of in results["parts"].items()
    }
    for name, drawn in own.items():
        assert drawn, name
        assert all(key.startswith(f"{name.replace('_', '-')}-") for key in drawn)


def test_the_comparison_comes_first_and_its_runs_went(finished):
    results = read(finished)
    card = findings(results).cards[0]
    assert card.title == SECTIONS["comparison"].card({}).title
    (seed,) = results["parts"]["comparison"].values()
    assert [row["optimizer"] for row in seed["rows"]] == ["sgd", "ngd"]
    assert {row["status"] for row in seed["rows"]} == {"finished"}
    assert all(row["passage"]["loss"] <= 2.4 for row in seed["rows"])


def test_a_verdict_as_text_opens_with_its_headline_and_keeps_what_qualifies_it(finished):
    for name, part in read(finished)["parts"].items():
        card = SECTIONS[name].card(part)
        lines = card.told().split("\n")
        assert lines[0] == card.headline
        assert lines[1 : 1 + len(card.text)] == list(card.text)
        assert lines[1 + len(card.text) :] == [note.line for note in card.notes]


def test_a_section_that_fails_hides_no_other(broken):
    results, page = read(broken), page_of(broken)
    assert results["status"] != "complete"
    assert "ZeroDivisionError" in page
    others = [name for name in SECTIONS if name != "seng"]
    assert [name for name in SECTIONS if results["parts"].get(name)] == others
    for name in others:
        assert str(escape(SECTIONS[name].card(results["parts"][name]).headline)) in page


def test_a_second_call_measures_what_failed_and_nothing_again(broken, finished):
    """Process seconds would be others."""
    before, after = read(broken)["parts"], read(finished)["parts"]
    assert list(after["seng"]) == ["seed 1"]
    for name in before.keys() - {"seng"}:
        assert before[name] == after[name]
    assert "failures" not in read(finished)


@pytest.mark.slow  # a kernel of its own, which writes the page after each of seven sections
def test_the_notebook_shows_every_figure_and_tells_every_verdict(finished, tiny_config, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    outputs, out = execute("eval_natural_gradients", tiny_config, tmp_path)
    parts = read(finished)["parts"]
    count = sum(len(SECTIONS[name].figures(part)) for name, part in parts.items())
    shown = ["application/vnd.plotly.v1+json" in output.get("data", {}) for output in outputs]
    assert sum(shown) == count
    text = "".join(output.get("text", "") for output in outputs)
    for name, part in parts.items():
        assert SECTIONS[name].card(part).headline in text
    assert f"report: {out / 'report.html'}" in text
