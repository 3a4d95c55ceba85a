"""The command that runs any study's config, from training to report.

    python experiment.py args_ngd_sgd.json [--out DIR] [--device cpu|cuda|auto]

Exit status 0 when all is done, 2 for a config that is refused, 1 for any other failure. The last
line printed is the report's path. The same command goes on where the last one stopped.
"""

import argparse
import sys

import studies
from degeneracy.config.reader import ConfigError, read_json, study_name
from degeneracy.data.files import DataError
from degeneracy.device import DeviceError
from degeneracy.llc.auto import PilotError
from degeneracy.runs.store import RunStoreError
from degeneracy.study import run_study
from degeneracy.sweeps.grid import SweepError


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    parser = argparse.ArgumentParser(description="Trains, measures and reports what a config says.")
    parser.add_argument("config", help="JSON config of any study, such as args_ngd_sgd.json")
    parser.add_argument("--out", help="run directory (default: experiments/<study>/<run>)")
    parser.add_argument("--device", default="auto", choices=["cpu", "cuda", "auto"])
    options = parser.parse_args(arguments)
    try:
        study = studies.find(study_name(read_json(options.config)), options.config)
        report = run_study(study, options.config, options.out, options.device)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except (DataError, DeviceError, PilotError, RunStoreError, SweepError, OSError) as error:
        print(f"experiment.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on where this one left off", file=sys.stderr)
        return 1
    print(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
