"""What may a config of the study of the paper's tables and figures say?"""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from degeneracy.config.section import Section, rule
from degeneracy.config.values import EachOnce, Folder, Seed
from degeneracy.config.words import repeated, shown
from degeneracy.optimizers.settings import MAX_RATE
from degeneracy.runs.config import MAX_EPOCHS
from degeneracy.sweeps.settings import RunsSettings

Epochs = Annotated[
    list[Annotated[int, Field(ge=0, le=MAX_EPOCHS)]], EachOnce, AfterValidator(sorted)
]
Seeds = Annotated[list[Seed], EachOnce]
Nodes = Annotated[int, Field(ge=1, le=65_536)]
Layers = Annotated[int, Field(ge=1, le=1_000)]
Dataset = Literal["mnist", "fashion-mnist"]
Rate = Annotated[float, Field(gt=0, le=MAX_RATE)]

SEEDS = "Seeds of initial weights, shuffling and sampler noise; none: the part is left out."
EPOCHS = "Epochs whose checkpoints are measured, from 0 (initial weights) to the last one."
DATASET = "The data set."
NODES, LAYERS = "Units in a hidden layer.", "Number of hidden layers."


def beyond(epochs: list[int], num_epochs: int, key: str) -> str | None:
    """What is wrong with epochs of which one comes after the last; `key` says that one's name."""
    if epochs and epochs[-1] > num_epochs:
        return (
            f"{shown(epochs)} given with {key} {num_epochs}; allowed there: epochs from 0 to"
            f" {num_epochs}"
        )
    return None


@rule("cut_off_epochs", "num_epochs")
def swap_is_inside(cut_off: int, num_epochs: int) -> str | None:
    """Both optimizers train at least one epoch after the swap."""
    if cut_off >= num_epochs:
        return (
            f"{cut_off} given with training.num_epochs {num_epochs}; allowed there: an integer"
            f" >= 1 and <= {num_epochs - 1}"
        )
    return None


@rule("measure_epochs", "num_epochs")
def measured_within_training(epochs: list[int], num_epochs: int) -> str | None:
    """There is no checkpoint after the last epoch."""
    return beyond(sorted(epochs), num_epochs, "training.num_epochs")


class TrainingSettings(Section):
    """The swap run of the paper: SGD up to the cut-off, from there SGD and NGD (published
    arithmetic), momentum 0.9 with Nesterov's form.
    """

    rules = (swap_is_inside, measured_within_training)

    root: Folder = Field("data", description="Folder of the data sets' files, as in a run.")
    batch_size: int = Field(
        128, ge=2, le=60_000, description="Images in a minibatch, for training and sampling."
    )
    cut_off_epochs: int = Field(15, ge=1, le=MAX_EPOCHS, description="Epochs before the swap.")
    num_epochs: int = Field(30, ge=2, le=MAX_EPOCHS, description="Epochs trained in all.")
    sgd_lr: Rate = Field(1e-4, description="SGD's learning rate (weight per gradient unit).")
    ngd_lr: Rate = Field(1e-3, description="NGD's learning rate (weight per gradient unit).")
    alpha: float = Field(0.1, gt=0, description="NGD: smoothing α of the Fisher factor.")
    eta: float = Field(0.9, gt=0, lt=1, description="NGD: weight η of the newest gradient.")
    epsilon: float = Field(
        1e-10, gt=0, le=1e30, description="NGD: absolute floor ε of eigenvalues, gradient²."
    )
    delta: float = Field(
        5e-4, ge=0, lt=1, description="NGD: floor δ of eigenvalues, of the largest one."
    )
    measure_epochs: Epochs = Field(
        [0, 8, 15, 16, 18, 20, 25, 30], min_length=1, description=f"{EPOCHS} Of sizes."
    )
    num_hessian_batches: int = Field(
        10, ge=1, le=468, description="Minibatches over which the Hessian's trace is taken."
    )
    num_probes: int = Field(
        50, ge=2, le=100_000, description="Probes of the trace estimate at most."
    )


class SamplerSettings(Section):
    """How the LLC is sampled: SGLD at nβ = m/ln m, as published."""

    num_chains: int = Field(2, ge=1, le=100_000, description="Independent chains.")
    num_draws: int = Field(1_000, ge=4, le=10_000_000, description="Draws a chain.")
    num_burnin_steps: int = Field(
        0, ge=0, le=10_000_000, description="Steps a chain before its first draw."
    )
    localization: float = Field(100.0, ge=0, description="γ (inverse weight units squared).")
    sampler_lr: float = Field(1e-4, gt=0, description="Step size (weight units squared).")


class SizesSettings(Section):
    """Networks of one kind on one data set, a swap run for each and each seed."""

    dataset: Dataset = Field("mnist", description=DATASET)
    model_type: Literal["ffnn", "cnn"] = Field(
        "ffnn", description="ReLU networks (ffnn) or LeNet-5 (cnn)."
    )
    hidden_layers: Layers = Field(2, description=f"{LAYERS} Of ffnn.")
    hidden_nodes: Annotated[list[Nodes], EachOnce] = Field(
        [64, 128, 256], min_length=1, description="Units in a hidden layer, one ffnn an entry."
    )
    hidden_conv_layers: Annotated[list[Annotated[int, Field(ge=0, le=1_000)]], EachOnce] = Field(
        [0], min_length=1, description="Extra convolutions of LeNet-5, one cnn an entry."
    )
    seeds: Seeds = Field([1, 2, 3, 4, 5], description=SEEDS)


