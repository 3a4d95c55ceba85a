"""What does each part of `auto` cost, and how does the cost grow with weights, chains and draws?

    .venv/bin/python benchmarks/llc_cost.py [--data fashion-mnist]

FFNNs with two hidden layers after 100 steps of SGD, at the settings of the published measure (nβ =
m/ln m, γ = 100), on all threads. Seconds are medians of three repeats but for the pilot, which runs
once; recording is what a walk of 8 chains takes before its first draw.
"""

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from degeneracy.llc import auto
from degeneracy.llc.basin import bottom
from degeneracy.llc.chains import problem_of
from degeneracy.llc.chance import chance_loss
from degeneracy.llc.estimate import mean_loss, resolve_nbeta
from degeneracy.llc.langevin import EVALUATION_BATCH, walk
from degeneracy.llc.settings import SamplerSettings
from degeneracy.models.networks import FFNN, num_parameters
from degeneracy.objective.loss import objective_of
from utils_general import load_data

HIDDEN = (1, 12, 110, 256, 660)  # nodes of a layer: about 10³ to 10⁶ weights
BATCH, STEPS, REPEATS = 128, 100, 3
DRAWS, CHAINS = (100, 200, 400), (2, 4, 8, 16)
CHANCE = math.log(10)


def trained(hidden: int, data) -> FFNN:
    """A network after a few steps."""
    torch.manual_seed(0)
    model = FFNN(hidden, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    for index in torch.randperm(len(data[1]))[: STEPS * BATCH].split(BATCH):
        optimizer.zero_grad()
        cross_entropy(model(data[0][index]), data[1][index]).backward()
        optimizer.step()
    return model


def seconds(run: Callable, repeats: int = REPEATS) -> float:
    """The median of the times that `run` takes."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return float(np.median(times))


class Prepared:
    """A model made ready, with its parts to be timed."""

    def __init__(self, hidden: int, data):
        self.model, self.data = trained(hidden, data), tuple(data)
        self.settings = SamplerSettings()
        self.nbeta = resolve_nbeta("batch", BATCH, len(data[1]))
        self.size = num_parameters(self.model)
        self.place = self.prepared()
        step = auto.first_step(self.place.stiffness)
        self.plan = replace(
            auto.planned(self.place, self.nbeta, self.settings, step), num_burnin_steps=0
        )
        self.some = self.walked(8, 200)

    def pilot(self) -> None:
        auto.piloted(self.place, self.nbeta, self.settings, 0, "pilot")

    def prepared(self) -> auto.Place:
        objective = objective_of(self.model, cross_entropy, self.data)
        init_loss = objective.mean_loss(EVALUATION_BATCH)
        given = objective.weights, init_loss, self.nbeta, self.settings
        return auto.prepared(objective, problem_of(objective, BATCH), *given)

    def walked(self, chains: int, draws: int):
        seeds = [(0, 0, chain) for chain in range(chains)]
        plan = replace(self.plan, num_draws=draws)
        return walk(self.place.problem, self.place.at, self.place.init_loss, seeds, plan)

    def basin(self):
        place, gamma = self.place, self.settings.localization
        return bottom(place.problem, place.at, self.nbeta, gamma, place.stiffness)

    def certified(self):
        """All but the basin, which γ = 0 leaves out."""
        without = self.settings.model_copy(update={"localization": 0.0})
        plan = replace(self.plan, localization=0.0, num_draws=200)
        return auto.certified(self.place, plan, self.some, without, CHANCE, None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="fashion-mnist")
    data = load_data(parser.parse_args().data).train
    print(
        "| weights | ms a draw and chain | recording | L(w*) | coordinates, curvature, L(w*) |"
        " pilot | basin's bottom | L_chance | R-hat, distances, words |\n" + "| --- " * 9 + "|"
    )
    for hidden in HIDDEN:
        one = Prepared(hidden, data)
        short, long = (seconds(lambda n=n, one=one: one.walked(8, n)) for n in (20, 80))
        draw = (long - short) / (8 * 60)
        parts = [
            seconds(lambda one=one: mean_loss(one.model, one.data)),
            seconds(one.prepared),
            seconds(one.pilot, 1),
            seconds(one.basin),
            seconds(lambda one=one: chance_loss(one.model, one.data, cross_entropy)),
            seconds(one.certified),
        ]
        cells = " | ".join(f"{part:.2f} s" for part in (short - 160 * draw, *parts))
        print(f"| {one.size:,} | {1000 * draw:.2f} | {cells} |", flush=True)
        if hidden == 256:
            grown = one
    by_chains = [seconds(lambda c=c: grown.walked(c, 100)) for c in CHAINS]
    by_draws = [seconds(lambda d=d: grown.walked(8, d)) for d in DRAWS]
    print(f"\n{grown.size:,} weights, 100 draws of {CHAINS} chains: {np.round(by_chains, 2)} s")
    print(f"8 chains of {DRAWS} draws: {np.round(by_draws, 2)} s")


if __name__ == "__main__":
    main()
