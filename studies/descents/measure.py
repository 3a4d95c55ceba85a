"""How degenerate are the weights at which a training passed given losses? Touches no file.

Parts: "training" trains and keeps when the losses were passed; "degeneracy" measures there. Weights
are not kept: the training, which takes seconds, is done again where a kill came between the two.
"""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from degeneracy.curvature.summary import curvature_summary
from degeneracy.data.images import TensorData, load_data
from degeneracy.llc.estimate import estimate_llcs
from degeneracy.llc.settings import AUTO, SamplerSettings
from degeneracy.models.balance import balanced
from degeneracy.runs.results import finding
from degeneracy.runs.work import Measured, Work, from_project
from studies.descents.descent import Descent, Passage, network
from studies.descents.settings import MeasurementSettings, Settings

SAMPLER_KEYS = {"nbeta", "localization", "num_chains", "num_draws", "sampler_batch_size"}
KEPT = (  # of an estimate
    "llc",
    "std_error",
    "verdict",
    "locality",
    "relative_distance",
    "basin_shift",
    "basin_llc",
    "rhat",
    "distance_rhat",
    "relaxation",
    "num_burnin_steps",
    "num_draws",
    "num_diverged_chains",
)


def images(work: Work) -> TensorData:
    """The first images of the training set, pooled."""
    training = work.settings.training
    root = from_project(training.root)
    data = load_data(training.dataset, root, work.device).train.first(training.num_images)
    return data.pooled(training.pooled)


def measure_training(work: Work) -> Measured:
    """When each loss was passed, and how the training went."""
    for key in work.todo(["descent"]):
        descent, passages = descended(work)
        yield key, training_record(descent, passages)


def descended(work: Work) -> tuple[Descent, list[Passage]]:
    """The training, done once for both parts where one process does both."""
    if "descended" not in work.traces:
        descent = Descent(work.settings, images(work))
        work.traces["descended"] = descent, list(descent.passages())
    return work.traces["descended"]


def training_record(descent: Descent, passages: Sequence[Passage]) -> dict[str, Any]:
    """What a training leaves in results."""
    return {
        "outcome": descent.outcome,
        "num_weights": sum(p.numel() for p in descent.model.parameters()),
        "looks": [
            [step, seconds, loss if math.isfinite(loss) else None]
            for step, seconds, loss in descent.looks
        ],
        "passages": [
            {
                "targets": passage.targets,
                "step": passage.step,
                "seconds": passage.seconds,
                "loss": passage.loss,
            }
            for passage in passages
        ],
    }


def measure_degeneracy(work: Work) -> Measured:
    """λ̂ and curvature at the losses that are wanted, one after the other."""
    passages = {}
    settings: Settings = work.settings
    for key in work.todo(keys_of(settings, work.results["parts"]["training"]["descent"])):
        if not passages:
            descent, found = descended(work)
            passages = {key_of(target): one for one in found for target in one.targets}
        yield key, degeneracy(settings, descent.data, passages[key].weights)


def keys_of(settings: Settings, training: dict[str, Any]) -> list[str]:
    """Of the losses that are to be measured; several that one look passed are measured once."""
    wanted = {"all": settings.training.losses, "last": settings.training.losses[-1:], "none": []}
    chosen = wanted[settings.measurement.losses]
    firsts = ([t for t in one["targets"] if t in chosen][:1] for one in training["passages"])
    return [key_of(target) for first in firsts for target in first]


def key_of(loss: float) -> str:
    """A loss as the key of what was measured there."""
    return f"{loss:g}"


def degeneracy(settings: Settings, data: TensorData, weights: dict[str, Tensor]) -> dict[str, Any]:
    """What is measured at one point."""
    how, training = settings.measurement, settings.training
    model = network(training, data).to(data.labels.device)
    if how.gauge == "balanced":
        weights = balanced(model, weights)
    (estimate,) = estimate_llcs(
        model, [weights], tuple(data), sampler(how, training.seed), training.batch_size, label="λ̂"
    )
    found = finding(estimate)
    kept = {name: found[name] for name in KEPT if name in found}
    few = tuple(data.first(how.hessian_images))
    return {"llc": kept, **curvature_summary(model, weights, few, how.num_probes)._asdict()}


def sampler(how: MeasurementSettings, seed: int) -> SamplerSettings:
    """Of the estimates."""
    return SamplerSettings(sampler=AUTO, seed=seed, **how.model_dump(include=SAMPLER_KEYS))
