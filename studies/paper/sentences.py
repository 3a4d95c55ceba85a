"""How is a mean over seeds, a test, and an effect said in plain words?"""

from degeneracy.sweeps.statistics import Mean, Paired
from degeneracy.texts import count_of, decimals_worth
from studies.paper.comparison import LEVEL, Compared
from studies.paper.published import Agreement


def mean_text(mean: Mean) -> str:
    """`55.9 ± 1.0 (5 seeds)`, mean ± standard deviation; `55.9 (1 seed)`."""
    seeds = count_of(mean.count, "seed")
    if mean.count < 2:
        return f"{mean.value:.4g} ({seeds})"
    return f"{short(mean)} ({seeds})"


def short(mean: Mean) -> str:
    """The same without the number of seeds."""
    if mean.count < 2:
        return f"{mean.value:.4g}"
    decimals = min(decimals_worth(mean.deviation), 8)
    return f"{mean.value:,.{decimals}f} ± {mean.deviation:,.{decimals}f}"


def number_text(value: float) -> str:
    """`+1.23`, `-4,800`: a difference to three digits."""
    return f"{value:+,.0f}" if abs(value) >= 1000 else f"{value:+.3g}"


def p_text(p: float) -> str:
    """`p = 0.012`, `p < 0.001`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def interval_text(low: float, high: float) -> str:
    """`9.1 to 14.1`, to two digits of its half width."""
    decimals = min(decimals_worth((high - low) / 4), 8)
    return f"{low:,.{decimals}f} to {high:,.{decimals}f}"


def compared_text(name: str, quantity: str, found: Compared) -> str:
    """One network's means, difference, test and effect size in a sentence or two."""
    said = (
        f"{name}: {quantity} ends at {mean_text(found.ngd)} with NGD and {mean_text(found.sgd)}"
        " with SGD"
    )
    if found.test is None:
        return f"{said}, a difference of {found.difference:+.3g}; one seed allows no test."
    test = found.test
    beyond = "beyond chance" if found.p < LEVEL else "not beyond chance"
    return (
        f"{said}, a difference of {test.difference:+.3g} (95 %:"
        f" {interval_text(test.low, test.high)}), {beyond} (Welch {p_text(test.p)}, after Holm"
        f" {p_text(found.p)}), Hedges g = {test.effect:.2g}."
    )


def paired_text(found: Paired | float, unit: str = "") -> str:
    """`+1.2 (95 %: -0.4 to 2.8, p = 0.1, 5 seeds), not beyond chance`."""
    if not isinstance(found, Paired):
        return f"{number_text(found)}{unit} (1 seed, no test)"
    mean = found.mean
    beyond = "beyond chance" if found.p < LEVEL else "not beyond chance"
    return (
        f"{number_text(mean.value)}{unit} (95 %: {interval_text(mean.low, mean.high)},"
        f" {p_text(found.p)},"
        f" {count_of(mean.count, 'seed')}), {beyond}"
    )


def agreement_text(one: Agreement) -> str:
    """What was published, what we have, and whether they agree."""
    spread = "" if one.published.deviation is None else f" ± {one.published.deviation:g}"
    said = (
        f"{one.published.what}, {one.published.optimizer.upper()}: published"
        f" {one.published.value:g}{spread}, ours {mean_text(one.ours)}, a difference of"
        f" {one.difference:+.2g}"
    )
    if one.agrees is None:
        return f"{said}; one seed does not tell whether they agree."
    verdict = "they agree" if one.agrees else "they do not agree"
    return f"{said} where {one.allowed:.2g} is allowed: {verdict}."
