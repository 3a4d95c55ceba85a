"""What do optimizers of a reversible network do, and where do they end?

Parts: "train", then from the checkpoints "cka", "ntk", "weights" and "degeneracy".
"""

import itertools
import math
import sys
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from degeneracy.curvature.trace import hessian_trace
from degeneracy.data.images import DataSplits, TensorData, load_data
from degeneracy.llc.estimate import estimate_llcs
from degeneracy.llc.settings import SamplerSettings
from degeneracy.optimizers.gauss_newton import class_kernel
from degeneracy.runs.results import finding
from degeneracy.runs.store import Checkpoint, Point
from degeneracy.runs.work import Measured, Work, from_project
from studies.gauss_newton.logs import Log
from studies.gauss_newton.network import RevMLP
from studies.gauss_newton.records import REGIMES
from studies.gauss_newton.settings import Settings
from studies.gauss_newton.similarity import (
    kernel_similarity,
    linear_cka,
    representations,
    weight_change,
)
from studies.gauss_newton.training import Trainer, Trajectory, load_weights, network, trajectories

SERIES = (
    *("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy"),
    *("step_loss", "loss_change_percent", "missed_fraction", "missed_at_logits"),
    *("min_rank", "time_s"),
)
FINAL = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")


def images(work: Work) -> DataSplits:
    """The data set, read once; raises `data.files.DataError` where it cannot be had."""
    if "images" not in work.traces:
        data = work.settings.data
        work.traces["images"] = load_data(data.dataset, from_project(data.root), work.device)
    return work.traces["images"]


def trained_on(work: Work, regime: str) -> TensorData:
    """The regime's training images: the first ones."""
    count = work.settings.data.num_train
    if regime == "full":
        count = work.settings.training.full.batch_size
    return images(work).train.first(count)


# ---- training ------------------------------------------------------------------------------------


def measure_train(work: Work) -> Measured:
    """Losses and accuracies over epochs of every trajectory; every step is in `logs/`."""
    every = {t.key: t for t in trajectories(work.settings)}
    for key in work.todo(every, "training"):
        yield key, trained(work, every[key])


def trained(work: Work, trajectory: Trajectory) -> dict[str, Any]:
    """Trains one trajectory, or goes on with it from its last checkpoint."""
    trainer = Trainer(
        work.settings, trajectory, trained_on(work, trajectory.regime), images(work).test
    )
    start = {"epoch": 0, **trainer.evaluated()}
    rows, records = restored(work, trainer)
    unsaved_rows: list = []
    unsaved_records: list = []
    with closing(Log(work.store.directory, trajectory.key, rows)) as log:
        epochs = trainer.regime.epochs
        bar = tqdm(range(trainer.epoch, epochs), trajectory.key, leave=False, unit="epoch")
        for _ in bar:
            new_rows, record = trainer.run_epoch()
            unsaved_rows += new_rows
            unsaved_records.append(record)
            log.add(new_rows)
            records.append(record)
            if trainer.diverged is not None:
                break
            if is_kept(trainer.epoch, trainer.regime):
                kept = {"rows": unsaved_rows, "records": unsaved_records}
                work.store.save_checkpoint(
                    point(trajectory, trainer.epoch), Checkpoint(trainer.packed(), kept)
                )
                unsaved_rows, unsaved_records = [], []
                log.write()
    return summary(trajectory, [start, *records], trainer.diverged)


def summary(trajectory: Trajectory, records: Sequence[dict], diverged: dict | None) -> dict:
    """What results keep: series over epochs, from the untrained network on, and the end."""
    last = next(record for record in reversed(records) if "val_loss" in record)
    series = {name: [record.get(name) for record in records] for name in SERIES}
    best = max(record["val_accuracy"] for record in records if "val_accuracy" in record)
    return {
        **trajectory._asdict(),
        "series": series,
        "diverged": diverged,
        "final": {name: last[name] for name in FINAL} | {"best_val_accuracy": best},
        "last_epoch": last["epoch"],
    }


def point(trajectory: Trajectory, epoch: int) -> Point:
    """Where a checkpoint lies."""
    return Point(f"{trajectory.regime} seed {trajectory.seed}", trajectory.name, epoch)


def is_kept(epoch: int, regime) -> bool:
    """Whether an epoch leaves a checkpoint."""
    return epoch % regime.checkpoint_every == 0 or epoch == regime.epochs


