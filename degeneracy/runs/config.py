"""What may an experiment's config say? The schema (pydantic), `load_config`, and the JSON Schema
that editors use.

`python -m experiment_config` prints the JSON Schema; `args_ngd_sgd.schema.json` is that output.
"""

import difflib
import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from degeneracy.config.reader import ConfigError, repeated, shown
from degeneracy.llc.settings import SamplerSettings, Seed
from degeneracy.runs.rules import TRAIN_SIZES, cross_problems

MAX_EPOCHS = 100_000
Epoch = Annotated[int, Field(ge=0, le=MAX_EPOCHS)]


class _Section(BaseModel):
    """One section. Checks that need only its own keys also hold where a section is built by itself."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    section: ClassVar[str]

    def _values(self) -> dict[str, Any]:
        return {f"{self.section}.{key}": value for key, value in self}

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if problems := list(cross_problems(self._values())):
            raise ValueError("; ".join(problems))
        return self


class ExperimentSettings(_Section):
    """What is trained, how, and when it is measured."""

    section: ClassVar[str] = "experiment"

    model_type: Literal["ffnn", "dlnn", "cnn"] = Field(
        "ffnn",
        description=(
            "Architecture: ReLU network (ffnn), deep linear network (dlnn) or LeNet-5 (cnn)."
        ),
    )
    experiment_type: Literal["standard", "swap"] = Field(
        "swap",
        description=(
            "standard: each optimizer from the same initial weights. swap: SGD for cut_off_epochs,"
            " then two copies go on to num_epochs, one with a fresh SGD, one with a fresh NGD."
        ),
    )
    optimizer: Literal["ngd", "sgd", "both"] = Field(
        "both", description="The optimizer or optimizers trained; a swap needs both."
    )
    hessian: bool = Field(
        True, description="Whether the Hessian's trace is estimated at the measured epochs."
    )
    robustness: bool = Field(
        True,
        description=(
            "Whether the final checkpoints' LLCs are measured again on a grid of γ and nβ, and"
            " after a rescaling of layers that leaves the network's function as it is."
        ),
    )
    hidden_nodes: list[Annotated[int, Field(ge=1, le=65_536)]] = Field(
        [256],
        min_length=1,
        description="Units in a hidden layer, one model an entry, paired with hidden_layers.",
    )
    hidden_layers: list[Annotated[int, Field(ge=1, le=1_000)]] = Field(
        [2],
        min_length=1,
        description="Number of hidden layers, one model an entry, paired with hidden_nodes.",
    )
    hidden_conv_layers: list[Annotated[int, Field(ge=0, le=1_000)]] = Field(
        [2],
        min_length=1,
        description="Extra convolutions of LeNet-5 (model_type cnn), one model an entry.",
    )
    cut_off_epochs: Epoch = Field(
        10,
        description=(
            "Epochs of SGD before a swap; unused by standard. In a swap: from 1 to num_epochs - 1."
        ),
    )
    num_epochs: int = Field(
        20, ge=1, le=MAX_EPOCHS, description="Epochs trained in all, in a swap both parts together."
    )
    sgd_lr: float = Field(
        0.01, gt=0, description="SGD's learning rate (weight units per gradient unit)."
    )
    sgd_swap_lr: float | None = Field(
        None, gt=0, description="SGD's learning rate after the swap; null means the same as sgd_lr."
    )
    ngd_lr: float = Field(
        0.01, gt=0, description="NGD's learning rate (weight units per gradient unit)."
    )
    alpha: float = Field(
        0.1,
        gt=0,
        description="NGD: smoothing α of the Fisher factor, without unit; large α approaches SGD.",
    )
    eta: float = Field(
        0.9, gt=0, le=1, description="NGD: weight η of the newest gradient in the Fisher factor."
    )
    epsilon: float = Field(
        1e-10,
        ge=0,
        le=1e30,
        description=(
            "NGD: absolute floor ε of the Fisher factor's eigenvalues, in gradient units squared."
        ),
    )
    delta: float = Field(
        5e-4,
        ge=0,
        lt=1,
        description="NGD: floor δ of those eigenvalues as a fraction of the largest one.",
    )
    ngd_arithmetic: Literal["stable", "published"] = Field(
        "stable",
        description=(
            "NGD's factor update: stable (subspace iteration, sound in float32) or published"
            " (reproduces the published curves, not sound in float32)."
        ),
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of both optimizers, a fraction.")
    nesterov: bool = Field(
        True, description="Nesterov's form of momentum, for both optimizers; needs momentum > 0."
    )
    seed: Seed = Field(1, description="Seed of the initial weights and of the shuffling.")
    measure_epochs: (
        Literal["all", "final"]
        | Annotated[
            list[Epoch],
            Field(min_length=1, json_schema_extra={"uniqueItems": True}),
            AfterValidator(sorted),
        ]
    ) = Field(
        "all",
        description=(
            "Epochs at which LLC, WBIC and Hessian trace are measured: every one, the last one, or"
            " a list of epochs from 0 (initial weights) to num_epochs."
        ),
    )


class DataSettings(_Section):
    """Which data set, and how it is cut into batches."""

    section: ClassVar[str] = "data"

    dataset: Literal["mnist", "fashion-mnist", "cifar10"] = Field(
        "fashion-mnist", description="The data set."
    )
    batch_size: int = Field(
        128,
        ge=2,
        le=max(TRAIN_SIZES.values()),
        description=(
            "Images in a minibatch (m), for training and for sampling; at most the training set's"
            " size."
        ),
    )
    num_workers: int = Field(
        0,
        ge=0,
        le=1_024,
        description="Accepted and unused: the data is held in memory, nothing loads it.",
    )
    num_hessian_batches: int = Field(
        10,
        ge=1,
        le=max(TRAIN_SIZES.values()) // 2,
        description="Minibatches of the training set over which the Hessian's trace is taken.",
    )
    num_probes: int = Field(
        50,
        ge=2,
        le=100_000,
        description=(
            "Probes of the trace estimate at most: a standard error of 2 % is enough. It needs two."
        ),
    )
    # The pattern keeps out what no one means in a path: nothing, control characters, spaces at
    # either end.
    root: str = Field(
        "data",
        pattern=r"^[^\s\x00-\x1f]([^\x00-\x1f]*[^\s\x00-\x1f])?$",
        description=(
            "Folder that holds the data sets' files; a relative one is relative to the project's"
            " folder."
        ),
    )


class Config(BaseModel):
    """An experiment's whole config; every key has a default."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    experiment: ExperimentSettings = Field(default_factory=ExperimentSettings)
    data: DataSettings = Field(default_factory=DataSettings)
    devinterp: SamplerSettings = Field(default_factory=SamplerSettings)

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        values = {f"{name}.{key}": value for name in SECTIONS for key, value in getattr(self, name)}
        if problems := list(cross_problems(values)):
            raise ValueError("; ".join(problems))
        return self


