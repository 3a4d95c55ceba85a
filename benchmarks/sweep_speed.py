"""How much faster is a sweep with two runs at a time than with one after the other?

    .venv/bin/python benchmarks/sweep_speed.py [--repeats 1] [--draws 500]

Four runs of a small config with one thread each, in sequence and two at a time, the orders in turn.
Start-up of Ray and of the command is counted, for it is paid. Run it alone on two cores: two
hyperthreads of one core are worth less than two, and so are two cores that others use. How much two
processes win there that know nothing of each other is measured before each repeat. Wanted: a sweep
at least 1.6 times as fast.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

PROJECT = Path(__file__).resolve().parents[1]
CONFIG = {
    "study": "phase_transitions",
    "experiment": {"hidden_nodes": [64], "hidden_layers": [2], "num_epochs": 4},
    "data": {"num_train_images": 3200, "num_test_images": 500, "num_probes": 5},
    "curvature": {"num_probes": 2, "num_steps": 20, "num_gap_probes": 2, "num_eigenvalues": 3},
}
SEEDS = "1-4"
WANTED = 1.6
WORK = """
import torch
torch.set_num_threads(1)
a = torch.rand(512, 512)
for _ in range(1500):
    a = torch.tanh(a @ a)
"""


def seconds(config: Path, out: Path, at_once: int) -> tuple[float, list[float]]:
    """Wall time of a whole sweep, and the time of each of its runs."""
    command = [sys.executable, PROJECT / "sweep.py", config, "--seeds", SEEDS, "--out", out]
    since = time.perf_counter()
    subprocess.run([*command, "--at-once", str(at_once)], check=True, capture_output=True)
    whole = time.perf_counter() - since
    attempts = json.loads((out / "attempts.json").read_text())
    return whole, [attempt["seconds"] for tried in attempts.values() for attempt in tried]


def ceiling() -> float:
    """How much faster two processes of one thread are together than one after the other."""
    command = [sys.executable, "-c", WORK]
    since = time.perf_counter()
    for _ in range(2):
        subprocess.run(command, check=True)
    between = time.perf_counter()
    together = [subprocess.Popen(command) for _ in range(2)]
    for process in together:
        process.wait()
    return (between - since) / (time.perf_counter() - between)


def main() -> None:
    parser = argparse.ArgumentParser(description="Times a sweep, one run and two runs at a time.")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--draws", type=int, default=500, help="what makes a run long")
    options = parser.parse_args()
    cores, threads = psutil.cpu_count(logical=False), psutil.cpu_count()
    print(
        f"{cores} cores with {threads} hardware threads; load {psutil.getloadavg()[0]:.1f} before"
    )
    times: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "args.json"
        content = CONFIG | {"devinterp": {"num_draws": options.draws}}
        config.write_text(json.dumps(content))
        for repeat in range(options.repeats):
            print(f"two processes that know nothing of each other: {ceiling():.2f}", flush=True)
            for at_once in (1, 2) if repeat % 2 == 0 else (2, 1):
                whole, runs = seconds(config, Path(folder) / f"{at_once}-{repeat}", at_once)
                times[at_once].append(whole)
                listed = ", ".join(f"{run:.1f}" for run in runs)
                print(f"{at_once} at a time: {whole:.1f} s; runs {listed} s", flush=True)
    ratio = statistics.median(times[1]) / statistics.median(times[2])
    print(f"two at a time are {ratio:.2f} times as fast; wanted: {WANTED}")


if __name__ == "__main__":
    main()