def restored(work: Work, trainer: Trainer) -> tuple[list, list]:
    """Brings a trainer to the last checkpoint that has all before it; rows and records so far."""
    rows: list = []
    records: list = []
    found = None
    for epoch in range(1, trainer.regime.epochs + 1):
        if not is_kept(epoch, trainer.regime):
            continue
        checkpoint = work.store.load_checkpoint(point(trainer.trajectory, epoch))
        if checkpoint is None:
            break
        found = epoch, checkpoint.tensors
        rows += checkpoint.record["rows"]
        records += checkpoint.record["records"]
    if found is not None:
        epoch, tensors = found
        trainer.unpack(tensors, epoch)
    return rows, records


# ---- checkpoints ---------------------------------------------------------------------------------


def ended(work: Work) -> dict[str, Trajectory]:
    """Trajectories that were trained, by key."""
    done = work.results["parts"].get("train", {})
    return {t.key: t for t in trajectories(work.settings) if t.key in done}


def kept_epochs(work: Work, trajectory: Trajectory) -> list[int]:
    """Epochs at which weights are known: the start, and every checkpoint before a divergence."""
    last = work.results["parts"]["train"][trajectory.key]["last_epoch"]
    regime = getattr(work.settings.training, trajectory.regime)
    return [0, *(epoch for epoch in range(1, last + 1) if is_kept(epoch, regime))]


def model_at(work: Work, trajectory: Trajectory, epoch: int) -> RevMLP:
    """The network after so many epochs.

    Raises:
        FileNotFoundError: Its checkpoint is gone or damaged.
        ValueError: It is of another architecture.
    """
    model = network(work.settings, trajectory.seed).to(work.device)
    if epoch == 0:
        return model
    place = point(trajectory, epoch)
    checkpoint = work.store.load_checkpoint(place)
    if checkpoint is None:
        raise FileNotFoundError(
            f"{work.store.checkpoint_path(place)}: no sound checkpoint there; remove"
            f" {trajectory.key} from the part train in results.json, then it is trained again"
        )
    return load_weights(model, checkpoint.tensors)


def parameters(model: RevMLP) -> dict[str, Tensor]:
    """Trained weights by name."""
    return {name: weight.detach() for name, weight in model.named_parameters()}


# ---- analyses ------------------------------------------------------------------------------------


def measure_cka(work: Work) -> Measured:
    """CKA of every trajectory's start with its end, and of all ends of a regime with each other."""
    done = ended(work)
    inputs = images(work).test.inputs[: work.settings.analyses.num_cka]
    groups = {
        f"across/{regime}/{seed}": [t for t in done.values() if t[::2] == (regime, seed)]
        for regime, seed in itertools.product(REGIMES, work.settings.training.seeds)
    }
    groups = {key: group for key, group in groups.items() if len(group) > 1}
    for key in work.todo([*(f"own/{key}" for key in done), *groups], "comparison"):
        if key in groups:
            yield key, across(work, groups[key], inputs)
        else:
            yield key, own_cka(work, done[key.removeprefix("own/")], inputs)


def own_cka(work: Work, trajectory: Trajectory, inputs: Tensor) -> dict[str, Any]:
    """Start against every checkpoint, by half-layer."""
    epochs = kept_epochs(work, trajectory)
    start = representations(model_at(work, trajectory, 0), inputs)
    found: dict[str, list[float]] = {name: [] for name in start}
    for epoch in epochs:
        now = representations(model_at(work, trajectory, epoch), inputs)
        for name, state in now.items():
            found[name].append(linear_cka(start[name], state))
    return {"epochs": epochs, "cka": found, "last": {name: f[-1] for name, f in found.items()}}


def across(work: Work, group: Sequence[Trajectory], inputs: Tensor) -> dict[str, Any]:
    """CKA of every pair: at the last epoch that all have, and at the checkpoints whose training
    losses are nearest, by their ratio, to the lowest one that all came to.
    """
    losses = {t: _losses_at(work, t) for t in group}
    common = max(set.intersection(*(set(found) for found in losses.values())))
    level = max(min(found.values()) for found in losses.values())
    reached = {
        t: min(found, key=lambda epoch, found=found: _apart(found[epoch], level))
        for t, found in losses.items()
    }
    return {
        "names": [t.name for t in group],
        "level": level,  # nats, the lowest training loss that all checkpoints came to
        "common_epoch": common,
        "reached": [reached[t] for t in group],
        "losses": [losses[t][reached[t]] for t in group],  # nats, there
        "equal_epoch": _matrices(work, dict.fromkeys(group, common), inputs),
        "equal_loss": _matrices(work, reached, inputs),
    }


