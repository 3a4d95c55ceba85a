"""What does an exact Gauss-Newton step cost, in Adam steps and beside the published solver?

RevMLP of 2 blocks on MNIST in float32, cut-offs as published (1e-2, 1e-5). A step is all of it:
forward pass, direction with its ranks and missed fraction, and the weights' change. "svd" is the
same step with each half-layer solved as the published code does, by a truncated singular value
decomposition in float32. The contenders take turns in one process, so that all see the same
machine: run it alone there. Printed are medians over repeats, and ratios of them.

    python benchmarks/gauss_newton_speed.py [--only HIDDEN,BATCH ...] [--repeats N] [--no-svd]
        [--device cpu|cuda]
"""

import argparse
import statistics
import warnings
from unittest import mock

import torch
from torch.nn.functional import cross_entropy

from degeneracy.cost import clock
from degeneracy.data.images import load_data
from degeneracy.device import chosen_device
from degeneracy.optimizers import gauss_newton
from degeneracy.optimizers.gauss_newton import Change, Fitted, GaussNewton, RankWarning
from degeneracy.runs.work import PROJECT
from studies.gauss_newton.network import RevMLP

CASES = ((1000, 256), (4000, 256), (1000, 1000), (4000, 1024))  # (hidden, batch)
# at most so many Adam steps, at least so many times as fast as the SVD; None where none is asked
WANTED = {
    (1000, 256): (3.5, 2.8),
    (4000, 256): (3.5, 2.8),
    (1000, 1000): (8.0, None),
    (4000, 1024): (5.0, 4.5),
}


def svd_fitted(half, wanted, rtol, atol, ridge) -> Fitted:
    """`gauss_newton.fitted` as the published code solves it."""
    ones = torch.ones(len(wanted), 1, device=wanted.device)
    features = torch.cat([half.features, ones], dim=1) if half.has_bias else half.features
    left, values, right = torch.linalg.svd(features, full_matrices=False)
    kept = (values >= rtol * values[0]) & (values >= atol)
    inverse = torch.where(kept, 1 / values, 0.0)
    change = right.T @ (inverse[:, None] * (left.T @ wanted))
    weight, bias = (change[:-1].T, change[-1]) if half.has_bias else (change.T, None)
    return Fitted(Change(weight, bias), features @ change, int(kept.sum()))


class Contender:
    """A network and what steps it."""

    def __init__(self, kind: str, hidden: int, device: torch.device):
        torch.manual_seed(0)
        self.kind, self.model = kind, RevMLP(784, hidden, 2, 10).to(device)
        if kind == "adam":
            self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-4)
        else:
            self.optimizer = GaussNewton(self.model, lr=0.1)

    def step(self, inputs, labels) -> float:
        """Seconds of one step."""
        started = clock(inputs.device)
        if self.kind == "adam":
            self.optimizer.zero_grad()
            cross_entropy(self.model(inputs), labels).backward()
            self.optimizer.step()
        elif self.kind == "svd":
            with mock.patch.object(gauss_newton, "fitted", svd_fitted):
                self.optimizer.step(inputs, labels)
        else:
            self.optimizer.step(inputs, labels)
        return clock(inputs.device) - started


def measured(
    hidden: int, batch: int, repeats: int, kinds: tuple[str, ...], device: torch.device
) -> dict[str, float]:
    """Median seconds a step, by contender; the first step of each is not counted."""
    data = load_data("mnist", PROJECT / "data", device).train
    contenders = [Contender(kind, hidden, device) for kind in kinds]
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for repeat in range(repeats + 1):
        chosen = slice(repeat * batch, (repeat + 1) * batch)
        for contender in contenders:
            spent = contender.step(data.inputs[chosen], data.labels[chosen])
            if repeat:
                seconds[contender.kind].append(spent)
    return {kind: statistics.median(spent) for kind, spent in seconds.items()}


def line(hidden: int, batch: int, found: dict[str, float]) -> str:
    """A row of the table."""
    adam, ours, svd = (found.get(kind) for kind in ("adam", "gram", "svd"))
    most, least = WANTED.get((hidden, batch), (None, None))
    cells = [f"{hidden}, {batch}", f"{adam:.3f}", f"{ours:.3f}", f"{ours / adam:.2f}"]
    cells += ["–" if most is None else f"{most:g}", "–" if svd is None else f"{svd:.3f}"]
    cells += ["–" if svd is None else f"{svd / ours:.2f}", "–" if least is None else f"{least:g}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="What does a Gauss-Newton step cost?")
    parser.add_argument("--only", nargs="*", metavar="HIDDEN,BATCH")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--no-svd", action="store_true")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    options = parser.parse_args()
    device = chosen_device(options.device)
    asked = options.only and [tuple(map(int, text.split(","))) for text in options.only]
    kinds = ("adam", "gram") if options.no_svd else ("adam", "gram", "svd")
    warnings.simplefilter("ignore", RankWarning)
    where = f"{torch.get_num_threads()} threads"
    if device.type == "cuda":
        where = torch.cuda.get_device_name(device)
    print(f"torch {torch.__version__}, {where}, MNIST, float32")
    head = "h, B | Adam s | GN s | in Adam steps | at most | SVD s | faster than SVD | at least"
    print(f"| {head} |", "| --- " * 8 + "|", sep="\n")
    for hidden, batch in asked or CASES:
        print(
            line(hidden, batch, measured(hidden, batch, options.repeats, kinds, device)), flush=True
        )


if __name__ == "__main__":
    main()
