"""What may a config of the Gauss-Newton study say? Its schema, defaults and rules."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from degeneracy.config.section import Section, rule
from degeneracy.config.values import DataRoot, EachOnce, Seed, nesterov_has_momentum
from degeneracy.config.words import shown
from degeneracy.data.settings import there_are_so_many
from degeneracy.optimizers.gauss_newton import MOST_ROWS, Solver
from degeneracy.optimizers.settings import MAX_RATE
from degeneracy.runs.optimizers import Name

FEATURES = {"mnist": 784, "fashion-mnist": 784, "cifar10": 3072}
NUM_CLASSES = 10
MAX_EPOCHS = 100_000
SWAP = ">"  # joins the names of a swap


def _increasing(values: list) -> list:
    if any(a >= b for a, b in pairwise(values)):
        raise ValueError("allowed: numbers that increase")
    return values


Gamma = Annotated[float, Field(gt=0, le=1e12)]


class DataSettings(Section):
    """The images, normalised with the published constants and flattened."""

    rules = (there_are_so_many("num_train"),)

    dataset: Literal["mnist", "fashion-mnist", "cifar10"] = Field(
        "mnist", description="The data set."
    )
    root: DataRoot = "data"
    num_train: int = Field(
        2560, ge=2, le=60_000, description="Training images of mini-batch training: the first ones."
    )
    augment: bool = Field(
        False,
        description=(
            "Random crops, resized (RandomResizedCrop), before normalisation, in mini-batch"
            " training and for every optimizer alike."
        ),
    )


class NetworkSettings(Section):
    """The reversible network; its input is as wide as an image."""

    hidden: Annotated[int, Field(ge=2, le=65_536)] | None = Field(
        1000, description="Hidden units h of a half-layer; null: no bottleneck, C = I."
    )
    num_blocks: int = Field(2, ge=1, le=64, description="Reversible blocks L.")
    bias: bool = Field(True, description="Whether half-layers have a bias.")
    init_std: float = Field(
        1e-3, ge=0, le=10, description="Standard deviation of the weights at the start."
    )


class RegimeSettings(Section):
    """One way of giving the images."""

    batch_size: int = Field(256, ge=2, le=60_000, description="Images a step.")
    epochs: int = Field(10, ge=1, le=MAX_EPOCHS, description="Epochs.")
    checkpoint_every: int = Field(
        1,
        ge=1,
        le=MAX_EPOCHS,
        description="Epochs from one checkpoint to the next; the last one is kept.",
    )


class FullBatch(RegimeSettings):
    """Training on one batch, the first images, an epoch a step."""


class TrainingSettings(Section):
    """What all optimizers share."""

    seed: Seed = Field(42, description="First seed: of weights, order of images and crops.")
    num_seeds: int = Field(1, ge=1, le=100, description="Seeds, one after the other.")
    full: FullBatch = Field(FullBatch(epochs=20), description="On one batch.")
    mini: RegimeSettings = Field(RegimeSettings(), description="On minibatches.")

    @property
    def seeds(self) -> list[int]:
        """All of them."""
        return [self.seed + place for place in range(self.num_seeds)]


class Rates(Section):
    """Learning rates of an optimizer in the two regimes."""

    full_lr: Annotated[float, Field(gt=0, le=MAX_RATE)] | None = Field(
        None, description="Learning rate on the full batch; null: as `lr`."
    )

    def rate(self, regime: str) -> float:
        """Of `"full"` or `"mini"`."""
        return self.lr if regime == "mini" or self.full_lr is None else self.full_lr


class GaussNewtonChoice(Rates, Solver):
    """An exact Gauss-Newton optimizer."""

    kind: Literal["gauss_newton"] = Field("gauss_newton", description="Which optimizer it is.")
    lr: float = Field(
        0.1, gt=0, le=MAX_RATE, description="Learning rate in mini-batches; 1 is a whole step."
    )


class SGDChoice(Rates):
    """`torch.optim.SGD`."""

    rules = (nesterov_has_momentum(),)

    kind: Literal["sgd"] = Field("sgd", description="Which optimizer it is.")
    lr: float = Field(0.1, gt=0, le=MAX_RATE, description="Learning rate in mini-batches.")
    momentum: float = Field(0.0, ge=0, lt=1, description="Momentum, a fraction.")
    nesterov: bool = Field(False, description="Nesterov's form of momentum; needs momentum > 0.")
    weight_decay: float = Field(0.0, ge=0, description="Weight decay.")


class AdamChoice(Rates):
    """`torch.optim.Adam`."""

    kind: Literal["adam"] = Field("adam", description="Which optimizer it is.")
    lr: float = Field(1e-4, gt=0, le=MAX_RATE, description="Learning rate in mini-batches.")
    weight_decay: float = Field(0.0, ge=0, description="Weight decay.")


class NGDChoice(Rates):
    """Online natural gradient descent, `ngd.NGD`."""

    kind: Literal["ngd"] = Field("ngd", description="Which optimizer it is.")
    lr: float = Field(0.01, gt=0, le=MAX_RATE, description="Learning rate in mini-batches.")
    momentum: float = Field(0.0, ge=0, lt=1, description="Momentum, a fraction.")
    alpha: float = Field(4.0, gt=0, description="Smoothing α of the Fisher factor.")
    eta: float = Field(0.1, gt=0, le=1, description="Weight η of the newest gradient.")


Choice = GaussNewtonChoice | SGDChoice | AdamChoice | NGDChoice


class SwapSettings(Section):
    """A run that begins with one optimizer and goes on with another."""

    first: Name = Field("adam", description="Optimizer up to the swap, by its name.")
    then: Name = Field("block", description="Optimizer after it.")
    epoch: int = Field(5, ge=1, le=MAX_EPOCHS, description="Epochs before the swap.")
    regime: Literal["full", "mini"] = Field("mini", description="In which regime.")

    @property
    def name(self) -> str:
        """As results and figures call it."""
        return f"{self.first}{SWAP}{self.then} at {self.epoch}"


class AnalysisSettings(Section):
    """What is compared along training."""

    num_cka: int = Field(
        256, ge=2, le=10_000, description="Test images on which representations are compared."
    )
    num_ntk: int = Field(
        48,
        ge=2,
        le=MOST_ROWS // NUM_CLASSES,
        description="Training images of the tangent kernel, whose rows are ten times as many.",
    )


class DegeneracySettings(Section):
    """How the end points' learning coefficient and Hessian trace are measured."""

    regimes: Annotated[list[Literal["full", "mini"]], EachOnce] = Field(
        ["mini"], description="Whose end points, of the first seed."
    )
    optimizers: Annotated[list[Name], EachOnce] | None = Field(
        None, description="Whose end points, by name, of swaps none; null: all, and swaps."
    )
    localizations: Annotated[list[Gamma], AfterValidator(_increasing)] = Field(
        [1e4, 1e5], min_length=1, description="Strengths γ that are swept (weight units⁻²)."
    )
    nbeta: Literal["batch", "dataset"] | Annotated[float, Field(gt=0)] = Field(
        "dataset", description="Inverse temperature nβ; dataset: n/ln n."
    )
    num_chains: int = Field(4, ge=2, le=1000, description="Chains of the sampler auto.")
    num_draws: Annotated[int, Field(ge=4, le=1_000_000)] | None = Field(
        None, description="Draws a chain; null: as the sampler finds necessary."
    )
    batch_size: int = Field(256, ge=2, le=60_000, description="Images of a sampled gradient.")
    num_probes: int = Field(20, ge=1, le=10_000, description="Probes of the Hessian's trace.")
    seed: Seed = Field(0, description="Seed of chains and probes.")


