"""What may a config of the study of SGD's regimes say? Its schema, defaults and rules."""

from typing import Annotated, Literal

from pydantic import Field

from degeneracy.config.section import Section, rule
from degeneracy.config.values import DataRoot, EachOnce, Folder, Seed

Rate = Annotated[float, Field(gt=0)]
Momentum = Annotated[float, Field(gt=-1, lt=1)]
Batch = Annotated[int, Field(ge=1)]
Tau = Annotated[float, Field(ge=-100, le=100)]
Nu = Annotated[float, Field(gt=0, le=10)]
Named = Literal["mnist", "fashion-mnist", "cifar10", "digits"]


@rule("batch_sizes", "size")
def batches_fit(batch_sizes: list[int], size: int) -> str | None:
    """A batch has no sample twice."""
    if (largest := max(batch_sizes, default=1)) > size:
        return f"{largest} given with size {size}; allowed there: at most {size}"
    return None


@rule("taus", "batch_sizes", "size")
def taus_keep_moments(taus: list[float], batch_sizes: list[int], size: int) -> str | None:
    """γτ <= 1, where C stays a second moment."""
    if not taus or not batch_sizes or max(batch_sizes) > size:
        return None
    gamma = max((size - b) / ((size - 1) * b) for b in batch_sizes)
    if max(taus) * gamma > 1 + 1e-12:
        return f"{max(taus):g} given with γ up to {gamma:.4g}; allowed there: at most {1 / gamma:g}"
    return None


def exactly(value: float) -> str:
    """A number in as few digits as tell it from every other: short where that is enough."""
    text = f"{value:g}"
    return text if float(text) == value else repr(float(value))


class RegimesSettings(Section):
    """Part 1: one network, and its linear regimes, for every combination of settings."""

    rules = (batches_fit, taus_keep_moments)

    dataset: Named = Field("digits", description="The data set.")
    root: DataRoot = "data"
    size: int = Field(100, ge=2, le=2000, description="Training samples N.")
    width: int = Field(4096, ge=1, le=65536, description="Hidden units of the network.")
    lrs: Annotated[list[Rate], EachOnce] = Field(
        [0.3, 1.0],
        min_length=1,
        description="Learning rates α, in units of N/λ_max of the network's kernel.",
    )
    momenta: Annotated[list[Momentum], EachOnce] = Field(
        [0.0, 0.5], min_length=1, description="Momenta β."
    )
    batch_sizes: Annotated[list[Batch], EachOnce] = Field(
        [10], min_length=1, description="Batch sizes b."
    )
    taus: Annotated[list[Tau], EachOnce] = Field(
        [-2.0, -1.0, 0.0, 1.0, 2.0], min_length=1, description="τ of the spectral-diagonal regime."
    )
    num_steps: int = Field(400, ge=10, le=100_000, description="Steps of each run.")
    num_networks: int = Field(2, ge=1, le=1000, description="Network runs, other batches each.")
    num_runs: int = Field(200, ge=2, le=100_000, description="Linearised runs.")
    seed: Seed = Field(1, description="Seed of samples, weights and batches.")


class StabilitySettings(Section):
    """Part 2: SD(1) and averaged regime of a power law over learning rate and momentum."""

    nu: Nu = Field(1.5, description="ν of λ_k = k^−ν.")
    kappa: Nu = Field(1.0, description="ϰ of c_k = k^−ϰ−1.")
    size: int = Field(200, ge=10, le=2000, description="Modes and samples N.")
    batch_size: int = Field(10, ge=1, le=2000, description="Batch size b.")
    num_steps: int = Field(2000, ge=100, le=100_000, description="Steps of each simulation.")
    num_lrs: int = Field(41, ge=5, le=400, description="Learning rates, α from 0.05 to 4.")
    num_momenta: int = Field(33, ge=5, le=400, description="Momenta, β from −0.6 to 0.96.")

    rules = (
        rule("batch_size", "size")(
            lambda batch_size, size: (
                f"{batch_size} given with size {size}; allowed there: at most {size}"
                if batch_size > size
                else None
            )
        ),
    )


class Law(Section):
    """A power law, and how SGD runs on it with batches from an endless stream."""

    nu: Annotated[float, Field(gt=1, le=10)] = Field(1.5, description="ν of λ_k = k^−ν.")
    kappa: Nu = Field(3.0, description="ϰ of c_k = k^−ϰ−1.")
    batch_size: Batch = Field(10, description="Batch size b; γ = 1/b.")
    lr: Rate = Field(0.5, description="Learning rate α.")
    momentum: Momentum = Field(0.0, description="Momentum β.")


