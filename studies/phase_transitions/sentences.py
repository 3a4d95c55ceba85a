"""What is to be said of a plateau and the drop after it? The sentences behind the verdict, and what
qualifies them.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from degeneracy.report.page import Note
from degeneracy.runs.results import at, optimizers_of
from degeneracy.texts import Z_95, count_of, difference_texts, interval_of, label, with_error
from studies.phase_transitions.comparison import at_equal_loss, curves_after_drops
from studies.phase_transitions.phases import (
    LLCPoint,
    Results,
    Value,
    known_losses,
    largest_drop,
    llc_at,
    top_eigenvalue_at,
    trace_at,
    transitions_of,
    value_at,
)
from studies.phase_transitions.rule import Transition

CURVATURES = (  # how a sentence calls it, and where it is read
    ("Hessian trace", trace_at),
    ("largest Hessian eigenvalue", top_eigenvalue_at),
)
PREDICTIONS = (
    ("quadratic_llc", "the Hessian's"),
    ("gauss_newton_llc", "the Gauss-Newton matrix's"),
)
ERRORS = Note(
    "Intervals are of sampling and probes alone",
    "± is one standard error: of the sampling, or over probes, there widened to Student's for the"
    " few of them and by the quadrature's error. The images are fixed, and each optimizer was"
    " trained once.",
)


class Peak(NamedTuple):
    """A curvature around a drop: at the plateau's end, at its largest, at the drop's end."""

    before: Value
    largest: Value
    epoch: int  # of the largest
    place: str  # of that epoch, in words
    after: Value


def sentences(title: str, results: Results) -> list[str]:
    """The rule, then each optimizer of a model, then each compared with the first."""
    config, transitions = results["config"], transitions_of(results, title)
    texts = [_rule_text(config["transitions"])]
    for optimizer, series in optimizers_of(results, title).items():
        own = _optimizer_texts(series, transitions[optimizer], config)
        texts.append(f"{label(optimizer)}: {' '.join(own)}")
    baseline, *others = [*transitions] or [None]
    for other in others:
        own = _comparison_texts(results, title, baseline, other)
        texts.append(f"{label(baseline)} and {label(other)}: {' '.join(own)}")
    return texts


def notes(title: str, results: Results) -> list[Note]:
    """What qualifies what is said of a model."""
    transitions, found = transitions_of(results, title), []
    for optimizer, series in optimizers_of(results, title).items():
        if (diverged := series.get("diverged_epoch")) is not None:
            line = f"{label(optimizer)}: training diverged in epoch {diverged}"
            found.append(Note(line, "What is said of it is from before."))
        if transitions[optimizer]:
            drop = largest_drop(transitions[optimizer])
            found += _drop_notes(label(optimizer), series, drop, results["config"])
    return [*found, ERRORS]


def _drop_notes(name: str, series: Mapping, drop: Transition, config: Mapping) -> list[Note]:
    found = []
    for epoch in (drop.plateau_end, drop.end):
        llc, error = llc_at(series, epoch)
        if llc is not None and llc + Z_95 * (error or 0) < 0:
            line = f"{name}: LLC below zero after epoch {epoch}"
            found.append(Note(line, "w* is no minimum there, the sampler found a lower loss."))
        if llc is not None and (unsettled := at(series, "num_unsettled_chains", epoch)):
            chains = f"{unsettled:.0f} of {count_of(config['devinterp']['num_chains'], 'chain')}"
            line = f"{name}: {chains} not settled after epoch {epoch}"
            found.append(Note(line, "The LLC there depends on the number of draws."))
    if drop.end == drop.plateau_end + 1:
        detail = "No checkpoint lies inside it, so a peak there would not be seen."
        found.append(Note(f"{name}: the drop takes one epoch", detail))
    return found


# ---- one optimizer -------------------------------------------------------------------------------


def _rule_text(rule: Mapping) -> str:
    return (
        "The rule, on the validation loss after every epoch, with R the difference of its largest"
        " and smallest value in a run: an epoch is flat where the loss changes by at most"
        f" {_percent(rule['flat'])} of R. A drop is a run of epochs that each fall by more, one of"
        f" them by at least {_percent(rule['steep'])} of R. It is a transition where at least"
        f" {count_of(rule['min_plateau'], 'flat epoch')} in a row, the plateau, end just before it."
    )


def _optimizer_texts(
    series: Mapping, transitions: Sequence[Transition], config: Mapping
) -> list[str]:
    if not transitions:
        return [_no_transition_text(*known_losses(series), config["transitions"])]
    texts = [_transition_text(transition) for transition in transitions]
    main = largest_drop(transitions)
    if len(transitions) > 1:
        texts.append(
            f"The numbers below are those of the largest drop, after epoch {main.plateau_end}."
        )
    texts += [
        _llc_text(series, main),
        *_curvature_texts(series, main),
        _distance_text(series, main),
        _prediction_text(series, main, config["data"]),
    ]
    return [text for text in texts if text]


def _transition_text(transition: Transition) -> str:
    t = transition
    return (
        f"A plateau from epoch {t.plateau_start} to {t.plateau_end}, then a drop to epoch {t.end},"
        f" steepest in epoch {t.steepest}: the validation loss falls from {t.loss_before:#.4g} to"
        f" {t.loss_after:#.4g}."
    )


def _no_transition_text(first: int, losses: Sequence[float], rule: Mapping) -> str:
    """Which part of the rule fails, of the losses from epoch `first` on."""
    if len(losses) < 2:
        return "No transition: fewer than two epochs have a validation loss."
    size = max(losses) - min(losses)
    if size == 0:
        return "No transition: the validation loss does not change."
    falls = [(before - after) / size for before, after in pairwise(losses)]
    steepest = int(np.argmax(falls))
    epoch, fall = first + steepest + 1, _percent(falls[steepest])
    if falls[steepest] <= 0:
        return "No transition: the validation loss never falls."
    if falls[steepest] < rule["steep"]:
        return (
            f"No transition: no epoch is steep. The largest fall, in epoch {epoch}, is {fall} of"
            f" the loss's range, below {_percent(rule['steep'])}."
        )
    start = steepest
    while start > 0 and falls[start - 1] > rule["flat"]:
        start -= 1
    flat = start
    while flat > 0 and abs(falls[flat - 1]) <= rule["flat"]:
        flat -= 1
    return (
        f"No transition: no plateau comes before a drop. The steepest epoch, {epoch}, falls by"
        f" {fall} of the loss's range; just before its drop, which begins after epoch"
        f" {first + start}, the number of flat epochs in a row is {start - flat}, below"
        f" {rule['min_plateau']}."
    )


def _llc_text(series: Mapping, drop: Transition) -> str:
    before, after = (llc_at(series, epoch) for epoch in (drop.plateau_end, drop.end))
    if before[0] is None or after[0] is None:
        return "The LLC was not measured on both sides of the drop."
    return f"LLC {arrow(before, after)}: {_change_text(before, after)}."


def _curvature_texts(series: Mapping, drop: Transition) -> list[str]:
    peaks = {words: peak_of(series, of_epoch, drop) for words, of_epoch in CURVATURES}
    return [
        f"{words[0].upper()}{words[1:]}: {value_text(peak.before)} before,"
        f" {value_text(peak.largest)} at its largest (epoch {peak.epoch}, {peak.place}),"
        f" {value_text(peak.after)} after."
        for words, peak in peaks.items()
        if peak is not None
    ]


def peak_of(series: Mapping, of_epoch, drop: Transition) -> Peak | None:
    """What a curvature does at a drop; None where it was not measured on both sides of it.

    Args:
        series: Of the optimizer.
        of_epoch: Reads the curvature: (series, epoch) → its value with its error.
        drop: The optimizer's.
    """
    length = max(len(series.get(key) or ()) for key in ("hessian_trace", "top_eigenvalues"))
    values = {epoch: of_epoch(series, epoch) for epoch in range(length)}
    values = {epoch: value for epoch, value in values.items() if value[0] is not None}
    if drop.plateau_end not in values or drop.end not in values:
        return None
    peak = max(values, key=lambda epoch: values[epoch][0])
    place = _place(peak, drop)
    return Peak(values[drop.plateau_end], values[peak], peak, place, values[drop.end])


def _place(epoch: int, drop: Transition) -> str:
    if epoch <= drop.plateau_end:
        return "before the drop"
    if epoch < drop.end:
        return "inside the drop"
    return "at the drop's end" if epoch == drop.end else "after the drop"


def _distance_text(series: Mapping, drop: Transition) -> str:
    ends = drop.plateau_end, drop.end
    before, after = (value_at(series, "hessian_fisher_distance", epoch) for epoch in ends)
    return "" if None in (before[0], after[0]) else f"‖H − F‖/‖H‖ {arrow(before, after)}."


def _prediction_text(series: Mapping, drop: Transition, data: Mapping) -> str:
    measured = llc_at(series, drop.end)
    if measured[0] is None:
        return ""
    parts = []
    for key, words in PREDICTIONS:
        value, error = value_at(series, key, drop.end)
        if value is not None:
            text = value_text((value, error))
            ratio = f" (the measured one is {measured[0] / value:.2f} of it)" if value > 0 else ""
            parts.append(f"{text} by {words} spectrum{ratio}")
    if not parts:
        return ""
    images = f"{data['num_hessian_batches'] * data['batch_size']:,} images"
    return (
        f"After the drop the LLC measured is {value_text(measured)}; to second order, on {images},"
        f" {', '.join(parts)}."
    )


# ---- an optimizer compared with the first --------------------------------------------------------


def _comparison_texts(results: Results, title: str, baseline: str, other: str) -> list[str]:
    transitions, pair = transitions_of(results, title), (baseline, other)
    texts = [_first_to_leave(transitions, baseline, other)]
    every = curves_after_drops(results, title)
    curves = {name: every[name] for name in pair}
    if not all(curves.values()):
        return [*texts, "There are no LLC of both to compare."]
    last = {name: curve[-1] for name, curve in curves.items()}
    numbers = ", ".join(
        f"{_at_point(name, point)} (epoch {point.epoch}, loss {point.loss:#.3g})"
        for name, point in last.items()
    )
    difference = _difference_text(last)
    texts.append(f"Last LLC of each, at its training loss: {numbers}; {difference}.")
    if all(transitions[name] for name in pair):
        texts.append(_equal_loss_text(curves))
    return texts


def _equal_loss_text(curves: Mapping[str, Sequence[LLCPoint]]) -> str:
    pair = at_equal_loss(*curves.values())
    if pair is None:
        ranges = (
            f"{label(name)} {min(p.loss for p in curve):#.3g} to {max(p.loss for p in curve):#.3g}"
            for name, curve in curves.items()
        )
        return f"After their drops they have no training loss in common ({', '.join(ranges)})."
    points = dict(zip(curves, pair, strict=True))
    return (
        f"At equal training loss, {pair[0].loss:#.3g}, the lowest that both reach after their drops"
        " (LLC interpolated in the logarithm of the loss):"
        f" {', '.join(_at_point(name, point) for name, point in points.items())};"
        f" {_difference_text(points)}."
    )


def _at_point(name: str, point: LLCPoint) -> str:
    return f"{label(name)} {value_text((point.llc, point.std_error))}"


def _first_to_leave(transitions: Mapping[str, Sequence[Transition]], one: str, other: str) -> str:
    leaves = {name: transitions[name][0].plateau_end for name in (one, other) if transitions[name]}
    if not leaves:
        return "Neither has a transition."
    if len(leaves) == 1:
        return f"Only {label(next(iter(leaves)))} has a transition."
    if leaves[one] == leaves[other]:
        return f"Both leave their plateau after epoch {leaves[one]}."
    first, second = sorted(leaves, key=leaves.__getitem__)
    return (
        f"{label(first)} leaves its plateau first, after epoch {leaves[first]}; {label(second)}"
        f" after epoch {leaves[second]}."
    )


def _difference_text(points: Mapping[str, LLCPoint]) -> str:
    """The second optimizer's LLC minus the first's."""
    (one, first), (other, second) = points.items()
    change = _change_text((first.llc, first.std_error), (second.llc, second.std_error))
    return f"{label(other)} − {label(one)} {change.removeprefix('change ')}"


# ---- numbers -------------------------------------------------------------------------------------


def value_text(value: Value) -> str:
    """`46.6 ± 1.0`; four digits without an error, a dash where there is none."""
    if value[0] is None:
        return "–"
    return f"{value[0]:#.4g}" if value[1] is None else with_error(*value)


def arrow(before: Value, after: Value) -> str:
    """`3.2 ± 0.4 → 46.6 ± 1.0`."""
    return f"{value_text(before)} → {value_text(after)}"


def _change_text(before: Value, after: Value) -> str:
    """`change +116.9, 95 % interval 111.0 to 122.8, beyond noise`; errors taken as independent."""
    difference = after[0] - before[0]
    interval = interval_of(difference, before[1], after[1])
    if interval is None:
        return f"change {difference:+.4g}, without an interval"
    value, ends = difference_texts(difference, interval)
    verdict = "within noise" if interval[0] <= 0 <= interval[1] else "beyond noise"
    return f"change {value}, 95 % interval {ends}, {verdict}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
