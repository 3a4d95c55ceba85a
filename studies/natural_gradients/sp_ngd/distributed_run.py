"""What do processes send each other in a short training, with and without stale statistics?

    torchrun --nproc-per-node 2 -m studies.natural_gradients.sp_ngd.distributed_run

On GPUs where there are as many, else on CPUs. Each rank takes its share of every batch.
"""

import argparse
import os
import sys
from collections.abc import Sequence

import torch
import torch.distributed as dist

from degeneracy.data.images import load_data
from degeneracy.optimizers.distributed import RankLostError, numbers_sent, process_group
from degeneracy.optimizers.spngd import SPNGD
from degeneracy.runs.work import from_project
from degeneracy.training import evaluate
from studies.natural_gradients.sp_ngd.runs import batches, flat_images, network

ALPHAS = (0.0, 0.4)  # fresh, and stale


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains once for each α; the first rank prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=2_000, help="of all ranks together")
    parser.add_argument("--width", type=int, default=128, help="units of both hidden layers")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds until a rank is lost")
    options = parser.parse_args(arguments)
    if options.steps < 1 or options.width < 1 or options.timeout <= 0:
        parser.error("--steps, --width and --timeout: allowed: > 0")
    try:
        with process_group(options.timeout) as device:
            if options.batch_size < 1 or options.batch_size % dist.get_world_size():
                parser.error(
                    f"--batch-size {options.batch_size} given for {dist.get_world_size()} ranks;"
                    " allowed: a multiple of their number"
                )
            _train(options, device)
    except (RankLostError, ValueError) as error:
        sys.exit(str(error))


def _train(options: argparse.Namespace, device: torch.device) -> None:
    rank, size = dist.get_rank(), dist.get_world_size()
    data = flat_images(load_data("mnist", from_project("data"), device).train)
    for alpha in ALPHAS:
        model = network(data.inputs.shape[1], options.width, 2, seed=1).to(device)
        optimizer = SPNGD(model, 0.01, alpha=alpha)
        every, sent, refreshed = list(optimizer.schedules), 0, 0
        stream = batches(data, options.batch_size, seed=1)
        for _, batch in zip(range(options.steps), stream, strict=False):
            share = [part.chunk(size)[rank] for part in batch]
            optimizer.step(*share)
            sent, refreshed = sent + optimizer.sent.total, refreshed + len(optimizer.refreshed)
        whole = numbers_sent(optimizer.blocks, every, size, triangles=False).total
        if rank == 0:
            print(
                f"α = {alpha:g}, {size} ranks, {options.steps} steps: loss"
                f" {evaluate(model, data)[0]:.4f},"
                f" {100 * refreshed / (options.steps * len(every)):.0f} % of the statistics"
                f" refreshed, {sent / options.steps:,.0f} numbers sent a step,"
                f" {whole:,} with fresh statistics as whole matrices",
                flush=True,
            )


if __name__ == "__main__":
    # torchrun sets one thread a rank unless told otherwise.
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    main()