def _losses_at(work: Work, trajectory: Trajectory) -> dict[int, float]:
    """Epoch with known weights → training loss there."""
    series = work.results["parts"]["train"][trajectory.key]["series"]
    return {epoch: series["train_loss"][epoch] for epoch in kept_epochs(work, trajectory)}


def _apart(loss: float, other: float) -> float:
    """|log| of the ratio of two losses, of which either may be 0."""
    least = sys.float_info.min
    return abs(math.log(max(loss, least) / max(other, least)))


def _matrices(
    work: Work, epochs: dict[Trajectory, int], inputs: Tensor
) -> dict[str, list[list[float]]]:
    """Half-layer → CKA of every pair."""
    states = [representations(model_at(work, t, epoch), inputs) for t, epoch in epochs.items()]
    count = range(len(states))
    found = {}
    for name in states[0]:
        matrix = [[1.0 for _ in count] for _ in count]
        for row, column in itertools.combinations(count, 2):
            cka = linear_cka(states[row][name], states[column][name])
            matrix[row][column] = matrix[column][row] = cka
        found[name] = matrix
    return found


def measure_ntk(work: Work) -> Measured:
    """Cosine of the exact tangent kernel with that at the start, over every trajectory."""
    done = ended(work)
    for key in work.todo(done, "training"):
        inputs = trained_on(work, done[key].regime).inputs[: work.settings.analyses.num_ntk]
        epochs = kept_epochs(work, done[key])
        start = class_kernel(model_at(work, done[key], 0), inputs)
        found = [
            kernel_similarity(start, class_kernel(model_at(work, done[key], epoch), inputs))
            for epoch in epochs
        ]
        yield key, {"epochs": epochs, "similarity": found, "last": found[-1]}


def measure_weights(work: Work) -> Measured:
    """How far the weights went: by layer at the end, and all together over every trajectory."""
    done = ended(work)
    for key in work.todo(done, "training"):
        epochs = kept_epochs(work, done[key])
        start = parameters(model_at(work, done[key], 0))
        found = [weight_change(start, parameters(model_at(work, done[key], e))) for e in epochs]
        change = [changes[""]["change"] for changes in found]
        yield key, {"epochs": epochs, "change": change, "last": found[-1]}


# ---- end points ----------------------------------------------------------------------------------


def measure_degeneracy(work: Work) -> Measured:
    """Hessian trace and LLC, γ swept, of the end points of the first seed."""
    how = work.settings.degeneracy
    first = work.settings.training.seed
    ends = [t for t in ended(work).values() if t.regime in how.regimes and t.seed == first]
    ends = [t for t in ends if kept_epochs(work, t)[-1]]  # no weights of one that diverged at once
    if how.optimizers is not None:
        ends = [t for t in ends if t.name in how.optimizers]
    wanted = {f"{t.key}/trace": (t, None) for t in ends}
    pairs = itertools.product(how.localizations, ends)
    wanted |= {f"{t.key}/{gamma:g}": (t, gamma) for gamma, t in pairs}
    for key in work.todo(wanted, "measurement"):
        trajectory, gamma = wanted[key]
        model = model_at(work, trajectory, kept_epochs(work, trajectory)[-1])
        data = tuple(trained_on(work, trajectory.regime))
        if gamma is None:
            trace = hessian_trace(model, cross_entropy, data, how.num_probes, how.seed)
            yield key, {"trace": trace.trace, "std_error": trace.std_error}
        else:
            yield key, llc(model, data, work.settings, gamma)


def llc(
    model: RevMLP, data: tuple[Tensor, Tensor], settings: Settings, gamma: float
) -> dict[str, Any]:
    """λ̂ at the network's weights, with the certificates that say whether it may be called local."""
    how = settings.degeneracy
    sampler = SamplerSettings(
        localization=gamma,
        nbeta=how.nbeta,
        num_chains=how.num_chains,
        num_draws=how.num_draws,
        sampler_batch_size=how.batch_size,
        seed=how.seed,
    )
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    try:
        (estimate,) = estimate_llcs(model, [state], data, sampler, min(128, len(data[1])))
    except ValueError as error:  # no step that a pilot would take, or a gradient not finite
        return {"gamma": gamma, "llc": None, "refused": str(error)}
    return {"gamma": gamma, **finding(estimate)}
