"""What may a config say of wide networks' rates?"""

from typing import Annotated

from pydantic import Field

from degeneracy.config.section import Section, rule
from degeneracy.config.values import EachOnce, Seed

Width = Annotated[int, Field(ge=16, le=262_144)]
Rate = Annotated[float, Field(gt=0, lt=4)]
Angle = Annotated[float, Field(ge=0, le=1.5)]


@rule("size", "dim")
def kfac_is_defined(size: int, dim: int) -> str | None:
    """XᵀX is inverted."""
    if size < dim:
        return f"{size} given with dim {dim}; allowed there: at least {dim}"
    return None


class Settings(Section):
    """Two-layer ReLU networks: rates over widths, K-FAC's leverages, near-parallel inputs."""

    rules = (kfac_is_defined,)

    size: int = Field(32, ge=2, le=1000, description="Training inputs n.")
    dim: int = Field(16, ge=2, le=1000, description="Dimensions d of an input.")
    widths: Annotated[list[Width], EachOnce] = Field(
        [256, 1024, 4096, 16_384], min_length=1, description="Hidden units m."
    )
    lrs: Annotated[list[Rate], EachOnce] = Field(
        [0.5, 1.0, 1.5, 1.9, 2.1], min_length=1, description="Learning rates η of natural gradient."
    )
    num_steps: int = Field(30, ge=2, le=10_000, description="Steps at each rate.")
    angles: Annotated[list[Angle], EachOnce] = Field(
        [0.1, 0.01, 0.001, 0.0],
        description="Angles of one pair of inputs, in radians; 0: parallel, which is refused.",
    )
    pair_width: Width = Field(4096, description="Hidden units where a pair of inputs is near.")
    max_steps: int = Field(
        2000, ge=10, le=1_000_000, description="Steps until a method counts as not arriving."
    )
    num_seeds: int = Field(3, ge=1, le=100, description="Networks at each width.")
    seed: Seed = Field(0, description="Seed of inputs, labels and networks.")
