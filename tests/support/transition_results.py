"""Made-up results of the study of phase transitions: a plateau and a drop of two optimizers."""

import json

import numpy as np
import torch

from degeneracy.curvature.histogram import diagonal_histogram
from degeneracy.curvature.operators import Operator
from degeneracy.curvature.spectrum import spectrum_of, tridiagonals

TITLE = "LeNet-5, 4 more"
DIM = 30
NBETA, GAMMA = 20.0, 10.0  # γ/nβ = 0.5
LAST = 5
MEASURED = {"hessian_rank": 5.0, "quadratic_llc": 60.0}
MEASURED |= {"hessian_fisher_distance": 0.5, "fisher_empirical_distance": 0.3}
EXACT = {"gauss_newton_rank": 4, "gauss_newton_llc": 40.0, "fisher_trace": 7.0}
EXACT |= {"empirical_fisher_trace": 8.0, "num_unsettled_chains": 0}

# By the rule both plateaus end after epoch 2, SGD's drop after epoch 4 and NGD's after epoch 3.
SGD = {
    "val_loss": [2.3, 2.3, 2.3, 1.0, 0.3, 0.29],
    "llc_init_loss": [2.3, 2.3, 2.3, 1.0, 0.4, 0.2],
    "llc": [1.0, 2.0, 3.0, 50.0, 120.0, 100.0],
    "llc_std_error": [0.5, 0.5, 0.3, 1.0, 0.4, 3.0],
    "hessian_trace": [1.0, 1.0, 2.0, 60.0, 20.0, 20.0],
    "top": [0.1, 0.1, 0.2, 30.0, 10.0, 9.0],
}
NGD = {
    "val_loss": [2.3, 2.31, 2.3, 0.3, 0.29, 0.28],
    "llc_init_loss": [2.3, 2.3, 2.3, 0.5, 0.4, 0.1],
    "llc": [1.0, 1.0, -5.0, 40.0, 60.0, 80.0],
    "llc_std_error": [0.5, 0.5, 0.5, 4.0, 4.0, 4.0],
    "hessian_trace": [1.0, 1.0, 2.0, 10.0, 20.0, 30.0],
    "top": [0.1, 0.1, 0.2, 5.0, 6.0, 7.0],
}


def series_of(given: dict) -> dict:
    """All series of a made-up optimizer: a Hessian whose largest eigenvalue is `top`, of which 10
    are not zero.
    """
    curvatures = [top * 2.0 ** -np.arange(10) for top in given["top"]]
    series = {key: values for key, values in given.items() if key != "top"}
    series |= {"train_loss": given["val_loss"], "hessian_trace_std_error": [0.5] * (LAST + 1)}
    series |= {key: [value] * (LAST + 1) for key, value in (EXACT | MEASURED).items()}
    series |= {f"{key}_std_error": [0.1 * v] * (LAST + 1) for key, v in MEASURED.items()}
    series["top_eigenvalues"] = [values[:3] for values in curvatures]
    series["fisher_eigenvalues"] = [0.9 * values for values in curvatures]
    series["spectrum"] = [_spectrum(values) for values in curvatures]
    series["fisher_histogram"] = [diagonal_histogram(values) for values in curvatures]
    return {**json.loads(json.dumps(series, default=list)), "diverged_epoch": None}


def _spectrum(eigenvalues: np.ndarray) -> dict:
    """Of a diagonal matrix, as results hold it."""
    diagonal = torch.zeros(DIM)
    diagonal[: len(eigenvalues)] = torch.from_numpy(eigenvalues)
    operator = Operator(lambda rows: rows * diagonal, DIM)
    return tridiagonals(spectrum_of(operator, num_probes=2, num_steps=DIM))


def made_up() -> dict:
    """Results of a finished run of both optimizers."""
    model = {"num_parameters": DIM, "optimizers": {"sgd": series_of(SGD), "ngd": series_of(NGD)}}
    return {
        "status": "complete",
        "config": {
            "experiment": {
                "experiment_type": "standard",
                "num_epochs": LAST,
                "cut_off_epochs": 0,
                "optimizer": "both",
            },
            "data": {"dataset": "mnist", "batch_size": 64, "num_hessian_batches": 2},
            "devinterp": {"sampler": "sgld", "localization": GAMMA, "num_chains": 4},
            "transitions": {"flat": 0.02, "steep": 0.1, "min_plateau": 2},
        },
        "nbeta": NBETA,
        "train_size": 60000,
        "optimizers": ["sgd", "ngd"],
        "models": {TITLE: model},
    }


def optimizers_of(results: dict, title: str = TITLE) -> dict:
    """Name → series."""
    return results["models"][title]["optimizers"]
