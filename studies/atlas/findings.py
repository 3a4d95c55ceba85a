"""What follows from the factorial experiment, in plain words? Sentences made from the numbers."""

import math
from collections.abc import Mapping

from degeneracy.report.page import Card, Findings, Note, Tile
from degeneracy.report.tables import Table, csv_table
from degeneracy.sweeps.statistics import Mean, mean_of
from degeneracy.texts import count_of, label, listed
from studies.atlas.contrasts import (
    ENDPOINT,
    Contrast,
    arms_of,
    contrast_groups,
    contrasts_of,
    is_complete,
    needs_more_seeds,
    quantities_of,
    rows_of,
    table_of,
    whole_seeds,
)
from studies.atlas.model import fitted
from studies.atlas.planned import has_all_pairs, planned
from studies.atlas.predictions import at_equal_rate, collapse, correlations

SURE = 0.05  # of an adjusted p
MOST = 100.0  # of a log ratio that is shown


def findings(results: Mapping) -> Findings:
    """The paragraph, a card for what predicts what, and the tables behind them."""
    if not rows_of(results):
        return Findings([Card("The atlas", "No run is finished yet.")])
    cards = [contrast_card(results)]
    if (card := prediction_card(results)) is not None:
        cards.append(card)
    tables = [contrast_table(results), measure_table(results), arm_table(results)]
    return Findings(cards, tables, csv=tidy_csv(results))


def tidy_csv(results: Mapping) -> str:
    """One row a run: its factors, the endpoint, and every other measure in the window."""
    return csv_table(table_of(results), digits=6)


# ---- contrasts -----------------------------------------------------------------------------------


def contrast_card(results: Mapping) -> Card:
    """The answer to the question."""
    table = table_of(results)
    groups = contrast_groups(results)
    tested = [m for m, found in groups.items() if any(c.adjusted is not None for c in found)]
    answer = next(iter(tested or groups), None)
    per_model = table.groupby("model", sort=False)["seed"].nunique()
    counted = listed([f"{model}: {count_of(n, 'seed')}" for model, n in per_model.items()])
    done = int(table[ENDPOINT].notna().sum())
    state = f"{count_of(done, 'run')} of {len(table)} with an endpoint ({counted})"
    factorial = results["config"]["factorial"]
    done_seeds = set(whole_seeds(results, table)["seed"])
    wanted = f"{count_of(len(factorial['seeds']), 'seed')}"
    if done_seeds >= set(factorial["seeds"]) and needs_more_seeds(results):
        wanted += f", and {len(factorial['further_seeds'])} more, for an interval is too long"
    notes = [] if is_complete(results) else [Note(f"Incomplete: {state}; planned: {wanted}.")]
    texts = []
    for model, found in groups.items():
        where = f"{model or 'all networks'}: " if len(groups) > 1 else ""
        texts += [f"{where}{sentence(results, contrast)}" for contrast in found]
    found = groups.get(answer, [])
    prefix = "" if answer is None else f"{answer}: "
    return Card(
        "What makes one solution less degenerate than another?",
        prefix + verdict(results, found),
        tiles=[Tile(c.name, percent(mean_of([*c.by_seed.values()]).value)) for c in found],
        drawing="contrasts",
        text=[f"{state}.", *texts, *rate_text(results)],
        notes=notes,
    )


def verdict(results: Mapping, found: list[Contrast]) -> str:
    """Which contrasts are sure, in two sentences."""
    if not any(c.adjusted is not None for c in found):
        return "No contrast of λ̂ can be tested yet."
    sure = [c for c in found if c.adjusted is not None and c.adjusted < SURE]
    if not sure:
        return "At equal training loss no contrast of λ̂ is sure after Holm's correction."
    asked = planned(results)
    main = [c for c in sure if asked[c.name].is_main]
    if not main:
        return f"At equal training loss only {listed([c.name for c in sure])} is sure."
    told = listed(
        [f"{asked[c.name].plain} changes λ̂ by {percent(c.test.mean.value)}" for c in main]
    )
    others = [c.name for c in sure if c not in main]
    more = f" Sure too: {listed(others)}." if others else ""
    return f"At equal training loss {told}.{more}"


