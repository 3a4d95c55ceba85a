"""A sweep's runs are the product of its axes, each once, and what is wrong is refused by name."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

import studies
from degeneracy.config.section import Section
from degeneracy.sweeps.grid import (
    Axis,
    SweepError,
    changed,
    combinations,
    parse_grid,
    parse_seeds,
    parse_zip,
    planned,
    run_name,
    seed_keys,
)

NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2)
    ),
    max_leaves=6,
)
KEYS = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=3, unique=True)


@st.composite
def axes(draw):
    """One to three axes, each of one or two keys and up to three different steps."""
    keys = draw(st.lists(st.sampled_from("abcdef"), min_size=3, max_size=6, unique=True))
    cuts = draw(st.lists(st.integers(1, 2), min_size=1, max_size=3))
    found = []
    for width in cuts:
        own, keys = tuple(keys[:width]), keys[width:]
        count = draw(st.integers(1, 3))
        if own:
            found.append(Axis(own, tuple((step,) * len(own) for step in range(count))))
    return found


@given(axes())
def test_the_combinations_are_the_product_each_once(axes):
    found = list(combinations(axes))
    assert len(found) == math.prod(len(axis.steps) for axis in axes)
    assert len({json.dumps(one) for one in found}) == len(found)
    for axis in axes:
        seen = {tuple(one[key] for key in axis.keys) for one in found}
        assert seen == set(axis.steps)


@given(st.lists(JSON, min_size=1, max_size=4, unique_by=lambda v: json.dumps(v, sort_keys=True)))
def test_values_are_read_as_the_json_that_they_are(values):
    text = ",".join(json.dumps(value) for value in values)
    (axis,) = parse_grid(f"section.key={text}")
    assert axis.keys == ("section.key",)
    assert [step for (step,) in axis.steps] == values


@given(st.dictionaries(st.sampled_from("abcd"), st.integers()), KEYS, st.integers())
def test_a_change_leaves_every_other_key_and_the_config_itself_as_they_are(content, path, value):
    before = json.dumps(content)
    key = ".".join([f"outer_{path[0]}", *path[1:]])
    now = changed(content, {key: value})
    assert json.dumps(content) == before
    assert {name: now[name] for name in content} == content
    for name in key.split("."):
        now = now[name]
    assert now == value


@given(axes())
def test_no_two_runs_have_one_name(axes):
    found = list(combinations(axes))
    names = [run_name(n, len(found), one, axes) for n, one in enumerate(found, start=1)]
    assert len({*names}) == len(names)
    assert all("/" not in name and not name.startswith(".") for name in names)


def test_words_need_no_quotes_and_lists_are_one_value():
    assert parse_grid("data.dataset=mnist, fashion-mnist")[0].steps == (
        ("mnist",),
        ("fashion-mnist",),
    )
    assert parse_grid("experiment.hidden_nodes=[16],[16, 8]")[0].steps == (([16],), ([16, 8],))
    assert parse_grid("a.b=null,true,1e-3")[0].steps == ((None,), (True,), (0.001,))


def test_zipped_keys_go_together():
    axis = parse_zip("data.dataset=mnist,cifar10,experiment.num_epochs=5,20")
    assert list(combinations([axis])) == [
        {"data.dataset": "mnist", "experiment.num_epochs": 5},
        {"data.dataset": "cifar10", "experiment.num_epochs": 20},
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("experiment.alpha=", "experiment.alpha has no values"),
        ("experiment.alpha", "KEY=VALUE,VALUE"),
        ("experiment.alpha=0.1,", "ends in a comma"),
        ("experiment.alpha=0.1,,0.2", "is no value"),
        ("experiment.alpha=[0.1", "is no value"),
        ("experiment.alpha=0.1,0.1", "0.1 is there twice"),
    ],
)
def test_a_grid_that_cannot_be_read_is_refused(text, said):
    with pytest.raises(SweepError, match=said):
        parse_grid(text)


def test_a_zip_of_different_lengths_is_refused_with_the_lengths():
    with pytest.raises(SweepError, match=r"a\.b 2 values, c\.d 1 value given"):
        parse_zip("a.b=1,2,c.d=3")
    with pytest.raises(SweepError, match="at least two keys"):
        parse_zip("a.b=1,2")


def test_seeds_are_numbers_and_ranges(schema):
    axis = parse_seeds("1-3,7", schema)
    assert axis.keys == ("experiment.seed",)
    assert axis.steps == ((1,), (2,), (3,), (7,))
    for text in ("", "3-1", "-1", "1.5", "1,1", "one"):
        with pytest.raises(SweepError, match="--seeds"):
            parse_seeds(text, schema)


def test_the_seed_of_a_study_is_that_of_training_or_else_all_that_it_has():
    keys = {name: seed_keys(studies.find(name).settings) for name in studies.names()}
    assert keys["ngd_sgd"] == keys["phase_transitions"] == ("experiment.seed",)
    assert keys["ngd_directions"] == ("training.seed",)
    assert keys["min_singular_models"] == (
        "linear.seed", "normal_crossings.seed", "deep_linear.seed",
    )  # fmt: skip


def test_a_study_without_a_seed_has_no_seeds_to_sweep():
    class Seedless(Section):
        number: int = Field(1)

    with pytest.raises(SweepError, match="no seed"):
        parse_seeds("1", Seedless)


# ---- checked against a study's settings ----------------------------------------------------------


def test_every_run_has_its_own_settings(tiny, schema):
    axes = [*parse_grid("experiment.alpha=0.01,0.1"), parse_seeds("1-3", schema)]
    runs = planned(tiny, schema, axes, "args.json")
    settings = [(run.settings.experiment.alpha, run.settings.experiment.seed) for run in runs]
    assert settings == [(a, s) for a in (0.01, 0.1) for s in (1, 2, 3)]
    assert all(run.settings.experiment.num_epochs == 3 for run in runs)
    assert runs[1].name == "2_alpha-0.01_seed-2"


def test_a_published_config_which_is_a_list_is_swept_too():
    schema = studies.find("ngd_sgd").settings
    (run,) = planned([{"num_epochs": 15}, {}, {}], schema, parse_grid("experiment.alpha=4"), "args")
    assert (run.settings.experiment.num_epochs, run.settings.experiment.alpha) == (15, 4)


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ("experiment.alhpa=0.1", "did you mean experiment.alpha"),
        ("nothing.alpha=0.1", "nothing: unknown"),
        ("experiment.alpha=0.1,-1", r"-1 given; allowed: .*\n.*in experiment.alpha=-1"),
        ("experiment.num_epochs=3,1", r"cut_off_epochs: .*\n.*in experiment.num_epochs=1"),
        ("experiment.alpha=0.1,0.10", "there twice"),
        ("experiment.sgd_swap_lr=null,experiment.seed=1,1.0", "there twice|experiment.seed"),
        ("study=ngd_sgd", "study: is no setting"),
        ("experiment.alpha.more=1", "object|number"),
    ],
)
def test_a_combination_that_is_refused_is_named(tiny, schema, grid, said):
    with pytest.raises(SweepError, match=said):
        planned(tiny, schema, parse_grid(grid), "args.json")


def test_a_key_is_swept_once_and_something_is(tiny, schema):
    twice = [*parse_grid("experiment.seed=1,2"), parse_seeds("1-2", schema)]
    with pytest.raises(SweepError, match=r"experiment\.seed: set by two options"):
        planned(tiny, schema, twice, "args.json")
    with pytest.raises(SweepError, match="nothing is swept"):
        planned(tiny, schema, [], "args.json")


def test_a_problem_of_many_combinations_is_told_once_with_how_many(tiny, schema):
    axes = [*parse_grid("experiment.alpha=-1,0.1"), parse_seeds("1-4", schema)]
    with pytest.raises(SweepError) as error:
        planned(tiny, schema, axes, "args.json")
    assert str(error.value).count("experiment.alpha: -1 given") == 1
    assert "and 3 more of 8 combinations" in str(error.value)
