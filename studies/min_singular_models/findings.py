"""Does the sampler find known learning coefficients? The verdict, its sentences and a table."""

from collections.abc import Mapping

import numpy as np

from degeneracy.llc.statistics import STEADY
from degeneracy.report.page import Card, Findings, Note, Tile
from degeneracy.report.tables import Table
from degeneracy.texts import count_of, number, with_error
from studies.min_singular_models.cases import DEEP, FAMILIES
from studies.min_singular_models.figures import COLOURS
from studies.min_singular_models.records import (
    WANTED,
    Records,
    column,
    half_rank,
    half_width,
    percent_off,
    records,
)

TITLE = "Learning coefficients that are known"

QUESTION = (
    "For every model here the learning coefficient λ at w* is known exactly, and SGLD estimates it"
    " from w* alone. At finite nβ and localisation γ an estimate aims at another number, the one"
    " called expected: for a quadratic loss with curvatures h it is ½ Σ nβ h/(nβ h + γ), for a"
    " normal crossing an integral; for deep linear networks it is not known, and λ itself stands in"
    " its place."
)

HEAD = (
    ("case", ""),
    ("λ", ""),
    ("m", ""),
    ("rank(H)/2", ""),
    ("expected", ""),
    ("λ̂ ± standard error", ""),
    ("error", ""),
    ("error of ε", ""),
    ("drift", ""),
    ("verdict", ""),
    ("chains × draws", ""),
    ("nβ", ""),
    ("γ", ""),
)


def findings(results: Mapping) -> Findings:
    """The verdict over all cases that are there, and a table of them."""
    cases = records(results)
    if not cases:
        return Findings([Card(TITLE, "No case has been measured yet.", text=[QUESTION])])
    card = Card(
        TITLE,
        headline(cases),
        tiles=[tile(family, own) for family in FAMILIES if (own := records(results, family))],
        drawing="error",
        text=texts(results),
        notes=notes(cases),
    )
    return Findings([card], [results_table(cases)])


def headline(cases: Records) -> str:
    """Whether the estimates are what is expected."""
    errors = np.abs(percent_off(cases, "llc"))
    near = int((errors <= WANTED).sum())
    if near == len(errors):
        which = "the one estimate" if near == 1 else f"all {near} estimates"
        verb = "is" if near == 1 else "are"
        return (
            f"Yes: {which} {verb} within {WANTED:g} % of the value expected at the case's nβ and γ,"
            f" half of them within {np.median(errors):.1f} %."
        )
    start = f"In {near} of {len(errors)} cases" if near else "No"
    close = "the estimate is" if near else "no estimate is"
    verdict = f"{start}: {close} within {WANTED:g} % of the value expected at its nβ and γ."
    if not np.isfinite(errors).any():
        return f"{verdict} Every chain diverged."
    worst = int(np.nanargmax(errors))
    return f"{verdict} Furthest off is {list(cases)[worst]}: {_furthest(cases)}."


def tile(family: str, cases: Records) -> Tile:
    """The largest error of one kind of case."""
    count = count_of(len(cases), "case")
    return Tile(family, _furthest(cases), f"the largest error of {count}", COLOURS[family])


def texts(results: Mapping) -> list[str]:
    """What was asked, and a sentence a kind of case."""
    sentences = [QUESTION]
    for family in FAMILIES:
        cases = records(results, family)
        errors = np.abs(percent_off(cases, "llc"))
        if np.isfinite(errors).any():
            worst = int(np.nanargmax(errors))
            against = "λ" if family == DEEP else "the value expected at its nβ and γ"
            sentences.append(
                f"{family[0].upper()}{family[1:]} ({count_of(len(cases), 'case')}): every estimate"
                f" is within {errors[worst]:.1f} % of {against}, half of them within"
                f" {np.nanmedian(errors):.1f} %. The furthest is {list(cases)[worst]},"
                f" {_furthest(cases)}."
            )
    return sentences


def notes(cases: Records) -> list[Note]:
    """What qualifies the verdict: cases that miss, have not settled, lost chains, or are unsure."""
    errors = percent_off(cases, "llc")
    missed = [
        f"{name} ({signed(error)})"
        for name, error in zip(cases, errors, strict=True)
        if not abs(error) <= WANTED
    ]
    moving = [f"{name} ({r['verdict']})" for name, r in cases.items() if r["verdict"] != STEADY]
    lost = [
        f"{name} ({r['num_diverged_chains']} of {r['num_chains']:,} chains)"
        for name, r in cases.items()
        if r["num_diverged_chains"]
    ]
    widths = 100 * half_width(cases) / column(cases, "expected")
    unsure = [
        f"{name} (±{width:.1f} %)"
        for name, width in zip(cases, widths, strict=True)
        if width > WANTED
    ]
    settled = (
        "By the two halves of the draws, averaged over chains. A settled case is called rising or"
        " falling about once in fifteen times."
    )
    found = [
        _note(f"More than {WANTED:g} % off", missed, cases),
        _note("Not settled", moving, cases, settled),
    ]
    if lost:
        found.append(_note("Chains diverged and count in no estimate", lost, cases))
    if unsure:
        found.append(_note(f"95 % interval wider than ±{WANTED:g} %", unsure, cases))
    return found


def _note(line: str, which: list[str], cases: Records, more: str = "") -> Note:
    count = f"{len(which)} of {count_of(len(cases), 'case')}" if which else "none"
    listed = f"{', '.join(which)}." if which else ""
    return Note(f"{line}: {count}.", " ".join(filter(None, (listed, more))))


def results_table(cases: Records) -> Table:
    """Every case as a row."""
    note = (
        "Error: of λ̂ against expected. Error of ε: what the Langevin step does to the expected"
        " value, where it is known. Drift: second half of the draws minus all. Verdict: of the mean"
        " over chains."
    )
    rows = [[(text, "") for text in _row(name, record)] for name, record in cases.items()]
    return Table("All cases", note, HEAD, rows, row_headers=True)


def _row(name: str, record: Mapping) -> list[str]:
    one = {name: record}
    error, step = (percent_off(one, key)[0] for key in ("llc", "expected_with_step"))
    return [
        name,
        record["lambda_exact"],
        str(record["multiplicity"]),
        f"{half_rank(one)[0][0]:.4g}",
        f"{record['expected']:.4g}",
        with_error(number(record["llc"]), number(record["std_error"])),
        signed(error),
        signed(step),
        signed(100 * column(one, "drift")[0] / record["expected"]),
        record["verdict"],
        f"{record['num_chains']:,} × {record['num_draws']:,}",
        f"{record['nbeta']:.4g}",
        f"{record['localization']:.3g}",
    ]


def _furthest(cases: Records) -> str:
    """The error that is furthest from 0, with its sign; a dash where there is none."""
    errors = percent_off(cases, "llc")
    known = errors[np.isfinite(errors)]
    return signed(max(known, key=abs)) if len(known) else "–"


def signed(percent: float) -> str:
    """`+0.7 %`, or a dash for NaN."""
    return "–" if np.isnan(percent) else f"{percent:+.1f} %".replace("-", "−")
