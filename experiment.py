"""How does a config become trained models, measurements and a report? The whole flow, for notebooks and command.

    python experiment.py args_ngd_sgd.json [--out DIR] [--device cpu|cuda|auto]

    run = open_run(load_config("args_ngd_sgd.json"))
    train_models(run)
    measure_llcs(run)
    measure_hessian_traces(run)
    report = finish(run)

Every finished epoch and measurement is kept in the run directory at once; the same call on the same directory goes on
where the last one stopped.
"""

import argparse
import hashlib
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from architectures import DLNN, FFNN, LeNet5, num_parameters
from data_files import DataError
from experiment_config import Config, ConfigError, load_config
from llc import estimate_llcs, refuse_random_forward, resolve_nbeta
from ngd import NGD
from report import write_report
from run_results import (
    OPTIMIZERS,
    add_model,
    new_results,
    optimizers,
    parting_epoch,
    points_to_measure,
    put_hessian_trace,
    put_llc,
    put_record,
    series_of,
)
from run_store import Checkpoint, Point, RunStore, RunStoreError, finite
from training import EpochRecord, evaluate, pack_state, packed_weights, train, unpack_state
from utils_general import DataSplits, load_data
from utils_hessian_fim import hessian_trace
from verdict import with_error

PROJECT = Path(__file__).parent  # what the config's relative paths are relative to
RUNS = PROJECT / "experiments" / "ngd_sgd"
PACKAGES = ("torch", "devinterp", "PyHessian", "numpy", "plotly")

ModelFactories = Mapping[str, Callable[[], nn.Module]]
OptimizerFactory = Callable[[str, nn.Module, bool], torch.optim.Optimizer]


class DeviceError(RuntimeError):
    """The device that was asked for is not there."""


class Leg(NamedTuple):
    """A stretch of training with a fresh optimizer: epochs `start` + 1 to `stop`, from `parent`'s weights."""

    optimizer: str
    parent: str  # the optimizer whose checkpoint at `start` this leg leaves from
    start: int
    stop: int


@dataclass
class Run:
    """An experiment under way: what it works with and what it has found so far."""

    config: Config
    store: RunStore
    data: DataSplits
    device: torch.device
    models: ModelFactories
    make_optimizer: OptimizerFactory
    results: dict[str, Any]
    traces: dict[Point, np.ndarray] = field(default_factory=dict)


def model_factories(config: Config, in_shape: tuple[int, ...], num_classes: int) -> dict[str, Callable[[], nn.Module]]:
    """Published title → a function that builds the untrained model, for every model of `config`."""
    experiment = config.experiment
    if experiment.model_type == "cnn":
        makers = [partial(LeNet5, layers, in_shape, num_classes) for layers in experiment.hidden_conv_layers]
    else:
        kind = {"ffnn": FFNN, "dlnn": DLNN}[experiment.model_type]
        sizes = zip(experiment.hidden_nodes, experiment.hidden_layers, strict=True)
        makers = [partial(kind, nodes, layers, in_shape, num_classes) for nodes, layers in sizes]
    return {make().title: make for make in makers}


def config_optimizer(config: Config, name: str, model: nn.Module, after_swap: bool) -> torch.optim.Optimizer:
    """The config's optimizer called `name`, `"sgd"` or `"ngd"`; `after_swap` gives SGD its rate after the swap."""
    e = config.experiment
    shared = {"momentum": e.momentum, "nesterov": e.nesterov}
    if name == "sgd":
        lr = e.sgd_swap_lr if after_swap and e.sgd_swap_lr is not None else e.sgd_lr
        return torch.optim.SGD(model.parameters(), lr=lr, **shared)
    how = {"alpha": e.alpha, "eta": e.eta, "epsilon": e.epsilon, "delta": e.delta, "arithmetic": e.ngd_arithmetic}
    return NGD(model.parameters(), lr=e.ngd_lr, **shared, **how)


