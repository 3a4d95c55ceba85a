"""Is a JSON file read into a schema, or refused with every problem at once, however nested?"""

import copy
import json
import pickle
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AfterValidator, Field

from degeneracy.config.reader import ConfigError, parse_config, read_config, read_json, study_name
from degeneracy.config.section import Section, rule, with_defaults


@rule("low", "high")
def low_is_below_high(low: float, high: float) -> str | None:
    return f"{low} given; allowed: below high, {high}" if low >= high else None


class Range(Section):
    """Two ends."""

    rules = (low_is_below_high,)

    low: float = Field(0, ge=-10, description="Lower end.")
    high: float = Field(1, le=10, description="Upper end.")
    unit: Literal["m", "s"] = Field("m", description="Unit.")


def _even(value: int) -> int:
    if value % 2:
        raise ValueError("allowed: even numbers")
    return value


class Layer(Section):
    """One layer."""

    width: int = Field(ge=1, description="Units.")
    size: Annotated[int, AfterValidator(_even)] = Field(2, description="Even.")
    range: Range = Field(default_factory=Range, description="Of its weights.")


class Square(Section):
    """A kind of figure."""

    kind: Literal["square"] = Field("square", description="Kind.")
    side: float = Field(1, gt=0, description="Side.")


class Circle(Section):
    """Another kind."""

    kind: Literal["circle"] = Field("circle", description="Kind.")
    radius: float = Field(1, gt=0, description="Radius.")


Figures = dict[str, Annotated[Square | Circle, Field(discriminator="kind")]]


@rule("steps.low", "widths.count", "layers")
def enough_layers(low: float, count: int, layers: list) -> str | None:
    return f"{low} given with {count} and {len(layers)} layers" if low + count < 0 else None


@rule("figures")
def figures_are_small(figures: dict) -> dict[str, str]:
    return {
        f"figures.{name}.side": "too large"
        for name, figure in figures.items()
        if figure.get("side", 0) > 5
    }


class Widths(Section):
    """A count."""

    count: int = Field(3, description="How many.")


class Toy(Section):
    """A schema with sections in sections, in lists and by name."""

    rules = (enough_layers, figures_are_small)

    steps: Range = Field(default_factory=Range)
    widths: Widths = Field(default_factory=Widths)
    layers: list[Layer] = Field([Layer(width=1)], min_length=1, max_length=3)
    figures: Figures = Field(default_factory=dict)


class Published(Toy):
    """The same, with a published form."""

    published_form = ("steps", "widths")


def problems_of(content: object, schema: type[Section] = Toy) -> list[str]:
    with pytest.raises(ConfigError) as error:
        parse_config(content, schema)
    return error.value.problems


def written(tmp_path, content: bytes):
    file = tmp_path / "args.json"
    file.write_bytes(content)
    return file


# ---- accepted ------------------------------------------------------------------------------------


def test_what_is_left_out_has_its_default():
    assert parse_config({}, Toy) == Toy()
    content = {"layers": [{"width": 7, "range": {"low": -1}}], "figures": {"a": {"kind": "circle"}}}
    toy = parse_config(content, Toy)
    assert toy.layers == [Layer(width=7, range=Range(low=-1))]
    assert toy.figures == {"a": Circle()}
    assert parse_config(toy.model_dump(mode="json"), Toy) == toy


def test_schema_and_study_are_accepted_and_are_no_settings():
    content = {"$schema": "s.json", "study": "toy", "widths": {"count": 4}}
    assert parse_config(content, Toy) == Toy(widths=Widths(count=4))


@pytest.mark.parametrize(
    ("content", "name"),
    [({}, "ngd_sgd"), ({"study": "toy"}, "toy"), ([{}], "ngd_sgd"), ({"study": 3}, "ngd_sgd")],
)
def test_a_config_that_names_no_study_is_for_the_first(content, name):
    assert study_name(content) == name


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path):
    file = written(tmp_path, b'\xef\xbb\xbf{"widths": {"count": 5}}')
    assert read_config(file, Toy).widths.count == 5
    assert read_config(str(file), Toy) == read_config(file, Toy)


def test_the_published_form_is_for_schemas_that_have_one():
    content = [{"low": 0.5}, {"count": 2}]
    expected = Published(steps=Range(low=0.5), widths=Widths(count=2))
    assert parse_config(content, Published) == expected
    assert problems_of([{}], Published) == [
        "a list of 1 given; allowed: a list of 2 objects, in the order steps, widths"
    ]
    (problem,) = problems_of(content, Toy)
    assert problem.endswith("allowed: an object with the sections steps, widths, layers, figures")


