"""Does the sampler find learning coefficients that are known?

    work = open_work(STUDY, "experiments/args_min_singular_models.json")
    measure(work, "linear")  # d weights of which r matter, population and sample loss: λ = r/2
    measure(work, "normal_crossings")  # K(w) = Π w_i^{2k_i}
    measure(work, "deep_linear")  # reduced-rank regression and deeper, against Aoyagi's formula
    print(finish(work))

with `open_work`, `measure` and `finish` from `degeneracy.study`. Every case is kept as soon as it
is there; the same call with the same config and directory takes it from there.
"""

from degeneracy.runs.work import Part
from degeneracy.study import Study
from studies.min_singular_models.figures import study_figures
from studies.min_singular_models.findings import findings
from studies.min_singular_models.measure import (
    measure_crossings,
    measure_deep_linear,
    measure_linear,
)
from studies.min_singular_models.settings import Settings

STUDY = Study(
    name="min_singular_models",
    question="Does the sampler find learning coefficients that are known?",
    minutes=3.5,
    title="Learning coefficients that are known, and what SGLD finds",
    settings=Settings,
    parts={
        "linear": Part(measure_linear, needs=()),
        "normal_crossings": Part(measure_crossings, needs=()),
        "deep_linear": Part(measure_deep_linear, needs=()),
    },
    figures=study_figures,
    findings=findings,
)
