"""What does a step of SP-NGD cost, fresh and with three quarters of its statistics stale?

784-128-128-10 at batch 500 in float32, one thread, beside SGD. Fresh steps refresh all
statistics at every step (`interval=1`), stale ones at every fourth (`interval=4`), of which the
mean over their cycle counts. Contenders take turns in one process. Printed are medians over repeats
of processor milliseconds, and ratios.

    python benchmarks/natural_gradients_sp_ngd.py [--repeats N]
"""

import argparse
import statistics
import time

import torch
from torch.nn.functional import cross_entropy

from degeneracy.optimizers.spngd import SPNGD
from degeneracy.stepper import TorchStepper
from studies.natural_gradients.sp_ngd.runs import network

BATCH, CYCLE = 500, 4
FRESH_MS, STALE_RATIO = 30.0, 0.5  # at most


def contenders() -> dict:
    """Name → stepper over a network of its own."""
    models = [network(784, 128, 2, seed=0) for _ in range(3)]
    sgd = torch.optim.SGD(models[0].parameters(), lr=0.01, momentum=0.9)
    return {
        "sgd": TorchStepper(models[0], cross_entropy, [sgd]),
        "fresh": SPNGD(models[1], 0.01, interval=1),
        "stale": SPNGD(models[2], 0.01, interval=CYCLE),
    }


def cycle_ms(stepper, batches) -> float:
    """Mean processor milliseconds of a step over one cycle of refreshes."""
    started = time.process_time()
    for inputs, labels in batches:
        stepper.step(inputs, labels)
    return 1e3 * (time.process_time() - started) / len(batches)


def main() -> None:
    """Prints the medians."""
    parser = argparse.ArgumentParser(description="What does a step of SP-NGD cost?")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    batches = [(torch.randn(BATCH, 784), torch.randint(10, (BATCH,))) for _ in range(CYCLE)]
    steppers, found = contenders(), {"sgd": [], "fresh": [], "stale": []}
    for repeat in range(options.repeats + 1):
        for name, stepper in steppers.items():
            spent = cycle_ms(stepper, batches)
            if repeat:
                found[name].append(spent)
    sgd, fresh, stale = (statistics.median(found[name]) for name in found)
    print(f"torch {torch.__version__}, 1 thread, 784-128-128-10, batch {BATCH}")
    print(f"SGD                         {sgd:6.1f} ms a step")
    print(f"SP-NGD, fresh               {fresh:6.1f} ms a step (at most {FRESH_MS:g})")
    print(f"SP-NGD, 75 % stale          {stale:6.1f} ms a step")
    print(f"stale / fresh               {stale / fresh:6.2f} (at most {STALE_RATIO:g})")
    print(f"fresh / SGD                 {fresh / sgd:6.2f}")


if __name__ == "__main__":
    main()
