"""What do the numbers of a run say about the question? One verdict a model, as numbers.

The question is whether an optimizer's solution is less degenerate than the baseline's, that is,
whether its LLC is higher. The baseline is the run's first optimizer. An interval holds sampling
error only, of one training seed; `sentences` puts all of it into words.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from degeneracy.llc.certificates import NO_REST
from degeneracy.report.run_tables import TEMPERED, is_auto, is_tempered, measure_name
from degeneracy.runs.results import at, parting_epoch
from degeneracy.texts import Z_95, label, listed, number

# How an optimizer's LLC stands to the baseline's.
HIGHER, LOWER, UNDETECTED = "higher", "lower", "undetected"
NOT_AT_REST, NEGATIVE = "not at rest", "negative λ̂"  # which never count for an order
PUBLISHED = ("ngd", "sgd")  # whose LLC the publication says is higher than whose
# Relative difference of two training losses from which they do not count as equal.
UNEQUAL_LOSS = 0.1
# Ratio of two epochs' training losses up to which the LLC between them is interpolated.
NEAR_EPOCHS = 1.5


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
    interval: tuple[float, float] | None = None  # 95 %, where the run gives one (Student)
    verdict: str | None = None  # of `degeneracy.llc.certificates`, where the run has one
    measure: str = "LLC"  # what λ̂ is called

    @property
    def is_final(self) -> bool:
        """Whether it is of the run's last epoch."""
        return self.epoch == self.num_epochs

    @property
    def name(self) -> str:
        """`final LLC`, or which one it is."""
        if self.is_final:
            return f"final {self.measure}"
        return f"{self.measure} after epoch {self.epoch} of {self.num_epochs}"

    @property
    def full_name(self) -> str:
        """The same, with where the measure comes from if it is no LLC."""
        return f"{self.name}, as published" if self.measure == TEMPERED else self.name

    @property
    def half_width(self) -> float | None:
        """Of its 95 % interval; None without one."""
        if self.interval is not None:
            return (self.interval[1] - self.interval[0]) / 2
        return None if self.std_error is None else Z_95 * self.std_error

    @property
    def flaw(self) -> str | None:
        """Why it counts for no order though it has a number; None: it counts."""
        if self.llc is not None and self.verdict == NO_REST:
            return NOT_AT_REST
        return NEGATIVE if self.llc is not None and self.llc < 0 else None


@dataclass(frozen=True)
class Comparison:
    """Two LLCs, an optimizer's and the baseline's, both measured; their errors are independent."""

    baseline: MeasuredLLC
    other: MeasuredLLC

    @property
    def names(self) -> str:
        """`NGD − SGD`."""
        return f"{label(self.other.optimizer)} − {label(self.baseline.optimizer)}"

    @property
    def difference(self) -> float:
        """The other's minus the baseline's."""
        return self.other.llc - self.baseline.llc

    @property
    def interval(self) -> tuple[float, float] | None:
        """Its 95 % interval, sampling error only; None where a standard error is missing."""
        halves = (self.baseline.half_width, self.other.half_width)
        return interval_about(self.difference, *halves)

    @property
    def direction(self) -> str | None:
        """`HIGHER`, `LOWER`, `UNDETECTED` (the interval includes 0), or None without interval."""
        return direction_of(self.interval)

    @property
    def drift_exceeds(self) -> bool:
        """Whether one of the two drifts as far as they are apart."""
        drift = max(abs(self.baseline.drift or 0), abs(self.other.drift or 0))
        return drift >= abs(self.difference) > 0

    @property
    def is_unequal_in_loss(self) -> bool:
        """Whether the two training losses are known, and differ."""
        a, b = self.baseline.train_loss, self.other.train_loss
        return None not in (a, b) and abs(a - b) > UNEQUAL_LOSS * max(abs(a), abs(b))


