"""How does a study read its JSON config? Sections that refuse unknown keys, and every problem
listed at once.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

Schema = TypeVar("Schema", bound=BaseModel)


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
        return "\n  ".join([f"{self.where}: {count}", *self.problems])


class Section(BaseModel):
    """A part of a config: unknown keys, wrong types and numbers that are not finite are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def read_settings(path: str | os.PathLike[str], schema: type[Schema]) -> Schema:
    """Reads and checks a JSON file.

    Raises:
        ConfigError: The file cannot be read, is not JSON, or holds what is not allowed; lists every
            problem.
    """
    where = os.fspath(path)
    try:
        return schema.model_validate(json.loads(Path(path).read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(
            [f"the file cannot be read ({error.strerror}); allowed: a JSON file"], where
        ) from None
    except ValidationError as error:
        raise ConfigError(
            [_problem(e, schema) for e in error.errors(include_url=False)], where
        ) from None
    except ValueError as error:
        raise ConfigError([f"the file is not JSON: {error}"], where) from None


def _problem(error: Mapping[str, Any], schema: type[BaseModel]) -> str:
    """One of pydantic's errors as key, what was given, and what is allowed."""
    key, given = ".".join(map(str, error["loc"])) or "the file", shown(error["input"])
    if error["type"] == "extra_forbidden":
        return (
            f"{key}: unknown key, {given} given; allowed:"
            f" {', '.join(_section_of(error['loc'], schema).model_fields)}"
        )
    if error["type"] == "missing":
        return (
            f"{key}: nothing given; allowed:"
            f" {', '.join(_section_of(error['loc'], schema).model_fields)} together"
        )
    message = error["msg"].removeprefix("Value error, ").replace("Input should be", "allowed:")
    return (
        f"{key}: {message}"
        if isinstance(error["input"], BaseModel | dict)
        else f"{key}: {given} given; {message}"
    )


def _section_of(loc: tuple, schema: type[BaseModel]) -> type[BaseModel]:
    """The section that a key belongs to."""
    for part in loc[:-1]:
        if isinstance(part, str) and part in schema.model_fields:
            schema = _model_in(schema.model_fields[part].annotation) or schema
    return schema


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _model_in(inner))), None)


def repeated(entries: list) -> Any | None:
    """The first entry that is in the list twice, or None."""
    return next((entry for i, entry in enumerate(entries) if entry in entries[:i]), None)


def shown(value: Any) -> str:
    """A value as JSON, on one line, at most about 80 characters."""
    if isinstance(value, int) and value.bit_length() > 1_000:
        return "an integer of hundreds of digits"
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (
        TypeError,
        ValueError,
        RecursionError,
    ):  # only from Python: no JSON file gives such a value
        text = json.dumps(repr(value), ensure_ascii=False)
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= 80 else text[:77] + "…"
