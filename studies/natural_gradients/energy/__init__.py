"""How exactly do natural steps solve differential equations, and what does the cut-off decide?"""

from studies.natural_gradients.energy.figures import figures
from studies.natural_gradients.energy.findings import card, tables
from studies.natural_gradients.energy.measure import measure
from studies.natural_gradients.section import StudySection

SECTION = StudySection(measure, figures, card, tables)
