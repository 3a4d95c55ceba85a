"""May an estimate be called a local learning coefficient? Four conditions, and a plain verdict.

λ̂ = nβ(E[L] − L(w*)) under the density ∝ exp(−nβ L(w) − (γ/2)|w − w*|²) says how degenerate w* is
only where the chains

    stay local       ℓ = (E[L] − L(w*))/(L_chance − L(w*)) ≤ 0.1 and |w − w*| ≤ 0.3 |w*|. At ℓ = 1
                     the network knows no more than the best constant prediction, whose loss is
                     L_chance, and λ̂ says nothing of w*.
    at a minimum     nβ(L(w*) − L(w_b)) ≤ max(1, 0.1 λ̂_b): w* is, to what is sampled, as low as the
                     bottom w_b of its basin (`basin`).
    come to rest     Burn-in of at least 3 and draws of at least 10 relaxation times of the slowest
                     direction in which the loss does not curve down, and R-hat of loss and of
                     |w − w*| at most 1.05, from starts that are spread (Vehtari et al., Bayesian
                     Analysis 16 (2021) 667).

The fourth is the gauge: λ does not change when a hidden ReLU unit's ingoing weights are scaled up
and its outgoing ones down, λ̂ does, so that it is quoted with the gauge it was sampled in.
"""

import math
from dataclasses import dataclass

LOCAL, TEMPERED = "local estimate", "tempered, not local"
NO_MINIMUM, NO_REST, UNKNOWN = "not at a minimum", "not at rest", "no estimate"
MOST_LOCALITY, MOST_DISTANCE = 0.1, 0.3
MOST_SHIFT, MOST_SHARE = 1.0, 0.1  # nats, of λ̂_b
BURN_IN, DRAWS = 3, 10  # relaxation times
MOST_RHAT = 1.05


@dataclass(frozen=True)
class Certificates:
    """What tells whether an estimate may be trusted as local. None where it was not measured.

    Attributes:
        locality: ℓ, the sampled loss on the way from L(w*) (0) to chance (1); 1 where w* itself is
            no better than chance.
        distance: |w − w*|, root mean square over draws, weight units.
        relative_distance: The same over |w*|.
        basin_shift: nβ(L(w*) − L(w_b)), nats.
        basin_llc: λ̂_b = nβ(E[L] − L(w_b)).
        basin_reached: Whether the bottom was found.
        relaxation: Steps in which the slowest direction forgets its start.
        num_burnin_steps, num_draws: Of a chain.
        rhat, distance_rhat: R-hat of the losses and of |w − w*|.
        starts_spread: Whether chains started apart; else R-hat cannot see what they share.
        gauge: `"given"` or `"balanced"`.
        step: The relative step, h with momentum or e without, that the pilot chose.
        step_bias: λ̂ at the step minus λ̂ at half of it, as the pilot found it, with its noise: half
            to three quarters of the step's bias.
        coordinates: In which chains moved.
        remarks: What could not be done as asked, in sentences.
    """

    locality: float | None = None
    distance: float | None = None
    relative_distance: float | None = None
    basin_shift: float | None = None
    basin_llc: float | None = None
    basin_reached: bool | None = None
    relaxation: float | None = None
    num_burnin_steps: int = 0
    num_draws: int = 0
    rhat: float | None = None
    distance_rhat: float | None = None
    starts_spread: bool = False
    gauge: str = "given"
    step: float | None = None
    step_bias: float | None = None
    coordinates: str = "none"
    remarks: tuple[str, ...] = ()

    @property
    def is_local(self) -> bool | None:
        """None where it cannot be told."""
        if self.relative_distance is None and self.locality is None:
            return None
        near = self.relative_distance is not None and self.relative_distance <= MOST_DISTANCE
        return near and (self.locality is None or self.locality <= MOST_LOCALITY)

    @property
    def is_at_minimum(self) -> bool | None:
        """None where the bottom was not looked for."""
        if self.basin_shift is None:
            return None
        allowed = max(MOST_SHIFT, MOST_SHARE * (self.basin_llc or 0.0))
        return bool(self.basin_reached) and self.basin_shift <= allowed

    @property
    def is_at_rest(self) -> bool | None:
        """None where the relaxation time is not known."""
        if self.relaxation is None:
            return None
        long_enough = (
            self.num_burnin_steps >= BURN_IN * self.relaxation
            and self.num_draws >= DRAWS * self.relaxation
        )
        rhats = (self.rhat, self.distance_rhat)
        return long_enough and all(rhat is not None and rhat <= MOST_RHAT for rhat in rhats)

    @property
    def needed_steps(self) -> int | None:
        """Burn-in and draws that a chain needs to come to rest."""
        if self.relaxation is None:
            return None
        return math.ceil(BURN_IN * self.relaxation) + math.ceil(DRAWS * self.relaxation)

    @property
    def verdict(self) -> str:
        """The first condition that fails, in the order of their gravity."""
        if self.is_at_rest is False:
            return NO_REST
        if self.is_local is False:
            return TEMPERED
        if self.is_at_minimum is False:
            return NO_MINIMUM
        known = (self.is_at_rest, self.is_local, self.is_at_minimum)
        return UNKNOWN if None in known else LOCAL

    @property
    def advice(self) -> str:
        """What to change, in a sentence; empty for a local estimate."""
        return {NO_REST: self._rest, TEMPERED: self._locality, NO_MINIMUM: self._minimum}.get(
            self.verdict, str
        )()

    def _rest(self) -> str:
        if (
            self.num_burnin_steps < BURN_IN * self.relaxation
            or self.num_draws < DRAWS * self.relaxation
        ):
            return (
                f"The slowest direction needs {self.relaxation:.0f} steps to forget its start: take"
                f" {math.ceil(BURN_IN * self.relaxation)} burn-in steps and"
                f" {math.ceil(DRAWS * self.relaxation)} draws, or a larger γ."
            )
        if self.rhat is None or self.distance_rhat is None:
            return "There is no R-hat of these chains: take at least two, and more draws."
        shown = max(self.rhat, self.distance_rhat)
        return f"Chains disagree (R-hat {shown:.3f}): take more draws, or a larger γ."

    def _locality(self) -> str:
        if self.relative_distance is None or self.relative_distance > MOST_DISTANCE:
            where = f"{self.relative_distance:.2g} |w*|" if self.relative_distance else "too far"
            return (
                f"Chains are {where} away from the checkpoint: λ̂ says how a network bears Gaussian"
                " noise. Raise γ, and nβ with it."
            )
        return (
            f"Chains lose {100 * self.locality:.0f} % of what the network knows: raise nβ, for"
            ' example to "dataset".'
        )

    def _minimum(self) -> str:
        if not self.basin_reached:
            return "The bottom of the basin was not reached: raise γ."
        return (
            f"The loss falls by {self.basin_shift:.3g} (times nβ) from the checkpoint to the bottom"
            " of its basin: quote λ̂_b beside λ̂, train on, or lower nβ."
        )
