"""What do the numbers of a run say about the question? One verdict a model, computed and put into
plain sentences.

The question is whether NGD's solution is less degenerate than SGD's, that is, whether its LLC is
higher. A verdict never says more than the numbers: the interval holds sampling error only, and
everything that weakens it is a warning.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from degeneracy.report.style import label
from degeneracy.runs.results import parting_epoch
from degeneracy.texts import difference_texts, drift_text, interval_of, number, with_error
from studies.ngd_sgd.robustness_verdict import grid_clause, grid_sentences, rescaling_sentences

FEW_DRAWS = 50  # effective sample size below which the standard error is itself a rough guess
# MALA acceptance below which steps may be too large: the chains are not where they should be
LOW_ACCEPTANCE = 0.3
UNEQUAL_LOSS = (
    0.1  # relative difference of two training losses from which they do not count as equal
)
NEAR_EPOCHS = (
    1.5  # ratio of two epochs' training losses up to which the LLC between them is interpolated
)
SETTINGS_NOTE = (
    "At finite nβ and γ, λ̂ is not the learning coefficient: it compares solutions measured with"
    " the same settings, and its value changes with them."
)
EQUAL_LOSS_HEADLINES = {
    "higher": "At equal training loss NGD's LLC is higher.",
    "lower": "At equal training loss NGD's LLC is lower.",
    "undetected": "At equal training loss these error bars show no difference.",
}
EQUAL_LOSS_NOTE = (
    "the comparison is not at equal loss; see the figure of LLC against training loss."
)


@dataclass(frozen=True)
class MeasuredLLC:
    """An LLC of one optimizer, as measured at one epoch; what could not be had is None."""

    optimizer: str
    epoch: int
    num_epochs: int  # of the run; an LLC of an earlier epoch is not called final
    llc: float | None
    std_error: float | None
    drift: float | None  # estimate from the second half of the draws minus the whole
    train_loss: float | None  # L(w*), nats; the epoch's mean minibatch loss where L(w*) is missing
    num_diverged_chains: int
    num_unsettled_chains: int  # still rising or still falling
    ess: float | None  # effective sample size, draws
    acceptance: float | None  # MALA acceptance

    @property
    def name(self) -> str:
        """`final LLC`, or which one it is."""
        return (
            "final LLC"
            if self.epoch == self.num_epochs
            else f"LLC after epoch {self.epoch} of {self.num_epochs}"
        )


@dataclass(frozen=True)
class Verdict:
    """What one model's numbers say.

    Attributes:
        title: The model.
        direction: How NGD's final LLC stands to SGD's: `"higher"`, `"lower"`, `"undetected"` (the
            interval includes 0), or None where the two cannot be compared.
        headline: The verdict at the last epoch; where the training losses differ, at equal training
            loss; where the order does not hold in every settled cell of the grid of γ × nβ, there.
        text: The numbers behind it, sentence by sentence.
        warnings: What weakens it.
        finals: The final LLC of each optimizer that was measured.
        difference: Final LLC of NGD minus SGD.
        interval: Its 95 % interval, sampling error only, one training seed.
    """

    title: str
    direction: str | None
    headline: str
    text: tuple[str, ...]
    warnings: tuple[str, ...]
    finals: tuple[MeasuredLLC, ...]
    difference: float | None = None
    interval: tuple[float, float] | None = None


def verdicts(results: Mapping) -> list[Verdict]:
    """One verdict a model, in the order of `results["models"]`."""
    return [_with_robustness(_verdict(title, results), results) for title in results["models"]]


def settings_text(results: Mapping) -> str:
    """The settings an LLC depends on, as `SGLD, 2 chains × 1000 draws, ε = 0.0001, γ = 100, nβ =
    26.4`.
    """
    sampler = results["config"]["devinterp"]
    parts = [
        sampler["sampler"].upper(),
        f"{sampler['num_chains']} chains × {sampler['num_draws']} draws",
    ]
    if sampler.get("num_burnin_steps"):
        parts.append(f"{sampler['num_burnin_steps']} burn-in steps")
    parts.append(f"ε = {sampler['sampler_lr']:g}")
    if sampler["sampler"] != "sgnht":  # which has no localization
        parts.append(f"γ = {sampler['localization']:g}")
    return ", ".join([*parts, f"nβ = {results['nbeta']:.4g}"])


def at(series: Mapping, key: str, epoch: int) -> float | None:
    """The finite value of `series[key]` at `epoch`, or None."""
    values = series.get(key) or ()
    return number(values[epoch]) if epoch < len(values) else None


def final_llc(optimizer: str, series: Mapping, num_epochs: int) -> MeasuredLLC | None:
    """What stands at the last epoch whose LLC was measured, even where all its chains diverged;
    None: no such epoch.
    """
    tried = ("llc", "llc_init_loss", "num_diverged_chains")
    lists = [series.get(key) or () for key in tried]
    epochs = [epoch for values in lists for epoch, value in enumerate(values) if value is not None]
    if not epochs:
        return None
    return _llc_at(optimizer, series, max(epochs), num_epochs)


def _llc_at(optimizer: str, series: Mapping, epoch: int, num_epochs: int) -> MeasuredLLC:
    loss = at(series, "llc_init_loss", epoch)
    return MeasuredLLC(
        optimizer,
        epoch,
        num_epochs,
        llc=at(series, "llc", epoch),
        std_error=at(series, "llc_std_error", epoch),
        drift=at(series, "llc_drift", epoch),
        train_loss=at(series, "train_loss", epoch) if loss is None else loss,
        num_diverged_chains=int(at(series, "num_diverged_chains", epoch) or 0),
        num_unsettled_chains=int(at(series, "num_unsettled_chains", epoch) or 0),
        ess=at(series, "llc_ess", epoch),
        acceptance=at(series, "llc_acceptance", epoch),
    )


def _with_robustness(verdict: Verdict, results: Mapping) -> Verdict:
    """The verdict with what the grid of γ × nβ and the rescaled layers say, where they were
    measured.
    """
    clause = grid_clause(verdict.title, results, verdict.direction)
    sentences = grid_sentences(verdict.title, results) + rescaling_sentences(verdict.title, results)
    return replace(
        verdict, headline=f"{verdict.headline} {clause}".rstrip(), text=(*verdict.text, *sentences)
    )


def _verdict(title: str, results: Mapping) -> Verdict:
    optimizers = results["models"][title]["optimizers"]
    last = results["config"]["experiment"]["num_epochs"]
    finals = {name: final_llc(name, series, last) for name, series in optimizers.items()}
    finals = {name: final for name, final in finals.items() if final is not None}
    warnings = _training_warnings(optimizers, parting_epoch(results["config"]))
    for final in finals.values():
        warnings += _sampling_warnings(final, results["config"]["devinterp"]["num_chains"])
    measured = {name: final for name, final in finals.items() if final.llc is not None}
    if not measured:
        headline = (
            "No LLC: every chain diverged."
            if finals
            else "No LLC was measured, so there is no verdict."
        )
        return Verdict(title, None, headline, (), tuple(warnings), tuple(finals.values()))
    text = [_statement(measured.values(), results)]
    obstacle = _obstacle(measured, results)
    if obstacle:
        text.append(SETTINGS_NOTE)
        return Verdict(title, None, obstacle, tuple(text), tuple(warnings), tuple(finals.values()))
    sgd, ngd = measured["sgd"], measured["ngd"]
    difference, interval = _difference(sgd, ngd)
    direction = _direction(interval)
    headline = _headline(direction, ngd.name)
    text.append(_difference_sentence(difference, interval, sgd, ngd))
    warnings += _comparison_warnings(difference, sgd, ngd)
    if pair := _at_equal_loss(title, results, sgd, ngd):
        equal_difference, equal_interval = _difference(*pair)
        headline += f" {EQUAL_LOSS_HEADLINES[_direction(equal_interval)]}"
        text.append(_pair_sentence(equal_difference, equal_interval, *pair))
        if _drift_exceeds(equal_difference, *pair):
            warnings.append("At equal training loss, too, the drift is as large as the difference.")
    text.append(SETTINGS_NOTE)
    return Verdict(
        title,
        direction,
        headline,
        tuple(text),
        tuple(warnings),
        tuple(finals.values()),
        difference,
        interval,
    )


def _obstacle(measured: Mapping[str, MeasuredLLC], results: Mapping) -> str | None:
    """Why NGD and SGD cannot be compared, or None where they can."""
    missing = [name for name in ("sgd", "ngd") if name not in measured]
    if missing:
        return f"No comparison: there is no final LLC of {' or '.join(map(label, missing))}."
    sgd, ngd = measured["sgd"], measured["ngd"]
    if sgd.epoch != ngd.epoch:
        return (
            f"No comparison: the last LLC is of epoch {sgd.epoch} for SGD, of epoch {ngd.epoch} for"
            " NGD."
        )
    if sgd.epoch <= parting_epoch(results["config"]):
        return f"No comparison: no LLC was measured after epoch {sgd.epoch}, which both share."
    return None


def _at_equal_loss(
    title: str, results: Mapping, sgd: MeasuredLLC, ngd: MeasuredLLC
) -> tuple[MeasuredLLC, MeasuredLLC] | None:
    """(SGD, NGD) at one training loss, where the last ones differ in it; None: they do not, or none
    can be had.

    The optimizer that got less far stays at its last epoch. The other's LLC is interpolated, in the
    logarithm of the loss, between the two epochs where it last passed that loss.
    """
    if None in (sgd.train_loss, ngd.train_loss, sgd.std_error, ngd.std_error):
        return None
    if not _is_unequal(sgd.train_loss, ngd.train_loss):
        return None
    behind, ahead = (sgd, ngd) if sgd.train_loss > ngd.train_loss else (ngd, sgd)
    series = results["models"][title]["optimizers"][ahead.optimizer]
    epochs = range(parting_epoch(results["config"]), ahead.epoch + 1)
    measured = [_llc_at(ahead.optimizer, series, epoch, ahead.num_epochs) for epoch in epochs]
    measured = [m for m in measured if None not in (m.llc, m.std_error, m.train_loss)]
    for before, after in reversed(list(pairwise(measured))):
        if (
            before.train_loss
            >= behind.train_loss
            > after.train_loss
            > before.train_loss / NEAR_EPOCHS
        ):
            there = _interpolated(before, after, behind.train_loss)
            return (behind, there) if behind is sgd else (there, behind)
    return None


def _interpolated(before: MeasuredLLC, after: MeasuredLLC, loss: float) -> MeasuredLLC:
    """The LLC between two epochs at a training loss between theirs; their sampling errors are
    independent.
    """
    share = math.log(before.train_loss / loss) / math.log(before.train_loss / after.train_loss)
    return replace(
        after,
        llc=(1 - share) * before.llc + share * after.llc,
        std_error=math.hypot((1 - share) * before.std_error, share * after.std_error),
        drift=(1 - share) * (before.drift or 0) + share * (after.drift or 0),
        train_loss=loss,
    )


def _is_unequal(a: float, b: float) -> bool:
    return abs(a - b) > UNEQUAL_LOSS * max(abs(a), abs(b))


def _difference(sgd: MeasuredLLC, ngd: MeasuredLLC) -> tuple[float, tuple[float, float] | None]:
    """NGD − SGD and its 95 % interval, from two independent standard errors; no interval without
    both.
    """
    difference = ngd.llc - sgd.llc
    return difference, interval_of(difference, sgd.std_error, ngd.std_error)


def _direction(interval: tuple[float, float] | None) -> str | None:
    if interval is None:
        return None
    return "higher" if interval[0] > 0 else "lower" if interval[1] < 0 else "undetected"


def _headline(direction: str | None, name: str) -> str:
    return {
        None: "No verdict: a standard error is missing, so the difference has no interval.",
        "higher": (
            f"NGD's {name} is higher, i.e. its solution is less degenerate at these settings, as"
            " published."
        ),
        "lower": (
            f"NGD's {name} is lower, i.e. its solution is more degenerate at these settings, "
            "opposite to published."
        ),
        "undetected": (
            "No difference detected: its interval includes 0. "
            "In the published runs NGD's final LLC is higher."
        ),
    }[direction]


def _statement(measured, results: Mapping) -> str:
    parts = [
        f"{label(final.optimizer)} {with_error(final.llc, final.std_error)} after epoch"
        f" {final.epoch}"
        + (
            f" (drift {drift_text(final.drift, final.std_error)})"
            if final.drift is not None
            else ""
        )
        for final in measured
    ]
    return f"LLC, mean ± standard error: {'; '.join(parts)}. Sampled with {settings_text(results)}."


def _difference_sentence(difference: float, interval, sgd: MeasuredLLC, ngd: MeasuredLLC) -> str:
    losses = f"at {_final(ngd)}training losses of {_loss(sgd)} (SGD) and {_loss(ngd)} (NGD)"
    if interval is None:
        return (
            f"Difference NGD − SGD: {difference:+.4g}, without an interval, from one training seed,"
            f" {losses}."
        )
    value, ends = difference_texts(difference, interval)
    return (
        f"Difference NGD − SGD: {value}, 95 % interval from {ends} (sampling error only, one"
        f" training seed), {losses}."
    )


def _pair_sentence(difference: float, interval, sgd: MeasuredLLC, ngd: MeasuredLLC) -> str:
    value, ends = difference_texts(difference, interval)
    parts = [
        f"{label(m.optimizer)} {with_error(m.llc, m.std_error)} by epoch {m.epoch}"
        for m in (sgd, ngd)
    ]
    return (
        f"At equal training loss ({_loss(sgd)}, the one that went further interpolated between"
        f" epochs): {', '.join(parts)}; difference NGD − SGD {value}, 95 % interval from {ends}"
        " (sampling error only, one training seed)."
    )


def _final(final: MeasuredLLC) -> str:
    return "final " if final.epoch == final.num_epochs else ""


def _loss(final: MeasuredLLC) -> str:
    return "unknown" if final.train_loss is None else f"{final.train_loss:#.3g}"


def _training_warnings(optimizers: Mapping, parting: int) -> list[str]:
    warnings = []
    for name, series in optimizers.items():
        epoch = series.get("diverged_epoch")
        if epoch is not None and name == "ngd" and epoch <= parting:
            warnings.append(
                f"NGD never started: the SGD run it was to go on from diverged in epoch {epoch}."
            )
        elif epoch is not None:
            warnings.append(
                f"{label(name)} diverged in epoch {epoch}; nothing was measured from that epoch on."
            )
        skipped = max(
            (value for value in series.get("num_skipped_updates") or () if value), default=0
        )
        if skipped:
            warnings.append(
                f"{label(name)} skipped {skipped:g} updates of a tensor: their gradient was not"
                " finite."
            )
    return warnings


def _sampling_warnings(final: MeasuredLLC, num_chains: int) -> list[str]:
    name, warnings = label(final.optimizer), []
    if final.num_diverged_chains:
        warnings.append(
            f"{name}: {final.num_diverged_chains} of {num_chains} chains diverged at epoch"
            f" {final.epoch}."
        )
    if final.llc is None:
        return [*warnings, f"{name} has no LLC at epoch {final.epoch}, the last one sampled."]
    if final.num_unsettled_chains:
        warnings.append(
            f"{name}: {final.num_unsettled_chains} of {num_chains} chains had not settled at epoch"
            f" {final.epoch} (still rising or still falling)."
        )
    if final.std_error is None:
        warnings.append(
            f"{name}'s {final.name} has no standard error, so no interval can be given."
        )
    # Doubling the draws, from the first half to the whole, moved the estimate by whole − first half
    # = drift.
    elif final.drift is not None and abs(final.drift) > final.std_error:
        warnings.append(
            f"{name}'s {final.name} is still drifting: the number depends on the draws. The second"
            f" half of the draws is {drift_text(final.drift, final.std_error)} from the whole,"
            f" beyond the standard error of {final.std_error:#.2g}."
        )
    if final.acceptance is not None and final.acceptance < LOW_ACCEPTANCE:
        warnings.append(
            f"{name}: MALA would have accepted only {final.acceptance:.0%} of the steps, so their"
            " size may bias the LLC; compare with a smaller sampler_lr."
        )
    if final.ess is not None and final.ess < FEW_DRAWS:
        warnings.append(
            f"{name}: the draws are worth {final.ess:.0f} independent ones, too few to trust the"
            " standard error itself."
        )
    return warnings


def _drift_exceeds(difference: float, sgd: MeasuredLLC, ngd: MeasuredLLC) -> bool:
    return max(abs(sgd.drift or 0), abs(ngd.drift or 0)) >= abs(difference) > 0


def _comparison_warnings(difference: float, sgd: MeasuredLLC, ngd: MeasuredLLC) -> list[str]:
    warnings = []
    if _drift_exceeds(difference, sgd, ngd):
        warnings.append(
            "The drift is as large as the difference: more draws could change its sign."
        )
    if None not in (sgd.train_loss, ngd.train_loss) and _is_unequal(sgd.train_loss, ngd.train_loss):
        warnings.append(
            f"The {_final(ngd)}training losses differ ({_loss(sgd)} for SGD, {_loss(ngd)} for NGD):"
            f" {EQUAL_LOSS_NOTE}"
        )
    return warnings
