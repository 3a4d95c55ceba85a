"""How are runs done on Ray, on this machine or a cluster? A task a run; only this file knows Ray.

With Ray Core, not Tune: a run has a directory, checkpoints and a way to go on of its own, so all
that is asked of Ray is to start a function where CPUs or GPUs are free and to say how it ended.
"""

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from degeneracy.config.reader import ConfigError, parse_config
from degeneracy.runs.directories import described, is_run
from degeneracy.runs.store import RunStoreError
from degeneracy.study import Study, run_study
from degeneracy.sweeps.folder import DEFINITION, FAILED, FINISHED, Ended, SweepFolder
from degeneracy.sweeps.grid import Planned, SweepError

OBJECTS = 100 * 2**20  # bytes of Ray's shared memory: what goes through it here are sentences
ANSWER_S = 5.0  # until an address must take a connection,
CONNECT_S = 40.0  # until Ray must answer there,
PROBE_S = 60.0  # and until each of its machines must
RELEASE_S = 60.0  # until a process that was lost must have given up its run's directory
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "TQDM_MININTERVAL": "10"}

Find = Callable[[str], Study]


@dataclass(frozen=True)
class Resources:
    """What runs are given.

    Attributes:
        address: HOST:PORT or "auto", of a Ray cluster; None: Ray on this machine, for this sweep.
        threads: CPU threads a run.
        device: As in `study.open_work`.
        runs_per_gpu: How many runs share a GPU, where there are any.
        at_once: How many runs at a time at most; None: as many as fit.
    """

    address: str | None = None
    threads: int = 1
    device: str = "auto"
    runs_per_gpu: int = 1
    at_once: int | None = None


# ---- connecting ----------------------------------------------------------------------------------