def test_a_section_with_other_defaults_keeps_everything_else():
    class Seconds(with_defaults(Range, unit="s", high=9.0)):
        """In seconds."""

    assert (Seconds().low, Seconds().high, Seconds().unit) == (0, 9, "s")
    assert list(Seconds.model_fields) == list(Range.model_fields)
    assert Seconds.model_fields["high"].description == "Upper end."
    (problem,) = problems_of({"high": 11}, Seconds)
    assert problem == "high: 11 given; allowed: a finite number <= 10"
    (problem,) = problems_of({"low": 9.5}, Seconds)
    assert "below high, 9.0" in problem


# ---- refused -------------------------------------------------------------------------------------


def test_every_problem_is_listed_at_once_with_key_given_and_allowed():
    content = {
        "study": 1,
        "stps": {},
        "steps": {"low": 3, "unit": "km", "count": 1, "hgh": 2},
        "widths": [],
        "layers": [{"width": 0, "size": 3, "range": {"low": 2, "high": 1}}, {"size": 2}, 7],
        "figures": {
            "a": {"kind": "square", "side": 9, "radius": 1},
            "b": {"kind": "sqare"},
            "c d": {},
            "e": None,
        },
    }
    assert problems_of(content) == [
        "study: 1 given; allowed: a string",
        "stps: unknown section, {} given; did you mean steps?",
        "steps.count: unknown key, 1 given; it belongs to another section: widths.count",
        "steps.hgh: unknown key, 2 given; did you mean steps.high?",
        'steps.unit: "km" given; allowed: "m" or "s"',
        "steps.low: 3 given; allowed: below high, 1",
        "widths: [] given; allowed: an object of settings",
        "layers[0].width: 0 given; allowed: an integer >= 1",
        "layers[0].size: 3 given; allowed: even numbers",
        "layers[0].range.low: 2 given; allowed: below high, 1",
        "layers[1].width: nothing given; allowed: an integer >= 1",
        "layers[2]: 7 given; allowed: an object of settings",
        "figures.a.radius: unknown key, 1 given; allowed: kind, side",
        'figures.b.kind: "sqare" given; allowed: "square" or "circle"; did you mean "square"?',
        'figures."c d".kind: nothing given; allowed: "square" or "circle"',
        "figures.e: null given; allowed: an object of settings",
        "figures.a.side: too large",
    ]


@pytest.mark.parametrize(
    ("layers", "problem"),
    [
        ([], "layers: [] given; allowed: a list of objects with the keys width, size, range, of"),
        ({}, "layers: {} given; allowed: a list of objects with the keys width"),
        ([{"width": 1}] * 4, "of 1 to 3 entries"),
        ([{"width": True}], "layers[0].width: true given"),
    ],
)
def test_lists_of_sections_have_a_length(layers, problem):
    (found,) = problems_of({"layers": layers})
    assert problem in found


def test_a_rule_runs_where_all_its_keys_are_valid_and_only_there():
    content = {"steps": {"low": -5}, "widths": {"count": 3}}
    (problem,) = problems_of(content)
    assert problem == "steps.low: -5 given with 3 and 1 layers"
    content["widths"]["count"] = "3"
    (problem,) = problems_of(content)
    assert problem == 'widths.count: "3" given; allowed: an integer'


def test_rules_hold_for_what_is_built_in_python():
    with pytest.raises(ValueError, match=r"low: 2\.0 given; allowed: below high, 1\.0"):
        Range(low=2, high=1)
    with pytest.raises(ValueError, match=r"steps\.low: -5\.0 given with 3 and 1 layers"):
        Toy(steps=Range(low=-5))
    with pytest.raises(ValueError, match=r"figures\.a\.side: too large"):
        Toy(figures={"a": Square(side=6)})


def test_settings_do_not_change():
    with pytest.raises(ValueError, match="frozen"):
        Toy().steps = Range()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "the file is empty; allowed: a JSON object"),
        (b" \n", "the file is empty"),
        (b"{", "the file is not JSON: Expecting property name enclosed in double quotes at line 1"),
        (b'{"steps": {}', "line 1, column 13"),
        (b'{"study": "\xff"}', "the file is not JSON that can be read"),
        (b"[" * 200_000, "the file is not JSON that can be read"),
        (b'{"widths": {"count": ' + b"9" * 5_000 + b"}}", "the file is not JSON that can be read"),
        (b"3", "3 given; allowed: an object with the sections"),
        (b"[" * 900 + b"]" * 900, "given; allowed: an object with the sections"),
        (b'{"widths": ' + b"[" * 900 + b"]" * 900 + b"}", "allowed: an object of settings"),
        (b'{"steps": {"low": 1e999}}', "steps.low: Infinity given; allowed: a finite number"),
        (
            b'{"steps": {"low": ' + b"9" * 400 + b"}}",
            "steps.low: an integer of hundreds of digits given; allowed: a finite number",
        ),
    ],
)
def test_a_file_that_is_no_config_is_refused(tmp_path, content, problem):
    file = written(tmp_path, content)
    with pytest.raises(ConfigError) as error:
        read_config(file, Toy)
    assert problem in str(error.value)
    assert str(error.value).startswith(f"{file}: 1 problem\n  ")
    assert len(error.value.problems) == 1


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none.json"):
        with pytest.raises(ConfigError, match="the file cannot be read") as error:
            read_json(path)
        assert str(path) in str(error.value)


