"""How degenerate is what each optimizer ended with, as a local estimate that is certified?

One nβ and one γ for all checkpoints of a model that are compared, by `llc.calibration`: the largest
nβ at which all of them are at a minimum. In both gauges, as given and balanced, with common
minibatches and noise, so that a difference is of pairs.
"""

import math
from typing import Any, NamedTuple

from torch import nn
from tqdm import tqdm

from degeneracy.llc.calibration import Calibration, calibrate
from degeneracy.llc.estimate import LLCEstimate, estimate_llcs, mean_loss
from degeneracy.llc.settings import AUTO, SamplerSettings
from degeneracy.llc.statistics import paired_difference
from degeneracy.models.balance import balanced
from degeneracy.runs.measurements import point_text
from degeneracy.runs.results import finding, optimizers, parting_epoch, series_of, swap_epoch
from degeneracy.runs.run import SEEDS_APART, Run, load_weights, weights_at
from degeneracy.runs.store import Point
from degeneracy.runs.work import Measured, Part
from degeneracy.texts import with_error
from studies.ngd_sgd.verdict import UNEQUAL_LOSS

NUM_CHAINS = 8
NEAR_LOSS = 1.2  # ratio of two training losses up to which they are called nearly the same
GIVEN, BALANCED = "given", "balanced"


class Local(NamedTuple):
    """The local estimates of one model."""

    title: str


def measure_local(run: Run) -> Measured:
    """Local estimates of every model's last checkpoints and of the parting one, sampled by `auto`.

    Not where a published sampler is asked for.
    """
    if run.config.devinterp.sampler != AUTO:
        return
    for key in run.todo([Local(title) for title in run.models], "model"):
        if points := _points(run, key.title):
            model = run.models[key.title]().to(run.device)
            equal = _equal_loss(run, model, points)
            points += [p for pair in equal.values() for p in pair if p not in points]
            yield key, _local(run, model, points, equal)


def _points(run: Run, title: str) -> list[Point]:
    """The last checkpoint of every optimizer that got there, then the one that all share."""
    last, names = run.config.experiment.num_epochs, optimizers(run.results)
    points = [Point(title, name, last) for name in names]
    if swap_epoch(run.results["config"]):
        points.append(Point(title, names[0], parting_epoch(run.results["config"])))
    return [p for p in points if series_of(run.results, p)["val_loss"][p.epoch] is not None]


def _equal_loss(run: Run, model: nn.Module, points: list[Point]) -> dict[str, tuple[Point, Point]]:
    """Other optimizer → (baseline's checkpoint, its own) of nearly the same training loss L(w*).

    The one that got less far stays at its last checkpoint; of the other the epoch after the parting
    with the nearest loss, if that is within a fifth. Only where the last losses differ by more than
    a tenth, as the verdict has it.
    """
    finals = [point for point in points if point.epoch == run.config.experiment.num_epochs]
    first = parting_epoch(run.results["config"]) + 1
    found = {}
    if not finals or finals[0].optimizer != optimizers(run.results)[0]:
        return found
    for other in finals[1:]:
        pair = (finals[0], other)
        losses = [_loss(run, model, point) for point in pair]
        if min(losses) <= 0 or abs(losses[0] - losses[1]) <= UNEQUAL_LOSS * max(losses):
            continue
        ahead = losses.index(min(losses))
        wanted = losses[1 - ahead]
        earlier = [pair[ahead]._replace(epoch=e) for e in range(first, pair[ahead].epoch + 1)]
        losses = [(_loss(run, model, point), point) for point in earlier]
        known = [(abs(math.log(loss / wanted)), p) for loss, p in losses if 0 < loss < math.inf]
        if known and min(known)[0] <= math.log(NEAR_LOSS):
            there = list(pair)
            there[ahead] = min(known)[1]
            found[other.optimizer] = tuple(there)
    return found


def _loss(run: Run, model: nn.Module, point: Point) -> float:
    """L(w*), over the whole training set."""
    load_weights(run, model, point)
    return mean_loss(model, run.data.train)


