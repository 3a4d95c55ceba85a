"""Do the tables and figures of arXiv:2409.04913 come out again, with seeds and statistics?

    work = open_work(STUDY, "experiments/args_paper.json")
    measure(work, "sizes")  # networks with published values: LLC and Hessian trace, SGD and NGD
    measure(work, "smoothing")  # LLC against NGD's α and ε, and the κ that they produce
    measure(work, "rates")  # SGD at ten and a hundred times its learning rate after the swap
    measure(work, "overfitting")  # WBIC and validation loss while a network over-fits
    measure(work, "other_sizes")  # one hidden layer, Fashion-MNIST, LeNet-5
    print(finish(work))

with `open_work`, `measure` and `finish` from `degeneracy.study`. Every part is made of sweeps of
the study `ngd_sgd` on Ray; what is measured is kept sweep by sweep.
"""

from degeneracy.study import Study
from studies.paper.figures import study_figures
from studies.paper.findings import findings
from studies.paper.measure import PARTS
from studies.paper.settings import Settings

STUDY = Study(
    name="paper",
    question="Do the paper's tables and figures come out again, with seeds and statistics?",
    minutes=420,
    title="The tables and figures of arXiv:2409.04913, with seeds and statistics",
    settings=Settings,
    parts=PARTS,
    figures=study_figures,
    findings=findings,
)
