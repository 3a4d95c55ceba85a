"""Which values did arXiv:2409.04913 publish, and do ours agree with them?"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from degeneracy.sweeps.statistics import Mean, mean_of
from studies.paper.records import Network, Row, network_of, rows_of, values_of
from studies.paper.settings import SamplerSettings, TrainingSettings

FREE = {"root", "measure_epochs", "num_hessian_batches", "num_probes"}  # change no published value


class Published(NamedTuple):
    """A published value.

    Attributes:
        what: Of what it is, for tables.
        part: The part whose rows are of the same kind.
        network: What was trained.
        optimizer: Its kind.
        setting: NGD's key and value, where it is not the usual one; else empty.
        quantity: As in a run's series.
        epoch: After which it was taken.
        value: It.
        deviation: Its standard deviation over seeds; None of a single run.
    """

    what: str
    part: str
    network: Network
    optimizer: str
    setting: tuple[str, float] | tuple[()]
    quantity: str
    epoch: int
    value: float
    deviation: float | None = None


class Agreement(NamedTuple):
    """A published value beside ours.

    Attributes:
        published: What was published.
        ours: Mean over seeds.
        allowed: Two standard errors of our mean plus the published standard deviation; of a
            single published run plus the standard deviation of ours. None of one seed.
    """

    published: Published
    ours: Mean
    allowed: float | None

    @property
    def difference(self) -> float:
        """Ours minus the published value."""
        return self.ours.value - self.published.value

    @property
    def agrees(self) -> bool | None:
        """Whether the difference is within what is allowed; None where one seed does not tell."""
        return None if self.allowed is None else abs(self.difference) <= self.allowed


def _llc(nodes: int, optimizer: str, value: float, deviation: float) -> Published:
    network = Network("mnist", 2, nodes)
    return Published(
        f"LLC, {network.name}", "sizes", network, optimizer, (), "llc", 30, value, deviation
    )


def _smoothed(key: str, setting: float, value: float) -> Published:
    symbol = {"alpha": "α", "epsilon": "ε"}[key]
    what, network = f"LLC, 2 × 256, {symbol} = {setting:g}", Network("mnist", 2, 256)
    return Published(what, "smoothing", network, "ngd", (key, setting), "llc", 30, value)


def _of_the_run(quantity: str, name: str, optimizer: str, epoch: int, value: float) -> Published:
    what, network = f"{name}, 2 × 256, epoch {epoch}", Network("mnist", 2, 256)
    return Published(what, "sizes", network, optimizer, (), quantity, epoch, value)


RUN = {  # the one run that is published in full: training and validation loss, update norm, LLC
    ("sgd", 30): (0.295, 0.283, 0.00056, 43.6),
    ("ngd", 16): (0.362, 0.332, 0.0061, 44.2),
    ("ngd", 30): (0.148, 0.152, 0.0054, 55.0),
}
OF_RUN = {
    "train_loss": "training loss",
    "val_loss": "validation loss",
    "update_norm": "update norm",
    "llc": "LLC of one run",
}
PUBLISHED = (
    _llc(64, "ngd", 31.8, 1.0),
    _llc(64, "sgd", 25.5, 0.8),
    _llc(128, "ngd", 42.4, 1.5),
    _llc(128, "sgd", 32.9, 0.8),
    _llc(256, "ngd", 55.9, 1.0),
    _llc(256, "sgd", 43.8, 0.9),
    *(
        _of_the_run(quantity, name, optimizer, epoch, value)
        for (optimizer, epoch), values in RUN.items()
        for (quantity, name), value in zip(OF_RUN.items(), values, strict=True)
    ),
    _smoothed("alpha", 0.1, 56.4),
    _smoothed("alpha", 50, 46.7),
    _smoothed("epsilon", 1e-10, 55.7),
    _smoothed("epsilon", 0.1, 43.5),
)


def differing_settings(results: Mapping[str, Any]) -> list[str]:
    """Keys of the config in which the swap runs are not the published ones."""
    config = results["config"]
    sections = {"training": TrainingSettings(), "sampler": SamplerSettings()}
    return [
        f"{name}.{key}"
        for name, settings in sections.items()
        for key, value in settings.model_dump().items()
        if key not in FREE and config[name][key] != value
    ]


def agreements(results: Mapping[str, Any]) -> list[Agreement]:
    """Every published value of which we have some; none where other settings were used."""
    if differing_settings(results):
        return []
    found = []
    for published in PUBLISHED:
        values = values_of(ours_of(results, published), published.quantity, published.epoch)
        if values:
            ours = mean_of(values)
            found.append(Agreement(published, ours, allowed(published, ours)))
    return found


def ours_of(results: Mapping[str, Any], published: Published) -> list[Row]:
    """Our rows of the same network and optimizer that did not diverge."""
    wanted = dict([published.setting] if published.setting else [])
    rows = rows_of(results, published.part, kind=published.optimizer, **wanted)
    scan = f"ngd {published.setting[0]} " if published.setting else ""
    return [
        row
        for row in rows
        if network_of(row) == published.network
        and row["optimizer"].startswith(scan)
        and row["diverged_epoch"] is None
    ]


def allowed(published: Published, ours: Mean) -> float | None:
    """How far our mean may be from a published value; None of one seed."""
    if ours.count < 2:
        return None
    spread = ours.deviation if published.deviation is None else published.deviation
    return 2 * ours.deviation / ours.count**0.5 + spread
