"""How much sooner is the same error there? `auto` against devinterp, at the same (nβ, γ).

    .venv/bin/python benchmarks/llc_efficiency.py RUN_DIRECTORY [--setting published|local]
    .venv/bin/python benchmarks/llc_efficiency.py --lenet [--setting published]

Efficiency is 1/(seconds × mean squared error against a long reference). The checkpoint is the last
of a run's NGD (the default run's, FFNN 2 × 256), or LeNet-5 after two epochs of SGD.

The reference is eight of `auto`'s chains at half its first step, 2,000 draws each on
minibatches of 1,024. `auto` is charged everything: pilot, coordinates, control variates, basin,
certificates.

devinterp gets the seconds that `auto` took, the best step of a grid, the best chain length and the
best burn-in (chosen on half of 16 chains, judged on the others: else the smallest of 48 errors
would be one that happens to be small), and as many chains as fit, also a fraction of one. Its draws
are taken from this project's engine, whose SGLD is devinterp's step for step (`tests`), and charged
what devinterp needs for a draw in the same process. Squared errors are bias², net of its noise,
plus variance. The reference is not cooled, so that it does not share what cooling leaves.
"""

import argparse
import math
import time
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from llc_speed import devinterp_chain
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from degeneracy.curvature.largest import largest_curvature, loss_on
from degeneracy.llc import auto
from degeneracy.llc.chains import problem_of
from degeneracy.llc.devinterp_chains import Batches
from degeneracy.llc.estimate import estimate_llcs, mean_loss, resolve_nbeta
from degeneracy.llc.langevin import walk
from degeneracy.llc.settings import SamplerSettings
from degeneracy.models.networks import FFNN, LeNet5
from degeneracy.objective.loss import objective_of
from degeneracy.training import packed_weights
from utils_general import load_data

SETTINGS = {"published": ("batch", 100.0), "local": ("dataset", 10_000.0)}
STEPS = (0.05, 0.1, 0.2, 0.4)  # ε of devinterp, over 1/(nβ h + γ)
LENGTHS, BURN_INS = (250, 500, 1000, 2000), (0.0, 0.25, 0.5)
CHAINS, BATCH = 8, 128
PEERS = 16  # chains of devinterp's step: half of them choose the setting, the others judge it
REFERENCE_DRAWS = 2000


def checkpoint(options):
    """(model, state) to be sampled."""
    if not options.lenet:
        (path,) = Path(options.run).glob("checkpoints/*-ngd-0020.safetensors")
        return FFNN(256, 2), packed_weights(load_file(path))
    torch.manual_seed(0)
    model, data = LeNet5(0), load_data(options.data).train
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    for _ in range(2):
        for index in torch.randperm(len(data[1])).split(BATCH):
            optimizer.zero_grad()
            cross_entropy(model(data[0][index]), data[1][index]).backward()
            optimizer.step()
    return model, {name: tensor.clone() for name, tensor in model.state_dict().items()}


def reference(model, state, data, nbeta: float, settings) -> tuple[float, float]:
    """λ̂ by long chains of small steps, with its standard error."""
    model.load_state_dict(state)
    objective = objective_of(model, cross_entropy, data)
    loss = mean_loss(model, data)
    finer = settings.model_copy(update={"sampler_batch_size": 1024, "cooled": False})
    given = objective.weights, loss, nbeta, finer
    place = auto.prepared(objective, problem_of(objective, BATCH), *given)
    step = auto.first_step(place.stiffness) / 2
    plan = replace(auto.planned(place, nbeta, finer, step), num_draws=REFERENCE_DRAWS)
    seeds = [(7, 7, chain) for chain in range(CHAINS)]
    found = walk(place.problem, place.at, loss, seeds, plan, label="reference").losses
    llcs = nbeta * (found.mean(axis=1) - loss)
    return float(llcs.mean()), float(llcs.std(ddof=1) / math.sqrt(CHAINS))