@dataclass(frozen=True)
class Verdict:
    """What one model's numbers say.

    Attributes:
        title: The model.
        optimizers: All that the run compares; the first is the baseline.
        finals: The LLC at the last epoch at which each optimizer's was sampled.
        comparisons: Those of `finals` that can be compared with the baseline's.
        at_equal_loss: The same optimizers at one training loss, where the last ones differ in it
            and both passed it.
        obstacles: Optimizers → why they are not compared, as a clause that says it of all of them.
        is_of_kinds: Whether the config says what every optimizer is. One from Python is not what
            the publication calls by its name.
        measure: What the compared numbers are called in a sentence: `LLC`, or `tempered
            sensitivity, as published`, which says nothing of degeneracy by itself.
    """

    title: str
    optimizers: tuple[str, ...]
    finals: tuple[MeasuredLLC, ...]
    comparisons: tuple[Comparison, ...]
    at_equal_loss: tuple[Comparison, ...]
    obstacles: Mapping[tuple[str, ...], str]
    is_of_kinds: bool
    measure: str = "LLC"

    @property
    def is_tempered(self) -> bool:
        """Whether it compares the published measure, sampled by `auto`."""
        return self.measure != "LLC"

    @property
    def baseline(self) -> str:
        """What the others are compared with."""
        return self.optimizers[0]

    def is_published(self, one: Comparison) -> bool:
        """Whether the publication says which of the two LLCs is higher."""
        return self.is_of_kinds and (one.other.optimizer, one.baseline.optimizer) == PUBLISHED


def direction_of(interval: tuple[float, float] | None) -> str | None:
    """`HIGHER`, `LOWER`, `UNDETECTED` (the interval of a difference includes 0), None without."""
    if interval is None:
        return None
    low, high = interval
    return HIGHER if low > 0 else LOWER if high < 0 else UNDETECTED


def interval_about(difference: float, *halves: float | None) -> tuple[float, float] | None:
    """The interval of a difference of independent numbers, from half the width of theirs; None
    where one is missing.
    """
    if None in halves:
        return None
    return difference - math.hypot(*halves), difference + math.hypot(*halves)


def verdicts(results: Mapping) -> list[Verdict]:
    """One verdict a model, in the order of `results["models"]`."""
    return [verdict_of(title, results) for title in results["models"]]


def verdict_of(title: str, results: Mapping) -> Verdict:
    """The verdict on one model."""
    optimizers = results["models"][title]["optimizers"]
    last, parting = results["config"]["experiment"]["num_epochs"], parting_epoch(results["config"])
    if not is_auto(results):  # Student's interval of two chains would say nothing
        optimizers = {name: {**s, "llc_interval": None} for name, s in optimizers.items()}
    finals = {name: _final_llc(name, series, last) for name, series in optimizers.items()}
    what = TEMPERED if is_tempered(results) else "LLC"
    finals = {
        name: replace(final, measure=what) for name, final in finals.items() if final is not None
    }
    baseline, *others = optimizers
    obstacles = _obstacles(finals, baseline, others, parting)
    hindered = {name for names in obstacles for name in names}
    comparisons = [
        Comparison(finals[baseline], finals[name]) for name in others if name not in hindered
    ]
    equal = [_at_equal_loss(one, optimizers, parting) for one in comparisons]
    return Verdict(
        title,
        optimizers=tuple(optimizers),
        finals=tuple(finals.values()),
        comparisons=tuple(comparisons),
        at_equal_loss=tuple(one for one in equal if one is not None),
        obstacles=obstacles,
        is_of_kinds=not results.get("own_optimizers"),
        measure=measure_name(results),
    )


def _final_llc(optimizer: str, series: Mapping, num_epochs: int) -> MeasuredLLC | None:
    """What stands at the last epoch whose LLC was sampled, even where all its chains diverged;
    None: no such epoch.
    """
    tried = ("llc", "llc_init_loss", "num_diverged_chains")
    lists = [series.get(key) or () for key in tried]
    epochs = [epoch for values in lists for epoch, value in enumerate(values) if value is not None]
    return _llc_at(optimizer, series, max(epochs), num_epochs) if epochs else None


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
        interval=_interval_at(series, epoch),
        verdict=_word_at(series, epoch),
    )


def _interval_at(series: Mapping, epoch: int) -> tuple[float, float] | None:
    intervals = series.get("llc_interval") or ()
    ends = [*map(number, (intervals[epoch] if epoch < len(intervals) else None) or ())]
    return (ends[0], ends[1]) if len(ends) == 2 and None not in ends else None


def _word_at(series: Mapping, epoch: int) -> str | None:
    words = series.get("llc_verdict") or ()
    return words[epoch] if epoch < len(words) else None


