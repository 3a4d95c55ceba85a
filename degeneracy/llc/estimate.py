"""How degenerate is a solution? Local learning coefficient (LLC) and WBIC from SGLD chains started
at it.

Lau, Furman, Wang, Murfet & Wei, "The local learning coefficient", arXiv:2308.12108: chains of
stochastic gradient Langevin dynamics leave the checkpoint w* along w ← w − (ε/2)(nβ ∇L_m(w) + γ(w −
w*)) + N(0, ε I), and

    λ̂ = nβ (mean over chains and draws of L_m(w_t) − L(w*)),        L(w*) over the whole training
    set.

At finite nβ and γ this is not the learning coefficient λ itself: near a quadratic minimum with
curvatures h_i it is ½ Σ_i nβ h_i / (nβ h_i + γ), up to O(ε(nβ h + γ)); at a singular one of
multiplicity m it carries −(m − 1)/ln nβ. So an estimate is quoted with (nβ, γ, ε, draws) and its
drift. With the published samplers all chains start at w*, so an R-hat near 1 and a small error do
not prove convergence: that also needs that doubling the draws moves λ̂ by less than its error. With
`auto` they start apart, and certificates tell.
"""

import copy
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from degeneracy.llc import auto, devinterp_chains
from degeneracy.llc.chains import Problem, Samples, Schedule, run_chains
from degeneracy.llc.chance import chance_loss as constant_loss
from degeneracy.llc.checks import (
    check_checkpoints,
    check_problem,
    check_weights,
    refuse_random_forward,
)
from degeneracy.llc.langevin import EVALUATION_BATCH, Walk, Walked, walk
from degeneracy.llc.samplers import Chain
from degeneracy.llc.settings import AUTO, SamplerSettings
from degeneracy.llc.statistics import LLCEstimate, summarise
from degeneracy.models.balance import balanced

__all__ = [
    "LLCEstimate",
    "estimate_llcs",
    "mean_loss",
    "refuse_random_forward",
    "resolve_nbeta",
    "summarise",
]


def resolve_nbeta(nbeta: str | float, batch_size: int, num_samples: int) -> float:
    """nβ as a number: `"batch"` is m / ln m (the published choice), `"dataset"` n / ln n, a number
    is itself.
    """
    if isinstance(nbeta, str):
        size = {"batch": batch_size, "dataset": num_samples}[nbeta]
        if size < 2:
            raise ValueError(
                f'nbeta "{nbeta}" is m / ln m and needs m of at least 2; here m = {size}'
            )
        return size / math.log(size)
    return float(nbeta)


def estimate_llcs(
    model: nn.Module,
    checkpoints: Sequence[dict[str, Tensor] | None],
    data: tuple[Float[Tensor, "n ..."], Tensor] | None,
    settings: SamplerSettings | Sequence[SamplerSettings],
    batch_size: int = 128,
    loss_fn: Callable = cross_entropy,
    *,
    population_loss: Callable[[dict[str, Tensor]], Tensor] | None = None,
    checkpoint_ids: Sequence[int] | None = None,
    memory_budget: int | None = None,
    chance_loss: float | None = None,
    pilot: dict[str, Tensor] | None = None,
    label: str = "LLC",
) -> list[LLCEstimate | None]:
    """LLC and WBIC of `model` at each checkpoint.

    Args:
        model: Any module; it is not changed. Its device is where sampling runs. Weights that do not
            require a gradient stay fixed.
        checkpoints: State dicts of `model`; None gives None.
        data: (inputs, targets), the training set, on the model's device; None with a
            `population_loss`.
        settings: The config's `devinterp` section; or one for each checkpoint, which differ in
            `sampler_lr`, `localization` and `nbeta` only. Chains of all checkpoints then still
            advance together, but for `auto`, which goes through them one by one.
        batch_size: Samples a minibatch m, at most n. Batches are whole: each pass over the data
            drops the remainder.
        loss_fn: Mean-reduced loss of (outputs, targets), in nats.
        population_loss: K(w) as a function of the named parameters, in place of a model's loss on
            data: exact, so without minibatch noise. Needs `nbeta` as a number and the batched
            backend; there is then no WBIC.
        checkpoint_ids: Random numbers are a function of (settings.seed, id, chain, draw), so that
            an estimate does not depend on which others were asked for; default: positions in
            `checkpoints`.
        memory_budget: Bytes for the chains that advance in one tensor; default: see
            `llc.chains.run_chains`.
        chance_loss: L_chance of `auto`'s locality; default: the loss of the best constant
            prediction, where there is data.
        pilot: The checkpoint at which `auto` chooses coordinates and step for all; default: the
            last of `checkpoints`.
        label: Stands before the progress bar.

    Returns:
        One estimate a checkpoint, in order.

    Raises:
        ValueError: Before the first draw, for data, checkpoints, a loss or a model that cannot be
            sampled (`llc.checks` has the list), and for settings that do not go together. With
            `auto` also where a pilot finds no step, or a gradient is not finite.
    """
    estimates: list[LLCEstimate | None] = [None] * len(checkpoints)
    for position, estimate in stream_llcs(
        model,
        checkpoints,
        data,
        settings,
        batch_size,
        loss_fn,
        population_loss=population_loss,
        checkpoint_ids=checkpoint_ids,
        memory_budget=memory_budget,
        chance_loss=chance_loss,
        pilot=pilot,
        label=label,
    ):
        estimates[position] = estimate
    return estimates


