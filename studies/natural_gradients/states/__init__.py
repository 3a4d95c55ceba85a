"""Is the natural gradient of a state, in any metric on states, one least-squares problem?"""

from studies.natural_gradients.section import StudySection
from studies.natural_gradients.states.figures import figures
from studies.natural_gradients.states.findings import card, tables
from studies.natural_gradients.states.measure import measure

SECTION = StudySection(measure, figures, card, tables)