def default_optimizers() -> dict[str, Choice]:
    """Three Gauss-Newton solutions at the published rates and scale, and three of first order."""
    published = {"lr": 0.1, "full_lr": 0.5, "scale": "published"}
    return {
        "block": GaussNewtonChoice(**published),
        "min_norm": GaussNewtonChoice(**published, solution="min_norm", rtol=0.0, atol=0.0),
        "ridge": GaussNewtonChoice(**published, ridge=1e-4),
        "sgd": SGDChoice(lr=0.1),
        "ngd": NGDChoice(lr=0.1),
        "adam": AdamChoice(lr=1e-3),
    }


@rule("swaps", "optimizers")
def swaps_are_of_optimizers(swaps: list, optimizers: Mapping[str, Any]) -> Mapping | str | None:
    """A swap names two that there are."""
    if not optimizers:
        return {"optimizers": "{} given; allowed: at least one optimizer"}
    for swap in (SwapSettings(**given) for given in swaps):
        for name in (swap.first, swap.then):
            if name not in optimizers:
                return f"{shown(name)} given; allowed: {', '.join(optimizers)}"
    return None


@rule("degeneracy.optimizers", "optimizers")
def measured_ones_are_optimizers(
    measured: list | None, optimizers: Mapping[str, Any]
) -> str | None:
    """End points are of optimizers that there are."""
    if unknown := [name for name in measured or () if name not in optimizers]:
        return f"{shown(unknown[0])} given; allowed: {', '.join(optimizers)}"
    return None


