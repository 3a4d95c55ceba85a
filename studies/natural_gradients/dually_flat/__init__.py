"""Does a natural gradient in closed form reach the efficiency of maximum likelihood in one pass?"""

from studies.natural_gradients.dually_flat.figures import figures
from studies.natural_gradients.dually_flat.findings import card, tables
from studies.natural_gradients.dually_flat.measure import measure
from studies.natural_gradients.section import StudySection

SECTION = StudySection(measure, figures, card, tables)