def sentence(results: Mapping, contrast: Contrast) -> str:
    """A contrast with its interval, its p and whether it is equivalent to nothing."""
    margin = results["config"]["factorial"]["margin"]
    mean = mean_of([*contrast.by_seed.values()])
    asked = planned(results)[contrast.name]
    kind = "λ̂" if asked.is_main else "ratio of λ̂'s ratios"
    text = f"{contrast.name} ({asked.plain}): {kind} {percent(mean.value)}"
    if contrast.test is None:
        return f"{text}, one seed: no interval."
    text += f" (95 %: {percent(mean.low)} to {percent(mean.high)}; {count_of(mean.count, 'seed')}"
    if contrast.adjusted is None:
        return f"{text}); not tested, for an arm has an endpoint in {contrast.coverage:.0%} only."
    text += f"; p {relation(contrast.adjusted)} by Holm)"
    small = contrast.test.equivalence_p < SURE
    if contrast.adjusted < SURE:
        return f"{text}; a change, though smaller than {margin:.0%}." if small else f"{text}."
    if small:
        return f"{text}; equivalent to no change within {margin:.0%}."
    return f"{text}; neither a change nor its absence is shown."


def percent(log_ratio: float) -> str:
    """`+12 %`, of a log ratio; more than a doubling as `×3.1`."""
    if not abs(log_ratio) < MOST:
        return "–"
    ratio = math.exp(log_ratio)
    if ratio > 2 or ratio < 0.5:
        return f"×{ratio:.2g}"
    change = 100 * (ratio - 1)
    return f"{change:+.{1 if abs(change) < 9.95 else 0}f} %".replace("-", "−")


def relation(p: float) -> str:
    """`= 0.012`, `< 0.0001`."""
    text = p_text(p)
    return text if text.startswith("<") else f"= {text}"


def p_text(p: float) -> str:
    """`0.012`, `< 0.0001`."""
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def rate_text(results: Mapping) -> list[str]:
    """What the learning rate does beside the optimizers."""
    table = table_of(results).dropna(subset=[ENDPOINT])
    smallest, largest = table["fraction"].min(), table["fraction"].max()
    if smallest == largest or not len(table):
        return []
    keys = ["seed", "early", "late", "model"]
    wide = table.pivot_table(index=keys, columns="fraction", values=ENDPOINT)
    pairs = wide[[smallest, largest]].dropna()
    if pairs.empty:
        return []
    logs = (pairs[largest] / pairs[smallest]).map(math.log).groupby("seed").mean()
    mean = mean_of(logs.to_numpy())
    ends = f" (95 %: {percent(mean.low)} to {percent(mean.high)})" if len(logs) > 1 else ""
    return [
        f"For comparison, going from {smallest:.3g} to {largest:.3g} of the largest stable learning"
        f" rate changes λ̂ by {percent(mean.value)}{ends}, over all optimizers."
    ]


def contrast_table(results: Mapping) -> Table:
    """Contrasts, all networks and each alone, with the mixed model's beside them."""
    models = list(dict.fromkeys(row["model"] for row in rows_of(results)))
    fit = fitted(results)
    beside = {} if fit is None else {term.name: term for term in fit.terms}
    rows = []
    for model, found in contrast_groups(results).items():
        for c in found:
            mean = mean_of([*c.by_seed.values()])
            term = beside.get(c.name) if model is None else None
            rows.append(
                [
                    c.name,
                    model or " and ".join(models),
                    percent(mean.value),
                    f"{percent(mean.low)} to {percent(mean.high)}",
                    "–" if c.adjusted is None else p_text(c.test.p),
                    "–" if c.adjusted is None else p_text(c.adjusted),
                    "–" if c.adjusted is None else p_text(c.test.equivalence_p),
                    "–"
                    if term is None
                    else f"{percent(term.value)} ({percent(term.low)} to {percent(term.high)})",
                    str(mean.count),
                    f"{c.coverage:.0%}",
                ]
            )
    head = [
        *("contrast", "network", "λ̂", "95 % interval", "p", "p (Holm)", "p (equivalence)"),
        *("mixed model", "seeds", "least coverage"),
    ]
    note = (
        "Ratios of λ̂ at equal training loss. p of a mean of 0 over seeds (Student); of a change"
        " beyond the margin (two one-sided tests, not corrected). Holm's correction is over the"
        " contrasts tested of the same networks. The mixed model has the seed as random effect."
        " Least coverage: the least share of runs with a certified endpoint, over cells."
    )
    return Table("Contrasts", note, head, rows, row_headers=True)


def measure_table(results: Mapping) -> Table:
    """Contrasts by every measure, network by network."""
    rows, table = [], table_of(results)
    names = shown_contrasts(results)
    labels = quantities_of(results)
    labels[ENDPOINT] += " (the endpoint)"
    for model in dict.fromkeys(table["model"]):
        for quantity, words in labels.items():
            contrasts = contrasts_of(results, quantity, model, table)
            found = {c.name: mean_of([*c.by_seed.values()]) for c in contrasts}
            means = [found.get(name) for name in names]
            counted = found.get(names[0])
            count = str(counted.count if counted else 0)
            rows.append([words, model, *map(_with_interval, means), count])
    note = "Ratios at equal training loss, mean and 95 % interval over seeds; not corrected."
    head = ["measure", "network", *names, "seeds"]
    return Table("By every measure", note, head, rows, row_headers=True)


