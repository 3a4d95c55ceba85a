"""How does the sampler `auto` go about one checkpoint? Coordinates, step, length, chains, proof.

1. Coordinates (`coordinates`): the weights as they are, where the stiffest direction of U is at
   most 50 times as stiff as the softest, or where chains go further than 0.3 |w*| from the
   checkpoint (√(d/γ) says how far the localisation lets them), because the curvature at w* says
   nothing of where they are; else also K-FAC's, or the Hessian's diagonal where K-FAC does not
   reach, if those leave the directions more alike. Control variates where chains stay near and nβ
   is at least 8 times the minibatch of nβ: there its noise heats them.
2. The step: λ̂ at h is compared with λ̂ at h/2; h is halved (divided by 4 where chains diverge) until
   they differ by no more than 2 % or two standard errors. It starts where h² times the largest
   curvature in units of A is 0.1 (minibatch noise heats stiff directions long before they become
   unstable; 0.5 without it), and at 0.3 at most. One pilot serves all checkpoints of a call; where
   U is stiffer than at the pilot's, h is smaller by as much as keeps a bias left alike.
3. Length: burn-in of 3 and draws of 12 relaxation times of the slowest direction, 2/(h a), a the
   smallest curvature of U in units of A. Where R-hat is above 1.05 chains go on for as many draws
   again, and once more.
4. Chains (`langevin`), from starts that are spread.
5. Certificates (`certificates`), with the basin's bottom (`basin`).
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from arviz_stats.base import array_stats
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor

from degeneracy.llc import coordinates
from degeneracy.llc.basin import bottom
from degeneracy.llc.certificates import BURN_IN, MOST_DISTANCE, MOST_RHAT, Certificates
from degeneracy.llc.chains import Problem
from degeneracy.llc.coordinates import SAMPLES, Coordinates
from degeneracy.llc.langevin import KINETIC, Walk, Walked, full_gradient, walk
from degeneracy.llc.settings import SamplerSettings
from degeneracy.llc.statistics import diagnosis, standard_error
from degeneracy.objective.derivatives import hessian_products
from degeneracy.objective.loss import Objective
from degeneracy.weights import flattened, named

LARGEST_STEP = {True: 0.3, False: 0.2}  # with momentum (h), and without (e)
STEP_BY_STIFFNESS = {True: 0.1, False: 0.25}  # h², or e, times the largest curvature
WITHOUT_NOISE = 0.5  # the same where every draw sees all the data
TRIES, TOO_LARGE = 6, 4.0  # of the pilot; by which a step is divided at which chains diverge
START_PROBES, SPREAD_HALVINGS, WIDE = 2, 12, 0.1  # WIDE: from which starts count as spread
PLATEAU_SHARE, PLATEAU_ERRORS = 0.02, 2.0  # of λ̂, of its error
PILOT_BURN_IN, PILOT_DRAWS, SHORTEST_PILOT = 1, 4, 60
PILOT_CHAINS, PILOT_WEIGHTS = 4, 2**13  # more, as many as are asked for, have few weights in all
PILOT_IDS, FURTHER_IDS = 2**20, 2**21  # between random numbers of chains, pilots, chains gone on
DRAWS, SHORTEST, LONGEST = 12, 150, 20_000  # relaxation times, draws
TURNS = 3  # of so many draws at most: chains that disagree, often by chance, go on
BATCH = 512
SOFTEST = 0.05  # least curvature in units of A that a length is made for
CURVATURE_SAMPLES, VECTORS = 1000, 10  # VECTORS: that Lanczos's iteration keeps
ENOUGH_ALIKE = 50.0  # largest over smallest curvature up to which no preconditioner is looked for
NOISY = 8.0  # nβ over the minibatch from which its noise heats chains so that control pays


class PilotError(ValueError):
    """No step is small enough."""


@dataclass(frozen=True)
class Place:
    """A checkpoint made ready for its chains.

    Attributes:
        problem: The data, with the sampler's minibatch.
        at: Coordinates, with w* in them.
        init_loss: L(w*) over all the data.
        control: ∇L(w*), where control variates are used or the basin needs it.
        controlled: Whether control variates are used.
        stiffness, softness: Largest and smallest curvature of U in units of A.
        near: Whether chains are expected to stay near.
        spread: How far they may start spread out, of N(0, A⁻¹).
    """

    problem: Problem
    at: Coordinates
    init_loss: float
    control: Tensor | None
    controlled: bool
    stiffness: float
    softness: float
    near: bool
    spread: float = 1.0

    def relaxation(self, step: float) -> float:
        """Steps in which the slowest direction forgets its start."""
        return 2 / (step * self.softness)


def prepared(
    objective: Objective | None,
    problem: Problem,
    weights: dict[str, Tensor],
    init_loss: float,
    nbeta: float,
    settings: SamplerSettings,
    near: bool | None = None,
) -> Place:
    """Chooses coordinates, minibatch and control variates for a checkpoint.

    Args:
        objective: The model's loss at w*; None for a loss of parameters alone.
        problem: Loss, data and the minibatch m of nβ.
        weights: The sampled weights of w*.
        init_loss: L(w*).
        nbeta: nβ.
        settings: With the sampler `auto`.
        near: Whether chains are expected to stay near w*; None: by √(d/γ) against 0.3 |w*|.

    Raises:
        ValueError: A minibatch larger than the data, or a gradient that is not finite.
    """
    localization, d = settings.localization, sum(w.numel() for w in weights.values())
    if near is None:
        near = stays_near(d, localization, float(torch.linalg.vector_norm(flattened(weights))))
    n = problem.num_samples
    switch = settings.control_variates
    noisy = nbeta >= NOISY * problem.batch_size
    controlled = bool(n) and (switch == "on" or (switch == "auto" and near and noisy))
    size = settings.sampler_batch_size
    if size is not None and size > n > 0:
        raise ValueError(f"sampler_batch_size = {size}; allowed: 1 to the number of samples, {n}")
    if n:
        problem = problem._replace(batch_size=min(size or BATCH, n))
    at, stiffness, softness = _coordinates(objective, problem, weights, nbeta, settings, near)
    controlled = controlled and not problem.full_batch
    control = None
    if controlled or near:
        control, _ = full_gradient(problem._replace(loss=at.loss), at.weights)
        if not torch.isfinite(control).all():
            raise ValueError(
                "the gradient at the checkpoint is not finite over the whole data set; look at its"
                " loss there (a log of 0, a division by 0), or leave the checkpoint out"
            )
    few = problem.some(CURVATURE_SAMPLES, settings.seed)
    spread = _spread(at, few, nbeta, localization)
    return Place(problem, at, init_loss, control, controlled, stiffness, softness, near, spread)


@torch.no_grad()
def _spread(at: Coordinates, data: tuple[Tensor, ...], nbeta: float, localization: float) -> float:
    """The largest of 1, ½, ¼, … by which N(0, A⁻¹) may be scaled so that nβ L rises by at most d,
    twice what a quadratic basin holds: where a loss is flat at w* but not around it, A says nothing
    of how far chains can go. Less than 1 also where directions are stiffer than A on average.
    """
    start = flattened(at.weights)
    generator = torch.Generator(start.device).manual_seed(0)
    away = torch.randn(START_PROBES, len(start), generator=generator, device=start.device)
    away = away.to(start) * at.precision(nbeta, localization).rsqrt()

    def loss(row: Tensor) -> float:
        return float(at.loss(named(row, at.weights), *data))

    here = loss(start)
    for scale in (2.0**-k for k in range(SPREAD_HALVINGS)):
        if all(nbeta * (loss(start + scale * row) - here) <= len(start) for row in away):
            return scale
    return scale


def _coordinates(
    objective: Objective | None, problem: Problem, weights, nbeta: float, settings, near: bool
) -> tuple[Coordinates, float, float]:
    """The coordinates, with the largest and the smallest curvature of U in units of A."""
    wanted, seed, localization = settings.preconditioner, settings.seed, settings.localization
    few = problem.some(CURVATURE_SAMPLES, seed)
    losses = problem.losses if _is_mean(problem, weights, few, localization) else None
    plain = coordinates.flat(problem.loss, weights, losses)
    found = []
    far = not near and bool(problem.num_samples)
    # At γ = 0 the weights as they are have no scale to step by, and so no softest direction.
    if wanted == "none" or (wanted == "auto" and (far or localization > 0)):
        ends = extremes(plain, few, nbeta, localization)
        found.append((plain, *ends))
        if wanted == "none" or far or ends[0] <= ENOUGH_ALIKE * ends[1]:
            return found[0]
    reason = "K-FAC is of a loss on data; there is none" if wanted == "kfac" else ""
    data = problem.some(SAMPLES, seed)
    scaled = None
    if wanted in ("auto", "kfac") and objective is not None:
        try:
            scaled = coordinates.kfac(objective, data, seed)
            scaled = scaled if losses else replace(scaled, losses=None)
        except ValueError as error:
            reason = f"{error}; the Hessian's diagonal stands in for it"
    if scaled is None:
        scaled = coordinates.diagonal(problem.loss, weights, data, seed, reason, losses)
    found.append((scaled, *extremes(scaled, few, nbeta, localization)))
    return min(found, key=lambda one: one[1] / one[2])


@torch.no_grad()
def _is_mean(
    problem: Problem, weights: dict[str, Tensor], data: tuple[Tensor, ...], localization: float
) -> bool:
    """Whether the loss of a batch is the mean of its samples' own, and those can be had.

    Looked at away from w*, where a loss may vanish and be the mean of anything.
    """
    if problem.losses is None or problem.full_batch or problem.micro_batch is not None:
        return False
    try:
        row = flattened(weights)
        generator = torch.Generator(row.device).manual_seed(0)
        away = torch.randn(row.shape, generator=generator, device=row.device, dtype=row.dtype)
        weights = named(row + away / math.sqrt(localization or 1.0), weights)
        each = problem.losses(weights, *data)
    except Exception:  # a loss that wants more than one sample, or has no rule for many
        return False
    if each.shape != (len(data[0]),):
        return False
    whole = problem.loss(weights, *data)
    return bool(torch.allclose(each.mean(), whole, rtol=1e-4, atol=0))


def extremes(
    at: Coordinates, data: tuple[Tensor, ...], nbeta: float, localization: float
) -> tuple[float, float]:
    """Largest and smallest curvature of U at w* in units of A, by Lanczos's iteration.

    The smallest is at least 0.05, at most 1, and 1 where A is γ: there flat directions are it.
    """
    start = flattened(at.weights).detach()
    root = at.precision(nbeta, localization).rsqrt()
    product = hessian_products(lambda own: at.loss(own, *data), at.weights)

    def scaled(vector: np.ndarray) -> np.ndarray:
        row = torch.from_numpy(vector.reshape(-1)).to(start) * root
        image = (nbeta * product(row[None])[0] + localization * row) * root
        return image.double().cpu().numpy()

    size = len(start)
    if size <= 2:
        matrix = np.stack([scaled(row) for row in np.eye(size)])
        values = np.linalg.eigvalsh((matrix + matrix.T) / 2)
        largest, smallest = float(values[-1]), float(values[0])
    else:
        operator = LinearOperator((size, size), matvec=scaled, dtype=np.float64)
        largest = _end(operator, "LA")
        smallest = 1.0 if at.kind == "none" else _end(operator, "SA")
    if not math.isfinite(largest):
        raise ValueError("the curvature at the checkpoint is not finite; leave the checkpoint out")
    return max(largest, 1.0), min(1.0, max(smallest, SOFTEST))


def _end(operator: LinearOperator, which: str) -> float:
    guess = np.random.default_rng(0).normal(size=operator.shape[0])
    image = operator.matvec(guess)
    if not np.isfinite(image).all():
        return math.nan
    if np.allclose(image, image[0] / guess[0] * guess):  # a multiple of 1, which ARPACK refuses
        return float(image[0] / guess[0])
    most = 300 if which == "LA" else 30  # the smallest have many neighbours
    try:
        (value,) = eigsh(
            operator,
            k=1,
            which=which,
            v0=guess,
            ncv=min(len(guess), VECTORS),
            tol=0.05,
            maxiter=most,
            return_eigenvectors=False,
        )
    except ArpackNoConvergence as error:
        if which == "LA" and not len(error.eigenvalues):
            raise ValueError(
                "the largest curvature at the checkpoint was not found: Lanczos's iteration did not"
                " converge; is the loss finite and twice differentiable there?"
            ) from None
        value = error.eigenvalues[0] if len(error.eigenvalues) else SOFTEST
    return float(value)


def stays_near(num_weights: int, localization: float, length: float) -> bool:
    """Whether γ lets chains go √(d/γ) ≤ 0.3 |w*| at most."""
    reach = math.sqrt(num_weights / localization) if localization > 0 else math.inf
    return reach <= MOST_DISTANCE * length


def step_at(place: Place, step: float, stiffness: float, dynamics: str) -> float:
    """The relative step at a checkpoint, of one that a pilot found where the stiffness was another.

    As large in the stiffest direction, so that its error is alike at all checkpoints, and no larger
    than the pilot's.
    """
    ratio = min(1.0, stiffness / place.stiffness)
    return step * (math.sqrt(ratio) if dynamics == KINETIC else ratio)


def first_step(stiffness: float, dynamics: str = KINETIC, exact: bool = False) -> float:
    """The relative step that a pilot tries first, by the largest curvature of U in units of A.

    `exact` says that gradients have no minibatch noise.
    """
    kinetic = dynamics == KINETIC
    found = (WITHOUT_NOISE if exact else STEP_BY_STIFFNESS[kinetic]) / stiffness
    return min(LARGEST_STEP[kinetic], math.sqrt(found) if kinetic else found)


def sees_all(settings: SamplerSettings, num_samples: int) -> bool:
    """Whether the sampler's minibatch is all the data, so that gradients have no noise."""
    return num_samples <= (settings.sampler_batch_size or BATCH)


