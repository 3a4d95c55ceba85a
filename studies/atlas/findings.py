"""What follows from the factorial experiment, in plain words?"""

from collections.abc import Mapping

from degeneracy.report.page import Card, Findings


def findings(results: Mapping) -> Findings:
    """Cards."""
    return Findings([Card("Atlas", "Nothing yet.")])
