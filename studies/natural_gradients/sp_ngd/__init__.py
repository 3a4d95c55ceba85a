"""What do stale statistics save of SP-NGD's work, and what do processes send each other?"""

from studies.natural_gradients.section import StudySection
from studies.natural_gradients.sp_ngd.figures import figures
from studies.natural_gradients.sp_ngd.findings import card, tables
from studies.natural_gradients.sp_ngd.measure import measure

SECTION = StudySection(measure, figures, card, tables)