def piloted(
    place: Place, nbeta: float, settings: SamplerSettings, chain_id: int, label: str
) -> tuple[float, float]:
    """The relative step by the rule, and λ̂ with it minus λ̂ with half of it.

    Raises:
        PilotError: No step passed.
    """
    step = first_step(place.stiffness, settings.dynamics, place.problem.full_batch)
    tried, before = [], None
    for _ in range(TRIES):
        here = before or _pilot(place, nbeta, settings, chain_id, step, label)
        tried.append(f"{step:.2g} ({here[0]:.4g})")
        if not math.isfinite(here[0]):
            step, before = step / TOO_LARGE, None
            continue
        half = _pilot(place, nbeta, settings, chain_id, step / 2, label)
        bias, errors = here[0] - half[0], PLATEAU_ERRORS * math.hypot(here[1], half[1])
        if abs(bias) <= max(PLATEAU_SHARE * abs(half[0]), errors):
            return step, bias
        step, before = step / 2, half
    raise PilotError(
        f"the pilot found no usable step: λ̂ still changes by more than 2 % from one relative step"
        f" to its half, at {', '.join(tried)}; raise localization, or lower nbeta, or see whether"
        " the loss is finite around the checkpoint"
    )


def _pilot(
    place: Place, nbeta: float, settings: SamplerSettings, chain_id: int, step: float, label: str
) -> tuple[float, float]:
    """λ̂ and its standard error from short chains; NaN where one diverged."""
    relaxation = place.relaxation(step)
    plan = replace(
        planned(place, nbeta, settings, step),
        num_burnin_steps=min(LONGEST, math.ceil(PILOT_BURN_IN * relaxation)),
        num_draws=min(LONGEST, max(SHORTEST_PILOT, math.ceil(PILOT_DRAWS * relaxation))),
        thinning=1,
    )
    fit = PILOT_WEIGHTS // len(flattened(place.at.weights))
    count = max(PILOT_CHAINS, min(settings.num_chains, fit))
    seeds = [(settings.seed, chain_id, PILOT_IDS + chain) for chain in range(count)]
    found = walk(
        place.problem, place.at, place.init_loss, seeds, plan, label=f"{label} pilot"
    ).losses
    if not np.isfinite(found).all():
        return math.nan, math.nan
    error = standard_error(found) or 0.0
    return float(nbeta * (found.mean() - place.init_loss)), nbeta * error


