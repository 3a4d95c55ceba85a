"""How degenerate is what a training passes through, with the noise of its minibatches taken out?

    work = open_work(STUDY, "experiments/args_branches.json")
    measure(work, "training")  # an optimizer, then another one; copies leave and are annealed
    measure(work, "degeneracy")  # λ̂ and curvature of the copies
    print(finish(work))

with `open_work`, `measure` and `finish` from `degeneracy.study`. One training; `studies/atlas`
compares many.
"""

from degeneracy.runs.work import Part
from degeneracy.study import Study
from studies.branches.figures import branch_figures, title_of
from studies.branches.findings import findings
from studies.branches.measure import measure_degeneracy, measure_training
from studies.branches.settings import Settings

STUDY = Study(
    name="branches",
    question="How degenerate is what a training passes through, noise taken out?",
    minutes=2,
    title=lambda results: f"Annealed branches: {title_of(results)}",
    settings=Settings,
    parts={"training": Part(measure_training), "degeneracy": Part(measure_degeneracy)},
    figures=branch_figures,
    findings=findings,
)
