"""What may be said of the measurement of SP-NGD? Its schema, defaults and rules."""

from typing import Annotated

from pydantic import Field

from degeneracy.config.section import Section, rule
from degeneracy.config.values import DataRoot, EachOnce, Seed

Batch = Annotated[int, Field(ge=2, le=60_000)]
Tolerance = Annotated[float, Field(ge=0, le=10)]


@rule("num_samples", "batch_sizes")
def batches_fit(num_samples: int, batch_sizes: list[int]) -> str | None:
    """Every batch size makes at least two steps."""
    if num_samples < 2 * (largest := max(batch_sizes)):
        return f"{num_samples} given with a batch of {largest}; allowed there: ≥ {2 * largest}"
    return None


class Settings(Section):
    """MNIST on 784-128-128-10: how fast beside SGD, how often refreshed, and what is sent."""

    rules = (batches_fit,)

    root: DataRoot = "data"
    hidden_nodes: int = Field(128, ge=1, le=4_096, description="Units in each hidden layer.")
    hidden_layers: int = Field(2, ge=1, le=20, description="Hidden layers.")
    lr: float = Field(0.01, gt=0, le=100, description="Learning rate of SP-NGD.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of both optimizers.")
    damping: float = Field(0.01, gt=0, le=1_000, description="Damping λ of SP-NGD.")
    sgd_lr: float = Field(0.1, gt=0, le=100, description="Learning rate of SGD.")
    target_loss: float = Field(
        0.05, gt=0, le=2, description="Training loss (nats) to which steps and time are counted."
    )
    max_steps: int = Field(
        1_500, ge=5, le=1_000_000, description="Steps after which it is given up."
    )
    batch_size: int = Field(500, ge=2, le=60_000, description="Samples a step on the way to it.")
    seeds: Annotated[list[Seed], EachOnce] = Field(
        [1, 2], min_length=1, description="Seeds of weights and batches on the way to it."
    )
    batch_sizes: Annotated[list[Batch], EachOnce] = Field(
        [500, 2_000, 8_000],
        min_length=1,
        max_length=6,
        description="Batch sizes at which refreshes are counted.",
    )
    alphas: Annotated[list[Tolerance], EachOnce] = Field(
        [0.0, 0.1, 0.4],
        min_length=1,
        max_length=4,
        description="Tolerances α of the stale rule; at 0 every statistic is fresh.",
    )
    num_samples: int = Field(
        240_000,
        ge=4,
        le=100_000_000,
        description="Samples of each run of these, at every batch size the same.",
    )
    pool: int = Field(
        2, ge=1, le=14, description="Side of the squares of pixels that are averaged in these runs."
    )
    num_ranks: int = Field(
        2, ge=2, le=64, description="Processes among which the numbers sent are counted."
    )
    max_ranks: int = Field(64, ge=2, le=107, description="Largest number of owners on ResNet-50.")