def test_repeated_keys_are_problems_wherever_they_are(tmp_path):
    text = b"""{"steps": {"low": 0, "low": 2}, "layers": [{"width": 1, "width": 2}],
        "other": {"x": {"a b": 1, "a b": 1}}, "steps": {"high": 1, "high": -1}}"""
    content = read_json(written(tmp_path, text))
    expected = [
        "steps: given twice in one object; allowed: each key once",
        "steps.high: given twice in one object; allowed: each key once",
        "layers[0].width: given twice in one object; allowed: each key once",
        'other.x."a b": given twice in one object; allowed: each key once',
    ]
    for one in (content, copy.deepcopy(content)):
        found = problems_of(one)
        assert sorted(found[:4]) == sorted(expected)
        assert [problem.split(":")[0] for problem in found[4:]] == ["other", "steps.low"]


def test_an_error_survives_pickling():
    error = pickle.loads(pickle.dumps(ConfigError(["a: 1 given", "b: 2 given"], "args.json")))
    assert str(error) == "args.json: 2 problems\n  a: 1 given\n  b: 2 given"


def test_a_check_that_is_no_rule_is_a_problem_too():
    class Checked(Section):
        """With pydantic's own kind of check."""

        size: Annotated[int, AfterValidator(_even)] = Field(2, description="Even.")
        toy: Range | None = Field(None, description="Or nothing.")

    assert problems_of({"size": 3}, Checked) == ["size: 3 given; allowed: even numbers"]
    (problem,) = problems_of({"toy": {"low": "a"}}, Checked)
    assert problem.endswith("allowed: an object with the keys low, high, unit or null")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["low", "width", "kind", "a"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*Toy.model_fields, "x"]), JSON) | JSON)
def test_anything_is_accepted_or_refused_in_lines(content):
    try:
        toy = parse_config(content, Toy)
    except ConfigError as error:
        problems = error.problems
    else:
        problems = ["none"]
        assert parse_config(json.loads(toy.model_dump_json()), Toy) == toy
    assert problems
    assert all(problem and "\n" not in problem for problem in problems)


# ---- what float32 cannot compute with ------------------------------------------------------------


@pytest.mark.parametrize("value", [1e300, 1e-300, 1.1e30, 1e-38])
def test_a_number_beyond_float32_is_refused_and_so_is_it_from_python(value):
    said = rf"square\.side: {value!r} given; allowed: a finite number > 0, in size from 1e-37 to"
    with pytest.raises(ConfigError, match=said.replace("+", r"\+")):
        parse_config({"square": {"side": value}}, OneSquare)
    with pytest.raises(ValueError, match="as float32 has it"):
        Square(side=value)


def test_zero_and_numbers_that_float32_has_are_allowed():
    assert parse_config({"square": {"side": 1e30}}, OneSquare).square.side == 1e30
    assert Range(low=0.0).low == 0


def test_a_number_beyond_float32_in_a_list_is_named():
    with pytest.raises(
        ConfigError, match=r"sizes: \[1\.0, 1e\+300\] given, where an entry is 1e\+300"
    ):
        parse_config({"sizes": [1.0, 1e300]}, OneSquare)


class OneSquare(Section):
    """A square, and numbers."""

    square: Square = Field(default_factory=Square, description="It.")
    sizes: list[float] = Field(default_factory=list, description="Numbers.")


@pytest.mark.parametrize(
    "key", ["\x1b[31m", "\x7f", "\x9b31m", "\u202e", "\ud800", "\x00", "a\u2028b"]
)
def test_no_escape_of_a_config_reaches_a_terminal(key):
    with pytest.raises(ConfigError) as refused:
        parse_config({key: key, "square": {key: key, "side": key}}, OneSquare, where=key)
    text = str(refused.value)
    assert all(c.isprintable() or c == "\n" for c in text), text