SECTIONS: dict[str, type[_Section]] = {
    s.section: s for s in (ExperimentSettings, DataSettings, SamplerSettings)
}


# ---- reading -------------------------------------------------------------------------------------


def load_config(path: str | os.PathLike[str]) -> Config:
    """Reads and checks a config file (JSON, UTF-8).

    Args:
        path: an object with the sections `experiment`, `data` and `devinterp`, or the published
            form, a list of three objects in this order. What is left out has its default.

    Raises:
        ConfigError: the file cannot be read, is not JSON, or is not a config; lists every problem.
    """
    where = os.fspath(path)
    repeated_keys: list[str] = []

    def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if (key := repeated([key for key, _ in pairs])) is not None:
            repeated_keys.append(f"{_key(key)}: given twice in one object; allowed: each key once")
        return dict(pairs)

    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
        if not text.strip():
            raise ConfigError(
                ["the file is empty; allowed: a JSON object ({} means all defaults)"], where
            )
        content = json.loads(text, object_pairs_hook=object_of)
    except ConfigError:
        raise
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError(
            [f"the file cannot be read ({reason}); allowed: a JSON file"], where
        ) from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ConfigError([f"the file is not JSON: {error.msg} at {place}"], where) from None
    except (
        ValueError,
        RecursionError,
    ) as error:  # not UTF-8, a number of thousands of digits, endless nesting
        raise ConfigError([f"the file is not JSON that can be read: {error}"], where) from None

    try:
        config = parse_config(content, where)
    except ConfigError as error:
        raise ConfigError(repeated_keys + error.problems, where) from None
    if repeated_keys:
        raise ConfigError(repeated_keys, where)
    return config


def parse_config(content: Any, where: str = "config") -> Config:
    """Checks a config that is already in memory.

    Args:
        content: what JSON gives for a config file: a dict of sections, or a list of three dicts.
        where: what the error's first line calls it.

    Raises:
        ConfigError: lists every problem, each with its key, what was given and what is allowed.
    """
    given, problems = _sections_of(content)
    sections: dict[str, _Section] = {}
    values: dict[str, Any] = {}
    for name, model in SECTIONS.items():
        known = {key: value for key, value in given[name].items() if key in model.model_fields}
        problems += [
            _unknown_key(name, key, value) for key, value in given[name].items() if key not in known
        ]
        wrong: dict[str, list] = {}  # key → pydantic's paths below it
        try:
            sections[name] = model.model_validate(known)
        except ValidationError as error:
            for key, *inner in (e["loc"] for e in error.errors(include_url=False) if e["loc"]):
                if (
                    key in known
                ):  # or it is a default that could not be computed from another key's wrong value
                    wrong.setdefault(key, []).extend(inner)
            # A problem of the section as a whole (no key in `loc`) is one of `cross_problems`,
            # listed below.
        problems += [_wrong_value(model, key, known[key], inner) for key, inner in wrong.items()]
        valid = {key: value for key, value in known.items() if key not in wrong}
        for key, field in model.model_fields.items():
            if key not in wrong:
                default = field.get_default(call_default_factory=True, validated_data=valid)
                values[f"{name}.{key}"] = valid.get(key, default)
    problems += cross_problems(values)
    if problems:
        raise ConfigError(problems, where)
    return Config(**sections)


