"""What did a run find where training leaves a plateau? Sentences and a table from the results of
`measure`.

Nothing here measures; what was not measured is left out.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise

import numpy as np
from markupsafe import Markup

from degeneracy.report.style import label
from degeneracy.texts import Z_95, difference_texts, interval_of, with_error
from studies.ngd_sgd.verdict import at
from studies.phase_transitions.phases import (
    LLCPoint,
    Results,
    Value,
    known_losses,
    largest_drop,
    llc_at,
    llc_points,
    optimizers_of,
    phases_of,
    top_eigenvalue_at,
    trace_at,
    transitions_of,
    value_at,
)
from studies.phase_transitions.rule import Transition


def findings(results: Results) -> list[str]:
    """What was found, in plain sentences: the rule, then each optimizer of each model, then the
    optimizers compared.
    """
    texts = [_rule_text(results["config"]["transitions"])]
    for title in results["models"]:
        head = f"{title}, " if len(results["models"]) > 1 else ""
        transitions = transitions_of(results, title)
        for optimizer, series in optimizers_of(results, title).items():
            sentences = _optimizer_texts(series, transitions[optimizer], results["config"])
            texts.append(f"{head}{label(optimizer)}: {' '.join(sentences)}")
        for pair in combinations(transitions, 2):
            sentences = _comparison_texts(results, title, transitions, *pair)
            texts.append(f"{head}{label(pair[0])} and {label(pair[1])}: {' '.join(sentences)}")
    return texts


def _rule_text(rule: Mapping) -> str:
    return (
        "The rule, on the validation loss after every epoch, with R the difference of its largest"
        " and smallest value in a run: an epoch is flat where the loss changes by at most"
        f" {_percent(rule['flat'])} of R. A drop is a run of epochs that each fall by more, one of"
        f" them by at least {_percent(rule['steep'])} of R. It is a transition where at least"
        f" {_count(rule['min_plateau'], 'flat epoch')} in a row, the plateau, end just before it."
        " Below, ± is one standard error: of the sampling, or over probes, there widened to"
        " Student's for the few of them and by the quadrature's error. The images are fixed."
    )


def _optimizer_texts(
    series: Mapping, transitions: Sequence[Transition], config: Mapping
) -> list[str]:
    texts = []
    if (diverged := series.get("diverged_epoch")) is not None:
        texts.append(f"Training diverged in epoch {diverged}; what follows is from before.")
    if not transitions:
        return [*texts, _no_transition_text(series, config["transitions"])]
    texts += [_transition_text(transition) for transition in transitions]
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


def _no_transition_text(series: Mapping, rule: Mapping) -> str:
    first, losses = known_losses(series)
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


def _llc_text(series: Mapping, t: Transition) -> str:
    before, after = (llc_at(series, epoch) for epoch in (t.plateau_end, t.end))
    if before[0] is None or after[0] is None:
        return "The LLC was not measured on both sides of the drop."
    text = f"LLC {_arrow(before, after)}: {_change(before, after)}."
    for (value, error), epoch in ((before, t.plateau_end), (after, t.end)):
        if value + Z_95 * (error or 0) < 0:
            text += (
                f" After epoch {epoch} it is below zero: w* is no minimum there, the sampler found"
                " a lower loss."
            )
    unsettled = {
        epoch: at(series, "num_unsettled_chains", epoch) for epoch in (t.plateau_end, t.end)
    }
    chains = [
        f"{_count(int(count), 'chain')} after epoch {epoch}"
        for epoch, count in unsettled.items()
        if count
    ]
    return f"{text} Not settled: {', '.join(chains)}." if chains else text


def _curvature_texts(series: Mapping, t: Transition) -> list[str]:
    length = max(len(series.get(key) or ()) for key in ("hessian_trace", "top_eigenvalues"))
    texts = []
    for words, of_epoch in (
        ("Hessian trace", trace_at),
        ("Largest Hessian eigenvalue", top_eigenvalue_at),
    ):
        values = {epoch: of_epoch(series, epoch) for epoch in range(length)}
        values = {epoch: value for epoch, value in values.items() if value[0] is not None}
        if t.plateau_end not in values or t.end not in values:
            continue
        peak = max(values, key=lambda epoch: values[epoch][0])
        texts.append(
            f"{words}: {_text(values[t.plateau_end])} before, {_text(values[peak])} at its largest"
            f" (epoch {peak}, {_place(peak, t)}), {_text(values[t.end])} after."
        )
    if texts and t.end == t.plateau_end + 1:
        texts.append("The drop takes one epoch, so no checkpoint lies inside it.")
    return texts


def _place(epoch: int, t: Transition) -> str:
    if epoch <= t.plateau_end:
        return "before the drop"
    return (
        "inside the drop"
        if epoch < t.end
        else "at the drop's end"
        if epoch == t.end
        else "after the drop"
    )


def _distance_text(series: Mapping, t: Transition) -> str:
    pair = [value_at(series, "hessian_fisher_distance", epoch) for epoch in (t.plateau_end, t.end)]
    return "" if None in (pair[0][0], pair[1][0]) else f"‖H − F‖/‖H‖ {_arrow(*pair)}."


def _prediction_text(series: Mapping, t: Transition, data: Mapping) -> str:
    measured = llc_at(series, t.end)
    if measured[0] is None:
        return ""
    parts = []
    for key, words in (
        ("quadratic_llc", "the Hessian's"),
        ("gauss_newton_llc", "the Gauss-Newton matrix's"),
    ):
        value, error = value_at(series, key, t.end)
        if value is not None:
            text = _text((value, error))
            ratio = f" (the measured one is {measured[0] / value:.2f} of it)" if value > 0 else ""
            parts.append(f"{text} by {words} spectrum{ratio}")
    if not parts:
        return ""
    images = f"{data['num_hessian_batches'] * data['batch_size']:,} images"
    return (
        f"After the drop the LLC measured is {_text(measured)}; to second order, on {images},"
        f" {', '.join(parts)}."
    )


def _comparison_texts(
    results: Results, title: str, transitions: Mapping, one: str, other: str
) -> list[str]:
    texts = [_first_to_leave(transitions, one, other)]
    curves = {}
    for name in (one, other):
        end = largest_drop(transitions[name]).end if transitions[name] else 0
        curves[name] = [
            point for point in llc_points(optimizers_of(results, title)[name]) if point.epoch >= end
        ]
    if not all(curves.values()):
        return [*texts, "There are no LLC of both to compare."]
    last = {name: curve[-1] for name, curve in curves.items()}
    texts.append(
        "Last LLC of each, at its training loss: "
        + ", ".join(
            f"{label(name)} {_text((point.llc, point.std_error))} (epoch {point.epoch}, loss"
            f" {point.loss:#.3g})"
            for name, point in last.items()
        )
        + f"; {_pair_difference(one, other, last[one], last[other])}."
    )
    if not (transitions[one] and transitions[other]):
        return texts
    # The lowest loss that both reach after their drops: the one that got less far stands there
    # itself.
    loss = max(min(point.loss for point in curve) for curve in curves.values())
    at_loss = {name: _llc_at_loss(curve, loss) for name, curve in curves.items()}
    if None in at_loss.values():
        ranges = (
            f"{label(name)} {min(p.loss for p in curve):#.3g} to {max(p.loss for p in curve):#.3g}"
            for name, curve in curves.items()
        )
        return [
            *texts,
            f"After their drops they have no training loss in common ({', '.join(ranges)}).",
        ]
    texts.append(
        f"At equal training loss, {loss:#.3g}, the lowest that both reach after their drops (LLC"
        " interpolated in the logarithm of the loss): "
        + ", ".join(
            f"{label(name)} {_text((point.llc, point.std_error))}"
            for name, point in at_loss.items()
        )
        + f"; {_pair_difference(one, other, at_loss[one], at_loss[other])}."
    )
    return texts


def _first_to_leave(transitions: Mapping[str, Sequence[Transition]], one: str, other: str) -> str:
    leaves = {name: transitions[name][0].plateau_end for name in (one, other) if transitions[name]}
    if not leaves:
        return "Neither has a transition."
    if len(leaves) == 1:
        return f"Only {label(next(iter(leaves)))} has a transition."
    if leaves[one] == leaves[other]:
        return f"Both leave their plateau after epoch {leaves[one]}."
    first, second = sorted(leaves, key=leaves.__getitem__)
    one, other = leaves[first], leaves[second]
    return (
        f"{label(first)} leaves its plateau first, after epoch {one}; {label(second)} after epoch"
        f" {other}."
    )


def _llc_at_loss(curve: Sequence[LLCPoint], loss: float) -> LLCPoint | None:
    """The LLC where the curve last passes `loss`, linear in log loss between two epochs; None where
    it does not.
    """
    for point in reversed(curve):
        if point.loss == loss:
            return point
    for before, after in reversed(list(pairwise(curve))):
        low, high = sorted((before.loss, after.loss))
        if 0 < low < loss < high:
            share = math.log(before.loss / loss) / math.log(before.loss / after.loss)
            llc = (1 - share) * before.llc + share * after.llc
            errors = before.std_error, after.std_error
            error = (
                None if None in errors else math.hypot((1 - share) * errors[0], share * errors[1])
            )
            return LLCPoint(after.epoch, loss, llc, error)
    return None


def _pair_difference(one: str, other: str, first: LLCPoint, second: LLCPoint) -> str:
    change = _change((first.llc, first.std_error), (second.llc, second.std_error))
    return f"{label(other)} − {label(one)} {change.removeprefix('change ')}"


def summary_table(results: Results) -> Markup:
    """A row an optimizer and phase, as an HTML table in the report's look."""
    several = len(results["models"]) > 1
    head = [
        "optimizer, phase",
        "epoch",
        "training loss L(w*)",
        "LLC λ̂",
        "Hessian trace",
        "largest eigenvalue",
        "rank",
        "Gauss-Newton rank",
        "‖H − F‖/‖H‖",
    ]
    rows = [
        [
            *([title] if several else []),
            f"{label(optimizer)}, {phase}",
            str(epoch),
            *_phase_cells(series, epoch),
        ]
        for title in results["models"]
        for optimizer, phases in phases_of(results, title).items()
        for series in [optimizers_of(results, title)[optimizer]]
        for phase, epoch in phases.items()
    ]
    columns = Markup("").join(
        Markup('<th scope="col">{}</th>').format(t) for t in ["model"] * several + head
    )
    body = Markup("").join(
        Markup("<tr>{}</tr>").format(
            Markup("").join(Markup("<td>{}</td>").format(text) for text in row)
        )
        for row in rows
    )
    caption = (
        "± one standard error, of the sampling or over probes; largest eigenvalue and Gauss-Newton"
        " rank have none, and – was not measured. Ranks: eigenvalues above γ/nβ. Before: the"
        " plateau's end. Across: the epoch that falls most, where it is not the drop's end. After:"
        " the drop's end. Without a transition: first, middle and last epoch."
    )
    return Markup(
        '<div class="scroll"><table class="data"><caption>Before and after the drop'
        " <span>{}</span></caption><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>"
    ).format(caption, columns, body)


def _phase_cells(series: Mapping, epoch: int) -> list[str]:
    loss, gauss_newton = (at(series, key, epoch) for key in ("llc_init_loss", "gauss_newton_rank"))
    return [
        "–" if loss is None else f"{loss:#.4g}",
        with_error(*llc_at(series, epoch)),
        with_error(*trace_at(series, epoch)),
        _text(top_eigenvalue_at(series, epoch)),
        with_error(*value_at(series, "hessian_rank", epoch)),
        "–" if gauss_newton is None else f"{gauss_newton:,.0f}",
        with_error(*value_at(series, "hessian_fisher_distance", epoch)),
    ]


def _text(value: Value) -> str:
    if value[0] is None:
        return "–"
    return f"{value[0]:#.4g}" if value[1] is None else with_error(*value)


def _arrow(before: Value, after: Value) -> str:
    return f"{_text(before)} → {_text(after)}"


def _change(before: Value, after: Value) -> str:
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


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
