"""Which sections does the study have, in the order of the thread?

Every exact natural gradient is a least-squares problem. Three systems solve it, one sketches it,
one factorises it, one has it in closed form; then all that train networks are compared.
"""

from studies.natural_gradients import (
    comparison,
    dually_flat,
    energy,
    overparameterised,
    seng,
    sp_ngd,
    states,
)
from studies.natural_gradients.section import StudySection

SECTIONS: dict[str, StudySection] = {
    "overparameterised": overparameterised.SECTION,
    "energy": energy.SECTION,
    "states": states.SECTION,
    "seng": seng.SECTION,
    "sp_ngd": sp_ngd.SECTION,
    "dually_flat": dually_flat.SECTION,
    "comparison": comparison.SECTION,
}
