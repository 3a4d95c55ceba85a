"""The command that runs any study's config, from training to report.

    python experiment.py args_ngd_sgd.json [--out DIR] [--device cpu|cuda|auto] [--large]

Exit status 0 when all is done, 2 for a config that is refused, 1 for any other failure. The last
line printed is the report's path. The same command goes on where the last one stopped.
"""

import argparse
import sys

from degeneracy.interrupts import interruptible


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    parser = argparse.ArgumentParser(description="Trains, measures and reports what a config says.")
    parser.add_argument("config", help="JSON config of any study, such as args_ngd_sgd.json")
    parser.add_argument("--out", help="run directory (default: experiments/<study>/<run>)")
    parser.add_argument("--device", default="auto", choices=["cpu", "cuda", "auto"])
    parser.add_argument("--large", action="store_true", help="do work that seems beyond reason")
    options = parser.parse_args(arguments)
    return interruptible(lambda: _done(options))


def _done(options: argparse.Namespace) -> int:
    """Does what the options say. Imports here take seconds, in which a signal is a sentence too."""
    import studies
    from degeneracy.config.reader import ConfigError, read_json, study_name
    from degeneracy.data.files import DataError
    from degeneracy.device import DeviceError
    from degeneracy.runs.store import RunStoreError
    from degeneracy.study import PartError, run_study

    try:
        study = studies.find(study_name(read_json(options.config)), options.config)
        report = run_study(study, options.config, options.out, options.device, options.large)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except (DataError, DeviceError, PartError, RunStoreError, OSError) as error:
        print(f"experiment.py: {error}", file=sys.stderr)
        return 1
    print(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