def shown_contrasts(results: Mapping) -> list[str]:
    """Those that are shown by every measure: of one factor, and early × late."""
    asked = planned(results)
    return [name for name, one in asked.items() if one.is_main or name == "early × late"]


def _with_interval(mean: Mean | None) -> str:
    if mean is None:
        return "–"
    return f"{percent(mean.value)} ({percent(mean.low)} to {percent(mean.high)})"


def pair_text(results: Mapping, arm: Mapping) -> str:
    """`SGD → NGD`; `NGD` where all are the same throughout."""
    early, late = label(arm["early"]), label(arm["late"])
    return f"{early} → {late}" if has_all_pairs(results) else late


def arm_table(results: Mapping) -> Table:
    """Runs and endpoints by arm."""
    counted = arms_of(results)
    reasons = [
        c for c in counted.columns if c not in ("early", "late", "fraction", "model", "runs")
    ]
    named = {"there": "with an endpoint"}
    rows = [
        [
            f"{arm['model']}, {pair_text(results, arm)}, {arm['fraction']:.3g}",
            str(arm["runs"]),
            *(str(arm[reason]) for reason in reasons),
        ]
        for arm in counted.to_dict("records")
    ]
    head = ["arm", "runs", *(named.get(reason, reason[:60]) for reason in reasons)]
    note = "Learning rates in largest stable ones. Why a run has no endpoint: docs/atlas-plan.md."
    return Table("Runs by arm", note, head, rows, row_headers=True)


# ---- predictions ---------------------------------------------------------------------------------


def prediction_card(results: Mapping) -> Card | None:
    """What tells what, and whether a temperature collapses the curves."""
    found = correlations(results)
    if not found:
        return None
    texts = [
        f"{c.name} ({c.model}): ρ = {signed(c.value)}"
        + (f" (95 %: {signed(c.low)} to {signed(c.high)})" if math.isfinite(c.low) else "")
        + f", {count_of(c.count, 'run')}."
        for c in found
    ]
    for row in collapse(results).to_dict("records"):
        texts.append(
            f"{row['model']}: of the variance of log λ̂ between runs, a parabola in the logarithm of"
            f" the late rate (one batch size) accounts for {share(row['temperature'])}, late"
            f" optimizer and relative rate for {share(row['fraction'])}, all cells for"
            f" {share(row['cells'])}."
        )
        texts += equal_rate_texts(results, row["model"])
    named = {c.name for c in found if math.isfinite(c.low) and c.low * c.high > 0}
    kept = [name for name in dict.fromkeys(c.name for c in found) if _same_sign(found, name, named)]
    with_interval = [c for c in found if math.isfinite(c.low)]
    headline = "No rank correlation has an interval that excludes 0 in every network."
    if not with_interval:
        headline = "Too few seeds for intervals of rank correlations."
    elif kept:
        told = listed(kept)
        headline = f"Of one sign, with an interval that excludes 0, in every network: {told}."
    return Card("What tells what", headline, text=texts)


def equal_rate_texts(results: Mapping, model: str) -> list[str]:
    """The late optimizer at one absolute rate, and what the rate does; not planned beforehand."""
    found = at_equal_rate(results, model)
    if not found:
        return []
    late = found["late"]
    return [
        f"{model}, not planned beforehand: at the same late learning rate, not the same share of"
        f" each optimizer's largest, the late optimizer changes λ̂ by {percent(late.value)} (95 %:"
        f" {percent(late.low)} to {percent(late.high)}); in the middle of the rates λ̂ goes as the"
        f" late rate to the power {signed(found['rate'].value)}."
    ]


def _same_sign(found, name: str, named: set[str]) -> bool:
    """Whether every network's interval lies on the same side of 0."""
    own = [c for c in found if c.name == name]
    sides = {math.copysign(1, c.value) for c in own if c.low * c.high > 0}
    return name in named and len(sides) == 1 and all(c.low * c.high > 0 for c in own)


def signed(value: float) -> str:
    """`−0.52`."""
    return f"{value:+.2f}".replace("-", "−")


def share(value: float) -> str:
    """`63 %`; `–` where it cannot be had."""
    return f"{100 * value:.0f} %" if math.isfinite(value) else "–"