def stream_llcs(
    model: nn.Module,
    checkpoints: Sequence[dict[str, Tensor] | None],
    data: tuple[Float[Tensor, "n ..."], Tensor] | None,
    settings: SamplerSettings | Sequence[SamplerSettings],
    batch_size: int = 128,
    loss_fn: Callable = cross_entropy,
    *,
    population_loss: Callable[[dict[str, Tensor]], Tensor] | None = None,
    checkpoint_ids: Sequence[int] | None = None,
    memory_budget: int | None = None,
    chance_loss: float | None = None,
    pilot: dict[str, Tensor] | None = None,
    label: str = "LLC",
) -> Iterator[tuple[int, LLCEstimate]]:
    """As `estimate_llcs`; yields (position, estimate) as soon as a checkpoint's chains finished."""
    if isinstance(checkpoints, Mapping):
        check_checkpoints(model, checkpoints)
    alike = isinstance(settings, SamplerSettings)
    every = [settings] * len(checkpoints) if alike else list(settings)
    ids = list(range(len(checkpoints)) if checkpoint_ids is None else checkpoint_ids)
    _check_settings(every, ids, len(checkpoints))
    wanted = [position for position, checkpoint in enumerate(checkpoints) if checkpoint is not None]
    if not wanted:
        return
    common = every[0]
    if common.gauge == "balanced":
        checkpoints, pilot = _balanced(model, checkpoints, pilot)
    model = copy.deepcopy(model).train()
    target = _target(model, checkpoints, data, batch_size, loss_fn, population_loss, common)
    nbetas = [_nbeta(s.nbeta, batch_size, target.num_samples) for s in every]
    different = {id(checkpoints[p]): checkpoints[p] for p in wanted}
    bar = tqdm(different.items(), desc=f"{label}: L(w*)", leave=False, disable=len(different) == 1)
    losses = {identity: target.init_loss(checkpoint) for identity, checkpoint in bar}
    if common.sampler == AUTO:
        pilot = checkpoints[wanted[-1]] if pilot is None else pilot
        given = _Given(target, nbetas, losses, ids, chance_loss, pilot, memory_budget, label)
        yield from ((p, given.estimate(p, checkpoints[p], every[p])) for p in wanted)
        return
    for positions in _alike(target, checkpoints, wanted):
        chains = [
            Chain(
                start,
                (common.seed, ids[p], number),
                every[p].sampler_lr,
                nbetas[p],
                every[p].localization,
            )
            for start, p in enumerate(positions)
            for number in range(common.num_chains)
        ]
        stream = target.run(
            [checkpoints[p] for p in positions], chains, common, memory_budget, label
        )
        with closing(stream):  # an error here ends the chains that are under way
            for start, (sampled, acceptance) in _by_checkpoint(stream, chains, common):
                p = positions[start]
                init_loss, n = losses[id(checkpoints[p])], target.num_samples
                yield p, summarise(sampled, init_loss, nbetas[p], n, acceptance, every[p])


def _balanced(model: nn.Module, checkpoints: Sequence, pilot: dict | None) -> tuple[list, Any]:
    """Every checkpoint in the balanced gauge, the same one once."""
    check_checkpoints(model, checkpoints)
    done = {id(c): balanced(model, c) for c in [*checkpoints, pilot] if c is not None}
    return [done.get(id(c)) for c in checkpoints], done.get(id(pilot))