def _obstacles(
    finals: Mapping[str, MeasuredLLC], baseline: str, others: Sequence[str], parting: int
) -> dict[tuple[str, ...], str]:
    """Those that cannot be compared with the baseline → why, an entry a reason."""
    if not others:
        return {}
    what = next((final.measure for final in finals.values()), "LLC")
    if _is_missing(finals, baseline):
        return {tuple(others): f"there is no final {what} of {label(baseline)}"}
    if finals[baseline].flaw is not None:
        return {tuple(others): _flawed([baseline], finals)}
    last, reasons = finals[baseline].epoch, {}
    if missing := tuple(name for name in others if _is_missing(finals, name)):
        reasons[missing] = f"there is no final {what} of {listed([*map(label, missing)])}"
    left = [name for name in others if name not in missing]
    for flaw in (NOT_AT_REST, NEGATIVE):
        if flawed := tuple(name for name in left if finals[name].flaw == flaw):
            reasons[flawed] = _flawed(flawed, finals)
    epochs = {name: finals[name].epoch for name in left if finals[name].flaw is None}
    if apart := tuple(name for name, epoch in epochs.items() if epoch != last):
        reasons[apart] = f"the last {what} is of epoch {last} for {label(baseline)}"
        for there in dict.fromkeys(epochs[name] for name in apart):
            names = listed([label(name) for name in apart if epochs[name] == there])
            reasons[apart] += f", of epoch {there} for {names}"
    if shared := tuple(name for name, epoch in epochs.items() if epoch == last <= parting):
        reasons[shared] = f"no {what} was measured after epoch {last}, whose weights all share"
    return reasons


def _flawed(names: Sequence[str], finals: Mapping[str, MeasuredLLC]) -> str:
    """Why these have a number that counts for no order; the same for all."""
    whose = listed([f"{label(name)}'s" for name in names])
    if finals[names[0]].flaw == NOT_AT_REST:
        return f"{whose} chains have not come to rest"
    return f"{whose} λ̂ is negative, which counts for no order"


def _is_missing(finals: Mapping[str, MeasuredLLC], name: str) -> bool:
    return name not in finals or finals[name].llc is None


def _at_equal_loss(one: Comparison, optimizers: Mapping, parting: int) -> Comparison | None:
    """Both at one training loss, where the last ones differ in it; None: they do not, or none can
    be had.

    The optimizer that got less far stays at its last epoch. The other's LLC is interpolated, in the
    logarithm of the loss, between the two epochs where it last passed that loss.
    """
    if one.interval is None or not one.is_unequal_in_loss:
        return None
    is_behind = one.baseline.train_loss > one.other.train_loss
    behind, ahead = (one.baseline, one.other) if is_behind else (one.other, one.baseline)
    name, epochs = ahead.optimizer, range(parting, ahead.epoch + 1)
    measured = [_llc_at(name, optimizers[name], epoch, ahead.num_epochs) for epoch in epochs]
    known = (m for m in measured if None not in (m.llc, m.std_error, m.train_loss))
    measured = [m for m in known if m.flaw is None]
    loss = behind.train_loss
    for before, after in reversed(list(pairwise(measured))):
        near = after.train_loss > before.train_loss / NEAR_EPOCHS
        if before.train_loss >= loss > after.train_loss and near:
            there = _interpolated(before, after, loss)
            return Comparison(behind, there) if is_behind else Comparison(there, behind)
    return None


def _interpolated(before: MeasuredLLC, after: MeasuredLLC, loss: float) -> MeasuredLLC:
    """The LLC between two epochs at a training loss between theirs; their sampling errors are
    independent.
    """
    share = math.log(before.train_loss / loss) / math.log(before.train_loss / after.train_loss)
    llc = (1 - share) * before.llc + share * after.llc
    half = math.hypot((1 - share) * before.half_width, share * after.half_width)
    return replace(
        after,
        llc=llc,
        interval=None if after.interval is None else (llc - half, llc + half),
        std_error=math.hypot((1 - share) * before.std_error, share * after.std_error),
        drift=(1 - share) * (before.drift or 0) + share * (after.drift or 0),
        train_loss=loss,
    )
