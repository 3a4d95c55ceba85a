"""Are the cosines of sketched steps what the dense block says, and does the page tell them?"""

import doctest
import json
import math

import pytest
import torch
from section_alone import alone

from degeneracy.config.reader import ConfigError, parse_config
from degeneracy.study import run_study
from studies.natural_gradients.seng import SECTION
from studies.natural_gradients.seng import directions as module
from studies.natural_gradients.seng.directions import (
    VARIANTS,
    cosine,
    directions,
    layers_of,
    sketch_cosines,
)
from studies.natural_gradients.seng.figures import KEY, figures, pooled
from studies.natural_gradients.seng.findings import card, first_good, tables
from studies.natural_gradients.seng.settings import Settings

STUDY, _ = alone("seng", SECTION, Settings())


@pytest.fixture(scope="module")
def finished(data_root, tmp_path_factory, device):
    given = {"root": str(data_root), "hidden_nodes": 8, "hidden_layers": 1, "batch_size": 32}
    given |= {"num_steps": 5, "sketches": [4, 785], "num_sketches": 2, "seeds": [3, 4]}
    out = tmp_path_factory.mktemp("seng") / "run"
    run_study(STUDY, parse_config({"seng": given}, STUDY.settings), out, device)
    return out


@pytest.fixture
def part(finished):
    return json.loads((finished / "results.json").read_text())["parts"]["seng"]


@pytest.fixture
def layers():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3))
    model.double()
    return layers_of(model, torch.randn(20, 6, dtype=torch.float64), torch.arange(20) % 3)


def test_directions_are_those_of_dense_blocks(layers):
    for (gradient, terms), found in zip(layers, directions(layers, 0.1), strict=True):
        columns = (terms.deltas.mT @ terms.inputs).flatten(1).T / math.sqrt(20)
        block = columns @ columns.T + 0.1 * torch.eye(len(columns), dtype=torch.float64)
        expected = torch.linalg.solve(block, gradient.flatten())
        assert (found.flatten() - expected).norm() <= 1e-10 * expected.norm()


def test_with_all_coordinates_a_sketch_is_exact_and_the_root_trick_is_not(layers):
    found = sketch_cosines(layers, 0.1, [7], 2, seed=0)
    assert found.keys() == VARIANTS.keys()
    for variant in ("unbiased", "published"):
        assert found[variant]["7"] == pytest.approx([1, 1], abs=1e-12)
    assert max(found["root"]["7"]) < 0.999
    without = cosine(directions(layers, 0.1), directions(layers, 0.1, root_trick=True))
    assert found["root"]["7"] == pytest.approx([without, without], abs=1e-12)


def test_every_seed_has_its_cosines_and_times(part):
    assert list(part) == ["seed 3", "seed 4"]
    for seed in part.values():
        assert -1 <= seed["gradient"] < 1
        assert seed["cosines"]["unbiased"]["785"] == pytest.approx([1, 1], abs=1e-5)
        assert all(seconds > 0 for seconds in seed["seconds"].values())
        assert seed["seconds"].keys() == {"exact", "4", "785"}


def test_the_page_tells_what_was_found(finished, part):
    page = (finished / "report.html").read_text()
    assert f'id="figure-{KEY}"' in page
    assert "keeps a cosine of at least 0.9 from q = 785 on" in card(part).headline
    assert len(tables(part)[0].rows) == 3


def test_what_is_only_partly_there_is_told_of(part):
    assert figures({}) == []
    assert card({}).headline == "Nothing has been measured yet."
    seed = part["seed 3"]
    seed["cosines"]["published"] = {"4": [None, math.nan]}
    seed |= {"gradient": None, "root_without_sketch": None, "seconds": {}}
    one = {"seed 3": seed}
    assert "published scaling it was not measured" in card(one).headline
    assert "no times" in card(one).text[-1]
    assert figures(one)
    assert tables(one)[0].rows[1][2] == ("–", "")
    assert pooled(one, "published", "4") == []


@pytest.mark.parametrize(
    ("root", "said"),
    [
        (0.2, "less than"),
        (0.45, "about as much as"),
        (0.55, "about as much as"),
        (0.9, "more than"),
    ],
)
def test_the_root_product_is_told_beside_the_gradient(part, root, said):
    for seed in part.values():
        seed |= {"gradient": 0.5, "root_without_sketch": root}
    expected = f"gives {root:.2f} without a sketch, {said} the plain gradient (0.50)"
    assert expected in card(part).headline


@pytest.mark.parametrize(
    ("found", "first"),
    [
        ({"4": 0.95, "8": 0.5, "16": 0.91}, "16"),
        ({"4": 0.95, "8": 0.92}, "4"),
        ({"4": 0.1}, None),
        ({}, None),
    ],
)
def test_a_sketch_is_good_from_where_all_larger_ones_are(found, first):
    assert first_good(found) == first


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"damping": 0.0}, "damping"),
        ({"sketches": [0]}, "sketches"),
        ({"sketches": [786]}, "at most 785"),
        ({"seeds": [1, 1]}, "each once"),
    ],
)
def test_what_makes_no_sense_is_refused(given, said):
    with pytest.raises(ConfigError, match=said):
        parse_config({"seng": given}, STUDY.settings)


def test_the_examples_hold():
    assert doctest.testmod(module).failed == 0
