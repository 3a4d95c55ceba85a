"""What do the sections of the study say? Their verdicts, that of the comparison first."""

from collections.abc import Mapping

from degeneracy.report.page import Card, Findings
from studies.natural_gradients.sections import SECTIONS

FIRST = "comparison"


def findings(results: Mapping) -> Findings:
    """A card for each section that has been measured."""
    parts = results["parts"]
    order = [FIRST, *(name for name in SECTIONS if name != FIRST)]
    cards = [SECTIONS[name].card(parts[name]) for name in order if parts.get(name)]
    return Findings(cards or [Card("Natural gradients", "Nothing has been measured yet.")])
