"""Where on the stability map do the main experiment's SGD runs lie? Read from run directories.

Cross-entropy near a point is, to second order in the outputs, a mean squared error whose residuals
are weighted by the softmax's covariance S = diag(p) − ppᵀ. Its kernel is S^{1/2}JJᵀS^{1/2}/n, and
each of n images brings as many rows as there are classes, which are taken as samples of their own:
b·C drawn from N·C. So the boundary is that of SD(1), at the learning rate as it is.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from degeneracy.config.reader import parse_config
from degeneracy.data.images import load_data
from degeneracy.runs.config import Config
from degeneracy.runs.directories import find_runs
from degeneracy.runs.results import at, optimizers_of, parting_epoch
from degeneracy.runs.run import model_factories
from degeneracy.runs.store import Point, RunStore
from degeneracy.runs.work import from_project
from degeneracy.training import packed_weights
from studies.sgd_regimes.boundaries import convergence_boundary
from studies.sgd_regimes.checks import noise_strength
from studies.sgd_regimes.generating import Setting, noise_gain
from studies.sgd_regimes.kernels import module_ntk

STUDY_READ = "ngd_sgd"


class Checkpointed(NamedTuple):
    """A checkpoint of SGD in a run directory, with what is known of it."""

    point: Point
    model: nn.Module
    config: Config
    series: Mapping[str, Any]


def complete_runs(root: Path) -> list[Path]:
    """The main experiment's finished run directories below `root`, by name."""
    if not root.is_dir():
        return []
    found = [run for run in find_runs(root) if run.study == STUDY_READ and run.status == "complete"]
    return sorted(run.directory for run in found)


def name_below(directory: Path, root: Path) -> str:
    """How a run is called: its path from `root`, for two may have the same last name."""
    inner = directory.relative_to(root).as_posix()
    return directory.name if inner == "." else inner


def checkpoints(directory: Path, num_epochs: int) -> Iterator[Checkpointed]:
    """Checkpoints of the optimizers of kind sgd, first and last among them, models with weights.

    Raises:
        runs.store.RunStoreError: The directory is in use, or damaged.
    """
    content = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    store = RunStore(directory, content)
    try:
        results = store.read_results() or {"models": {}, "optimizers": []}
        config = parse_config({k: v for k, v in content.items() if k != "study"}, Config)
        sgds = [name for name in config.optimizer_names if config.optimizer_kind(name) == "sgd"]
        # A model plugged in from Python is not what the config says: it is not read.
        factories = model_factories(config, _in_shape(config), 10)
        for title in [title for title in results["models"] if title in factories]:
            for name in sgds:
                series = optimizers_of(results, title)[name]
                for epoch in _epochs(series, num_epochs):
                    first = epoch <= parting_epoch(results["config"])
                    owner = config.optimizer_names[0] if first else name
                    found = store.load_checkpoint(Point(title, owner, epoch))
                    if found is None:
                        continue
                    model = factories[title]()
                    model.load_state_dict(packed_weights(found.tensors))
                    yield Checkpointed(Point(title, name, epoch), model.eval(), config, series)
    finally:
        store.close()


def _in_shape(config: Config) -> tuple[int, ...]:
    return (3, 32, 32) if config.data.dataset == "cifar10" else (1, 28, 28)


def _epochs(series: Mapping[str, Any], count: int) -> list[int]:
    there = [epoch for epoch, loss in enumerate(series["val_loss"]) if loss is not None]
    at_most = np.unique(np.linspace(0, len(there) - 1, min(count, len(there))).astype(int))
    return [there[i] for i in at_most]


def weighted_kernel(model: nn.Module, inputs: Float[Tensor, "n ..."]) -> Float[np.ndarray, "nC nC"]:
    """S^{1/2} JJᵀ S^{1/2}/n, whose eigenvalues are those of the Gauss-Newton matrix on n images."""
    with torch.no_grad():
        probabilities = model(inputs).double().softmax(1)
    kernel = module_ntk(model, inputs).double()
    n, classes = probabilities.shape
    covariance = (
        torch.diag_embed(probabilities) - probabilities[:, :, None] * probabilities[:, None]
    )
    values, vectors = torch.linalg.eigh(covariance)
    root = (vectors * values.clamp(min=0).sqrt()[:, None]) @ vectors.mT  # (n, C, C)
    blocks = kernel.view(n, classes, n, classes)
    weighted = torch.einsum("iab,ibjc,jcd->iajd", root, blocks, root)
    found = weighted.reshape(n * classes, n * classes).numpy() / n
    return 0.5 * (found + found.T)


def training_images(config: Config, num_images: int) -> tuple[Float[Tensor, "n ..."], int]:
    """The first images of the run's training set, and how many it has."""
    root = from_project(config.data.root)
    train = load_data(config.data.dataset, root).train
    return train.inputs[:num_images], len(train.labels)


def position(found: Checkpointed, inputs: Float[Tensor, "n ..."], num_train: int) -> dict[str, Any]:
    """How near to the boundary of SD(1) a checkpoint's settings are, and its λ̂.

    The learning rate is the config's own, in units of weights per gradient, and so is the boundary.
    """
    swapped = found.point.epoch > parting_epoch(found.config.model_dump(mode="json"))
    is_swap = found.config.experiment.experiment_type == "swap"
    used = found.config.optimizer_settings(found.point.optimizer, swapped and is_swap)
    kernel = weighted_kernel(found.model, inputs)
    values = np.linalg.eigvalsh(kernel)[::-1]
    values = np.where(values > 1e-9 * values[0], values, 0.0)
    classes = len(values) // len(inputs)
    batch, samples = found.config.data.batch_size * classes, num_train * classes
    edge = convergence_boundary(values, batch, used.momentum, num_samples=samples)
    gamma = float(noise_strength(batch, samples))
    gain = noise_gain(values, Setting(gamma, used.lr, used.momentum))
    return {
        "model": found.point.title,
        "dataset": found.config.data.dataset,
        "seed": found.config.experiment.seed,
        "sampler": str(found.config.devinterp.sampler),
        "optimizer": found.point.optimizer,
        "epoch": found.point.epoch,
        "lr": used.lr,
        "momentum": used.momentum,
        "nesterov": used.nesterov,
        "batch_size": found.config.data.batch_size,
        "num_images": len(inputs),
        "largest_eigenvalue": float(values[0]),
        "trace": float(values.sum()),
        "boundary": edge,
        "closeness": used.lr / edge,
        "gain": gain,
        "curve": boundary_curve(values, batch, samples),
        **{key: at(found.series, key, found.point.epoch) for key in ("llc", "llc_std_error")},
        "train_loss": at(found.series, "train_loss", found.point.epoch),
        "nbeta_choice": str(found.config.devinterp.nbeta),
    }


def boundary_curve(
    eigenvalues: Float[np.ndarray, " K"], batch_size: int, num_samples: int
) -> dict[str, list[float]]:
    """The boundary over momentum."""
    momenta = np.r_[np.linspace(0.0, 0.9, 10), 0.95, 0.98, 0.99]
    edges = [
        convergence_boundary(eigenvalues, batch_size, float(m), num_samples=num_samples)
        for m in momenta
    ]
    return {"momentum": momenta.tolist(), "lr": edges}
