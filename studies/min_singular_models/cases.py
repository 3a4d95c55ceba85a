"""Which losses are sampled whose λ is known, and at which temperature?"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from degeneracy.models.coefficients import (
    LearningCoefficient,
    deep_linear,
    normal_crossing,
    quadratic,
)
from degeneracy.models.known import DeepLinear, NormalCrossing, Quadratic
from degeneracy.models.networks import num_parameters
from studies.min_singular_models.settings import (
    CrossingSettings,
    DeepLinearSettings,
    LinearSettings,
    Sampling,
    Settings,
)

POPULATION, SAMPLE = "linear model, population loss", "linear model, sample loss"
CROSSING, DEEP = "normal crossings", "deep linear networks"
LINEAR, SINGULAR = (POPULATION, SAMPLE), (CROSSING, DEEP)
FAMILIES = (*LINEAR, *SINGULAR)


@dataclass(frozen=True)
class Case:
    """A loss whose λ is known, with the temperature at which it is sampled.

    Attributes:
        name: Its key in results.
        family: One of `FAMILIES`.
        model: Starts at w*.
        known: λ at w*, exactly, and its multiplicity.
        nbeta: nβ.
        localization: γ.
        sampling: Of its chains.
        number: Of all cases of the study: keeps their random numbers apart.
    """

    name: str
    family: str
    model: nn.Module
    known: LearningCoefficient
    nbeta: float
    localization: float
    sampling: Sampling
    number: int = 0


class SparseLinear(nn.Module):
    """y = Σ_{i≤rank} w_i x_i for inputs (batch, d): of `num_weights` d weights the first `rank`
    matter; w* = 0.
    """

    def __init__(self, num_weights: int, rank: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_weights))
        self.rank = rank

    def forward(self, inputs: Float[Tensor, "batch d"]) -> Float[Tensor, " batch"]:
        return inputs[:, : self.rank] @ self.weight[: self.rank]


def half_squared_error(
    outputs: Float[Tensor, " batch"], targets: Float[Tensor, " batch"]
) -> Float[Tensor, ""]:
    """½(output − target)², mean over the batch."""
    return (outputs - targets).square().mean() / 2


def linear_data(settings: LinearSettings) -> tuple[Float[Tensor, "n d"], Float[Tensor, " n"]]:
    """x ~ N(0, 1) and y = noise, since w* = 0; the same for every rank."""
    generator = torch.Generator().manual_seed(settings.seed)
    inputs = torch.randn(settings.num_samples, settings.num_weights, generator=generator)
    return inputs, settings.noise * torch.randn(settings.num_samples, generator=generator)


def cases(settings: Settings) -> list[Case]:
    """Every case of the study, numbered."""
    found = [
        *population_cases(settings.linear),
        *sample_cases(settings.linear),
        *crossing_cases(settings.normal_crossings),
        *deep_linear_cases(settings.deep_linear),
    ]
    return [replace(case, number=number) for number, case in enumerate(found)]


def population_cases(linear: LinearSettings) -> Iterator[Case]:
    """The linear model's loss in expectation, a case a rank.

    It is E[½(y − x·w)²] − ½σ² = ½ Σ_{i≤r} w_i².
    """
    for rank in linear.ranks:
        name = f"population, r = {rank}"
        model = Quadratic([1.0] * rank + [0.0] * (linear.num_weights - rank))
        nbeta, gamma = linear.resolved_nbeta, linear.localization
        yield Case(name, POPULATION, model, quadratic(rank), nbeta, gamma, linear)


def sample_cases(linear: LinearSettings) -> Iterator[Case]:
    """The linear model's loss on `linear_data`, a case a rank."""
    for rank in linear.ranks:
        name = f"sample, r = {rank}"
        model = SparseLinear(linear.num_weights, rank)
        nbeta, gamma = linear.resolved_nbeta, linear.localization
        yield Case(name, SAMPLE, model, quadratic(rank), nbeta, gamma, linear)


def crossing_cases(crossings: CrossingSettings) -> Iterator[Case]:
    """K(w) = Π w_i^{2k_i}, a case for each list of exponents k."""
    for k in crossings.exponents:
        name, known = crossing_name(k), normal_crossing(k)
        nbeta, gamma = crossings.nbeta, crossings.localization
        yield Case(name, CROSSING, NormalCrossing(k), known, nbeta, gamma, crossings)


def deep_linear_cases(deep: DeepLinearSettings) -> Iterator[Case]:
    """Reduced-rank regression and deeper, a case a network; γ = √(number of weights)."""
    for network in deep.networks:
        name = f"({', '.join(map(str, network.widths))}), r = {network.rank}"
        model = DeepLinear(network.widths, network.rank)
        known = deep_linear(network.widths, network.rank)
        gamma = math.sqrt(num_parameters(model))
        yield Case(name, DEEP, model, known, deep.nbeta_ratio * gamma, gamma, deep)


def crossing_name(exponents: Sequence[int]) -> str:
    """`w₁² w₂⁴` for (1, 2)."""
    below = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
    above = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
    powers = [(str(i), str(2 * k)) for i, k in enumerate(exponents, start=1)]
    return " ".join(f"w{i.translate(below)}{power.translate(above)}" for i, power in powers)
