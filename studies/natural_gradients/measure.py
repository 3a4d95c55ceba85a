"""What is measured? Each section by itself: none needs another."""

from degeneracy.runs.work import Part
from studies.natural_gradients.sections import SECTIONS

PARTS = {name: Part(section.measure, needs=()) for name, section in SECTIONS.items()}