class _Given:
    """What `auto` estimates with, one checkpoint after the other."""

    def __init__(self, target: "_Target", nbetas, losses, ids, chance, pilot, memory_budget, label):
        self.target, self.nbetas, self.losses, self.ids = target, nbetas, losses, ids
        self.pilot, self.memory_budget, self.label = pilot, memory_budget, label
        self.chance = chance
        if chance is None and target.problem.data:
            self.chance = constant_loss(target.model, target.problem.data, target.loss_fn)
        self.plans: dict[tuple[float, float], tuple] = {}  # (nβ, γ) → what the pilot found

    def estimate(self, position: int, checkpoint, settings: SamplerSettings) -> LLCEstimate:
        nbeta = self.nbetas[position]
        key = nbeta, settings.localization
        if key not in self.plans:
            self.plans[key] = self._piloted(nbeta, settings)
        kind, reason, near, stepped, step_bias = self.plans[key]
        alike = settings.model_copy(update={"preconditioner": kind})
        place = self._place(checkpoint, self.losses[id(checkpoint)], nbeta, alike, near)
        place = replace(place, at=replace(place.at, reason=place.at.reason or reason))
        plan = auto.planned(
            place, nbeta, settings, auto.step_at(place, *stepped, settings.dynamics)
        )
        seeds = [
            (settings.seed, self.ids[position], number) for number in range(settings.num_chains)
        ]
        walked = self._walked(place, plan, seeds)
        for turn in range(1, auto.TURNS):
            if settings.num_draws is not None or not auto.disagree(walked):
                break
            more = [(*seed[:2], turn * auto.FURTHER_IDS + seed[2]) for seed in seeds]
            further = replace(plan, num_burnin_steps=0)
            walked = walked.then(self._walked(place, further, more, walked.ends))
        plan = replace(plan, num_draws=walked.losses.shape[1])
        found = auto.certified(place, plan, walked, settings, self.chance, step_bias)
        n = self.target.num_samples
        return summarise(
            walked.losses, place.init_loss, nbeta, n, settings=settings, certificates=found
        )

    def _walked(self, place: auto.Place, plan: Walk, seeds: Sequence, goes_on=None) -> Walked:
        given = (place.problem, place.at, place.init_loss, seeds, plan)
        return walk(*given, self.memory_budget, self.label, goes_on)

    def _piloted(self, nbeta: float, settings: SamplerSettings) -> tuple:
        loss = self.losses.get(id(self.pilot))
        loss = self.target.init_loss(self.pilot) if loss is None else loss
        place = self._place(self.pilot, loss, nbeta, settings)
        step, bias = auto.piloted(place, nbeta, settings, 0, self.label)
        return place.at.kind, place.at.reason, place.near, (step, place.stiffness), bias

    def _place(self, checkpoint, loss: float, nbeta: float, settings, near=None):
        target = self.target
        target.model.load_state_dict(checkpoint)  # for what is not sampled
        return auto.prepared(
            target.model,
            checkpoint,
            target.problem,
            target.sampled(checkpoint),
            loss,
            nbeta,
            settings,
            target.loss_fn,
            near,
        )


def _by_checkpoint(
    stream: Iterable[tuple[range, Samples]], chains: Sequence[Chain], settings: SamplerSettings
) -> Iterator[tuple[int, Samples]]:
    """(chain.start, samples of all its chains) as soon as the last of them has come, in whatever
    groups they come.
    """
    waiting: dict[int, Samples] = {}
    missing = Counter(chain.start for chain in chains)
    for rows, samples in stream:
        for row, losses, acceptance in zip(rows, *samples, strict=True):
            start, number = chains[row].start, chains[row].seed[2]
            whole = waiting.setdefault(
                start, Samples.empty(settings.num_chains, settings.num_draws)
            )
            whole.losses[number], whole.acceptance[number] = losses, acceptance
            missing[start] -= 1
            if not missing[start]:
                yield start, waiting.pop(start)


def _check_settings(every: Sequence[SamplerSettings], ids: Sequence[int], count: int) -> None:
    if not all(isinstance(s, SamplerSettings) for s in every):
        raise ValueError("settings must be SamplerSettings, one or one for each checkpoint")
    if len(every) != count or len(ids) != count:
        raise ValueError(
            f"{count} checkpoints with {len(every)} settings and {len(ids)} checkpoint_ids;"
            " allowed: one for each"
        )
    if any(s.localization == 0 and s.sampler == AUTO for s in every):
        warnings.warn(
            "γ = 0: nothing keeps chains near their checkpoint, and there is no basin; λ̂ comes"
            " without λ̂_b",
            stacklevel=4,
        )
    for name in sorted(
        SamplerSettings.model_fields.keys() - {"sampler_lr", "localization", "nbeta"}
    ):
        if len({getattr(s, name) for s in every}) > 1:
            raise ValueError(
                f"settings differ in {name}; in one call they may in sampler_lr, localization and"
                " nbeta only"
            )


def _nbeta(nbeta: str | float, batch_size: int, num_samples: int | None) -> float:
    if isinstance(nbeta, str) and num_samples is None:
        raise ValueError(f'nbeta "{nbeta}" needs data; with a population_loss alone give a number')
    return resolve_nbeta(nbeta, batch_size, num_samples or 0)


