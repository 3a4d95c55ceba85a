"""What may a config say of differential equations by natural steps?"""

from typing import Annotated, Literal

from pydantic import Field

from degeneracy.config.section import Section, rule
from degeneracy.config.values import EachOnce, Seed

Cut = Annotated[float, Field(gt=0, lt=1)]
Steps = Annotated[int, Field(ge=1, le=1_000_000)]


@rule("corrected_cuts")
def cuts_fall(corrected_cuts: list[float]) -> str | None:
    """The first one corrects what the others do."""
    if corrected_cuts != sorted(set(corrected_cuts), reverse=True):
        return f"{corrected_cuts} given; allowed: falling, each once"
    return None


class Settings(Section):
    """Physics-informed networks by energy natural gradient, and by what is usual."""

    rules = (cuts_fall,)

    width: int = Field(32, ge=1, le=512, description="Hidden tanh units.")
    cuts: Annotated[list[Cut], EachOnce] = Field(
        [1e-6, 1e-7, 1e-8, 1e-9, 1e-10],
        min_length=1,
        description="Cut-offs of singular values, of the largest, each tried alone.",
    )
    corrected_cuts: list[Cut] = Field(
        [1e-5, 1e-6, 1e-7, 1e-8],
        min_length=1,
        description="Cut-offs among which the corrected rule chooses, falling.",
    )
    corrections: int = Field(3, ge=0, le=100, description="Of a step, at most.")
    num_seeds: int = Field(5, ge=1, le=100, description="Starts of the default problem.")
    cut_steps: Steps = Field(60, description="Steps at each cut-off and seed.")
    rule_steps: Steps = Field(75, description="Steps of the corrected rule on the default problem.")
    problems: Annotated[list[Literal["poisson-5d", "heat", "nonlinear"]], EachOnce] = Field(
        ["poisson-5d", "heat", "nonlinear"], description="Problems beside the default one."
    )
    problem_steps: Steps = Field(60, description="Natural steps on each of them.")
    adam_steps: Steps = Field(2000, description="Steps of Adam and gradient descent.")
    adam_lr: float = Field(1e-2, gt=0, description="Adam's first learning rate; it falls to 0.")
    gd_lr: float = Field(1e-3, gt=0, description="Gradient descent's first learning rate.")
    bfgs_steps: Steps = Field(1500, description="Iterations of BFGS and L-BFGS.")
    seed: Seed = Field(0, description="Seed of the first start.")