def ours(model, state, data, settings, repeats: int) -> tuple[list, float]:
    """Estimates, and the median of the seconds that one took."""
    estimates, seconds = [], []
    for repeat in range(repeats):
        started = time.perf_counter()
        again = settings.model_copy(update={"seed": 100 + repeat})
        estimates += estimate_llcs(model, [state], data, again, BATCH)
        seconds.append(time.perf_counter() - started)
    return estimates, float(np.median(seconds))


def devinterp_best(model, state, data, nbeta: float, gamma: float, truth, seconds: float, draw_s):
    """Its mean squared error in `seconds`, with the setting that attains it."""
    model.load_state_dict(state)
    few = tuple(part[:1280] for part in data)
    weights = {name: p.detach() for name, p in model.named_parameters()}
    stiff = nbeta * largest_curvature(loss_on(model, few, cross_entropy), weights)
    tried = []
    for step in STEPS:
        settings = SamplerSettings(
            sampler="sgld",
            num_chains=PEERS,
            num_draws=LENGTHS[-1],
            nbeta=nbeta,
            localization=gamma,
            sampler_lr=step / (stiff + gamma),
        )
        (found,) = estimate_llcs(model, [state], data, settings, BATCH)
        for length, share in product(LENGTHS, BURN_INS):
            kept = found.trace[:, int(share * length) : length].astype(float)
            llcs = nbeta * (kept.mean(axis=1) - found.init_loss)
            fits = seconds / (length * draw_s)  # chains, also a fraction of one
            errors = [squared_error(half, truth, fits) for half in (llcs[::2], llcs[1::2])]
            tried.append((errors, settings.sampler_lr, length, share, llcs.mean()))
    chosen = min(tried, key=lambda one: one[0][0])
    return chosen[0][1], *chosen[1:]


def squared_error(llcs: np.ndarray, truth: tuple[float, float], chains: float) -> float:
    """Of the mean of so many chains, from some of them."""
    variance = llcs.var(ddof=1)
    bias = (llcs.mean() - truth[0]) ** 2 - variance / len(llcs) - truth[1] ** 2
    return max(0.0, bias) + variance / chains


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", help="directory of the default run")
    parser.add_argument("--lenet", action="store_true")
    parser.add_argument("--setting", choices=SETTINGS, default="published")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--data", default="fashion-mnist")
    options = parser.parse_args()
    data = load_data(options.data).train
    model, state = checkpoint(options)
    setting, gamma = SETTINGS[options.setting]
    nbeta = resolve_nbeta(setting, BATCH, len(data[1]))
    settings = SamplerSettings(nbeta=setting, localization=gamma)
    model.load_state_dict(state)
    draw_s = devinterp_seconds(model, data)
    truth = reference(model, state, data, nbeta, settings)
    print(f"nβ = {nbeta:.4g}, γ = {gamma:g}: reference {truth[0]:.2f} ± {truth[1]:.2f}", flush=True)
    estimates, seconds = ours(model, state, data, settings, options.repeats)
    llcs = np.array([e.llc for e in estimates])
    variance = float(np.mean([e.std_error**2 for e in estimates]))
    bias = max(0.0, (llcs.mean() - truth[0]) ** 2 - variance / len(llcs) - truth[1] ** 2)
    error = bias + variance
    print(f"auto: {llcs.round(2).tolist()}, {seconds:.1f} s, mean squared error {error:.3g}")
    best = devinterp_best(model, state, data, nbeta, gamma, truth, seconds, draw_s)
    print(
        f"devinterp: {1000 * draw_s:.2f} ms a draw; best ε {best[1]:.2g}, {best[2]} draws, burn-in"
        f" {best[3]:.0%}: {best[4]:.2f}, mean squared error in {seconds:.1f} s {best[0]:.3g}"
    )
    print(f"efficiency, auto ÷ devinterp: {best[0] / error:.1f}")


def devinterp_seconds(model, data) -> float:
    """Seconds of one of devinterp's draws, median of three runs of 100."""
    loader = DataLoader(
        Batches(data), BATCH, shuffle=True, drop_last=True, collate_fn=lambda batch: batch
    )
    return float(np.median([devinterp_chain(model, loader, 100)[1] / 99 for _ in range(3)]))


if __name__ == "__main__":
    main()
