"""Does a run fit into the memory there is? Bytes counted from shapes, before anything is made.

What is counted is held at the same time for certain: weights, gradients, the optimizer's state and
what an epoch's end copies of them; the checkpoints whose LLC is measured together, one chain a
core, and the sampled losses. Data, activations and scratch memory come on top. So a run that is
refused would have been killed, and one that is not may still be tight.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import psutil
import torch
from torch import Tensor, nn

from degeneracy.config.reader import ConfigError
from degeneracy.config.words import shown
from degeneracy.llc.settings import AUTO
from degeneracy.optimizers.settings import OptimizerSettings
from degeneracy.runs.config import Config
from degeneracy.runs.results import wanted_points
from degeneracy.texts import count_of
from ngd import default_rank

CUDA_BLOCK = 32  # checkpoints whose chains advance together on CUDA; so many a kill loses there
LEAST_DRAWS = 150  # of a chain of `auto`, whose number of draws is found on the way
FLOAT32 = 4  # bytes of a sampled loss


class Part(NamedTuple):
    """Something that takes memory."""

    name: str
    size: int  # bytes
    key: str  # of the config, which makes it as large as it is
    on_device: bool = True  # else in the host's memory; on a CPU that is the same


class Phase(NamedTuple):
    """Parts that are held at the same time."""

    text: str
    parts: tuple[Part, ...]


# ---- what is needed ------------------------------------------------------------------------------


def state_numbers(kind: str, settings: OptimizerSettings, shapes: Sequence[torch.Size]) -> int:
    """Numbers that an optimizer keeps of tensors of these shapes, a few a tensor aside."""
    sizes = [shape.numel() for shape in shapes]
    momentum = sum(sizes) if getattr(settings, "momentum", 0) else 0
    if kind == "adamw":
        return 2 * sum(sizes)
    if kind == "muon":  # a momentum whatever it is set to; AdamW steps what is no matrix
        matrices = sum(shape.numel() for shape in shapes if len(shape) == 2)
        return matrices + 2 * (sum(sizes) - matrices)
    if kind == "ngd":
        dims = [dim for shape in shapes for dim in shape if dim > 1]
        ranks = [_rank(settings.rank, dim) for dim in dims]
        factors = sum(r * dim + 2 * r + 2 for r, dim in zip(ranks, dims, strict=True))
        return momentum + factors
    if kind == "soap":  # an axis of a matrix or kernel: statistic and eigenvectors
        axes = [dim for shape in shapes if len(shape) > 1 for dim in shape]
        squares = sum(dim**2 for dim in axes if dim <= settings.max_precondition_dim)
        return 2 * sum(sizes) + 2 * squares
    if kind == "spngd":  # of both sides of a layer the latest statistic, the one before, an inverse
        return momentum + 3 * sum(a**2 + g**2 for a, g in _sides(shapes))
    if kind == "exact_ngd":
        return momentum + sum(sizes) ** 2
    return momentum


def _sides(shapes: Sequence[torch.Size]) -> Iterator[tuple[int, int]]:
    """(inputs, with a 1 where there is a bias; outputs) of each layer with a matrix or a kernel."""
    for shape, after in pairwise([*shapes, torch.Size()]):
        if len(shape) > 1:
            yield shape[1:].numel() + (after == shape[:1]), shape[0]


def _rank(given: int | None, dim: int) -> int:
    return default_rank(dim) if given is None else min(given, dim - 1)


def training_phase(text: str, key: str, weights: int, state: int) -> Phase:
    """Bytes at the end of an epoch, when the checkpoint is written: a copy of each tensor, and the
    file's content twice, as safetensors makes it.

    Args:
        key: The config's key that makes the model large.
        weights, state: Bytes of weights and of the optimizer's state.
    """
    sizes = {"weights": weights, "gradients": weights, "the optimizer's state": state}
    on_device = [Part(name, size, key) for name, size in sizes.items()]
    written = Part("writing the checkpoint", 3 * (weights + state), key, on_device=False)
    before = Part("the checkpoint before it", weights, key, on_device=False)
    return Phase(text, (*on_device, written, before))


def sampling_phase(
    text: str, key: str, weights: int, num_checkpoints: int, settings, num_cores: int, is_cuda: bool
) -> Phase:
    """Bytes while the LLCs of `num_checkpoints` checkpoints are measured, one chain a core.

    Args:
        key: The config's key that makes the model large.
        weights: Bytes of a checkpoint's weights.
        settings: The config's `devinterp` section.
    """
    epochs, draws = "experiment.measure_epochs", settings.num_draws or LEAST_DRAWS
    is_auto = settings.sampler == AUTO
    together = min(num_checkpoints, CUDA_BLOCK) if is_cuda else num_checkpoints
    starts = 1 if is_auto else together  # of the published samplers, all are stacked at once
    chains = 1 if is_cuda else min(num_cores, settings.num_chains * starts)
    # w, w*, noise, the gradient and what it is put together from; `auto` also has momentum
    own = 6 if is_auto else 5
    traces = FLOAT32 * num_checkpoints * settings.num_chains * draws
    parts = (
        Part("the model", weights, key),
        Part("checkpoints", together * weights, epochs, on_device=False),
        Part("where chains start", starts * weights, key if is_auto else epochs),
        Part("chains", chains * own * weights, key),
        Part("sampled losses", traces, "devinterp.num_draws", on_device=False),
    )
    return Phase(text, parts)


# ---- what there is -------------------------------------------------------------------------------


def free_bytes(device: torch.device) -> int:
    """Memory that is not taken: of the device; on a CPU of the machine, or of the control groups
    that this process is in, whichever is less.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # what PyTorch holds and does not use
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    available = psutil.virtual_memory().available
    return min([available, *control_group_rooms()])


