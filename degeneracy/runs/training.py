"""How are all models trained with all optimizers, so that a kill loses one epoch at most?"""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from degeneracy.runs.results import check_logged, optimizers, parting_epoch, put_record, series_of
from degeneracy.runs.run import Run, checkpoint_at
from degeneracy.runs.store import Checkpoint, Point, RunStoreError
from degeneracy.runs.work import Measured, Part
from degeneracy.texts import label
from degeneracy.training import EpochRecord, evaluate, pack_state, trained, unpack_state


class Leg(NamedTuple):
    """A stretch of training with a fresh optimizer, from `parent`'s weights.

    It trains the epochs `start` + 1 to `stop`.
    """

    optimizer: str
    parent: str  # the optimizer whose checkpoint at `start` this leg leaves from
    start: int
    stop: int


def legs(names: tuple[str, ...], parting: int, last: int) -> list[Leg]:
    """In a swap the first optimizer up to the cut-off, then all from there; else each from 0."""
    trunk = [Leg(names[0], names[0], 0, parting)] if parting else []
    return trunk + [Leg(name, names[0], parting, last) for name in names]


def train_run(run: Run) -> Measured:
    """Yields (point, record) of every epoch; those whose checkpoint is there are not trained again.

    A point's record is yielded once its checkpoint is kept.
    """
    names, parting = optimizers(run.results), parting_epoch(run.results["config"])
    for title in run.models:
        yield _initial(run, Point(title, names[0], 0))
        for leg in legs(names, parting, run.config.experiment.num_epochs):
            yield from _train_leg(run, title, leg)


TRAIN = Part(
    train_run, put=lambda run, point, record: put_record(run.results, point, record), needs=()
)


def _initial(run: Run, point: Point) -> tuple[Point, dict[str, Any]]:
    """Epoch 0: the seeded initial weights, shared by all optimizers."""
    checkpoint = checkpoint_at(run, point)
    if checkpoint is None:
        seed = run.config.experiment.seed
        with torch.random.fork_rng(devices=[run.device] if run.device.type == "cuda" else []):
            torch.manual_seed(seed)
            model = run.models[point.title]().to(run.device)
        train_loss, _ = evaluate(model, run.data.train)
        val_loss, val_accuracy = evaluate(model, run.data.test)
        record = asdict(EpochRecord(train_loss, val_loss, val_accuracy, update_norm=None))
        generator = torch.Generator().manual_seed(seed)
        checkpoint = Checkpoint(pack_state(model, None, generator), record)
        run.store.save_checkpoint(point, checkpoint)
    return point, checkpoint.record


def _train_leg(run: Run, title: str, leg: Leg) -> Measured:
    """Trains the epochs of `leg` that have no sound checkpoint, each from the one before."""
    name = f"{title} {label(leg.optimizer)}"
    parent = Point(title, leg.parent, leg.start)
    last = checkpoint_at(run, parent)
    if last is None or last.record["diverged"]:  # the trunk diverged: nothing to leave from
        trunk, own = (series_of(run.results, parent._replace(optimizer=o)) for o in leg[1::-1])
        own["diverged_epoch"] = trunk["diverged_epoch"]
        return
    epoch, fresh = leg.start, True
    while epoch < leg.stop:
        point = Point(title, leg.optimizer, epoch + 1)
        if (there := checkpoint_at(run, point)) is None:
            break
        epoch, last, fresh = epoch + 1, there, False
        yield point, there.record
        if there.record["diverged"]:
            return
    if epoch == leg.stop:
        tqdm.write(f"{name}: epochs {leg.start + 1} to {leg.stop} are there")
        return
    if epoch > leg.start:
        tqdm.write(f"{name}: goes on after epoch {epoch}")
    model = run.models[title]().to(run.device)
    stepper = run.optimizers[leg.optimizer](model, leg.start > 0)
    generator = torch.Generator()
    try:
        unpack_state(last.tensors, model, None if fresh else stepper, generator)
    except (KeyError, IndexError, RuntimeError, TypeError, ValueError) as error:
        whose = parent if fresh else Point(title, leg.optimizer, epoch)
        path = run.store.checkpoint_path(whose)
        raise RunStoreError(
            f"{path} does not fit {name} ({error}); remove it, then that epoch is trained again"
        ) from error
    epochs, batch_size = range(epoch + 1, leg.stop + 1), run.config.data.batch_size
    done = trained(model, stepper, run.data, epochs, batch_size, generator, label=name)
    if not fresh:
        done = _blaming(done, run.store.checkpoint_path(Point(title, leg.optimizer, epoch)))
    for number, record in done:
        point = Point(title, leg.optimizer, number)
        check_logged(leg.optimizer, record.logged)
        tensors = {} if record.diverged else pack_state(model, stepper, generator)
        run.store.save_checkpoint(point, Checkpoint(tensors, asdict(record)))
        yield point, asdict(record)


def _blaming(
    epochs: Iterator[tuple[int, EpochRecord]], path: Path
) -> Iterator[tuple[int, EpochRecord]]:
    """The same epochs. An optimizer takes any state that it is given, and fails on one of another
    shape only when it steps: where the first epoch fails, the checkpoint may be why.
    """
    try:
        first = next(epochs)
    except torch.OutOfMemoryError:
        raise
    except (KeyError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise RunStoreError(
            f"the epoch after {path} failed ({type(error).__name__}: {error}); where the"
            " optimizer's state in it is of another shape, remove it, then that epoch is trained"
            " again"
        ) from error
    yield first
    yield from epochs
