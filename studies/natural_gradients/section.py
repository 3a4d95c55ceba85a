"""What does a section of the study declare? As a study: how it measures, and what is shown."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from degeneracy.report.page import Card, Drawing
from degeneracy.report.tables import Table
from degeneracy.runs.work import Measured, Work


class StudySection(NamedTuple):
    """A section's functions, of what its part of the results holds.

    Attributes:
        measure: Yields (key, findings).
        figures: What there is to see.
        card: The verdict; its text opens with the claim.
        tables: What has more numbers than a card.
    """

    measure: Callable[[Work], Measured]
    figures: Callable[[Mapping], Sequence[Drawing]]
    card: Callable[[Mapping], Card]
    tables: Callable[[Mapping], Sequence[Table]] = lambda part: ()
