"""How are the regimes run from the command line?

    python -m studies.sgd_regimes nn|linearized|full|spectral|all --lr 0.1 1 --momentum 0 0.5

Lists give every combination; with `--aggr_type zip` they are paired, and are of equal length or 1.
Written are `losses.csv`, a row a step, `report.html`, and `modes.npz` where modes are asked for.
Exit status 0, or 2 with one line on stderr for input that is refused. A run that overflows is said
with its step, and the others go on.
"""

import argparse
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pandas as pd

from degeneracy.config.reader import ConfigError
from degeneracy.data.files import DataError
from studies.sgd_regimes.command_runs import REGIMES, Setting, run_all, tell
from studies.sgd_regimes.samples import SETS

COMMANDS = {
    "nn": ("network",),
    "linearized": ("linearised",),
    "full": ("averaged",),
    "spectral": ("spectral",),
    "all": REGIMES,
}
PAIRED = ("lr", "momentum", "batch_size", "nu", "kappa")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Without the usage: one line."""
        self.exit(2, f"{self.prog}: {message}\n")


def parser() -> argparse.ArgumentParser:
    """All flags, with what they mean."""
    made = _Parser(prog="python -m studies.sgd_regimes", description="SGD in four regimes.")
    made.add_argument("command", choices=COMMANDS, help="which regime, or all of them")
    lists = made.add_argument_group("settings, one or several of each")
    lists.add_argument("--lr", type=float, nargs="+", help="α in units of N/λ_max (default 0.5)")
    lists.add_argument("--momentum", type=float, nargs="+", default=[0.0], help="β")
    lists.add_argument("--batch_size", type=int, nargs="+", default=[10], help="b")
    lists.add_argument("--tau", type=float, nargs="+", default=[1.0], help="τ of spectral")
    lists.add_argument("--nu", type=float, nargs="+", default=[1.5], help="ν of synthetic")
    lists.add_argument("--kappa", type=float, nargs="+", default=[1.0], help="ϰ of synthetic")
    lists.add_argument("--aggr_type", choices=["prod", "zip"], default="prod")
    lists.add_argument(
        "--lr_file", type=Path, help="CSV with columns nu, kappa, lr; in place of lr"
    )
    data = made.add_argument_group("data")
    data.add_argument("--dataset", choices=[*SETS, "synthetic"], default="synthetic")
    data.add_argument("--kernel", type=Path, help="a saved kernel, in place of a data set")
    data.add_argument("--root", default="data", help="folder of the data sets' files")
    data.add_argument("--N", type=int, default=200, help="samples")
    data.add_argument("--lambda_min", type=float, default=0.0, help="floor of synthetic's λ_k")
    data.add_argument("--ntk", choices=["empirical", "analytic"], default="empirical")
    data.add_argument("--width", type=int, default=1024, help="hidden units of the network")
    data.add_argument("--seed", type=int, default=0)
    runs = made.add_argument_group("runs")
    runs.add_argument("--n_steps", type=int, default=1000)
    runs.add_argument("--n_networks", type=int, default=1, help="network runs of each setting")
    runs.add_argument("--n_runs", type=int, default=100, help="linearised runs of each setting")
    runs.add_argument("--sched", choices=["constant", "jacobi"], default="constant")
    runs.add_argument("--jacobi", type=float, nargs=2, default=[0.0, 0.0], metavar=("A", "B"))
    runs.add_argument("--opt", choices=["sgd", "adam"], default="sgd")
    runs.add_argument("--noise", choices=["finite", "online"], default="finite", help="spectral's")
    runs.add_argument("--modes", action="store_true", help="C_k of every step, as modes.npz")
    runs.add_argument("--validation", type=int, default=0, metavar="M", help="other samples")
    runs.add_argument("--out", type=Path, default=Path("experiments/sgd_regimes/command"))
    return made


def settings_of(options: argparse.Namespace) -> list[Setting]:
    """Every combination of the lists, or pairs of them.

    Raises:
        ValueError: Lists that cannot be paired, or a learning rate that the file does not have.
    """
    lists = {name: getattr(options, name) for name in PAIRED}
    rates = None
    if options.lr_file is not None:
        if options.lr is not None:
            raise ValueError("--lr and --lr_file given; allowed: one of them")
        rates, lists["lr"] = learning_rates(options.lr_file), [None]
    elif options.lr is None:
        lists["lr"] = [0.5]
    rows = paired(lists) if options.aggr_type == "zip" else list(product(*lists.values()))
    named = [dict(zip(lists, row, strict=True)) for row in rows]
    if rates is not None:
        for one in named:
            one["lr"] = _looked_up(rates, one["nu"], one["kappa"], options.lr_file)
    return [Setting(**one) for one in named]


def paired(lists: dict[str, Sequence[Any]]) -> list[tuple]:
    """The first of each list, the second of each, …; lists of one are repeated."""
    lengths = {name: len(values) for name, values in lists.items()}
    longest = max(lengths.values())
    if wrong := [name for name, length in lengths.items() if length not in (1, longest)]:
        given = ", ".join(f"--{name} {length}" for name, length in lengths.items() if length > 1)
        raise ValueError(
            f"--aggr_type zip with lists of lengths {given}; allowed: lengths that are equal or 1"
            f" (not so: {', '.join('--' + name for name in wrong)})"
        )
    full = [list(of) * (longest if len(of) == 1 else 1) for of in lists.values()]
    return list(zip(*full, strict=True))


def learning_rates(path: Path) -> dict[tuple[float, float], float]:
    """(ν, ϰ) → learning rate from a CSV file; ValueError where it is none."""
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"--lr_file {path} cannot be read: {error}") from error
    if missing := {"nu", "kappa", "lr"} - set(table):
        raise ValueError(
            f"--lr_file {path}: no column {', '.join(sorted(missing))}; allowed: nu, kappa, lr"
        )
    rows = table[["nu", "kappa", "lr"]].itertuples(index=False)
    return {(float(nu), float(kappa)): float(lr) for nu, kappa, lr in rows}


def _looked_up(rates: dict, nu: float, kappa: float, path: Path) -> float:
    if (nu, kappa) not in rates:
        there = ", ".join(f"({n:g}, {k:g})" for n, k in rates)
        raise ValueError(
            f"--nu {nu:g} --kappa {kappa:g} given; allowed with {path}: {there or 'nothing'}"
        )
    return rates[nu, kappa]


class Chosen(NamedTuple):
    """What a command line asks for.

    Attributes:
        regimes: Of `command_runs.REGIMES`.
        settings: Each is run in each regime.
        options: The other flags.
    """

    regimes: tuple[str, ...]
    settings: list[Setting]
    options: argparse.Namespace


def chosen(arguments: Sequence[str] | None) -> Chosen:
    """The command line, with what does not go together refused.

    Raises:
        ValueError: A combination of flags that is not allowed.
    """
    options = parser().parse_args(arguments)
    regimes = COMMANDS[options.command]
    bare = options.kernel is not None or options.dataset == "synthetic"
    what = "--kernel" if options.kernel is not None else "--dataset synthetic"
    if bare and options.command == "nn":
        sets = ", ".join(SETS)
        raise ValueError(f"nn with {what}, which has no inputs; allowed: --dataset {sets}")
    if bare and options.validation:
        raise ValueError(f"--validation with {what}, which has no other samples; allowed: 0")
    if options.validation < 0 or options.n_runs < 1 or options.n_networks < 1:
        raise ValueError("--validation, --n_runs or --n_networks too small; allowed: >= 0, 1, 1")
    _refuse_ignored(options)
    if options.opt == "adam" and set(regimes) <= {"averaged", "spectral"}:
        raise ValueError(f"--opt adam with {options.command}; allowed there: sgd (nn, linearized)")
    if options.opt == "adam" and (options.modes or options.validation):
        raise ValueError("--opt adam with --modes or --validation; allowed there: losses alone")
    if bare:
        regimes = tuple(name for name in regimes if name != "network")
    if options.opt == "adam":
        regimes = tuple(name for name in regimes if name in ("network", "linearised"))
    return Chosen(regimes, settings_of(options), options)


def _refuse_ignored(options: argparse.Namespace) -> None:
    """ValueError where a flag would change nothing that the command runs."""
    command = options.command
    if options.opt == "adam":
        if any(options.momentum) or options.sched != "constant":
            raise ValueError(
                "--opt adam with --momentum or --sched, but Adam has moments of its own; allowed"
                " there: --momentum 0 --sched constant"
            )
        if options.ntk != "empirical":
            raise ValueError(
                f"--opt adam with --ntk {options.ntk}, but Adam steps the weights of a network;"
                " allowed there: empirical"
            )
    if options.noise != "finite" and command not in ("spectral", "all"):
        raise ValueError(
            f"--noise {options.noise} with {command}, which draws from N samples; allowed there:"
            " finite (online: spectral, and of all the spectral regime)"
        )
    if options.modes and command == "nn":
        raise ValueError("--modes with nn, which has no C_k; allowed with every other command")
    if options.validation and command == "spectral":
        raise ValueError(
            f"--validation {options.validation} with spectral, which knows no other samples;"
            " allowed there: 0"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit status."""
    try:
        asked = chosen(arguments)
        table, modes = run_all(asked.regimes, asked.settings, asked.options)
        print(tell(table, modes, asked.options))
    except (ValueError, DataError, ConfigError, OSError) as error:
        print(f"sgd_regimes: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0
