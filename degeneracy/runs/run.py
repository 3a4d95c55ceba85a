"""What is an experiment under way? Config, data, models, optimizers, and what was found."""

import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from degeneracy.data.images import DataSplits, TensorData, load_data
from degeneracy.llc.estimate import resolve_nbeta
from degeneracy.models.networks import DLNN, FFNN, LeNet5, num_parameters
from degeneracy.objective.checks import check_objective
from degeneracy.objective.loss import objective_of
from degeneracy.optimizers.kinds import KINDS
from degeneracy.runs.config import Config, check_optimizer_names
from degeneracy.runs.memory import Asked, refuse_more_than_memory
from degeneracy.runs.results import add_model
from degeneracy.runs.store import Point, RunStore, RunStoreError
from degeneracy.runs.work import PROJECT, Work, new_results, note_environment
from degeneracy.stepper import Stepper, description
from degeneracy.training import as_stepper, packed_weights

ModelFactories = Mapping[str, Callable[[], nn.Module]]
OptimizerFactory = Callable[[nn.Module], "torch.optim.Optimizer | Stepper"]

PUBLISHED = ("sgd", "ngd")  # whose identities are those of earlier versions
TRIED = 64  # samples on which a model is tried when a run is opened
APART = 2**24  # between the identities of other optimizers' checkpoints
SEEDS_APART = 2**60  # and of training seeds


@dataclass
class Run(Work):
    """An experiment under way.

    Attributes:
        data: `.train` and `.test`, on the device.
        models: Title → a function that builds the untrained model.
        optimizers: Name → a function of (model, whether it trains after a swap), in order.
        unwritten: Whether there are traces that `traces.npz` does not have.
    """

    data: DataSplits | None = None
    models: ModelFactories = field(default_factory=dict)
    optimizers: Mapping[str, Callable[[nn.Module, bool], Stepper]] = field(default_factory=dict)
    unwritten: bool = False

    @property
    def config(self) -> Config:
        """The settings, by the name that they have in a run."""
        return self.settings

    def keep_trace(self, point: Point, trace: Float[np.ndarray, "chains draws"]) -> None:
        """Keeps the losses sampled at a point; `write` writes them."""
        self.traces[point] = trace
        self.unwritten = True

    def write(self) -> None:
        """Writes results, and traces before them: what results name is there."""
        if self.unwritten:
            self.store.write_traces(self.traces)
            self.unwritten = False
        super().write()


def new_run(
    study: Any,
    config: Config,
    out: Path,
    device: torch.device,
    *,
    models: ModelFactories | None = None,
    optimizers: Mapping[str, OptimizerFactory] | None = None,
    data: DataSplits | None = None,
) -> Run:
    """Loads the data and opens the run directory, with all that an earlier call left there.

    Args:
        study: The `study.Study` of which this is a run.
        config: Its checked config.
        out: The run directory.
        device: Where tensors live.
        models: Title → factory, in place of the config's models.
        optimizers: Name → factory of an optimizer over a model's parameters, in place of the
            config's optimizers; the first is the baseline.
        data: In place of the config's data set.

    Raises:
        ValueError: Names that are not allowed, a swap with fewer than two optimizers, or a model
            whose forward pass is random or keeps batch statistics.
        config.reader.ConfigError: The run does not fit into the memory of this machine. That is
            no property of a config, which may be meant for another one: so it is asked here, where
            the device is known.
        data.files.DataError: The data set cannot be had.
        runs.store.RunStoreError: The directory cannot be used, or holds another run.
    """
    steppers = _steppers(config, optimizers)
    root = PROJECT / Path(config.data.root).expanduser()
    data = data or load_data(config.data.dataset, root, device)
    in_shape = tuple(data.train.inputs.shape[1:])
    num_classes = int(data.train.labels.max()) + 1
    own = bool(models), optimizers is not None
    models = models or model_factories(config, in_shape, num_classes)
    refuse_more_than_memory(Asked(config, models, list(steppers), device, *own))
    settings = config.model_dump(mode="json")
    store = RunStore(out, {"study": study.name, **settings})
    try:
        fresh = new_results(study.name, settings, study.parts)
        fresh |= _of_a_run(config, len(data.train.labels), steppers)
        results = store.read_results() or fresh
        _refuse_other("optimizers", results["optimizers"], steppers, store)
        if results["models"]:
            _refuse_other("models", results["models"], models, store)
        for title, factory in models.items():
            model = factory()
            _refuse_what_cannot_be_sampled(model, data)
            add_model(results, title, num_parameters(model))
        given = {} if optimizers is None else steppers
        own = {name: description(make(model, False)) for name, make in given.items()}
        _note_own(results, own, store)
        note_environment(results, device)
        run = Run(study, config, store, device, results, None, {}, data, models, steppers)
        run.traces = store.read_traces()
    except BaseException:
        store.close()
        raise
    return run


def _refuse_what_cannot_be_sampled(model: nn.Module, data: DataSplits) -> None:
    """Before hours of training, not after them; on a few samples where the model was built."""
    few = tuple(part[:TRIED].cpu() for part in data.train)
    check_objective(objective_of(model, cross_entropy, few))


