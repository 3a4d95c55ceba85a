"""How do many chains advance together? The batched engine: a tensor (chains, weights), one step for
all its rows.

Every chain is a row. The gradients of a group of rows come from one `vmap(grad_and_value)`,
recorded once as a plain list of tensor operations (`make_fx`), so that a draw costs matrix products
and random numbers and little else; where an operation has no rule for many, chains are taken one
after the other. On CUDA a group is as large as memory allows; on a CPU it is as large as a core's
cache, and every core advances a group of its own, so ask for at least as many
chains as cores.

Noise and minibatches of a chain are a function of its seed and the draw alone, so that no number
depends on which chains ran beside it.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import groupby
from threading import Event, Lock
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import grad_and_value, vmap
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from tqdm import tqdm

from degeneracy.llc.samplers import SAMPLERS, Chain, Coefficients, mala_acceptance, noise_scale
from degeneracy.objective.data import InMemory, Streamed, drawn
from degeneracy.objective.derivatives import gradient_of
from degeneracy.objective.loss import Objective
from degeneracy.weights import flattened, named

# bytes for a group of chains, about a core's cache: beyond it a larger group is a slower one
CPU_BUDGET = 4 * 2**20
# in a group, where there are enough chains: with fewer, threads wait for each other's Python
LEAST_WEIGHTS = 2**16
# of a CUDA device's memory; of all of it, so that groups are the same from run to run
CUDA_SHARE = 0.5
# random numbers a chain draws at once: small models would spend their time in calls
NOISE_BLOCK = 2**16
INDEX_BLOCK = 64  # minibatches drawn at once
MALA_EVERY = (
    50  # draws between two evaluations of the MALA acceptance, each of which costs a gradient
)

Loss = Callable[..., Tensor]  # (named parameters, *batch) → mean loss, a scalar


class Samples(NamedTuple):
    """What chains saw on their way."""

    # minibatch losses L_m(w_t), NaN from the draw on where not finite
    losses: Float[np.ndarray, "chains draws"]
    acceptance: Float[np.ndarray, " chains"]  # mean MALA acceptance, NaN where there is none

    @classmethod
    def empty(cls, num_chains: int, num_draws: int) -> "Samples":
        """Room for what chains will see."""
        return cls(
            np.full((num_chains, num_draws), np.nan, dtype=np.float32), np.full(num_chains, np.nan)
        )


# ---- random numbers: a function of (seed, checkpoint, chain, draw) -------------------------------


def seeds(chain: tuple[int, int, int]) -> tuple[int, int]:
    """Seeds of a chain's noise and of its minibatches."""
    noise, batches = np.random.SeedSequence(chain).generate_state(2)
    return int(noise), int(batches)


