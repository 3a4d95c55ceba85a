"""Pieces of an atlas give together what one run of it gives; pieces of two plans are refused."""

import copy
import json

import pytest
from atlas_results import atlas_results

from studies.atlas.contrasts import contrasts_of, is_complete, rows_of
from studies.atlas.export import main
from studies.atlas.joined import joined


def piece(whole, seeds, models):
    """The part of results that a run of these seeds and networks would have."""
    found = copy.deepcopy(whole)
    factorial = found["config"]["factorial"]
    factorial["seeds"] = [*seeds]
    factorial["thorough_seeds"] = []
    layers = {f"{m['hidden_layers']}×{m['hidden_nodes']}": m for m in factorial["models"]}
    factorial["models"] = [layers[name] for name in models]
    parts = found["parts"]
    parts["runs"] = {
        key: group
        for key, group in parts["runs"].items()
        if key in {f"{name}, seed {seed}" for name in models for seed in seeds}
    }
    parts["rates"] = {k: v for k, v in parts["rates"].items() if k.split(", ")[1] in models}
    return found


@pytest.fixture
def whole():
    return atlas_results(seeds=range(1, 11))


@pytest.fixture
def pieces(whole):
    return [
        ("a", piece(whole, range(1, 6), ["2×256"])),
        ("b", piece(whole, range(6, 11), ["2×256"])),
        ("c", piece(whole, range(1, 11), ["8×64"])),
    ]


def test_pieces_together_are_the_whole(whole, pieces):
    found = joined(pieces)
    assert {json.dumps(row) for row in rows_of(found)} == {
        json.dumps(row) for row in rows_of(whole)
    }
    assert found["parts"]["rates"] == whole["parts"]["rates"]
    assert is_complete(found) == is_complete(whole)
    for one, other in zip(contrasts_of(found), contrasts_of(whole), strict=True):
        assert one.by_seed == other.by_seed
        assert one.adjusted == other.adjusted


def test_no_piece_is_altered(pieces):
    before = copy.deepcopy(pieces)
    joined(pieces)
    assert pieces == before


def test_a_key_that_a_config_leaves_out_is_its_default(pieces):
    del pieces[0][1]["config"]["factorial"]["models"][0]["nbeta"]
    (model, _) = joined(pieces)["config"]["factorial"]["models"]
    assert model["nbeta"] == "dataset"


def altered(results, key, value):
    results["config"]["factorial"][key] = value
    return results


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dataset", "fashion-mnist"),
        ("num_images", 3_200),
        ("batch_size", 32),
        ("max_epochs", 30),
        ("annealing_epochs", 2),
        ("optimizers", ["sgd", "adamw"]),
        ("pairs", "same"),
        ("fractions", [0.5]),
        ("window", [0.05, 0.02]),
        ("margin", 0.1),
    ],
)
def test_pieces_of_two_plans_are_refused(pieces, key, value):
    altered(pieces[1][1], key, value)
    with pytest.raises(ValueError, match=rf"a and b are of two plans: factorial\.{key}"):
        joined(pieces)


def test_pieces_of_two_searches_are_refused(pieces):
    pieces[1][1]["config"]["search"]["reach"] = 0.3
    with pytest.raises(ValueError, match="a and b found their rates by two rules"):
        joined(pieces)


def test_a_network_sampled_in_two_ways_is_refused(pieces):
    pieces[1][1]["config"]["factorial"]["models"][0]["localization"] = 1.0
    with pytest.raises(ValueError, match="2×256 is sampled with several settings"):
        joined(pieces)


def test_another_largest_rate_is_refused(pieces):
    pieces[1][1]["parts"]["rates"]["sgd, 2×256"]["rate"] = 0.2
    with pytest.raises(ValueError, match=r"b found 0\.2 as the largest stable rate of sgd, 2×256"):
        joined(pieces)


def test_of_runs_that_two_pieces_have_the_later_ones_count(pieces):
    again = piece(pieces[0][1], [1], ["2×256"])
    again["config"]["factorial"]["models"][0]["num_draws"] = 180
    rows = again["parts"]["runs"]["2×256, seed 1"]["rows"]
    for row in rows:
        row["seconds"] = 1e4
    turned = joined([("again", again), *pieces])
    assert turned["parts"]["runs"]["2×256, seed 1"]["rows"] != rows
    assert len(turned["config"]["factorial"]["models"]) == 2
    found = joined([*pieces, ("again", again)])
    assert found["parts"]["runs"]["2×256, seed 1"]["rows"] == rows
    assert len(rows_of(found)) == len(rows_of(joined(pieces)))
    assert found["config"] == joined(pieces)["config"]


def test_what_is_no_run_of_the_atlas_is_a_sentence(tmp_path, capsys):
    (tmp_path / "results.json").write_text('{"study": "paper"}')
    assert main([str(tmp_path), str(tmp_path / "docs")]) == 2
    assert "a run of 'paper' given; allowed: run directories of atlas" in capsys.readouterr().err
    assert not (tmp_path / "docs").exists()
