"""What does a config's schema look like, to an editor and to a reader? JSON Schema and tables."""

from collections.abc import Iterator, Mapping
from typing import Any

from degeneracy.config.section import MOST, Section
from degeneracy.config.words import in_words, json_schema_of, shown


def json_schema(schema: type[Section], study: str) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a study's config, with the keys `$schema` and `study`.

    Combinations of keys are beyond it: `reader.parse_config` checks them.
    """
    made = _bounded(json_schema_of(schema))
    properties = {
        "$schema": {"type": "string", "description": "This schema's place, for editors."},
        "study": {"const": study, "description": "The study that the config is for."},
    }
    properties |= made.pop("properties")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **made,
        "properties": properties,
    }


def _bounded(schema: Any) -> Any:
    """The same, with every number that has no bound of its own inside float32's range."""
    if isinstance(schema, list):
        return [_bounded(one) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    made = {key: _bounded(one) for key, one in schema.items()}
    if made.get("type") == "number":
        if not {"maximum", "exclusiveMaximum"} & made.keys():
            made["maximum"] = MOST
        if not {"minimum", "exclusiveMinimum"} & made.keys():
            made["minimum"] = -MOST
    return made


def tables(schema: type[Section]) -> dict[str, str]:
    """Name of a section → what it is, and a Markdown table of its keys: default, what is allowed,
    meaning. A section is followed by those that it holds.
    """
    made = json_schema_of(schema)
    return dict(_tables("", made["properties"], made.get("$defs", {})))


def _tables(
    path: str, properties: Mapping[str, Any], definitions: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    for key, schema in properties.items():
        for name, reference in _held(f"{path}.{key}" if path else key, schema):
            section = definitions[reference.rpartition("/")[2]]
            yield name, _table(section, definitions)
            yield from _tables(name, section["properties"], definitions)


def _held(name: str, schema: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The sections that a key holds: what to call each, and its reference."""
    if "$ref" in schema:
        yield name, schema["$ref"]
    if "$ref" in schema.get("items", {}):
        yield f"{name}[…]", schema["items"]["$ref"]
    for kinds in schema.get("patternProperties", {}).values():
        for section in kinds.get("oneOf", ()):
            yield f"{name}, {section['$ref'].rpartition('/')[2]}", section["$ref"]
    for kind, section in schema.get("properties", {}).items():
        yield f"{name}, kind {kind}", section["$ref"]


def _table(section: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    rows = ["| Key | Default | Allowed | Meaning |", "| --- | --- | --- | --- |"]
    for key, schema in section["properties"].items():
        if "$ref" in schema:  # a section, which has its own table
            continue
        default = f"`{shown(schema['default'])}`" if "default" in schema else "–"
        cells = [in_words(schema, definitions), schema["description"]]
        texts = [cell.replace("|", "\\|").replace("\n", " ") for cell in cells]
        rows.append(f"| `{key}` | {default} | {texts[0]} | {texts[1]} |")
    about = " ".join(section["description"].split())
    return "\n".join([about, "", *rows])
