"""Natural gradients, from exact to approximate: six systems on one thread, and where they end.

    work = open_work(STUDY, "experiments/args_natural_gradients.json")
    measure(work)  # or one section: measure(work, "energy")
    print(finish(work))

with `open_work`, `measure` and `finish` from `degeneracy.study`. Each section is a package of its
own mathematics, of the same shape as a study; the optimizers are in `degeneracy.optimizers`, the
least-squares problem they share in `degeneracy.natural`.
"""

from degeneracy.study import Study
from studies.natural_gradients.figures import study_figures
from studies.natural_gradients.findings import findings
from studies.natural_gradients.measure import PARTS
from studies.natural_gradients.settings import Settings

STUDY = Study(
    name="natural_gradients",
    question="Natural gradients, exact to approximate: do they work, and where do they end?",
    minutes=8,
    title="Natural gradients, from exact to approximate",
    settings=Settings,
    parts=PARTS,
    figures=study_figures,
    findings=findings,
)
