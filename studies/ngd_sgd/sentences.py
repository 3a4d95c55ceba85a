"""How is a verdict said? Its headline, the sentences behind it, and the notes that qualify it.

Nothing here says more than the numbers: what weakens a verdict is a note.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from degeneracy.llc.settings import AUTO
from degeneracy.report.page import Note
from degeneracy.report.run_tables import TEMPERED
from degeneracy.runs.results import parting_epoch
from degeneracy.texts import difference_texts, drift_text, label, listed, with_error
from studies.ngd_sgd import local_sentences
from studies.ngd_sgd.local_verdict import LocalVerdict, local_verdict_of
from studies.ngd_sgd.robustness_verdict import (
    grid_clause,
    grid_sentences,
    not_on_grid,
    rescaling_sentences,
)
from studies.ngd_sgd.verdict import HIGHER, LOWER, UNDETECTED, Comparison, MeasuredLLC, Verdict

FEW_DRAWS = 50  # effective sample size below which the standard error is itself a rough guess
# MALA acceptance below which steps may be too large: the chains are not where they should be.
LOW_ACCEPTANCE = 0.3
NAMED = 2  # optimizers that a note's line names; of more it has the number
SETTINGS_NOTE = Note(
    "λ̂ is not the learning coefficient itself",
    "At finite nβ and γ it compares solutions measured with the same settings, and its value"
    " changes with them.",
)


# ---- headline ------------------------------------------------------------------------------------


def headline(verdict: Verdict, results: Mapping) -> str:
    """The verdict in a sentence, then what the grid of γ × nβ adds in another.

    Where a run has local estimates, they decide, and the published measure has a clause; else it
    has the first sentence, and its comparison at equal training loss stands in the second.
    """
    local = local_verdict_of(verdict.title, results)
    if local is None:
        first = _first_sentence(verdict)
        clauses = [_equal_loss_clause(verdict), grid_clause(verdict, results)]
    else:
        parts = [local_sentences.first_clause(local), _measure_clause(verdict, local)]
        first = f"{'; '.join(part for part in parts if part)}."
        clauses = [local_sentences.equal_loss_clause(local), grid_clause(local, results)]
    second = "; ".join(clause for clause in clauses if clause)
    return f"{first} {second[0].upper()}{second[1:]}." if second else first


def _measure_clause(verdict: Verdict, local: LocalVerdict) -> str:
    """What the measure along the trajectory says, beside the local estimates; empty where it was
    not measured.
    """
    if len(verdict.optimizers) == 1 or not any(final.llc is not None for final in verdict.finals):
        return ""
    measure = f"{verdict.measure}," if verdict.is_tempered else "LLC along the training"
    if not verdict.comparisons:
        return f"the {measure} gives no order{'' if local.comparisons else ' either'}"
    said = {one.other.optimizer: one.direction for one in local.comparisons}
    one = verdict.comparisons[0]
    same = one.direction in (HIGHER, LOWER) and said.get(one.other.optimizer) == one.direction
    too = " too" if same and len(verdict.optimizers) == 2 else ""
    return f"the {measure} is {', '.join(_by_direction(verdict.comparisons))}{too}"


def _first_sentence(verdict: Verdict) -> str:
    measured = [final for final in verdict.finals if final.llc is not None]
    if not measured and verdict.finals:
        return f"No {_noun(verdict)}: every chain diverged."
    if not measured:
        return f"No {_noun(verdict)} was measured, so there is no verdict."
    if len(verdict.optimizers) == 1:
        (final,) = measured
        whose, llc = label(final.optimizer), with_error(final.llc, final.std_error)
        return f"{whose}'s {_named(final)} is {llc}; there is no other to compare it with."
    if not verdict.comparisons:
        return f"No comparison: {'; '.join(verdict.obstacles.values())}."
    if len(verdict.optimizers) == 2:
        return _pair_sentence(verdict)
    return _many_sentence(verdict)


def _pair_sentence(verdict: Verdict) -> str:
    """The verdict on one optimizer against the baseline."""
    (one,) = verdict.comparisons
    if one.direction is None:
        return "No verdict: a standard error is missing, so the difference has no interval."
    other, baseline = label(one.other.optimizer), label(one.baseline.optimizer)
    published, name = verdict.is_published(one), one.other.name
    if verdict.is_tempered:
        return _tempered_sentence(one, published)
    if one.direction == UNDETECTED:
        between = "" if published else f" between {other}'s and {baseline}'s {name}"
        then = ", while in the published runs NGD's final LLC is higher" if published else ""
        return f"No difference detected{between}: its interval includes 0{then}."
    than = "" if published else f" than {baseline}'s"
    kind = {HIGHER: "less", LOWER: "more"}[one.direction]
    end = {HIGHER: ", as published", LOWER: ", opposite to published"}[one.direction]
    return (
        f"{other}'s {name} is {one.direction}{than}, i.e. its solution is {kind} degenerate at"
        f" these settings{end if published else ''}."
    )


def _tempered_sentence(one: Comparison, published: bool) -> str:
    """The same of the published measure as `auto` samples it, which is no LLC."""
    other, baseline = label(one.other.optimizer), label(one.baseline.optimizer)
    name = one.other.full_name
    if one.direction == UNDETECTED:
        then = "; in the published runs NGD's is higher" if published else ""
        return (
            f"No difference detected between {other}'s and {baseline}'s {name}: its interval"
            f" includes 0{then}."
        )
    like = {HIGHER: ", as in the published runs", LOWER: ", unlike in the published runs"}
    end = like[one.direction] if published else ""
    return (
        f"{other}'s {name}, is {one.direction} than {baseline}'s{end}; only a local estimate, which"
        " this run has not, can tell how degenerate a solution is."
    )


def _noun(verdict: Verdict) -> str:
    """`LLC`, or what else is compared, without more."""
    return TEMPERED if verdict.is_tempered else "LLC"


def _named(final: MeasuredLLC) -> str:
    """`final LLC`; `final tempered sensitivity, as published,`."""
    return f"{final.full_name}{',' if final.full_name != final.name else ''}"


def _many_sentence(verdict: Verdict) -> str:
    """`Against SGD's, the final LLC is higher for NGD (as published) and adamw, lower for muon.`"""
    baseline = verdict.comparisons[0].baseline
    is_published = None if verdict.is_tempered else verdict.is_published
    parts = _by_direction(verdict.comparisons, is_published)
    return f"Against {label(baseline.optimizer)}'s, the {_named(baseline)} is {', '.join(parts)}."


def _by_direction(
    comparisons: Sequence[Comparison], is_published: Callable[[Comparison], bool] | None = None
) -> list[str]:
    """Who is higher, who is lower, …; beside the published pair, where asked, how it compares."""
    words = {
        HIGHER: "higher for {}",
        LOWER: "lower for {}",
        UNDETECTED: "not detectably different for {}",
        None: "without an interval for {}",
    }
    said = {HIGHER: " (as published)", LOWER: " (opposite to published)"}
    parts = []
    for direction, text in words.items():
        names = [
            label(one.other.optimizer)
            + (said.get(direction, "") if is_published and is_published(one) else "")
            for one in comparisons
            if one.direction == direction
        ]
        if names:
            parts.append(text.format(listed(names)))
    return parts


def _equal_loss_clause(verdict: Verdict) -> str:
    if not verdict.at_equal_loss:
        return ""
    if len(verdict.optimizers) > 2:
        return f"at equal training loss it is {', '.join(_by_direction(verdict.at_equal_loss))}"
    (one,) = verdict.at_equal_loss
    if one.direction == UNDETECTED:
        return "at equal training loss these error bars show no difference"
    return (
        f"at equal training loss {label(one.other.optimizer)}'s {_noun(verdict)} is {one.direction}"
    )


# ---- the numbers behind it -----------------------------------------------------------------------


def sentences(verdict: Verdict, results: Mapping) -> list[str]:
    """The numbers behind the headline, sentence by sentence."""
    measured = [final for final in verdict.finals if final.llc is not None]
    local = local_verdict_of(verdict.title, results)
    return [
        *(local_sentences.sentences(local) if local else []),
        *([_statement(verdict, measured, results)] if measured else []),
        *(_difference_sentence(one, verdict) for one in verdict.comparisons),
        *(_equal_loss_sentence(one) for one in verdict.at_equal_loss),
        *grid_sentences(verdict.title, results),
        *rescaling_sentences(verdict.title, results),
    ]


def sampler_text(results: Mapping) -> str:
    """The settings an LLC depends on, as `SGLD, 2 chains × 1000 draws, ε = 0.0001, γ = 100, nβ =
    26.4`, or `auto, 8 chains, γ = 100, nβ = 26.4`, which chooses the rest itself.
    """
    sampler = results["config"]["devinterp"]
    is_auto = sampler["sampler"] == AUTO
    chains = f"{sampler['num_chains']} chains"
    if sampler.get("num_draws"):
        chains += f" × {sampler['num_draws']} draws"
    parts = [AUTO if is_auto else sampler["sampler"].upper(), chains]
    if sampler.get("num_burnin_steps"):
        parts.append(f"{sampler['num_burnin_steps']} burn-in steps")
    if sampler.get("sampler_lr") is not None:
        parts.append(f"ε = {sampler['sampler_lr']:g}")
    if sampler["sampler"] != "sgnht":  # which has no localization
        parts.append(f"γ = {sampler['localization']:g}")
    return ", ".join([*parts, f"nβ = {results['nbeta']:.4g}"])


def _statement(verdict: Verdict, measured: Sequence[MeasuredLLC], results: Mapping) -> str:
    parts = []
    for final in measured:
        llc = with_error(final.llc, final.std_error)
        text = f"{label(final.optimizer)} {llc} after epoch {final.epoch}"
        if final.drift is not None:
            text += f" (drift {drift_text(final.drift, final.std_error)})"
        parts.append(text)
    what = f"{verdict.measure[0].upper()}{verdict.measure[1:]}"
    return (
        f"{what}, mean ± standard error: {'; '.join(parts)}. Sampled with {sampler_text(results)}."
    )


def _difference_sentence(one: Comparison, verdict: Verdict) -> str:
    of = f" of the {TEMPERED}" if verdict.is_tempered else ""
    pair = (one.baseline, one.other)
    losses = " and ".join(f"{_loss(final)} ({label(final.optimizer)})" for final in pair)
    where = f"at {_final(one.other)}training losses of {losses}"
    if one.interval is None:
        return (
            f"Difference {one.names}{of}: {one.difference:+.4g}, without an interval, from one"
            f" training seed, {where}."
        )
    value, ends = difference_texts(one.difference, one.interval)
    return (
        f"Difference {one.names}{of}: {value}, 95 % interval from {ends} (sampling error only, one"
        f" training seed), {where}."
    )


def _equal_loss_sentence(one: Comparison) -> str:
    value, ends = difference_texts(one.difference, one.interval)
    parts = [
        f"{label(m.optimizer)} {with_error(m.llc, m.std_error)} by epoch {m.epoch}"
        for m in (one.baseline, one.other)
    ]
    return (
        f"At equal training loss ({_loss(one.baseline)}, the one that went further interpolated"
        f" between epochs): {', '.join(parts)}; difference {one.names} {value}, 95 % interval from"
        f" {ends} (sampling error only, one training seed)."
    )


def _final(llc: MeasuredLLC) -> str:
    return "final " if llc.is_final else ""


def _loss(llc: MeasuredLLC) -> str:
    return "unknown" if llc.train_loss is None else f"{llc.train_loss:#.3g}"


# ---- notes ---------------------------------------------------------------------------------------


def notes(verdict: Verdict, results: Mapping) -> list[Note]:
    """What weakens the verdict, the gravest first; what several optimizers share in one line."""
    optimizers = results["models"][verdict.title]["optimizers"]
    measured = any(final.llc is not None for final in verdict.finals)
    local = local_verdict_of(verdict.title, results)
    weak = _sampling_notes(verdict.finals, results["config"]["devinterp"]["num_chains"])
    if local is not None:  # the measure along the training is no longer all that there is
        of = _noun(verdict).capitalize() if verdict.is_tempered else "Along the training"
        weak = [Note(f"{of}, {note.line}", note.detail) for note in weak]
    return [
        *_training_notes(optimizers, parting_epoch(results["config"])),
        *(local_sentences.notes(local) if local else []),
        *weak,
        *_comparison_notes(verdict, has_local=local is not None),
        *_grid_notes(verdict.title, results),
        *([SETTINGS_NOTE] if measured or (local and local.has_numbers) else []),
    ]


def _training_notes(optimizers: Mapping, parting: int) -> list[Note]:
    epochs = {name: series.get("diverged_epoch") for name, series in optimizers.items()}
    epochs = {name: epoch for name, epoch in epochs.items() if epoch is not None}
    baseline, *others = optimizers
    waiting = [name for name in others if epochs.get(name, parting + 1) <= parting]
    found = [
        Note(f"{label(name)} diverged in epoch {epoch}", "Nothing was measured from that epoch on.")
        for name, epoch in epochs.items()
        if name not in waiting
    ]
    if waiting:
        run = f"the {label(baseline)} run, from which a swap goes on"
        why = f"{run}, diverged in epoch {epochs[waiting[0]]}"
        found.append(_named_note(waiting, "never started", why))
    for name, series in optimizers.items():
        if skipped := max(filter(None, series.get("num_skipped_updates") or ()), default=0):
            line = f"{label(name)} skipped {skipped:g} updates of a tensor"
            found.append(Note(line, "Their gradient was not finite."))
    return found


def _sampling_notes(finals: Iterable[MeasuredLLC], num_chains: int) -> list[Note]:
    finals = list(finals)
    measured = [final for final in finals if final.llc is not None]
    lost = [final for final in finals if final.llc is None]
    found = [
        _shared_note(
            finals,
            lambda f: f.num_diverged_chains and f"{f.num_diverged_chains} of {num_chains}",
            "chains diverged",
            "They count in no estimate.",
        ),
        _shared_note(
            lost,
            lambda f: f"epoch {f.epoch}",
            "without an LLC" if not lost or lost[0].measure == "LLC" else "without a value",
            "It is the last epoch at which chains were sampled.",
        ),
        _shared_note(
            measured,
            # Of eight chains one looks so by chance; where certificates tell, they are believed.
            lambda f: (
                not f.verdict
                and f.num_unsettled_chains
                and f"{f.num_unsettled_chains} of {num_chains}"
            ),
            "chains had not settled",
            "They were still rising or still falling at the last epoch sampled: the means of a"
            " chain's two halves differ by more than two standard errors.",
        ),
        _shared_note(
            measured,
            lambda f: f.std_error is None and f.name,
            "without a standard error",
            "So no interval can be given.",
        ),
        # Doubling the draws, from the first half to the whole, moved the estimate by this much.
        _shared_note(
            measured,
            lambda f: _drifts(f) and drift_text(f.drift, f.std_error),
            "drift beyond the standard error",
            f"The {finals[0].measure if finals else 'LLC'} is still drifting, so the number depends"
            " on the draws: the second half of them is this far from the whole.",
        ),
        _shared_note(
            measured,
            lambda f: _is_low(f.acceptance, LOW_ACCEPTANCE) and f"{100 * f.acceptance:.0f} %",
            "MALA acceptance, too low",
            "So few steps would have been accepted that their size may bias the LLC; compare with a"
            " smaller sampler_lr.",
        ),
        _shared_note(
            measured,
            lambda f: _is_low(f.ess, FEW_DRAWS) and f"{f.ess:.0f}",
            "effective draws, too few",
            "The draws are worth so few independent ones that the standard error itself is a rough"
            " guess.",
        ),
    ]
    return [note for note in found if note is not None]


def _named_note(optimizers: Sequence[str], words: str, why: str) -> Note:
    """`NGD and adamw never started`; of many optimizers the detail has the names."""
    names, why = listed([label(name) for name in optimizers]), f"{why[0].upper()}{why[1:]}."
    if len(optimizers) <= NAMED:
        return Note(f"{names} {words}", why)
    return Note(f"{len(optimizers)} optimizers {words}", f"{names}. {why}")


def _shared_note(
    finals: Sequence[MeasuredLLC],
    value: Callable[[MeasuredLLC], str | int | bool],
    words: str,
    detail: str,
) -> Note | None:
    """`SGD: 2 of 2, NGD: 1 of 2 chains had not settled`; of many optimizers the detail has the
    values. None where no optimizer has one.
    """
    values = [(label(final.optimizer), value(final)) for final in finals]
    parts = [f"{name}: {text}" for name, text in values if text]
    if not parts:
        return None
    if len(parts) <= NAMED:
        return Note(f"{', '.join(parts)} {words}".rstrip(), detail)
    return Note(f"{len(parts)} optimizers: {words}", f"{', '.join(parts)}. {detail}")


def _drifts(final: MeasuredLLC) -> bool:
    return None not in (final.drift, final.std_error) and abs(final.drift) > final.std_error


def _is_low(value: float | None, least: float) -> bool:
    return value is not None and value < least


def _comparison_notes(verdict: Verdict, has_local: bool) -> list[Note]:
    found, by = [], f" by {verdict.measure}" if has_local else ""
    if verdict.comparisons or has_local:  # else the headline says why
        for names, why in verdict.obstacles.items():
            words = f"{_are(names)} not compared with {label(verdict.baseline)}{by}"
            found.append(_named_note(names, words, why))
    more = "More draws could change its sign."
    drift = "the drift is as large as the difference"
    last, equal = (
        [one.names for one in comparisons if one.drift_exceeds]
        for comparisons in (verdict.comparisons, verdict.at_equal_loss)
    )
    if last:
        found.append(Note(f"T{drift[1:]}: {listed(last)}", more))
    if equal:
        where = "At equal training loss, too," if last else "At equal training loss"
        found.append(Note(f"{where} {drift}: {listed(equal)}", more))
    if unequal := [one for one in verdict.comparisons if one.is_unequal_in_loss]:
        finals = [unequal[0].baseline, *(one.other for one in unequal)]
        losses = ", ".join(f"{label(final.optimizer)} {_loss(final)}" for final in finals)
        line = f"The {_final(finals[0])}training losses differ"
        detail = "The comparison is not at equal loss; see the figure of"
        detail += f" {_noun(verdict)} against training loss."
        if len(finals) <= NAMED:
            found.append(Note(f"{line}: {losses}", detail))
        else:
            found.append(Note(line, f"{losses}. {detail}"))
    return found


def _grid_notes(title: str, results: Mapping) -> list[Note]:
    missing = not_on_grid(title, results)
    words = f"{_are(missing)} not on the grid of γ × nβ"
    why = "training did not reach the final checkpoint that it samples"
    return [_named_note(missing, words, why)] if missing else []


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"
