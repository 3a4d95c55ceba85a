"""What a rank does in `test_spngd_distributed.py`: the same steps as a process alone, and an end.

Run as `python spngd_ranks.py OUT` with torchrun's environment; writes OUT/rank<r>.pt.
"""

import os
import sys
from pathlib import Path

import torch
from torch import nn

from degeneracy.optimizers.distributed import RankLostError, process_group
from degeneracy.optimizers.spngd import SPNGD

STEPS, TIMEOUT_S = 8, 20.0
SHARES = {1: [(0, 24)], 2: [(0, 9), (9, 24)]}  # of a batch, by the number of ranks: first, end
CASES = {
    "rule": {"alpha": 0.4},
    "interval": {"interval": 3},
    "sampled": {"alpha": 0.4, "fisher": "sampled"},
}


def network(seed):
    """Convolutions, batch norm with fixed moments and linear layers, in float64."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(108, 9),
        nn.Tanh(), nn.Linear(9, 4),
    )  # fmt: skip
    return model.double().eval()


def batches():
    """The whole batch of every step; the sixth has a sample that is not finite."""
    generator = torch.Generator().manual_seed(5)
    for step in range(STEPS):
        inputs = torch.randn(24, 1, 8, 8, generator=generator, dtype=torch.float64)
        labels = torch.randint(4, (24,), generator=generator)
        if step == 5:
            inputs[20] = torch.nan
        yield inputs, labels


def steps(options, rank, size):
    """Weights, losses, what was refreshed and sent, of this rank's share of every batch."""
    model = network(seed=rank)  # the first rank's weights are every rank's
    optimizer = SPNGD(model, 0.05, **options)
    found = {"losses": [], "refreshed": [], "sent": [], "owners": optimizer.team.owners}
    for inputs, labels in batches():
        share = slice(*SHARES[size][rank])
        found["losses"].append(float(optimizer.step(inputs[share], labels[share])["loss"]))
        found["refreshed"].append(list(optimizer.refreshed))
        found["sent"].append(optimizer.sent)
    found["weights"] = torch.cat([p.detach().flatten() for p in model.parameters()])
    found["skipped"] = optimizer.num_skipped_updates
    return found


def refusal():
    """Why one layer cannot have two owners."""
    try:
        SPNGD(nn.Linear(3, 2), 0.1)
    except ValueError as error:
        return str(error)


def main(out):
    with process_group(TIMEOUT_S):
        rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        found = {name: steps(options, rank, size) for name, options in CASES.items()}
        found["refusal"] = refusal()
        torch.save(found, Path(out) / f"rank{rank}.pt")
        optimizer = SPNGD(network(0), 0.05)
        if rank == 1:
            os._exit(3)
        try:
            for inputs, labels in batches():
                optimizer.step(inputs, labels)
        except RankLostError as error:
            sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1])
