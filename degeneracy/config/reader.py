"""How does a JSON file become checked settings, or a list of all that is wrong with it?

    content = read_json("args.json")
    settings = parse_config(content, Settings, where="args.json")

or `read_config("args.json", Settings)`, which is both. `Settings` is a `Section`.
"""

import functools
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from degeneracy.config.section import (
    LEAST,
    MOST,
    Held,
    Section,
    SectionType,
    beyond_float32,
    held_by,
    plain,
)
from degeneracy.config.words import (
    allowed,
    closest,
    in_words,
    key_below,
    printable,
    repeated,
    shown,
    unknown_key,
)

DEFAULT_STUDY = "ngd_sgd"  # of a config that names none
ABOUT = ("$schema", "study")  # keys that every config may have and that are no settings


class ConfigError(ValueError):
    """A config is refused. `problems` has one line for each thing that is wrong; `str()` lists them
    all.
    """

    def __init__(self, problems: list[str], where: str):
        super().__init__(problems, where)
        self.problems = problems
        self.where = where

    def __str__(self) -> str:
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        return "\n  ".join([f"{printable(self.where)}: {count}", *self.problems])


class _RepeatingObject(dict):
    """A JSON object in which a key is there twice; `parse_config` refuses it."""

    def __init__(self, pairs: list[tuple[str, Any]]):
        super().__init__(pairs)
        self.repeated = repeated([key for key, _ in pairs])


def read_json(path: str | os.PathLike[str]) -> Any:
    """The content of a JSON file (UTF-8), for `parse_config`, which also lists its repeated keys.

    Raises:
        ConfigError: The file cannot be read, is empty or is not JSON.
    """
    where = os.fspath(path)
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
        if text.strip():
            return json.loads(text, object_pairs_hook=_object)
        problem = "the file is empty; allowed: a JSON object ({} means all defaults)"
    except OSError as error:
        reason = error.strerror or type(error).__name__
        problem = f"the file cannot be read ({reason}); allowed: a JSON file"
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        problem = f"the file is not JSON: {error.msg} at {place}"
    except RecursionError:
        problem = (
            "the file is not JSON that can be read: it is nested too deep; allowed: an object of"
            " sections"
        )
    except ValueError as error:  # not UTF-8, thousands of digits
        problem = f"the file is not JSON that can be read: {error}"
    raise ConfigError([problem], where)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    return content if len(content) == len(pairs) else _RepeatingObject(pairs)


def study_name(content: Any) -> str:
    """The study that a config's content is for: its key "study", `DEFAULT_STUDY` without one."""
    name = content.get("study") if isinstance(content, dict) else None
    return name if isinstance(name, str) else DEFAULT_STUDY


def read_config(
    path: str | os.PathLike[str], schema: type[SectionType], study: str | None = None
) -> SectionType:
    """Reads and checks a JSON file.

    Args:
        schema: As in `parse_config`.
        study: Refuses a file that names another one; None takes any.

    Raises:
        ConfigError: As `read_json` and `parse_config`.
    """
    content, where = read_json(path), os.fspath(path)
    named = content.get("study") if isinstance(content, dict) else None
    if study is not None and isinstance(named, str) and named != study:
        problem = f"study: {shown(named)} given; allowed here: {shown(study)}"
        raise ConfigError([problem], where)
    return parse_config(content, schema, where)


def parse_config(content: Any, schema: type[SectionType], where: str = "config") -> SectionType:
    """Checks a config that is in memory.

    Args:
        content: What JSON gives for a config file: an object of sections, with `$schema` and
            `study` beside them where given. Where the schema has a published form, also its list.
        schema: What is allowed; everything that has a default may be left out.
        where: What the error's first line calls it.

    Raises:
        ConfigError: Lists every problem, each with its key, what was given and what is allowed.
    """
    checking = _Checking(schema, [*_repeated_keys(content)])
    given = checking.outer(content)
    checking.section(schema, given, "")
    if not checking.problems:
        try:
            return schema.model_validate(given)
        except ValidationError as error:  # of a check that is in the schema but is no rule
            checking.problems += [
                f"{'.'.join(map(str, e['loc'])) or 'config'}: {_message(e)}" for e in error.errors()
            ]
    raise ConfigError(checking.problems, where)


def _repeated_keys(content: Any) -> Iterator[str]:
    queue = [("", content)]  # not by recursion: a list may be nested as deep as JSON's reader goes
    for path, value in queue:
        if isinstance(value, _RepeatingObject):
            key = key_below(path, value.repeated)
            yield f"{key}: given twice in one object; allowed: each key once"
        if isinstance(value, dict):
            queue += [(key_below(path, key), inner) for key, inner in value.items()]
        elif isinstance(value, list):
            queue += [(f"{path}[{place}]", inner) for place, inner in enumerate(value)]


