"""What does a draw cost? The batched chains against devinterp's, against their floor, and against
per-image loading.

    .venv/bin/python benchmarks/llc_speed.py [--device cuda]

Same tensors, same process, same threads; devinterp is fed whole batches and never pickles the data.
The contenders' repeats are interleaved, medians and ratios are printed: run it alone on the
machine. The floor of a draw is its matrix products and its random numbers and nothing else, with
PyTorch's own threads.
"""

import argparse
import statistics
import time
import warnings

import torch
from devinterp.backends.default.slt.sampler import sample_single_chain
from devinterp.optim import SGLD
from devinterp.slt.llc import LLCEstimator
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from degeneracy.cost import clock
from degeneracy.data.files import import_torchvision
from degeneracy.llc.devinterp_chains import Batches
from degeneracy.llc.estimate import estimate_llcs, mean_loss
from degeneracy.llc.settings import SamplerSettings
from degeneracy.models.networks import FFNN, LeNet5
from degeneracy.runs.work import PROJECT
from utils_general import load_data

BATCH_SIZE, REPEATS = 128, 5
SGLD_SETTINGS = {"lr": 1e-4, "localization": 100.0, "nbeta": 26.38}


def devinterp_chain(model: nn.Module, loader: DataLoader, num_draws: int) -> tuple[float, float]:
    """Seconds (before the first draw, from the first to the last draw) of one chain."""
    device = next(model.parameters()).device
    times = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        started = clock(device)
        sample_single_chain(
            ref_model=model,
            loader=loader,
            evaluate=lambda m, batch: cross_entropy(m(batch[0]), batch[1]),
            sampling_method=SGLD,
            optimizer_kwargs=dict(SGLD_SETTINGS),
            num_draws=num_draws,
            verbose=False,
            device=device,
            callbacks=[
                LLCEstimator(1, num_draws, 0.0, device, nbeta=26.38),
                lambda **_: times.append(time.perf_counter()),
            ],
        )
        ended = clock(device)
    return times[0] - started, ended - times[0]


def batched_seconds(model: nn.Module, data, num_chains: int, num_draws: int) -> float:
    """Seconds of `estimate_llcs`, everything included."""
    device = data[0].device
    settings = SamplerSettings(sampler="sgld", num_chains=num_chains, num_draws=num_draws)
    started = clock(device)
    estimate_llcs(model, [model.state_dict()], data, settings, BATCH_SIZE)
    return clock(device) - started


def floor_seconds(model: nn.Module, steps: int) -> float:
    """Seconds a draw of a fully connected model's matrix products and noise take, mean over
    `steps`.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    device = layers[0].weight.device
    products = []
    for position, layer in enumerate(layers):
        x = torch.randn(BATCH_SIZE, layer.in_features, device=device)
        d, w = torch.randn(BATCH_SIZE, layer.out_features, device=device), layer.weight.detach()
        products += [(x, w.T), (d.T, x)] + (
            [(d, w)] if position else []
        )  # forward, by weights, by inputs
    noise = torch.empty(sum(p.numel() for p in model.parameters()), device=device)
    started = clock(device)
    for _ in range(steps):
        for a, b in products:
            torch.mm(a, b)
        noise.normal_()
    return (clock(device) - started) / steps


def published_pipeline_seconds(model: nn.Module, num_draws: int) -> float:
    """Seconds a draw through a `DataLoader` with per-image transforms, as the published runs loaded
    their data.
    """
    torchvision = import_torchvision()
    transform = torchvision.transforms.Compose(
        [torchvision.transforms.ToTensor(), torchvision.transforms.Normalize((0.1307,), (0.3081,))]
    )
    dataset = torchvision.datasets.MNIST(PROJECT / "data", train=True, transform=transform)
    loader = DataLoader(dataset, BATCH_SIZE, shuffle=True)
    return devinterp_chain(model, loader, num_draws)[1] / (num_draws - 1)


def compare(model: nn.Module, data, many: int, draws: int) -> dict[str, float]:
    """Medians over interleaved repeats, in seconds."""
    loader = DataLoader(
        Batches(data), BATCH_SIZE, shuffle=True, drop_last=True, collate_fn=lambda batch: batch
    )
    seconds: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        seconds.setdefault(name, []).append(value)

    mean_loss(model, data)
    batched_seconds(model, data, 2, 4)  # imports, warm-up
    for _ in range(REPEATS):
        setup, rest = devinterp_chain(model, loader, draws)
        note("devinterp set-up a chain", setup)
        note("devinterp a draw", rest / (draws - 1))
        if isinstance(model, FFNN):
            note("floor a draw", floor_seconds(model, draws))
        for chains in (2, many):
            short, long = (batched_seconds(model, data, chains, n) for n in (4, 4 + draws))
            note(f"batched, {chains} chains, a draw", (long - short) / draws / chains)
            note(
                f"batched, {chains} chains, set-up a chain",
                (short - 4 * (long - short) / draws) / chains,
            )
        started = clock(data[0].device)
        mean_loss(model, data)
        note("L(w*)", clock(data[0].device) - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def totals(model: nn.Module, data, num_draws: int) -> tuple[float, float]:
    """Seconds of 2 chains × `num_draws`, L(w*) included: (devinterp, batched)."""
    loader = DataLoader(
        Batches(data), BATCH_SIZE, shuffle=True, drop_last=True, collate_fn=lambda batch: batch
    )
    theirs, ours = [], []
    for _ in range(3):
        started = clock(data[0].device)
        mean_loss(model, data)
        for _ in range(2):
            devinterp_chain(model, loader, num_draws)
        theirs.append(clock(data[0].device) - started)
        ours.append(batched_seconds(model, data, 2, num_draws))
    return statistics.median(theirs), statistics.median(ours)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument(
        "--quick", action="store_true", help="leave the totals and the published pipeline out"
    )
    options = parser.parse_args()
    device = torch.device(options.device)
    many = 8 if device.type == "cpu" else 64
    data = load_data("mnist", PROJECT / "data", device).train
    print(
        f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, {REPEATS} repeats"
    )
    for build, draws in ((lambda: FFNN(256, 2), 100), (LeNet5, 20)):
        torch.manual_seed(0)
        model = build().to(device)
        medians = compare(model, data, many, draws)
        print(model.title)
        for name, value in medians.items():
            print(f"  {name}: {value * 1e3:.2f} ms")
        for chains in (2, many):
            ours = medians[f"batched, {chains} chains, a draw"]
            text = f"devinterp ÷ batched {medians['devinterp a draw'] / ours:.2f}"
            if "floor a draw" in medians:
                text += f", batched ÷ floor {ours / medians['floor a draw']:.2f}"
            print(f"  {chains} chains: {text}")
        if options.quick:
            continue
        theirs, ours = totals(model, data, 1000 if isinstance(model, FFNN) else 100)
        print(
            f"  total of 2 chains: devinterp {theirs:.2f} s, batched {ours:.2f} s, ratio"
            f" {theirs / ours:.2f}"
        )
        if isinstance(model, FFNN):
            loaded = published_pipeline_seconds(model, 40)
            ratio = loaded / medians[f"batched, {many} chains, a draw"]
            print(
                f"  published pipeline: {loaded * 1e3:.1f} ms a draw, ÷ batched, {many} chains:"
                f" {ratio:.1f}"
            )


if __name__ == "__main__":
    main()
