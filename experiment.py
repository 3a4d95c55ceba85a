"""How does a config become trained models, measurements and a report? The whole flow, for notebooks
and command.

    python experiment.py args_ngd_sgd.json [--out DIR] [--device cpu|cuda|auto]

    run = open_run(load_config("args_ngd_sgd.json"))
    train_models(run)
    measure_llcs(run)
    measure_robustness(run)
    measure_hessian_traces(run)
    report = finish(run)

Every finished epoch and measurement is kept in the run directory at once; the same call on the same
directory goes on where the last one stopped.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm import tqdm

from degeneracy.data.files import DataError
from degeneracy.runs.config import Config, ConfigError, load_config
from degeneracy.runs.measurements import measure_hessian_traces, measure_llcs, measure_robustness
from degeneracy.runs.results import optimizers, parting_epoch, put_record, series_of
from degeneracy.runs.run import (
    PROJECT,
    RUNS,
    DeviceError,
    Run,
    config_optimizer,
    default_directory,
    open_run,
    timed,
    write_page,
)
from degeneracy.runs.store import Checkpoint, Point, RunStoreError
from degeneracy.training import EpochRecord, evaluate, pack_state, train, unpack_state

__all__ = [
    "PROJECT",
    "RUNS",
    "DeviceError",
    "Run",
    "config_optimizer",
    "default_directory",
    "finish",
    "legs",
    "load_config",
    "measure_hessian_traces",
    "measure_llcs",
    "measure_robustness",
    "open_run",
    "run_experiment",
    "train_models",
]


class Leg(NamedTuple):
    """A stretch of training with a fresh optimizer: epochs `start` + 1 to `stop`, from `parent`'s
    weights.
    """

    optimizer: str
    parent: str  # the optimizer whose checkpoint at `start` this leg leaves from
    start: int
    stop: int


def train_models(run: Run) -> None:
    """Trains every model with every optimizer; epochs whose checkpoint is there are not trained
    again.
    """
    with timed(run, "train") as tick:
        for title in run.models:
            _keep_initial(run, title)
            for leg in legs(run.config):
                _train_leg(run, title, leg, tick)
    write_page(run)


def legs(config: Config) -> list[Leg]:
    """The stretches of training: in `swap`, SGD up to the cut-off, then both from there; else each
    from the start.
    """
    settings = config.model_dump()
    names, parting, last = (
        optimizers(settings),
        parting_epoch(settings),
        config.experiment.num_epochs,
    )
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
    if (
        last is None or last.record["diverged"]
    ):  # the first leg of a swap run diverged: nothing to leave from
        trunk = series_of(run.results, parent)
        series_of(run.results, parent._replace(optimizer=leg.optimizer))["diverged_epoch"] = trunk[
            "diverged_epoch"
        ]
        return
    epoch, fresh = leg.start, True
    while epoch < leg.stop and (
        there := run.store.load_checkpoint(Point(title, leg.optimizer, epoch + 1))
    ):
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
        model,
        optimizer,
        run.data,
        leg.stop - epoch,
        run.config.data.batch_size,
        generator,
        first_epoch=epoch + 1,
        on_epoch=keep,
        keep_state_dicts=False,
        label=label,
    )


def finish(run: Run) -> Path:
    """Writes the report, marks the run complete, gives its directory free, and returns the report's
    path.

    Call it last: what was not measured by then is missing from a report that calls itself finished.
    """
    run.results["status"] = "complete"
    report = write_page(run)
    run.store.write_results(run.results)
    run.store.close()
    return report


def run_experiment(config: Config, out: str | Path | None = None, device: str = "auto") -> Path:
    """Trains, measures and reports; returns the path of `report.html`. Raises what `open_run`
    raises.
    """
    run = open_run(config, out, device)
    try:
        train_models(run)
        measure_llcs(run)
        measure_robustness(run)
        measure_hessian_traces(run)
        return finish(run)
    finally:
        run.store.close()


def main(arguments: list[str] | None = None) -> int:
    """The command: exit status 0 when all is done, 2 for a config that is refused, 1 for any other
    failure.
    """
    parser = argparse.ArgumentParser(
        description="Trains, measures and reports what a config asks for."
    )
    parser.add_argument("config", help="JSON config, such as args_ngd_sgd.json")
    parser.add_argument(
        "--out", help="run directory (default: experiments/ngd_sgd/<run>, one for each config)"
    )
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
