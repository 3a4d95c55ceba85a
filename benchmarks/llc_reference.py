"""Does `auto` find what an exact sampler finds? Hamiltonian Monte Carlo on networks of 100 to 1,000
weights.

    .venv/bin/python benchmarks/llc_reference.py [--out FILE.json]

`hmc` samples exp(−U), U(w) = nβ L(w) + (γ/2)|w − w*|², with gradients over all the data, in
float64, and accepts or refuses a whole trajectory by Metropolis's rule (Neal, "MCMC using
Hamiltonian dynamics", arXiv:1206.1901): neither its step nor a minibatch has a bias, and only its
length has an error. It shares with `auto` the loss and the metric A, on which no exact sampler's
answer hangs.

Own, and short: BlackJAX, NumPyro and Pyro would each bring another framework for this file alone.
`tests/degeneracy/llc/test_reference.py` holds it against values that are known.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from arviz_stats.base import array_stats
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import grad_and_value, vmap
from torch.nn.functional import avg_pool2d, cross_entropy

from degeneracy.data.images import load_data
from degeneracy.llc import coordinates
from degeneracy.llc.chains import recorded
from degeneracy.llc.coordinates import SAMPLES, Coordinates
from degeneracy.llc.estimate import estimate_llcs
from degeneracy.llc.settings import SamplerSettings
from degeneracy.llc.statistics import standard_error
from degeneracy.models.known import DeepLinear
from degeneracy.models.networks import FFNN, num_parameters
from degeneracy.objective.loss import objective_of
from degeneracy.weights import flattened, named

PATH = math.pi / 2  # length of a trajectory in units of A: a quarter of a turn where U'' = A
START = 0.1  # spread of the chains' starts, of the same unit
ACCEPTANCE = 0.8  # aimed at while burning in
IMAGES, SIDE, HIDDEN, EPOCHS = 2000, 7, 16, 100
REACH = 0.25  # √(d/γ) over |w*|, as `calibrate` takes it


@dataclass(frozen=True)
class Reference:
    """What an exact sampler found.

    Attributes:
        rises: L(w) − L(w*), one a draw, (chains, draws).
        llc, std_error: λ̂ and its error, the larger of the one between chains and the one within.
        rhat: R-hat of the losses.
        acceptance: Share of trajectories that were accepted.
        gradients: Gradients over all the data that a chain took.
    """

    rises: Float[np.ndarray, "chains draws"]
    llc: float
    std_error: float
    rhat: float
    acceptance: float
    gradients: int


@torch.no_grad()
def hmc(
    at: Coordinates,
    data: Sequence[Tensor],
    nbeta: float,
    localization: float,
    *,
    chains: int = 16,
    draws: int = 500,
    burn_in: int = 200,
    path: float = PATH,
    first_step: float = 0.2,
    seed: int = 0,
) -> Reference:
    """λ̂ at w* by Hamiltonian Monte Carlo with mass A = nβF + γ.

    Lengths of trajectories are drawn from ½ to 3/2 of `path`, so that no direction comes back to
    where it was. Chains start near w*, from N(w*, (100 A)⁻¹): where U is steeper than A says, no
    step would be accepted further out. The step is found while burning in, towards 80 % of
    trajectories accepted, and is then held.

    Args:
        at: The loss, w* in float64, and the curvature F.
        data: All of it; empty for a loss of weights alone.
        nbeta, localization: nβ and γ.
        chains, draws, burn_in: Chains, trajectories counted and before that, a chain.
        path: Mean length of a trajectory; π/2 turns a direction of curvature A by a quarter.
        first_step: The leapfrog step that burning in starts from, of the same unit.
        seed: Of all random numbers.

    Raises:
        ValueError: w* is not in float64.
    """
    start = flattened(at.weights).detach()
    if start.dtype != torch.float64:
        raise ValueError(f"w* is in {start.dtype}; allowed: float64, so that U is known to 1e-9")
    root = at.precision(nbeta, localization).rsqrt()  # w = w* + root · z
    data, generator = tuple(data), torch.Generator().manual_seed(seed)

    def normal() -> Tensor:
        return torch.randn(chains, len(start), generator=generator, dtype=start.dtype)

    z = START * normal()
    energy = _energy(at, data, nbeta, localization, root)
    slope_of = recorded(vmap(grad_and_value(energy)), z)
    slope, value = slope_of(z)
    origin = float(slope_of(torch.zeros_like(z))[1][0])
    step, accepted, gradients, rises = first_step, [], 0, []
    for t in range(-burn_in, draws):
        momentum = normal()
        before = value + momentum.square().sum(1) / 2
        length = path * (0.5 + float(torch.rand((), generator=generator)))
        count = max(1, math.ceil(length / step))
        there, momentum, steep, found = _leapfrog(slope_of, (z, momentum, slope), step, count)
        gradients += count
        ratio = (before - found - momentum.square().sum(1) / 2).nan_to_num(-math.inf)
        drawn = torch.rand(chains, generator=generator, dtype=start.dtype).log()
        taken = drawn < ratio
        z = torch.where(taken[:, None], there, z)
        slope = torch.where(taken[:, None], steep, slope)
        value = torch.where(taken, found, value)
        if t < 0:
            share = float(ratio.clamp(max=0).exp().mean())
            step *= math.exp((share - ACCEPTANCE) / math.sqrt(1 + 0.2 * (t + burn_in)))
        else:
            accepted.append(float(taken.double().mean()))
            pull = localization / 2 * (root * z).square().sum(1)
            rises.append((value - pull - origin) / nbeta)
    found = torch.stack(rises, 1).numpy()
    return Reference(
        found,
        nbeta * float(found.mean()),
        nbeta * standard_error(found),
        float(array_stats.rhat(found)),
        float(np.mean(accepted)),
        gradients,
    )


def _energy(at: Coordinates, data, nbeta: float, localization: float, root: Tensor) -> Callable:
    """U as a function of z, w = w* + root · z."""
    start = flattened(at.weights).detach()

    def energy(row: Tensor) -> Tensor:
        away = root * row
        loss = at.loss(named(start + away, at.weights), *data)
        return nbeta * loss + localization / 2 * away.square().sum()

    return energy


def _leapfrog(slope_of: Callable, state: tuple[Tensor, Tensor, Tensor], step: float, count: int):
    """Positions, momenta, slopes and energies after `count` leapfrog steps, a row a chain."""
    there, momentum, steep = state
    for _ in range(count):
        momentum = momentum - step / 2 * steep
        there = there + step * momentum
        steep, found = slope_of(there)
        momentum = momentum - step / 2 * steep
    return there, momentum, steep, found


# ---- networks ------------------------------------------------------------------------------------


def trained_network(
    hidden: int = HIDDEN, side: int = SIDE, images: int = IMAGES, epochs: int = EPOCHS
) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """FFNN 1 × `hidden` on Fashion-MNIST of `side` × `side` pixels, by Adam, step falling to 0."""
    train = load_data("fashion-mnist", "data").train
    inputs = avg_pool2d(train.inputs[:images], train.inputs.shape[-1] // side)
    labels = train.labels[:images]
    torch.manual_seed(0)
    model = FFNN(hidden, 1, tuple(inputs.shape[1:]))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for batch in torch.randperm(images).split(50):
            optimizer.zero_grad()
            cross_entropy(model(inputs[batch]), labels[batch]).backward()
            optimizer.step()
        schedule.step()
    return model, (inputs, labels)


def local_pull(model: nn.Module, reach: float = REACH) -> float:
    """γ that lets chains go `reach` |w*|."""
    length = float(torch.linalg.vector_norm(flattened(dict(model.named_parameters())).detach()))
    return num_parameters(model) / (reach * length) ** 2


def exact_place(
    model: nn.Module, data: tuple[Tensor, ...], loss_fn=cross_entropy, preconditioned: bool = True
) -> tuple[Coordinates, tuple[Tensor, ...]]:
    """Coordinates for `hmc` in float64, by K-FAC where asked for, and the data in it."""
    model = model.double()
    data = tuple(part.double() if part.is_floating_point() else part for part in data)
    if not data:
        weights = {name: p.detach().clone() for name, p in model.named_parameters()}
        return coordinates.flat(model.population_loss, weights), data
    objective = objective_of(model, loss_fn, data)
    if preconditioned:
        return coordinates.kfac(objective, objective.data.some(SAMPLES, 0).leaves, 0), data
    return coordinates.flat(objective.loss, objective.weights), data


# ---- `auto` against it ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """What both found at one setting."""

    case: str
    weights: int
    nbeta: float
    localization: float
    auto: float
    auto_error: float
    exact: float
    exact_error: float
    rhat: float  # of the exact sampler
    acceptance: float
    apart: float  # in combined standard errors
    share: float  # combined standard error, of the exact sampler's λ̂
    auto_seconds: float
    exact_seconds: float


def compared(
    name: str, model: nn.Module, data: tuple[Tensor, ...], settings: SamplerSettings, **lengths
) -> Row:
    """`auto` and `hmc` at the settings' numbers nβ and γ."""
    nbeta, localization, num_weights = (
        settings.nbeta,
        settings.localization,
        num_parameters(model),
    )
    source = {} if data else {"population_loss": model.population_loss}
    started = time.perf_counter()
    (estimate,) = estimate_llcs(model, [model.state_dict()], data or None, settings, **source)
    halfway = time.perf_counter()
    at, data = exact_place(model, data, preconditioned=bool(data))
    found = hmc(at, data, nbeta, localization, **lengths)
    combined = math.hypot(estimate.std_error, found.std_error)
    return Row(
        case=name,
        weights=num_weights,
        nbeta=nbeta,
        localization=localization,
        auto=estimate.llc,
        auto_error=estimate.std_error,
        exact=found.llc,
        exact_error=found.std_error,
        rhat=found.rhat,
        acceptance=found.acceptance,
        apart=(estimate.llc - found.llc) / combined,
        share=combined / found.llc,
        auto_seconds=halfway - started,
        exact_seconds=time.perf_counter() - halfway,
    )


