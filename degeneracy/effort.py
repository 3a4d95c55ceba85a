"""Is a config's work beyond reason? Sampler and training steps, counted before anything is made."""

from collections.abc import Iterator, Mapping
from typing import Any

from degeneracy.config.reader import ConfigError
from degeneracy.config.section import Section, plain
from degeneracy.config.words import key_below, shown

MOST_STEPS = 10**9  # of one key's chains, or of training: days, if 5,000 are done in a second
STEPS_A_SECOND = 5_000  # of small networks on one core


def refuse_beyond_reason(settings: Section) -> None:
    """Refuses settings whose steps nobody would wait for, unless they are meant.

    Raises:
        ConfigError: Names the key, the number of steps, about how long they take, and the flag.
    """
    if problems := [*_problems(plain(settings), "")]:
        raise ConfigError(problems, "config")


def _problems(section: Mapping[str, Any], path: str) -> Iterator[str]:
    if (steps := sampler_steps(section)) > MOST_STEPS:
        chains, draws = shown(section["num_chains"]), shown(section["num_draws"])
        yield (
            f"{key_below(path, 'num_draws')}: {draws} given with num_chains {chains}; that is"
            f" {_estimate(steps, 'sampler step')} for each estimate; {_allowed('num_chains')}"
        )
    if (steps := training_steps(section)) > MOST_STEPS:
        yield (
            f"experiment.num_epochs: {shown(section['experiment']['num_epochs'])} given with"
            f" data.batch_size {shown(section['data']['batch_size'])}; that is"
            f" {_estimate(steps, 'training step')} for each optimizer; {_allowed('num_epochs')}"
        )
    for key, inner in section.items():
        if isinstance(inner, Mapping):
            yield from _problems(inner, key_below(path, key))


def sampler_steps(section: Mapping[str, Any]) -> int:
    """Steps of all chains of one estimate, as far as the section says; 0 where it says nothing."""
    chains, draws = section.get("num_chains"), section.get("num_draws")
    if not isinstance(chains, int) or not isinstance(draws, int):
        return 0
    return chains * ((section.get("num_burnin_steps") or 0) + draws * section.get("thinning", 1))


def training_steps(section: Mapping[str, Any]) -> int:
    """Steps of one optimizer's training of a run's config; 0 of any other section."""
    experiment, data = section.get("experiment"), section.get("data")
    if not isinstance(experiment, Mapping) or not isinstance(data, Mapping):
        return 0
    epochs, batch_size = experiment.get("num_epochs"), data.get("batch_size")
    if not isinstance(epochs, int) or not isinstance(batch_size, int):
        return 0
    return epochs * -(-(data.get("num_train_images") or 60_000) // batch_size)


def _estimate(steps: int, noun: str) -> str:
    days = steps / STEPS_A_SECOND / 86_400
    time = f"{days:,.1f} days" if days < 1_000 else f"{days / 365:,.0f} years"
    return f"{steps:,} {noun}s, about {time} at {STEPS_A_SECOND:,} a second,"


def _allowed(key: str) -> str:
    return (
        f"allowed: at most {MOST_STEPS:,} steps, by a smaller {key}, or the flag --large (from"
        " Python large=True) where it is meant"
    )
