"""What do natural gradients look like? The drawings of every section that has been measured."""

from collections.abc import Mapping

from degeneracy.report.page import Section
from studies.natural_gradients.sections import SECTIONS


def study_figures(results: Mapping, traces: Mapping) -> list[Section]:
    """A section of the page for each of the study, with its tables, in the order of the thread."""
    parts = results["parts"]
    there = [(section, parts[name]) for name, section in SECTIONS.items() if parts.get(name)]
    return [
        Section(section.card(part).title, section.figures(part), section.tables(part))
        for section, part in there
    ]
