"""How degenerate is each annealed branch, by several measures? Touches no file.

Parts: "training" trains, and keeps for each branch where it left and where it ended; "degeneracy"
measures the branches that the settings ask for. Weights are not kept: the training, which takes
seconds, is done again where a kill came between the two.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from degeneracy.curvature.summary import curvature_summary
from degeneracy.curvature.trace import hessian_trace
from degeneracy.data.images import DataSplits, TensorData, load_data
from degeneracy.llc.estimate import LLCEstimate, estimate_llcs, mean_loss
from degeneracy.llc.settings import AUTO, SamplerSettings
from degeneracy.models.balance import balanced
from degeneracy.models.relative import Relative
from degeneracy.models.stream import balanced_stream
from degeneracy.runs.results import finding
from degeneracy.runs.work import Measured, Work, from_project
from degeneracy.weights import flattened
from studies.branches.settings import MeasurementSettings, Settings, TrainingSettings
from studies.branches.walk import Branch, Walk, network

TRAINING, DEGENERACY = "training", "degeneracy"
EARLY = "after epoch 2"
KEPT = (  # of an estimate
    "llc",
    "std_error",
    "verdict",
    "locality",
    "relative_distance",
    "basin_shift",
    "rhat",
    "relaxation",
    "num_burnin_steps",
    "num_draws",
    "step_bias",
    "num_diverged_chains",
)
SAMPLER_KEYS = {"nbeta", "localization", "num_chains", "num_draws", "sampler_batch_size"}
PUBLISHED = {  # arXiv:2409.04913
    "sampler": "sgld",
    "num_chains": 2,
    "num_draws": 1_000,
    "num_burnin_steps": 0,
    "localization": 100.0,
    "sampler_lr": 1e-4,
    "nbeta": "batch",
}
PUBLISHED_BATCH = 128
GAUGES = {"ffnn": balanced, "residual": balanced_stream}  # of an architecture's hidden units


def images(work: Work) -> DataSplits:
    """The first images of the training set, and the whole test set."""
    training = work.settings.training
    root = from_project(training.root)
    data = load_data(training.dataset, root, work.device)
    return DataSplits(data.train.first(training.num_images), data.test)


def measure_training(work: Work) -> Measured:
    """Every branch's losses, then how the training went."""
    for key in work.todo(["branches"]):
        walk, branches = walked(work)
        yield key, training_record(walk, branches)


def walked(work: Work) -> tuple[Walk, list[Branch]]:
    """The training, done once for both parts where one process does both."""
    if "walked" not in work.traces:
        walk = Walk(work.settings.training, images(work))
        work.traces["walked"] = walk, list(walk.branches())
    return work.traces["walked"]


def training_record(walk: Walk, branches: Sequence[Branch]) -> dict[str, Any]:
    """What a training leaves in results."""
    return {
        "outcome": walk.outcome,
        "steps_an_epoch": walk.steps_an_epoch,
        "switched_at": walk.switched_at,
        "looks": [[step, loss if math.isfinite(loss) else None] for step, loss in walk.looks],
        "branches": [
            {
                "targets": branch.targets,
                "left_at": branch.left_at,
                "left_loss": branch.left_loss,
                "train_loss": branch.train_loss,
                "val_loss": branch.val_loss,
                "val_accuracy": branch.val_accuracy,
                "norm": norm_of(branch.weights),
                "length": branch.length,
                "since_drop": branch.since_drop,
            }
            for branch in branches
        ],
    }


def wanted(losses: Sequence[float], which: str, window: Sequence[float]) -> list[int]:
    """Positions of the branches to be measured, by their losses after annealing.

    With "window" those inside, the nearest at or above its top and the nearest at or below its
    bottom: what a mean over the window, interpolated, takes.
    """
    positions = range(len(losses))
    finite = [p for p in positions if math.isfinite(losses[p])]
    if which == "none":
        return []
    if which == "all":
        return finite
    top, bottom = window
    inside = [p for p in finite if bottom < losses[p] < top]
    above = min((p for p in finite if losses[p] >= top), key=lambda p: losses[p], default=None)
    below = max((p for p in finite if losses[p] <= bottom), key=lambda p: losses[p], default=None)
    return sorted({*inside, *(p for p in (above, below) if p is not None)})


def measure_degeneracy(work: Work) -> Measured:
    """The branches that are wanted, all at once: they share a pilot; then the early weights."""
    settings: Settings = work.settings
    if settings.measurement.branches == "none":
        return
    if list(work.todo(["points"])):
        walk, branches = walked(work)
        losses = [branch.train_loss for branch in branches]
        chosen = wanted(losses, settings.measurement.branches, settings.training.window)
        states = [branches[place].weights for place in chosen]
        rows = dict(enumerate(measured(walk, states, settings)))
        yield (
            "points",
            {
                "branches": chosen,
                "found": [rows[place] for place in range(len(chosen))],
                "early": early_record(walk, settings.measurement),
            },
        )


