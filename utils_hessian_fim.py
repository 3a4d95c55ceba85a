"""How curved is the loss at a solution? Trace, spectrum, rank of the Hessian; Fisher information,
K-FAC.

The names that notebooks use, from one place.
"""

from degeneracy.curvature.fisher import (
    exact_fisher,
    fisher_diagonal,
    fisher_eigenpairs,
    fisher_eigenvalues,
    fisher_trace,
)
from degeneracy.curvature.kfac import kfac_eigenvalues, kfac_factors, kfac_trace
from degeneracy.curvature.largest import (
    hessian_eigenpairs,
    largest_curvature,
    loss_on,
    top_eigenvalues,
)
from degeneracy.curvature.layers import layer_curvature
from degeneracy.curvature.spectrum import (
    count_above,
    hessian_spectrum,
    quadratic_llc,
    rank_threshold,
)
from degeneracy.curvature.trace import HessianTrace, hessian_trace

__all__ = [
    "HessianTrace",
    "count_above",
    "exact_fisher",
    "fisher_diagonal",
    "fisher_eigenpairs",
    "fisher_eigenvalues",
    "fisher_trace",
    "hessian_eigenpairs",
    "hessian_spectrum",
    "hessian_trace",
    "kfac_eigenvalues",
    "kfac_factors",
    "kfac_trace",
    "largest_curvature",
    "layer_curvature",
    "loss_on",
    "quadratic_llc",
    "rank_threshold",
    "top_eigenvalues",
]