@dataclass
class _Checking:
    """A config under the reader's eyes, and what is wrong with it so far."""

    root: type[Section]
    problems: list[str] = field(default_factory=list)

    def outer(self, content: Any) -> dict[str, Any]:
        """The root's keys as given, without those that are no settings."""
        sections = ", ".join(self.root.model_fields)
        form = self.root.published_form
        if isinstance(content, list) and form:
            if len(content) != len(form):
                count = {3: "three"}.get(len(form), len(form))
                self.problems.append(
                    f"a list of {len(content)} given; allowed: a list of {count} objects, in the"
                    f" order {', '.join(form)}"
                )
            return dict(zip(form, content, strict=False))
        if not isinstance(content, dict):
            self.problems.append(
                f"{shown(content)} given; allowed: an object with the sections {sections}"
            )
            return {}
        for key in ABOUT:
            if key in content and not isinstance(content[key], str):
                self.problems.append(f"{key}: {shown(content[key])} given; allowed: a string")
        return {key: value for key, value in content.items() if key not in ABOUT}

    def section(self, schema: type[Section], given: Mapping[str, Any], path: str) -> dict[str, Any]:
        """The valid values in a section, defaults included; what is not valid is a problem."""
        given = schema.completed(given)
        for key in given:
            if key not in schema.model_fields:
                self._unknown(schema, key, given[key], path)
        values: dict[str, Any] = {}
        for key, known in schema.model_fields.items():
            if key not in given:
                if known.is_required():
                    self._wrong(schema, key, path, "nothing given")
                else:
                    default = known.get_default(call_default_factory=True, validated_data=values)
                    values[key] = plain(default)
            elif (held := held_by(known.annotation)) is None:
                if self._is_valid(schema, key, given[key], path):
                    values[key] = given[key]
            else:
                values |= self._sections(schema, key, held, given[key], path)
        self.problems += [f"{_within(path, key)}: {p}" for key, p in schema.broken_rules(values)]
        return values

    def _sections(
        self, schema: type[Section], key: str, held: Held, given: Any, path: str
    ) -> dict[str, Any]:
        """{key: valid values} of a key that holds sections; empty where it is not valid."""
        here = key_below(path, key)
        if not isinstance(given, held.container or dict):
            if held.container is list:
                self._wrong(schema, key, path, f"{shown(given)} given")
            else:
                self.problems.append(
                    f"{here}: {shown(given)} given; allowed: an object of settings"
                )
            return {}
        if held.container is None:
            return {key: self.section(held.sections[0], given, here)}
        if held.container is dict:
            return {key: {name: self._entry(held, given, name, here) for name in given}}
        before = len(self.problems)
        for place, entry in enumerate(given):
            if isinstance(entry, dict):
                self.section(held.sections[0], entry, f"{here}[{place}]")
            else:
                self.problems.append(
                    f"{here}[{place}]: {shown(entry)} given; allowed: an object of settings"
                )
        is_valid = len(self.problems) == before and self._is_valid(schema, key, given, path)
        return {key: given} if is_valid else {}

    def _entry(self, held: Held, given: Mapping[str, Any], name: str, path: str) -> dict[str, Any]:
        """The valid values of the section called `name` in a dict of sections."""
        here, entry = key_below(path, name), given[name]
        try:
            TypeAdapter(held.names).validate_python(name)
        except ValidationError:
            names = in_words(TypeAdapter(held.names).json_schema(), {})
            self.problems.append(f"{here}: the name {shown(name)} given; allowed: {names}")
        if not isinstance(entry, dict):
            self.problems.append(f"{here}: {shown(entry)} given; allowed: an object of settings")
            return {}
        if held.tag is None:
            return self.section(held.sections[0], entry, here)
        kinds = {s.model_fields[held.tag].default: s for s in held.sections}
        kind = entry.get(held.tag)
        if isinstance(kind, str) and kind in kinds:
            return self.section(kinds[kind], entry, here)
        what = f"{shown(kind)} given" if held.tag in entry else "nothing given"
        hint = "" if (near := closest(kind, kinds)) is None else f"; did you mean {shown(near)}?"
        choice = " or ".join(shown(one) for one in kinds)
        self.problems.append(f"{here}.{held.tag}: {what}; allowed: {choice}{hint}")
        return {}

    def _unknown(self, schema: type[Section], key: Any, value: Any, path: str) -> None:
        holds_sections = all(held_by(f.annotation) for f in schema.model_fields.values())
        what = "section" if not path and holds_sections else "key"
        self.problems.append(
            f"{key_below(path, key)}: unknown {what}, {shown(value)} given;"
            f" {unknown_key(self.root, path, schema, key)}"
        )

    def _is_valid(self, schema: type[Section], key: str, value: Any, path: str) -> bool:
        """Whether a key may have this value; if not, that is a problem."""
        try:
            _adapter(schema, key).validate_python(value)
        except ValidationError as error:
            first, *_ = errors = error.errors(include_url=False)
            if first["type"] == "value_error":  # in the words of a check of our own
                self.problems.append(f"{key_below(path, key)}: {_message(first)}")
                return False
            places = [part for e in errors for part in e["loc"] if isinstance(part, int)]
            entry = ""
            if places and isinstance(value, list):
                entry = f", where entry {places[0] + 1} is {shown(value[places[0]])}"
            self._wrong(schema, key, path, f"{shown(value)} given{entry}")
            return False
        if (beyond := beyond_float32(value)) is not None:
            entry = f", where an entry is {shown(beyond)}" if isinstance(value, list) else ""
            self.problems.append(
                f"{key_below(path, key)}: {shown(value)} given{entry}; allowed:"
                f" {allowed(schema, key)}, in size from {LEAST:g} to {MOST:g}, as float32 has it"
            )
            return False
        return True

    def _wrong(self, schema: type[Section], key: str, path: str, what: str) -> None:
        self.problems.append(f"{key_below(path, key)}: {what}; allowed: {allowed(schema, key)}")


def _within(path: str, key: str) -> str:
    """The whole dotted name of a rule's key, which is dotted itself."""
    return f"{path}.{key}" if path else key


def _message(error: Mapping[str, Any]) -> str:
    return f"{shown(error['input'])} given; {error['msg'].removeprefix('Value error, ')}"


@functools.cache
def _adapter(schema: type[Section], key: str) -> TypeAdapter:
    known = schema.model_fields[key]
    strict = ConfigDict(strict=True, allow_inf_nan=False)
    return TypeAdapter(known.rebuild_annotation(), config=strict)
