"""Which runs of `ngd_sgd` does each part of the study make? From settings alone, nothing is run."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

from degeneracy.sweeps.grid import Axis
from studies.paper.settings import Settings, SizesSettings, kind_of

AT_A_TIME = 2  # runs of seeds that are done side by side where a seed is one run


class Plan(NamedTuple):
    """One sweep: a config of `ngd_sgd`, and what is changed in it.

    Attributes:
        content: The config, as JSON.
        axis: Its steps are the runs, the longest first, so that no core waits long at the end.
    """

    content: dict[str, Any]
    axis: Axis


def plans_of(settings: Settings, part: str) -> dict[str, Plan]:
    """Key → sweep, of one part, in the order in which they are done."""
    return PLANS[part](settings)


def _sizes(settings: Settings, groups: Sequence[SizesSettings]) -> dict[str, Plan]:
    """A sweep a kind of network and seed: all its sizes. Of one size: a sweep for two seeds."""
    found = {}
    for group in groups:
        network = group.model_dump(include={"model_type"})
        if group.model_type == "cnn":
            key, sizes = "experiment.hidden_conv_layers", group.hidden_conv_layers
        else:
            key, sizes = "experiment.hidden_nodes", group.hidden_nodes
            network["hidden_layers"] = [group.hidden_layers]
        content = swap_config(settings, group.dataset, network)
        for seeds in _parts_of(group.seeds, AT_A_TIME if len(sizes) == 1 else 1):
            runs = product(sorted(sizes, reverse=True), seeds)
            axis = Axis((key, "experiment.seed"), tuple(([size], seed) for size, seed in runs))
            found[f"{kind_of(dict(group))}, {_seeds_text(seeds)}"] = Plan(content, axis)
    return found


def _smoothing(settings: Settings) -> dict[str, Plan]:
    """A sweep a seed, of two runs: SGD, and from its trunk NGD with every α, or with every ε."""
    chosen = settings.smoothing
    scans = (
        {f"ngd alpha {alpha:g}": {"kind": "ngd", "alpha": alpha} for alpha in chosen.alphas},
        {f"ngd epsilon {floor:g}": {"kind": "ngd", "epsilon": floor} for floor in chosen.epsilons},
    )
    keys = ("experiment.optimizer", "optimizers")
    steps = tuple((["sgd", *scan], scan) for scan in scans if scan)
    found = {}
    for seed in chosen.seeds if steps else ():
        experiment = _network(chosen) | {"seed": seed, "measure_epochs": chosen.measure_epochs}
        content = swap_config(settings, chosen.dataset, experiment)
        found[f"seed {seed}"] = Plan(content, Axis(keys, steps))
    return found


def _rates(settings: Settings) -> dict[str, Plan]:
    """A sweep for two seeds, of a run each: SGD, NGD, and SGD at each multiple of its rate."""
    chosen, rate = settings.rates, settings.training.sgd_lr
    faster = {f"sgd x{f:g}": {"kind": "sgd", "lr": rate * f} for f in sorted(chosen.factors)}
    experiment = _network(chosen) | {
        "optimizer": ["sgd", "ngd", *faster],
        "measure_epochs": chosen.measure_epochs,
    }
    content = swap_config(settings, chosen.dataset, experiment) | {"optimizers": faster}
    return {
        _seeds_text(seeds): Plan(
            content, Axis(("experiment.seed",), tuple((seed,) for seed in seeds))
        )
        for seeds in _parts_of(chosen.seeds, AT_A_TIME)
    }


def _overfitting(settings: Settings) -> dict[str, Plan]:
    """A sweep a seed, of two runs that train alike: sampled at n/ln n, and as published."""
    chosen, published = settings.overfitting, settings.sampler
    keys = ("nbeta", "localization", "sampler_lr", "num_burnin_steps", "num_draws")
    steps = (
        (
            "dataset",
            chosen.dataset_localization,
            chosen.dataset_sampler_lr,
            chosen.dataset_num_burnin_steps,
            chosen.dataset_num_draws,
        ),
        (
            "batch",
            published.localization,
            published.sampler_lr,
            published.num_burnin_steps,
            published.num_draws,
        ),
    )
    axis = Axis(tuple(f"devinterp.{key}" for key in keys), steps)
    found = {}
    for seed in chosen.seeds:
        own = chosen.model_dump(include={"num_epochs", "sgd_lr", "ngd_lr", "measure_epochs"})
        experiment = {**_network(chosen), **own, "experiment_type": "standard", "seed": seed}
        content = swap_config(settings, chosen.dataset, experiment)
        del content["experiment"]["cut_off_epochs"]
        found[f"seed {seed}"] = Plan(content, axis)
    return found


PLANS = {
    "sizes": lambda settings: _sizes(settings, settings.sizes),
    "smoothing": _smoothing,
    "rates": _rates,
    "overfitting": _overfitting,
    "other_sizes": lambda settings: _sizes(settings, settings.other_sizes),
}


def swap_config(settings: Settings, dataset: str, experiment: Mapping[str, Any]) -> dict[str, Any]:
    """The published swap run on a data set as a config of `ngd_sgd`, with what differs."""
    training = settings.training.model_dump()
    data = {key: training.pop(key) for key in DATA_KEYS}
    return {
        "experiment": {
            "experiment_type": "swap",
            "optimizer": ["sgd", "ngd"],
            "hessian": True,
            "robustness": False,
            "ngd_arithmetic": "published",
            "momentum": 0.9,
            "nesterov": True,
            **training,
            **experiment,
        },
        "data": {"dataset": dataset, **data},
        "devinterp": {"sampler": "sgld", "nbeta": "batch", **settings.sampler.model_dump()},
    }


DATA_KEYS = ("root", "batch_size", "num_hessian_batches", "num_probes")


def _network(chosen: Any) -> dict[str, Any]:
    return {"hidden_layers": [chosen.hidden_layers], "hidden_nodes": [chosen.hidden_nodes]}


def _parts_of(seeds: Sequence[int], length: int) -> list[Sequence[int]]:
    return [seeds[start : start + length] for start in range(0, len(seeds), length)]


def _seeds_text(seeds: Sequence[int]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