def model_factories(
    config: Config, in_shape: tuple[int, ...], num_classes: int
) -> dict[str, Callable[[], nn.Module]]:
    """Published title → a function that builds the untrained model, for every model of `config`."""
    experiment = config.experiment
    if experiment.model_type == "cnn":
        layers = experiment.hidden_conv_layers
        makers = [partial(LeNet5, count, in_shape, num_classes) for count in layers]
    else:
        kind = {"ffnn": FFNN, "dlnn": DLNN}[experiment.model_type]
        sizes = zip(experiment.hidden_nodes, experiment.hidden_layers, strict=True)
        makers = [partial(kind, nodes, layers, in_shape, num_classes) for nodes, layers in sizes]
    with torch.device("meta"):  # for their titles alone, without their weights
        return {make().title: make for make in makers}


def config_optimizer(config: Config, name: str, model: nn.Module, after_swap: bool) -> Stepper:
    """The config's optimizer called `name` over the parameters of `model`."""
    kind = KINDS[config.optimizer_kind(name)]
    return kind.build(model, cross_entropy, config.optimizer_settings(name, after_swap))


def weights_at(run: Run, point: Point) -> dict[str, Tensor]:
    """The state dict of a checkpoint that training reached, on the CPU.

    Raises:
        runs.store.RunStoreError: It is gone or damaged.
    """
    checkpoint = run.store.load_checkpoint(point)
    if checkpoint is None:
        raise RunStoreError(
            f"{run.store.checkpoint_path(point)} is gone or damaged; do the part train again, which"
            " trains that epoch to the same weights"
        )
    return packed_weights(checkpoint.tensors)


def load_weights(run: Run, model: nn.Module, point: Point) -> None:
    """Gives the model the weights of a checkpoint that training reached.

    Raises:
        runs.store.RunStoreError: They are another model's.
    """
    try:
        model.load_state_dict(weights_at(run, point))
    except RuntimeError as error:
        path = run.store.checkpoint_path(point)
        raise RunStoreError(
            f"{path} does not fit {point.title} ({error}); remove it, then that epoch is trained"
            " again"
        ) from None


def final_weights(run: Run, title: str, optimizer: str) -> dict[str, Tensor]:
    """The state dict that an optimizer's training ended with, on the CPU.

    Raises:
        ValueError: Training has not reached the last epoch, or diverged before.
    """
    point = Point(title, optimizer, run.config.experiment.num_epochs)
    checkpoint = run.store.load_checkpoint(point)
    if checkpoint is None or checkpoint.record["diverged"]:
        raise ValueError(
            f"{title} {optimizer} epoch {point.epoch}: training has not come that far, or diverged;"
            " there are no weights"
        )
    return packed_weights(checkpoint.tensors)


def curvature_images(run: Run) -> TensorData:
    """Training images on which curvature is measured, the same for every checkpoint."""
    data = run.config.data
    generator = torch.Generator().manual_seed(run.config.devinterp.seed)
    chosen = torch.randperm(len(run.data.train.labels), generator=generator)
    chosen = chosen[: data.num_hessian_batches * data.batch_size].to(run.device)
    return TensorData(run.data.train.inputs[chosen], run.data.train.labels[chosen])


def identity(run: Run, point: Point) -> int:
    """Number that tells a checkpoint's random numbers from those of the model's others, and of
    other training seeds.

    It hangs on the optimizer's name, the epoch and the seed alone, not on which others there are.
    """
    seed = SEEDS_APART * run.config.experiment.seed
    if point.optimizer in PUBLISHED:
        return seed + len(PUBLISHED) * point.epoch + PUBLISHED.index(point.optimizer)
    return seed + APART * (1 + zlib.crc32(point.optimizer.encode())) + point.epoch


def run_name(config: Config) -> str:
    """The readable part of a run directory's name."""
    e = config.experiment
    return f"{config.data.dataset}-{e.model_type}-{e.experiment_type}-seed{e.seed}"


def _of_a_run(config: Config, train_size: int, names: Iterable[str]) -> dict[str, Any]:
    """What the results of a run have besides those of every study."""
    nbeta = resolve_nbeta(config.devinterp.nbeta, config.data.batch_size, train_size)
    return {"nbeta": nbeta, "train_size": train_size, "optimizers": list(names), "models": {}}


def _steppers(
    config: Config, optimizers: Mapping[str, OptimizerFactory] | None
) -> dict[str, Callable[[nn.Module, bool], Stepper]]:
    if optimizers is None:
        return {name: partial(config_optimizer, config, name) for name in config.optimizer_names}
    check_optimizer_names(list(optimizers), config.experiment.experiment_type)
    return {name: partial(_own, factory) for name, factory in optimizers.items()}


def _note_own(results: dict[str, Any], own: dict[str, str], store: RunStore) -> None:
    """Records what optimizers came from Python, none or all, which no config tells.

    Raises:
        runs.store.RunStoreError: The run began with others.
    """
    there = results.setdefault("own_optimizers", own)
    said = "as the config says"
    if changed := [
        f"{name}: {there.get(name, said)} there, {own.get(name, said)} now"
        for name in results["optimizers"]
        if there.get(name) != own.get(name)
    ]:
        raise RunStoreError(
            f"{store.directory} holds a run with other optimizers ({'; '.join(changed)}); name"
            " another one"
        )


def _own(factory: OptimizerFactory, model: nn.Module, after_swap: bool) -> Stepper:
    """What a user's factory makes; it is not told of the swap."""
    return as_stepper(model, factory(model), cross_entropy)


def _refuse_other(what: str, there: Iterable[str], now: Iterable[str], store: RunStore) -> None:
    there, now = list(there), list(now)
    if there != now:
        raise RunStoreError(
            f"{store.directory} holds a run of other {what} ({', '.join(there)} there,"
            f" {', '.join(now)} now); name another one"
        )
