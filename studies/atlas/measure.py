"""The largest stable rates, then the runs, seed by seed."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch.nn.functional import cross_entropy

import studies
from degeneracy.data.images import TensorData, load_data
from degeneracy.models.networks import ARCHITECTURES
from degeneracy.optimizers.kinds import KINDS
from degeneracy.optimizers.rates import Rule, Search, largest_stable_rate
from degeneracy.runs.work import Measured, Work, from_project
from degeneracy.sweeps.sweep import DONE, run_sweep, sweep_of
from studies.atlas.contrasts import needs_more_seeds
from studies.atlas.plan import STUDY, axis_of, cells, content_of, group_key
from studies.atlas.settings import FactorialSettings, ModelSettings, SearchSettings

RATES, RUNS = "rates", "runs"
PUBLISHED_NGD = {"alpha": 0.1, "eta": 0.9}  # as in `branches`


def rate_key(optimizer: str, model: ModelSettings) -> str:
    """Of a search."""
    return f"{optimizer}, {model.name}"


def measure_rates(work: Work) -> Measured:
    """The largest stable rate of each optimizer on each network."""
    factorial, search = work.settings.factorial, work.settings.search
    wanted = {rate_key(o, m): (o, m) for m in factorial.models for o in factorial.optimizers}
    for key in work.todo(wanted, "search"):
        optimizer, model = wanted[key]
        images, size = training_images(work), factorial.batch_size
        found = searched(optimizer, model, images, size, search)
        if found.rate is None:
            tried = "; ".join(f"{rate:.3g}: {text}" for rate, text in found.tried[-3:])
            raise ValueError(f"{key}: no rate of the grid is stable ({tried}); raise num_rates")
        yield key, {"rate": found.rate, "tried": [[*one] for one in found.tried]}


def training_images(work: Work) -> TensorData:
    """The first images of the training set."""
    factorial = work.settings.factorial
    root = from_project(factorial.root)
    return load_data(factorial.dataset, root, work.device).train.first(factorial.num_images)


def searched(
    optimizer: str, model: ModelSettings, data: TensorData, batch_size: int, search: SearchSettings
) -> Search:
    """The search of one optimizer on one network."""
    kind, make = KINDS[optimizer], ARCHITECTURES[model.architecture]
    in_shape = tuple(data.inputs.shape[1:])
    own = PUBLISHED_NGD if optimizer == "ngd" else {}
    return largest_stable_rate(
        lambda: make(model.hidden_nodes, model.hidden_layers, in_shape).to(data.labels.device),
        lambda network, rate: kind.build(network, cross_entropy, kind.settings(lr=rate, **own)),
        data,
        search.seeds,
        Rule(search.reach, search.epochs, 2 * search.reach, search.more_epochs, batch_size),
        search.num_rates,
    )


def measure_runs(work: Work) -> Measured:
    """The runs of each network, seed by seed; further seeds where an interval is too long."""
    factorial = work.settings.factorial
    for model in factorial.models:
        yield from _seeds(work, model, factorial.seeds)
    if needs_more_seeds(work.results):
        for model in factorial.models:
            yield from _seeds(work, model, factorial.further_seeds)


def _seeds(work: Work, model: ModelSettings, seeds: list[int]) -> Measured:
    of_key = {group_key(model, seed): seed for seed in seeds}
    for key in work.todo(of_key, "seed"):
        yield key, {"rows": list(rows_of(work, model, of_key[key]))}


def rows_of(work: Work, model: ModelSettings, seed: int) -> Iterator[dict[str, Any]]:
    """Does the runs of a network and a seed as a sweep; a row for each."""
    factorial: FactorialSettings = work.settings.factorial
    rates = {
        name: work.results["parts"][RATES][rate_key(name, model)]["rate"]
        for name in factorial.optimizers
    }
    folder = f"{model.name.replace('×', 'x').replace(' ', '-')}-seed-{seed:02d}"
    sweep = sweep_of(
        studies.find(STUDY),
        content_of(factorial, model, seed),
        [axis_of(factorial, rates)],
        work.store.directory / "runs" / folder,
    )
    runs = work.settings.runs
    given = replace(runs.resources, device=work.device.type)
    _, states = run_sweep(sweep, studies.find, given, runs.retries)
    for cell, state in zip(cells(factorial), states, strict=True):
        row = {"model": model.name, "seed": seed, **cell._asdict()}
        row |= {"status": state.status, "reason": state.reason, "seconds": state.seconds}
        parts = (state.results or {}).get("parts", {})
        yield row | {
            "training": parts.get("training", {}).get("branches"),
            "points": parts.get("degeneracy", {}).get("points"),
        }


def all_done(work: Work, key: str) -> bool:
    """Whether a network and seed have all their runs: one that failed is tried once more."""
    rows = work.found().get(key, {"rows": []})["rows"]
    return bool(rows) and all(row["status"] in DONE for row in rows)
