"""What may a config of the section on natural gradients of states say?"""

from typing import Annotated

from pydantic import Field

from degeneracy.config.section import Section, rule
from degeneracy.config.values import EachOnce, Seed

Rate = Annotated[float, Field(gt=0, le=1)]


class Settings(Section):
    """Natural gradients of states: mixtures, transport, an inverse problem, a Gaussian process."""

    seed: Seed = Field(1, description="Seed of starts, noise and data.")
    mixture_cells: int = Field(200, ge=60, le=10_000, description="Cells of the line, of mixtures.")
    mixture_starts: int = Field(10, ge=1, le=1000, description="Starts of each metric's descent.")
    mixture_steps: int = Field(60, ge=1, le=10_000, description="Steps of each descent, at most.")
    side: int = Field(
        64, ge=32, le=512, description="Cells along each axis of the transport example's square."
    )
    transport_components: int = Field(5, ge=1, le=100, description="Bells of its mixture.")
    transport_steps: int = Field(30, ge=1, le=10_000, description="Steps of its descents.")
    inverse_side: int = Field(
        64, ge=4, le=256, description="Cells an axis of the inverse problem: side² parameters."
    )
    sources: int = Field(2, ge=1, le=100, description="Sources whose states are observed.")
    noise: float = Field(
        0.001, ge=0, le=1, description="Noise of what is observed, in standard deviations of it."
    )
    natural_steps: int = Field(8, ge=1, le=1000, description="Natural steps, at most.")
    gradient_steps: int = Field(60, ge=1, le=100_000, description="Steps of gradient descent.")
    first_damping: Rate = Field(
        0.1, description="√λ of the first natural step, in the Jacobian's largest singular value."
    )
    last_damping: Rate = Field(0.02, description="Halved each step, √λ is never below this.")
    gp_points: int = Field(200, ge=2, le=10_000, description="Points of the Gaussian process.")
    gp_inducing: int = Field(15, ge=1, le=500, description="Inducing points.")
    gp_noise: float = Field(0.01, gt=0, le=100, description="σ², of a signal of variance 1.")
    gp_rates: Annotated[list[Rate], EachOnce] = Field(
        [1.0, 0.5, 0.1], min_length=1, max_length=6, description="Rates of natural steps."
    )
    gp_steps: int = Field(40, ge=1, le=10_000, description="Natural steps of each rate.")
    gp_adam_steps: int = Field(200, ge=1, le=100_000, description="Adam's steps beside them.")

    rules = (
        rule("last_damping", "first_damping")(
            lambda last, first: (
                f"{last:g} given with first_damping {first:g}; allowed there: at most that"
                if last > first
                else None
            )
        ),
    )