def control_group_rooms(root: Path = Path("/")) -> list[int]:
    """Bytes left under each memory limit of this process' control groups (Linux, v1 and v2).

    Args:
        root: What stands for `/`.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    rooms = []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers not in ("", "memory") and "memory" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        names = ("limit_in_bytes", "usage_in_bytes") if controllers else ("max", "current")
        own = top / path.lstrip("/")
        # in a container the path may be the host's, and the top its own group
        for group in {own, *own.parents, top}:
            if group.is_relative_to(top) and (room := _room(group, *names)) is not None:
                rooms.append(room)
    return rooms


def _room(group: Path, limit: str, usage: str) -> int | None:
    """A group's limit minus what it uses and could not give back; None without a limit."""
    try:
        most = int((group / f"memory.{limit}").read_text())
        used = int((group / f"memory.{usage}").read_text())
        lines = (group / "memory.stat").read_text().splitlines()
    except (OSError, ValueError):  # "max" is no number
        return None
    stat = dict(line.split() for line in lines if len(line.split()) == 2)
    file_cache = int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))
    return max(0, most - max(0, used - file_cache))


# ---- the refusal ---------------------------------------------------------------------------------


class Asked(NamedTuple):
    """A run that is to be opened.

    Attributes:
        config: Its config.
        models: Title → factory.
        optimizers: Their names.
        device: Where tensors live.
        own_models: Whether the models come from Python: such a factory may do what no device "meta"
            can, so it is called as it is.
        own_optimizers: Whether the optimizers do: their state is not known, nor counted.
    """

    config: Config
    models: Mapping[str, Callable[[], nn.Module]]
    optimizers: Sequence[str]
    device: torch.device
    own_models: bool = False
    own_optimizers: bool = False


def refuse_more_than_memory(asked: Asked) -> None:
    """Refuses a run that cannot fit, before anything large is made.

    Raises:
        ConfigError: Names the key, what it takes, what there is, and what to change, for each model
            that does not fit.
    """
    problems: dict[tuple[str, str], str] = {}
    for title, factory in asked.models.items():
        for phase in _phases(asked, title, _tensors(factory, asked.own_models)):
            if found := _problem(asked.config, phase, asked.device):
                problems.setdefault((title, found.partition(":")[0]), found)
    if problems:
        raise ConfigError(list(problems.values()), "config")


