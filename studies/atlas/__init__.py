"""What makes one solution less degenerate than another?

    work = open_work(STUDY, "experiments/args_atlas.json")
    measure(work, "rates")  # each optimizer's largest stable learning rate
    measure(work, "runs")  # early × late optimizer × learning rate × network, seed by seed
    print(finish(work))

with `open_work`, `measure` and `finish` from `degeneracy.study`. The experiment was written down
before it was run: `docs/atlas-plan.md`. Each run is one of the study `branches`.
"""

from degeneracy.runs.work import Part
from degeneracy.study import Study
from studies.atlas.figures import atlas_figures
from studies.atlas.findings import findings
from studies.atlas.measure import all_done, measure_rates, measure_runs
from studies.atlas.settings import Settings

STUDY = Study(
    name="atlas",
    question="What makes one solution less degenerate than another?",
    minutes=180,
    title="What makes one solution less degenerate than another?",
    settings=Settings,
    parts={"rates": Part(measure_rates), "runs": Part(measure_runs, has=all_done)},
    figures=atlas_figures,
    findings=findings,
)
