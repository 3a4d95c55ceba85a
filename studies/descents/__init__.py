"""How degenerate is what one optimizer reaches at given training losses, and how soon?

    work = open_work(STUDY, "experiments/args_descents.json")
    measure(work, "training")  # one training, down to the losses
    measure(work, "degeneracy")  # λ̂ and curvature there
    print(finish(work))

with `open_work`, `measure` and `finish` from `degeneracy.study`. One training of a network of some
thousand weights; `studies/natural_gradients` compares many.
"""

from degeneracy.runs.work import Part
from degeneracy.study import Study
from studies.descents.figures import descent_figures, title_of
from studies.descents.findings import findings
from studies.descents.measure import measure_degeneracy, measure_training
from studies.descents.settings import Settings

STUDY = Study(
    name="descents",
    question="How degenerate is what one optimizer reaches at given losses, and how soon?",
    minutes=1,
    title=lambda results: f"A descent: {title_of(results)}",
    settings=Settings,
    parts={"training": Part(measure_training), "degeneracy": Part(measure_degeneracy)},
    figures=descent_figures,
    findings=findings,
)
