"""Does natural gradient fit a wide network at the rate that theory says, whatever the inputs?"""

from studies.natural_gradients.overparameterised.figures import figures
from studies.natural_gradients.overparameterised.findings import card, tables
from studies.natural_gradients.overparameterised.measure import measure
from studies.natural_gradients.section import StudySection

SECTION = StudySection(measure, figures, card, tables)
