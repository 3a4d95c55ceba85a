"""How are a study's records read? Cases by kind, their numbers as columns, errors in percent.

A record is what `measure.py` keeps of a case. A number that is missing or not finite is NaN.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from degeneracy.texts import Z_95, number
from studies.min_singular_models.cases import FAMILIES

WANTED = 5.0  # percent that an estimate may be off

Records = Mapping[str, Mapping]  # case → record
Column = Float[np.ndarray, " cases"]


def records(results: Mapping, *families: str) -> Records:
    """The cases that are there, of the kinds asked for, by default all, in the order of kinds."""
    found = {name: r for part in results["parts"].values() for name, r in part.items()}
    kinds = families or FAMILIES
    return {name: r for kind in kinds for name, r in found.items() if r["family"] == kind}


def column(cases: Records, key: str) -> Column:
    """`key` of each case."""
    values = [number(record[key]) for record in cases.values()]
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def percent_off(cases: Records, key: str) -> Column:
    """How far `key` is from what is expected, in percent."""
    return 100 * (column(cases, key) / column(cases, "expected") - 1)


def half_width(cases: Records) -> Column:
    """Half of the estimate's 95 % interval."""
    return Z_95 * column(cases, "std_error")


def half_rank(cases: Records) -> tuple[Column, Column]:
    """rank(H)/2, and half its 95 % interval with the quadrature's error."""
    ranks = [record["hessian_rank"] for record in cases.values()]
    errors = [Z_95 * (rank["std_error"] or 0) + rank["quadrature_error"] for rank in ranks]
    return np.array([rank["value"] for rank in ranks]) / 2, np.array(errors) / 2