def _sections_of(content: Any) -> tuple[dict[str, dict], list[str]]:
    """The sections as given, of either form, empty where left out; and the problems of that outer
    shape.
    """
    names = ", ".join(SECTIONS)
    problems = []
    if isinstance(content, list):
        if len(content) != len(SECTIONS):
            problems.append(
                f"a list of {len(content)} given; allowed: a list of three objects, in the order"
                f" {names}"
            )
        content = dict(zip(SECTIONS, content, strict=False))
    elif not isinstance(content, dict):
        problems.append(f"{shown(content)} given; allowed: an object with the sections {names}")
        content = {}
    given: dict[str, dict] = {name: {} for name in SECTIONS}
    for name, section in content.items():
        if name == "$schema":
            if not isinstance(section, str):
                problems.append(f"$schema: {shown(section)} given; allowed: a string")
        elif name not in SECTIONS:
            problems.append(_unknown_section(name, section))
        elif not isinstance(section, dict):
            problems.append(f"{name}: {shown(section)} given; allowed: an object of settings")
        else:
            given[name] = section
    return given, problems


def _unknown_section(name: Any, section: Any) -> str:
    homes = [home for home, model in SECTIONS.items() if name in model.model_fields]
    near = difflib.get_close_matches(str(name), SECTIONS, n=1)
    if homes:
        hint = f"it is a key of section {' and of section '.join(homes)}"
    elif near:
        hint = f"did you mean {near[0]}?"
    else:
        hint = f"allowed: {', '.join(SECTIONS)}"
    return f"{_key(name)}: unknown section, {shown(section)} given; {hint}"


def _unknown_key(section: str, key: Any, value: Any) -> str:
    here = SECTIONS[section].model_fields
    homes = [f"{home}.{key}" for home, model in SECTIONS.items() if key in model.model_fields]
    near = difflib.get_close_matches(str(key), here, n=1)
    if homes:
        hint = f"it belongs to another section: {' or '.join(homes)}"
    elif near:
        hint = f"did you mean {section}.{near[0]}?"
    else:
        hint = f"allowed: {', '.join(here)}"
    return f"{section}.{_key(key)}: unknown key, {shown(value)} given; {hint}"


def _wrong_value(model: type[_Section], key: str, value: Any, inner: list[str | int]) -> str:
    """The problem of one key; `inner` is pydantic's paths below it, where an integer is a place in
    a list.
    """
    allowed = _allowed(_schema(model)["properties"][key])
    place = (
        next((i for i in inner if isinstance(i, int)), None) if isinstance(value, list) else None
    )
    entry = "" if place is None else f", where entry {place + 1} is {shown(value[place])}"
    return f"{model.section}.{key}: {shown(value)} given{entry}; allowed: {allowed}"


@functools.cache
def _schema(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema()


def _allowed(schema: Mapping[str, Any], plural: bool = False) -> str:
    """What a key's JSON Schema allows, in words."""
    if "anyOf" in schema:
        return " or ".join(_allowed(option) for option in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(shown(value) for value in schema["enum"])
    if schema["type"] == "array":
        return f"a list of {_allowed(schema['items'], plural=True)}, not empty"
    if schema["type"] in ("integer", "number"):
        noun = (
            schema["type"] + "s"
            if plural
            else {"integer": "an integer", "number": "a finite number"}[schema["type"]]
        )
        signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
        bounds = " and ".join(
            f"{sign} {shown(schema[name])}" for name, sign in signs.items() if name in schema
        )
        return f"{noun} {bounds}"
    if schema["type"] == "string":
        return (
            "a string that is not empty, without control characters and without spaces at its ends"
        )
    return {"boolean": "true or false", "null": "null"}[schema["type"]]


def _key(key: Any) -> str:
    """A key as given, quoted where it would not read as one word."""
    return key if isinstance(key, str) and key.isidentifier() else shown(key)


# ---- the JSON Schema -----------------------------------------------------------------------------


def config_json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of the object form. Combinations of keys are checked by
    `load_config` alone.
    """
    schema = Config.model_json_schema()
    properties = {"$schema": {"type": "string", "description": "This schema's place, for editors."}}
    properties |= schema.pop("properties")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "properties": properties,
    }


if __name__ == "__main__":
    print(json.dumps(config_json_schema(), indent=2, ensure_ascii=False))
