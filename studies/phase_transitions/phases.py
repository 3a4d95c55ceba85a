"""Which epochs of a run are compared, before, across and after a drop? What figures and sentences
read of `results`.

`results` is the dict of a run's `results.json` (see `runs.results`) with the series of `measure`.
Every series is a list indexed by epoch, None where not measured, and may be missing: a run that is
not finished is shown too.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from degeneracy.runs.results import at, optimizers_of
from degeneracy.texts import number
from studies.phase_transitions.rule import Transition, find_transitions

Results = Mapping

Value = tuple[float | None, float | None]  # with its standard error; None where there is none


class LLCPoint(NamedTuple):
    """A measured LLC with the training loss it stands at."""

    epoch: int
    loss: float
    llc: float
    std_error: float | None


def transitions_of(results: Results, title: str) -> dict[str, list[Transition]]:
    """The transitions of each optimizer of a model, by `find_transitions` on its validation loss.

    Of a loss with an epoch missing in between, what comes after is left out.
    """
    rule = results["config"]["transitions"]
    losses = {name: known_losses(one) for name, one in optimizers_of(results, title).items()}
    return {
        optimizer: find_transitions([None] * first + known, **rule)
        for optimizer, (first, known) in losses.items()
    }


def phases_of(results: Results, title: str) -> dict[str, dict[str, int]]:
    """The epochs to compare, optimizer → phase → epoch; empty where there is no loss."""
    return {
        optimizer: _phases(transitions, *known_losses(optimizers_of(results, title)[optimizer]))
        for optimizer, transitions in transitions_of(results, title).items()
    }


def _phases(
    transitions: Sequence[Transition], first: int, losses: Sequence[float]
) -> dict[str, int]:
    """Those of the transition that falls most, and the last one.

    `before` is the plateau's end, `across` the epoch that falls most, `after` the drop's end, `end`
    the last epoch; the ones that coincide with an earlier named one are left out, `across` where it
    is `after`. Without a transition they are `first`, `middle` and `last`.
    """
    if not losses:
        return {}
    last = first + len(losses) - 1
    if not transitions:
        # of one epoch the last name stands
        by_epoch = {last: "last", (first + last) // 2: "middle", first: "first"}
        return {name: epoch for epoch, name in sorted(by_epoch.items())}
    main = largest_drop(transitions)
    phases = {"before": main.plateau_end}
    if main.steepest != main.end:
        phases["across"] = main.steepest
    phases["after"] = main.end
    if last != main.end:
        phases["end"] = last
    return phases


def largest_drop(transitions: Sequence[Transition]) -> Transition:
    """The one in which the loss falls most."""
    return max(transitions, key=lambda transition: transition.loss_before - transition.loss_after)


def threshold_of(results: Results) -> float:
    """γ/nβ, in nats / weight²."""
    return results["config"]["devinterp"]["localization"] / results["nbeta"]


def known_losses(series: Mapping) -> tuple[int, list[float]]:
    """(first epoch with a validation loss, the losses from there on until one is missing)."""
    losses = [at(series, "val_loss", epoch) for epoch in range(len(series.get("val_loss") or ()))]
    first = next((epoch for epoch, loss in enumerate(losses) if loss is not None), len(losses))
    end = next((epoch for epoch in range(first, len(losses)) if losses[epoch] is None), len(losses))
    return first, losses[first:end]


def llc_points(series: Mapping) -> list[LLCPoint]:
    """The epochs at which both the LLC and its training loss were measured."""
    points = [
        LLCPoint(epoch, at(series, "llc_init_loss", epoch), *llc_at(series, epoch))
        for epoch in range(len(series.get("llc") or ()))
    ]
    return [point for point in points if point.llc is not None and point.loss is not None]


def value_at(series: Mapping, key: str, epoch: int) -> Value:
    """An entry of a series and its standard error, each None where there is none."""
    return at(series, key, epoch), at(series, f"{key}_std_error", epoch)


def llc_at(series: Mapping, epoch: int) -> Value:
    """The measured LLC."""
    return value_at(series, "llc", epoch)


def trace_at(series: Mapping, epoch: int) -> Value:
    """The Hessian's trace, nats / weight²."""
    return value_at(series, "hessian_trace", epoch)


def top_eigenvalue_at(series: Mapping, epoch: int) -> Value:
    """The Hessian's largest eigenvalue, nats / weight²; it has no error."""
    found = series.get("top_eigenvalues") or ()
    return number(found[epoch][0]) if epoch < len(found) and found[epoch] else None, None
