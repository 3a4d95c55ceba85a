"""What is a part of a config? Keys that are checked one by one, and rules for combinations."""

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, NamedTuple, Self, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

SectionType = TypeVar("SectionType", bound="Section")


class Rule(NamedTuple):
    """A check of a combination of keys.

    Attributes:
        keys: Dotted, relative to the section that declares the rule. It runs where all of them are
            valid.
        problem: Function of their values in this order; None where they go together, else what is
            wrong with the first key ("3 given with …; allowed there: …"), or such a text for each
            of several keys. It is given a section as a mapping of those of its keys that are valid.
    """

    keys: tuple[str, ...]
    problem: Callable[..., str | Mapping[str, str] | None]


def rule(*keys: str) -> Callable[[Callable[..., str | Mapping[str, str] | None]], Rule]:
    """Makes the function below it a `Rule` of these keys."""
    return lambda problem: Rule(keys, problem)


LEAST, MOST = 1e-37, 1e30  # size of a number: what is computed with it in float32 stays inside


def beyond_float32(value: Any) -> float | None:
    """A number in `value`, or in a list in it, that float32 cannot compute with; None without."""
    entries = value if isinstance(value, list) else [value]
    floats = [entry for entry in entries if isinstance(entry, float)]
    return next((one for one in floats if one and not LEAST <= abs(one) <= MOST), None)


class Section(BaseModel):
    """A part of a config, or a whole one: unknown keys, wrong types and numbers that are not finite
    are refused.

    A subclass keeps the rules of what it extends and adds those in its own `rules`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    rules: ClassVar[tuple[Rule, ...]] = ()
    published_form: ClassVar[tuple[str, ...]] = ()  # sections that a root's JSON list stands for

    @classmethod
    def completed(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """`given` with what may be left out because other keys say it; nothing of it is checked
        yet.
        """
        return given

    @classmethod
    def broken_rules(cls, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Key and problem of each combination in `values` (valid values; sections as mappings)."""
        for base in reversed(cls.__mro__):
            for keys, problem in vars(base).get("rules", ()):
                try:
                    arguments = [_at(values, key) for key in keys]
                except KeyError:
                    continue
                found = problem(*arguments)
                if isinstance(found, str):
                    yield keys[0], found
                elif found:
                    yield from found.items()

    @model_validator(mode="before")
    @classmethod
    def _is_completed(cls, given: Any) -> Any:
        return cls.completed(given) if isinstance(given, Mapping) else given

    @model_validator(mode="after")
    def _keeps_its_rules(self) -> Self:
        problems = [f"{key}: {text}" for key, text in self.broken_rules(plain(self))]
        problems += [
            f"{key}: {beyond} given; allowed: 0, or a size from {LEAST:g} to {MOST:g}, as float32"
            " has it"
            for key, value in self
            if (beyond := beyond_float32(value)) is not None
        ]
        if problems:
            raise ValueError("; ".join(problems))
        return self


def _at(values: Mapping[str, Any], key: str) -> Any:
    for part in key.split("."):
        values = values[part]
    return values


def plain(value: Any) -> Any:
    """A value with its sections as mappings of their keys."""
    if isinstance(value, Section):
        return {key: plain(inner) for key, inner in value}
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list) else value


class Held(NamedTuple):
    """What sections a key holds: one, a `list` of them, or a `dict` of them by name.

    In a dict they may be of several kinds; then the key `tag` of each says which. `names` is the
    type of the dict's keys.
    """

    container: type | None
    sections: tuple[type[Section], ...]
    tag: str | None = None
    names: Any = str


def held_by(annotation: Any) -> Held | None:
    """What sections a key of this type holds; None for one that holds a value."""
    if sections := _sections(annotation):
        return Held(None, sections)
    container = get_origin(annotation)
    if container not in (list, dict):
        return None
    inner, metadata = get_args(annotation)[-1], ()
    if get_origin(inner) is Annotated:
        inner, *metadata = get_args(inner)
    members = _sections(inner) or tuple(s for one in get_args(inner) for s in _sections(one))
    tag = next((found for m in metadata if (found := getattr(m, "discriminator", None))), None)
    return Held(container, members, tag, get_args(annotation)[0]) if members else None


def _sections(annotation: Any) -> tuple[type[Section], ...]:
    is_section = isinstance(annotation, type) and issubclass(annotation, Section)
    return (annotation,) if is_section else ()


def with_defaults(section: type[SectionType], **defaults: Any) -> type[SectionType]:
    """A section to extend: `section` with other defaults, in the same order."""
    fields = {}
    for key, default in defaults.items():
        field = section.model_fields[key]
        changed = Field(
            default,
            validate_default=True,
            description=field.description,
            json_schema_extra=field.json_schema_extra,
        )
        fields[key] = (field.rebuild_annotation(), changed)
    return create_model(section.__name__, __base__=section, __module__=section.__module__, **fields)