DEFAULT_LAWS = [
    {"nu": 1.5, "kappa": 3.0, "batch_size": 10, "lr": 0.5},
    {"nu": 2.0, "kappa": 1.5, "batch_size": 10, "lr": 0.3},
    {"nu": 1.5, "kappa": 2.5, "batch_size": 100, "lr": 0.5},
    {"nu": 1.5, "kappa": 1.9, "batch_size": 10, "lr": 0.5},
    {"nu": 1.2, "kappa": 3.0, "batch_size": 10, "lr": 0.2},
    {"nu": 1.5, "kappa": 3.0, "batch_size": 10, "lr": 0.1, "momentum": 0.8},
]


class AsymptoticSettings(Section):
    """Part 3: predicted over measured losses of long runs of SD(1)."""

    laws: Annotated[list[Law], EachOnce] = Field(
        [Law(**law) for law in DEFAULT_LAWS], min_length=1, max_length=9, description="What is run."
    )
    size: int = Field(100_000, ge=100, le=10_000_000, description="Modes.")
    num_steps: int = Field(10_000, ge=100, le=1_000_000, description="Steps of each run.")


class MomentumSettings(Section):
    """Part 4: the best momentum, at a finite time and asymptotically, and where it is negative."""

    nu: Annotated[float, Field(gt=1, le=10)] = Field(1.5, description="ν of λ_k = k^−ν.")
    kappas: Annotated[list[Nu], EachOnce] = Field(
        [0.75, 4.0], min_length=1, max_length=4, description="ϰ of c_k = k^−ϰ−1, one run each."
    )
    batch_size: int = Field(2, ge=1, description="Batch size b; γ = 1/b.")
    momenta: Annotated[list[Momentum], EachOnce] = Field(
        [-0.5, -0.4, -0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3, 0.5, 0.7],
        min_length=2,
        description="Momenta β that are compared, each with its best α.",
    )
    times: Annotated[list[Annotated[int, Field(ge=10, le=100_000)]], EachOnce] = Field(
        [100, 1000],
        min_length=1,
        max_length=4,
        description="Steps after which losses are compared.",
    )
    size: int = Field(10_000, ge=100, le=1_000_000, description="Modes.")


class BudgetSettings(Section):
    """Part 5: losses against b·t, with α in proportion to b and with one α for all."""

    nu: Nu = Field(1.5, description="ν of λ_k = k^−ν.")
    kappas: Annotated[list[Nu], EachOnce] = Field(
        [0.75, 3.0], min_length=1, max_length=4, description="ϰ of c_k = k^−ϰ−1."
    )
    batch_sizes: Annotated[list[Batch], EachOnce] = Field(
        [1, 2, 5, 10, 20], min_length=2, description="Batch sizes b; γ = 1/b."
    )
    lr_per_sample: Rate = Field(0.02, description="α/b of the first kind of runs.")
    fixed_lr: Rate = Field(0.1, description="α of the second kind of runs.")
    budget: int = Field(20_000, ge=100, le=10_000_000, description="b·t at the end.")
    size: int = Field(10_000, ge=100, le=1_000_000, description="Modes.")


class SpectrumSettings(Section):
    """Part 6: the spectrum of a data set's analytic NTK, with its power law."""

    datasets: Annotated[list[Named], EachOnce] = Field(
        ["mnist", "digits"], min_length=1, description="Data sets."
    )
    root: Folder = Field("data", description="Folder that holds the data sets' files.")
    size: int = Field(1000, ge=50, le=5000, description="Samples N.")
    first: int = Field(10, ge=1, description="First mode of the fit, counted from 1.")
    last: int = Field(400, ge=4, description="Last mode of the fit.")
    seed: Seed = Field(1, description="Seed of which samples.")

    rules = (
        rule("last", "first", "size")(
            lambda last, first, size: (
                f"{last} given with first {first} and size {size}; allowed there: from"
                f" {first + 2} to {size}"
                if not first + 2 <= last <= size
                else None
            )
        ),
    )


class BridgeSettings(Section):
    """Part 7: finished runs of the main experiment on the stability map."""

    root: Folder = Field(
        "experiments", description="Folder below which run directories are looked for."
    )
    num_images: int = Field(32, ge=2, le=1000, description="Training images in the kernel.")
    num_epochs: int = Field(3, ge=1, le=1000, description="Checkpoints of each run.")


class Settings(Section):
    """SGD's four regimes and their theory; every key has a default."""

    regimes: RegimesSettings = Field(default_factory=RegimesSettings)
    stability: StabilitySettings = Field(default_factory=StabilitySettings)
    asymptotics: AsymptoticSettings = Field(default_factory=AsymptoticSettings)
    momentum: MomentumSettings = Field(default_factory=MomentumSettings)
    budget: BudgetSettings = Field(default_factory=BudgetSettings)
    spectrum: SpectrumSettings = Field(default_factory=SpectrumSettings)
    bridge: BridgeSettings = Field(default_factory=BridgeSettings)
