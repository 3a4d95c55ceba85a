"""Which values do several configs have? Seeds, folders, and lists without repetition."""

from typing import Annotated

from pydantic import AfterValidator, Field

from degeneracy.config.section import Rule, rule
from degeneracy.config.words import repeated, shown

Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]

# The pattern keeps out what no one means in a path.
Folder = Annotated[
    str,
    Field(
        pattern=r"^[^\s\x00-\x1f]([^\x00-\x1f]*[^\s\x00-\x1f])?$",
        json_schema_extra={
            "patternErrorMessage": (
                "a string that is not empty, without control characters and without spaces at its"
                " ends"
            )
        },
    ),
]

DataRoot = Annotated[
    Folder,
    Field(
        description=(
            "Folder that holds the data sets' files; a relative one is relative to the project's"
            " folder."
        )
    ),
]


def _each_once(values: list) -> list:
    if (twice := repeated(values)) is not None:
        twice = twice.model_dump() if hasattr(twice, "model_dump") else twice
        raise ValueError(f"allowed: each once, but {shown(twice)} is there twice")
    return values


EachOnce = AfterValidator(_each_once)


def nesterov_has_momentum(home: str = "") -> Rule:
    """The rule that Nesterov's form of momentum needs momentum; `home` goes before the keys in its
    sentence ("experiment.").
    """

    @rule("nesterov", "momentum")
    def has_momentum(nesterov: bool, momentum: float) -> str | None:
        if nesterov and momentum == 0:
            return (
                f"true given with {home}momentum {shown(momentum)}; allowed there: false (or a"
                " momentum > 0)"
            )
        return None

    return has_momentum
