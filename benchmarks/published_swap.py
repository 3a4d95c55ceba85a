"""Does the published swap run come out again? Three seeds of
`experiments/args_published_swap.json`, both arithmetics.

Runs `experiment.py` once for each seed and arithmetic (a run that is there already is not made
again), prints the table of `docs/results-ngd-sgd.md` and writes `benchmarks/published_swap.json`.
Every seed is shown.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import mean

from degeneracy.files import write_atomically

PROJECT = Path(__file__).parent.parent
CONFIG = PROJECT / "experiments" / "args_published_swap.json"
SEEDS = (1, 2, 3)
METRICS = ("train_loss", "val_loss", "update_norm", "llc", "llc_std_error", "llc_drift")
# Seed 2 of the paper's repository: (optimizer, epoch) → train loss, validation loss, update norm,
# LLC.
PUBLISHED = {
    ("sgd", 30): (0.295, 0.283, 0.00056, 43.6),
    ("ngd", 16): (0.362, 0.332, 0.0061, 44.2),
    ("ngd", 30): (0.148, 0.152, 0.0054, 55.0),
}


def run(arithmetic: str, seed: int, out: Path) -> dict[str, dict[str, float]]:
    """Runs one seed and returns `"<optimizer> <epoch>"` → metrics."""
    config = json.loads(CONFIG.read_text())
    config["experiment"] |= {"ngd_arithmetic": arithmetic, "seed": seed, "measure_epochs": [16, 30]}
    del config["$schema"]
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{arithmetic}_seed{seed}.json"
    path.write_text(json.dumps(config))
    directory = out / f"{arithmetic}_seed{seed}"
    subprocess.run(
        [sys.executable, str(PROJECT / "experiment.py"), str(path), "--out", str(directory)],
        check=True,
    )
    (model,) = json.loads((directory / "results.json").read_text())["models"].values()
    return {
        f"{optimizer} {epoch}": {
            name: model["optimizers"][optimizer][name][epoch] for name in METRICS
        }
        for optimizer, epoch in PUBLISHED
    }


def table(rows: list[dict]) -> str:
    """Markdown: for each optimizer and epoch the published numbers, every seed, and the mean over
    seeds.
    """
    lines = [
        "| after epoch | run | train loss | validation loss | update norm | LLC |",
        "| --- | --- | --- | --- | --- | --- |",
    ]

    def line(point: str, name: str, train: float, val: float, norm: float, llc: str) -> str:
        return f"| {point} | {name} | {train:.4f} | {val:.4f} | {norm:.5f} | {llc} |"

    for (optimizer, epoch), published in PUBLISHED.items():
        point = f"{epoch}, {optimizer.upper()}"
        lines.append(line(point, "published, seed 2", *published[:3], f"{published[3]:.1f}"))
        for arithmetic in ("published", "stable"):
            found = [
                (r["seed"], r["metrics"][f"{optimizer} {epoch}"])
                for r in rows
                if r["arithmetic"] == arithmetic
            ]
            if optimizer == "sgd" and arithmetic == "stable":
                continue  # SGD does not depend on NGD's arithmetic
            name = "ours" if optimizer == "sgd" else f"ours, `{arithmetic}`"
            for seed, m in found:
                llc = f"{m['llc']:.1f} ± {m['llc_std_error']:.1f}"
                lines.append(
                    line(
                        point,
                        f"{name}, seed {seed}",
                        m["train_loss"],
                        m["val_loss"],
                        m["update_norm"],
                        llc,
                    )
                )
            means = [mean(m[key] for _, m in found) for key in METRICS[:4]]
            lines.append(line(point, f"**{name}, mean**", *means[:3], f"**{means[3]:.1f}**"))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=PROJECT / "experiments" / "ngd_sgd" / "published_swap"
    )
    out = parser.parse_args().out
    rows = [
        {"arithmetic": arithmetic, "seed": seed, "metrics": run(arithmetic, seed, out)}
        for arithmetic in ("published", "stable")
        for seed in SEEDS
    ]
    content = {"command": "make published", "runs": rows}
    write_atomically(
        PROJECT / "benchmarks" / "published_swap.json", json.dumps(content, indent=1).encode()
    )
    print(table(rows))


if __name__ == "__main__":
    main()
