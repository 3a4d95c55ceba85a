"""How is it said what the local estimates found? A clause, sentences, notes, tiles, a table."""

from collections.abc import Mapping, Sequence

from degeneracy.llc.certificates import (
    BURN_IN,
    DRAWS,
    MOST_DISTANCE,
    MOST_LOCALITY,
    MOST_RHAT,
    NO_MINIMUM,
    NO_REST,
    TEMPERED,
)
from degeneracy.report.page import Note, Tile
from degeneracy.report.style import optimizer_colours
from degeneracy.report.tables import Table
from degeneracy.texts import decimals_worth, difference_texts, label, listed, with_error
from studies.ngd_sgd.local_verdict import (
    BALANCED,
    GAUGES,
    MISSING,
    NEGATIVE,
    LocalComparison,
    LocalEstimate,
    LocalPoint,
    LocalVerdict,
)
from studies.ngd_sgd.verdict import HIGHER, LOWER, UNDETECTED

FEW = 3  # optimizers up to which a card's tiles have certificates too
WHY = {  # why estimates count for no order, of one and of several optimizers
    NO_MINIMUM: (
        "{} last checkpoint is not at a minimum",
        "{} last checkpoints are not at a minimum",
    ),
    NO_REST: ("{} chains have not come to rest",) * 2,
    TEMPERED: (
        "{} chains leave the neighbourhood of the checkpoint",
        "{} chains leave the neighbourhood of the checkpoints",
    ),
    NEGATIVE: ("{} λ̂ is negative", "{} λ̂ are negative"),
    MISSING: ("{} local λ̂ is missing", "{} local λ̂ are missing"),
}
_EQUAL_WORDS = {HIGHER: HIGHER, LOWER: LOWER, UNDETECTED: "not detectably different"}
UNCERTAIN = ("{} certificates are not known",) * 2
GAUGE_NOTE = Note(
    "λ̂ of balanced weights",
    "Scaling a hidden unit's incoming weights up and its outgoing ones down changes neither the"
    " network's function nor its learning coefficient, but the estimate. So every unit is first"
    " given incoming and outgoing weights of equal size; the table has both estimates.",
)
GIVEN_NOTE = Note(
    "λ̂ of the weights as given",
    "They could not be balanced in every last checkpoint, so λ̂ also depends on how the same"
    " function happens to be written.",
)


# ---- headline ------------------------------------------------------------------------------------


def first_clause(local: LocalVerdict) -> str:
    """The order of the local estimates, or why there is none; without its full stop."""
    baseline, *others = local.optimizers
    if not others:
        return _single(local, baseline)
    if not local.comparisons:
        return f"No order: {_reasons(local, local.flaws)}"
    if len(others) == 1:
        return _pair(local.comparisons[0])
    words = {
        HIGHER: "higher for {}",
        LOWER: "lower for {}",
        UNDETECTED: "not detectably different for {}",
        None: "without an interval for {}",
    }
    parts = []
    for direction, text in words.items():
        found = [one.other.optimizer for one in local.comparisons if one.direction == direction]
        parts += [text.format(listed([*map(label, found)]))] if found else []
    left = f"; no order where {_reasons(local, local.flaws)}" if local.flaws else ""
    return f"Against {label(baseline)}'s, the local λ̂ is {', '.join(parts)}{left}"


def equal_loss_clause(local: LocalVerdict) -> str:
    """What the local estimates say at nearly equal training loss; empty where nothing."""
    return "; ".join(
        f"at nearly equal training loss {label(one.other.optimizer)}'s local λ̂ is"
        f" {_EQUAL_WORDS[one.direction]}"
        for one in local.at_equal_loss
        if one.direction is not None
    )


def _single(local: LocalVerdict, name: str) -> str:
    if local.flaws:
        return f"No local estimate: {_reasons(local, local.flaws)}"
    one = local.finals[name]
    llc = with_error(one.llc, one.std_error)
    return f"{label(name)}'s local λ̂ is {llc}; there is no other to compare it with"


def _pair(one: LocalComparison) -> str:
    other, baseline = label(one.other.optimizer), label(one.baseline.optimizer)
    if one.direction is None:
        return (
            f"No order: the difference of {other}'s and {baseline}'s local λ̂,"
            f" {one.difference:+.3g}, has no interval"
        )
    value, ends = difference_texts(one.difference, one.interval)
    if one.direction == UNDETECTED:
        return (
            f"No difference detected between {other}'s and {baseline}'s local λ̂: {value}, 95 %"
            f" interval from {ends}"
        )
    kind = {HIGHER: "less", LOWER: "more"}[one.direction]
    return (
        f"{other}'s solution is {kind} degenerate than {baseline}'s: its local λ̂ is"
        f" {one.direction} ({value}, 95 % interval from {ends})"
    )


