"""How exact is online NGD?

    work = open_work(STUDY, "experiments/args_ngd_directions.json")
    measure(work, "exact")  # beside the exact natural gradient of a small network, along training
    measure(work, "dense")  # beside the same recursion with whole matrices, inverted as they stand
    measure(work, "float32")  # published and stable arithmetic, beside themselves in float64
    print(finish(work))

with `open_work`, `measure` and `finish` from `degeneracy.study`. What is measured is kept at once;
the same call with the same config and directory takes it from there.
"""

from degeneracy.runs.work import Part
from degeneracy.study import Study
from studies.ngd_directions.figures import study_figures
from studies.ngd_directions.findings import findings
from studies.ngd_directions.measure import measure_dense, measure_exact, measure_float32
from studies.ngd_directions.settings import Settings

STUDY = Study(
    name="ngd_directions",
    question="How exact is online NGD?",
    minutes=2,
    title="How exact is online NGD?",
    settings=Settings,
    parts={
        "exact": Part(measure_exact, needs=()),
        "dense": Part(measure_dense, needs=()),
        "float32": Part(measure_float32, needs=()),
    },
    figures=study_figures,
    findings=findings,
)
