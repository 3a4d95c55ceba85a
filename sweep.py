"""The command that runs a config many times, with other values of its keys and other seeds.

    python sweep.py args_ngd_sgd.json --grid experiment.alpha=0.01,0.1,1 --seeds 1-3

Here, or on a Ray cluster with --address. Exit status 0 when all runs are finished, 2 for a sweep
that is refused, 1 where a run failed or the sweep was stopped. The last line printed is the
report's path. The same command goes on where the last one stopped. `docs/sweeps.md` says more.
"""

import argparse
import sys
from typing import TYPE_CHECKING

from degeneracy.interrupts import interruptible

if TYPE_CHECKING:
    from degeneracy.sweeps.sweep import Sweep


def options_of(arguments: list[str] | None) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description="Runs a config with many settings, on Ray.")
    add = parser.add_argument
    add("config", help="JSON config of any study, such as args_ngd_sgd.json")
    add("--grid", action="append", default=[], metavar="KEY=V,V", help="every value; repeatable")
    add("--zip", action="append", default=[], metavar="KEY=V,V,KEY=V,V", help="values in pairs")
    add("--seeds", metavar="1,2,3|1-5", help="values of the study's seed")
    add("--out", help="the sweep's folder (default: experiments/sweeps/<config>-<digest>)")
    add("--address", metavar="HOST:PORT|auto", help="Ray cluster (default: Ray on this machine)")
    add("--retries", type=_count(0), default=2, help="how often a failed run is done again (2)")
    add("--threads", type=_count(1), default=1, help="CPU threads a run (1)")
    add("--at-once", type=_count(1), help="runs at a time at most (default: as many as fit)")
    add("--runs-per-gpu", type=_count(1), default=1, help="runs that share a GPU (1)")
    add("--device", default="auto", choices=["cpu", "cuda", "auto"])
    add("--quantity", help="what the report draws (default: the LLC where there is one)")
    add("--large", action="store_true", help="do work that seems beyond reason")
    add("--dry-run", action="store_true", help="say which runs these are and what they take")
    return parser.parse_args(arguments)


def _count(least: int):
    """A whole number of at least `least`, as argparse wants it."""

    def count(text: str) -> int:
        if not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} given; allowed: a number from {least}")
        return int(text)

    return count


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    options = options_of(arguments)
    return interruptible(lambda: _done(options))


def asked(options: argparse.Namespace) -> "Sweep":
    """The sweep that the options say, checked; raises ConfigError or SweepError."""
    import studies
    from degeneracy.config.reader import read_json, study_name
    from degeneracy.sweeps.grid import parse_grid, parse_seeds, parse_zip
    from degeneracy.sweeps.sweep import open_sweep

    study = studies.find(study_name(read_json(options.config)), options.config)
    axes = [axis for text in options.grid for axis in parse_grid(text)]
    axes += [parse_zip(text) for text in options.zip]
    axes += [] if options.seeds is None else [parse_seeds(options.seeds, study.settings)]
    return open_sweep(study, options.config, axes, options.out, options.large)


def _done(options: argparse.Namespace) -> int:
    """Does what the options say. Imports here take seconds, in which a signal is a sentence too."""
    import studies
    from degeneracy.config.reader import ConfigError
    from degeneracy.data.files import DataError
    from degeneracy.sweeps.grid import SweepError
    from degeneracy.sweeps.running import Resources
    from degeneracy.sweeps.sweep import DONE, run_sweep

    given = Resources(
        options.address, options.threads, options.device, options.runs_per_gpu, options.at_once
    )
    try:
        sweep = asked(options)
        print(sweep.said_beforehand())
        if options.dry_run:
            return 0
        report, states = run_sweep(sweep, studies.find, given, options.retries, options.quantity)
    except (ConfigError, SweepError) as error:
        print(error, file=sys.stderr)
        return 2
    except (DataError, OSError) as error:
        print(f"sweep.py: {error}", file=sys.stderr)
        return 1
    print(report)
    return 0 if all(state.status in DONE for state in states) else 1


if __name__ == "__main__":
    sys.exit(main())
