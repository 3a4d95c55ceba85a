"""What is measured of SENG's sketches, a seed at a time? Touches no file."""

import time
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from degeneracy.data.images import TensorData, load_data
from degeneracy.models.networks import FFNN
from degeneracy.runs.work import Measured, Work, from_project
from studies.natural_gradients.seng.directions import (
    cosine,
    directions,
    layers_of,
    median_seconds,
    sketch_cosines,
)
from studies.natural_gradients.seng.settings import Settings

REPEATS = 9  # of what is timed


def measure(work: Work) -> Measured:
    """Cosines and process seconds, seed by seed."""
    settings: Settings = work.settings.seng
    seeds = {f"seed {seed}": seed for seed in settings.seeds}
    data = None
    for key in work.todo(seeds, "seed"):
        if data is None:
            root = from_project(settings.root)
            data = load_data(settings.dataset, root, work.device).train
        yield key, found(settings, data, seeds[key])


def found(settings: Settings, data: TensorData, seed: int) -> dict[str, Any]:
    """Of one seed: a network after some steps of SGD, and one more batch."""
    generator = torch.Generator().manual_seed(seed)
    model = network(settings, seed).to(data.labels.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=settings.lr)
    for _ in range(settings.num_steps):
        optimizer.zero_grad()
        cross_entropy(*_batch(model, data, settings.batch_size, generator)).backward()
        optimizer.step()
    index = _drawn(data, settings.batch_size, generator)
    inputs, labels = data.inputs[index], data.labels[index]
    with torch.no_grad():
        loss = cross_entropy(model(inputs), labels)
    layers, damping = layers_of(model, inputs, labels), settings.damping
    exact, gradient = directions(layers, damping), [g for g, _ in layers]
    root = directions(layers, damping, root_trick=True)
    q_times = {
        str(q): median_seconds(
            lambda q=q: directions(layers, damping, q, generator), time.process_time, REPEATS
        )
        for q in settings.sketches
    }
    return {
        "loss": float(loss),
        "gradient": cosine(exact, gradient),
        "root_without_sketch": cosine(exact, root),
        "root_beside_gradient": cosine(gradient, root),
        "cosines": sketch_cosines(layers, damping, settings.sketches, settings.num_sketches, seed),
        "seconds": {
            "exact": median_seconds(
                lambda: directions(layers, damping), time.process_time, REPEATS
            ),
            **q_times,
        },
    }


def network(settings: Settings, seed: int) -> FFNN:
    """The untrained network."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FFNN(settings.hidden_nodes, settings.hidden_layers)


def _batch(model: nn.Module, data: TensorData, size: int, generator: torch.Generator):
    index = _drawn(data, size, generator)
    return model(data.inputs[index]), data.labels[index]


def _drawn(data: TensorData, size: int, generator: torch.Generator) -> torch.Tensor:
    count = len(data.labels)
    index = torch.randint(count, (size,), generator=generator)
    return index.to(data.labels.device)
