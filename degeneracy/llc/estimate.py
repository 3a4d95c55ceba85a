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

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from degeneracy.llc import auto, devinterp_chains
from degeneracy.llc.chains import Draw, OnDraw, Problem, Samples, Schedule, problem_of, run_chains
from degeneracy.llc.chance import chance_loss_of
from degeneracy.llc.checks import check_checkpoints, check_weights, checked_objective
from degeneracy.llc.langevin import EVALUATION_BATCH, Walk, Walked, walk
from degeneracy.llc.samplers import Chain
from degeneracy.llc.settings import AUTO, SamplerSettings
from degeneracy.llc.statistics import LLCEstimate, summarise
from degeneracy.models.balance import balanced
from degeneracy.objective.loss import Objective, objective_of

__all__ = ["LLCEstimate", "estimate_llcs", "mean_loss", "resolve_nbeta", "summarise"]


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
    data: Any,
    settings: SamplerSettings | Sequence[SamplerSettings],
    batch_size: int = 128,
    loss_fn: Callable = cross_entropy,
    *,
    population_loss: Callable[[dict[str, Tensor]], Tensor] | None = None,
    checkpoint_ids: Sequence[int] | None = None,
    memory_budget: int | None = None,
    chance_loss: float | None = None,
    pilot: dict[str, Tensor] | None = None,
    on_draw: OnDraw | None = None,
    label: str = "LLC",
    **options: Any,
) -> list[LLCEstimate | None]:
    """LLC and WBIC of `model` at each checkpoint.

    Args:
        model: Any module, in the mode it is in; it is not changed. Its device is where sampling
            runs, in float32 or float64. Weights that do not require a gradient stay fixed, as do
            the rows of embeddings for padding.
        checkpoints: State dicts of `model`; None gives None.
        data: The training set: (inputs, targets) on the model's device, tensors or trees of
            tensors, or an iterable of batches, as `objective.data.as_data` takes them; None with a
            `population_loss`.
        settings: The config's `devinterp` section; or one for each checkpoint, which differ in
            `sampler_lr`, `localization` and `nbeta` only. Chains of all checkpoints then still
            advance together, but for `auto`, which goes through them one by one.
        batch_size: Samples a minibatch m, at most n. Batches are whole: each pass over the data
            drops the remainder.
        loss_fn: Mean-reduced loss of (outputs, targets), in nats; with class weights or ignored
            labels as PyTorch's own loss.
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
        on_draw: Is told of every draw (`chains.Draw`), one call at a time; each `settings.thinning`
            steps. With it `auto` does not turn coordinates.
        label: Stands before the progress bar.
        options: forward, penalty, restrict, cache_bytes of `objective.loss.objective_of`.

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
        on_draw=on_draw,
        label=label,
        **options,
    ):
        estimates[position] = estimate
    return estimates


def stream_llcs(
    model: nn.Module,
    checkpoints: Sequence[dict[str, Tensor] | None],
    data: Any,
    settings: SamplerSettings | Sequence[SamplerSettings],
    batch_size: int = 128,
    loss_fn: Callable = cross_entropy,
    *,
    population_loss: Callable[[dict[str, Tensor]], Tensor] | None = None,
    checkpoint_ids: Sequence[int] | None = None,
    memory_budget: int | None = None,
    chance_loss: float | None = None,
    pilot: dict[str, Tensor] | None = None,
    on_draw: OnDraw | None = None,
    label: str = "LLC",
    **options: Any,
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
    target = _target(
        model, checkpoints, data, batch_size, loss_fn, population_loss, common, options
    )
    nbetas = [_nbeta(s.nbeta, batch_size, target.num_samples) for s in every]
    different = {id(checkpoints[p]): checkpoints[p] for p in wanted}
    bar = tqdm(different.items(), desc=f"{label}: L(w*)", leave=False, disable=len(different) == 1)
    losses = {identity: target.init_loss(checkpoint) for identity, checkpoint in bar}
    if common.sampler == AUTO:
        pilot = checkpoints[wanted[-1]] if pilot is None else pilot
        given = _Given(
            target, nbetas, losses, ids, chance_loss, pilot, memory_budget, label, on_draw
        )
        yield from ((p, given.estimate(p, checkpoints[p], every[p])) for p in wanted)
        return
    given = _Published(target, nbetas, losses, ids, memory_budget, label, on_draw)
    yield from given.estimates(checkpoints, every, wanted)


def _balanced(model: nn.Module, checkpoints: Sequence, pilot: dict | None) -> tuple[list, Any]:
    """Every checkpoint in the balanced gauge, the same one once."""
    check_checkpoints(model, checkpoints)
    done = {id(c): balanced(model, c) for c in [*checkpoints, pilot] if c is not None}
    return [done.get(id(c)) for c in checkpoints], done.get(id(pilot))


@dataclass(frozen=True)
class _Published:
    """What the published samplers estimate with, all checkpoints together."""

    target: "_Target"
    nbetas: Sequence[float]
    losses: Mapping[int, float]  # L(w*), by a checkpoint's identity
    ids: Sequence[int]
    memory_budget: int | None
    label: str
    on_draw: OnDraw | None

    def estimates(
        self, checkpoints: Sequence, every: Sequence[SamplerSettings], wanted: Sequence[int]
    ) -> Iterator[tuple[int, LLCEstimate]]:
        """(position, estimate) of each checkpoint that is wanted."""
        common = every[0]
        for positions in _alike(self.target, checkpoints, wanted):
            chains = [
                Chain(
                    start,
                    (common.seed, self.ids[p], number),
                    every[p].sampler_lr,
                    self.nbetas[p],
                    every[p].localization,
                )
                for start, p in enumerate(positions)
                for number in range(common.num_chains)
            ]
            given = [checkpoints[p] for p in positions], chains, common
            stream = self.target.run(*given, self.memory_budget, self.label, self.on_draw)
            with closing(stream):  # an error here ends the chains that are under way
                for start, (sampled, acceptance) in _by_checkpoint(stream, chains, common):
                    p = positions[start]
                    loss, n = self.losses[id(checkpoints[p])], self.target.num_samples
                    yield p, summarise(sampled, loss, self.nbetas[p], n, acceptance, every[p])


class _Given:
    """What `auto` estimates with, one checkpoint after the other."""

    def __init__(
        self, target: "_Target", nbetas, losses, ids, chance, pilot, memory_budget, label, on_draw
    ):
        self.target, self.nbetas, self.losses, self.ids = target, nbetas, losses, ids
        self.pilot, self.memory_budget, self.label = pilot, memory_budget, label
        self.on_draw, self.chance = on_draw, chance
        if chance is None and target.objective is not None:
            self.chance = chance_loss_of(target.objective)
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
        told = self.target.told(self.on_draw, checkpoint)
        walked = self._walked(place, plan, seeds, told)
        for turn in range(1, auto.TURNS):
            if settings.num_draws is not None or not auto.disagree(walked):
                break
            more = [(*seed[:2], turn * auto.FURTHER_IDS + seed[2]) for seed in seeds]
            further = replace(plan, num_burnin_steps=0)
            walked = walked.then(self._walked(place, further, more, told, walked.ends))
        plan = replace(plan, num_draws=walked.losses.shape[1])
        found = auto.certified(place, plan, walked, settings, self.chance, step_bias)
        n = self.target.num_samples
        return summarise(
            walked.losses, place.init_loss, nbeta, n, settings=settings, certificates=found
        )

    def _walked(
        self, place: auto.Place, plan: Walk, seeds: Sequence, told: OnDraw | None, goes_on=None
    ) -> Walked:
        given = (place.problem, place.at, place.init_loss, seeds, plan)
        return walk(*given, self.memory_budget, self.label, goes_on, told)

    def _piloted(self, nbeta: float, settings: SamplerSettings) -> tuple:
        loss = self.losses.get(id(self.pilot))
        loss = self.target.init_loss(self.pilot) if loss is None else loss
        place = self._place(self.pilot, loss, nbeta, settings)
        step, bias = auto.piloted(place, nbeta, settings, 0, self.label)
        return place.at.kind, place.at.reason, place.near, (step, place.stiffness), bias

    def _place(self, checkpoint, loss: float, nbeta: float, settings, near=None):
        target = self.target.at(checkpoint)
        if self.on_draw is not None and settings.preconditioner in ("auto", "kfac"):
            # draws are told as weights, not turned
            settings = settings.model_copy(update={"preconditioner": "diagonal"})
        given = target.problem, target.sampled(checkpoint), loss, nbeta, settings, near
        return auto.prepared(target.objective, *given)


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
    """Positions of checkpoints in groups that agree in everything that is not sampled: buffers,
    frozen weights, and entries that a restriction leaves out.
    """
    groups: list[tuple[dict[str, Tensor], list[int]]] = []
    for position in wanted:
        own = target.not_sampled(checkpoints[position])
        for others, group in groups:
            if all(torch.equal(tensor, others[name]) for name, tensor in own.items()):
                group.append(position)
                break
        else:
            groups.append((own, [position]))
    return [group for _, group in groups]


@dataclass(frozen=True)
class _Target:
    """What is sampled: a model's loss on data, or a population loss of its weights."""

    model: nn.Module
    problem: Problem
    objective: Objective | None

    @property
    def num_samples(self) -> int | None:
        """n; None for a population loss."""
        return self.problem.num_samples or None

    def at(self, checkpoint: dict[str, Tensor]) -> "_Target":
        """The same where what is not sampled is the checkpoint's."""
        if self.objective is None:
            return self
        objective = self.objective.at(checkpoint)
        problem = problem_of(objective, self.problem.batch_size, self.problem.micro_batch)
        return replace(self, problem=problem, objective=objective)

    def sampled(self, checkpoint: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weights that move, by name, on the model's device and of its type."""
        if self.objective is not None:
            return self.objective.at(checkpoint).weights
        parameters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        return {name: checkpoint[name].to(p.device, p.dtype) for name, p in parameters.items()}

    def not_sampled(self, checkpoint: dict[str, Tensor]) -> dict[str, Tensor]:
        """Everything else, by name; of a masked parameter with zeros for what moves."""
        if self.objective is None:
            return {}
        there = self.objective.at(checkpoint)
        masked = {
            name: there.fixed[name].flatten().index_fill(0, index, 0)
            for name, index in there.masks.items()
        }
        return {name: t for name, t in there.fixed.items() if name not in there.weights} | masked

    def init_loss(self, checkpoint: dict[str, Tensor]) -> float:
        """L(w*), over all the data."""
        if self.objective is None:
            with torch.no_grad():
                return float(self.problem.loss(self.sampled(checkpoint)))
        return self.objective.at(checkpoint).mean_loss(EVALUATION_BATCH)

    def told(self, on_draw: OnDraw | None, checkpoint: dict[str, Tensor]) -> OnDraw | None:
        """The callback, told of whole parameters where only some entries move."""
        if on_draw is None or self.objective is None:
            return on_draw
        return partial(_told, on_draw, self.objective.at(checkpoint))

    def run(
        self,
        checkpoints,
        chains: Sequence[Chain],
        settings: SamplerSettings,
        memory_budget: int | None,
        label: str,
        on_draw: OnDraw | None = None,
    ) -> Iterator[tuple[range, Samples]]:
        """Samples the chains with the backend of the settings."""
        s = settings
        schedule = Schedule(
            s.sampler, s.num_draws, s.num_burnin_steps, s.diffusion_factor, s.thinning
        )
        if s.backend == "devinterp":
            objectives = [self.objective.at(checkpoint) for checkpoint in checkpoints]
            return devinterp_chains.run_chains(
                objectives, self.problem.batch_size, chains, schedule, label, on_draw
            )
        there = self.at(checkpoints[0])  # for what is not sampled
        starts = [self.sampled(checkpoint) for checkpoint in checkpoints]
        told = self.told(on_draw, checkpoints[0])
        return run_chains(there.problem, starts, chains, schedule, memory_budget, label, told)


def _told(on_draw: OnDraw, objective: Objective, draw: Draw) -> None:
    on_draw(draw._replace(weights=objective.whole(draw.weights)))


def _target(
    model, checkpoints, data, batch_size, loss_fn, population_loss, settings, options
) -> _Target:
    """Checks what was given and puts it together."""
    if population_loss is None:
        if data is None:
            raise ValueError(
                "data is None; allowed: (inputs, targets), or None together with a population_loss"
            )
        objective = checked_objective(model, checkpoints, data, batch_size, loss_fn, **options)
        problem = problem_of(objective, batch_size, settings.micro_batch_size)
        if settings.backend == "devinterp" and problem.stream is not None:
            raise ValueError(
                'backend "devinterp" needs data that fit in memory; raise cache_bytes, or use'
                ' "batched"'
            )
        return _Target(model, problem, objective)
    check_weights(model)
    check_checkpoints(model, checkpoints)
    if data is not None:
        raise ValueError(
            "data and population_loss are both given; allowed: one of them, the other None"
        )
    if settings.backend != "batched":
        raise ValueError(
            f'population_loss needs backend "batched"; "{settings.backend}" samples a model on data'
        )
    if options:
        raise ValueError(f"a population_loss has no use for {', '.join(options)}; leave it out")
    value = population_loss(
        {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    )
    if not isinstance(value, Tensor) or value.ndim or not value.is_floating_point():
        raise ValueError("population_loss must return one floating-point number")
    return _Target(model, Problem(population_loss, (), 0), None)


def mean_loss(
    model: nn.Module, data: Any, loss_fn: Callable = cross_entropy, **options: Any
) -> float:
    """Mean loss a sample over the whole data set, summed in float64; options as
    `objective.loss.objective_of` takes them.
    """
    return objective_of(model, loss_fn, data, **options).mean_loss(EVALUATION_BATCH)