def _tensors(factory: Callable[[], nn.Module], is_own: bool) -> list[Tensor]:
    if is_own:
        return list(factory().parameters())
    with torch.device("meta"):
        return list(factory().parameters())


def _phases(asked: Asked, title: str, tensors: Sequence[Tensor]) -> list[Phase]:
    """Training with the optimizer that keeps most, and sampling."""
    config, names = asked.config, asked.optimizers
    is_cnn = config.experiment.model_type == "cnn"
    key = "experiment.hidden_conv_layers" if is_cnn else "experiment.hidden_nodes"
    key = "models" if asked.own_models else key
    weights = sum(tensor.numel() * tensor.itemsize for tensor in tensors)
    what = f"{title} with {sum(tensor.numel() for tensor in tensors):,} weights"
    states = {
        name: 0 if asked.own_optimizers else _state_bytes(config, name, tensors) for name in names
    }
    worst = max(states, key=states.__getitem__)
    count = len(list(wanted_points(config.model_dump(mode="json"), title, names)))
    sampled = f"measuring the LLC of {count_of(count, 'checkpoint')} of {what}"
    cores, is_cuda = torch.get_num_threads(), asked.device.type == "cuda"
    return [
        training_phase(f"training {what} by {worst}", key, weights, states[worst]),
        sampling_phase(sampled, key, weights, count, config.devinterp, cores, is_cuda),
    ]


def _state_bytes(config: Config, name: str, tensors: Sequence[Tensor]) -> int:
    moved = [tensor for tensor in tensors if tensor.requires_grad]
    itemsize = max((tensor.itemsize for tensor in moved), default=FLOAT32)
    kind, settings = config.optimizer_kind(name), config.optimizer_settings(name)
    return itemsize * state_numbers(kind, settings, [tensor.shape for tensor in moved])


def _problem(config: Config, phase: Phase, device: torch.device) -> str | None:
    """What is wrong with a phase, if it does not fit."""
    cpu = torch.device("cpu")
    places = [(cpu, phase.parts)]
    if device.type == "cuda":
        places = [
            (where, tuple(part for part in phase.parts if part.on_device == (where != cpu)))
            for where in (device, cpu)
        ]
    for where, parts in places:
        needed, free = sum(part.size for part in parts), free_bytes(where)
        if needed > free:
            return _sentence(config, phase.text, parts, needed, free, where)
    return None


ADVICE = {
    "models": "smaller models, or a machine with more memory",
    "experiment.hidden_nodes": "fewer hidden nodes or layers, or a machine with more memory",
    "experiment.hidden_conv_layers": "fewer layers, or a machine with more memory",
    "experiment.measure_epochs": '"final", or a list of fewer epochs',
    "devinterp.num_draws": "fewer draws or chains",
}


def _sentence(
    config: Config, text: str, parts: Sequence[Part], needed: int, free: int, where: torch.device
) -> str:
    by_key: dict[str, int] = {}
    for part in parts:
        by_key[part.key] = by_key.get(part.key, 0) + part.size
    key = max(by_key, key=by_key.__getitem__)
    place = "" if where.type == "cpu" else f" on {where}"
    listed = ", ".join(f"{part.name} {size_text(part.size)}" for part in parts)
    return (
        f"{key}: {_given(config, key)} given; {text} takes at least {size_text(needed)} of memory"
        f" ({listed}), and {size_text(free)} are free{place}; allowed here: {ADVICE[key]}"
    )


def _given(config: Config, key: str) -> str:
    if key == "models":
        return "models of your own"
    section, name = key.split(".")
    value = shown(getattr(getattr(config, section), name))
    if key == "experiment.hidden_nodes":
        value += f" with experiment.hidden_layers {shown(config.experiment.hidden_layers)}"
    return value


def size_text(size: int) -> str:
    """`1.5 GB`."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9)):
        if size >= factor:
            return f"{size / factor:,.1f} {unit}"
    return f"{size / 1e6:,.1f} MB"