def _local(
    run: Run, model: nn.Module, points: list[Point], equal: dict[str, tuple[Point, Point]]
) -> dict[str, Any]:
    states = {GIVEN: [weights_at(run, point) for point in points]}
    unbalanced = ""
    try:
        states[BALANCED] = [balanced(model, state) for state in states[GIVEN]]
    except ValueError as error:
        unbalanced = str(error)
        tqdm.write(f"{points[0].title}: no balanced gauge: {unbalanced}")
    everywhere = [state for gauge in states.values() for state in gauge]
    everywhere = [{k: v.to(run.device) for k, v in state.items()} for state in everywhere]
    base = run.config.devinterp.model_copy(update={"num_chains": _chains(run), "gauge": GIVEN})
    size, data = run.config.data.batch_size, run.data.train
    calibration = calibrate(model, everywhere, tuple(data), base, size)
    tqdm.write(f"{points[0].title}: {calibration.reason}")
    settings = calibration.settings or _fallback(base, calibration)
    shared = SEEDS_APART * run.config.experiment.seed  # common random numbers
    flat = estimate_llcs(
        model,
        everywhere,
        data,
        settings,
        size,
        checkpoint_ids=[shared] * len(everywhere),
        label=f"{points[0].title} local LLC",
    )
    count = len(points)
    estimates = {
        gauge: flat[place * count : (place + 1) * count] for place, gauge in enumerate(states)
    }
    return {
        "nbeta": settings.nbeta,
        "localization": settings.localization,
        "reason": calibration.reason,
        "unbalanced": unbalanced,
        "points": [_entry(point, place, estimates) for place, point in enumerate(points)],
        "differences": {
            name: _differences(points, estimates, pair)
            for name, pair in _finals(run, points).items()
        },
        "equal_loss": {
            name: {
                "epochs": [point.epoch for point in pair],
                "losses": [_loss(run, model, point) for point in pair],
                **_differences(points, estimates, pair),
            }
            for name, pair in equal.items()
        },
    }


def _chains(run: Run) -> int:
    """Eight, or more where the config has more: an interval is to hold."""
    return max(NUM_CHAINS, run.config.devinterp.num_chains)


def _fallback(settings: SamplerSettings, calibration: Calibration) -> SamplerSettings:
    """The last nβ tried, where none is admissible: the certificates then say what is wrong."""
    row = calibration.table.iloc[-1]
    change = {"nbeta": float(row["nbeta"]), "localization": float(row["localization"])}
    return settings.model_copy(update=change)


def _entry(point: Point, place: int, estimates: dict[str, list[LLCEstimate]]) -> dict[str, Any]:
    found = {gauge: there[place] for gauge, there in estimates.items()}
    texts = (f"{with_error(e.llc, e.std_error)} {g}, {e.verdict}" for g, e in found.items())
    tqdm.write(f"{point_text(point)}: local LLC {'; '.join(texts)}")
    return {
        "optimizer": point.optimizer,
        "epoch": point.epoch,
        **{
            gauge: {**finding(found[gauge]), "gauge": gauge} if gauge in found else None
            for gauge in (GIVEN, BALANCED)
        },
    }


def _finals(run: Run, points: list[Point]) -> dict[str, tuple[Point, Point]]:
    """Other optimizer → (baseline's last checkpoint, its own)."""
    last = [point for point in points if point.epoch == run.config.experiment.num_epochs]
    if not last or last[0].optimizer != optimizers(run.results)[0]:
        return {}
    return {point.optimizer: (last[0], point) for point in last[1:]}


def _differences(
    points: list[Point], estimates: dict[str, list[LLCEstimate]], pair: tuple[Point, Point]
) -> dict[str, Any]:
    """In each gauge, the second of the pair minus the first."""
    baseline, other = (points.index(point) for point in pair)
    return {
        gauge: _difference(estimates[gauge][other], estimates[gauge][baseline])
        if gauge in estimates
        else None
        for gauge in (GIVEN, BALANCED)
    }


def _difference(other: LLCEstimate, baseline: LLCEstimate) -> dict[str, Any] | None:
    found = paired_difference(other, baseline)
    if found is None:
        return None
    return {"difference": found.value, "std_error": found.std_error, "interval": found.interval}


def _has(run: Run, key: Local) -> bool:
    return "local" in run.results["models"][key.title]


def _put(run: Run, key: Local, found: dict[str, Any]) -> None:
    run.results["models"][key.title]["local"] = dict(found)


LOCAL = Part(measure_local, has=_has, put=_put, needs=("train",))
