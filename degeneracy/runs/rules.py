"""Which combinations of config values make no sense? One function a rule, each naming what is
allowed instead.

A rule's keys are relative to the section that lists it; its sentence names other keys in full.
"""

from collections.abc import Mapping

from degeneracy.config.section import plain, rule
from degeneracy.config.words import closest, key_below, repeated, shown
from degeneracy.data.settings import TRAIN_SIZES
from degeneracy.optimizers.kinds import KINDS
from degeneracy.runs.optimizers import OPTIMIZER_SECTIONS, names_of, resolved


@rule("hidden_layers", "hidden_nodes")
def models_are_paired(layers: list[int], nodes: list[int]) -> str | None:
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


@rule("hidden_conv_layers")
def convolutional_models_differ(layers: list[int]) -> str | None:
    if (twice := repeated(layers)) is not None:
        return f"{shown(layers)} given; allowed: each model once, but {twice} is there twice"
    return None


@rule("optimizer")
def optimizers_are_named_once(optimizer: str | list[str]) -> str | None:
    names = names_of(optimizer)  # no two that differ in case alone: they name files
    if (twice := repeated([name.casefold() for name in names])) is not None:
        given = [name for name in names if name.casefold() == twice]
        return (
            f"{shown(optimizer)} given; allowed: each name once, but"
            f" {' and '.join(map(shown, given))} are one"
        )
    return None


def _meant(name: str) -> str | None:
    """The word of a config that `name` differs from in case alone, or is where it stands for two
    optimizers; None for any other name.
    """
    word = name.casefold()
    return word if word == "both" or (word in KINDS and name != word) else None


@rule("optimizer")
def names_are_not_almost_kinds(optimizer: str | list[str]) -> str | None:
    almost = {name: word for name in names_of(optimizer) if (word := _meant(name)) is not None}
    reasons = [
        f"{shown(name)} is no name, for both stands for sgd and ngd where no list is"
        if word == "both"
        else f"{shown(word)} for {shown(name)}, or a name that differs from it in more than case"
        for name, word in almost.items()
    ]
    return f"{shown(optimizer)} given; allowed: {'; '.join(reasons)}" if almost else None


@rule("optimizer", "experiment_type")
def swap_has_two(optimizer: str | list[str], experiment_type: str) -> str | None:
    if experiment_type == "swap" and len(names_of(optimizer)) < 2:
        return (
            f'{shown(optimizer)} given with experiment.experiment_type "swap"; allowed there:'
            ' "both", or a list of at least two, the first of which trains up to the swap'
        )
    return None


@rule("cut_off_epochs", "num_epochs", "experiment_type")
def swap_is_inside(cut_off: int, num_epochs: int, experiment_type: str) -> str | None:
    if experiment_type == "swap" and not 1 <= cut_off < num_epochs:
        return (
            f'{cut_off} given with experiment.experiment_type "swap" and experiment.num_epochs'
            f" {num_epochs}; allowed there: an integer >= 1 and < experiment.num_epochs"
        )
    return None


@rule("measure_epochs")
def measured_once(epochs: str | list[int]) -> str | None:
    if isinstance(epochs, list) and (twice := repeated(epochs)) is not None:
        return f"{shown(epochs)} given; allowed: each epoch once, but {twice} is there twice"
    return None


@rule("measure_epochs", "num_epochs")
def measured_within(epochs: str | list[int], num_epochs: int) -> str | None:
    if isinstance(epochs, list) and max(epochs) > num_epochs:
        return (
            f"{shown(epochs)} given; allowed: epochs from 0 to experiment.num_epochs, which is"
            f" {num_epochs}"
        )
    return None


@rule("sgd_swap_lr", "experiment_type")
def swap_rate_has_swap(rate: float | None, experiment_type: str) -> str | None:
    if rate is not None and experiment_type != "swap":
        return (
            f"{shown(rate)} given with experiment.experiment_type {shown(experiment_type)}; allowed"
            " there: null"
        )
    return None


@rule("batch_size", "dataset")
def batch_within_data(batch_size: int, dataset: str) -> str | None:
    if batch_size > TRAIN_SIZES[dataset]:
        return (
            f"{batch_size} given; allowed: at most {TRAIN_SIZES[dataset]}, the size of {dataset}'s"
            " training set"
        )
    return None


