"""Does NGD differ from SGD, network by network? Means, Welch's test, and pairs at equal loss."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from degeneracy.sweeps.statistics import Mean, Paired, Welch, holm, mean_of, paired, welch
from studies.paper.records import Network, Row, at_equal_loss, networks, of_optimizer, values_of

LEVEL = 0.05  # a p-value below it is called beyond chance


class Compared(NamedTuple):
    """NGD and SGD on one network, after the last epoch.

    Attributes:
        ngd, sgd: Means over seeds.
        test: Welch's of the two; None of a single seed.
        p: Of that test, corrected by Holm over the networks; None likewise.
    """

    ngd: Mean
    sgd: Mean
    test: Welch | None
    p: float | None

    @property
    def difference(self) -> float:
        """NGD minus SGD."""
        return self.ngd.value - self.sgd.value


def compared(results: Mapping[str, Any], quantity: str) -> dict[Network, Compared]:
    """Every network of which both optimizers have the quantity at the end."""
    values = {
        network: [values_of(of_optimizer(rows, name), quantity) for name in ("ngd", "sgd")]
        for network, rows in networks(results).items()
    }
    values = {network: both for network, both in values.items() if all(both)}
    tests = {network: welch(*both) for network, both in values.items() if min(map(len, both)) > 1}
    adjusted = holm({str(network): test.p for network, test in tests.items()})
    return {
        network: Compared(
            mean_of(ngd), mean_of(sgd), tests.get(network), adjusted.get(str(network))
        )
        for network, (ngd, sgd) in values.items()
    }


def compared_at_equal_loss(results: Mapping[str, Any]) -> dict[Network, Paired | float]:
    """LLC of NGD minus that of SGD at the higher of their final losses, seed by seed.

    A single seed has its difference alone; a network without a crossing is left out.
    """
    found = {
        network: differences_of(at_equal_loss(rows, "ngd", "sgd"))
        for network, rows in networks(results).items()
    }
    return {network: one for network, one in found.items() if one is not None}


def differences_of(by_seed: Mapping[int, float]) -> Paired | float | None:
    """Tests differences within seeds: Student of at least two, else the one, else None."""
    values = [*by_seed.values()]
    if len(values) > 1:
        return paired(values)
    return values[0] if values else None


def paired_finals(
    rows: Sequence[Row], quantity: str, first: str, second: str
) -> Paired | float | None:
    """`first` minus `second` after the last epoch, within seeds."""
    ones, others = (
        {row["factors"]["seed"]: values_of([row], quantity) for row in of_optimizer(rows, name)}
        for name in (first, second)
    )
    both = [seed for seed in sorted(ones.keys() & others.keys()) if ones[seed] and others[seed]]
    return differences_of({seed: ones[seed][0] - others[seed][0] for seed in both})
