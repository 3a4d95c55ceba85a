"""Which solution is the more degenerate, by local estimates of the learning coefficient? Numbers.

The published measure moves the weights so far from a checkpoint that it says little of the
checkpoint. Where a run has local estimates, of every optimizer's last checkpoint, the verdict rests
on them: in balanced weights where they could be had, and only on those that may be called local
(`degeneracy.llc.certificates`) and are positive.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from degeneracy.llc.certificates import (
    LOCAL,
    MOST_SHARE,
    MOST_SHIFT,
    NO_REST,
    UNKNOWN,
    Certificates,
)
from degeneracy.runs.results import parting_epoch
from degeneracy.texts import number
from studies.ngd_sgd.verdict import direction_of

GIVEN, BALANCED = "given", "balanced"
GAUGES = {GIVEN: "as given", BALANCED: "balanced"}  # in the order of figures and tables
# What a checkpoint is, in the order of figures.
PARTING, EQUAL, LAST = "where the optimizers part", "nearly equal training loss", "last"
NEGATIVE, MISSING = "negative", "missing"  # why an estimate does not count, beside its verdict


@dataclass(frozen=True)
class LocalEstimate:
    """λ̂ of one checkpoint in one gauge, with what was found about it; what is not known is None."""

    optimizer: str
    epoch: int
    gauge: str
    found: Mapping[str, Any]

    def value(self, key: str) -> float | None:
        """A finite number that was found."""
        found = self.found.get(key)
        return number(found) if isinstance(found, int | float) else None

    @property
    def llc(self) -> float | None:
        """λ̂."""
        return self.value("llc")

    @property
    def std_error(self) -> float | None:
        """Of λ̂, from the means of the chains."""
        return self.value("std_error")

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of λ̂, as the measurement gives it (Student)."""
        return ends_of(self.found.get("interval"))

    @property
    def verdict(self) -> str:
        """One of the words of `degeneracy.llc.certificates`."""
        return self.found.get("verdict") or UNKNOWN

    @property
    def flaw(self) -> str | None:
        """Why it counts for no order: its verdict, `NEGATIVE`, or `MISSING`; None: it counts."""
        if self.llc is None:
            return MISSING
        if self.verdict != LOCAL:
            return self.verdict
        return None if self.llc > 0 else NEGATIVE

    @property
    def allowed_shift(self) -> float:
        """The largest basin shift with which a checkpoint passes for a minimum, nats."""
        return max(MOST_SHIFT, MOST_SHARE * (self.value("basin_llc") or 0.0))

    def _values(self, *keys: str) -> dict[str, float | None]:
        return {key: self.value(key) for key in keys}

    def failures(self) -> list[tuple[str, str]]:
        """(verdict, what to change) of every certificate that fails, the gravest first."""
        rest = self._values("relaxation", "num_burnin_steps", "num_draws", "rhat", "distance_rhat")
        shift = self._values("basin_shift", "basin_llc")
        judged = [
            Certificates(**rest) if None not in rest.values() else Certificates(),
            Certificates(**self._values("locality", "relative_distance")),
            # One that was not reached fails in the estimate's own verdict.
            Certificates(**shift, basin_reached=True),
        ]
        found = {self.verdict: self.found.get("advice") or ""}
        for one in judged:
            found.setdefault(one.verdict, one.advice)
        return [(word, advice) for word, advice in found.items() if word not in (LOCAL, UNKNOWN)]


@dataclass(frozen=True)
class LocalPoint:
    """A checkpoint and its estimates by gauge; one that could not be had is not there."""

    optimizer: str
    epoch: int
    kind: str  # `PARTING`, `EQUAL` or `LAST`
    estimates: Mapping[str, LocalEstimate]

    @property
    def is_last(self) -> bool:
        """Whether it is its optimizer's last checkpoint."""
        return self.kind == LAST


@dataclass(frozen=True)
class LocalComparison:
    """An optimizer's local λ̂ minus the baseline's, from common minibatches and noise."""

    baseline: LocalEstimate
    other: LocalEstimate
    difference: float
    interval: tuple[float, float] | None  # 95 %, of the paired difference
    losses: tuple[float | None, ...] = ()  # the two training losses, where that is why

    @property
    def direction(self) -> str | None:
        """As `verdict.Comparison.direction`."""
        return direction_of(self.interval)


