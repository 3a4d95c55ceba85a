"""Exact Gauss-Newton in reversible networks: which of its infinitely many solutions generalises?

    model = RevMLP(784, 1000, 2, 10)
    step = gauss_newton_direction(model, inputs, labels)  # .direction .ranks .residual .exact
    GaussNewton(model, lr=0.1).step(inputs, labels)

    work = open_work(STUDY, "experiments/args_gauss_newton.json")
    measure(work)  # train, cka, ntk, weights, degeneracy
    print(finish(work))

with `open_work`, `measure` and `finish` from `degeneracy.study`; from a run's directory
`python -m studies.gauss_newton cka|ntk|weights RUN…`.
"""

from degeneracy.optimizers.gauss_newton import (
    GaussNewton,
    GaussNewtonStep,
    NonFiniteError,
    RankWarning,
    class_kernel,
    gauss_newton_direction,
)
from degeneracy.runs.work import Part
from degeneracy.study import Study
from studies.gauss_newton.figures import study_figures
from studies.gauss_newton.findings import findings
from studies.gauss_newton.measure import (
    measure_cka,
    measure_degeneracy,
    measure_ntk,
    measure_train,
    measure_weights,
)
from studies.gauss_newton.network import DriftWarning, RevMLP
from studies.gauss_newton.settings import Settings
from studies.gauss_newton.similarity import kernel_similarity, linear_cka, weight_change

__all__ = [
    "STUDY",
    "DriftWarning",
    "GaussNewton",
    "GaussNewtonStep",
    "NonFiniteError",
    "RankWarning",
    "RevMLP",
    "class_kernel",
    "gauss_newton_direction",
    "kernel_similarity",
    "linear_cka",
    "weight_change",
]

STUDY = Study(
    name="gauss_newton",
    question="Which of exact Gauss-Newton's solutions generalises?",
    minutes=9,
    title="Exact Gauss-Newton in reversible networks",
    settings=Settings,
    parts={
        "train": Part(measure_train),
        "cka": Part(measure_cka),
        "ntk": Part(measure_ntk),
        "weights": Part(measure_weights),
        "degeneracy": Part(measure_degeneracy),
    },
    figures=study_figures,
    findings=findings,
)
