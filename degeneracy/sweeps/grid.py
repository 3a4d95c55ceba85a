"""Which runs make up a sweep? Axes of values over a config's keys, and their product.

    axes = [*parse_grid("experiment.alpha=0.01,0.1"), parse_seeds("1-3", Settings)]
    runs = planned(read_json("args.json"), Settings, axes, where="args.json")

No file and no Ray: a sweep is refused or known in full before anything runs.
"""

import copy
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from degeneracy.config.reader import ABOUT, ConfigError, parse_config
from degeneracy.config.section import Section, held_by
from degeneracy.config.words import repeated, shown
from degeneracy.effort import refuse_beyond_reason
from degeneracy.texts import count_of

# Of studies that train: the seed of what is trained. Their other seeds, such as a sampler's, stay.
TRAINING_SEEDS = ("experiment.seed", "training.seed")
MOST_RUNS = 100_000
_KEY = re.compile(r"""([^\W\d][^=,\[\]{}"]*)=""")
_WORD = re.compile(r"[^\W\d][\w.-]*")
_RANGE = re.compile(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?")
_NAMED = 60  # characters of a run's name that say what is changed


class SweepError(ValueError):
    """A sweep is refused before its first run; the message says why and what is allowed."""


@dataclass(frozen=True)
class Axis:
    """Keys that change together.

    Attributes:
        keys: Dotted paths in a config.
        steps: What they are set to, one after the other: a value for each key.
        is_seed: Whether the steps are seeds, of which every key takes the same.
    """

    keys: tuple[str, ...]
    steps: tuple[tuple[Any, ...], ...]
    is_seed: bool = False


class Planned(NamedTuple):
    """One run of a sweep.

    Attributes:
        name: Its directory's name, which no other run of the sweep has.
        changes: Dotted key → value.
        content: Its whole config, as JSON.
        settings: The same, checked.
    """

    name: str
    changes: dict[str, Any]
    content: dict[str, Any]
    settings: Section


# ---- what a command says -------------------------------------------------------------------------


def parse_grid(text: str) -> list[Axis]:
    """`experiment.alpha=0.01,0.1` as an axis; several keys in one text are as many axes.

    Raises:
        SweepError: It is not of this form, or says a value twice.
    """
    return [
        Axis((key,), tuple((value,) for value in _each_once(key, values, "--grid")))
        for key, values in _assignments(text, "--grid")
    ]


def parse_zip(text: str) -> Axis:
    """`data.dataset=mnist,cifar10,experiment.num_epochs=5,20`: as many steps as each has values.

    Raises:
        SweepError: It is not of this form, names one key only, or the lengths differ.
    """
    pairs = _assignments(text, "--zip")
    if len(pairs) < 2:
        raise SweepError(
            f"--zip: {text!r} given; allowed: at least two keys, KEY=VALUES,KEY=VALUES"
            " (one key by itself is a --grid)"
        )
    if len({len(values) for _, values in pairs}) > 1:
        lengths = ", ".join(f"{key} {count_of(len(values), 'value')}" for key, values in pairs)
        raise SweepError(f"--zip: {lengths} given; allowed: as many values for each key")
    steps = list(zip(*(values for _, values in pairs), strict=True))
    return Axis(tuple(key for key, _ in pairs), tuple(_each_once("--zip", steps, text)))


def parse_seeds(text: str, schema: type[Section]) -> Axis:
    """`1,2,5` or `1-5` as values of a study's seeds (`seed_keys`).

    Raises:
        SweepError: It is not of this form, or the study has no seed.
    """
    if not (keys := seed_keys(schema)):
        raise SweepError("--seeds: this study's config has no seed; allowed: --grid over its keys")
    seeds: list[int] = []
    for part in text.split(","):
        found = _RANGE.fullmatch(part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if first > last or last - first >= MOST_RUNS:
            raise SweepError(
                f"--seeds: {text!r} given; allowed: numbers from 0 and ranges of them, such as"
                " 1,2,3 or 1-5"
            )
        seeds += range(first, last + 1)
    seeds = _each_once("--seeds", seeds, text)
    return Axis(keys, tuple((seed,) * len(keys) for seed in seeds), is_seed=True)


def seed_keys(schema: type[Section]) -> tuple[str, ...]:
    """The keys that `--seeds` sets: that of training where there is one, else all called `seed`."""
    found = ["seed"] if "seed" in schema.model_fields else []
    for name, field in schema.model_fields.items():
        held = held_by(field.annotation)
        if held is not None and held.container is None:
            found += [f"{name}.seed"] * ("seed" in held.sections[0].model_fields)
    training = tuple(key for key in TRAINING_SEEDS if key in found)
    return training or tuple(found)


def _assignments(text: str, option: str) -> list[tuple[str, list[Any]]]:
    """(key, values) of each `KEY=VALUE,VALUE` in a text."""
    found: list[tuple[str, list[Any]]] = []
    place = 0
    while key := _KEY.match(text, place):
        place, values = key.end(), []
        while place < len(text) and not (values and _KEY.match(text, place)):
            value, place = _value(text, place, option)
            values.append(value)
        if not values:
            raise SweepError(f"{option}: {key[1]} has no values in {text!r}; allowed: at least one")
        found.append((key[1].strip(), values))
    if not found:
        raise SweepError(f"{option}: {text!r} given; allowed: KEY=VALUE,VALUE with a dotted KEY")
    return found


def _value(text: str, place: int, option: str) -> tuple[Any, int]:
    """The JSON value, or the bare word, that begins at a place, and where the next one does."""
    begin = place + len(text[place:]) - len(text[place:].lstrip())
    try:
        value, end = json.JSONDecoder().raw_decode(text, begin)
    except (ValueError, RecursionError):
        end = begin
    if not _ends(text, end) or end == begin:
        word = _WORD.match(text, begin)
        if word is None or not _ends(text, word.end()):
            raise SweepError(
                f"{option}: {text[begin:]!r} in {text!r} is no value; allowed: JSON, such as 0.1,"
                ' [64], null or "a text", and words without quotes; a comma between two'
            )
        value, end = word[0], word.end()
    end += len(text[end:]) - len(text[end:].lstrip())
    if text[end:].strip() == ",":
        raise SweepError(f"{option}: {text!r} ends in a comma; allowed: a value after it")
    return value, end + 1


def _ends(text: str, place: int) -> bool:
    """Whether a value may end there."""
    return text[place:].lstrip()[:1] in ("", ",")


def _each_once(what: str, values: list, option: str) -> list:
    texts = [json.dumps(value, sort_keys=True) for value in values]
    if (twice := repeated(texts)) is not None:
        raise SweepError(f"{what}: {twice} is there twice in {option!r}; allowed: each once")
    return values


# ---- what runs these are -------------------------------------------------------------------------


def combinations(axes: Sequence[Axis]) -> Iterator[dict[str, Any]]:
    """Every choice of one step an axis, the last axis fastest, as key → value."""
    for steps in itertools.product(*(axis.steps for axis in axes)):
        pairs = (zip(axis.keys, step, strict=True) for axis, step in zip(axes, steps, strict=True))
        yield dict(itertools.chain.from_iterable(pairs))


def changed(content: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a config with other values; sections that were left out are made.

    Raises:
        SweepError: A key lies below something that holds no keys.
    """
    content = copy.deepcopy(dict(content))
    for key, value in changes.items():
        *path, last = key.split(".")
        section = content
        for name in path:
            section = section.setdefault(name, {})
            if not isinstance(section, dict):
                raise SweepError(f"{key}: {name} is {shown(section)} there, which holds no keys")
        section[last] = copy.deepcopy(value)
    return content


def planned(
    content: Any, schema: type[Section], axes: Sequence[Axis], where: str, large: bool = False
) -> list[Planned]:
    """All runs of a sweep, checked.

    Args:
        content: What JSON gives for the config that is changed; the published list is taken too.
        schema: The study's settings.
        axes: What is changed.
        where: What errors call the config.
        large: Whether work beyond reason is meant, see `effort.refuse_beyond_reason`.

    Raises:
        SweepError: Nothing is changed, a key by two axes, or settings are refused: every problem,
            each with the combinations that have it.
        config.reader.ConfigError: The content is no object.
    """
    _check_axes(axes)
    if isinstance(content, list) and len(content) == len(schema.published_form):
        content = dict(zip(schema.published_form, content, strict=True))
    if not isinstance(content, dict):
        parse_config(content, schema, where)  # refuses it
    runs, problems = [], {}
    all_changes = list(combinations(axes))
    for number, changes in enumerate(all_changes, start=1):
        now = changed(content, changes)
        try:
            settings = parse_config(now, schema, where)
            if not large:
                refuse_beyond_reason(settings)
        except ConfigError as error:
            for problem in error.problems:
                problems.setdefault(problem, []).append(changes)
            continue
        name = run_name(number, len(all_changes), changes, axes)
        runs.append(Planned(name, changes, now, settings))
    if problems:
        raise SweepError(_refusal(where, problems, len(all_changes)))
    _refuse_equal(runs)
    return runs


def _check_axes(axes: Sequence[Axis]) -> None:
    if not axes:
        raise SweepError("nothing is swept; allowed: --grid, --zip or --seeds, at least one")
    counts = Counter(key for axis in axes for key in axis.keys)
    if twice := [key for key, count in counts.items() if count > 1]:
        raise SweepError(f"{', '.join(twice)}: set by two options; allowed: by one of them")
    if about := [key for key in counts if key in ABOUT]:
        raise SweepError(f"{', '.join(about)}: is no setting; allowed: keys of the study's config")
    count = 1
    for axis in axes:
        count *= len(axis.steps)
    if count > MOST_RUNS:
        raise SweepError(f"{count:,} runs given; allowed: at most {MOST_RUNS:,} in one sweep")


def _refusal(where: str, problems: Mapping[str, list[dict[str, Any]]], total: int) -> str:
    lines = [f"{where}: {count_of(len(problems), 'problem')} in what is swept; nothing was run"]
    for problem, found in problems.items():
        more = f", and {len(found) - 1} more of {total} combinations" if len(found) > 1 else ""
        lines.append(f"{problem}\n    in {text_of(found[0])}{more}")
    return "\n  ".join(lines)


def _refuse_equal(runs: Sequence[Planned]) -> None:
    """Values that are written differently may mean the same."""
    seen: dict[str, Planned] = {}
    for run in runs:
        twin = seen.setdefault(run.settings.model_dump_json(), run)
        if twin is not run:
            raise SweepError(
                f"{text_of(twin.changes)} and {text_of(run.changes)} mean the same run; allowed:"
                " each once"
            )


def text_of(changes: Mapping[str, Any]) -> str:
    """`experiment.alpha=0.1, experiment.seed=2`."""
    return ", ".join(f"{key}={shown(value)}" for key, value in changes.items())


def run_name(number: int, total: int, changes: Mapping[str, Any], axes: Sequence[Axis]) -> str:
    """`03_alpha-0.1_seed-2`: the number alone tells runs of a sweep apart."""
    shown_keys = [key for axis in axes for key in (axis.keys[:1] if axis.is_seed else axis.keys)]
    parts = (f"{key.rpartition('.')[2]}-{json.dumps(changes[key])}" for key in shown_keys)
    slugs = (re.sub(r"[^A-Za-z0-9.+-]+", "-", part).strip("-.") for part in parts)
    return f"{number:0{len(str(total))}d}_{'_'.join(slugs)[:_NAMED]}".rstrip("_-.")