def default_directory(config: Config) -> Path:
    """`experiments/ngd_sgd/<run>`, one for each config: the same config finds its run again."""
    e = config.experiment
    digest = hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:8]
    return RUNS / f"{config.data.dataset}-{e.model_type}-{e.experiment_type}-seed{e.seed}-{digest}"


def open_run(
    config: Config,
    out: str | Path | None = None,
    device: str = "auto",
    models: ModelFactories | None = None,
    make_optimizer: OptimizerFactory | None = None,
) -> Run:
    """Loads the data and opens the run directory, with all that an earlier start left there.

    Args:
        config: From `load_config`.
        out: Run directory; None for `default_directory(config)`. It knows the config, not your code: after changing a
            model or an optimizer of your own, name another.
        device: `"cpu"`, `"cuda"` or `"auto"` (CUDA where there is one).
        models: Title → function that builds a model of your own, in place of the config's.
        make_optimizer: Function of (`"sgd"` or `"ngd"`, model, after_swap) that makes an optimizer of your own in place
            of the config's. A restart brings back its `state`, not what it keeps in its parameter groups.

    Raises:
        ValueError: `models` or `make_optimizer` without `out`: the config no longer tells such runs apart. Or a model
            with dropout or batch statistics, whose LLC is not defined.
        DeviceError: CUDA was asked for and there is none.
        data_files.DataError: The data set cannot be had.
        run_store.RunStoreError: The directory cannot be used, or holds a run with another config.
    """
    if out is None and (models is not None or make_optimizer is not None):
        raise ValueError("models or optimizers of your own need a run directory of their own: pass out=")
    device = _device(device)
    data = load_data(config.data.dataset, PROJECT / Path(config.data.root).expanduser(), device)
    in_shape, num_classes = tuple(data.train.inputs.shape[1:]), int(data.train.labels.max()) + 1
    models = models or model_factories(config, in_shape, num_classes)
    settings = config.model_dump(mode="json")
    store = RunStore(default_directory(config) if out is None else out, settings)
    try:
        num_samples = len(data.train.labels)
        nbeta = resolve_nbeta(config.devinterp.nbeta, config.data.batch_size, num_samples)
        results = store.read_results() or new_results(settings, nbeta, num_samples)
        for title, factory in models.items():
            model = factory()
            refuse_random_forward(model)
            add_model(results, title, num_parameters(model))
        if unknown := results["models"].keys() - models.keys():
            raise RunStoreError(
                f"{store.directory} holds a run of other models ({', '.join(unknown)}); name another one"
            )
        _note_environment(results, device)
        run = Run(config, store, data, device, models, make_optimizer or partial(config_optimizer, config), results)
        run.traces = store.read_traces()
    except BaseException:
        store.close()
        raise
    return run


def train_models(run: Run) -> None:
    """Trains every model with every optimizer; epochs whose checkpoint is there are not trained again."""
    with _timed(run, "train") as tick:
        for title in run.models:
            _keep_initial(run, title)
            for leg in legs(run.config):
                _train_leg(run, title, leg, tick)
    _write_report(run)


def legs(config: Config) -> list[Leg]:
    """The stretches of training: in `swap`, SGD up to the cut-off, then both from there; else each from the start."""
    settings = config.model_dump()
    names, parting, last = optimizers(settings), parting_epoch(settings), config.experiment.num_epochs
    trunk = [Leg(names[0], names[0], 0, parting)] if parting else []
    return trunk + [Leg(name, names[0], parting, last) for name in names]


def _keep_initial(run: Run, title: str) -> None:
    """Epoch 0: the seeded initial weights, shared by all optimizers."""
    point = Point(title, optimizers(run.results["config"])[0], 0)
    checkpoint = run.store.load_checkpoint(point)
    if checkpoint is None:
        with torch.random.fork_rng(devices=[run.device] if run.device.type == "cuda" else []):
            torch.manual_seed(run.config.experiment.seed)
            model = run.models[title]().to(run.device)
        train_loss, _ = evaluate(model, run.data.train)
        val_loss, val_accuracy = evaluate(model, run.data.test)
        record = asdict(EpochRecord(train_loss, val_loss, val_accuracy, update_norm=None))
        generator = torch.Generator().manual_seed(run.config.experiment.seed)
        checkpoint = Checkpoint(pack_state(model, None, generator), record)
        run.store.save_checkpoint(point, checkpoint)
    put_record(run.results, point, checkpoint.record)