@contextlib.contextmanager
def connected(resources: Resources) -> Iterator[None]:
    """Ray while the block lasts: of this machine alone, or the cluster at the address.

    Raises:
        SweepError: Nothing answers at the address in time, or Ray does not start.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if resources.address is not None:
        refuse_silent_address(resources.address)
        options = {"address": resources.address}
    else:  # whatever RAY_ADDRESS says
        options = {"address": "local", "include_dashboard": False, "object_store_memory": OBJECTS}
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = "on this machine" if resources.address is None else f"at {resources.address}"
        raise SweepError(f"Ray {where} cannot be used: {error}") from error
    except SystemExit as stop:  # Ray puts a handler of its own, which ends the process
        raise KeyboardInterrupt("SIGTERM") from stop
    finally:
        with contextlib.suppress(TypeError, ValueError):  # none of Python's, or not the main thread
            signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        ray.shutdown()


def refuse_silent_address(address: str) -> None:
    """Raises SweepError unless a Ray cluster answers there, which Ray itself waits minutes for."""
    if address != "auto":
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit() or "/" in address:
            raise SweepError(
                f"--address: {address!r} given; allowed: HOST:PORT, as `ray start --head` says, or"
                " auto"
            )
        try:
            socket.create_connection((host, int(port)), timeout=ANSWER_S).close()
        except (OSError, OverflowError) as error:
            raise SweepError(_no_cluster(address, str(error))) from error
    command = [sys.executable, "-c", _CONNECT, address]
    try:
        tried = subprocess.run(command, capture_output=True, text=True, timeout=CONNECT_S)
    except subprocess.TimeoutExpired:
        raise SweepError(_no_cluster(address, f"no answer in {CONNECT_S:.0f} s")) from None
    if tried.returncode:
        said = [line for line in tried.stderr.splitlines() if line.strip()]
        raise SweepError(_no_cluster(address, said[-1] if said else "Ray gave up"))


_CONNECT = """
import sys, logging, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level=logging.ERROR)
"""


def _no_cluster(address: str, reason: str) -> str:
    return (
        f"--address: {address} given, where no Ray cluster answers ({reason}); start one there with"
        " `ray start --head --port=6379`, or leave --address out for Ray on this machine"
    )


def check_nodes(folder: SweepFolder, find: Find) -> None:
    """Refuses a cluster of which a machine does not see the sweep's folder or lacks the project.

    Raises:
        SweepError: Names the machine.
    """
    path = folder.directory / DEFINITION
    expected, probes = path.read_bytes(), {}
    for node in _alive_nodes():
        here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        probe = _seen.options(num_cpus=0, scheduling_strategy=here, max_retries=0)
        probes[probe.remote(str(path), find)] = node
    done, late = ray.wait([*probes], num_returns=len(probes), timeout=PROBE_S)
    for probe in done:
        name = probes[probe]["NodeManagerHostname"]
        try:
            content = ray.get(probe)
        except Exception as error:
            raise SweepError(
                f"machine {name} of the cluster cannot run this project ({_last_line(error)});"
                " install it there, at the same version"
            ) from error
        if content != expected:
            raise SweepError(
                f"machine {name} of the cluster does not see {path}; allowed: an --out in a folder"
                " that all its machines share, under the same path"
            )
    if late:
        names = ", ".join(probes[probe]["NodeManagerHostname"] for probe in late)
        raise SweepError(f"no answer from {names} of the cluster in {PROBE_S:.0f} s")


@ray.remote
def _seen(path: str, find: Find) -> bytes | None:
    """What a machine reads there; `find` comes along so that it is known to be importable."""
    return Path(path).read_bytes() if Path(path).exists() else None


# ---- a run ---------------------------------------------------------------------------------------


def do_run(
    find: Find, study: str, content: Mapping[str, Any], directory: Path, log: Path, given: Resources
) -> Ended:
    """Does one run as `experiment.py` does it, in this process; says how it ended.

    What it would have printed is appended to `log`.
    """
    since = time.monotonic()
    torch.set_num_threads(given.threads)
    with (
        open(log, "a", encoding="utf-8", buffering=1) as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        try:
            _wait_until_free(directory)
            found = find(study)
            settings = parse_config(content, found.settings)
            run_study(found, settings, directory, given.device, large=True)  # asked for beforehand
            outcome, reason = FINISHED, ""
        except (ConfigError, RunStoreError) as error:  # the same again, whoever tries
            outcome, reason = "refused", str(error)
        except Exception as error:
            outcome, reason = FAILED, f"{type(error).__name__}: {error}"
        if reason:
            traceback.print_exc()
    return Ended(outcome, reason, time.monotonic() - since, socket.gethostname())


def _wait_until_free(directory: Path) -> None:
    """A process whose machine was given up may live on for seconds; then the run is as it left it.

    Raises:
        TimeoutError: It is still in use after `RELEASE_S` seconds.
    """
    until = time.monotonic() + RELEASE_S
    while is_run(directory) and described(directory).status == "running":
        if time.monotonic() > until:
            raise TimeoutError(f"{directory} is still in use by another process; stop it")
        time.sleep(1.0)


_do_run = ray.remote(do_run)


class RayPool:
    """Ray as a `schedule.Pool`, for the runs of one sweep.

    Raises:
        SweepError: No machine has what a run is to be given.
    """

    def __init__(
        self, folder: SweepFolder, runs: Sequence[Planned], find: Find, resources: Resources
    ):
        self.folder, self.find, self.resources = folder, find, resources
        self.runs = {run.name: run for run in runs}
        self.begun: dict[Hashable, float] = {}
        has_gpus = resources.device != "cpu" and ray.cluster_resources().get("GPU", 0) > 0
        if resources.device == "cuda" and not has_gpus:
            raise SweepError("--device: cuda given, and Ray sees no GPU; allowed: cpu or auto")
        self.num_gpus = 1 / resources.runs_per_gpu if has_gpus else 0
        if not self.slots():
            most = max(node["Resources"].get("CPU", 0) for node in _alive_nodes())
            raise SweepError(
                f"--threads: {resources.threads} given; allowed: at most {most:.0f}, the CPUs of"
                " the largest machine" + (" with a GPU" if has_gpus else "")
            )

    def slots(self) -> int:
        """How many runs fit into the machines that are there now."""
        fitting = sum(
            slots_of(node["Resources"], self.resources.threads, self.num_gpus)
            for node in _alive_nodes()
        )
        return min(fitting, self.resources.at_once or fitting)

    def begin(self, name: str) -> Hashable:
        """Hands a run to Ray, without retries of Ray's own: the sweep counts them."""
        task = _do_run.options(
            num_cpus=self.resources.threads, num_gpus=self.num_gpus, max_retries=0, name=name
        ).remote(
            self.find,
            self.folder.defined["study"],
            self.runs[name].content,
            self.folder.run_directory(name),
            self.folder.log(name),
            self.resources,
        )
        self.begun[task] = time.monotonic()
        return task

    def ended(self, handles: Sequence[Hashable], timeout: float) -> dict[Hashable, Ended]:
        """Those that ended; one that went with its process or machine is "lost"."""
        if not handles:
            return {}
        done, _ = ray.wait([*handles], num_returns=1, timeout=timeout)
        return {task: self._ended(task) for task in done}

    def _ended(self, task: Hashable) -> Ended:
        seconds = time.monotonic() - self.begun.pop(task)
        try:
            return ray.get(task)
        except RayError as error:
            return Ended("lost", f"{type(error).__name__}: {_last_line(error)}", seconds)


def slots_of(resources: Mapping[str, float], threads: int, num_gpus: float) -> int:
    """How many runs of so many CPUs and so much of a GPU fit into one machine's resources."""
    by_cpu = int(resources.get("CPU", 0) // threads)
    if not num_gpus:
        return by_cpu
    whole_gpus = int(resources.get("GPU", 0))
    return min(by_cpu, whole_gpus * round(1 / num_gpus))


def _alive_nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
