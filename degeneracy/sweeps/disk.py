"""What disk does a run take? Bytes of its checkpoints, sampled losses and report, from shapes.

Checkpoints are counted exactly, up to their headers: weights and optimizer state of every epoch.
The rest is a round number, for it is small beside them or hangs on what is found.
"""

import torch

from degeneracy.config.section import Section
from degeneracy.data.images import NORMALISATION
from degeneracy.runs.config import Config
from degeneracy.runs.memory import FLOAT32, LEAST_DRAWS, state_numbers
from degeneracy.runs.results import parting_epoch, wanted_points
from degeneracy.runs.run import model_factories

REPORT = 6_000_000  # bytes: plotly.js, which every page holds, with figures and results
SIDES = {"mnist": 28, "fashion-mnist": 28, "cifar10": 32}  # pixels
NUM_CLASSES = 10
AUTO_DRAWS = 10 * LEAST_DRAWS  # of a chain of `auto`, whose number of draws is found on the way


def run_bytes(settings: Section) -> int:
    """Bytes of a whole run directory; of studies that keep no checkpoints, of its report alone."""
    if not isinstance(settings, Config):
        return REPORT
    return REPORT + checkpoint_bytes(settings) + trace_bytes(settings)


def checkpoint_bytes(config: Config) -> int:
    """Bytes of the weights, and of the optimizers' states, at the end of every epoch."""
    dataset, names = config.data.dataset, config.optimizer_names
    channels = len(NORMALISATION[dataset][0])
    in_shape = (channels, SIDES[dataset], SIDES[dataset])
    parting = parting_epoch(config.model_dump(mode="json"))
    epochs = dict.fromkeys(names, config.experiment.num_epochs - parting)
    epochs[names[0]] += parting  # who trains up to a swap
    total = 0
    for make in model_factories(config, in_shape, NUM_CLASSES).values():
        with torch.device("meta"):
            shapes = [parameter.shape for parameter in make().parameters()]
        weights = sum(shape.numel() for shape in shapes)
        total += weights  # the initial ones
        for name, count in epochs.items():
            kind, of_kind = config.optimizer_kind(name), config.optimizer_settings(name)
            total += count * (weights + state_numbers(kind, of_kind, shapes))
    return FLOAT32 * total


def trace_bytes(config: Config) -> int:
    """Bytes of the losses that are sampled at the measured checkpoints."""
    sampler = config.devinterp
    draws = sampler.num_draws or AUTO_DRAWS
    is_cnn = config.experiment.model_type == "cnn"
    e = config.experiment
    models = len(e.hidden_conv_layers if is_cnn else e.hidden_nodes)
    points = list(wanted_points(config.model_dump(mode="json"), "", config.optimizer_names))
    return FLOAT32 * models * len(points) * sampler.num_chains * draws