def _train_leg(run: Run, title: str, leg: Leg, tick: Callable[[], None]) -> None:
    """Trains the epochs of `leg` that have no sound checkpoint, each from the one before."""
    label = f"{title} {leg.optimizer.upper()}"
    parent = Point(title, leg.parent, leg.start)
    last = run.store.load_checkpoint(parent)
    if last is None or last.record["diverged"]:  # the first leg of a swap run diverged: nothing to leave from
        trunk = series_of(run.results, parent)
        series_of(run.results, parent._replace(optimizer=leg.optimizer))["diverged_epoch"] = trunk["diverged_epoch"]
        return
    epoch, fresh = leg.start, True
    while epoch < leg.stop and (there := run.store.load_checkpoint(Point(title, leg.optimizer, epoch + 1))):
        epoch, last, fresh = epoch + 1, there, False
        put_record(run.results, Point(title, leg.optimizer, epoch), there.record)
        if there.record["diverged"]:
            return
    if epoch == leg.stop:
        tqdm.write(f"{label}: epochs {leg.start + 1} to {leg.stop} are there")
        return
    if epoch > leg.start:
        tqdm.write(f"{label}: goes on after epoch {epoch}")
    model = run.models[title]().to(run.device)
    optimizer = run.make_optimizer(leg.optimizer, model, leg.start > 0)
    generator = torch.Generator()
    unpack_state(last.tensors, model, None if fresh else optimizer, generator)

    def keep(epoch: int, record: EpochRecord) -> None:
        point = Point(title, leg.optimizer, epoch)
        tensors = {} if record.diverged else pack_state(model, optimizer, generator)
        run.store.save_checkpoint(point, Checkpoint(tensors, asdict(record)))
        put_record(run.results, point, asdict(record))
        tick()

    train(
        model, optimizer, run.data, leg.stop - epoch, run.config.data.batch_size, generator,
        first_epoch=epoch + 1, on_epoch=keep, keep_state_dicts=False, label=label,
    )  # fmt: skip


def measure_llcs(run: Run) -> None:
    """LLC and WBIC at the config's epochs; a finished estimate is not made again."""
    with _timed(run, "llc") as tick:
        for title, factory in run.models.items():
            model = factory().to(run.device)
            for point in list(points_to_measure(run.results, title)):
                done = series_of(run.results, point)["num_diverged_chains"][point.epoch] is not None
                if done and point in run.traces:
                    continue
                weights = packed_weights(run.store.load_checkpoint(point).tensors)
                (estimate,) = estimate_llcs(
                    model, [weights], run.data.train, run.config.devinterp, run.config.data.batch_size,
                    checkpoint_ids=[_identity(point)], label=f"{_name(point)} LLC",
                )  # fmt: skip
                run.traces[point] = estimate.trace
                put_llc(run.results, point, estimate)
                tqdm.write(f"{_name(point)}: LLC {with_error(estimate.llc, estimate.std_error)}")
                run.store.write_traces(run.traces)
                tick()
    _write_report(run)


