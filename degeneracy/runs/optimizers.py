"""What may a run's config say of its optimizers? Names, and a section for each that differs."""

from collections.abc import Mapping
from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal

from pydantic import Field, create_model

from degeneracy.config.section import Section
from degeneracy.optimizers.kinds import KINDS

Name = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9]([A-Za-z0-9_. -]{0,38}[A-Za-z0-9_-])?$",
        json_schema_extra={
            "patternErrorMessage": (
                "names of at most 40 letters, digits, _, -, . and spaces inside, the first a letter"
                " or a digit"
            )
        },
    ),
]

Names = Annotated[list[Name], Field(min_length=1)]

# Where a kind's key is said by the section `experiment` unless the optimizer's own section says it.
FROM_EXPERIMENT: dict[str, dict[str, str]] = {
    "sgd": {
        "lr": "sgd_lr",
        "swap_lr": "sgd_swap_lr",
        "momentum": "momentum",
        "nesterov": "nesterov",
    },
    "ngd": {
        "lr": "ngd_lr",
        "momentum": "momentum",
        "nesterov": "nesterov",
        "alpha": "alpha",
        "eta": "eta",
        "epsilon": "epsilon",
        "delta": "delta",
        "arithmetic": "ngd_arithmetic",
    },
}


class OptimizerSection(Section):
    """What a config says of an optimizer; each kind has a subclass, made below."""

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle, which finds no class that has no name in its module."""
        return _unpickled, (self.kind, self.model_dump(exclude_unset=True))


def _unpickled(kind: str, values: dict[str, Any]) -> OptimizerSection:
    return OPTIMIZER_SECTIONS[kind](**values)


def _section_of(kind: str) -> type[OptimizerSection]:
    """What a config may say of an optimizer of this kind: the kind's settings, null where
    `experiment` says them.
    """
    description = "Which optimizer it is; may be left out where the section is called like a kind."
    fields: dict[str, Any] = {"kind": (Literal[kind], Field(kind, description=description))}
    for key, field in KINDS[kind].settings.model_fields.items():
        annotation, source = field.rebuild_annotation(), FROM_EXPERIMENT.get(kind, {}).get(key)
        if source is None:
            fields[key] = (annotation, Field(field.default, description=field.description))
        else:
            said = f"{field.description} Null: as experiment.{source} says."
            fields[key] = (annotation | None, Field(None, description=said))
    return create_model(
        f"{kind.capitalize()}Optimizer",
        __base__=OptimizerSection,
        __module__=__name__,
        __doc__=f"An optimizer of kind {kind}.",
        **fields,
    )


OPTIMIZER_SECTIONS: dict[str, type[OptimizerSection]] = {kind: _section_of(kind) for kind in KINDS}


def _by_kind_or_name(schema: dict[str, Any]) -> None:
    """JSON Schema of the sections: one that is called like a kind need not name it."""
    ((pattern, one_of),) = schema.pop("patternProperties").items()
    kinds = one_of["oneOf"]
    schema["propertyNames"] = {"pattern": pattern, **schema.get("propertyNames", {})}
    schema["properties"] = dict(zip(KINDS, kinds, strict=True))
    schema["additionalProperties"] = {"required": ["kind"], "anyOf": kinds}


OptimizerSections = Annotated[
    dict[Name, Annotated[reduce(or_, OPTIMIZER_SECTIONS.values()), Field(discriminator="kind")]],
    Field(json_schema_extra=_by_kind_or_name),
]


def names_of(optimizer: str | list[str]) -> tuple[str, ...]:
    """The names that `experiment.optimizer` stands for, in the order in which they are trained."""
    if isinstance(optimizer, str):
        return ("sgd", "ngd") if optimizer == "both" else (optimizer,)
    return tuple(optimizer)


def with_kinds(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """A config in which every section of `optimizers` that is called like a kind names it, and
    every such name in a list at `experiment.optimizer` has a section. Nothing of it is checked yet.
    """
    experiment, sections = given.get("experiment"), given.get("optimizers", {})
    if not isinstance(sections, Mapping):
        return given
    chosen = (
        experiment.get("optimizer")
        if isinstance(experiment, Mapping)
        else getattr(experiment, "optimizer", None)
    )
    names = chosen if isinstance(chosen, list) else []
    called = {name: {} for name in names if isinstance(name, str) and name in KINDS}
    filled = {
        name: {"kind": name, **section}
        if name in KINDS and isinstance(section, Mapping)
        else section
        for name, section in (called | dict(sections)).items()
    }
    return {**given, "optimizers": filled}


def resolved(
    kind: str, section: Mapping[str, Any], experiment: Mapping[str, Any], is_first: bool
) -> dict[str, Any]:
    """The kind's settings as a section says them, or else `experiment`.

    Args:
        kind: One of `KINDS`.
        section: Values of its section; what is missing there is missing in what is returned.
        experiment: Values of the section `experiment`; likewise.
        is_first: Whether it is the optimizer that trains up to a swap: `sgd_swap_lr` is for it
            alone.
    """
    sources = FROM_EXPERIMENT.get(kind, {})
    values = {key: section[key] for key in KINDS[kind].settings.model_fields if key in section}
    for key, source in sources.items():
        is_said = key not in values or values[key] is not None
        if is_said or (key == "swap_lr" and not is_first):
            continue
        del values[key]
        if source in experiment:
            values[key] = experiment[source]
    return values