@dataclass(frozen=True)
class LocalVerdict:
    """What one model's local estimates say.

    Attributes:
        title: The model.
        optimizers: All that the run compares; the first is the baseline.
        nbeta: nβ of the estimates.
        localization: γ.
        reason: Why these two, a sentence; may be empty.
        gauge: The one that the verdict rests on: balanced where every last checkpoint has it.
        points: Every checkpoint estimated, in the order of `results`.
        finals: Optimizer → its last checkpoint's estimate in that gauge, of those that have one.
        flaws: Optimizer → why its estimate counts for no order, of those whose does not.
        comparisons: With the baseline, of those whose estimates count, both.
        at_equal_loss: The same at checkpoints of nearly equal training loss, where the last ones
            differ in it.
        unbalanced: Why weights could not be balanced, a sentence; else empty.
    """

    title: str
    optimizers: tuple[str, ...]
    nbeta: float | None
    localization: float | None
    reason: str
    gauge: str
    points: tuple[LocalPoint, ...]
    finals: Mapping[str, LocalEstimate]
    flaws: Mapping[str, str]
    comparisons: tuple[LocalComparison, ...]
    at_equal_loss: tuple[LocalComparison, ...] = ()
    unbalanced: str = ""

    @property
    def has_numbers(self) -> bool:
        """Whether any checkpoint has an estimate."""
        found = (one for point in self.points for one in point.estimates.values())
        return any(one.llc is not None for one in found)


def local_verdict_of(title: str, results: Mapping) -> LocalVerdict | None:
    """The verdict on one model's local estimates; None where the run has none."""
    model = results["models"][title]
    local, names = model.get("local") or {}, tuple(model["optimizers"])
    if not local.get("points"):
        return None
    points = _points(local["points"], names, results["config"])
    ends = [point for point in points if point.is_last]
    balanced = bool(ends) and all(BALANCED in point.estimates for point in ends)
    gauge = BALANCED if balanced else GIVEN
    finals = {p.optimizer: p.estimates[gauge] for p in ends if gauge in p.estimates}
    flaws = {name: finals[name].flaw if name in finals else MISSING for name in names}
    flaws = {name: flaw for name, flaw in flaws.items() if flaw is not None}
    return LocalVerdict(
        title,
        names,
        nbeta=number(local.get("nbeta")),
        localization=number(local.get("localization")),
        reason=local.get("reason") or "",
        gauge=gauge,
        points=tuple(points),
        finals=finals,
        flaws=flaws,
        comparisons=tuple(_comparisons(names, finals, local.get("differences"), gauge)),
        at_equal_loss=tuple(_at_equal_loss(names, points, local.get("equal_loss"), gauge)),
        unbalanced=local.get("unbalanced") or "",
    )


def ends_of(interval: Sequence[float | None] | None) -> tuple[float, float] | None:
    """An interval of results as two finite numbers, or None."""
    ends = [number(end) for end in interval or ()]
    return (ends[0], ends[1]) if len(ends) == 2 and None not in ends else None


def is_at_rest(found: Mapping) -> bool | None:
    """Whether an estimate's chains came to rest, by its certificates; None where none tell."""
    verdict = found.get("verdict")
    return None if verdict in (None, UNKNOWN) else verdict != NO_REST


def _points(found: Sequence[Mapping], names: Sequence[str], config: Mapping) -> list[LocalPoint]:
    kinds = {parting_epoch(config): PARTING, config["experiment"]["num_epochs"]: LAST}
    points = []
    for one in found:
        name, epoch = one.get("optimizer"), one.get("epoch")
        if name in names and epoch is not None:
            estimates = {
                gauge: LocalEstimate(name, epoch, gauge, one[gauge])
                for gauge in GAUGES
                if one.get(gauge)
            }
            points.append(LocalPoint(name, epoch, kinds.get(epoch, EQUAL), estimates))
    return points


def _comparisons(
    names: Sequence[str],
    finals: Mapping[str, LocalEstimate],
    differences: Mapping | None,
    gauge: str,
) -> list[LocalComparison]:
    baseline, *others = names
    found = []
    for other in others:
        paired = ((differences or {}).get(other) or {}).get(gauge) or {}
        found.append(_compared(finals.get(baseline), finals.get(other), paired))
    return [one for one in found if one is not None]


def _at_equal_loss(
    names: Sequence[str], points: Sequence[LocalPoint], equal: Mapping | None, gauge: str
) -> list[LocalComparison]:
    known = {(point.optimizer, point.epoch): point.estimates.get(gauge) for point in points}
    found = []
    for other, one in (equal or {}).items():
        epochs = (one or {}).get("epochs") or ()
        if len(epochs) == 2:
            pair = [known.get(key) for key in zip((names[0], other), epochs, strict=True)]
            losses = tuple(map(number, one.get("losses") or ()))
            found.append(_compared(*pair, one.get(gauge) or {}, losses))
    return [one for one in found if one is not None]


def _compared(
    baseline: LocalEstimate | None,
    other: LocalEstimate | None,
    paired: Mapping,
    losses: tuple[float | None, ...] = (),
) -> LocalComparison | None:
    """None unless both estimates count. Without a paired difference there is no interval."""
    if baseline is None or other is None or baseline.flaw or other.flaw:
        return None
    value = number(paired.get("difference"))
    if value is None:
        return LocalComparison(baseline, other, other.llc - baseline.llc, None, losses)
    return LocalComparison(baseline, other, value, ends_of(paired.get("interval")), losses)
