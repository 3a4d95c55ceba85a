"""Which learning rate and momentum has each step? Constant ones, or Jacobi's.

All regimes step by one convention, v ← β_t v − α_t ĝ and Δ ← Δ + v, whatever the schedule.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from studies.sgd_regimes.checks import check_lr, check_momentum, check_steps


@dataclass(frozen=True)
class Jacobi:
    """The heavy ball whose residual polynomials are Jacobi's, P_t^{(a,b)}(1 − 2x)/P_t^{(a,b)}(1).

    Optimal for power-law spectra without noise (Velikanov & Yarotsky, arXiv:2202.00992). x = αλ
    lies in [0, 1] where the factor α, the given learning rate, is 1/λ_max. α_t tends to 4α and β_t
    to 1, so with noise of batches every run of this schedule diverges in the end.

    Attributes:
        a, b: > −1.
    """

    a: float
    b: float

    def __post_init__(self):
        if not (self.a > -1 and self.b > -1):
            raise ValueError(f"Jacobi a {self.a:g}, b {self.b:g} given; allowed: both > -1")

    def factors(self, num_steps: int) -> tuple[Float[np.ndarray, " T"], Float[np.ndarray, " T"]]:
        """α_t/α and β_t for t = 0 … T − 1, from Jacobi's three-term recurrence."""
        a, b, n = self.a, self.b, np.arange(1, num_steps, dtype=np.float64)
        m = 2 * n + a + b
        rates = (m + 1) * (m + 2) / ((n + a + b + 1) * (n + a + 1))
        momenta = n * (n + b) * (m + 2) / ((n + a + b + 1) * m * (n + a + 1))
        return np.r_[(a + b + 2) / (a + 1), rates], np.r_[0.0, momenta]


Schedule = None | str | tuple | Jacobi  # None and "constant" mean the same


def as_schedule(schedule: Schedule) -> Jacobi | None:
    """What a schedule's name means; ("jacobi", a, b) is `Jacobi(a, b)`, None is constant.

    Raises:
        ValueError: There is no such schedule.
    """
    if schedule is None or schedule == "constant":
        return None
    if isinstance(schedule, Jacobi):
        return schedule
    if isinstance(schedule, tuple) and len(schedule) == 3 and schedule[0] == "jacobi":
        return Jacobi(float(schedule[1]), float(schedule[2]))
    raise ValueError(
        f'schedule {schedule!r} given; allowed: None, "constant", ("jacobi", a, b) or Jacobi(a, b)'
    )


def steps_of(
    lr: float, momentum: float, num_steps: int, schedule: Schedule = None
) -> tuple[Float[np.ndarray, " T"], Float[np.ndarray, " T"]]:
    """(α_t, β_t) of T steps.

    Raises:
        ValueError: A rate, momentum or number of steps that is not allowed, an unknown schedule,
            or a momentum beside a schedule that has its own.
    """
    check_lr(lr)
    check_momentum(momentum)
    check_steps(num_steps)
    chosen = as_schedule(schedule)
    if chosen is None:
        return np.full(num_steps, float(lr)), np.full(num_steps, float(momentum))
    if momentum != 0:
        raise ValueError(
            f"momentum {momentum:g} given with Jacobi's schedule, which has its own; allowed: 0"
        )
    rates, momenta = chosen.factors(num_steps)
    return lr * rates, momenta
