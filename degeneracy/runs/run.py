"""What is an experiment under way? A config, its data and models, and the run directory with what
was found so far.
"""

import hashlib
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from degeneracy.device import chosen_device
from degeneracy.llc.checks import refuse_random_forward
from degeneracy.llc.estimate import resolve_nbeta
from degeneracy.models.networks import DLNN, FFNN, LeNet5, num_parameters
from degeneracy.report.page import write_report
from degeneracy.runs.config import Config
from degeneracy.runs.results import add_model, new_results
from degeneracy.runs.store import Point, RunStore, RunStoreError, finite
from ngd import NGD
from utils_general import DataSplits, load_data

PROJECT = Path(__file__).parent  # what the config's relative paths are relative to
RUNS = PROJECT / "experiments" / "ngd_sgd"
PACKAGES = ("torch", "devinterp", "numpy", "plotly")

ModelFactories = Mapping[str, Callable[[], nn.Module]]
OptimizerFactory = Callable[[str, nn.Module, bool], torch.optim.Optimizer]


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
    write_report: Callable[[Mapping, Mapping, Path], Path] = (
        write_report  # of results and traces, to a file
    )


def model_factories(
    config: Config, in_shape: tuple[int, ...], num_classes: int
) -> dict[str, Callable[[], nn.Module]]:
    """Published title → a function that builds the untrained model, for every model of `config`."""
    experiment = config.experiment
    if experiment.model_type == "cnn":
        makers = [
            partial(LeNet5, layers, in_shape, num_classes)
            for layers in experiment.hidden_conv_layers
        ]
    else:
        kind = {"ffnn": FFNN, "dlnn": DLNN}[experiment.model_type]
        sizes = zip(experiment.hidden_nodes, experiment.hidden_layers, strict=True)
        makers = [partial(kind, nodes, layers, in_shape, num_classes) for nodes, layers in sizes]
    return {make().title: make for make in makers}


def config_optimizer(
    config: Config, name: str, model: nn.Module, after_swap: bool
) -> torch.optim.Optimizer:
    """The config's optimizer called `name`, `"sgd"` or `"ngd"`; `after_swap` gives SGD its rate
    after the swap.
    """
    e = config.experiment
    shared = {"momentum": e.momentum, "nesterov": e.nesterov}
    if name == "sgd":
        lr = e.sgd_swap_lr if after_swap and e.sgd_swap_lr is not None else e.sgd_lr
        return torch.optim.SGD(model.parameters(), lr=lr, **shared)
    how = {
        "alpha": e.alpha,
        "eta": e.eta,
        "epsilon": e.epsilon,
        "delta": e.delta,
        "arithmetic": e.ngd_arithmetic,
    }
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
    data: DataSplits | None = None,
) -> Run:
    """Loads the data and opens the run directory, with all that an earlier start left there.

    Args:
        config: From `load_config`.
        out: Run directory; None for `default_directory(config)`. It knows the config, not your
            code: after changing a model or an optimizer of your own, name another.
        device: `"cpu"`, `"cuda"` or `"auto"` (CUDA where there is one).
        models: Title → function that builds a model of your own, in place of the config's.
        make_optimizer: Function of (`"sgd"` or `"ngd"`, model, after_swap) that makes an optimizer
            of your own in place of the config's. A restart brings back its `state`, not what it
            keeps in its parameter groups.
        data: Images and labels of your own on that device, in place of the config's data set.

    Raises:
        ValueError: `models`, `make_optimizer` or `data` without `out`: the config no longer tells
            such runs apart. Or a model with dropout or batch statistics, whose LLC is not defined.
        DeviceError: CUDA was asked for and there is none.
        data.files.DataError: The data set cannot be had.
        runs.store.RunStoreError: The directory cannot be used, or holds a run with another config.
    """
    if out is None and any(given is not None for given in (models, make_optimizer, data)):
        raise ValueError(
            "models, optimizers or data of your own need a run directory of their own: pass out="
        )
    device = chosen_device(device)
    data = data or load_data(
        config.data.dataset, PROJECT / Path(config.data.root).expanduser(), device
    )
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
                f"{store.directory} holds a run of other models ({', '.join(unknown)}); name"
                " another one"
            )
        _note_environment(results, device)
        run = Run(
            config,
            store,
            data,
            device,
            models,
            make_optimizer or partial(config_optimizer, config),
            results,
        )
        run.traces = store.read_traces()
    except BaseException:
        store.close()
        raise
    return run


@contextmanager
def timed(run: Run, phase: str) -> Iterator[Callable[[], None]]:
    """Gives a function that writes the results with the seconds spent so far; it is also called on
    the way out.
    """
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
    """Records what the run is computed with; of one that goes on with something else, the first and
    the latest.
    """
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else platform.processor() or platform.machine()
    )
    now = {**versions, "device": f"{device} ({name})", "threads": torch.get_num_threads()}
    changed = {
        key: value for key, value in now.items() if results["environment"].get(key, value) != value
    }
    if results["status"] == "running" and changed:
        tqdm.write(
            f"this run began with another environment and may not repeat bit for bit: now {changed}"
        )
        results["environment"] |= {f"{key}, later": value for key, value in changed.items()}
    results["environment"] = now | results["environment"]


def write_page(run: Run) -> Path:
    """Writes the report as far as the run has come."""
    return run.write_report(finite(run.results), run.traces, run.store.directory / "report.html")