@rule("data.num_hessian_batches", "data.batch_size", "data.dataset", "experiment.hessian")
def hessian_within_data(
    num_batches: int, batch_size: int, dataset: str, hessian: bool
) -> str | None:
    size = TRAIN_SIZES[dataset]
    if hessian and batch_size <= size < num_batches * batch_size:
        return (
            f"{num_batches} given with data.batch_size {batch_size}; allowed there: at most"
            f" {size // batch_size}, for {dataset}'s training set has {size} images"
        )
    return None


@rule("experiment.optimizer", "optimizers")
def optimizers_are_defined(optimizer: str | list[str], sections: Mapping) -> str | None:
    known = [*KINDS, *(name for name in sections if name not in KINDS)]
    undefined = [name for name in names_of(optimizer) if name not in known and not _meant(name)]
    if not undefined:
        return None
    guesses = [near for name in undefined if (near := closest(name, known)) is not None]
    hint = f"; did you mean {' and '.join(map(shown, guesses))}?" if guesses else ""
    return (
        f"{shown(optimizer)} given, where {' and '.join(map(shown, undefined))} is not defined;"
        f" allowed: {', '.join(map(shown, known))}, or a name with a section in optimizers{hint}"
    )


@rule("optimizers", "experiment.optimizer")
def sections_are_of_trained_optimizers(
    sections: Mapping, optimizer: str | list[str]
) -> dict[str, str]:
    names = names_of(optimizer)
    return {
        key_below("optimizers", name): (
            f"a section given, but experiment.optimizer is {shown(optimizer)}; allowed: sections"
            f" of the optimizers that are trained ({', '.join(names)})"
        )
        for name in sections
        if name not in names
    }


@rule("optimizers")
def names_of_kinds_mean_them(sections: Mapping[str, Mapping]) -> dict[str, str]:
    return {
        f"{key_below('optimizers', name)}.kind": (
            f"{shown(section['kind'])} given; allowed: {shown(name)}, which the name says already"
        )
        for name, section in sections.items()
        if name in KINDS and section.get("kind", name) != name
    }


@rule("optimizers", "experiment.optimizer", "experiment.experiment_type")
def swap_rates_have_swap(
    sections: Mapping[str, Mapping], optimizer: str | list[str], experiment_type: str
) -> dict[str, str]:
    first, *others = names_of(optimizer)
    problems = {}
    for name, section in sections.items():
        if (rate := section.get("swap_lr")) is None:
            continue
        if experiment_type != "swap":
            why = f" with experiment.experiment_type {shown(experiment_type)}"
        elif name in others:
            why = f", but {shown(first)} is the first optimizer, which trains up to the swap"
        else:
            continue
        key = f"{key_below('optimizers', name)}.swap_lr"
        problems[key] = f"{shown(rate)} given{why}; allowed there: null"
    return problems


@rule("experiment.sgd_swap_lr", "experiment.experiment_type", "experiment.optimizer", "optimizers")
def sgd_swap_rate_has_sgd(
    rate: float | None,
    experiment_type: str,
    optimizer: str | list[str],
    sections: Mapping[str, Mapping],
) -> str | None:
    first = names_of(optimizer)[0]
    kind = sections.get(first, {"kind": first}).get("kind")
    if rate is not None and experiment_type == "swap" and kind in KINDS and kind != "sgd":
        return (
            f"{shown(rate)} given, but {shown(first)} is the first optimizer, which trains up to"
            f" the swap, of kind {shown(kind)}; allowed there: null"
        )
    return None


@rule("optimizers", "experiment", "experiment.optimizer")
def sections_keep_their_kinds_rules(
    sections: Mapping[str, Mapping], experiment: Mapping, optimizer: str | list[str]
) -> dict[str, str]:
    first = names_of(optimizer)[0]
    problems = {}
    for name, section in sections.items():
        if (kind := section.get("kind")) is None:
            continue
        without = resolved(kind, plain(OPTIMIZER_SECTIONS[kind]()), experiment, name == first)
        values = resolved(kind, section, experiment, name == first)
        rules = KINDS[kind].settings.broken_rules
        for key, problem in set(rules(values)) - set(rules(without)):  # the latter: experiment's
            problems[f"{key_below('optimizers', name)}.{key}"] = problem
    return problems
