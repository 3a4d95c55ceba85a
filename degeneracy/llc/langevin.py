"""How do the chains of `auto` walk? Preconditioned Langevin steps, with the loss seen against w*'s.

By default with momentum (`samplers.kinetic`): a step h is as far from instability as e = h² is
without, but the softest direction relaxes in 2/h steps in place of 2/e. Or overdamped,

    w ← w − (e/2) A⁻¹ (nβ g(w) + γ(w − w*)) + (e/A)^½ (ξ_t + ξ_{t+1})/2,

the noise averaged over two steps or, as Euler has it, not. All in the coordinates of `coordinates`,
each part switchable:

Control variates (Baker, Fearnhead, Fox & Nemeth, arXiv:1706.05439):

    g = ∇L_m(w) − ∇L_m(w*) + ∇L(w*),

whose minibatch noise vanishes at w*. It costs a second gradient a step, and gives the loss its own:
L_m(w) − L_m(w*) − (w − w*)·(∇L_m(w*) − ∇L(w*)).

Cooling: a minibatch's noise heats the chains. Its covariance is taken off the thermal noise, which
costs one more forward pass (`samplers.heat`).

Paired losses without them: L_m(w) − L_m(w*), at the cost of a forward pass.

Spread starts: w* + s N(0, A⁻¹), s = 1 where the loss allows it (`auto`).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from threading import Event
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import vjp, vmap
from tqdm import tqdm

from degeneracy.llc.chains import (
    Engine,
    NotRecordedError,
    OnDraw,
    Problem,
    Schedule,
    advance,
    noise_stream,
    one_by_one,
    recorded,
)
from degeneracy.llc.coordinates import Coordinates
from degeneracy.llc.samplers import Chain, heat, kinetic, langevin
from degeneracy.objective.derivatives import gradient_of
from degeneracy.weights import flattened, named

DISTANCE_EVERY = 4  # draws between two looks at |w − w*|, which is slow to change
NUDGE = 0.01  # of the Laplace approximation: the move by which slopes along the noise are taken
KINETIC = "kinetic"  # the dynamics with momentum
EVALUATION_BATCH = 2000  # samples of a batch where all the data are gone through


@dataclass(frozen=True)
class Walk:
    """What chains do at one checkpoint.

    Attributes:
        nbeta, localization: nβ and γ.
        step: The relative step, h or e.
        num_burnin_steps, num_draws: Of each chain.
        dynamics: `"kinetic"`, or overdamped with noise that is `"averaged"`, or `"euler"`.
        spread: How far chains start spread out, of N(0, A⁻¹); 0: all at the checkpoint.
        control: The gradient ∇L(w*), flat, where control variates are used.
        paired: Whether a draw is the loss against w*'s on the same minibatch.
        cooled: Whether the heat of minibatches is taken off the thermal noise.
        thinning: Steps from one draw to the next.
    """

    nbeta: float
    localization: float
    step: float
    num_burnin_steps: int
    num_draws: int
    dynamics: str = KINETIC
    spread: float = 1.0
    control: Tensor | None = None
    paired: bool = True
    cooled: bool = False
    thinning: int = 1


class Walked(NamedTuple):
    """What chains saw on their way; NaN from the draw on where not finite."""

    losses: Float[np.ndarray, "chains draws"]  # L(w*) + what a draw lies above it
    distances: Float[np.ndarray, "chains draws"]  # |w − w*|, every fourth of them new
    ends: Float[Tensor, "chains 2 d"]  # weights, and what `samplers` carries on

    def then(self, more: "Walked") -> "Walked":
        """These chains with what came after."""
        both = (np.concatenate(parts, axis=1) for parts in zip(self[:2], more[:2], strict=True))
        return Walked(*both, more.ends)


def full_gradient(problem: Problem, weights: dict[str, Tensor]) -> tuple[Tensor, float]:
    """∇L, flat, and L over all the data, summed batch by batch."""
    total, loss = torch.zeros_like(flattened(weights)), 0.0
    for batch in problem.passes(EVALUATION_BATCH):
        slope, value = gradient_of(lambda own, batch=batch: problem.loss(own, *batch), weights)
        share = len(batch[0]) / problem.num_samples if batch else 1.0
        total.add_(slope, alpha=share)
        loss += float(value.double()) * share
    return total, loss


def walk(
    problem: Problem,
    at: Coordinates,
    init_loss: float,
    seeds: Iterable[tuple[int, int, int]],
    plan: Walk,
    memory_budget: int | None = None,
    label: str = "LLC",
    goes_on: Float[Tensor, "chains 2 d"] | None = None,
    on_draw: OnDraw | None = None,
) -> Walked:
    """Walks one chain a seed; on a CPU every core advances some of them.

    Args:
        problem: The data, and the minibatch of the sampler; the loss is that of `at`.
        at: Where chains move.
        init_loss: L(w*).
        seeds: (seed of the settings, the checkpoint's id, the chain's number) of each chain.
        plan: What they do.
        memory_budget, label: As `chains.run_chains` takes them.
        goes_on: Where chains of an earlier walk ended: these take up there, with other seeds.
        on_draw: Is told of every draw, with weights in these coordinates.
    """
    problem = problem._replace(loss=at.loss, losses=at.losses)
    chains = [Chain(0, seed, plan.step, plan.nbeta, plan.localization) for seed in seeds]
    engine = _Walkers(problem, at, init_loss, chains, plan, goes_on)
    engine.on_draw = on_draw
    groups = sorted(advance(engine, memory_budget, label), key=lambda group: group[0].start)
    losses, distances, ends = zip(*(found for _, found in groups), strict=True)
    return Walked(np.concatenate(losses), np.concatenate(distances), torch.cat(ends))


class _Walkers(Engine):
    """Advances groups of chains that walk by a plan."""

    def __init__(
        self,
        problem: Problem,
        at: Coordinates,
        init_loss: float,
        chains: list[Chain],
        plan: Walk,
        goes_on: Tensor | None = None,
    ):
        starts = flattened(at.weights).detach()[None]
        schedule = Schedule(
            "langevin", plan.num_draws, plan.num_burnin_steps, thinning=plan.thinning
        )
        super().__init__(problem, at.weights, starts, chains, schedule)
        self.plan, self.init_loss, self.goes_on = plan, init_loss, goes_on
        self.precision = at.precision(plan.nbeta, plan.localization)
        self.losses = {}  # by number of chains: the loss alone
        self.cooled = {}  # and what `_cooled` makes of weights, their nudge and a minibatch
        self.root = self.precision.rsqrt()

    @property
    def _pairs(self) -> bool:
        """Whether the loss at w* is to be computed draw by draw; with control variates it is."""
        plan = self.plan
        return plan.paired and plan.control is None and not self.problem.full_batch

    @property
    def _cools(self) -> bool:
        """Whether there is heat to be taken off."""
        return self.plan.cooled and not self.problem.full_batch and self.single is None

    def record(self, groups) -> None:
        """Also the loss alone where it is asked for at w*, and cooled gradients."""
        super().record(groups)
        for count in {len(rows) for rows in groups} - self.losses.keys():
            if self._pairs:
                batch = next(self.problem.batches(self.chains[:count]))
                self.losses[count] = self._loss_at_start(batch)
        for count in {len(rows) for rows in groups} - self.cooled.keys():
            if self._cools:
                batch = next(self.problem.batches(self.chains[:count]))
                rows = self.starts[:1].expand(count, -1).contiguous()
                axes = (0, None, 0, *[0 for _ in batch])
                function = vmap(self._cooled, in_dims=axes)
                given = rows, self.starts[0], rows.clone(), *batch
                try:
                    self.cooled[count] = recorded(function, *given)
                except NotRecordedError:  # a loss without a rule for single samples
                    self.plan = replace(self.plan, cooled=False)

    def _loss_at_start(self, batch: tuple[Tensor, ...]) -> Callable:
        """Of (w*, *batch): the loss of every chain's minibatch."""
        if self.single is not None:
            rows = one_by_one(self.single, full_batch=False)
            return lambda start, *given: rows(start.expand(len(given[0]), -1), *given)[1]
        axes = (None, *[0 for _ in batch])
        loss = vmap(
            lambda row, *own: self.problem.loss(named(row, self.parameters), *own), in_dims=axes
        )
        return recorded(loss, self.starts[0], *batch)

    def _cooled(
        self, row: Tensor, start: Tensor, nudge: Tensor, *batch: Tensor
    ) -> tuple[Tensor, ...]:
        """Of one chain: the gradient with samples weighted as `samplers.heat` has it, and the loss.
        With control variates also both at w*, and all with these weights where losses are paired.
        """

        def losses(row: Tensor) -> Tensor:
            return self.problem.losses(named(row, self.parameters), *batch)

        seen, pull = vjp(losses, row)
        slopes = (losses(row + nudge) - seen) / NUDGE
        if self.plan.control is None:
            return pull(self._shares(slopes))[0], seen.mean()
        there, pull_there = vjp(losses, start)
        shares = self._shares(slopes - (losses(start + nudge) - there) / NUDGE)
        means = [
            torch.dot(shares, each) if self.plan.paired else each.mean() for each in (seen, there)
        ]
        return pull(shares)[0], means[0], pull_there(shares)[0], means[1]

    def _shares(self, slopes: Tensor) -> Tensor:
        m, n = len(slopes), self.problem.num_samples
        # Of n samples drawn without replacement, m have a mean of variance (1 − m/n)/m.
        rate = heat(self.plan.step, self.plan.nbeta) * (1 / m - 1 / n)
        return (1 + rate * (slopes - slopes.mean())) / m

    @torch.no_grad()
    def run(self, rows: range, bar: tqdm, stop: Event) -> Walked:
        """Walks the chains of one group."""
        chains, plan = [self.chains[row] for row in rows], self.plan
        start = self.starts.expand(len(chains), -1).contiguous()
        noise = noise_stream(chains, start.new_ones(len(chains), 1), start)
        batches = self.problem.batches(chains)
        weights, memory = self._first(rows, start, noise)
        move = kinetic if plan.dynamics == KINETIC else langevin
        carried = None if plan.dynamics == "euler" else memory
        given = (plan.step, plan.nbeta, plan.localization, self.precision)
        step = move(start, *given, carried)
        seen = weights.new_full((2, plan.num_draws, len(chains)), torch.nan)
        for _, draw in self.schedule.draws():
            if stop.is_set():
                break
            thermal = next(noise)
            gradients, rise = self._seen(start, weights, next(batches), thermal)
            if draw is not None:
                seen[0, draw] = rise
                if draw % DISTANCE_EVERY == 0:
                    far = torch.linalg.vector_norm(weights - start, dim=1)
                seen[1, draw] = far
                self.tell(rows, draw, self.init_loss + rise, weights)
            step(weights, gradients, thermal)
            with bar.get_lock():
                bar.update(len(chains))
        rises, distances = (part.T.double().cpu().numpy() for part in seen)
        return Walked(self.init_loss + rises, distances, torch.stack([weights, memory], 1))

    def _first(self, rows: range, start: Tensor, noise) -> tuple[Tensor, Tensor]:
        """Weights that chains start from, and their momentum or the noise before the first."""
        if self.goes_on is not None:
            before = self.goes_on[rows.start : rows.stop].unbind(1)
            return tuple(part.clone() for part in before)  # they are moved in place
        weights = start.clone()
        if self.plan.spread:
            weights.addcmul_(next(noise), self.plan.spread * self.root)
        return weights, next(noise).clone()

    def _seen(
        self, start: Tensor, weights: Tensor, batch: tuple[Tensor, ...], thermal: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Gradients that chains follow, and by how much the loss is above L(w*)."""
        count, controlled = len(weights), self.plan.control is not None
        controlled = controlled and not self.problem.full_batch
        if self._cools:
            nudge = NUDGE * self.root * thermal
            gradients, values, *at_start = self.cooled[count](weights, start[0], nudge, *batch)
        else:
            gradients, values = self.gradients[count](weights, *batch)
            at_start = self.gradients[count](start, *batch) if controlled else ()
        if controlled:
            there, values_there = at_start
            change = self.plan.control - there
            gradients = gradients + change
            if self.plan.paired:
                along = torch.linalg.vecdot(weights - start, change)
                return gradients, values - values_there + along
        elif self._pairs:
            return gradients, values - self.losses[count](start[0], *batch)
        return gradients, values - self.init_loss