def _reasons(local: LocalVerdict, flaws: Mapping[str, str]) -> str:
    """`SGD's last checkpoint is not at a minimum (its λ̂ is negative) and NGD's chains …`."""
    groups: dict[tuple[str, bool], list[str]] = {}
    for name, flaw in flaws.items():
        found = local.finals.get(name)
        negative = flaw != NEGATIVE and found is not None and (found.llc or 0) < 0
        groups.setdefault((flaw, negative), []).append(name)
    return listed([_reason(*key, names) for key, names in groups.items()])


def _reason(flaw: str, negative: bool, names: Sequence[str]) -> str:
    whose, many = listed([f"{label(name)}'s" for name in names]), len(names) > 1
    text = WHY.get(flaw, UNCERTAIN)[many].format(whose)
    return f"{text} ({'their λ̂ are' if many else 'its λ̂ is'} negative)" if negative else text


# ---- the numbers behind it -----------------------------------------------------------------------


def sentences(local: LocalVerdict) -> list[str]:
    """The local numbers, sentence by sentence."""
    if not local.has_numbers:
        return []
    return [
        _statement(local, local.gauge),
        *(_difference(one) for one in (*local.comparisons, *local.at_equal_loss)),
        *(_statement(local, gauge) for gauge in GAUGES if _has(local, gauge, local.gauge)),
    ]


def _has(local: LocalVerdict, gauge: str, other_than: str) -> bool:
    """Whether there are last checkpoints in this further gauge."""
    return gauge != other_than and any(p.is_last and gauge in p.estimates for p in local.points)


def _statement(local: LocalVerdict, gauge: str) -> str:
    found = [p.estimates[gauge] for p in local.points if p.is_last and gauge in p.estimates]
    parts = [f"{label(one.optimizer)} {_value(one)} ({one.verdict})" for one in found]
    head = f"Local λ̂ ± standard error, weights {GAUGES[gauge]}: {'; '.join(parts)}."
    if gauge != local.gauge:
        return head
    settings = ", ".join(settings_of(local))
    why = f" {local.reason}" if local.reason else ""
    return f"{head}{f' Sampled at {settings}.' if settings else ''}{why}"


def _value(one: LocalEstimate) -> str:
    text = with_error(one.llc, one.std_error)
    if one.llc is None or one.interval is None:
        return text
    return f"{text}, 95 % interval from {interval_text(one)}"


def settings_of(local: LocalVerdict) -> list[str]:
    """`nβ = 340.8` and `γ = 9640`, to four digits; what is not known is left out."""
    known = {"nβ": local.nbeta, "γ": local.localization}
    return [f"{name} = {float(f'{x:.4g}'):g}" for name, x in known.items() if x is not None]


def _difference(one: LocalComparison) -> str:
    names = f"{label(one.other.optimizer)} − {label(one.baseline.optimizer)}"
    where = ""
    if one.losses:
        pair = zip((one.baseline, one.other), one.losses, strict=False)
        known = [
            f"{loss:#.3g} ({label(estimate.optimizer)}, epoch {estimate.epoch})"
            for estimate, loss in pair
            if loss is not None
        ]
        where = f" at nearly equal training losses{f', {listed(known)}' if known else ''}"
    start = f"Difference {names} of the local λ̂{where}, from common minibatches and noise: "
    if one.interval is None:
        return f"{start}{one.difference:+.4g}, without an interval."
    value, ends = difference_texts(one.difference, one.interval)
    return f"{start}{value}, 95 % interval from {ends} (sampling error only, one training seed)."


def interval_text(one: LocalEstimate) -> str:
    """`42.1 to 45.1`, with as many decimals as its error is worth; a dash without."""
    if one.interval is None:
        return "–"
    low, high = one.interval
    decimals = decimals_worth(one.std_error or (high - low) / 4)
    return f"{low:,.{decimals}f} to {high:,.{decimals}f}"


# ---- tiles and notes -----------------------------------------------------------------------------


def tiles(local: LocalVerdict) -> list[Tile]:
    """The local λ̂ of each optimizer, its certificates in short, and the differences."""
    colours, found = optimizer_colours(local.optimizers), local.finals.items()
    shown = [
        Tile(
            f"{label(name)}, local λ̂ ({GAUGES[local.gauge]}), 95 % interval",
            with_error(one.llc, one.std_error).split(" ")[0],
            "" if one.interval is None else interval_text(one),
            colour=colours[name],
        )
        for name, one in found
    ]
    if len(found) <= FEW:
        shown += [
            Tile(
                f"{label(name)}: locality ℓ, basin shift",
                f"{_text(one, 'locality', '.2g')}, {_text(one, 'basin_shift', '.3g')}",
                f"≤ {MOST_LOCALITY:g}, ≤ {one.allowed_shift:.2g}",
                colour=colours[name],
            )
            for name, one in found
        ]
    for one in local.comparisons:
        if one.interval is not None:
            value, ends = difference_texts(one.difference, one.interval)
            names = f"{label(one.other.optimizer)} − {label(one.baseline.optimizer)}"
            shown.append(Tile(f"{names}, 95 % interval", value, ends))
    return shown


