"""What do the passes over samples say of natural gradients in closed form?"""

from collections.abc import Iterable, Mapping

import numpy as np

from degeneracy.report.page import Card, Note, Tile
from degeneracy.report.tables import Table
from degeneracy.texts import count_of, listed
from studies.natural_gradients.dually_flat.figures import LOOKS, by_case, medians
from studies.natural_gradients.dually_flat.measure import BATCHES, LIKELIHOOD

EFFICIENT = 1.5  # times the floor: what is called near to it
CLAIM = (
    "Logistic regression is the conditional of a dually flat family, so its natural gradient is a"
    " few divisions by expectations; with these from running counts (DSNGD) one pass should come"
    " near the efficiency of maximum likelihood, d/2N."
)


def card(part: Mapping) -> Card:
    """How near the floor DSNGD comes, and how its rivals do."""
    cases = by_case(part)
    if not cases:
        headline = "Batch sizes alone were measured." if part else "Nothing has been measured yet."
        return Card("Dually flat models", headline, text=[CLAIM, *batch_text(part)])
    last = {case: last_medians(seeds) for case, seeds in cases.items()}
    own = {case: found["DSNGD"] for case, found in last.items()}
    near = [case for case, value in own.items() if value <= EFFICIENT]
    headline = (
        f"In one pass DSNGD ends at {_span('DSNGD', own.values())} times the efficiency floor,"
        f" within {EFFICIENT:g} in {len(near)} of {count_of(len(own), 'case')}; maximum likelihood"
        f" {_span(LIKELIHOOD, (found[LIKELIHOOD] for found in last.values()))}."
    )
    ends = {
        m: [found[m] for found in last.values()]
        for m in LOOKS
        if m in next(iter(cases.values()))[0]["methods"]
    }
    return Card(
        "Dually flat models",
        headline,
        tiles=[
            Tile(name, _span(name, values), "times the floor", LOOKS[name][0])
            for name, values in ends.items()
        ],
        drawing="dually-flat-efficiency",
        text=[
            CLAIM,
            *(case_text(case, cases[case], last[case]) for case in cases),
            *batch_text(part),
        ],
        notes=notes(cases),
    )


def last_medians(seeds: list[Mapping]) -> dict[str, float]:
    """KL over the floor after the whole pass, by method."""
    return {method: float(medians(seeds, method)[-1]) for method in seeds[0]["methods"]}


def case_text(case: str, seeds: list[Mapping], last: Mapping[str, float]) -> str:
    """A case's numbers in one sentence."""
    count = seeds[0]["samples"][-1]
    said = ", ".join(f"{method} {_number(method, value)}" for method, value in last.items())
    return (
        f"{case}, after {count:,} samples, d = {seeds[0]['dimension']}, median of"
        f" {count_of(len(seeds), 'seed')}: {said}."
    )


def batch_text(part: Mapping) -> list[str]:
    """What the batch size does, where it was measured."""
    found = part.get(BATCHES)
    if not found:
        return []
    middle = np.median(np.array(found["ratios"], dtype=float), axis=1)
    said = ", ".join(
        f"{_number('DSNGD', value)} at b = {batch}"
        for batch, value in zip(found["batches"], middle, strict=True)
    )
    return [
        f"What was measured steps by batches, where DSNGD is published a sample at a time; after"
        f" {found['samples']:,} samples of the first case its median is {said}."
    ]


def notes(cases: Mapping[str, list[Mapping]]) -> list[Note]:
    """How rates were chosen, how often SNGD diverges, where there is no likeliest model."""
    found = [_rates_note(cases)]
    runs = [one["methods"]["SNGD"] for seeds in cases.values() for one in seeds]
    diverged, tried = (sum(one[key] for one in runs) for key in ("diverged", "tried"))
    if diverged:
        found.append(
            Note(
                f"SNGD diverged in {diverged} of {tried} runs of its grid of rates.",
                "Its metric is that of the model at the present parameters: a step that is too long"
                " makes expectations tiny, and the next step longer. DSNGD's metric is the data's.",
            )
        )
    for case, seeds in cases.items():
        for one in seeds:
            reasons = one["methods"][LIKELIHOOD]["reasons"]
            if why := reasons.get(str(one["samples"][-1])):
                line = f"Maximum likelihood is not defined for {case}, seed {one['seed']}."
                found.append(Note(line, why))
    return found


def _rates_note(cases: Mapping[str, list[Mapping]]) -> Note:
    """How many rates each method had to choose from, and which DSNGD chose."""
    first = next(iter(cases.values()))[0]["methods"]
    tried = [f"{of['tried']} of {name}" for name, of in first.items() if "tried" in of]
    chosen = [one["methods"]["DSNGD"]["rate"][0] for seeds in cases.values() for one in seeds]
    ends = " to ".join(dict.fromkeys(f"{pick(chosen):g}" for pick in (min, max)))
    return Note(
        "Every method's rate was chosen on held-out samples of each case and seed.",
        f"Among {listed(tried)}. Held-out samples are extra data, which maximum likelihood does"
        f" without. DSNGD's a came out as {ends}.",
    )


def tables(part: Mapping) -> list[Table]:
    """Each case and method: its median, the rates chosen, the time."""
    rows = []
    for case, seeds in by_case(part).items():
        for method in seeds[0]["methods"]:
            found = [one["methods"][method] for one in seeds]
            rates = [f"{one['rate'][0]:g}, {one['rate'][1]:.2g}" for one in found if "rate" in one]
            spent = np.median([one["process_s"] / one.get("tried", 1) for one in found])
            rows.append(
                [
                    case,
                    method,
                    _number(method, medians(seeds, method)[-1]),
                    "; ".join(dict.fromkeys(rates)) or "–",
                    f"{spent:.2g}",
                ]
            )
    if not rows:
        return []
    return [
        Table(
            "One pass over samples",
            "KL over d/2N at the end, median over seeds; process seconds are a rate's share of the"
            " passes that were run side by side (for maximum likelihood, all its fits).",
            ["case", "method", "KL / floor", "a, b by seed", "seconds"],
            rows,
        )
    ]


def _number(method: str, value: float) -> str:
    if np.isfinite(value):
        return f"{value:.2f}"
    return "not defined" if method == LIKELIHOOD else "diverged"


def _span(method: str, values: Iterable[float]) -> str:
    values = list(values)
    ends = dict.fromkeys(_number(method, pick(values)) for pick in (min, max))
    return " to ".join(ends)
