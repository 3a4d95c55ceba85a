"""What may be said of the measurement of SENG's sketches? Its schema and defaults."""

from typing import Annotated, Literal

from pydantic import Field

from degeneracy.config.section import Section, rule
from degeneracy.config.values import DataRoot, EachOnce, Seed


@rule("sketches", "hidden_nodes")
def sketches_fit(sketches: list[int], hidden_nodes: int) -> str | None:
    """No more coordinates than the widest layer has: 784 pixels and a bias, or units and a bias."""
    widest = max(784, hidden_nodes) + 1
    if (largest := max(sketches)) > widest:
        return f"{largest} given; allowed: at most {widest}, the network's largest width"
    return None


class Settings(Section):
    """The direction of a sketched step beside the exact one's, and what both take."""

    rules = (sketches_fit,)

    dataset: Literal["mnist", "fashion-mnist"] = Field("mnist", description="The data set.")
    root: DataRoot = "data"
    hidden_nodes: int = Field(256, ge=1, le=4_096, description="Units in a hidden layer.")
    hidden_layers: int = Field(2, ge=1, le=20, description="Hidden layers.")
    batch_size: int = Field(256, ge=2, le=4_096, description="Samples n of the step.")
    damping: float = Field(0.01, gt=0, description="Damping λ of the Fisher matrix, gradient².")
    num_steps: int = Field(
        100, ge=0, le=100_000, description="Steps of SGD before the direction is measured."
    )
    lr: float = Field(0.1, gt=0, le=100, description="Learning rate of SGD.")
    sketches: Annotated[list[Annotated[int, Field(ge=1)]], EachOnce] = Field(
        [16, 64, 128, 256], min_length=1, description="Coordinates q of a sketch."
    )
    num_sketches: int = Field(5, ge=2, le=1_000, description="Sketches of each size and seed.")
    seeds: Annotated[list[Seed], EachOnce] = Field(
        [1, 2, 3], min_length=1, description="Seeds of weights and batches."
    )
