"""What notebooks use: data as tensors, and the names they import from one place."""

from degeneracy.llc.estimate import estimate_llcs
from degeneracy.llc.grid import calibrate, llc_grid
from degeneracy.models.networks import DLNN, FFNN, LeNet5
from degeneracy.report.page import verdicts, write_figs_to_html
from degeneracy.report.run_figures import (
    cosine_figure,
    hessian_trace_figure,
    kappa_figure,
    llc_against_loss_figure,
    llc_figure,
    loss_figure,
    model_figures,
    running_mean_figure,
    update_norm_figure,
    wbic_figure,
)
from degeneracy.runs.config import Config, load_config
from degeneracy.training import evaluate, train
from ngd import NGD
from studies.ngd_sgd.robustness_figures import llc_grid_figure, rescaling_figure
from utils_hessian_fim import hessian_trace

__all__ = [
    "DLNN",
    "FFNN",
    "NGD",
    "Config",
    "DataSplits",
    "LeNet5",
    "TensorData",
    "calibrate",
    "cosine_figure",
    "estimate_llcs",
    "evaluate",
    "hessian_trace",
    "hessian_trace_figure",
    "kappa_figure",
    "llc_against_loss_figure",
    "llc_figure",
    "llc_grid",
    "llc_grid_figure",
    "load_config",
    "load_data",
    "loss_figure",
    "model_figures",
    "rescaling_figure",
    "running_mean_figure",
    "train",
    "update_norm_figure",
    "verdicts",
    "wbic_figure",
    "write_figs_to_html",
]
