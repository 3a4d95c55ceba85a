"""Is what lies in a run directory of this run's shape? What does not fit is made again.

Functions of plain JSON, tensors and arrays. Checksums tell damage and another run's files; these
tell what a checksum cannot: a file without one, and one of another model or of another making.
"""

import json
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from degeneracy.llc.settings import AUTO, SamplerSettings
from degeneracy.runs.results import (
    CHAIN_COUNTS,
    CHAIN_SERIES,
    HESSIAN_SERIES,
    LLC_SERIES,
    RECORD_SERIES,
    SERIES,
)
from degeneracy.runs.results_file import content_digest

STATUS = ("running", "complete")
NUMBERS = (*RECORD_SERIES, *CHAIN_COUNTS, *HESSIAN_SERIES, "llc", "llc_std_error", "wbic")
DICTS = ("llc_grid", "local", "rescaling")  # of a model, where they were measured
MAX_TITLE = 150  # characters: with what follows it in a checkpoint's name a file system's 255

Shapes = Mapping[str, torch.Size]  # name of a tensor → its shape


# ---- results -------------------------------------------------------------------------------------


def misfit(results: Mapping[str, Any], fresh: Mapping[str, Any]) -> str | None:
    """What of `results` is not as a study that asks for `fresh` must find it; None where all is."""
    if problem := _number_problem(results):
        return problem
    for key in ("format", "study", "config"):
        if content_digest(results.get(key)) != content_digest(fresh[key]):
            return f"its {key} is another one"
    if results.get("status") not in STATUS:
        return f"its status is {results.get('status')!r}; allowed: {' or '.join(STATUS)}"
    for key in ("environment", "timing_s", *(k for k in ("parts", "models") if k in fresh)):
        if not isinstance(results.get(key), dict):
            return f"it has no {key}"
    if not all(_is_number(seconds) for seconds in results["timing_s"].values()):
        return "a time in it is no number"
    if not isinstance(results.get("failures", {}), dict):
        return "its failures are no table"
    for name, part in results.get("parts", {}).items():
        if not isinstance(part, dict) or not all(isinstance(f, dict) for f in part.values()):
            return f"its part {name!r} is no table of findings"
    return None


def run_misfit(results: Mapping[str, Any], fresh: Mapping[str, Any]) -> str | None:
    """As `misfit`, of a run: its series too, and what they were measured with."""
    if problem := misfit(results, fresh):
        return problem
    for key in ("nbeta", "train_size"):
        if results.get(key) != fresh[key] or not _is_number(results[key]):
            return f"its {key} is {results.get(key)!r}, where {fresh[key]!r} is asked for"
    names = results.get("optimizers")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return "it does not say which optimizers"
    if not isinstance(results.get("own_optimizers", {}), dict):
        return "its own_optimizers are no table"
    length = fresh["config"]["experiment"]["num_epochs"] + 1
    for title, model in results["models"].items():
        if problem := _model_problem(model, names, length):
            return f"its model {title!r} {problem}"
    return None


def _number_problem(results: Mapping[str, Any]) -> str | None:
    try:
        json.dumps(results, allow_nan=False)
    except ValueError:
        return "a number in it is not finite"
    return None


def _model_problem(model: Any, names: Iterable[str], length: int) -> str | None:
    if not isinstance(model, dict) or not isinstance(model.get("optimizers"), dict):
        return "has no optimizers"
    if not isinstance(model.get("num_parameters"), int):
        return "does not say how many parameters it has"
    if wrong := [key for key in DICTS if not isinstance(model.get(key) or {}, dict)]:
        return f"has a {wrong[0]} that is no table"
    for name in names:
        series = model["optimizers"].get(name, {})
        if not isinstance(series, dict):
            return f"has no series of {name}"
        if problem := _series_problem(series, length):
            return f"has, of {name}, {problem}"
    return None


def _series_problem(series: Mapping[str, Any], length: int) -> str | None:
    for key in (*SERIES, *CHAIN_SERIES):
        values = series.get(key, [None] * length)
        if not isinstance(values, list) or len(values) != length:
            return f"a {key} that is no list of {length} entries"
        if not all(value is None or _fits(key, value) for value in values):
            return f"a {key} with an entry of another kind"
    if not all(isinstance(series.get(key, {}), dict) for key in ("kappa", "cosine")):
        return "a kappa or cosine that is no table"
    if not isinstance(series.get("diverged_epoch"), int | None):
        return "a diverged_epoch that is no epoch"
    return None


def _fits(key: str, value: Any) -> bool:
    if key in NUMBERS:
        return _is_number(value)
    if key in CHAIN_SERIES:
        return isinstance(value, list) and all(
            isinstance(chain, dict) and {"llc", "verdict"} <= chain.keys() for chain in value
        )
    if key == "llc_verdict":
        return isinstance(value, str)
    if key == "llc_interval":
        return isinstance(value, list) and len(value) == 2
    return key not in LLC_SERIES or isinstance(value, Real)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


# ---- checkpoints ---------------------------------------------------------------------------------


def is_record(record: Mapping[str, Any]) -> bool:
    """Whether it is what is recorded of an epoch (`training.EpochRecord` as a dict)."""
    if not isinstance(record.get("diverged"), bool) or not isinstance(record.get("logged"), dict):
        return False
    known = [record.get(key, "") for key in RECORD_SERIES]
    return all(value is None or _is_number(value) for value in known)


def are_weights(weights: Mapping[str, Tensor], shapes: Shapes) -> bool:
    """Whether these are the tensors of a model with these shapes."""
    return {name: tensor.shape for name, tensor in weights.items()} == dict(shapes)


# ---- traces --------------------------------------------------------------------------------------


def is_trace(trace: np.ndarray, settings: SamplerSettings, num_diverged: int | None) -> bool:
    """Whether these can be the losses (num_chains, num_draws) of an estimate with these settings.

    Args:
        num_diverged: How many chains of it are said to have diverged; None where nothing is said.
    """
    if trace.ndim != 2 or trace.dtype.kind != "f" or len(trace) != settings.num_chains:
        return False
    if settings.sampler != AUTO and trace.shape[1] != settings.num_draws:
        return False
    return num_diverged is None or num_diverged == (~np.isfinite(trace).all(axis=1)).sum()


# ---- titles --------------------------------------------------------------------------------------


def check_titles(titles: Iterable[Any]) -> None:
    """Raises ValueError for a title of a model that a file, a log or a page could not show."""
    for title in titles:
        if not isinstance(title, str) or not title.isprintable() or not title.strip():
            given = ascii(title) if len(ascii(title)) <= 80 else f"{ascii(title)[:77]}…"
            raise ValueError(
                f"models: the title {given} given; allowed: 1 to {MAX_TITLE} printable characters"
            )
        if len(title) > MAX_TITLE:
            raise ValueError(
                f"models: a title of {len(title)} characters given, {title[:40]!r}…; allowed: 1 to"
                f" {MAX_TITLE} printable characters"
            )
