"""How much of the empirical natural gradient's direction is left after SENG's sketch?"""

from studies.natural_gradients.section import StudySection
from studies.natural_gradients.seng.figures import figures
from studies.natural_gradients.seng.findings import card, tables
from studies.natural_gradients.seng.measure import measure

SECTION = StudySection(measure, figures, card, tables)