def notes(local: LocalVerdict) -> list[Note]:
    """What fails of every last checkpoint, with what to change; then the gauge."""
    found: dict[str, dict[str, str]] = {}  # what fails → optimizer → what to change
    for name, one in local.finals.items():
        for word, advice in one.failures():
            found.setdefault(word, {})[name] = advice
        if (one.llc or 0) < 0:
            found.setdefault("negative λ̂, so it counts for no order", {})[name] = ""
        if lost := one.value("num_diverged_chains"):
            found.setdefault("chains diverged", {})[name] = f"{lost:.0f} chains count in no number."
        if one.llc is not None and one.interval is None:
            found.setdefault("no interval", {})[name] = "It takes two chains that stayed finite."
    shown = [_note(word, advice) for word, advice in found.items()]
    remarks = {name: one.found.get("remarks") or () for name, one in local.finals.items()}
    if said := {name: " ".join(texts) for name, texts in remarks.items() if texts}:
        shown.append(_note("remarks of the sampler", said))
    if not local.has_numbers:
        return shown
    if local.gauge == BALANCED:
        return [*shown, GAUGE_NOTE]
    why = f"{GIVEN_NOTE.detail} {local.unbalanced}".strip()
    return [*shown, GIVEN_NOTE._replace(detail=why)]


def _note(word: str, advice: Mapping[str, str]) -> Note:
    """`SGD, NGD: not at a minimum`, opening to what to change; the same advice once."""
    by_advice: dict[str, list[str]] = {}
    for name, text in advice.items():
        by_advice.setdefault(text, []).append(label(name))
    if len(by_advice) == 1:
        detail = next(iter(by_advice))
    else:
        detail = " ".join(f"{', '.join(names)}: {text}" for text, names in by_advice.items())
    names = ", ".join(map(label, advice)) if len(advice) <= FEW else f"{len(advice)} optimizers"
    return Note(f"{names}: {word}", detail)


# ---- table ---------------------------------------------------------------------------------------


def certificates_table(local: LocalVerdict) -> Table:
    """A row a checkpoint and gauge: the estimate and everything that says whether to trust it."""
    head = [
        "checkpoint",
        "weights",
        "λ̂ ± standard error, 95 % interval",
        "verdict, what to change",
        "λ̂_b",
        "locality ℓ",
        "distance |w−w*|/|w*|",
        "basin shift",
        "relaxation time",
        "burn-in, draws",
        "R-hat of loss, distance",
    ]
    rows = [
        _row(point, one)
        for point in local.points
        for one in (point.estimates.get(gauge) for gauge in GAUGES)
        if one is not None
    ]
    settings = ", ".join([local.title, *settings_of(local)])
    note = (
        f"{settings}. An estimate is local where the chains keep what the network knows"
        f" (ℓ ≤ {MOST_LOCALITY:g}; at 1 it only guesses) and stay near the checkpoint w*"
        f" (|w − w*| ≤ {MOST_DISTANCE:g} |w*|), the checkpoint is at a minimum (the loss falls by"
        " at most 1, times nβ, or a tenth of λ̂_b, down to the bottom of its basin; λ̂_b is about"
        f" that bottom), and the chains came to rest (burn-in of {BURN_IN} and draws of {DRAWS}"
        " relaxation times, the steps in which the slowest direction forgets its start; R-hat at"
        f" most {MOST_RHAT:g}). Only then, and where it is positive, does it count for an order."
    )
    return Table("Local estimates and their certificates", note, head, rows, row_headers=True)


def _row(point: LocalPoint, one: LocalEstimate) -> list[str | tuple[str, str]]:
    advice = " ".join(text for _, text in one.failures() if text)
    verdict = one.verdict if one.flaw != NEGATIVE else f"{one.verdict}, but negative"
    shift = _text(one, "basin_shift", ",.3g")
    return [
        (f"{label(point.optimizer)}, epoch {point.epoch}", point.kind),
        GAUGES[one.gauge],
        (with_error(one.llc, one.std_error), interval_text(one)),
        (verdict, advice),
        _text(one, "basin_llc", ",.4g"),
        _text(one, "locality", ".2g"),
        _text(one, "relative_distance", ".2g"),
        (shift, "" if shift == "–" else f"≤ {one.allowed_shift:.2g}"),
        _text(one, "relaxation", ",.0f"),
        f"{_text(one, 'num_burnin_steps', ',.0f')}, {_text(one, 'num_draws', ',.0f')}",
        f"{_text(one, 'rhat', '.3f')}, {_text(one, 'distance_rhat', '.3f')}",
    ]


def _text(one: LocalEstimate, key: str, style: str) -> str:
    value = one.value(key)
    return "–" if value is None else format(value, style)
