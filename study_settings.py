"""How does a study read its JSON config? Sections that refuse unknown keys, and every problem listed at once."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from config_checks import shown
from experiment_config import ConfigError

Schema = TypeVar("Schema", bound=BaseModel)


class Section(BaseModel):
    """A part of a config: unknown keys, wrong types and numbers that are not finite are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def read_settings(path: str | os.PathLike[str], schema: type[Schema]) -> Schema:
    """Reads and checks a JSON file.

    Raises:
        ConfigError: The file cannot be read, is not JSON, or holds what is not allowed; lists every problem.
    """
    where = os.fspath(path)
    try:
        return schema.model_validate(json.loads(Path(path).read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError([f"the file cannot be read ({error.strerror}); allowed: a JSON file"], where) from None
    except ValidationError as error:
        raise ConfigError([_problem(e, schema) for e in error.errors(include_url=False)], where) from None
    except ValueError as error:
        raise ConfigError([f"the file is not JSON: {error}"], where) from None


def _problem(error: Mapping[str, Any], schema: type[BaseModel]) -> str:
    """One of pydantic's errors as key, what was given, and what is allowed."""
    key, given = ".".join(map(str, error["loc"])) or "the file", shown(error["input"])
    if error["type"] == "extra_forbidden":
        return (
            f"{key}: unknown key, {given} given; allowed: {', '.join(_section_of(error['loc'], schema).model_fields)}"
        )
    if error["type"] == "missing":
        return f"{key}: nothing given; allowed: {', '.join(_section_of(error['loc'], schema).model_fields)} together"
    message = error["msg"].removeprefix("Value error, ").replace("Input should be", "allowed:")
    return f"{key}: {message}" if isinstance(error["input"], BaseModel | dict) else f"{key}: {given} given; {message}"


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
