"""How is a config's problem put in words? Values, keys, and what is allowed."""

import difflib
import functools
import json
from collections.abc import Iterable, Mapping
from typing import Any

from degeneracy.config.section import Section, held_by

_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
_NOUNS = {
    "integer": ("an integer", "integers"),
    "number": ("a finite number", "finite numbers"),
    "boolean": ("true or false", "true or false"),
    "null": ("null", "null"),
}


def shown(value: Any) -> str:
    """A value as JSON, on one line, at most about 80 characters."""
    if isinstance(value, int) and value.bit_length() > 1_000:
        return "an integer of hundreds of digits"
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = json.dumps(repr(value), ensure_ascii=False)  # only from Python
    text = printable(text)
    return text if len(text) <= 80 else text[:77] + "…"


def printable(text: str) -> str:
    """`text` with an escape for every character that a terminal would act on or cannot show."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def repeated(entries: list) -> Any | None:
    """The first entry that is in the list twice, or None."""
    return next((entry for i, entry in enumerate(entries) if entry in entries[:i]), None)


def key_below(path: str, key: Any) -> str:
    """The dotted name of `key` in the section at `path`, quoted where it would not read as one
    word.
    """
    name = key if isinstance(key, str) and key.isidentifier() else shown(key)
    return f"{path}.{name}" if path else name


def closest(name: Any, names: Iterable[str]) -> str | None:
    """The one of `names` that may have been meant."""
    return next(iter(difflib.get_close_matches(str(name), list(names), n=1)), None)


def unknown_key(root: type[Section], path: str, section: type[Section], key: Any) -> str:
    """What to write in place of `key`, which is none of those of `section` at `path`."""
    here = section.model_fields
    homes = [
        key_below(name, key)
        for name, field in root.model_fields.items()
        if (held := held_by(field.annotation)) is not None
        and held.container is None
        and key in held.sections[0].model_fields
    ]
    if homes and not path:
        sections = [home.rpartition(".")[0] for home in homes]
        return f"it is a key of section {' and of section '.join(sections)}"
    if homes:
        return f"it belongs to another section: {' or '.join(homes)}"
    if (near := closest(key, here)) is not None:
        return f"did you mean {key_below(path, near)}?"
    return f"allowed: {', '.join(here)}"


@functools.cache
def json_schema_of(section: type[Section]) -> dict[str, Any]:
    """Pydantic's JSON Schema of a section, made once."""
    return section.model_json_schema()


def allowed(section: type[Section], key: str) -> str:
    """What a key of a section may be, in words."""
    schema = json_schema_of(section)
    return in_words(schema["properties"][key], schema.get("$defs", {}))


def in_words(
    schema: Mapping[str, Any], definitions: Mapping[str, Any], plural: bool = False
) -> str:
    """What a JSON Schema allows, in words.

    Args:
        schema: Of one value.
        definitions: The schemas that its `$ref` name.
        plural: Whether the words follow "a list of".
    """
    if "anyOf" in schema:
        return " or ".join(in_words(option, definitions, plural) for option in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        values = schema["enum"] if "enum" in schema else [schema["const"]]
        return " or ".join(shown(value) for value in values)
    if "$ref" in schema:
        keys = definitions[schema["$ref"].rpartition("/")[2]]["properties"]
        return f"{'objects' if plural else 'an object'} with the keys {', '.join(keys)}"
    if schema["type"] == "object":
        return "objects" if plural else "an object of settings"
    if schema["type"] == "array":
        entries = in_words(schema["items"], definitions, plural=True)
        return f"{'lists' if plural else 'a list'} of {entries}{_length(schema, plural)}"
    if schema["type"] == "string":
        return schema.get("patternErrorMessage", "a string")
    bounds = [f"{sign} {shown(schema[name])}" for name, sign in _BOUNDS.items() if name in schema]
    return " ".join(filter(None, [_NOUNS[schema["type"]][plural], " and ".join(bounds)]))


def _length(schema: Mapping[str, Any], plural: bool) -> str:
    fewest, most = schema.get("minItems", 0), schema.get("maxItems")
    if most is None and fewest <= 1:
        return ", not empty" if fewest else ""
    if most is None:
        size = f"at least {fewest}"
    else:
        size = f"{fewest} to {most}" if fewest else f"at most {most}"
    return f", {'each ' if plural else ''}of {size} entries"
