"""Do the JSON Schema and the tables of a config say what the reader allows?"""

import jsonschema
import pytest
from pydantic import Field

from degeneracy.config.schema import json_schema, tables
from degeneracy.config.section import Section


class Layer(Section):
    """One
    layer.
    """

    width: int = Field(ge=1, le=9, description="Units | nodes.")


class Network(Section):
    """Some layers."""

    layers: list[Layer] = Field([Layer(width=2)], min_length=1, description="The layers.")
    rate: float | None = Field(None, gt=0, description="Null: none.")


class Toy(Section):
    """A schema."""

    network: Network = Field(default_factory=Network)


SCHEMA = json_schema(Toy, "toy")


def test_the_schema_knows_itself_and_its_study():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate({"$schema": "s", "study": "toy", "network": {"rate": 2}}, SCHEMA)
    jsonschema.validate({}, SCHEMA)
    assert list(SCHEMA["properties"]) == ["$schema", "study", "network"]


@pytest.mark.parametrize(
    "content",
    [{"study": "other"}, {"x": 1}, {"network": {"layers": []}}, {"network": {"layers": [{}]}}],
)
def test_the_schema_refuses_what_the_reader_refuses(content):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, SCHEMA)


def test_each_section_has_a_table_of_its_keys():
    assert tables(Toy) == {
        "network": (
            "Some layers.\n\n"
            "| Key | Default | Allowed | Meaning |\n"
            "| --- | --- | --- | --- |\n"
            '| `layers` | `[{"width": 2}]` | a list of objects with the keys width, not empty |'
            " The layers. |\n"
            "| `rate` | `null` | a finite number > 0 or null | Null: none. |"
        ),
        "network.layers[…]": (
            "One layer.\n\n"
            "| Key | Default | Allowed | Meaning |\n"
            "| --- | --- | --- | --- |\n"
            "| `width` | – | an integer >= 1 and <= 9 | Units \\| nodes. |"
        ),
    }
