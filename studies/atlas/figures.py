"""What does the factorial experiment look like?"""

from collections.abc import Mapping

from degeneracy.report.page import Section


def atlas_figures(results: Mapping, traces: Mapping) -> list[Section]:
    """What is there to be drawn."""
    return []
