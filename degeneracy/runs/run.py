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
from tqdm import tqdm

from degeneracy.data.images import DataSplits, TensorData, load_data
from degeneracy.data.own import checked_splits, data_digest
from degeneracy.llc.estimate import resolve_nbeta
from degeneracy.models.networks import DLNN, FFNN, LeNet5, num_parameters
from degeneracy.objective.checks import check_objective
from degeneracy.objective.loss import objective_of
from degeneracy.optimizers.kinds import KINDS
from degeneracy.runs.config import Config, check_optimizer_names
from degeneracy.runs.memory import Asked, refuse_more_than_memory
from degeneracy.runs.results import add_model
from degeneracy.runs.soundness import (
    Shapes,
    are_weights,
    check_titles,
    is_record,
    is_trace,
    run_misfit,
)
from degeneracy.runs.store import TRACES, Checkpoint, Point, RunStore, RunStoreError
from degeneracy.runs.work import Work, from_project, new_results, note_environment
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
        shapes: Title → the shapes of the model's state dict; another model's weights have others.
        unwritten: Whether there are traces that `traces.npz` does not have.
    """

    data: DataSplits | None = None
    models: ModelFactories = field(default_factory=dict)
    optimizers: Mapping[str, Callable[[nn.Module, bool], Stepper]] = field(default_factory=dict)
    shapes: dict[str, Shapes] = field(default_factory=dict)
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
    images: DataSplits | None = None,
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
        data: In place of the config's data set. It is checked before a directory is made, and its
            digest is kept there: a run goes on with the data that it began with.
        images: What the config says, where a study loads and cuts it by itself.

    Raises:
        ValueError: Names or titles that are not allowed, a swap with fewer than two optimizers,
            data that cannot be trained on, or a model whose forward pass is random or keeps batch
            statistics, or that an optimizer of the config cannot step.
        config.reader.ConfigError: The run does not fit into the memory of this machine. That is
            no property of a config, which may be meant for another one: so it is asked here, where
            the device is known.
        data.files.DataError: The data set cannot be had.
        runs.store.RunStoreError: The directory cannot be used, or holds another run.
    """
    steppers = _steppers(config, optimizers)
    check_titles(models or ())
    data, digest = _data(config, device, data, images)
    in_shape = tuple(data.train.inputs.shape[1:])
    num_classes = int(data.train.labels.max()) + 1
    own = bool(models), optimizers is not None
    models = models or model_factories(config, in_shape, num_classes)
    refuse_more_than_memory(Asked(config, models, list(steppers), device, *own))
    built = {title: factory() for title, factory in models.items()}
    for title, model in built.items():
        _refuse_what_cannot_be_sampled(title, model, data)
        if optimizers is None:
            _refuse_what_cannot_be_stepped(title, model, steppers)
    settings = config.model_dump(mode="json")
    fresh = new_results(study.name, settings, study.parts)
    fresh |= _of_a_run(config, len(data.train.labels), steppers) | {"data_sha256": digest}
    store = RunStore(out, {"study": study.name, **settings}, digest)
    run = Run(study, config, store, device, fresh, None, {}, data, models, steppers)
    try:
        _take_what_is_there(run, built, {} if optimizers is None else steppers)
    except BaseException:
        store.close()
        raise
    return run


def _data(
    config: Config, device: torch.device, own: DataSplits | None, images: DataSplits | None
) -> tuple[DataSplits, str]:
    """The data, and the digest of data that the config does not tell, else ""."""
    if own is not None:
        splits = checked_splits(own, config.data.batch_size, device)
        return splits, data_digest(splits)
    root = from_project(config.data.root)
    return images or load_data(config.data.dataset, root, device), ""


def _take_what_is_there(
    run: Run, built: Mapping[str, nn.Module], own: Mapping[str, Callable]
) -> None:
    """Gives a run, whose results are fresh, what an earlier call left in its directory.

    Raises:
        runs.store.RunStoreError: Another run left it.
    """
    store, names = run.store, list(run.optimizers)
    run.results = results = _results_there(store, run.results) or run.results
    _refuse_other("optimizers", results["optimizers"], names, store)
    if results["models"]:
        _refuse_other("models", results["models"], built, store)
    for title, model in built.items():
        add_model(results, title, num_parameters(model))
        run.shapes[title] = {name: tensor.shape for name, tensor in model.state_dict().items()}
    # of any of the models, the last one
    described = {name: description(make(model, False)) for name, make in own.items()}
    _note_own(results, described, store)
    note_environment(results, run.device)
    run.traces = _traces_there(run)