def _alike(target: "_Target", checkpoints, wanted: Sequence[int]) -> list[list[int]]:
    """Positions of checkpoints in groups that agree in everything that is not sampled: buffers and
    frozen weights.
    """
    sampled = target.sampled(checkpoints[wanted[0]]).keys()
    groups: list[list[int]] = []
    for position in wanted:
        for group in groups:
            one, other = checkpoints[group[0]], checkpoints[position]
            if all(torch.equal(one[name], other[name]) for name in one.keys() - sampled):
                group.append(position)
                break
        else:
            groups.append([position])
    return groups


@dataclass(frozen=True)
class _Target:
    """What is sampled: a model's loss on data, or a population loss."""

    model: nn.Module
    problem: Problem
    loss_fn: Callable
    num_samples: int | None

    def sampled(self, checkpoint: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weights that move, by name, on the model's device and of its type."""
        parameters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        return {name: checkpoint[name].to(p.device, p.dtype) for name, p in parameters.items()}

    def init_loss(self, checkpoint: dict[str, Tensor]) -> float:
        """L(w*), over all the data."""
        if not self.problem.data:
            with torch.no_grad():
                return float(self.problem.loss(self.sampled(checkpoint)))
        self.model.load_state_dict(checkpoint)
        return mean_loss(self.model, self.problem.data, self.loss_fn)

    def run(
        self,
        checkpoints,
        chains: Sequence[Chain],
        settings: SamplerSettings,
        memory_budget: int | None,
        label: str,
    ) -> Iterator[tuple[range, Samples]]:
        """Samples the chains with the backend of the settings."""
        s = settings
        schedule = Schedule(s.sampler, s.num_draws, s.num_burnin_steps, s.diffusion_factor)
        if s.backend == "devinterp":
            data, batch_size = self.problem.data, self.problem.batch_size
            return devinterp_chains.run_chains(
                self.model, data, batch_size, self.loss_fn, checkpoints, chains, schedule, label
            )
        self.model.load_state_dict(checkpoints[0])  # for what is not sampled
        starts = [self.sampled(checkpoint) for checkpoint in checkpoints]
        return run_chains(self.problem, starts, chains, schedule, memory_budget, label)


def _target(
    model, checkpoints, data, batch_size, loss_fn, population_loss, settings: SamplerSettings
) -> _Target:
    """Checks what was given and puts it together."""
    if population_loss is not None:
        check_weights(model)
        check_checkpoints(model, checkpoints)
        if data is not None:
            raise ValueError(
                "data and population_loss are both given; allowed: one of them, the other None"
            )
        if settings.backend != "batched":
            raise ValueError(
                f'population_loss needs backend "batched"; "{settings.backend}" samples a model on'
                " data"
            )
        value = population_loss(
            {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
        )
        if not isinstance(value, Tensor) or value.ndim or not value.is_floating_point():
            raise ValueError("population_loss must return one floating-point number")
        return _Target(model, Problem(population_loss, (), 0), loss_fn, None)
    if data is None:
        raise ValueError(
            "data is None; allowed: (inputs, targets), or None together with a population_loss"
        )
    check_problem(model, checkpoints, data, batch_size, loss_fn)

    problem = Problem(loss_of(model, loss_fn), tuple(data), batch_size, losses_of(model, loss_fn))
    return _Target(model, problem, loss_fn, len(data[0]))


def loss_of(model: nn.Module, loss_fn: Callable) -> Callable[..., Tensor]:
    """The mean loss as a function of (named weights, inputs, targets)."""

    def loss(parameters: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        return loss_fn(functional_call(model, parameters, (inputs,)), targets)

    return loss


def losses_of(model: nn.Module, loss_fn: Callable) -> Callable[..., Tensor]:
    """The loss of each sample alone, as a function of (named weights, inputs, targets)."""

    def losses(parameters: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        outputs = functional_call(model, parameters, (inputs,))
        if loss_fn is cross_entropy and outputs.ndim == 2:
            return cross_entropy(outputs, targets, reduction="none")
        return vmap(lambda one, target: loss_fn(one[None], target[None]))(outputs, targets)

    return losses


@torch.no_grad()
def mean_loss(
    model: nn.Module, data: tuple[Tensor, Tensor], loss_fn: Callable = cross_entropy
) -> float:
    """Mean loss a sample over the whole data set, summed in float64."""
    inputs, targets = data
    total = 0.0
    for x, y in zip(inputs.split(EVALUATION_BATCH), targets.split(EVALUATION_BATCH), strict=True):
        total += loss_fn(model(x), y).double().item() * len(x)
    return total / len(inputs)