class SmoothingSettings(Section):
    """NGD with other α, and with other ε, all from one trunk of SGD for each seed."""

    dataset: Dataset = Field("mnist", description=DATASET)
    hidden_layers: Layers = Field(2, description=LAYERS)
    hidden_nodes: Nodes = Field(256, description=NODES)
    alphas: Annotated[list[Annotated[float, Field(gt=0, le=1e12)]], EachOnce] = Field(
        [1e-6, 0.01, 0.1, 1, 10, 50],
        description="NGD's α; above 0, as in a run: 1e-6 is nearly none.",
    )
    epsilons: Annotated[list[Annotated[float, Field(gt=0, le=1e30)]], EachOnce] = Field(
        [1e-19, 1e-10, 1e-4, 0.01, 0.1], description="NGD's ε, gradient²."
    )
    measure_epochs: Epochs = Field([15, 20, 30], min_length=1, description=EPOCHS)
    seeds: Seeds = Field([1, 2, 3], description=SEEDS)


class RatesSettings(Section):
    """SGD at multiples of its learning rate after the swap, beside NGD from the same trunk."""

    dataset: Dataset = Field("mnist", description=DATASET)
    hidden_layers: Layers = Field(2, description=LAYERS)
    hidden_nodes: Nodes = Field(256, description=NODES)
    factors: Annotated[list[Annotated[float, Field(gt=0, le=1e6)]], EachOnce] = Field(
        [10, 100], min_length=1, description="Multiples of training.sgd_lr after the swap."
    )
    measure_epochs: Epochs = Field([15, 16, 20, 30], min_length=1, description=EPOCHS)
    seeds: Seeds = Field([1, 2, 3, 4], description=SEEDS)


@rule("measure_epochs", "num_epochs")
def measured_within_overfitting(epochs: list[int], num_epochs: int) -> str | None:
    """There is no checkpoint after the last epoch."""
    return beyond(sorted(epochs), num_epochs, "overfitting.num_epochs")


class OverfittingSettings(Section):
    """Each optimizer from the same initial weights until it over-fits; WBIC at the published nβ and
    at n/ln n, where it is Watanabe's.
    """

    rules = (measured_within_overfitting,)

    dataset: Dataset = Field("fashion-mnist", description=DATASET)
    hidden_layers: Layers = Field(2, description=LAYERS)
    hidden_nodes: Nodes = Field(256, description=NODES)
    num_epochs: int = Field(40, ge=1, le=MAX_EPOCHS, description="Epochs trained.")
    sgd_lr: Rate = Field(0.01, description="SGD's learning rate (weight per gradient unit).")
    ngd_lr: Rate = Field(0.01, description="NGD's learning rate (weight per gradient unit).")
    measure_epochs: Epochs = Field(
        [0, 1, 2, 4, 7, 10, 15, 20, 30, 40], min_length=1, description=EPOCHS
    )
    dataset_localization: float = Field(1e4, ge=0, description="γ at nβ = n/ln n.")
    dataset_sampler_lr: float = Field(
        1e-6, gt=0, description="SGLD's step at nβ = n/ln n (weight units squared)."
    )
    dataset_num_burnin_steps: int = Field(
        600, ge=0, le=10_000_000, description="Steps before the first draw at nβ = n/ln n."
    )
    dataset_num_draws: int = Field(
        2_000,
        ge=4,
        le=10_000_000,
        description="Draws a chain at nβ = n/ln n: ten relaxation times 2/(εγ), as they are.",
    )
    seeds: Seeds = Field([1, 2, 3], description=SEEDS)


def kind_of(sizes: Mapping) -> str:
    """`mnist, 2 hidden layers` or `mnist, LeNet-5`: what groups of sizes are told apart by."""
    if sizes["model_type"] == "cnn":
        return f"{sizes['dataset']}, LeNet-5"
    layers = sizes["hidden_layers"]
    return f"{sizes['dataset']}, {layers} hidden layer{'s' * (layers > 1)}"


@rule("other_sizes", "sizes")
def kinds_are_there_once(others: list[Mapping], sizes: list[Mapping]) -> str | None:
    """A group is known by its kind."""
    full = [SizesSettings.model_construct(**group) for group in (*sizes, *others)]
    if (twice := repeated([kind_of(dict(group)) for group in full])) is not None:
        return f"{twice} given twice, with sizes; allowed: each data set and depth once"
    return None


def within_the_swap_run(part: str):
    """The rule that a part's epochs are those of `training`."""

    @rule(f"{part}.measure_epochs", "training.num_epochs")
    def measured_within(epochs: list[int], num_epochs: int) -> str | None:
        return beyond(sorted(epochs), num_epochs, "training.num_epochs")

    return measured_within


OTHERS = (
    {"dataset": "mnist", "hidden_layers": 1},
    {"dataset": "fashion-mnist", "hidden_layers": 2},
    {"dataset": "fashion-mnist", "hidden_layers": 1},
    {"dataset": "mnist", "model_type": "cnn"},
    {"dataset": "fashion-mnist", "model_type": "cnn"},
)


class Settings(Section):
    """What of the paper is done again; every key has a default."""

    rules = (kinds_are_there_once, within_the_swap_run("smoothing"), within_the_swap_run("rates"))

    training: TrainingSettings = Field(default_factory=TrainingSettings)
    sampler: SamplerSettings = Field(default_factory=SamplerSettings)
    sizes: list[SizesSettings] = Field(
        [SizesSettings()],
        validate_default=True,
        description="Networks of which values are published; empty: the part is left out.",
    )
    smoothing: SmoothingSettings = Field(default_factory=SmoothingSettings)
    rates: RatesSettings = Field(default_factory=RatesSettings)
    overfitting: OverfittingSettings = Field(default_factory=OverfittingSettings)
    other_sizes: list[SizesSettings] = Field(
        [SizesSettings(**group) for group in OTHERS],
        description="Further networks, done last; empty: the part is left out.",
    )
    runs: RunsSettings = Field(default_factory=RunsSettings)
