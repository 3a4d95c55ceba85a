"""Do optimizers differ in the degeneracy they end in, once their learning rates are compared?"""

from studies.natural_gradients.comparison.figures import figures
from studies.natural_gradients.comparison.findings import card, tables
from studies.natural_gradients.comparison.measure import measure
from studies.natural_gradients.section import StudySection

SECTION = StudySection(measure, figures, card, tables)