HEADER = (
    "| network | weights | nβ, γ | `auto` | HMC | R-hat, accepted | apart, combined errors |"
    " combined error | seconds, `auto` and HMC |\n" + "| --- " * 9 + "|"
)


def as_markdown(row: Row) -> str:
    return (
        f"| {row.case} | {row.weights:,} | {row.nbeta:.4g}, {row.localization:.3g} |"
        f" {row.auto:.4g} ± {row.auto_error:.2g} | {row.exact:.4g} ± {row.exact_error:.2g} |"
        f" {row.rhat:.3f}, {row.acceptance:.0%} | {row.apart:+.1f} | {row.share:.1%} |"
        f" {row.auto_seconds:.0f}, {row.exact_seconds:.0f} |"
    )


def comparisons() -> Iterator[Row]:
    """A deep linear network at a singular minimum; a trained ReLU network, local."""
    model = DeepLinear((8, 6, 8), 3)
    settings = SamplerSettings(nbeta=1000.0, localization=10.0)
    lengths = {"chains": 128, "draws": 400, "burn_in": 150, "first_step": 0.05, "path": 3.0}
    yield compared("(8,6,8), r = 3", model, (), settings, **lengths)
    model, data = trained_network()
    nbeta = len(data[0]) / math.log(len(data[0]))
    settings = SamplerSettings(nbeta=nbeta, localization=local_pull(model))
    name = f"FFNN 1 × {HIDDEN}, {SIDE} × {SIDE} Fashion-MNIST"
    yield compared(name, model, data, settings, chains=16, draws=300, burn_in=60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n\n{HEADER}", flush=True)
    rows = []
    for row in comparisons():
        rows.append(row)
        print(as_markdown(row), flush=True)
    if options.out:
        about = {"torch": torch.__version__, "threads": torch.get_num_threads()}
        found = about | {"rows": [asdict(row) for row in rows]}
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
