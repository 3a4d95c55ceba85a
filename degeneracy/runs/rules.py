"""Which combinations of config values make no sense? One function a rule, each naming what is
allowed instead.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from degeneracy.config.reader import repeated, shown

TRAIN_SIZES = {
    "mnist": 60_000,
    "fashion-mnist": 60_000,
    "cifar10": 50_000,
}  # images in each training set

_CHECKS: list[tuple[tuple[str, ...], Callable[..., str | None]]] = []


def _check(*keys: str):
    """Registers a check of these keys' values; it returns the problem or None, and runs where all
    are valid.
    """

    def register(function: Callable[..., str | None]) -> Callable[..., str | None]:
        _CHECKS.append((keys, function))
        return function

    return register


def cross_problems(values: Mapping[str, Any]) -> Iterator[str]:
    """Problems of the combinations in `values` ("section.key" → valid value); checks that miss a
    value are left out.
    """
    for keys, function in _CHECKS:
        if all(key in values for key in keys) and (
            problem := function(*(values[key] for key in keys))
        ):
            yield f"{keys[0]}: {problem}"


@_check("experiment.hidden_layers", "experiment.hidden_nodes")
def _models_are_paired(layers: list[int], nodes: list[int]) -> str | None:
    if len(layers) != len(nodes):
        return (
            f"{shown(layers)} given, of length {len(layers)}, with experiment.hidden_nodes"
            f" {shown(nodes)} of length {len(nodes)}; allowed: lists of equal length, entry by"
            " entry one model"
        )
    if twice := repeated(list(zip(layers, nodes, strict=True))):
        return (
            f"{shown(layers)} given with experiment.hidden_nodes {shown(nodes)}; allowed: each"
            f" model once, but {twice[0]} layers of {twice[1]} nodes is there twice"
        )
    return None


@_check("experiment.hidden_conv_layers")
def _convolutional_models_differ(layers: list[int]) -> str | None:
    if (twice := repeated(layers)) is not None:
        return f"{shown(layers)} given; allowed: each model once, but {twice} is there twice"
    return None


@_check("experiment.optimizer", "experiment.experiment_type")
def _swap_has_both(optimizer: str, experiment_type: str) -> str | None:
    if experiment_type == "swap" and optimizer != "both":
        return (
            f'{shown(optimizer)} given with experiment.experiment_type "swap"; allowed there:'
            ' "both"'
        )
    return None


@_check("experiment.cut_off_epochs", "experiment.num_epochs", "experiment.experiment_type")
def _swap_is_inside(cut_off: int, num_epochs: int, experiment_type: str) -> str | None:
    if experiment_type == "swap" and not 1 <= cut_off < num_epochs:
        return (
            f'{cut_off} given with experiment.experiment_type "swap" and experiment.num_epochs'
            f" {num_epochs}; allowed there: an integer >= 1 and < experiment.num_epochs"
        )
    return None


@_check("experiment.measure_epochs")
def _measured_once(epochs: str | list[int]) -> str | None:
    if isinstance(epochs, list) and (twice := repeated(epochs)) is not None:
        return f"{shown(epochs)} given; allowed: each epoch once, but {twice} is there twice"
    return None


@_check("experiment.measure_epochs", "experiment.num_epochs")
def _measured_within(epochs: str | list[int], num_epochs: int) -> str | None:
    if isinstance(epochs, list) and max(epochs) > num_epochs:
        return (
            f"{shown(epochs)} given; allowed: epochs from 0 to experiment.num_epochs, which is"
            f" {num_epochs}"
        )
    return None


@_check("experiment.nesterov", "experiment.momentum")
def _nesterov_has_momentum(nesterov: bool, momentum: float) -> str | None:
    if nesterov and momentum == 0:
        return (
            f"true given with experiment.momentum {shown(momentum)}; allowed there: false (or a"
            " momentum > 0)"
        )
    return None


@_check("experiment.sgd_swap_lr", "experiment.experiment_type")
def _swap_rate_has_swap(rate: float | None, experiment_type: str) -> str | None:
    if rate is not None and experiment_type != "swap":
        return (
            f"{shown(rate)} given with experiment.experiment_type {shown(experiment_type)}; allowed"
            " there: null"
        )
    return None


@_check("experiment.eta", "experiment.ngd_arithmetic")
def _published_keeps_its_floor(eta: float, arithmetic: str) -> str | None:
    if arithmetic == "published" and eta == 1:
        return (
            f'{shown(eta)} given with experiment.ngd_arithmetic "published"; allowed there: < 1,'
            " for at 1 its floor is 0 and it divides by zero"
        )
    return None


@_check("data.batch_size", "data.dataset")
def _batch_within_data(batch_size: int, dataset: str) -> str | None:
    if batch_size > TRAIN_SIZES[dataset]:
        return (
            f"{batch_size} given; allowed: at most {TRAIN_SIZES[dataset]}, the size of {dataset}'s"
            " training set"
        )
    return None


@_check("data.num_hessian_batches", "data.batch_size", "data.dataset", "experiment.hessian")
def _hessian_within_data(
    num_batches: int, batch_size: int, dataset: str, hessian: bool
) -> str | None:
    size = TRAIN_SIZES[dataset]
    if hessian and batch_size <= size < num_batches * batch_size:
        return (
            f"{num_batches} given with data.batch_size {batch_size}; allowed there: at most"
            f" {size // batch_size}, for {dataset}'s training set has {size} images"
        )
    return None


@_check("devinterp.localization", "devinterp.sampler")
def _sgnht_is_free(localization: float, sampler: str) -> str | None:
    if sampler == "sgnht" and localization != 0:
        return (
            f'{shown(localization)} given with devinterp.sampler "sgnht"; allowed there: 0 (or'
            " leave it out)"
        )
    return None