def noise_stream(chains: Sequence[Chain], scale: Tensor, like: Tensor) -> Iterator[Tensor]:
    """Endless N(0, scale²) noise, each (chains, weights) like `like`; a tensor holds until the next
    one is asked for.

    A chain's numbers come in blocks whose size depends on the number of weights alone.
    """
    block = max(1, NOISE_BLOCK // like.shape[1])
    generators = [
        torch.Generator(like.device).manual_seed(seeds(chain.seed)[0]) for chain in chains
    ]
    buffer = like.new_empty(len(chains), block, like.shape[1])
    scales = scale.flatten().tolist()

    while True:
        for row, std, generator in zip(buffer, scales, generators, strict=True):
            row.normal_(0, std, generator=generator)
        yield from buffer.unbind(1)


def index_stream(
    chains: Sequence[Chain], num_samples: int, batch_size: int, device
) -> Iterator[Int[Tensor, "chains m"]]:
    """Endless minibatches: each chain passes through the shuffled data again and again, without
    incomplete batches.
    """
    generators = [torch.Generator().manual_seed(seeds(chain.seed)[1]) for chain in chains]
    rows = [_shuffled_passes(num_samples, batch_size, generator) for generator in generators]
    while True:
        block = torch.stack(
            [torch.stack([next(row) for _ in range(INDEX_BLOCK)]) for row in rows], dim=1
        )
        if device.type == "cuda":
            block = block.pin_memory()
        yield from block.to(device, non_blocking=True)


def _shuffled_passes(
    num_samples: int, batch_size: int, generator: torch.Generator
) -> Iterator[Int[Tensor, " m"]]:
    while True:
        whole = torch.randperm(num_samples, generator=generator)[
            : num_samples // batch_size * batch_size
        ]
        yield from whole.view(-1, batch_size)


# ---- the engine ----------------------------------------------------------------------------------


class Problem(NamedTuple):
    """What is sampled: a loss of named parameters and minibatches of the data (none for a loss of
    parameters alone).

    Attributes:
        loss: Mean loss of (named parameters, *batch).
        data: Tensors (n, …); none for a loss of parameters alone, or where they are not kept.
        batch_size: Samples a minibatch m.
        losses: Of each sample, (m,), where `loss` is their mean.
        stream: The data where they are not kept.
        micro_batch: Samples whose gradient is taken at once; None: all of a minibatch.
    """

    loss: Loss
    data: tuple[Tensor, ...]
    batch_size: int
    losses: Loss | None = None
    stream: Streamed | None = None
    micro_batch: int | None = None

    @property
    def num_samples(self) -> int:
        """n; 0 for a loss of parameters alone."""
        if self.stream is not None:
            return len(self.stream)
        return len(self.data[0]) if self.data else 0

    @property
    def full_batch(self) -> bool:
        """Whether every draw sees all the data, the same for every chain."""
        whole = not self.data or self.batch_size == len(self.data[0])
        return self.stream is None and whole

    def passes(self, size: int) -> Iterator[tuple[Tensor, ...]]:
        """All the data once, in pieces of at most `size`; one empty piece where there are none."""
        if self.stream is not None:
            yield from (tuple(batch.leaves) for batch in self.stream.batches(size))
        elif self.data:
            yield from zip(*(part.split(size) for part in self.data), strict=True)
        else:
            yield ()

    def some(self, count: int, seed: int) -> tuple[Tensor, ...]:
        """`count` samples drawn at random, or all of them where there are no more."""
        if self.stream is not None:
            return self.stream.some(count, seed).leaves
        if not self.data or len(self.data[0]) <= count:
            return self.data
        chosen = drawn(len(self.data[0]), count, seed).to(self.data[0].device)
        return tuple(part[chosen] for part in self.data)

    def batches(self, chains: Sequence[Chain]) -> Iterator[tuple[Tensor, ...]]:
        """Minibatches, each tensor (chains, m, …), or all the data without a leading axis where
        every draw sees it.
        """
        if self.full_batch:
            while True:
                yield self.data
        count, m = len(chains), self.batch_size
        if self.stream is not None:
            streams = [self.stream.minibatches(m, seeds(chain.seed)[1]) for chain in chains]
            for batches in zip(*streams, strict=True):
                leaves = zip(*(batch.leaves for batch in batches), strict=True)
                yield tuple(torch.stack(parts) for parts in leaves)
        for index in index_stream(chains, len(self.data[0]), m, self.data[0].device):
            flat = index.flatten()
            yield tuple(
                part.index_select(0, flat).view(count, m, *part.shape[1:]) for part in self.data
            )

    def gradient(
        self, parameters: dict[str, Tensor], num_chains: int
    ) -> Callable[..., tuple[Tensor, Tensor]]:
        """Function of (weights (chains, P), *batch) that gives gradients (chains, P) and losses
        (chains,).
        """

        def loss_of_row(row: Tensor, *batch: Tensor) -> Tensor:
            return self.loss(named(row, parameters), *batch)

        gradient_of_row = self._accumulated(grad_and_value(loss_of_row))
        if num_chains > 1:
            axes = (0, *[None if self.full_batch else 0 for _ in self._leaves])
            return vmap(gradient_of_row, in_dims=axes, randomness="error")

        def single(
            weights: Tensor, *batch: Tensor
        ) -> tuple[Tensor, Tensor]:  # without vmap's reshapes
            gradient, value = gradient_of_row(
                weights[0], *batch if self.full_batch else [part[0] for part in batch]
            )
            return gradient[None], value[None]

        return single

    def plain_gradient(self, parameters: dict[str, Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
        """The same of one chain, (P,) and *batch without an axis of chains, by plain automatic
        differentiation: for what has no rule for many chains.
        """

        def gradient(row: Tensor, *batch: Tensor) -> tuple[Tensor, Tensor]:
            return gradient_of(lambda own: self.loss(own, *batch), named(row, parameters))

        return self._accumulated(gradient)

    @property
    def _leaves(self) -> tuple[Tensor, ...]:
        return self.data or (self.stream.some(1, 0).leaves if self.stream is not None else ())

    def _accumulated(self, gradient: Callable) -> Callable:
        """The gradient of a minibatch, piece by piece where it is to be."""
        size = self.micro_batch
        if size is None or not self.num_samples:
            return gradient

        def summed(row: Tensor, *batch: Tensor) -> tuple[Tensor, Tensor]:
            m = len(batch[0])
            slope, value = 0, 0
            for start in range(0, m, size):
                piece = [part[start : start + size] for part in batch]
                share = len(piece[0]) / m
                own_slope, own_value = gradient(row, *piece)
                slope, value = slope + share * own_slope, value + share * own_value
            return slope, value

        return summed


def problem_of(objective: Objective, batch_size: int, micro_batch: int | None = None) -> Problem:
    """What is sampled of an objective, at the weights where it is."""
    data = objective.data
    kept = isinstance(data, InMemory)
    leaves, stream = (data.leaves, None) if kept else ((), data)
    return Problem(objective.loss, leaves, batch_size, objective.losses, stream, micro_batch)


@dataclass(frozen=True)
class Schedule:
    """Which sampler runs, and for how long."""

    sampler: str  # a name in `SAMPLERS`
    num_draws: int
    num_burnin_steps: int = 0
    diffusion_factor: float = 0.01  # SGNHT's A
    thinning: int = 1  # steps from one draw to the next

    @property
    def num_steps(self) -> int:
        """Of a chain, its burn-in included."""
        return self.num_burnin_steps + self.num_draws * self.thinning

    def draws(self) -> Iterator[tuple[int, int | None]]:
        """(step, number of the draw that it is or None), from the burn-in on."""
        for t in range(-self.num_burnin_steps, self.num_draws * self.thinning):
            yield t, t // self.thinning if t >= 0 and t % self.thinning == 0 else None


class Draw(NamedTuple):
    """What a callback is told of a draw."""

    checkpoint: int  # its id
    chain: int
    number: int
    loss: float  # as it is recorded
    weights: dict[str, Tensor]  # by name; a copy


OnDraw = Callable[[Draw], None]


def run_chains(
    problem: Problem,
    checkpoints: Sequence[dict[str, Tensor]],
    chains: Sequence[Chain],
    schedule: Schedule,
    memory_budget: int | None = None,
    label: str = "LLC",
    on_draw: OnDraw | None = None,
) -> Iterator[tuple[range, Samples]]:
    """Samples every chain; yields (positions of chains, their samples) group by group, as they
    finish.

    Args:
        problem: The loss and its data.
        checkpoints: Named weights w*, all of the same names, shapes and floating type, on the
            data's device.
        chains: What to sample.
        schedule: The sampler and its number of steps.
        memory_budget: Bytes for a group of chains; None: 4 MiB on a CPU, half of a CUDA device's
            memory. A group that exhausts a CUDA device all the same is halved and starts again.
        label: Stands before the progress bar.
        on_draw: Is told of every draw, chain by chain, one call at a time.
    """
    starts = torch.stack([flattened(checkpoint).detach() for checkpoint in checkpoints])
    engine = Engine(problem, checkpoints[0], starts, chains, schedule, on_draw)
    yield from advance(engine, memory_budget, label)


def advance(
    engine: "Engine", memory_budget: int | None = None, label: str = "LLC"
) -> Iterator[tuple[range, Any]]:
    """What `engine.run` gives for every group of chains, as they finish; see `run_chains`."""
    starts, chains, schedule = engine.starts, engine.chains, engine.schedule
    fits = max(1, int((memory_budget or _default_budget(starts.device)) / engine.bytes_per_chain()))
    todo = (
        _groups(chains, starts.shape[1], fits)
        if starts.device.type == "cpu"
        else _cut(range(len(chains)), fits)
    )
    steps = schedule.num_steps
    with tqdm(total=len(chains) * steps, desc=label, unit="draw", leave=False) as bar:
        while todo:
            try:
                for rows, samples in run_groups(engine, list(todo), bar):
                    todo.remove(rows)
                    yield rows, samples
            except torch.OutOfMemoryError:
                if max(map(len, todo)) == 1:
                    raise
                todo = [half for rows in todo for half in _cut(rows, -(-len(rows) // 2))]
                bar.reset()
                bar.update((len(chains) - sum(map(len, todo))) * steps)
                torch.cuda.empty_cache()


def _groups(chains: Sequence[Chain], num_weights: int, fits: int) -> list[range]:
    """Positions of the chains that share a tensor on a CPU: of one checkpoint, shared out among the
    cores.

    Which chains share a tensor decides how their last bits are rounded; so a checkpoint's numbers
    are the same to the bit whichever others are sampled.
    """
    groups = []
    for _, rows in groupby(range(len(chains)), key=lambda row: chains[row].start):
        own = list(rows)
        share = max(-(-len(own) // torch.get_num_threads()), -(-LEAST_WEIGHTS // num_weights))
        groups += _cut(range(own[0], own[-1] + 1), min(fits, share))
    return groups


def _cut(rows: range, size: int) -> list[range]:
    return [rows[first : first + size] for first in range(0, len(rows), size)]


def _default_budget(device: torch.device) -> float:
    if device.type == "cuda":
        return CUDA_SHARE * torch.cuda.get_device_properties(device).total_memory
    return CPU_BUDGET


def run_groups(engine: "Engine", groups: list[range], bar: tqdm) -> Iterator[tuple[range, Samples]]:
    """Runs groups of chains, on a CPU as many at a time as there are cores; yields them as they
    finish.

    A group keeps to one core, also where others idle, so that how its sums are split never depends
    on its company.
    """
    engine.record(groups)
    stop = Event()
    if engine.starts.device.type != "cpu":
        for rows in groups:
            yield rows, engine.run(rows, bar, stop)
        return
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(
        min(threads, len(groups)), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        try:
            running = {pool.submit(engine.run, rows, bar, stop): rows for rows in groups}
            for future in as_completed(running):
                yield running[future], future.result()
        # also where one group failed or the user interrupted: the others end at their next draw
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)  # MKL keeps one number for the whole process


class Engine:
    """Advances groups of chains; what groups share is recorded once and then only read."""

    def __init__(
        self,
        problem: Problem,
        parameters: dict[str, Tensor],
        starts: Tensor,
        chains,
        schedule: Schedule,
        on_draw: OnDraw | None = None,
    ):
        self.problem, self.parameters, self.starts = problem, parameters, starts
        self.chains, self.schedule, self.on_draw = chains, schedule, on_draw
        self.gradients: dict[int, Callable] = {}  # by number of chains
        self.single: Callable | None = None  # of one chain, where they cannot advance together
        self.telling = Lock()

    def record(self, groups: Sequence[range]) -> None:
        """Records the gradient for every size of group; recording is not for several threads at
        once.
        """
        for rows in groups:
            if len(rows) not in self.gradients:
                batch = next(self.problem.batches(self.chains[: len(rows)]))
                weights = self.starts[:1].expand(len(rows), -1).contiguous()
                self.gradients[len(rows)] = self._together(weights, *batch)

    def _together(self, weights: Tensor, *batch: Tensor) -> Callable:
        """Recorded for all rows at once, or one row after the other where that has no rule."""
        problem = self.problem
        if self.single is None:
            try:
                return recorded(problem.gradient(self.parameters, len(weights)), weights, *batch)
            except NotRecordedError as error:
                self.single = alone(problem, self.parameters, weights, *batch)
                warnings.warn(
                    "chains advance one after the other, each of"
                    f" {len(self.chains)} at the price of its own: {error}",
                    stacklevel=2,
                )
        return one_by_one(self.single, problem.full_batch)

    def bytes_per_chain(self) -> int:
        """What one chain holds: its own tensors, a block of noise, and everything that a gradient
        makes on its way.
        """
        self.record([range(1)])
        graph = getattr(self.gradients[1], "graph", None)
        nodes = [node for node in graph.nodes if node.op == "call_function"] if graph else []
        made = [
            node.meta["val"]
            for node in nodes
            if not _is_view(node) and isinstance(node.meta.get("val"), Tensor)
        ]
        # w, w*, gradient; noise
        own = 3 * self.starts.shape[1] + max(NOISE_BLOCK, self.starts.shape[1])
        return own * self.starts.element_size() + sum(
            tensor.numel() * tensor.element_size() for tensor in made
        )

    @torch.no_grad()
    def run(self, rows: range, bar: tqdm, stop: Event) -> Samples:
        """Samples the chains of one group."""
        chains, schedule = [self.chains[row] for row in rows], self.schedule
        gradient = self.gradients[len(rows)]
        starts = self.starts[[chain.start for chain in chains]]
        weights = starts.clone()
        c = Coefficients.of(chains, schedule.diffusion_factor, weights)
        noise = noise_stream(chains, noise_scale(schedule.sampler, c), weights)
        batches = self.problem.batches(chains)
        step = SAMPLERS[schedule.sampler](starts, c, lambda: next(noise))
        losses = weights.new_full((schedule.num_draws, len(chains)), torch.nan)
        acceptance = []
        for _, draw in schedule.draws():
            if stop.is_set():
                break
            batch = next(batches)
            gradients, values = gradient(weights, *batch)
            asked = schedule.sampler == "sgld" and draw is not None and draw % MALA_EVERY == 0
            before = (weights.clone(), gradients, values) if asked else None
            if draw is not None:
                losses[draw] = values
                self.tell(rows, draw, values, weights)
            step(weights, gradients, next(noise))
            if before is not None:
                acceptance.append(
                    mala_acceptance(c, starts, before, (weights, *gradient(weights, *batch)))
                )
            with bar.get_lock():
                bar.update(len(chains))
        accepted = (
            torch.stack(acceptance).mean(0)
            if acceptance
            else weights.new_full((len(chains),), torch.nan)
        )
        return Samples(losses.T.float().cpu().numpy(), accepted.double().cpu().numpy())

    def tell(self, rows: range, draw: int, losses: Tensor, weights: Tensor) -> None:
        """Calls back with the draw of every chain of a group."""
        if self.on_draw is None:
            return
        with self.telling:
            for row, loss, own in zip(rows, losses.tolist(), weights, strict=True):
                _, checkpoint, number = self.chains[row].seed
                found = named(own.clone(), self.parameters)
                self.on_draw(Draw(checkpoint, number, draw, loss, found))


class NotRecordedError(ValueError):
    """What runs cannot be recorded for several chains at once; the message says what was found."""


def alone(problem: Problem, parameters: dict[str, Tensor], *example: Tensor) -> Callable:
    """The gradient of one chain, recorded; where not even that can be, as it is, one at a time."""
    row, *batch = (
        (part[0] for part in example) if not problem.full_batch else (example[0][0], *example[1:])
    )
    gradient = problem.plain_gradient(parameters)
    try:
        return recorded(gradient, row, *batch)
    except NotRecordedError:
        lock = Lock()

    def locked(*given: Tensor) -> tuple[Tensor, Tensor]:
        with lock:
            return gradient(*given)

    return locked


def one_by_one(single: Callable, full_batch: bool) -> Callable:
    """A function of one chain as one of (chains, …)."""

    def rows(weights: Tensor, *batch: Tensor) -> tuple[Tensor, ...]:
        found = [
            single(row, *(batch if full_batch else [part[i] for part in batch]))
            for i, row in enumerate(weights)
        ]
        return tuple(torch.stack(parts) for parts in zip(*found, strict=True))

    return rows


def recorded(gradient: Callable, *example: Tensor) -> GraphModule:
    """`gradient` as the tensor operations it comes to for inputs of these shapes.

    Raises:
        NotRecordedError: What runs depends on values and not on shapes alone, or an operation has
            no rule.
        ValueError: It is random.
    """
    try:
        recorded = make_fx(gradient)(*example)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of whatever kind: a module may do anything on its way
        raise NotRecordedError(_found(error)) from error
    random = [
        node.target
        for node in recorded.graph.nodes
        if torch.Tag.nondeterministic_seeded in _tags(node)
    ]
    if random:
        raise ValueError(
            f"the model's forward pass or loss is random ({random[0]}): there is no loss L(w) to"
            " sample"
        )
    recorded.graph.eliminate_dead_code()
    recorded.recompile()
    return recorded


def _found(error: Exception) -> str:
    """Why a module cannot be recorded, by what PyTorch says of it."""
    text = " ".join(str(error).split())
    causes = {
        "setup_context": "an autograd.Function without setup_context, or a backward hook",
        "data-dependent": "its forward pass looks at values, as in `if x.sum() > 0`",
        "data dependent": "its forward pass looks at values, as in `if x.sum() > 0`",
        ".item()": "its forward pass looks at values, as in `.item()` or `if x.sum() > 0`",
        "dynamic shape": "a shape in its forward pass depends on values, as in `x[mask]`",
        "in-place": "it changes a tensor in place that others share",
        "inplace": "it changes a tensor in place that others share",
        "Batching rule": "an operation has no rule for many at once",
        "anomaly": "anomaly detection is on",
        "saved tensor hooks": "it uses saved tensor hooks",
    }
    cause = next((cause for sign, cause in causes.items() if sign in text), None)
    short = text if len(text) < 200 else f"{text[:200]} …"
    return f"{cause} ({short})" if cause else short


def _tags(node) -> Sequence[torch.Tag]:
    return getattr(node.target, "tags", ())


def _is_view(node) -> bool:
    returns = getattr(getattr(node.target, "_schema", None), "returns", ())
    return any(value.alias_info is not None for value in returns)