def _results_there(store: RunStore, fresh: Mapping[str, Any]) -> dict[str, Any] | None:
    """The results of an earlier call, None before the first.

    Raises:
        runs.store.RunStoreError: They were changed, or are of a run on other data.
    """
    there = store.glimpsed_data()
    if there is not None and there != fresh["data_sha256"]:
        digests = there, fresh["data_sha256"]
        said = [f"data of your own, {d[:12]}…" if d else "the config's" for d in digests]
        raise RunStoreError(
            f"{store.directory} holds a run on other data ({said[0]} there, {said[1]} now); give"
            " the data that it began with, or name another directory"
        )
    results = store.read_results(lambda found: run_misfit(found, fresh))
    if results is not None:
        results.setdefault("data_sha256", fresh["data_sha256"])
    return results


def _traces_there(run: Run) -> dict[Point, np.ndarray]:
    """The sampled losses of an earlier call, without those that the results do not fit: those
    points are measured again.
    """
    fitting = {}
    for point, trace in run.store.read_traces().items():
        series = run.results["models"].get(point.title, {"optimizers": {}})["optimizers"]
        counts = series.get(point.optimizer, {}).get("num_diverged_chains", [])
        is_known = 0 <= point.epoch < len(counts)
        if is_known and is_trace(trace, run.config.devinterp, counts[point.epoch]):
            fitting[point] = trace
        else:
            tqdm.write(
                f"{run.store.directory / TRACES}: the losses at {point.key} do not fit what was"
                " asked for or found there; that point is measured again"
            )
    return fitting


def _refuse_what_cannot_be_sampled(title: str, model: nn.Module, data: DataSplits) -> None:
    """Before hours of training, not after them; on a few samples where the model was built.

    Raises:
        ValueError: Model and loss cannot be sampled, or the model has too few outputs.
    """
    few = tuple(part[:TRIED].cpu() for part in data.train)
    check_objective(objective_of(model, cross_entropy, few))
    with torch.no_grad():
        num_outputs = model(few[0]).shape[1]
    for part, (_, labels) in data._asdict().items():
        if int(labels.max()) >= num_outputs:
            raise ValueError(
                f"data.{part}: label {int(labels.max())} given with the {num_outputs} outputs of"
                f" the model {title!r}; allowed there: classes from 0 to {num_outputs - 1}"
            )


def _refuse_what_cannot_be_stepped(
    title: str, model: nn.Module, steppers: Mapping[str, Callable[[nn.Module, bool], Stepper]]
) -> None:
    """Before any other optimizer has trained.

    Raises:
        ValueError: An optimizer of the config takes no such model.
    """
    for name, make in steppers.items():
        try:
            make(model, False)
        except ValueError as error:
            raise ValueError(f"{title}, {name}: {error}") from error


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


def checkpoint_at(run: Run, point: Point) -> Checkpoint | None:
    """A checkpoint on the CPU; None where there is none that is this point's, sound, and of a model
    of these shapes: it is as good as none, and trained again.
    """
    checkpoint = run.store.load_checkpoint(point)
    if checkpoint is None or not is_record(checkpoint.record):
        return None
    if checkpoint.record["diverged"]:
        return checkpoint
    weights = packed_weights(checkpoint.tensors)
    fits = "generator" in checkpoint.tensors and are_weights(weights, run.shapes[point.title])
    return checkpoint if fits else None


def weights_at(run: Run, point: Point) -> dict[str, Tensor]:
    """The state dict of a checkpoint that training reached, on the CPU.

    Raises:
        runs.store.RunStoreError: It is gone, damaged or another model's.
    """
    checkpoint, path = checkpoint_at(run, point), run.store.checkpoint_path(point)
    if checkpoint is None and run.store.load_checkpoint(point) is not None:
        raise RunStoreError(
            f"{path} does not fit {point.title} (it is another model's, or lacks a field); remove"
            " it, and do the part train again, which trains that epoch to the same weights"
        )
    if checkpoint is None or checkpoint.record["diverged"]:
        raise RunStoreError(
            f"{path} is gone or damaged; do the part train again, which trains that epoch to the"
            " same weights"
        )
    return packed_weights(checkpoint.tensors)


def load_weights(run: Run, model: nn.Module, point: Point) -> None:
    """Gives the model the weights of a checkpoint that training reached; raises as `weights_at`."""
    model.load_state_dict(weights_at(run, point))


def final_weights(run: Run, title: str, optimizer: str) -> dict[str, Tensor]:
    """The state dict that an optimizer's training ended with, on the CPU.

    Raises:
        ValueError: Training has not reached the last epoch, or diverged before.
    """
    point = Point(title, optimizer, run.config.experiment.num_epochs)
    checkpoint = checkpoint_at(run, point)
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
