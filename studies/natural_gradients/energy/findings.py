"""What do natural steps on differential equations say?"""

from collections.abc import Mapping, Sequence

import numpy as np

from degeneracy.report.page import Card, Tile
from degeneracy.report.tables import Table
from degeneracy.texts import count_of
from studies.natural_gradients.energy.figures import (
    CUTS_KEY,
    DEFAULT,
    GOAL,
    METHODS,
    PROBLEMS,
    cut_names,
    last_errors,
    of_default,
)

TITLE = "Energy natural gradient"
CLAIM = (
    "The claim: physics-informed networks that Adam and BFGS bring to errors of 10⁻³ to 10⁻⁵ are"
    " brought to 10⁻⁶ and below by some hundred steps of the energy's natural gradient, a"
    " least-squares problem each (arXiv:2302.13163)."
)


def card(part: Mapping) -> Card:
    """Whether the rule reaches the goal at every start, and what single cut-offs do."""
    if not part:
        return Card(TITLE, "Nothing has been measured yet.", text=[CLAIM])
    said = [text for text in (rule_text(part), cut_text(part)) if text]
    return Card(
        TITLE,
        " ".join(said) or "Natural steps on the default problem have not been measured yet.",
        tiles=tiles(part),
        drawing=CUTS_KEY,
        text=[CLAIM, measured_text(part)],
    )


def steps_to_goal(of: Mapping) -> int | None:
    """The first kept step with an error of `GOAL` or less."""
    pairs = zip(of["steps"], of["errors"], strict=True)
    return next((step for step, error in pairs if error is not None and error <= GOAL), None)


def rule_text(part: Mapping) -> str:
    """How many starts reach the goal by the corrected rule, and the shortfall of the others."""
    if not (runs := of_default(part, "rule")):
        return ""
    reached = [step for of in runs if (step := steps_to_goal(of)) is not None]
    if len(reached) == len(runs):
        return (
            f"With corrected steps, which choose among several cut-offs, {_all(len(runs))} a"
            f" relative error of 10⁻⁶ within {max(reached)} steps."
        )
    short = [min(_errors(of)) for of in runs if steps_to_goal(of) is None]
    return (
        f"Corrected steps, which choose among several cut-offs, reach a relative error of 10⁻⁶ from"
        f" {len(reached)} of {count_of(len(runs), 'start')}; the others come to {max(short):.2g} at"
        " worst."
    )


def cut_text(part: Mapping) -> str:
    """What the best and the worst single cut-off do."""
    worst = {
        name: max(errors)
        for name in cut_names(part)
        if (errors := last_errors(of_default(part, name)))
    }
    if not worst:
        return ""
    best = min(worst, key=worst.get)
    fails = sum(error > 1e-3 for error in worst.values())
    return (
        f"With one cut-off for all steps the most robust is {best.removeprefix('cut ')}, at worst"
        f" {worst[best]:.2g}; {fails} of {len(worst)} leave some start above 10⁻³."
    )


def measured_text(part: Mapping) -> str:
    """Errors and seconds of everything, in sentences."""
    said = []
    for method, (name, _) in METHODS.items():
        if runs := of_default(part, method):
            errors, seconds = last_errors(runs), [s for of in runs for s in of["seconds"][-1:]]
            spent = f" in {np.median(seconds):.1f} s" if seconds else ""
            count = count_of(len(runs), "start")
            said.append(f"{name} {np.median(errors):.2g}{spent} ({count})")
    if not said:
        return "Measured: the other problems only."
    return (
        "Measured on Poisson's equation in two dimensions, relative error after the last step and"
        " process seconds of one thread, medians where there are several starts:"
        f" {', '.join(said)}."
    )


def tiles(part: Mapping) -> list[Tile]:
    """Median errors of the rule, BFGS and Adam on the default problem."""
    found = []
    for method in ("rule", "bfgs", "adam"):
        if runs := of_default(part, method):
            name, colour = METHODS[method]
            steps = count_of(most_steps(runs), "step")
            detail = f"after {steps}, {count_of(len(runs), 'start')}"
            found.append(Tile(name, f"{np.median(last_errors(runs)):.2g}", detail, colour))
    return found


def tables(part: Mapping) -> list[Table]:
    """Errors by cut-off and start, and by problem and method."""
    found = []
    seeds = sorted({of["seed"] for of in part.values() if of["problem"] == DEFAULT})
    if rows := [_seed_row(part, name, seeds) for name in [*cut_names(part), "rule"]]:
        rows = [row for row in rows if set(row[1:]) != {"–"}]
    if rows:
        found.append(
            Table(
                "Poisson 2D: relative error by cut-off and start",
                "After the last step, or that no halving of the first one went downhill."
                + steps_text(part),
                ["cut-off", *(f"start {seed}" for seed in seeds), "median"],
                rows,
                row_headers=True,
            )
        )
    if others := [of for of in part.values() if not of["method"].startswith("cut ")]:
        rows = [_problem_row(of) for of in others]
        heads = ["problem, method, start", "steps", "process seconds", "error", "loss"]
        note = "Each as far as its steps in the config bring it."
        found.append(Table("Every equation and method", note, heads, rows, row_headers=True))
    return found


def most_steps(runs: Sequence[Mapping]) -> int:
    """Steps of the longest of some runs."""
    return max(of["steps"][-1] if of["steps"] else 0 for of in runs)


def steps_text(part: Mapping) -> str:
    """How many steps the rule and single cut-offs took, where both are there."""
    singles = [of for name in cut_names(part) for of in of_default(part, name)]
    rule = of_default(part, "rule")
    if not (singles and rule):
        return ""
    return (
        f" The rule took up to {count_of(most_steps(rule), 'step')}, each over several cut-offs, a"
        f" single cut-off up to {most_steps(singles)}."
    )


def _seed_row(part: Mapping, method: str, seeds: list[int]) -> list[str]:
    by_seed = {of["seed"]: of for of in of_default(part, method)}
    errors = {seed: last_errors([of])[0] for seed, of in by_seed.items()}
    cells = [_error(errors.get(seed)) for seed in seeds]
    middle = _error(np.median(list(errors.values())) if errors else None)
    return [method.removeprefix("cut "), *cells, middle]


def _error(error: float | None) -> str:
    """A dash where nothing was run, "no step" where no step went downhill from the start."""
    if error is None:
        return "–"
    return f"{error:.1e}" if np.isfinite(error) else "no step"


def _problem_row(of: Mapping) -> list[str]:
    name = METHODS.get(of["method"], (of["method"], ""))[0]
    last = [of[key][-1] if of[key] else None for key in ("steps", "seconds", "errors", "losses")]
    shown = [
        "–" if value is None else form.format(value)
        for value, form in zip(last, ("{:,}", "{:.1f}", "{:.1e}", "{:.1e}"), strict=True)
    ]
    return [f"{PROBLEMS[of['problem']]}, {name}, {of['seed']}", *shown]


def _errors(of: Mapping) -> list[float]:
    errors = [e for e in of["errors"] if e is not None and np.isfinite(e)]
    return errors or [np.inf]


def _all(count: int) -> str:
    return "the one start reaches" if count == 1 else f"all {count} starts reach"