@rule("swaps", "training.full.epochs", "training.mini.epochs")
def swaps_are_inside(swaps: list, full: int, mini: int) -> str | None:
    """A swap is before the end of training."""
    for swap in (SwapSettings(**given) for given in swaps):
        epochs = {"full": full, "mini": mini}[swap.regime]
        if swap.epoch >= epochs:
            return (
                f"epoch {swap.epoch} given with training.{swap.regime}.epochs {epochs}; allowed:"
                " fewer epochs before the swap"
            )
    return None


@rule("training.mini.batch_size", "data.num_train")
def batches_are_whole(size: int, count: int) -> str | None:
    """Every batch has at least two images."""
    if size > count:
        return f"{size} given with data.num_train {count}; allowed: at most as many"
    if count % size == 1:
        return (
            f"{size} given with data.num_train {count}, which leaves a batch of 1; allowed: sizes"
            " that leave none, or at least 2 images"
        )
    return None


@rule("optimizers", "training.full.batch_size", "training.mini.batch_size")
def kernels_fit(optimizers: Mapping[str, Any], full: int, mini: int) -> str | None:
    """The minimum-norm solution's kernel has ten rows an image of a batch."""
    largest = max(full, mini)
    short = [name for name, how in optimizers.items() if how.get("solution") == "min_norm"]
    if short and largest * NUM_CLASSES > MOST_ROWS:
        return (
            f"{short[0]} given with solution min_norm and a batch of {largest}; allowed there:"
            f" batches of at most {MOST_ROWS // NUM_CLASSES} images, or solution block"
        )
    return None


class Settings(Section):
    """Exact Gauss-Newton in reversible networks; every key has a default."""

    rules = (
        swaps_are_of_optimizers,
        measured_ones_are_optimizers,
        swaps_are_inside,
        batches_are_whole,
        there_are_so_many("training.full.batch_size", "data.dataset"),
        kernels_fit,
    )

    data: DataSettings = Field(default_factory=DataSettings)
    network: NetworkSettings = Field(default_factory=NetworkSettings)
    training: TrainingSettings = Field(default_factory=TrainingSettings)
    optimizers: dict[Name, Annotated[Choice, Field(discriminator="kind")]] = Field(
        default_optimizers(), description="What is compared, by name."
    )
    swaps: list[SwapSettings] = Field([], description="Runs that change the optimizer on the way.")
    analyses: AnalysisSettings = Field(default_factory=AnalysisSettings)
    degeneracy: DegeneracySettings = Field(default_factory=DegeneracySettings)