def measure_hessian_traces(run: Run) -> None:
    """Hessian trace at the config's epochs, where the config asks for it; finished ones are not made again."""
    data = run.config.data
    if not run.config.experiment.hessian:
        return
    # The same images and probes for every checkpoint, so that epochs and optimizers are compared on equal terms.
    chosen = torch.randperm(
        len(run.data.train.labels), generator=torch.Generator().manual_seed(run.config.devinterp.seed)
    )
    chosen = chosen[: data.num_hessian_batches * data.batch_size].to(run.device)
    images = run.data.train.inputs[chosen], run.data.train.labels[chosen]
    with _timed(run, "hessian") as tick:
        for title, factory in run.models.items():
            model = factory().to(run.device)
            for point in list(points_to_measure(run.results, title)):
                if series_of(run.results, point)["hessian_trace"][point.epoch] is not None:
                    continue
                model.load_state_dict(packed_weights(run.store.load_checkpoint(point).tensors))
                estimate = hessian_trace(model, cross_entropy, images, data.num_probes, run.config.devinterp.seed)
                put_hessian_trace(run.results, point, estimate)
                tqdm.write(f"{_name(point)}: Hessian trace {with_error(estimate.trace, estimate.std_error)}")
                tick()


def finish(run: Run) -> Path:
    """Writes the report, marks the run complete, gives its directory free, and returns the report's path.

    Call it last: what was not measured by then is missing from a report that calls itself finished.
    """
    run.results["status"] = "complete"
    report = _write_report(run)
    run.store.write_results(run.results)
    run.store.close()
    return report


def run_experiment(config: Config, out: str | Path | None = None, device: str = "auto") -> Path:
    """Trains, measures and reports; returns the path of `report.html`. Raises what `open_run` raises."""
    run = open_run(config, out, device)
    try:
        train_models(run)
        measure_llcs(run)
        measure_hessian_traces(run)
        return finish(run)
    finally:
        run.store.close()


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise DeviceError("device cuda was asked for, but PyTorch sees no CUDA device; use cpu or auto")
    if name.startswith("cuda"):  # what a restart repeats bit for bit must not depend on which algorithm was fastest
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
    return torch.device(name)


def _write_report(run: Run) -> Path:
    return write_report(finite(run.results), run.traces, run.store.directory / "report.html")


def _name(point: Point) -> str:
    return f"{point.title} {point.optimizer.upper()} epoch {point.epoch}"


def _identity(point: Point) -> int:
    """Number that tells a checkpoint's random numbers from those of the model's other checkpoints."""
    return len(OPTIMIZERS) * point.epoch + OPTIMIZERS.index(point.optimizer)


@contextmanager
def _timed(run: Run, phase: str) -> Iterator[Callable[[], None]]:
    """Gives a function that writes the results with the seconds spent so far; it is also called on the way out."""
    timing = run.results["timing_s"]
    since = time.perf_counter()

    def tick() -> None:
        nonlocal since
        now = time.perf_counter()
        timing[phase] += now - since
        timing["total"] += now - since
        since = now
        run.store.write_results(run.results)

    try:
        yield tick
    finally:
        tick()


def _note_environment(results: dict[str, Any], device: torch.device) -> None:
    """Records what the run is computed with; of one that goes on with something else, the first and the latest."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    now = {**versions, "device": f"{device} ({name})", "threads": torch.get_num_threads(), "llc_backend": "devinterp"}
    changed = {key: value for key, value in now.items() if results["environment"].get(key, value) != value}
    if results["status"] == "running" and changed:
        tqdm.write(f"this run began with another environment and may not repeat bit for bit: now {changed}")
        results["environment"] |= {f"{key}, later": value for key, value in changed.items()}
    results["environment"] = now | results["environment"]


def main(arguments: list[str] | None = None) -> int:
    """The command: exit status 0 when all is done, 2 for a config that is refused, 1 for any other failure."""
    parser = argparse.ArgumentParser(description="Trains, measures and reports what a config asks for.")
    parser.add_argument("config", help="JSON config, such as args_ngd_sgd.json")
    parser.add_argument("--out", help="run directory (default: experiments/ngd_sgd/<run>, one for each config)")
    parser.add_argument("--device", default="auto", choices=["cpu", "cuda", "auto"])
    options = parser.parse_args(arguments)
    try:
        report = run_experiment(load_config(options.config), options.out, options.device)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except (DataError, DeviceError, RunStoreError, OSError) as error:
        print(f"experiment.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on where this one left off", file=sys.stderr)
        return 1
    print(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