def measured(walk: Walk, states: Sequence[dict], settings: Settings) -> Iterator[dict[str, Any]]:
    """All measures of each state."""
    if not states:
        return
    data, how = walk.data.train, settings.measurement
    model = network(settings.training, data)
    seed, count = settings.training.seed, len(states)
    scaled = [in_gauge(model, state, settings.training) for state in states]
    is_gauged = settings.training.architecture in GAUGES
    sampler = local_sampler(how, seed)
    local = estimate_llcs(
        model,
        [*states, *scaled] if is_gauged else states,
        tuple(data),
        sampler,
        settings.training.batch_size,
        pilot=scaled[-1],
        checkpoint_ids=[0] * (count + is_gauged * count),  # the same noise everywhere
        label="local LLC",
    )
    free, as_published = ([None] * count,) * 2
    if how.thorough:
        free = gauge_free(model, states, data, settings)
        as_published = estimate_llcs(
            model,
            list(states),
            tuple(data),
            SamplerSettings(**PUBLISHED, seed=seed),
            PUBLISHED_BATCH,
            checkpoint_ids=[0] * count,
            label="LLC as published",
        )
    for place, state in enumerate(states):
        raw = curvature(model, state, data, how, "raw")
        same = {name.replace("raw", "balanced"): value for name, value in raw.items()}
        yield {
            "raw": record(local[place]),
            "balanced": record(local[is_gauged * count + place]),
            "gauge_free": record(free[place]),
            "published": record(as_published[place]),
            "balanced_norm": norm_of(scaled[place]),
            **raw,
            **(curvature(model, scaled[place], data, how, "balanced") if is_gauged else same),
            **relative_trace(model, state, data, how),
        }


def in_gauge(model: nn.Module, state: dict, training: TrainingSettings) -> dict:
    """The balanced weights; of an architecture whose units have no gauge that is known, the weights
    as they are.
    """
    balance = GAUGES.get(training.architecture)
    return dict(state) if balance is None else balance(model, state)


def local_sampler(how: MeasurementSettings, seed: int) -> SamplerSettings:
    """Of the local estimates."""
    return SamplerSettings(sampler=AUTO, seed=seed, **how.model_dump(include=SAMPLER_KEYS))


def gauge_free(
    model: nn.Module, states: Sequence[dict], data: TensorData, settings: Settings
) -> list[LLCEstimate]:
    """λ̂ under relative changes of the weights, which no rescaling of units alters."""
    how = settings.measurement
    sampler = local_sampler(how, settings.training.seed).model_copy(
        update={
            "localization": how.relative_localization,
            "sampler_batch_size": how.relative_batch_size,
            "num_draws": None,
        }
    )
    views = [relative(model, state, data) for state in states]
    return estimate_llcs(
        views[0],
        [view.state_dict() for view in views],
        tuple(data),
        sampler,
        settings.training.batch_size,
        checkpoint_ids=[0] * len(states),
        label="gauge-free LLC",
    )


def curvature(
    model: nn.Module, state: dict, data: TensorData, how: MeasurementSettings, gauge: str
) -> dict[str, Any]:
    """Trace and largest eigenvalue of the Hessian over the first images."""
    found = curvature_summary(model, state, tuple(data.first(how.hessian_images)), how.num_probes)
    return {f"{gauge}_{name}": value for name, value in found._asdict().items()}


def relative(model: nn.Module, state: dict, data: TensorData) -> Relative:
    """The model as a function of relative changes of a state's weights."""
    return Relative(model, {name: t.to(data.labels.device) for name, t in state.items()})


def relative_trace(
    model: nn.Module, state: dict, data: TensorData, how: MeasurementSettings
) -> dict[str, Any]:
    """Σ w_i² ∂²L/∂w_i²: the Hessian's trace by relative changes, the same in every gauge."""
    few = tuple(data.first(how.hessian_images))
    view = relative(model, state, data)
    found = hessian_trace(view, cross_entropy, few, num_probes=how.num_probes)
    return {"relative_trace": found.trace, "relative_trace_std_error": found.std_error}


def early_record(walk: Walk, how: MeasurementSettings) -> dict[str, Any] | None:
    """Loss and curvature of the balanced weights after epoch 2; None where there are none that are
    finite.
    """
    early = walk.early_weights
    if early is None or not all(torch.isfinite(tensor).all() for tensor in early.values()):
        return None
    model = network(walk.settings, walk.data.train)
    state = in_gauge(model, walk.early_weights, walk.settings)
    found = curvature(model, state, walk.data.train, how, "balanced")
    return {"train_loss": mean_loss(model, tuple(walk.data.train)), **found}


def record(estimate: LLCEstimate | None) -> dict[str, Any] | None:
    """What is kept of an estimate."""
    if estimate is None:
        return None
    found: Mapping[str, Any] = finding(estimate)
    kept = {name: found[name] for name in KEPT if name in found}
    return kept | {"nbeta": estimate.nbeta}


def norm_of(state: Mapping[str, Tensor]) -> float:
    """|w|."""
    return float(torch.linalg.vector_norm(flattened(dict(state)).double()))
