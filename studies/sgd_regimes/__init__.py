"""Which way does mini-batch SGD go? Its four regimes, and the theory that predicts them.

    from studies.sgd_regimes import averaged, spectral_diagonal
    from studies.sgd_regimes import averaged_boundary, convergence_boundary

or from the command line `python -m studies.sgd_regimes spectral --lr 0.1 1 --momentum 0 0.5`, or

    work = open_work(STUDY, "experiments/args_sgd_regimes.json")
    measure(work)
    print(finish(work))

with `open_work`, `measure` and `finish` from `degeneracy.study`. The mathematics is that of
Velikanov, Kuznedelev & Yarotsky, "A view of mini-batch SGD via generating functions: conditions of
convergence, phase transitions, benefit from negative momenta" (ICLR 2023, arXiv:2206.11124).
"""

from degeneracy.runs.work import Part
from degeneracy.study import Study
from studies.sgd_regimes.averaging import averaged
from studies.sgd_regimes.boundaries import averaged_boundary, convergence_boundary
from studies.sgd_regimes.figures import study_figures
from studies.sgd_regimes.findings import findings
from studies.sgd_regimes.measure import (
    measure_asymptotics,
    measure_bridge,
    measure_budget,
    measure_derivation,
    measure_momentum,
    measure_regimes,
    measure_spectrum,
    measure_stability,
)
from studies.sgd_regimes.settings import Settings
from studies.sgd_regimes.spectral import spectral_diagonal

__all__ = ["STUDY", "averaged", "averaged_boundary", "convergence_boundary", "spectral_diagonal"]

STUDY = Study(
    name="sgd_regimes",
    question="Where does mini-batch SGD converge, and how fast? Theory beside four regimes",
    minutes=3,
    title="Mini-batch SGD in four regimes",
    settings=Settings,
    parts={
        "regimes": Part(measure_regimes),
        "stability": Part(measure_stability),
        "asymptotics": Part(measure_asymptotics),
        "momentum": Part(measure_momentum),
        "budget": Part(measure_budget),
        "spectrum": Part(measure_spectrum),
        "bridge": Part(measure_bridge),
        "derivation": Part(measure_derivation),
    },
    figures=study_figures,
    findings=findings,
)
