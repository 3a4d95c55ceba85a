"""How are a number, its error and what chains did written? Plain text for tables, sentences and
figures.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

Z_95 = 1.96  # half width of a 95 % interval in standard errors
MOST_DECIMALS, MOST_DIGITS = 12, 15  # of a number that is written out


NAMES = {  # of the kinds of optimizers, as the field writes them
    "sgd": "SGD",
    "ngd": "NGD",
    "adam": "Adam",
    "adamw": "AdamW",
    "muon": "Muon",
    "soap": "SOAP",
    "spngd": "SP-NGD",
    "seng": "SENG",
    "exact_ngd": "exact NGD",
}


def label(optimizer: str) -> str:
    """How figures, tables and sentences call an optimizer: `SGD`, `AdamW`; one of another name by
    that name.
    """
    return NAMES.get(optimizer, optimizer)


def listed(texts: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *first, last = texts
    return f"{', '.join(first)} and {last}" if first else last


def count_of(count: int, noun: str) -> str:
    """`1 chain`, `2 chains`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def number(value) -> float | None:
    """`value` as a finite float, None where it is missing or not finite."""
    return None if value is None or not math.isfinite(value) else float(value)


def decimals_worth(std_error: float) -> int:
    """Decimals at which a standard error shows two significant digits; one where it is 0."""
    return max(0, 1 - math.floor(math.log10(std_error))) if std_error > 0 else 1


def fixed(value: float, decimals: int, sign: str = "") -> str:
    """`1,234.50`; `1e-300` and `1e+300` where the digits would fill a line."""
    is_long = decimals > MOST_DECIMALS or abs(value) >= 10**MOST_DIGITS
    return f"{value:{sign}.4g}" if is_long else f"{value:{sign},.{decimals}f}"


def with_error(value: float | None, std_error: float | None) -> str:
    """`55.2 ± 0.8`, with as many decimals as the error is worth."""
    if value is None:
        return "–"
    if std_error is None:
        return f"{value:.4g} (no standard error)"
    decimals = decimals_worth(std_error)
    return f"{fixed(value, decimals)} ± {fixed(std_error, decimals)}"


def drift_text(drift: float | None, std_error: float | None) -> str:
    """`+0.7`, with as many decimals as the estimate's error is worth."""
    return "–" if drift is None else fixed(drift, decimals_worth(std_error or 1.0), "+")


def difference_texts(difference: float, interval: tuple[float, float]) -> tuple[str, str]:
    """(`+11.6`, `9.1 to 14.1`), with as many decimals as the interval is worth."""
    decimals = decimals_worth((interval[1] - interval[0]) / (2 * Z_95))
    low, high = (fixed(end, decimals) for end in interval)
    return fixed(difference, decimals, "+"), f"{low} to {high}"


def interval_of(difference: float, *std_errors: float | None) -> tuple[float, float] | None:
    """95 % interval of a difference from independent standard errors; None where one is missing."""
    if None in std_errors:
        return None
    half_width = Z_95 * math.hypot(*std_errors)
    return difference - half_width, difference + half_width


def chain_counts(chains: Iterable[Mapping]) -> str:
    """`3 steady, 1 diverged`: how many chains have which verdict, the most frequent first."""
    counts = Counter(chain["verdict"] for chain in chains)
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
