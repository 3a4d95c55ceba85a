"""What may a run's config say? Its sections, and the optimizers that it names."""

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from degeneracy.config.reader import DEFAULT_STUDY, read_config
from degeneracy.config.section import Section, plain
from degeneracy.config.values import DataRoot, Seed, nesterov_has_momentum
from degeneracy.config.words import in_words, shown
from degeneracy.llc.settings import SamplerSettings
from degeneracy.optimizers.kinds import KINDS
from degeneracy.optimizers.ngd import published_keeps_its_floor
from degeneracy.optimizers.settings import MAX_RATE, OptimizerSettings
from degeneracy.runs import rules as run_rules
from degeneracy.runs.optimizers import (
    OPTIMIZER_SECTIONS,
    Names,
    OptimizerSections,
    names_of,
    resolved,
    with_kinds,
)

MAX_EPOCHS = 100_000
Epoch = Annotated[int, Field(ge=0, le=MAX_EPOCHS)]


class ExperimentSettings(Section):
    """What is trained, how, and when it is measured."""

    rules = (
        run_rules.models_are_paired,
        run_rules.convolutional_models_differ,
        run_rules.optimizers_are_named_once,
        run_rules.names_are_not_almost_kinds,
        run_rules.swap_has_two,
        run_rules.swap_is_inside,
        run_rules.measured_once,
        run_rules.measured_within,
        nesterov_has_momentum("experiment."),
        run_rules.swap_rate_has_swap,
        published_keeps_its_floor("ngd_arithmetic", "experiment."),
    )

    model_type: Literal["ffnn", "dlnn", "cnn"] = Field(
        "ffnn",
        description=(
            "Architecture: ReLU network (ffnn), deep linear network (dlnn) or LeNet-5 (cnn)."
        ),
    )
    experiment_type: Literal["standard", "swap"] = Field(
        "swap",
        description=(
            "standard: each optimizer from the same initial weights. swap: the first optimizer for"
            " cut_off_epochs, then a copy for each optimizer goes on to num_epochs with a fresh"
            " one."
        ),
    )
    optimizer: Literal["ngd", "sgd", "both"] | Names = Field(
        "both",
        description=(
            "The optimizer or optimizers trained: both is sgd, then ngd; a list names kinds"
            f" ({', '.join(KINDS)}) and sections of optimizers. The first is what the others are"
            " compared with, and trains up to a swap, which needs at least two."
        ),
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
            "Epochs before a swap; unused by standard. In a swap: from 1 to num_epochs - 1."
        ),
    )
    num_epochs: int = Field(
        20, ge=1, le=MAX_EPOCHS, description="Epochs trained in all, in a swap both parts together."
    )
    sgd_lr: float = Field(
        0.01, gt=0, le=MAX_RATE, description="SGD's learning rate (weight units per gradient unit)."
    )
    sgd_swap_lr: float | None = Field(
        None,
        gt=0,
        le=MAX_RATE,
        description=(
            "SGD's learning rate after the swap, where it trains up to it; null means the same as"
            " sgd_lr."
        ),
    )
    ngd_lr: float = Field(
        0.01, gt=0, le=MAX_RATE, description="NGD's learning rate (weight units per gradient unit)."
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
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of SGD and NGD, a fraction.")
    nesterov: bool = Field(
        True, description="Nesterov's form of momentum, for SGD and NGD; needs momentum > 0."
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


class DataSettings(Section):
    """Which data set, and how it is cut into batches."""

    rules = (run_rules.batch_within_data,)

    dataset: Literal["mnist", "fashion-mnist", "cifar10"] = Field(
        "fashion-mnist", description="The data set."
    )
    batch_size: int = Field(
        128,
        ge=2,
        le=max(run_rules.TRAIN_SIZES.values()),
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
        le=max(run_rules.TRAIN_SIZES.values()) // 2,
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
    root: DataRoot = "data"


class Config(Section):
    """A run's whole config; every key has a default."""

    rules = (
        run_rules.hessian_within_data,
        run_rules.optimizers_are_defined,
        run_rules.sections_are_of_trained_optimizers,
        run_rules.names_of_kinds_mean_them,
        run_rules.sections_keep_their_kinds_rules,
        run_rules.swap_rates_have_swap,
        run_rules.sgd_swap_rate_has_sgd,
    )
    published_form = ("experiment", "data", "devinterp")

    experiment: ExperimentSettings = Field(default_factory=ExperimentSettings)
    data: DataSettings = Field(default_factory=DataSettings)
    devinterp: SamplerSettings = Field(default_factory=SamplerSettings)
    optimizers: OptimizerSections = Field(
        default_factory=dict,
        description=(
            "A section for each optimizer of a list at experiment.optimizer that is no kind, or is"
            " one with other settings than experiment and the kind's defaults give it."
        ),
    )

    @classmethod
    def completed(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        return with_kinds(given)

    @property
    def optimizer_names(self) -> tuple[str, ...]:
        """The optimizers in the order in which they are trained. The first is the baseline: what
        the others are compared with, and what trains up to a swap.
        """
        return names_of(self.experiment.optimizer)

    def optimizer_kind(self, name: str) -> str:
        """Which of `optimizers.kinds.KINDS` an optimizer is.

        Raises:
            ValueError: The config names no such optimizer.
        """
        if name not in self.optimizer_names:
            raise ValueError(
                f"optimizer: {shown(name)} given; allowed: {', '.join(self.optimizer_names)}"
            )
        return self.optimizers[name].kind if name in self.optimizers else name

    def optimizer_settings(self, name: str, after_swap: bool = False) -> OptimizerSettings:
        """How an optimizer is set: by its own section, else by `experiment`, else by its kind.

        Args:
            name: One of `optimizer_names`.
            after_swap: Whether it is a fresh one after the swap, with `swap_lr` for its `lr` if
                there is one.

        Raises:
            ValueError: The config names no such optimizer.
        """
        kind = self.optimizer_kind(name)
        section = plain(self.optimizers.get(name, OPTIMIZER_SECTIONS[kind]()))
        is_first = name == self.optimizer_names[0]
        values = resolved(kind, section, plain(self.experiment), is_first)
        if after_swap and values["swap_lr"] is not None:
            values["lr"] = values["swap_lr"]
        return KINDS[kind].settings(**values)


def load_config(path: str | os.PathLike[str]) -> Config:
    """A run's config from a JSON file: an object of the sections of `Config`, or the published
    form, a list of three objects. What is left out has its default.

    Raises:
        ConfigError: The file cannot be read, is not JSON, or is not a config; lists every problem.
    """
    return read_config(path, Config, DEFAULT_STUDY)


def check_optimizer_names(names: list[Any], experiment_type: str) -> None:
    """Refuses names of optimizers that come from Python as a config's would be refused.

    Raises:
        ValueError: Lists every problem: no name, one that is no string, is not allowed or is there
            twice, or a swap with a single one.
    """
    problems = [run_rules.swap_has_two.problem(names, experiment_type)]
    if all(isinstance(name, str) for name in names):
        problems.append(run_rules.optimizers_are_named_once.problem(names))
        problems.append(run_rules.names_are_not_almost_kinds.problem(names))
    adapter = TypeAdapter(Names)
    try:
        adapter.validate_python(names)
    except ValidationError:
        problems.append(f"{shown(names)} given; allowed: {in_words(adapter.json_schema(), {})}")
    if found := [problem for problem in problems if problem]:
        raise ValueError("\n".join(f"optimizers: {problem}" for problem in found))