def planned(place: Place, nbeta: float, settings: SamplerSettings, step: float) -> Walk:
    """What the chains do, at a step."""
    s, relaxation = settings, place.relaxation(step)
    burn_in, draws = s.num_burnin_steps, s.num_draws
    if burn_in is None:
        burn_in = min(LONGEST, math.ceil(BURN_IN * relaxation))
    if draws is None:
        draws = min(LONGEST, max(SHORTEST, math.ceil(DRAWS * relaxation / s.thinning)))
    return Walk(
        nbeta,
        s.localization,
        step,
        burn_in,
        draws,
        thinning=s.thinning,
        dynamics=s.dynamics,
        spread=place.spread if s.starts == "spread" else 0.0,
        control=place.control if place.controlled else None,
        paired=s.paired_losses and (place.controlled or place.near),
        cooled=s.cooled and s.dynamics == KINETIC and place.at.losses is not None,
    )


def certified(
    place: Place,
    plan: Walk,
    walked: Walked,
    settings: SamplerSettings,
    chance_loss: float | None,
    step_bias: float | None,
) -> Certificates:
    """What can be said of the chains that walked by `plan`."""
    nbeta, localization = plan.nbeta, plan.localization
    remarks = [place.at.reason] if place.at.reason else []
    fine = np.isfinite(walked.losses).all(axis=1)
    losses, distances = walked.losses[fine], walked.distances[fine]
    if not len(losses):
        return Certificates(gauge=settings.gauge, step=plan.step, remarks=tuple(remarks))
    rise = float(losses.mean() - place.init_loss)
    room = None if chance_loss is None else chance_loss - place.init_loss
    distance = float(np.sqrt(np.square(distances).mean()))
    length = float(torch.linalg.vector_norm(flattened(place.at.weights)))
    if room is not None and room <= 0:
        remarks.append("the checkpoint's loss is no lower than a constant prediction's")
    if narrow := _narrow(plan.spread):
        remarks.append(narrow)
    if not fine.all():
        remarks.append(f"{(~fine).sum()} chains stopped being finite and count in nothing")
    basin = None
    if localization > 0:
        start = None if place.control is None else (place.control, place.init_loss)
        basin = bottom(
            place.problem, place.at, nbeta, localization, place.stiffness, start, settings.seed
        )
    else:
        remarks.append(
            "γ = 0: there is no basin to speak of, so no λ̂_b, and how long the slowest direction"
            " takes is not known"
        )
    if len(losses) < 2:
        remarks.append("one chain alone: no interval, and no R-hat between chains")
    return Certificates(
        locality=None if room is None else rise / room if room > 0 else 1.0,
        distance=distance,
        relative_distance=distance / length if length else None,
        basin_shift=None if basin is None else basin.shift,
        basin_llc=None if basin is None else nbeta * rise + basin.shift,
        basin_reached=None if basin is None else basin.reached,
        relaxation=place.relaxation(plan.step) if localization > 0 else None,
        num_burnin_steps=plan.num_burnin_steps,
        num_draws=plan.num_draws * plan.thinning,
        rhat=_rhat(losses),
        distance_rhat=_rhat(distances),
        starts_spread=plan.spread >= WIDE,
        gauge=settings.gauge,
        step=plan.step,
        step_bias=step_bias,
        coordinates=place.at.kind,
        remarks=tuple(remarks),
    )


def _narrow(spread: float) -> str:
    """What R-hat cannot see by how chains started; empty where it can."""
    if not spread:
        return "chains started together, so R-hat cannot see what they share"
    if spread < WIDE:
        return (
            f"chains started {spread:.2g} times as wide as N(0, 1/A), for the loss rises too"
            " steeply there: R-hat sees less of what they share"
        )
    return ""


def disagree(walked: Walked) -> bool:
    """Whether R-hat of the losses or of |w − w*| is above what counts as rest."""
    fine = np.isfinite(walked.losses).all(axis=1)
    rhats = [_rhat(values[fine]) for values in walked[:2] if fine.sum() > 1]
    return any(rhat is not None and rhat > MOST_RHAT for rhat in rhats)


def _rhat(values: np.ndarray) -> float | None:
    """Gelman and Rubin's R-hat, of whole chains: of halves, twelve relaxation times are few."""
    return diagnosis(array_stats.rhat, values, method="identity")
